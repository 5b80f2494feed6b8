"""One call as a log tells it, whoever wrote the log, and the little that all shapes share."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from costwise_core.cache.cacheable import CallFacts
from costwise_core.types import Usage

__all__ = [
    "LoggedCall",
    "Said",
    "digest_of",
    "first",
    "mark_of",
    "moment_of",
    "role_of",
    "shown",
    "text_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One message: "system", "user", "assistant" or "tool", and its text."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class LoggedCall:
    """One paid call.

    Args:
        model: As the provider names it; "" where the log does not say.
        messages: All that was sent, in order.
        answer: The text that came.
        usage: What was reported; None where nobody did.
        at: Seconds since the epoch; None is not known.
        tenant: Whose data it was; "" is not known. Likewise the next three.
        user: Who asked.
        feature: What it was asked for.
        conversation: Which conversation it belongs to.
        tools: What was offered to the model beside the messages, as text: it is paid for, too.
        shape: Every other parameter that changes the answer, as text.
        question: Where the log tells it apart from the prompt.
        context: Likewise the passages that were retrieved.
        facts: What the cache's policy asks about.
        whole: False if the prompt held more than the log shows: images, an answer kept by the
            provider.
        processing: "standard", "batch", "flex" or "priority".
        mark: How good the answer was, from 0 to 1; None is not known.
        prompt_hash: What a ledger has instead of the prompt; likewise the next.
        prefix_hash: Of its beginning.
    """

    model: str
    messages: tuple[Said, ...] = ()
    answer: str = ""
    usage: Usage | None = None
    at: float | None = None
    tenant: str = ""
    user: str = ""
    feature: str = ""
    conversation: str = ""
    tools: str = ""
    shape: str = ""
    question: str = ""
    context: tuple[str, ...] = ()
    facts: CallFacts = field(default_factory=CallFacts)
    whole: bool = True
    processing: str = "standard"
    mark: float | None = None
    prompt_hash: str = ""
    prefix_hash: str = ""


_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "ai": "assistant",
    "aimessage": "assistant",
    "aimessagechunk": "assistant",
    "model": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "toolmessage": "tool",
    "function": "tool",
    "systemmessage": "system",
}


def role_of(word: object) -> str:
    """Return one of the four roles; whoever is not known is a user.

    Example:
        >>> role_of("developer"), role_of("HumanMessage"), role_of(None)
        ('system', 'user', 'user')
    """
    return _ROLES.get(str(word).lower(), "user")


def text_of(content: object) -> tuple[str, bool]:
    """Return the text of a message's content, and whether it is text alone.

    A piece that is no text stands in it by its digest, so that two images are two questions.

    Example:
        >>> text_of([{"type": "text", "text": "Hi"}]), text_of(None)
        (('Hi', True), ('', True))
        >>> text_of([{"type": "image_url", "image_url": {"url": "a.png"}}])[1]
        False
    """
    if content is None:
        return "", True
    if isinstance(content, str):
        return content, True
    if isinstance(content, Mapping):
        text = first(content, "text", "content", "refusal", "thinking")
        if isinstance(text, str):
            return text, True
        return f"\x00{digest_of(content)}", False
    if isinstance(content, list | tuple):
        pieces = [text_of(piece) for piece in content]
        return "\n".join(text for text, _ in pieces), all(plain for _, plain in pieces)
    return str(content), True


def digest_of(value: object) -> str:
    """Return 16 hexadecimal digits that differ whenever the value's JSON does.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def first(row: object, *names: str) -> Any:
    """Return the first value under any of the names that is not None; None if there is none.

    Example:
        >>> first({"a": None, "b": 0}, "a", "b")
        0
    """
    if not isinstance(row, Mapping):
        return None
    return next((row[name] for name in names if row.get(name) is not None), None)


_UNITS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))


def moment_of(value: object) -> float | None:
    """Return a time in seconds since the epoch, however it is written; None if it is none.

    Example:
        >>> moment_of("1970-01-01T00:01:00Z"), moment_of(1_700_000_000_000), moment_of("soon")
        (60.0, 1700000000.0, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        try:
            return (
                moment_of(float(value)) if value[:1].isdigit() and "-" not in value else _iso(value)
            )
        except (ValueError, OverflowError):
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and 0 <= value < 1e20:
        return next((value / unit for above, unit in _UNITS if value > above), float(value))
    return None


def _iso(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def mark_of(value: object) -> float | None:
    """Return a mark from 0 to 1; None for anything else, since a scale cannot be guessed.

    Example:
        >>> mark_of(True), mark_of(0.5), mark_of(4), mark_of("good")
        (1.0, 0.5, None, None)
    """
    if isinstance(value, Mapping):
        return mark_of(first(value, "avg", "score", "value"))
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return None


def shown(names: Iterable[object]) -> str:
    """Return names of columns for a message, and nothing that might be a piece of a prompt.

    Example:
        >>> shown(["id", "What is RAG?"])
        'id'
    """
    fit = [name for name in names if isinstance(name, str) and name.isidentifier()]
    return ", ".join(name for name in fit[:8] if len(name) <= 30)
