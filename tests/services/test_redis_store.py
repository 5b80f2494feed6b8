"""Redis as a shared store: the contracts on a real server, and what only a server can do wrong."""

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, FixedThreshold, Scope
from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    VectorError,
)
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.redis import RedisStore
from costwise_core.stores.redis_rows import Names, parse
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.testing.sharing import JournalContract, LeasesContract
from costwise_core.testing.stores import EMBEDDER, CacheStoreContract, direction, make_entry
from costwise_core.types import Selection
from tests.services.redis_engine import need_redis, redis_engine

PATIENT = 10.0  # tests share a machine
SCOPE = make_entry().scope
NEVER = "redis://127.0.0.1:1/0"


@pytest.fixture
def mortal(tmp_path):
    """A server of one's own, to be killed."""
    with redis_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def store(redis_server, prefix):
    with RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT) as store:
        yield store


# --- the contracts ------------------------------------------------------------------------------


class OnRedis:
    @pytest.fixture(autouse=True)
    def on_server(self, opened, redis_server, prefix):
        self.opened, self.url, self.prefix = opened, redis_server.url, prefix

    def make_store(self, clock):
        self.clock = clock
        return self.opened(RedisStore(self.url, prefix=self.prefix, timeout=PATIENT, clock=clock))

    def reopen(self, store):
        return self.make_store(self.clock)


class TestEntries(OnRedis, CacheStoreContract):
    pass


class TestLogs(OnRedis, JournalContract):
    pass


class TestLeases(OnRedis, LeasesContract):
    def pass_time(self, clock, seconds):
        time.sleep(seconds)  # leases go by the server's clock


# --- nobody sees another's ----------------------------------------------------------------------


def test_a_thousand_scopes_never_cross(store):
    rng = random.Random(7)
    scopes = [
        Scope(
            tenant=rng.choice(["a", "A", "a,b", "a|b", "*", "{}", "ä", "", "a b"]),
            model=rng.choice(["m", "m-1", "@m", ""]),
            system=rng.choice(["", "s", "S" * 300]),
            corpus=str(rng.randrange(10_000)),
        )
        for _ in range(1_000)
    ]
    by_key = {scope.key: scope for scope in scopes}
    entries = [
        make_entry(n % 3, scope=key, tenant=scope.tenant, answer=key, vector=direction(n % 3))
        for key, scope in by_key.items()
        for n in range(3)
    ]
    rng.shuffle(entries)
    for start in range(0, len(entries), 500):
        store.put(entries[start : start + 500])
    for key in by_key:
        near = store.search(direction(1), 50, key, EMBEDDER)
        assert [n.entry.answer for n in near] == [key] * 3
        found = store.get(make_entry(1).key, key)
        assert found is not None
        assert found.answer == key
    for tenant in {scope.tenant for scope in scopes}:
        own = {key for key, scope in by_key.items() if scope.tenant == tenant}
        assert {e.answer for e in store.entries(Selection(tenant=tenant))} == own
    assert store.delete(Selection(tenant="a")) == 3 * sum(s.tenant == "a" for s in by_key.values())
    assert {e.tenant for e in store.entries(Selection())} == {s.tenant for s in scopes} - {"a"}


@pytest.mark.parametrize("scope", ["*", "s})=>[KNN 9 @v $v]", "a|b", "\\", "s}|@s:{t", "", "%s%"])
def test_no_text_breaks_out_of_a_query(store, scope):
    store.put([make_entry(1), make_entry(2, tenant="t", tags=("x",))])
    assert store.search(direction(1), 9, scope, EMBEDDER) == []
    assert store.search(direction(1), 9, SCOPE, scope or "x") == []
    for field in ("scope", "model", "corpus", "tag"):
        if scope or field not in ("model", "corpus"):
            assert store.delete(Selection(**{field: scope})) == 0
    assert len(store.search(direction(1), 9, SCOPE, EMBEDDER)) == 2


def test_prefixes_share_nothing(redis_server, store, prefix):
    with RedisStore(redis_server.url, prefix=f"{prefix}x", timeout=PATIENT) as other:
        store.put([make_entry(1)])
        store.append("log", ["a"])
        assert store.acquire("job", "me", 60)
        assert other.get(make_entry(1).key, SCOPE) is None
        assert other.search(direction(1), 9, SCOPE, EMBEDDER) == []
        assert other.delete(Selection()) == 0
        assert other.read("log") == ([], "")
        assert other.acquire("job", "you", 60)


def test_a_copy_under_another_name_is_not_served(store, raw_redis, prefix):
    store.put([make_entry(1)])
    names = Names(prefix=prefix)
    raw_redis.copy(names.entry(SCOPE, make_entry(1).key), names.entry("victim", make_entry(1).key))
    raw_redis.copy(names.entry(SCOPE, make_entry(1).key), names.entry(SCOPE, make_entry(2).key))
    assert store.get(make_entry(1).key, "victim") is None
    assert store.get(make_entry(2).key, SCOPE) is None
    assert store.damaged == 2
    near = store.search(direction(1), 1, SCOPE, EMBEDDER)
    assert [n.entry.key for n in near] == [make_entry(1).key]


# --- what is read is not trusted ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("b", b"not json"),
        ("b", b"[" * 100_000),
        ("b", b"{}"),
        ("b", b"\xff\xfe"),
        ("b", b'"' + b"x" * 20_000_000 + b'"'),
        ("n", b"many"),
        ("n", b"-1"),
        ("u", b"nan"),
        ("t", None),
        ("b", None),
    ],
)
def test_damaged_values_are_misses_and_counted(store, raw_redis, prefix, field, value):
    store.put([make_entry(1), make_entry(2)])
    name = Names(prefix=prefix).entry(SCOPE, make_entry(1).key)
    raw_redis.hdel(name, field) if value is None else raw_redis.hset(name, field, value)
    assert store.get(make_entry(1).key, SCOPE) is None
    assert store.damaged == 1
    near = store.search(direction(1), 1, SCOPE, EMBEDDER)
    assert [n.entry.answer for n in near] == ["answer 2"]  # it makes room for the next
    assert [e.answer for e in store.entries(Selection())] == ["answer 2"]
    assert store.delete(Selection(scope=SCOPE)) == 1
    if field != "u":  # a row whose time is no number is in no index, so only a put can replace it
        assert not raw_redis.exists(name)


def test_what_is_too_large_is_not_read(store, raw_redis, prefix):
    store.put([make_entry(1)])
    name = Names(prefix=prefix).entry(SCOPE, make_entry(1).key)
    body = json.loads(raw_redis.hget(name, "b"))
    raw_redis.hset(name, "b", json.dumps({**body, "answer": "x" * 20_000_000}))
    assert store.get(make_entry(1).key, SCOPE) is None
    assert store.search(direction(1), 1, SCOPE, EMBEDDER) == []
    assert list(store.entries(Selection())) == []
    raw_redis.hset(name, "b", json.dumps({**body, "answer": "short"}))
    found = store.get(make_entry(1).key, SCOPE)
    assert found is not None
    assert found.answer == "short"


@pytest.mark.parametrize("vector", [b"", b"x", b"\x00" * 96, b"\xff" * 96, b"\x01" * 9_000_000])
def test_a_damaged_vector_is_never_compared(store, raw_redis, prefix, vector):
    store.put([make_entry(1), make_entry(2)])
    name = Names(prefix=prefix).entry(SCOPE, make_entry(1).key)
    raw_redis.hset(name, raw_redis.hget(name, "w"), vector)
    near = store.search(direction(1), 5, SCOPE, EMBEDDER)
    assert [n.entry.answer for n in near] == ["answer 2"]


def test_the_cosine_is_that_of_the_vector_stored_with_the_answer(store, raw_redis, prefix):
    store.put([make_entry(1)])
    name = Names(prefix=prefix).entry(SCOPE, make_entry(1).key)
    # A unit vector within the tolerance, which an index would normalise and call equal.
    raw_redis.hset(name, raw_redis.hget(name, "w"), (direction(1) * np.float32(0.9998)).tobytes())
    (near,) = store.search(direction(1), 1, SCOPE, EMBEDDER)
    assert near.cosine == pytest.approx(0.9998, abs=1e-5)


def test_another_kind_of_key_is_damage(store, raw_redis, prefix):
    name = Names(prefix=prefix).entry(SCOPE, make_entry(1).key)
    raw_redis.set(name, "a string")
    assert store.get(make_entry(1).key, SCOPE) is None
    assert store.damaged == 1
    store.put([make_entry(1)])
    assert store.get(make_entry(1).key, SCOPE) is not None


def test_large_and_broken_rows_of_a_log_are_passed_over(store, raw_redis, prefix):
    store.append("log", ["a"])
    for row in (b"x" * 4_001, b"\xff\xfe"):
        raw_redis.xadd(Names(prefix=prefix).log("log"), {"r": row})
    store.append("log", ["b"])
    assert store.read("log")[0] == ["a", "b"]
    assert store.damaged == 2
    with pytest.raises(StoreError, match="position"):
        store.read("log", "+ COUNT")


@given(
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.one_of(st.none(), st.integers(), st.binary(max_size=40)), max_size=6),
        st.tuples(
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3),
                    st.dictionaries(st.sampled_from(["key", "scope", "tags", "usage"]), inner),
                ),
            ),
            st.binary(max_size=8),
        ).map(lambda pair: [json.dumps(pair[0]).encode(), b"0", b"1.0", b"token", pair[1]]),
    )
)
def test_reading_anything_is_an_entry_or_a_known_error(row):
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError, RecursionError)):
        parse("p:e:x:y", row)


# --- versions and widths ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2", "x", "1.5"])
def test_another_version_is_refused_everywhere(store, raw_redis, prefix, version):
    store.put([make_entry(1)])
    raw_redis.set(Names(prefix=prefix).schema, version)
    match = "newer costwise" if version == "2" else "not costwise's"
    for do in (
        lambda: store.get(make_entry(1).key, SCOPE),
        lambda: store.search(direction(1), 1, SCOPE, EMBEDDER),
        lambda: store.put([make_entry(2)]),
        lambda: store.delete(Selection()),
        lambda: list(store.entries(Selection())),
        lambda: store.append("log", ["a"]),
        lambda: store.read("log"),
        lambda: store.acquire("job", "me", 1),
        lambda: store.release("job", "me"),
    ):
        with pytest.raises(StoreVersionError, match=match):
            do()
    raw_redis.set(Names(prefix=prefix).schema, "1")
    assert [e.answer for e in store.entries(Selection())] == ["answer 1"]


def test_two_processes_cannot_disagree_on_a_width(redis_server, prefix):
    failures = []

    def work(dim):
        with RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT) as own:
            for n in range(20):
                try:
                    own.put([make_entry(dim * 100 + n, vector=np.eye(dim, dtype=np.float32)[n])])
                except VectorError:
                    failures.append(dim)

    threads = [threading.Thread(target=work, args=(dim,)) for dim in (32, 48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 20
    assert len(set(failures)) == 1


# --- expiry -------------------------------------------------------------------------------------


def test_redis_itself_removes_what_has_expired(store, raw_redis, prefix):
    now = time.time()
    store.put([make_entry(n, expires=now + 0.2) for n in range(20)])
    store.put([make_entry(99, expires=now + 3_600, vector=direction(5)), make_entry(98)])
    names = Names(prefix=prefix)
    assert raw_redis.pttl(names.entry(SCOPE, make_entry(99).key)) > 3_000_000
    assert raw_redis.pttl(names.entry(SCOPE, make_entry(98).key)) == -1
    while raw_redis.exists(*(names.entry(SCOPE, make_entry(n).key) for n in range(20))):
        time.sleep(0.05)
    near = store.search(direction(5), 9, SCOPE, EMBEDDER)
    assert [n.entry.key for n in near] == [make_entry(99).key, make_entry(98).key]
    store.put([make_entry(99)])  # now for ever
    assert raw_redis.pttl(names.entry(SCOPE, make_entry(99).key)) == -1


def test_far_future_and_past(store):
    store.put([make_entry(1, expires=float("inf")), make_entry(2, expires=1e300)])
    store.put([make_entry(3)])
    store.put([make_entry(3, expires=-1e300)])
    assert {e.answer for e in store.entries(Selection())} == {"answer 1", "answer 2"}


# --- a server that is gone, slow, full or without the query engine --------------------------------


def calls(store):
    return (
        lambda: store.get(make_entry(1).key, SCOPE),
        lambda: store.search(direction(1), 1, SCOPE, EMBEDDER),
        lambda: store.put([make_entry(1)]),
        lambda: store.delete(Selection()),
        lambda: list(store.entries(Selection())),
        lambda: store.append("log", ["a"]),
        lambda: store.read("log"),
        lambda: store.acquire("job", "me", 1),
        lambda: store.release("job", "me"),
    )


def test_a_server_that_is_not_there():
    need_redis()
    store = RedisStore("redis://:secret@127.0.0.1:1/0", breaker=Breaker(failures=100))
    for do in calls(store):
        with pytest.raises(StoreUnavailableError) as caught:
            do()
        assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_there_async():
    need_redis()
    async with RedisStore(NEVER, breaker=Breaker(failures=100)) as store:
        for waits in (
            store.aget("k", "s"),
            store.asearch(direction(1), 1, "s", "e"),
            store.aput([make_entry(1)]),
            store.adelete(Selection()),
            store.aappend("log", ["a"]),
            store.aread("log"),
            store.aacquire("job", "me", 1),
            store.arelease("job", "me"),
        ):
            with pytest.raises(StoreUnavailableError):
                await waits


async def test_a_server_that_says_nothing(mortal):
    # Without a time box each of these would wait for ever.
    async with RedisStore(mortal.url, timeout=0.1, breaker=Breaker(failures=100)) as store:
        store.put([make_entry(1)])
        assert await store.aget(make_entry(1).key, SCOPE)
        with mortal.stalled():
            for _ in range(2):  # on an open connection, then on a new one
                with pytest.raises(StoreUnavailableError, match="TimeoutError"):
                    store.get(make_entry(1).key, SCOPE)
                with pytest.raises(StoreUnavailableError, match="TimeoutError"):
                    await store.aget(make_entry(1).key, SCOPE)
        # What the server answers late must not be taken for the answer to the next question.
        found = store.get(make_entry(2).key, SCOPE), await store.aget(make_entry(2).key, SCOPE)
        assert found == (None, None)


def test_the_cache_fails_open_and_counts_and_recovers(mortal):
    now = [0.0]
    store = RedisStore(mortal.url, timeout=PATIENT, breaker=Breaker(clock=lambda: now[0]))
    cache = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.9))
    scope = Scope(tenant="t")
    assert cache.store("How long is the notice period?", scope, "Three months.")
    assert cache.lookup("How long is the notice period?", scope)
    mortal.end(signal.SIGKILL)
    for _ in range(5):
        assert cache.lookup("How long is the notice period?", scope).reason == "store_error"
    assert not cache.store("Another one?", scope, "Yes.")
    assert cache.stats.errors == {"StoreUnavailableError": 6}
    with pytest.raises(StoreUnavailableError, match="3 times in a row"):
        store.get("k", "s")
    mortal.start()
    assert not cache.lookup("How long is the notice period?", scope)  # still left alone
    now[0] = 6.0
    hit = cache.lookup("How long is the notice period", scope)
    assert hit
    assert hit.answer == "Three months."
    store.close()


def test_a_full_server_refuses_puts_and_goes_on_serving(mortal):
    import redis

    with (
        RedisStore(mortal.url, timeout=PATIENT) as store,
        redis.Redis.from_url(mortal.url, protocol=2) as raw,
    ):
        store.put([make_entry(1)])
        raw.config_set("maxmemory", 1)
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match="OutOfMemory"):
                store.put([make_entry(2), make_entry(3)])
        assert store.get(make_entry(1).key, SCOPE)
        assert store.search(direction(1), 9, SCOPE, EMBEDDER)[0].entry.answer == "answer 1"
        raw.config_set("maxmemory", 0)
        assert [e.answer for e in store.entries(Selection())] == ["answer 1"]


def test_a_server_without_the_query_engine_says_so(tmp_path):
    with redis_engine(tmp_path, search=False) as bare, RedisStore(bare.url) as store:
        with pytest.raises(StoreError, match="query engine"):
            store.put([make_entry(1)])
        with pytest.raises(StoreError, match="query engine"):
            store.search(direction(1), 1, SCOPE, EMBEDDER)
        assert store.get(make_entry(1).key, SCOPE) is None  # not half stored either


def test_a_database_that_cannot_be_searched(redis_server, prefix):
    with RedisStore(redis_server.url[:-1] + "1", prefix=prefix, timeout=PATIENT) as store:
        with pytest.raises(StoreError, match="db"):
            store.put([make_entry(1)])
        assert store.get(make_entry(1).key, SCOPE) is None


def test_an_index_that_was_dropped_is_built_again(store, raw_redis, prefix):
    store.put([make_entry(n, created=float(n)) for n in range(500)])
    names = Names(prefix=prefix)
    raw_redis.execute_command("FT.DROPINDEX", names.index)
    raw_redis.execute_command("FT.DROPINDEX", names.near(EMBEDDER, direction(1).size))
    with pytest.raises(StoreError, match="index"):
        store.search(direction(1), 1, SCOPE, EMBEDDER)
    # A selection waits for the index: what it missed would be served for ever.
    assert store.delete(Selection(created_before=400.0)) == 400
    store.put([make_entry(500, created=500.0)])
    assert len(list(store.entries(Selection()))) == 101
    while len(store.search(direction(1), 500, SCOPE, EMBEDDER)) < 101:
        time.sleep(0.02)


def test_a_flushed_server_is_an_empty_store(mortal):
    import redis

    with (
        RedisStore(mortal.url, timeout=PATIENT) as store,
        redis.Redis.from_url(mortal.url) as raw,
    ):
        store.put([make_entry(1)])
        raw.flushall()
        assert store.search(direction(1), 1, SCOPE, EMBEDDER) == []
        store.put([make_entry(1, vector=np.ones(7, dtype=np.float32))])
        assert len(store.search(np.ones(7, dtype=np.float32), 1, SCOPE, EMBEDDER)) == 1


# --- nothing acknowledged is lost -----------------------------------------------------------------


def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(mortal):
    acknowledged: list[list[int]] = [[], [], []]
    tried = [0, 0, 0]

    def write(worker):
        store = RedisStore(mortal.url, timeout=PATIENT)
        for step in itertools.count():
            batch = [worker * 1_000_000 + step * 3 + part for part in range(3)]
            tried[worker] = batch[-1]
            try:
                store.put([make_entry(n, documents=((f"d{n}", "1"),)) for n in batch])
                store.append("log", [str(n) for n in batch])
            except StoreUnavailableError:
                break
            acknowledged[worker].extend(batch)
        store.close()

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    while min(len(own) for own in acknowledged) < 120:
        time.sleep(0.01)
    mortal.end(signal.SIGKILL)
    for thread in threads:
        thread.join()
    mortal.start()
    kept = {n for own in acknowledged for n in own}
    with RedisStore(mortal.url, timeout=PATIENT) as store:
        listed = {int(entry.key, 16): entry for entry in store.entries(Selection())}
        assert kept <= set(listed)
        for n, entry in listed.items():
            assert (entry.answer, entry.documents) == (f"answer {n}", ((f"d{n}", "1"),))
            assert entry.vector is not None
            assert float(entry.vector @ direction(n)) == pytest.approx(1.0, abs=1e-6)
            assert n <= tried[n // 1_000_000]
            base = n - n % 1_000_000
            first = base + (n - base) // 3 * 3
            assert {first, first + 1, first + 2} <= set(listed)  # a batch is kept or not
        for n in kept:
            assert store.search(direction(n), 1, SCOPE, EMBEDDER)[0].entry.key == f"{n:032x}"
        rows = store.read("log")[0]
        assert kept <= {int(row) for row in rows}
        assert store.damaged == 0


# --- processes, threads, loops --------------------------------------------------------------------

OTHER = """
import sys
from costwise_core.stores.redis import RedisStore
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
from costwise_core.types import Selection
url, prefix = sys.argv[1:]
with RedisStore(url, prefix=prefix, timeout=10) as store:
    (near,) = store.search(direction(1), 1, make_entry().scope, EMBEDDER)
    assert near.entry.answer == "answer 1", near
    assert store.read("log")[0] == ["hello"]
    assert not store.acquire("job", "child", 60)
    store.put([make_entry(2)])
    assert store.delete(Selection(keys=(make_entry(1).key,))) == 1
    store.append("log", ["from the other"])
"""


def test_two_processes_see_each_other(redis_server, store, prefix):
    store.put([make_entry(1)])
    store.append("log", ["hello"])
    assert store.acquire("job", "parent", 60)
    subprocess.run([sys.executable, "-c", OTHER, redis_server.url, prefix], check=True)
    assert store.get(make_entry(1).key, SCOPE) is None
    near = store.search(direction(1), 9, SCOPE, EMBEDDER)
    assert [n.entry.answer for n in near] == ["answer 2"]
    assert store.read("log")[0] == ["hello", "from the other"]


FORK = """
import os, sys
from costwise_core.stores.redis import RedisStore
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
url, prefix = sys.argv[1:]
store = RedisStore(url, prefix=prefix, timeout=10)
store.put([make_entry(n) for n in range(10)])
scope = make_entry().scope
def work(first):
    for step in range(300):
        n = (first + step) % 10
        assert store.get(make_entry(n).key, scope).answer == f"answer {n}"
        assert store.search(direction(n), 1, scope, EMBEDDER)[0].entry.answer == f"answer {n}"
child = os.fork()
work(5 if child else 0)  # on one socket they would read each other's replies
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_connections_of_its_own(redis_server, prefix):
    subprocess.run([sys.executable, "-c", FORK, redis_server.url, prefix], check=True)


async def test_sync_and_async_see_the_same(redis_server, prefix):
    async with RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT) as store:
        await store.aput([make_entry(1)])
        store.put([make_entry(2)])
        found = store.get(make_entry(1).key, SCOPE)
        assert found == await store.aget(make_entry(1).key, SCOPE)
        near = store.search(direction(1), 9, SCOPE, EMBEDDER)
        assert near == await store.asearch(direction(1), 9, SCOPE, EMBEDDER)
        assert len(near) == 2
        await store.aappend("log", ["a"])
        store.append("log", ["b"])
        assert store.read("log") == await store.aread("log")
        assert await store.aacquire("job", "me", 60)
        assert not store.acquire("job", "you", 60)
        await store.arelease("job", "me")
        assert store.acquire("job", "you", 60)
        assert await store.adelete(Selection()) == 2
        with pytest.raises(VectorError):
            await store.asearch(direction(1) * np.nan, 9, SCOPE, EMBEDDER)


def test_each_event_loop_has_connections_of_its_own(redis_server, prefix):
    store = RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT)

    async def once(number):
        await store.aput([make_entry(number)])
        found = await store.aget(make_entry(number).key, SCOPE)
        await store.aclose()
        return found.answer

    assert [asyncio.run(once(n)) for n in range(3)] == [f"answer {n}" for n in range(3)]
    assert len(store.search(direction(0), 9, SCOPE, EMBEDDER)) == 3
    store.close()


LOOPS = """
import asyncio, sys
from costwise_core.stores.redis import RedisStore
url, prefix = sys.argv[1:]
store = RedisStore(url, prefix=prefix, timeout=10)
for _ in range(5):
    asyncio.run(store.aread("log"))
assert len(store._wire._loops) == 1
store.close()
"""


def test_more_threads_than_connections_wait_for_one(store):
    barrier = threading.Barrier(200)

    def read(number: int) -> None:
        barrier.wait()
        assert store.get(str(number), "s") is None

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(read, range(200)))


async def test_more_tasks_than_connections_wait_for_one(store):
    found = await asyncio.gather(*(store.aget(str(n), "s") for n in range(200)))
    assert found == [None] * 200
    await store.aclose()


def test_loops_that_ended_are_forgotten(redis_server, prefix):
    subprocess.run([sys.executable, "-c", LOOPS, redis_server.url, prefix], check=True)


async def test_waiting_for_the_server_does_not_block_the_loop(mortal):
    async with RedisStore(mortal.url, timeout=PATIENT) as store:
        await store.aput([make_entry(1)])
        with mortal.stalled():
            waiting = asyncio.create_task(store.aget(make_entry(1).key, SCOPE))
            for _ in range(100):
                await asyncio.sleep(0.001)
            assert not waiting.done()
        # Were the loop blocked, the server would have been left stalled until the time box ended.
        found = await waiting
        assert found is not None
        assert found.answer == "answer 1"


async def test_async_calls_need_no_threads(redis_server, prefix):
    async with RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT) as store:
        cache = Cache(store, embedder=HashingEmbedder())
        before = threading.active_count()
        scope = Scope(tenant="t")
        assert await cache.astore("What is RAG?", scope, "A method.")
        hits = await asyncio.gather(*(cache.alookup("What is RAG?", scope) for _ in range(50)))
        assert all(hits)
        assert threading.active_count() == before


async def test_a_cancelled_call_spoils_no_later_one(redis_server, prefix):
    async with RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT) as store:
        await store.aput([make_entry(n) for n in range(10)])
        rng = random.Random(3)
        for _ in range(200):
            n = rng.randrange(10)
            task = asyncio.create_task(store.aget(make_entry(n).key, SCOPE))
            for _ in range(rng.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            other = (n + 1) % 10
            found = await store.aget(make_entry(other).key, SCOPE)
            assert found is not None
            assert found.answer == f"answer {other}"


# --- what the constructor takes and does ------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "values"),
    [
        ("localhost:6379", {}),
        ("", {}),
        (NEVER, {"prefix": ""}),
        (NEVER, {"prefix": "a:b"}),
        (NEVER, {"prefix": "a" * 65}),
        (NEVER, {"timeout": 0}),
        (NEVER, {"timeout": float("nan")}),
    ],
)
def test_arguments_that_make_no_sense(url, values):
    need_redis()
    with pytest.raises(ConfigError):
        RedisStore(url, **values)


def test_importing_and_making_one_loads_and_opens_nothing():
    need_redis()
    code = (
        "import socket, sys\n"
        "from costwise_core.stores.redis import RedisStore\n"
        "socket.socket = None\n"
        f"RedisStore({NEVER!r})\n"
        "print('redis' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_deletion_spares_what_was_replaced_meanwhile(store, prefix, redis_server):
    """A new answer is not deleted for what the old one was."""
    store.put([make_entry(n, documents=(("d", "1"),)) for n in range(120)])
    other = RedisStore(redis_server.url, prefix=prefix, timeout=PATIENT)
    flows = store._flows
    read = flows._rows

    def replace_then(names, *, vectors):
        rows = yield from read(names, vectors=vectors)
        fresh = [replace(r.entry, answer="fresh", documents=(("d", "2"),)) for r in rows[:5]]
        other.put([replace(e, embedder="") for e in fresh])
        return rows

    flows._rows = replace_then
    count = store.delete(Selection(changed=(("d", "2"),)))
    flows._rows = read
    left = list(store.entries(Selection()))
    other.close()
    assert {e.answer for e in left} == {"fresh"}
    assert count + len(left) == 120
