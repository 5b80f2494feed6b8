"""Whether two answers to (nearly) the same question say the same."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Protocol

from costwise_core.protocols import Embedder

__all__ = ["Judge", "SameMeaning", "SameText", "normalised"]

# With what tells -5 from 5 and C++ from C#.
_WORD: Final = re.compile(r"(?:(?<!\w)-(?=\d))?[^\W_]+[+#]*")
_NUMBER: Final = re.compile(r"(?:(?<!\w)-)?\d+(?:[.,]\d+)*")
_ARTICLES: Final = frozenset({"a", "an", "the", "der", "die", "das", "le", "la", "les"})


class Judge(Protocol):
    """Says whether two answers may stand for each other; may be slow, never on the way to a hit.

    Example:
        >>> class Exactly:
        ...     def same(self, question, fresh, stored):
        ...         return fresh == stored
        >>> from costwise_core import Cache, MemoryStore
        >>> cache = Cache(MemoryStore(), judge=Exactly())
    """

    def same(self, question: str, fresh: str, stored: str) -> bool:
        """Return whether `stored` would have been as right as `fresh`."""
        ...


def normalised(text: str) -> str:
    """Return an answer's words in lower case, without articles and punctuation.

    Example:
        >>> normalised("The capital is Paris.")
        'capital is paris'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(text)
    # An answer of nothing but articles or signs ("A", "<") is a choice, not an empty one.
    return " ".join([w for w in words if w not in _ARTICLES] or words or text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class SameText:
    """Answers are the same when their words are; right for labels, codes and short facts.

    Example:
        >>> SameText().same("Capital of France?", "Paris.", "paris")
        True
    """

    def same(self, question: str, fresh: str, stored: str) -> bool:  # noqa: ARG002
        """Return whether the answers have the same words in the same order."""
        return normalised(fresh) == normalised(stored)


@dataclass(frozen=True, kw_only=True, slots=True)
class SameMeaning:
    """Answers are the same when their words are, or their numbers are and their meaning is close.

    Two answers that name different numbers are different, however alike they sound.

    Args:
        embedder: Measures how close two answers are.
        min_cosine: From where on two answers count as close. Check it on your own answers with
            `costwise_core.cache.calibrate.judge_error`.

    Example:
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> judge = SameMeaning(embedder=HashingEmbedder())
        >>> judge.same("Notice period?", "It is 30 days.", "It is 60 days.")
        False
    """

    embedder: Embedder
    min_cosine: float = 0.8

    def same(self, question: str, fresh: str, stored: str) -> bool:  # noqa: ARG002
        """Return whether the answers say the same."""
        if normalised(fresh) == normalised(stored):
            return True
        if sorted(_NUMBER.findall(fresh)) != sorted(_NUMBER.findall(stored)):
            return False
        one, other = self.embedder.embed([fresh, stored], "document")
        return float(one @ other) >= self.min_cosine
