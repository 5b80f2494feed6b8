"""What every embedded store asks of an entry before it keeps it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.errors import ConfigError, EntryTooLargeError, StoreError, VectorError
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry

__all__ = [
    "JOURNAL_KEPT",
    "MAX_ENTRY_BYTES",
    "MAX_ROW_BYTES",
    "Sized",
    "check_limits",
    "check_rows",
    "check_seconds",
    "checked",
]

MAX_ENTRY_BYTES: Final = 8_000_000
"""No entry may be larger, so that nothing read back can be either."""

JOURNAL_KEPT: Final = 20_000
"""How many of a log's newest rows are kept."""

MAX_ROW_BYTES: Final = 4_000
"""No row of a log may be larger."""

_OVERHEAD_BYTES: Final = 200  # ids, times and usage, roughly
_MAX_USES: Final = 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """An entry fit to be kept, its vector a unit copy, and the bytes it counts for."""

    entry: Entry
    size: int


def check_limits(max_entries: int | None, max_bytes: int | None) -> None:
    """Refuse limits that no store can keep.

    Raises:
        ConfigError: if a limit is not a whole number above 0.
    """
    for name, limit in (("max_entries", max_entries), ("max_bytes", max_bytes)):
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ConfigError(
                f"{name} must be a whole number above 0, or None for no limit, got {limit!r}."
            )


def checked(entries: Sequence[Entry], max_bytes: int | None) -> list[Sized]:
    """Return the entries as they may be kept, or raise for the first that may not.

    Args:
        entries: What a caller wants to put.
        max_bytes: The store's own size limit, which no single entry may exceed.

    Raises:
        VectorError: if a vector is unusable, or one embedder's vectors differ in width.
        EntryTooLargeError: if an entry is larger than the store or `MAX_ENTRY_BYTES`.
        StoreError: if an embedder or a number makes no sense.
    """
    limit = min(MAX_ENTRY_BYTES, max_bytes or MAX_ENTRY_BYTES)
    dims: dict[str, int] = {}
    kept = []
    for entry in entries:
        _check_numbers(entry)
        if (entry.vector is None) != (entry.embedder == ""):
            got = f"embedder={entry.embedder!r} and {'no' if entry.vector is None else 'a'} vector"
            raise StoreError(
                f"an entry has a vector and the name of its embedder, or neither; got {got}."
            )
        if entry.vector is not None:
            vector = unit(entry.vector)
            if dims.setdefault(entry.embedder, vector.size) != vector.size:
                raise VectorError(
                    f"vectors of {entry.embedder!r} have {dims[entry.embedder]} dimensions, "
                    f"got {vector.size}."
                )
            entry = replace(entry, vector=vector)  # noqa: PLW2901
        size = _size(entry)
        if size > limit:
            raise EntryTooLargeError(f"an entry has {size} bytes; this store accepts {limit}.")
        kept.append(Sized(entry=entry, size=size))
    return kept


def check_rows(rows: Sequence[str]) -> list[bytes]:
    """Return the rows of a log as they may be kept.

    Raises:
        EntryTooLargeError: if a row has more than `MAX_ROW_BYTES`.
    """
    blobs = [row.encode("utf-8", "surrogatepass") for row in rows]
    largest = max(map(len, blobs), default=0)
    if largest > MAX_ROW_BYTES:
        raise EntryTooLargeError(f"a row has {largest} bytes; a log accepts {MAX_ROW_BYTES}.")
    return blobs


def check_seconds(seconds: float) -> None:
    """Refuse a time that no lease can last.

    Raises:
        ConfigError: if it is not a finite number above 0.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"a lease lasts a finite number of seconds above 0, got {seconds!r}.")


def _check_numbers(entry: Entry) -> None:
    if not math.isfinite(entry.created) or (
        entry.expires is not None and math.isnan(entry.expires)
    ):
        raise StoreError(
            "an entry's times are seconds since the epoch, "
            f"got created={entry.created!r}, expires={entry.expires!r}."
        )
    if not 0 <= entry.worth < math.inf or not 0 <= entry.uses <= _MAX_USES:
        raise StoreError(
            "an entry's worth is in dollars and its uses are counted, neither below 0, "
            f"got worth={entry.worth!r}, uses={entry.uses!r}."
        )


def _size(entry: Entry) -> int:
    texts = (
        entry.question,
        entry.answer,
        entry.text,
        entry.group,
        entry.tenant,
        entry.model,
        entry.corpus,
        *entry.tags,
        *(part for document in entry.documents for part in document),
    )
    vector = 0 if entry.vector is None else 4 * entry.vector.size
    return _OVERHEAD_BYTES + vector + sum(len(t.encode("utf-8", "surrogatepass")) for t in texts)
