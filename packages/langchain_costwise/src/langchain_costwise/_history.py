"""A conversation that several providers' models took part in, as one of them can read it.

What a provider adds to its answers (thoughts with a signature, its own kinds of blocks, raw tool
calls, ids of stored responses) is an error or worse for another one, and each has its own idea of
what the id of a tool call may look like.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from costwise_core.route.portable import plain_id

__all__ = ["MARK", "readable_for"]

MARK: Final = "costwise"
"""Where in `response_metadata` costwise says what it did."""

_COMMON: Final = frozenset({"text", "image", "image_url", "audio", "video", "file", "refusal"})
"""Kinds of blocks that every chat model of LangChain takes or refuses in words."""
_TEXT_ONLY: Final = ("type", "text")
_MARKS: Final = ("cache_control", "cachePoint")
_TAKE_MARKS: Final = ("anthropic", "bedrock", "vertex", "openrouter")


def readable_for(
    provider: str, messages: Sequence[BaseMessage], made_by: Mapping[str, str]
) -> list[BaseMessage]:
    """Return messages as a provider's model can read them; what it made itself stays as it is.

    Args:
        provider: LangChain's word for it, such as "openai".
        messages: The conversation. Nothing in it is changed.
        made_by: Provider by the name of a route, for answers that say which route made them.
    """
    renamed: dict[str, str] = {}
    found: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            if not _is_own(message, provider, made_by):
                renamed |= {call["id"]: plain_id(call["id"]) for call in _calls(message)}
                message = _plain(message, renamed)  # noqa: PLW2901
            else:
                # An id that comes again belongs to whoever used it last.
                for call in _calls(message):
                    renamed.pop(call["id"], None)
        elif isinstance(message, ToolMessage) and message.tool_call_id in renamed:
            message = message.model_copy(  # noqa: PLW2901
                update={"tool_call_id": renamed[message.tool_call_id]}
            )
        found.append(_without_marks(message, provider))
    return found


def _is_own(message: AIMessage, provider: str, made_by: Mapping[str, str]) -> bool:
    told = message.response_metadata.get(MARK)
    route = told.get("route") if isinstance(told, Mapping) else None
    name = route.get("name") if isinstance(route, Mapping) else None
    maker = made_by.get(str(name)) or message.response_metadata.get("model_provider")
    if maker:
        return bool(maker == provider)
    # Nobody says who made it: it is theirs who make everything, else nobody's.
    return set(made_by.values()) == {provider}


def _plain(message: AIMessage, renamed: Mapping[str, str]) -> AIMessage:
    return AIMessage(
        content=_content(message.content),
        name=message.name,
        id=message.id,
        tool_calls=[
            {**call, "id": renamed.get(call["id"] or "", call["id"])} for call in message.tool_calls
        ],
        invalid_tool_calls=[
            {**call, "id": renamed.get(call["id"] or "", call["id"])}
            for call in message.invalid_tool_calls
        ],
        usage_metadata=message.usage_metadata,
    )


def _content(content: str | list[str | dict[str, Any]]) -> str | list[str | dict[str, Any]]:
    if isinstance(content, str):
        return content
    kept: list[str | dict[str, Any]] = []
    for block in content:
        if isinstance(block, str):
            kept.append(block)
        elif block.get("type") == "text":
            kept.append({name: block[name] for name in _TEXT_ONLY if name in block})
        elif block.get("type") in _COMMON:
            kept.append(block)
    texts = [one if isinstance(one, str) else one.get("text") for one in kept]
    if all(isinstance(text, str) for text in texts):
        return "".join(map(str, texts))
    return kept


def _calls(message: AIMessage) -> list[Any]:
    return [call for call in (*message.tool_calls, *message.invalid_tool_calls) if call["id"]]


def _without_marks(message: BaseMessage, provider: str) -> BaseMessage:
    """Leave out the marks that tell some providers what to cache: others refuse them."""
    if isinstance(message.content, str) or any(one in provider for one in _TAKE_MARKS):
        return message
    if not any(isinstance(one, dict) and set(_MARKS) & set(one) for one in message.content):
        return message
    kept: list[Any] = []
    for block in message.content:
        if isinstance(block, dict):
            block = {name: value for name, value in block.items() if name not in _MARKS}  # noqa: PLW2901
        if block:
            kept.append(block)
    return message.model_copy(update={"content": kept})
