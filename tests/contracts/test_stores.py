"""Every store keeps the same contract."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import MemoryStore, SQLiteStore
from costwise_core.errors import ConfigError, EntryTooLargeError
from costwise_core.testing.fakes import FakeClock
from costwise_core.testing.sharing import JournalContract, LeasesContract
from costwise_core.testing.stores import EMBEDDER, CacheStoreContract, direction, make_entry
from costwise_core.types import Selection


class Memory:
    def make_store(self, clock):
        return MemoryStore(clock=clock)


class SQLite:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path):
        self.path = tmp_path / "cache.db"
        self.opened: list[SQLiteStore] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self, clock):
        self.clock = clock
        self.opened.append(SQLiteStore(self.path, busy_timeout=10, clock=clock))
        return self.opened[-1]

    def reopen(self, store):
        return self.make_store(self.clock)


class TestMemoryStore(Memory, CacheStoreContract):
    pass


class TestMemoryJournal(Memory, JournalContract):
    pass


class TestMemoryLeases(Memory, LeasesContract):
    pass


class TestSQLiteStore(SQLite, CacheStoreContract):
    pass


class TestSQLiteJournal(SQLite, JournalContract):
    pass


class TestSQLiteLeases(SQLite, LeasesContract):
    pass


def test_memory_is_limited_and_the_least_recently_used_leave_first() -> None:
    store = MemoryStore(max_entries=3)
    store.put([make_entry(n) for n in range(3)])
    assert store.get(make_entry(0).key, make_entry().scope) is not None
    store.search(direction(2), 1, make_entry().scope, EMBEDDER)  # being looked at is no use
    store.put([make_entry(1, answer="replaced")])  # evicts nobody
    store.put([make_entry(3)])
    found = store.search(direction(1), 9, make_entry().scope, EMBEDDER)
    assert sorted(n.entry.answer for n in found) == ["answer 0", "answer 3", "replaced"]


def test_memory_is_limited_in_bytes() -> None:
    store = MemoryStore(max_entries=None, max_bytes=50_000)
    for n in range(40):
        store.put([make_entry(n, answer="é" * 2_000)])
    found = store.search(direction(1), 99, make_entry().scope, EMBEDDER)
    assert sorted(n.entry.key for n in found) == [make_entry(n).key for n in range(29, 40)]
    with pytest.raises(EntryTooLargeError, match="accepts 50000"):
        store.put([make_entry(1, answer="x" * 50_000)])


def test_memory_lets_the_expired_go_first() -> None:
    clock = FakeClock()
    store = MemoryStore(max_entries=2, clock=clock)
    store.put([make_entry(1), make_entry(2, worth=9.0, expires=clock.now + 5)])
    clock.advance(5)
    store.put([make_entry(3)])
    assert [e.answer for e in store.entries(Selection())] == ["answer 1", "answer 3"]


def test_memory_does_not_grow_by_being_replaced_or_emptied() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    for n in range(2_000):
        store.put([make_entry(n % 3, expires=clock.now + 1e6)])
        store.delete(Selection(keys=(make_entry(1).key,)))
    assert len(store._ranked) < 200
    assert len(store._ending) < 200


@pytest.mark.parametrize("limits", [{"max_entries": 0}, {"max_bytes": -1}, {"max_entries": "9"}])
def test_memory_limits_that_make_no_sense(limits) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        MemoryStore(**limits)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=60))
def test_any_history_leaves_the_same_in_memory_and_in_a_plain_dictionary(history) -> None:
    store, plain = MemoryStore(), {}
    for scope, number, adds in history:
        entry = make_entry(number, scope=scope)
        if adds:
            store.put([entry])
            plain[scope, number] = entry.answer
        else:
            gone = store.delete(Selection(scope=scope, keys=(entry.key,)))
            assert gone == (plain.pop((scope, number), None) is not None)
    for scope in "abc":
        own = {number for place, number in plain if place == scope}
        near = store.search(direction(0), 99, scope, EMBEDDER)
        assert sorted(n.entry.answer for n in near) == sorted(f"answer {n}" for n in own)
        for n in near:
            number = int(n.entry.key, 16)
            assert n.cosine == pytest.approx(float(direction(0) @ direction(number)), abs=1e-5)
