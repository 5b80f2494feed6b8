"""How a collection is built and how it is searched, as two values that every engine understands.

Qdrant keeps the two apart, and so must whoever tunes it: `IndexConfig` belongs to the collection
and takes a rebuild, `SearchConfig` goes with each query. A search setting that is put into the
collection is dropped without a word.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
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

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

__all__ = [
    "QUANTIZATIONS",
    "IndexConfig",
    "Memory",
    "SearchConfig",
    "quantizations_of",
    "server_version",
]

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
        _whole("m", self.m, 0, 2_000)
        _whole("ef_construct", self.ef_construct, 4, 10_000)
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
        return cls(**_known(cls, values))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How a query is answered; goes with each query, and works without any rebuild.

    None leaves a setting to the server, which takes `ef_construct` for `hnsw_ef`, and rescores by
    itself only for binary and for turbo of up to 2 bits.

    Args:
        hnsw_ef: How widely the graph is searched.
        rescore: Whether the best by quantized vectors are compared again by the original ones.
        oversampling: How many times the limit is fetched for that; without it, rescoring on one
            segment only reorders what was found.
        exact: Whether everything is compared, without the graph and without quantization.
        ignore_quantization: Whether the original vectors are searched though there are quantized.
        indexed_only: Whether what has no index yet is left out.

    Raises:
        ConfigError: if a value is out of its range.

    Example:
        >>> config = SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0)
        >>> print(config)
        ef 128, rescore, oversampling 2
        >>> SearchConfig.from_dict(config.to_dict()) == config
        True
    """

    hnsw_ef: int | None = None
    rescore: bool | None = None
    oversampling: float | None = None
    exact: bool = False
    ignore_quantization: bool = False
    indexed_only: bool = False

    def __post_init__(self) -> None:
        if self.hnsw_ef is not None:
            _whole("hnsw_ef", self.hnsw_ef, 1, 100_000)
        if self.oversampling is not None and not 1 <= self.oversampling <= 1_000:
            raise ConfigError(f"oversampling must be from 1 to 1000, got {self.oversampling}.")

    def for_threshold(self) -> "SearchConfig":
        """Return it with scores that may be compared to a threshold.

        A quantized score may be far off: a binary one is a count of bits and no cosine at all.

        Example:
            >>> SearchConfig(hnsw_ef=64, rescore=False).for_threshold()
            SearchConfig(hnsw_ef=64, rescore=True, oversampling=2.0, exact=False, \
ignore_quantization=False, indexed_only=False)
        """
        if self.exact or self.ignore_quantization:
            return self
        return replace(self, rescore=True, oversampling=max(2.0, self.oversampling or 0.0))

    def for_client(self) -> "models.SearchParams":
        """Return what `QdrantClient.query_points` takes as `search_params`.

        Raises:
            MissingExtraError: if qdrant-client is not installed.

        Example:
            >>> SearchConfig(hnsw_ef=64).for_client().hnsw_ef
            64
        """
        params: models.SearchParams = client_models().SearchParams(**self.to_params())
        return params

    def for_edge(self) -> "qdrant_edge.SearchParams":
        """Return what a query to an edge shard takes as `params`.

        Raises:
            MissingExtraError: if qdrant-edge-py is not installed.

        Example:
            >>> SearchConfig(hnsw_ef=64).for_edge().hnsw_ef
            64
        """
        edge, params = edge_module(), self.to_params()
        if "quantization" in params:
            params["quantization"] = edge.QuantizationSearchParams(**params["quantization"])
        made: qdrant_edge.SearchParams = edge.SearchParams(**params)
        return made

    def to_params(self) -> dict[str, Any]:
        """Return the JSON that Qdrant's API calls `params`, without what is left to the server.

        Example:
            >>> SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0).to_params()
            {'hnsw_ef': 128, 'quantization': {'rescore': True, 'oversampling': 2.0}}
        """
        quantization = {
            "ignore": self.ignore_quantization or None,
            "rescore": self.rescore,
            "oversampling": self.oversampling,
        }
        params = {
            "hnsw_ef": self.hnsw_ef,
            "exact": self.exact or None,
            "indexed_only": self.indexed_only or None,
            "quantization": {k: v for k, v in quantization.items() if v is not None} or None,
        }
        return {name: value for name, value in params.items() if value is not None}

    def for_langchain(self) -> str:
        """Return the lines to paste into an app that uses `langchain_qdrant.QdrantVectorStore`.

        Example:
            >>> print(SearchConfig(hnsw_ef=128).for_langchain())
            from qdrant_client import models
            <BLANKLINE>
            search_params = models.SearchParams(
                hnsw_ef=128,
            )
            retriever = vector_store.as_retriever(search_kwargs={"search_params": search_params})
        """
        return (
            f"{self._code()}\nretriever = vector_store.as_retriever("
            'search_kwargs={"search_params": search_params})'
        )

    def for_llamaindex(self) -> str:
        """Return the lines to paste into an app that uses LlamaIndex's `QdrantVectorStore`.

        Example:
            >>> print(SearchConfig(hnsw_ef=128).for_llamaindex())
            from qdrant_client import models
            <BLANKLINE>
            search_params = models.SearchParams(
                hnsw_ef=128,
            )
            retriever = index.as_retriever(vector_store_kwargs={"search_params": search_params})
        """
        return (
            f"{self._code()}\nretriever = index.as_retriever("
            'vector_store_kwargs={"search_params": search_params})'
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: if a name or a value is wrong.
        """
        return cls(**_known(cls, values))

    def __str__(self) -> str:
        """Return it in words."""
        words = [
            f"ef {self.hnsw_ef}" if self.hnsw_ef else "",
            {True: "rescore", False: "no rescore", None: ""}[self.rescore],
            f"oversampling {self.oversampling:g}" if self.oversampling else "",
            "exact" if self.exact else "",
            "quantization ignored" if self.ignore_quantization else "",
            "indexed only" if self.indexed_only else "",
        ]
        return ", ".join(filter(None, words)) or "the server's defaults"

    def _code(self) -> str:
        lines = ["from qdrant_client import models", "", "search_params = models.SearchParams("]
        for name, value in self.to_params().items():
            if name == "quantization":
                inside = ", ".join(f"{key}={said!r}" for key, said in value.items())
                lines.append(f"    quantization=models.QuantizationSearchParams({inside}),")
            else:
                lines.append(f"    {name}={value!r},")
        return "\n".join([*lines, ")"])


def _edge_memory(edge: Any, memory: Memory) -> Any:
    return getattr(edge.Memory, memory.capitalize())


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high:,}, got {value!r}.")


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(cls)]
    if unknown := [name for name in values if name not in names]:
        raise ConfigError(f"{cls.__name__} has no {unknown[0]!r}.{nearest(str(unknown[0]), names)}")
    return dict(values)
