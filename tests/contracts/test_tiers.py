"""Tiers keep the contract of the one store they stand for."""

from pathlib import Path

import pytest

from costwise_core import MemoryStore, SQLiteStore
from costwise_core.stores.tiers import TieredStore
from costwise_core.testing.sharing import JournalContract, LeasesContract
from costwise_core.testing.stores import CacheStoreContract


class OverMemory:
    """Two memory tiers; another opener has a fast tier of its own."""

    fresh_for: float | None = 5.0

    def make_store(self, clock):
        self.clock = clock
        self.last = MemoryStore(clock=clock)
        return self.reopen(None)

    def reopen(self, store):
        fast = MemoryStore(max_entries=50, clock=self.clock)
        return TieredStore(fast, self.last, fresh_for=self.fresh_for, clock=self.clock)


class OverSQLite:
    """Memory, a file on this machine, and the file that is shared."""

    fresh_for: float | None = 5.0

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path):
        self.path = tmp_path
        self.opened: list[TieredStore] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self, clock):
        self.clock = clock
        stores = (
            MemoryStore(clock=clock),
            *(
                SQLiteStore(self.path / name, busy_timeout=10, clock=clock)
                for name in ("near.db", "far.db")
            ),
        )
        self.opened.append(TieredStore(*stores, fresh_for=self.fresh_for, clock=clock))
        return self.opened[-1]

    def reopen(self, store):
        return self.make_store(self.clock)


class TestOverMemory(OverMemory, CacheStoreContract):
    pass


class TestOverMemoryForGood(OverMemory, CacheStoreContract):
    fresh_for = None


class TestOverMemoryWithoutCopies(OverMemory, CacheStoreContract):
    fresh_for = 0.0


class TestJournalOverMemory(OverMemory, JournalContract):
    pass


class TestLeasesOverMemory(OverMemory, LeasesContract):
    pass


class TestOverSQLite(OverSQLite, CacheStoreContract):
    pass


class TestJournalOverSQLite(OverSQLite, JournalContract):
    pass


class TestLeasesOverSQLite(OverSQLite, LeasesContract):
    pass
