"""One collection on a Qdrant server: made when it is needed, and refused when it is not ours."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from costwise_core.drive import Flow, call
from costwise_core.errors import (
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    VectorError,
)
from costwise_core.stores.qdrant_points import INDEXES, Json, live, match, vector_name
from costwise_core.stores.qdrant_wire import NotThereError, RefusedError, Wire

__all__ = ["Collection"]

_VERSION: Final = 1
_SETUP_SECONDS: Final = 10.0


class Collection:
    """The entries' collection. Its methods are flows; `drive.run` and `drive.arun` run them.

    Each embedder and width has a named vector of its own, so a point is a whole entry whatever
    embedded it, and vectors of two embedders are never compared.

    Args:
        name: The collection's name.
        wire: How to reach the server.
        clock: Returns seconds since the epoch.
    """

    def __init__(self, name: str, wire: Wire, clock: Callable[[], float]) -> None:
        self.name = name
        self._wire = wire
        self._clock = clock
        self._vectors: frozenset[str] | None = None  # the names; None until it is seen
        self._unindexed: list[str] = []

    def forget(self) -> None:
        """Look again before the next use: the collection is not as it was."""
        self._vectors = None

    def known(self, deadline: float, vector: str = "") -> Flow[frozenset[str] | None]:
        """Return the names of the collection's vectors, None if there is no collection.

        Args:
            deadline: When to give up.
            vector: A name that is worth looking again for.

        Raises:
            StoreVersionError: if the collection is not ours, or a newer one.
        """
        if self._vectors is None or (vector and vector not in self._vectors):
            try:
                info = yield from self.ask("get_collection", deadline)
            except NotThereError:
                self._vectors = None
            else:
                self._vectors = self._checked(info)
        return self._vectors

    def make_room(self, deadline: float, widths: Mapping[str, int]) -> Flow[None]:
        """See to it that the collection can hold vectors of these embedders and widths."""
        known = yield from self.known(deadline)
        if known is None:
            known = yield from self._make()
        yield from self._index()
        for embedder, dim in widths.items():
            name = vector_name(embedder, dim)
            known = (yield from self.known(deadline, name)) or known
            yield from self.check_width(deadline, embedder, dim, known)
            if name not in known:
                yield from self._add_vector(name, dim)

    def _make(self) -> Flow[frozenset[str]]:
        deadline = time.monotonic() + _SETUP_SECONDS
        with contextlib.suppress(RefusedError):  # another process was faster, or is still at it
            yield from self.ask(
                "create_collection",
                deadline,
                vectors_config={},
                shard_number=1,  # so that a put is applied at one place, whole
                hnsw_config={"m": 0},  # searches are exact: a graph would be built for nothing
                metadata={"costwise": _VERSION},
            )
        known = yield from self.known(deadline)
        if known is None:
            raise StoreUnavailableError(f"collection {self.name!r} was dropped while made.")
        return known

    def _index(self) -> Flow[None]:
        """Build the payload indexes that are missing, were it because their maker died."""
        deadline = time.monotonic() + _SETUP_SECONDS
        for name in self._unindexed:
            yield from self.ask(
                "create_payload_index",
                deadline,
                field_name=name,
                field_schema=INDEXES[name],
                wait=True,
            )
        self._unindexed = []

    def _add_vector(self, name: str, dim: int) -> Flow[None]:
        from qdrant_client import models  # noqa: PLC0415 - heavy, and loaded by now

        deadline = time.monotonic() + _SETUP_SECONDS
        dense = models.DenseVectorConfig(size=dim, distance=models.Distance.COSINE)
        refusal: StoreError | None = None
        try:
            yield from self.ask(
                "create_vector_name",
                deadline,
                vector_name=name,
                vector_name_config=models.DenseVectorNameConfig(dense=dense),
                wait=True,
            )
        except (NotThereError, RefusedError) as error:  # also when another process was faster
            refusal = error
        known = yield from self.known(deadline, name)
        if known is not None and name not in known:
            raise StoreVersionError(
                f"collection {self.name!r} takes no further vectors; "
                "this store needs Qdrant 1.18 or newer."
            ) from refusal

    def check_width(
        self, deadline: float, embedder: str, dim: int, known: frozenset[str]
    ) -> Flow[None]:
        """Refuse a width while live entries of the embedder have another."""
        name = vector_name(embedder, dim)
        own = name.partition("-")[0]
        others = [other for other in known - {name} if other.partition("-")[0] == own]
        if not others:
            return
        condition = live(self._clock(), match("embedder", embedder))
        condition["must_not"].append({"has_vector": name})
        if (yield from self.count(deadline, condition)):
            widths = ", ".join(sorted(other.partition("-")[2] for other in others))
            raise VectorError(f"vectors of {embedder!r} have {widths} dimensions, got {dim}.")

    def _checked(self, info: Any) -> frozenset[str]:
        """Return the names of the collection's vectors, if it is ours."""
        version = (info.config.metadata or {}).get("costwise")
        if not isinstance(version, int):
            raise StoreVersionError(
                f"collection {self.name!r} was not made by costwise, or by a Qdrant older "
                "than 1.18. Nothing in it was changed; name another collection."
            )
        if version > _VERSION:
            raise StoreVersionError(
                f"collection {self.name!r} has version {version}, written by a newer "
                f"costwise; this one reads up to version {_VERSION}. "
                "Upgrade costwise or name another collection."
            )
        self._unindexed = [name for name in INDEXES if name not in (info.payload_schema or {})]
        vectors = info.config.params.vectors
        return frozenset(vectors if isinstance(vectors, dict) else ())

    def ask(self, method: str, deadline: float, **arguments: Any) -> Flow[Any]:
        """Call a method of the client on this collection; see `Wire.send` for what is raised."""
        arguments["collection_name"] = self.name
        return (yield from call(self._wire.send, method, deadline, arguments))

    def count(self, deadline: float, condition: Json) -> Flow[int]:
        """Count the points that meet a filter."""
        found = yield from self.ask("count", deadline, count_filter=condition, exact=True)
        return int(found.count)

    def change(self, deadline: float, changes: Sequence[Json]) -> Flow[None]:
        """Apply changes in order and wait until the server has."""
        results = yield from self.ask(
            "batch_update_points", deadline, update_operations=list(changes), wait=True
        )
        if len(results) != len(changes) or any(r.status != "completed" for r in results):
            raise StoreUnavailableError("Qdrant did not confirm a change in time.")
