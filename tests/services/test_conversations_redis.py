"""Redis as the place of conversations: the contract on a real server, and what only one can do."""

import signal
import time

import pytest

from costwise_core import Conversation, RedisConversations, RedisStore, Summary
from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.testing.conversations import CHAT, say, talk
from tests.services.redis_engine import RedisEngine
from tests.services.served_conversations import ServedConversations, spawning


@pytest.fixture
def make(opened, redis_server: RedisEngine, prefix: str):
    def make(url: str = redis_server.url, **arguments) -> RedisConversations:
        return opened(RedisConversations(url, **{"prefix": prefix, "timeout": 30, **arguments}))

    return make


@pytest.fixture
def spawn(redis_server: RedisEngine, prefix: str):
    return spawning("RedisConversations", redis_server.url, prefix=prefix)


class TestRedisConversations(ServedConversations):
    def make_store(self, clock, ttl=None):
        return self.make(ttl=ttl)

    def reopen(self, store):
        return self.make()

    def pass_time(self, clock, seconds):
        time.sleep(seconds)

    def now(self, clock):
        return time.time()

    async def end(self, store):
        await store.aclose()


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


def test_expired_conversations_are_cleared_away(make, raw_redis, prefix):
    store = make(ttl=0.3)
    for number in range(20):
        store.append(Conversation(id=str(number)), talk(3))
    time.sleep(0.5)
    lasting = make()
    for _ in range(3):
        lasting.append(CHAT, talk(1))
    assert (
        raw_redis.zcard(f"{prefix}:memory:names") == raw_redis.zcard(f"{prefix}:memory:used") == 1
    )
    assert raw_redis.zcard(f"{prefix}:memory:ends") == 0
    assert len(raw_redis.keys(f"{prefix}:memory:c:*")) == 1


def test_nothing_of_a_deleted_user_is_left(make, raw_redis, prefix):
    store = make(ttl=60.0)
    store.append(CHAT, talk(40))
    store.replace(CHAT, Summary(text="secret", folded=3), version=0)
    store.acquire(CHAT.key, "me", 60)
    store.delete(tenant="acme", user="ann")
    assert raw_redis.keys(f"{prefix}:*") == [f"{prefix}:memory:schema".encode()]


def test_long_messages_come_in_pages(make):
    said = [say("x" * 900_000, id=str(number)) for number in range(12)]
    store = make()
    for message in said:
        store.append(CHAT, [message])
    assert store.messages(CHAT) == said


def test_damaged_rows_are_passed_over_and_counted(make, raw_redis, prefix):
    store = make()
    store.append(CHAT, talk(5))
    store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    (key,) = raw_redis.keys(f"{prefix}:memory:c:*")
    raw_redis.hset(key, "1", "{}")
    raw_redis.hdel(key, "2")
    raw_redis.hset(key, "3", "x" * 1_000_001)
    raw_redis.hset(key, "s", b"\x00")
    assert store.messages(CHAT) == [talk(5)[0], talk(5)[4]]
    assert store.messages(CHAT, start=4) == talk(1, start=4)
    assert store.append(CHAT, talk(6)) == 6
    assert store.summary(CHAT) == Summary(version=1)
    assert store.damaged == 4
    assert store.replace(CHAT, Summary(text="Anew.", folded=3), version=1)
    raw_redis.hset(key, "c", '{"id": "another"}')
    assert list(store.conversations()) == []
    assert store.damaged == 5


def test_it_shares_a_prefix_with_a_cache(redis_server, prefix, make):
    with RedisStore(redis_server.url, prefix=prefix, timeout=10) as cache:
        assert cache.acquire("fold", "cache", 60)
        store = make()
        assert store.append(CHAT, talk(1)) == 1
        assert store.acquire("fold", "memory", 60)
        assert cache.get("k", "s") is None


@pytest.mark.parametrize(("version", "match"), [("2", "newer costwise"), ("x", "not costwise's")])
def test_keys_of_others_are_left_alone(make, raw_redis, prefix, version, match):
    raw_redis.set(f"{prefix}:memory:schema", version)
    with pytest.raises(StoreVersionError, match=match):
        make().append(CHAT, talk(1))
    with pytest.raises(StoreVersionError, match=match):
        make().messages(CHAT)
    assert raw_redis.keys(f"{prefix}:*") == [f"{prefix}:memory:schema".encode()]


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
