"""BM25: relevance by shared words, rare ones counting more. No model, no index."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.text.words import words

if TYPE_CHECKING:
    from costwise_core.passages import Passage

__all__ = ["BM25", "bm25", "bm25_words"]

K1: Final = 1.2
B: Final = 0.75


def bm25(
    question: str, texts: Sequence[str], *, k1: float = K1, b: float = B
) -> NDArray[np.float64]:
    """Score texts by the words that they share with a question.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
    inverse document frequencies over the given texts as Lucene computes them, which are never
    negative.

    Args:
        question: Any text; without words every score is 0.
        texts: What to score, among which a word is rare or common.
        k1: How much a word's second and later occurrences count, at least 0.
        b: How much longer texts are marked down, from 0 (not) to 1.

    Returns:
        One number of at least 0 for each text, higher is more relevant; shape (len(texts),).

    Example:
        >>> bm25("red planet", ["Mars is the red planet.", "Venus is hot."]).round(2).tolist()
        [0.58, 0.0]
    """
    return bm25_words(words(question), [words(text) for text in texts], k1=k1, b=b)


def bm25_words(
    question: Sequence[str], texts: Sequence[Sequence[str]], *, k1: float = K1, b: float = B
) -> NDArray[np.float64]:
    """Score texts that are given as lists of words, as `bm25` does.

    Example:
        >>> bm25_words(["b"], [["a"], ["b", "c"]]).round(2).tolist()
        [0.0, 0.28]
    """
    scores = np.zeros(len(texts))
    mean = sum(map(len, texts)) / len(texts) if texts else 0.0
    if not mean:
        return scores
    counts = [Counter(text) for text in texts]
    damping = [k1 * (1 - b + b * len(text) / mean) for text in texts]
    for word, asked in Counter(question).items():
        holders = [i for i, count in enumerate(counts) if word in count]
        idf = math.log1p((len(texts) - len(holders) + 0.5) / (len(holders) + 0.5))
        for i in holders:
            often = counts[i][word]
            scores[i] += asked * idf * often / (often + damping[i])
    return scores


class BM25:
    """Scores passages by the words that their title and text share with the question.

    Args:
        k1: As in `bm25`.
        b: As in `bm25`.

    Example:
        >>> from costwise_core import Passage
        >>> mars = Passage(title="Mars", text="It is the red planet.")
        >>> venus = Passage(title="Venus", text="It is hot.")
        >>> BM25().score("What colour is Mars?", [mars, venus])[1]
        0.0
    """

    name = "bm25"

    def __init__(self, *, k1: float = K1, b: float = B) -> None:
        self._k1, self._b = k1, b

    def score(self, question: str, passages: Sequence["Passage"]) -> list[float]:
        """Return one number of at least 0 for each passage, higher is more relevant."""
        texts = [f"{passage.title}\n{passage.text}" for passage in passages]
        return [float(score) for score in bm25(question, texts, k1=self._k1, b=self._b)]
