"""Trimming and compressing what was retrieved, where LlamaIndex takes a node postprocessor."""

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from costwise_core.compress.watched import CompressionStats, Watched
from costwise_core.drive import Flow, arun, run
from costwise_core.passages import Compressed, Passage
from costwise_core.protocols import Compressor, Embedder, Scorer
from llamaindex_costwise._passages import nodes_from, passages_of
from llamaindex_costwise._scorer import as_embedder, as_scorer

__all__ = ["CostwiseCompressor", "ExtractiveCompressor", "LLMLinguaCompressor", "RerankTrim"]


class CostwiseCompressor(BaseNodePostprocessor):
    """Any costwise compressor as LlamaIndex's node postprocessor.

    Nodes keep id, relationships, metadata and embedding and come back as new objects, so that the
    caller's own never change; the metadata's "costwise" says why each was kept, with its score, its
    original text and which pieces (start, end) of that are left. It is sent neither to the model
    nor to an embedder. `restore` undoes it. Input that is better left alone, and all input when the
    compressor fails, comes back as it was given. `stats` counts both.

    A node's title, or the headings it stands under, count for its relevance; all metadata that the
    model is sent with the text count as its tokens (`excluded_llm_metadata_keys` saves more than
    many a compressor). Pictures, index nodes and other media pass through.

    It is a costwise compressor too (`compress`), so one can be put into another.

    Args:
        compressor: Does the work.
        on_compressed: Is shown every result: its nodes as passages, those that were left out,
            tokens and reason.

    Raises:
        ConfigError: if `compressor` has no method `compress`.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> class FirstOnly:
        ...     def compress(self, question, passages):
        ...         return Compressed(
        ...             passages=tuple(passages[:1]), given=tuple(passages), reason="compressed",
        ...             tokens_before=20, tokens_after=10,
        ...         )
        >>> compressor = CostwiseCompressor(FirstOnly())
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("Oslo.", "Rome.")]
        >>> [node.text for node in compressor.postprocess_nodes(nodes, query_str="Oslo?")]
        ['Oslo.']
        >>> compressor.stats.tokens_saved
        10
    """

    compressor: Any = Field(exclude=True, repr=False)
    _watched: Watched = PrivateAttr()

    def __init__(
        self,
        compressor: Compressor,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
    ) -> None:
        fields: dict[str, Any] = {"compressor": compressor}
        super().__init__(**fields)
        self._watched = Watched(compressor, on_compressed=on_compressed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CostwiseCompressor"

    @property
    def stats(self) -> CompressionStats:
        """Requests by the reason of their result, faults passed over, tokens before and after."""
        return self._watched.stats

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do the same for passages, as costwise compressors do."""
        return self._watched.compress(question, passages)

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await self._watched.acompress(question, passages)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return run(self._nodes(nodes, query_bundle))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await arun(self._nodes(nodes, query_bundle))

    def _nodes(
        self, nodes: list[NodeWithScore], query: QueryBundle | None
    ) -> Flow[list[NodeWithScore]]:
        question = query.query_str if query else ""
        passages = passages_of(nodes)
        result = yield from self._watched.flow(question or "", passages)
        return nodes_from(result, passages, nodes)


class ExtractiveCompressor(CostwiseCompressor):
    """Keep the sentences that answer the question, word for word, and leave the rest out.

    `costwise_core.ExtractiveCompressor` as LlamaIndex's node postprocessor.

    Args:
        embedder: Measures meaning: an embed model or a costwise embedder; None goes by words alone,
            which finds less. In a `CachedEmbedding` that `ingest` filled, a request embeds nothing
            but the question.
        on_compressed: As for `CostwiseCompressor`.
        **settings: What `costwise_core.ExtractiveCompressor` takes: `share`, `several_share`,
            `max_tokens`, `keep_per_passage`, `min_tokens`, `model` and `counter`.

    Raises:
        ConfigError: if a number is out of range, or `embedder` is neither.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llamaindex_costwise import restore
        >>> compressor = ExtractiveCompressor(share=0.7, min_tokens=0)
        >>> text = "We began in 1999. The notice period is 30 days."
        >>> terms = NodeWithScore(node=TextNode(text=text))
        >>> [kept] = compressor.postprocess_nodes([terms], query_str="How long is the notice?")
        >>> kept.text, kept.metadata["costwise"]["spans"]
        ('The notice period is 30 days.', [[18, 47]])
        >>> restore(kept) == terms
        True
    """

    def __init__(
        self,
        embedder: Embedder | BaseEmbedding | None = None,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
        **settings: Any,
    ) -> None:
        from costwise_core.compress import extractive  # noqa: PLC0415 - imports numpy

        if embedder is not None:
            settings["embedder"] = as_embedder(embedder)
        super().__init__(extractive.ExtractiveCompressor(**settings), on_compressed=on_compressed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "ExtractiveCompressor"

    def ingest(self, nodes: Sequence[BaseNode]) -> int:
        """Embed the sentences of nodes ahead of requests, for a cache in the embed model.

        Args:
            nodes: As the index holds them.

        Returns:
            How many sentences and other pieces there were.

        Raises:
            ConfigError: if there is no embedder.
        """
        pieces: int = self.compressor.ingest(
            passages_of([NodeWithScore(node=node) for node in nodes])
        )
        return pieces

    async def aingest(self, nodes: Sequence[BaseNode]) -> int:
        """Do what `ingest` does, without blocking the event loop."""
        pieces: int = await self.compressor.aingest(
            passages_of([NodeWithScore(node=node) for node in nodes])
        )
        return pieces


class LLMLinguaCompressor(CostwiseCompressor):
    """Delete tokens from the nodes with LLMLingua-1, LongLLMLingua or LLMLingua-2.

    `costwise_core.LLMLinguaCompressor` as LlamaIndex's node postprocessor. Each node is
    compressed by itself and stays one, numbers, citations, tables and code untouched.

    Args:
        model: A folder, a GGUF file, a name on the hub, or (model, tokenizer).
        on_compressed: As for `CostwiseCompressor`.
        **settings: What `costwise_core.LLMLinguaCompressor` takes: `method`, `share`,
            `max_tokens`, `device`, `protect`, `timeout` and so on.

    Raises:
        MissingExtraError: if llmlingua or torch is not installed.
        ConfigError: if a number is out of range, or there is no model where `model` points to.

    Example:
        >>> from contextlib import suppress
        >>> from costwise_core.errors import MissingExtraError
        >>> with suppress(MissingExtraError):
        ...     lingua = LLMLinguaCompressor(
        ...         "microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank", share=0.5
        ...     )
        ...     assert lingua.postprocess_nodes([], query_str="Why?") == []
    """

    def __init__(
        self,
        model: Any,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
        **settings: Any,
    ) -> None:
        from costwise_core.compress import lingua  # noqa: PLC0415 - only if asked for

        super().__init__(lingua.LLMLinguaCompressor(model, **settings), on_compressed=on_compressed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "LLMLinguaCompressor"


class RerankTrim(CostwiseCompressor):
    """Keep the nodes that matter to the question, whole, and leave the rest out.

    `costwise_core.RerankTrim` as LlamaIndex's node postprocessor.

    Args:
        scorer: Says what is relevant: any costwise scorer; an embed model (its similarity fused
            with BM25); or an LLM, which rates all nodes in one paid call. None is BM25.
        on_compressed: As for `CostwiseCompressor`.
        **limits: What `costwise_core.RerankTrim` takes: `top_k`, `max_tokens`, `max_usd`,
            `min_score`, `max_gap`, `keep_at_least`, `order`, `duplicates`, `model` and so on.

    Raises:
        ConfigError: if a limit is out of range.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> texts = ["Fibre comes with a router.", "Notice: 30 days."]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        >>> trim = RerankTrim(top_k=1)
        >>> [kept] = trim.postprocess_nodes(nodes, query_str="How long is the notice?")
        >>> kept.text, list(kept.metadata["costwise"])
        ('Notice: 30 days.', ['why', 'score'])
    """

    def __init__(
        self,
        scorer: Scorer | BaseEmbedding | LLM | None = None,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
        **limits: Any,
    ) -> None:
        from costwise_core import trim  # noqa: PLC0415 - imports numpy

        if scorer is not None:
            limits["scorer"] = as_scorer(scorer)
        super().__init__(trim.RerankTrim(**limits), on_compressed=on_compressed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "RerankTrim"
