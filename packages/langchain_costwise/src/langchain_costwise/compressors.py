"""Trimming and compressing what was retrieved, where LangChain takes a document compressor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, BaseDocumentTransformer, Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field, PrivateAttr

from costwise_core.compress.watched import CompressionStats, Watched
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, nearest
from costwise_core.passages import Compressed, Passage
from costwise_core.protocols import Compressor, Embedder, Scorer
from langchain_costwise._passages import documents_from, passages_of
from langchain_costwise._scorer import as_scorer
from langchain_costwise.embeddings import as_embedder

__all__ = [
    "CompressionPipeline",
    "CostwiseCompressor",
    "ExtractiveCompressor",
    "LLMLinguaCompressor",
    "RerankTrim",
]


class CostwiseCompressor(BaseDocumentCompressor):
    """Any costwise compressor as LangChain's document compressor.

    Documents keep id and metadata and come back as new objects, so that the caller's own never
    change; the metadata's "costwise" says why each was kept, with its score, its original text and
    which pieces (start, end) of that are left. `restore` undoes it. Input that is better left
    alone, and all input when the compressor fails, comes back as it was given. `stats` counts both.

    It is a costwise compressor too (`compress`), so one can be put into another.

    Args:
        compressor: Does the work.
        on_compressed: Is shown every result: its documents as passages, those that were left out,
            tokens and reason.

    Raises:
        ConfigError: if `compressor` has no method `compress`.

    Example:
        >>> class FirstOnly:
        ...     def compress(self, question, passages):
        ...         return Compressed(
        ...             passages=tuple(passages[:1]), given=tuple(passages), reason="compressed",
        ...             tokens_before=20, tokens_after=10,
        ...         )
        >>> compressor = CostwiseCompressor(FirstOnly())
        >>> compressor.compress_documents([Document("Oslo.", id="1"), Document("Rome.")], "Oslo?")
        [Document(id='1', metadata={}, page_content='Oslo.')]
        >>> compressor.stats.tokens_saved
        10
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

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

    @property
    def stats(self) -> CompressionStats:
        """Requests by the reason of their result, faults passed over, tokens before and after."""
        return self._watched.stats

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - LangChain's signature
    ) -> Sequence[Document]:
        """Return the documents that should go into the prompt; never raises for any text."""
        return run(self._documents(documents, query))

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> Sequence[Document]:
        """Do what `compress_documents` does, without blocking the event loop."""
        return await arun(self._documents(documents, query))

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do the same for passages, as costwise compressors do."""
        return self._watched.compress(question, passages)

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await self._watched.acompress(question, passages)

    def as_runnable(
        self, *, question: str = "question", documents: str = "documents"
    ) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable from a dict with the question and the documents to the documents.

        Args:
            question: The dict's key of the question.
            documents: The dict's key of the documents.

        Example:
            >>> from langchain_core.runnables import RunnablePassthrough
            >>> class Whole:
            ...     def compress(self, question, passages):
            ...         return Compressed.unchanged(passages, tokens=1, reason="short")
            >>> shorter = CostwiseCompressor(Whole()).as_runnable(documents="context")
            >>> chain = RunnablePassthrough.assign(context=shorter)
            >>> chain.invoke({"question": "Oslo?", "context": [Document("Oslo.")]})
            {'question': 'Oslo?', 'context': [Document(metadata={}, page_content='Oslo.')]}
        """
        return runnable(self, question=question, documents=documents)

    def _documents(self, documents: Sequence[Document], query: str) -> Flow[list[Document]]:
        passages = passages_of(documents)
        result = yield from self._watched.flow(query or "", passages)
        return documents_from(result, passages)


class ExtractiveCompressor(CostwiseCompressor):
    """Keep the sentences that answer the question, word for word, and leave the rest out.

    `costwise_core.ExtractiveCompressor` as LangChain's document compressor.

    Args:
        embedder: Measures meaning: embeddings or a costwise embedder; None goes by words alone,
            which finds less. In `CachedEmbeddings` that `ingest` filled, a request embeds nothing
            but the question.
        on_compressed: As for `CostwiseCompressor`.
        **settings: What `costwise_core.ExtractiveCompressor` takes: `share`, `several_share`,
            `max_tokens`, `keep_per_passage`, `min_tokens`, `model` and `counter`.

    Raises:
        ConfigError: if a number is out of range, or `embedder` is neither.

    Example:
        >>> from langchain_costwise import restore
        >>> compressor = ExtractiveCompressor(share=0.7, min_tokens=0)
        >>> terms = Document("We began in 1999. The notice period is 30 days.", id="terms")
        >>> [kept] = compressor.compress_documents([terms], "How long is the notice period?")
        >>> kept.page_content, kept.metadata["costwise"]["spans"]
        ('The notice period is 30 days.', [[18, 47]])
        >>> restore(kept) == terms
        True
    """

    def __init__(
        self,
        embedder: Embedder | Embeddings | None = None,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
        **settings: Any,
    ) -> None:
        from costwise_core.compress import extractive  # noqa: PLC0415 - imports numpy

        if embedder is not None:
            settings["embedder"] = as_embedder(embedder)
        super().__init__(extractive.ExtractiveCompressor(**settings), on_compressed=on_compressed)

    def ingest(self, documents: Sequence[Document]) -> int:
        """Embed the sentences of documents ahead of requests, for a cache in the embeddings.

        Args:
            documents: As the retriever will give them.

        Returns:
            How many sentences and other pieces there were.

        Raises:
            ConfigError: if there is no embedder.
        """
        pieces: int = self.compressor.ingest(passages_of(documents))
        return pieces

    async def aingest(self, documents: Sequence[Document]) -> int:
        """Do what `ingest` does, without blocking the event loop."""
        pieces: int = await self.compressor.aingest(passages_of(documents))
        return pieces


class LLMLinguaCompressor(CostwiseCompressor):
    """Delete tokens from the documents with LLMLingua-1, LongLLMLingua or LLMLingua-2.

    `costwise_core.LLMLinguaCompressor` as LangChain's document compressor. Each document is
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
        ...     assert len(lingua.compress_documents([Document("Too short.")], "Why?")) == 1
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


class RerankTrim(CostwiseCompressor):
    """Keep the documents that matter to the question, whole, and leave the rest out.

    `costwise_core.RerankTrim` as LangChain's document compressor.

    Args:
        scorer: Says what is relevant: any costwise scorer; embeddings (their similarity fused with
            BM25); a LangChain cross-encoder; or a chat model, which rates all documents in one
            paid call. None is BM25.
        on_compressed: As for `CostwiseCompressor`.
        **limits: What `costwise_core.RerankTrim` takes: `top_k`, `max_tokens`, `max_usd`,
            `min_score`, `max_gap`, `keep_at_least`, `order`, `duplicates`, `model` and so on.

    Raises:
        ConfigError: if a limit is out of range.

    Example:
        >>> trim = RerankTrim(top_k=1)
        >>> documents = [Document("Fibre comes with a router."), Document("Notice: 30 days.")]
        >>> [kept] = trim.compress_documents(documents, "How long is the notice?")
        >>> kept.page_content, list(kept.metadata["costwise"])
        ('Notice: 30 days.', ['why', 'score'])
    """

    def __init__(
        self,
        scorer: Scorer | Embeddings | BaseCrossEncoder | BaseChatModel | None = None,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
        **limits: Any,
    ) -> None:
        from costwise_core import trim  # noqa: PLC0415 - imports numpy

        if scorer is not None:
            limits["scorer"] = as_scorer(scorer)
        super().__init__(trim.RerankTrim(**limits), on_compressed=on_compressed)


class CompressionPipeline(BaseDocumentCompressor):
    """Several compressors and document transformers, one after the other.

    Args:
        transformers: The steps, each a document compressor or a document transformer of LangChain.

    Example:
        >>> class FirstOnly:
        ...     def compress(self, question, passages):
        ...         return Compressed(
        ...             passages=tuple(passages[:1]), given=tuple(passages), reason="compressed",
        ...             tokens_before=20, tokens_after=10,
        ...         )
        >>> pipeline = CompressionPipeline(transformers=[CostwiseCompressor(FirstOnly())])
        >>> len(pipeline.compress_documents([Document("Oslo."), Document("Rome.")], "Oslo?"))
        1
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    transformers: Sequence[BaseDocumentCompressor | BaseDocumentTransformer]

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> Sequence[Document]:
        """Return what the last step makes of the documents."""
        return run(self._documents(documents, query, callbacks))

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> Sequence[Document]:
        """Do what `compress_documents` does, without blocking the event loop."""
        return await arun(self._documents(documents, query, callbacks))

    def as_runnable(
        self, *, question: str = "question", documents: str = "documents"
    ) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable, as `CostwiseCompressor.as_runnable` does."""
        return runnable(self, question=question, documents=documents)

    def _documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None
    ) -> Flow[Sequence[Document]]:
        for step in self.transformers:
            if isinstance(step, BaseDocumentCompressor):
                documents = yield from call(
                    step.compress_documents, documents, query, callbacks=callbacks
                )
            else:
                documents = yield from call(step.transform_documents, documents)
        return documents


def runnable(
    compressor: BaseDocumentCompressor, *, question: str, documents: str
) -> Runnable[dict[str, Any], list[Document]]:
    """Return a document compressor as a runnable from a dict to documents."""

    def flow(given: Mapping[str, Any]) -> Flow[list[Document]]:
        for name in (question, documents):
            if name not in given:
                raise ConfigError(
                    f"the input has no {name!r}, only {', '.join(map(repr, given))}; name its keys "
                    f"with as_runnable(question=..., documents=...).{nearest(name, given)}"
                )
        found = yield from call(
            compressor.compress_documents, given[documents], given[question], callbacks=None
        )
        return list(found)

    def invoke(given: dict[str, Any]) -> list[Document]:
        return run(flow(given))

    async def ainvoke(given: dict[str, Any]) -> list[Document]:
        return await arun(flow(given))

    return RunnableLambda(invoke, ainvoke, name=type(compressor).__name__)
