"""LangChain embeddings whose concurrent requests share calls."""

from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings

from costwise_core.drive import Flow, arun, call, run
from costwise_core.embed.micro_batch import MicroBatchEmbedder
from costwise_core.protocols import Role

__all__ = ["MicroBatchEmbeddings"]


class MicroBatchEmbeddings(Embeddings):
    """Embeddings that several threads and tasks use at once, with fewer calls.

    Queries share calls only if the model embeds queries as it does documents, since LangChain's
    `Embeddings` take one query at a time. Vectors come back as they were made.

    Args:
        embeddings: What embeds.
        queries_as_documents: Whether queries may be embedded by `embed_documents`: right for
            OpenAI's models, wrong for those that put a prefix before queries.
        **options: As for `MicroBatchEmbedder`: `wait`, `offline_wait`, `most`. Queries wait for
            `wait` at most, documents for `offline_wait`.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> shared = MicroBatchEmbeddings(DeterministicFakeEmbedding(size=4), offline_wait=0.01)
        >>> len(shared.embed_documents(["a", "b"])), len(shared.embed_query("a"))
        (2, 4)
    """

    def __init__(
        self, embeddings: Embeddings, *, queries_as_documents: bool = False, **options: Any
    ) -> None:
        self.embeddings = embeddings
        self._shared = queries_as_documents
        self._micro = MicroBatchEmbedder(_Rows(embeddings), **options)

    @property
    def calls(self) -> int:
        """How often the embeddings inside were called for documents or shared queries."""
        return self._micro.calls

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        return run(self._documents(texts))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what `embed_documents` does, without blocking the event loop."""
        return await arun(self._documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return run(self._query(text))

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does, without blocking the event loop."""
        return await arun(self._query(text))

    def _documents(self, texts: list[str]) -> Flow[list[list[float]]]:
        rows: Any = yield from call(self._micro.offline.embed, texts, "document")
        return list(rows)

    def _query(self, text: str) -> Flow[list[float]]:
        if not self._shared:
            return (yield from call(self.embeddings.embed_query, text))
        rows: Any = yield from call(self._micro.embed, [text], "query")
        found: list[float] = rows[0]
        return found


class _Rows:
    """Embeddings as the micro batcher calls them; it only ever cuts and copies what comes back."""

    name = "langchain"

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def embed(self, texts: Sequence[str], role: Role = "query") -> Any:  # noqa: ARG002
        return self._embeddings.embed_documents(list(texts))

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Any:  # noqa: ARG002
        return await self._embeddings.aembed_documents(list(texts))
