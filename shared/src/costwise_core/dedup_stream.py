"""One paid stream for several readers, each at its own pace and each free to leave.

The leader's pieces are kept until the stream has ended, so a reader may start late. The stream is
read to its end as long as anybody wants it: in async code a task of its own reads it, because a
cancellation would kill the model's generator in the middle of a wait; in threads the leader reads
it, and hands it to a thread of its own if it leaves before the others.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from contextvars import copy_context
from typing import Generic, TypeVar, cast

from costwise_core.dedup_flight import Flight, fresh_error
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, run
from costwise_core.errors import SharedStreamError
from costwise_core.types import Hit

__all__ = ["Follow", "afan_out", "fan_out"]

PieceT = TypeVar("PieceT")

_tasks: set[asyncio.Task[None]] = set()
"""The event loop itself keeps only weak references to tasks."""


class Follow(Generic[PieceT]):
    """Somebody else's stream, from its first piece on: iterate over it, or `async for`.

    Args:
        flight: The request whose stream it is.
        max_wait: Seconds to wait for the next piece.
        served: Makes a hit of the flight once it has ended.

    Raises:
        SharedStreamError: while iterating, if no piece comes in time or the leader's event loop is
            gone.
        Exception: while iterating, a copy of what the model raised.
    """

    def __init__(self, flight: Flight, *, max_wait: float, served: Callable[[Flight], Hit]) -> None:
        self._flight = flight
        self._max_wait = max_wait
        self._served = served
        self._open = True
        flight.add_reader()

    @property
    def hit(self) -> Hit:
        """Why the stream was shared and, once it has been read to its end, what it spared."""
        return self._served(self._flight)

    def __iter__(self) -> Generator[PieceT, None, None]:
        read = 0
        try:
            while run(self._more(read)):
                yield self._piece(read)
                read += 1
        finally:
            self.close()

    async def __aiter__(self) -> AsyncGenerator[PieceT, None]:
        read = 0
        try:
            while await arun(self._more(read)):
                yield self._piece(read)
                read += 1
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading; nobody else notices."""
        if self._open:
            self._open = False
            self._flight.drop_reader()

    def __del__(self) -> None:
        self.close()

    def _more(self, read: int) -> Flow[bool]:
        flight = self._flight
        ready = yield from flight.wait(self._max_wait, after=read)
        if flight.overlong or not ready:
            raise SharedStreamError(
                "the stream is too long to be shared"
                if ready
                else f"a stream shared with another request stood still for {self._max_wait} s"
            )
        if len(flight.pieces) > read:
            return True
        outcome = flight.outcome
        if outcome is not None and outcome.error is not None:
            raise fresh_error(outcome.error) from outcome.error
        if outcome is not None and outcome.kind == "abandoned":
            raise SharedStreamError("the request whose stream was shared was abandoned")
        return False

    def _piece(self, read: int) -> PieceT:
        return cast("PieceT", self._flight.copy(self._flight.pieces[read]))


def fan_out(
    lead: Lead,
    source: Iterator[PieceT],
    copy: Callable[[PieceT], PieceT],
    finish: Callable[[list[PieceT]], Flow[None]],
) -> Generator[PieceT, None, None]:
    """Pass a stream on to the leader's own caller and to all who follow.

    Args:
        lead: The right to pay for it.
        source: The paid stream.
        copy: Returns an independent copy of a piece.
        finish: A flow that stores the whole and shares it; gets copies of all pieces. Runs once the
            stream has ended, even if the leader's caller has left.

    Raises:
        Exception: whatever `source` raises.
    """
    lead.flight.copy = copy
    context = copy_context()
    with ExitStack() as duties:
        duties.enter_context(lead)
        duties.callback(getattr(source, "close", _nothing))
        try:
            for piece in source:
                lead.emit(copy(piece))
                yield piece
        except GeneratorExit:
            if lead.flight.wanted:
                rest = (duties.pop_all(), lead, source, copy, finish)
                threading.Thread(target=context.run, args=(_drain, *rest), daemon=True).start()
            raise
        run(finish(lead.flight.pieces))


def _drain(
    duties: ExitStack,
    lead: Lead,
    source: Iterator[PieceT],
    copy: Callable[[PieceT], PieceT],
    finish: Callable[[list[PieceT]], Flow[None]],
) -> None:
    with suppress(Exception), duties:  # those who follow get the error
        for piece in source:
            lead.emit(copy(piece))
            if not lead.flight.wanted:
                lead.abandon()
                return
        run(finish(lead.flight.pieces))


async def afan_out(
    lead: Lead,
    source: AsyncIterator[PieceT],
    copy: Callable[[PieceT], PieceT],
    finish: Callable[[list[PieceT]], Flow[None]],
) -> AsyncGenerator[PieceT, None]:
    """Do what `fan_out` does in async code; a task reads the source, as long as anybody wants it.

    Raises:
        Exception: whatever `source` raises.
    """
    flight = lead.flight
    flight.copy = copy
    loop, here = asyncio.get_running_loop(), threading.get_ident()
    own: deque[PieceT] = deque()
    wake = asyncio.Event()
    pump = loop.create_task(_pump(lead, source, copy, finish, own, wake))
    left = False

    def react() -> None:
        if flight.wanted:
            wake.set()
        elif left:
            pump.cancel()

    def changed() -> None:
        if threading.get_ident() == here:
            react()
            return
        with suppress(RuntimeError):  # the loop is closed, and the task with it
            loop.call_soon_threadsafe(react)

    def ended(task: asyncio.Task[None]) -> None:
        flight.on_change = None
        _tasks.discard(task)
        if not task.cancelled():
            task.exception()  # all who wait have been given it

    _tasks.add(pump)
    pump.add_done_callback(ended)
    flight.on_change = changed
    read = 0
    try:
        while True:
            await arun(flight.wait(None, after=read))
            if not own:
                break
            read += 1
            yield own.popleft()
        await pump
    finally:
        left = True
        if not flight.wanted and not pump.done():
            pump.cancel()
            await asyncio.wait([pump])


async def _pump(
    lead: Lead,
    source: AsyncIterator[PieceT],
    copy: Callable[[PieceT], PieceT],
    finish: Callable[[list[PieceT]], Flow[None]],
    own: deque[PieceT],
    wake: asyncio.Event,
) -> None:
    with lead:
        try:
            async for piece in source:
                own.append(piece)
                lead.emit(copy(piece))
                # Not a piece more is paid for than somebody asks for.
                while not lead.flight.wanted:
                    wake.clear()
                    await wake.wait()
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
        await arun(finish(lead.flight.pieces))


def _nothing() -> None:
    """Close a source that needs no closing."""
