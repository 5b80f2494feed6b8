"""A retriever whose documents are compressed for the question."""

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from pydantic import Field

from costwise_core.drive import Flow, arun, call, run
from langchain_costwise.cache import SAID, with_said

__all__ = ["CompressionRetriever"]


class CompressionRetriever(BaseRetriever):
    """Search with one retriever and compress what it finds for the question.

    Put a `CachedRetriever` inside, as the `base_retriever`: what is found holds for a reworded
    question too, what is left of it after compressing may not.

    Args:
        base_retriever: Finds the documents.
        base_compressor: Any document compressor, `CompressionPipeline` for several.
        k: How many documents to ask for; None leaves it to the retriever. May also be given per
            call: `retriever.invoke(question, k=20)`.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_costwise.compressors import CompressionPipeline
        >>> store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
        >>> _ = store.add_texts(["RAG is a method."])
        >>> retriever = CompressionRetriever(
        ...     base_retriever=store.as_retriever(),
        ...     base_compressor=CompressionPipeline(transformers=[]),
        ... )
        >>> [document.page_content for document in retriever.invoke("What is RAG?")]
        ['RAG is a method.']
    """

    base_retriever: BaseRetriever
    base_compressor: BaseDocumentCompressor
    k: int | None = Field(default=None, gt=0)

    def invoke(
        self,
        input: str,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Search, and return what the compressor leaves of the documents found."""
        return super().invoke(input, config, **with_said(config, kwargs))

    async def ainvoke(
        self,
        input: str,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do what `invoke` does, without blocking the event loop."""
        return await super().ainvoke(input, config, **with_said(config, kwargs))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return run(self._find(query, kwargs, run_manager.get_child()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await arun(self._find(query, kwargs, run_manager.get_child()))

    def _find(self, query: str, kwargs: dict[str, Any], callbacks: Any) -> Flow[list[Document]]:
        config = RunnableConfig(callbacks=callbacks)
        if (said := kwargs.pop(SAID, None)) is not None:
            # Whose request it is must reach a cache inside.
            config["configurable"] = {SAID: said}
        if self.k is not None:
            kwargs.setdefault("k", self.k)
        documents = yield from call(self.base_retriever.invoke, query, config, **kwargs)
        # Retrievers that know no k ignore it.
        documents = documents[: kwargs.get("k")]
        if not documents:
            return []
        compressed = yield from call(
            self.base_compressor.compress_documents, documents, query, callbacks=callbacks
        )
        return list(compressed)
