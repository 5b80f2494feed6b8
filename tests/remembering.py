"""A chat model that remembers every prompt, and long talk, for the tests of memories."""

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from pydantic import Field

from costwise_core import ConversationMemory, MemoryConversations, MemoryPolicy, MemoryPrices
from langchain_costwise.testing import ScriptedChatModel

DEAR = MemoryPrices(
    input=2.5, cache_read=2.5, cache_write=2.5, output=10, summary_input=0.15, summary_output=0.6
)
"""No provider cache, a cheap summariser: short prompts pay soon."""

SHORT = MemoryPolicy(tail_tokens=40, summary_tokens=60)
FILLER = "and then we talked at length of nothing much but the sea the sun the sand and the sky"


def memory_of(store: Any = None, **settings: Any) -> ConversationMemory:
    """Return a memory that folds soon, and before it answers."""
    settings = {"prices": DEAR, "policy": SHORT, "background": False, **settings}
    return ConversationMemory(store if store is not None else MemoryConversations(), **settings)


def question(turn: int, about: str = "the trip") -> str:
    """Return a long question; no two are the same."""
    return f"Question {turn} about {about}: {' '.join([FILLER] * 4)}?"


class Recorder(ScriptedChatModel):
    """Keeps every prompt; first calls tools for so many rounds, so many at once.

    Args:
        prompts: All prompts so far.
        offered: What was offered with each.
        rounds: Rounds of tools for each question.
        at_once: Calls in a round.
    """

    prompts: list[list[BaseMessage]] = Field(default_factory=list)
    offered: list[Any] = Field(default_factory=list)
    rounds: int = 1
    at_once: int = 1

    def _answer(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        self.prompts.append(list(messages))
        self.offered.append(kwargs)
        assert_sound(messages)
        last = max(n for n, one in enumerate(messages) if isinstance(one, HumanMessage))
        done = sum(isinstance(one, ToolMessage) for one in messages[last:]) // self.at_once
        if done >= self.rounds:
            kwargs = {key: value for key, value in kwargs.items() if key != "tools"}
        asked = messages[-1]
        if kwargs.get("tools") and isinstance(asked, ToolMessage):
            messages = [*messages[:-1], HumanMessage(asked.text)]
        message = super()._answer(messages, kwargs)
        if message.tool_calls:
            (call,) = message.tool_calls
            message.tool_calls = [{**call, "id": f"{call['id']}.{n}"} for n in range(self.at_once)]
        return message


def assert_sound(messages: list[BaseMessage]) -> None:
    """Refuse what providers refuse: calls without results, and results without calls."""
    waiting: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting
            waiting.remove(message.tool_call_id)
        else:
            assert not waiting
        if isinstance(message, AIMessage):
            waiting |= {call["id"] for call in message.tool_calls if call["id"]}
    assert not waiting


def texts(messages: list[BaseMessage]) -> list[str]:
    """Return what the messages say."""
    return [message.text for message in messages]
