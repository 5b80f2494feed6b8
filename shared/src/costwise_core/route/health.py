"""Remembers which routes failed lately, so that a request does not wait for one that is down."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from costwise_core.route.failures import Failure

__all__ = ["Health"]

_FAST: Final = 0.2
"""Weight of the newest call in the mean time a route takes."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    closed_until: float = 0.0
    seconds: float | None = None


class Health:
    """Leaves a route alone for a while after it failed, then tries it with one request.

    A route is left alone after `failures` errors in a row, or at once for as long as its provider
    says in `Retry-After`. Lives in this process; thread-safe. A request that is too long for a
    route says nothing about the route.

    Args:
        failures: Errors in a row after which a route cools down.
        cool_down: Seconds it is left alone then.
        clock: Seconds, for tests.

    Example:
        >>> health = Health(failures=1)
        >>> health.failed("small", Failure(kind="overload"))
        >>> health.available("small")
        False
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        cool_down: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._cool_down, self._clock = failures, cool_down, clock
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def available(self, route: str) -> bool:
        """Whether a route is worth a request now; of those that wait for one to come back, one."""
        with self._lock:
            state = self._states.get(route)
            if state is None or not state.closed_until:
                return True
            if self._clock() < state.closed_until:
                return False
            # If the request that tries never reports, the next may try after another cool-down.
            state.closed_until = self._clock() + self._cool_down
            return True

    def back_in(self, route: str) -> float:
        """Seconds until a route may be tried again."""
        with self._lock:
            state = self._states.get(route)
            return max(0.0, state.closed_until - self._clock()) if state else 0.0

    def expected_seconds(self, route: str) -> float:
        """Seconds an answer of this route took lately; 0.0 if none is known."""
        with self._lock:
            state = self._states.get(route)
            return (state.seconds or 0.0) if state else 0.0

    def failed(self, route: str, failure: Failure) -> None:
        """Note that a route failed."""
        if failure.kind == "context_overflow":
            return
        with self._lock:
            state = self._states.setdefault(route, _State())
            state.failures += 1
            if failure.retry_after is not None:
                state.closed_until = self._clock() + failure.retry_after
            elif state.failures >= self._most:
                state.closed_until = self._clock() + self._cool_down

    def succeeded(self, route: str, seconds: float) -> None:
        """Note that a route answered, and how long that took."""
        with self._lock:
            state = self._states.setdefault(route, _State())
            state.failures, state.closed_until = 0, 0.0
            known = state.seconds
            state.seconds = seconds if known is None else known + _FAST * (seconds - known)
