"""A judge that learned from your own labels what right and wrong answers look like."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.route.features import terms_of
from costwise_core.route.fitting import weighted
from costwise_core.route.judges.signs import SIGNS, signs_of
from costwise_core.route.routes import Ask, Candidate, Judgement
from costwise_core.route.saved import from_saved, to_saved

__all__ = ["AnswerModel", "TrainedJudge"]

Floats = NDArray[np.float64]

_FORMAT: Final = "costwise-answers-1"
_CLIP: Final = 4.0
_SAID: Final = 2
_SLIGHT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class AnswerModel:
    """What was learned from judged answers: plain numbers and words, to be kept in a file.

    Made by `train_judge`. It holds words of the training's answers, so keep it as you keep them.

    Args:
        terms: Words and pairs of words of answers it knows.
        idf: How rare each was.
        weights: What each says for an answer.
        centre: Mean of each number in `SIGNS`.
        scale: Its standard deviation.
        signs: What each of those says for an answer, standardised.
        constant: Added to the sum.
        answers: How many judged answers it learned from.

    Example:
        >>> none = (0.0,) * len(SIGNS)
        >>> model = AnswerModel(
        ...     terms=("eggs",), idf=(1.0,), weights=(0.5,), centre=none, scale=(1.0,) * len(SIGNS),
        ...     signs=none, constant=0.0, answers=100,
        ... )
        >>> AnswerModel.from_json(model.to_json()) == model
        True
    """

    terms: tuple[str, ...] = field(repr=False)
    idf: tuple[float, ...] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)
    centre: tuple[float, ...] = field(repr=False)
    scale: tuple[float, ...] = field(repr=False)
    signs: tuple[float, ...] = field(repr=False)
    constant: float
    answers: int

    def chance(self, ask: Ask, answer: Candidate) -> tuple[float, str]:
        """Return how likely an answer is right, in [0, 1], and what speaks for or against it."""
        index, idf, weights, centre, scale, signs = self._numbers
        columns, values = weighted(terms_of(answer.text), index, idf)
        seen = np.clip((np.array(signs_of(ask, answer)) - centre) / scale, -_CLIP, _CLIP)
        parts = seen * signs
        logit = float(values @ weights[columns]) + float(parts.sum()) + self.constant
        chance = 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))
        return chance, _told(parts if chance >= 0.5 else -parts)

    def to_json(self) -> str:
        """Return everything as one JSON object, of about 50 bytes for each word."""
        return to_saved(self, _FORMAT)

    @classmethod
    def from_json(cls, text: str) -> "AnswerModel":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: if it is anything else.
        """

        def make(fields: dict[str, Any]) -> "AnswerModel | None":
            model = cls(
                terms=tuple(fields.pop("terms")),
                constant=float(fields.pop("constant")),
                answers=int(fields.pop("answers")),
                **{name: tuple(map(float, numbers)) for name, numbers in fields.items()},
            )
            return model if model._fits() else None

        return from_saved(text, _FORMAT, make, what="model of answers", by="AnswerModel.to_json")

    def _fits(self) -> bool:
        """Whether sizes and numbers are such as training writes."""
        numbers = [*self.idf, *self.weights, *self.centre, *self.scale, *self.signs, self.constant]
        return (
            all(isinstance(term, str) for term in self.terms)
            and len(set(self.terms)) == len(self.terms) == len(self.idf) == len(self.weights)
            and len(self.centre) == len(self.scale) == len(self.signs) == len(SIGNS)
            and all(map(math.isfinite, numbers))
            and min(self.scale) > 0
        )

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], Floats, Floats, Floats, Floats, Floats]:
        index = {term: at for at, term in enumerate(self.terms)}
        arrays = (self.idf, self.weights, self.centre, self.scale, self.signs)
        idf, weights, centre, scale, signs = (np.array(one, np.float64) for one in arrays)
        return index, idf, weights, centre, scale, signs


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedJudge:
    """Scores an answer by how likely it is right, as learned from your own labels.

    It sees words of the answer, some thirty signs in it (sums that are wrong, results that are
    never used, hedging, how much of it the passages hold) and the shape of the question. It knows
    the model and the kind of question it was trained on and no other.

    Args:
        model: From `train_judge`.

    Example:
        >>> none = (0.0,) * len(SIGNS)
        >>> model = AnswerModel(
        ...     terms=(), idf=(), weights=(), centre=none, scale=(1.0,) * len(SIGNS), signs=none,
        ...     constant=0.0, answers=100,
        ... )
        >>> TrainedJudge(model=model).judge(Ask(question="What is RAG?"), Candidate(text="Rags."))
        Judgement(score=0.5, why='right with a chance of 50%')
    """

    model: AnswerModel
    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score an answer by its chance to be right."""
        chance, told = self.model.chance(ask, answer)
        side = "for" if chance >= 0.5 else "against"
        because = f"; {side} it: {told}" if told else ""
        return Judgement(score=chance, why=f"right with a chance of {chance:.0%}{because}")


def _told(parts: Floats) -> str:
    """Return the names of the signs that say most."""
    strongest = np.argsort(-parts)[:_SAID]
    return ", ".join(SIGNS[at] for at in strongest if parts[at] > _SLIGHT)
