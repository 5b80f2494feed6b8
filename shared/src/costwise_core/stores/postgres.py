"""Entries, logs and leases in PostgreSQL with pgvector, shared by as many processes as like.

An entry is one row, so its vector and its answer are stored together or not at all. A search
compares with every vector of its scope and embedder and no other: that is exact, and scopes are
small beside the table. Nothing is kept in a process but what was used since the last write.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence

from costwise_core.stores import postgres_entries as scripts
from costwise_core.stores.checks import (
    JOURNAL_KEPT,
    Sized,
    check_limits,
    check_rows,
    check_seconds,
    checked,
)
from costwise_core.stores.per_process import PerProcess
from costwise_core.stores.postgres_link import PostgresLink, Script, T, check_link
from costwise_core.stores.postgres_schema import prepare
from costwise_core.stores.postgres_sharing import acquire, append, read, release
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["PostgresStore"]


class PostgresStore:
    """Keeps entries, logs and leases in one schema of a PostgreSQL database.

    The constructor connects to nothing; the first use makes the schema, its tables and the
    extension `vector` if they are missing and the role may make them. `put` returns once the
    transaction is committed, which with PostgreSQL's default settings no crash of either side can
    undo. What saves least per byte is evicted first (`costwise_core.stores.eviction`).

    Every method has an asynchronous twin with an "a" in front, on psycopg's own asynchronous
    connections. A server that is gone or frozen costs a caller the timeouts below and no more, and
    after three failures in a row next to nothing (a breaker asks again every five seconds).

    Args:
        conninfo: A connection string or URI, as libpq reads it. Behind PgBouncer its server needs
            `ignore_startup_parameters = options`.
        schema: Name of the schema; stores in different schemas share nothing.
        max_entries: How many entries to keep; None for no limit.
        max_bytes: How many bytes of text and vectors to keep; None for no limit.
        pool_size: At most how many connections to have at once, blocking and asyncio's each.
        timeout: Seconds a lookup, a log or a lease may take.
        write_timeout: Seconds a put, a deletion or a page of `entries` may take.
        connect_timeout: Seconds in which a connection must be made, at least 2 (libpq's least).
        clock: Returns seconds since the epoch. None goes by the server's clock, which all replicas
            agree on.

    Raises:
        ConfigError: if an argument is out of range.
        MissingExtraError: if psycopg is not installed.

    Example:
        >>> from costwise_core.stores.postgres import PostgresStore
        >>> store = PostgresStore("postgresql://localhost/app", schema="answers", timeout=0.25)
        >>> store.close()
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "costwise",
        max_entries: int | None = 100_000,
        max_bytes: int | None = 1_000_000_000,
        pool_size: int = 8,
        timeout: float = 0.5,
        write_timeout: float = 5.0,
        connect_timeout: int = 2,
        clock: Callable[[], float] | None = None,
    ) -> None:
        check_link(
            conninfo,
            schema=schema,
            pool_size=pool_size,
            timeout=timeout,
            write_timeout=write_timeout,
            connect_timeout=connect_timeout,
            feature="PostgresStore",
        )
        check_limits(max_entries, max_bytes)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._clock = clock
        new_link = functools.partial(
            PostgresLink,
            conninfo,
            schema=schema,
            prepare=functools.partial(prepare, schema, seconds=write_timeout),
            prepare_timeout=write_timeout,
            size=pool_size,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        digest = hashlib.blake2b(f"costwise {schema}".encode(), digest_size=8).digest()
        self._lock = int.from_bytes(digest, "big", signed=True)
        self._sessions = PerProcess(lambda: _Session(new_link()), _Session.close)

    @property
    def damaged(self) -> int:
        """How many rows this process found damaged and passed over."""
        return self._session.notes.damaged

    # --- entries ------------------------------------------------------------------------------

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, without its vector.

        Raises:
            StoreError: if the database cannot be used.
        """
        return self._run(self._get(key, scope))

    async def aget(self, key: str, scope: str) -> Entry | None:
        """Do what `get` does, without blocking the event loop."""
        return await self._arun(self._get(key, scope))

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        Raises:
            VectorError: if the vector is unusable or not as wide as this embedder's others.
            StoreError: if the database cannot be used.
        """
        return self._run(self._search(vector, k, scope, embedder))

    async def asearch(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Do what `search` does, without blocking the event loop."""
        return await self._arun(self._search(vector, k, scope, embedder))

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced.

        Raises:
            VectorError: if a vector is unusable or not as wide as its embedder's others.
            EntryTooLargeError: if an entry is larger than the store accepts.
            StoreError: if an entry contradicts itself or the database cannot be used.
        """
        fit = checked(entries, self._max_bytes)
        if fit:
            self._run(self._put(fit), self._write_timeout)

    async def aput(self, entries: Sequence[Entry]) -> None:
        """Do what `put` does, without blocking the event loop."""
        fit = checked(entries, self._max_bytes)
        if fit:
            await self._arun(self._put(fit), self._write_timeout)

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many of them were live.

        Raises:
            StoreError: if the database cannot be used; nothing was deleted then.
        """
        return self._run(self._delete(selection), self._write_timeout)

    async def adelete(self, selection: Selection) -> int:
        """Do what `delete` does, without blocking the event loop."""
        return await self._arun(self._delete(selection), self._write_timeout)

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first, a page at a time.

        Raises:
            StoreError: if the database cannot be used.
        """
        if selection.unused_since is not None:
            self.delete(Selection(keys=()))  # writes down what was used of late
        notes = self._session.notes
        after: scripts.Place | None = (float("-inf"), 0)
        while after is not None:
            page = scripts.page(notes, selection, after, self._now())
            entries, after = self._run(page, self._write_timeout)
            yield from entries

    # --- logs and leases ------------------------------------------------------------------------

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none.

        Raises:
            EntryTooLargeError: if a row has more than 4,000 bytes.
            StoreError: if the database cannot be used.
        """
        self._run(append(name, check_rows(rows), JOURNAL_KEPT))

    async def aappend(self, name: str, rows: Sequence[str]) -> None:
        """Do what `append` does, without blocking the event loop."""
        await self._arun(append(name, check_rows(rows), JOURNAL_KEPT))

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        Raises:
            StoreError: if the position is none of a log's, or the database cannot be used.
        """
        return self._run(read(self._session.notes, name, after))

    async def aread(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Do what `read` does, without blocking the event loop."""
        return await self._arun(read(self._session.notes, name, after))

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
            StoreError: if the database cannot be used.
        """
        check_seconds(seconds)
        return self._run(acquire(name, owner, seconds, self._now()))

    async def aacquire(self, name: str, owner: str, seconds: float) -> bool:
        """Do what `acquire` does, without blocking the event loop."""
        check_seconds(seconds)
        return await self._arun(acquire(name, owner, seconds, self._now()))

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the database cannot be used.
        """
        self._run(release(name, owner, self._now()))

    async def arelease(self, name: str, owner: str) -> None:
        """Do what `release` does, without blocking the event loop."""
        await self._arun(release(name, owner, self._now()))

    # --- opening and closing --------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections; using the store again opens them again."""
        self._sessions.close()

    def __enter__(self) -> "PostgresStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _session(self) -> "_Session":
        return self._sessions.get()

    def _run(self, script: Script[T], seconds: float | None = None) -> T:
        return self._session.link.run(script, seconds=seconds or self._timeout)

    async def _arun(self, script: Script[T], seconds: float | None = None) -> T:
        return await self._session.link.arun(script, seconds=seconds or self._timeout)

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    def _writing(self, script: Callable[[float], Script[T]]) -> Script[T]:
        return scripts.writing(
            self._session.notes,
            script,
            lock=self._lock,
            now=self._now(),
            seconds=self._write_timeout,
        )

    def _get(self, key: str, scope: str) -> Script[Entry | None]:
        return scripts.get(self._session.notes, key, scope, self._now())

    def _search(self, vector: Vector, k: int, scope: str, embedder: str) -> Script[list[Neighbour]]:
        return scripts.search(self._session.notes, vector, k, scope, embedder, self._now())

    def _put(self, fit: Sequence[Sized]) -> Script[None]:
        put = functools.partial(scripts.put, fit, self._max_entries, self._max_bytes)
        return self._writing(put)

    def _delete(self, selection: Selection) -> Script[int]:
        return self._writing(functools.partial(scripts.delete, selection))


class _Session:
    """What one process holds of a store: its connections and its notes."""

    def __init__(self, link: PostgresLink) -> None:
        self.link = link
        self.notes = scripts.Notes()

    def close(self) -> None:
        self.link.close()
