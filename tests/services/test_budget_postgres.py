"""PostgreSQL as the place of budgets: the contract on a real server, and what only one can do."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest

from costwise_core import Budget, Budgets, PostgresBudgets, PostgresStore, Usage
from costwise_core.budget.moves import Balance, Move, Moved, Refusal
from costwise_core.errors import (
    BudgetExceededError,
    ConfigError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.testing.budgets import ENDS, BudgetStoreContract, book, hold, move, moved
from tests.services.postgres_engine import Postgres

pytestmark = pytest.mark.usefixtures("postgres_server")

SPENDER = """
import sys
from costwise_core import PostgresBudgets
from costwise_core.budget.moves import Move, Refusal
store = PostgresBudgets(sys.argv[1], schema=sys.argv[2], timeout=30)
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
def make(opened, postgres_server: Postgres, schema: str):
    def make(conninfo: str = postgres_server.conninfo, **arguments) -> PostgresBudgets:
        return opened(PostgresBudgets(conninfo, **{"schema": schema, "timeout": 30, **arguments}))

    return make


class TestPostgresBudgets(BudgetStoreContract):
    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    def make_store(self):
        return self.make()

    def reopen(self, store):
        return self.make()


def spawn(server: Postgres, schema: str, name: str, limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPENDER, server.conninfo, schema, name, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_together_share_a_limit(postgres_server, schema, make, raw_sql):
    spenders = [spawn(postgres_server, schema, str(n), 200) for n in range(4)]
    paid = [len(one.communicate()[0].split()) for one in spenders]
    assert make().balances(["a"], now=0.0) == [Balance(spent=sum(paid), held=0)]
    assert 200 - 4 * 3 < sum(paid) <= 200
    assert raw_sql("SELECT version FROM @budget_version") == [(1,)]


def test_a_killed_process_loses_nothing_and_its_hold_comes_back(postgres_server, schema, make):
    spender = spawn(postgres_server, schema, "victim", 10**9)
    written = [spender.stdout.readline() for _ in range(30)]
    spender.send_signal(signal.SIGKILL)
    written += spender.communicate()[0].splitlines()
    store = make()
    deadline = time.monotonic() + 30  # the server may still be at its last statement
    while store.balances(["a"], now=0.0) != (last := store.balances(["a"], now=0.0)):
        assert time.monotonic() < deadline
    (before,) = last
    assert before.spent - len(written) in (0, 1)
    assert store.balances(["a"], now=60.0) == [Balance(spent=before.spent, held=0)]


def test_a_killed_server_loses_nothing(postgres_server, make):
    store = make()
    assert move(store, "r1", "reserve", hold(60)) == moved(0, 60)
    assert move(store, "r1", "settle", book(20, 30)) == moved(20, 30)
    postgres_server.stop(signal.SIGQUIT)
    postgres_server.start()
    again = make()
    assert move(again, "r1", "settle", book(20, 30)).repeated
    assert again.balances(["a"], now=0.0) == [Balance(spent=20, held=30)]
    # What connection the old store has left is noticed to be dead, and not asked.
    assert move(store, "r2", "reserve", hold(51)) == Refusal(account="a", left=50)


def test_a_frozen_server_is_given_up_in_time(postgres_server, make):
    store = make(timeout=0.3)
    move(store, "r1", "reserve", hold(1))
    postgres_server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            move(store, "r2", "reserve", hold(1))
        assert time.monotonic() - started < 5
        with pytest.raises(StoreUnavailableError):
            Budgets(Budget(limit=1, unit="calls"), store=store).reserve("m", input_tokens=1)
    finally:
        postgres_server.signal(signal.SIGCONT)


def test_no_server_refuses_calls(tmp_path):
    store = PostgresBudgets(f"host={tmp_path} dbname=x")
    with pytest.raises(StoreUnavailableError):
        Budgets(Budget(limit=1, unit="calls"), store=store).reserve("m", input_tokens=1)


async def test_async_moves_are_native(make):
    store = make()
    budgets = Budgets(Budget(limit=40, unit="tokens"), store=store)

    async def one(number: int) -> bool:
        try:
            call = await budgets.areserve("m", input_tokens=2)
        except BudgetExceededError:
            return False
        await call.asettle(Usage(input_tokens=1))
        return True

    done = await asyncio.gather(*(one(n) for n in range(30)))
    account = "tokens/total/1970-01-01T00:00Z"
    assert await store.abalances([account], now=time.time()) == [Balance(spent=sum(done), held=0)]
    assert sum(done) >= 20
    assert threading.active_count() < 5
    assert await store.aforget(ended_before=0.0) == 0


def test_moves_in_both_directions_never_lock_each_other_out(make):
    store, names = make(), ["x", "y", "z"]
    errors = []

    def work(order: list[str], who: str) -> None:
        try:
            for step in range(60):
                amounts = [Move(account=n, limit=9**9, ends=ENDS, spend=1) for n in order]
                assert isinstance(move(store, who, str(step), *amounts), Moved)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(order, f"{order} {n}"))
        for n, order in enumerate([names, names[::-1], ["y", "x"], ["z", "y"]])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [one.spent for one in store.balances(names, now=0.0)] == [180, 240, 180]


def test_it_shares_a_schema_with_a_cache(postgres_server, schema, make):
    with PostgresStore(
        postgres_server.conninfo, schema=schema, timeout=10, write_timeout=30
    ) as cache:
        assert cache.get("k", "s") is None
        store = make()
        assert move(store, "r1", "reserve", hold(1)) == moved(0, 1)
        assert cache.get("k", "s") is None


def test_tables_of_a_newer_costwise_are_left_alone(make, raw_sql):
    move(make(), "r1", "reserve", hold(1))
    raw_sql("UPDATE @budget_version SET version = 99")
    with pytest.raises(StoreVersionError, match="newer"):
        move(make(), "r2", "reserve", hold(1))
    assert raw_sql("SELECT count(*) FROM @budget_holds") == [(1,)]


def test_tables_of_somebody_else_are_left_alone(make, raw_sql, schema):
    raw_sql(f"CREATE SCHEMA {schema}")
    raw_sql("CREATE TABLE @budget_accounts (mine text)")
    with pytest.raises(StoreVersionError, match="not written by this kind of store"):
        move(make(), "r1", "reserve", hold(1))


def test_a_role_that_may_not(make, postgres_server, schema):
    postgres_server.sql(f"CREATE ROLE {schema}_guest LOGIN")
    store = make(conninfo=f"{postgres_server.conninfo} user={schema}_guest")
    with pytest.raises(StoreUnavailableError, match="permission denied"):
        move(store, "r1", "reserve", hold(1))
    postgres_server.sql(f"DROP ROLE {schema}_guest")


def test_nothing_piles_up(make, raw_sql):
    store = make()
    for number in range(100):
        made = store.move(f"r{number}", "hold", [hold(1)], now=float(number), expires=number + 10.0)
        assert isinstance(made, Moved)
    assert raw_sql("SELECT count(*) FROM @budget_operations") == [(10,)]
    assert raw_sql("SELECT count(*) FROM @budget_holds") == [(10,)]


@pytest.mark.parametrize(
    "wrong",
    [{"schema": 'x"; DROP'}, {"timeout": 0}, {"connect_timeout": 1}],
)
def test_arguments_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        PostgresBudgets("dbname=x", **wrong)
    with pytest.raises(ConfigError, match="connection string"):
        PostgresBudgets("secret password is no conninfo")
