"""Which of the best pieces fit in a budget, counted as they will be quoted."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from costwise_core.memory.messages import Message
from costwise_core.memory.recall_days import Day, day_of
from costwise_core.memory.recall_lines import Piece, heading, line, quoted, together

if TYPE_CHECKING:
    from costwise_core.protocols import TokenCounter

__all__ = ["fitting", "quotable"]

_LEAST_TOKENS: Final = 8
"""With fewer left, looking on finds nothing."""
_MISSES: Final = 50
"""So many that do not fit, one after another, and looking on is not worth the time."""


def fitting(
    messages: Sequence[Message],
    found: Iterable[Piece],
    budget: int,
    count: "TokenCounter",
) -> list[Piece]:
    """Return the first pieces that fit in a budget of tokens, smaller ones after one that does not.

    Example:
        >>> said = [Message(role="user", text=text) for text in ("A long way to go", "Home")]
        >>> found = [Piece(message=0, start=0, end=16), Piece(message=1, start=0, end=4)]
        >>> [piece.message for piece in fitting(said, found, 3, lambda text: len(text.split()))]
        [1]
    """
    days: set[Day] = set()
    chosen: list[Piece] = []
    misses = 0
    for piece in found:
        message = messages[piece.message]
        day = day_of(message)
        cost = count(line(together(message, [piece])))
        if day[0] and day not in days:
            cost += count(heading(day))
        misses += 1
        if cost <= budget:
            budget -= cost
            days.add(day)
            chosen.append(piece)
            misses = _MISSES if budget < _LEAST_TOKENS else 0
        if misses >= _MISSES:
            break
    return chosen


def quotable(
    messages: Sequence[Message], chosen: Sequence[Piece], budget: int, count: "TokenCounter"
) -> tuple[tuple[int, ...], tuple[Message, ...], int]:
    """Put pieces in order and count them as they are quoted, leaving out the last if need be.

    Returns:
        Where the messages stand, the messages with what is chosen of them, and their tokens.

    Example:
        >>> said = [Message(role="user", text="Home")]
        >>> found = [Piece(message=0, start=0, end=4)]
        >>> quotable(said, found, 3, lambda text: len(text.split()))[::2]
        ((0,), 2)
    """
    for left in range(len(chosen), 0, -1):
        by_message = groupby(sorted(chosen[:left], key=_place), lambda piece: piece.message)
        kept = {index: together(messages[index], list(group)) for index, group in by_message}
        tokens = count(quoted(list(kept.values())))
        if tokens <= budget:
            return tuple(kept), tuple(kept.values()), tokens
    return (), (), 0


def _place(piece: Piece) -> tuple[int, int]:
    return piece.message, piece.start
