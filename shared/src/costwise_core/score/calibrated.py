"""Several scorers' opinions as one probability, learned from labelled questions."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.cache.boundary import fit
from costwise_core.drive import run
from costwise_core.errors import ConfigError
from costwise_core.labelled import LabelledQuestion
from costwise_core.protocols import Scorer
from costwise_core.score.fusion import Fusion, all_scores, ranks

__all__ = ["CalibratedFusion", "FusionWeights", "fit_fusion"]

_FEATURES: Final = 3
_FEW_QUESTIONS: Final = 20
_MAX_CHARS: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionWeights:
    """What was learned from labelled questions: plain numbers, to be kept in a file.

    Args:
        scorers: Names of the scorers, in order.
        centre: Mean of each feature; three for each scorer.
        scale: Its standard deviation.
        weights: Of the constant and of each feature.
        questions: How many were learned from.

    Example:
        >>> three, four = (1.0, 1.0, 1.0), (0.0, 1.0, -1.0, -1.0)
        >>> weights = FusionWeights(
        ...     scorers=("bm25",), centre=three, scale=three, weights=four, questions=20
        ... )
        >>> FusionWeights.from_json(weights.to_json()) == weights
        True
    """

    scorers: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    questions: int

    def to_json(self) -> str:
        """Return the numbers as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "FusionWeights":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: if it is anything else.
        """
        wrong = ConfigError(
            "these are no fusion weights; give what FusionWeights.to_json returned."
        )
        if len(text) > _MAX_CHARS:
            raise wrong
        try:
            data = json.loads(text)
            scorers = tuple(map(str, data["scorers"]))
            rows = {key: tuple(map(float, data[key])) for key in ("centre", "scale", "weights")}
            questions = int(data["questions"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise wrong from error
        sizes = [len(row) for row in rows.values()]
        width = _FEATURES * len(scorers)
        numbers = [number for row in rows.values() for number in row]
        if sizes != [width, width, width + 1] or not all(map(math.isfinite, numbers)):
            raise wrong
        if not all(number > 0 for number in rows["scale"]):
            raise wrong
        return cls(scorers=scorers, questions=questions, **rows)


class CalibratedFusion(Fusion):
    """Scores passages by how likely each is relevant, from what several scorers say of it.

    A logistic regression over each scorer's score, its distance to the best other score for the
    question, and its rank. As the result is a probability, `min_score=0.05` on `RerankTrim` means
    the same for every question: leave out what is relevant less than once in twenty times. That
    holds for traffic like the labelled one.

    Args:
        scorers: Those that the weights were learned with, in the same order.
        weights: From `fit_fusion`.

    Raises:
        ConfigError: if the scorers are others.

    Example:
        >>> from costwise_core import Passage
        >>> from costwise_core.score.bm25 import BM25
        >>> hotel = [Passage(id="1", text="Checkout is at noon."), Passage(id="2", text="We bake.")]
        >>> asked = LabelledQuestion(question="When is checkout?", passages=hotel, gold=("1",))
        >>> weights = fit_fusion([BM25()], [asked] * 20)
        >>> high, low = CalibratedFusion([BM25()], weights).score("When is checkout?", hotel)
        >>> high > 0.9, low < 0.1
        (True, True)
    """

    def __init__(self, scorers: Sequence[Scorer], weights: FusionWeights) -> None:
        names = tuple(scorer.name for scorer in scorers)
        if names != weights.scorers:
            raise ConfigError(
                f"these weights are for {', '.join(weights.scorers)}, in this order; "
                f"got {', '.join(names) or 'no scorers'}."
            )
        super().__init__(scorers, self._chances, name="calibrated")
        self.weights = weights

    def _chances(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (_features(scores) - np.array(self.weights.centre)) / np.array(self.weights.scale)
        constant, *slopes = self.weights.weights
        logits = np.clip(constant + scaled @ np.array(slopes), -30, 30)
        chances: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return chances


def fit_fusion(scorers: Sequence[Scorer], labelled: Iterable[LabelledQuestion]) -> FusionWeights:
    """Learn how to fuse scorers from labelled questions.

    Args:
        scorers: What to fuse; each is asked once for every question.
        labelled: At least 20 questions with the passages your retriever gives. Relevant are those
            named in `gold`, or without that those that hold one of the answers. The probabilities
            are right for passages retrieved the same way.

    Raises:
        ConfigError: if there are fewer questions, or all passages or none are relevant.
        Exception: whatever one of the scorers raises.

    Example:
        >>> from costwise_core import Passage
        >>> from costwise_core.score.bm25 import BM25
        >>> hotel = [Passage(id="1", text="Checkout is at noon."), Passage(id="2", text="We bake.")]
        >>> asked = LabelledQuestion(question="When is checkout?", passages=hotel, gold=("1",))
        >>> fit_fusion([BM25()], [asked] * 20).questions
        20
    """
    asked = [one for one in labelled if one.passages]
    if len(asked) < _FEW_QUESTIONS:
        raise ConfigError(
            f"fit_fusion needs at least {_FEW_QUESTIONS} labelled questions with passages, "
            f"got {len(asked)}."
        )
    features = np.concatenate(
        [_features(run(all_scores(scorers, one.question, one.passages))) for one in asked]
    )
    same = np.array([found for one in asked for found in _relevant(one)], np.float64)
    if not 0 < same.mean() < 1:
        raise ConfigError(
            f"{'every' if same.any() else 'no'} passage is labelled relevant, so there is nothing "
            "to tell apart; do the ids in gold match those of the passages?"
        )
    centre, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1.0
    design = np.column_stack([np.ones(len(features)), (features - centre) / scale])
    weights = fit(design, same, np.ones(len(same)), np.zeros(design.shape[1]))
    return FusionWeights(
        scorers=tuple(scorer.name for scorer in scorers),
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        questions=len(asked),
    )


def _relevant(labelled: LabelledQuestion) -> list[bool]:
    if labelled.gold:
        return [passage.id in labelled.gold for passage in labelled.passages]
    if not labelled.answers:
        return [False] * len(labelled.passages)
    return [labelled.kept_in((passage,)) for passage in labelled.passages]


def _features(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each scorer says of each passage: shape (passages, features * scorers)."""
    columns = [[row, row - _best_other(row), np.log(ranks(row))] for row in scores]
    return np.column_stack([column for three in columns for column in three])


def _best_other(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each score the highest of the others; for one alone, itself."""
    if len(row) == 1:
        return row
    second, first = np.partition(row, -2)[-2:]
    others: NDArray[np.float64] = np.where(row == first, second, first)
    return others
