"""Connections to PostgreSQL, lent to one script at a time, and what can go wrong with them.

A script is a generator that yields statements and gets their rows; it does no I/O itself. `run`
sends the statements over a blocking connection and `arun` over one of asyncio's, so what a store
does is written once.
"""

import asyncio
import importlib.util
import math
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from costwise_core.errors import ConfigError, MissingExtraError, StoreError, StoreUnavailableError
from costwise_core.stores.breaker import Breaker

__all__ = ["Packed", "PostgresLink", "Rows", "Script", "Statement", "check_link", "sql"]

T = TypeVar("T")

Rows: TypeAlias = list[tuple[Any, ...]]
"""What a statement returned, [] if it returns nothing."""


class Statement(NamedTuple):
    """SQL in which "@" stands for the schema, as in "@entries", and the values of its "%s"."""

    text: str
    values: tuple[Any, ...]


Script: TypeAlias = Generator[Statement, Rows, T]
"""A generator that yields statements, gets their rows and returns a `T`."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_GRACE: Final = 0.1  # seconds by which the server, who knows why, is ahead of us in giving up
_UNUSABLE: Final = frozenset(
    {
        "25006",  # read-only
        "3F000",  # the schema is gone
        "42501",  # not permitted
        "42P01",  # a table is gone
    }
)


def sql(text: str, *values: Any) -> Statement:
    """Return a statement; one without values may be several."""
    return Statement(text, values)


class Packed(bytes):
    """A vector as pgvector takes it: its width in two bytes, two of zero, big-endian float32."""

    __slots__ = ()


def check_link(
    conninfo: str,
    *,
    schema: str,
    pool_size: int,
    connect_timeout: int,
    feature: str,
    **seconds: float,
) -> None:
    """Refuse what libpq cannot read, and numbers out of range.

    Raises:
        MissingExtraError: if psycopg, which `feature` needs, is not installed.
        ConfigError: if an argument makes no sense. The connection string, which may hold a
            password, is kept out of the message.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise MissingExtraError(feature, "postgres")
    psycopg = _driver().psycopg
    try:
        psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.Error:
        raise ConfigError(
            "conninfo is no connection string that libpq can read; it looks like "
            "'postgresql://user@host/database' or 'host=... dbname=... user=...'."
        ) from None
    if not _NAME.fullmatch(schema):
        raise ConfigError(
            f"schema must be at most 63 letters, digits and underscores, got {schema!r}."
        )
    if pool_size < 1:
        raise ConfigError(f"pool_size must be at least 1, got {pool_size!r}.")
    for name, value in {**seconds, "connect_timeout": connect_timeout}.items():
        least = 2 if name == "connect_timeout" else 0.01
        if not least <= value <= 3600:
            raise ConfigError(f"{name} is in seconds, from {least} to 3600, got {value!r}.")


class PostgresLink:
    """Lends connections to scripts, and gives up in time when there is nobody to connect to.

    A connection is opened when a script needs one and kept for the next. One that is not idle
    after its script is closed, which is how a transaction that failed is rolled back.

    Args:
        conninfo: A connection string or URI, as libpq reads it.
        schema: What "@" stands for in a statement: a plain name.
        prepare: Returns the script that every new connection runs first.
        prepare_timeout: Seconds that may take.
        size: At most how many connections to have at once, blocking and asyncio's each.
        timeout: Seconds one statement may take, unless its script says otherwise.
        connect_timeout: Seconds in which a connection must be made.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str,
        prepare: Callable[[], Script[None]],
        prepare_timeout: float,
        size: int,
        timeout: float,
        connect_timeout: int,
    ) -> None:
        self._conninfo = conninfo
        self._prefix = f'"{schema}".'
        self._prepare = prepare
        self._prepare_timeout = prepare_timeout
        self._size = size
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._breaker = Breaker()
        self._free = threading.BoundedSemaphore(size)
        # A semaphore of asyncio's belongs to one event loop; an idle connection to none.
        self._afree = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()
        self._idle = deque[Any]()
        self._aidle = deque[Any]()

    def run(self, script: Script[T], *, seconds: float) -> T:
        """Run a script on the calling thread and return its result.

        Args:
            script: What to do.
            seconds: How long all of it may take, making a connection apart.

        Raises:
            StoreUnavailableError: if the server is gone, full, read-only or too slow.
            StoreError: if it refused a statement.
        """
        with self._explained(seconds):
            if not self._free.acquire(timeout=seconds):
                raise self._busy(seconds)
            try:
                connection = _reusable(self._idle) or self._connect()
                connection.deadline = _deadline(seconds)
                try:
                    return self._send(connection, script)
                finally:
                    _give_back(connection, self._idle)
            finally:
                self._free.release()

    async def arun(self, script: Script[T], *, seconds: float) -> T:
        """Do what `run` does, without blocking the event loop."""
        with self._explained(seconds):
            loop = asyncio.get_running_loop()
            free = self._afree.setdefault(loop, asyncio.Semaphore(self._size))
            try:
                await asyncio.wait_for(free.acquire(), seconds)
            except TimeoutError:
                raise self._busy(seconds) from None
            try:
                connection = _reusable(self._aidle) or await self._aconnect()
                connection.deadline = _deadline(seconds)
                try:
                    return await self._asend(connection, script)
                finally:
                    _give_back(connection, self._aidle)
            finally:
                free.release()

    def close(self) -> None:
        """Close the connections that nobody uses; the next script opens one again."""
        for idle in (self._idle, self._aidle):
            while idle:
                connection = idle.pop()  # held by a name, or it would be gone before it is closed
                connection.pgconn.finish()

    # --- the two ways to send ---------------------------------------------------------------

    def _send(self, connection: Any, script: Script[T]) -> T:
        try:
            statement = next(script)
            while True:
                cursor = connection.execute(**self._query(statement))
                statement = script.send(cursor.fetchall() if cursor.description else [])
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _asend(self, connection: Any, script: Script[T]) -> T:
        try:
            statement = next(script)
            while True:
                cursor = await connection.execute(**self._query(statement))
                statement = script.send(await cursor.fetchall() if cursor.description else [])
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _query(self, statement: Statement) -> dict[str, Any]:
        text = statement.text.replace("@", self._prefix).encode()
        # Without values it goes by the simple protocol, the only one for several statements.
        values = statement.values or None
        return {"query": text, "params": values, "binary": values is not None}

    def _connect(self) -> Any:
        connection = _driver().blocking.connect(**self._arguments())
        connection.deadline = _deadline(self._prepare_timeout)
        with _closed_on_error(connection):
            self._send(connection, self._prepare())
        return connection

    async def _aconnect(self) -> Any:
        connection = await _driver().asynchronous.connect(**self._arguments())
        connection.deadline = _deadline(self._prepare_timeout)
        with _closed_on_error(connection):
            await self._asend(connection, self._prepare())
        return connection

    def _arguments(self) -> dict[str, Any]:
        given = _driver().psycopg.conninfo.conninfo_to_dict(self._conninfo)
        # What the user's own options say comes later and wins.
        options = (
            f"-c statement_timeout={math.ceil(self._timeout * 1000)} "
            "-c default_transaction_isolation=read\\ committed "  # waits end with the latest rows
            f"{given.get('options') or ''}"
        )
        return {
            "application_name": "costwise",
            **given,
            "connect_timeout": self._connect_timeout,
            "options": options,
            "autocommit": True,
        }

    # --- what can go wrong --------------------------------------------------------------------

    def _busy(self, seconds: float) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"all {self._size} connections to PostgreSQL were busy for {seconds:g} s; "
            "a larger pool_size allows more at once."
        )

    @contextmanager
    def _explained(self, seconds: float) -> Iterator[None]:
        """Turn PostgreSQL's errors into ours, and tell the breaker."""
        self._breaker.check()
        psycopg = _driver().psycopg
        try:
            yield
        except psycopg.errors.QueryCanceled:
            self._breaker.failed()
            message = f"PostgreSQL took longer than {seconds:g} s."
            raise StoreUnavailableError(message) from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._breaker.failed()
            message = f"PostgreSQL cannot be used: {_first_line(error)}."
            raise StoreUnavailableError(message) from None
        except psycopg.Error as error:
            if error.sqlstate in _UNUSABLE:
                self.close()  # whoever comes next looks at the schema again
                message = f"PostgreSQL cannot be used: {_first_line(error)}."
                raise StoreUnavailableError(message) from None
            raise StoreError(f"PostgreSQL refused: {_first_line(error)}.") from None
        else:
            self._breaker.ok()


def _deadline(seconds: float) -> float:
    return time.monotonic() + seconds + _GRACE


@contextmanager
def _closed_on_error(connection: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.pgconn.finish()
        raise


def _reusable(idle: deque[Any]) -> Any | None:
    """Return an idle connection whose server has not said good-bye meanwhile, if there is one."""
    while True:
        try:
            connection = idle.pop()
        except IndexError:
            return None
        if not connection.closed and _silent(connection.pgconn.socket):
            return connection
        connection.pgconn.finish()


def _give_back(connection: Any, idle: deque[Any]) -> None:
    status = connection.pgconn.transaction_status
    if status == _driver().psycopg.pq.TransactionStatus.IDLE:
        idle.append(connection)
    else:
        connection.pgconn.finish()


def _silent(file: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return not select.select([file], [], [], 0)[0]
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return not poll.poll(0)


def _first_line(error: Any) -> str:
    """Return what an error says, without the details, which may quote an entry."""
    text: str = error.diag.message_primary or str(error)
    return text.partition("\n")[0].rstrip(".")


# --- psycopg, imported when the first store is used -----------------------------------------------


class _Driver(NamedTuple):
    psycopg: Any
    blocking: Any
    asynchronous: Any


@cache
def _driver() -> _Driver:
    import psycopg  # noqa: PLC0415
    from psycopg.adapt import Dumper  # noqa: PLC0415

    class Blocking(psycopg.Connection[Any]):
        deadline = math.inf

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(_boxed(gen, self.deadline), *args, **kwargs)

    class Asynchronous(psycopg.AsyncConnection[Any]):
        deadline = math.inf

        async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return await super().wait(_boxed(gen, self.deadline), *args, **kwargs)

    class PackedDumper(Dumper):
        # Of no type of its own, so the server takes it for what its place in the query asks for.
        format = psycopg.pq.Format.BINARY

        def dump(self, obj: Any) -> Any:
            return obj

    def _boxed(gen: Any, deadline: float) -> Any:
        """Pass on what a network generator waits for, until the deadline.

        The server's own timeout is of no use when the server is frozen or its answers are lost.
        psycopg wakes its generators ten times a second, so that is how exact the deadline is.
        """
        answer = None
        try:
            while True:
                wanted = gen.send(answer)
                if time.monotonic() > deadline:
                    raise psycopg.OperationalError("no answer in time")
                answer = yield wanted
        except StopIteration as stop:
            return stop.value

    psycopg.adapters.register_dumper(Packed, PackedDumper)
    return _Driver(psycopg=psycopg, blocking=Blocking, asynchronous=Asynchronous)
