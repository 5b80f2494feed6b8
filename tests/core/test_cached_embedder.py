"""No text is embedded twice, and no cache comes between a text and its vector."""

import asyncio
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.embed.cached import CachedEmbedder, EmbeddingStats
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.embed.vectors import MemoryVectors, SQLiteVectors
from costwise_core.errors import ConfigError, StoreUnavailableError, VectorError


class Lengths:
    """A real embedder of three dimensions that remembers what it was asked."""

    def __init__(self, name="lengths-1"):
        self.name = name
        self.asked = []

    def embed(self, texts, role="query"):
        self.asked.append((list(texts), role))
        rows = [[len(t) + 1, len(set(t)) + 1, role == "query"] for t in texts]
        return np.array(rows, np.float32).reshape(-1, 3)


class NativeLengths(Lengths):
    """The same with an asynchronous face of its own."""

    async def aembed(self, texts, role="query"):
        await asyncio.sleep(0)
        self.threads = threading.get_ident()
        return Lengths.embed(self, texts, role)


class Given:
    """Gives whatever it is told to."""

    name = "given"

    def __init__(self, *answers):
        self.answers = list(answers)

    def embed(self, texts, role="query"):
        return self.answers.pop(0)


@pytest.fixture(params=["memory", "sqlite"])
def cache(request, tmp_path):
    return MemoryVectors() if request.param == "memory" else SQLiteVectors(tmp_path / "v.db")


# --- what is embedded, and what comes back --------------------------------------------------------


def test_repeats_in_a_batch_are_embedded_once(cache):
    inner = Lengths()
    embedder = CachedEmbedder(inner, cache=cache)
    vectors = embedder.embed(["a", "a", "bb"])
    assert inner.asked == [(["a", "bb"], "query")]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert embedder.stats == EmbeddingStats(hits=1, misses=2)


def test_only_what_is_new_is_embedded(cache):
    inner = Lengths()
    embedder = CachedEmbedder(inner, cache=cache)
    first = embedder.embed(["one", "three"])
    second = embedder.embed(["three", "four", "one"])
    assert [texts for texts, _ in inner.asked] == [["one", "three"], ["four"]]
    np.testing.assert_array_equal(second[[2, 0]], first)
    assert embedder.stats == EmbeddingStats(hits=2, misses=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), max_size=6), max_size=6))
def test_a_cached_embedder_gives_what_the_embedder_inside_gives(batches):
    inner, embedder = Lengths(), CachedEmbedder(Lengths(), cache=MemoryVectors(max_items=4))
    for batch in batches:
        if not batch:
            assert len(embedder.embed(batch)) == 0
            continue
        expected = inner.embed(batch)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(embedder.embed(batch), expected, rtol=1e-6)
    assert embedder.stats.hits + embedder.stats.misses == sum(map(len, batches))


def test_role_and_name_keep_vectors_apart(cache):
    inner, other = Lengths(), Lengths("lengths-2")
    embedder = CachedEmbedder(inner, cache=cache)
    embedder.embed(["a"])
    embedder.embed(["a"], "document")
    CachedEmbedder(other, cache=cache).embed(["a"])
    assert inner.asked == [(["a"], "query"), (["a"], "document")]
    assert other.asked == [(["a"], "query")]
    assert embedder.name == "lengths-1"


def test_editing_a_result_changes_nothing_else(cache):
    embedder = CachedEmbedder(Lengths(), cache=cache)
    first = embedder.embed(["a", "b"])
    kept = first.copy()
    first[:] = 7
    second = embedder.embed(["a", "b"])
    np.testing.assert_array_equal(second, kept)
    second[:] = 7
    np.testing.assert_array_equal(embedder.embed(["a", "b"]), kept)


def test_no_texts_ask_nobody(cache):
    inner = Lengths()
    embedder = CachedEmbedder(inner, cache=cache)
    assert embedder.embed([]).shape == (0, 0)
    embedder.embed(["a"])
    assert embedder.embed([]).shape == (0, 3)
    assert len(inner.asked) == 1


def test_lone_surrogates_have_keys_of_their_own(cache):
    inner = Lengths()
    CachedEmbedder(inner, cache=cache).embed(["\ud800", "\ud801", "?"])
    assert inner.asked[0][0] == ["\ud800", "\ud801", "?"]


async def test_async_awaits_the_embedders_own_twin(cache):
    inner = NativeLengths()
    embedder = CachedEmbedder(inner, cache=cache)
    vectors = await embedder.aembed(["a", "a", "bb"])
    assert inner.threads == threading.get_ident()
    np.testing.assert_array_equal(vectors, embedder.embed(["a", "a", "bb"]))
    assert embedder.stats == EmbeddingStats(hits=4, misses=2)


def test_the_real_model_is_cached_too(cache):
    embedder = CachedEmbedder(OnnxEmbedder(), cache=cache)
    first = embedder.embed(["What is RAG?"])
    np.testing.assert_array_equal(embedder.embed(["What is RAG?"]), first)
    assert embedder.stats == EmbeddingStats(hits=1, misses=1)


def test_threads_may_share_one(cache):
    embedder = CachedEmbedder(Lengths(), cache=cache)
    texts = ["x" * (i % 9) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        vectors = np.concatenate(list(pool.map(lambda text: embedder.embed([text]), texts)))
    np.testing.assert_array_equal(vectors, embedder.embed(texts))
    assert embedder.stats.errors == {}


# --- bad vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        np.array([[np.nan, 1]], np.float32),
        np.array([[0, 0]], np.float32),
        np.array([[np.inf, 1]], np.float32),
        np.array([[1, 2], [3, 4]], np.float32),
        np.array([1, 2], np.float32),
    ],
)
def test_unusable_vectors_raise_and_are_not_kept(cache, bad):
    embedder = CachedEmbedder(Given(bad, np.array([[3, 4]], np.float32)), cache=cache)
    with pytest.raises(VectorError):
        embedder.embed(["a"])
    np.testing.assert_allclose(embedder.embed(["a"]), [[0.6, 0.8]], rtol=1e-6)


def test_vectors_of_another_width_raise_and_are_not_kept(cache):
    wide, right = np.ones((1, 3), np.float32), np.ones((1, 2), np.float32)
    embedder = CachedEmbedder(Given(right, wide, right), cache=cache)
    embedder.embed(["a"])
    with pytest.raises(VectorError, match="2 dimensions, got 3"):
        embedder.embed(["b"])
    assert embedder.embed(["b"]).shape == (1, 2)


def test_what_the_embedder_raises_reaches_the_caller(cache):
    class Refusing(Lengths):
        def embed(self, texts, role="query"):
            raise ConnectionError("no network")

    with pytest.raises(ConnectionError):
        CachedEmbedder(Refusing(), cache=cache).embed(["a"])


# --- memory ---------------------------------------------------------------------------------------


def test_memory_forgets_the_least_recently_used():
    inner = Lengths()
    embedder = CachedEmbedder(inner, cache=MemoryVectors(max_items=2))
    for text in ("a", "b", "a", "c", "a", "b"):
        embedder.embed([text])
    assert [texts[0] for texts, _ in inner.asked] == ["a", "b", "c", "b"]


def test_a_batch_larger_than_the_cache_is_whole():
    embedder = CachedEmbedder(Lengths(), cache=MemoryVectors(max_items=2))
    assert embedder.embed([str(i) for i in range(50)]).shape == (50, 3)


# --- SQLite ---------------------------------------------------------------------------------------


def embed_in_another_process(path):
    embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path))
    embedder.embed([f"text {i}" for i in range(50)])
    return embedder.stats.misses, dict(embedder.stats.errors)


def test_vectors_survive_a_restart(tmp_path):
    path = tmp_path / "v.db"
    code = (
        "import sys\n"
        "from tests.core.test_cached_embedder import embed_in_another_process\n"
        "assert embed_in_another_process(sys.argv[1]) == (50, {})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert embed_in_another_process(path) == (0, {})


def test_several_processes_share_a_file(tmp_path):
    path = tmp_path / "v.db"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(embed_in_another_process, [path] * 6)
    assert all(errors == {} for _, errors in found)
    assert embed_in_another_process(path) == (0, {})


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET value = x''",
        "UPDATE vectors SET value = substr(value, 1, 11)",
        "UPDATE vectors SET value = substr(value, 1, 15) || x'7F'",
        "UPDATE vectors SET value = 'text'",
        "UPDATE vectors SET value = zeroblob(16)",
    ],
)
def test_a_damaged_row_is_counted_and_made_again(tmp_path, damage):
    path = tmp_path / "v.db"
    expected = CachedEmbedder(Lengths(), cache=SQLiteVectors(path)).embed(["a"])
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path))
    np.testing.assert_array_equal(embedder.embed(["a"]), expected)
    assert embedder.stats == EmbeddingStats(hits=0, misses=1, errors={"damaged": 1})
    embedder.embed(["a"])
    assert embedder.stats == EmbeddingStats(hits=1, misses=1, errors={"damaged": 1})


def test_a_row_of_another_width_is_damaged(tmp_path):
    cache = SQLiteVectors(tmp_path / "v.db")
    CachedEmbedder(Given(np.ones((1, 5), np.float32)), cache=cache).embed(["old"])
    embedder = CachedEmbedder(Given(*[np.ones((1, 2), np.float32)] * 2), cache=cache)
    embedder.embed(["new"])
    assert embedder.embed(["old"]).shape == (1, 2)
    assert embedder.stats.errors == {"damaged": 1}


def test_a_full_file_forgets_and_stays_within_its_limit(tmp_path):
    path = tmp_path / "v.db"
    embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path, max_items=20))
    for i in range(60):
        embedder.embed([f"text {i}"])
    inner = Lengths()
    again = CachedEmbedder(inner, cache=SQLiteVectors(path))
    again.embed([f"text {i}" for i in range(60)])
    assert 15 <= again.stats.hits <= 20
    assert "text 0" in inner.asked[0][0]
    assert "text 59" not in inner.asked[0][0]


@pytest.mark.parametrize("kind", ["folder", "text", "missing"])
def test_a_file_that_cannot_be_used_costs_no_answer(tmp_path, kind):
    path = tmp_path / "gone" / "v.db" if kind == "missing" else tmp_path / "v.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not a database, and long enough to be read as one " * 90)
    embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path))
    assert embedder.embed(["a", "b"]).shape == (2, 3)
    assert sum(embedder.stats.errors.values()) == 2  # one reading, one writing


def test_a_locked_file_costs_no_answer(tmp_path):
    path = tmp_path / "v.db"
    CachedEmbedder(Lengths(), cache=SQLiteVectors(path)).embed(["a"])
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path, busy_timeout=0.01))
        assert embedder.embed(["a", "b"]).shape == (2, 3)
        assert embedder.stats == EmbeddingStats(
            hits=1, misses=1, errors={StoreUnavailableError.__name__: 1}
        )
    finally:
        lock.close()


def test_what_was_read_lately_is_kept_even_when_the_use_cannot_be_noted(tmp_path):
    path = tmp_path / "v.db"
    CachedEmbedder(Lengths(), cache=SQLiteVectors(path)).embed(["a"])
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("UPDATE vectors SET used = 0")
    lock.execute("BEGIN EXCLUSIVE")
    try:
        embedder = CachedEmbedder(Lengths(), cache=SQLiteVectors(path, busy_timeout=0.01))
        embedder.embed(["a"])
        assert embedder.stats == EmbeddingStats(hits=1)
    finally:
        lock.close()


@pytest.mark.parametrize("make", [MemoryVectors, lambda **k: SQLiteVectors("v.db", **k)])
@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_limits_that_cannot_be_kept_are_refused(make, limit):
    with pytest.raises(ConfigError, match="max_items"):
        make(max_items=limit)


def test_a_file_is_made_on_first_use_only(tmp_path):
    SQLiteVectors(tmp_path / "v.db")
    assert not (tmp_path / "v.db").exists()
