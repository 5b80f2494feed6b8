"""Entries in this process's memory: the fastest store, empty again after a restart."""

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from costwise_core.errors import VectorError
from costwise_core.stores.checks import Sized, check_limits, checked
from costwise_core.stores.vectors import VectorIndex, unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps entries in memory and evicts the least recently used; safe to share between threads.

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
        self._numbers = itertools.count()
        self._index = VectorIndex()
        # Least recently used first; a new version of an entry gets a new number.
        self._entries: OrderedDict[tuple[str, str], tuple[int, Sized]] = OrderedDict()
        self._names: dict[int, tuple[str, str]] = {}
        self._bytes = 0

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector."""
        with self._lock:
            found = self._entries.get((scope, key))
            if found is None:
                return None
            entry = found[1].entry
            if _expired(entry, self._clock()):
                self._remove((scope, key))
                return None
            self._entries.move_to_end((scope, key))
            return entry

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
        """
        with self._lock:
            query = unit(vector, dim=self._index.dim(embedder))
            found = self._index.search(query, k, scope=scope, embedder=embedder, now=self._clock())
            neighbours = []
            for number, cosine in found:
                name = self._names[number]
                self._entries.move_to_end(name)
                neighbours.append(Neighbour(entry=self._entries[name][1].entry, cosine=cosine))
            return neighbours

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
            for sized in fit:
                self._add(sized)
            while self._too_full():
                self._remove(next(iter(self._entries)))

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live."""
        with self._lock:
            now = self._clock()
            chosen = [
                (name, _expired(sized.entry, now))
                for name, (_, sized) in self._entries.items()
                if _selected(sized.entry, selection)
            ]
            for name, _ in chosen:
                self._remove(name)
            return sum(not expired for _, expired in chosen)

    def _check_dim(self, entry: Entry) -> None:
        dim = self._index.dim(entry.embedder)
        if entry.vector is not None and dim not in (None, entry.vector.size):
            raise VectorError(
                f"vectors of {entry.embedder!r} have {dim} dimensions, got {entry.vector.size}."
            )

    def _add(self, sized: Sized) -> None:
        entry = sized.entry
        name = (entry.scope, entry.key)
        if name in self._entries:
            self._remove(name)
        number = next(self._numbers)
        if entry.vector is not None:
            self._index.add(
                number,
                entry.vector,
                scope=entry.scope,
                embedder=entry.embedder,
                expires=entry.expires,
            )
            # The index has the only copy of the vector.
            sized = Sized(entry=replace(entry, vector=None), size=sized.size)
        self._entries[name] = (number, sized)
        self._names[number] = name
        self._bytes += sized.size

    def _remove(self, name: tuple[str, str]) -> None:
        number, sized = self._entries.pop(name)
        del self._names[number]
        self._index.discard(number)
        self._bytes -= sized.size

    def _too_full(self) -> bool:
        return (self._max_entries is not None and len(self._entries) > self._max_entries) or (
            self._max_bytes is not None and self._bytes > self._max_bytes
        )


def _expired(entry: Entry, now: float) -> bool:
    return entry.expires is not None and entry.expires <= now


def _selected(entry: Entry, selection: Selection) -> bool:
    wanted = (
        (selection.scope, entry.scope),
        (selection.tenant, entry.tenant),
        (selection.model, entry.model),
        (selection.corpus, entry.corpus),
    )
    return (
        all(value is None or value == own for value, own in wanted)
        and (selection.keys is None or entry.key in selection.keys)
        and (selection.tag is None or selection.tag in entry.tags)
    )
