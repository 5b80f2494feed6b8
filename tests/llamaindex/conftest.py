"""One cache over a real memory store with a real (bag-of-words) embed model, for every test."""

import asyncio

import pytest

from costwise_core import Cache, FixedThreshold, MemoryStore
from llamaindex_costwise import CachedLLM, LlamaIndexEmbedder
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Make LlamaIndex fall back on its own mocks and never on OpenAI."""
    monkeypatch.setenv("IS_TESTING", "1")


@pytest.fixture(autouse=True)
def _loop(request):
    """Close the event loop that LlamaIndex's synchronous methods make and leave open.

    Else the next collection of garbage warns of it, in whatever test that falls.
    """
    if request.node.get_closest_marker("asyncio"):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


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
