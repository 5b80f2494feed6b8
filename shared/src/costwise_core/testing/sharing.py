"""The contracts of logs and leases, through which processes that share a store work together.

Example:
    >>> class TestMyJournal(JournalContract):
    ...     def make_store(self, clock):
    ...         return MyStore(clock=clock)
"""

# ruff: noqa: S101 - these are tests, shipped

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from costwise_core.errors import ConfigError, EntryTooLargeError
from costwise_core.protocols import Journal, Leases
from costwise_core.testing.fakes import FakeClock
from costwise_core.testing.stores import TEXTS, StoreContract

__all__ = ["JournalContract", "LeasesContract"]

KEPT = 20_000
ROW_BYTES = 4_000


class JournalContract(StoreContract):
    """Subclass it, say how a store is made, and pytest runs the contract."""

    def test_rows_come_back_in_order(self, store: Journal) -> None:
        """Every row is read once, in the order of appending, by whoever goes on from a position."""
        assert store.read("log") == ([], "")
        store.append("log", ["a", "b"])
        rows, position = store.read("log")
        assert rows == ["a", "b"]
        assert store.read("log", position) == ([], position)
        store.append("log", [])
        store.append("log", ["c"])
        store.append("log", ["a"])
        rows, last = store.read("log", position)
        assert rows == ["c", "a"]
        assert last != position
        assert store.read("log", position) == (rows, last)
        assert store.read("log")[0] == ["a", "b", "c", "a"]

    def test_logs_never_mix(self, store: Journal) -> None:
        """Each name has rows and positions of its own."""
        for name in TEXTS:
            store.append(name, [name, f"of {name}"])
        for name in TEXTS:
            assert store.read(name)[0] == [name, f"of {name}"]
        assert store.read("unknown") == ([], "")

    def test_large_rows_are_refused(self, store: Journal) -> None:
        """A row beyond the limit is an error, and none of its batch is kept."""
        store.append("log", ["é" * (ROW_BYTES // 2), ""])
        with pytest.raises(EntryTooLargeError):
            store.append("log", ["fits", "é" * (ROW_BYTES // 2) + "x"])
        assert store.read("log")[0] == ["é" * (ROW_BYTES // 2), ""]

    def test_the_newest_are_kept(self, store: Journal) -> None:
        """The newest 20,000 rows stay; a position before the oldest kept means the oldest kept."""
        store.append("log", ["first"])
        store.append("other", ["stays"])
        _, early = store.read("log")
        for start in range(0, KEPT + 5_000, 5_000):
            store.append("log", [str(n) for n in range(start, start + 5_000)])
        for after in ("", early):
            rows, position = store.read("log", after)
            assert rows[-KEPT:] == [str(n) for n in range(5_000, KEPT + 5_000)]
        assert store.read("log", position)[0] == []
        assert store.read("other")[0] == ["stays"]

    def test_openers_see_each_other(self, store: Journal) -> None:
        """What one process appends, another reads at once, and positions mean the same to both."""
        other: Journal = self.reopen(store)
        store.append("log", ["a"])
        rows, position = other.read("log")
        assert rows == ["a"]
        other.append("log", ["b"])
        assert store.read("log", position)[0] == ["b"]
        assert store.read("log") == other.read("log")

    def test_many_threads(self, store: Journal) -> None:
        """Threads that append at once lose nothing, and no batch is torn apart or out of order."""
        stores: list[Journal] = [store, self.reopen(store)]
        barrier = threading.Barrier(8)

        def work(worker: int) -> list[str]:
            barrier.wait()
            seen, position = [], ""
            for step in range(20):
                stores[worker % 2].append("log", [f"{worker} {step} {part}" for part in "abc"])
                rows, position = stores[(worker + 1) % 2].read("log", position)
                seen += rows
            return seen

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
        rows, _ = store.read("log")
        assert len(rows) == len(set(rows)) == 8 * 20 * 3
        for place in range(0, len(rows), 3):
            assert [row[-1] for row in rows[place : place + 3]] == ["a", "b", "c"]
            assert len({row[:-1] for row in rows[place : place + 3]}) == 1
        for worker in range(8):
            own = [row for row in rows if row.startswith(f"{worker} ")]
            assert own == [f"{worker} {step} {part}" for step in range(20) for part in "abc"]
        for seen in results:  # reading while others append skips nothing
            assert seen == rows[: len(seen)]


class LeasesContract(StoreContract):
    """Subclass it, say how a store is made, and pytest runs the contract."""

    def pass_time(self, clock: FakeClock, seconds: float) -> None:
        """Let time pass; override with `time.sleep` if leases go by a server's own clock."""
        clock.advance(seconds)

    def test_one_owner_at_a_time(self, store: Leases) -> None:
        """A held lease is refused to others, everywhere, and may be renewed by its owner."""
        other: Leases = self.reopen(store)
        assert store.acquire("job", "me", 60)
        assert not store.acquire("job", "you", 60)
        assert not other.acquire("job", "you", 60)
        assert other.acquire("job", "me", 60)
        assert store.acquire("another job", "you", 60)

    def test_only_the_owner_gives_back(self, store: Leases) -> None:
        """A release by anybody else changes nothing; after the owner's the lease is free."""
        store.release("job", "nobody")
        assert store.acquire("job", "me", 60)
        store.release("job", "you")
        assert not store.acquire("job", "you", 60)
        store.release("job", "me")
        store.release("job", "me")
        assert store.acquire("job", "you", 60)
        store.release("job", "me")
        assert not store.acquire("job", "me", 60)

    def test_leases_end(self, store: Leases, clock: FakeClock) -> None:
        """A lease its owner does not renew is free after its time, and then not the owner's."""
        assert store.acquire("job", "me", 1.0)
        assert store.acquire("kept", "me", 60.0)
        self.pass_time(clock, 0.5)
        assert store.acquire("job", "me", 1.0)  # renewed: counted from now
        self.pass_time(clock, 0.75)
        assert not store.acquire("job", "you", 1.0)
        self.pass_time(clock, 0.5)
        assert store.acquire("job", "you", 60.0)
        store.release("job", "me")
        assert not store.acquire("job", "me", 60.0)
        assert not store.acquire("kept", "you", 60.0)

    @pytest.mark.parametrize("text", TEXTS)
    def test_any_text_is_a_name(self, store: Leases, text: str) -> None:
        """Names and owners may hold whatever a text holds."""
        assert store.acquire(text, text, 60)
        assert not store.acquire(text, text + "x", 60)
        assert store.acquire(text + "x", text + "x", 60)
        store.release(text, text)
        assert store.acquire(text, text + "x", 60)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_times_that_make_no_sense(self, store: Leases, seconds: float) -> None:
        """A lease lasts a finite time above 0."""
        with pytest.raises(ConfigError, match="seconds"):
            store.acquire("job", "me", seconds)
        assert store.acquire("job", "you", 60)

    def test_many_threads_one_winner(self, store: Leases) -> None:
        """Of 32 threads that want one lease at once, one gets it."""
        stores: list[Leases] = [store, self.reopen(store)]
        barrier = threading.Barrier(32)

        def want(worker: int, name: str) -> bool:
            barrier.wait()
            return stores[worker % 2].acquire(name, str(worker), 60)

        with ThreadPoolExecutor(32) as pool:
            for round_ in range(5):
                name = f"job {round_} {time.monotonic_ns()}"
                won = list(pool.map(lambda worker, name=name: want(worker, name), range(32)))
                assert sum(won) == 1
                assert not store.acquire(name, "late", 60)
                store.release(name, str(won.index(True)))
                assert store.acquire(name, "late", 60)
