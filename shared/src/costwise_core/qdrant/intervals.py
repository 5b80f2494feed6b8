"""How low the mean of a next sample may be, from a first one: the claim behind a recommendation.

Recalls of single questions are bounded, skewed and often all 1. A normal interval is then far too
narrow and a plain bootstrap, which never sees a failure it has not drawn, has no width at all.
Gaffke's bound ("Three test statistics for a nonparametric one-sided hypothesis on the mean of a
nonnegative variable", 2005) keeps: the mean under random weights, with one value added that is as
bad as can be. For right-or-wrong values it is Clopper and Pearson's exact bound. Hoeffding's and
the empirical Bernstein bound keep too, and are several times wider at this size.

That speaks of the mean of all questions there will ever be. Whoever checks it has another sample,
mostly a smaller one, with luck of its own; so a sample of a third of the size is drawn from each
weighted one: what is claimed is what such a check sees.
"""

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["least_questions", "mean_low", "questions_needed"]

_DRAWS: Final = 4_000
_SMALLER: Final = 3
_MOST: Final = 1_000_000


def mean_low(
    values: "NDArray[np.float64]", confidence: float, *, fresh: int | None = None
) -> float:
    """Return what the mean of a next sample is at least, with this confidence.

    Args:
        values: What was seen: shape (n,), in [0, 1].
        confidence: In (0, 1).
        fresh: The next sample's size; a third of what was seen when None.

    Example:
        >>> 0.8 < mean_low(np.ones(59), 0.95) < mean_low(np.ones(59), 0.95, fresh=10**6) < 0.96
        True
    """
    if not len(values):
        return 0.0
    levels, counts = np.unique(values, return_counts=True)
    # Weights of equal values add up, so one gamma draw stands for all of them.
    shape = np.append(counts, 1.0)
    levels = np.append(levels, 0.0)
    dice = np.random.default_rng(0)
    weights = dice.standard_gamma(shape, (_DRAWS, len(shape)))
    weights /= weights.sum(axis=1, keepdims=True)
    size = fresh or max(1, len(values) // _SMALLER)
    means = dice.multinomial(size, weights) @ levels / size
    return float(np.quantile(means, 1 - confidence))


def least_questions(target: float, confidence: float) -> int:
    """Return how many questions support a mean of at least `target` if all of them are perfect.

    Example:
        >>> 59 <= least_questions(0.95, 0.95) <= 130
        True
    """
    low, high = 1, 2
    while mean_low(np.ones(high), confidence) < target:
        low, high = high, high * 2
        if high > _MOST:
            return _MOST
    while high - low > 1:
        middle = (low + high) // 2
        if mean_low(np.ones(middle), confidence) < target:
            low = middle
        else:
            high = middle
    return high


def questions_needed(values: "NDArray[np.float64]", target: float, confidence: float) -> int | None:
    """Return about how many questions like these would support a mean of at least `target`.

    Returns:
        The number, or None if their mean is not above it.

    Example:
        >>> questions_needed(np.array([1.0, 0.9] * 50), 0.99, 0.95) is None
        True
    """
    mean = float(values.mean()) if len(values) else 0.0
    if mean <= target:
        return None
    low = mean_low(values, confidence)
    if low >= target:
        return len(values)
    # The distance from what was seen to its bound falls with the root of the number.
    return int(np.ceil(len(values) * ((mean - low) / (mean - target)) ** 2))
