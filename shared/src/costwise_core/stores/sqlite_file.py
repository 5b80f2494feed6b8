"""A SQLite file that several threads and processes use at once, and what can go wrong with one."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.stores.per_process import PerProcess

__all__ = ["SQLiteFile", "check_file"]

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "another process holds it locked",
    sqlite3.SQLITE_LOCKED: "another process holds it locked",
    sqlite3.SQLITE_READONLY: "it may only be read",
    sqlite3.SQLITE_PERM: "permission was denied",
    sqlite3.SQLITE_AUTH: "permission was denied",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; its folder must exist and be writable",
    sqlite3.SQLITE_CORRUPT: "it is damaged; delete it to start again",
    sqlite3.SQLITE_IOERR: "reading or writing it failed",
}


def check_file(path: str | os.PathLike[str], busy_timeout: float, *, instead: str) -> Path:
    """Return the path of a file to be; refuse what is none, naming what to use `instead`.

    Raises:
        ConfigError: if it names no file, or the seconds to wait for it are out of range.
    """
    if not 0 <= busy_timeout <= 3600:
        raise ConfigError(f"busy_timeout is in seconds, from 0 to 3600, got {busy_timeout!r}.")
    if str(path) in ("", ":memory:") or str(path).startswith("file:"):
        raise ConfigError(
            f"path must name a file, got {str(path)!r}; to stay in memory use {instead}."
        )
    return Path(path)


class SQLiteFile:
    """One database file: a connection to read with and one to write with, opened on first use.

    A forked child opens connections of its own. Reads never wait for writes (write-ahead log). A
    committed transaction survives the death of
    the process; after a power cut the last ones may be missing, but never half of one.

    Args:
        path: The file; made with mode 0600 if missing.
        application_id: The number that marks files of this kind.
        schema: Scripts, of which the n-th brings a file of version n - 1 to version n.
        busy_timeout: Seconds to wait for another process's lock.
        max_value_bytes: No larger text or blob is read or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        application_id: int,
        schema: Sequence[str],
        busy_timeout: float,
        max_value_bytes: int,
    ) -> None:
        self.path = path
        self._application_id = application_id
        self._schema = schema
        self._busy_timeout = busy_timeout
        self._max_value_bytes = max_value_bytes
        self._slots = PerProcess(lambda: _Slots(_Slot(), _Slot()), _Slots.close)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the reading connection for as long as the block lasts, one thread at a time.

        Raises:
            StoreUnavailableError: if the file is locked, damaged or gone.
            StoreVersionError: if it is no file of this kind, or a newer one.
        """
        with self._lent(self._reader) as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the writing connection in a transaction that is committed at the end of the block.

        Raises:
            StoreUnavailableError: if the file is locked, read-only, full, damaged or gone.
            StoreVersionError: if it is no file of this kind, or a newer one.
        """
        with self._lent(self._writer) as db, _transaction(db):
            yield db

    def close(self) -> None:
        """Close both connections; the next use opens them again."""
        self._slots.close()

    @property
    def _reader(self) -> "_Slot":
        return self._slots.get().reader

    @property
    def _writer(self) -> "_Slot":
        return self._slots.get().writer

    @contextmanager
    def _lent(self, slot: "_Slot") -> Iterator[sqlite3.Connection]:
        with slot.lock, self._explained():
            # Somebody may have deleted the file: what is written to the old one would be lost.
            if slot.db is None or slot.identity != _identity(self.path):
                slot.close()
                slot.db = self._open()
                slot.identity = _identity(self.path)
            yield slot.db

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):  # if it cannot be made, SQLite says why
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        db = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,  # the slots' locks let one thread in at a time
        )
        try:
            db.text_factory = bytes  # damaged text must reach the caller, who can pass over it
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._max_value_bytes)
            if self._version(db) < len(self._schema):
                self._upgrade(db)
            # An fsync at every commit would help against nothing but a power cut.
            db.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            db.close()
            raise
        return db

    def _version(self, db: sqlite3.Connection) -> int:
        """Return the file's version, 0 for an empty one; refuse any file that is not ours."""
        # One statement, so that another process cannot make the file between two of the answers.
        application_id, version, tables = db.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
            "FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if application_id != self._application_id and (application_id or version or tables):
            raise StoreVersionError(
                f"{self.path} is a SQLite database that was not written by this kind of store. "
                "Nothing in it was changed; give the store a path of its own."
            )
        if version > len(self._schema):
            raise StoreVersionError(
                f"{self.path} has version {version}, written by a newer costwise; this one reads "
                f"up to version {len(self._schema)}. Upgrade costwise or choose another path."
            )
        return int(version)

    def _upgrade(self, db: sqlite3.Connection) -> None:
        _patiently(lambda: db.execute("PRAGMA journal_mode=WAL"), self._busy_timeout)
        with _transaction(db):
            # Another process may have been faster while this one waited for the lock.
            for version in range(self._version(db), len(self._schema)):
                for statement in self._schema[version].split(";;"):
                    db.execute(statement)
            db.execute(f"PRAGMA application_id={self._application_id:d}")
            db.execute(f"PRAGMA user_version={len(self._schema):d}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_NOTADB:
                raise StoreVersionError(
                    f"{self.path} is not a SQLite database. "
                    "Nothing in it was changed; give the store a path of its own."
                ) from error
            if code in _REASONS:
                raise StoreUnavailableError(
                    f"{self.path} cannot be used: {_REASONS[code]} ({error})."
                ) from error
            raise StoreError(f"{self.path}: {error}.") from error


class _Slot:
    """A connection, the lock of those who use it, and which file it is open on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.db: sqlite3.Connection | None = None
        self.identity: tuple[int, int] | None = None

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None


class _Slots(NamedTuple):
    reader: _Slot
    writer: _Slot

    def close(self) -> None:
        for slot in self:
            with slot.lock:
                slot.close()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


def _patiently(action: Callable[[], object], timeout: float) -> None:
    """Try again while locked: changing the journal mode does not honour SQLite's own timeout."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and asked every time
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
