"""Entries on a Qdrant server: the contract, two clients, and a server that fails."""

import asyncio
import importlib.util
import math
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, Scope
from costwise_core.errors import (
    ConfigError,
    EntryTooLargeError,
    MissingExtraError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.stores import qdrant_wire
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.qdrant_points import (
    INDEXES,
    entry_of,
    escape,
    point_id,
    point_of,
    unescape,
)
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.testing.stores import EMBEDDER, CacheStoreContract, direction, make_entry
from costwise_core.types import Selection

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra: qdrant)")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed (extra: edge)")

import qdrant_edge

from costwise_core.stores.qdrant import QdrantStore
from tests.services import qdrant_double
from tests.services.qdrant_double import Double, serving


@pytest.fixture
def double(tmp_path: Path):
    with serving(tmp_path) as double:
        yield double


class TestQdrantStore(CacheStoreContract):
    @pytest.fixture(autouse=True)
    def server(self, double: Double):
        self.double = double
        self.opened: list[QdrantStore] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self, clock):
        self.clock = clock
        self.opened.append(QdrantStore(self.double.url, timeout=20, clock=clock))
        return self.opened[-1]

    def reopen(self, store):
        return self.make_store(self.clock)


class Awaited:
    """A store whose calls all go through its async twins, on a loop in another thread."""

    def __init__(self, store: QdrantStore) -> None:
        self.store = store
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def get(self, *args):
        return self.wait(self.store.aget(*args))

    def search(self, *args):
        return self.wait(self.store.asearch(*args))

    def put(self, *args):
        return self.wait(self.store.aput(*args))

    def delete(self, *args):
        return self.wait(self.store.adelete(*args))

    def entries(self, selection):
        return self.store.entries(selection)

    def close(self):
        self.wait(self.store.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class TestQdrantStoreAsync(TestQdrantStore):
    """The same contract through the async twins."""

    def make_store(self, clock):
        self.opened.append(Awaited(super().make_store(clock)))
        return self.opened[-1]

    @pytest.fixture
    def store(self, clock):
        return self.make_store(clock)  # closed with the others


# --- points and filters -----------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()) | st.sampled_from("\\u0\0\ud800"), max_size=12)


@given(texts, texts)
def test_every_text_survives_and_no_two_become_one(one: str, other: str) -> None:
    written = escape(one)
    assert "\0" not in written
    assert written.encode("utf-8").decode("utf-8") == written
    assert unescape(written) == one
    assert (written == escape(other)) == (one == other)
    assert (point_id(one, other) == point_id(other, one)) == (one == other)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(point_of(make_entry(1), 0.0)["payload"])), JUNK)
def test_a_damaged_payload_is_a_value_error_and_nothing_worse(name: str, junk) -> None:
    payload = point_of(make_entry(1, documents=(("a", "b"),), tags=("t",)), 0.0)["payload"]
    for damaged in ({**payload, name: junk}, {k: v for k, v in payload.items() if k != name}, junk):
        try:
            entry = entry_of(damaged)
        except ValueError:
            continue
        assert isinstance(entry.answer, str)
        assert all(isinstance(tag, str) for tag in entry.tags)
        assert isinstance(entry.uses, int)


# --- a server that works ----------------------------------------------------------------------


@pytest.fixture
def store(double: Double):
    with QdrantStore(double.url, timeout=20) as store:
        yield store


def test_nothing_is_asked_before_the_first_call(double: Double) -> None:
    with QdrantStore(double.url, timeout=20) as store:
        assert double.requests == []
        assert store.get("k", "s") is None
        assert store.search(direction(1), 4, "s", EMBEDDER) == []
        assert double.collections == {}, "a lookup makes no collection"


def test_two_clients_see_each_other_at_once(double: Double, store: QdrantStore) -> None:
    with QdrantStore(double.url, timeout=20) as other:
        assert other.search(direction(1), 4, make_entry().scope, EMBEDDER) == []
        store.put([make_entry(1), make_entry(2, vector=None)])
        assert other.get(make_entry(2).key, make_entry().scope) is not None
        (near,) = other.search(direction(1), 4, make_entry().scope, EMBEDDER)
        assert near.entry.answer == "answer 1"
        assert other.delete(Selection(keys=(make_entry(1).key,))) == 1
        assert store.get(make_entry(1).key, make_entry().scope) is None
        assert store.search(direction(1), 4, make_entry().scope, EMBEDDER) == []


def test_many_clients_may_be_the_first(double: Double) -> None:
    barrier = threading.Barrier(4)

    def first(number: int) -> None:
        with QdrantStore(double.url, timeout=20) as store:
            barrier.wait()
            store.put([make_entry(number)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(first, range(4)))
    with QdrantStore(double.url, timeout=20) as store:
        assert len(list(store.entries(Selection()))) == 4


def test_a_dropped_collection_is_made_again(double: Double, store: QdrantStore) -> None:
    store.put([make_entry(1)])
    double.drop("costwise")
    assert store.get(make_entry(1).key, make_entry().scope) is None
    store.put([make_entry(1)])
    double.drop("costwise")
    assert store.search(direction(1), 4, make_entry().scope, EMBEDDER) == []
    store.put([make_entry(1)])
    double.drop("costwise")
    store.put([make_entry(2)])
    (near,) = store.search(direction(1), 4, make_entry().scope, EMBEDDER)
    assert near.entry.answer == "answer 2"


def test_scopes_never_cross(store: QdrantStore) -> None:
    rng = random.Random(11)  # the nastiest pairs: one is the other's prefix, case or escape
    names = ["", "a", "A", "ab", "a\0", "a\\u0000", "\ud800", "\\ud800", "\\", "é", "e\u0301"]
    placed = {}
    for number in range(120):
        scope, embedder = rng.choice(names), rng.choice(names[1:])
        entry = make_entry(
            number, scope=scope, embedder=embedder, vector=direction(number % 7), tenant=scope
        )
        placed[number] = entry
    store.put(list(placed.values()))
    for scope in names:
        for embedder in names:
            own = {e.key for e in placed.values() if (e.scope, e.embedder) == (scope, embedder)}
            near = store.search(direction(3), 500, scope, embedder)
            assert {n.entry.key for n in near} == own
            assert {(n.entry.scope, n.entry.embedder) for n in near} <= {(scope, embedder)}
        own = {e.key for e in placed.values() if e.tenant == scope}
        assert {e.key for e in store.entries(Selection(tenant=scope))} == own
    assert all(store.get(e.key, e.scope + "x") is None for e in placed.values())


def test_payload_indexes_change_no_answer(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "indexed", indexed=True) as double,
        QdrantStore(double.url, timeout=20) as store,
    ):
        store.put(
            [
                make_entry(1, tenant="a\0", tags=("x", "y"), documents=(("d", "1"), ("e", "1"))),
                make_entry(2, tenant="a", tags=("y",), documents=(("d", "2"),)),
                make_entry(3, scope="other", created=5.0),
            ]
        )
        assert set(double.collections["costwise"].indexes) == set(INDEXES)
        assert double.collections["costwise"].indexes["scope"]["is_tenant"]

        def meant(**selection) -> set[int]:
            return {int(e.key, 16) for e in store.entries(Selection(**selection))}

        assert meant(tenant="a\0") == {1}
        assert meant(tag="y") == {1, 2}
        assert meant(changed=(("d", "2"),)) == {1}
        assert meant(changed=(("d", ""), ("nowhere", "1"))) == {1, 2}
        assert meant(created_before=6.0) == {3}
        assert len(store.search(direction(1), 9, make_entry().scope, EMBEDDER)) == 2
        assert store.delete(Selection(scope="other")) == 1


def test_indexes_that_were_never_built_are_built_later(double: Double, store: QdrantStore) -> None:
    double.create("costwise", {"metadata": {"costwise": 1}})  # and then its maker died
    assert store.get("k", "s") is None
    store.put([make_entry(1)])
    assert set(double.collections["costwise"].indexes) == set(INDEXES)
    asked = len(double.requests)
    store.put([make_entry(2)])
    assert len(double.requests) == asked + 1


def test_scores_are_asked_for_exactly(double: Double, store: QdrantStore, monkeypatch) -> None:
    """Quantized scores of one bit are no cosines at all, so no search may trust one."""
    asked = []
    route = double.route
    monkeypatch.setattr(double, "route", lambda *args: (asked.append(args), route(*args))[1])
    store.put([make_entry(1)])
    store.search(direction(1), 4, make_entry().scope, EMBEDDER)
    (query,) = [body for _, path, body in asked if path.endswith("/query")]
    assert query["params"] == {"exact": True, "quantization": {"ignore": True}}
    (made,) = [body for way, path, body in asked if (way, path[-9:]) == ("PUT", "/costwise")]
    assert made["hnsw_config"] == {"m": 0}
    assert made["shard_number"] == 1


def test_damaged_points_are_passed_over_and_counted(double: Double, store: QdrantStore) -> None:
    store.put([make_entry(1), make_entry(2), make_entry(3)])
    scope = make_entry().scope
    shard = double.collections["costwise"].shard
    change = qdrant_edge.UpdateOperation
    shard.update(change.set_payload([point_id(scope, make_entry(1).key)], {"usage": [1]}))
    shard.update(change.set_payload([point_id(scope, make_entry(3).key)], {"key": "another"}))
    assert store.get(make_entry(1).key, scope) is None
    assert store.damaged == 1
    assert store.get(make_entry(3).key, scope) is None
    assert store.damaged == 2
    near = store.search(direction(2), 9, scope, EMBEDDER)
    assert "answer 1" not in {n.entry.answer for n in near}
    assert len(list(store.entries(Selection()))) == 2
    assert store.delete(Selection(scope=scope)) == 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"costwise": 2}, "newer costwise"), ({}, "not made by costwise"), (None, "not made by")],
)
def test_foreign_and_newer_collections_are_left_alone(
    double: Double, store: QdrantStore, metadata, message: str
) -> None:
    double.create("costwise", {"metadata": metadata})
    for act in (
        lambda: store.get("k", "s"),
        lambda: store.search(direction(1), 1, "s", EMBEDDER),
        lambda: store.put([make_entry(1)]),
        lambda: store.delete(Selection()),
        lambda: next(store.entries(Selection())),
    ):
        with pytest.raises(StoreVersionError, match=message):
            act()
    assert {method for method, _ in double.requests} == {"GET"}


def test_a_server_too_old_for_further_vectors(double: Double, store: QdrantStore, monkeypatch):
    def old(*args):
        raise qdrant_double.RefusalError(404, "no such way")

    monkeypatch.setattr(qdrant_double, "add_vector", old)
    with pytest.raises(StoreVersionError, match=r"needs Qdrant 1\.18|1\.18 or newer"):
        store.put([make_entry(1)])
    store.put([make_entry(2, vector=None)])
    assert store.get(make_entry(2).key, make_entry().scope) is not None


# --- a server that does not ---------------------------------------------------------------------


def cache_of(store: QdrantStore) -> Cache:
    return Cache(store, embedder=HashingEmbedder())


def test_a_server_that_is_gone_costs_answers_only(double: Double) -> None:
    with QdrantStore(double.url, timeout=20) as store:
        cache = cache_of(store)
        scope = Scope(tenant="acme")
        assert cache.store("What is RAG?", scope, "A method.")
        assert cache.lookup("What is RAG?", scope)
        double.vanish()
        for _ in range(5):
            miss = cache.lookup("What is RAG?", scope)
            assert not miss
            assert miss.reason == "store_error"
        assert not cache.store("What is RAG?", scope, "A method.")
        assert cache.stats.errors["StoreUnavailableError"] == 6
        with pytest.raises(StoreUnavailableError, match="left alone"):
            cache.clear()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["held", "drip"])
def test_a_slow_server_is_not_waited_for(double: Double, how: str, asynchronous: bool) -> None:
    with QdrantStore(double.url, timeout=1.0) as store:
        store.get("k", "s")  # loads the client
        over = threading.Event()
        if how == "held":
            double.held = over
        else:  # every byte comes in time; all of them never do
            double.body, double.drip = b" " * 1_000, 0.02

        async def ask() -> None:
            try:
                await store.aget("k", "s")
            finally:
                await store.aclose()

        act = (lambda: asyncio.run(ask())) if asynchronous else (lambda: store.get("k", "s"))
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            act()
        assert not over.is_set(), "it gave up while the server was still at it"
        over.set()


@pytest.mark.parametrize("status", [500, 502, 429, 401, 418])
def test_errors_of_the_server_are_ours(double: Double, status: int) -> None:
    with QdrantStore(double.url, timeout=20) as store:
        store.put([make_entry(1)])
        double.status = status
        with pytest.raises(StoreError, match=str(status)) as caught:
            store.get(make_entry(1).key, make_entry().scope)
        assert isinstance(caught.value, StoreUnavailableError) == (status not in (401, 418))
        with pytest.raises(StoreError):
            store.put([make_entry(2, question="a secret")])
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        double.status = 0
        assert store.get(make_entry(1).key, make_entry().scope) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b'{"result": ',
        b"[]",
        b'{"result": null, "status": "ok", "time": 0.0}',
        b'{"result": [{"id": 1}, 7], "status": "ok", "time": 0.0}',
        b'{"result": [{"id": 1, "payload": [2]}], "status": "ok", "time": 0.0}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_nonsense_is_a_miss(double: Double, body: bytes) -> None:
    with QdrantStore(double.url, timeout=20) as store:
        cache, scope = cache_of(store), Scope(tenant="acme")
        assert cache.store("What is RAG?", scope, "A method.")
        double.body = body
        assert not cache.lookup("What is RAG?", scope)
        assert not cache.store("What is RAG?", scope, "A method.")
        assert sum(cache.stats.errors.values()) == 2


def test_sizes_are_limited_both_ways(double: Double, store: QdrantStore, monkeypatch) -> None:
    store.put([make_entry(1, answer="x" * 50_000)])
    monkeypatch.setattr(qdrant_wire, "_MAX_RESPONSE", 20_000)
    with pytest.raises(StoreError, match="more than 20000 bytes"):
        store.get(make_entry(1).key, make_entry().scope)
    monkeypatch.setattr(qdrant_wire, "_MAX_REQUEST", 20_000)
    seen = len(double.requests)
    with pytest.raises(EntryTooLargeError, match="20000 bytes"):
        store.put([make_entry(2, answer="x" * 50_000)])
    assert len(double.requests) == seen


def test_a_server_that_fails_is_left_alone_for_a_while(double: Double) -> None:
    now = 0.0
    breaker = Breaker(failures=2, cooldown=5.0, clock=lambda: now)
    with QdrantStore(double.url, timeout=20, breaker=breaker) as store:
        store.put([make_entry(1)])
        double.status = 503
        for _ in range(6):
            with pytest.raises(StoreUnavailableError):
                store.get(make_entry(1).key, make_entry().scope)
        asked = [path for _, path in double.requests].count("/collections/costwise/points")
        assert asked == 2
        double.status, now = 0, 6.0
        assert store.get(make_entry(1).key, make_entry().scope) is not None
        assert store.get(make_entry(1).key, make_entry().scope) is not None


def test_a_put_that_was_not_confirmed_is_an_error(double: Double, store, monkeypatch) -> None:
    store.put([make_entry(1)])
    monkeypatch.setattr(
        qdrant_double, "done", lambda: {"operation_id": 1, "status": "acknowledged"}
    )
    with pytest.raises(StoreUnavailableError, match="confirm"):
        store.put([make_entry(2)])


# --- the event loop -------------------------------------------------------------------------------


async def test_async_calls_wait_on_the_loop_and_not_in_threads(double: Double, monkeypatch) -> None:
    store = QdrantStore(double.url, timeout=20)
    await store.aput([make_entry(1)])

    async def no_threads(*args):
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr(asyncio, "to_thread", no_threads)
    double.held = threading.Event()
    scope = make_entry().scope
    waiting = [asyncio.create_task(store.aget(make_entry(1).key, scope)) for _ in range(5)]
    waiting.append(asyncio.create_task(store.asearch(direction(1), 1, scope, EMBEDDER)))
    while len(double.requests) < 6:  # noqa: ASYNC110 - the server is not on this loop
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting), "the loop ran while the server did not answer"
    double.held.set()
    *got, near = await asyncio.gather(*waiting)
    assert {entry.answer for entry in got} == {"answer 1"} == {n.entry.answer for n in near}
    await store.aclose()


async def test_a_cancelled_call_harms_nobody(double: Double) -> None:
    store = QdrantStore(double.url, timeout=20)
    await store.aput([make_entry(1)])
    double.held = threading.Event()
    task = asyncio.create_task(store.aget(make_entry(1).key, make_entry().scope))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    double.held.set()
    assert await store.aget(make_entry(1).key, make_entry().scope) is not None
    await store.aclose()


def test_one_store_serves_several_loops_and_threads(double: Double) -> None:
    with QdrantStore(double.url, timeout=20) as store:

        async def work(number: int) -> str:
            await store.aput([make_entry(number)])
            entry = await store.aget(make_entry(number).key, make_entry().scope)
            await store.aclose()
            return entry.answer

        for number in range(3):
            assert asyncio.run(work(number)) == f"answer {number}"
        assert len(list(store.entries(Selection()))) == 3


async def test_the_cache_awaits_it(double: Double) -> None:
    store = QdrantStore(double.url, timeout=20)
    cache, scope = cache_of(store), Scope(tenant="acme")
    assert await cache.astore("What is RAG?", scope, "A method.")
    assert (await cache.alookup("what is  RAG?", scope)).answer == "A method."
    assert not await cache.alookup("What is RAG?", Scope(tenant="other"))
    assert cache.stats.errors == {}
    await store.aclose()


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": math.nan},
        {"collection": "a/b"},
        {"collection": ".."},
        {"url": "localhost:6333"},
    ],
)
def test_arguments_that_make_no_sense(arguments) -> None:
    with pytest.raises(ConfigError):
        QdrantStore(**arguments)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"costwise-core\[qdrant\]"):
        QdrantStore()


def test_the_package_is_loaded_by_the_first_call_only() -> None:
    code = (
        "import sys; from costwise_core.stores.qdrant import QdrantStore; QdrantStore();"
        "print([m for m in ('qdrant_client', 'httpx', 'grpc') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
