"""Keeps what was paid and saved in one SQLite file, for several threads and processes at once."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from costwise_core.errors import ConfigError, StoreError
from costwise_core.money import dollars, picodollars
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.types import CallRecord, Saving, Usage

__all__ = ["SQLiteLedger"]

_APPLICATION_ID: Final = 0x4357534C
_SCHEMA: Final = (
    # Money is in whole 10^-12 dollars. Texts are UTF-8 blobs, because SQLite's own text cannot hold
    # every Python string.
    """
    CREATE TABLE calls (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        at REAL NOT NULL,
        operation BLOB NOT NULL,
        model BLOB NOT NULL,
        usd INTEGER,
        usage TEXT NOT NULL,
        savings TEXT NOT NULL,
        tags TEXT NOT NULL,
        overhead INTEGER NOT NULL,
        tier TEXT NOT NULL,
        seconds REAL NOT NULL,
        why BLOB NOT NULL
    );;
    CREATE INDEX calls_at ON calls (at);;
    CREATE TABLE tags (
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (name, value, seq)
    ) WITHOUT ROWID
    """,
)
_COLUMNS: Final = (
    "id, at, operation, model, usd, usage, savings, tags, overhead, tier, seconds, why"
)
_INSERT: Final = f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({', '.join('?' * 12)})"  # noqa: S608
_PAGE: Final = 500
_MAX_VALUE_BYTES: Final = 1_000_000
_USAGE: Final = tuple(field.name for field in fields(Usage))


class SQLiteLedger:
    """A ledger in a file that threads and processes share.

    The constructor opens nothing; the file is made by the first use. `record` returns once a
    `kill -9` can no longer lose the records. A power cut may lose those of the last moments.

    Args:
        path: The file; made with mode 0600.
        busy_timeout: Seconds a call waits for another process's lock before it gives up.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import tempfile
        >>> call = CallRecord(id="1", at=0.0, operation="chat", model="m", usd=Decimal("0.25"))
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteLedger(f"{folder}/l.db") as ledger:
        ...     ledger.record([call, call])
        ...     ledger.spent()
        Decimal('0.25')
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 2.0) -> None:
        if not 0 <= busy_timeout <= 3600:
            raise ConfigError(f"busy_timeout is in seconds, from 0 to 3600, got {busy_timeout!r}.")
        if str(path) in ("", ":memory:") or str(path).startswith("file:"):
            raise ConfigError(
                f"path must name a file, got {str(path)!r}; "
                "to keep records in memory use MemoryLedger()."
            )
        self.path = Path(path)
        self.damaged = 0
        """How many rows this process found damaged and passed over."""
        self._busy_timeout = busy_timeout
        # A forked child must touch neither its parent's connections nor its locks.
        self._files: dict[int, SQLiteFile] = {}

    def record(self, records: Sequence[CallRecord]) -> None:
        """Add records, all or none; an id that is already there is ignored.

        Raises:
            StoreError: if the file cannot be used or an amount is beyond all reason.
        """
        rows = [_row(record) for record in records]
        with self._file.writing() as db:
            for row, record in zip(rows, records, strict=True):
                added = db.execute(_INSERT, row)
                if added.rowcount:
                    db.executemany(
                        "INSERT OR IGNORE INTO tags VALUES (?, ?, ?)",
                        [
                            (_blob(name), _blob(value), added.lastrowid)
                            for name, value in record.tags
                        ],
                    )

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield records at or after `since` that carry all the given tags, oldest first.

        They are read in pages, so what is recorded meanwhile may or may not be among them. A
        damaged row is passed over and counted in `damaged`.

        Raises:
            StoreError: if the file cannot be used.
        """
        where, values = _where(since, tags)
        at, seq = float("-inf"), -1
        while True:
            with self._file.reading() as db:
                rows = db.execute(
                    f"SELECT seq, {_COLUMNS} FROM calls WHERE {where} AND (at, seq) > (?, ?) "  # noqa: S608
                    f"ORDER BY at, seq LIMIT {_PAGE}",
                    (*values, at, seq),
                ).fetchall()
            for row in rows:
                try:
                    yield _record(row[1:])
                except (ValueError, TypeError, KeyError, RecursionError):
                    self.damaged += 1
            if len(rows) < _PAGE:
                return
            seq, at = rows[-1][0], rows[-1][2]

    def spent(self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()) -> Decimal:
        """Return the dollars paid in the records that `records` would yield, exactly.

        Calls without a known price add nothing.

        Raises:
            StoreError: if the file cannot be used.
        """
        where, values = _where(since, tags)
        # In two parts, because one sum of 64 bits would overflow at nine million dollars.
        query = (
            "SELECT sum(usd / 1000000), sum(usd % 1000000) FROM calls "  # noqa: S608
            f"WHERE {where} AND typeof(usd) = 'integer'"
        )
        with self._file.reading() as db:
            high, low = db.execute(query, values).fetchone()
        return dollars((high or 0) * 1_000_000 + (low or 0))

    def close(self) -> None:
        """Close the file; using the ledger again opens it again."""
        if (file := self._files.pop(os.getpid(), None)) is not None:
            file.close()

    def __enter__(self) -> "SQLiteLedger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _file(self) -> SQLiteFile:
        file = self._files.get(os.getpid())
        if file is None:
            file = SQLiteFile(
                self.path,
                application_id=_APPLICATION_ID,
                schema=_SCHEMA,
                busy_timeout=self._busy_timeout,
                max_value_bytes=_MAX_VALUE_BYTES,
            )
            file = self._files.setdefault(os.getpid(), file)
        return file


def _where(since: float | None, tags: Iterable[tuple[str, str]]) -> tuple[str, tuple[object, ...]]:
    where, values = ["1"], list[object]()
    if since is not None:
        where.append("at >= ?")
        values.append(since)
    for name, value in tags:
        where.append("seq IN (SELECT seq FROM tags WHERE name = ? AND value = ?)")
        values += (_blob(name), _blob(value))
    return " AND ".join(where), tuple(values)


def _row(record: CallRecord) -> tuple[object, ...]:
    used = {name: count for name, count in asdict(record.usage).items() if count}
    savings = [
        [
            one.stage,
            None if one.usd is None else picodollars(one.usd),
            one.tokens,
            one.kind,
            one.why,
        ]
        for one in record.savings
    ]
    usd = None if record.usd is None else picodollars(record.usd)
    if usd is not None and not -(2**63) <= usd < 2**63:
        raise StoreError(f"a call of {record.usd} dollars cannot be recorded.")
    return (
        _blob(record.id),
        record.at,
        _blob(record.operation),
        _blob(record.model),
        usd,
        json.dumps(used),
        json.dumps(savings),
        json.dumps(record.tags),
        record.overhead,
        record.tier,
        record.seconds,
        _blob(record.why),
    )


def _record(row: tuple[Any, ...]) -> CallRecord:
    """Read a row back, trusting nothing in it.

    Raises:
        ValueError, TypeError, KeyError: if it is damaged.
    """
    ident, at, operation, model, usd, usage, savings, tags, overhead, tier, seconds, why = row
    used = json.loads(usage)
    if not (isinstance(used, dict) and used.keys() <= set(_USAGE)):
        raise ValueError("the usage is damaged")
    if not all(isinstance(count, int) and count >= 0 for count in used.values()):
        raise ValueError("the usage is damaged")
    tier = tier.decode()
    if tier not in ("exact", "near", ""):
        raise ValueError("the tier is damaged")
    return CallRecord(
        id=_text(ident),
        at=float(at),
        operation=_text(operation),
        model=_text(model),
        usage=Usage(**used),
        usd=_dollars(usd),
        tags=tuple((str(name), str(value)) for name, value in json.loads(tags)),
        savings=tuple(_saving(*saving) for saving in json.loads(savings)),
        overhead=bool(overhead),
        tier=tier,
        seconds=float(seconds),
        why=_text(why),
    )


def _saving(stage: str, usd: object, tokens: int, kind: Any, why: str) -> Saving:
    if kind not in ("measured", "modelled", "sampled"):
        raise ValueError("the kind of a saving is damaged")
    return Saving(stage=str(stage), usd=_dollars(usd), tokens=int(tokens), kind=kind, why=str(why))


def _dollars(picos: object) -> Decimal | None:
    if picos is None:
        return None
    if not isinstance(picos, int) or isinstance(picos, bool):
        raise TypeError("an amount is damaged")
    return dollars(picos)


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")
