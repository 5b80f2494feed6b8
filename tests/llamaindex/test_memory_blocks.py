"""`RollingSummaryBlock` and `RecallBlock` in LlamaIndex's own `Memory`."""

import asyncio
from itertools import pairwise

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import InsertMethod, Memory
from pydantic import ValidationError

from costwise_core import Conversation, MemoryConversations, scoped
from costwise_core.errors import ConfigError, StoreError
from costwise_core.memory.view import MemoryView
from costwise_core.testing.fakes import HashingEmbedder
from llamaindex_costwise import RecallBlock, RollingSummaryBlock, track
from llamaindex_costwise._messages import as_message
from llamaindex_costwise.memory import tokens_in
from tests.llamaindex.fakes import deprecations
from tests.llamaindex.remembering import (
    FILLER,
    SAID,
    SEARCH,
    Recorder,
    Shelf,
    memory_of,
    question,
    texts,
)

# LlamaIndex's synchronous methods open event loops that they never close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CHAT = Conversation(id="42")


def blocks_of(memory=None, **settings):
    rolling = RollingSummaryBlock(memory=memory or memory_of(), **settings)
    return [rolling, RecallBlock(beside=rolling)]


def queue(blocks, session="42", **settings):
    settings = {"token_limit": 900, "token_flush_size": 200, "chat_store": Shelf(), **settings}
    return Memory.from_defaults(
        session_id=session, memory_blocks=blocks, insert_method=InsertMethod.USER, **settings
    )


def flushed(session="42", turns=1, start=0, about="the trip"):
    """Return messages as `Memory` hands them to a block."""
    return [
        ChatMessage(role=role, content=text, additional_kwargs={"session_id": session})
        for turn in range(start, start + turns)
        for role, text in (
            ("user", question(turn, about)),
            ("assistant", f"Answer {turn}. {FILLER} {FILLER}."),
        )
    ]


class Faulty(MemoryConversations):
    """Fails while it is told to."""

    broken = False

    def messages(self, conversation, *, start=0, stop=None):
        if self.broken:
            raise StoreError("no space left on device")
        return super().messages(conversation, start=start, stop=stop)


# --- in a Memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["chat", "achat"])
async def test_what_leaves_the_queue_is_stored_and_folded(how):
    llm, memory = Recorder(), memory_of()
    engine = SimpleChatEngine.from_defaults(
        llm=llm, memory=queue(blocks_of(memory)), system_prompt="Be kind."
    )
    for turn in range(24):
        if how == "chat":
            await asyncio.to_thread(engine.chat, question(turn))
        else:
            await engine.achat(question(turn))
    stored = [one.text for one in memory.store.messages(CHAT)]
    waiting = [one.content for one in await engine._memory.sql_store.get_messages("42")]
    said = [one for one in [*stored, *waiting] if one.startswith("Question")]
    assert said == [*dict.fromkeys(said)]
    assert set(said) == {question(turn) for turn in range(24)}
    last = texts(llm.prompts[-1])
    # The static prompt first, then the summary, then what stays as it is.
    assert last[0] == "Be kind."
    assert SAID in last[1]
    assert last[-1].endswith(question(23))
    assert len(last) < 20
    assert memory.stats.errors == {}


def test_a_prompt_only_grows_at_its_end_until_the_queue_is_flushed():
    llm, memory = Recorder(), memory_of()
    rolling = RollingSummaryBlock(memory=memory)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=queue([rolling]), system_prompt="Kind.")
    stored = []
    for turn in range(24):
        engine.chat(question(turn))
        stored.append(len(memory.store.messages(CHAT)))
    prompts = [texts(one) for one in llm.prompts]
    broken = [after[: len(before)] != before for before, after in pairwise(prompts)]
    # What an answer flushed, the next prompt shows.
    folds = sum(memory.stats.folds.values())
    assert 0 < sum(broken) <= folds + len(set(stored))
    assert len(set(stored)) < 24


def test_nothing_stands_twice_in_a_prompt():
    llm = Recorder()
    memory = memory_of(embedder=HashingEmbedder())
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=queue(blocks_of(memory)))
    for turn in range(20):
        engine.chat(question(turn, about=f"thing{turn}"))
    for prompt in llm.prompts:
        whole = "\n".join(texts(prompt))
        for turn in range(20):
            assert whole.count(question(turn, about=f"thing{turn}")) <= 1


def test_old_messages_are_recalled_next_to_the_question():
    llm, memory = Recorder(), memory_of(embedder=HashingEmbedder())
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=queue(blocks_of(memory)))
    engine.chat("My cat is called Przemek the Great.")
    for turn in range(24):
        engine.chat(question(turn))
    engine.chat("What is my cat Przemek called?")
    *before, last = texts(llm.prompts[-1])
    assert "Przemek the Great" in last
    assert "<earlier_messages>" in last
    assert last.endswith("What is my cat Przemek called?")
    assert not any("<earlier_messages>" in text for text in before)


def test_one_block_serves_all_sessions_and_mixes_none():
    llm, memory = Recorder(), memory_of()
    shared = blocks_of(memory)
    queues = {name: queue(shared, name) for name in ("ada", "bob", "eve")}
    for turn in range(14):
        for name, one in queues.items():
            engine = SimpleChatEngine.from_defaults(llm=llm, memory=one)
            engine.chat(question(turn, about=f"{name}'s secret"))
    for name, one in queues.items():
        whole = "".join(texts(one.get()))
        kept = "".join(m.text for m in memory.store.messages(Conversation(id=name)))
        for other in queues:
            assert (f"{other}'s secret" in whole + kept) == (other == name)


async def test_sessions_at_the_same_time():
    memory = memory_of()
    shared = blocks_of(memory)

    async def chat(name):
        one = queue(shared, name)
        for turn in range(10):
            await one.aput(ChatMessage(role="user", content=question(turn, f"{name}'s secret")))
            await one.aget()
            await one.aput(ChatMessage(role="assistant", content="Well."))
        return "".join(texts(await one.aget()))

    names = [f"user{n:02}" for n in range(12)]
    found = await asyncio.gather(*map(chat, names))
    for name, whole in zip(names, found, strict=True):
        assert all((f"{other}'s secret" in whole) == (other == name) for other in names)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_tenants_with_the_same_session_id(tenant):
    rolling, _ = blocks_of(memory_of())
    for name in ("acme", "globex"):
        with scoped(tenant=name):
            await rolling.aput(flushed(about=name))
    with scoped(tenant=tenant):
        found = "".join(texts(await rolling.aget([], session_id="42")))
    assert tenant in found
    assert len(found) < 2 * len(question(0)) + 300
    assert await rolling.aget([], session_id="42") == []


async def test_whose_session_it_is_can_be_told():
    rolling, recall = blocks_of(
        memory := memory_of(), conversation=lambda session: Conversation(id=session, user="ada")
    )
    await rolling.aput(flushed())
    assert len(memory.store.messages(Conversation(id="42", user="ada"))) == 2
    assert len(await rolling.aget(session_id="42")) == 2
    assert await recall.aget(session_id="42") == ""


@deprecations
async def test_an_agents_calls_and_results_stay_together():
    llm, memory = Recorder(at_once=2), memory_of()
    one = queue(blocks_of(memory), token_limit=600, token_flush_size=100)
    for turn in range(10):
        agent = FunctionAgent(tools=[SEARCH], llm=llm, streaming=False)
        assert "Found seven" in str(await agent.run(question(turn), memory=one))
    roles = [stored.role for stored in memory.store.messages(CHAT)]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"] * (len(roles) // 5)
    assert len(roles) > 20


def test_the_saving_is_on_the_bill():
    llm = Recorder(model="gpt-4o")
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=queue(blocks_of()))
    with track() as bill:
        for turn in range(24):
            engine.chat(question(turn))
    assert set(bill.savings) == {"memory"}
    assert bill.savings["memory"] > 0


def test_the_hold_out_reads_all_of_it():
    llm = Recorder()
    engine = SimpleChatEngine.from_defaults(
        llm=llm, memory=queue(blocks_of(token_limit=100), token_limit=3_000, token_flush_size=200)
    )
    for turn in range(30):
        engine.chat(question(turn))
    with scoped(unoptimised=True):
        engine.chat(question(30))
    sent = "\n".join(texts(llm.prompts[-1]))
    assert all(question(turn) in sent for turn in range(31))


# --- a block by itself ----------------------------------------------------------------------------


async def test_a_repeated_flush_stores_nothing_twice():
    rolling, _ = blocks_of(memory := memory_of())
    await rolling.aput(flushed(turns=3))
    await rolling.aput(flushed(turns=3))
    await rolling.aput(flushed(turns=2, start=2))
    assert len(memory.store.messages(CHAT)) == 8
    # Two replicas at once.
    other, _ = blocks_of(memory)
    await asyncio.gather(
        *(one.aput(flushed(turns=2, start=10)) for one in (rolling, other, rolling))
    )
    assert len(memory.store.messages(CHAT)) == 12


async def test_what_is_said_twice_is_stored_twice():
    rolling, _ = blocks_of(memory := memory_of())
    hello = [
        ChatMessage(role=role, content=text, additional_kwargs={"session_id": "42"})
        for role, text in (("user", "Hi."), ("assistant", "Hello."))
    ]
    await rolling.aput([*hello, *hello])
    await rolling.aput(flushed())
    await rolling.aput(hello)
    assert [one.text for one in memory.store.messages(CHAT)].count("Hi.") == 3


async def test_without_a_session_nobody_knows_whose_it_is():
    for block in blocks_of():
        with pytest.raises(ConfigError, match="which session"):
            await block.aget([])
    with pytest.raises(ConfigError, match="which session"):
        await blocks_of()[0].aput([ChatMessage(role="user", content="Hi.")])


async def test_several_sessions_in_one_flush():
    rolling, _ = blocks_of(memory := memory_of())
    await rolling.aput([*flushed("1"), *flushed("2"), *flushed("1", start=1)])
    assert len(memory.store.messages(Conversation(id="1"))) == 4
    assert len(memory.store.messages(Conversation(id="2"))) == 2


async def test_a_store_that_fails_loses_nothing():
    store = Faulty()
    rolling, recall = blocks_of(memory_of(store))
    store.broken = True
    await rolling.aput(flushed())
    await rolling.aput(flushed(start=1))
    found = await rolling.aget([], session_id="42")
    assert texts(found)[::2] == [question(0), question(1)]
    assert await recall.aget([], session_id="42") == ""
    assert await rolling.aget([], session_id="43") == []
    store.broken = False
    assert await rolling.aget([], session_id="42") == found
    assert len(store.messages(CHAT)) == 4


async def test_a_system_message_that_leaves_the_queue_stays_first():
    rolling, _ = blocks_of()
    rules = ChatMessage(role="system", content="Be kind.", additional_kwargs={"session_id": "42"})
    await rolling.aput([rules, *flushed(turns=12)])
    for _ in range(3):
        found = await rolling.aget([ChatMessage(role="user", content="And?")], session_id="42")
        assert texts(found)[0] == "Be kind."


async def test_the_limit_holds():
    rolling = RollingSummaryBlock(memory=memory_of(prices=None), token_limit=300)
    await rolling.aput(flushed(turns=12))
    found = await rolling.aget([], session_id="42")
    assert tokens_in([as_message(one) for one in found]) <= 300
    assert found[-1].content.startswith("Answer 11")


async def test_truncating_takes_the_oldest_turns_and_last_the_summary():
    rolling, _ = blocks_of()
    summary = MemoryView(kept=(), summary=SAID).summary_message
    content = [ChatMessage(role="user", content=summary.text), *flushed(turns=3)]
    sizes = [tokens_in([as_message(one)]) for one in content]
    assert await rolling.atruncate(content, 0) == content
    assert await rolling.atruncate(content, 1) == [content[0], *content[3:]]
    assert await rolling.atruncate(content, sum(sizes[1:4])) == [content[0], *content[5:]]
    assert await rolling.atruncate(content, sum(sizes[1:])) == content[:1]
    assert await rolling.atruncate(content, sum(sizes)) is None
    assert await rolling.atruncate([], 5) is None


async def test_a_memory_truncates_its_blocks():
    rolling = RollingSummaryBlock(memory=memory_of(prices=None), priority=1)
    one = Memory.from_defaults(
        session_id="42",
        memory_blocks=[rolling],
        token_limit=700,
        token_flush_size=150,
        chat_store=Shelf(),
    )
    for turn in range(14):
        await one.aput(ChatMessage(role="user", content=question(turn)))
        await one.aput(ChatMessage(role="assistant", content=FILLER))
    found = await one.aget()
    assert tokens_in([as_message(message) for message in found]) <= 750
    assert found[0].role == "user"


def test_what_is_wrong_is_said():
    with pytest.raises(ValidationError, match="ConversationMemory"):
        RollingSummaryBlock(memory=None)
    with pytest.raises(ValidationError):
        RollingSummaryBlock(memory=memory_of(), token_limit=0)
