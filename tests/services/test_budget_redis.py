"""Redis as the place of budgets: the contract on a real server, and what only one can do."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from costwise_core import Budget, Budgets, RedisBudgets, RedisStore, Usage
from costwise_core.budget.moves import Balance, Moved
from costwise_core.errors import (
    BudgetExceededError,
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.testing.budgets import NOW, BudgetStoreContract, book, hold, move, moved
from tests.services.redis_engine import RedisEngine

SPENDER = """
import sys
from costwise_core import RedisBudgets
from costwise_core.budget.moves import Move, Refusal
store = RedisBudgets(sys.argv[1], prefix=sys.argv[2], timeout=30)
def one(**amounts):
    return [Move(account="a", limit=int(sys.argv[4]), ends=9e9, **amounts)]
for number in range(10**6):
    ident = f"{sys.argv[3]} {number}"
    if isinstance(store.move(ident, "reserve", one(hold=3), now=0.0, expires=60.0), Refusal):
        break
    store.move(ident, "settle", one(hold=-3, spend=1), now=0.0, expires=60.0)
    print(number, flush=True)
"""


@pytest.fixture
def make(opened, redis_server: RedisEngine, prefix: str):
    def make(url: str = redis_server.url, **arguments) -> RedisBudgets:
        return opened(RedisBudgets(url, **{"prefix": prefix, "timeout": 30, **arguments}))

    return make


class TestRedisBudgets(BudgetStoreContract):
    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    def make_store(self):
        return self.make()

    def reopen(self, store):
        return self.make()


def spawn(server: RedisEngine, prefix: str, name: str, limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPENDER, server.url, prefix, name, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_a_limit(redis_server, prefix, make):
    spenders = [spawn(redis_server, prefix, str(n), 200) for n in range(4)]
    paid = [len(one.communicate()[0].split()) for one in spenders]
    assert make().balances(["a"], now=0.0) == [Balance(spent=sum(paid), held=0)]
    assert 200 - 4 * 3 < sum(paid) <= 200


def test_a_killed_process_loses_nothing_and_its_hold_comes_back(redis_server, prefix, make):
    spender = spawn(redis_server, prefix, "victim", 10**9)
    written = [spender.stdout.readline() for _ in range(30)]
    spender.send_signal(signal.SIGKILL)
    written += spender.communicate()[0].splitlines()
    (before,) = make().balances(["a"], now=0.0)
    assert before.spent - len(written) in (0, 1)
    assert before.held in (0, 3)
    assert make().balances(["a"], now=60.0) == [Balance(spent=before.spent, held=0)]


def test_a_killed_server_loses_nothing(mortal, make):
    store = make(mortal.url)
    assert move(store, "r1", "reserve", hold(60)) == moved(0, 60)
    assert move(store, "r1", "settle", book(20, 30)) == moved(20, 30)
    mortal.end(signal.SIGKILL)
    with pytest.raises(StoreUnavailableError):
        move(store, "r2", "reserve", hold(1))
    mortal.start()
    again = make(mortal.url)
    assert move(again, "r1", "settle", book(20, 30)) == Moved(
        balances=(Balance(spent=20, held=30),), repeated=True
    )
    assert again.balances(["a"], now=NOW) == [Balance(spent=20, held=30)]


def test_a_frozen_server_is_given_up_in_time(mortal, make):
    store = make(mortal.url, timeout=0.3)
    move(store, "r1", "reserve", hold(1))
    with mortal.stalled():
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            move(store, "r2", "reserve", hold(1))
        with pytest.raises(StoreUnavailableError):
            Budgets(Budget(limit=1, unit="calls"), store=store).reserve("m", input_tokens=1)
        assert time.monotonic() - started < 5


def test_a_server_that_would_forget_is_refused(mortal, make):
    import redis

    with redis.Redis.from_url(mortal.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreError, match="allkeys-lru"):
            move(make(mortal.url), "r1", "reserve", hold(1))
        client.config_set("maxmemory-policy", "volatile-lru")
        assert move(make(mortal.url), "r1", "reserve", hold(1)) == moved(0, 1)


def test_a_full_server_refuses_calls(mortal, make):
    import redis

    store = make(mortal.url)
    move(store, "r1", "reserve", hold(1))
    with redis.Redis.from_url(mortal.url) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError):
            move(store, "r2", "reserve", hold(1))
        client.config_set("maxmemory", "0")
    assert move(store, "r2", "reserve", hold(1)) == moved(0, 2)


async def test_async_moves_are_native(make):
    store = make()
    budgets = Budgets(Budget(limit=40, unit="tokens"), store=store)

    async def one() -> bool:
        try:
            call = await budgets.areserve("m", input_tokens=2)
        except BudgetExceededError:
            return False
        await call.asettle(Usage(input_tokens=1))
        return True

    threads = threading.active_count()
    done = await asyncio.gather(*(one() for _ in range(30)))
    account = "tokens/total/1970-01-01T00:00Z"
    assert await store.abalances([account], now=time.time()) == [Balance(spent=sum(done), held=0)]
    assert sum(done) >= 20
    assert threading.active_count() == threads
    assert await store.aforget(ended_before=0.0) == 0
    await store.aclose()


def test_a_forked_child_does_not_disturb_its_parent(make):
    store = make()
    move(store, "parent", "reserve", hold(10))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if isinstance(move(store, "child", "reserve", hold(20)), Moved) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert move(store, "parent", "again", hold(5)) == moved(0, 35)


def test_it_shares_a_prefix_with_a_cache(redis_server, prefix, make):
    with RedisStore(redis_server.url, prefix=prefix, timeout=10) as cache:
        assert cache.get("k", "s") is None
        assert move(make(), "r1", "reserve", hold(1)) == moved(0, 1)
        assert cache.get("k", "s") is None


@pytest.mark.parametrize(("version", "match"), [("2", "newer costwise"), ("x", "not costwise's")])
def test_keys_of_others_are_left_alone(make, raw_redis, prefix, version, match):
    raw_redis.set(f"{prefix}:budget:schema", version)
    with pytest.raises(StoreVersionError, match=match):
        move(make(), "r1", "reserve", hold(1))
    with pytest.raises(StoreVersionError, match=match):
        make().balances(["a"], now=NOW)
    assert raw_redis.keys(f"{prefix}:*") == [f"{prefix}:budget:schema".encode()]


def test_a_damaged_account_refuses_calls(make, raw_redis, prefix):
    """Fail closed: nobody knows what was spent."""
    store = make()
    move(store, "r1", "reserve", hold(1))
    (key,) = raw_redis.keys(f"{prefix}:budget:a:*")
    raw_redis.hset(key, "sh", "plenty")
    with pytest.raises(StoreError):
        move(store, "r2", "reserve", hold(1))


def test_nothing_piles_up(make, raw_redis, prefix):
    store = make()
    for number in range(100):
        made = store.move(f"r{number}", "hold", [hold(1)], now=float(number), expires=number + 10.0)
        assert isinstance(made, Moved)
    assert raw_redis.zcard(f"{prefix}:budget:operations") == 10
    (account,) = raw_redis.keys(f"{prefix}:budget:a:*")
    (expiring,) = raw_redis.keys(f"{prefix}:budget:x:*")
    assert raw_redis.hlen(account) == 4 + 10
    assert raw_redis.zcard(expiring) == 10
    assert store.forget(ended_before=9e9) == 1
    names = {f"{prefix}:budget:operations".encode(), f"{prefix}:budget:schema".encode()}
    assert set(raw_redis.keys(f"{prefix}:*")) == names


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("localhost:6379", {}),
        ("redis://localhost", {"prefix": "a b"}),
        ("redis://localhost", {"prefix": ""}),
        ("redis://localhost", {"timeout": 0}),
    ],
)
def test_arguments_that_make_no_sense(url, wrong):
    with pytest.raises(ConfigError):
        RedisBudgets(url, **wrong)
