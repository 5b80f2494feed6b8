"""How relevant pieces of passages are: four opinions in one number."""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.score.bm25 import bm25_words

__all__ = ["Scores", "best_of_passage", "relevance", "standard"]


Scores: TypeAlias = NDArray[np.float64]
"""One number for each piece; shape (n,)."""

# Weights of the standardised opinions, fitted as a listwise softmax (ListNet's top one, Cao et al.
# 2007) on 550 questions and rounded; five times more features changed recall by 0.3 points.
_MEANING: Final = 1.0
_PASSAGE_MEANING: Final = 2.0
_WORDS: Final = 0.75
_PASSAGE_WORDS: Final = 0.9


def relevance(
    question: Sequence[str],
    pieces: Sequence[Sequence[str]],
    titles: Sequence[Sequence[str]],
    of: NDArray[np.intp],
    cosines: Scores | None = None,
) -> Scores:
    """Score pieces by their own words and meaning and those of the passage they stand in.

    A sentence alone says too little: "It opened in 1889" answers only in a passage on the tower. So
    a piece is read with its passage's title, and the passage's own score counts as well.

    Args:
        question: Its words.
        pieces: The words of each piece.
        titles: The words of each passage's title.
        of: Which passage each piece is of; shape (len(pieces),).
        cosines: Of each titled piece and the question; None for words alone.

    Returns:
        Standard scores, mean 0 and variance 1, higher is more relevant; shape (len(pieces),).

    Example:
        >>> of = np.array([0, 0, 1])
        >>> pieces = [["it", "opened"], ["its", "height", "is", "330"], ["whales", "sing"]]
        >>> int(relevance(["tower", "height"], pieces, [["tower"], []], of).argmax())
        1
    """
    passages: list[list[str]] = [list(title) for title in titles]
    for i, piece in zip(of, pieces, strict=True):
        passages[i] += piece
    titled = [[*titles[i], *piece] for i, piece in zip(of, pieces, strict=True)]
    fused = _WORDS * standard(bm25_words(question, titled))
    fused += _PASSAGE_WORDS * standard(bm25_words(question, passages)[of])
    if cosines is not None:
        fused += _MEANING * standard(cosines)
        fused += _PASSAGE_MEANING * standard(best_of_passage(cosines, of))
    return standard(fused)


def best_of_passage(scores: Scores, of: NDArray[np.intp]) -> Scores:
    """Return for each piece the best score in its passage.

    Example:
        >>> best_of_passage(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1])).tolist()
        [3.0, 3.0, 2.0]
    """
    best = np.full(int(of.max(initial=0)) + 1, -np.inf)
    np.maximum.at(best, of, scores)
    return best[of]


def standard(scores: Scores) -> Scores:
    """Return scores with mean 0 and variance 1; zeros where all are equal.

    Example:
        >>> standard(np.array([1.0, 3.0])).tolist(), standard(np.array([2.0, 2.0])).tolist()
        ([-1.0, 1.0], [0.0, 0.0])
    """
    spread = scores.std() if len(scores) else 0.0
    if spread < 1e-9:
        return np.zeros(len(scores))
    result: Scores = (scores - scores.mean()) / spread
    return result
