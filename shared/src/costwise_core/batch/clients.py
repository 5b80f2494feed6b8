"""A provider's SDK client, sync or async, behind one door that flows can call."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from operator import attrgetter
from typing import IO, Any, Final

from costwise_core.errors import BatchError, ConfigError

__all__ = [
    "MAX_LINE_BYTES",
    "TRANSIENT",
    "Clients",
    "in_doubt",
    "json_lines",
    "may_pass",
    "never_sent",
    "not_taken",
    "status_of",
]

TRANSIENT: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
"""HTTP states after which asking again may help."""

MAX_LINE_BYTES: Final = 64_000_000
MAX_DOWNLOAD_BYTES: Final = 4_000_000_000
_IN_MEMORY_BYTES: Final = 8_000_000


class Clients:
    """Calls a method of the sync client, or awaits it on the async one.

    Args:
        client: The SDK's sync client, or None.
        async_client: The SDK's async client; without one, the sync client works in a thread.
    """

    def __init__(self, client: Any, async_client: Any) -> None:
        if client is None and async_client is None:
            raise ConfigError("a batch provider needs the SDK's client, or its async client.")
        self._client = client
        self._async_client = async_client

    def ask(self, path: str, *, once: bool = False, **given: Any) -> Any:
        """Call the method at a dotted path; `once` is without the SDK's own retries."""
        return attrgetter(path)(_with(self._sync(), once=once))(**given)

    async def aask(self, path: str, *, once: bool = False, **given: Any) -> Any:
        """Do what `ask` does, without blocking the event loop."""
        if self._async_client is None:
            return await asyncio.to_thread(self.ask, path, once=once, **given)
        return await attrgetter(path)(_with(self._async_client, once=once))(**given)

    def download(self, path: str, ident: str) -> IO[bytes]:
        """Return what the method at a dotted path sends, as a file that is at its beginning."""
        with _streaming(self._sync(), path, ident) as response:
            return _kept(response.iter_bytes())

    async def adownload(self, path: str, ident: str) -> IO[bytes]:
        """Do what `download` does, without blocking the event loop."""
        if self._async_client is None:
            return await asyncio.to_thread(self.download, path, ident)
        async with _streaming(self._async_client, path, ident) as response:
            return await _akept(response.iter_bytes())

    def save(self, results: Any) -> IO[bytes]:
        """Return the lines that an SDK decodes while they arrive, raw, as `download` does.

        Not every version of Anthropic's SDK streams a method's bytes.
        """
        with closing(results.http_response) as response:
            return _kept(response.iter_bytes())

    async def asave(self, results: Any) -> IO[bytes]:
        """Do what `save` does, without blocking the event loop."""
        response = results.http_response
        if self._async_client is None:
            return await asyncio.to_thread(self.save, results)
        async with aclosing(response):
            return await _akept(response.aiter_bytes())

    def _sync(self) -> Any:
        if self._client is None:
            raise ConfigError(
                "only an async client was given; use the methods that begin with an a, "
                "or give the sync client too."
            )
        return self._client


def json_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a file's lines, passing over what is none, and close the file."""
    with closing(file):
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status an SDK's error carries, or None: there was no answer at all."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def in_doubt(error: Exception) -> bool:
    """Return whether what was asked may have been done although this was raised."""
    status = status_of(error)
    return not never_sent(error) and (status is None or status >= 500)


def never_sent(error: Exception) -> bool:
    """Return whether the client refused to send anything: it has no key, or is not there."""
    names = {"OpenAIError", "AnthropicError"}  # their subclasses tell of requests
    return isinstance(error, TypeError | ConfigError) or type(error).__name__ in names


def may_pass(error: Exception) -> bool:
    """Return whether what was raised may be gone when the same is asked again."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    # The SDKs raise errors of their own, or of the HTTP library they stand on, when a line breaks.
    home = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or home in {"openai", "anthropic", "httpx", "httpx2"}


def not_taken(provider: str, error: Exception) -> BatchError:
    """Return a provider's refusal as ours."""
    status = status_of(error)
    said = f"{provider} did not take the batch: {str(error)[:500]}"
    if never_sent(error):
        return BatchError(said, reason="access")
    if status == 404:
        return BatchError(
            f"{said}. This server has no batch endpoint, or not for this model; "
            "ask in real time instead.",
            reason="access",
        )
    if status in {401, 403}:
        return BatchError(said, reason="access")
    return BatchError(said, reason="busy" if status is None or status in TRANSIENT else "rejected")


def _with(client: Any, *, once: bool) -> Any:
    return client.with_options(max_retries=0) if once else client


def _streaming(client: Any, path: str, ident: str) -> Any:
    resource, method = path.rsplit(".", 1)
    return getattr(attrgetter(resource)(client).with_streaming_response, method)(ident)


def _kept(pieces: Iterator[bytes]) -> IO[bytes]:
    file = _file()
    for piece in pieces:
        _write(file, piece)
    file.seek(0)
    return file


async def _akept(pieces: AsyncIterator[bytes]) -> IO[bytes]:
    file = _file()
    async for piece in pieces:
        _write(file, piece)
    file.seek(0)
    return file


def _file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)


def _write(file: IO[bytes], piece: bytes) -> None:
    if file.tell() + len(piece) > MAX_DOWNLOAD_BYTES:
        file.close()
        raise OSError(f"the results are larger than {MAX_DOWNLOAD_BYTES:,} bytes.")
    file.write(piece)
