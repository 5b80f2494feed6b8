"""One cache over a real memory store with a real (bag-of-words) embed model, for every test."""

import pytest

from costwise_core import Cache, FixedThreshold, MemoryStore
from llamaindex_costwise import CachedLLM, LlamaIndexEmbedder
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Make LlamaIndex fall back on its own mocks and never on OpenAI."""
    monkeypatch.setenv("IS_TESTING", "1")


@pytest.fixture
def cache():
    return Cache(
        MemoryStore(),
        embedder=LlamaIndexEmbedder(WordEmbedding()),
        policy=FixedThreshold(min_cosine=0.8),
    )


@pytest.fixture
def inner():
    return ScriptedLLM()


@pytest.fixture
def llm(inner, cache):
    return CachedLLM(llm=inner, cache=cache)
