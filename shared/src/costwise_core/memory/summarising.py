"""Have a model write a summary, and let nothing vanish in it unseen.

What it writes is never trusted to be short, whole or a summary at all: thinking and labels go, a
refusal is none, the end is cut at a sentence, and names and numbers that are gone are put back.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.cache.signs import abstains, failed
from costwise_core.drive import Flow, call
from costwise_core.memory.facts import facts_of, missing
from costwise_core.memory.messages import Message
from costwise_core.memory.prompts import fold_prompt, shown
from costwise_core.protocols import Completer
from costwise_core.text.segments import segment
from costwise_core.tracking import calling

__all__ = ["Written", "checked", "shortened", "summarise"]

KEPT_FACTS: Final = "Kept facts: "
_FACTS_SHARE: Final = 1 / 3
"""Of a summary, that facts put back may take."""

_LEAST: Final = 2
"""Tokens that the shortest fact takes, with the sign before it."""

_OPENING: Final = 160
"""Characters within which a refusal begins."""

_LOST: Final = 0.8
"""Share of the facts missing above which words of refusal make a text a refusal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What came of asking for a summary.

    Args:
        text: The new summary, "" if there is none.
        fault: Why there is none: "empty", "refusal", "no_gain" (it is as long as what it is of).
        added: Facts it had lost and got back, word for word.
        lost: Facts that found no place under its limit.
    """

    text: str = ""
    fault: str = ""
    added: int = 0
    lost: int = 0


def summarise(
    summariser: Completer,
    summary: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    window: int,
    count: Callable[[str], int],
) -> Flow[Written]:
    """Ask for one summary of an old one and the messages after it.

    A message longer than the summariser's window is read in several parts, one after another.

    Args:
        summariser: Is asked.
        summary: The summary so far, "" if there is none.
        messages: What it is to take in.
        max_tokens: The most the new one may have.
        window: Tokens of messages that fit in one question.
        count: Counts tokens.

    Raises:
        Exception: what the summariser raises.
    """
    added = lost = 0
    for part in _parts(messages, window, count):
        prompt = fold_prompt(summary, part, max_tokens=max_tokens)
        with calling(overhead=True):
            answer = yield from call(summariser.complete, prompt)
        source = "\n".join((summary, shown(part)))
        found = yield from call(checked, answer, source, max_tokens=max_tokens, count=count)
        if found.fault:
            return found
        summary, added, lost = found.text, added + found.added, lost + found.lost
    return Written(text=summary, added=added, lost=lost)


def checked(answer: str, source: str, *, max_tokens: int, count: Callable[[str], int]) -> Written:
    r"""Make a summary of what a model answered, or say why it is none.

    Args:
        answer: As the model gave it.
        source: What it was to be a summary of: the old summary and the messages.
        max_tokens: The most it may have, facts put back included.
        count: Counts tokens.

    Example:
        >>> count = lambda text: len(text.split())
        >>> checked("Summary: Ada wants 3 tickets.", "Ada: I want 3 tickets for Malta, please.",
        ...         max_tokens=40, count=count).text
        'Ada wants 3 tickets.\nKept facts: Malta.'
        >>> checked("I'm sorry, I can't help with that.", "Ada: 3 tickets for Malta.",
        ...         max_tokens=40, count=count).fault
        'refusal'
    """
    text = _plain(answer)
    if not text:
        return Written(fault="empty")
    facts = facts_of(source.replace(KEPT_FACTS, ""))
    gone = missing(facts, text)
    # A summary may well say that somebody was sorry, but not at once and nothing else.
    if (abstains(text[:_OPENING]) or failed(text)) and len(gone) >= _LOST * len(facts):
        return Written(fault="refusal")
    room = int(max_tokens * _FACTS_SHARE)
    text = shortened(text, max_tokens, count)
    gone = missing(facts, text)
    if gone:
        text = shortened(text, max(max_tokens - min(room, count(_line(gone))), 1), count)
        gone = missing(facts, text)
    back = _fitting(text, gone, max_tokens, count)
    if back:
        text = f"{text}\n{_line(back)}"
    if count(text) >= count(source):
        return Written(fault="no_gain")
    return Written(text=text, added=len(back), lost=len(gone) - len(back))


def shortened(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Return as many whole sentences from the beginning as fit; of a single long one, its words.

    Example:
        >>> shortened("One two. Three four. Five.", 4, lambda text: len(text.split()))
        'One two. Three four.'
    """
    if count(text) <= max_tokens:
        return text
    ends = [one.end for one in segment(text)] or [len(text)]
    fits = _last_that_fits(text, ends, max_tokens, count)
    if not fits:
        words = [match.end() for match in re.finditer(r"\S+", text)]
        fits = _last_that_fits(text, words, max_tokens, count)
    return text[:fits].rstrip()


def _last_that_fits(
    text: str, ends: Sequence[int], max_tokens: int, count: Callable[[str], int]
) -> int:
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[: ends[middle - 1]].rstrip()) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return ends[low - 1] if low else 0


def _plain(answer: str) -> str:
    text = _THINKING.sub("", answer)
    # Thinking that was cut off before its end leaves nothing to read.
    text = text.partition("<think>")[0] if "<think>" in text else text
    text = _TAGS.sub("", text).strip().strip("`").strip()
    text = _LABEL.sub("", text)
    return _once("\n".join(line.rstrip() for line in text.splitlines() if line.strip()))


def _once(text: str) -> str:
    """Leave out sentences that were there before: small models say the same again and again."""
    found, said, end = "", set[str](), 0
    for one in segment(text):
        sentence = text[one.start : one.end]
        if sentence.casefold() not in said:
            found += text[end : one.start] + sentence
        said.add(sentence.casefold())
        end = one.end
    return found.strip()


_THINKING: Final = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_TAGS: Final = re.compile(r"</?(?:conversation_)?summary>", re.IGNORECASE)
_LABEL: Final = re.compile(
    r"^\W{0,3}(?:here is (?:the|a|an) |the )?(?:new |updated )?summary\b[^:\n]{0,40}:\W{0,3}",
    re.IGNORECASE,
)


def _line(facts: Sequence[str]) -> str:
    return f"{KEPT_FACTS}{'; '.join(facts)}."


def _fitting(
    text: str, facts: Sequence[str], max_tokens: int, count: Callable[[str], int]
) -> list[str]:
    found: list[str] = []
    left = max_tokens - count(f"{text}\n{_line([])}")
    for fact in facts:
        tokens = count(f"; {fact}")
        if tokens <= left:
            found.append(fact)
            left -= tokens
        if left < _LEAST:
            break
    while found and count(f"{text}\n{_line(found)}") > max_tokens:
        found.pop()
    return found


def _parts(
    messages: Sequence[Message], window: int, count: Callable[[str], int]
) -> list[list[Message]]:
    parts: list[list[Message]] = [[]]
    size = 0
    for message in messages:
        for piece in _pieces(message, window, count):
            tokens = count(shown([piece]))
            if parts[-1] and size + tokens > window:
                parts.append([])
                size = 0
            parts[-1].append(piece)
            size += tokens
    return [part for part in parts if part]


def _pieces(message: Message, window: int, count: Callable[[str], int]) -> list[Message]:
    if message.tokens <= window // 2 and count(shown([message])) <= window:
        return [message]
    rest, found = message.text, []
    while rest:
        part = shortened(rest, window - _FRAME, count) or rest[:window]
        found.append(replace(message, text=part, tokens=0, raw=""))
        rest = rest[len(part) :].lstrip()
    return found


_FRAME: Final = 40
"""Tokens for the speaker's name and the time before each part of a message."""
