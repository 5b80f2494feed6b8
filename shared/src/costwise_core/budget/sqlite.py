"""Budgets in one SQLite file, for several threads and processes of one machine."""

import os
import sqlite3
from collections.abc import Sequence
from typing import Final

from costwise_core.budget.moves import Balance, Move, Moved, Refusal, digest, refusal
from costwise_core.budget.together import Answer, Ask, Together
from costwise_core.stores.sqlite_file import SQLiteFile, check_file

__all__ = ["SQLiteBudgets"]

_APPLICATION_ID: Final = 0x43575342
_MAX_VALUE_BYTES: Final = 10_000
_SCHEMA: Final = (
    # Amounts are decimal digits, because SQLite's own integers end at nine million dollars. `held`
    # is the sum of the account's holds, expired or not, so that no move reads them all.
    """
    CREATE TABLE accounts (
        account BLOB PRIMARY KEY,
        spent TEXT NOT NULL,
        held TEXT NOT NULL,
        ends REAL NOT NULL
    ) WITHOUT ROWID;;
    CREATE INDEX accounts_ends ON accounts (ends);;
    CREATE TABLE holds (
        account BLOB NOT NULL,
        reservation BLOB NOT NULL,
        amount TEXT NOT NULL,
        expires REAL NOT NULL,
        PRIMARY KEY (account, reservation)
    ) WITHOUT ROWID;;
    CREATE INDEX holds_expires ON holds (account, expires);;
    CREATE TABLE operations (name BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;;
    CREATE INDEX operations_until ON operations (until)
    """,
)


class SQLiteBudgets:
    """Keeps what budgets have spent and hold in a file that threads and processes share.

    The constructor opens nothing; the file is made by the first use. `move` returns once a
    `kill -9` can no longer undo it. A power cut may undo the moves of the last moments.

    Args:
        path: The file; made with mode 0600. It must lie on a disk of this machine.
        busy_timeout: Seconds a move waits for another process's lock before it gives up.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import tempfile
        >>> move = Move(account="a", limit=10, ends=60.0, hold=8)
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteBudgets(f"{folder}/b.db") as store:
        ...     store.move("r1", "reserve", [move], now=0.0, expires=30.0).balances
        ...     store.move("r2", "reserve", [move], now=0.0, expires=30.0).left
        (Balance(spent=0, held=8),)
        2
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 5.0) -> None:
        self.path = check_file(path, busy_timeout, instead="MemoryBudgets()")
        self._file = SQLiteFile(
            self.path,
            application_id=_APPLICATION_ID,
            schema=_SCHEMA,
            busy_timeout=busy_timeout,
            max_value_bytes=_MAX_VALUE_BYTES,
        )
        self._together = Together(self._many)

    def move(
        self,
        reservation: str,
        operation: str,
        moves: Sequence[Move],
        *,
        now: float,
        expires: float,
    ) -> Moved | Refusal:
        """Make all the moves or none; see `BudgetStore.move`.

        Raises:
            StoreError: if the file cannot be used; no move was made then.
        """
        return self._together.move(Ask(reservation, operation, moves, now, expires))

    def _many(self, asks: Sequence[Ask]) -> list[Answer]:
        with self._file.writing() as db:
            return [_move(db, *ask) for ask in asks]

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds; see `BudgetStore.balances`.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._file.reading() as db:
            return _balances(db, accounts, now)

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window is over; see `BudgetStore.forget`.

        Raises:
            StoreError: if the file cannot be used; none was deleted then.
        """
        with self._file.writing() as db:
            db.execute(
                "DELETE FROM holds WHERE account IN (SELECT account FROM accounts WHERE ends <= ?)",
                (ended_before,),
            )
            return db.execute("DELETE FROM accounts WHERE ends <= ?", (ended_before,)).rowcount

    def close(self) -> None:
        """Close the file; using the store again opens it again."""
        self._file.close()

    def __enter__(self) -> "SQLiteBudgets":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _move(
    db: sqlite3.Connection,
    reservation: str,
    operation: str,
    moves: Sequence[Move],
    now: float,
    expires: float,
) -> Moved | Refusal:
    names = [move.account for move in moves]
    name, who = digest(reservation, operation), digest(reservation)
    done = "SELECT 1 FROM operations WHERE name = ? AND until > ?"
    repeated = db.execute(done, (name, now)).fetchone() is not None
    balances = _balances(db, names, now)
    if not repeated:
        refused = refusal(moves, dict(zip(names, balances, strict=True)))
        if refused is not None:
            return refused
        for move, balance in zip(moves, balances, strict=True):
            _make(db, move, balance, who, now, expires)
        db.execute("DELETE FROM operations WHERE until <= ?", (now,))
        db.execute("INSERT INTO operations VALUES (?, ?)", (name, expires))
        balances = _balances(db, names, now)
    return Moved(balances=tuple(balances), repeated=repeated)


def _balances(db: sqlite3.Connection, accounts: Sequence[str], now: float) -> list[Balance]:
    found = []
    for account in map(digest, accounts):
        row = db.execute("SELECT spent, held FROM accounts WHERE account = ?", (account,))
        spent, held = map(int, row.fetchone() or (0, 0))
        expired = db.execute(
            "SELECT amount FROM holds WHERE account = ? AND expires <= ?", (account, now)
        )
        found.append(Balance(spent=spent, held=held - sum(int(amount) for (amount,) in expired)))
    return found


def _make(
    db: sqlite3.Connection, move: Move, balance: Balance, who: bytes, now: float, expires: float
) -> None:
    account = digest(move.account)
    db.execute("DELETE FROM holds WHERE account = ? AND expires <= ?", (account, now))
    own = db.execute(
        "SELECT amount, expires FROM holds WHERE account = ? AND reservation = ?", (account, who)
    )
    before, until = own.fetchone() or (0, expires)
    amount = max(0, int(before) + move.hold)
    if amount:
        db.execute(
            "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?)",
            (account, who, str(amount), max(until, expires)),
        )
    elif before:
        db.execute("DELETE FROM holds WHERE account = ? AND reservation = ?", (account, who))
    spent, held = balance.spent + move.spend, balance.held + amount - int(before)
    db.execute(
        "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)",
        (account, str(spent), str(held), move.ends),
    )
