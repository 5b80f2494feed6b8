"""Training a judge on answers of which it is known how good they were."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from costwise_core.errors import ConfigError, RouteError
from costwise_core.route.features import terms_of
from costwise_core.route.fitting import Design, logistic, stacked, weighted
from costwise_core.route.judges.signs import signs_of
from costwise_core.route.judges.trained import AnswerModel
from costwise_core.route.routes import Ask, Candidate

__all__ = ["LEAST_ANSWERS", "JudgedAnswer", "train_judge"]

LEAST_ANSWERS: Final = 40
"""Fewest judged answers that a judge is trained on."""

_LEAST_OF_EACH: Final = 5
_IN_ANSWERS: Final = 3
_MOST_TERMS: Final = 20_000
_CLIP: Final = 4.0
# Chosen by cross-validation on GSM8K's answers, where 0.2 to 1.5 and 5 to 40 differ little.
_RIDGES: Final = (0.5, 15.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedAnswer:
    """An answer and how good it was, as a person, a test or a dearer model found.

    Args:
        ask: What was asked, with the passages if there were any.
        answer: What the cheaper model said, with its probabilities if there are any.
        mark: From 0, wrong, to 1, right.

    Raises:
        ConfigError: if the mark is out of range.

    Example:
        >>> JudgedAnswer(ask=Ask(question="3 * 4?"), answer=Candidate(text="12"), mark=1).mark
        1
    """

    ask: Ask
    answer: Candidate
    mark: float

    def __post_init__(self) -> None:
        if not 0 <= self.mark <= 1:
            raise ConfigError(f"mark is from 0 to 1, got {self.mark!r}.")


def train_judge(judged: Sequence[JudgedAnswer]) -> AnswerModel:
    """Learn from judged answers how right ones differ from wrong ones.

    It is a logistic regression on the answers' words, on what can be seen in them (`SIGNS`) and on
    the shape of the questions; it takes about a second for a thousand answers. Keep some of the
    labels aside to find the threshold with (`calibrate_routing`): on those it has seen, it looks
    better than it is.

    Args:
        judged: Answers of one model to questions of your own traffic: 40 at the least, and it goes
            on getting better up to many hundreds.

    Raises:
        RouteError: if there are too few, or they are almost all right or all wrong.

    Example:
        >>> judged = [
        ...     JudgedAnswer(ask=Ask(question="?"), answer=Candidate(text=text), mark=mark)
        ...     for text, mark in [("It is 3 * 4 = 12.", 1), ("It is 3 * 4 = 13.", 0)] * 20
        ... ]
        >>> from costwise_core.route.judges.trained import TrainedJudge
        >>> judge = TrainedJudge(model=train_judge(judged))
        >>> judge.judge(Ask(question="?"), Candidate(text="It is 5 * 5 = 55.")).score < 0.5
        True
    """
    right = sum(one.mark >= 0.5 for one in judged)
    if len(judged) < LEAST_ANSWERS or min(right, len(judged) - right) < _LEAST_OF_EACH:
        raise RouteError(
            f"a judge is trained on at least {LEAST_ANSWERS} judged answers, of which at least "
            f"{_LEAST_OF_EACH} are right and {_LEAST_OF_EACH} wrong; there are {len(judged)}, and "
            f"{right} of them are right."
        )
    counts = [terms_of(one.answer.text) for one in judged]
    spread = Counter(term for one in counts for term in one)
    known = [(term, n) for term, n in spread.most_common(_MOST_TERMS) if n >= _IN_ANSWERS]
    terms = [term for term, _ in known]
    idf = np.array([1 + math.log(len(judged) / n) for _, n in known], np.float64)
    index = {term: at for at, term in enumerate(terms)}
    sparse = stacked([weighted(one, index, idf) for one in counts], len(terms))
    seen = np.array([signs_of(one.ask, one.answer) for one in judged], np.float64)
    centre, scale = seen.mean(axis=0), seen.std(axis=0)
    scale[scale < 1e-9] = 1.0
    dense = np.clip((seen - centre) / scale, -_CLIP, _CLIP)
    marks = np.array([one.mark for one in judged], np.float64)
    weights, signs, constant = logistic(Design(sparse=sparse, dense=dense, ridges=_RIDGES), marks)
    return AnswerModel(
        terms=tuple(terms),
        idf=tuple(idf.tolist()),
        weights=tuple(weights.tolist()),
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        signs=tuple(signs.tolist()),
        constant=constant,
        answers=len(judged),
    )
