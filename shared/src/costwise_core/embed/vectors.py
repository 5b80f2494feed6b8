"""Where a `CachedEmbedder` keeps vectors: bytes under a digest, in memory or in a SQLite file."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from costwise_core.errors import ConfigError, StoreError
from costwise_core.stores.sqlite_file import SQLiteFile

__all__ = ["MemoryVectors", "SQLiteVectors", "VectorCache"]

_APPLICATION_ID: Final = 0x43575643
_SCHEMA: Final = (
    """
    CREATE TABLE vectors (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL);;
    CREATE INDEX vectors_used ON vectors (used)
    """,
)
_USED_STEP: Final = 3600
"""Seconds: the last use is kept by the hour, so that most reads write nothing."""

_AT_ONCE: Final = 500
"""Keys in one query; SQLite of old allows 999."""

_MAX_VALUE_BYTES: Final = 1_000_000
_SPARE: Final = 16
"""One part in this many is evicted at once, so that making room is rare."""


class VectorCache(Protocol):
    """Keeps bytes under a digest; may forget any of them at any time. Safe to share."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what is known, by its key."""
        ...

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, replacing older ones."""
        ...


class MemoryVectors:
    """Keeps vectors in this process's memory and forgets the least recently used.

    Args:
        max_items: How many to keep; 1.7 kB each at 384 dimensions.

    Raises:
        ConfigError: if `max_items` is not above 0.

    Example:
        >>> vectors = MemoryVectors(max_items=1)
        >>> vectors.put({b"a": b"1", b"b": b"2"})
        >>> vectors.get([b"a", b"b"])
        {b'b': b'2'}
    """

    blocking: Final = False

    def __init__(self, *, max_items: int = 50_000) -> None:
        _check_limit(max_items)
        self._max_items = max_items
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what is known, by its key."""
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
            for key in found:
                self._values.move_to_end(key)
            return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, replacing older ones."""
        with self._lock:
            for key, value in values.items():
                self._values[key] = value
                self._values.move_to_end(key)
            while len(self._values) > self._max_items:
                self._values.popitem(last=False)


class SQLiteVectors:
    """Keeps vectors in a SQLite file that survives restarts and that several processes may share.

    The file is made on first use. Those not used for longest go first when it is full.

    Args:
        path: The file; its folder must exist.
        max_items: How many to keep; 2.1 kB each at 384 dimensions.
        busy_timeout: Seconds to wait for another process's write.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "vectors.db"
        >>> SQLiteVectors(path).put({b"a": b"1"})
        >>> SQLiteVectors(path).get([b"a", b"b"])
        {b'a': b'1'}
    """

    def __init__(
        self, path: Path | str, *, max_items: int = 500_000, busy_timeout: float = 1.0
    ) -> None:
        _check_limit(max_items)
        if not busy_timeout >= 0:
            raise ConfigError(f"busy_timeout is in seconds, at least 0, got {busy_timeout!r}.")
        self._max_items = max_items
        self._file = SQLiteFile(
            Path(path),
            application_id=_APPLICATION_ID,
            schema=_SCHEMA,
            busy_timeout=busy_timeout,
            max_value_bytes=_MAX_VALUE_BYTES,
        )
        self._room: int | None = None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what is known, by its key.

        Raises:
            StoreError: if the file cannot be used.
        """
        now = int(time.time()) // _USED_STEP
        found: dict[bytes, bytes] = {}
        stale = []
        with self._file.reading() as db:
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, value, used FROM vectors WHERE key IN ({marks})"  # noqa: S608
                for key, value, used in db.execute(query, some):
                    found[key] = value
                    if used != now:
                        stale.append((now, key))
        if stale:
            # A file that is locked or read-only is still good for reading.
            with suppress(StoreError), self._file.writing() as db:
                db.executemany("UPDATE vectors SET used = ? WHERE key = ?", stale)
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values, all or none, replacing older ones.

        Raises:
            StoreError: if the file cannot be used.
        """
        now = int(time.time()) // _USED_STEP
        with self._file.writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vectors (key, value, used) VALUES (?, ?, ?)",
                [(key, value, now) for key, value in values.items()],
            )
            # Counting costs a scan, so it is done again only when the room found last may be used.
            self._room = (self._room or 0) - len(values)
            if self._room <= 0:
                (count,) = db.execute("SELECT count(*) FROM vectors").fetchone()
                if count > self._max_items:
                    spare = count - self._max_items + self._max_items // _SPARE
                    db.execute(
                        "DELETE FROM vectors WHERE rowid IN "
                        "(SELECT rowid FROM vectors ORDER BY used, rowid LIMIT ?)",
                        (spare,),
                    )
                    count -= spare
                self._room = min(self._max_items - count, self._max_items // _SPARE)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()


def _check_limit(max_items: int) -> None:
    if not isinstance(max_items, int) or max_items < 1:
        raise ConfigError(f"max_items must be a whole number above 0, got {max_items!r}.")
