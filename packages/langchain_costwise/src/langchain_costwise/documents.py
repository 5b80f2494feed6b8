"""A step of an ingestion pipeline that deletes answers drawn from older documents."""

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import BaseDocumentTransformer, Document

from costwise_core.cache import Cache
from langchain_costwise._documents import documents_of

__all__ = ["CacheInvalidator"]


class CacheInvalidator(BaseDocumentTransformer):
    """Deletes the answers that were drawn from other versions of the documents passing through.

    Documents pass through unchanged. They are known by their id and by their metadata's "source";
    with a "version" in the metadata, answers from that very version stay, and without one all
    answers from the source go.

    Run it once the new documents can be found. For five minutes answers from the versions before
    are not kept; of documents without a version that can be told only of those on their way.

    Args:
        cache: The cache of the retrievers that search these documents: `semantic_cache.cache` of a
            `SemanticCache`.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> cache = Cache(MemoryStore())
        >>> _ = cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
        >>> terms = Document("60 days", metadata={"source": "terms", "version": "v2"})
        >>> CacheInvalidator(cache).transform_documents([terms]) == [terms]
        True
        >>> cache.lookup("Notice period?", Scope()).reason
        'no_entry'
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def transform_documents(
        self,
        documents: Sequence[Document],
        **kwargs: Any,  # noqa: ARG002 - LangChain's signature
    ) -> Sequence[Document]:
        """Return the documents, after deleting what was drawn from other versions of them.

        Raises:
            StoreError: if the cache cannot delete.
        """
        self.cache.invalidate(_now(documents))
        return documents

    async def atransform_documents(
        self,
        documents: Sequence[Document],
        **kwargs: Any,  # noqa: ARG002
    ) -> Sequence[Document]:
        """Do what `transform_documents` does, without blocking the event loop."""
        await self.cache.ainvalidate(_now(documents))
        return documents

    def forget(self, ids: Sequence[str]) -> int:
        """Delete the answers drawn from deleted documents; returns how many there were.

        Args:
            ids: Ids or sources of the documents.

        Raises:
            StoreError: if the cache cannot delete.
        """
        return self.cache.invalidate(ids)

    async def aforget(self, ids: Sequence[str]) -> int:
        """Do what `forget` does, without blocking the event loop."""
        return await self.cache.ainvalidate(ids)


def _now(documents: Sequence[Document]) -> dict[str, str]:
    """Return the version of each document; "" for one that comes in several, or in none known."""
    now: dict[str, str] = {}
    for one, version in documents_of(documents):
        now[one] = version if now.get(one, version) == version else ""
    return now
