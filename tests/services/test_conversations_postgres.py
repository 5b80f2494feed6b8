"""PostgreSQL as the place of conversations: the contract on a real server, and what only it has."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from costwise_core import Conversation, PostgresConversations, PostgresStore, Summary
from costwise_core.errors import ConfigError, StoreUnavailableError, StoreVersionError
from costwise_core.testing.conversations import CHAT, ConversationStoreContract, talk
from tests.services.postgres_engine import Postgres, postgres

numbers = itertools.count()

WRITER = """
import sys
from costwise_core import Conversation, Message, PostgresConversations
store = PostgresConversations(sys.argv[1], schema=sys.argv[2], timeout=30)
chat = Conversation(id="1", tenant="acme", user="ann")
for number in range(int(sys.argv[4])):
    ident = f"{sys.argv[3]} {number}"
    store.append(chat, [Message(role="user", text=ident, id=ident)])
    print(ident, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def server():
    with postgres() as server:
        yield server


@pytest.fixture
def schema(server: Postgres):
    schema = f"test_{next(numbers)}"
    yield schema
    server.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def make(server: Postgres, schema: str):
    made = []

    def make(**arguments) -> PostgresConversations:
        arguments = {"schema": schema, "timeout": 30, **arguments}
        conninfo = arguments.pop("conninfo", server.conninfo)
        made.append(PostgresConversations(conninfo, **arguments))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def raw(server: Postgres, schema: str):
    return lambda statement, *values: server.sql(statement.replace("@", f"{schema}."), *values)


class TestPostgresConversations(ConversationStoreContract):
    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    def make_store(self, clock, ttl=None):
        self.clock = clock
        return self.make(clock=clock, ttl=ttl)

    def reopen(self, store):
        return self.make_store(self.clock)


def spawn(server: Postgres, schema: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, server.conninfo, schema, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_together_write_one_conversation(server, schema, make, raw):
    writers = [spawn(server, schema, str(n), 60) for n in range(3)]
    written = [one.communicate()[0].splitlines() for one in writers]
    ids = [message.id for message in make().messages(CHAT)]
    assert [[i for i in ids if i.startswith(f"{n} ")] for n in range(3)] == written
    assert len(ids) == 180
    assert raw("SELECT version FROM @memory_version") == [(1,)]


def test_a_killed_process_loses_nothing_that_was_acknowledged(server, schema, make):
    writer = spawn(server, schema, "victim", 10**6)
    written = [writer.stdout.readline().strip() for _ in range(30)]
    writer.send_signal(signal.SIGKILL)
    written += writer.communicate()[0].splitlines()
    ids = [message.id for message in make().messages(CHAT)]
    assert ids[: len(written)] == written
    assert len(ids) - len(written) in (0, 1)  # written, but not told of yet


def test_a_killed_server_loses_nothing(server, make):
    store = make()
    store.append(CHAT, talk(5))
    assert store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    server.stop(signal.SIGQUIT)
    server.start()
    # What connection the old store has left is noticed to be dead, and not asked.
    assert store.messages(CHAT) == talk(5)
    assert make().summary(CHAT) == Summary(text="So far.", folded=3, version=1)
    assert store.append(CHAT, talk(6)) == 6


def test_a_frozen_server_is_given_up_in_time(server, make):
    store = make(timeout=0.3)
    store.append(CHAT, talk(1))
    server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.append(CHAT, talk(2))
        assert time.monotonic() - started < 5
    finally:
        server.signal(signal.SIGCONT)


async def test_async_calls_are_native(make):
    store = make()
    threads = threading.active_count()
    assert await store.aappend(CHAT, talk(3)) == 3
    assert await store.amessages(CHAT, start=1) == talk(2, start=1)
    assert await store.areplace(CHAT, Summary(folded=1), version=0)
    assert await store.asummary(CHAT) == Summary(folded=1, version=1)
    assert await store.aacquire("x", "me", 5)
    await store.arelease("x", "me")
    assert await store.adelete(tenant="acme", user="ann") == 1
    assert threading.active_count() == threads


def test_the_server_has_the_clock(make):
    store = make(ttl=1.5)
    store.append(CHAT, talk(1))
    assert list(store.conversations(unused_since=time.time() - 60)) == []
    assert list(store.conversations(unused_since=time.time() + 60)) == [CHAT]
    time.sleep(1.6)
    assert store.messages(CHAT) == []


def test_expired_conversations_are_cleared_away(make, raw):
    now = 1_000.0
    store = make(ttl=10.0, clock=lambda: now)
    for number in range(20):
        store.append(Conversation(id=str(number)), talk(3))
    now = 2_000.0
    for _ in range(3):
        store.append(CHAT, talk(1))
    assert raw("SELECT count(*) FROM @memory_conversations") == [(1,)]
    assert raw("SELECT count(*) FROM @memory_messages") == [(1,)]


def test_nothing_of_a_deleted_user_is_left(make, raw):
    store = make()
    store.append(CHAT, talk(40))
    store.replace(CHAT, Summary(text="secret", folded=3), version=0)
    store.acquire(CHAT.key, "me", 60)
    store.delete(tenant="acme", user="ann")
    for table in ("conversations", "messages", "leases"):
        assert raw(f"SELECT count(*) FROM @memory_{table}") == [(0,)]


def test_the_end_of_a_conversation_is_read_by_its_index(make, raw):
    make().append(CHAT, talk(5_000))
    raw("ANALYZE @memory_messages")
    plan = "\n".join(
        line
        for (line,) in raw(
            "EXPLAIN SELECT body FROM @memory_conversations c JOIN @memory_messages m "
            "ON m.conversation = c.key WHERE c.key = %s AND place >= 4990 ORDER BY place LIMIT 99",
            bytes.fromhex(CHAT.key),
        )
    )
    assert "memory_messages_pkey" in plan
    assert "Seq Scan on memory_messages" not in plan


def test_damaged_rows_are_passed_over_and_counted(make, raw):
    store = make()
    store.append(CHAT, talk(5))
    store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    raw(r"UPDATE @memory_messages SET body = '\x7b7d' WHERE place = 1")
    raw(r"UPDATE @memory_conversations SET summary = '\x00', names = '{}'")
    assert store.messages(CHAT) == [talk(5)[n] for n in (0, 2, 3, 4)]
    assert store.messages(CHAT, start=3) == talk(2, start=3)
    assert store.append(CHAT, talk(6)) == 6
    assert store.summary(CHAT) == Summary(version=1)
    assert list(store.conversations()) == [CHAT]  # the append has mended its names
    assert store.damaged == 2
    assert store.replace(CHAT, Summary(text="Anew.", folded=3), version=1)


def test_a_forked_child_does_not_disturb_its_parent(make):
    store = make()
    store.append(CHAT, talk(1))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if store.append(CHAT, talk(2)) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.append(CHAT, talk(3)) == 3


def test_it_shares_a_schema_with_a_cache(server, schema, make):
    with PostgresStore(server.conninfo, schema=schema, timeout=10, write_timeout=30) as cache:
        assert cache.acquire("fold", "cache", 60)
        store = make()
        assert store.append(CHAT, talk(1)) == 1
        assert store.acquire("fold", "memory", 60)
        assert cache.get("k", "s") is None


def test_tables_of_a_newer_costwise_are_left_alone(make, raw):
    make().append(CHAT, talk(1))
    raw("UPDATE @memory_version SET version = 99")
    with pytest.raises(StoreVersionError, match="newer"):
        make().append(CHAT, talk(2))
    assert raw("SELECT count(*) FROM @memory_messages") == [(1,)]


@pytest.mark.parametrize(
    "wrong", [{"schema": 'x"; DROP'}, {"timeout": 0}, {"connect_timeout": 1}, {"pool_size": 0}]
)
def test_arguments_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        PostgresConversations("dbname=x", **wrong)
    with pytest.raises(ConfigError, match="connection string"):
        PostgresConversations("secret password is no conninfo")
