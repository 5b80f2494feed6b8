"""What only tiers can do wrong: serve what is gone, lose what was acknowledged, hide a fault."""

import itertools
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, SQLiteStore
from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError, VectorError
from costwise_core.protocols import Journal, Leases
from costwise_core.stores.qdrant import QdrantStore
from costwise_core.stores.redis import RedisStore
from costwise_core.stores.tiers import TieredStore
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
from costwise_core.types import Selection
from tests.services.redis_engine import need_redis, redis_engine

SCOPE = make_entry().scope
KEY = make_entry(1).key
FRESH = 5.0


@pytest.fixture
def clock():
    return FakeClock()


def unusable(path):
    """A store whose file cannot be opened, since a folder stands in its place."""
    path.mkdir()
    return SQLiteStore(path)


# --- what another process does --------------------------------------------------------------------


def test_what_another_process_deleted_is_served_for_fresh_for_at_most(tmp_path, clock):
    mine, yours = (
        TieredStore(
            MemoryStore(clock=clock),
            SQLiteStore(tmp_path / "a.db", clock=clock),
            fresh_for=FRESH,
            clock=clock,
        )
        for _ in range(2)
    )
    with mine, yours:
        mine.put([make_entry(1)])
        assert yours.get(KEY, SCOPE).answer == "answer 1"
        mine.delete(Selection(keys=(KEY,)))
        assert mine.get(KEY, SCOPE) is None
        clock.advance(FRESH - 0.5)
        assert yours.get(KEY, SCOPE) is not None  # the documented price of a fast tier
        clock.advance(0.5)
        assert yours.get(KEY, SCOPE) is None


def test_a_copy_of_a_copy_is_no_fresher(tmp_path, clock):
    near, far = SQLiteStore(tmp_path / "near.db", clock=clock), MemoryStore(clock=clock)
    first, second = (
        TieredStore(MemoryStore(clock=clock), near, far, fresh_for=FRESH, clock=clock)
        for _ in range(2)
    )
    first.put([make_entry(1)])
    clock.advance(FRESH - 1)
    assert second.get(KEY, SCOPE) is not None  # from the file the two share
    far.delete(Selection())
    clock.advance(1)
    assert second.get(KEY, SCOPE) is None
    near.close()


def test_time_to_live_is_kept_by_copies(clock):
    for fresh_for in (FRESH, None):
        far = MemoryStore(clock=clock)
        store = TieredStore(MemoryStore(clock=clock), far, fresh_for=fresh_for, clock=clock)
        far.put([make_entry(1, expires=clock.now + 2)])
        for _ in range(2):
            assert store.get(KEY, SCOPE).expires == clock.now + 2
        clock.advance(2)
        assert store.get(KEY, SCOPE) is None


MOVES = st.one_of(
    st.tuples(st.just("put"), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("delete"), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("get"), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.booleans(), st.integers(1, 4)),
)


@given(st.lists(MOVES, max_size=40), st.sampled_from([FRESH, 0.0]))
def test_every_answer_was_true_a_moment_ago(moves, fresh_for):
    """Two processes share a store; whatever they do, no answer is older than the bound."""
    clock = FakeClock()
    far = MemoryStore(clock=clock)
    pair = [
        TieredStore(
            MemoryStore(max_entries=2, clock=clock),
            MemoryStore(clock=clock),
            far,
            fresh_for=fresh_for,
            clock=clock,
        )
        for _ in range(2)
    ]
    # For every key the answers it has had, each with the time from which and the process by which.
    history = {n: [(clock.now, None, None)] for n in range(3)}
    for step, (move, who, number) in enumerate(moves):
        store = pair[who]
        if move == "wait":
            clock.advance(number)
        elif move == "put":
            store.put([make_entry(number, answer=f"at {step}")])
            history[number].append((clock.now, who, f"at {step}"))
        elif move == "delete":
            store.delete(Selection(keys=(make_entry(number).key,)))
            history[number].append((clock.now, who, None))
        else:
            found = store.get(make_entry(number).key, SCOPE)
            answer = found.answer if found else None
            past = history[number]
            # An answer was replaced when the next one came; one's own changes are seen at once.
            allowed = {past[-1][2]}
            for (_, _, old), (until, by, _) in reversed(list(itertools.pairwise(past))):
                if by == who or clock.now - until >= fresh_for:
                    break
                allowed.add(old)
            assert answer in allowed


# --- at the same time -----------------------------------------------------------------------------


def schedules(store_of, flows_of):
    """Run two flows in every order of their steps; yield the store after each.

    That a call has happened and that its caller knows are two steps.
    """
    for pattern in itertools.product((0, 1), repeat=10):
        store = store_of()
        flows = flows_of(store)
        waiting = [next(flow, None) for flow in flows]
        results = [[], []]
        for who in (*pattern, *[0] * 40, *[1] * 40):
            effect = waiting[who]
            if effect is None:
                continue
            if not results[who]:
                results[who].append(effect.fn(*effect.args, **effect.kwargs))
                continue
            try:
                waiting[who] = flows[who].send(results[who].pop())
            except StopIteration:
                waiting[who] = None
        assert waiting == [None, None]
        yield store


def two_tiers():
    store = TieredStore(MemoryStore(), MemoryStore(), fresh_for=None)
    store._last.put([make_entry(1, answer="old")])
    return store


def truth(store):
    found = store._last.get(KEY, SCOPE)
    return found.answer if found else None


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_deleted_stays_behind_in_a_faster_tier(copied):
    def flows_of(store):
        if copied:
            store.get(KEY, SCOPE)
        return store._get(KEY, SCOPE), store._delete(Selection(keys=(KEY,)))

    for store in schedules(two_tiers, flows_of):
        assert store.get(KEY, SCOPE) is None


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_replaced_stays_behind_in_a_faster_tier(copied):
    def flows_of(store):
        if copied:
            store.get(KEY, SCOPE)
        return store._get(KEY, SCOPE), store._put([make_entry(1, answer="new")])

    for store in schedules(two_tiers, flows_of):
        assert store.get(KEY, SCOPE).answer == truth(store) == "new"


def test_of_two_writers_the_faster_tier_never_believes_the_wrong_one():
    def flows_of(store):
        return [store._put([make_entry(1, answer=name)]) for name in ("one", "other")]

    seen = set()
    for store in schedules(two_tiers, flows_of):
        seen.add(truth(store))
        assert store.get(KEY, SCOPE).answer == truth(store)
    assert seen == {"one", "other"}


def test_a_put_and_a_deletion_at_once():
    def flows_of(store):
        return store._put([make_entry(1, answer="new")]), store._delete(Selection())

    seen = set()
    for store in schedules(two_tiers, flows_of):
        seen.add(truth(store))
        found = store.get(KEY, SCOPE)
        assert (found.answer if found else None) == truth(store)
    assert seen == {"new", None}


# --- faults ---------------------------------------------------------------------------------------


def test_a_broken_last_tier_acknowledges_nothing(tmp_path):
    fast = MemoryStore()
    store = TieredStore(fast, unusable(tmp_path / "far.db"))
    for attempt in (
        lambda: store.put([make_entry(1)]),
        lambda: store.get(KEY, SCOPE),
        lambda: store.search(direction(1), 4, SCOPE, EMBEDDER),
        lambda: store.delete(Selection()),
        lambda: list(store.entries(Selection())),
        lambda: store.append("log", ["row"]),
        lambda: store.acquire("job", "me", 1.0),
    ):
        with pytest.raises(StoreUnavailableError):
            attempt()
    assert list(fast.entries(Selection())) == []


def test_a_broken_faster_tier_costs_only_time(tmp_path):
    broken = unusable(tmp_path / "near.db")
    fast = MemoryStore()
    store = TieredStore(fast, broken, MemoryStore())
    store.put([make_entry(1), make_entry(2)])
    faults = store.faults
    assert faults > 0
    assert store.get(KEY, SCOPE).answer == "answer 1"  # from memory, which still works
    assert store.faults == faults
    assert store.get("unknown", SCOPE) is None
    assert store.faults > faults
    with pytest.raises(StoreError, match=r"1 entries were deleted .* up to 5 s; delete again"):
        store.delete(Selection(keys=(KEY,)))
    assert store.get(KEY, SCOPE) is None
    assert store.get(make_entry(2).key, SCOPE) is not None


def test_a_copy_too_large_for_a_faster_tier_leaves_no_older_one_there():
    fast = MemoryStore(max_bytes=2_000)
    store = TieredStore(fast, MemoryStore(), fresh_for=None)
    store.put([make_entry(1, answer="old")])
    store.put([make_entry(1, answer="new" * 1_000)])
    assert store.get(KEY, SCOPE).answer == "new" * 1_000


def test_a_file_that_was_a_store_of_its_own_is_not_believed(tmp_path):
    old = SQLiteStore(tmp_path / "near.db")
    with old:
        old.put([make_entry(1, answer="years old"), make_entry(2, tags=('[null, ""]',))])
        store = TieredStore(old, MemoryStore())
        assert store.get(KEY, SCOPE) is None
        assert store.get(make_entry(2).key, SCOPE) is None
        store.put([make_entry(1)])
        assert store.get(KEY, SCOPE).answer == "answer 1"


def test_a_server_goes_away_and_the_cache_counts_it(tmp_path):
    need_redis()
    clock = FakeClock()
    with redis_engine(tmp_path) as engine, RedisStore(engine.url, timeout=10.0) as far:
        store = TieredStore(MemoryStore(clock=clock), far, fresh_for=FRESH, clock=clock)
        cache, scope = Cache(store, clock=clock), Scope(tenant="acme")
        assert cache.store("What is RAG?", scope, "A method.")
        engine.end(signal.SIGKILL)
        assert cache.lookup("What is RAG?", scope).answer == "A method."
        assert cache.lookup("What is BM25?", scope).reason == "store_error"
        assert not cache.store("What is BM25?", scope, "A ranking.")
        assert cache.stats.errors == {"StoreUnavailableError": 2}
        with pytest.raises(StoreUnavailableError):
            cache.clear()
        clock.advance(FRESH)
        assert cache.lookup("What is RAG?", scope).reason == "store_error"


async def test_async_code_uses_the_servers_own_clients(tmp_path):
    need_redis()
    with redis_engine(tmp_path) as engine:
        store = TieredStore(MemoryStore(), RedisStore(engine.url, timeout=10.0))
        await store.aput([make_entry(1), make_entry(2)])
        assert (await store.aget(KEY, SCOPE)).answer == "answer 1"
        (near, _) = await store.asearch(direction(2), 2, SCOPE, EMBEDDER)
        assert near.entry.answer == "answer 2"
        await store.aappend("log", ["row"])
        assert (await store.aread("log"))[0] == ["row"]
        assert await store.aacquire("job", "me", 60)
        assert not await store.aacquire("job", "you", 60)
        await store.arelease("job", "me")
        assert await store.adelete(Selection(keys=(KEY,))) == 1
        assert await store.aget(KEY, SCOPE) is None
        await store.aclose()


# --- the rest -------------------------------------------------------------------------------------


def test_repeats_do_not_ask_the_last_tier(tmp_path, clock):
    far = SQLiteStore(tmp_path / "far.db", clock=clock)
    store = TieredStore(MemoryStore(clock=clock), far, clock=clock)
    far.put([make_entry(1)])
    assert store.get(KEY, SCOPE) is not None
    far.close()
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "far.db").mkdir()
    assert store.get(KEY, SCOPE).answer == "answer 1"
    with pytest.raises(StoreUnavailableError):
        store.get(make_entry(2).key, SCOPE)


def test_uses_in_memory_keep_an_entry_from_being_retired(clock):
    store = TieredStore(
        MemoryStore(clock=clock), MemoryStore(clock=clock), fresh_for=None, clock=clock
    )
    store.put([make_entry(1), make_entry(2)])
    clock.advance(100)
    for _ in range(30):
        store.get(KEY, SCOPE)
    assert store.delete(Selection(unused_since=clock.now - 50)) == 1
    assert [entry.uses for entry in store.entries(Selection())] == [30]


def test_near_hits_come_through_tiers():
    embedder = HashingEmbedder()
    store = TieredStore(MemoryStore(), MemoryStore())
    cache = Cache(store, embedder=embedder, policy=FixedThreshold(min_cosine=0.6))
    assert cache.store("What is the notice period of my contract?", Scope(), "30 days")
    hit = cache.lookup("What is the notice period of a contract?", Scope())
    assert (hit.tier, hit.answer) == ("near", "30 days")


def test_logs_and_leases_are_where_the_last_tier_keeps_some(tmp_path):
    shared = SQLiteStore(tmp_path / "a.db")
    qdrant = QdrantStore("http://127.0.0.1:1")  # keeps neither
    with shared:
        TieredStore(MemoryStore(), shared, qdrant).append("log", ["row"])
        assert shared.read("log")[0] == ["row"]
        assert not isinstance(qdrant, Journal | Leases)
        alone = TieredStore(qdrant, qdrant)
        assert alone.acquire("job", "me", 60)
        assert not alone.acquire("job", "you", 60)


@pytest.mark.parametrize("fresh_for", [-1, float("nan"), float("inf")])
def test_arguments_that_make_no_sense(fresh_for):
    with pytest.raises(ConfigError, match="fresh_for is in seconds"):
        TieredStore(MemoryStore(), MemoryStore(), fresh_for=fresh_for)
    with pytest.raises(ConfigError, match="two stores or more"):
        TieredStore(MemoryStore())


def test_a_vector_the_last_tier_refuses_is_nowhere():
    store = TieredStore(MemoryStore(), MemoryStore())
    with pytest.raises(VectorError):
        store.put([make_entry(1), make_entry(2, vector=np.full(24, np.nan, dtype=np.float32))])
    assert store.get(KEY, SCOPE) is None
