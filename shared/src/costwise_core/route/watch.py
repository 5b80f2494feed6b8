"""Whether a promise of quality still holds, checked on a sample of the traffic while it runs.

Somebody who looks after every check and alerts on the first bound that is crossed will be wrong
sooner or later. The test here may be looked at as often as you like: it bets against the promise,
with a capital that grows on average only if the promise is broken, and alerts when the capital has
grown twentyfold (for 95 %), which happens by luck in at most one of twenty runs, however long
(Ville's inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", 2024). So that years of kept promises do not hide a break, new bets begin again and again,
with ever smaller stakes.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from costwise_core.cache.judge import Judge, SameText
from costwise_core.errors import ConfigError
from costwise_core.holdout import HOLDOUT, HoldOut

__all__ = ["PromiseState", "PromiseWatch"]

_BETS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_BEGIN_EVERY: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class PromiseState:
    """What the checks so far say of a promise.

    Args:
        broken: Whether they show that the promise does not hold. Once true it stays so.
        checks: How many there were.
        kept: Quality of what was shown as a share of the dearer model's, over all checks; 1.0
            before the first.
        evidence: How much the bets against the promise have grown; it is broken at 1 / (1 -
            confidence).
        why: One sentence for a person.
    """

    broken: bool
    checks: int
    kept: float
    evidence: float
    why: str


class PromiseWatch:
    """Keeps checking that answers keep a share of the dearer model's quality. Thread-safe.

    For a share of the requests, chosen by a hash of their id whichever model answers them, the
    dearer model is asked as well, and both answers are marked. As `watch=` of a router or cascade
    it does that by itself: an answer that says the same as the dearer model's counts as as good,
    any other as wrong, so it alerts rather too early. Its calls are on the bill as costwise's own
    cost, and streams that are checked are shown when they are whole. With `due` and `note` a person
    or a test marks the answers.

    Args:
        quality: What was promised, as a share of the dearer model's quality, in (0, 1).
        confidence: How sure an alert shall be, in (0, 1).
        share: Share of the requests to check, in [0, 1].
        same: Says whether two answers say the same; by their words if not given.
        on_broken: Is given the state, once, when the promise is found broken. What it raises is
            raised by `note`.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> watch = PromiseWatch(quality=0.95, on_broken=lambda state: print(state.broken))
        >>> for _ in range(60):
        ...     state = watch.note(shown=0.5, strong=1.0)
        True
        >>> state.kept
        0.5
    """

    def __init__(
        self,
        *,
        quality: float = 0.95,
        confidence: float = 0.95,
        share: float = 0.05,
        same: Judge | None = None,
        on_broken: Callable[[PromiseState], object] | None = None,
    ) -> None:
        for name, value in (("quality", quality), ("confidence", confidence)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} must be between 0 and 1, got {value!r}.")
        self._quality, self._enough = quality, 1 / (1 - confidence)
        self._sample = HoldOut(share=share, salt="promise")
        self.same: Judge = same or SameText()
        self._on_broken = on_broken
        self._lock = threading.Lock()
        self._capitals = np.zeros((0, len(_BETS)))
        self._checks, self._shown, self._strong, self._most = 0, 0.0, 0.0, 1.0

    def due(self, request: str) -> bool:
        """Say whether a request is one to check: ask the dearer model too and `note` both marks.

        Args:
            request: Its id; the same one always gets the same answer.
        """
        return self._sample.arm(request) == HOLDOUT

    def note(self, *, shown: float, strong: float) -> PromiseState:
        """Count one check.

        Args:
            shown: Mark of the answer that was shown, from 0 to 1.
            strong: Mark of the dearer model's answer; the same if that was shown.

        Returns:
            What all checks so far say.

        Raises:
            ConfigError: if a mark is not from 0 to 1.
        """
        for name, mark in (("shown", shown), ("strong", strong)):
            if not (math.isfinite(mark) and 0 <= mark <= 1):
                raise ConfigError(f"{name} is the mark of an answer, from 0 to 1, got {mark!r}.")
        with self._lock:
            before = self._most >= self._enough
            if self._checks % _BEGIN_EVERY == 0:
                self._capitals = np.vstack([self._capitals, np.ones(len(_BETS))])
            self._capitals *= 1 - np.array(_BETS) * (shown - self._quality * strong)
            self._checks += 1
            self._shown += shown
            self._strong += strong
            self._most = max(self._most, self._capital())
            state = self._state()
        if state.broken and not before and self._on_broken is not None:
            self._on_broken(state)
        return state

    @property
    def state(self) -> PromiseState:
        """What all checks so far say."""
        with self._lock:
            return self._state()

    def _capital(self) -> float:
        """Return what all bets hold together. The stakes, 1/2 + 1/6 + 1/12 + ..., add up to one."""
        begun = np.arange(1, len(self._capitals) + 1)
        stakes = 1 / (begun * (begun + 1))
        return float(stakes @ self._capitals.mean(axis=1) + 1 / (len(begun) + 1))

    def _state(self) -> PromiseState:
        kept = self._shown / self._strong if self._strong else 1.0
        broken = self._most >= self._enough
        seen = f"{kept:.1%} of the dearer model's quality in {self._checks:,} checks"
        return PromiseState(
            broken=broken,
            checks=self._checks,
            kept=kept,
            evidence=self._most,
            why=f"{seen}; {'less than' if broken else 'no evidence against'} the "
            f"{self._quality:.1%} that {'were' if broken else 'are'} promised",
        )
