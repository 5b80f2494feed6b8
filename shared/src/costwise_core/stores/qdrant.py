"""Entries on a Qdrant server, shared by as many processes and machines as reach it.

An entry is one point, so its vector and its answer are written together or not at all. Every search
compares with all vectors of its scope, in full precision, because a threshold means nothing on an
approximate score and a scope of some ten thousand entries needs no graph.

This store is neither `Journal` nor `Leases`: both need writes that depend on what is there, and a
server too old for such a condition ignores it in silence. Take them from another backend.

The tests speak to a double of the server on the loopback that answers from Qdrant's own engine
(qdrant-edge). No real server was at hand.
"""

import importlib.util
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.checks import checked
from costwise_core.stores.qdrant_collection import Collection
from costwise_core.stores.qdrant_points import (
    Json,
    entry_of,
    live,
    match,
    point_id,
    point_of,
    selected,
    vector_name,
)
from costwise_core.stores.qdrant_wire import NotThereError, RefusedError, Wire
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["QdrantStore"]

_SWEEP_SECONDS: Final = 60.0
_USES_KEPT: Final = 1_000
_IDS_PAGE: Final = 1_000
_PAGE: Final = 16
_EXACT: Final = {"exact": True, "quantization": {"ignore": True}}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")


class QdrantStore:
    """Keeps entries in a collection of a Qdrant server, 1.18 or newer; thread-safe, native async.

    The constructor connects to nothing; the first put makes the collection. A put is acknowledged
    when the server has applied it. How often an entry was served is told to the server with the
    next put, and processes that serve it at the same time may count less than all.

    Args:
        url: Where the server listens.
        api_key: What it asks for, if anything.
        collection: The collection that holds the entries and nothing else.
        timeout: Seconds a lookup or a put may take; making the collection may take 10.
        breaker: Decides when a server that fails is left alone.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if an argument is out of range.
        MissingExtraError: if qdrant-client is not installed.

    Example:
        >>> from costwise_core.stores.qdrant import QdrantStore
        >>> store = QdrantStore("http://127.0.0.1:9", timeout=0.2)  # nobody listens there
        >>> store.get("k", "s")
        Traceback (most recent call last):
        costwise_core.errors.StoreUnavailableError: Qdrant at http://127.0.0.1:9 did not answer ...
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:6333",
        *,
        api_key: str | None = None,
        collection: str = "costwise",
        timeout: float = 0.5,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < timeout <= 60:
            raise ConfigError(f"timeout is in seconds, above 0 and up to 60, got {timeout!r}.")
        if not _NAME.fullmatch(collection):
            raise ConfigError(
                f"collection must be 1 to 200 letters, digits, '_' or '-', got {collection!r}."
            )
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url must start with http:// or https://, got {url!r}.")
        if importlib.util.find_spec("qdrant_client") is None:
            raise MissingExtraError("QdrantStore", "qdrant")
        self.collection = collection
        self.damaged = 0
        """How many points this object found damaged and passed over."""
        self._timeout = timeout
        self._clock = clock
        self._wire = Wire(url, api_key=api_key, breaker=breaker or Breaker())
        self._collection = Collection(collection, self._wire, clock)
        self._lock = threading.Lock()
        self._uses: dict[str, tuple[int, int]] = {}
        self._swept = -math.inf

    # --- what callers use -------------------------------------------------------------------

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if the server cannot be asked.
        """
        return run(self._get(key, scope))

    async def aget(self, key: str, scope: str) -> Entry | None:
        """Do what `get` does, without blocking the event loop."""
        return await arun(self._get(key, scope))

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the server cannot be asked.
        """
        return run(self._search(vector, k, scope, embedder))

    async def asearch(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Do what `search` does, without blocking the event loop."""
        return await arun(self._search(vector, k, scope, embedder))

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry, or all of them together, are more than can be sent.
            StoreError: if an entry contradicts itself or the server did not confirm them.
        """
        run(self._put(entries))

    async def aput(self, entries: Sequence[Entry]) -> None:
        """Do what `put` does, without blocking the event loop."""
        await arun(self._put(entries))

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the server did not confirm it.
        """
        return run(self._delete(selection))

    async def adelete(self, selection: Selection) -> int:
        """Do what `delete` does, without blocking the event loop."""
        return await arun(self._delete(selection))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first, a few at a time.

        Raises:
            StoreError: if the server cannot be asked.
        """
        places = run(self._places(selection))
        for start in range(0, len(places), _PAGE):
            yield from run(self._read(places[start : start + _PAGE]))

    def close(self) -> None:
        """Close the connections of this process; using the store again opens new ones."""
        self._wire.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._wire.aclose()

    def __enter__(self) -> "QdrantStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the logic, written once ------------------------------------------------------------

    def _get(self, key: str, scope: str) -> Flow[Entry | None]:
        deadline = yield from call(self._wire.begin, self._timeout)
        ident = point_id(scope, key)
        if (yield from self._collection.known(deadline)) is None:
            return None
        try:
            found = yield from self._collection.ask(
                "retrieve", deadline, ids=[ident], with_payload=True, with_vectors=False
            )
        except NotThereError:  # dropped since
            self._collection.forget()
            return None
        entry = self._entry(found[0].payload) if found else None
        if entry is None:
            return None
        if (entry.scope, entry.key) != (scope, key):
            self.damaged += 1
            return None
        with self._lock:
            if ident in self._uses or len(self._uses) < _USES_KEPT:
                self._uses[ident] = (entry.uses, self._uses.get(ident, (0, 0))[1] + 1)
        return entry

    def _search(self, vector: Vector, k: int, scope: str, embedder: str) -> Flow[list[Neighbour]]:
        query = unit(vector)
        if k < 1 or not embedder:
            return []
        deadline = yield from call(self._wire.begin, self._timeout)
        name = vector_name(embedder, query.size)
        known = yield from self._collection.known(deadline, name)
        if known is None:
            return []
        if name not in known:
            yield from self._collection.check_width(deadline, embedder, query.size, known)
            return []
        try:
            found = yield from self._collection.ask(
                "query_points",
                deadline,
                query=query.tolist(),
                using=name,
                query_filter=live(
                    self._clock(), match("scope", scope), match("embedder", embedder)
                ),
                search_params=_EXACT,
                limit=k,
                with_payload=True,
            )
        except NotThereError:
            self._collection.forget()
            return []
        neighbours = []
        for point in found.points:
            entry = self._entry(point.payload)
            if entry is not None and math.isfinite(point.score):
                neighbours.append(Neighbour(entry=entry, cosine=min(1.0, float(point.score))))
        return neighbours

    def _put(self, entries: Sequence[Entry]) -> Flow[None]:
        fit = checked(entries, None)
        if not fit:
            return
        now = self._clock()
        # One request must not name a point twice; the last one counts.
        points = {point["id"]: point for point in (point_of(sized.entry, now) for sized in fit)}
        widths = {e.embedder: e.vector.size for e in (s.entry for s in fit) if e.vector is not None}
        deadline = yield from call(self._wire.begin, self._timeout)
        changes = [*self._sweep(now), *self._used(now), {"upsert": {"points": [*points.values()]}}]
        for again in (True, False):
            try:
                yield from self._collection.make_room(deadline, widths)
                yield from self._collection.change(deadline, changes)
            except (NotThereError, RefusedError):
                # Somebody dropped the collection since it was last looked at.
                self._collection.forget()
                if not again:
                    raise
            else:
                return

    def _delete(self, selection: Selection) -> Flow[int]:
        deadline = yield from call(self._wire.begin, self._timeout)
        if _nothing(selection) or (yield from self._collection.known(deadline)) is None:
            return 0
        now = self._clock()
        must = selected(selection)
        used = self._used(now) if selection.unused_since is not None else []
        try:
            if used:
                yield from self._collection.change(deadline, used)
            count = yield from self._collection.count(deadline, live(now, *must))
            yield from self._collection.change(deadline, [{"delete": {"filter": {"must": must}}}])
        except NotThereError:
            self._collection.forget()
            return 0
        return count

    def _places(self, selection: Selection) -> Flow[list[str]]:
        """Return the ids of the selected points, oldest first."""
        deadline = yield from call(self._wire.begin, self._timeout)
        if _nothing(selection) or (yield from self._collection.known(deadline)) is None:
            return []
        condition = live(self._clock(), *selected(selection))
        found: list[tuple[float, str]] = []
        offset = None
        while True:
            deadline = yield from call(self._wire.begin, self._timeout)
            records, offset = yield from self._collection.ask(
                "scroll",
                deadline,
                scroll_filter=condition,
                limit=_IDS_PAGE,
                offset=offset,
                with_payload=["created"],
                with_vectors=False,
            )
            for record in records:
                created = (record.payload or {}).get("created")
                found.append((created if isinstance(created, float | int) else 0.0, record.id))
            if offset is None:
                return [ident for _, ident in sorted(found)]

    def _read(self, places: Sequence[str]) -> Flow[list[Entry]]:
        """Return the entries at these places that are still there, with their vectors."""
        deadline = yield from call(self._wire.begin, self._timeout)
        records = yield from self._collection.ask(
            "retrieve", deadline, ids=list(places), with_payload=True, with_vectors=True
        )
        found = {record.id: record for record in records}
        entries = (
            self._entry(found[place].payload, found[place].vector)
            for place in places
            if place in found
        )
        return [entry for entry in entries if entry is not None]

    # --- what goes along with a put, and what comes back ----------------------------------------

    def _sweep(self, now: float) -> list[Json]:
        """Return the deletion of what has expired, now and then."""
        if now < self._swept + _SWEEP_SECONDS:
            return []
        self._swept = now
        return [{"delete": {"filter": {"must": [{"key": "expires", "range": {"lte": now}}]}}}]

    def _used(self, now: float) -> list[Json]:
        """Return the changes that tell the server what was served since the last ones."""
        with self._lock:
            uses, self._uses = self._uses, {}
        together: dict[int, list[str]] = {}
        for ident, (seen, more) in uses.items():
            together.setdefault(seen + more, []).append(ident)
        return [
            {
                "set_payload": {
                    "payload": {"used": now, "uses": count},
                    # By filter: to name a point that is gone would be an error.
                    "filter": {"must": [{"has_id": idents}]},
                }
            }
            for count, idents in together.items()
        ]

    def _entry(self, payload: object, vectors: object = None) -> Entry | None:
        """Return the live entry that was read, None if it has expired or is damaged."""
        try:
            entry = entry_of(payload)
            if entry.embedder and isinstance(vectors, dict):
                (vector,) = vectors.values()
                entry = entry_of(payload, unit(vector))
        except (ValueError, TypeError):  # VectorError is a ValueError
            self.damaged += 1
            return None
        if entry.expires is not None and entry.expires <= self._clock():
            return None
        return entry


def _nothing(selection: Selection) -> bool:
    return selection.keys == () or selection.changed == ()
