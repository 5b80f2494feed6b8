"""What a router sees of a question: its words and pairs of words, and its shape.

Both are counted in one pass over the text and are the same for every language, though only words
that training has seen say anything.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

__all__ = ["SHAPE", "clipped", "shape_of", "terms_of"]

_MOST_CHARS: Final = 6_000
_TERM: Final = re.compile(r"\d+|[^\W\d_]+|[^\w\s]")
_WORD: Final = re.compile(r"\w+")
_SIGNS: Final = frozenset("+-*/=^<>%$\\")
_LONGEST_NUMBER: Final = 4
_NOT: Final = re.compile(r"\b(?:not|except|never|least|false|incorrect)\b", re.IGNORECASE)
_WHO: Final = re.compile(r"\s*(?:who|when|where)\b", re.IGNORECASE)
_HOW: Final = re.compile(r"\b(?:why|how|explain)\b", re.IGNORECASE)
_COUNT: Final = re.compile(r"\bhow (?:many|much)\b", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"[.!?](?:\s|$)")
_SMALL: Final = frozenset(
    "the a an of in to and is was were are do does for on by with from at as it that this".split()
)

SHAPE: Final = (
    *("words", "characters", "word length", "digits", "share of digits", "numbers", "lines"),
    *("question marks", "commas", "sentences", "share of signs", "signs", "share of capitals"),
    *("variety", "ends asking", "negates", "share of small words", "quotes", "brackets"),
    *("longest word", "asks who", "asks how", "asks how many", "gap to fill"),
)
"""Names of the numbers that `shape_of` returns, in order."""


def clipped(text: str) -> str:
    """Return what is read of a text: both its ends if it is long, as questions stand at either.

    Example:
        >>> len(clipped("x" * 10_000_000)) <= 6_001
        True
    """
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    return f"{text[:half]}\n{text[-half:]}"


def terms_of(text: str) -> Mapping[str, int]:
    """Return how often each word, sign and pair of neighbours occurs.

    Numbers are counted by their number of digits: which number it is says little of how hard the
    question is, and would only be learned by heart.

    Example:
        >>> terms_of("Is 17 prime?")["00 prime"]
        1
    """
    words = [
        "0" * min(len(word), _LONGEST_NUMBER) if word.isdecimal() else word
        for word in _TERM.findall(clipped(text).casefold())
    ]
    counts = Counter(words)
    counts.update(f"{one} {other}" for one, other in pairwise(words))
    return counts


def shape_of(text: str) -> list[float]:
    """Return length, numbers, punctuation and the like, as named in `SHAPE`.

    Counts are logarithms, so that no single long text outweighs all others.

    Example:
        >>> shape_of("How many?")[SHAPE.index("asks how many")]
        1.0
    """
    text = clipped(text)
    words = _WORD.findall(text)
    count, size = len(words) or 1, len(text) or 1
    digits = sum(map(str.isdigit, text))
    signs = sum(sign in _SIGNS for sign in text)
    lower = [word.casefold() for word in words]
    log = math.log1p
    return [
        *(log(len(words)), log(len(text)), sum(map(len, words)) / count),
        *(log(digits), digits / size, log(len(re.findall(r"\d+(?:\.\d+)?", text)))),
        *(log(text.count("\n")), log(text.count("?")), log(text.count(","))),
        *(log(len(_SENTENCE.findall(text))), signs / size, log(signs)),
        *(sum(map(str.isupper, text)) / size, len(set(lower)) / count),
        *(float("?" in text[-30:]), float(bool(_NOT.search(text)))),
        *(sum(word in _SMALL for word in lower) / count, log(text.count('"') + text.count("`"))),
        *(log(text.count("(")), log(max(map(len, words), default=0))),
        *(float(bool(_WHO.match(text))), float(bool(_HOW.search(text)))),
        *(float(bool(_COUNT.search(text))), float("_" in text)),
    ]
