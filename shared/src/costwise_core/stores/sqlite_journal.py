"""Logs and leases in a SQLite file, one transaction each."""

import sqlite3
from collections.abc import Sequence

from costwise_core.stores.checks import JOURNAL_KEPT, MAX_ROW_BYTES
from costwise_core.stores.memory_journal import place
from costwise_core.stores.sqlite_rows import as_blob, as_text

__all__ = ["acquire", "append", "read", "release"]


def append(db: sqlite3.Connection, name: str, rows: Sequence[bytes]) -> None:
    """Add rows at the end of the named log and cut it at the front."""
    log = as_blob(name)
    newest = _newest(db, log)
    db.executemany(
        "INSERT INTO journal (name, seq, row) VALUES (?, ?, ?)",
        [(log, seq, row) for seq, row in enumerate(rows, newest + 1)],
    )
    last = newest + len(rows)
    db.execute("DELETE FROM journal WHERE name = ? AND seq <= ?", (log, last - JOURNAL_KEPT))


def read(db: sqlite3.Connection, name: str, after: str) -> tuple[list[str], str, int]:
    """Return the rows after a position, the position after them, and how many were damaged."""
    log, seq = as_blob(name), place(after)
    newest = _newest(db, log)
    if seq > newest:  # a position in a file that was deleted since
        seq = 0
    found = db.execute(
        "SELECT CASE WHEN length(row) <= ? THEN row END FROM journal "
        "WHERE name = ? AND seq > ? AND seq <= ? ORDER BY seq",
        (MAX_ROW_BYTES, log, seq, newest),
    ).fetchall()
    rows = []
    for (blob,) in found:
        try:
            rows.append(as_text(blob))
        except (ValueError, TypeError):
            continue
    return rows, str(newest or ""), len(found) - len(rows)


def acquire(db: sqlite3.Connection, name: str, owner: str, seconds: float, now: float) -> bool:
    """Take or renew a lease and return whether it is this owner's."""
    db.execute("DELETE FROM leases WHERE expires <= ?", (now,))
    taken = db.execute(
        "INSERT INTO leases (name, owner, expires) VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
        "SET expires = excluded.expires WHERE owner = excluded.owner",
        (as_blob(name), as_blob(owner), now + seconds),
    )
    return taken.rowcount == 1


def release(db: sqlite3.Connection, name: str, owner: str) -> None:
    """Give a lease back, if this owner holds it."""
    db.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (as_blob(name), as_blob(owner)))


def _newest(db: sqlite3.Connection, log: bytes) -> int:
    (newest,) = db.execute("SELECT max(seq) FROM journal WHERE name = ?", (log,)).fetchone()
    return int(newest or 0)
