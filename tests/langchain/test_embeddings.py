"""`CachedEmbeddings`, and LangChain's embeddings as a costwise embedder."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from costwise_core.embed.vectors import MemoryVectors, SQLiteVectors
from costwise_core.errors import ConfigError, VectorError
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import CachedEmbeddings, LangChainEmbedder


class Counting(Embeddings):
    """Long vectors, other ones for queries; keeps what it was asked."""

    def __init__(self, model="m1", scale=3.0):
        self.model, self.scale, self.asked = model, scale, []

    def embed_documents(self, texts):
        self.asked.append(list(texts))
        return [[self.scale * len(text), 0.1] for text in texts]

    def embed_query(self, text):
        self.asked.append(text)
        return [0.2, self.scale * len(text)]


class CountingAsync(Counting):
    async def aembed_documents(self, texts):
        self.asked.append("async")
        return [[1.0, 0.1] for _ in texts]

    async def aembed_query(self, text):
        self.asked.append("async")
        return [0.2, 1.0]


def test_no_text_is_embedded_twice():
    """LangChain's own cached embeddings skip queries and embed repeats within one call."""
    inner = Counting()
    cached = CachedEmbeddings(inner)
    rows = cached.embed_documents(["a", "bb", "a"])
    assert rows == [[3.0, 0.1], [6.0, 0.1], [3.0, 0.1]]
    assert cached.embed_documents(["bb", "ccc"])[0] == rows[1]
    assert cached.embed_query("a") == cached.embed_query("a") == [0.2, 3.0]
    assert inner.asked == [["a", "bb"], ["ccc"], "a"]


def test_what_a_caller_changes_stays_his():
    cached = CachedEmbeddings(Counting())
    cached.embed_query("a").clear()
    cached.embed_documents(["a", "a"])[0].clear()
    assert cached.embed_query("a") == [0.2, 3.0]
    assert cached.embed_documents(["a", "a"]) == [[3.0, 0.1]] * 2


async def test_async_goes_its_own_way():
    inner = CountingAsync()
    cached = CachedEmbeddings(inner)
    await asyncio.gather(cached.aembed_query("a"), cached.aembed_documents(["a", "b", "a"]))
    assert await cached.aembed_query("a") == [0.2, 1.0]
    assert inner.asked == ["async", "async"]


def test_models_do_not_share_and_restarts_do(tmp_path):
    path = tmp_path / "vectors.db"
    first = CachedEmbeddings(Counting(), cache=SQLiteVectors(path)).embed_query("a")
    again, other = Counting(), Counting("m2", scale=5.0)
    assert CachedEmbeddings(again, cache=SQLiteVectors(path)).embed_query("a") == first
    assert CachedEmbeddings(other, cache=SQLiteVectors(path)).embed_query("a") == [0.2, 5.0]
    assert (again.asked, other.asked) == ([], ["a"])


class Damaged(MemoryVectors):
    def get(self, keys):
        return {key: value[:-3] + b"abc" for key, value in super().get(keys).items()}


class Gone:
    def get(self, keys):
        raise OSError("gone")

    def put(self, values):
        raise OSError("gone")


def test_a_broken_store_costs_time_only():
    for store, faults in ((Damaged(), {}), (Gone(), {"OSError": 4})):
        cached = CachedEmbeddings(Counting(), cache=store)
        assert cached.embed_query("a") == cached.embed_query("a") == [0.2, 3.0]
        assert cached.faults == faults


def test_broken_vectors_are_not_kept():
    inner = Counting(scale=float("nan"))
    cached = CachedEmbeddings(inner)
    cached.embed_query("a"), cached.embed_query("a")
    assert inner.asked == ["a", "a"]


def test_no_texts_are_no_work():
    inner = Counting()
    assert CachedEmbeddings(inner).embed_documents([]) == []
    assert inner.asked == []


def test_costwise_embedders_fit_too():
    embedder = HashingEmbedder()
    rows = CachedEmbeddings(embedder).embed_documents(["red fox", "blue whale"])
    assert np.allclose(rows, embedder.embed(["red fox", "blue whale"], "document"))
    assert np.allclose(CachedEmbeddings(embedder).embed_query("red fox"), rows[0])


async def test_the_real_model_embeds_for_langchain():
    pytest.importorskip("onnxruntime")
    from costwise_core.embed.onnx import OnnxEmbedder

    embeddings = CachedEmbeddings(OnnxEmbedder())
    one = embeddings.embed_query("How do I reset my password?")
    two = await embeddings.aembed_query("I forgot my password")
    assert len(one) == 384
    assert float(np.dot(one, two)) > 0.6


# --- as a costwise embedder ----------------------------------------------------------------------


def test_rows_have_unit_length_and_a_name():
    embedder = LangChainEmbedder(Counting())
    assert embedder.name == "Counting:m1"
    assert LangChainEmbedder(Counting(), name="mine").name == "mine"
    assert LangChainEmbedder(DeterministicFakeEmbedding(size=4)).name != (
        LangChainEmbedder(DeterministicFakeEmbedding(size=8)).name
    )
    rows = embedder.embed(["a", "bb"])
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert embedder.embed([]).shape[0] == 0


async def test_roles_are_passed_on():
    embedder = LangChainEmbedder(CountingAsync())
    assert not np.allclose(embedder.embed(["a"], "query"), embedder.embed(["a"], "document"))
    assert (await embedder.aembed(["a", "b"], "query")).shape == (2, 2)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_broken_vectors_are_told(scale):
    with pytest.raises(VectorError, match="must be finite"):
        LangChainEmbedder(Counting(scale=scale)).embed(["a"])


def test_wrong_arguments_are_told_at_once():
    with pytest.raises(ConfigError, match="got str"):
        CachedEmbeddings("minilm")


@given(st.lists(st.text(max_size=8), max_size=12), st.lists(st.text(max_size=8), max_size=12))
def test_cached_or_not_the_vectors_are_the_same(first, second):
    cached, plain = CachedEmbeddings(Counting()), Counting()
    for texts in (first, second):
        assert cached.embed_documents(texts) == plain.embed_documents(texts)
    for text in second:
        assert cached.embed_query(text) == plain.embed_query(text)
