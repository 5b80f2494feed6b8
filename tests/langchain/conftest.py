"""What several of these tests need."""

import pytest
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache

from costwise_core import MemoryStore
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import SemanticCache


@pytest.fixture
def cache():
    return SemanticCache(MemoryStore(), embedder=HashingEmbedder())


@pytest.fixture
def everywhere():
    """Set a cache for all models, until the test ends."""

    def use(cache: BaseCache) -> None:
        set_llm_cache(cache)

    yield use
    set_llm_cache(None)
