"""How far another log of the same kind may differ: a bootstrap over days or conversations.

Calls of one conversation, and of one day, are alike, so single calls would give intervals that are
too narrow. Days are drawn anew where there are enough of them, else conversations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ENOUGH_DAYS", "Ranges", "ranges_of", "sampled_factors"]

ENOUGH_DAYS: Final = 10
_LEAST: Final = 10
_MOST: Final = 2_000
_DRAWS: Final = 1_000
_AT_ONCE: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """95 % intervals in dollars, one for each column and one for their sum.

    Args:
        each: Low and high by column; empty if there are too few groups to tell.
        whole: Of the sum; None likewise.
    """

    each: tuple[tuple[float, float], ...] = ()
    whole: tuple[float, float] | None = None


def ranges_of(
    amounts: "NDArray[np.float64]",
    groups: Sequence[int],
    *,
    scaled: int | None = None,
    factors: "NDArray[np.float64] | None" = None,
) -> Ranges:
    """Draw groups with replacement and return the middle 95 % of the sums.

    Args:
        amounts: Dollars: shape (requests, columns).
        groups: Each request's group, numbered from 0.
        scaled: The column that was taken over from a sample, if one was.
        factors: What that column is multiplied with, one for each of a few draws of the sample.

    Example:
        >>> ranges_of(np.ones((40, 1)), range(40)).whole
        (40.0, 40.0)
    """
    numbered = np.asarray(groups, np.int64) % _MOST  # many groups are drawn in bundles
    count = len(set(numbered.tolist()))
    if count < _LEAST:
        return Ranges()
    _, numbered = np.unique(numbered, return_inverse=True)
    sums = np.zeros((count, amounts.shape[1]))
    np.add.at(sums, numbered, amounts)
    dice = np.random.default_rng(0)
    drawn = np.concatenate(
        [
            dice.multinomial(count, np.full(count, 1 / count), _AT_ONCE) @ sums
            for _ in range(_DRAWS // _AT_ONCE)
        ]
    )
    if scaled is not None and factors is not None and len(factors):
        drawn[:, scaled] *= dice.choice(factors, _DRAWS)
    ends = np.quantile(drawn, (0.025, 0.975), axis=0)
    whole = np.quantile(drawn.sum(axis=1), (0.025, 0.975))
    return Ranges(
        each=tuple((float(low), float(high)) for low, high in ends.T),
        whole=(float(whole[0]), float(whole[1])),
    )


def sampled_factors(given: Sequence[int], kept: Sequence[int]) -> "NDArray[np.float64]":
    """Return how the share left out varies with the sample: drawn anew, over what it is.

    Example:
        >>> sampled_factors([100, 100], [20, 20]).max()
        np.float64(1.0)
    """
    if not given or sum(kept) >= sum(given):
        return np.ones(1)
    dice = np.random.default_rng(1)
    picked = dice.integers(0, len(given), (_DRAWS, len(given)))
    whole, rest = np.asarray(given, np.float64)[picked], np.asarray(kept, np.float64)[picked]
    out: NDArray[np.float64] = 1 - rest.sum(axis=1) / np.maximum(whole.sum(axis=1), 1)
    return out / (1 - sum(kept) / sum(given))
