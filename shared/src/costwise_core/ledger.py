"""Keeps what was paid and saved in this process's memory; `SQLiteLedger` keeps it in a file."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from costwise_core.money import total
from costwise_core.types import CallRecord

__all__ = ["MemoryLedger"]


class MemoryLedger:
    """A ledger that ends with the process. Thread-safe.

    Example:
        >>> ledger = MemoryLedger()
        >>> call = CallRecord(id="1", at=0.0, operation="chat", model="m", usd=Decimal("0.25"))
        >>> ledger.record([call, call])
        >>> ledger.spent()
        Decimal('0.25')
    """

    blocking = False

    def __init__(self) -> None:
        self._records: dict[str, CallRecord] = {}
        self._lock = threading.Lock()

    def record(self, records: Sequence[CallRecord]) -> None:
        """Add records; an id that is already there is ignored."""
        with self._lock:
            for record in records:
                self._records.setdefault(record.id, record)

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield records at or after `since` that carry all the given tags, oldest first."""
        wanted = set(tags)
        with self._lock:
            kept = sorted(self._records.values(), key=lambda record: record.at)
        for record in kept:
            if (since is None or record.at >= since) and wanted.issubset(record.tags):
                yield record

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records by their ids and return how many there were."""
        wanted = list(ids)  # which may be read from this very ledger
        with self._lock:
            return sum(self._records.pop(ident, None) is not None for ident in wanted)

    def spent(self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()) -> Decimal:
        """Return the dollars paid in the records that `records` would yield, exactly.

        Calls without a known price add nothing.
        """
        return total(record.usd for record in self.records(since=since, tags=tags))
