"""How good a router is, beside knowing everything, knowing nothing, and counting words.

The measures are those of RouteLLM (Ong et al., 2024). As the share of questions that the dearer
model answers grows from 0 to 1, quality grows from the cheaper model's to the dearer's. APGR is the
mean share of that gap that is closed; random choice closes half. CPT50 is the share of calls to the
dearer model that closes half of the gap. Calls are not dollars, since hard questions are longer, so
where costs are known they are reported too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.display_table import as_html, as_text
from costwise_core.errors import ConfigError, RouteError
from costwise_core.route.outcomes import PairedOutcome

__all__ = ["Measure", "RoutingReport", "Scored", "evaluate_routing"]

Floats: TypeAlias = NDArray[np.float64]

_RESAMPLES: Final = 200
_TAILS: Final = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number and the interval that holds the true one in 95 of 100 samples like this.

    Args:
        value: As measured.
        low: Lower end of the interval.
        high: Upper end.

    Example:
        >>> print(Measure(value=0.7, low=0.68, high=0.72))
        0.700 (0.680 to 0.720)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the number and its interval."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """How one way of choosing did.

    Args:
        name: "router", "words", "random" or "oracle".
        apgr: Mean share of the quality gap closed, over all shares of calls to the dearer model.
        cpt50: Share of calls to the dearer model that closes half of the gap.
        cpt80: The same for 80 % of it.
        usd_share: Dollars at the wanted quality as a share of what the dearer model alone costs;
            None where costs are not known.
    """

    name: str
    apgr: Measure
    cpt50: Measure
    cpt80: Measure
    usd_share: Measure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingReport:
    """A router beside what it must beat; `print` it to see the table.

    Made by `evaluate_routing`.

    Args:
        router: The scores that were given.
        words: Counting the words of the question.
        random: Not looking.
        oracle: Knowing both models' marks beforehand.
        n: How many questions.
        weak: Mean mark of the cheaper model.
        strong: Mean mark of the dearer model.
        quality: Share of the dearer model's quality at which dollars are counted.
    """

    router: Scored
    words: Scored
    random: Scored
    oracle: Scored
    n: int
    weak: float
    strong: float
    quality: float

    def __str__(self) -> str:
        """Return the table."""
        return as_text(self._heading(), self._rows(), notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), notes=self._notes())

    def _heading(self) -> str:
        return (
            f"{self.n:,} questions; the cheaper model reaches {self.weak:.1%}, the dearer "
            f"{self.strong:.1%}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        every = (self.router, self.words, self.random, self.oracle)
        priced = self.router.usd_share is not None
        cost = (f"dollars at {self.quality:.0%}",) if priced else ()
        rows: list[tuple[str, ...]] = [("", "APGR", "95 % interval", "CPT50", "CPT80", *cost)]
        for one in every:
            usd = (f"{one.usd_share.value:.0%}",) if one.usd_share else ()
            rows.append(
                (
                    one.name,
                    f"{one.apgr.value:.3f}",
                    f"{one.apgr.low:.3f} to {one.apgr.high:.3f}",
                    f"{one.cpt50.value:.0%}",
                    f"{one.cpt80.value:.0%}",
                    *usd,
                )
            )
        return rows

    def _notes(self) -> list[str]:
        low = self.router.apgr.low
        notes = ["APGR: share of the quality gap closed; random closes half."]
        if self.router.usd_share is not None:
            notes.append(
                f"Dollars: for {self.quality:.0%} of the dearer model's quality, as a share of "
                "what it costs alone."
            )
        if low <= 0.5:
            notes.append("This router is not shown to be better than chance on these questions.")
        elif low <= self.words.apgr.value:
            notes.append("This router is not shown to be better than counting words.")
        return notes


def evaluate_routing(
    pairs: Sequence[PairedOutcome],
    scores: Sequence[float],
    *,
    quality: float = 0.95,
    seed: int = 0,
) -> RoutingReport:
    """Measure a router's scores on paired outcomes that it was not trained on.

    Args:
        pairs: What both models did.
        scores: One number for each; the higher, the more the question needs the dearer model.
        quality: Share of the dearer model's quality at which dollars are counted.
        seed: Of the resampling behind the intervals (Efron's bootstrap, 200 resamples).

    Raises:
        ConfigError: if scores are missing or not finite, or the quality is out of range.
        RouteError: if the dearer model is no better on these, so that there is no gap to close.

    Example:
        >>> pairs = [PairedOutcome(question="?", weak=n < 50, strong=1) for n in range(100)]
        >>> report = evaluate_routing(pairs, range(100))
        >>> report.router.cpt50.value, report.random.apgr.value
        (0.25, 0.5)
    """
    if len(pairs) != len(scores):
        raise ConfigError(f"there are {len(scores):,} scores for {len(pairs):,} pairs; one each.")
    if not all(map(math.isfinite, scores)):
        raise ConfigError("every score must be a finite number.")
    if not 0 < quality <= 1:
        raise ConfigError(f"quality must be above 0 and at most 1, got {quality!r}.")
    weak = np.array([one.weak for one in pairs], np.float64)
    strong = np.array([one.strong for one in pairs], np.float64)
    if not strong.sum() > weak.sum():
        raise RouteError(
            "the dearer model is no better than the cheaper one on these questions: there is "
            "nothing to route, the cheaper one can answer them all."
        )
    known = _Outcomes(weak, strong, *_costs(pairs), quality)
    words = np.array([len(one.question.split()) for one in pairs], np.float64)
    dice = np.random.default_rng(seed)
    samples = [dice.integers(0, len(pairs), len(pairs)) for _ in range(_RESAMPLES)]
    nothing = np.zeros(len(pairs))

    def scored(name: str, given: Floats, *, chance: bool = False) -> Scored:
        value = known.measured(given)
        drawn = [
            known.of(rows).measured(dice.random(len(rows)) if chance else given[rows])
            for rows in samples
        ]
        spread = np.array([one for one in drawn if one is not None])
        low, high = np.quantile(spread, _TAILS, axis=0)
        four = [
            Measure(value=float(v), low=float(a), high=float(b))
            for v, a, b in zip(value or (), low, high, strict=True)
        ]
        priced = not math.isnan(four[3].value)
        return Scored(
            name=name,
            apgr=four[0],
            cpt50=four[1],
            cpt80=four[2],
            usd_share=four[3] if priced else None,
        )

    return RoutingReport(
        router=scored("router", np.array(scores, np.float64)),
        words=scored("words", words),
        random=scored("random", nothing, chance=True),
        oracle=scored("oracle", strong - weak),
        n=len(pairs),
        weak=float(weak.mean()),
        strong=float(strong.mean()),
        quality=quality,
    )


@dataclass(frozen=True, slots=True)
class _Outcomes:
    weak: Floats
    strong: Floats
    weak_usd: Floats
    strong_usd: Floats
    quality: float

    def of(self, rows: NDArray[np.int64]) -> "_Outcomes":
        return _Outcomes(
            self.weak[rows],
            self.strong[rows],
            self.weak_usd[rows],
            self.strong_usd[rows],
            self.quality,
        )

    def measured(self, scores: Floats) -> tuple[float, float, float, float] | None:
        """Return APGR, CPT50, CPT80 and the share of dollars; None if there is no gap."""
        gain = self.strong - self.weak
        gap = float(gain.sum())
        if gap <= 0:
            return None
        order = np.argsort(-scores, kind="stable")
        # Among equal scores the choice is by chance, so the curve is straight between borders.
        borders = np.append(np.flatnonzero(np.diff(scores[order]) != 0) + 1, len(scores))
        at = np.concatenate([[0], borders])
        share = at / len(scores)
        closed = _sums(gain[order], at) / gap
        extra = self.strong_usd - self.weak_usd
        dollars = float(self.weak_usd.sum()) + _sums(extra[order], at)
        wanted = (self.quality * self.strong.sum() - self.weak.sum()) / gap
        alone = float(self.strong_usd.sum())
        return (
            float(np.diff(share) @ (closed[1:] + closed[:-1]) / 2),
            _first(closed, share, 0.5),
            _first(closed, share, 0.8),
            _first(closed, dollars, float(wanted)) / alone if alone else math.nan,
        )


def _sums(values: Floats, at: NDArray[np.int64]) -> Floats:
    sums: Floats = np.concatenate([[0.0], np.cumsum(values)])[at]
    return sums


def _first(closed: Floats, along: Floats, wanted: float) -> float:
    """Return where a curve first reaches a height, straight between its points."""
    at = int(np.argmax(closed >= wanted - 1e-12))
    if at == 0:
        return float(along[0])
    rise = closed[at] - closed[at - 1]
    part = (wanted - closed[at - 1]) / rise if rise > 0 else 1.0
    return float(along[at - 1] + min(1.0, part) * (along[at] - along[at - 1]))


def _costs(pairs: Sequence[PairedOutcome]) -> tuple[Floats, Floats]:
    """Return both models' dollars; NaN everywhere unless all are known."""
    nan = np.full(len(pairs), math.nan)
    if any(one.weak_usd is None or one.strong_usd is None for one in pairs):
        return nan, nan
    return (
        np.array([float(one.weak_usd or 0) for one in pairs]),
        np.array([float(one.strong_usd or 0) for one in pairs]),
    )
