"""Find the question in a rendered prompt, so that similarity is measured on it alone.

Two prompts that share 700 words of context look alike whatever they ask. Whatever is not taken as
the question stays part of the exact scope, so a split that finds too little costs hits and can
never cause a wrong one.
"""

import re
from dataclasses import dataclass

__all__ = ["MAX_QUESTION_CHARS", "Question", "split_question"]

MAX_QUESTION_CHARS = 600
"""Longer text is taken for a document, not a question, and is matched exactly only."""

# A line "Question: ..." up to the end of that line, as the usual RAG templates write it.
_LABELLED = re.compile(
    r"(?im)^[ \t#*]*(?:user |human |follow[ -]?up )?(?:question|query|user input)"
    r"[ \t*]*:[ \t*]*(\S[^\n]*?)[ \t]*$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt taken apart.

    Args:
        text: The question, or the whole prompt where none could be told apart.
        around: Everything else, with the question's place marked.
        near: Whether similarity may be measured on `text`.
    """

    text: str
    around: str
    near: bool


def split_question(prompt: str) -> Question:
    r"""Take a prompt apart into the question and everything around it.

    The last line of the form "Question: ..." is the question. Without one, a short prompt of one
    line is. Anything else is matched as a whole, and exactly only: several lines may be a template
    around a history.

    Example:
        >>> split_question("Context: Paris is big.\nQuestion: How big is Paris?\nAnswer:").text
        'How big is Paris?'
        >>> split_question("word " * 500).near
        False
    """
    labelled = None
    for labelled in _LABELLED.finditer(prompt):  # noqa: B007 - the last one counts
        pass
    if labelled and len(labelled[1]) <= MAX_QUESTION_CHARS:
        around = f"{prompt[: labelled.start(1)]}\x00{prompt[labelled.end(1) :]}"
        return Question(text=labelled[1], around=around, near=True)
    short = len(prompt) <= MAX_QUESTION_CHARS and len(prompt.strip().splitlines()) == 1
    return Question(text=prompt, around="", near=short)
