"""What an answer had to go by: the passages, or the prompt around the question."""

from dataclasses import dataclass
from typing import Final

from costwise_core.cache.question import MAX_QUESTION_CHARS, split_question
from costwise_core.context import current_request
from costwise_core.route.routes import Ask

__all__ = ["Material", "material_of"]

_MOST_CHARS: Final = 200_000
_LEAST_WORDS: Final = 30
"""Fewer words around a question are instructions, not passages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """A question and what was given to answer it from.

    Args:
        question: The question alone, as well as it can be told.
        texts: The passages with their titles, or the prompt around the question; empty if there is
            nothing to go by.
        ids: What the passages may be cited as beside their place; empty if that is not known.
    """

    question: str
    texts: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()


def material_of(ask: Ask) -> Material:
    r"""Take a request apart. Many chains write passages into the prompt; then they are found there.

    The question is what `scoped(question=...)` says, a line "Question: ...", or the last paragraph.

    Example:
        >>> prompt = "Context: " + "The tower is tall. " * 20 + "\nQuestion: How tall is it?"
        >>> material_of(Ask(question=prompt)).question
        'How tall is it?'
    """
    said = current_request().question
    if ask.passages:
        texts = tuple(f"{one.heading}{one.text}" for one in ask.passages)
        ids = frozenset(one.id for one in ask.passages if one.id)
        return Material(question=said or ask.question, texts=texts, ids=ids)
    prompt = ask.question[:_MOST_CHARS]
    question = said or split_question(prompt).text
    if question == prompt and len(prompt) > MAX_QUESTION_CHARS:
        question = prompt.rstrip().rpartition("\n\n")[2]
    around = f"{ask.system[:_MOST_CHARS]}\n{prompt.replace(question, ' ') if question else prompt}"
    enough = len(around.split()) >= _LEAST_WORDS or len(around) >= 10 * _LEAST_WORDS
    return Material(question=question, texts=(around,) if enough else ())
