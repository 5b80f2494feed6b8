"""How a collection's index is built and where it lies: settings that take a rebuild to change.

Qdrant keeps them apart from those of a search, which `SearchConfig` has, and so must whoever tunes
it: a search setting that is put into the collection is dropped without a word.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

from costwise_core.errors import ConfigError, nearest
from costwise_core.qdrant.extras import client_models, edge_module
from costwise_core.qdrant.quantizers import (
    QUANTIZATIONS,
    client_quantization,
    edge_quantization,
    quantizations_of,
    server_version,
)
from costwise_core.qdrant.settings_checks import check_whole, known_fields

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

__all__ = ["IndexConfig", "Memory"]

Memory: TypeAlias = Literal["cold", "cached", "pinned"]
"""Cold is read from disk when needed, cached is read ahead but may be evicted, pinned stays."""

_MEMORY: Final = ("cold", "cached", "pinned")

_MEMORY_SINCE: Final = (1, 19)
"""From here on `memory` replaces `on_disk` and `always_ram`, which servers still understand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """How a vector's index is built and where its parts lie; to change it takes a rebuild.

    The defaults are Qdrant's own, so `IndexConfig()` is the collection nobody has tuned.

    Args:
        m: Links a point has in the graph; 0 builds no graph.
        ef_construct: How widely links are searched for when the graph is built.
        quantization: "none", "int8", "turbo1", "turbo1.5", "turbo2", "turbo4", "turbo8", "binary",
            "binary1.5", "binary2", "product4" to "product64" (the compression ratio).
        quantile: Share of the values that int8's range must cover; None for all of them.
        vectors: Where the original vectors lie: "cached" or "cold" (they cannot be pinned).
        quantized: Where the quantized vectors lie.
        graph: Where the graph lies.

    Raises:
        ConfigError: if a value is out of its range.

    Example:
        >>> config = IndexConfig(quantization="int8", vectors="cold", ef_construct=200)
        >>> print(config)
        int8, m 16, ef_construct 200, vectors cold
        >>> IndexConfig.from_dict(config.to_dict()) == config
        True
    """

    m: int = 16
    ef_construct: int = 100
    quantization: str = "none"
    quantile: float | None = 0.99
    vectors: Memory = "cached"
    quantized: Memory = "pinned"
    graph: Memory = "cached"

    def __post_init__(self) -> None:
        check_whole("m", self.m, 0, 2_000)
        check_whole("ef_construct", self.ef_construct, 4, 10_000)
        if self.quantization not in QUANTIZATIONS:
            raise ConfigError(
                f"quantization {self.quantization!r} is unknown."
                f"{nearest(str(self.quantization), QUANTIZATIONS)} "
                f"Known: {', '.join(QUANTIZATIONS)}."
            )
        if self.quantile is not None and not 0.5 <= self.quantile <= 1:
            raise ConfigError(f"quantile must be from 0.5 to 1, or None, got {self.quantile}.")
        for name in ("vectors", "quantized", "graph"):
            if getattr(self, name) not in _MEMORY:
                raise ConfigError(
                    f"{name} must be one of {', '.join(_MEMORY)}, got {getattr(self, name)!r}."
                )
        if self.vectors == "pinned":
            raise ConfigError(
                "original vectors cannot be pinned; Qdrant would take it as 'cached'."
            )

    def for_client(self, version: str, *, vector: str = "") -> dict[str, Any]:
        """Return keyword arguments for `QdrantClient.update_collection`.

        They name the vector, since its own settings win over the collection's.

        Args:
            version: The server's, such as "1.19.0"; see `QdrantClient.info()`.
            vector: Its name; "" is the vector without one.

        Raises:
            ConfigError: if that version cannot do this.
            MissingExtraError: if qdrant-client is not installed.

        Example:
            >>> cold = IndexConfig(quantization="int8", vectors="cold")
            >>> cold.for_client("1.19.0")["vectors_config"][""].memory.value
            'cold'
            >>> cold.for_client("1.17.0")["vectors_config"][""].on_disk
            True
        """
        models = client_models()
        diff = models.VectorParamsDiff(**self._parts(version, disable=True))
        return {"vectors_config": {vector: diff}}

    def for_create(self, version: str, *, size: int, distance: str) -> "models.VectorParams":
        """Return what `QdrantClient.create_collection` takes for one vector.

        Args:
            version: The server's, such as "1.19.0".
            size: Dimensions.
            distance: "Cosine", "Dot", "Euclid" or "Manhattan".

        Raises:
            ConfigError: if that version cannot do this.
            MissingExtraError: if qdrant-client is not installed.

        Example:
            >>> IndexConfig(m=32).for_create("1.19.0", size=384, distance="Cosine").hnsw_config.m
            32
        """
        module = client_models()
        params: models.VectorParams = module.VectorParams(
            size=size, distance=module.Distance(distance), **self._parts(version, disable=False)
        )
        return params

    def for_edge(
        self,
        *,
        size: int,
        distance: str,
        vector: str = "",
        segments: int | None = 1,
        threads: int = 0,
        full_scan_threshold: int = 10,
        indexing_threshold: int | None = 100,
    ) -> "qdrant_edge.EdgeConfig":
        """Return the configuration of an edge shard.

        Args:
            size: Dimensions.
            distance: "Cosine", "Dot", "Euclid" or "Manhattan".
            vector: Its name; "" is the vector without one.
            segments: How many parts the shard is searched in.
            threads: Of the build; 0 lets the engine choose.
            full_scan_threshold: Kilobytes of vectors below which no graph is used. Qdrant's is
                10,000; this one lets a small shard stand for a large one.
            indexing_threshold: Kilobytes of vectors below which a part gets no graph. If
                this and `segments` are None, a shard that there is keeps what it has.

        Raises:
            MissingExtraError: if qdrant-edge-py is not installed.

        Example:
            >>> IndexConfig(m=8).for_edge(size=384, distance="Cosine").hnsw_config.m
            8
        """
        edge = edge_module()
        hnsw = edge.HnswIndexConfig(
            m=self.m,
            ef_construct=self.ef_construct,
            full_scan_threshold=full_scan_threshold,
            max_indexing_threads=threads,
            memory=_edge_memory(edge, self.graph),
        )
        params = edge.EdgeVectorParams(
            size=size,
            distance=getattr(edge.Distance, distance),
            memory=_edge_memory(edge, self.vectors),
        )
        config: qdrant_edge.EdgeConfig = edge.EdgeConfig(
            vectors={vector: params} if vector else params,
            hnsw_config=hnsw,
            quantization_config=edge_quantization(
                self.quantization, self.quantile, _edge_memory(edge, self.quantized)
            ),
            optimizers=None
            if segments is indexing_threshold is None
            else edge.EdgeOptimizersConfig(
                indexing_threshold=indexing_threshold,
                default_segment_number=segments,
                max_segment_size=1_000_000_000 if segments == 1 else None,
            ),
        )
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: if a name or a value is wrong.
        """
        return cls(**known_fields(cls, values))

    def __str__(self) -> str:
        """Return it in words, without what has no effect."""
        words = [
            "float32" if self.quantization == "none" else self.quantization,
            f"m {self.m}",
            f"ef_construct {self.ef_construct}",
            f"vectors {self.vectors}",
        ]
        if self.quantization != "none" and self.quantized != "pinned":
            words.append(f"quantized {self.quantized}")
        if self.graph != "cached":
            words.append(f"graph {self.graph}")
        return ", ".join(words)

    def _parts(self, version: str, *, disable: bool) -> dict[str, Any]:
        models = client_models()
        release = server_version(version)
        since = QUANTIZATIONS[self.quantization]
        if release < since:
            raise ConfigError(
                f"{self.quantization} needs Qdrant {since[0]}.{since[1]} or newer, "
                f"this is {version}; it has {', '.join(quantizations_of(version))}."
            )
        placed = release >= _MEMORY_SINCE and hasattr(models, "Memory")

        def lies(memory: Memory, old: str, *, when: str) -> dict[str, Any]:
            return {"memory": models.Memory(memory)} if placed else {old: memory == when}

        hnsw = models.HnswConfigDiff(
            m=self.m, ef_construct=self.ef_construct, **lies(self.graph, "on_disk", when="cold")
        )
        how = lies(self.quantized, "always_ram", when="pinned")
        return {
            "hnsw_config": hnsw,
            "quantization_config": client_quantization(self.quantization, self.quantile, how)
            or (models.Disabled.DISABLED if disable else None),
            **lies(self.vectors, "on_disk", when="cold"),
        }


def _edge_memory(edge: Any, memory: Memory) -> Any:
    return getattr(edge.Memory, memory.capitalize())
