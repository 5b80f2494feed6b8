"""Every budget store keeps the same contract; those on servers are in tests/services."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from costwise_core import Budget, Budgets, MemoryBudgets, SQLiteBudgets
from costwise_core.budget.moves import Balance, Move, Moved, Refusal
from costwise_core.errors import ConfigError, StoreUnavailableError, StoreVersionError
from costwise_core.testing.budgets import BudgetStoreContract, hold, move

# Holds and settles until it is refused or killed, and writes down each unit that it has booked.
SPENDER = """
import sys
from costwise_core import SQLiteBudgets
from costwise_core.budget.moves import Move, Refusal
store = SQLiteBudgets(sys.argv[1], busy_timeout=30)
def one(**amounts):
    return [Move(account="a", limit=int(sys.argv[3]), ends=9e9, **amounts)]
for number in range(10**6):
    ident = f"{sys.argv[2]} {number}"
    if isinstance(store.move(ident, "reserve", one(hold=3), now=0.0, expires=60.0), Refusal):
        break
    store.move(ident, "settle", one(hold=-3, spend=1), now=0.0, expires=60.0)
    print(number, flush=True)
"""


class TestMemoryBudgets(BudgetStoreContract):
    def make_store(self):
        return MemoryBudgets()


class TestSQLiteBudgets(BudgetStoreContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path):
        self.path = tmp_path / "budgets.db"
        self.opened: list[SQLiteBudgets] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self):
        self.opened.append(SQLiteBudgets(self.path, busy_timeout=30))
        return self.opened[-1]

    def reopen(self, store):
        return self.make_store()


def spawn(path: Path, name: str, limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPENDER, str(path), name, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_a_file_and_its_limit(tmp_path):
    spenders = [spawn(tmp_path / "b.db", str(n), 300) for n in range(4)]
    paid = [len(one.communicate()[0].split()) for one in spenders]
    with SQLiteBudgets(tmp_path / "b.db") as store:
        assert store.balances(["a"], now=0.0) == [Balance(spent=sum(paid), held=0)]
    assert 300 - 4 * 3 < sum(paid) <= 300


def test_a_killed_process_loses_nothing_and_its_hold_comes_back(tmp_path):
    path = tmp_path / "b.db"
    spender = spawn(path, "victim", 10**9)
    written = [spender.stdout.readline() for _ in range(50)]
    spender.send_signal(signal.SIGKILL)
    written += spender.communicate()[0].splitlines()
    with SQLiteBudgets(path) as store:
        (before,) = store.balances(["a"], now=0.0)
        assert before.spent - len(written) in (0, 1)  # booked, but not written down yet
        assert before.held in (0, 3)
        assert store.balances(["a"], now=60.0) == [Balance(spent=before.spent, held=0)]


def test_a_forked_child_does_not_disturb_its_parent(tmp_path):
    with SQLiteBudgets(tmp_path / "b.db") as store:
        move(store, "parent", "reserve", hold(10))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if isinstance(move(store, "child", "reserve", hold(20)), Moved) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert move(store, "parent", "again", hold(5)).balances == (Balance(spent=0, held=35),)


def test_a_locked_file_is_given_up_in_time_and_nothing_was_held(tmp_path):
    import sqlite3

    with SQLiteBudgets(tmp_path / "b.db", busy_timeout=0.1) as store:
        move(store, "r1", "reserve", hold(1))
        other = sqlite3.connect(tmp_path / "b.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="locked"):
            move(store, "r2", "reserve", hold(1))
        assert time.monotonic() - started < 5
        with pytest.raises(StoreUnavailableError):
            Budgets(Budget(limit=1, unit="calls"), store=store).reserve("m", input_tokens=1)
        other.execute("ROLLBACK")
        other.close()
        assert move(store, "r2", "reserve", hold(1)).balances == (Balance(spent=0, held=2),)


def test_files_of_others_are_left_alone(tmp_path):
    from costwise_core import SQLiteLedger

    with SQLiteLedger(tmp_path / "l.db") as ledger:
        assert list(ledger.records()) == []
    with pytest.raises(StoreVersionError), SQLiteBudgets(tmp_path / "l.db") as store:
        move(store, "r1", "reserve", hold(1))
    import sqlite3

    with SQLiteBudgets(tmp_path / "b.db") as store:
        move(store, "r1", "reserve", hold(1))
    newer = sqlite3.connect(tmp_path / "b.db")
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(StoreVersionError, match="newer"), SQLiteBudgets(tmp_path / "b.db") as store:
        move(store, "r1", "reserve", hold(1))


@pytest.mark.parametrize("wrong", [{"path": ":memory:"}, {"path": ""}, {"busy_timeout": -1}])
def test_arguments_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(ConfigError):
        SQLiteBudgets(**{"path": tmp_path / "b.db", **wrong})


@pytest.mark.parametrize("amount", [1.0, "1", 10**24 + 1, None])
def test_amounts_that_make_no_sense(amount):
    for field in ("limit", "hold", "spend"):
        with pytest.raises(ConfigError, match="whole number"):
            Move(**{"account": "a", "limit": 1, "ends": 1.0, field: amount})


def test_nothing_piles_up(tmp_path):
    import sqlite3

    memory = MemoryBudgets()
    with SQLiteBudgets(tmp_path / "b.db") as store:
        for number in range(300):
            for one in (memory, store):
                made = one.move(
                    f"r{number}", "hold", [hold(1)], now=float(number), expires=number + 10.0
                )
                assert isinstance(made, Moved)
    assert len(memory._done) == len(memory._ending) == len(memory._accounts["a"].holds) == 10
    file = sqlite3.connect(tmp_path / "b.db")
    for table in ("operations", "holds"):
        assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (10,)
    file.close()


def test_a_refusal_is_quick_however_many_wait(tmp_path):
    with SQLiteBudgets(tmp_path / "b.db", busy_timeout=30) as store:
        move(store, "r1", "reserve", hold(100))
        threads = [
            threading.Thread(target=lambda n=n: found.append(move(store, f"w{n}", "r", hold(1))))
            for n in range(64)
        ]
        found: list = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [Refusal(account="a", left=0)] * 64
