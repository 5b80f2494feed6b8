"""A conversation's memory as LlamaIndex's chat engines and agents know one."""

import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory import BaseMemory

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.memory.deciding import standing
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation, Message, borders
from costwise_core.memory.view import OWN_IDS, MemoryView
from costwise_core.tokens import count_tokens
from llamaindex_costwise._messages import as_message, is_own, question_of, restored, said

__all__ = [
    "RollingSummaryMemory",
    "added",
    "append",
    "checked",
    "fitted",
    "passed_over",
    "system_in",
    "tokens_in",
]

_log: Final = logging.getLogger("costwise.memory")

TOKEN_LIMIT: Final = 30_000
"""As LlamaIndex's `Memory`; its engines' own default is the whole window of the model."""


class RollingSummaryMemory(BaseMemory):
    """One conversation: short to read, whole in the store.

    `get` returns system messages, the summary of what was said long ago, the newest messages as
    they are, and old messages that matter for the question. Everything is in the store under the
    conversation's id, so any replica may make such a memory for the next request. For chat engines
    (`memory=`) and agents (`agent.run(..., memory=)`).

    It stands between nobody and their model: while the store fails, what was shown last and said
    since is handed over and stored later.

    Args:
        memory: Stores and decides. Left out when a memory is written down; give it anew after.
        conversation: Whose and which.
        token_limit: The most tokens that `get` returns, tool calls, thinking and pictures counted.
            What the memory lets through beyond it is left out from its old end, but for the newest
            turn; `MemoryPolicy(window=token_limit)` has it folded instead.

    Raises:
        ConfigError: if a part is missing or the limit below 1.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> from llama_index.core.chat_engine import SimpleChatEngine
        >>> from llama_index.core.llms import MockLLM
        >>> chat = RollingSummaryMemory.from_defaults(
        ...     memory=ConversationMemory(MemoryConversations(), model="gpt-4o"),
        ...     conversation=Conversation(id="42", user="ada"),
        ... )
        >>> engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=chat)
        >>> _ = engine.chat("Do you ship to Malta?")
        >>> [message.content for message in chat.get_all()][0]
        'Do you ship to Malta?'
    """

    memory: Any = Field(default=None, exclude=True, description="A ConversationMemory.")
    conversation: Conversation
    token_limit: int = TOKEN_LIMIT

    # What `get` returned last and was said since, for a request whose store fails.
    _shown: list[Message] = PrivateAttr(default_factory=list)
    # What the store did not take: whether it stands for the whole conversation, and messages.
    _unsaved: deque[tuple[bool, tuple[Message, ...]]] = PrivateAttr(default_factory=deque)

    def __bool__(self) -> bool:
        """Tell whether it can be used; agents ask a workflow's context that was read back."""
        return self.memory is not None

    @classmethod
    def class_name(cls) -> str:
        """Return the name that it is written down with."""
        return "RollingSummaryMemory"

    @classmethod
    def from_defaults(
        cls,
        *,
        memory: ConversationMemory | None = None,
        conversation: Conversation | None = None,
        token_limit: int = TOKEN_LIMIT,
        chat_history: Sequence[ChatMessage] | None = None,
        **others: Any,
    ) -> "RollingSummaryMemory":
        """Make one; `chat_history` is the conversation from now on, as for `set`."""
        unknown = sorted(set(others) - {"llm"})  # engines offer theirs
        if unknown:
            raise ConfigError(f"RollingSummaryMemory has no setting {unknown[0]!r}.")
        if not isinstance(conversation, Conversation):
            raise ConfigError(
                "a memory must know which conversation it is: give "
                "conversation=Conversation(id=..., tenant=..., user=...)."
            )
        if token_limit < 1:
            raise ConfigError(f"token_limit must be at least 1, got {token_limit}.")
        made = cls(memory=checked(memory), conversation=conversation, token_limit=token_limit)
        if chat_history is not None:
            made.set(list(chat_history))
        return made

    def get(
        self,
        input: str | ChatMessage | None = None,  # noqa: A002 - LlamaIndex's signature
        initial_token_count: int = 0,
        **_: Any,
    ) -> list[ChatMessage]:
        """Return what of the conversation goes into the next prompt.

        Args:
            input: The question that old messages are recalled for; by default the newest one.
            initial_token_count: Tokens that come before it in every prompt.
        """
        return run(self._get(question_of(input), initial_token_count))

    async def aget(
        self,
        input: str | ChatMessage | None = None,  # noqa: A002
        initial_token_count: int = 0,
        **_: Any,
    ) -> list[ChatMessage]:
        """Do what `get` does, without blocking the event loop."""
        return await arun(self._get(question_of(input), initial_token_count))

    def get_all(self) -> list[ChatMessage]:
        """Return every message that was said, word for word.

        Raises:
            StoreError: if the store cannot be read.
        """
        return run(self._get_all())

    async def aget_all(self) -> list[ChatMessage]:
        """Do what `get_all` does, without blocking the event loop."""
        return await arun(self._get_all())

    def put(self, message: ChatMessage) -> None:
        """Store a new message."""
        run(self._put([message]))

    async def aput(self, message: ChatMessage) -> None:
        """Do what `put` does, without blocking the event loop."""
        await arun(self._put([message]))

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Store new messages, all or none: tool calls and their results are not torn apart."""
        run(self._put(messages))

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Do what `put_messages` does, without blocking the event loop."""
        await arun(self._put(messages))

    def set(self, messages: list[ChatMessage]) -> None:
        """Say what the conversation is from now on.

        A history that goes on from the stored one, or from somewhere within it, adds what is new.
        One that differs replaces it from the first difference on. What `get` returned may be handed
        back: no summary is taken for something said.
        """
        run(self._set(messages))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Do what `set` does, without blocking the event loop."""
        await arun(self._set(messages))

    def reset(self) -> None:
        """Delete the conversation, its messages and its summary.

        Raises:
            StoreError: if the store cannot delete it.
        """
        run(self._reset())

    async def areset(self) -> None:
        """Do what `reset` does, without blocking the event loop."""
        await arun(self._reset())

    # --- written once for both ----------------------------------------------------------------

    def _get(self, question: str, before: int) -> Flow[list[ChatMessage]]:
        memory = checked(self.memory)
        yield from self._save()
        system = yield from system_in(memory, self.conversation)
        view = yield from call(
            memory.view, self.conversation, system, question=question, before=before
        )
        if view.reason == "error":
            return [*map(restored, fitted(self._shown, self.token_limit))]
        waiting = [one for _, messages in self._unsaved for one in messages]
        prompt = [*_ordered(view), *waiting]
        self._shown = [*_ordered(replace(view, recalled=())), *waiting]
        if view.reason != "holdout" and tokens_in(prompt) > self.token_limit:
            prompt = fitted(self._shown, self.token_limit)
        return [*map(restored, prompt)]

    def _get_all(self) -> Flow[list[ChatMessage]]:
        store = checked(self.memory).store
        yield from self._save()
        system = yield from call(store.messages, _system_of(self.conversation))
        turns = yield from call(store.messages, self.conversation)
        waiting = [one for _, messages in self._unsaved for one in messages]
        return [*map(restored, (*system, *turns, *waiting))]

    def _put(self, messages: Sequence[ChatMessage]) -> Flow[None]:
        checked(self.memory)
        given = _messages(messages)
        self._shown += given
        self._unsaved.append((False, given))
        yield from self._save()

    def _set(self, messages: Sequence[ChatMessage]) -> Flow[None]:
        checked(self.memory)
        given = _messages(messages)
        self._shown = list(given)
        self._unsaved.clear()
        self._unsaved.append((True, given))
        yield from self._save()

    def _reset(self) -> Flow[None]:
        store = checked(self.memory).store
        self._unsaved.clear()
        self._shown = []
        for one in (self.conversation, _system_of(self.conversation)):
            yield from call(store.delete, conversation=one)

    def _save(self) -> Flow[None]:
        """Store what is not stored yet; what the store does not take waits here for its time."""
        while self._unsaved:
            whole, given = self._unsaved.popleft()  # so that no other thread stores it too
            try:
                if whole:
                    yield from self._replace(given)
                else:
                    yield from append(self.memory, self.conversation, given)
            except BaseException as error:
                self._unsaved.appendleft((whole, given))
                if isinstance(error, ConfigError) or not isinstance(error, Exception):
                    raise
                passed_over(error)
                return

    def _replace(self, given: Sequence[Message]) -> Flow[None]:
        store, conversation = self.memory.store, self.conversation
        said_now = [one for one in given if one.role == "system"]
        system = yield from call(store.messages, _system_of(conversation))
        if [*map(said, system)] != [*map(said, said_now)]:
            yield from call(store.delete, conversation=_system_of(conversation))
            yield from append(self.memory, conversation, said_now)
        stored = yield from call(store.messages, conversation)
        history = _continued(stored, [one for one in given if one.role != "system"])
        if history[: len(stored)] == tuple(stored):
            yield from append(self.memory, conversation, history[len(stored) :])
            return
        found = yield from call(store.summary, conversation)
        yield from call(store.delete, conversation=conversation)
        yield from append(self.memory, conversation, history)
        summary = standing(found, history)
        if summary.folded:
            yield from call(store.replace, conversation, summary, version=0)


def checked(memory: object) -> ConversationMemory:
    """Return a memory.

    Raises:
        ConfigError: if it is none.
    """
    if isinstance(memory, ConversationMemory):
        return memory
    raise ConfigError(
        f"memory must be a ConversationMemory, got {type(memory).__name__}. It is not written "
        "down; give it again, by from_dict(data, memory=...) or agent.run(ctx=..., memory=...)."
    )


def append(
    memory: ConversationMemory, conversation: Conversation, messages: Sequence[Message]
) -> Flow[None]:
    """Store new messages, system messages among them.

    Raises:
        StoreError: if the store cannot take them.
    """
    if system := [one for one in messages if one.role == "system"]:
        yield from call(memory.store.append, _system_of(conversation), system)
    if turns := [one for one in messages if one.role != "system"]:
        yield from call(memory.add, conversation, turns)


def system_in(memory: ConversationMemory, conversation: Conversation) -> Flow[list[Message]]:
    """Return a conversation's system messages; none where the store fails, as the view will."""
    try:
        return (yield from call(memory.store.messages, _system_of(conversation)))
    except Exception as error:  # noqa: BLE001 - the view meets it too, and counts it
        passed_over(error)
        return []


def added(stored: Sequence[Message], given: Sequence[Message]) -> int:
    """Return how many of the messages given the stored ones end with."""
    old, new = [said(one) for one in stored], [said(one) for one in given]
    most = min(len(old), len(new))
    return next((n for n in range(most, 0, -1) if old[len(old) - n :] == new[:n]), 0)


def _system_of(conversation: Conversation) -> Conversation:
    # A memory folds whatever it stores, and system messages must stay as they are.
    return replace(conversation, id=f"{conversation.id}/system")


def _ordered(view: MemoryView) -> list[Message]:
    """Return a view's messages in order, for a question that may stand after them."""
    recalled = view.recalled_message
    if recalled is None or (view.kept and view.kept[-1].role != "assistant"):
        return list(view.messages)
    return [*replace(view, recalled=()).messages, recalled]


def fitted(messages: Sequence[Message], limit: int, *, newest: bool = True) -> list[Message]:
    """Return as many of the newest messages as fit, whole turns, after system and summary.

    Args:
        messages: In order.
        limit: Tokens of all together.
        newest: Whether the newest turn stays whatever it has, and the summary goes before it.

    Example:
        >>> talk = [Message(role="user", text="", tokens=7, id=str(turn)) for turn in range(9)]
        >>> [one.id for one in fitted(talk, 20)]
        ['7', '8']
    """
    stays = [one.role == "system" or one.id in OWN_IDS for one in messages]
    head = stays.index(False) if False in stays else len(messages)
    body = messages[head:]
    left, start = tokens_in(messages), 0
    for border in (*borders(body), *(() if newest else (len(body),))):
        if left <= limit:
            break
        left -= tokens_in(body[start:border])
        start = border
    before = messages[:head]
    if newest and left > limit:
        before = [one for one in before if one.role == "system"]
    return [*before, *body[start:]]


def tokens_in(messages: Sequence[Message]) -> int:
    """Return what messages cost in a prompt."""
    return sum(one.tokens or count_tokens(one.text).tokens for one in messages)


def _messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    given = (as_message(one) for one in messages if not is_own(one))
    return tuple(replace(one, id=uuid.uuid4().hex) for one in given)


def _continued(stored: Sequence[Message], given: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation that a history stands for, known messages with their ids.

    A history that begins as the stored one is all of it; one that begins as its end is what was
    left after somebody cut off the rest.
    """
    old, new = [said(one) for one in stored], [said(one) for one in given]
    most = min(len(old), len(new))
    same = next((at for at in range(most) if old[at] != new[at]), most)
    if same:
        return (*stored[:same], *given[same:])
    again = added(stored, given)
    return (*stored, *given[again:]) if again else tuple(given)


def passed_over(error: Exception) -> None:
    """Log a fault of the store that a conversation goes on without."""
    # Never its text, which may quote what somebody said.
    _log.warning("conversation memory: the store failed with %s", type(error).__name__)
