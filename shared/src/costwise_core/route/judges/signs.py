"""What can be seen in a question and its answer, as numbers from which a judge learns."""

import math
import re
from collections.abc import Sequence
from typing import Final

from costwise_core.cache.signs import abstains
from costwise_core.route.features import SHAPE, shape_of
from costwise_core.route.judges.arithmetic import Equation, equations, numbers_in
from costwise_core.route.judges.final import final_number
from costwise_core.route.judges.grounded import support
from costwise_core.route.judges.rules import hedges_in
from costwise_core.route.routes import Ask, Candidate

__all__ = ["SIGNS", "signs_of"]

_MOST_CHARS: Final = 20_000
_WORD: Final = re.compile(r"\w+")
_MARKED: Final = re.compile(r"####|\\boxed|\banswer(?: is|:)", re.IGNORECASE)
_ENDED: Final = re.compile(r"[.!?…。！？।؟\"'”’)\]}`*|\d%]\s*\Z")
_FORMULA: Final = re.compile(r"(?<!\w)[a-zA-Z]\s*=|=\s*[a-zA-Z](?!\w)")

_ANSWER: Final = (
    *("length", "words", "lines", "variety of words", "unfinished end", "cut off"),
    *("abstains", "hedges", "numbers", "sums", "wrong sums", "terms in a sum"),
    *("results never used", "fractions on the way", "negatives on the way", "unknowns"),
    *("numbers from nowhere", "question's numbers used", "question's numbers repeated"),
    *("marks its answer", "answer is a fraction", "answer is negative", "size of the answer"),
    *("answer is a result", "answer is the last result", "answer stood in the question"),
    *("question's words repeated", "words from the passages", "mean token probability"),
    *("least token probability", "calls a tool"),
)

SIGNS: Final = (*_ANSWER, *(f"question: {name}" for name in SHAPE))
"""Names of the numbers that `signs_of` returns, in order."""


def signs_of(ask: Ask, answer: Candidate) -> list[float]:
    """Return what can be seen of an answer and of its question, as named in `SIGNS`.

    Counts are logarithms, shares are from 0 to 1. What is not known (probabilities that were not
    given, no passages) is 0. Time is linear in the texts' lengths; never raises.

    Example:
        >>> signs = signs_of(Ask(question="3 * 4?"), Candidate(text="3 * 4 = 13"))
        >>> signs[SIGNS.index("wrong sums")] > 0
        True
    """
    text, question = answer.text[:_MOST_CHARS], ask.question[:_MOST_CHARS]
    lower, asked = _WORD.findall(text.lower()), set(_WORD.findall(question.lower()))
    given, numbers, sums = set(numbers_in(question)), numbers_in(text), equations(text)
    end = final_number(text)
    last = end or 0.0
    results = [one.said for one in sums]
    operands = {operand for one in sums for operand in one.operands}
    odds = [min(max(one, -20.0), 0.0) for one in answer.logprobs if not math.isnan(one)]
    log = math.log1p
    return [
        *(log(len(text.strip())), log(len(lower)), log(text.strip().count("\n"))),
        *(_share(len(set(lower)), len(lower)), float(not _ENDED.search(text))),
        float(answer.finish_reason in {"length", "max_tokens"}),
        *(float(bool(abstains(text))), log(len(hedges_in(text))), log(len(numbers))),
        *(log(len(sums)), log(sum(not one.holds for one in sums))),
        _share(sum(len(one.operands) for one in sums), len(sums)),
        log(len({one for one in results if one not in operands and one != end})),
        *(log(sum(one != round(one) for one in results)), log(sum(one < 0 for one in results))),
        log(len(_FORMULA.findall(text))),
        _from_nowhere(sums, given),
        _share(sum(one in operands or one / 100 in operands for one in given), len(given)),
        _share(len(given & set(numbers)), len(given)),
        float(bool(_MARKED.search(text))),
        *(float(last != round(last)), float(last < 0), log(abs(last))),
        *(float(end in results), float(results[-1:] == [end]), float(end in given)),
        _share(len(asked.intersection(lower)), len(asked)),
        support(ask, text),
        *(math.exp(_share(sum(odds), len(odds))) if odds else 0.0,),
        *(math.exp(min(odds)) if odds else 0.0, float(bool(answer.tool_calls))),
        *shape_of(question),
    ]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _from_nowhere(sums: Sequence[Equation], given: set[float]) -> float:
    """Return the share of operands that neither the question nor a sum before them gave."""
    known = given | {1.0, 2.0, 100.0}
    strange = total = 0
    for one in sums:
        for operand in one.operands:
            total += 1
            strange += operand not in known and operand * 100 not in known
        known |= {one.said, one.value}
    return _share(strange, total)
