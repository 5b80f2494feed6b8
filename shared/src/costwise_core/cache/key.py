"""Canonical keys: what may differ between two requests that are the same request.

A question loses surplus white space, and the capital of a first word that is a function word
("What" and "what", but never "US" and "us"). Nothing else: a changed number or name is another
question. Text around the question (system prompt, history) may also lose *volatile* fields, by
rules that can be read and replaced; the question never does, because there the value is the point.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["VOLATILE", "Volatile", "canonical", "fingerprint", "question_key"]

_SPACE = re.compile(r"\s+")
_FIRST_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# Words that mean the same with and without a capital when they open a sentence.
# fmt: off
_OPENERS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "could", "describe", "did",
    "do", "does", "explain", "for", "from", "give", "had", "has", "have", "how", "i", "if", "in",
    "is", "it", "its", "list", "my", "no", "of", "on", "or", "please", "should", "tell", "that",
    "the", "their", "there", "they", "this", "to", "was", "we", "were", "what", "what's", "when",
    "where", "which", "who", "who's", "whom", "whose", "why", "will", "with", "would", "you",
    "your",
))
# fmt: on


@dataclass(frozen=True, kw_only=True, slots=True)
class Volatile:
    """One rule for text that changes with every request and changes no answer.

    Args:
        name: What is replaced, as shown to people.
        pattern: Regular expression to look for.
        replacement: What stands in its place; may refer to groups.
    """

    name: str
    pattern: re.Pattern[str]
    replacement: str


VOLATILE: tuple[Volatile, ...] = (
    # The date stays: an answer of yesterday is another answer.
    Volatile(
        name="time of day",
        pattern=re.compile(
            r"\b(\d{4}-\d{2}-\d{2})[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
            r"(?:Z|[+-]\d{2}:?\d{2})?(?![\d:])"
        ),
        replacement=r"\1",
    ),
    # Only where the text calls it a request or trace id: a bare uuid may well name a customer.
    Volatile(
        name="request id",
        pattern=re.compile(
            r"(?i)\b((?:request|trace|run|span|correlation|message|event)[ _-]?(?:id|uuid)\"?"
            r"\s*[:=]?\s*\"?)"
            r"(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{16,64})\b"
        ),
        replacement=r"\1*",
    ),
)
"""The rules applied to text around a question unless a cache is given others."""


def canonical(text: str) -> str:
    r"""Return the question in the form that equal questions share.

    Unicode is composed (NFC), white space runs become one space, ends are stripped, and a first
    word that is a plain function word loses its capital.

    Example:
        >>> canonical("  What is\nthe US budget? ")
        'what is the US budget?'
    """
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()
    first = _FIRST_WORD.match(text)
    if first and first[0].lower() in _OPENERS:
        text = first[0].lower() + text[first.end() :]
    return text


def fingerprint(*parts: str, volatile: Sequence[Volatile] = VOLATILE) -> str:
    """Return 32 hexadecimal digits for text that surrounds a question.

    Args:
        *parts: Texts; their number and order matter.
        volatile: Rules whose matches do not count.

    Example:
        >>> now, later = "It is 2026-11-21T08:30:00Z.", "It is 2026-11-21T09:45:10Z."
        >>> fingerprint(now) == fingerprint(later), fingerprint(now) == fingerprint("It is late.")
        (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        for rule in volatile:
            part = rule.pattern.sub(rule.replacement, part)  # noqa: PLW2901
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def question_key(question: str) -> str:
    """Return the 32 hexadecimal digits an exact match is made on.

    Example:
        >>> question_key("What is  RAG?") == question_key("what is RAG?")
        True
    """
    return fingerprint(canonical(question), volatile=())
