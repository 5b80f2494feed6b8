"""What a change of a collection has done so far, kept on disk so that it can go on or be undone."""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError, StoreVersionError

__all__ = ["Entry", "Journal"]

_APPLICATION: Final = 0x43515031
_FORMAT: Final = 1
_MAX_VALUE_BYTES: Final = 64 * 1024 * 1024
_SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE steps (
    number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, says TEXT NOT NULL,
    result TEXT, begun REAL NOT NULL, done REAL
);
CREATE TABLE copied (
    id TEXT PRIMARY KEY, source BLOB NOT NULL, copy BLOB NOT NULL, round INTEGER NOT NULL
) WITHOUT ROWID;
"""

Copied = tuple[str, bytes, bytes]
"""An id, the digest of the point that was read, and of what lies where it was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One step of a change, as the journal has it.

    Attributes:
        name: The step.
        says: What it does, for a person.
        result: What came of it; None until then.
        seconds: How long it took, of wall time; None for a step that was begun and not finished.
    """

    name: str
    says: str
    result: Any = None
    seconds: float | None = None


class Journal:
    """The open journal of one change: a SQLite file that one process at a time can hold.

    A step is written down before it is done, and its result after, both through to the disk. So
    whoever opens the file after a crash knows what may have happened, and does again only that.

    Args:
        path: The file; made with mode 0600 if missing, its folder must exist. Files that are
            something else are refused, not overwritten.

    Raises:
        StoreUnavailableError: if another process holds it, or it cannot be written.
        StoreVersionError: if it was written by a newer costwise, or is no journal.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "docs.journal"
        >>> with Journal(path) as journal:
        ...     journal.step("add", "adds two numbers", lambda: 1 + 1)
        2
        >>> with Journal(path) as journal:  # done already: not done again
        ...     journal.step("add", "adds two numbers", lambda: 1 / 0)
        2
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if not self.path.exists():
                self.path.touch(mode=0o600)
            self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailableError(
                f"the journal {self.path} cannot be used: {error}"
            ) from None
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_BUSY:
                raise StoreUnavailableError(
                    f"the journal {self.path} is in use: another process is making this change."
                ) from None
            if code == sqlite3.SQLITE_NOTADB:
                raise StoreVersionError(f"{self.path} is no journal of costwise.") from None
            raise StoreUnavailableError(
                f"the journal {self.path} cannot be used: {error}"
            ) from None
        except StoreError:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN EXCLUSIVE")  # takes the lock, which lasts until the file is closed
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if not application and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_FORMAT}")
        elif application != _APPLICATION:
            raise StoreVersionError(f"{self.path} is no journal of costwise.")
        elif version != _FORMAT:
            raise StoreVersionError(f"{self.path} was written by another version of costwise.")
        db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others open it."""
        self._db.close()

    def fact(self, name: str, value: Callable[[], Any] | None = None) -> Any:
        """Return what was noted under a name; note `value()` first if nothing was.

        Raises:
            ConfigError: if nothing was, and there is no value.
        """
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row:
            return json.loads(row[0])
        if value is None:
            raise ConfigError(
                f"the journal {self.path} has no {name!r}: nothing was begun with it."
            )
        found = value()
        self._db.execute("INSERT INTO facts VALUES (?, ?)", (name, json.dumps(found)))
        return found

    def note(self, name: str, value: Any) -> None:
        """Note something under a name, in place of what was noted before."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def has(self, step: str) -> bool:
        """Tell whether a step was begun."""
        return bool(self._db.execute("SELECT 1 FROM steps WHERE name = ?", (step,)).fetchone())

    def knows(self, name: str) -> bool:
        """Tell whether something was noted under a name."""
        return bool(self._db.execute("SELECT 1 FROM facts WHERE name = ?", (name,)).fetchone())

    def ident(self) -> str:
        """Return eight letters of this change's own, always the same."""
        ident: str = self.fact("ident", lambda: uuid.uuid4().hex[:8])
        return ident

    def step(self, name: str, says: str, do: Callable[[], Any]) -> Any:
        """Do a step unless it is done already, and return its result (JSON) either way."""
        known = self._db.execute(
            "SELECT result FROM steps WHERE name = ? AND done IS NOT NULL", (name,)
        ).fetchone()
        if known:
            return json.loads(known[0])
        self._db.execute(
            "INSERT INTO steps (name, says, begun) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET begun = excluded.begun",
            (name, says, time.time()),
        )
        result = do()
        self._db.execute(
            "UPDATE steps SET result = ?, done = ? WHERE name = ?",
            (json.dumps(result), time.time(), name),
        )
        return result

    def entries(self) -> list[Entry]:
        """Return all steps that were begun, in their order."""
        rows = self._db.execute("SELECT name, says, result, begun, done FROM steps ORDER BY number")
        return [
            Entry(
                name=name,
                says=says,
                result=json.loads(result) if result else None,
                seconds=None if done is None else max(0.0, done - begun),
            )
            for name, says, result, begun, done in rows
        ]

    def digests(self, ids: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
        """Return the digests of those points that were copied, of the source and of the copy."""
        marks = ",".join("?" * len(ids))
        rows = self._db.execute(
            f"SELECT id, source, copy FROM copied WHERE id IN ({marks})",  # noqa: S608 - marks only
            list(ids),
        )
        return {ident: (source, copy) for ident, source, copy in rows}

    def note_copied(self, copied: Iterable[Copied], *, round: int) -> None:  # noqa: A002
        """Write down which points were copied, and that this round has seen them."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO copied VALUES (?, ?, ?, ?)",
            [(*one, round) for one in copied],
        )
        self._db.execute("COMMIT")

    def note_dropped(self, ids: Iterable[str]) -> None:
        """Forget points that are not there any more."""
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM copied WHERE id = ?", [(ident,) for ident in ids])
        self._db.execute("COMMIT")

    def unseen(self, *, round: int, page: int) -> Iterator[list[str]]:  # noqa: A002
        """Yield, by the page, the ids of copied points that a round has not seen."""
        last = ""
        while True:
            rows = self._db.execute(
                "SELECT id FROM copied WHERE round < ? AND id > ? ORDER BY id LIMIT ?",
                (round, last, page),
            ).fetchall()
            if not rows:
                return
            yield [ident for (ident,) in rows]
            last = rows[-1][0]

    def copied(self) -> int:
        """Return how many points are noted as copied."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM copied").fetchone()
        return int(count)

    def next_round(self) -> int:
        """Return the number of a new round over the points, after all that were begun before."""
        (last,) = self._db.execute("SELECT COALESCE(MAX(round), 0) FROM copied").fetchone()
        return int(last) + 1
