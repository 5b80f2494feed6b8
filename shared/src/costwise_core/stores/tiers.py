"""Several stores as one: the last knows everything, the faster ones in front answer repeats.

What a faster tier holds are copies, made when an entry is put or found, for exact repeats alone.
Similar questions are always looked for in the last tier: part of a neighbourhood is none, since the
runner-up that speaks against a candidate may be in the part that is missing.

A copy is trusted for a few seconds only. That is how long an answer that another process deleted or
replaced may still be served here, whatever happens to the connection in between. Inside one process
nothing is served after its deletion returned: a copy that was on its way into a faster tier then is
taken out again.
"""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, StoreError
from costwise_core.protocols import CacheStore, Journal, Leases
from costwise_core.stores.memory import MemoryStore
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["TieredStore"]

# The last tag of a copy; after it, as JSON, what the copy itself cannot say.
_MARK: Final = "costwise-copy "
_USES_KEPT: Final = 1_000
_USES_WITH_A_PUT: Final = 16
_LONG_AGO: Final = 0.0


class TieredStore:
    """Asks the fastest store first and trusts the last one; safe to share between threads.

    `put` writes the last tier and returns once that has acknowledged; `delete` deletes there first.
    Copies in the faster tiers are made on the way, as well as can be. While the last tier is gone,
    copies are served until they are no longer fresh; what has none raises the last tier's error.
    Logs and leases are those of the last tier that keeps any, or else this process's own.

    A hit in a faster tier is a use that the last tier does not see. It is told of up to 1,000 of
    them: of some with each `put`, of all before a deletion or a listing.

    Every method that waits has a twin with an "a" in front for async code.

    Args:
        *stores: Two or more, the fastest first and the one that knows everything last.
        fresh_for: Seconds for which a copy may be served unasked, and so the longest that another
            process's deletion goes unnoticed here. 0 keeps no copies. None trusts them for as long
            as the entry lives, which is right only where no other process deletes or replaces.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if there are fewer than two stores, or `fresh_for` is below 0 or infinite.

    Example:
        >>> from costwise_core import Entry, MemoryStore, Selection
        >>> shared = MemoryStore()  # stands for a SQLiteStore, RedisStore, PostgresStore ...
        >>> mine, yours = TieredStore(MemoryStore(), shared), TieredStore(MemoryStore(), shared)
        >>> mine.put([Entry(key="k", scope="s", question="What is RAG?", answer="A method.")])
        >>> yours.get("k", "s").answer
        'A method.'
        >>> yours.delete(Selection()), yours.get("k", "s")
        (1, None)
    """

    def __init__(
        self,
        *stores: CacheStore,
        fresh_for: float | None = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if len(stores) < 2:
            raise ConfigError(f"tiers are two stores or more, fastest first, got {len(stores)}.")
        if fresh_for is not None and not 0 <= fresh_for < math.inf:
            raise ConfigError(
                f"fresh_for is in seconds, 0 or more (None trusts copies for good), got "
                f"{fresh_for!r}."
            )
        self.stores = stores
        self._last = stores[-1]
        self._faster = stores[:-1]
        self._asked_first = self._faster if fresh_for != 0 else ()
        self._fresh_for = fresh_for
        self._clock = clock
        own = MemoryStore()
        self._journal = next((s for s in reversed(stores) if isinstance(s, Journal)), own)
        self._leases = next((s for s in reversed(stores) if isinstance(s, Leases)), own)
        # Uses the last tier has not been told of, one item each.
        self._uses: deque[tuple[str, str]] = deque(maxlen=_USES_KEPT)
        self._changes = 0
        self._faults = 0
        self._lock = threading.Lock()

    @property
    def faults(self) -> int:
        """How many calls of the faster tiers failed and were passed over."""
        return self._faults

    # --- entries ----------------------------------------------------------------------------------

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if no faster tier has a copy and the last tier cannot be used.
        """
        return run(self._get(key, scope))

    async def aget(self, key: str, scope: str) -> Entry | None:
        """Do what `get` does, without blocking the event loop."""
        return await arun(self._get(key, scope))

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the last tier cannot be used.
        """
        return self._last.search(vector, k, scope, embedder)

    async def asearch(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Do what `search` does, without blocking the event loop."""
        return await arun(call(self._last.search, vector, k, scope, embedder))

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than the last tier accepts.
            StoreError: if an entry contradicts itself or the last tier cannot be used.
        """
        run(self._put(entries))

    async def aput(self, entries: Sequence[Entry]) -> None:
        """Do what `put` does, without blocking the event loop."""
        await arun(self._put(entries))

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries everywhere; return how many live ones the last tier had.

        Raises:
            StoreError: if a tier cannot be used; try again, it can be repeated.
        """
        return run(self._delete(selection))

    async def adelete(self, selection: Selection) -> int:
        """Do what `delete` does, without blocking the event loop."""
        return await arun(self._delete(selection))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the last tier's selected entries with their vectors, oldest first.

        Raises:
            StoreError: if the last tier cannot be used.
        """
        run(self._tell_uses(_USES_KEPT))
        yield from self._last.entries(selection)

    # --- logs and leases --------------------------------------------------------------------------

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none.

        Raises:
            EntryTooLargeError: if a row has more than 4,000 bytes.
            StoreError: if the tier that keeps the logs cannot be used.
        """
        self._journal.append(name, rows)

    async def aappend(self, name: str, rows: Sequence[str]) -> None:
        """Do what `append` does, without blocking the event loop."""
        await arun(call(self._journal.append, name, rows))

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        Raises:
            StoreError: if `after` is no position or the tier that keeps the logs cannot be used.
        """
        return self._journal.read(name, after)

    async def aread(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Do what `read` does, without blocking the event loop."""
        return await arun(call(self._journal.read, name, after))

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if `seconds` is not a finite number above 0.
            StoreError: if the tier that keeps the leases cannot be used.
        """
        return self._leases.acquire(name, owner, seconds)

    async def aacquire(self, name: str, owner: str, seconds: float) -> bool:
        """Do what `acquire` does, without blocking the event loop."""
        return await arun(call(self._leases.acquire, name, owner, seconds))

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the tier that keeps the leases cannot be used.
        """
        self._leases.release(name, owner)

    async def arelease(self, name: str, owner: str) -> None:
        """Do what `release` does, without blocking the event loop."""
        await arun(call(self._leases.release, name, owner))

    # --- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the stores that can be closed."""
        run(self._close())

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        await arun(self._close())

    def __enter__(self) -> "TieredStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- how --------------------------------------------------------------------------------------

    def _get(self, key: str, scope: str) -> Flow[Entry | None]:
        seen = self._changes
        for place, store in enumerate(self._asked_first):
            try:
                copy = yield from call(store.get, key, scope)
            except Exception:  # noqa: BLE001 - the next tier knows it too
                self._faults += 1
                continue
            original = _original(copy)
            if copy is not None and original is not None:
                self._uses.append((key, scope))
                yield from self._keep(self._asked_first[:place], [copy], seen)
                return original
        entry = yield from call(self._last.get, key, scope)
        if entry is not None:
            yield from self._keep(self._asked_first, [self._copy(entry)], seen)
        return entry

    def _put(self, entries: Sequence[Entry]) -> Flow[None]:
        yield from self._tell_uses(_USES_WITH_A_PUT)
        copies = [self._copy(entry) for entry in entries]
        before = self._changed()
        try:
            yield from call(self._last.put, entries)
        except Exception:  # it may have been kept all the same
            self._changed()
            yield from self._forget(copies)
            raise
        after = self._changed()
        if after == before + 1:
            yield from self._keep(self._asked_first, copies, after)
        else:  # of two that wrote at once, nobody here knows who was last
            yield from self._forget(copies)

    def _delete(self, selection: Selection) -> Flow[int]:
        yield from self._tell_uses(_USES_KEPT)
        try:
            count = yield from call(self._last.delete, selection)
        finally:
            self._changed()
        fault = None
        for store in self._faster:
            try:
                # When a copy was used says nothing of when the entry was.
                yield from call(store.delete, replace(selection, unused_since=None))
            except Exception as error:  # noqa: BLE001 - raised below, when all have been told
                fault = error
        if fault is not None:
            bound = "" if self._fresh_for is None else f", for up to {self._fresh_for:g} s"
            raise StoreError(
                f"{count} entries were deleted from the last tier, but a faster one failed and may "
                f"go on serving its copies{bound}; delete again."
            ) from fault
        return count

    def _close(self) -> Flow[None]:
        for store in self.stores:
            close = getattr(store, "close", None)
            if close is not None:
                yield from call(close)

    def _keep(self, tiers: Sequence[CacheStore], copies: Sequence[Entry], seen: int) -> Flow[None]:
        """Put copies into faster tiers, unless something was put or deleted since they were seen.

        Whoever writes counts the change before it touches these tiers, so either it comes after
        this and overwrites the copy, or the copy is taken out here.
        """
        for store in tiers:
            kept = yield from self._overwrite(store, copies)
            if not kept or self._changes != seen:
                yield from self._overwrite(store, [_blank(copy) for copy in copies])

    def _forget(self, copies: Sequence[Entry]) -> Flow[None]:
        for store in self._asked_first:
            yield from self._overwrite(store, [_blank(copy) for copy in copies])

    def _overwrite(self, store: CacheStore, copies: Sequence[Entry]) -> Flow[bool]:
        try:
            yield from call(store.put, copies)
        except Exception:  # noqa: BLE001 - the last tier has it
            self._faults += 1
            return False
        return True

    def _tell_uses(self, most: int) -> Flow[None]:
        """Make good for hits in faster tiers: to a store, a use is a `get`."""
        for _ in range(min(most, len(self._uses))):
            try:
                key, scope = self._uses.popleft()
                yield from call(self._last.get, key, scope)
            except Exception:  # noqa: BLE001 - what comes next will say what is wrong
                return

    def _changed(self) -> int:
        with self._lock:
            self._changes += 1
            return self._changes

    def _copy(self, entry: Entry) -> Entry:
        ends = [] if entry.expires is None else [entry.expires]
        if self._fresh_for is not None:
            ends.append(self._clock() + self._fresh_for)
        mark = _MARK + json.dumps([entry.expires, entry.embedder])
        return replace(
            entry,
            vector=None,
            embedder="",
            expires=min(ends, default=None),
            tags=(*entry.tags, mark),
        )


def _original(copy: Entry | None) -> Entry | None:
    """Return the entry a copy was made of; None if it is no copy.

    A file that was once a store of its own holds entries that nobody has been keeping fresh.
    """
    if copy is None or not copy.tags or not copy.tags[-1].startswith(_MARK):
        return None
    try:
        expires, embedder = json.loads(copy.tags[-1].removeprefix(_MARK))
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(embedder, str) or not isinstance(expires, int | float | None):
        return None
    return replace(copy, expires=expires, embedder=embedder, tags=copy.tags[:-1])


def _blank(copy: Entry) -> Entry:
    """Return what takes a copy's place where it must not be served: one that has expired.

    Deleting it would do the same, but stores look through all their entries for a deletion.
    """
    return Entry(
        key=copy.key, scope=copy.scope, question="", answer="", expires=_LONG_AGO, created=_LONG_AGO
    )
