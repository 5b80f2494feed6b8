"""Learns from paired outcomes what asking the dearer model gains."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import ConfigError
from costwise_core.route.features import shape_of, terms_of
from costwise_core.route.fitting import Design, Sparse, logistic, stacked, weighted
from costwise_core.route.learned import GainModel, Head
from costwise_core.route.outcomes import PairedOutcome

__all__ = ["LEAST_PAIRS", "train_router"]

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]

LEAST_PAIRS: Final = 100
"""Paired outcomes below which a router learns nothing that counting words does not say."""

_MOST_TERMS: Final = 60_000
_LEAST_TEXTS: Final = 2
_RIDGES: Final = (1.0, 30.0)
_VECTOR_RIDGES: Final = (1.0, 3.0)
_CLIP: Final = 4.0
_USUAL: Final = 0.99
_NEVER_VARIED: Final = 0.1


def train_router(pairs: Sequence[PairedOutcome]) -> GainModel:
    """Learn for a pair of models which questions gain from the dearer one.

    Two logistic regressions, one for each model, on TF-IDF weights of words and pairs of words and
    on the shape of the question; where every pair has an embedding two more on that, and the mean
    of both. Linear in the number of words; nothing is downloaded.

    Args:
        pairs: At least 100 paired outcomes of your own traffic; a thousand are clearly better. Keep
            others for `evaluate_routing` and `calibrate_routing`.

    Returns:
        A model for `LearnedRouter`.

    Raises:
        ConfigError: if there are fewer, only some have an embedding, or the models' marks are all
            alike.

    Example:
        >>> sums = [
        ...     PairedOutcome(question=f"Add {n} and {n}.", weak=1, strong=1) for n in range(60)
        ... ]
        >>> proofs = [
        ...     PairedOutcome(question=f"Prove lemma {n}.", weak=0, strong=1) for n in range(60)
        ... ]
        >>> model = train_router(sums + proofs)
        >>> model.estimate("Prove lemma 7.").gain > model.estimate("Add 3 and 4.").gain
        True
    """
    _check(pairs)
    terms = [terms_of(one.question) for one in pairs]
    shapes = np.array([shape_of(one.question) for one in pairs])
    vectors = _vectors(pairs)
    marks = (
        np.array([one.weak for one in pairs], np.float64),
        np.array([one.strong for one in pairs], np.float64),
    )
    halves = np.array([_half(one.question) for one in pairs])
    rest, held = np.flatnonzero(halves == 0), np.flatnonzero(halves == 1)
    gains, familiar = [0.0], [0.0]
    if len(rest) and len(held):
        half = _fitted(rest, terms, shapes, vectors, marks)
        unseen = [half.estimate(pairs[row].question, pairs[row].vector) for row in held.tolist()]
        gains = [one.gain for one in unseen]
        familiar = [one.familiar for one in unseen]
    every = np.arange(len(pairs))
    final = _fitted(every, terms, shapes, vectors, marks)
    known = np.quantile(gains, np.linspace(0, 1, 101))
    return GainModel(
        terms=final.terms,
        idf=final.idf,
        centre=final.centre,
        scale=final.scale,
        weak=final.weak,
        strong=final.strong,
        gains=_plain(known),
        familiar=float(np.quantile(familiar, 1 - _USUAL)),
        farthest=float(np.quantile(np.abs((shapes - final.centre) / final.scale).max(1), _USUAL)),
        pairs=len(pairs),
    )


def _check(pairs: Sequence[PairedOutcome]) -> None:
    if len(pairs) < LEAST_PAIRS:
        raise ConfigError(
            f"a router needs at least {LEAST_PAIRS} paired outcomes to learn from, got "
            f"{len(pairs)}; {LEAST_PAIRS - len(pairs)} more are needed. Until then LearnedRouter("
            "None) sends everything to the dearest model, and RuleRouter goes by words."
        )
    if len({one.gain for one in pairs}) == 1:
        raise ConfigError(
            f"the dearer model gains {pairs[0].gain:g} on every question, so there is nothing to "
            "tell apart."
        )
    with_vector = sum(one.vector is not None for one in pairs)
    if 0 < with_vector < len(pairs):
        raise ConfigError(
            f"{with_vector:,} of {len(pairs):,} pairs have an embedding; give one to all or none."
        )


def _vectors(pairs: Sequence[PairedOutcome]) -> Floats | None:
    """Return the embeddings, each of length one."""
    found = [one.vector for one in pairs if one.vector is not None]
    if not found:
        return None
    if len({len(vector) for vector in found}) > 1:
        raise ConfigError("the embeddings of the pairs differ in size; use one embedder for all.")
    stacked_up = np.asarray(found, np.float64)
    lengths = np.linalg.norm(stacked_up, axis=1, keepdims=True)
    unit: Floats = stacked_up / np.where(lengths > 0, lengths, 1.0)
    return unit


def _half(question: str) -> int:
    """Return the half that a question belongs to; the same question is always in the same one."""
    text = " ".join(question.split()).casefold().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()[0] % 2


def _fitted(
    rows: Rows,
    terms: Sequence[Mapping[str, int]],
    shapes: Floats,
    vectors: Floats | None,
    marks: tuple[Floats, Floats],
) -> GainModel:
    counts = [terms[row] for row in rows.tolist()]
    names, idf = _vocabulary(counts)
    index = {name: at for at, name in enumerate(names)}
    sparse = stacked([weighted(one, index, idf) for one in counts], len(names))
    centre, scale = shapes[rows].mean(0), shapes[rows].std(0)
    # What never varied in training and does now is a sign of other traffic.
    scale[scale < 1e-9] = _NEVER_VARIED
    shape = np.clip((shapes[rows] - centre) / scale, -_CLIP, _CLIP)
    by_text = Design(sparse=sparse, dense=shape, ridges=_RIDGES)
    by_vector = None
    if vectors is not None:
        nothing = Sparse(shape=(len(rows), 0), rows=rows[:0], columns=rows[:0], values=np.zeros(0))
        by_vector = Design(
            sparse=nothing, dense=np.column_stack([vectors[rows], shape]), ridges=_VECTOR_RIDGES
        )
    weak, strong = (_head(by_text, by_vector, mark[rows]) for mark in marks)
    return GainModel(
        terms=tuple(names),
        idf=_plain(idf),
        centre=_plain(centre),
        scale=_plain(scale),
        weak=weak,
        strong=strong,
        gains=(0.0,),
        familiar=0.0,
        farthest=math.inf,
        pairs=len(rows),
    )


def _head(by_text: Design, by_vector: Design | None, marks: Floats) -> Head:
    terms, shape, constant = logistic(by_text, marks)
    head = Head(terms=_plain(terms), shape=_plain(shape), constant=constant)
    if by_vector is None:
        return head
    _, vector, vector_constant = logistic(by_vector, marks)
    return Head(
        terms=head.terms,
        shape=head.shape,
        constant=constant,
        vector=_plain(vector),
        vector_constant=vector_constant,
    )


def _vocabulary(counts: Sequence[Mapping[str, int]]) -> tuple[list[str], Floats]:
    """Return the terms of at least two texts, the commonest if there are many, and their IDF."""
    texts = Counter(term for one in counts for term in one)
    common = [(term, n) for term, n in texts.most_common(_MOST_TERMS) if n >= _LEAST_TEXTS]
    names = [term for term, _ in common]
    often = np.array([n for _, n in common], np.float64)
    return names, np.log((1 + len(counts)) / (1 + often)) + 1


def _plain(numbers: Floats) -> tuple[float, ...]:
    """Return numbers with the digits that matter, so that a model is a small file."""
    return tuple(float(f"{number:.6g}") for number in numbers.tolist())
