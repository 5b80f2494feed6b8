"""A router that learned from your own outcomes what asking the dearer model gains.

It predicts for a question how likely each model answers it well, from words, pairs of words and
shape, and from the embedding where there is one. What decides is the difference of the two, not how
hard the question is: what neither model can do is not worth the dearer one.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import ConfigError
from costwise_core.route.features import SHAPE, shape_of, terms_of
from costwise_core.route.fitting import weighted
from costwise_core.route.routes import Ask, Decision, Route
from costwise_core.route.rules import route_at
from costwise_core.route.saved import from_saved, to_saved
from costwise_core.types import Vector

__all__ = ["Estimate", "GainModel", "Head", "LearnedRouter"]

Floats = NDArray[np.float64]

_FORMAT: Final = "costwise-gain-1"
_CLIP: Final = 4.0
_WORDS: Final = SHAPE.index("words")
# Brings the logistic curve closest to the normal one, which rounds to 1 too soon to rank by.
_NORMAL: Final = 1.702


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What predicts one model's chance of a good answer: weights of what is seen of a question.

    Args:
        terms: Of each known word or pair, in the order of `GainModel.terms`.
        shape: Of each number in `SHAPE`, standardised.
        constant: Added to the sum.
        vector: Of the embedding and the standardised shape, in a model of its own; empty if it was
            trained without embeddings.
        vector_constant: Added to that sum.
    """

    terms: tuple[float, ...]
    shape: tuple[float, ...]
    constant: float
    vector: tuple[float, ...] = ()
    vector_constant: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a model thinks of one question.

    Args:
        weak: Chance that the cheaper model answers it well.
        strong: Chance that the dearer one does.
        familiar: Share of its words and pairs of words that training has seen.
        unlike: How the question differs from those of the training, for a person; "" if it is like
            them.
        longer: About the share of the training questions that have fewer words, in [0, 1].

    Example:
        >>> round(Estimate(weak=0.5, strong=0.75, familiar=0.8).gain, 2)
        0.25
    """

    weak: float
    strong: float
    familiar: float
    unlike: str = ""
    longer: float = 0.5

    @property
    def gain(self) -> float:
        """What asking the dearer model is expected to add, in [-1, 1]."""
        return self.strong - self.weak


@dataclass(frozen=True, kw_only=True)
class GainModel:
    """What was learned from paired outcomes: plain numbers and words, to be kept in a file.

    Made by `train_router`. It holds words of the training questions, so keep it as you keep them.

    Args:
        terms: Words and pairs of words it knows.
        idf: How rare each was.
        centre: Mean of each number in `SHAPE`.
        scale: Its standard deviation.
        weak: Predicts the cheaper model.
        strong: Predicts the dearer one.
        gains: Expected gains of half of the training questions, predicted from the other half: 101
            of them, evenly spread in order, smallest first.
        familiar: Lowest share of known words and pairs that counts as like the training.
        farthest: Most standard deviations that one of the numbers in `SHAPE` may lie from its mean.
        pairs: How many paired outcomes it learned from.

    Example:
        >>> head = Head(terms=(1.0,), shape=(0.0,) * len(SHAPE), constant=0.0)
        >>> model = GainModel(
        ...     terms=("prove",), idf=(1.0,), centre=(0.0,) * len(SHAPE), scale=(1.0,) * len(SHAPE),
        ...     weak=head, strong=head, gains=(0.0,) * 101, familiar=0.1, farthest=5.0, pairs=100,
        ... )
        >>> GainModel.from_json(model.to_json()) == model
        True
    """

    terms: tuple[str, ...] = field(repr=False)
    idf: tuple[float, ...] = field(repr=False)
    centre: tuple[float, ...] = field(repr=False)
    scale: tuple[float, ...] = field(repr=False)
    weak: Head = field(repr=False)
    strong: Head = field(repr=False)
    gains: tuple[float, ...] = field(repr=False)
    familiar: float
    farthest: float
    pairs: int

    def estimate(self, question: str, vector: Vector | None = None) -> Estimate:
        """Return what it thinks of a question.

        Args:
            question: Any text.
            vector: Its embedding, by the same embedder as in training; left out of account if the
                model was trained without.

        Raises:
            ConfigError: if the embedding has another size.
        """
        counts = terms_of(question)
        index, idf, heads, (centre, scale) = self._numbers
        columns, values = weighted(counts, index, idf)
        total = sum(counts.values())
        known = sum(count for term, count in counts.items() if term in index)
        familiar = known / total if total else 0.0
        distances = (np.array(shape_of(question)) - centre) / scale
        shape = np.clip(distances, -_CLIP, _CLIP)
        seen = None if vector is None else _with_shape(vector, shape)
        chances = [
            _chance(head, terms, columns, values, shape, seen)
            for head, terms in zip((self.weak, self.strong), heads, strict=True)
        ]
        return Estimate(
            weak=chances[0],
            strong=chances[1],
            familiar=familiar,
            unlike=self._unlike(familiar, distances),
            longer=_sigmoid(_NORMAL * float(distances[_WORDS])),
        )

    def rank(self, gain: float) -> float:
        """Return the share of the training questions that gain less, in [0, 1]."""
        return bisect_right(self.gains, gain) / len(self.gains)

    def gain_at(self, share: float) -> float:
        """Return the gain that this share of the training questions exceeds."""
        return float(np.quantile(self.gains, 1 - share))

    def order(self, estimate: Estimate) -> float:
        """Return by what requests are ordered where not all can have the dearer model.

        It is the expected gain. What is known of a question unlike the training's is no ground to
        expect any, so it takes the place that its length has among theirs.

        Returns:
            A number in [-1, 1].
        """
        return self.gain_at(1 - estimate.longer) if estimate.unlike else estimate.gain

    def to_json(self) -> str:
        """Return everything as one JSON object, of about 50 bytes for each word."""
        return to_saved(self, _FORMAT)

    @classmethod
    def from_json(cls, text: str) -> "GainModel":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: if it is anything else.
        """

        def make(fields: dict[str, Any]) -> "GainModel | None":
            model = cls(
                terms=tuple(_text(term) for term in fields.pop("terms")),
                weak=_head(fields.pop("weak")),
                strong=_head(fields.pop("strong")),
                familiar=float(fields.pop("familiar")),
                farthest=float(fields.pop("farthest")),
                pairs=int(fields.pop("pairs")),
                **{name: _floats(numbers) for name, numbers in fields.items()},
            )
            return model if model._fits() else None

        return from_saved(text, _FORMAT, make, what="routing model", by="GainModel.to_json")

    def _fits(self) -> bool:
        """Whether sizes and numbers are such as training writes."""
        size, shape = len(self.terms), len(SHAPE)
        heads = (self.weak, self.strong)
        sizes = (
            len(self.idf) == size,
            len(self.centre) == len(self.scale) == shape,
            all(len(head.terms) == size and len(head.shape) == shape for head in heads),
            len(self.weak.vector) == len(self.strong.vector),
            not self.weak.vector or len(self.weak.vector) > shape,
            len(self.gains) > 0,
            list(self.gains) == sorted(self.gains),
            len(set(self.terms)) == size,
        )
        numbers = [*self.idf, *self.centre, *self.scale, *self.gains]
        numbers += [self.familiar, self.farthest]
        for head in heads:
            numbers += [*head.terms, *head.shape, *head.vector]
            numbers += [head.constant, head.vector_constant]
        return all(sizes) and all(map(math.isfinite, numbers)) and min(self.scale) > 0

    @cached_property
    def _numbers(self) -> "_Numbers":
        return _Numbers(
            {term: at for at, term in enumerate(self.terms)},
            np.array(self.idf),
            (np.array(self.weak.terms), np.array(self.strong.terms)),
            (np.array(self.centre), np.array(self.scale)),
        )

    def _unlike(self, familiar: float, distances: Floats) -> str:
        if familiar < self.familiar:
            return (
                f"only {familiar:.0%} of its words and pairs of words are known from training, "
                f"where it was {self.familiar:.0%} or more"
            )
        at = int(np.argmax(np.abs(distances)))
        if abs(distances[at]) > self.farthest:
            more = "more" if distances[at] > 0 else "less"
            return f"it has far {more} than the training's questions in: {SHAPE[at]}"
        return ""


class _Numbers(NamedTuple):
    """What `estimate` computes with."""

    columns: dict[str, int]
    idf: Floats
    heads: tuple[Floats, Floats]
    spread: tuple[Floats, Floats]


class LearnedRouter:
    """Sends a question to the dearer model where that is expected to gain enough.

    Without a model it abstains: the dearest model answers. It does so too for a question unlike
    those of the training, of which one in a hundred is taken to be: one with few known words, such
    as in another language, or of another shape, such as far longer or without the usual lines.

    Args:
        model: From `train_router`; None abstains always.
        threshold: Expected gain from which on the dearer model answers, in [-1, 1]; several, in
            order, for as many further tiers. `calibrate_routing` finds one that keeps a promise.
        max_share_strong: Share of the requests that the dearest model may answer at most, or what
            returns it when asked, such as what is left of a budget. Those that gain most keep it.
            It holds for traffic like the training's. It goes before abstaining: of questions unlike
            the training's the longest keep it.

    Raises:
        ConfigError: if thresholds are out of range or out of order.

    Example:
        >>> routes = [Route(name="small"), Route(name="large")]
        >>> LearnedRouter(None).decide(Ask(question="What is RAG?"), routes).why
        'no outcomes were learned from yet, so the dearest model answers'
    """

    blocking = False

    def __init__(
        self,
        model: GainModel | None,
        *,
        threshold: float | Sequence[float] = 0.1,
        max_share_strong: float | Callable[[], float] = 1.0,
    ) -> None:
        lines = (threshold,) if isinstance(threshold, int | float) else tuple(threshold)
        if not lines or list(lines) != sorted(lines) or not all(map(math.isfinite, lines)):
            raise ConfigError(
                f"threshold must be a finite number, or several in order, got {threshold!r}."
            )
        if not callable(max_share_strong):
            _share(max_share_strong)
        self.model = model
        self._lines, self._most = lines, max_share_strong

    def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:
        """Choose one of the routes, cheapest first."""
        most = _share(self._most() if callable(self._most) else self._most)
        if most == 0:
            return Decision(model=routes[0].name, why="nothing is left for dearer models")
        if self.model is None:
            return _abstained(routes, "no outcomes were learned from yet")
        estimate = self.model.estimate(ask.question, ask.vector)
        p = 1 - estimate.weak
        lines, capped = list(self._lines), ""
        floor = self.model.gain_at(most) if most < 1 else -math.inf
        if estimate.unlike:
            if self.model.order(estimate) >= floor:
                return _abstained(routes, estimate.unlike, p)
            below = route_at((len(lines) - 1) / len(lines), routes).name
            why = f"{estimate.unlike}, and it is not among the longest, the upper {most:.0%}"
            return Decision(model=below, why=why, p=p)
        if floor > lines[-1]:
            lines[-1], capped = floor, f", of which only the upper {most:.0%} may"
        passed = bisect_right(lines, estimate.gain)
        chosen = route_at(passed / len(lines), routes)
        rank = self.model.rank(estimate.gain)
        return Decision(
            model=chosen.name,
            why=f"the dearer model is expected to gain {estimate.gain:.2f} "
            f"({estimate.weak:.2f} to {estimate.strong:.2f}), more than {rank:.0%} of the training "
            f"questions{capped}; the line is at {lines[min(passed, len(lines) - 1)]:.2f}",
            p=p,
        )

    def score(self, question: str, vector: Vector | None = None) -> float:
        """Return what the dearer model is expected to gain, for `evaluate_routing` and the like.

        A question unlike the training's is placed by its length. Without a limit `decide` sends it
        to the dearest model all the same, so that it may send more there than a threshold says.

        Returns:
            A number in [-1, 1]; without a model 2.0 for every question.
        """
        if self.model is None:
            return 2.0
        return self.model.order(self.model.estimate(question, vector))


def _abstained(routes: Sequence[Route], why: str, p: float | None = None) -> Decision:
    return Decision(
        model=routes[-1].name, why=f"{why}, so the dearest model answers", p=p, abstained=True
    )


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ConfigError(f"max_share_strong must be a share from 0 to 1, got {share!r}.")
    return share


def _with_shape(vector: Vector, shape: Floats) -> Floats:
    """Return an embedding of length one, followed by the shape."""
    length = float(np.linalg.norm(vector)) or 1.0
    return np.concatenate([np.asarray(vector, np.float64) / length, shape])


def _chance(
    head: Head,
    terms: Floats,
    columns: NDArray[np.int64],
    values: Floats,
    shape: Floats,
    seen: Floats | None,
) -> float:
    logit = float(values @ terms[columns] + shape @ np.array(head.shape)) + head.constant
    chance = _sigmoid(logit)
    if seen is None or not head.vector:
        return chance
    if len(seen) != len(head.vector):
        size = len(shape)
        raise ConfigError(
            f"the router was trained on embeddings of {len(head.vector) - size} numbers and got "
            f"one of {len(seen) - size}; use the same embedder."
        )
    by_vector = _sigmoid(float(seen @ np.array(head.vector)) + head.vector_constant)
    return (chance + by_vector) / 2


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values))


def _head(data: Any) -> Head:
    return Head(
        terms=_floats(data["terms"]),
        shape=_floats(data["shape"]),
        constant=float(data["constant"]),
        vector=_floats(data["vector"]),
        vector_constant=float(data["vector_constant"]),
    )
