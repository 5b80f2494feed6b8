"""How old messages are quoted, and the pieces in which long ones are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.memory.messages import Message
from costwise_core.memory.recall_days import Day, day_of
from costwise_core.passages import GAP
from costwise_core.text.segments import segment

__all__ = ["Piece", "heading", "line", "pieces", "quoted", "speaker", "together"]

_WHOLE: Final = 800
"""Characters up to which a message is quoted whole or not at all, some 200 tokens."""

_PART: Final = 400
"""Characters at which a piece of a longer one is full."""

_LONGEST_NAME: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What is recalled as one: a message, or some sentences of a long one.

    Args:
        message: Which message of the conversation.
        start: Where it begins in the message's text.
        end: Where it ends, exclusive.
    """

    message: int
    start: int
    end: int


def pieces(message: Message, index: int) -> Iterator[Piece]:
    """Yield what of a message can be recalled; nothing of one without text.

    Example:
        >>> [piece.end for piece in pieces(Message(role="user", text="So it is."), 0)]
        [9]
    """
    text = message.text
    if not text.strip():
        return
    if len(text) <= _WHOLE:
        yield Piece(message=index, start=0, end=len(text))
        return
    start = end = None
    for part in segment(text):
        if start is not None and end is not None and part.end - start > _PART:
            yield Piece(message=index, start=start, end=end)
            start = None
        start, end = part.start if start is None else start, part.end
        while end - start > 2 * _PART:  # a table or code
            cut = max(text.rfind("\n", start + 1, start + _PART), start + _PART // 2)
            yield Piece(message=index, start=start, end=cut)
            start = cut
    if start is not None and end is not None:
        yield Piece(message=index, start=start, end=end)


def together(message: Message, kept: Sequence[Piece]) -> Message:
    """Return a message with only some pieces of its text, " [...] " where one is missing.

    Example:
        >>> message = Message(role="user", text="One. Two. Three.")
        >>> ends = Piece(message=0, start=0, end=4), Piece(message=0, start=10, end=16)
        >>> together(message, ends).text
        'One. [...] Three.'
    """
    text, cursor = "", 0
    for piece in sorted(kept, key=lambda piece: piece.start):
        between = message.text[cursor : piece.start]
        text += (GAP if between.strip() else between) if text else ""
        text += message.text[piece.start : piece.end]
        cursor = piece.end
    return message if text == message.text else replace(message, text=text, tokens=0, raw="")


def quoted(messages: Sequence[Message]) -> str:
    r"""Return messages as they are quoted in a prompt: who said what, under the day it was said.

    A day stands above its first message only: a day and a time on each would make it a fifth
    longer. A message's further lines are indented, so that none passes for another speaker's.

    Example:
        >>> ada = Message(role="user", name="Ada", text="Three.\nOr four?", at=0.0)
        >>> print(quoted([ada, Message(role="assistant", text="Good.", at=60.0)]), end="")
        [1970-01-01]
        Ada: Three.
          Or four?
        assistant: Good.
    """
    today: Day = (0, 0, 0)
    found = []
    for message in messages:
        day = day_of(message)
        if day[0] and day != today:
            found.append(heading(day))
            today = day
        found.append(line(message))
    return "".join(found)


def heading(day: Day) -> str:
    r"""Return the line above the first message of a day.

    Example:
        >>> heading((2026, 5, 3))
        '[2026-05-03]\n'
    """
    year, month, of_month = day
    return f"[{year:04}-{month:02}-{of_month:02}]\n"


def line(message: Message) -> str:
    r"""Return a message as `quoted` writes it, the end of its line included.

    Example:
        >>> line(Message(role="assistant", text="Good."))
        'assistant: Good.\n'
    """
    text = "\n  ".join(message.text.strip().splitlines())
    return f"{speaker(message)}: {text}\n"


def speaker(message: Message) -> str:
    """Return who says a message: the name, else the role; "tool" before a tool's name.

    Example:
        >>> speaker(Message(role="tool", name="weather", text="Rain"))
        'tool weather'
    """
    name = " ".join(message.name.split())[:_LONGEST_NAME]
    return f"tool {name}".strip() if message.role == "tool" else name or message.role
