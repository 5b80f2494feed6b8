"""Sums that an answer spells out, worked out again: "3 * 4 = 13" is wrong, whoever says it."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["Equation", "equations", "numbers_in"]

MAX_CHARS: Final = 20_000
"""How much of a text is read."""

_MOST: Final = 60
"""Pieces of one side of an equation."""

_TOKEN: Final = re.compile(
    r"(?P<stop><<|>>|[!<>:=]=|=>|[.,;:!?](?=\s|$)|[<>≈~→\[\]{}|\n])"
    r"|(?P<number>\d[\d.,]*(?<![.,])|\.\d+)"
    r"|(?P<sign>[-+×/÷·−–=()%]|\\times|\\cdot|\\div|\b[xX]\b|(?<=\d)[xX](?=\d)"
    r"|\*(?!\*)|\bof\b)"
    r"|(?P<power>(?<=[\d)])\*\*(?=[\d(])|(?<=\s)\*\*(?=\s))"
    r"|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)"
    r"|(?P<ignored>[$€£¥₹\"'`“”\\#_&,]|\*\*(?!\s)|(?<!\s)\*\*)"
    r"|(?P<other>\S)"
)
_SAME: Final = {
    "×": "*", "·": "*", "x": "*", "X": "*", "\\times": "*", "\\cdot": "*",
    "÷": "/", "\\div": "/", "−": "-", "–": "-",
}  # fmt: skip
_PRECEDENCE: Final = {"+": 1, "-": 1, "*": 2, "/": 2}
_FUNCTIONS: Final = frozenset("log ln sqrt sin cos tan exp max min abs mod".split())
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_PLAIN: Final = re.compile(r"\d*(?:\.\d+)?")
_COMMA: Final = re.compile(r"\d+,\d{1,2}")
# A thousand in German, one in English.
_EITHER: Final = re.compile(r"[1-9]\d{0,2}\.\d{3}")

# What stands for a word, and for what cannot be worked out: a variable, a power, a clock.
_WORD: Final = "w"
_UNKNOWN: Final = "?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Equation:
    """One sum that a text spells out.

    Args:
        operands: The numbers on its left.
        value: What its left side comes to.
        said: What its right side says.
        holds: Whether the two are equal, as far as the right side is rounded.

    Example:
        >>> equations("3 * 4 = 13")[0].value
        12.0
    """

    operands: tuple[float, ...]
    value: float
    said: float
    holds: bool


def equations(text: str) -> list[Equation]:
    """Return the sums in a text, in order. Time is linear in its length; never raises.

    Units, currency signs and words beside the numbers do not matter, nor does whether 40 % is
    written as 40 or as 0.4. What cannot be read with certainty, such as algebra, is left out.

    Example:
        >>> [one.holds for one in equations("She has 3 * 4 = 13 eggs. 2 kg + 3 kg = 5 kg.")]
        [False, True]
    """
    found = []
    for left, right in _sides(text[:MAX_CHARS]):
        parts, said = _ending(left), _beginning(right)
        operands = tuple(float(part) for part in parts if _is_number(part))
        value, shown = _value(parts), _value(said)
        if len(operands) > 1 and value is not None and shown is not None:
            holds = any(_equal(value * by, shown, said) for by in _scales(parts, said))
            # "5 + 3 = 8 * 2 = 16" is sloppy, not wrong.
            goes_on = _is_number(said[0]) and _equal(value, float(said[0]), said[:1])
            found.append(
                Equation(operands=operands, value=value, said=shown, holds=holds or goes_on)
            )
    return found


def numbers_in(text: str) -> list[float]:
    """Return the numbers written in digits, in order.

    Example:
        >>> numbers_in("1,250 of 3.5 million")
        [1250.0, 3.5]
    """
    matches = _TOKEN.finditer(text[:MAX_CHARS])
    found = [_number(match["number"]) for match in matches if match["number"]]
    return [float(number) for number in found if number != _UNKNOWN]


def _sides(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield what stands left and right of each sign of equality."""
    for run in _runs(text):
        at = [-1, *(i for i, piece in enumerate(run) if piece == "="), len(run)]
        yield from pairwise([run[start + 1 : end] for start, end in pairwise(at)])


def _runs(text: str) -> Iterator[list[str]]:
    """Yield the pieces between stops."""
    run: list[str] = []
    for match in _TOKEN.finditer(text):
        piece = match[0]
        match match.lastgroup:
            case "stop":
                yield run
                run = []
            case "number":
                run.append(_number(piece))
            case "sign" if piece == "of":
                run.append("*" if run[-1:] == ["%"] else _WORD)
            case "sign" if piece == "(" and text[match.start() - 1 : match.start()].isdigit():
                run += "*("
            case "sign":
                run.append(_SAME.get(piece, piece))
            case "word":
                run.append(_UNKNOWN if _is_variable(text, match) else _WORD)
            case "power" | "other":
                run.append(_UNKNOWN)
    yield run


def _is_variable(text: str, word: re.Match[str]) -> bool:
    """Whether it is a name in a formula: one letter, but not "a" in "a total of"."""
    if len(word[0]) > 1:
        return word[0].lower() in _FUNCTIONS
    after = text[word.end() : word.end() + 2]
    return not (after[:1] == " " and after[1:].isalpha())


def _number(piece: str) -> str:
    """Return a number as Python reads it, or that it is unknown."""
    if len(piece) > 30 or _EITHER.fullmatch(piece):
        return _UNKNOWN
    if _GROUPED.fullmatch(piece):
        return piece.replace(",", "")
    if _COMMA.fullmatch(piece):
        return piece.replace(",", ".")
    return piece if _PLAIN.fullmatch(piece) else _UNKNOWN


def _ending(pieces: Sequence[str]) -> list[str]:
    """Return the sum that a side ends with."""
    kept: list[str] = []
    for piece in _without_words(pieces[-_MOST:]):
        if kept and _ends(kept[-1]) and _begins(piece):
            kept = []  # two numbers and nothing between: the first belongs to the sentence
        kept.append(piece)
    return _balanced(kept)


def _beginning(pieces: Sequence[str]) -> list[str]:
    """Return the sum that a side begins with."""
    kept: list[str] = []
    for piece in _without_words(pieces[:_MOST]):
        if kept and _ends(kept[-1]) and _begins(piece):
            break
        kept.append(piece)
    while kept and kept[-1] in _PRECEDENCE:
        kept.pop()
    return _balanced(kept)


def _balanced(pieces: list[str]) -> list[str]:
    """Return pieces without the brackets of a remark around them."""
    if pieces.count("(") == pieces.count(")"):
        return pieces
    return [piece for piece in pieces if piece not in "()"]


def _without_words(pieces: Sequence[str]) -> Iterator[str]:
    """Yield the pieces without words, and without the signs that only join words."""
    for i, piece in enumerate(pieces):
        joins = piece in "/-" and pieces[i + 1 : i + 2] == [_WORD]  # "per day", "12-hour"
        if piece != _WORD and not joins:
            yield piece


def _ends(piece: str) -> bool:
    return _is_number(piece) or piece in {")", "%"}


def _begins(piece: str) -> bool:
    return _is_number(piece) or piece == "("


def _is_number(piece: str) -> bool:
    return piece[-1].isdigit()


def _value(pieces: Sequence[str]) -> float | None:
    """Work a sum out with two stacks; None if it is none."""
    values: list[float] = []
    signs: list[str] = []
    awaited = True  # whether a number comes next
    try:
        for piece in pieces:
            if awaited and piece == "-":
                values.append(0.0)
                signs.append(piece)
            elif awaited and piece == "(":
                signs.append(piece)
            elif awaited:
                values.append(float(piece))
                awaited = False
            elif piece == "%":
                values[-1] /= 100
            elif piece == ")":
                while signs[-1] != "(":
                    _apply(values, signs.pop())
                signs.pop()
            else:
                rank = _PRECEDENCE[piece]
                while signs and _PRECEDENCE.get(signs[-1], 0) >= rank:
                    _apply(values, signs.pop())
                signs.append(piece)
                awaited = True
        while signs:
            _apply(values, signs.pop())
    except (ArithmeticError, IndexError, KeyError, ValueError):
        return None
    return values[0] if len(values) == 1 and not awaited and math.isfinite(values[0]) else None


def _apply(values: list[float], sign: str) -> None:
    right, left = values.pop(), values.pop()
    if sign == "+":
        values.append(left + right)
    elif sign == "-":
        values.append(left - right)
    elif sign == "*":
        values.append(left * right)
    else:
        values.append(left / right)


def _scales(parts: Sequence[str], said: Sequence[str]) -> tuple[float, ...]:
    return (1.0, 100.0, 0.01) if "%" in parts or "%" in said else (1.0,)


def _equal(value: float, said: float, pieces: Sequence[str]) -> bool:
    """Whether two values are the same but for how the second is rounded."""
    slack = max(1e-9, 16 * math.ulp(value))
    if len(pieces) < 3 and abs(value - round(value)) > slack:
        slack = 10.0 ** -max(len(piece.partition(".")[2]) for piece in pieces)
    return abs(value - said) <= slack
