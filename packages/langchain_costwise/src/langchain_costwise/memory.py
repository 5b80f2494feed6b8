"""A conversation's memory between a prompt and a model, and whose conversation it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config

from costwise_core.context import scoped
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation, Message
from costwise_core.memory.view import MemoryView
from langchain_costwise._messages import as_message, is_own, prompt_of
from langchain_costwise.cache import SAID, request_context

__all__ = ["RollingSummary", "Which", "checked", "conversation_of", "said_by", "viewed"]

Which: TypeAlias = Conversation | Callable[[Mapping[str, Any]], Conversation]
"""A conversation, or how to tell it from what a run says."""

_IDS = ("thread_id", "session_id", "conversation_id")


class RollingSummary(Runnable[PromptValue | Sequence[Any] | str, list[BaseMessage]]):
    """Shorten a prompt's conversation where that pays: `prompt | RollingSummary(memory) | model`.

    Takes messages or a prompt and returns messages: system messages, the summary of what was said
    long ago, the newest messages as they are, and before the last question old messages that matter
    for it. The prompt may hold the whole conversation or only what is new; what it holds is stored
    first. An answer is stored when the next prompt holds it.

    The conversation's id is `thread_id`, `session_id` or `conversation_id` in
    `config={"configurable": {...}}`, its user `user_id` there; its tenant is what `scoped` or
    `{"costwise": {"tenant": ...}}` there says.

    Args:
        memory: Stores and decides.
        conversation: Whose and which, or a function that tells it from `configurable`.

    Raises:
        ConfigError: when called, if nothing says which conversation it is.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> from langchain_core.language_models import FakeListChatModel
        >>> memory = ConversationMemory(MemoryConversations(), model="gpt-4o")
        >>> chain = RollingSummary(memory) | FakeListChatModel(responses=["Yes, we do."])
        >>> chain.invoke("Do you ship to Malta?", {"configurable": {"thread_id": "42"}}).text
        'Yes, we do.'
    """

    def __init__(self, memory: ConversationMemory, *, conversation: Which | None = None) -> None:
        self.memory = checked(memory)
        self.conversation = conversation

    def invoke(
        self,
        input: PromptValue | Sequence[Any] | str,  # noqa: A002 - LangChain's signature
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> list[BaseMessage]:
        """Return the messages to send."""

        def shorten(given: Any) -> list[BaseMessage]:
            return run(self._shorten(given, config))

        return self._call_with_config(shorten, input, config)

    async def ainvoke(
        self,
        input: PromptValue | Sequence[Any] | str,  # noqa: A002
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> list[BaseMessage]:
        """Do what `invoke` does, without blocking the event loop."""

        async def shorten(given: Any) -> list[BaseMessage]:
            return await arun(self._shorten(given, config))

        return await self._acall_with_config(shorten, input, config)

    def _shorten(self, given: Any, config: RunnableConfig | None) -> Flow[list[BaseMessage]]:
        if isinstance(given, PromptValue):
            given = given.to_messages()
        messages = convert_to_messages([given] if isinstance(given, str | BaseMessage) else given)
        turns = [one for one in messages if not is_own(one)]
        said = said_by(config)
        view = yield from viewed(self.memory, conversation_of(self.conversation, said), turns, said)
        return prompt_of(view, turns)


def viewed(
    memory: ConversationMemory,
    conversation: Conversation,
    messages: Sequence[BaseMessage],
    said: Mapping[str, Any],
    *,
    before: int = 0,
) -> Flow[MemoryView]:
    """Return a memory's view of LangChain's messages."""
    given = yield from call(_as_messages, messages)
    with scoped(**said.get(SAID) or {}):
        return (yield from call(memory.view, conversation, given, before=before))


def checked(memory: ConversationMemory) -> ConversationMemory:
    """Return a memory.

    Raises:
        ConfigError: if it is none.
    """
    if not isinstance(memory, ConversationMemory):
        raise ConfigError(f"memory must be a ConversationMemory, got {type(memory).__name__}.")
    return memory


def said_by(config: RunnableConfig | None, context: object = None) -> Mapping[str, Any]:
    """Return what a run says about itself: its config's `configurable`, and its runtime's context.

    Args:
        config: Of the run; None is that of the running graph or chain.
        context: Of the run's runtime. What it says about the conversation wins.
    """
    said = {name: _get(context, name) for name in (*_IDS, "user_id", SAID)}
    known = {name: value for name, value in said.items() if value is not None}
    return {**ensure_config(config).get("configurable", {}), **known}


def conversation_of(which: Which | None, said: Mapping[str, Any]) -> Conversation:
    """Return whose conversation a run belongs to, and which.

    Args:
        which: What the application says.
        said: What the run says.

    Raises:
        ConfigError: if nothing says which conversation it is.

    Example:
        >>> conversation_of(None, {"thread_id": 7, "user_id": "ada"})
        Conversation(id='7', tenant='', user='ada')
    """
    if isinstance(which, Conversation):
        return which
    if which is not None:
        return which(said)
    found = next((said[name] for name in _IDS if said.get(name)), None)
    if found is None:
        raise ConfigError(
            "a memory must know which conversation it is: run with "
            'config={"configurable": {"thread_id": ...}}, or give conversation=.'
        )
    tenant = request_context(said.get(SAID, {})).tenant
    return Conversation(id=str(found), tenant=tenant, user=str(said.get("user_id") or ""))


def _get(context: object, name: str) -> Any:
    return context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)


def _as_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    return [as_message(one) for one in messages]
