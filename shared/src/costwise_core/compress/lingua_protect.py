"""What token deletion must not touch, and the arithmetic of pieces of text.

A deleted token makes another number, another id, another quotation; where a sentence loses a word,
a reader still guesses it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from costwise_core.passages import Span

__all__ = ["PROTECTED", "merged", "overlapping", "protected_spans", "trimmed"]

_SIGNS: Final = r"A-Za-z_$€£¥#%°.,:/@+\-–"  # what may stand next to a digit in one number or id

PROTECTED: Final = re.compile(
    rf"""
    ```.*?(?:```|\Z)                              # code in fences, an open one to the end
    | (?:^[ \t]*\|[^\n]*\n?)+                     # the rows of a table
    | `[^`\n]{{1,200}}`
    | (?:https?://|www\.)[^\s<>"']+
    | [\w.+-]{{1,64}}@[\w-]{{1,64}}\.[\w.-]{{1,64}}
    | \[\^?[\w\ .,:;?\#–-]{{1,40}}\]               # [3], [3, 4], [doc-1], [^2]
    | 【[^】\n]{{1,60}}】
    | "[^"\n]{{1,200}}" | “[^”\n]{{1,200}}” | „[^“”\n]{{1,200}}[“”]
    | «[^»\n]{{1,200}}» | 「[^」\n]{{1,200}}」 | 『[^』\n]{{1,200}}』
    | (?<![{_SIGNS}\d])[{_SIGNS}]*+\d[{_SIGNS}\d]*+   # numbers, dates, prices, versions, ids
    | (?<!\w)[A-Za-z]++(?:_[A-Za-z]++)++          # names_in_code
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
"""Code, tables, URLs, addresses, citation markers, quotations, and every word with a digit."""


def protected_spans(text: str, pattern: re.Pattern[str] | None = PROTECTED) -> list[Span]:
    """Return the pieces of a text that must stay, in order, none overlapping.

    Each begins with the blank before it, so that it does not grow together with another word.

    Args:
        text: Any text.
        pattern: What matches is protected; None protects nothing.

    Example:
        >>> text = "It sold 150,782 units [3]."
        >>> [text[start:end] for start, end in protected_spans(text)]
        [' 150,782', ' [3]']
    """
    if pattern is None:
        return []
    found = []
    for match in pattern.finditer(text):
        start, end = match.span()
        while end > start + 1 and text[end - 1] in ".,:;":
            end -= 1
        if start and text[start - 1] in " \t":
            start -= 1
        if end > start:
            found.append((start, end))
    return list(merged(found))


def merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield sorted spans with those that touch made one.

    Example:
        >>> list(merged([(4, 6), (0, 2), (2, 3)]))
        [(0, 3), (4, 6)]
    """
    start = end = -1
    for first, last in sorted(spans):
        if first > end:
            if end > start:
                yield start, end
            start, end = first, last
        else:
            end = max(end, last)
    if end > start:
        yield start, end


def overlapping(spans: Sequence[Span], others: Sequence[Span]) -> set[int]:
    """Return which of `spans` share a character with one of `others`; both in order.

    Example:
        >>> overlapping([(0, 2), (2, 4), (4, 6)], [(3, 4)])
        {1}
    """
    found, at = set(), 0
    for index, (start, end) in enumerate(spans):
        while at < len(others) and others[at][1] <= start:
            at += 1
        if at < len(others) and others[at][0] < end:
            found.add(index)
    return found


def trimmed(spans: Sequence[Span], text: str) -> Iterator[Span]:
    """Yield spans in order without the blanks at the very beginning and end.

    Example:
        >>> list(trimmed([(0, 1), (1, 4), (6, 8)], "  ab cd "))
        [(2, 4), (6, 7)]
    """
    pieces = "".join(text[start:end] for start, end in spans)
    before = len(pieces) - len(pieces.lstrip())
    after = len(pieces) - len(pieces.rstrip())
    left = len(pieces) - before - after
    for start, end in spans:
        skipped = min(before, end - start)
        before -= skipped
        taken = min(left, end - start - skipped)
        left -= taken
        if taken > 0:
            yield start + skipped, start + skipped + taken
