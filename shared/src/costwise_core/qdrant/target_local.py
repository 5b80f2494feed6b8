"""qdrant-client's local mode: a collection that can be looked at, and not tuned."""

from typing import TYPE_CHECKING, Final, NoReturn

from costwise_core.errors import ConfigError
from costwise_core.qdrant import client_reading as reading
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.target_remote import is_local
from costwise_core.qdrant.targets import Answers, Filters, Inspection, Sample, Status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import QdrantClient

__all__ = ["LOCAL_MODE", "LocalTarget"]

LOCAL_MODE: Final = (
    "local mode has no graph and no quantization: it compares every vector, accepts both settings, "
    "shows them again and uses neither, so its recall is always 1 and no time measured on it "
    "would hold on a server"
)


class LocalTarget:
    """A collection of qdrant-client's local mode (`:memory:` or `path=...`).

    Its vectors can be sampled, so they can be tuned in the sandbox; nothing measured on it would
    hold anywhere else, so it refuses to be searched or changed.

    Args:
        client: In local mode.
        collection: Its name.
        vector: Which of its vectors is meant; "" is the one without a name.

    Raises:
        ConfigError: if the client is not in local mode.

    Example:
        >>> import numpy as np
        >>> from qdrant_client import QdrantClient, models
        >>> client = QdrantClient(":memory:")
        >>> space = models.VectorParams(size=2, distance=models.Distance.COSINE)
        >>> done = client.create_collection("docs", vectors_config=space)
        >>> done = client.upsert("docs", [models.PointStruct(id=7, vector=[1.0, 0.0])])
        >>> target = LocalTarget(client, "docs")
        >>> target.vectors(10).ids
        (7,)
        >>> try:
        ...     target.configure(IndexConfig(m=32))
        ... except ConfigError as error:
        ...     print(str(error)[:44])
        local mode has no graph and no quantization:
    """

    def __init__(self, client: "QdrantClient", collection: str, vector: str = "") -> None:
        if not is_local(client):
            raise ConfigError("this client is not in local mode: use RemoteTarget.")
        self.client, self.collection, self.vector = client, collection, vector

    def inspect(self) -> Inspection:
        """Return what the collection says of itself, most of which local mode does not do."""
        return reading.inspection(self.client, self.collection, where="local", selected=self.vector)

    def status(self) -> Status:
        """Return how far it is with a change: there is none."""
        return reading.status(self.client, self.collection)

    def vectors(self, limit: int, *, seed: int = 0, payload: bool = False) -> Sample:
        """Return up to `limit` of its points by chance; the seed decides which."""
        return reading.sample(
            self.client,
            self.collection,
            vector=self.inspect().vector,
            limit=limit,
            seed=seed,
            payload=payload,
        )

    def exact(
        self,
        queries: "NDArray[np.float32]",  # noqa: ARG002
        k: int,  # noqa: ARG002
        *,
        filters: Filters = None,  # noqa: ARG002
        per_second: float | None = None,  # noqa: ARG002
    ) -> Answers:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        _refuse()

    def search(
        self,
        queries: "NDArray[np.float32]",  # noqa: ARG002
        k: int,  # noqa: ARG002
        config: SearchConfig,  # noqa: ARG002
        *,
        filters: Filters = None,  # noqa: ARG002
    ) -> Answers:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        _refuse()

    def configure(self, config: IndexConfig) -> None:  # noqa: ARG002
        """Refuse.

        Raises:
            ConfigError: always.
        """
        _refuse()


def _refuse() -> NoReturn:
    raise ConfigError(
        f"{LOCAL_MODE}. Tune its vectors in the sandbox instead, which builds them with Qdrant's "
        "engine: tune(target.vectors(20_000).vectors, queries). EdgeQdrantClient.from_local(path) "
        "gives an app that engine without a server."
    )
