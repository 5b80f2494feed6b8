"""Which question a LlamaIndex call asks, and everything else its answer depends on."""

import dataclasses
import functools
import json
import re
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.bridge.pydantic import BaseModel

from costwise_core.cache import VOLATILE, Volatile, fingerprint, split_question
from costwise_core.cache.agreement import Turn
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.question import MAX_QUESTION_CHARS
from costwise_core.errors import CostwiseError
from costwise_core.telling_apart import described

__all__ = [
    "MARK",
    "Asked",
    "AskedMessages",
    "AskedPrompt",
    "UnstableModelError",
    "asked_messages",
    "asked_prompt",
    "facts_of",
    "messages_question",
    "prompt_question",
    "settings_of",
    "unfit_request",
    "without_usage",
]

MARK = "\ue000question\ue000"
"""Stands where the question stood; private-use characters that no text has."""

# What a ReAct agent calls the output of a tool. Two outputs that look alike are not one question.
_OBSERVATION = "Observation:"

_TOOL_ARGUMENTS = ("tools", "functions")
_TOOL_ROLES = (MessageRole.TOOL, MessageRole.FUNCTION)
# How providers call it when the answer must have a form; `None` and plain text are none.
_FORMS = ("response_format", "response_schema", "response_json_schema", "json_schema", "json_mode")
_FREE = (None, False, "text", {"type": "text"})
_SYSTEM = (MessageRole.SYSTEM, MessageRole.DEVELOPER)
_TEXT_BLOCKS = frozenset({"text", "thinking", "citable", "citation", "cache", "tool_call"})

_USAGE = re.compile(r"(?i)usage|tokens?(?:_|$)")

# Settings that change how a model is reached and never what it answers.
_OPERATIONAL = frozenset(
    {
        "api_key",
        "cache",
        "callback_manager",
        "embed_batch_size",
        "embeddings_cache",
        "budgets",
        "health",
        "in_flight",
        "max_retries",
        "num_workers",
        "prices",
        "sessions",
        "output_parser",  # works on the prompt, which counts, and on the answer, afterwards
        "rate_limiter",
        "reuse_client",
        "timeout",
        "verbose",
    }
)


_INDENTED = re.compile(r"\n[ \t]+\S")


class UnstableModelError(CostwiseError):
    """A setting is an object that another object cannot be told from."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a call asks.

    Args:
        text: The question, or all that was sent where none could be told apart.
        around: What must match exactly, the question's place marked.
        near: Whether similarity may be measured on `text`.
        turns: The conversation before the question, where it is text alone; then not in `around`.
    """

    text: str
    around: str
    near: bool
    turns: tuple[Turn, ...] = ()


class AskedMessages(list[ChatMessage]):
    """Messages rendered from a prompt template, with the question that went into them."""

    def __init__(self, messages: Sequence[ChatMessage], question: Asked) -> None:
        super().__init__(messages)
        self.question = question


class AskedPrompt(str):
    """A prompt rendered from a template, with the question that went into it."""

    __slots__ = ("question",)
    question: Asked

    def __new__(cls, prompt: str, question: Asked) -> "AskedPrompt":
        """Make the string and attach the question."""
        self = super().__new__(cls, prompt)
        self.question = question
        return self


def asked_messages(
    messages: Sequence[ChatMessage], marked: Sequence[ChatMessage], question: str
) -> AskedMessages:
    """Return messages that know their question.

    A template that did more with the question than insert it, or was not told which of its
    variables is the question, can be matched as a whole and exactly only.

    Args:
        messages: The template rendered with the question.
        marked: The same template rendered with `MARK` in its place.
        question: The question; "" if the template has none.
    """
    around, whole = _dump(marked), _dump(messages)
    inserted = bool(question) and around.replace(_escaped(MARK), _escaped(question)) == whole
    if not inserted:
        return AskedMessages(messages, _exactly(whole))
    rest, turns = _apart(marked)
    if turns is None:
        return AskedMessages(messages, _question(question, around, near=False))
    if any(MARK in turn.text for turn in turns):  # the question is part of the conversation
        return AskedMessages(messages, _question(question, around))
    return AskedMessages(messages, _question(question, _dump(rest), turns=turns))


def asked_prompt(prompt: str, marked: str, question: str) -> AskedPrompt:
    """Do for a text prompt what `asked_messages` does for messages."""
    inserted = bool(question) and marked.replace(MARK, question) == prompt
    return AskedPrompt(prompt, _question(question, marked) if inserted else _exactly(prompt))


def messages_question(
    messages: Sequence[ChatMessage], hint: str = "", volatile: Sequence[Volatile] = VOLATILE
) -> Asked:
    """Take messages apart into the question and everything around it.

    The question is looked for in the last user message only. What that message holds beside the
    question and all other messages stay part of what must match exactly, but for a conversation
    that is text alone.

    Args:
        messages: The messages of one call.
        hint: The bare question, if the caller gave it.
        volatile: Rules for text of system messages that does not count.
    """
    if isinstance(messages, AskedMessages):
        return messages.question
    last = max(
        (i for i, message in enumerate(messages) if message.role == MessageRole.USER), default=None
    )
    blocks = [] if last is None else list(messages[last].blocks)
    at = max((i for i, block in enumerate(blocks) if isinstance(block, TextBlock)), default=None)
    if last is None or at is None:
        return _exactly(_dump(messages))
    text = blocks[at].text  # type: ignore[union-attr]
    found = prompt_question(text, hint)
    blocks[at] = TextBlock(text=MARK + found.around)
    others = list(messages)
    others[last] = messages[last].model_copy(update={"blocks": blocks})
    rest, turns = _apart(others)
    if turns is None or last < len(messages) - 1 or text.startswith(_OBSERVATION):
        return _question(found.text, _dump(others, volatile), near=False)
    return _question(found.text, _dump(rest, volatile), near=found.near, turns=turns)


def prompt_question(prompt: str, hint: str = "") -> Asked:
    """Take a text prompt apart; `hint` is the bare question, if the caller gave it."""
    if isinstance(prompt, AskedPrompt):
        return prompt.question
    before, found, after = prompt.rpartition(hint) if hint else ("", "", "")
    if found:
        return _question(hint, f"{before}{MARK}{after}")
    split = split_question(prompt)
    # Several lines without a marked question are a rendered template, not somebody's question.
    bare = bool(split.around) or "\n" not in prompt.strip()
    return _question(split.text, split.around, near=split.near and bare)


def unfit_request(messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> str:
    """Return why a call cannot be served from a cache, whatever its policy; "" if it could be."""
    if any(kwargs.get(name) for name in _TOOL_ARGUMENTS):
        return "tools"
    kinds = {block.block_type for message in messages for block in message.blocks}
    # A picture's path or address says nothing about what it shows by then.
    return "" if kinds <= _TEXT_BLOCKS else "modality"


def facts_of(
    model: BaseModel, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
) -> CallFacts:
    """Return what is known about a call beside its words, as long as it is not answered."""
    settings = {**(getattr(model, "additional_kwargs", None) or {}), **kwargs}
    temperature = settings.get("temperature", getattr(model, "temperature", None))
    forms = [settings.get(name, getattr(model, name, None)) for name in _FORMS]
    return CallFacts(
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        structured=any(form not in _FREE for form in forms),
        tool_derived=_follows_tools(messages),
    )


def without_usage(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's extras less what a provider reported about the call it came from."""
    return {k: v for k, v in kwargs.items() if not _USAGE.search(k)}


def settings_of(model: BaseModel, kwargs: Mapping[str, Any] | None = None) -> str:
    """Return a fingerprint of all settings that may change what a model answers.

    Every field counts unless it is known not to matter, so a setting nobody thought of costs hits
    and never a wrong answer.

    Raises:
        UnstableModelError: if a setting is an object that another could not be told from.
    """
    return fingerprint(
        json.dumps([_plain(model), _plain(kwargs or {})], sort_keys=True), volatile=()
    )


def _follows_tools(messages: Sequence[ChatMessage]) -> bool:
    """Tell whether tools were used since the user last said something."""
    for message in reversed(messages):
        if _uses_tools(message):
            return True
        if message.role == MessageRole.USER:
            return False
    return False


def _uses_tools(message: ChatMessage) -> bool:
    return (
        message.role in _TOOL_ROLES
        or (message.role == MessageRole.USER and (message.content or "").startswith(_OBSERVATION))
        or bool(message.additional_kwargs.get("tool_calls"))
        or any(block.block_type == "tool_call" for block in message.blocks)
    )


def _apart(
    messages: Sequence[ChatMessage],
) -> tuple[list[ChatMessage], tuple[Turn, ...] | None]:
    """Take the conversation before the last message out; None for one that is not text alone."""
    rest, turns = [], []
    for message in messages[:-1]:
        if message.role in _SYSTEM:
            rest.append(message)
        elif (turn := _turn(message)) is not None:
            turns.append(turn)
        else:
            return list(messages), None
    return [*rest, *messages[-1:]], tuple(turns)


def _turn(message: ChatMessage) -> Turn | None:
    if _uses_tools(message) or without_usage(message.additional_kwargs):
        return None
    texts = [block.text for block in message.blocks if isinstance(block, TextBlock)]
    if len(texts) != len(message.blocks):
        return None
    if message.role == MessageRole.USER:
        return Turn(role="user", text="\n".join(texts))
    if message.role == MessageRole.ASSISTANT:
        return Turn(role="assistant", text="\n".join(texts))
    return None


def _question(text: str, around: str, *, near: bool = True, turns: tuple[Turn, ...] = ()) -> Asked:
    if near and len(text) <= MAX_QUESTION_CHARS and not _INDENTED.search(text):
        return Asked(text=text, around=around, near=True, turns=turns)
    # Keys forget line breaks and indentation, which is fine for a question and wrong for code.
    return Asked(text=text, around=f"{around}\0{text}", near=False, turns=turns)


def _exactly(text: str) -> Asked:
    return _question(text, "", near=False)


def _dump(messages: Sequence[ChatMessage], volatile: Sequence[Volatile] = ()) -> str:
    return json.dumps(
        [
            [
                message.role.value,
                [
                    _settled(block.text, volatile if message.role in _SYSTEM else ())
                    if isinstance(block, TextBlock)
                    else _plain(block)
                    for block in message.blocks
                ],
                _plain(without_usage(message.additional_kwargs)),
            ]
            for message in messages
        ],
        sort_keys=True,
    )


def _settled(text: str, volatile: Sequence[Volatile]) -> str:
    return functools.reduce(lambda t, rule: rule.pattern.sub(rule.replacement, t), volatile, text)


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _plain(value: object) -> object:
    """Bring settings to JSON types.

    Raises:
        UnstableModelError: if a value has no name that another value could not have too.
    """
    if isinstance(value, Enum):
        return [type(value).__qualname__, value.name]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name, None) for name in type(value).model_fields}
        return _named(value, {**fields, **(value.model_extra or {})})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named(value, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, bytes):
        return fingerprint(value.hex(), volatile=())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, re.Pattern):
        return [str(value.pattern), value.flags]
    if isinstance(value, type):
        schema = value.model_json_schema() if issubclass(value, BaseModel) else None
        return [value.__module__, value.__qualname__, schema]
    return _code(value)


# A router's; what their `__repr__` says tells them apart, or else their class.
_CHOOSING = frozenset(("router", "judge"))


def _named(value: object, fields: Mapping[str, object]) -> dict[str, object]:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    told = {
        name: described(held) if name in _CHOOSING else _plain(held)
        for name, held in fields.items()
        if name not in _OPERATIONAL
    }
    return {"": kind, **told}


def _code(value: object) -> object:
    if isinstance(value, functools.partial):
        return [_code(value.func), _plain(value.args), _plain(value.keywords)]
    if isinstance(value, types.MethodType):
        return [_code(value.__func__), _plain(value.__self__)]
    if isinstance(value, types.BuiltinFunctionType):
        return [value.__module__, value.__qualname__]
    if isinstance(value, types.FunctionType):
        # Two lambdas share a name, so the code and what it closes over count too.
        code = value.__code__
        constants = [c for c in code.co_consts if isinstance(c, str | int | float)]
        closed = [_plain(cell.cell_contents) for cell in value.__closure__ or ()]
        return [value.__module__, value.__qualname__, code.co_code.hex(), constants, closed]
    raise UnstableModelError(
        f"an object of type {type(value).__qualname__} among a model's settings has no stable name."
    )
