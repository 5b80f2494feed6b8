"""The cheapest threshold that keeps a promise of quality, found on your own paired outcomes.

A threshold picked because it met the target on a few hundred labels misses it in every second
deployment (docs/routing.md). Two things keep that from happening. What counts is not the quality
seen but a lower confidence bound on it: the mean under random weights, with one outcome as bad as
can be added to those seen (Gaffke, "Three test statistics for a nonparametric one-sided hypothesis
on the mean of a nonnegative variable", 2005). For right-or-wrong marks that is Clopper and
Pearson's exact bound; for others no case is known where it is too high, and skew does not harm it.
And of the many thresholds the luckiest is not taken: they are tested in a fixed order, from sending
everything to the dear model down, and the first that fails ends it (fixed sequence testing in
Angelopoulos et al., "Learn then Test", 2021).

The promise speaks of requests like those that were labelled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.bounds import least_sample
from costwise_core.display_table import as_html, as_text
from costwise_core.errors import ConfigError, RouteError
from costwise_core.route.outcomes import PairedOutcome

__all__ = ["CalibratedThreshold", "ThresholdPoint", "calibrate_routing"]

Floats: TypeAlias = NDArray[np.float64]
Higher: TypeAlias = Literal["strong", "weak"]

_STEPS: Final = 50
_DRAWS: Final = 4_000
_AT_ONCE: Final = 1_000_000
_SHOWN: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdPoint:
    """What one threshold does to the labelled questions.

    Args:
        threshold: Where the line is, in the scores' own scale.
        strong_share: Share of the questions that the dearer model answers, in [0, 1].
        kept: Quality of all answers as a share of what the dearer model alone reaches.
        kept_least: Lower confidence bound on that.
    """

    threshold: float
    strong_share: float
    kept: float
    kept_least: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedThreshold:
    """A threshold with a promise, and how it was found; `print` it to see the curve.

    Made by `calibrate_routing`.

    Args:
        chosen: The cheapest threshold that keeps the promise; None if none does.
        curve: What each threshold does, the dearest first.
        labels: How many paired outcomes it was found on.
        quality: What is promised, as a share of the dearer model's quality.
        confidence: How sure the promise is.

    Example:
        >>> nothing = CalibratedThreshold(
        ...     chosen=None, curve=(), labels=100, quality=0.95, confidence=0.95
        ... )
        >>> nothing.strong_share
        1.0
    """

    chosen: ThresholdPoint | None
    curve: tuple[ThresholdPoint, ...]
    labels: int
    quality: float
    confidence: float

    @property
    def threshold(self) -> float:
        """What to give the router or the cascade.

        Raises:
            RouteError: if nothing can be promised.
        """
        if self.chosen is None:
            raise RouteError(f"{self._heading()}; let the dearer model answer everything.")
        return self.chosen.threshold

    @property
    def strong_share(self) -> float:
        """Share of requests that the dearer model is expected to answer."""
        return self.chosen.strong_share if self.chosen else 1.0

    def __str__(self) -> str:
        """Return the promise, the curve, and what a cheaper threshold would take."""
        return as_text(self._heading(), self._rows(), left=0, notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), left=0, notes=self._notes())

    def _heading(self) -> str:
        promise = f"{self.quality:.1%} of the dearer model's quality"
        sure = f"{self.confidence:.0%} confidence"
        if self.chosen is None:
            return f"No threshold keeps {promise} with {sure}"
        return (
            f"With the dearer model on {self.chosen.strong_share:.0%} of the questions, at least "
            f"{promise} is kept, with {sure}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        every = max(1, math.ceil(len(self.curve) / _SHOWN))
        shown = [
            one for n, one in enumerate(self.curve) if n % every == every - 1 or one is self.chosen
        ]
        rows: list[tuple[str, ...]] = [("threshold", "dearer model", "quality", "at least", "")]
        rows += [
            (
                f"{one.threshold:.4g}",
                f"{one.strong_share:.0%}",
                f"{one.kept:.1%}",
                f"{one.kept_least:.1%}",
                "<- chosen" if one is self.chosen else "",
            )
            for one in shown
        ]
        return rows

    def _notes(self) -> list[str]:
        counted = f"Found on {self.labels:,} paired outcomes; quality is a share of the dearer"
        return [f"{counted} model's.", self._more()]

    def _more(self) -> str:
        """Say how many more labels like these would support the next cheaper threshold."""
        after = self.curve.index(self.chosen) + 1 if self.chosen else 0
        if after >= len(self.curve):
            return "No cheaper threshold was tried."
        one = self.curve[after]
        what = f"the dearer model on only {one.strong_share:.0%} of the questions"
        if one.kept <= self.quality:
            return f"More labels like these would not support {what}."
        # The distance from what was seen to its bound falls with the root of the number.
        needed = self.labels * ((one.kept - one.kept_least) / (one.kept - self.quality)) ** 2
        more = max(1, math.ceil(needed - self.labels))
        return f"About {more:,} more labels like these would support {what}."


def calibrate_routing(
    labels: Sequence[PairedOutcome],
    scores: Sequence[float],
    *,
    quality: float = 0.95,
    confidence: float = 0.95,
    higher: Higher = "strong",
) -> CalibratedThreshold:
    """Find the cheapest threshold that keeps a share of the dearer model's quality.

    Args:
        labels: What both models did on questions of your own traffic. Those that the router or the
            judge was trained on do not count.
        scores: One number for each label: what the router says of its question, or the judge of the
            cheaper model's answer.
        quality: Share of the dearer model's quality to keep, in (0, 1).
        confidence: How sure the promise shall be, in (0, 1).
        higher: What a higher score speaks for: "strong", as routers' do, so that questions scored
            at or above the threshold go to the dearer model; or "weak", as judges' do, so that
            answers scored at or above it are shown.

    Returns:
        The threshold, the promise and the curve. Where none keeps the promise, everything is for
        the dearer model.

    Raises:
        ConfigError: if a number is out of range, scores are missing or not finite.
        RouteError: if there are so few labels that not even losing nothing would support the
            promise, or the dearer model gets nothing right.

    Example:
        >>> labels = [PairedOutcome(question=f"{n}", weak=n < 250, strong=1) for n in range(400)]
        >>> found = calibrate_routing(labels, [n / 400 for n in range(400)])
        >>> 0.35 < found.strong_share < 0.4
        True
    """
    _check(labels, scores, quality, confidence, higher)
    given = np.array(scores, np.float64)
    need = given if higher == "strong" else -given
    order = np.argsort(need, kind="stable")
    weak = np.array([one.weak for one in labels], np.float64)[order]
    strong = np.array([one.strong for one in labels], np.float64)[order]
    if not strong.any():
        raise RouteError("the dearer model gets nothing right, so no share of it can be promised.")
    cuts = _cuts(need[order])
    least = _least(weak, strong, cuts, confidence)
    points = []
    for cut, bound in zip(cuts.tolist(), least.tolist(), strict=True):
        points.append(
            ThresholdPoint(
                threshold=_line(need[order], cut, higher),
                strong_share=1 - cut / len(labels),
                kept=float((weak[:cut].sum() + strong[cut:].sum()) / strong.sum()),
                kept_least=bound,
            )
        )
    chosen = None
    for point in points:
        if point.kept_least < quality:
            break
        chosen = point
    return CalibratedThreshold(
        chosen=chosen,
        curve=tuple(points),
        labels=len(labels),
        quality=quality,
        confidence=confidence,
    )


def _check(
    labels: Sequence[PairedOutcome],
    scores: Sequence[float],
    quality: float,
    confidence: float,
    higher: str,
) -> None:
    for name, value in (("quality", quality), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be between 0 and 1, got {value!r}.")
    if higher not in ("strong", "weak"):
        raise ConfigError(f"higher must be 'strong' or 'weak', got {higher!r}.")
    if len(scores) != len(labels):
        raise ConfigError(
            f"there are {len(scores):,} scores for {len(labels):,} labels; give one each."
        )
    if not all(map(math.isfinite, scores)):
        raise ConfigError("every score must be a finite number.")
    needed = least_sample(1 - quality, confidence)
    if len(labels) < needed:
        raise RouteError(
            f"{len(labels)} paired outcomes cannot show that {quality:.1%} of the dearer model's "
            f"quality is kept with {confidence:.0%} confidence; at least {needed} are needed."
        )


def _cuts(need: Floats) -> NDArray[np.int64]:
    """Return how many of the labels, sorted, the cheaper model may answer: what is tried.

    Equal scores stay together, as no threshold comes between them.
    """
    size = len(need)
    borders = np.append(np.flatnonzero(np.diff(need) > 0) + 1, size)
    wanted = np.unique(np.ceil(np.arange(1, _STEPS + 1) * size / _STEPS).astype(np.int64))
    at = np.minimum(np.searchsorted(borders, wanted), len(borders) - 1)
    return np.unique(borders[at])


def _line(need: Floats, cut: int, higher: Higher) -> float:
    """Return the threshold that leaves the first `cut` of the sorted labels to the cheaper one."""
    if cut < len(need):
        middle = float(need[cut - 1] + need[cut]) / 2
        middle = middle if middle > need[cut - 1] else float(need[cut])
    else:
        middle = float(need[-1]) if higher == "weak" else math.nextafter(need[-1], math.inf)
    return middle if higher == "strong" else -middle


def _least(weak: Floats, strong: Floats, cuts: NDArray[np.int64], confidence: float) -> Floats:
    """Return for each cut the lower bound on the share of the dearer model's quality.

    The added outcome is the worst there is: the dearer model right, the cheaper one wrong.
    """
    dice = np.random.default_rng(0)
    ratios = []
    left = _DRAWS
    while left > 0:
        draws = min(left, max(1, _AT_ONCE // len(weak)))
        left -= draws
        weights = dice.standard_exponential((draws, len(weak) + 1))
        worst = weights[:, -1:]
        by_weak = np.cumsum(weights[:, :-1] * weak, axis=1)[:, cuts - 1]
        by_strong = np.cumsum(weights[:, :-1] * strong, axis=1)
        kept = by_weak + by_strong[:, -1:] - by_strong[:, cuts - 1]
        ratios.append(kept / (by_strong[:, -1:] + worst))
    least: Floats = np.quantile(np.concatenate(ratios), 1 - confidence, axis=0)
    return least
