"""Which of the measured configurations may be promised, without being fooled by the luckiest."""

from collections.abc import Callable, Sequence

from costwise_core.qdrant.intervals import mean_low
from costwise_core.qdrant.sweep import Score

__all__ = ["cheapest_kept", "finalists", "kept_prefix", "low_of"]


def finalists(
    scores: Sequence[Score], target: float, cost: Callable[[Score], float], *, most: int = 10
) -> list[Score]:
    """Return what is worth confirming, the safest first and the cheapest last.

    They are the cheap end of the front of cost and recall, chosen and put in order with the
    questions the sweep was made with, before the confirming ones are looked at.

    Args:
        scores: What was measured.
        target: The recall to reach.
        cost: Of a score.
        most: How many at most, from at most three different indexes.
    """
    front: list[Score] = []
    for score in sorted(scores, key=lambda one: (cost(one), -one.recall)):
        if score.recall >= target and (not front or score.recall > front[-1].recall):
            front.append(score)
    indexes = list(dict.fromkeys(score.way.index for score in front))[:3]
    return [score for score in front if score.way.index in indexes][:most][::-1]


def low_of(builds: Sequence[Score], confidence: float) -> float:
    """Return what a next sample's mean is at least, in a build that is still to be made.

    Two builds of the same index find different things, and what is deployed is a third one: it may
    be as much below the worse of these as that is below the other.
    """
    lows = [mean_low(build.recalls, confidence) for build in builds]
    recalls = [build.recall for build in builds]
    return min(lows) - (max(recalls) - min(recalls))


def kept_prefix(lows: Sequence[float], target: float) -> int:
    """Return how many of a fixed sequence keep the promise before the first that does not.

    Taking the cheapest of many that pass would take the luckiest. Testing them in an order fixed
    before, and stopping at the first failure, keeps the confidence of a single test (fixed sequence
    testing in Angelopoulos et al., "Learn then Test", 2021).

    Example:
        >>> kept_prefix([0.98, 0.96, 0.94, 0.97], 0.95)
        2
    """
    for n, low in enumerate(lows):
        if low < target:
            return n
    return len(lows)


def cheapest_kept(lows: Sequence[float], costs: Sequence[float], target: float) -> int | None:
    """Return which of a fixed sequence is the cheapest that keeps the promise.

    Example:
        >>> cheapest_kept([0.98, 0.96, 0.94], [3.0, 2.0, 1.0], 0.95)
        1
    """
    passed = range(kept_prefix(lows, target))
    return min(passed, key=lambda n: costs[n], default=None)
