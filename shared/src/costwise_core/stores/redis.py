"""Entries, logs and leases in a Redis server, shared by any number of processes and machines."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from costwise_core.drive import arun, run
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.redis_flows import PAGE, RedisFlows
from costwise_core.stores.redis_rows import Names, fits
from costwise_core.stores.redis_wire import RedisWire, check_prefix
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["RedisStore"]


class RedisStore:
    """Keeps entries in Redis 8 or Redis Stack (it needs the query engine), with logs and leases.

    Safe to share between threads and event loops; each process and each loop has connections of its
    own, and the constructor makes none. A call that finds the server gone or too slow raises within
    the time box, and after three such calls in a row the server is left alone for some seconds.
    One server, with replicas or not, but no cluster; and database 0, as only that can be searched.

    Redis expires entries and, if it has a `maxmemory-policy`, evicts them. What `put` returned from
    outlives a `kill -9` of the server if that runs with `appendonly yes`; with
    `appendfsync always` it outlives a power cut too.

    Every method that waits has a twin with an "a" in front for async code.

    Args:
        url: Such as "redis://localhost:6379/0"; rediss:// for TLS, unix:// for a socket.
        prefix: What all keys begin with; stores of different prefixes share nothing.
        timeout: Seconds to wait for a connection, and again for each reply. Deletions, listings
            and puts of more than 16 entries may wait 10 seconds for theirs.
        options: More arguments for redis-py's clients, such as `credential_provider`.
        breaker: Decides when a server that failed is left alone; None is three failures, 5 s.
        clock: Returns seconds since the epoch.

    Raises:
        MissingExtraError: if redis-py is not installed.
        ConfigError: if an argument makes no sense.

    Example:
        >>> from costwise_core.stores.redis import RedisStore
        >>> store = RedisStore("redis://localhost:6379/0", prefix="shop")  # connects to nothing yet
        >>> store.damaged
        0
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "costwise",
        timeout: float = 0.25,
        options: Mapping[str, Any] | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_prefix(prefix)
        self._wire = RedisWire(
            url,
            timeout=timeout,
            options=options or {},
            breaker=breaker or Breaker(),
            feature="RedisStore",
        )
        self._flows = RedisFlows(Names(prefix=prefix), self._wire, clock)

    @property
    def damaged(self) -> int:
        """How many values this object found damaged and passed over."""
        return self._flows.damaged

    # --- entries ----------------------------------------------------------------------------------

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if the server cannot be used.
        """
        return run(self._flows.get(key, scope))

    async def aget(self, key: str, scope: str) -> Entry | None:
        """Do what `get` does, on the running event loop."""
        return await arun(self._flows.get(key, scope))

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the server cannot be used.
        """
        return run(self._flows.search(vector, k, scope, embedder))

    async def asearch(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Do what `search` does, on the running event loop."""
        return await arun(self._flows.search(vector, k, scope, embedder))

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than a store accepts.
            StoreError: if an entry contradicts itself or the server cannot be used.
        """
        run(self._flows.put(entries))

    async def aput(self, entries: Sequence[Entry]) -> None:
        """Do what `put` does, on the running event loop."""
        await arun(self._flows.put(entries))

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the server cannot be used; some may have been deleted then.
        """
        return run(self._flows.delete(selection))

    async def adelete(self, selection: Selection) -> int:
        """Do what `delete` does, on the running event loop."""
        return await arun(self._flows.delete(selection))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first, reading as it goes.

        Raises:
            StoreError: if the server cannot be used.
        """
        names = run(self._flows.find(selection))
        for start in range(0, len(names), PAGE):
            found = run(self._flows.live(names[start : start + PAGE], vectors=True))
            for each in found:
                if each is not None and fits(each, selection):
                    yield each.entry

    # --- logs and leases ----------------------------------------------------------------------

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none; at least 20,000 are kept.

        Raises:
            EntryTooLargeError: if a row has more than 4,000 bytes.
            StoreError: if the server cannot be used.
        """
        run(self._flows.append(name, rows))

    async def aappend(self, name: str, rows: Sequence[str]) -> None:
        """Do what `append` does, on the running event loop."""
        await arun(self._flows.append(name, rows))

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        Raises:
            StoreError: if `after` is no position or the server cannot be used.
        """
        return run(self._flows.read_log(name, after))

    async def aread(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Do what `read` does, on the running event loop."""
        return await arun(self._flows.read_log(name, after))

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long, by the server's clock.

        Returns:
            False while another owner holds it.

        Raises:
            ConfigError: if `seconds` is not a finite number above 0.
            StoreError: if the server cannot be used.
        """
        return run(self._flows.acquire(name, owner, seconds))

    async def aacquire(self, name: str, owner: str, seconds: float) -> bool:
        """Do what `acquire` does, on the running event loop."""
        return await arun(self._flows.acquire(name, owner, seconds))

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the server cannot be used.
        """
        run(self._flows.release(name, owner))

    async def arelease(self, name: str, owner: str) -> None:
        """Do what `release` does, on the running event loop."""
        await arun(self._flows.release(name, owner))

    # --- closing --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections made outside of event loops; using the store opens new ones."""
        self._wire.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, and what `close` closes."""
        await self._wire.aclose()

    def __enter__(self) -> "RedisStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> "RedisStore":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
