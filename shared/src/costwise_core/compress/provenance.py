"""What was done to a passage, as a framework's metadata carry it: plain JSON, and the way back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from costwise_core.passages import Passage, Span

__all__ = ["TOLD", "Told", "number", "read_told", "write_told"]

TOLD: Final = "costwise"
"""The key of a document's or node's metadata under which we say what was done to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a compressor said about a passage.

    Args:
        why: Why it was kept.
        score: Its relevance; None is unknown.
        original: The text as it was retrieved, None if that is what the passage still holds.
        spans: Which pieces of the original are left.
    """

    why: str = ""
    score: float | None = None
    original: str | None = None
    spans: tuple[Span, ...] = ()


def write_told(passage: Passage) -> dict[str, Any]:
    """Return what there is to say about a passage, as JSON can keep it.

    Example:
        >>> write_told(Passage(text="b.", original="a. b.", spans=((3, 5),), why="asked"))
        {'why': 'asked', 'score': None, 'original': 'a. b.', 'spans': [[3, 5]]}
    """
    told: dict[str, Any] = {"why": passage.why, "score": number(passage.score)}
    if passage.original is not None:
        told["original"] = passage.original
        told["spans"] = [[int(start), int(end)] for start, end in passage.spans]
    return told


def read_told(metadata: Mapping[str, Any]) -> Told | None:
    """Return what `write_told` wrote; None for metadata that hold nothing of ours.

    Example:
        >>> read_told({"costwise": {"why": "asked", "score": 0.5}})
        Told(why='asked', score=0.5, original=None, spans=())
        >>> read_told({"costwise": "somebody else's"})
    """
    told = metadata.get(TOLD)
    if not isinstance(told, Mapping) or not isinstance(told.get("why"), str):
        return None
    original, pairs = told.get("original"), told.get("spans")
    spans = [_span(pair) for pair in pairs] if isinstance(pairs, list) else []
    return Told(
        why=told["why"],
        score=number(told.get("score")),
        original=original if isinstance(original, str) else None,
        spans=tuple(span for span in spans if span) if isinstance(original, str) else (),
    )


def number(value: object) -> float | None:
    """Return a finite number as a float, None for anything else.

    Example:
        >>> number(1), number(float("nan")), number("0.5"), number(None)
        (1.0, None, None, None)
    """
    try:
        found = None if isinstance(value, str | bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found is not None and math.isfinite(found) else None


def _span(pair: object) -> Span | None:
    match pair:
        case [int(start), int(end)] if 0 <= start <= end:
            return start, end
    return None
