"""How long records and reports are kept: what is older is archived, or deleted.

Nothing is deleted before its copy is on the disk. Whatever is cut short in between, doing it again
finishes it: a record that is in the archive already is not put there twice.
"""

import gzip
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, Protocol

from costwise_core.errors import ConfigError, StoreUnavailableError
from costwise_core.ledger_archive import add_to_archive, archive_days, written_whole
from costwise_core.stores.sqlite_file import SQLiteFile
from costwise_core.types import CallRecord

__all__ = ["Kept", "Retention", "retain_calls", "retain_reports"]

_DAY: Final = 86_400
_LOCK_ID: Final = 0x43574152
_REPORTS: Final = (".html", ".md", ".csv", ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """How long something is kept.

    Args:
        keep_days: Days it stays where it is; of records, whole days in UTC.
        archive: Folder in which older ones are kept compressed; None deletes them.
        archive_days: Days after which an archived one is deleted; None is never.

    Raises:
        ConfigError: if a number of days is not positive, or the archive would be left sooner than
            entered.

    Example:
        >>> Retention(keep_days=90, archive="old", archive_days=730).keep_days
        90
    """

    keep_days: float
    archive: str | os.PathLike[str] | None = None
    archive_days: float | None = None

    def __post_init__(self) -> None:
        for name, days in (("keep_days", self.keep_days), ("archive_days", self.archive_days)):
            if days is not None and not 0 < days < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {days!r}.")
        if self.archive_days is not None and self.archive is None:
            raise ConfigError("archive_days is the age of archived files; give archive, too.")
        if self.archive_days is not None and self.archive_days <= self.keep_days:
            raise ConfigError(
                f"archive_days counts from the call, so it must be above keep_days, got "
                f"{self.archive_days!r} and {self.keep_days!r}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What was done.

    Args:
        archived: Records or reports that were moved into the archive.
        deleted: Those that were deleted without.
        expired: Files deleted from the archive.

    Example:
        >>> Kept(archived=3)
        Kept(archived=3, deleted=0, expired=0)
    """

    archived: int = 0
    deleted: int = 0
    expired: int = 0


class _Deletable(Protocol):
    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]: ...

    def delete(self, ids: Iterable[str]) -> int: ...


def retain_calls(
    ledger: _Deletable, policy: Retention, *, clock: Callable[[], float] = time.time
) -> Kept:
    """Archive or delete a ledger's old records; call it now and then, such as once a day.

    Other processes may record meanwhile. A record that cannot be read, or that has a
    time before 1970, stays where it is.

    Args:
        ledger: A `SQLiteLedger` or `MemoryLedger`.
        policy: What is old, and what becomes of it.
        clock: Returns seconds since the epoch.

    Raises:
        StoreError: if the ledger or the archive cannot be used, or another process is at it.

    Example:
        >>> from costwise_core import MemoryLedger
        >>> ledger = MemoryLedger()
        >>> ledger.record([CallRecord(id="1", at=0.0, operation="chat", model="m")])
        >>> retain_calls(ledger, Retention(keep_days=30))
        Kept(archived=0, deleted=1, expired=0)
    """
    now = clock()
    before = math.floor((now - policy.keep_days * _DAY) / _DAY) * _DAY
    old = takewhile(lambda record: record.at < before, ledger.records(since=0.0))
    if policy.archive is None:
        deleted = ledger.delete(record.id for record in old)
        _tidy(ledger)
        return Kept(deleted=deleted)
    folder, archived, expired = Path(policy.archive), 0, 0
    with _alone(folder):
        for day, records in groupby(old, key=lambda record: int(record.at // _DAY)):
            archived += ledger.delete(add_to_archive(folder, day, records))
        if policy.archive_days is not None:
            oldest = (now - policy.archive_days * _DAY) / _DAY
            expired = _delete(path for day, path in archive_days(folder) if day + 1 <= oldest)
    _tidy(ledger)
    return Kept(archived=archived, expired=expired)


def retain_reports(
    folder: str | os.PathLike[str],
    policy: Retention,
    *,
    pattern: str = "report*",
    clock: Callable[[], float] = time.time,
) -> Kept:
    """Archive or delete old reports in a folder, by when they were last written.

    Args:
        folder: Where they lie; folders inside it are left alone.
        policy: What is old, and what becomes of it.
        pattern: What their names look like; of these, only .html, .md, .csv and .json files.
        clock: Returns seconds since the epoch.

    Raises:
        StoreError: if the archive cannot be used, or another process is at it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "report.html").write_text("old")
        ...     retain_reports(folder, Retention(keep_days=1), clock=lambda: 4e9)
        Kept(archived=0, deleted=1, expired=0)
    """
    now = clock()
    before = now - policy.keep_days * _DAY
    old = [
        path
        for path in sorted(Path(folder).glob(pattern))
        if path.is_file() and path.suffix in _REPORTS and path.stat().st_mtime < before
    ]
    if policy.archive is None:
        return Kept(deleted=_delete(old))
    archive, expired = Path(policy.archive), 0
    with _alone(archive):
        for path in old:
            _compress(path, archive)
        if policy.archive_days is not None:
            oldest = now - policy.archive_days * _DAY
            expired = _delete(
                path
                for suffix in _REPORTS
                for path in sorted(archive.glob(f"{pattern}{suffix}.gz"))
                if path.stat().st_mtime < oldest
            )
    return Kept(archived=len(old), expired=expired)


def _compress(path: Path, archive: Path) -> None:
    """Move a file into the archive under a name that says when it was written."""
    written = path.stat().st_mtime
    name = f"{path.stem}-{datetime.fromtimestamp(written, UTC):%Y%m%dT%H%M%S}{path.suffix}.gz"
    with (
        path.open("rb") as plain,
        written_whole(archive / name) as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out,
    ):
        shutil.copyfileobj(plain, out)
    os.utime(archive / name, (written, written))
    path.unlink()


def _delete(paths: Iterable[Path]) -> int:
    deleted = 0
    for path in paths:
        path.unlink(missing_ok=True)
        deleted += 1
    return deleted


def _tidy(ledger: object) -> None:
    tidy = getattr(ledger, "tidy", None)
    if tidy is not None:
        tidy()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of an archive; a lock of SQLite's ends with whoever holds it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"{folder} cannot be made: {error.strerror}.") from error
    lock = SQLiteFile(
        folder / ".lock",
        application_id=_LOCK_ID,
        schema=("CREATE TABLE holder (id)",),
        busy_timeout=0,
        max_value_bytes=1_000,
    )
    try:
        with lock.writing():
            yield
    finally:
        lock.close()
