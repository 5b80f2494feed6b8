"""Passages cut into pieces that know where they come from, and put together again from some."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from costwise_core.passages import GAP, Passage, Span
from costwise_core.text.segments import Segment, segment

if TYPE_CHECKING:
    from costwise_core.text.segments import Kind

__all__ = ["Piece", "cut", "joined", "shortened"]

_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Something of a passage that is kept or left out as one.

    Args:
        passage: Which of the given passages it is of.
        start: Where it begins in the passage's original text.
        end: Where it ends, exclusive.
        kind: What it is; tables and code are one piece each.
        text: The piece itself.
    """

    passage: int
    start: int
    end: int
    kind: "Kind"
    text: str


def cut(passages: Sequence[Passage]) -> list[Piece]:
    """Cut passages into pieces, in order.

    A passage that was compressed before is cut within the spans it still has. One whose text is not
    made of spans of its original is a single piece, so that no offset is ever wrong.

    Args:
        passages: Any passages.

    Returns:
        The pieces of all passages; a passage of nothing but white space has none.

    Example:
        >>> [piece.text for piece in cut([Passage(text="It rains. Take the bus.")])]
        ['It rains.', 'Take the bus.']
    """
    return [
        Piece(
            passage=i,
            start=one.start,
            end=one.end,
            kind=one.kind,
            text=text[one.start : one.end],
        )
        for i, passage in enumerate(passages)
        for text, one in _segments(passage)
    ]


def _segments(passage: Passage) -> Iterator[tuple[str, Segment]]:
    original = passage.original
    if original is None:
        for one in segment(passage.text):
            yield passage.text, one
    elif joined(original, passage.spans) == passage.text:
        for start, end in passage.spans:
            for one in segment(original[start:end]):
                yield (
                    original,
                    Segment(start=start + one.start, end=start + one.end, kind=one.kind),
                )
    elif passage.text.strip():
        yield passage.text, Segment(start=0, end=len(passage.text), kind="sentence")


def joined(original: str, spans: Iterable[Span]) -> str:
    """Return the pieces of a text with a marker where something was left out between two.

    Example:
        >>> joined("It rains. Take the bus. Hurry.", [(0, 9), (24, 30)])
        'It rains. [...] Hurry.'
    """
    text = ""
    for start, end in spans:
        piece = original[start:end]
        if text:
            # A table's last row, or a heading, must not have a marker in its line.
            lines = "\n" in text or "\n" in piece
            text += f"\n{GAP.strip()}\n" if lines else GAP
        text += piece
    return text


def shortened(passage: Passage, kept: Sequence[Piece], *, of: int, why: str) -> Passage:
    """Return a passage with some of its pieces; the given one if they are all there were.

    Args:
        passage: The passage that was cut.
        kept: Pieces of it, in order.
        of: How many it was cut into.
        why: Why they were kept.

    Example:
        >>> passage = Passage(text="It rains. Take the bus. Hurry.")
        >>> short = shortened(passage, cut([passage])[1:], of=3, why="asked")
        >>> short.text, short.spans
        ('Take the bus. Hurry.', ((10, 30),))
    """
    if len(kept) == of:
        return replace(passage, why=why)
    original = passage.text if passage.original is None else passage.original
    spans: list[Span] = []
    for piece in kept:
        if spans and _SPACE.fullmatch(original, spans[-1][1], piece.start):
            spans[-1] = (spans[-1][0], piece.end)
        else:
            spans.append((piece.start, piece.end))
    return replace(
        passage, text=joined(original, spans), original=original, spans=tuple(spans), why=why
    )
