"""PostgreSQL as the place of conversations: the contract on a real server, and what only it has."""

import signal
import time

import pytest

from costwise_core import Conversation, PostgresConversations, PostgresStore, Summary
from costwise_core.errors import ConfigError, StoreUnavailableError, StoreVersionError
from costwise_core.testing.conversations import CHAT, talk
from tests.services.postgres_engine import Postgres
from tests.services.served_conversations import ServedConversations, spawning

pytestmark = pytest.mark.usefixtures("postgres_server")


@pytest.fixture
def make(opened, postgres_server: Postgres, schema: str):
    def make(conninfo: str = postgres_server.conninfo, **arguments) -> PostgresConversations:
        return opened(
            PostgresConversations(conninfo, **{"schema": schema, "timeout": 30, **arguments})
        )

    return make


@pytest.fixture
def spawn(postgres_server: Postgres, schema: str):
    return spawning("PostgresConversations", postgres_server.conninfo, schema=schema)


class TestPostgresConversations(ServedConversations):
    def make_store(self, clock, ttl=None):
        self.clock = clock
        return self.make(clock=clock, ttl=ttl)

    def reopen(self, store):
        return self.make_store(self.clock)


def test_processes_that_start_together_make_the_tables_once(spawn, raw_sql):
    for one in [spawn(str(n), 1) for n in range(3)]:
        assert one.communicate()[0]
    assert raw_sql("SELECT version FROM @memory_version") == [(1,)]
    assert raw_sql("SELECT count(*) FROM @memory_messages") == [(3,)]


def test_a_killed_server_loses_nothing(postgres_server, make):
    store = make()
    store.append(CHAT, talk(5))
    assert store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    postgres_server.stop(signal.SIGQUIT)
    postgres_server.start()
    # What connection the old store has left is noticed to be dead, and not asked.
    assert store.messages(CHAT) == talk(5)
    assert make().summary(CHAT) == Summary(text="So far.", folded=3, version=1)
    assert store.append(CHAT, talk(6)) == 6


def test_a_frozen_server_is_given_up_in_time(postgres_server, make):
    store = make(timeout=0.3)
    store.append(CHAT, talk(1))
    postgres_server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.append(CHAT, talk(2))
        assert time.monotonic() - started < 5
    finally:
        postgres_server.signal(signal.SIGCONT)


def test_the_server_has_the_clock(make):
    store = make(ttl=1.5)
    store.append(CHAT, talk(1))
    assert list(store.conversations(unused_since=time.time() - 60)) == []
    assert list(store.conversations(unused_since=time.time() + 60)) == [CHAT]
    time.sleep(1.6)
    assert store.messages(CHAT) == []


def test_expired_conversations_are_cleared_away(make, raw_sql):
    now = 1_000.0
    store = make(ttl=10.0, clock=lambda: now)
    for number in range(20):
        store.append(Conversation(id=str(number)), talk(3))
    now = 2_000.0
    for _ in range(3):
        store.append(CHAT, talk(1))
    assert raw_sql("SELECT count(*) FROM @memory_conversations") == [(1,)]
    assert raw_sql("SELECT count(*) FROM @memory_messages") == [(1,)]


def test_nothing_of_a_deleted_user_is_left(make, raw_sql):
    store = make()
    store.append(CHAT, talk(40))
    store.replace(CHAT, Summary(text="secret", folded=3), version=0)
    store.acquire(CHAT.key, "me", 60)
    store.delete(tenant="acme", user="ann")
    for table in ("conversations", "messages", "leases"):
        assert raw_sql(f"SELECT count(*) FROM @memory_{table}") == [(0,)]


def test_the_end_of_a_conversation_is_read_by_its_index(make, raw_sql):
    make().append(CHAT, talk(5_000))
    raw_sql("ANALYZE @memory_messages")
    plan = "\n".join(
        line
        for (line,) in raw_sql(
            "EXPLAIN SELECT body FROM @memory_conversations c JOIN @memory_messages m "
            "ON m.conversation = c.key WHERE c.key = %s AND place >= 4990 ORDER BY place LIMIT 99",
            bytes.fromhex(CHAT.key),
        )
    )
    assert "memory_messages_pkey" in plan
    assert "Seq Scan on memory_messages" not in plan


def test_damaged_rows_are_passed_over_and_counted(make, raw_sql):
    store = make()
    store.append(CHAT, talk(5))
    store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    raw_sql(r"UPDATE @memory_messages SET body = '\x7b7d' WHERE place = 1")
    raw_sql(r"UPDATE @memory_conversations SET summary = '\x00', names = '{}'")
    assert store.messages(CHAT) == [talk(5)[n] for n in (0, 2, 3, 4)]
    assert store.messages(CHAT, start=3) == talk(2, start=3)
    assert store.append(CHAT, talk(6)) == 6
    assert store.summary(CHAT) == Summary(version=1)
    assert list(store.conversations()) == [CHAT]  # the append has mended its names
    assert store.damaged == 2
    assert store.replace(CHAT, Summary(text="Anew.", folded=3), version=1)


def test_it_shares_a_schema_with_a_cache(postgres_server, schema, make):
    with PostgresStore(
        postgres_server.conninfo, schema=schema, timeout=10, write_timeout=30
    ) as cache:
        assert cache.acquire("fold", "cache", 60)
        store = make()
        assert store.append(CHAT, talk(1)) == 1
        assert store.acquire("fold", "memory", 60)
        assert cache.get("k", "s") is None


def test_tables_of_a_newer_costwise_are_left_alone(make, raw_sql):
    make().append(CHAT, talk(1))
    raw_sql("UPDATE @memory_version SET version = 99")
    with pytest.raises(StoreVersionError, match="newer"):
        make().append(CHAT, talk(2))
    assert raw_sql("SELECT count(*) FROM @memory_messages") == [(1,)]


@pytest.mark.parametrize(
    "wrong", [{"schema": 'x"; DROP'}, {"timeout": 0}, {"connect_timeout": 1}, {"pool_size": 0}]
)
def test_arguments_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        PostgresConversations("dbname=x", **wrong)
    with pytest.raises(ConfigError, match="connection string"):
        PostgresConversations("secret password is no conninfo")
