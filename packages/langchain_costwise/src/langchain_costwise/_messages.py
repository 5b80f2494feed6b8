"""LangChain's messages as a memory keeps them, and back.

What a memory stores of a message is text to fold and recall, and LangChain's own JSON where text
alone would not give the message back. Reading it makes messages and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from costwise_core.memory.messages import Message
from costwise_core.memory.view import OWN_IDS, MemoryView
from costwise_core.tokens import count_tokens
from langchain_costwise._spending import media_in, produced

__all__ = ["as_message", "is_own", "prompt_of", "restored", "returns"]

MAX_RAW: Final = 400_000
"""Characters of text and JSON together; pictures beyond it are not kept, their text is."""

_MEDIA: Final = 1_600
"""Tokens of a picture or file, as for budgets."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
_ROLES: Final[dict[type[BaseMessage], Role]] = {
    SystemMessage: "system",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
_SAID: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "ai": "assistant",
}
_CLASSES: Final[dict[str, type[BaseMessage]]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
}


def as_message(message: BaseMessage) -> Message:
    """Return a message as a memory keeps it.

    Tool calls are a line of its text each, so that summaries know of them. Thinking, pictures and
    files count as tokens and are in `raw`.

    Example:
        >>> call = {"name": "search", "args": {"q": "Malta"}, "id": "1", "type": "tool_call"}
        >>> as_message(AIMessage("", tool_calls=[call])).text
        'search({"q": "Malta"})'
    """
    calls = (
        [*message.tool_calls, *message.invalid_tool_calls] if isinstance(message, AIMessage) else []
    )
    text = "\n".join(filter(None, (message.text, *map(_line, calls))))
    plain = Message(
        role=_role(message),
        text=text,
        id=message.id or "",
        name=message.name or "",
        calls=tuple(call["id"] for call in calls if call["id"]),
        answers=message.tool_call_id if isinstance(message, ToolMessage) else "",
        tokens=_tokens(message),
    )
    raw = "" if restored(plain) == message else _raw(message)
    return replace(plain, raw=raw) if len(raw) + len(text) <= MAX_RAW else plain


def restored(message: Message) -> BaseMessage:
    """Return the LangChain message that a memory kept, as plain text where it has no more.

    Example:
        >>> restored(as_message(HumanMessage("Hello", id="1")))
        HumanMessage(content='Hello', additional_kwargs={}, response_metadata={}, id='1')
    """
    found = _read(message.raw)
    if found is not None:
        return found if found.id else found.model_copy(update={"id": message.id or None})
    given: dict[str, Any] = {"content": message.text, "id": message.id or None}
    if message.name:
        given["name"] = message.name
    if message.role == "tool":
        return ToolMessage(tool_call_id=message.answers, **given)
    if message.calls:
        # Names and arguments are in the text; without the calls their results would be orphans.
        given["tool_calls"] = [{"name": "tool", "args": {}, "id": one} for one in message.calls]
    return _CLASSES[message.role](**given)


def returns(message: BaseMessage) -> bool:
    """Tell whether a message comes back from a memory as a model reads it now.

    A tool's artifact, which no model reads, comes back as JSON, or not at all.
    """
    found = restored(as_message(message))
    if isinstance(message, ToolMessage):
        found = found.model_copy(update={"artifact": message.artifact})
    return found == message


def is_own(message: BaseMessage) -> bool:
    """Tell whether a message is a summary or a quotation that a memory put into a prompt."""
    return message.id in OWN_IDS


def prompt_of(view: MemoryView, given: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the prompt that a view stands for, with the very messages that were given.

    Args:
        view: Of the messages given.
        given: Without those that `is_own` tells of.
    """
    system = [one for one in given if _role(one) == "system"]
    turns = [one for one in given if _role(one) != "system"]
    shown = view.messages
    if len(shown) == len(given) and not view.summary:
        return list(given)  # in their order, wherever system messages stand
    # A view ends as the list does, but may begin with messages that are not in it any more.
    pairs = [*zip(view.system, system, strict=False)]
    pairs += zip(reversed(view.kept), reversed(turns), strict=False)
    originals = {id(one): message for one, message in pairs}
    return [originals.get(id(one)) or restored(one) for one in shown]


def _role(message: BaseMessage) -> Role:
    if isinstance(message, ChatMessage):
        return _SAID.get(message.role.lower(), "user")
    return next((role for kind, role in _ROLES.items() if isinstance(message, kind)), "user")


def _line(call: Any) -> str:
    args = call["args"]
    given = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False, default=repr)
    return f"{call['name'] or 'tool'}({given})"


def _tokens(message: BaseMessage) -> int:
    """Return what a message with more than text costs; 0 where counting its text will do."""
    media = len(media_in(message))
    blocks = [one for one in message.content if isinstance(one, dict)]
    if all(one.get("type") == "text" for one in blocks) and not message.additional_kwargs:
        return 0
    return count_tokens(produced(message)).tokens + _MEDIA * media


def _raw(message: BaseMessage) -> str:
    for one in (message, message.model_copy(update={"artifact": None})):
        try:
            return json.dumps(message_to_dict(one), ensure_ascii=False)
        except (TypeError, ValueError):
            continue
    return ""


def _read(raw: str) -> BaseMessage | None:
    if not raw or len(raw) > MAX_RAW:
        return None
    try:
        found = messages_from_dict([json.loads(raw)])[0]
    except Exception:  # noqa: BLE001 - whatever somebody else wrote there, the text is left
        return None
    return None if found.type == "remove" else found
