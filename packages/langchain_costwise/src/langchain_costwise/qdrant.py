"""A retriever that searches Qdrant as tuned."""

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import Field, field_validator

from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.tuned import search_of

__all__ = ["TunedQdrantRetriever"]

_THRESHOLD = "score_threshold"


class TunedQdrantRetriever(VectorStoreRetriever):
    """Send the tuned search settings with every search of a `langchain_qdrant.QdrantVectorStore`.

    Qdrant takes `hnsw_ef`, rescoring and oversampling with each query; in the collection they would
    be dropped without a word. Whoever passes `search_params` with a call, or in `search_kwargs`,
    wins. A search with a score threshold compares by the original vectors whatever was tuned, since
    a quantized score may be far off.

    Args:
        vectorstore: The store; works with a server and with `EdgeQdrantClient`.
        search: A `SearchConfig`, or a plan of `tune`.
        k: How many documents to return; None leaves it to the store. May also be given per call:
            `retriever.invoke(question, k=20)`.
        search_type: "similarity", "mmr" or "similarity_score_threshold".
        search_kwargs: What else to pass with every search, such as a `filter`.

    Raises:
        ConfigError: (as a `ValidationError`) if `search` is neither.

    Example:
        >>> import tempfile
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_qdrant import QdrantVectorStore
        >>> from qdrant_client import models
        >>> from costwise_core.qdrant import EdgeQdrantClient, SearchConfig
        >>> folder = tempfile.TemporaryDirectory()
        >>> client = EdgeQdrantClient(folder.name)
        >>> _ = client.create_collection(
        ...     "docs", vectors_config=models.VectorParams(size=4, distance="Cosine")
        ... )
        >>> store = QdrantVectorStore(client, "docs", DeterministicFakeEmbedding(size=4))
        >>> _ = store.add_texts(["RAG is a method."])
        >>> tuned = SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0)
        >>> retriever = TunedQdrantRetriever(vectorstore=store, search=tuned, k=3)
        >>> [document.page_content for document in retriever.invoke("What is RAG?")]
        ['RAG is a method.']
        >>> client.close()
        >>> folder.cleanup()
    """

    search: Any
    k: int | None = Field(default=None, gt=0)

    @field_validator("search")
    @classmethod
    def _known(cls, given: object) -> SearchConfig:
        return search_of(given)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        asked = self._asked(kwargs)
        return super()._get_relevant_documents(query, run_manager=run_manager, **asked)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        asked = self._asked(kwargs)
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **asked)

    def _asked(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        asked = self.search_kwargs | kwargs
        if asked.get("search_params") is None:
            search: SearchConfig = self.search
            if asked.get(_THRESHOLD) is not None:
                search = search.for_threshold()
            asked["search_params"] = search.for_client()
        if self.k is not None:
            asked.setdefault("k", self.k)
        return asked
