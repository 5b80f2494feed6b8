"""A stand-in for a summary that no model has to write: the sentences that say most, word for word.

It costs nothing and is there at once, so a conversation can be cut before anything was saved to pay
a model with; a model's summary replaces it when that is paid for.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.memory.messages import Message
from costwise_core.memory.prompts import shown
from costwise_core.text.segments import segment
from costwise_core.text.words import words

__all__ = ["extract"]

_NEWER: Final = 0.5
"""How much more the newest sentence counts than the oldest: later ones correct earlier ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sentence:
    text: str
    place: int
    words: frozenset[str]
    tokens: int


def extract(
    summary: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    count: Callable[[str], int],
) -> str:
    """Choose sentences of an old summary and of the messages after it, and keep their order.

    Greedily by the words that a sentence adds to those chosen already, a word counting by its
    rarity among the sentences, for each token of the sentence. Speakers and days stay with what
    they said. The same input gives the same bytes.

    Args:
        summary: What stood for earlier messages, "" for nothing.
        messages: What it is to take in.
        max_tokens: The most that the text may have.
        count: Counts tokens.

    Example:
        >>> talk = [Message(role="user", text="Thanks! I fly to Malta on 3 May."),
        ...         Message(role="assistant", text="OK.")]
        >>> extract("", talk, max_tokens=10, count=lambda text: len(text.split()))
        'user: Thanks! I fly to Malta on 3 May.'
    """
    found = list(_sentences(summary, messages, count))
    often = Counter(word for one in found for word in one.words)
    rarity = {word: math.log1p(len(found) / times) for word, times in often.items()}

    def worth(one: _Sentence) -> float:
        new = sum(rarity[word] for word in one.words - covered)
        return new / (one.tokens + 1) * (1 + _NEWER * one.place / len(found))

    covered: set[str] = set()
    queue = [(-worth(one), one.place, one) for one in found if one.tokens <= max_tokens]
    heapq.heapify(queue)
    chosen, left = [], max_tokens
    while queue:
        _, place, one = heapq.heappop(queue)
        if one.tokens > left:
            continue
        now = worth(one)
        # A sentence's worth only falls as others are chosen: it is best if it still beats the next.
        if queue and now < -queue[0][0]:
            if now > 0:
                heapq.heappush(queue, (-now, place, one))
            continue
        if now <= 0:
            break
        chosen.append(one)
        covered |= one.words
        left -= one.tokens
    return "\n".join(one.text for one in sorted(chosen, key=lambda one: one.place))


def _sentences(
    summary: str, messages: Sequence[Message], count: Callable[[str], int]
) -> list[_Sentence]:
    lines = [*summary.splitlines(), *(shown([one]) for one in messages if one.role != "system")]
    found: list[_Sentence] = []
    for line in filter(None, map(str.strip, lines)):
        for text in _parts(line, count):
            known = frozenset(words(text))
            # One token more for the line's end.
            found.append(
                _Sentence(text=text, place=len(found), words=known, tokens=count(text) + 1)
            )
    return found


_LONG: Final = 40


def _parts(line: str, count: Callable[[str], int]) -> list[str]:
    """Return a line whole if it is short, else its sentences, each with the speaker in front."""
    if count(line) <= _LONG:
        return [" ".join(line.split())]
    who, colon, said = line.partition(": ")
    front = f"{who}{colon}" if colon and len(who) <= 80 else ""
    said = said if front else line
    return [front + " ".join(said[one.start : one.end].split()) for one in segment(said)]
