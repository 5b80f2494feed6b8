"""Passages that say what another one says already."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import VectorError
from costwise_core.passages import Passage
from costwise_core.stores.vectors import unit
from costwise_core.text.words import words
from costwise_core.types import Vector

__all__ = ["Similarity", "by_relevance_and_novelty", "same_text", "similarity"]

Similarity: TypeAlias = Callable[[int], NDArray[np.float64]]
"""From one item's place to its similarity to every item: shape (n,), 1.0 is the same."""

_SHINGLE: Final = 3


def same_text(passages: Sequence[Passage]) -> dict[int, int]:
    """Return, for each passage whose title and text occurred before, where they did first.

    White space and the form of Unicode may differ, nothing else: "x²" is not "x2", "US" not "us".

    Example:
        >>> same_text([Passage(text="a b"), Passage(text="c"), Passage(text="a  b")])
        {2: 0}
    """
    first: dict[tuple[str, str], int] = {}
    places = (
        first.setdefault((_plain(p.title), _plain(p.text)), i) for i, p in enumerate(passages)
    )
    return {i: place for i, place in enumerate(places) if place != i}


def by_relevance_and_novelty(
    relevance: Sequence[float], similar: Similarity, *, weight: float = 0.7
) -> Iterator[int]:
    """Yield places in the order in which they add most to what came before.

    Maximal marginal relevance (Carbonell and Goldstein 1998): next is the item with the highest
    weight * relevance - (1 - weight) * (similarity to the nearest item taken), the first of equals.

    Args:
        relevance: Of each item, on any scale; stretched to reach from 0 to 1.
        similar: How alike the items are.
        weight: From 0 (only novelty) to 1 (only relevance).

    Example:
        >>> alike = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> list(by_relevance_and_novelty([3.0, 2.5, 2.0], lambda i: alike[i], weight=0.5))
        [0, 2, 1]
    """
    scores = np.array(relevance, np.float64)
    if not len(scores):
        return
    spread = float(scores.max() - scores.min())
    scores = (scores - scores.min()) / spread if spread else np.ones_like(scores)
    gain, nearest = weight * scores, np.zeros(len(scores))
    for _ in range(len(scores)):
        best = int(np.argmax(gain - (1 - weight) * nearest))
        yield best
        gain[best] = -np.inf
        nearest = np.maximum(nearest, similar(best))


def similarity(passages: Sequence[Passage]) -> Similarity:
    """Return how alike passages are: the cosine of their vectors, or the words they share.

    The vectors count if every passage has one of the same width; else it is the share of common
    shingles (Jaccard) of three words (Broder 1997).

    Example:
        >>> similarity([Passage(text="one two three four"), Passage(text="one two three five")])(0)
        array([1.        , 0.33333333])
    """
    try:
        vectors = np.stack([_unit(passage.vector) for passage in passages])
    except (VectorError, ValueError):  # one is missing or damaged, or the widths differ
        return _shared_shingles([passage.text for passage in passages])
    return lambda i: np.clip(vectors @ vectors[i], 0.0, 1.0).astype(np.float64)


def _unit(vector: Vector | None) -> Vector:
    if vector is None:
        raise VectorError("there is no vector.")
    return unit(vector)


def _shared_shingles(texts: Sequence[str]) -> Similarity:
    numbers: dict[tuple[str, ...], int] = {}
    each = [
        np.array([numbers.setdefault(shingle, len(numbers)) for shingle in _shingles(text)], int)
        for text in texts
    ]
    sizes = np.array([len(found) for found in each], int)
    owners = np.repeat(np.arange(len(each)), sizes)
    every = np.concatenate(each) if each else np.empty(0, int)

    def row(i: int) -> NDArray[np.float64]:
        in_this = np.zeros(len(numbers), bool)
        in_this[each[i]] = True
        shared = np.bincount(owners[in_this[every]], minlength=len(each))
        return np.asarray(shared / np.maximum(sizes + sizes[i] - shared, 1), np.float64)

    return row


def _shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    last = max(len(found) - _SHINGLE, 0)
    return {tuple(found[i : i + _SHINGLE]) for i in range(last + 1)} if found else set()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
