"""What one process holds of a SQLite store: the open file, its vectors, and uses to be written."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from costwise_core.stores.checks import MAX_ENTRY_BYTES
from costwise_core.stores.eviction import rank
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.stores.sqlite_rows import (
    READ,
    READ_WHOLE,
    as_blob,
    as_text,
    entry_of,
    vectors_of,
)
from costwise_core.stores.vectors import VectorIndex
from costwise_core.types import Entry, Neighbour, Vector

__all__ = ["Session"]

_USED_KEPT: Final = 1_000
_CHUNK: Final = 2_000
_TRIES: Final = 3


class Session:
    """What one process holds of a store: the open file, its vectors, and uses not yet written.

    Args:
        file: The open file.
    """

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file
        self.index = VectorIndex()
        self.damaged = 0
        self._used: dict[int, tuple[int, float]] = {}
        self._seen: tuple[object, int] | None = None
        self._last_id = 0
        self._last_gone = 0

    def get(
        self, db: sqlite3.Connection, where: str, values: tuple[object, ...], now: float
    ) -> Entry | None:
        """Do what `read` does and count it as a use."""
        found = self.read(db, where, values, now)
        if found is None:
            return None
        ident, entry = found
        # Lookups do not write: uses are written with the next put.
        if ident in self._used or len(self._used) < _USED_KEPT:
            self._used[ident] = self._used.get(ident, (0, 0.0))[0] + 1, now
        return entry

    def read(
        self,
        db: sqlite3.Connection,
        where: str,
        values: tuple[object, ...],
        now: float,
        *,
        whole: bool = False,
    ) -> tuple[int, Entry] | None:
        """Return the one live entry that fits with its id, None if there is none.

        Args:
            db: The connection to read with.
            where: The condition in SQL.
            values: Its values.
            now: Seconds since the epoch.
            whole: Whether the entry comes with its vector.
        """
        try:
            row = db.execute((READ_WHOLE if whole else READ) + where, values).fetchone()
            if row is None:
                return None
            entry = _with_vector(row) if whole else entry_of(row)
        except (sqlite3.DataError, ValueError, TypeError, RecursionError):  # DataError: too long
            self.damaged += 1
            return None
        if entry.expires is not None and entry.expires <= now:
            return None
        return row[0], entry

    def write_uses(self, db: sqlite3.Connection) -> None:
        """Write the uses counted since the last time."""
        counted, self._used = self._used, {}
        for ident, (count, last) in list(counted.items()):  # another thread may be adding still
            row = db.execute(
                "SELECT worth, uses, bytes, used FROM entries WHERE id = ?", (ident,)
            ).fetchone()
            if row is None:
                continue
            worth, uses, size, used = row
            try:
                uses, used = uses + count, max(used, last)
                standing = rank(worth=worth, uses=uses, size=size, used=used)
            except (TypeError, ValueError, ArithmeticError):
                self.damaged += 1
                continue
            db.execute(
                "UPDATE entries SET uses = ?, used = ?, standing = ? WHERE id = ?",
                (uses, used, standing, ident),
            )

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
                read = self.read(db, "WHERE id = ? AND scope = ?", (ident, as_blob(scope)), now)
                if read is None:
                    self.index.discard(ident)
                else:
                    neighbours.append(Neighbour(entry=read[1], cosine=cosine))
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


def _with_vector(row: Sequence[Any]) -> Entry:
    *columns, dim, blob = row
    entry = entry_of(columns)
    if not dim:
        return entry
    (vector,) = vectors_of([(dim, blob)])
    if vector is None:
        raise ValueError("a vector is damaged")
    return replace(entry, vector=vector.copy())
