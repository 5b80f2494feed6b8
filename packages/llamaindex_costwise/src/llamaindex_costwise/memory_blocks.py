"""A conversation's memory as blocks of LlamaIndex's own `Memory`.

`Memory` keeps the newest messages and hands older ones to its blocks. It tells a block whose they
are in two ways: by an argument when it reads, and in each message's extras when it writes. A block
keeps nothing by itself, so one serves all sessions.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory import BaseMemoryBlock

from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call
from costwise_core.errors import ConfigError
from costwise_core.memory.messages import Conversation, Message
from costwise_core.memory.view import OWN_IDS, MemoryView
from llamaindex_costwise._messages import as_message, is_own, question_of, restored, said
from llamaindex_costwise.memory import (
    added,
    append,
    checked,
    fitted,
    passed_over,
    system_in,
    tokens_in,
)

__all__ = ["RecallBlock", "RollingSummaryBlock"]

TOKEN_LIMIT: Final = 9_000
"""What `Memory` leaves to its blocks by default."""


class RollingSummaryBlock(BaseMemoryBlock[list[ChatMessage]]):
    """What `Memory` no longer keeps: a summary, and messages that it does not pay to fold yet.

    Every message that leaves `Memory`'s queue is stored, word for word. The block stands right
    before the queue, after the system prompt that an engine or agent has, and stays the same from
    call to call until messages are added to it or folded. Where the store fails, messages wait in
    this process.

    One block serves all sessions. Their conversations have the session's id and the tenant that
    `scoped` says, unless `conversation` says otherwise.

    Args:
        memory: Stores and decides.
        conversation: Tells from a session's id whose conversation it is, and which.
        token_limit: The most tokens that it returns. Beyond it the oldest messages that are not
            folded are left out; `MemoryPolicy(window=token_limit)` has them folded instead.
        name: Unique among the blocks.
        priority: 0 is never truncated; others lose their oldest messages first, then the summary.

    Raises:
        ValidationError: if `memory` is none or the limit below 1.
        ConfigError: when used, if nothing says which session it is.

    Example:
        >>> import asyncio
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> block = RollingSummaryBlock(
        ...     memory=ConversationMemory(MemoryConversations(), model="gpt-4o")
        ... )
        >>> asked = ChatMessage(role="user", content="Do you ship to Malta?")
        >>> asyncio.run(block.aput([asked], session_id="42"))
        >>> [message.content for message in asyncio.run(block.aget(session_id="42"))]
        ['Do you ship to Malta?']
    """

    memory: Any = Field(exclude=True, description="A ConversationMemory.")
    conversation: Callable[[str], Conversation] | None = Field(default=None, exclude=True)
    token_limit: int = Field(default=TOKEN_LIMIT, gt=0)
    name: str = "conversation_summary"

    # By conversation, what a store that failed did not take.
    _unsaved: dict[str, tuple[Message, ...]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Check what a type cannot say."""
        super().model_post_init(context)
        checked(self.memory)

    async def atruncate(
        self, content: list[ChatMessage], tokens_to_truncate: int
    ) -> list[ChatMessage] | None:
        """Leave out the oldest messages, whole turns, then the summary too."""
        given = [
            replace(as_message(one), id=next(iter(OWN_IDS)) if is_own(one) else "")
            for one in content
        ]
        most = tokens_in(given) - tokens_to_truncate
        kept = fitted(given, most, newest=False)
        if tokens_in(kept) > most:
            return None
        chosen = {id(one) for one in kept}
        return [
            message for one, message in zip(given, content, strict=True) if id(one) in chosen
        ] or None

    def viewed(self, session_id: object, question: str) -> Flow[MemoryView]:
        """Return what of a session goes into the next prompt, what `Memory` keeps left aside."""
        conversation = self._of(session_id)
        yield from self._save(conversation)
        system = yield from system_in(self.memory, conversation)
        view: MemoryView = yield from call(
            self.memory.view, conversation, system, question=question
        )
        waiting = self._unsaved.get(conversation.key, ())
        return replace(view, kept=(*view.kept, *waiting))

    async def _aget(
        self, messages: list[ChatMessage] | None = None, **block_kwargs: Any
    ) -> list[ChatMessage]:
        question = question_of(None, messages or ())
        view = await arun(self.viewed(block_kwargs.get("session_id"), question))
        shown: Sequence[Message] = replace(view, recalled=()).messages
        if view.reason != "holdout":
            shown = fitted(shown, self.token_limit)
        return [*map(restored, shown)]

    async def _aput(self, messages: list[ChatMessage]) -> None:
        sessions = defaultdict[str, list[ChatMessage]](list)
        for message in messages:
            sessions[message.additional_kwargs.get("session_id") or ""].append(message)
        for session_id, given in sessions.items():
            conversation = self._of(session_id)
            key = conversation.key
            self._unsaved[key] = (*self._unsaved.get(key, ()), *map(as_message, given))
            await arun(self._save(conversation))

    def _of(self, session_id: object) -> Conversation:
        if not session_id:
            raise ConfigError(
                "a memory block must know which session it is: use it in a Memory, which has a "
                "session_id, or give session_id= to aget and aput."
            )
        if self.conversation is not None:
            return self.conversation(str(session_id))
        return Conversation(id=str(session_id), tenant=current_request().tenant)

    def _save(self, conversation: Conversation) -> Flow[None]:
        waiting = self._unsaved.pop(conversation.key, ())
        if not waiting:
            return
        try:
            stored = yield from call(self.memory.store.messages, conversation)
            yield from append(self.memory, conversation, _linked(stored, waiting))
        except BaseException as error:
            later = self._unsaved.get(conversation.key, ())
            self._unsaved[conversation.key] = (*waiting, *later)
            if isinstance(error, ConfigError) or not isinstance(error, Exception):
                raise
            passed_over(error)


class RecallBlock(BaseMemoryBlock[str]):
    """Old messages, word for word, that matter for the question: of those that were folded.

    What the summary's block or `Memory`'s queue shows anyway is not quoted again. Give `Memory`
    `insert_method=InsertMethod.USER`: before the newest question a quotation leaves the prompt's
    beginning as it was, which a provider's cache goes on reading; in a system prompt it does not.

    Args:
        beside: The block that stores and folds. This one stores nothing.
        name: Unique among the blocks.
        priority: 0 is never truncated; others are left out as a whole.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> from llama_index.core.memory import InsertMethod, Memory
        >>> summary = RollingSummaryBlock(
        ...     memory=ConversationMemory(MemoryConversations(), model="gpt-4o")
        ... )
        >>> memory = Memory.from_defaults(
        ...     session_id="42",
        ...     memory_blocks=[summary, RecallBlock(beside=summary)],
        ...     insert_method=InsertMethod.USER,
        ... )
    """

    beside: RollingSummaryBlock = Field(exclude=True)
    name: str = "earlier_messages"

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        given = messages or ()
        view = await arun(
            self.beside.viewed(block_kwargs.get("session_id"), question_of(None, given))
        )
        shown = "\n".join(one.content or "" for one in given)
        unseen = tuple(one for one in view.recalled if one.text not in shown)
        quoted = replace(view, recalled=unseen).recalled_message
        return "" if quoted is None else quoted.text

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Store nothing: the block beside does."""


def _linked(stored: Sequence[Message], given: Sequence[Message]) -> list[Message]:
    """Return what is new of messages that leave a queue, with ids that a second try gives again.

    A queue is emptied in order, so what the store ends with and the messages begin with was handed
    over before. An id is that of the message before it and what is said: two replicas that empty
    the same queue at once name its messages alike.
    """
    last = stored[-1].id if stored else ""
    found = []
    for one in given[added(stored, given) :]:
        last = hashlib.blake2b(repr((last, said(one))).encode(), digest_size=16).hexdigest()
        found.append(replace(one, id=last))
    return found
