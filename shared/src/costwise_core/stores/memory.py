"""Entries in this process's memory: the fastest store, empty again after a restart."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.errors import VectorError
from costwise_core.stores.checks import Sized, check_limits, check_rows, check_seconds, checked
from costwise_core.stores.eviction import rank
from costwise_core.stores.memory_journal import MemoryJournal
from costwise_core.stores.vectors import VectorIndex, unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps entries in memory and evicts what saves least; safe to share between threads.

    What is evicted first is in `costwise_core.stores.eviction`: the least saved dollars per byte,
    or the least recently used where no entry's worth is known.

    Args:
        max_entries: How many entries to keep; None for no limit.
        max_bytes: How many bytes of text and vectors to keep; None for no limit.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if a limit is not above 0.

    Example:
        >>> from costwise_core import Entry, MemoryStore
        >>> store = MemoryStore(max_entries=1)
        >>> store.put([Entry(key="k", scope="s", question="What is RAG?", answer="A method.")])
        >>> store.get("k", "s").answer, store.get("k", "another scope")
        ('A method.', None)
    """

    blocking: Final = False

    def __init__(
        self,
        *,
        max_entries: int | None = 100_000,
        max_bytes: int | None = 1_000_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_limits(max_entries, max_bytes)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._ticks = itertools.count()
        self._index = VectorIndex()
        self._slots: dict[tuple[str, str], _Slot] = {}
        # By number, which a new version of an entry gets anew.
        self._numbered: dict[int, _Slot] = {}
        # What ends soonest and what ranked lowest when it was put. Both may name what is gone.
        self._ending: list[tuple[float, int]] = []
        self._ranked: list[tuple[float, int, int]] = []
        self._bytes = 0
        self._journal = MemoryJournal()
        self._leases: dict[str, tuple[str, float]] = {}

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector."""
        with self._lock:
            now = self._clock()
            slot = self._slots.get((scope, key))
            if slot is None or slot.expired(now):
                return None
            slot.uses, slot.used, slot.tick = slot.uses + 1, now, next(self._ticks)
            return slot.entry

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
        """
        with self._lock:
            query = unit(vector, dim=self._index.dim(embedder))
            found = self._index.search(query, k, scope=scope, embedder=embedder, now=self._clock())
            return [
                Neighbour(entry=self._numbered[number].entry, cosine=cosine)
                for number, cosine in found
            ]

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than the store accepts.
            StoreError: if an entry contradicts itself.
        """
        fit = checked(entries, self._max_bytes)
        with self._lock:
            for sized in fit:
                self._check_dim(sized.entry)
            now = self._clock()
            for sized in fit:
                self._add(sized, now)
            self._drop_expired(now)
            self._evict()

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live."""
        with self._lock:
            chosen = self._selected(selection)
            for slot in chosen:
                self._remove(slot)
            return len(chosen)

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first."""
        with self._lock:
            chosen = sorted(self._selected(selection), key=lambda slot: slot.stored.created)
        for slot in chosen:
            with self._lock:
                if self._numbered.get(slot.number) is not slot or slot.expired(self._clock()):
                    continue
                entry = replace(slot.entry, vector=self._index.get(slot.number))
            yield entry

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none.

        Raises:
            EntryTooLargeError: if a row has more than 4,000 bytes.
        """
        check_rows(rows)
        with self._lock:
            self._journal.append(name, rows)

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        Raises:
            StoreError: if the position is none of a log's.
        """
        with self._lock:
            return self._journal.read(name, after)

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
        """
        check_seconds(seconds)
        with self._lock:
            now = self._clock()
            for ended in [n for n, (_, end) in self._leases.items() if end <= now]:
                del self._leases[ended]
            holder, _ = self._leases.get(name, (owner, now))
            if holder == owner:
                self._leases[name] = owner, now + seconds
            return holder == owner

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it."""
        with self._lock:
            if name in self._leases and self._leases[name][0] == owner:
                del self._leases[name]

    def _check_dim(self, entry: Entry) -> None:
        dim = self._index.dim(entry.embedder)
        if entry.vector is not None and dim not in (None, entry.vector.size):
            raise VectorError(
                f"vectors of {entry.embedder!r} have {dim} dimensions, got {entry.vector.size}."
            )

    def _selected(self, selection: Selection) -> list["_Slot"]:
        now = self._clock()
        fits = _condition(selection)
        return [slot for slot in self._slots.values() if not slot.expired(now) and fits(slot)]

    def _add(self, sized: Sized, now: float) -> None:
        entry = sized.entry
        old = self._slots.get((entry.scope, entry.key))
        if old is not None:
            self._remove(old)
        number = next(self._ticks)
        if entry.vector is not None:
            self._index.add(
                number,
                entry.vector,
                scope=entry.scope,
                embedder=entry.embedder,
                expires=entry.expires,
            )
        slot = _Slot(
            number=number,
            # The index has the only copy of the vector.
            stored=replace(entry, vector=None),
            size=sized.size,
            uses=entry.uses,
            used=now,
            tick=number,
        )
        self._slots[entry.scope, entry.key] = self._numbered[number] = slot
        self._bytes += sized.size
        heapq.heappush(self._ranked, slot.rank)
        if entry.expires is not None:
            heapq.heappush(self._ending, (entry.expires, number))

    def _remove(self, slot: "_Slot") -> None:
        del self._slots[slot.stored.scope, slot.stored.key]
        del self._numbered[slot.number]
        self._index.discard(slot.number)
        self._bytes -= slot.size

    def _drop_expired(self, now: float) -> None:
        while self._ending and self._ending[0][0] <= now:
            slot = self._numbered.get(heapq.heappop(self._ending)[1])
            if slot is not None:
                self._remove(slot)

    def _evict(self) -> None:
        """Delete the entries of lowest rank until the rest fits."""
        while self._too_full():
            noted = heapq.heappop(self._ranked)
            slot = self._numbered.get(noted[-1])
            if slot is None:
                continue
            if noted == slot.rank:
                self._remove(slot)
            else:  # it was used since
                heapq.heappush(self._ranked, slot.rank)
        if len(self._ranked) > 2 * len(self._slots) + 100:  # mostly of what is gone
            self._ranked = sorted(slot.rank for slot in self._slots.values())
            self._ending = [pair for pair in self._ending if pair[1] in self._numbered]
            heapq.heapify(self._ending)

    def _too_full(self) -> bool:
        return (self._max_entries is not None and len(self._slots) > self._max_entries) or (
            self._max_bytes is not None and self._bytes > self._max_bytes
        )


@dataclass(kw_only=True, slots=True)
class _Slot:
    """One entry as it is kept, and what becomes of it."""

    number: int
    stored: Entry
    size: int
    uses: int
    used: float
    tick: int  # tells apart what was used in the same moment

    @property
    def entry(self) -> Entry:
        """The entry with its uses of by now."""
        return replace(self.stored, uses=self.uses)

    @property
    def rank(self) -> tuple[float, int, int]:
        """What eviction goes by, and the slot's number."""
        worth = self.stored.worth
        return (
            rank(worth=worth, uses=self.uses, size=self.size, used=self.used),
            self.tick,
            self.number,
        )

    def expired(self, now: float) -> bool:
        """Return whether the entry may no longer be served."""
        return self.stored.expires is not None and self.stored.expires <= now


def _condition(selection: Selection) -> Callable[[_Slot], bool]:
    names = ("scope", "tenant", "model", "corpus")
    wanted = [(n, getattr(selection, n)) for n in names if getattr(selection, n) is not None]
    keys = None if selection.keys is None else frozenset(selection.keys)
    changed = None if selection.changed is None else dict(selection.changed)

    def fits(slot: _Slot) -> bool:
        entry = slot.stored
        return (
            all(getattr(entry, name) == value for name, value in wanted)
            and (keys is None or entry.key in keys)
            and (selection.tag is None or selection.tag in entry.tags)
            and (changed is None or _stale(entry, changed))
            and (selection.created_before is None or entry.created < selection.created_before)
            and (selection.unused_since is None or slot.used < selection.unused_since)
        )

    return fits


def _stale(entry: Entry, changed: dict[str, str]) -> bool:
    return any(
        document in changed and (changed[document] != version or version == "")
        for document, version in entry.documents
    )
