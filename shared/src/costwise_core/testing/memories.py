"""The contract of a conversation's memory before a model, in whichever framework, for pytest.

A subclass says how an app is made around a memory and how it is spoken to; everything else is here.
Used for costwise's own classes of LangChain and LlamaIndex, and for any wrapper of another package.
"""

# ruff: noqa: S101 - these are tests, shipped

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import pytest

from costwise_core.context import scoped
from costwise_core.errors import StoreError
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation, Message
from costwise_core.memory.plan import MemoryPolicy
from costwise_core.memory.stores.memory import MemoryConversations
from costwise_core.testing.fakes import HashingEmbedder, ScriptedCompleter

__all__ = ["ChatUnderTest", "ConversationMemoryContract"]

SUMMARY = "They spoke of the sea."
FACT = "My cat is called Przemek the Great."
ASKS = "What is my cat Przemek called?"
TURNS = 16

Prompt = Sequence[tuple[str, str]]


class ChatUnderTest(Protocol):
    """An app around a model and a memory."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Every prompt that the model was sent, as (role, text) of each message.

        Roles are "system", "user", "assistant" and "tool".
        """
        ...

    def say(self, conversation: str, text: str, *, tenant: str = "") -> str:
        """Say something in a conversation and return the model's answer."""
        ...

    async def asay(self, conversation: str, text: str, *, tenant: str = "") -> str:
        """Do what `say` does, through the framework's asynchronous methods."""
        ...


class ConversationMemoryContract:
    """Subclass it, say how an app is made, and pytest runs the contract."""

    tools = True
    """Whether an app can be made whose model calls a tool before each answer."""

    whole = True
    """Whether what is said is in the memory's store as soon as it is said."""

    def make_app(self, memory: ConversationMemory, *, tools: bool = False) -> Any:
        """Return an app around this memory and a new model whose answers differ.

        Its conversations are `Conversation(id=conversation, tenant=tenant)`.

        Args:
            memory: Stores and decides.
            tools: Whether the model calls a tool before each answer.
        """
        raise NotImplementedError

    @pytest.fixture
    def memory(self) -> ConversationMemory:
        """A memory that folds soon, and before it answers."""
        return _memory(MemoryConversations())

    @pytest.fixture
    def app(self, memory: ConversationMemory) -> Any:
        """The app under test."""
        return self.make_app(memory)

    def test_every_turn_is_kept(self, app: ChatUnderTest, memory: ConversationMemory) -> None:
        """The store has all that was said, in order and once, however short the prompts are."""
        said = []
        for turn in range(TURNS):
            said += [_ask(turn), app.say("42", _ask(turn))]
        stored = _stored(memory, "42")
        assert stored == said[: len(stored)]
        # An app may store an answer with the turn after it, and keep the newest turns itself.
        assert len(stored) >= (len(said) - 1 if self.whole else len(said) // 2)
        assert memory.stats.errors == {}

    def test_prompts_are_short_and_end_with_the_question(
        self, app: ChatUnderTest, memory: ConversationMemory
    ) -> None:
        """A summary stands for what is old, the newest turns stay, and the model is asked last."""
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        last = app.prompts[-1]
        assert memory.stats.folds
        assert memory.stats.tokens_left_out > 0
        assert last[-1][0] == "user"
        assert last[-1][1].endswith(_ask(TURNS - 1))
        assert any(SUMMARY in text for _, text in last)
        assert not any(_ask(0) in text for _, text in last)

    def test_what_is_kept_begins_with_a_question(self, app: ChatUnderTest) -> None:
        """A fold never leaves an answer without what was asked."""
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        for prompt in app.prompts:
            roles = [role for role, text in prompt if role != "system" and SUMMARY not in text]
            assert roles[0] == "user"

    def test_a_prompt_only_grows_at_its_end_between_folds(
        self, app: ChatUnderTest, memory: ConversationMemory
    ) -> None:
        """A provider's cache goes on reading a prompt until a summary is written anew."""
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        steps = pairwise(app.prompts)
        broken = sum(list(after[: len(before)]) != list(before) for before, after in steps)
        changes = sum(memory.stats.folds.values())
        if not self.whole:  # what leaves the app's own queue moves too
            changes += len(app.prompts) // 2
        assert broken <= changes < TURNS

    def test_conversations_and_tenants_stay_apart(
        self, app: ChatUnderTest, memory: ConversationMemory
    ) -> None:
        """Nobody reads another's words, whatever the ids are."""
        whose = [("42", "acme"), ("42", "globex"), ("43", "acme")]
        for turn in range(TURNS):
            for chat, tenant in whose:
                app.say(chat, f"{chat} of {tenant}: {_ask(turn)}", tenant=tenant)
        for n, prompt in enumerate(app.prompts):
            chat, tenant = whose[n % len(whose)]
            for other, its in whose:
                found = any(f"{other} of {its}: " in text for _, text in prompt)
                assert found == ((other, its) == (chat, tenant))
        for chat, tenant in whose:
            asked = _stored(memory, chat, tenant)[::2]
            assert asked
            assert all(text.startswith(f"{chat} of {tenant}: ") for text in asked)

    def test_an_old_fact_is_recalled_for_its_question(self, app: ChatUnderTest) -> None:
        """What a summary left out comes back word for word, when it is asked for."""
        app.say("42", FACT)
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        assert not any(FACT in text for _, text in app.prompts[-1])
        app.say("42", ASKS)
        assert any("Przemek the Great" in text for _, text in app.prompts[-1])

    def test_a_broken_store_costs_money_and_nothing_else(self) -> None:
        """The memory fails open: all that is known is sent, and the model answers."""
        memory = _memory(_Broken())
        app = self.make_app(memory)
        assert app.say("42", "Hello.")
        assert app.say("42", "And now?")
        assert app.prompts[-1][-1][1].endswith("And now?")
        assert memory.stats.errors

    def test_a_summariser_that_fails_costs_nothing_either(self) -> None:
        """Sentences of the old messages stand for them, or the messages themselves do."""
        memory = _memory(MemoryConversations(), summariser=ScriptedCompleter([OSError("no line")]))
        app = self.make_app(memory)
        for turn in range(TURNS):
            assert app.say("42", _ask(turn))
        assert memory.stats.errors == {"OSError": memory.stats.errors["OSError"]}

    def test_the_hold_out_reads_all_of_it(self, app: ChatUnderTest) -> None:
        """Requests without savings are what savings are measured against."""
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        with scoped(unoptimised=True):
            app.say("42", _ask(TURNS))
        sent = [text for _, text in app.prompts[-1]]
        assert all(any(_ask(turn) in text for text in sent) for turn in range(TURNS + 1))
        assert not any(SUMMARY in text for text in sent)

    def test_a_tools_result_stays_with_its_call(self, memory: ConversationMemory) -> None:
        """Providers refuse a result without the call before it."""
        if not self.tools:
            pytest.skip("the app has no tools")
        app = self.make_app(memory, tools=True)
        for turn in range(TURNS):
            app.say("42", _ask(turn))
        assert any(role == "tool" for role, _ in app.prompts[-1])
        for prompt in app.prompts:
            roles = [role for role, _ in prompt]
            assert all(
                before in ("assistant", "tool")
                for before, role in pairwise(roles)
                if role == "tool"
            )
            assert roles[0] != "tool"

    def test_asynchronous_code_reads_the_same(self, memory: ConversationMemory) -> None:
        """And goes on with what synchronous code stored."""
        sync, away = self.make_app(memory), self.make_app(_memory(MemoryConversations()))

        async def speak() -> list[str]:
            return [await away.asay("42", _ask(turn)) for turn in range(TURNS)]

        answers = asyncio.run(speak())
        assert answers == [sync.say("42", _ask(turn)) for turn in range(TURNS)]
        assert [list(one) for one in away.prompts] == [list(one) for one in sync.prompts]

    def test_chats_at_the_same_time(self, app: ChatUnderTest) -> None:
        """Many of them, each with its own words only."""

        async def chat(name: str) -> None:
            for turn in range(4):
                await app.asay(name, f"{name} asks. {_ask(turn)}")

        async def all_of_them() -> None:
            await asyncio.gather(*(chat(f"chat{n:02}") for n in range(12)))

        asyncio.run(all_of_them())
        assert len(app.prompts) == 48
        for prompt in app.prompts:
            names = {text.partition(" asks. ")[0][-6:] for _, text in prompt if " asks. " in text}
            assert len(names) == 1


class _Broken(MemoryConversations):
    def append(self, *_: Any, **__: Any) -> int:
        raise StoreError("no space left on device")

    def messages(self, *_: Any, **__: Any) -> list[Message]:
        raise StoreError("no space left on device")


def _memory(
    store: MemoryConversations, summariser: ScriptedCompleter | None = None
) -> ConversationMemory:
    return ConversationMemory(
        store,
        summariser=summariser or ScriptedCompleter([SUMMARY]),
        prices=MemoryPrices(
            input=2.5,
            cache_read=2.5,
            cache_write=2.5,
            output=10,
            summary_input=0.15,
            summary_output=0.6,
        ),
        policy=MemoryPolicy(tail_tokens=40, summary_tokens=60),
        embedder=HashingEmbedder(),
        background=False,
    )


def _ask(turn: int) -> str:
    filler = "and then we talked at length of nothing much but the sea the sun the sand and the sky"
    return f"Question {turn:02} about the trip: {' '.join([filler] * 4)}?"


def _stored(memory: ConversationMemory, conversation: str, tenant: str = "") -> list[str]:
    found = memory.store.messages(Conversation(id=conversation, tenant=tenant))
    return [one.text for one in found]
