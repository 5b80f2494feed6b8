"""Logs and leases in PostgreSQL, as scripts of one statement each."""

from collections.abc import Sequence
from typing import Final

from costwise_core.errors import StoreError
from costwise_core.stores.postgres_entries import Notes
from costwise_core.stores.postgres_link import Script, sql
from costwise_core.stores.postgres_rows import NOW
from costwise_core.stores.sqlite_rows import as_blob

__all__ = ["acquire", "append", "read", "release"]

_ENDED: Final = 100  # leases of others that one release clears away, at most


def append(name: str, rows: Sequence[bytes], kept: int) -> Script[None]:
    """Add rows at the end of a log and cut its beginning off."""
    # Rows are numbered under the lock of their log's own row, which is held until they are there
    # for all to see. So no reader ever sees a row before one of a lower number.
    yield sql(
        "WITH log AS (INSERT INTO @journals AS j VALUES (%s, %s) "
        "ON CONFLICT (name) DO UPDATE SET newest = j.newest + excluded.newest RETURNING *), "
        "added AS (INSERT INTO @journal SELECT log.name, newest - %s + number, content "
        "FROM log, unnest(%s::bytea[]) WITH ORDINALITY AS r (content, number)) "
        "DELETE FROM @journal j USING log WHERE j.name = log.name AND number <= newest - %s",
        as_blob(name),
        len(rows),
        len(rows),
        list(rows),
        kept,
    )


def read(notes: Notes, name: str, after: str) -> Script[tuple[list[str], str]]:
    """Read the rows after a position, and the position after them.

    Raises:
        StoreError: if the position is none of a log's.
    """
    if after and not (after.isdecimal() and len(after) < 19):
        raise StoreError(f"a position comes from an earlier read of the log, got {after!r}.")
    # A log that is shorter than the position was begun anew.
    rows = yield sql(
        "SELECT number, content FROM @journal JOIN @journals USING (name) "
        "WHERE name = %s AND number > CASE WHEN newest < %s THEN 0 ELSE %s END ORDER BY number",
        as_blob(name),
        int(after or 0),
        int(after or 0),
    )
    texts = [notes.text(content) for _, content in rows]
    return [text for text in texts if text is not None], str(rows[-1][0]) if rows else after


def acquire(
    name: str, owner: str, seconds: float, now: float | None, table: str = "leases"
) -> Script[bool]:
    """Take or renew a lease, and say whether it is this owner's now."""
    rows = yield sql(
        f"INSERT INTO @{table} AS l VALUES (%s, %s, {NOW} + %s) "  # noqa: S608
        "ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires "
        f"WHERE l.owner = excluded.owner OR l.expires <= {NOW} RETURNING 1",
        as_blob(name),
        as_blob(owner),
        now,
        seconds,
        now,
    )
    return bool(rows)


def release(name: str, owner: str, now: float | None, table: str = "leases") -> Script[None]:
    """Give a lease back, and clear away some that ended."""
    yield sql(
        f"DELETE FROM @{table} WHERE (name = %s AND owner = %s) OR name IN ("  # noqa: S608
        f"SELECT name FROM @{table} WHERE expires <= {NOW} LIMIT %s FOR UPDATE SKIP LOCKED)",
        as_blob(name),
        as_blob(owner),
        now,
        _ENDED,
    )
