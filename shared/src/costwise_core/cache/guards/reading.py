"""Read a question once, into the parts the guards compare. Time is linear in its length."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from costwise_core.cache.guards.lexicon import CANONICAL, FUNCTION_WORDS, NEGATORS, PHRASES

__all__ = ["Reading", "is_lone", "read", "stem", "uninflected"]

# Han and kana are written without spaces: there every character counts as a word.
_LONE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN: Final = re.compile(
    rf"[{_LONE}]"
    r"|(?<![.!?:])[.!?:]++(?=\s)"  # where a sentence ends, and the next capital says nothing
    r"|[£$€¥₹₩₽%‰]"
    r"|\d{4}-\d{1,2}-\d{1,2}(?!\w)"
    rf"|(?:(?<![\w)])[-−])?(?:\d[\d.,:/]*\d|\d)(?:(?![{_LONE}])[^\W_])*"
    rf"|(?:(?![{_LONE}])\w)+(?:['’](?:(?![{_LONE}])\w)+)*(?:\+\+|\#)?"
)
_LONE_WORD: Final = re.compile(f"[{_LONE}]")
_ENDS: Final = frozenset(".!?:")
_CLITICS: Final = frozenset(("s", "re", "ve", "ll", "d", "m"))
_RUN_TOGETHER: Final = {
    "whats": ("what",),
    "wheres": ("where",),
    "whos": ("who",),
    "hows": ("how",),
    "im": ("i",),
    "ive": ("i",),
    "dont": ("do", "not"),
    "doesnt": ("does", "not"),
    "didnt": ("did", "not"),
    "isnt": ("is", "not"),
    "arent": ("are", "not"),
    "wasnt": ("was", "not"),
    "cant": ("can", "not"),
    "cannot": ("can", "not"),
    "couldnt": ("could", "not"),
    "wont": ("will", "not"),
    "wouldnt": ("would", "not"),
    "shouldnt": ("should", "not"),
    "havent": ("have", "not"),
    "hasnt": ("has", "not"),
    "can't": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
}
_DOUBLED: Final = re.compile(r"([bdfgklmnprtvz])\1$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One question as the guards see it.

    Args:
        text: The question as it came.
        surface: Its words, signs and ends of sentences in their own spelling, in order.
        words: The same, folded to one case, contractions undone, "not" told apart.
        content: The stems of what is left without function words and negations, in order, close
            synonyms merged.
        vocabulary: The set of `words`.
    """

    text: str
    surface: tuple[str, ...]
    words: tuple[str, ...]
    content: tuple[str, ...]
    vocabulary: frozenset[str]


def read(text: str) -> Reading:
    """Read a question.

    Args:
        text: Any string, in any script, broken Unicode included.

    Example:
        >>> read("Why won't my laptops connect?").content
        ('laptop', 'connect')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    surface = _TOKEN.findall(text)
    words: list[str] = []
    for token in surface:
        word = token.casefold()
        if word[0] in _ENDS:
            continue
        if word.isalpha():
            if word in _RUN_TOGETHER:
                words += _RUN_TOGETHER[word]
            else:
                words.append(word)
        else:
            words += _parts(word)
    return Reading(
        text=text,
        surface=tuple(surface),
        words=tuple(words),
        content=_content(words),
        vocabulary=frozenset(words),
    )


def _parts(word: str) -> tuple[str, ...]:
    """Undo a contraction: "don't" is two words, "card's" one, "l'hôtel" two."""
    if "’" in word:
        word = word.replace("’", "'")
    if word in _RUN_TOGETHER:
        return _RUN_TOGETHER[word]
    if "'" not in word:
        return (word,)
    head, _, tail = word.partition("'")
    if tail == "t" and head.endswith("n"):
        return (head[:-1], "not")
    if tail in _CLITICS:
        return (head,)
    return ("ne", tail) if head == "n" else (head, *tail.split("'"))


def _content(words: list[str]) -> tuple[str, ...]:
    kept: list[str] = []
    skip = False
    last = len(words) - 1
    for i, word in enumerate(words):
        if skip:
            skip = False
            continue
        if i < last and (word, words[i + 1]) in PHRASES:
            word = PHRASES[word, words[i + 1]]  # noqa: PLW2901
            skip = True
        if not (word in FUNCTION_WORDS or word in NEGATORS or _is_hiragana(word)):
            base = stem(word)
            if base and base not in FUNCTION_WORDS:
                kept.append(base)
    return tuple(kept)


def _is_hiragana(word: str) -> bool:
    """Whether this is a character Japanese writes endings and particles with."""
    return len(word) == 1 and "\u3040" <= word <= "\u309f"


def is_lone(word: str) -> bool:
    """Whether this is one character of a script that is written without spaces."""
    return len(word) == 1 and word >= "\u3040" and _LONE_WORD.match(word) is not None


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """Return the form that a word's inflections and close synonyms share.

    Only endings that leave the meaning alone are cut, so "lender" is not "lend".

    Example:
        >>> stem("policies") == stem("policy"), stem("booked") == stem("reserving")
        (True, True)
    """
    if word in CANONICAL:
        return CANONICAL[word]
    base = uninflected(word)
    return CANONICAL.get(base) or CANONICAL.get(base + "e") or base


@lru_cache(maxsize=16_384)
def uninflected(word: str) -> str:
    """Return an English word without the endings of number, tense and adverb; others unchanged.

    Example:
        >>> uninflected("copies") == uninflected("copying") == uninflected("copy")
        True
    """
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ing") and len(word) > 5:
        word = word[:-3]
    elif word.endswith("ied") and len(word) > 4:
        word = word[:-3] + "y"
    elif (word.endswith("ed") and len(word) > 4) or (word.endswith("ly") and len(word) > 5):
        word = word[:-2]
    word = _DOUBLED.sub(r"\1", word)
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    elif len(word) > 5 and word.endswith("is"):
        word = word[:-1] + "z"  # recognise, recognize
    elif len(word) > 5 and word.endswith("our"):
        word = word[:-2] + "r"  # colour, color
    return word
