"""How good an answer is: measured against answers known to be right, or as a judge sees it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from costwise_core.bench_models.prompts import BenchPrompt

__all__ = ["MARKS", "Mark", "contains", "exact", "f1"]

Mark: TypeAlias = Callable[[BenchPrompt, str], float | None]
"""Gives an answer a mark from 0 to 1; None where nobody knows what is right."""

_ARTICLES: Final = frozenset({"a", "an", "the"})
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# A number with its point is one word; scripts without spaces have a word a character.
_WORD: Final = re.compile(
    "-?\\d+(?:\\.\\d+)?|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\\d_]+"
)


def exact(prompt: BenchPrompt, answer: str) -> float | None:
    """Return 1 if the answer is one of the right ones, case, punctuation and articles aside.

    Example:
        >>> exact(BenchPrompt(question="Who?", answers=("Ada Lovelace",)), "The Ada Lovelace.")
        1.0
    """
    said = _words(answer)
    return _best(prompt, lambda right: float(right == said))


def contains(prompt: BenchPrompt, answer: str) -> float | None:
    """Return 1 if the words of a right answer stand in the answer, next to one another.

    Example:
        >>> contains(BenchPrompt(question="17 * 23?", answers=("391",)), "That is 391.")
        1.0
    """
    said = _joined(_words(answer))
    return _best(prompt, lambda right: float(bool(right) and _joined(right) in said))


def f1(prompt: BenchPrompt, answer: str) -> float | None:
    """Return how many words the answer shares with the right one it is most like.

    The harmonic mean of precision and recall, in [0, 1], as in SQuAD (Rajpurkar et al. 2016, 6.1).

    Example:
        >>> f1(BenchPrompt(question="Who?", answers=("Ada Lovelace",)), "Lady Lovelace")
        0.5
    """
    said = Counter(_words(answer))

    def overlap(right: list[str]) -> float:
        shared = (Counter(right) & said).total()
        return 2 * shared / (len(right) + said.total()) if shared else float(not right and not said)

    return _best(prompt, overlap)


MARKS: Final[Mapping[str, Mark]] = {"exact": exact, "contains": contains, "f1": f1}


def _best(prompt: BenchPrompt, mark: Callable[[list[str]], float]) -> float | None:
    return max((mark(_words(right)) for right in prompt.answers), default=None)


def _joined(words: list[str]) -> str:
    return f" {' '.join(words)} "


def _words(text: str) -> list[str]:
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return [word for word in _WORD.findall(text) if word not in _ARTICLES]
