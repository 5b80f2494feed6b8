"""A conversation that several providers' LLMs took part in, as one of them can read it.

What a provider adds to its answers (thoughts with a signature, raw tool calls, other extras) is an
error or worse for another one, and each has its own idea of what the id of a tool call looks like.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    MessageRole,
    ThinkingBlock,
    ToolCallBlock,
)

from costwise_core.route.portable import plain_id

__all__ = ["Makers", "calls_in", "readable_for"]

_MOST: Final = 10_000
_TAKE_MARKS: Final = ("anthropic", "bedrock", "claude")


class Makers:
    """Remembers who wrote which message, by a hash of it. Thread-safe, in this process.

    A message itself cannot say it: LlamaIndex sends to the provider what stands beside its text.

    Args:
        providers: Of all LLMs. A message nobody remembers is theirs who make everything, else
            nobody's.
    """

    def __init__(self, providers: Iterable[str]) -> None:
        self._all = frozenset(providers)
        self._made: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def differ(self) -> bool:
        """Whether there is more than one provider."""
        return len(self._all) > 1

    def note(self, message: ChatMessage, provider: str) -> None:
        """Note who wrote a message."""
        if not self.differ:
            return
        key = _digest(message)
        with self._lock:
            self._made[key] = provider
            self._made.move_to_end(key)
            while len(self._made) > _MOST:
                self._made.popitem(last=False)

    def made(self, message: ChatMessage, provider: str) -> bool:
        """Tell whether a message is this provider's own."""
        if not self.differ:
            return provider in self._all
        with self._lock:
            return self._made.get(_digest(message)) == provider


def readable_for(
    provider: str, messages: Sequence[ChatMessage], makers: Makers
) -> list[ChatMessage]:
    """Return messages as a provider's LLM can read them; what it made itself stays as it is.

    Args:
        provider: As `provider_of` names it.
        messages: The conversation. Nothing in it is changed.
        makers: Who wrote what.
    """
    if not makers.differ:
        return list(messages)
    renamed: dict[str, str] = {}
    found: list[ChatMessage] = []
    for one in messages:
        message = one
        if message.role == MessageRole.ASSISTANT:
            ids = [call.tool_call_id for call in calls_in(message) if call.tool_call_id]
            if makers.made(message, provider):
                # An id that comes again belongs to whoever used it last.
                for ident in ids:
                    renamed.pop(ident, None)
            else:
                renamed |= {ident: plain_id(ident) for ident in ids}
                message = _plain(message, renamed)
        elif (answers := str(message.additional_kwargs.get("tool_call_id"))) in renamed:
            extras = {**message.additional_kwargs, "tool_call_id": renamed[answers]}
            message = message.model_copy(update={"additional_kwargs": extras})
        found.append(_without_marks(message, provider))
    return found


def _plain(message: ChatMessage, renamed: Mapping[str, str]) -> ChatMessage:
    kept = [
        block for block in message.blocks if not isinstance(block, ThinkingBlock | ToolCallBlock)
    ]
    calls = [
        call.model_copy(
            update={"tool_call_id": renamed.get(call.tool_call_id or "", call.tool_call_id)}
        )
        for call in calls_in(message)
    ]
    return ChatMessage(role=message.role, blocks=[*kept, *calls])


def calls_in(message: ChatMessage) -> list[ToolCallBlock]:
    """Return the calls of tools, from blocks or as OpenAI's clients used to keep them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return blocks
    found = []
    for call in message.additional_kwargs.get("tool_calls") or ():
        function = _get(call, "function")
        if name := _get(function, "name"):
            found.append(
                ToolCallBlock(
                    tool_call_id=_get(call, "id"),
                    tool_name=name,
                    tool_kwargs=_get(function, "arguments") or {},
                )
            )
    return found


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _without_marks(message: ChatMessage, provider: str) -> ChatMessage:
    """Leave out the marks that tell some providers what to cache: others refuse them."""
    if any(one in provider.lower() for one in _TAKE_MARKS):
        return message
    kept = [block for block in message.blocks if not isinstance(block, CachePoint)]
    if len(kept) == len(message.blocks):
        return message
    return message.model_copy(update={"blocks": kept})


def _digest(message: ChatMessage) -> bytes:
    """Return what tells messages apart that a memory may have written down and read again."""
    said = [
        [message.content or ""],
        [[call.tool_call_id, call.tool_name] for call in calls_in(message)],
        [block.content for block in message.blocks if isinstance(block, ThinkingBlock)],
    ]
    return hashlib.blake2b(
        json.dumps(said, default=str).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
