"""Calls to a Qdrant server that end: in time, within a size, and with an error of ours."""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import (
    CostwiseError,
    EntryTooLargeError,
    StoreError,
    StoreUnavailableError,
)
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.qdrant_points import Json

if TYPE_CHECKING:  # both take longer to import than all of costwise
    import httpx
    from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["NotThereError", "RefusedError", "Wire"]

_MAX_REQUEST: Final = 32 * 1024 * 1024
"""What a server accepts unless its `max_request_size_mb` says otherwise."""
_MAX_RESPONSE: Final = 160_000_000
_GONE: Final = frozenset({408, 425, 429})

_DEADLINE: ContextVar[float] = ContextVar("costwise_qdrant_deadline")


class NotThereError(StoreError):
    """The server knows no such collection, or no such way to ask."""


class RefusedError(StoreError):
    """The server understood and refused."""


class Wire:
    """Both clients of one server: `send` asks it, `asend` asks it without blocking the loop.

    Nothing is connected, nor the client's package imported, before the first request. A process has
    one client, and each event loop another, since neither may share connections.

    Args:
        url: Where the server listens.
        api_key: What it asks for, if anything.
        breaker: Is told how each request went, and asked before the next.
    """

    def __init__(self, url: str, *, api_key: str | None, breaker: Breaker) -> None:
        self._options: Json = {
            "url": url,
            "api_key": api_key,
            "check_compatibility": False,  # it would start a thread and warn
            "headers": {"Accept-Encoding": "identity"},  # so that sizes are what they seem
        }
        self._url = url.partition("?")[0]
        self._breaker = breaker
        self._lock = threading.Lock()
        self._clients: dict[int, QdrantClient] = {}
        self._async_clients: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, AsyncQdrantClient
        ] = weakref.WeakKeyDictionary()

    def begin(self, seconds: float) -> float:
        """Return the deadline of what begins now, once the client is ready to be asked.

        Raises:
            StoreUnavailableError: if the breaker is open.
        """
        self._breaker.check()
        self._client()
        return time.monotonic() + seconds

    async def abegin(self, seconds: float) -> float:
        """Do what `begin` does for the running event loop."""
        self._breaker.check()
        loop = asyncio.get_running_loop()
        if loop not in self._async_clients:
            # Importing the package takes a second, reading certificates less.
            await asyncio.to_thread(self._async_client, loop)
        return time.monotonic() + seconds

    def send(self, method: str, deadline: float, arguments: Json) -> Any:
        """Call a method of the client and return what it returns.

        Args:
            method: Its name.
            deadline: When to give up, as `time.monotonic` counts.
            arguments: Its keyword arguments.

        Raises:
            NotThereError: if the server answers 404.
            RefusedError: if it answers with another error of the caller's.
            StoreUnavailableError: if it is gone, too slow, or answers nonsense.
        """
        client = self._client()
        token = _DEADLINE.set(deadline)
        try:
            answer = getattr(client, method)(**arguments)
        except Exception as error:  # noqa: BLE001 - the client lets through what it meets
            raise self._explained(error) from None  # it may quote what was asked
        finally:
            _DEADLINE.reset(token)
        self._breaker.ok()
        return answer

    async def asend(self, method: str, deadline: float, arguments: Json) -> Any:
        """Do what `send` does, without blocking the event loop."""
        client = self._async_client(asyncio.get_running_loop())
        token = _DEADLINE.set(deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = await getattr(client, method)(**arguments)
        except Exception as error:  # noqa: BLE001
            raise self._explained(error) from None  # it may quote what was asked
        finally:
            _DEADLINE.reset(token)
        self._breaker.ok()
        return answer

    def close(self) -> None:
        """Close this process's client; event loops close their own when they end."""
        with self._lock:
            client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the running event loop's client."""
        with self._lock:
            client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _client(self) -> "QdrantClient":
        client = self._clients.get(os.getpid())
        if client is not None:
            return client
        import qdrant_client  # noqa: PLC0415

        with self._lock:
            client = self._clients.get(os.getpid())
            if client is None:
                client = qdrant_client.QdrantClient(**self._options, transport=_boxed())
                self._clients[os.getpid()] = client
            return client

    def _async_client(self, loop: asyncio.AbstractEventLoop) -> "AsyncQdrantClient":
        client = self._async_clients.get(loop)
        if client is not None:
            return client
        import qdrant_client  # noqa: PLC0415

        with self._lock:
            client = self._async_clients.get(loop)
            if client is None:
                client = qdrant_client.AsyncQdrantClient(**self._options, transport=_async_boxed())
                self._async_clients[loop] = client
            return client

    def _explained(self, error: Exception) -> CostwiseError:
        """Turn what a client raised into an error of ours, without a word of what was asked."""
        cause = getattr(error, "source", error)
        if isinstance(cause, CostwiseError):
            return cause
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status not in _GONE:
            self._breaker.ok()
            if status == 404:
                return NotThereError(f"Qdrant at {self._url} answered 404, not found.")
            if status == 413:
                return EntryTooLargeError(
                    "the entries are larger than Qdrant takes in one request."
                )
            hint = "; is the api_key right?" if status in (401, 403) else ""
            return RefusedError(f"Qdrant at {self._url} answered {status}{hint}.")
        self._breaker.failed()
        what = f"answered {status}" if status else f"did not answer ({type(cause).__name__})"
        return StoreUnavailableError(f"Qdrant at {self._url} {what}.")


def _hurried(request: "httpx.Request") -> float:
    """Give a request what is left of its time, and return its deadline."""
    if int(request.headers.get("content-length", 0)) > _MAX_REQUEST:
        raise EntryTooLargeError(
            f"the entries take more than the {_MAX_REQUEST} bytes Qdrant accepts in one request."
        )
    deadline = _DEADLINE.get()
    left = max(0.001, deadline - time.monotonic())
    # The client itself only knows whole seconds.
    request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)
    return deadline


class _Box:
    """Counts the bytes of an answer and watches the clock while they arrive."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._bytes = 0

    def checked(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        if self._bytes > _MAX_RESPONSE:
            raise StoreError(f"an answer of Qdrant has more than {_MAX_RESPONSE} bytes.")
        if time.monotonic() > self._deadline:
            raise TimeoutError
        return chunk


def _boxed() -> "httpx.BaseTransport":
    import httpx  # noqa: PLC0415

    class Stream(httpx.SyncByteStream):
        def __init__(self, inner: httpx.SyncByteStream, box: _Box) -> None:
            self._inner, self._box = inner, box

        def __iter__(self) -> Iterator[bytes]:
            return map(self._box.checked, self._inner)

        def close(self) -> None:
            self._inner.close()

    class Transport(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            deadline = _hurried(request)
            response = super().handle_request(request)
            if isinstance(response.stream, httpx.SyncByteStream):
                response.stream = Stream(response.stream, _Box(deadline))
            return response

    return Transport()


def _async_boxed() -> "httpx.AsyncBaseTransport":
    import httpx  # noqa: PLC0415

    class Stream(httpx.AsyncByteStream):
        def __init__(self, inner: httpx.AsyncByteStream, box: _Box) -> None:
            self._inner, self._box = inner, box

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._inner:
                yield self._box.checked(chunk)

        async def aclose(self) -> None:
            await self._inner.aclose()

    class Transport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            deadline = _hurried(request)
            response = await super().handle_async_request(request)
            if isinstance(response.stream, httpx.AsyncByteStream):
                response.stream = Stream(response.stream, _Box(deadline))
            return response

    return Transport()
