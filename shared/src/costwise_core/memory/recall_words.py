"""Which turns share words with a question, where the turns around one count as its context."""

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.score.bm25 import K1, B

__all__ = ["Scores", "TurnWords"]

Scores: TypeAlias = NDArray[np.float64]
"""One number for each turn, shape (turns,)."""

_AROUND: Final = np.array([0.2, 0.4, 1.0, 0.7, 0.3])
"""What a word counts that stands two turns later, one later, in the turn itself, one before, two
before. What a turn is about is often said only in the question that it answers."""

_REACH: Final = len(_AROUND) // 2
_MOST: Final = 64
"""Words of a question that are looked up: a pasted document asks no more than that."""


class TurnWords:
    """Scores turns by BM25 over weighted fields: a turn, its speaker, and the turns around it.

    BM25F (Robertson, Zaragoza and Taylor 2004): a word's weighted occurrences in all fields are
    added up before they saturate. It grows turn by turn; a question costs time in proportion to the
    number of its words and of the turns. Not thread-safe.

    Example:
        >>> turns = TurnWords()
        >>> turns.add(["which", "tent"], ["ada"])
        >>> turns.add(["blue", "one"], ["bob"])
        >>> turns.add(["rain"], ["ada"], pause=True)
        >>> turns.scores(["tent"])[0].round(2).tolist()
        [0.42, 0.3, 0.0]
    """

    def __init__(self) -> None:
        self._places = array("q")
        self._lengths = array("d")
        self._said: dict[str, tuple[array[int], array[int]]] = {}
        self._named: dict[str, array[int]] = {}
        self._holders = Counter[str]()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, said: Sequence[str], speaker: Sequence[str], *, pause: bool = False) -> None:
        """Add the next turn.

        Args:
            said: Its words.
            speaker: Those of the speaker's name.
            pause: Whether it has nothing to do with the turns before it.
        """
        turn = len(self._places)
        # Turns that are no context of each other stand too far apart to be one.
        step = _REACH + 1 if pause else 1
        self._places.append(self._places[-1] + step if turn else _REACH)
        self._lengths.append(len(said))
        counts, named = Counter(said), frozenset(speaker)
        for word, often in counts.items():
            turns, times = self._said.setdefault(word, (array("q"), array("q")))
            turns.append(turn)
            times.append(often)
        for word in named:
            self._named.setdefault(word, array("q")).append(turn)
        self._holders.update(counts.keys() | named)

    def scores(self, question: Sequence[str], *, stop: int | None = None) -> tuple[Scores, float]:
        """Score turns, and say what one would score that has every word of the question, and often.

        Args:
            question: Its words; of a long one the rarest count.
            stop: How many turns to look at; None is all.

        Returns:
            One number of at least 0 for each turn, higher is more relevant; and a number that none
            of them reaches.
        """
        n = len(self) if stop is None else min(stop, len(self))
        scores = np.zeros(n)
        if not n:
            return scores, 0.0
        asked = Counter(question)
        rarity = {word: self._rarity(word) for word in asked}
        heard = [word for word in asked if word in self._holders]
        places = np.array(self._places[:n])
        lengths = _context(np.array(self._lengths[:n]), places)
        damping = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1e-9))
        for word in heapq.nlargest(_MOST, heard, key=rarity.__getitem__):
            often = self._often(word, places)
            scores += asked[word] * rarity[word] * often / (often + damping)
        return scores, sum(asked[word] * rarity[word] for word in asked)

    def _rarity(self, word: str) -> float:
        holders = self._holders[word]
        return math.log1p((len(self) - holders + 0.5) / (holders + 0.5))

    def _often(self, word: str, places: NDArray[np.int64]) -> Scores:
        often, n = np.zeros(len(places)), len(places)
        if word in self._said:
            turns, times = (np.array(each) for each in self._said[word])
            often[turns[turns < n]] = times[turns < n]
            often = _context(often, places)
        if word in self._named:
            named = np.array(self._named[word])
            often[named[named < n]] += 1
        return often


def _context(values: Scores, places: NDArray[np.int64]) -> Scores:
    """Return each turn's value together with those of the turns around it."""
    line = np.zeros(int(places[-1]) + _REACH + 1)
    line[places] = values
    around: Scores = np.convolve(line, _AROUND, "same")[places]
    return around
