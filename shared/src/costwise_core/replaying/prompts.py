"""Takes a logged prompt apart: system prompt, what was said before, passages, question, template.

Passages are told by the words people put before them ("Context:", "<documents>", "Sources:"), or by
the log itself. Where nothing tells, there are none: too little is found, never too much.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.question import split_question
from costwise_core.replaying.calls import LoggedCall, Said

__all__ = ["Parts", "parts_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A prompt taken apart.

    Args:
        system: The system prompt, without passages.
        history: What was said before the question, roles included.
        before: The same as messages.
        template: What stands around question and passages.
        context: The passages, in order.
        context_from: Characters of the prompt before the first of them.
        question: The question.
        near: Whether similarity may be measured on it.
    """

    system: str = ""
    history: str = ""
    before: tuple[Said, ...] = ()
    template: str = ""
    context: tuple[str, ...] = ()
    context_from: int = 0
    question: str = ""
    near: bool = False


_WORDS: Final = (
    r"(?:context|documents?|passages?|sources?|excerpts?|snippets|articles?|references|evidence|"
    r"search results|retrieved \w+|background(?: information)?|knowledge(?: base)?)"
)
_LABEL: Final = re.compile(
    rf"(?im)^[ \t#*]*(?:(?:the |relevant |following |retrieved |given |provided )*{_WORDS}"
    rf"(?: information| is below\.?| below)?[ \t*]*:|<{_WORDS}[^>\n]*>|#+[ \t]*{_WORDS})[ \t*]*"
)
_ENDS: Final = re.compile(
    rf"(?im)^[ \t#*]*(?:(?:user |human |follow[ -]?up )?(?:question|query|user input|task|answer|"
    rf"instructions?)[ \t*]*:|</{_WORDS}[^>\n]*>[ \t]*$(?!\s*<{_WORDS}))|^[-=]{{10,}}[ \t]*\n+Given"
)
_BETWEEN: Final = re.compile(
    rf"\n[ \t]*(?:\n\s*|[-=]{{3,}}[ \t]*\n)|</?(?:{_WORDS}|doc)[^>\n]*>|\n(?=[ \t]*\[\d+\])"
)
_LEAST: Final = 80
"""Characters; fewer after such a label are no retrieved passage."""


def parts_of(call: LoggedCall) -> Parts:
    r"""Take a call's prompt apart.

    Example:
        >>> text = "Context:\n" + "The tower is 330 metres tall. " * 4 + "\n\nQuestion: How tall?"
        >>> parts = parts_of(LoggedCall(model="m", messages=(Said(role="user", text=text),)))
        >>> parts.question, len(parts.context)
        ('How tall?', 1)
    """
    messages = call.messages
    at = max((n for n, one in enumerate(messages) if one.role == "user"), default=None)
    if at is None:
        every = "\0".join(f"{one.role} {one.text}" for one in messages)
        return Parts(template=every, question=every)
    system = [one.text for one in messages[:at] if one.role == "system"]
    before = tuple(one for one in messages[:at] if one.role != "system")
    after = "\0".join(f"{one.role} {one.text}" for one in messages[at + 1 :])
    history = "\0".join(f"{one.role} {one.text}" for one in before)
    head = len(call.tools)
    text, near = messages[at].text, True
    if call.question:
        question, template = call.question, text.replace(call.question, "\0", 1)
    else:
        found = split_question(text)
        question, template, near = found.text, found.around, found.near
    if call.context:
        for passage in call.context:
            template = template.replace(passage, "", 1)
        start = text.find(call.context[0])
        offset = _length(messages[:at]) + head + max(start, 0)
        context = call.context
    else:
        context, template, offset = _found(template)
        offset += _length(messages[:at]) + head
        if not context and system:
            context, system[-1], offset = _found(system[-1])
            offset += _length(messages[:at]) - _length(before) - len(system[-1]) + head
            offset = max(offset - sum(map(len, context)), 0)
    return Parts(
        system="\0".join(system),
        history=f"{history}\0{after}",
        before=before,
        template=template,
        context=context,
        context_from=offset,
        question=question,
        near=near,
    )


def _found(text: str) -> tuple[tuple[str, ...], str, int]:
    """Return the passages in a text, the text without them, and where they begin."""
    label = _LABEL.search(text)
    if label is None:
        return (), text, 0
    end = next((one.start() for one in _ENDS.finditer(text, label.end())), None)
    question = text.find("\0", label.end())  # where the question was
    stops = [stop for stop in (end, question if question >= 0 else None) if stop is not None]
    stop = min(stops, default=len(text))
    body = text[label.end() : stop]
    if len(body.strip()) < _LEAST:
        return (), text, 0
    passages = tuple(piece.strip() for piece in _BETWEEN.split(body) if piece.strip())
    return passages, text[: label.end()] + text[stop:], label.end()


def _length(messages: Sequence[Said]) -> int:
    return sum(len(one.text) for one in messages)
