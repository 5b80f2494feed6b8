"""LlamaIndex's messages as a memory keeps them, and back.

What a memory stores of a message is text to fold and recall, and LlamaIndex's own JSON where text
alone would not give the message back. Reading it makes a `ChatMessage` and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from llama_index.core.base.llms.types import (
    ChatMessage,
    ContentBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)

from costwise_core.memory.messages import Message
from costwise_core.memory.prompts import recalled_block, summary_block
from costwise_core.tokens import count_tokens
from llamaindex_costwise._history import calls_in
from llamaindex_costwise._spending import Sent

__all__ = ["as_message", "is_own", "question_of", "restored", "said"]

MAX_RAW: Final = 400_000
"""Characters of text and JSON together; pictures beyond it are not kept, their text is."""

_MEDIA: Final = 1_600
"""Tokens of a picture or file, as for budgets."""

_SESSION: Final = "session_id"
"""What LlamaIndex's `Memory` puts among a message's extras, for its blocks."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
_ROLES: Final[dict[MessageRole, Role]] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_OWN: Final = tuple(
    block.partition("\n")[0] + "\n" + block.split("\n")[1]
    for block in (summary_block(""), recalled_block([]))
)


def as_message(message: ChatMessage) -> Message:
    """Return a message as a memory keeps it.

    Tool calls are a line of its text each, so that summaries know of them. Thinking, pictures and
    files count as tokens and are kept besides.

    Example:
        >>> call = ToolCallBlock(tool_call_id="1", tool_name="search", tool_kwargs={"q": "Malta"})
        >>> as_message(ChatMessage(role="assistant", blocks=[call])).text
        'search({"q": "Malta"})'
    """
    message = _without_session(message)
    calls = calls_in(message)
    extras = message.additional_kwargs
    plain = Message(
        role=_ROLES.get(message.role, "user"),
        text="\n".join(filter(None, (message.content, *map(_line, calls)))),
        name=str(extras.get("name") or ""),
        calls=tuple(call.tool_call_id for call in calls if call.tool_call_id),
        answers=str(extras.get("tool_call_id") or ""),
        tokens=_tokens(message),
    )
    raw = "" if restored(plain) == message else _raw(message)
    return replace(plain, raw=raw) if len(raw) + len(plain.text) <= MAX_RAW else plain


def restored(message: Message) -> ChatMessage:
    """Return the LlamaIndex message that a memory kept, as plain text where it has no more.

    Example:
        >>> restored(as_message(ChatMessage(role="user", content="Hello"))).content
        'Hello'
    """
    found = _read(message.raw)
    if found is not None:
        return found
    named = {"name": message.name, "tool_call_id": message.answers}
    blocks: list[ContentBlock] = [TextBlock(text=message.text)]
    # Names and arguments are in the text; without the calls their results would be orphans.
    blocks += [ToolCallBlock(tool_call_id=one, tool_name="tool") for one in message.calls]
    return ChatMessage(
        role=message.role,
        blocks=blocks,
        additional_kwargs={name: value for name, value in named.items() if value},
    )


def said(message: Message) -> tuple[object, ...]:
    """Return what tells messages apart that LlamaIndex gives no ids."""
    return (message.role, message.name, message.text, message.calls, message.answers)


def is_own(message: ChatMessage) -> bool:
    """Tell whether a message is a summary or a quotation that a memory put into a prompt.

    By how it begins, since what else a message could carry would be sent to the provider.

    Example:
        >>> is_own(ChatMessage(role="user", content=summary_block("Ada wants 3 tickets.")))
        True
    """
    return message.role == MessageRole.USER and (message.content or "").startswith(_OWN)


def question_of(given: object, messages: Sequence[ChatMessage] = ()) -> str:
    """Return what is asked: the input that is given, else the user's newest message."""
    if isinstance(given, ChatMessage):
        return given.content or ""
    asked = (one.content for one in reversed(messages) if one.role == MessageRole.USER)
    return str(given) if given else next(asked, None) or ""


def _line(call: ToolCallBlock) -> str:
    args = call.tool_kwargs
    given = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False, default=repr)
    return f"{call.tool_name or 'tool'}({given})"


def _tokens(message: ChatMessage) -> int:
    """Return what a message with more than text costs; 0 where counting its text will do."""
    if all(isinstance(block, TextBlock) for block in message.blocks):
        return 0
    sent = Sent.of([message], {})
    return count_tokens(sent.texts[0]).tokens + _MEDIA * sent.media


def _without_session(message: ChatMessage) -> ChatMessage:
    extras = message.additional_kwargs
    if _SESSION not in extras:
        return message
    kept = {name: value for name, value in extras.items() if name != _SESSION}
    return message.model_copy(update={"additional_kwargs": kept})


def _raw(message: ChatMessage) -> str:
    try:
        return message.model_dump_json()
    except Exception:  # noqa: BLE001 - extras may hold a client's own objects; the text is left
        return ""


def _read(raw: str) -> ChatMessage | None:
    if not raw or len(raw) > MAX_RAW:
        return None
    try:
        return ChatMessage.model_validate_json(raw)
    except Exception:  # noqa: BLE001 - whatever somebody else wrote there, the text is left
        return None
