"""A Qdrant index in this process, beside a store that holds the entries.

The store is the truth: it acknowledges what is put, and every answer served is read from it. The
index only proposes which entries are near, so whatever happens to it costs speed and nothing else.
While it is missing, damaged or in another process's hands, the store searches itself.
"""

import hashlib
import importlib.util
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from costwise_core.errors import MissingExtraError, StoreError, StoreUnavailableError
from costwise_core.protocols import CacheStore
from costwise_core.stores.qdrant_points import point_id
from costwise_core.stores.qdrant_shard import Found, Row, Shard
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["QdrantEdgeStore"]

_CHUNK: Final = 100
"""Rows given to the engine at once: it holds Python's global lock meanwhile."""
_RETRY_SECONDS: Final = 30.0
_SWEEP_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 10.0
_SAME: Final = 1e-3


class QdrantEdgeStore:
    """Lets qdrant-edge search for a durable store, from a folder that may be deleted at any time.

    For stores too large to scan in memory: the vectors lie in files, and one scope's are compared
    at a time. One process has the index; others that open the same folder let their store search.
    What another process puts is near nothing here until the next `catch_up` or start; what it
    deletes or replaces is noticed at once.

    Args:
        store: Holds the entries, such as `SQLiteStore`.
        path: A folder for the index.
        clock: Returns seconds since the epoch.

    Raises:
        MissingExtraError: if qdrant-edge-py is not installed.

    Example:
        >>> import tempfile
        >>> from costwise_core import Entry, SQLiteStore
        >>> from costwise_core.stores.qdrant_edge import QdrantEdgeStore
        >>> entry = Entry(key="k", scope="s", question="q", answer="a", vector=[1, 0], embedder="e")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with QdrantEdgeStore(SQLiteStore(f"{folder}/a.db"), f"{folder}/index") as store:
        ...         store.put([entry])
        ...         store.search([1, 0], 1, "s", "e")[0].entry.answer
        'a'
    """

    def __init__(
        self,
        store: CacheStore,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if importlib.util.find_spec("qdrant_edge") is None:
            raise MissingExtraError("QdrantEdgeStore", "edge")
        self.store = store
        self.path = Path(path)
        self.repairs = 0
        """How often the index was found wrong and made anew or corrected."""
        self._clock = clock
        self._lock = threading.Lock()
        self._catching_up = threading.Lock()
        self._shard: Shard | None = None
        self._ready = False
        self._owner = os.getpid()
        self._written: set[str] = set()
        self._thread: threading.Thread | None = None
        self._next_try = -math.inf
        self._swept = -math.inf

    @property
    def indexed(self) -> bool:
        """Whether the index answers searches now."""
        return self._ready and self._owner == os.getpid()

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if the store cannot be used.
        """
        return self.store.get(key, scope)

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the store cannot be used.
        """
        shard = self._shard if self.indexed else None
        if shard is None:
            self._start()
        elif k >= 1:
            query = unit(vector)
            try:
                found = shard.search(query, k, scope=scope, embedder=embedder, now=self._clock())
            except Exception:  # noqa: BLE001 - the engine raises nothing more special
                self._distrust(shard)
                found = None
            if found is not None:
                neighbours = self._read(found, query, scope, embedder)
                if len(neighbours) == len(found):
                    return neighbours
                self._drop(found, neighbours, scope)
        return self.store.search(vector, k, scope, embedder)

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than the store accepts.
            StoreError: if an entry contradicts itself or the store cannot be used.
        """
        self.store.put(entries)
        latest = {point_id(entry.scope, entry.key): entry for entry in entries}
        self._write(
            _rows(latest.values()), [ident for ident, e in latest.items() if e.vector is None]
        )

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the store cannot be used; nothing was deleted then.
        """
        idents = []
        if self.indexed:
            idents = [point_id(e.scope, e.key) for e in self.store.entries(selection)]
        count = self.store.delete(selection)
        self._write([], idents)
        return count

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first.

        Raises:
            StoreError: if the store cannot be used.
        """
        return self.store.entries(selection)

    def catch_up(self) -> None:
        """Bring the index in step with the store, from nothing if need be, and wait for it.

        The first search does this in the background.

        Raises:
            StoreUnavailableError: if another process has the index, or it cannot be made.
            StoreError: if the store cannot be used.
        """
        with self._catching_up:
            with self._lock:
                if self._shard is None or self._owner != os.getpid():
                    self._shard = Shard(self.path)
                    self._owner = os.getpid()
                shard = self._shard
                self._written = set()
            try:
                self._compare(shard)
            except StoreError:
                raise
            except Exception as error:
                self._distrust(shard)
                raise StoreUnavailableError(f"the index in {self.path} failed: {error}") from error
            with self._lock:
                self._ready = self._shard is shard

    def rebuild(self) -> None:
        """Throw the index away, make it again, and wait for it.

        Raises:
            StoreUnavailableError: if another process has the index, or it cannot be made.
            StoreError: if the store cannot be used.
        """
        with self._lock:
            shard, self._shard, self._ready = self._shard, None, False
            if shard is not None:
                shard.discard()
        self.catch_up()

    def close(self) -> None:
        """Close the index, and the store if it can be closed."""
        with self._lock:
            shard, self._shard, self._ready = self._shard, None, False
            thread, self._thread = self._thread, None
            self._next_try = -math.inf
            if shard is not None and self._owner == os.getpid():
                shard.close()
        if thread is not None:  # it notices that the index has gone
            thread.join(_JOIN_SECONDS)
        getattr(self.store, "close", lambda: None)()

    def __enter__(self) -> "QdrantEdgeStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the index follows the store ------------------------------------------------------------

    def _start(self) -> None:
        """Begin to catch up in the background, unless that is under way or failed lately."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_try or (self._thread is not None and self._thread.is_alive()):
                return
            self._next_try = now + _RETRY_SECONDS
            self._thread = threading.Thread(
                target=self._catch_up_quietly, name="costwise-edge-index", daemon=True
            )
            self._thread.start()

    def _catch_up_quietly(self) -> None:
        with suppress(Exception):  # the store goes on searching; the next try is not far
            self.catch_up()

    def _compare(self, shard: Shard) -> None:
        """Make the index's rows those of the store."""
        seen: set[str] = set()
        entries = self.store.entries(Selection())
        while chunk := list(itertools.islice(entries, _CHUNK)):
            rows = _rows(chunk)
            changed = shard.missing(rows)
            seen.update(row.ident for row in rows)
            with self._lock:  # what was written meanwhile is newer than what was read
                if self._shard is not shard:
                    return
                shard.add([row for row in changed if row.ident not in self._written])
        left = set(shard.idents()) - seen
        with self._lock:
            if self._shard is not shard:
                return
            shard.drop(left - self._written)
            self._written = set()

    def _write(self, rows: Sequence[Row], gone: Sequence[str]) -> None:
        """Tell the index what the store has done."""
        with self._lock:
            shard = self._shard if self._owner == os.getpid() else None
            if shard is None:
                return
            if not self._ready:
                self._written |= {*(row.ident for row in rows), *gone}
            now = self._clock()
            try:
                shard.drop(gone)
                shard.add(rows)
                if now > self._swept + _SWEEP_SECONDS:
                    self._swept = now
                    shard.drop_expired(now)
            except Exception:  # noqa: BLE001 - the store has it, and that is what was promised
                failed = True
            else:
                failed = False
        if failed:
            self._distrust(shard)

    def _distrust(self, shard: Shard) -> None:
        """Throw away an index that fails, if it is still the one in use."""
        with self._lock:
            self.repairs += 1
            if self._shard is shard:
                self._shard, self._ready = None, False
                shard.discard()

    def _read(
        self, found: Sequence[Found], query: Vector, scope: str, embedder: str
    ) -> list[Neighbour]:
        """Return those of the proposed entries that are as near as the index says."""
        if not found:
            return []
        scores = {one.key: one.score for one in found}
        neighbours = []
        for entry in self.store.entries(Selection(scope=scope, keys=tuple(scores))):
            vector = entry.vector
            if vector is None or entry.embedder != embedder or vector.size != query.size:
                continue
            cosine = min(1.0, float(vector @ query))
            if abs(cosine - scores[entry.key]) < _SAME:
                bare = replace(entry, vector=None)
                neighbours.append(Neighbour(entry=bare, cosine=cosine))
        return sorted(neighbours, key=lambda neighbour: -neighbour.cosine)

    def _drop(self, found: Sequence[Found], right: Sequence[Neighbour], scope: str) -> None:
        """Correct rows that the store knows nothing of, or knows otherwise."""
        wrong = {one.key: one.ident for one in found}
        for neighbour in right:
            del wrong[neighbour.entry.key]
        self.repairs += 1
        rows = _rows(self.store.entries(Selection(scope=scope, keys=tuple(wrong))))
        self._write(rows, list(wrong.values()))


def _rows(entries: Iterable[Entry]) -> list[Row]:
    return [_row(entry, entry.vector) for entry in entries if entry.vector is not None]


def _row(entry: Entry, vector: Vector) -> Row:
    vector = unit(vector)
    expires = entry.expires
    if expires is not None:  # the engine's payload is JSON, which knows no infinity
        expires = min(max(expires, -sys.float_info.max), sys.float_info.max)
    digest = hashlib.blake2b(f"{expires!r} {entry.embedder!r} ".encode(), digest_size=12)
    digest.update(vector.tobytes())
    return Row(
        ident=point_id(entry.scope, entry.key),
        key=entry.key,
        scope=entry.scope,
        embedder=entry.embedder,
        expires=expires,
        stamp=digest.hexdigest(),
        vector=vector,
    )
