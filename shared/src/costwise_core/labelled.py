"""Questions of which it is known what answers them, for whatever learns or promises."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.passages import GAP, Passage

__all__ = ["LabelledQuestion"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledQuestion:
    """A question, what was retrieved for it, and what must not get lost.

    Args:
        question: As a user asks it.
        passages: As the retriever gives them.
        answers: Ways to word the answer; one of them must be in one piece of what is kept. Case,
            punctuation, width and spaces do not count.
        gold: Ids of passages of which each must be kept, wholly or in part.

    Example:
        >>> passages = (Passage(text="The tower is 330 metres tall."),)
        >>> LabelledQuestion(question="How tall?", passages=passages, answers=("330 m",)).kept_in(
        ...     passages
        ... )
        False
    """

    question: str
    passages: Sequence[Passage]
    answers: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()

    def kept_in(self, passages: Iterable[Passage]) -> bool:
        """Say whether these passages still hold what must not get lost."""
        passages = tuple(passages)
        if not set(self.gold) <= {passage.id for passage in passages}:
            return False
        if not self.answers:
            return True
        # An answer is not there when its words come from both sides of a gap or of a border.
        pieces = [
            _plain(piece) for passage in passages for piece in passage.text.split(GAP.strip())
        ]
        wanted = [answer for answer in map(_plain, self.answers) if answer.strip()]
        return any(answer in piece for answer in wanted for piece in pieces)


_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DIGIT: Final = re.compile(r"(?![0-9])\d")
# Scripts without spaces, and Hangul, whose particles stick: each character is taken for a word.
_DENSE: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\u1100-\u11ff\uac00-\ud7af\U00020000-\U0003ffff])"
)
# Neither a letter, a digit, a mark that belongs to a letter, nor the point within a number.
_BETWEEN: Final = re.compile(
    r"(?:(?!(?<=\d)\.(?=\d))[^\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff]|_)+"
)


def _plain(text: str) -> str:
    """Return the words of a text with one space around each, in a form in which equal ones meet."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if not text.isascii():
        text = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
        text = _DENSE.sub(r" \1 ", text)
    return f" {' '.join(_BETWEEN.sub(' ', _THOUSANDS.sub('', text)).split())} "
