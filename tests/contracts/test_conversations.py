"""Every store of conversations keeps the same contract; those on servers are in tests/services."""

from pathlib import Path

import pytest

from costwise_core import MemoryConversations, SQLiteConversations
from costwise_core.testing.conversations import ConversationStoreContract


class TestMemoryConversations(ConversationStoreContract):
    def make_store(self, clock, ttl=None):
        return MemoryConversations(clock=clock, ttl=ttl)


class TestSQLiteConversations(ConversationStoreContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path):
        self.path = tmp_path / "chats.db"
        self.opened: list[SQLiteConversations] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self, clock, ttl=None):
        self.clock = clock
        self.opened.append(SQLiteConversations(self.path, clock=clock, ttl=ttl, busy_timeout=30))
        return self.opened[-1]

    def reopen(self, store):
        return self.make_store(self.clock)
