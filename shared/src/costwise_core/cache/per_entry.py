"""A boundary for each entry: the published alternative, kept to compare with.

Written from the mathematics of "vCache: Verified Semantic Prompt Caching" (arXiv 2502.03771) and
nothing else. Every entry learns a logistic curve of its own over the similarity of later questions,
and is served with just enough chance of being checked that the share of wrong answers stays below
what was promised. It keeps that promise, and it is slow to trust: see docs/cache.md.
"""

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

from costwise_core.cache.policy import Verdict
from costwise_core.errors import ConfigError
from costwise_core.types import Neighbour

__all__ = ["PerEntry"]

_MIN_OBSERVATIONS: Final = 6  # the two anchors and four labels
_MAX_ENTRIES: Final = 100_000
_STEPS: Final = 25
_MAX_STEP: Final = 5.0
_STEEPNESS_SEPARATED: Final = 40.0
_GRID: Final = tuple((i + 0.5) / 50 for i in range(50))
_QUANTILES: Final = tuple(NormalDist().inv_cdf(1 - epsilon) for epsilon in _GRID)


class PerEntry:
    """Serves an entry once its own labels bound the chance of a wrong answer; learns in memory.

    Args:
        max_wrong: Promised largest share of wrong answers among all requests.
        seed: For repeatable runs.

    Raises:
        ConfigError: if `max_wrong` is not in (0, 1).

    Example:
        >>> PerEntry(max_wrong=0.02).decide("a question", []).action
        'refuse'
    """

    def __init__(self, max_wrong: float = 0.02, *, seed: int | None = None) -> None:
        if not 0 < max_wrong < 1:
            raise ConfigError(f"max_wrong must be between 0 and 1, got {max_wrong!r}.")
        self.max_wrong = max_wrong
        self._random = random.Random(seed)  # noqa: S311 - which hits are checked is no secret
        self._seen: OrderedDict[tuple[str, str], list[tuple[float, int]]] = OrderedDict()

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:  # noqa: ARG002
        """Serve the nearest entry, or explore."""
        if not neighbours:
            return Verdict(action="refuse", why="nothing similar is stored in this scope")
        best = neighbours[0]
        seen = self._seen.get((best.entry.scope, best.entry.key), [])
        explore = self._explore(best.cosine, [(0.0, 0), (1.0, 1), *seen])
        if self._random.random() <= explore:
            why = f"this entry has {len(seen)} labels; explored with probability {explore:.2f}"
            # A question the entry answers rightly adds nothing, so it gets no entry of its own.
            return Verdict(
                action="refuse",
                why=why,
                reason="explored",
                candidate=best,
                features=(best.cosine,),
                keep=False,
            )
        why = f"asked before in similar words (cosine {best.cosine:.3f})"
        return Verdict(action="serve", why=why, candidate=best)

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Add a label to the entry it is about."""
        if verdict.candidate is None or not verdict.features:
            return
        entry = verdict.candidate.entry
        labels = self._seen.setdefault((entry.scope, entry.key), [])
        labels.append((round(verdict.features[0], 3), int(same)))
        self._seen.move_to_end((entry.scope, entry.key))
        if len(self._seen) > _MAX_ENTRIES:
            self._seen.popitem(last=False)

    def _explore(self, cosine: float, seen: Sequence[tuple[float, int]]) -> float:
        """Probability of exploring: section 4 of the paper, minimised over the error level."""
        if len(seen) < _MIN_OBSERVATIONS:
            return 1.0
        threshold, steepness, variance = _curve(seen)
        spread = math.sqrt(variance)
        least = 1.0
        for epsilon, quantile in zip(_GRID, _QUANTILES, strict=True):
            worst = min(max(threshold + quantile * spread, 0.0), 1.0)
            right = (1 - epsilon) * _logistic(steepness * (cosine - worst))
            least = min(least, 1 - self.max_wrong / max(1 - right, 1e-9))
        return max(least, 0.0)


def _curve(seen: Sequence[tuple[float, int]]) -> tuple[float, float, float]:
    """Fit threshold and steepness of a logistic curve, and the variance of the threshold."""
    highest_wrong = max(s for s, right in seen if not right)
    lowest_right = min(s for s, right in seen if right)
    if highest_wrong < lowest_right:
        # Labels that can be separated have no likeliest curve: ever steeper ones are ever
        # likelier, and certain of what they cannot know: that limit, a step, served 1.6 to 2.2
        # times the wrong answers promised at 1 %. So the steepness is given, as favourable as was
        # seen to keep the promise, and the threshold may be anywhere in the gap.
        gap = lowest_right - highest_wrong
        return (highest_wrong + lowest_right) / 2, _STEEPNESS_SEPARATED, gap * gap / 12
    b0, b1 = 0.0, 1.0
    for _ in range(_STEPS):
        v00, v01, v11 = _covariance(seen, b0, b1)
        pulls = [(s, right - _logistic(b0 + b1 * s)) for s, right in seen]
        g0, g1 = sum(pull for _, pull in pulls), sum(s * pull for s, pull in pulls)
        d0, d1 = v00 * g0 + v01 * g1, v01 * g0 + v11 * g1
        largest = max(abs(d0), abs(d1))
        scale = min(1.0, _MAX_STEP / max(largest, 1e-9))
        b0, b1 = b0 + scale * d0, b1 + scale * d1
        if largest < 1e-5:
            break
    v00, v01, v11 = _covariance(seen, b0, b1)
    steepness = max(b1, 1e-6)
    grad0, grad1 = -1 / steepness, b0 / steepness**2
    variance = grad0 * grad0 * v00 + 2 * grad0 * grad1 * v01 + grad1 * grad1 * v11
    return min(max(-b0 / steepness, 0.0), 1.0), steepness, max(variance, 0.0)


def _covariance(
    seen: Sequence[tuple[float, int]], b0: float, b1: float
) -> tuple[float, float, float]:
    """Invert the information matrix: variance of b0, covariance, variance of b1."""
    h00 = h01 = h11 = 0.0
    for s, _ in seen:
        p = _logistic(b0 + b1 * s)
        w = p * (1 - p) + 1e-9
        h00, h01, h11 = h00 + w, h01 + w * s, h11 + w * s * s
    det = max(h00 * h11 - h01 * h01, 1e-12)
    return h11 / det, -h01 / det, h00 / det


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -30.0), 30.0)))
