"""Keeps what was paid and saved in one SQLite file, for several threads and processes at once."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, StoreError
from costwise_core.ledger_schema import APPLICATION_ID, SCHEMA, SERIES_TAGS
from costwise_core.money import dollars, picodollars, total
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.types import CallRecord, Saving, Usage

if TYPE_CHECKING:
    from costwise_core.report.tally import Tally

__all__ = ["SQLiteLedger"]

_RECORD: Final = (
    "id, at, operation, model, usd, usage, savings, tags, overhead, tier, seconds, why, "
    "prompt_hash, prefix_hash"
)
_SUMMED: Final = (
    "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, estimated, saved, unpriced"
)
_SERIES: Final = ("operation", "model", "overhead", "tier", *SERIES_TAGS)
_SAME_SERIES: Final = " AND ".join(f"{name} = ?" for name in _SERIES)
_FIND_SERIES: Final = f"SELECT id FROM series WHERE {_SAME_SERIES}"  # noqa: S608
_NEW_SERIES: Final = (
    f"INSERT INTO series ({', '.join(_SERIES)}) VALUES ({', '.join('?' * len(_SERIES))})"  # noqa: S608
)
_INSERT: Final = (
    f"INSERT OR IGNORE INTO calls (series, {_RECORD}, {_SUMMED}) VALUES ({', '.join('?' * 22)})"  # noqa: S608
)
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
                added = db.execute(_INSERT, (_series(db, record), *row))
                if added.rowcount:
                    db.executemany(
                        "INSERT INTO savings VALUES (?, ?, ?, ?, ?, ?)",
                        [
                            (stage, kind, added.lastrowid, record.at, usd, tokens)
                            for (stage, kind), (usd, tokens) in _summed(record.savings).items()
                        ],
                    )
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
                    f"SELECT seq, {_RECORD} FROM calls WHERE {where} AND (at, seq) > (?, ?) "  # noqa: S608
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

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records by their ids and return how many there were.

        Raises:
            StoreError: if the file cannot be used.
        """
        deleted = 0
        wanted = iter(ids)
        # In small transactions, so that no writer waits long.
        while some := [_blob(ident) for ident in islice(wanted, _PAGE)]:
            with self._file.writing() as db:
                deleted += sum(_delete(db, ident) for ident in some)
        return deleted

    def tidy(self) -> None:
        """Forget the kinds of calls of which no record is left, and the users named in them.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._file.writing() as db:
            db.execute("DELETE FROM series WHERE id NOT IN (SELECT DISTINCT series FROM calls)")

    def tally(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        tags: Iterable[tuple[str, str]] = (),
    ) -> "Tally":
        """Return the sums that a report is made of, over records that `records` would yield.

        Args:
            since: Seconds since the epoch; records at or after it.
            until: Likewise; records before it.
            tags: That the records carry, all of them.

        Raises:
            StoreError: if the file cannot be used.
        """
        from costwise_core.report.tally import read_tally  # noqa: PLC0415 - only for reports

        where, values = _where(since, tags)
        if until is not None:
            where, values = f"{where} AND at < ?", (*values, until)
        with self._file.reading() as db:
            return read_tally(db, where, values)

    def close(self) -> None:
        """Close the file; using the ledger again opens it again."""
        if (file := self._files.pop(os.getpid(), None)) is not None:
            file.close()

    def __enter__(self) -> "SQLiteLedger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _file(self) -> SQLiteFile:
        file = self._files.get(os.getpid())
        if file is None:
            file = SQLiteFile(
                self.path,
                application_id=APPLICATION_ID,
                schema=SCHEMA,
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
    used = {name: count for name in _USAGE if (count := getattr(record.usage, name))}
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
    saved = total(one.usd for one in record.savings)
    for amount in (record.usd or Decimal(0), saved):
        if not -(2**63) <= picodollars(amount) < 2**63:
            raise StoreError(f"a call of {amount} dollars cannot be recorded.")
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
        _blob(record.prompt_hash),
        _blob(record.prefix_hash),
        record.usage.input_tokens,
        record.usage.output_tokens,
        record.usage.cache_read_tokens,
        record.usage.cache_write_tokens,
        record.usage.estimated,
        picodollars(saved),
        record.usd is None or any(one.usd is None for one in record.savings),
    )


def _summed(
    savings: Iterable[Saving],
) -> dict[tuple[bytes, str], tuple[int | None, int]]:
    """Add up what one call saved, by stage and kind; None where no price is known."""
    found: dict[tuple[bytes, str], tuple[int | None, int]] = {}
    for one in savings:
        key = (_blob(one.stage), one.kind)
        usd, tokens = found.get(key, (None, 0))
        if one.usd is not None:
            usd = (usd or 0) + picodollars(one.usd)
        found[key] = (usd, tokens + one.tokens)
    return found


def _delete(db: sqlite3.Connection, ident: bytes) -> bool:
    found = db.execute("SELECT seq, tags, savings FROM calls WHERE id = ?", (ident,)).fetchone()
    if found is None:
        return False
    seq, tags, savings = found
    db.execute("DELETE FROM calls WHERE seq = ?", (seq,))
    try:
        db.executemany(
            "DELETE FROM tags WHERE name = ? AND value = ? AND seq = ?",
            [(_blob(name), _blob(value), seq) for name, value in _tags(tags)],
        )
        db.executemany(
            "DELETE FROM savings WHERE stage = ? AND kind = ? AND seq = ?",
            [(_blob(stage), kind, seq) for stage, _, _, kind, _ in json.loads(savings)],
        )
    except (ValueError, TypeError, AttributeError, sqlite3.InterfaceError, RecursionError):
        # What is damaged does not say where its rows are, so they must be looked for.
        db.execute("DELETE FROM tags WHERE seq = ?", (seq,))
        db.execute("DELETE FROM savings WHERE seq = ?", (seq,))
    return True


def _tags(text: bytes) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in json.loads(text))


def _series(db: sqlite3.Connection, record: CallRecord) -> int:
    """Return the number of the record's kind of call, a new one for the first of its kind."""
    tags = dict(record.tags)
    key = (
        _blob(record.operation),
        _blob(record.model),
        record.overhead,
        record.tier,
        *(_blob(tags.get(tag, "")) for tag in SERIES_TAGS),
    )
    found = db.execute(_FIND_SERIES, key).fetchone()
    return int(found[0]) if found else int(db.execute(_NEW_SERIES, key).lastrowid or 0)


def _record(row: tuple[Any, ...]) -> CallRecord:
    """Read a row back, trusting nothing in it.

    Raises:
        ValueError, TypeError, KeyError: if it is damaged.
    """
    ident, at, operation, model, usd, usage, savings, tags, overhead, tier, seconds, why = row[:12]
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
        tags=_tags(tags),
        savings=tuple(_saving(*saving) for saving in json.loads(savings)),
        overhead=bool(overhead),
        tier=tier,
        seconds=float(seconds),
        why=_text(why),
        prompt_hash=_text(row[12]),
        prefix_hash=_text(row[13]),
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
