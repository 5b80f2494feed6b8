"""Entries in one SQLite file: the embedded default, for several threads and processes at once.

An entry is one row, so its vector and its answer are stored together or not at all. Similar
questions are looked for in memory: each process keeps the vectors of the file and reads, before a
search, what has been added and deleted since the last one. Nothing but SQLite is asked for the
entries themselves, so what another process deleted or replaced is never served.
"""

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from costwise_core.errors import ConfigError, VectorError
from costwise_core.stores.checks import MAX_ENTRY_BYTES, check_limits, checked
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.stores.sqlite_rows import (
    APPLICATION_ID,
    INSERT,
    READ,
    SCHEMA,
    as_blob,
    as_text,
    entry_of,
    row_of,
    vectors_of,
    where,
)
from costwise_core.stores.vectors import VectorIndex, unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["SQLiteStore"]

_GONE_KEPT: Final = 10_000
_TOUCHED_KEPT: Final = 1_000
_CHUNK: Final = 2_000
_TRIES: Final = 3


class SQLiteStore:
    """Keeps entries in a file, evicts the least recently used, and shares it between processes.

    The constructor opens nothing; the file is made by the first lookup or put. `put` returns once a
    `kill -9` can no longer lose the entries. A power cut may lose those of the last moments, but
    never damages the file.

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
        self._busy_timeout = busy_timeout
        self._clock = clock
        # A forked child must touch neither its parent's connections nor its locks.
        self._sessions: dict[int, _Session] = {}
        weakref.finalize(self, _close, self._sessions)

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
            return session.read(db, "WHERE scope = ? AND key = ?", name, self._clock())

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
            session.write_touched(db, now)
            for sized in fit:
                _check_dim(db, sized.entry)
            for sized in fit:
                row = row_of(sized, now)
                db.execute("DELETE FROM entries WHERE scope = ? AND key = ?", row[:2])
                db.execute(INSERT, row)
            self._evict(db)
            _trim_log(db)

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the file cannot be used; nothing was deleted then.
        """
        condition, values = where(selection)
        with self._session.file.writing() as db:
            _drop_expired(db, self._clock())
            count = db.execute(f"DELETE FROM entries WHERE {condition}", values).rowcount  # noqa: S608
            _trim_log(db)
        return count

    def close(self) -> None:
        """Close the file; using the store again opens it again."""
        _close(self._sessions)

    def __enter__(self) -> "SQLiteStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _session(self) -> "_Session":
        session = self._sessions.get(os.getpid())
        if session is None:
            file = SQLiteFile(
                self.path,
                application_id=APPLICATION_ID,
                schema=SCHEMA,
                busy_timeout=self._busy_timeout,
                max_value_bytes=2 * MAX_ENTRY_BYTES,
            )
            bounded = self._max_entries is not None or self._max_bytes is not None
            session = self._sessions.setdefault(os.getpid(), _Session(file, bounded=bounded))
        return session

    def _evict(self, db: sqlite3.Connection) -> None:
        """Delete the least recently used entries until the rest fits."""
        max_entries, max_bytes = self._max_entries, self._max_bytes
        count, size = db.execute("SELECT sum(entries), sum(bytes) FROM totals").fetchone()
        while (max_entries is not None and count > max_entries) or (
            max_bytes is not None and size > max_bytes
        ):
            coldest = db.execute(
                "SELECT id, bytes FROM entries ORDER BY used, id LIMIT 1"
            ).fetchone()
            db.execute("DELETE FROM entries WHERE id = ?", coldest[:1])
            count, size = count - 1, size - coldest[1]


class _Session:
    """What one process holds of a store: the open file, its vectors, and what was hit lately."""

    def __init__(self, file: SQLiteFile, *, bounded: bool) -> None:
        self.file = file
        self.index = VectorIndex()
        self.damaged = 0
        self._bounded = bounded
        self._touched: set[int] = set()
        self._seen: tuple[object, int] | None = None
        self._last_id = 0
        self._last_gone = 0

    def read(
        self, db: sqlite3.Connection, where: str, values: tuple[object, ...], now: float
    ) -> Entry | None:
        """Return the one live entry that fits, None if there is none or it is damaged."""
        try:
            row = db.execute(READ + where, values).fetchone()
            if row is None:
                return None
            entry = entry_of(row)
        except (sqlite3.DataError, ValueError, TypeError, RecursionError):  # DataError: too long
            self.damaged += 1
            return None
        if entry.expires is not None and entry.expires <= now:
            return None
        # Lookups do not write: what was hit is written with the next put.
        if self._bounded and len(self._touched) < _TOUCHED_KEPT:
            self._touched.add(row[0])
        return entry

    def write_touched(self, db: sqlite3.Connection, now: float) -> None:
        """Make the entries that were hit since the last put the last to be evicted."""
        touched, self._touched = self._touched, set()
        ids = tuple(touched)  # at once: another thread may still be adding
        db.executemany("UPDATE entries SET used = ? WHERE id = ?", [(now, i) for i in ids])

    def search(
        self,
        db: sqlite3.Connection,
        query: Vector,
        k: int,
        *,
        scope: str,
        embedder: str,
        now: float,
    ) -> list[Neighbour]:
        """Return the nearest entries; a damaged one makes room for the next."""
        for _ in range(_TRIES):
            found = self.index.search(query, k, scope=scope, embedder=embedder, now=now)
            neighbours = []
            for ident, cosine in found:
                entry = self.read(db, "WHERE id = ? AND scope = ?", (ident, as_blob(scope)), now)
                if entry is None:
                    self.index.discard(ident)
                else:
                    neighbours.append(Neighbour(entry=entry, cosine=cosine))
            if len(neighbours) == len(found):
                break
        return neighbours

    def catch_up(self, db: sqlite3.Connection) -> None:
        """Bring the vectors in step with the file; costs next to nothing if nobody wrote."""
        seen = (db, db.execute("PRAGMA data_version").fetchone()[0])
        if self._seen is not None and self._seen == seen:
            return
        oldest, newest = db.execute(
            "SELECT (SELECT min(seq) FROM gone), (SELECT max(seq) FROM gone)"
        ).fetchone()
        reopened = self._seen is None or self._seen[0] is not db
        log_was_cut = (oldest or 0) > self._last_gone + 1
        if reopened or log_was_cut:
            self.index = VectorIndex()
            self._last_id = 0
        else:
            gone = db.execute("SELECT id FROM gone WHERE seq > ?", (self._last_gone,))
            for (ident,) in gone.fetchall():
                self.index.discard(ident)
        self._last_gone = newest or 0
        self._load(db)
        self._seen = seen

    def _load(self, db: sqlite3.Connection) -> None:
        """Add the vectors of all rows that are newer than the last one seen."""
        rows = db.execute(
            "SELECT id, scope, embedder, expires, dim, "
            "CASE WHEN length(vector) = 4 * dim AND 4 * dim <= ? THEN vector END "
            "FROM entries WHERE id > ? AND dim != 0 ORDER BY id",
            (MAX_ENTRY_BYTES, self._last_id),
        )
        while chunk := rows.fetchmany(_CHUNK):
            vectors = vectors_of([(dim, blob) for *_, dim, blob in chunk])
            for (ident, scope, embedder, expires, *_), vector in zip(chunk, vectors, strict=True):
                self._last_id = ident
                if not self._add(ident, vector, scope, embedder, expires):
                    self.damaged += 1

    def _add(self, ident: int, vector: Vector | None, *columns: object) -> bool:
        """Add one vector to the index and return whether its row made sense."""
        scope, embedder, expires = columns
        if vector is None or not isinstance(expires, float | None):
            return False
        try:
            self.index.add(
                ident, vector, scope=as_text(scope), embedder=as_text(embedder), expires=expires
            )
        except (ValueError, TypeError):
            return False
        return True


def _close(sessions: dict[int, _Session]) -> None:
    session = sessions.get(os.getpid())
    if session is not None:
        session.file.close()


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
