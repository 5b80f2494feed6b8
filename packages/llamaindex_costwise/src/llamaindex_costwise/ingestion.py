"""A step of an ingestion pipeline that deletes answers drawn from older documents."""

import uuid
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, TransformComponent

from costwise_core.cache import Cache
from costwise_core.errors import ConfigError
from llamaindex_costwise._documents import documents_of

__all__ = ["CacheInvalidator"]


class CacheInvalidator(TransformComponent):
    """Deletes the answers that were drawn from other versions of the documents passing through.

    Put it last among the transformations: nodes then name their documents as retrieval will. They
    pass through unchanged. It works in the pipeline's own process, so not with `num_workers`.

    Args:
        cache: The cache of the query engines and retrievers that search these documents.

    Raises:
        StoreError: when run, if the cache cannot delete. The pipeline then records nothing, so the
            same run may be repeated.

    Example:
        >>> from llama_index.core import Document
        >>> from llama_index.core.ingestion import IngestionPipeline
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> cache = Cache(MemoryStore())
        >>> _ = cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
        >>> pipeline = IngestionPipeline(transformations=[CacheInvalidator(cache=cache)])
        >>> terms = Document(id_="terms", text="60 days", metadata={"version": "v2"})
        >>> nodes = pipeline.run(documents=[terms])
        >>> cache.lookup("Notice period?", Scope()).reason
        'no_entry'
    """

    cache: Cache = Field(exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CacheInvalidator"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:  # noqa: ARG002
        """Return the nodes, after deleting what was drawn from other versions."""
        self.cache.invalidate(dict(documents_of(nodes)))
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:  # noqa: ARG002
        """Do the same without blocking the event loop."""
        await self.cache.ainvalidate(dict(documents_of(nodes)))
        return nodes

    def forget(self, ref_doc_ids: Sequence[str]) -> int:
        """Delete the answers drawn from deleted documents; returns how many there were.

        Raises:
            StoreError: if the cache cannot delete.
        """
        return self.cache.invalidate(ref_doc_ids)

    async def aforget(self, ref_doc_ids: Sequence[str]) -> int:
        """Do what `forget` does, without blocking the event loop."""
        return await self.cache.ainvalidate(ref_doc_ids)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return another dictionary each time.

        The pipeline's own cache goes by it and skips steps it has seen, which would keep the
        answers from version 2 when a document goes back to version 1.
        """
        return {**super().to_dict(**kwargs), "run": uuid.uuid4().hex}

    def __getstate__(self) -> dict[str, Any]:
        raise ConfigError(
            "CacheInvalidator cannot be sent to another process; run the pipeline without "
            "num_workers, or call cache.invalidate(...) after it."
        )
