"""Redis as the place of conversations: the contract on a real server, and what only one can do."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from costwise_core import Conversation, RedisConversations, RedisStore, Summary
from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.testing.conversations import CHAT, ConversationStoreContract, say, talk
from tests.services.redis_engine import RedisEngine, redis_engine

numbers = itertools.count()

WRITER = """
import sys
from costwise_core import Conversation, Message, RedisConversations
store = RedisConversations(sys.argv[1], prefix=sys.argv[2], timeout=30)
chat = Conversation(id="1", tenant="acme", user="ann")
for number in range(int(sys.argv[4])):
    ident = f"{sys.argv[3]} {number}"
    store.append(chat, [Message(role="user", text=ident, id=ident)])
    print(ident, flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_engine(tmp_path_factory.mktemp("redis")) as engine:
        yield engine


@pytest.fixture
def mortal(tmp_path):
    """A server that a test may kill, freeze or fill; it needs no query engine."""
    with redis_engine(tmp_path, search=False) as engine:
        yield engine


@pytest.fixture
def prefix():
    return f"test{next(numbers)}"


@pytest.fixture
def make(server: RedisEngine, prefix: str):
    made = []

    def make(url: str = server.url, **arguments) -> RedisConversations:
        made.append(RedisConversations(url, **{"prefix": prefix, "timeout": 30, **arguments}))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def raw(server: RedisEngine):
    import redis

    with redis.Redis.from_url(server.url) as client:
        yield client


class TestRedisConversations(ConversationStoreContract):
    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    def make_store(self, clock, ttl=None):
        return self.make(ttl=ttl)

    def reopen(self, store):
        return self.make()

    def pass_time(self, clock, seconds):
        time.sleep(seconds)

    def now(self, clock):
        return time.time()


def spawn(server: RedisEngine, prefix: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, server.url, prefix, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_write_one_conversation(server, prefix, make):
    writers = [spawn(server, prefix, str(n), 60) for n in range(3)]
    written = [one.communicate()[0].splitlines() for one in writers]
    ids = [message.id for message in make().messages(CHAT)]
    assert [[i for i in ids if i.startswith(f"{n} ")] for n in range(3)] == written
    assert len(ids) == 180


def test_a_killed_process_loses_nothing_that_was_acknowledged(server, prefix, make):
    writer = spawn(server, prefix, "victim", 10**6)
    written = [writer.stdout.readline().strip() for _ in range(30)]
    writer.send_signal(signal.SIGKILL)
    written += writer.communicate()[0].splitlines()
    ids = [message.id for message in make().messages(CHAT)]
    assert ids[: len(written)] == written
    assert len(ids) - len(written) in (0, 1)  # written, but not told of yet


def test_a_killed_server_loses_nothing(mortal, make):
    store = make(mortal.url)
    store.append(CHAT, talk(5))
    assert store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    mortal.end(signal.SIGKILL)
    with pytest.raises(StoreUnavailableError):
        store.append(CHAT, talk(6))
    mortal.start()
    again = make(mortal.url)
    assert again.messages(CHAT) == talk(5)
    assert again.summary(CHAT) == Summary(text="So far.", folded=3, version=1)


def test_a_frozen_server_is_given_up_in_time(mortal, make):
    store = make(mortal.url, timeout=0.3)
    store.append(CHAT, talk(1))
    with mortal.stalled():
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.append(CHAT, talk(2))
        assert time.monotonic() - started < 5


def test_a_server_that_would_forget_is_refused(mortal, make):
    import redis

    with redis.Redis.from_url(mortal.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreError, match="allkeys-lru"):
            make(mortal.url).append(CHAT, talk(1))
        client.config_set("maxmemory-policy", "volatile-lru")
        with pytest.raises(StoreError, match="volatile-lru"):
            make(mortal.url, ttl=60.0).append(CHAT, talk(1))
        assert make(mortal.url).append(CHAT, talk(1)) == 1
        client.config_set("maxmemory-policy", "noeviction")
        assert make(mortal.url, ttl=60.0).append(CHAT, talk(2)) == 2


def test_a_full_server_refuses_appends_as_a_whole(mortal, make):
    import redis

    store = make(mortal.url)
    store.append(CHAT, talk(1))
    with redis.Redis.from_url(mortal.url) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError):
            store.append(CHAT, talk(5))
        assert store.messages(CHAT) == talk(1)
        client.config_set("maxmemory", "0")
    assert store.append(CHAT, talk(5)) == 5


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
    await store.aclose()


def test_expired_conversations_are_cleared_away(make, raw, prefix):
    store = make(ttl=0.3)
    for number in range(20):
        store.append(Conversation(id=str(number)), talk(3))
    time.sleep(0.5)
    lasting = make()
    for _ in range(3):
        lasting.append(CHAT, talk(1))
    assert raw.zcard(f"{prefix}:memory:names") == raw.zcard(f"{prefix}:memory:used") == 1
    assert raw.zcard(f"{prefix}:memory:ends") == 0
    assert len(raw.keys(f"{prefix}:memory:c:*")) == 1


def test_nothing_of_a_deleted_user_is_left(make, raw, prefix):
    store = make(ttl=60.0)
    store.append(CHAT, talk(40))
    store.replace(CHAT, Summary(text="secret", folded=3), version=0)
    store.acquire(CHAT.key, "me", 60)
    store.delete(tenant="acme", user="ann")
    assert raw.keys(f"{prefix}:*") == [f"{prefix}:memory:schema".encode()]


def test_long_messages_come_in_pages(make):
    said = [say("x" * 900_000, id=str(number)) for number in range(12)]
    store = make()
    for message in said:
        store.append(CHAT, [message])
    assert store.messages(CHAT) == said


def test_damaged_rows_are_passed_over_and_counted(make, raw, prefix):
    store = make()
    store.append(CHAT, talk(5))
    store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    (key,) = raw.keys(f"{prefix}:memory:c:*")
    raw.hset(key, "1", "{}")
    raw.hdel(key, "2")
    raw.hset(key, "3", "x" * 1_000_001)
    raw.hset(key, "s", b"\x00")
    assert store.messages(CHAT) == [talk(5)[0], talk(5)[4]]
    assert store.messages(CHAT, start=4) == talk(1, start=4)
    assert store.append(CHAT, talk(6)) == 6
    assert store.summary(CHAT) == Summary(version=1)
    assert store.damaged == 4
    assert store.replace(CHAT, Summary(text="Anew.", folded=3), version=1)
    raw.hset(key, "c", '{"id": "another"}')
    assert list(store.conversations()) == []
    assert store.damaged == 5


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


def test_it_shares_a_prefix_with_a_cache(server, prefix, make):
    with RedisStore(server.url, prefix=prefix, timeout=10) as cache:
        assert cache.acquire("fold", "cache", 60)
        store = make()
        assert store.append(CHAT, talk(1)) == 1
        assert store.acquire("fold", "memory", 60)
        assert cache.get("k", "s") is None


@pytest.mark.parametrize(("version", "match"), [("2", "newer costwise"), ("x", "not costwise's")])
def test_keys_of_others_are_left_alone(make, raw, prefix, version, match):
    raw.set(f"{prefix}:memory:schema", version)
    with pytest.raises(StoreVersionError, match=match):
        make().append(CHAT, talk(1))
    with pytest.raises(StoreVersionError, match=match):
        make().messages(CHAT)
    assert raw.keys(f"{prefix}:*") == [f"{prefix}:memory:schema".encode()]


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("localhost:6379", {}),
        ("redis://localhost", {"prefix": "a b"}),
        ("redis://localhost", {"timeout": 0}),
        ("redis://localhost", {"ttl": 0}),
    ],
)
def test_arguments_that_make_no_sense(url, wrong):
    with pytest.raises(ConfigError):
        RedisConversations(url, **wrong)
