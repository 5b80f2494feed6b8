"""A retriever that searches Qdrant as tuned."""

from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.retrievers import VectorIndexRetriever

from costwise_core.qdrant.tuned import search_of

__all__ = ["TunedQdrantRetriever"]


class TunedQdrantRetriever(VectorIndexRetriever):
    """Send the tuned search settings with every search of LlamaIndex's `QdrantVectorStore`.

    Qdrant takes `hnsw_ef`, rescoring and oversampling with each query; in the collection they would
    be dropped without a word. Everything else is as in `index.as_retriever`, and what is in
    `vector_store_kwargs`, such as `qdrant_filters`, goes along; `search_params` there wins.

    Before a `SimilarityPostprocessor` with a cutoff, give it `search.for_threshold()`: a quantized
    score may be far off.

    Args:
        index: Over a `QdrantVectorStore`; works with a server and with `EdgeQdrantClient`.
        search: A `SearchConfig`, or a plan of `tune`.
        vector_store_kwargs: What else to pass to the store with every query.
        **kwargs: As `index.as_retriever` takes them, such as `similarity_top_k` and `filters`.

    Raises:
        ConfigError: if `search` is neither.

    Example:
        >>> import tempfile
        >>> from llama_index.core import MockEmbedding, VectorStoreIndex
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index.vector_stores.qdrant import QdrantVectorStore
        >>> from costwise_core.qdrant import EdgeQdrantClient, SearchConfig
        >>> folder = tempfile.TemporaryDirectory()
        >>> client = EdgeQdrantClient(folder.name)
        >>> store = QdrantVectorStore("docs", client=client)
        >>> index = VectorStoreIndex.from_vector_store(store, MockEmbedding(4))
        >>> index.insert_nodes([TextNode(text="RAG is a method.")])
        >>> tuned = SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0)
        >>> retriever = TunedQdrantRetriever(index, search=tuned, similarity_top_k=3)
        >>> [found.node.text for found in retriever.retrieve("What is RAG?")]
        ['RAG is a method.']
        >>> client.close()
        >>> folder.cleanup()
    """

    def __init__(
        self,
        index: VectorStoreIndex,
        *,
        search: object,
        vector_store_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        tuned = {"search_params": search_of(search).for_client()}
        super().__init__(index, vector_store_kwargs=tuned | (vector_store_kwargs or {}), **kwargs)
