"""The shape of a trap: one sentence, one slot, something else in it."""

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.guards.quantities import is_number, is_span
from costwise_core.cache.guards.reading import Reading, is_lone, stem, uninflected

__all__ = ["Difference", "difference", "swap"]

_LONGEST: Final = 12
"""Differences with more words than this are another question, not another wording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Which content words of two questions have no counterpart in the other.

    Args:
        asked: Those of the question asked, in order.
        stored: Those of the stored question.
        shared: How many content words both have.
    """

    asked: tuple[str, ...]
    stored: tuple[str, ...]
    shared: int


def difference(asked: Reading, stored: Reading) -> Difference:
    """Pair the content words of two questions and return what is left over.

    Inflections, close synonyms, typing errors and words written apart or together are pairs.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> left = difference(read("Book a flight to Rome"), read("Reserve a flihgt to Oslo"))
        >>> left.asked, left.stored, left.shared
        (('rom',), ('oslo',), 2)
    """
    ours, theirs = Counter(asked.content), Counter(stored.content)
    shared = (ours & theirs).total()
    left, right = _left_over(asked.content, theirs), _left_over(stored.content, ours)
    if left and right and len(left) <= _LONGEST and len(right) <= _LONGEST:
        known = len(left), len(right)
        ours_as, theirs_as = _spellings(left, asked), _spellings(right, stored)
        left = [word for word in left if not _any_same(ours_as[word], theirs_as, right)]
        right = [word for word in right if not _any_same(theirs_as[word], ours_as, ours_as)]
        if left and right and "".join(left) == "".join(right):  # "hand bag" and "handbag"
            left, right = [], []
        shared += min(known[0] - len(left), known[1] - len(right))
    return Difference(asked=tuple(left), stored=tuple(right), shared=shared)


def _spellings(words: list[str], reading: Reading) -> dict[str, set[str]]:
    """Each word with the forms it has in the question: a slip is made before synonyms merge."""
    found = {word: {word} for word in words}
    for word in reading.vocabulary:
        base = stem(word)
        if base in found:
            found[base].add(uninflected(word))
    return found


def _any_same(forms: set[str], others: dict[str, set[str]], words: Iterable[str]) -> bool:
    return any(_same_word(a, b) for word in words for b in others[word] for a in forms)


def _left_over(words: tuple[str, ...], known: Container[str]) -> list[str]:
    """The words that are not known, numbers aside; neighbouring Han characters make one word."""
    found: list[list[str]] = []
    joined = counted = False
    for word in words:
        number = is_number(word)
        if word in known or number or (counted and is_span(word)):
            joined = False
        elif joined and is_lone(word):
            found[-1].append(word)
        else:
            found.append([word])
            joined = is_lone(word)
        counted = number
    return list(map("".join, found))


_ENDINGS: Final = frozenset(
    (
        "",
        "s",
        "e",
        "ed",
        "ing",
        "ion",
        "ation",
        "tion",
        "ition",
        "ment",
        "al",
        "ance",
        "ence",
        "ness",
        "i",
        "eri",
        "ant",
    )
)
_LOOKALIKES: Final = frozenset(
    frozenset(pair.split())
    for pair in (
        "contact contract",
        "counti countri",
        "desert dessert",
        "diari dairi",
        "trail trial",
        "angel angl",
        "marital martial",
        "casual causal",
        "messag massag",
        "policy police",
        "polici polic",
        "form from",
        "united untied",
        "sever sever",
        "principal principl",
        "stationari stationeri",
        "lender lander",
        "adoption adaption",
        "affect effect",
        "expand expend",
        "profit prophet",
        "person prison",
    )
)


def _same_word(one: str, other: str) -> bool:
    """Whether two different stems are one word: derived from each other, or mistyped."""
    short, long = sorted((one, other), key=len)
    if len(short) < 4 or not one.isalpha() or not other.isalpha():
        return False
    same = 0
    for a, b in zip(short, long, strict=False):
        if a != b:
            break
        same += 1
    if same >= max(4, len(short) - 2) and short[same:] in _ENDINGS and long[same:] in _ENDINGS:
        return True
    return frozenset((one, other)) not in _LOOKALIKES and _mistyped(short, long, same)


_VOWELS: Final = frozenset("aeiouy")


def _mistyped(short: str, long: str, same: int) -> bool:
    """Whether one slip of the pen leads from one word to the other; `same` first letters agree.

    Slips are a wrong vowel, two letters changing places, and a letter left out. Another consonant
    is more often another word ("sender", "lender").
    """
    if not same or len(long) - len(short) > 1:
        return False
    if len(short) == len(long):
        if short[same + 1 :] == long[same + 1 :]:
            return len(short) > 5 and same < len(short) - 1 and {short[same], long[same]} <= _VOWELS
        swapped = long[same + 1 : same + 2] + long[same]
        return short[same : same + 2] == swapped and short[same + 2 :] == long[same + 2 :]
    if short[same:] != long[same + 1 :]:
        return False
    doubled = long[same] in (long[same - 1], long[same + 1 : same + 2])
    return doubled or (len(short) > 4 and same < len(short))


def swap(asked: Reading, stored: Reading) -> str | None:
    """Speak when the questions are the same but for the words in one place.

    Two people who mean the same seldom change one word of a sentence and keep the rest; two who
    mean different things in the same situation do so all the time.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> swap(read("How do I descale the kettle?"), read("How do I descale the iron?"))
        'all the same but for "kettl" and "iron"'
    """
    left = difference(asked, stored)
    if len(left.asked) == 1 and len(left.stored) == 1:
        return f'all the same but for "{left.asked[0]}" and "{left.stored[0]}"'
    return None
