"""What is evicted first when a store is full: the least saved dollars per byte, as of late."""

import math
from typing import Final

__all__ = ["rank"]

_HALF_LIFE: Final = 86_400.0  # seconds
_LEAST: Final = 2.0**-30  # a dollar a gigabyte


def rank(*, worth: float, uses: int, size: int, used: float) -> float:
    """Return how much an entry deserves its place; the lowest rank is evicted first.

    What an entry is expected to save is what serving it once saves, times how often it was served
    and once more, and counts half for every day since its last use. The rank is the base-2
    logarithm of that per byte, seen from a fixed day, so that it changes only when the entry is
    used and can be an index. (The idea is that of GreedyDual-Size-Frequency, Cherkasova 1998; a
    clock takes the place of its inflation value, which processes would have to agree on.)

    Entries without a known worth all count as a dollar a gigabyte, which makes them least recently
    used first among themselves.

    Args:
        worth: Dollars that serving the entry once saves, at least 0.
        uses: How often it was served.
        size: Bytes, above 0.
        used: When it was stored or last served, in seconds since the epoch.

    Example:
        >>> cheap = rank(worth=0.001, uses=0, size=1000, used=0.0)
        >>> rank(worth=0.001, uses=1, size=1000, used=0.0) - cheap
        1.0
        >>> rank(worth=0.001, uses=0, size=1000, used=86_400.0) - cheap
        1.0
    """
    return math.log2(max(worth * (1 + uses) / size, _LEAST)) + used / _HALF_LIFE
