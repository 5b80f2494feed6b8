"""Entries in one SQLite file: the embedded default, for several threads and processes at once.

An entry is one row, so its vector and its answer are stored together or not at all. Similar
questions are looked for in memory: each process keeps the vectors of the file and reads, before a
search, what has been added and deleted since the last one. Nothing but SQLite is asked for the
entries themselves, so what another process deleted or replaced is never served.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from costwise_core.errors import ConfigError, VectorError
from costwise_core.stores import sqlite_journal
from costwise_core.stores.checks import (
    MAX_ENTRY_BYTES,
    check_limits,
    check_rows,
    check_seconds,
    checked,
)
from costwise_core.stores.per_process import PerProcess
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.stores.sqlite_rows import (
    APPLICATION_ID,
    INSERT,
    INSERT_SOURCE,
    SCHEMA,
    as_blob,
    row_of,
    sources_of,
    where,
)
from costwise_core.stores.sqlite_session import Session
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["SQLiteStore"]

_GONE_KEPT: Final = 10_000
_PAGE: Final = 64


class SQLiteStore:
    """Keeps entries in a file, evicts what saves least, and shares it between processes.

    The constructor opens nothing; the file is made by the first lookup or put. `put` returns once a
    `kill -9` can no longer lose the entries. A power cut may lose those of the last moments, but
    never damages the file. What is evicted first is in `costwise_core.stores.eviction`: the least
    saved dollars per byte, or the least recently used where no entry's worth is known. Uses are
    written with the next put or delete; those counted after the last one are lost.

    Args:
        path: The file. It holds answers, so it is made with mode 0600.
        max_entries: How many entries to keep; None for no limit.
        max_bytes: How many bytes of text and vectors to keep; None for no limit.
        busy_timeout: Seconds a call waits for another process's lock before it gives up.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import tempfile
        >>> from costwise_core import Entry, SQLiteStore
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteStore(f"{folder}/a.db") as store:
        ...     store.put([Entry(key="k", scope="s", question="What is RAG?", answer="A method.")])
        ...     store.get("k", "s").answer
        'A method.'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_entries: int | None = 100_000,
        max_bytes: int | None = 1_000_000_000,
        busy_timeout: float = 0.25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_limits(max_entries, max_bytes)
        if not 0 <= busy_timeout <= 3600:
            raise ConfigError(f"busy_timeout is in seconds, from 0 to 3600, got {busy_timeout!r}.")
        if str(path) in ("", ":memory:") or str(path).startswith("file:"):
            raise ConfigError(
                f"path must name a file, got {str(path)!r}; MemoryStore() keeps entries in memory."
            )
        self.path = Path(path)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        opened = partial(
            SQLiteFile,
            self.path,
            application_id=APPLICATION_ID,
            schema=SCHEMA,
            busy_timeout=busy_timeout,
            max_value_bytes=2 * MAX_ENTRY_BYTES,
        )
        self._sessions = PerProcess(lambda: Session(opened()), lambda one: one.file.close())

    @property
    def damaged(self) -> int:
        """How many rows this process found damaged and passed over."""
        return self._session.damaged

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if the file cannot be used.
        """
        session = self._session
        with session.file.reading() as db:
            name = (as_blob(scope), as_blob(key))
            return session.get(db, "WHERE scope = ? AND key = ?", name, self._clock())

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the file cannot be used.
        """
        session = self._session
        now = self._clock()
        with session.file.reading() as db:
            db.execute("BEGIN")
            try:
                session.catch_up(db)
                query = unit(vector, dim=session.index.dim(embedder))
                return session.search(db, query, k, scope=scope, embedder=embedder, now=now)
            finally:
                db.execute("COMMIT")

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than the store accepts.
            StoreError: if an entry contradicts itself or the file cannot be used.
        """
        fit = checked(entries, self._max_bytes)
        if not fit:
            return
        now = self._clock()
        session = self._session
        with session.file.writing() as db:
            _drop_expired(db, now)
            session.write_uses(db)
            for sized in fit:
                _check_dim(db, sized.entry)
            for sized in fit:
                row = row_of(sized, now)
                db.execute("DELETE FROM entries WHERE scope = ? AND key = ?", row[:2])
                added = db.execute(INSERT, row).lastrowid
                if sized.entry.documents:
                    db.executemany(INSERT_SOURCE, sources_of(sized.entry, added))
            self._evict(db)
            _trim_log(db)

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the file cannot be used; nothing was deleted then.
        """
        condition, values = where(selection)
        session = self._session
        with session.file.writing() as db:
            _drop_expired(db, self._clock())
            session.write_uses(db)
            count = db.execute(f"DELETE FROM entries WHERE {condition}", values).rowcount  # noqa: S608
            _trim_log(db)
        return count

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first, reading as it goes.

        Entries that others delete meanwhile are left out, and what they add is not seen.

        Raises:
            StoreError: if the file cannot be used.
        """
        condition, values = where(selection)
        session = self._session
        with session.file.reading() as db:
            found = db.execute(
                f"SELECT id FROM entries WHERE {condition} ORDER BY created, id",  # noqa: S608
                values,
            ).fetchall()
        for start in range(0, len(found), _PAGE):
            some = found[start : start + _PAGE]
            with session.file.reading() as db:
                now = self._clock()
                read = [session.read(db, "WHERE id = ?", i, now, whole=True) for i in some]
            yield from (entry for _, entry in filter(None, read))

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none.

        Raises:
            EntryTooLargeError: if a row has more than 4,000 bytes.
            StoreError: if the file cannot be used.
        """
        blobs = check_rows(rows)
        if blobs:
            with self._session.file.writing() as db:
                sqlite_journal.append(db, name, blobs)

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        Raises:
            StoreError: if the file cannot be used, or the position is none of a log's.
        """
        session = self._session
        with session.file.reading() as db:
            rows, position, damaged = sqlite_journal.read(db, name, after)
        session.damaged += damaged
        return rows, position

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
            StoreError: if the file cannot be used.
        """
        check_seconds(seconds)
        with self._session.file.writing() as db:
            return sqlite_journal.acquire(db, name, owner, seconds, self._clock())

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._session.file.writing() as db:
            sqlite_journal.release(db, name, owner)

    def close(self) -> None:
        """Close the file; using the store again opens it again."""
        self._sessions.close()

    def __enter__(self) -> "SQLiteStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _session(self) -> Session:
        return self._sessions.get()

    def _evict(self, db: sqlite3.Connection) -> None:
        """Delete the entries of lowest rank until the rest fits."""
        max_entries, max_bytes = self._max_entries, self._max_bytes
        count, size = db.execute("SELECT sum(entries), sum(bytes) FROM totals").fetchone()
        while (max_entries is not None and count > max_entries) or (
            max_bytes is not None and size > max_bytes
        ):
            lowest = db.execute(
                "SELECT id, bytes FROM entries ORDER BY standing, id LIMIT 1"
            ).fetchone()
            db.execute("DELETE FROM entries WHERE id = ?", lowest[:1])
            count, size = count - 1, size - lowest[1]


def _drop_expired(db: sqlite3.Connection, now: float) -> None:
    db.execute("DELETE FROM entries WHERE expires <= ?", (now,))


def _trim_log(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM gone WHERE seq <= (SELECT max(seq) FROM gone) - ?", (_GONE_KEPT,))


def _check_dim(db: sqlite3.Connection, entry: Entry) -> None:
    if entry.vector is None:
        return
    row = db.execute(
        "SELECT dim FROM totals WHERE embedder = ?", (as_blob(entry.embedder),)
    ).fetchone()
    if row is not None and row[0] != entry.vector.size:
        raise VectorError(
            f"vectors of {entry.embedder!r} have {row[0]} dimensions, got {entry.vector.size}."
        )
