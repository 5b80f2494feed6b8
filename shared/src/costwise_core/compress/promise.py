"""The smallest share of the context that keeps a promise, measured on your own questions.

Every share is tried on every labelled question. What counts is not how many answers were lost but
the exact one-sided upper bound on how many will be (Clopper and Pearson, Biometrika 26, 1934). Many
shares are tried and the smallest good one is wanted, and the luckiest of many is easily found good:
so they are tested in a fixed order, from the largest down, and the first that fails ends it. Then
the chance that any share is wrongly found good is no larger than for a single test (fixed sequence
testing in Angelopoulos et al., "Learn then Test", 2021).

The promise speaks of questions like those that were labelled.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.bounds import least_sample, sample_needed, wrong_share_upper
from costwise_core.display_table import as_html, as_text
from costwise_core.errors import ConfigError
from costwise_core.labelled import LabelledQuestion
from costwise_core.protocols import Compressor

__all__ = ["CalibratedShare", "SharePoint", "calibrate_share"]

SHARES: Final = (0.7, 0.5, 0.35, 0.25, 0.2, 0.15, 0.1, 0.08, 0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class SharePoint:
    """What one share does to the labelled questions.

    Args:
        share: What the compressor was asked to keep.
        kept: Share of the tokens that it did keep.
        lost: Questions whose answer was in the passages and is not in what was kept.
        recall: Share of the questions that kept theirs.
        recall_least: Lower confidence bound on that share.
    """

    share: float
    kept: float
    lost: int
    recall: float
    recall_least: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedShare:
    """A share with a promise, and how it was found; `print` it to see the curve.

    Made by `calibrate_share`.

    Args:
        chosen: The smallest share that keeps the promise; None if none does.
        curve: What each share does, the largest first.
        questions: How many were labelled.
        answerable: In how many of them the answer was in the passages. The others cannot lose it
            and say nothing.
        target: Recall that is promised.
        confidence: How sure the promise is.

    Example:
        >>> nothing = CalibratedShare(
        ...     chosen=None, curve=(), questions=0, answerable=0, target=0.98, confidence=0.95
        ... )
        >>> nothing.share
        1.0
    """

    chosen: SharePoint | None
    curve: tuple[SharePoint, ...]
    questions: int
    answerable: int
    target: float
    confidence: float

    @property
    def share(self) -> float:
        """What to ask a compressor to keep; 1.0, which is all, where nothing can be promised."""
        return self.chosen.share if self.chosen else 1.0

    def __str__(self) -> str:
        """Return the promise, the curve, and what a smaller share would take."""
        return as_text(self._heading(), self._rows(), left=0, notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), left=0, notes=self._notes())

    def _heading(self) -> str:
        if self.chosen is None:
            return f"No share keeps {self.target:.1%} of the answers with {self._sure()}"
        return (
            f"Asked to keep {self.chosen.share:g} of the tokens it keeps at least "
            f"{self.target:.1%} of the answers, with {self._sure()}"
        )

    def _sure(self) -> str:
        return f"{self.confidence:.0%} confidence"

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("share", "tokens kept", "lost", "recall", "at least", "")]
        rows += [
            (
                f"{one.share:g}",
                f"{one.kept:.1%}",
                f"{one.lost:,}",
                f"{one.recall:.1%}",
                f"{one.recall_least:.1%}",
                "<- chosen" if one is self.chosen else "",
            )
            for one in self.curve
        ]
        return rows

    def _notes(self) -> list[str]:
        counted = f"{self.answerable:,} of {self.questions:,} labelled questions count"
        return [f"{counted}: the answer was in their passages.", self._more()]

    def _more(self) -> str:
        """Say how many more labels like these would support the next smaller share."""
        after = self.curve.index(self.chosen) + 1 if self.chosen else 0
        if after == len(self.curve):
            return "No smaller share was tried."
        one = self.curve[after]
        needed = sample_needed(one.lost, self.answerable, 1 - self.target, self.confidence)
        if needed is None:
            return f"More labels like these would not support {one.share:g}."
        more = math.ceil((needed - self.answerable) * self.questions / self.answerable)
        return (
            f"If its recall stays {one.recall:.1%}, about {more:,} more labelled questions like "
            f"these would support {one.share:g}."
        )


def calibrate_share(
    make: Callable[[float], Compressor],
    questions: Iterable[LabelledQuestion],
    *,
    target: float = 0.98,
    confidence: float = 0.95,
    shares: Iterable[float] = SHARES,
) -> CalibratedShare:
    """Find the smallest share of the tokens that keeps the answers to your own questions.

    Args:
        make: Makes the compressor that keeps a given share of the tokens.
        questions: From your own traffic, labelled; those the compressor was tuned on do not count.
        target: Share of the answers to keep, in (0, 1); of those that are in the passages.
        confidence: How sure the promise shall be, in (0, 1).
        shares: What to try, each in (0, 1).

    Returns:
        The share, the promise and the curve. Where no share keeps the promise its `share` is 1.0.

    Raises:
        ConfigError: if a number is out of range, a question has no label, or there are so few that
            not even keeping the answer to all of them would support the promise; it says how many
            are needed.

    Example:
        >>> from costwise_core import Compressed, Passage
        >>> class Beginning:
        ...     def __init__(self, share):
        ...         self.share = share
        ...     def compress(self, question, passages):
        ...         kept = tuple(passages[: round(len(passages) * self.share)])
        ...         return Compressed(
        ...             passages=kept, given=tuple(passages), tokens_before=len(passages),
        ...             tokens_after=len(kept), reason="compressed",
        ...         )
        >>> passages = [Passage(text=f"Shop {n} is on street {n}.") for n in range(20)]
        >>> asked = [
        ...     LabelledQuestion(question="Where?", passages=passages, answers=(f"street {n % 5}",))
        ...     for n in range(150)
        ... ]
        >>> calibrate_share(Beginning, asked).share
        0.25
    """
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be between 0 and 1, got {value!r}.")
    tried = sorted(set(shares), reverse=True)
    if not tried or not all(0 < share < 1 for share in tried):
        raise ConfigError(f"shares must be numbers between 0 and 1, got {tried!r}.")
    labelled = list(questions)
    answerable = _answerable(labelled, target, confidence)
    curve = tuple(_point(share, make(share), answerable, confidence) for share in tried)
    chosen = None
    for point in curve:
        if point.recall_least < target:
            break
        chosen = point
    return CalibratedShare(
        chosen=chosen,
        curve=curve,
        questions=len(labelled),
        answerable=len(answerable),
        target=target,
        confidence=confidence,
    )


def _answerable(
    questions: Sequence[LabelledQuestion], target: float, confidence: float
) -> list[LabelledQuestion]:
    """Return the questions that can lose their answer, if they are enough for the promise."""
    bare = next((one for one in questions if not (one.answers or one.gold)), None)
    if bare is not None:
        raise ConfigError(
            f"question {questions.index(bare) + 1} of {len(questions)} has neither answers nor "
            f"gold passage ids; nothing can be promised without labels."
        )
    found = [one for one in questions if one.kept_in(one.passages)]
    needed = least_sample(1 - target, confidence)
    if len(found) < needed:
        instead = 1 - wrong_share_upper(0, len(found), confidence)
        raise ConfigError(
            f"{len(found)} labelled questions with the answer in their passages (of "
            f"{len(questions)}) cannot show that {target:.1%} of the answers are kept with "
            f"{confidence:.0%} confidence; at least {needed} are needed. They could show "
            f"{math.floor(instead * 1000) / 10:.1f}%."
        )
    return found


def _point(
    share: float,
    compressor: Compressor,
    questions: Sequence[LabelledQuestion],
    confidence: float,
) -> SharePoint:
    before = after = lost = 0
    for one in questions:
        result = compressor.compress(one.question, one.passages)
        before += result.tokens_before
        after += result.tokens_after
        lost += not one.kept_in(result.passages)
    return SharePoint(
        share=share,
        kept=after / before if before else 1.0,
        lost=lost,
        recall=1 - lost / len(questions),
        recall_least=1 - wrong_share_upper(lost, len(questions), confidence),
    )
