"""What every embedded store asks of an entry before it keeps it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.errors import ConfigError, EntryTooLargeError, StoreError, VectorError
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry

__all__ = ["MAX_ENTRY_BYTES", "Sized", "check_limits", "checked"]

MAX_ENTRY_BYTES: Final = 8_000_000
"""No entry may be larger, so that nothing read back can be either."""

_OVERHEAD_BYTES: Final = 200  # ids, times and usage, roughly


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
        StoreError: if an embedder or a time makes no sense.
    """
    limit = min(MAX_ENTRY_BYTES, max_bytes or MAX_ENTRY_BYTES)
    dims: dict[str, int] = {}
    kept = []
    for entry in entries:
        _check_times(entry)
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


def _check_times(entry: Entry) -> None:
    if not math.isfinite(entry.created) or (
        entry.expires is not None and math.isnan(entry.expires)
    ):
        raise StoreError(
            "an entry's times are seconds since the epoch, "
            f"got created={entry.created!r}, expires={entry.expires!r}."
        )


def _size(entry: Entry) -> int:
    texts = (entry.question, entry.answer, entry.tenant, entry.model, entry.corpus, *entry.tags)
    vector = 0 if entry.vector is None else 4 * entry.vector.size
    return _OVERHEAD_BYTES + vector + sum(len(t.encode("utf-8", "surrogatepass")) for t in texts)
