"""A shard of Qdrant's engine in this process: the same graph and quantizers as the server's."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Self

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant.asking import answers_of, checked, drawn, sample_of
from costwise_core.qdrant.client_reading import spaces
from costwise_core.qdrant.edge_filters import as_filter
from costwise_core.qdrant.edge_optimize import rebuild
from costwise_core.qdrant.edge_reading import edge_settings
from costwise_core.qdrant.extras import edge_module
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import (
    Answers,
    Filters,
    Inspection,
    PointId,
    Sample,
    Status,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EdgeTarget"]

_PAGE: Final = 1_000
_EXACT: Final = SearchConfig(exact=True)


class EdgeTarget:
    """An edge shard on disk. Opened when first asked, and locked until it is closed.

    Args:
        path: The shard's folder.
        vector: Which of its vectors is asked; "" is the one without a name.

    Raises:
        MissingExtraError: if qdrant-edge-py is not installed, when first asked.

    Example:
        >>> EdgeTarget("shard").path
        'shard'
    """

    def __init__(self, path: str | os.PathLike[str], vector: str = "") -> None:
        self.path, self.vector = os.fspath(path), vector
        self._shard: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others open the shard; it opens again when asked."""
        with self._lock:
            if self._shard is not None:
                self._shard.close()
                self._shard = None

    def inspect(self) -> Inspection:
        """Return what the shard says of itself."""
        raw, info = edge_settings(self.path), self._open().info()
        threshold = raw["optimizer_config"].get("indexing_threshold")
        return Inspection(
            where="edge",
            collection=self.path,
            version=version("qdrant-edge-py"),
            points=info.points_count,
            vectors=tuple(spaces(raw)),
            selected=self.vector,
            indexed_vectors=info.indexed_vectors_count,
            segments=info.segments_count,
            payload_indexes={
                name: str(index.data_type).rpartition(".")[2].lower()
                for name, index in info.payload_schema.items()
            },
            indexing_threshold=10_000 if threshold is None else threshold,
            payload=raw["payload_memory"] or "cold",
            raw=raw,
        )

    def status(self) -> Status:
        """Return how far it is with a change: always done, since nothing runs meanwhile."""
        info = self._open().info()
        return Status(
            status="green",
            points=info.points_count,
            indexed_vectors=info.indexed_vectors_count,
            segments=info.segments_count,
            pending=0,
        )

    def vectors(self, limit: int, *, seed: int = 0, payload: bool = False) -> Sample:
        """Return up to `limit` of its points by chance; the seed decides which."""
        space, shard = self.inspect().vector, self._open()
        chosen = drawn(list(self._ids()), limit, seed)
        pages = (
            shard.retrieve(chosen[begin : begin + _PAGE], payload, True)  # noqa: FBT003
            for begin in range(0, len(chosen), _PAGE)
        )
        return sample_of(chain.from_iterable(pages), space, payload=payload)

    def exact(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        *,
        filters: Filters = None,
        per_second: float | None = None,
    ) -> Answers:
        """Return the true nearest by the original vectors, at most `per_second` a second."""
        return self._answers(queries, k, _EXACT, filters, per_second)

    def search(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        config: SearchConfig,
        *,
        filters: Filters = None,
    ) -> Answers:
        """Return what a search finds, one query after the other, with its CPU time."""
        return self._answers(queries, k, config, filters, None)

    def configure(self, config: IndexConfig) -> None:
        """Rebuild the shard with another index, in a process of its own.

        Raises:
            ConfigError: if quantization is to be taken away, which the engine cannot do.
        """
        now = self.inspect().vector.index
        if config.quantization == "none" != now.quantization:
            raise ConfigError(
                f"an edge shard cannot lose its quantization ({now.quantization}): search with "
                "ignore_quantization=True, which finds the same, or build a new one."
            )
        self.close()
        rebuild(self.path, config, vector=self.vector)

    def _answers(
        self,
        queries: Any,
        k: int,
        config: SearchConfig,
        filters: Filters,
        per_second: float | None,
    ) -> Answers:
        edge, shard = edge_module(), self._open()
        space = self.inspect().vector
        vectors = checked(queries, space.size, filters)
        params = config.for_edge()
        requests = (
            edge.QueryRequest(
                limit=k,
                query=edge.Query.Nearest(vector, using=space.name or None),
                filter=as_filter(filters[at]) if filters else None,
                params=params,
                with_payload=False,
            )
            for at, vector in enumerate(vectors.tolist())
        )
        searches = (partial(_tried, shard.query, request) for request in requests)
        return answers_of(searches, per_second=per_second, here=True)

    def _ids(self) -> Iterator[PointId]:
        edge, offset = edge_module(), None
        while True:
            request = edge.ScrollRequest(offset=offset, limit=_PAGE, with_payload=False)
            records, offset = self._open().scroll(request)
            yield from (record.id for record in records)
            if offset is None:
                return

    def _open(self) -> Any:
        with self._lock:
            if self._shard is None:
                edge_settings(self.path)
                self._shard = _tried(edge_module().EdgeShard.load, self.path)
            return self._shard


def _tried(function: Any, *arguments: Any) -> Any:
    """Call the engine, whose errors and panics have no kinds, and say what it said."""
    try:
        return function(*arguments)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "WouldBlock" in str(error):
            raise StoreUnavailableError("the shard is in use by another process.") from None
        raise StoreError(f"Qdrant's engine failed: {str(error)[:300]}") from None
