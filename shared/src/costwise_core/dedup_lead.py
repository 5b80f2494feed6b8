"""The right to pay for one answer, and the duty to say how that ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from costwise_core.dedup_flight import Flight, Outcome
from costwise_core.protocols import Leases
from costwise_core.types import Usage, Vector

__all__ = ["Lead", "Lease"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A claim that other processes see, to be given back."""

    leases: Leases
    name: str
    owner: str

    def give_back(self, count_error: Callable[[], None]) -> None:
        """Release the lease without blocking an event loop. Never raises: it ends by itself too."""

        def release() -> None:
            try:
                self.leases.release(self.name, self.owner)
            except Exception:  # noqa: BLE001
                count_error()

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            release()
        else:
            if getattr(self.leases, "blocking", True):
                loop.run_in_executor(None, release)
            else:
                release()


class Lead:
    """The caller pays for this answer; others may be waiting for it.

    Use it as a context manager around the paid call and say `share` inside. Left by an exception,
    the waiters get a copy of it; left by a cancellation (or collected unsettled), one of them takes
    over; left in any other way, each of them pays for itself.

    Args:
        flight: What the others wait for.
        landed: Told once the flight has ended.
        count_error: Told about a fault that was passed over.
        clock: Returns seconds and never goes back.

    Example:
        >>> from costwise_core import Scope
        >>> from costwise_core.dedup import InFlight
        >>> from costwise_core.drive import run
        >>> with run(InFlight().claim("What is RAG?", Scope())) as lead:
        ...     lead.share("A method.", Usage(input_tokens=4, output_tokens=3))
    """

    def __init__(
        self,
        flight: Flight,
        *,
        landed: Callable[[Flight], None],
        count_error: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.flight = flight
        self.lease: Lease | None = None
        self._landed = landed
        self._count_error = count_error
        self._clock = clock

    @property
    def vector(self) -> Vector | None:
        """The question's embedding, if looking for an answer brought one."""
        return self.flight.vector

    def share(self, answer: str, usage: Usage | None = None) -> None:
        """Give the answer to all who wait, as text: each of them makes an object of its own."""
        self._settle(Outcome(kind="shared", answer=answer, usage=usage or Usage()))

    def decline(self) -> None:
        """Send all who wait to pay for themselves: this answer is not for others."""
        self._settle(Outcome(kind="declined"))

    def abandon(self) -> None:
        """Let one of those who wait take over."""
        self._settle(Outcome(kind="abandoned"))

    def fail(self, error: Exception) -> None:
        """Raise a copy of this error in all who wait."""
        self._settle(Outcome(kind="failed", error=error))

    def emit(self, piece: Any) -> None:
        """Show one piece of a stream to all who follow; it must not be changed afterwards."""
        self.flight.emit(piece, self._clock())

    def __enter__(self) -> "Lead":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.decline()
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            self.abandon()

    def __del__(self) -> None:
        # A stream that nobody ever started to read, or a thread that was torn down. The lease is
        # left to end by itself: collection may happen inside the store's own lock.
        if self.flight.settle(Outcome(kind="abandoned"), self._clock()):
            self._landed(self.flight)

    def _settle(self, outcome: Outcome) -> None:
        if not self.flight.settle(outcome, self._clock()):
            return
        self._landed(self.flight)
        if self.lease is not None:
            self.lease.give_back(self._count_error)
