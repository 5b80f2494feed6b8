"""One request on its way: who waits for it, what it has brought so far, how it ended.

A thread and an asyncio task wait on the same `Ticket`. Every wait has a ticket of its own, because
`asyncio.wrap_future` passes a task's cancellation on to the future it wraps: with one future for
all, one caller that gives up would take the others with it.
"""

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from costwise_core.drive import Flow, call
from costwise_core.types import Usage, Vector

__all__ = ["MAX_PIECES", "Flight", "Outcome", "fresh_error"]

MAX_PIECES: Final = 100_000
"""Pieces of a stream kept for those who join late; a longer stream is shared no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a request ended.

    Args:
        kind: "shared" (the answer is for everybody), "failed" (so is the error), "declined" (the
            answer is nobody else's), "abandoned" (there is none; somebody else must ask).
        answer: The answer as the adapter wrote it.
        usage: What it cost.
        error: What the model raised.
    """

    kind: Literal["shared", "failed", "declined", "abandoned"]
    answer: str = ""
    usage: Usage = field(default_factory=Usage)
    error: Exception | None = None


class Ticket:
    """One wait, by a thread or by a task."""

    __slots__ = ("_future", "live")

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._future: futures.Future[None] = futures.Future()

    def ring(self) -> None:
        """End the wait."""
        if self._future.set_running_or_notify_cancel():
            self._future.set_result(None)

    def join(self, seconds: float | None) -> None:
        """Block this thread until the ticket is rung, at most so long."""
        futures.wait([self._future], timeout=seconds)

    async def ajoin(self, seconds: float | None) -> None:
        """Do what `join` does, without blocking the event loop."""
        await asyncio.wait([asyncio.wrap_future(self._future)], timeout=seconds)


class Flight:
    """The state of one request that several callers may share; safe between threads and loops.

    Args:
        key: Digest of the canonical question.
        scope: Key of the exact scope.
        question: The question as the leader asked it.
        vector: Its embedding, None if similar questions may not share it.
        now: Seconds of a clock that never goes back.
    """

    def __init__(
        self, *, key: str, scope: str, question: str, vector: Vector | None, now: float
    ) -> None:
        self.key = key
        self.scope = scope
        self.question = question
        self.vector = vector
        self.moved = now
        self.outcome: Outcome | None = None
        self.pieces: list[Any] = []
        self.copy: Callable[[Any], Any] = lambda piece: piece
        # Flights that the one who leads this one waits for: a circle of them would never end.
        self.waits_on: list[Flight] = []
        self.on_change: Callable[[], None] | None = None  # told when `wanted` may have changed
        self._thread = threading.get_ident()
        self._tickets: set[Ticket] = set()
        self._readers = 0
        # Re-entrant: a `Lead` may be collected, and settle its flight, inside any of these blocks.
        self._lock = threading.RLock()

    # --- the leader's side ----------------------------------------------------------------------

    def emit(self, piece: Any, now: float) -> None:
        """Add one piece of a stream."""
        with self._lock:
            self.moved = now
            self._thread = threading.get_ident()
            self.pieces.append(piece)
            self._ring([ticket for ticket in self._tickets if ticket.live])

    def move_here(self) -> None:
        """Note that from now on the calling thread brings the answer."""
        self._thread = threading.get_ident()

    def settle(self, outcome: Outcome, now: float) -> bool:
        """End the flight and wake everybody; False if it had ended before."""
        with self._lock:
            if self.outcome is not None:
                return False
            self.outcome = outcome
            self.moved = now
            self._ring(list(self._tickets))
            return True

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it or reads its stream."""
        with self._lock:
            return bool(self._tickets) or self._readers > 0

    @property
    def overlong(self) -> bool:
        """Whether its stream has more pieces than are kept for others."""
        return len(self.pieces) > MAX_PIECES

    def _ring(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self._tickets.discard(ticket)
            ticket.ring()

    # --- the others' side -----------------------------------------------------------------------

    def reachable(self) -> bool:
        """Whether this thread may wait: not if it is the very thread that must bring the answer."""
        return threading.get_ident() != self._thread

    async def areachable(self) -> bool:
        """Return True: a task that waits leaves its thread to the others."""
        return True

    def needs(self, led: Collection["Flight"]) -> bool:
        """Whether it is one of these, or waits for one, directly or not."""
        todo: list[Flight] = [self]
        seen: set[Flight] = set()
        while todo:
            flight = todo.pop()
            if flight in led:
                return True
            if flight not in seen:
                seen.add(flight)
                todo += flight.waits_on
        return False

    def ready(self, after: int | None) -> bool:
        """Whether the flight has ended, or has more than `after` pieces."""
        return self.outcome is not None or (after is not None and len(self.pieces) > after)

    def wait(self, seconds: float | None, *, after: int | None = None) -> Flow[bool]:
        """Wait for the end, or with `after` for one more piece than that; False when time is up."""
        with self._lock:
            if self.ready(after):
                return True
            ticket = Ticket(live=after is not None)
            self._tickets.add(ticket)
        self._changed()
        try:
            yield from call(ticket.join, seconds)
        finally:
            with self._lock:
                self._tickets.discard(ticket)
            self._changed()
        return self.ready(after)

    def add_reader(self) -> None:
        """Count somebody who reads the stream."""
        with self._lock:
            self._readers += 1
        self._changed()

    def drop_reader(self) -> None:
        """Count somebody out again."""
        with self._lock:
            self._readers -= 1
        self._changed()

    def _changed(self) -> None:
        tell = self.on_change
        if tell is not None and self.outcome is None:
            tell()


def fresh_error(error: Exception) -> Exception:
    """Return a copy of an error, so that each caller's traceback grows on an object of its own.

    Constructors are not called: those of many client libraries want arguments that the error does
    not keep. An error that cannot be copied is returned as it is.

    Example:
        >>> first = ValueError("no")
        >>> again = fresh_error(first)
        >>> again is first, again.args
        (False, ('no',))
    """
    try:
        twin = type(error).__new__(type(error), *error.args)
        vars(twin).update(vars(error))
    except Exception:  # noqa: BLE001
        return error
    return twin
