"""`RollingSummary` and `RollingSummaryHistory` in chains, and what they save on the bill."""

import warnings
from decimal import Decimal
from itertools import pairwise

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver

from costwise_core import (
    Conversation,
    MemoryConversations,
    MemoryPolicy,
    MemoryPrices,
    SQLiteConversations,
    scoped,
)
from costwise_core.errors import ConfigError, StoreError
from costwise_core.holdout import HoldOut
from costwise_core.memory.view import OWN_IDS
from costwise_core.testing.fakes import PRICES, HashingEmbedder, ScriptedCompleter
from langchain_costwise import (
    RollingSummary,
    RollingSummaryHistory,
    RollingSummaryMiddleware,
    as_completer,
    track,
)
from langchain_costwise.testing import ScriptedChatModel
from tests.llama_server import NAME, serve
from tests.remembering import FILLER, Recorder, assert_sound, memory_of, question, texts

THREAD = {"configurable": {"thread_id": "42"}}

CHAT = Conversation(id="42")
SAID = "They spoke of the sea."
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Be kind."), MessagesPlaceholder("history"), ("user", "{question}")]
)
ROUND = MemoryPrices.of(PRICES, "scripted-1", "scripted-1")


@pytest.fixture
def store(tmp_path):
    return SQLiteConversations(tmp_path / "talk.db")


def summarised(store=None, **settings):
    settings.setdefault("summariser", ScriptedCompleter([SAID]))
    return memory_of(store, **settings)


# --- a step in a chain ----------------------------------------------------------------------------


def chatted(chain, turns, config=THREAD):
    """Talk as an application does that keeps the whole history itself."""
    history = []
    for turn in range(turns):
        answer = chain.invoke({"history": history, "question": question(turn)}, config)
        history += [HumanMessage(question(turn)), answer]
    return history


def test_a_chain_is_short_and_the_store_is_whole(store):
    model, memory = Recorder(), summarised(store)
    history = chatted(PROMPT | RollingSummary(memory) | model, 12)
    last = model.prompts[-1]
    assert last[0].text == "Be kind."
    assert SAID in last[1].text
    assert last[-1].text == question(11)
    assert len(last) < 12
    # The last answer comes with the next prompt.
    assert [one.text for one in store.messages(CHAT)] == texts(history)[:-1]
    broken = sum(
        texts(after)[: len(before)] != texts(before) for before, after in pairwise(model.prompts)
    )
    assert broken <= sum(memory.stats.folds.values())


async def test_async_chains_streams_and_every_kind_of_input():
    model, memory = Recorder(), summarised()
    chain = RollingSummary(memory) | model
    assert (await chain.ainvoke("Hi.", THREAD)).text == "This is answer 1."
    said = [chunk.text async for chunk in chain.astream([("user", "And now?")], THREAD)]
    assert "".join(said) == "This is answer 2."
    assert [chunk.text for chunk in chain.stream(HumanMessage("Then?"), THREAD)]
    # Only what is new was handed over, so what was before is remembered.
    assert texts(model.prompts[-1]) == ["Hi.", "And now?", "Then?"]
    shorter = RollingSummary(memory, conversation=CHAT)
    assert texts(await shorter.ainvoke([("user", "Bye.")]))[-1] == "Bye."
    batches = RollingSummary(memory).batch(
        ["a", "b"], [{"configurable": {"session_id": n}} for n in (1, 2)]
    )
    assert [texts(one) for one in batches] == [["a"], ["b"]]


def test_what_it_does_not_shorten_it_hands_on_untouched():
    given = [HumanMessage("Hi."), AIMessage("Ho."), HumanMessage("And?")]
    before = [one.model_copy(deep=True) for one in given]
    prompt = RollingSummary(summarised()).invoke(given, THREAD)
    assert all(one is two for one, two in zip(prompt, given, strict=True))
    assert given == before


def test_a_chain_must_say_whose_it_is():
    with pytest.raises(ConfigError, match="thread_id"):
        RollingSummary(summarised()).invoke("Hi.")
    with pytest.raises(ConfigError, match="ConversationMemory"):
        RollingSummary(None)
    memory = summarised()
    with scoped(tenant="acme"):
        RollingSummary(memory).invoke("Hi.", {"configurable": {"thread_id": 1, "user_id": "ada"}})
    assert list(memory.store.conversations()) == [Conversation(id="1", tenant="acme", user="ada")]


def test_the_config_may_ask_for_the_whole_history():
    model, memory = Recorder(), summarised()
    chain = PROMPT | RollingSummary(memory) | model
    history = chatted(chain, 10)
    whole = {"configurable": {"thread_id": "42", "costwise": {"unoptimised": True}}}
    chain.invoke({"history": history, "question": "All?"}, whole)
    assert texts(model.prompts[-1]) == ["Be kind.", *texts(history), "All?"]
    assert memory.stats.views["holdout"] == 1


# --- a chat history -------------------------------------------------------------------------------


def remembered(memory, model, *, keyed):
    def history(session_id):
        return RollingSummaryHistory(memory, Conversation(id=session_id))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and widely used
        if keyed:
            return RunnableWithMessageHistory(
                PROMPT | model,
                history,
                input_messages_key="question",
                history_messages_key="history",
            )
        return RunnableWithMessageHistory(model, history)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_a_history_is_short_to_read_and_whole_in_the_store(store, keyed, background):
    model, memory = Recorder(), summarised(store, background=background)
    chain = remembered(memory, model, keyed=keyed)
    config = {"configurable": {"session_id": "42"}}
    for turn in range(16):
        given = {"question": question(turn)} if keyed else [HumanMessage(question(turn))]
        chain.invoke(given, config)
        memory.wait(5)
    stored = [one.text for one in store.messages(CHAT)]
    assert [text for text in stored if text.startswith("Question")] == [
        question(n) for n in range(16)
    ]
    # A fold in between makes what LangChain reads a second time shorter; nothing is stored twice.
    assert len(stored) == 32
    assert len(model.prompts[-1]) < 16
    assert SAID in texts(model.prompts[-1])[int(keyed)]
    assert model.prompts[-1][-1].text == question(15)


async def test_the_same_twice_is_said_twice_and_clear_forgets():
    memory = summarised(embedder=HashingEmbedder())
    one = RollingSummaryHistory(memory, CHAT)
    other = RollingSummaryHistory(memory, Conversation(id="42", user="bob"))
    await one.aadd_messages([HumanMessage("ok"), AIMessage("ok"), HumanMessage("ok")])
    one.add_messages([HumanMessage("ok")])
    other.add_user_message("Mine.")
    found = await one.aget_messages()
    assert texts(found) == ["ok"] * 4
    assert found == one.messages
    one.add_messages(found)  # their ids are known now
    assert len(one.messages) == 4
    await one.aclear()
    assert one.messages == []
    assert texts(other.messages) == ["Mine."]
    other.clear()
    assert list(memory.store.conversations()) == []


def test_what_a_history_cannot_store_it_refuses():
    class Full(MemoryConversations):
        def append(self, conversation, messages):
            raise StoreError("no space left on device")

    history = RollingSummaryHistory(summarised(Full()), CHAT)
    with pytest.raises(StoreError):
        history.add_user_message("Hi.")
    with pytest.raises(ConfigError, match="ConversationMemory"):
        RollingSummaryHistory(None, CHAT)


def test_calls_and_results_come_back_from_a_history(store):
    history = RollingSummaryHistory(summarised(store), CHAT)
    model = Recorder(at_once=2)
    tools = [{"name": "search", "parameters": {"properties": {"query": {"type": "string"}}}}]
    for turn in range(6):
        asked = HumanMessage(question(turn))
        calls = model.bind_tools(tools).invoke([*history.messages, asked])
        told = [
            {"role": "tool", "content": FILLER, "tool_call_id": one["id"]}
            for one in calls.tool_calls
        ]
        prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("all")])
        results = prompt.invoke({"all": told}).to_messages()
        answer = model.invoke([*history.messages, asked, calls, *results])
        history.add_messages([asked, calls, *results, answer])
    found = history.messages
    assert_sound(found)
    assert found[0].id in OWN_IDS
    assert any(one.tool_calls for one in found if isinstance(one, AIMessage))


# --- the bill -------------------------------------------------------------------------------------


def test_a_chain_writes_its_saving_and_the_summarys_cost_on_the_bill():
    model = Recorder(model_name="scripted-1")
    writer = ScriptedChatModel(model_name="scripted-1", script={})
    memory = summarised(
        summariser=as_completer(writer), prices=ROUND, tokens=lambda text: len(text.split())
    )
    with track(prices=PRICES) as bill:
        history = chatted(PROMPT | RollingSummary(memory) | model, 30)
    assert writer.asked
    assert bill.calls == 30
    # Two dollars a million words written, one for those read.
    read = sum(len(prompt.split()) for prompt in writer.asked)
    assert bill.overhead == pytest.approx(Decimal(read + 2 * 4 * len(writer.asked)) / 10**6)
    # What the same talk costs with all of it in every prompt, in the same words.
    with track(prices=PRICES) as whole:
        for at in range(0, len(history), 2):
            model.invoke([("system", "Be kind."), *history[: at + 1]])
    paid = bill.usd - bill.overhead
    assert bill.savings["memory"] == pytest.approx(whole.usd - paid, rel=Decimal("0.02"))
    assert bill.usd < whole.usd


@pytest.mark.parametrize("background", [True, False])
async def test_an_agent_writes_them_too(background):
    model = Recorder(model_name="scripted-1")
    writer = ScriptedChatModel(model_name="scripted-1")
    memory = summarised(
        summariser=as_completer(writer),
        prices=ROUND,
        tokens=lambda text: len(text.split()),
        background=background,
    )
    middleware = [RollingSummaryMiddleware(memory)]
    agent = create_agent(model, middleware=middleware, checkpointer=InMemorySaver())
    shown = []
    with track(prices=PRICES) as bill:
        for turn in range(30):
            stream = agent.astream(
                {"messages": [("user", question(turn))]}, THREAD, stream_mode="messages"
            )
            shown += [chunk.text async for chunk, _ in stream]
        assert await memory.await_(10)
    assert writer.asked
    assert bill.savings["memory"] > bill.overhead > 0
    # Whoever streams the agent is not shown the summary being written.
    assert "".join(shown).count("This is answer") == 30


def test_a_holdout_sends_the_whole_history():
    model, memory = Recorder(model_name="scripted-1"), summarised()
    chain = PROMPT | RollingSummary(memory) | model
    history = chatted(chain, 10)
    with track(prices=PRICES, holdout=HoldOut(share=1.0)) as bill:
        chain.invoke({"history": history, "question": "All?"}, THREAD)
    assert texts(model.prompts[-1]) == ["Be kind.", *texts(history), "All?"]
    assert "memory" not in bill.savings


# --- a real model ---------------------------------------------------------------------------------


def test_a_real_small_model_writes_the_summary(store):
    openai = pytest.importorskip("langchain_openai")
    small = openai.ChatOpenAI(
        model=NAME, base_url=serve(), api_key="none", temperature=0, max_tokens=80
    )
    policy = MemoryPolicy(tail_tokens=40, summary_tokens=120)
    memory = memory_of(store, summariser=as_completer(small), policy=policy)
    model = Recorder()
    facts = ["My name is Zoe Vella.", "I booked 3 tickets to Gozo.", "The ferry leaves at 09:45."]
    agent = create_agent(
        model, middleware=[RollingSummaryMiddleware(memory)], checkpointer=InMemorySaver()
    )
    for turn in range(16):
        said = f"{facts[turn % 3]} {FILLER}" if turn < 3 else question(turn)
        agent.invoke({"messages": [("user", said)]}, THREAD)
    memory.wait(60)
    assert memory.stats.folds.get("folded", 0) >= 1
    assert memory.stats.errors == {}
    summary = store.summary(CHAT)
    assert summary.written > 0
    assert summary.tokens <= 120
    assert all(fact in summary.text for fact in ("Zoe", "Gozo", "09:45"))
    assert len(store.messages(CHAT)) == 32
