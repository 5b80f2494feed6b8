"""How likely a piece of a passage holds the answer: words, meaning and kind in one number."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.score.bm25 import bm25_words

__all__ = ["Scores", "passage_shares", "relevance"]


Scores: TypeAlias = NDArray[np.float64]
"""One number for each piece; shape (n,)."""

# Fitted as two listwise softmaxes (ListNet's top one, Cao et al. 2007), passages among all and
# pieces within theirs, on 1,100 questions, and rounded. Twice as many features gained nothing.
_PASSAGE_MEANING: Final = 2.25
_PASSAGE_WORDS: Final = 0.45
_MEANING: Final = 0.5
_WORDS: Final = 0.25
_ASKED_FOR: Final = 2.0

_PASSAGE_WORDS_ALONE: Final = 1.65
_WORDS_ALONE: Final = 0.4
"""Where there is no meaning, how often a passage has a word matters, and BM25 counts that."""

_PEAK: Final = 12.0
"""How much a passage's meaning is that of its best piece instead of the mean of all."""

_NOISE: Final = 0.1
"""Spread of cosines that tells nothing, as in a language that the embedder was not made for."""


def relevance(
    question: Sequence[str],
    pieces: Sequence[Sequence[str]],
    titles: Sequence[Sequence[str]],
    of: NDArray[np.intp],
    cosines: Scores | None = None,
    asked_for: Scores | None = None,
) -> Scores:
    """Estimate which piece holds the answer: which passage does, times which piece of it.

    A sentence alone says too little: "It opened in 1889" answers only in a passage on the tower.
    So the passage is judged first, by the words and the meaning of all of it, and then its pieces
    compete with each other only.

    Words count by what they tell, the logarithm of how rare they are, and are not put in
    proportion to the other passages: one that has many rare words of the question has them.

    Args:
        question: Its words.
        pieces: The words of each piece.
        titles: The words of each passage's title.
        of: Which passage each piece is of; shape (len(pieces),).
        cosines: Of each titled piece and the question; None for words alone.
        asked_for: How well each piece holds the kind of thing the question asks for, 0 to 1.

    Returns:
        Logarithms of probabilities that add up to 1, higher is more relevant; shape
        (len(pieces),).

    Example:
        >>> of = np.array([0, 0, 1])
        >>> pieces = [["it", "opened"], ["its", "height", "is", "330"], ["whales", "sing"]]
        >>> int(relevance(["tower", "height"], pieces, [["tower"], []], of).argmax())
        1
    """
    if not len(of):
        return np.zeros(0)
    _, first, passage = np.unique(of, return_index=True, return_inverse=True)
    titled = [{*titles[i], *piece} for i, piece in zip(of, pieces, strict=True)]
    texts = [list(titles[of[i]]) for i in first]
    for i, piece in zip(passage, pieces, strict=True):
        texts[i] += piece
    tells = _tells(question, titled)
    if cosines is None:
        passages = _PASSAGE_WORDS_ALONE * bm25_words(question, texts)
        within = _WORDS_ALONE * _told(tells, titled)
    else:
        passages = _PASSAGE_WORDS * _told(tells, [set(text) for text in texts])
        passages += _PASSAGE_MEANING * _spread(_soft_best(cosines, passage))
        within = _WORDS * _told(tells, titled) + _MEANING * _spread(cosines)
    if asked_for is not None:
        within += _ASKED_FOR * asked_for
    together = np.zeros(len(passages), np.intp)
    result: Scores = _log_softmax(passages, together)[passage] + _log_softmax(within, passage)
    return result


def passage_shares(scores: Scores, of: NDArray[np.intp]) -> Scores:
    """Return for each piece the logarithm of the probability of its whole passage.

    Example:
        >>> halves = np.log([0.25, 0.25, 0.5])
        >>> np.exp(passage_shares(halves, np.array([0, 0, 1]))).round(2).tolist()
        [0.5, 0.5, 0.5]
    """
    best = np.full(int(of.max(initial=0)) + 1, -np.inf)
    np.maximum.at(best, of, scores)
    sums = np.bincount(of, np.exp(scores - best[of]))
    shares: Scores = best[of] + np.log(sums[of])
    return shares


def _tells(question: Sequence[str], texts: Sequence[set[str]]) -> dict[str, float]:
    """Return how much each word of the question tells, less the more texts have it."""
    asked, n = set(question), len(texts)
    held = Counter(word for text in texts for word in asked & text)
    return {word: math.log1p((n - held[word] + 0.5) / (held[word] + 0.5)) for word in asked}


def _told(tells: Mapping[str, float], texts: Sequence[set[str]]) -> Scores:
    # Exact sums, as a set's order is another in each process.
    sums = (math.fsum(tells[word] for word in tells.keys() & text) for text in texts)
    return np.fromiter(sums, float, len(texts))


def _soft_best(scores: Scores, passage: NDArray[np.intp]) -> Scores:
    """Return for each passage a score between the best and the mean of its pieces."""
    mean = np.bincount(passage, np.exp(_PEAK * scores)) / np.bincount(passage)
    result: Scores = np.log(mean) / _PEAK
    return result


def _spread(scores: Scores) -> Scores:
    """Return scores with mean 0 and a variance near 1, less where they hardly differ."""
    result: Scores = (scores - scores.mean()) / np.hypot(scores.std(), _NOISE)
    return result


def _log_softmax(scores: Scores, group: NDArray[np.intp]) -> Scores:
    return scores - passage_shares(scores, group)
