"""Cutting words out of a text, when a tokenizer has spelled them its own way."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from costwise_core.passages import Span

__all__ = ["kept_words"]

# What becomes of a character: it is kept or gone with its word, or the model has not read it and
# it stays: a blank, a letter (u), or anything else (s).
_HALF_READ: Final = re.compile(r"(?<=u)g+|g+(?=u)")
_GAP: Final = re.compile(r"b*(g(?:[gb]*g)?)")

_SEARCHED: Final = 100  # letters that may lie between two words because the model cannot read them


def kept_words(
    words: Iterable[tuple[str, bool]], text: str, protected: Sequence[Span] = ()
) -> list[Span]:
    """Return the pieces that are left of a text when some of its words go.

    A word takes the blanks before it along, but no two words grow together. What is no word here,
    or only half of one, stays.

    Args:
        words: The words in order, as a tokenizer writes them (in small letters, without accents),
            each with whether it is kept.
        text: What they were read from.
        protected: Pieces that stay.

    Example:
        >>> text = "The café of the well-known Ms. Ott 🙂"
        >>> words = "the cafe of the well - known ms . ott".split()
        >>> spans = kept_words([(word, word not in ("the", "of", "known")) for word in words], text)
        >>> [text[start:end] for start, end in spans]
        [' café', ' well-', ' Ms. Ott 🙂']
    """
    fate = ["b" if each in " \t" else "u" if each.isalnum() else "s" for each in text]
    for (start, end), kept in _places(words, text):
        for at in range(start, end):
            # Two words can be one character, such as a fraction; one is enough to keep it.
            fate[at] = "k" if kept or fate[at] == "k" else "g"
    for start, end in protected:
        fate[start:end] = "k" * (end - start)
    codes = _HALF_READ.sub(lambda run: "k" * len(run[0]), "".join(fate))
    spans, last = [], 0
    for gap in _GAP.finditer(codes):
        for start, end in _cuts(gap.start(), *gap.span(1), text):
            if start > last:
                spans.append((last, start))
            last = end
    if last < len(text):
        spans.append((last, len(text)))
    return spans


def _places(words: Iterable[tuple[str, bool]], text: str) -> Iterator[tuple[Span, bool]]:
    """Yield where each word stands, if it is found, and what was said about it."""
    letters: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        folded = _folded(character)
        letters.append(folded)
        origin.extend([index] * len(folded))
    plain, at = "".join(letters), 0
    for word, kept in words:
        wanted = _folded(word)
        found = plain.find(wanted, at, at + len(wanted) + _SEARCHED) if wanted else -1
        if found >= 0:
            at = found + len(wanted)
            yield (origin[found], origin[at - 1] + 1), kept


def _folded(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(each for each in apart if not unicodedata.combining(each)).lower()


def _cuts(blanks: int, start: int, end: int, text: str) -> Iterator[Span]:
    """Yield what to cut of a gap and the blanks before it, so that a separator stays."""
    beside = text[max(blanks - 1, 0) : blanks] + text[end : end + 1]
    if not (len(beside) == 2 and beside.isalnum()):
        yield blanks, end
    elif blanks < start:
        yield start, end
    else:
        sign = next((at for at in reversed(range(start, end)) if not text[at].isalnum()), end)
        yield start, sign
        yield min(sign + 1, end), end
