"""A breaker: after a few failures in a row nobody waits for a server that is gone."""

import math
import threading
import time
from collections.abc import Callable

from costwise_core.errors import ConfigError, StoreUnavailableError

__all__ = ["Breaker"]


class Breaker:
    """Lets calls through until several fail in a row, then only one in every cooldown.

    Closed, it lets every call through. Open, it refuses at once; when the cooldown is over it lets
    a single call through as a probe, whose success closes it. A probe that is never heard of again
    (it was cancelled) only costs another cooldown. Thread-safe, and keeps no thread or timer.

    Args:
        failures: How many failures in a row open it.
        cooldown: Seconds between two probes.
        clock: Returns seconds that never run backwards.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> from costwise_core.stores.breaker import Breaker
        >>> breaker = Breaker(failures=1, cooldown=5.0)
        >>> breaker.check()
        >>> breaker.failed()
        >>> breaker.check()
        Traceback (most recent call last):
        costwise_core.errors.StoreUnavailableError: the store failed 1 time in a row, so it is ...
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        cooldown: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1:
            raise ConfigError(f"failures must be at least 1, got {failures!r}.")
        if not 0 < cooldown < math.inf:
            raise ConfigError(f"cooldown is in seconds and must be above 0, got {cooldown!r}.")
        self._limit = failures
        self._cooldown = cooldown
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._next_probe = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are being refused, apart from probes."""
        return self._failed >= self._limit

    def check(self) -> None:
        """Return if a call may be made now; follow it with `ok` or `failed`.

        Raises:
            StoreUnavailableError: if the breaker is open and it is not time for a probe.
        """
        if not self.open:
            return
        with self._lock:
            now = self._clock()
            if self.open and now < self._next_probe:
                times = "1 time" if self._failed == 1 else f"{self._failed} times"
                raise StoreUnavailableError(
                    f"the store failed {times} in a row, so it is left alone; "
                    f"next try in {self._next_probe - now:.1f} s."
                )
            self._next_probe = now + self._cooldown

    def ok(self) -> None:
        """Say that a call went well: the breaker closes."""
        self._failed = 0

    def failed(self) -> None:
        """Say that a call found the store gone or too slow."""
        with self._lock:
            self._failed += 1
            self._next_probe = self._clock() + self._cooldown
