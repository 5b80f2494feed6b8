"""An LLM that remembers every prompt, and long talk, for the tests of memories."""

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.tools import FunctionTool
from pydantic import PrivateAttr

from costwise_core import ConversationMemory, MemoryConversations, MemoryPolicy, MemoryPrices
from costwise_core.testing.fakes import ScriptedCompleter
from llamaindex_costwise.testing import ScriptedLLM

DEAR = MemoryPrices(
    input=2.5, cache_read=2.5, cache_write=2.5, output=10, summary_input=0.15, summary_output=0.6
)
"""No provider cache, a cheap summariser: short prompts pay soon."""

SHORT = MemoryPolicy(tail_tokens=40, summary_tokens=60)
SAID = "They spoke of the sea."
FILLER = "and then we talked at length of nothing much but the sea the sun the sand and the sky"


def memory_of(store: Any = None, **settings: Any) -> ConversationMemory:
    """Return a memory that folds soon, and before it answers."""
    settings = {
        "prices": DEAR,
        "policy": SHORT,
        "background": False,
        "summariser": ScriptedCompleter([SAID]),
        **settings,
    }
    return ConversationMemory(store if store is not None else MemoryConversations(), **settings)


def question(turn: int, about: str = "the trip") -> str:
    """Return a long question; no two are the same."""
    return f"Question {turn} about {about}: {' '.join([FILLER] * 4)}?"


def texts(messages: list[ChatMessage]) -> list[str]:
    """Return what the messages say."""
    return [message.content or "" for message in messages]


class Recorder(ScriptedLLM):
    """Keeps every prompt; calls the first tool so many times at once for each question.

    Args:
        at_once: Calls.
    """

    at_once: int = 1
    _prompts: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

    @property
    def prompts(self) -> list[list[ChatMessage]]:
        """All prompts so far."""
        return self._prompts

    def _message(self, messages: Any, kwargs: dict[str, Any]) -> ChatMessage:
        self._prompts.append([one.model_copy(deep=True) for one in messages])
        assert_sound(messages)
        last = max(n for n, one in enumerate(messages) if one.role == MessageRole.USER)
        if any(one.role == MessageRole.TOOL for one in messages[last:]):
            return ChatMessage(role="assistant", content=f"The tool said {messages[-1].content}")
        if not kwargs.get("tools"):
            return super()._message(messages, {})
        name = kwargs["tools"][0]["name"]
        return ChatMessage(
            role="assistant",
            blocks=[
                ToolCallBlock(
                    tool_call_id=f"call_{len(self._prompts)}.{n}",
                    tool_name=name,
                    tool_kwargs={"query": "seven"},
                )
                for n in range(self.at_once)
            ],
        )


def assert_sound(messages: list[ChatMessage]) -> None:
    """Refuse what providers refuse: calls without results, and results without calls."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == MessageRole.TOOL:
            assert message.additional_kwargs["tool_call_id"] in waiting
            waiting.remove(message.additional_kwargs["tool_call_id"])
        else:
            assert not waiting
        calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
        waiting |= {call.tool_call_id for call in calls if call.tool_call_id}
    assert not waiting


def search(query: str) -> str:
    """Search the handbook."""
    return f"Found {query}: {FILLER}"


SEARCH = FunctionTool.from_defaults(search)


class Shelf(AsyncDBChatStore):
    """Keeps a `Memory`'s messages in this process; LlamaIndex's own never closes its database."""

    _kept: dict[str, list[tuple[MessageStatus, ChatMessage]]] = PrivateAttr(default_factory=dict)

    async def get_messages(self, key, status=MessageStatus.ACTIVE, limit=None, offset=None):
        found = [
            one.model_copy(deep=True)
            for kept, one in self._kept.get(key, ())
            if status in (None, kept)
        ]
        return found[offset or 0 :][:limit]

    async def count_messages(self, key, status=MessageStatus.ACTIVE):
        return len(await self.get_messages(key, status))

    async def add_message(self, key, message, status=MessageStatus.ACTIVE):
        await self.add_messages(key, [message], status)

    async def add_messages(self, key, messages, status=MessageStatus.ACTIVE):
        self._kept.setdefault(key, []).extend((status, one) for one in messages)

    async def set_messages(self, key, messages, status=MessageStatus.ACTIVE):
        self._kept[key] = [(status, one) for one in messages]

    async def delete_message(self, key, idx):
        return self._kept[key].pop(idx)[1]

    async def delete_messages(self, key, status=None):
        self._kept.pop(key, None)

    async def delete_oldest_messages(self, key, n):
        raise NotImplementedError

    async def archive_oldest_messages(self, key, n):
        active = [at for at, one in enumerate(self._kept[key]) if one[0] == MessageStatus.ACTIVE]
        for at in active[:n]:
            self._kept[key][at] = (MessageStatus.ARCHIVED, self._kept[key][at][1])
        return [self._kept[key][at][1] for at in active[:n]]

    async def get_keys(self):
        return list(self._kept)
