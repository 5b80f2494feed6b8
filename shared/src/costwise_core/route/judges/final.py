"""What an answer comes to in the end: the number, choice or few words it was asked for."""

import re
from typing import Final

from costwise_core.cache.judge import normalised
from costwise_core.route.judges.arithmetic import numbers_in
from costwise_core.text.words import words

__all__ = ["final_answer", "final_number", "likeness"]

_MOST_CHARS: Final = 20_000
_LONGEST: Final = 80
_MARKED: Final = re.compile(
    r"(?:####|\\boxed\{|\b(?:final answer|correct (?:answer|option|choice)|answer|antwort|réponse|"
    r"respuesta|risposta|resposta)\b(?:\s+(?:ist|is|est|es|è|é))?(?:\s*[:：])?|答案[是为為]?[:：]?)"
    r"[ \t*_:$\\(]*(?P<said>[^\n]{1,80})",
    re.IGNORECASE,
)
_CHOICE: Final = re.compile(r"^\W{0,3}(?:option |choice )?([A-Ja-j])(?:[).:,}\]*_]|\s*$)")
_SHORT: Final = re.compile(r"^\W*([A-Ja-j])\W*$")
_SIGNED: Final = re.compile(
    r"(?P<minus>(?<![\w)\].])[-−](?=[$€£]?[\d.]))?[$€£]?(?P<number>\d[\d.,]*(?<![.,])|\.\d+)"
)


def final_answer(text: str) -> str:
    r"""Return what an answer says it comes to; the text itself if that is short, else "".

    Known are "#### 12", "\boxed{12}", "the answer is 12" and the same in other languages; the last
    one counts.

    Example:
        >>> final_answer("3 * 4 = 12, so the answer is 12 eggs.")
        '12 eggs'
        >>> final_answer("(B) because it is red")
        'B'
    """
    text = text[:_MOST_CHARS].strip()
    marked = _marked(text)
    said = marked or text.partition("\n")[0]
    if choice := _CHOICE.match(said):
        return choice[1].upper()
    if marked or len(text) <= _LONGEST:
        return said.strip().rstrip(".,;}$*_) ")
    return ""


def final_number(text: str) -> float | None:
    """Return the number an answer comes to: the one it is marked by, else its last one.

    Example:
        >>> final_number("She has 4 and gets 3, which makes 7 apples.")
        7.0
        >>> final_number("5 - 8 = -3")
        -3.0
        >>> final_number("None at all.") is None
        True
    """
    text = text[:_MOST_CHARS]
    found = list(_SIGNED.finditer(_marked(text)))[:1] or list(_SIGNED.finditer(text))[-1:]
    numbers = [number for match in found for number in numbers_in(match["number"])]
    if not numbers:
        return None
    return -numbers[0] if found[0]["minus"] else numbers[0]


def _marked(text: str) -> str:
    """Return what stands behind the last sign that the answer comes; "" if there is none."""
    return next((match["said"] for match in reversed(list(_MARKED.finditer(text)))), "")


def likeness(one: str, other: str) -> tuple[float, str]:
    """Say how far two answers agree: by choice, by number, by what they come to, or by words.

    Returns:
        From 0 to 1, and one phrase for a person.

    Example:
        >>> likeness("The answer is (B).", "b")
        (1.0, 'both choose B')
        >>> likeness("It took 3 hours.", "It took 4 hours.")[0]
        0.0
    """
    ends = final_answer(one), final_answer(other)
    if all(_SHORT.match(end) for end in ends):
        first, second = (end.strip().upper() for end in ends)
        if first == second:
            return 1.0, f"both choose {first}"
        return 0.0, f"one chooses {first}, the other {second}"
    if all(ends) and normalised(ends[0]) == normalised(ends[1]):
        return 1.0, "both come to the same answer"
    numbers = final_number(one), final_number(other)
    if numbers[0] is not None and numbers[1] is not None:
        if abs(numbers[0] - numbers[1]) > 1e-6 * max(map(abs, (numbers[0], numbers[1], 1.0))):
            return 0.0, f"one comes to {numbers[0]:g}, the other to {numbers[1]:g}"
        if any(_SIGNED.match(end) for end in ends):  # a number was what was asked for
            return 1.0, f"both come to {numbers[0]:g}"
    return _overlap(one, other)


def _overlap(one: str, other: str) -> tuple[float, str]:
    """Return the share of words that two texts have in common (F1, as SQuAD scores answers)."""
    texts = (one[:_MOST_CHARS], other[:_MOST_CHARS])
    first, second = (set(words(text)) for text in texts)
    if not first or not second:
        same = normalised(texts[0]) == normalised(texts[1]) and bool(texts[0].strip())
        return float(same), "both say the same" if same else "one of them says nothing"
    share = 2 * len(first & second) / (len(first) + len(second))
    return share, f"they have {share:.0%} of their words in common"
