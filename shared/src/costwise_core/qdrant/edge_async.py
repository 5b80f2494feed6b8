"""The calls of `EdgeQdrantClient` for an event loop, which they do not block while they wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from costwise_core.qdrant.edge_client import EdgeQdrantClient

__all__ = ["AsyncEdgeQdrantClient"]


class AsyncEdgeQdrantClient:
    """What `EdgeQdrantClient` does, with `await`, as `AsyncQdrantClient` is to `QdrantClient`.

    Each call runs on a thread. The engine holds Python's global lock while it searches, so threads
    wait for each other then, less than a millisecond each. A cancelled write may still be done.

    Args:
        client: Whose folder to use. The two may be used at the same time.

    Example:
        >>> import asyncio, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> client = EdgeQdrantClient(folder.name)
        >>> asyncio.run(AsyncEdgeQdrantClient(client).collection_exists("docs"))
        False
        >>> client.close()
        >>> folder.cleanup()
    """

    def __init__(self, client: EdgeQdrantClient) -> None:
        self._sync = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        call = getattr(self._sync, name)

        async def waited(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(call, *args, **kwargs)

        return waited

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._sync.close)
