"""Old records in compressed files, one for each day, which a report reads like a ledger.

A file is JSON lines in gzip: a heading, then one record in each line. It is made whole under
another name, brought to the disk and only then put in its place: there is never half of one.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, BinaryIO, Final

from costwise_core.errors import StoreError, StoreUnavailableError, StoreVersionError
from costwise_core.types import CallRecord, Saving, Usage

__all__ = ["Archive", "add_to_archive", "archive_days", "written_whole"]

_HEADING: Final = {"costwise": "calls", "version": 1}
_MAX_LINE: Final = 1_000_000
_EPOCH: Final = date(1970, 1, 1)
_PREFIX, _SUFFIX = "calls-", ".jsonl.gz"
_USAGE: Final = frozenset(field.name for field in fields(Usage))


class Archive:
    """Archived records, read from one file or from a folder of them.

    Args:
        path: The file or folder.

    Example:
        >>> import tempfile
        >>> old = CallRecord(id="1", at=0.0, operation="chat", model="m", usd=Decimal("0.25"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = add_to_archive(Path(folder), 0, [old])
        ...     [record.usd for record in Archive(folder).records()]
        [Decimal('0.25')]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damaged = 0
        """How many lines could not be read and were passed over."""

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield records at or after `since` that carry all the given tags, day by day.

        A damaged line is passed over and counted in `damaged`.

        Raises:
            StoreUnavailableError: if a file cannot be read.
            StoreVersionError: if it is no archive, or was written by a newer costwise.
        """
        wanted = set(tags)
        for path in self._files():
            for line in _lines(path):
                record = _record(line)
                if record is None:
                    self.damaged += 1
                elif (since is None or record.at >= since) and wanted.issubset(record.tags):
                    yield record

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        return [path for _, path in archive_days(self.path)]


def archive_days(folder: Path) -> list[tuple[int, Path]]:
    """Return the files of an archive by day (since 1970, in UTC), oldest first."""
    found = []
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            day = date.fromisoformat(path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX))
        except ValueError:
            continue  # somebody else's file
        found.append(((day - _EPOCH).days, path))
    return sorted(found)


def add_to_archive(folder: Path, day: int, records: Iterable[CallRecord]) -> list[str]:
    """Put records into the file of their day; those that are there already stay as they are.

    When it returns, they are on the disk. Only one process may do this at a time.

    Args:
        folder: Where the files lie.
        day: Days since 1970, in UTC.
        records: Of that day.

    Returns:
        The ids of the records given.

    Raises:
        StoreError: if the file cannot be written, or the one there is damaged.

    Example:
        >>> import tempfile
        >>> old = CallRecord(id="1", at=0.0, operation="chat", model="m")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     add_to_archive(Path(folder), 0, [old]) + add_to_archive(Path(folder), 0, [old])
        ['1', '1']
    """
    path = folder / f"{_PREFIX}{_EPOCH + timedelta(days=day)}{_SUFFIX}"
    given: list[str] = []
    known: set[str] = set()
    with written_whole(path) as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
        out.write(_line(_HEADING))
        if path.exists():
            for line in _lines(path):
                record = _record(line)
                if record is None:
                    raise StoreError(
                        f"{path} is damaged, so nothing was added to it and nothing deleted from "
                        "the ledger. Move it away to begin a new one."
                    )
                known.add(record.id)
                out.write(line)
        for record in records:
            given.append(record.id)
            if record.id not in known:
                known.add(record.id)
                out.write(_line(_dumped(record)))
    return given


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Lend a file that takes its place at the end of the block, once it is on the disk.

    Raises:
        StoreUnavailableError: if it cannot be written; what was there before is still there.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        made = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(made, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        if hasattr(os, "O_DIRECTORY"):  # the new name itself must survive a power cut, too
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the records' lines of a file; a file that breaks off ends in one damaged line."""
    try:
        with gzip.open(path, "rb") as file:
            heading = json.loads(file.readline(_MAX_LINE))
            if not isinstance(heading, dict) or heading.get("costwise") != "calls":
                raise StoreVersionError(f"{path} is no archive of a ledger.")
            if heading.get("version") != _HEADING["version"]:
                raise StoreVersionError(
                    f"{path} was written by a newer costwise; upgrade it to read the file."
                )
            while line := file.readline(_MAX_LINE):
                yield line
    except (gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise StoreVersionError(f"{path} is no archive of a ledger.") from error
    except (EOFError, zlib.error):
        yield b""
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be read: {error.strerror}.") from error


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _dumped(record: CallRecord) -> dict[str, object]:
    return {
        **{field.name: getattr(record, field.name) for field in fields(CallRecord)},
        "usd": _amount(record.usd),
        "usage": {name: count for name, count in asdict(record.usage).items() if count},
        "savings": [{**asdict(one), "usd": _amount(one.usd)} for one in record.savings],
    }


def _amount(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:f}"


def _record(line: bytes) -> CallRecord | None:
    """Read a record back, trusting nothing in it; None if it is damaged."""
    try:
        values = json.loads(line)
        record = CallRecord(
            **{
                **values,
                "usd": _usd(values["usd"]),
                "usage": _usage(values["usage"]),
                "tags": tuple((str(name), str(value)) for name, value in values["tags"]),
                "savings": tuple(_saving(saving) for saving in values["savings"]),
                "at": float(values["at"]),
                "seconds": float(values["seconds"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError, InvalidOperation, RecursionError):
        return None
    named = (record.id, record.operation, record.model, record.why)
    texts = (*named, record.prompt_hash, record.prefix_hash)
    sound = all(isinstance(text, str) for text in texts) and record.tier in ("exact", "near", "")
    return record if sound and isinstance(record.overhead, bool) else None


def _usage(values: dict[str, Any]) -> Usage:
    if not values.keys() <= _USAGE or not all(
        isinstance(count, int) and count >= 0 for count in values.values()
    ):
        raise ValueError("the usage is damaged")
    return Usage(**values)


def _saving(values: dict[str, Any]) -> Saving:
    if values["kind"] not in ("measured", "modelled", "sampled"):
        raise ValueError("the kind of a saving is damaged")
    return Saving(
        stage=str(values["stage"]),
        usd=_usd(values["usd"]),
        tokens=int(values["tokens"]),
        kind=values["kind"],
        why=str(values["why"]),
    )


def _usd(text: object) -> Decimal | None:
    if text is None:
        return None
    if not isinstance(text, str) or not (amount := Decimal(text)).is_finite():
        raise ValueError("an amount is damaged")
    return amount
