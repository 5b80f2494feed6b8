"""Texts cut into sentences, headings, list items, tables and code, with their offsets.

Linear in the length of the text; every rule looks at a line, or at a bounded window.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias
from unicodedata import combining

from costwise_core.text.sentences import ends, goes_on

__all__ = ["Kind", "Segment", "segment"]

Kind: TypeAlias = Literal["sentence", "heading", "list", "table", "code"]

LONGEST: Final = {"sentence": 1_000, "heading": 1_000, "list": 1_000, "table": 8_000, "code": 8_000}
"""Characters; what is longer is cut, so that a budget can be kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece of a text that is kept or left out as one.

    Args:
        start: Where it begins, in characters of the text.
        end: Where it ends, exclusive.
        kind: What it is.
    """

    start: int
    end: int
    kind: Kind


_Piece: TypeAlias = tuple[int, int, Kind]

_LINE: Final = re.compile(r"[^\r\n\u2028\u2029]*+(?:\r\n|[\r\n\u2028\u2029]|\Z)")
_FENCE: Final = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\s]?)[^`]*$")
_HEADING: Final = re.compile(
    r" {0,3}#{1,6}[ \t]+\S|[ \t]*<h[1-6]\b.*</h[1-6]>\s*$|[ \t]*(={1,6})[^=]{1,200}\1\s*$",
    re.IGNORECASE,
)
_RULE: Final = re.compile(r" {0,3}([-=*_~#])\1{2,}\s*$")
# What begins an item even within a paragraph, and what does only after another item or a gap:
# "in\n1994. Then" is no list.
_BULLET: Final = re.compile(r"[ \t]*(?:(?:[-*+•‣◦▪●○·]|1[.)]|\(1\))[ \t]+\S|<li\b)")
_ITEM: Final = re.compile(
    r"[ \t]*(?:\d{1,3}[.)]|\(\w{1,3}\)|[a-zA-Z]\)|[a-z]\.|[ivx]{1,5}[.)]|[–—])[ \t]+\S"
)
_RULED: Final = re.compile(r"[ \t]*\|?[ \t]*:?-[-:| \t]*$")
_ROW: Final = re.compile(r"[ \t]*(?:\|.*\||\+[-=+]{2,}\+)\s*$")
_CODE: Final = re.compile(
    r"[{}]\s*$|[)\]}\"']\s*;\s*$"
    r"|^\s*(?:def|class|import|from|return|const|let|var|fn|func|public|private|static|elif|else|try|"
    r"except|#include|SELECT|@\w)(?!\S*[.,])\b|^\s*(?:\$ |>>>|\.\.\. |//|/\*)"
    r"|\w\([^()]*\)[:;{]?\s*$|[\w\])]\s*(?:[-+*/|&:!=]?=|=>)\s*\S"
)
# A line that begins like this does not go on with the one before it.
_OWN: Final = re.compile(r"[^\W\d_][\w .-]{0,30}:\s|\[?\d{1,4}[-/:.]\d{2}")
_TAG: Final = re.compile(r"<(/?)(table|pre)\b[^<>]{0,1000}>", re.IGNORECASE)
# Where a sentence that is too long is best cut.
_JOINTS: Final = ("; ", ": ", ", ", " – ", " — ", "；", "：", "，", "、", "،", "\n")
_FIRST: Final = re.compile(r"\s*((\S)\S{0,20})")
_SPACES: Final = ("\n", " ", "\t", "\u3000", "\xa0")


def segment(text: str) -> list[Segment]:
    r"""Cut a text into pieces that do not overlap, in order; only white space lies outside them.

    Sentences go on over line breaks. A list's item is one piece with its continuation lines. Tables
    (of pipes, grids or HTML) and code (fenced, indented or `<pre>`) stay whole. Sentences and items
    of more than 1,000 characters are cut, at a sign or space where there is one, tables and code of
    more than 8,000 between lines.

    Args:
        text: Any string, in any script, broken Unicode included.

    Returns:
        The pieces; none begins or ends with white space.

    Example:
        >>> text = "# Prices\nIt costs 3.5 euros, i.e. nothing. Really!\n- one\n- two"
        >>> [(piece.kind, text[piece.start : piece.end]) for piece in segment(text)][1:3]
        [('sentence', 'It costs 3.5 euros, i.e. nothing.'), ('sentence', 'Really!')]
    """
    return [
        Segment(start=start, end=end, kind=kind)
        for block in _whole(text, _blocks(text))
        for start, end, kind in _bounded(text, *block)
    ]


def _blocks(text: str) -> Iterator[_Piece]:
    """Yield headings, items, tables, code, and the paragraphs between as sentences, in order."""
    tagged = iter((*_tagged(text), (len(text), len(text), "table")))
    tag = next(tagged)
    at = end = 0
    begin: int | None = None  # of the paragraph that is open
    while at < len(text):
        while tag[0] < at:
            tag = next(tagged)
        if at >= end:
            end = _line_end(text, at)
        block: _Piece | None = tag if tag[0] < end else None
        if block is None and (line := text[at:end]).strip():
            block = _block(text, at, line, tag[0], after_text=begin is not None)
            if block is None:
                begin = at if begin is None else begin
                at = end
                continue
        upto = at if block is None else block[0]
        if begin is None and upto > at:
            begin = at
        if begin is not None:
            paragraph = _paragraph(text, begin, upto)
            if block is not None and _underlines(text, paragraph, block):
                block = (begin, block[1], "heading")
            else:
                yield paragraph
            begin = None
        if block is not None:
            yield block
        at = end if block is None else block[1]
    if begin is not None:
        yield _paragraph(text, begin, at)


def _paragraph(text: str, start: int, end: int) -> _Piece:
    return start, end, "code" if _is_code(text[start:end]) else "sentence"


def _whole(text: str, blocks: Iterator[_Piece]) -> Iterator[_Piece]:
    """Join code that only blank lines divide, unless fences say where it ends."""
    last: _Piece | None = None
    for block in blocks:
        if last and last[2] == block[2] == "code" and not _marked(text, last, block):
            last = (last[0], block[1], "code")
            continue
        if last:
            yield last
        last = block
    if last:
        yield last


def _marked(text: str, *blocks: _Piece) -> bool:
    starts = (text[start : start + 80].lstrip().lower() for start, _, _ in blocks)
    return any(start.startswith(("```", "~~~", "<pre")) for start in starts)


def _block(text: str, at: int, line: str, stop: int, *, after_text: bool) -> _Piece | None:
    """Return the block that begins in this line, None if the line is running text."""
    end = at + len(line)
    if fence := _FENCE.match(line):
        return at, _fence_end(text, end, fence), "code"
    if _is_row(text, line, end):
        return at, _table_end(text, end), "table"
    if _HEADING.match(line) and len(line) < 300:
        return at, end, "heading"
    if _RULE.match(line):
        return at, end, "sentence"
    if _BULLET.match(line) or (not after_text and _ITEM.match(line)):
        return at, _item_end(text, end, _indent(line), stop), "list"
    return None


def _line_end(text: str, at: int) -> int:
    line = _LINE.match(text, at)
    return line.end() if line else len(text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _fence_end(text: str, at: int, fence: re.Match[str]) -> int:
    """Return where fenced code ends; a fence that nothing closes is a line of its own.

    With a language it opens code up to the end. Without one it closed code that began before this
    text did: so does one that another fence with a language follows.
    """
    first, mark, language = at, fence[1], fence[2]
    while at < len(text):
        end = _line_end(text, at)
        other = _FENCE.match(text[at:end])
        if other and other[1][0] == mark[0] and len(other[1]) >= len(mark):
            if not other[2]:
                return end
            if not language:
                return first
        at = end
    return at if language else first


def _tagged(text: str) -> Iterator[_Piece]:
    """Yield the outermost `<table>` and `<pre>` elements that are closed."""
    opened: list[tuple[str, int]] = []
    closed: list[_Piece] = []
    for match in _TAG.finditer(text):
        name = match[2].lower()
        if not match[1]:
            opened.append((name, match.start()))
        elif opened and opened[-1][0] == name:
            start = opened.pop()[1]
            while closed and closed[-1][0] > start:
                closed.pop()
            closed.append((start, match.end(), "table" if name == "table" else "code"))
    yield from closed


def _is_row(text: str, line: str, end: int) -> bool:
    if _ROW.match(line):
        return True
    inner = line.strip()
    if "|" not in inner and "\t" not in inner:
        return False
    follows = text[end : _line_end(text, end)].strip()
    ruled = "|" in inner and "|" in follows and _RULED.match(follows)
    return bool(ruled) or ("\t" in inner and "\t" in follows)


def _table_end(text: str, at: int) -> int:
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end].strip()
        if not ("|" in line or "\t" in line or line.startswith("+-")):
            return at
        at = end
    return at


def _item_end(text: str, at: int, indent: int, stop: int) -> int:
    """Return where an item ends: after its continuation lines and indented paragraphs."""
    last = at
    gap = False
    while at < stop:
        end = _line_end(text, at)
        line = text[at:end]
        if not line.strip():
            gap = True
        elif (gap and _indent(line) < indent + 2) or _starts(text, line, end):
            return last
        else:
            last, gap = end, False
        at = end
    return min(last, stop)


def _starts(text: str, line: str, end: int) -> bool:
    """Whether a line within an item begins something else."""
    rules = (_BULLET, _ITEM, _FENCE, _HEADING, _RULE)
    return any(rule.match(line) for rule in rules) or _is_row(text, line, end)


def _underlines(text: str, before: _Piece, block: _Piece) -> bool:
    """Whether a rule makes the one line before it a heading."""
    rule = _RULE.match(text[block[0] : block[1]])
    line = text[before[0] : before[1]].strip()
    return bool(rule and rule[1] in "-=" and len(line) < 200 and "\n" not in line)


def _is_code(paragraph: str) -> bool:
    lines = [line for line in paragraph.splitlines() if line.strip()]
    indented = all(line.startswith(("    ", "\t")) for line in lines)
    if len(lines) < 2 and not indented:
        return False
    signs = sum(len(line) < 400 and _CODE.search(line) is not None for line in lines)
    return signs >= len(lines) * (0.5 if indented else 0.6)


def _bounded(text: str, start: int, end: int, kind: Kind) -> Iterator[_Piece]:
    """Yield the sentences of a paragraph, and other blocks whole, all in bounded size."""
    pieces = [end]
    if kind == "sentence":
        pieces = _sentence_ends(text, start, end)
    elif kind == "list" and end - start > LONGEST[kind]:
        pieces = [*ends(text, start, end), end]
    for piece in pieces:
        for cut in (*_cuts(text, start, piece, kind), piece):
            first, last = _trimmed(text, start, cut)
            if first < last:
                yield first, last, kind
            start = cut


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _sentence_ends(text: str, start: int, end: int) -> list[int]:
    """Return where a paragraph's sentences end; lines that stand on their own count as such."""
    found: list[int] = []
    for line_start in (*_own_lines(text, start, end), end):
        found += (*ends(text, start, line_start), line_start)
        start = line_start
    return found


def _own_lines(text: str, start: int, end: int) -> Iterator[int]:
    """Yield the lines' starts at which the text does not go on from the line before.

    Who wraps lines breaks one where the next word does not fit. Where it would have fitted by far,
    or lines are too long to be wrapped at all, the break was meant.
    """
    lines = text[start:end].splitlines(keepends=True)
    widest = max(len(line.rstrip()) for line in lines)
    at = start
    for line, follows in pairwise(lines):
        at += len(line)
        held, word = line.strip(), _FIRST.match(follows)
        if word is None or word[2].islower() or held.endswith((",", "-")) or goes_on(held):
            continue
        fits = len(line.rstrip()) + 1 + len(word[1]) < 0.7 * widest
        meant = (fits or widest > 200) and not word[2].isdigit()  # "H" and "2O" belong together
        if meant or _OWN.match(follows.lstrip()):
            yield at


def _cuts(text: str, start: int, end: int, kind: Kind) -> Iterator[int]:
    """Yield where a piece that is too long is cut: at a joint, else a space, else anywhere."""
    limit = LONGEST[kind]
    while end - start > limit:
        window = text[start : start + limit]
        best = -1
        for joints in (("\n",), _SPACES) if limit > 1_000 else (_JOINTS, _SPACES):
            best = max(window.rfind(joint, limit // 2) + len(joint) for joint in joints)
            if best > limit // 2:
                break
        else:
            best = limit
            while best > limit - 16 and combining(text[start + best]):
                best -= 1
        start += best
        yield start
