"""A conversation's memory as LangChain's chat history."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation, Message
from langchain_costwise._messages import as_message, is_own, prompt_of
from langchain_costwise.memory import checked

__all__ = ["RollingSummaryHistory"]

_NOTHING = " "
"""A question that nothing is recalled for: the one to come is not known here."""


class RollingSummaryHistory(BaseChatMessageHistory):
    """One conversation: short to read, whole in the store.

    `messages` are the summary of what was said long ago and the newest messages as they are. Old
    messages are recalled only for `scoped(question=...)`, since a history is read before the next
    question is put. Each message that is added is a new one, unless its id is known.

    Args:
        memory: Stores and decides.
        conversation: Whose and which.

    Raises:
        ConfigError: if `memory` is none.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> memory = ConversationMemory(MemoryConversations(), model="gpt-4o")
        >>> history = RollingSummaryHistory(memory, Conversation(id="42", user="ada"))
        >>> history.add_user_message("Do you ship to Malta?")
        >>> [message.text for message in history.messages]
        ['Do you ship to Malta?']
    """

    def __init__(self, memory: ConversationMemory, conversation: Conversation) -> None:
        self.memory = checked(memory)
        self.conversation = conversation

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """What of the conversation goes into the next prompt."""
        return run(self._messages())

    async def aget_messages(self) -> list[BaseMessage]:
        """Do what `messages` does, without blocking the event loop."""
        return await arun(self._messages())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Store messages; once it returns they are safe.

        Raises:
            StoreError: if the store cannot take them.
        """
        run(call(self.memory.add, self.conversation, _new(messages)))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Do what `add_messages` does, without blocking the event loop."""
        await arun(call(self.memory.add, self.conversation, _new(messages)))

    def clear(self) -> None:
        """Delete this conversation, its messages and its summary.

        Raises:
            StoreError: if the store cannot delete it.
        """
        run(self._clear())

    async def aclear(self) -> None:
        """Do what `clear` does, without blocking the event loop."""
        await arun(self._clear())

    def _messages(self) -> Flow[list[BaseMessage]]:
        question = current_request().question or _NOTHING
        view = yield from call(self.memory.view, self.conversation, (), question=question)
        return prompt_of(view, [])

    def _clear(self) -> Flow[None]:
        yield from call(self.memory.store.delete, conversation=self.conversation)


def _new(messages: Sequence[BaseMessage]) -> list[Message]:
    # LangChain hands the prompt's own messages back when they are fewer than a moment ago.
    given = [as_message(one) for one in messages if not is_own(one)]
    return [one if one.id else replace(one, id=uuid.uuid4().hex) for one in given]
