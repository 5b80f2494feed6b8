"""A fixed threshold that is not a guess: chosen on your own labelled pairs, with a bound.

Every cosine serves some of the pairs, and some of those wrongly. The observed wrong share of a
hundred hits says little about the next hundred, so what counts is its one-sided upper confidence
bound, exact for a binomial count (Clopper and Pearson, Biometrika 26, 1934). The lowest cosine
whose bound is within what you allow is chosen; the curve shows what the others would have done.
The bound holds for each threshold; that the luckiest of several is chosen is not in it.

The pairs must be like the traffic: a bound on pairs speaks of pairs like them. `RiskControl` needs
no pairs and follows the traffic itself.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.bounds import least_sample, sample_needed, wrong_share_upper
from costwise_core.cache.evidence import FACTS
from costwise_core.cache.guards import Guard, first_objection, read
from costwise_core.cache.judge import Judge
from costwise_core.cache.policy import Verdict
from costwise_core.errors import ConfigError
from costwise_core.protocols import Embedder
from costwise_core.types import Neighbour

__all__ = ["Calibrated", "JudgeError", "Point", "calibrate", "judge_error", "wrong_share_upper"]

_STEP: Final = 0.01
# So much of the curve is printed below the choice.
_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What one threshold does to the labelled pairs.

    Args:
        threshold: Lowest cosine that is served.
        hits: Pairs it serves, those that a guard vetoes left out.
        wrong: Those with different answers.
        recall: Share of the pairs with the same answer that it serves.
        upper: Upper confidence bound on the wrong share of its hits; 1.0 without hits.
    """

    threshold: float
    hits: int
    wrong: int
    recall: float
    upper: float

    @property
    def wrong_share(self) -> float:
        """Observed wrong share of the hits, 0.0 without any."""
        return self.wrong / self.hits if self.hits else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """A policy that serves from the calibrated cosine on; `print` it to see the curve.

    Made by `calibrate`.

    Args:
        chosen: The point it serves from; None if no threshold keeps within the bound, and then it
            serves nothing.
        curve: What each threshold does, the highest first.
        pairs: How many pairs it was calibrated on.
        max_wrong: Largest wrong share of hits allowed.
        confidence: One-sided confidence of the bound.
        guards: What vetoes a neighbour whatever its cosine.

    Example:
        >>> nothing = Calibrated(chosen=None, curve=(), pairs=0, max_wrong=0.05, confidence=0.95)
        >>> nothing.decide("a question", []).action
        'refuse'
    """

    chosen: Point | None
    curve: tuple[Point, ...]
    pairs: int
    max_wrong: float
    confidence: float
    guards: tuple[Guard, ...] = FACTS

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Serve the nearest neighbour that is near enough and that no guard objects to."""
        if not neighbours:
            return Verdict(action="refuse", why="nothing similar is stored in this scope")
        if self.chosen is None:
            why = (
                f"no cosine keeps within {self.max_wrong:.1%} wrong on {self.pairs} labelled pairs"
            )
            return Verdict(action="refuse", why=why, reason="not_calibrated")
        asked, vetoed = read(question), None
        for one in neighbours:
            if one.cosine < self.chosen.threshold:
                break
            objection = first_objection(asked, read(one.entry.question), self.guards)
            if objection is None:
                why = f"asked before in similar words (cosine {one.cosine:.3f})"
                return Verdict(action="serve", why=why, candidate=one)
            vetoed = vetoed or objection
        best = neighbours[0]
        if vetoed is not None:
            why = f"{vetoed.guard}: {vetoed.why}"
            return Verdict(action="refuse", why=why, reason=f"guard_{vetoed.guard}", candidate=best)
        why = f"nearest question has cosine {best.cosine:.3f}, below {self.chosen.threshold:.3f}"
        return Verdict(action="refuse", why=why, reason="below_threshold", candidate=best)

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Learn nothing: the pairs were the lesson."""

    def __str__(self) -> str:
        """Return the curve as a table, the choice, and what a lower threshold would take."""
        promise = (
            f"at most {self.max_wrong:.1%} of hits wrong, with {self.confidence:.0%} confidence"
        )
        lines = [
            f"{self.pairs} labelled pairs; {promise}",
            "cosine   hits  recall   wrong  at most",
        ]
        curve = [one for one in self.curve if one.hits]
        last = curve.index(self.chosen) if self.chosen in curve else 0
        lines += [
            f"{one.threshold:6.3f} {one.hits:6d} {one.recall:7.1%} {one.wrong_share:7.1%} "
            f"{one.upper:8.1%}{'  <- chosen' if one is self.chosen else ''}"
            for one in curve[: last + _SHOWN]
        ]
        if self.chosen is None:
            lines.append("No threshold keeps within the bound, so nothing is served.")
        return "\n".join([*lines, self._more()])

    def _more(self) -> str:
        """Say how many more pairs like these would support a lower threshold."""
        lowest = self.chosen.threshold if self.chosen else 2.0
        wanted = [
            (needed - one.hits, one)
            for one in self.curve
            if one.threshold < lowest
            and (needed := sample_needed(one.wrong, one.hits, self.max_wrong, self.confidence))
            is not None
        ]
        if not wanted:
            return "More pairs like these would not support a lower threshold."
        _, point = min(wanted, key=lambda one: one[0])
        hits = next(more for more, one in wanted if one is point)
        more = math.ceil(hits * self.pairs / point.hits)
        return (
            f"If their wrong share stays {point.wrong_share:.1%}, about {more:,} more pairs like "
            f"these would support {point.threshold:.3f}."
        )


def calibrate(
    pairs: Iterable[tuple[str, str, bool]],
    embedder: Embedder,
    *,
    max_wrong: float = 0.05,
    confidence: float = 0.95,
    guards: Sequence[Guard] = FACTS,
) -> Calibrated:
    """Choose the lowest cosine whose bound on the wrong share of hits is within `max_wrong`.

    Args:
        pairs: Question asked, question stored, and whether one answer is right for both.
        embedder: The one the cache will use.
        max_wrong: Largest wrong share of hits, in (0, 1).
        confidence: One-sided confidence of the bound, in (0, 1).
        guards: What vetoes a pair whatever its cosine; the cache will ask the same.

    Returns:
        A policy for `Cache`; `print` it to see what every threshold does.

    Raises:
        ConfigError: if a number is out of range, or there are so few pairs with the same answer
            that not even all of them served rightly would support the bound.

    Example:
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> pairs = [(f"Where is shop {n}?", f"where is shop {n}", True) for n in range(60)]
        >>> pairs += [(f"Where is shop {n}?", f"Who founded brand {n}?", False) for n in range(60)]
        >>> policy = calibrate(pairs, HashingEmbedder())
        >>> policy.chosen.wrong, policy.chosen.recall
        (0, 1.0)
    """
    for name, value in (("max_wrong", max_wrong), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be between 0 and 1, got {value!r}.")
    known = list(pairs)
    same_answer = sum(same for _, _, same in known)
    least = least_sample(max_wrong, confidence)
    if same_answer < least:
        raise ConfigError(
            f"{same_answer} pairs with the same answer cannot show that at most {max_wrong:.1%} "
            f"of hits are wrong with {confidence:.0%} confidence; at least {least} are needed."
        )
    asked = embedder.embed([one for one, _, _ in known])
    stored = embedder.embed([other for _, other, _ in known])
    cosines = (asked * stored).sum(axis=1).tolist()
    servable = sorted(
        (
            (cosine, same)
            for (one, other, same), cosine in zip(known, cosines, strict=True)
            if first_objection(read(one), read(other), guards) is None
        ),
        reverse=True,
    )
    curve = tuple(_curve(servable, same_answer, confidence))
    fine = [one for one in curve if one.upper <= max_wrong]
    return Calibrated(
        chosen=fine[-1] if fine else None,
        curve=curve,
        pairs=len(known),
        max_wrong=max_wrong,
        confidence=confidence,
        guards=tuple(guards),
    )


def _curve(
    servable: Sequence[tuple[float, bool]], same_answer: int, confidence: float
) -> Iterable[Point]:
    for step in range(round(1 / _STEP)):
        threshold = round(1 - step * _STEP, 4)
        served = [same for cosine, same in servable if cosine >= threshold - 1e-6]
        hits, right = len(served), sum(served)
        yield Point(
            threshold=threshold,
            hits=hits,
            wrong=hits - right,
            recall=right / same_answer,
            upper=wrong_share_upper(hits - right, hits, confidence),
        )
        if hits == len(servable):
            return


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeError:
    """How often a judge lets a difference pass.

    Args:
        share: Share of different answers that it calls the same.
        upper: Upper confidence bound on that share; what `RiskControl(judge_error=...)` wants.
        different: How many different answers it was shown.
        false_alarms: Share of equal answers it calls different; costs hits, never right answers.
    """

    share: float
    upper: float
    different: int
    false_alarms: float


def judge_error(
    judge: Judge, pairs: Iterable[tuple[str, str, str, bool]], *, confidence: float = 0.95
) -> JudgeError:
    """Measure a judge on answers that you have labelled.

    Args:
        judge: The one the cache uses.
        pairs: Question, fresh answer, stored answer, and whether the two say the same.
        confidence: One-sided confidence of the bound, in (0, 1).

    Raises:
        ConfigError: if `confidence` is out of range or no two answers differ.

    Example:
        >>> from costwise_core import SameText
        >>> pairs = [("Where?", "Paris.", "paris", True), ("Where?", "Rome", "Oslo", False)]
        >>> judge_error(SameText(), pairs).share
        0.0
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence!r}.")
    said: dict[bool, list[bool]] = {True: [], False: []}
    for question, fresh, stored, same in pairs:
        said[bool(same)].append(judge.same(question, fresh, stored))
    different, equal = said[False], said[True]
    if not different:
        raise ConfigError("a judge is measured on answers that differ, and none of these do.")
    passed = sum(different)
    return JudgeError(
        share=passed / len(different),
        upper=wrong_share_upper(passed, len(different), confidence),
        different=len(different),
        false_alarms=1 - sum(equal) / len(equal) if equal else 0.0,
    )
