"""Where a prompt's worked examples are. What is in them is meant as it stands."""

import re
from typing import Final

from costwise_core.passages import Span

__all__ = ["CODE", "QUOTED", "blanked", "worked_examples"]

CODE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
QUOTED: Final = re.compile(r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”|«[^»\n]{1,300}»|„[^“\n]{1,300}“")
_LETTER: Final = re.compile(r"[^\n]")

_TAGGED: Final = re.compile(r"(?is)<example\b[^>]{0,100}>.*?(?:</example>|\Z)")
_HEADED: Final = re.compile(
    r"(?im)^[ \t]*(?:#{1,6} |\*\*)?(?:example|beispiel)(?: ?#?\d{1,3})?(?:\*\*)?:?(?:\*\*)?[ \t]*$"
)
_ASKS: Final = re.compile(
    r"(?im)^[ \t>*]*(?:q|question|input|user|human|customer|frage|eingabe)\**:"
)
_ANSWERS: Final = re.compile(
    r"(?im)^[ \t>*]*(?:a|answer|output|assistant|response|ai|agent|antwort|ausgabe)\**:[ \t]*\S"
)
_ENDS: Final = re.compile(r"\n[ \t]*\n|\n(?=#{1,6} )")


def worked_examples(text: str) -> list[Span]:
    r"""Return where the examples are: tagged, headed "Example", or pairs such as Q: and A:.

    Example:
        >>> worked_examples("Answer briefly.\n\nQ: 1 + 1?\nA: 2\n\nNow begin.")
        [(17, 31)]
    """
    if tagged := [match.span() for match in _TAGGED.finditer(text)]:
        return tagged
    starts = [match.start() for match in _HEADED.finditer(text)]
    starts = starts or [match.start() for match in _ASKS.finditer(text)]
    found = []
    for start, following in zip(starts, [*starts[1:], len(text)], strict=False):
        answer = _ANSWERS.search(text, start, following)
        if answer is None:
            continue  # a question without an answer is the one that is asked
        end = _ENDS.search(text, answer.end(), following)
        found.append((start, end.start() if end else following))
    return found


def blanked(text: str, *patterns: re.Pattern[str]) -> str:
    """Return the text with its examples and all matches as blanks, so that positions stay.

    Example:
        >>> blanked("Say `hi` to all.", CODE)
        'Say      to all.'
    """
    pieces, done = [], 0
    for start, end in worked_examples(text):
        pieces += [text[done:start], _LETTER.sub(" ", text[start:end])]
        done = end
    text = "".join([*pieces, text[done:]])
    for pattern in patterns:
        text = pattern.sub(lambda match: _LETTER.sub(" ", match[0]), text)
    return text
