"""How a collection is searched: settings that go with each query and need no rebuild."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from costwise_core.errors import ConfigError
from costwise_core.qdrant.extras import client_models, edge_module
from costwise_core.qdrant.settings_checks import check_whole, known_fields

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

__all__ = ["SearchConfig"]


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
            check_whole("hnsw_ef", self.hnsw_ef, 1, 100_000)
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
        return cls(**known_fields(cls, values))

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
