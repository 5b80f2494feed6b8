"""Embedding requests that come at the same time, embedded in one call."""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Final, NamedTuple, TypeAlias

from costwise_core.drive import arun, call
from costwise_core.errors import ConfigError, VectorError
from costwise_core.protocols import Embedder, Role
from costwise_core.types import Matrix

__all__ = ["MicroBatchEmbedder", "OfflineEmbedder"]

_LONGEST_WAIT: Final = 60.0
_Key: TypeAlias = tuple[int, Role, bool]
"""Process, role, and whether somebody waits: what is never mixed."""


class MicroBatchEmbedder:
    """Wraps an embedder so that requests of several threads and tasks share its calls.

    A request that finds nothing under way goes at once. One that comes meanwhile waits for others,
    for so long at most, until `most` texts are together. Work that nobody waits for goes through
    `offline`, which waits longer, and never delays what somebody waits for. An embedder of the same
    name itself; queries and documents are never mixed.

    If a shared call fails, each request is embedded alone, so an error reaches only the caller
    whose text is at fault. Costs of a shared call are written to the bills around the caller that
    came first. Thread-safe.

    Args:
        embedder: What embeds. It is called in threads.
        wait: Seconds a request waits for others at most, up to 60.
        offline_wait: Likewise for `offline`.
        most: Texts at which a call is made at once.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> import numpy as np
        >>> class Letters:
        ...     name = "letters-1"
        ...     def embed(self, texts, role="query"):
        ...         return np.float32([[1 + t.count("a"), 1] for t in texts])
        >>> embedder = MicroBatchEmbedder(Letters())
        >>> embedder.embed(["a", "b"]).shape, embedder.offline.embed(["a"], "document").shape
        ((2, 2), (1, 2))
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        wait: float = 0.005,
        offline_wait: float = 0.2,
        most: int = 64,
    ) -> None:
        for name, value in (("wait", wait), ("offline_wait", offline_wait)):
            if not 0 <= value <= _LONGEST_WAIT:
                raise ConfigError(f"{name} is in seconds, from 0 to 60, got {value!r}.")
        if most < 1:
            raise ConfigError(f"most must be at least 1, got {most!r}.")
        self.embedder = embedder
        self.calls = 0
        """How often the embedder inside was called."""
        self.offline = OfflineEmbedder(self)
        self._waits = {True: wait, False: offline_wait}
        self._most = most
        self._groups: dict[_Key, _Group] = {}
        self._busy: dict[_Key, int] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the embedder inside: the vectors are its vectors."""
        return self.embedder.name

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text.

        Raises:
            VectorError: if the embedder gives another number of rows.
            Exception: whatever the embedder raises for these texts.
        """
        return self._embed(texts, role, eager=True)

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, without blocking the event loop."""
        return await self._aembed(texts, role, eager=True)

    def _embed(self, texts: Sequence[str], role: Role, *, eager: bool) -> Matrix:
        key = (os.getpid(), role, eager)
        if self._goes_alone(key, texts):
            try:
                return self.embedder.embed(texts, role)
            finally:
                self._done(key)
        return self._join(key, texts).result()

    async def _aembed(self, texts: Sequence[str], role: Role, *, eager: bool) -> Matrix:
        key = (os.getpid(), role, eager)
        if self._goes_alone(key, texts):
            try:
                return await arun(call(self.embedder.embed, texts, role))
            finally:
                self._done(key)
        return await asyncio.wrap_future(self._join(key, texts))

    def _goes_alone(self, key: _Key, texts: Sequence[str]) -> bool:
        """Say whether there is nothing to wait for: enough texts, or nobody else about."""
        with self._lock:
            idle = key[2] and not self._busy.get(key) and key not in self._groups
            alone = idle or len(texts) >= self._most or not texts
            if alone:
                self._busy[key] = self._busy.get(key, 0) + 1
                self.calls += 1
            return alone

    def _done(self, key: _Key) -> None:
        with self._lock:
            self._busy[key] -= 1

    def _join(self, key: _Key, texts: Sequence[str]) -> "Future[Matrix]":
        ticket = _Ticket(list(texts), Future())
        with self._lock:
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Group(copy_context())
                group.timer = threading.Timer(self._waits[key[2]], self._leave, (key, group))
                group.timer.daemon = True
                group.timer.start()
            group.tickets.append(ticket)
            group.size += len(texts)
            full = group.size >= self._most
            if full:
                del self._groups[key]
        if full and group.timer is not None:
            group.timer.cancel()
            threading.Thread(target=self._send, args=(key, group), daemon=True).start()
        return ticket.future

    def _leave(self, key: _Key, group: "_Group") -> None:
        """Send a group whose time is up, unless it was sent because it was full."""
        with self._lock:
            if self._groups.get(key) is not group:
                return
            del self._groups[key]
        self._send(key, group)

    def _send(self, key: _Key, group: "_Group") -> None:
        with self._lock:
            self._busy[key] = self._busy.get(key, 0) + 1
        # Whoever gave up meanwhile is not embedded for.
        tickets = [one for one in group.tickets if one.future.set_running_or_notify_cancel()]
        try:
            group.context.run(self._answer, tickets, key[1])
        finally:
            self._done(key)

    def _answer(self, tickets: "Sequence[_Ticket]", role: Role) -> None:
        if not tickets:
            return
        texts = [text for one in tickets for text in one.texts]
        try:
            rows = self._called(texts, role)
        except BaseException as error:  # noqa: BLE001 - callers wait in other threads for it
            if len(tickets) == 1:
                tickets[0].future.set_exception(error)
                return
            for one in tickets:
                self._answer([one], role)
            return
        start = 0
        for one in tickets:
            # A copy: what a caller does to its rows is nobody else's business.
            one.future.set_result(rows[start : start + len(one.texts)].copy())
            start += len(one.texts)

    def _called(self, texts: list[str], role: Role) -> Matrix:
        with self._lock:
            self.calls += 1
        rows = self.embedder.embed(texts, role)
        if len(rows) != len(texts):
            raise VectorError(f"{self.name!r} gave {len(rows)} vectors for {len(texts)} texts.")
        return rows


class OfflineEmbedder:
    """The queue of a `MicroBatchEmbedder` for work that nobody waits for, such as indexing.

    Args:
        shared: The embedder whose calls are shared.
    """

    def __init__(self, shared: MicroBatchEmbedder) -> None:
        self._shared = shared

    @property
    def name(self) -> str:
        """The name of the embedder inside."""
        return self._shared.name

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text; raises as `MicroBatchEmbedder.embed` does."""
        return self._shared._embed(texts, role, eager=False)  # noqa: SLF001

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, without blocking the event loop."""
        return await self._shared._aembed(texts, role, eager=False)  # noqa: SLF001


class _Ticket(NamedTuple):
    texts: list[str]
    future: "Future[Matrix]"


class _Group:
    """Requests that will be embedded in one call."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.tickets: list[_Ticket] = []
        self.size = 0
        self.timer: threading.Timer | None = None
