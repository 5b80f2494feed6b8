"""LangChain's own test suites, run on every class that takes one of LangChain's places."""

import inspect
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    SyncCacheTestSuite,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from costwise_core import Cache, MemoryStore, SQLiteStore
from costwise_core.cache.cacheable import CachePolicy
from langchain_costwise import CachedChatModel, CachedEmbeddings, CachedRetriever, SemanticCache
from langchain_costwise.testing import ScriptedChatModel

EVERYTHING = CachePolicy(
    allow=frozenset(
        {"tool_calls", "structured", "tool_derived", "freshness", "personal", "modality"}
    )
)


class TestMemoryCache(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self):
        return SemanticCache(MemoryStore())


class TestMemoryCacheAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self):
        return SemanticCache(MemoryStore(), embedder=DeterministicFakeEmbedding(size=8))


class TestSQLiteCache(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, tmp_path):
        with SQLiteStore(tmp_path / "cache.db") as store:
            yield SemanticCache(store, embedder=DeterministicFakeEmbedding(size=8))


class TestSQLiteCacheAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, tmp_path):
        with SQLiteStore(tmp_path / "cache.db") as store:
            yield SemanticCache(store)


class _Chat:
    chat_model_class = CachedChatModel
    model_override_value = "scripted-2"

    # The wrapper has no settings of its own; the wrapped model has them.
    standard_chat_model_params: dict[str, Any] = {}  # noqa: RUF012


class TestChatModelUnit(_Chat, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "cache": SemanticCache(MemoryStore())}


class TestChatModelCold(_Chat, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "cache": SemanticCache(MemoryStore())}


class TestChatModelWarm(_Chat, ChatModelIntegrationTests):
    """Every answer may be stored and all tests share one cache, so most calls are hits."""

    shared = SemanticCache(MemoryStore(), admission=EVERYTHING)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "cache": self.shared}

    @pytest.fixture(autouse=True)
    def asked_before(self, request, model):
        """Run each test's body once before, so that what it asks is stored."""
        body = getattr(ChatModelIntegrationTests, request.function.__name__)
        names = [n for n in inspect.signature(body).parameters if n in request.fixturenames]
        if not inspect.iscoroutinefunction(body) and "benchmark" not in names:
            body(self, **{name: request.getfixturevalue(name) for name in names})


class TestChatModelWithoutCache(_Chat, ChatModelIntegrationTests):
    """The fake itself keeps LangChain's contract, so what fails above is ours."""

    chat_model_class = ScriptedChatModel
    chat_model_params: dict[str, Any] = {}  # noqa: RUF012


def some_store() -> InMemoryVectorStore:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_documents(
        [Document(id=str(n), page_content=f"Fact {n}.", metadata={"n": n}) for n in range(9)]
    )
    return store


class TestRetriever(RetrieversIntegrationTests):
    retriever_constructor = CachedRetriever
    retriever_query_example = "What is fact 3?"

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {
            "retriever": some_store().as_retriever(),
            "cache": Cache(MemoryStore()),
            "corpus": "facts-v1",
        }


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    embeddings_class = CachedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"embeddings": DeterministicFakeEmbedding(size=8)}


class TestEmbeddings(EmbeddingsIntegrationTests):
    embeddings_class = CachedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"embeddings": DeterministicFakeEmbedding(size=8)}
