"""`RollingSummaryMiddleware` in real agents: what the model reads, and what nobody loses."""

from itertools import pairwise

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command
from pydantic import BaseModel

from costwise_core import (
    Budget,
    Budgets,
    Conversation,
    ConversationMemory,
    MemoryConversations,
    MemoryPolicy,
    MemoryPrices,
    MemoryStore,
    Message,
    SQLiteConversations,
    scoped,
)
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.memory.view import OWN_IDS
from costwise_core.testing.fakes import PRICES, HashingEmbedder, ScriptedCompleter
from langchain_costwise import (
    BudgetMiddleware,
    RollingSummaryMiddleware,
    RouterMiddleware,
    SemanticCache,
    SemanticCacheMiddleware,
    as_completer,
)
from langchain_costwise._messages import as_message
from tests.remembering import DEAR, FILLER, Recorder, memory_of, question, texts

THREAD = {"configurable": {"thread_id": "42"}}
CHAT = Conversation(id="42")
SAID = "They spoke of the sea."


@tool
def search(query: str) -> str:
    """Search the handbook."""
    return f"Found: {FILLER}"


class Verdict(BaseModel):
    """What it comes to."""

    query: str


def agent_of(model, memory, *, before=(), after=(), **settings):
    trims = settings.pop("trim_state", False)
    rolling = RollingSummaryMiddleware(memory, trim_state=trims)
    settings.setdefault("checkpointer", InMemorySaver())
    return create_agent(model, middleware=[*before, rolling, *after], **settings)


def talked(agent, turns=12, config=THREAD, start=0):
    for turn in range(start, start + turns):
        state = agent.invoke({"messages": [("user", question(turn))]}, config)
    return state


@pytest.fixture
def store(tmp_path):
    return SQLiteConversations(tmp_path / "talk.db")


def summarised(store=None, **settings):
    return memory_of(store, summariser=ScriptedCompleter([SAID]), **settings)


# --- what the model reads -------------------------------------------------------------------------


def test_the_prompt_is_short_and_state_and_store_are_whole(store):
    model, memory = Recorder(), summarised(store)
    agent = agent_of(model, memory, system_prompt="Be kind.")
    state = talked(agent, 12)
    assert len(state["messages"]) == 24
    assert [one.id for one in store.messages(CHAT)] == [one.id for one in state["messages"]]
    last = model.prompts[-1]
    assert last[0].text == "Be kind."
    assert SAID in last[1].text
    assert last[-1].text == question(11)
    assert len(last) < 12
    assert memory.stats.errors == {}
    assert not any(one.id in OWN_IDS for one in state["messages"])


async def test_async_reads_the_same():
    sync, away = Recorder(), Recorder()
    talked(agent_of(sync, summarised()), 8)
    agent = agent_of(away, summarised())
    for turn in range(8):
        await agent.ainvoke({"messages": [("user", question(turn))]}, THREAD)
    assert [texts(one) for one in away.prompts] == [texts(one) for one in sync.prompts]


def test_a_prompt_only_grows_at_its_end_until_the_next_fold():
    model, memory = Recorder(), summarised()
    talked(agent_of(model, memory, system_prompt="Be kind."), 30)
    prompts = [texts(one) for one in model.prompts]
    # Whatever is not a summary written anew leaves the prefix, byte for byte.
    broken = sum(after[: len(before)] != before for before, after in pairwise(prompts))
    assert 0 < broken <= sum(memory.stats.folds.values()) < 15
    summaries = [one[1] for one in prompts if "<conversation_summary>" in one[1]]
    assert len(summaries) > 5
    assert len(set(summaries)) <= sum(memory.stats.folds.values())


def test_what_is_recalled_stands_right_before_the_question():
    model, memory = Recorder(), summarised(embedder=HashingEmbedder())
    agent = agent_of(model, memory)
    agent.invoke({"messages": [("user", "My cat is called Przemek the Great.")]}, THREAD)
    talked(agent, 14, start=1)
    agent.invoke({"messages": [("user", "What is my cat Przemek called?")]}, THREAD)
    prompt = model.prompts[-1]
    assert "Przemek the Great" in prompt[-2].text
    assert prompt[-2].text.startswith("<earlier_messages>")
    assert prompt[-1].text == "What is my cat Przemek called?"


def test_streams_are_as_they_were():
    model = Recorder(script={question(11): "It was a long day."})
    agent = agent_of(model, summarised())
    talked(agent, 11)
    stream = agent.stream({"messages": [("user", question(11))]}, THREAD, stream_mode="messages")
    said = [chunk.text for chunk, told in stream if told["langgraph_node"] == "model"]
    assert len(said) > 3
    assert "".join(said).startswith("It was a long day.")
    assert SAID in model.prompts[-1][0].text


@pytest.mark.parametrize("at_once", [1, 3])
def test_calls_and_results_stay_together_over_several_rounds(at_once, store):
    # The model refuses orphans, see `assert_sound`.
    model, memory = Recorder(rounds=3, at_once=at_once), summarised(store)
    state = talked(agent_of(model, memory, tools=[search]), 6)
    assert len(model.prompts) == 6 * 4
    assert sum(isinstance(one, ToolMessage) for one in state["messages"]) == 6 * 3 * at_once
    assert memory.stats.views["folded"] > 0
    assert len(store.messages(CHAT)) == len(state["messages"])


def test_structured_output_works():
    model, memory = Recorder(rounds=9), summarised()
    agent = agent_of(model, memory, response_format=ToolStrategy(Verdict))
    state = talked(agent, 8)
    assert state["structured_response"] == Verdict(query=question(7))
    assert memory.stats.views["folded"] > 0


def test_the_system_prompt_and_tools_are_counted():
    seen = []

    class Watching(ConversationMemory):
        def view(self, conversation, messages=(), **settings):
            seen.append((settings["before"], [one.role for one in messages]))
            return super().view(conversation, messages, **settings)

    memory = Watching(MemoryConversations(), prices=DEAR)
    agent_of(Recorder(), memory).invoke({"messages": "Hi"}, THREAD)
    agent_of(Recorder(), memory, tools=[search], system_prompt="Be kind.").invoke(
        {"messages": "Hi"}, {"configurable": {"thread_id": "43"}}
    )
    assert seen[0] == (0, ["user"])
    assert seen[1][0] > 20
    assert seen[1][1] == ["system", "user"]


# --- whose conversation ---------------------------------------------------------------------------


def test_threads_users_and_tenants_never_meet():
    model, memory = Recorder(), summarised()
    agent = agent_of(model, memory)
    runs = [("a", {"user_id": "ada"}), ("a", {"user_id": "bob"}), ("b", {"user_id": "ada"})]
    for turn in range(10):
        for n, (tenant, extra) in enumerate(runs):
            config = {"configurable": {"thread_id": f"t{n}", **extra}}
            with scoped(tenant=tenant):
                agent.invoke({"messages": [("user", question(turn, f"secret{n}"))]}, config)
    for prompt in model.prompts:
        assert sum(any(f"secret{n}" in text for text in texts(prompt)) for n in range(3)) == 1
    found = set(memory.store.conversations())
    wanted = {
        Conversation(id=f"t{n}", tenant=tenant, user=extra["user_id"])
        for n, (tenant, extra) in enumerate(runs)
    }
    assert found == wanted


def test_config_and_context_say_whose_it_is():
    memory = memory_of()
    agent = agent_of(Recorder(), memory, context_schema=dict)
    config = {"configurable": {"thread_id": 7, "costwise": {"tenant": "acme"}}}
    agent.invoke({"messages": "Hi"}, config, context={"user_id": "ada"})
    assert list(memory.store.conversations()) == [Conversation(id="7", tenant="acme", user="ada")]
    fixed = RollingSummaryMiddleware(memory, conversation=lambda said: Conversation(id=said["k"]))
    create_agent(Recorder(), middleware=[fixed]).invoke(
        {"messages": "Hi"}, {"configurable": {"k": "mine"}}
    )
    assert Conversation(id="mine") in set(memory.store.conversations())


def test_without_an_id_it_says_what_is_missing():
    with pytest.raises(ConfigError, match="thread_id"):
        agent_of(Recorder(), memory_of(), checkpointer=None).invoke({"messages": "Hi"})
    with pytest.raises(ConfigError, match="ConversationMemory"):
        RollingSummaryMiddleware(MemoryConversations())


def test_an_agent_within_an_agent_has_a_conversation_of_its_own():
    inner_model, outer_model, memory = Recorder(), Recorder(), summarised()
    inner = agent_of(inner_model, memory, checkpointer=None)

    @tool
    def delegate(query: str) -> str:
        """Ask a colleague."""
        return inner.invoke({"messages": [("user", "Inner " + query)]})["messages"][-1].text

    outer = agent_of(outer_model, memory, tools=[delegate])
    state = talked(outer, 8)
    assert [one.id for one in memory.store.messages(CHAT)] == [one.id for one in state["messages"]]
    assert all(len(prompt) == 1 for prompt in inner_model.prompts)
    assert len(inner_model.prompts) == 8
    assert not any("Inner" in text for prompt in outer_model.prompts for text in texts(prompt))


def test_an_agent_as_a_node_remembers_over_turns():
    model, memory = Recorder(), summarised()
    graph = StateGraph(MessagesState)
    graph.add_node("talk", agent_of(model, memory, checkpointer=None))
    graph.add_edge(START, "talk")
    state = talked(graph.compile(checkpointer=InMemorySaver()), 12)
    assert len(state["messages"]) == 24
    assert SAID in model.prompts[-1][0].text
    assert len(list(memory.store.conversations())) == 1


# --- what happens to a state ----------------------------------------------------------------------


def test_a_jump_back_in_time_is_answered_from_what_was_there_then():
    model, memory = Recorder(), summarised()
    agent = agent_of(model, memory)
    talked(agent, 10)
    history = list(agent.get_state_history(THREAD))
    early = next(one for one in history if len(one.values["messages"]) == 4 and not one.next)
    agent.invoke({"messages": [("user", "Another way: where was I?")]}, early.config)
    assert texts(model.prompts[-1])[0] == question(0)
    assert len(model.prompts[-1]) == 5
    assert not any(SAID in text for text in texts(model.prompts[-1]))


def test_a_thread_that_is_cleared_begins_anew():
    model, memory = Recorder(), summarised()
    agent = agent_of(model, memory)
    talked(agent, 10)
    fresh = [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("Who are you?")]
    agent.invoke({"messages": fresh}, THREAD)
    assert texts(model.prompts[-1]) == ["Who are you?"]
    agent.invoke({"messages": [("user", "And I?")]}, THREAD)
    assert len(model.prompts[-1]) == 3


def test_an_edited_question_and_an_answer_made_anew():
    model, memory = Recorder(), summarised()
    agent = agent_of(model, memory)
    state = talked(agent, 8)
    asked, answered = state["messages"][-2:]
    edit = [RemoveMessage(id=answered.id), HumanMessage("Is it blue?", id=asked.id)]
    agent.invoke({"messages": edit}, THREAD)
    assert texts(model.prompts[-1])[-1] == "Is it blue?"
    assert question(7) not in texts(model.prompts[-1])
    first = state["messages"][0]
    agent.invoke({"messages": [HumanMessage("My name is Zoe.", id=first.id)]}, THREAD)
    # What the summary stood for was edited, so nothing stands for it.
    assert texts(model.prompts[-1])[0] == "My name is Zoe."
    assert memory.stats.views["edited"] == 1


def test_an_interrupt_is_resumed_with_the_memory_as_it_was():
    model, memory = Recorder(), summarised()
    asks = HumanInTheLoopMiddleware(interrupt_on={"search": True})
    agent = agent_of(model, memory, tools=[search], after=[asks])
    for turn in range(6):
        halted = agent.invoke({"messages": [("user", question(turn))]}, THREAD)
        assert halted["__interrupt__"]
        decided = Command(resume={"decisions": [{"type": "approve"}]})
        state = agent.invoke(decided, THREAD)
    assert [one.id for one in memory.store.messages(CHAT)] == [one.id for one in state["messages"]]
    assert memory.stats.views["folded"] > 0


def test_a_trimmed_state_is_short_and_the_store_is_whole(store):
    model, whole = Recorder(rounds=1), Recorder(rounds=1)
    memory = summarised(store)
    agent = agent_of(model, memory, tools=[search], trim_state=True)
    state = talked(agent, 12)
    assert len(state["messages"]) < 24
    assert state["messages"][0].id in OWN_IDS
    assert SAID in state["messages"][0].text
    stored = store.messages(CHAT)
    assert len(stored) == 48
    assert [one.text for one in stored if one.role == "user"] == [question(n) for n in range(12)]
    # What the model read is what it would have read from a whole state.
    talked(agent_of(whole, summarised(), tools=[search]), 12)
    ours = [[text.replace("paid_", "") for text in texts(one)] for one in model.prompts]
    assert ours == [[text.replace("paid_", "") for text in texts(one)] for one in whole.prompts]
    with scoped(unoptimised=True):
        agent.invoke({"messages": [("user", "All of it?")]}, THREAD)
    assert [text for text in texts(model.prompts[-2]) if text.startswith("Question")] == [
        question(n) for n in range(12)
    ]


async def test_a_state_is_trimmed_in_async_runs_too(store):
    agent = agent_of(Recorder(), summarised(store), trim_state=True)
    for turn in range(12):
        state = await agent.ainvoke({"messages": [("user", question(turn))]}, THREAD)
    assert state["messages"][0].id in OWN_IDS
    assert len(store.messages(CHAT)) == 24


def test_a_state_is_not_trimmed_of_what_would_not_come_back():
    agent = agent_of(Recorder(), summarised(), trim_state=True)
    huge = [
        {"type": "text", "text": FILLER},
        {"type": "image", "base64": "A" * 500_000, "mime_type": "image/png"},
    ]
    agent.invoke({"messages": [HumanMessage(huge)]}, THREAD)
    state = talked(agent, 10)
    assert len(state["messages"]) == 22


def test_a_store_that_is_lost_takes_no_summary_with_it():
    model = Recorder()
    saver = InMemorySaver()
    talked(agent_of(model, summarised(), trim_state=True, checkpointer=saver), 12)
    agent = agent_of(model, memory_of(), trim_state=True, checkpointer=saver)
    agent.invoke({"messages": [("user", "And now?")]}, THREAD)
    assert SAID in model.prompts[-1][0].text
    assert model.prompts[-1][-1].text == "And now?"


class Down(MemoryConversations):
    """A store whose server is gone."""

    def messages(self, conversation, *, start=0, stop=None):
        raise OSError("no line")

    def append(self, conversation, messages):
        raise OSError("no line")


@pytest.mark.parametrize("trims", [True, False])
def test_with_a_broken_store_the_whole_history_is_sent_and_counted(trims):
    model, memory = Recorder(), summarised(Down())
    state = talked(agent_of(model, memory, trim_state=trims), 8)
    assert texts(model.prompts[-1]) == texts(state["messages"][:-1])
    assert memory.stats.views == {"error": 8}
    assert memory.stats.errors["OSError"] == 8


# --- beside others --------------------------------------------------------------------------------


def test_the_order_with_cache_router_and_budget(store):
    small, large = Recorder(model_name="scripted-1"), Recorder(model_name="scripted-large")
    budgets = Budgets(Budget(limit=9, unit="calls", window="day"), prices=PRICES)
    agent = agent_of(
        large,
        summarised(store),
        before=[SemanticCacheMiddleware(SemanticCache(MemoryStore()))],
        after=[RouterMiddleware({"small": small}, prices=PRICES), BudgetMiddleware(budgets)],
    )
    talked(agent, 9)
    assert (len(small.prompts), len(large.prompts)) == (9, 0)
    assert SAID in small.prompts[-1][0].text
    # Another thread that says the same is answered from the cache: no summary is in its key.
    for turn in range(9):
        agent.invoke({"messages": [("user", question(turn))]}, {"configurable": {"thread_id": "b"}})
    assert len(small.prompts) == 9
    with pytest.raises(BudgetExceededError):
        agent.invoke({"messages": [("user", "One more?")]}, THREAD)


def test_langchains_own_loses_its_summary_and_this_does_not():
    """With 4,000 tokens between two summaries, LangChain's drops the first one (#39261)."""
    said = "The code word is XYLOPHONE."
    asked = Recorder()
    long = " ".join(f"word{n}" for n in range(400))
    summariser = Recorder()
    own = SummarizationMiddleware(summariser, trigger=("messages", 16), keep=("messages", 4))
    state = {"messages": [HumanMessage(f"Here is a summary: {said}", id="s")]}
    for turn in range(9):
        state["messages"] += [HumanMessage(f"Q{turn} {long}"), AIMessage(f"A{turn} {long}")]
    own.before_model(state, None)
    assert summariser.prompts
    assert not any(said in one.text for one in summariser.prompts[-1])

    ours = ScriptedCompleter(lambda prompt: said if said in prompt else "Lost.")
    memory = memory_of(summariser=ours)
    agent = agent_of(asked, memory)
    agent.invoke({"messages": [("user", f"{said} Remember it. {long}")]}, THREAD)
    for turn in range(20):
        agent.invoke({"messages": [("user", f"Q{turn} {long}")]}, THREAD)
    assert memory.stats.folds["folded"] > 1
    assert all("XYLOPHONE" in one for one in ours.asked)
    assert "XYLOPHONE" in asked.prompts[-1][0].text


def test_a_summary_is_asked_for_at_the_end_of_the_live_prompt():
    """The beginning of both prompts is the same, so the provider's cache is read."""
    cached = MemoryPrices(
        input=3,
        cache_read=0.3,
        cache_write=3.75,
        output=15,
        summary_input=3,
        summary_output=15,
        appended=True,
    )
    model, writer = Recorder(rounds=0), Recorder(rounds=0)
    memory = memory_of(
        summariser=as_completer(writer.bind_tools([search])),
        prices=cached,
        policy=MemoryPolicy(tail_tokens=60, summary_tokens=60),
    )
    agent = agent_of(model, memory, tools=[search], system_prompt="Be kind.")
    talked(agent, 80)
    appended = [one for one in writer.prompts if one[-1].text.startswith("Leave the task")]
    assert appended
    for prompt in appended:
        read = [live for live in model.prompts if texts(live) == texts(prompt)[: len(live)]]
        assert len(read[-1]) == len(prompt) - 3  # then an answer, a question and the instruction
        assert read[-1][0].text == "Be kind."
    assert writer.offered[0]["tools"] == model.offered[0]["tools"]


async def test_the_end_of_the_live_prompt_async():
    writer = Recorder(script={"Sum up.": SAID})
    asks = as_message(AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]))
    live = [Message(role="system", text="Be kind."), Message(role="user", text="Hi."), asks]
    live.append(Message(role="tool", text="Ho.", answers="1"))
    completer = as_completer(writer)
    assert await completer.acomplete_after(live, "Sum up.") == SAID
    assert completer.complete_after(live, "Sum up.") == SAID
    assert [one.type for one in writer.prompts[0]] == ["system", "human", "ai", "tool", "human"]
