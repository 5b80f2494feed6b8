"""What a collection is asked by everything here, wherever it lies, and what it answers.

`RemoteTarget` asks a server, `EdgeTarget` the same engine in this process, and `LocalTarget` is
qdrant-client's local mode, which has nothing to tune and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from costwise_core.errors import ConfigError, nearest
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import models

__all__ = [
    "Answers",
    "Filters",
    "Inspection",
    "PointId",
    "Sample",
    "Status",
    "Target",
    "VectorSpace",
]

PointId: TypeAlias = int | str
"""A whole number, or a UUID as text."""

Filters: TypeAlias = "Sequence[models.Filter | None] | None"
"""One filter for each query, or None where nothing is filtered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorSpace:
    """One of the vectors that each point of a collection may have.

    Args:
        name: "" is the vector without a name.
        size: Dimensions; 0 for a sparse vector.
        distance: "Cosine", "Dot", "Euclid" or "Manhattan"; "Dot" for a sparse one.
        kind: "dense", "multi" (many vectors under one name, compared by MaxSim) or "sparse".
        datatype: How the original vectors are stored, such as "float32".
        index: How it is indexed, the vector's own settings before the collection's.
        full_scan_threshold: Kilobytes of vectors below which no graph is used.

    Example:
        >>> VectorSpace(size=384).index.m
        16
    """

    name: str = ""
    size: int
    distance: str = "Cosine"
    kind: Literal["dense", "multi", "sparse"] = "dense"
    datatype: str = "float32"
    index: IndexConfig = field(default_factory=IndexConfig)
    full_scan_threshold: int = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a collection says of itself; nothing in it was measured.

    Args:
        where: "remote", "edge" or "local".
        collection: Its name, or its folder.
        version: The server's version, or the engine's.
        points: How many it holds.
        indexed_vectors: How many vectors are in an index: at most points x dense vectors.
        segments: How many parts it is searched in.
        status: "green", "yellow" (being optimized), "grey" (waiting for a write) or "red".
        fault: What the optimizer failed with, "" if it did not.
        vectors: All its vectors.
        selected: The name of the one that is asked.
        payload_indexes: Field -> type of the payload indexes.
        indexing_threshold: Kilobytes of vectors below which a segment gets no index; 0 for never.
        strict: The limits of strict mode that are set, none if it is off.
        payload: Where payloads lie.
        replication: Copies of each shard.
        shards: How many.
        deferred: Points that are not searched until they are optimized.
        warnings: What the server warns of.
        raw: Its whole configuration as the server gave it, to restore it exactly.

    Example:
        >>> seen = Inspection(where="edge", collection="docs", version="0.9.0", points=0,
        ...                   vectors=(VectorSpace(size=384),))
        >>> seen.vector.size
        384
    """

    where: Literal["remote", "edge", "local"]
    collection: str
    version: str
    points: int
    vectors: tuple[VectorSpace, ...]
    selected: str = ""
    indexed_vectors: int = 0
    segments: int = 1
    status: str = "green"
    fault: str = ""
    payload_indexes: Mapping[str, str] = field(default_factory=dict)
    indexing_threshold: int = 10_000
    strict: Mapping[str, Any] = field(default_factory=dict)
    payload: str = "cold"
    replication: int = 1
    shards: int = 1
    deferred: int = 0
    warnings: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def vector(self) -> VectorSpace:
        """The vector that is asked.

        Raises:
            ConfigError: if there is none of that name, or it has no graph to tune.
        """
        names = [space.name for space in self.vectors]
        if self.selected not in names:
            named = ", ".join(map(repr, names)) or "none"
            raise ConfigError(
                f"{self.collection!r} has no vector {self.selected!r}."
                f"{nearest(self.selected, names)} It has: {named}."
            )
        space = self.vectors[names.index(self.selected)]
        if space.kind != "dense":
            raise ConfigError(f"vector {space.name!r} is {space.kind}: {_REFUSED[space.kind]}.")
        return space


_REFUSED: Final = {
    "sparse": "its index is exact, so there is nothing to trade for recall",
    "multi": "each query is many vectors, which is not supported; tune the dense vector that "
    "finds the candidates",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How far a collection is with a change.

    Args:
        status: "green", "yellow", "grey" or "red".
        points: How many it holds.
        indexed_vectors: How many vectors are in an index.
        segments: How many parts it is searched in.
        pending: Optimizations that run or wait; None if this server cannot say (before 1.17).
        fault: What the optimizer failed with, "" if it did not.

    Example:
        >>> Status(status="green", points=10, indexed_vectors=10, segments=1, pending=0).pending
        0
    """

    status: str
    points: int
    indexed_vectors: int
    segments: int
    pending: int | None
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Some of a collection's points, by chance.

    Args:
        ids: Of n points.
        vectors: (n, dims) of float32.
        payloads: Of n points, or none at all.
    """

    ids: tuple[PointId, ...]
    vectors: "NDArray[np.float32]"
    payloads: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a number of queries found.

    Args:
        ids: For each query, the points found, the best first.
        scores: For each query, their scores.
        seconds: For each query, how long it took on the clock.
        cpu_seconds: Of this process for all of them; None where a server did the work.

    Example:
        >>> Answers(ids=((1, 2),), scores=((0.9, 0.8),), seconds=(0.001,)).cpu_seconds is None
        True
    """

    ids: tuple[tuple[PointId, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]
    cpu_seconds: float | None = None


class Target(Protocol):
    """A collection that can be looked at, asked and changed.

    All of it raises `StoreUnavailableError` if the collection cannot be reached, `StoreError` if it
    refuses, and `ConfigError` if what is asked makes no sense for it.
    """

    def inspect(self) -> Inspection:
        """Return what the collection says of itself."""
        ...

    def status(self) -> Status:
        """Return how far it is with a change."""
        ...

    def vectors(self, limit: int, *, seed: int = 0, payload: bool = False) -> Sample:
        """Return up to `limit` of its points by chance, with their payloads if wanted."""
        ...

    def exact(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        *,
        filters: Filters = None,
        per_second: float | None = None,
    ) -> Answers:
        """Return the true nearest by the original vectors, at most `per_second` queries a second.

        Args:
            queries: (n, dims).
            k: How many for each.
            filters: One for each query, or none.
            per_second: Exact search reads everything: a server in use needs a limit.
        """
        ...

    def search(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        config: SearchConfig,
        *,
        filters: Filters = None,
    ) -> Answers:
        """Return what a search finds, one query after the other, as users would get it."""
        ...

    def configure(self, config: IndexConfig) -> None:
        """Ask for another index; it may still be built when this returns, see `status`."""
        ...
