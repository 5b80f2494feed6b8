"""What is unusual, by statistics that the unusual itself cannot bend: median and MAD."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Usual", "usual"]

_SIGMA: Final = 1.4826
"""Times the median absolute deviation is the standard deviation of what is normally distributed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """Where most of the values lie.

    Args:
        middle: The median.
        spread: What a standard deviation would be if nothing unusual were among them.

    Example:
        >>> usual([1.0, 2.0, 3.0, 4.0, 1000.0]).middle
        3.0
    """

    middle: float
    spread: float

    def deviations(self, value: float) -> float:
        """Return how many spreads a value is above the middle; infinite where nothing varies.

        Example:
            >>> Usual(middle=3.0, spread=2.0).deviations(10.0)
            3.5
        """
        distance = value - self.middle
        if self.spread:
            return distance / self.spread
        return float("inf") if distance > 0 else float("-inf") if distance < 0 else 0.0


def usual(values: Sequence[float]) -> Usual:
    """Return where most of the values lie; half of them may be anything.

    The spread is the median distance from the median (MAD), scaled; see Iglewicz and Hoaglin 1993,
    "How to detect and handle outliers", who call 3.5 such deviations an outlier.

    Example:
        >>> usual([5.0, 5.0, 5.0, 900.0]).spread
        0.0
    """
    middle = statistics.median(values)
    return Usual(
        middle=middle,
        spread=_SIGMA * statistics.median([abs(value - middle) for value in values]),
    )
