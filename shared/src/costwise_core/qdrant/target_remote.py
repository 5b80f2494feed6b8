"""A collection of a Qdrant server, through the client the user already has."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, StoreError
from costwise_core.qdrant import client_reading as reading
from costwise_core.qdrant.asking import answers_of, checked
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import (
    Answers,
    Filters,
    Inspection,
    Sample,
    Status,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import QdrantClient

__all__ = ["RemoteTarget", "is_local"]

_EXACT: Final = SearchConfig(exact=True)


class RemoteTarget:
    """A collection of a server.

    Args:
        client: How it is reached; its time-outs apply, and it stays the caller's to close.
        collection: Its name, or an alias.
        vector: Which of its vectors is asked; "" is the one without a name.

    Raises:
        ConfigError: if the client is in local mode, which has nothing to tune.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> client = QdrantClient("http://127.0.0.1:6333", check_compatibility=False)
        >>> RemoteTarget(client, "docs").collection
        'docs'
    """

    def __init__(self, client: "QdrantClient", collection: str, vector: str = "") -> None:
        if is_local(client):
            raise ConfigError(
                "this client is in local mode (':memory:' or path=...): use LocalTarget, which "
                "says what can be done with it."
            )
        self.client, self.collection, self.vector = client, collection, vector

    def inspect(self) -> Inspection:
        """Return what the collection says of itself."""
        return reading.inspection(
            self.client, self.collection, where="remote", selected=self.vector
        )

    def status(self) -> Status:
        """Return how far it is with a change."""
        return reading.status(self.client, self.collection)

    def vectors(self, limit: int, *, seed: int = 0, payload: bool = False) -> Sample:
        """Return up to `limit` of its points by chance.

        The seed decides which; of more than a million points the server chooses, and no seed.
        """
        seen = self.inspect()
        return reading.sample(
            self.client,
            self.collection,
            vector=seen.vector,
            limit=limit,
            seed=seed,
            payload=payload,
            page=min(1_000, seen.strict.get("max_query_limit") or 1_000),
        )

    def exact(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        *,
        filters: Filters = None,
        per_second: float | None = None,
    ) -> Answers:
        """Return the true nearest by the original vectors, at most `per_second` a second.

        Raises:
            StoreError: if the server's strict mode forbids it, or it refuses otherwise.
        """
        if self.inspect().strict.get("search_allow_exact") is False:
            raise StoreError(
                f"strict mode of {self.collection!r} forbids exact search, so recall cannot be "
                "measured there: allow search_allow_exact for the time being, or measure on a "
                "sample in the sandbox."
            )
        return self._answers(queries, k, _EXACT, filters, per_second)

    def search(
        self,
        queries: "NDArray[np.float32]",
        k: int,
        config: SearchConfig,
        *,
        filters: Filters = None,
    ) -> Answers:
        """Return what a search finds, one query after the other; the network is in the times."""
        return self._answers(queries, k, config, filters, None)

    def configure(self, config: IndexConfig) -> None:
        """Ask for another index; the server builds it after this returns."""
        seen = self.inspect()
        changes = config.for_client(seen.version, vector=seen.vector.name)
        reading.asked(self.client, "update_collection", collection_name=self.collection, **changes)

    def _answers(
        self,
        queries: Any,
        k: int,
        config: SearchConfig,
        filters: Filters,
        per_second: float | None,
    ) -> Answers:
        space = self.inspect().vector
        vectors = checked(queries, space.size, filters)
        params = config.for_client()

        def search(at: int) -> Any:
            return reading.asked(
                self.client,
                "query_points",
                collection_name=self.collection,
                query=vectors[at].tolist(),
                using=space.name or None,
                query_filter=filters[at] if filters else None,
                search_params=params,
                limit=k,
                with_payload=False,
            ).points

        searches = (partial(search, at) for at in range(len(vectors)))
        return answers_of(searches, per_second=per_second)


def is_local(client: object) -> bool:
    """Say whether a client is in local mode.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> is_local(QdrantClient(":memory:"))
        True
    """
    from qdrant_client.local.qdrant_local import QdrantLocal  # noqa: PLC0415

    return isinstance(getattr(client, "_client", None), QdrantLocal)
