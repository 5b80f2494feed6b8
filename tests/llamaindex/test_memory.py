"""`RollingSummaryMemory` in real chat engines and agents: what the model reads, and the store."""

import gzip
import json
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.memory import ChatSummaryMemoryBuffer
from llama_index.core.schema import TextNode
from llama_index.core.workflow import Context, JsonSerializer
from llama_index.llms.openai_like import OpenAILike

from costwise_core import (
    Conversation,
    MemoryConversations,
    MemoryPolicy,
    SQLiteConversations,
    scoped,
)
from costwise_core.errors import ConfigError, StoreError
from costwise_core.memory.prompts import summary_block
from costwise_core.testing.fakes import HashingEmbedder, ScriptedCompleter
from llamaindex_costwise import RollingSummaryMemory, as_completer, track
from llamaindex_costwise._messages import as_message
from llamaindex_costwise.memory import tokens_in
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding
from tests.llama_server import NAME, serve
from tests.llamaindex.fakes import deprecations
from tests.llamaindex.remembering import (
    DEAR,
    FILLER,
    SAID,
    SEARCH,
    Recorder,
    memory_of,
    question,
    texts,
)

# LlamaIndex's synchronous methods open event loops that they never close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CHAT = Conversation(id="42", tenant="acme", user="ada")
LOCOMO = Path("../shared/data/dialog/locomo5.jsonl.gz")


def user(text):
    return ChatMessage(role="user", content=text)


def assistant(text):
    return ChatMessage(role="assistant", content=text)


def rolling(memory=None, conversation=CHAT, **settings):
    return RollingSummaryMemory.from_defaults(
        memory=memory or memory_of(), conversation=conversation, **settings
    )


def simple(llm, memory, **settings):
    return SimpleChatEngine.from_defaults(llm=llm, memory=memory, **settings)


def index():
    pages = ["Ferries to Gozo leave at nine.", "The handbook has seven pages."]
    return VectorStoreIndex([TextNode(text=one) for one in pages], embed_model=WordEmbedding())


def context(llm, memory, mode=ChatMode.CONTEXT):
    return index().as_chat_engine(chat_mode=mode, llm=llm, memory=memory, system_prompt="Be kind.")


def condense(llm, memory):
    return context(llm, memory, ChatMode.CONDENSE_PLUS_CONTEXT)


ENGINES = pytest.mark.parametrize("engine", [simple, context, condense])


class Faulty(MemoryConversations):
    """Fails while it is told to."""

    broken = False

    def append(self, conversation, messages):
        self._check()
        return super().append(conversation, messages)

    def messages(self, conversation, *, start=0, stop=None):
        self._check()
        return super().messages(conversation, start=start, stop=stop)

    def _check(self):
        if self.broken:
            raise StoreError("no space left on device")


# --- chat engines ---------------------------------------------------------------------------------


@ENGINES
def test_prompts_are_short_and_the_store_is_whole(engine, tmp_path):
    llm, store = Recorder(), SQLiteConversations(tmp_path / "talk.db")
    memory = memory_of(store)
    for turn in range(14):  # one memory for each request, as in a stateless service
        engine(llm, rolling(memory)).chat(question(turn))
    stored = store.messages(CHAT)
    assert [one.text for one in stored if one.role == "user"] == [*map(question, range(14))]
    assert len(stored) == 28
    assert memory.stats.errors == {}
    last = llm.prompts[-1]
    assert len(last) < 12
    assert any(SAID in text for text in texts(last))
    assert question(13) in (last[-1].content or "")
    every = rolling(memory).get_all()
    assert texts(every)[::2] == [*map(question, range(14))]


@ENGINES
async def test_async_reads_the_same(engine):
    sync, away = Recorder(), Recorder()
    ours, theirs = engine(sync, rolling()), engine(away, rolling())
    for turn in range(8):
        ours.chat(question(turn))
        await theirs.achat(question(turn))
    assert [texts(one) for one in away.prompts] == [texts(one) for one in sync.prompts]


@ENGINES
def test_streams_are_stored_too(engine):
    llm, memory = Recorder(), memory_of()
    chat = engine(llm, rolling(memory))
    for turn in range(3):
        answer = chat.stream_chat(question(turn))
        assert "".join(answer.response_gen)
    stored = memory.store.messages(CHAT)
    assert [one.role for one in stored] == ["user", "assistant"] * 3
    assert stored[-1].text.startswith("Answer number")


def test_a_prompt_only_grows_at_its_end_until_the_next_fold():
    llm, memory = Recorder(), memory_of()
    chat = simple(llm, rolling(memory), system_prompt="Be kind.")
    for turn in range(30):
        chat.chat(question(turn))
    prompts = [texts(one) for one in llm.prompts]
    broken = sum(after[: len(before)] != before for before, after in pairwise(prompts))
    assert 0 < broken <= sum(memory.stats.folds.values()) < 15
    assert all(prompt[0] == "Be kind." for prompt in prompts)
    assert SAID in prompts[-1][1]


@ENGINES
def test_what_matters_for_the_question_is_recalled_before_it(engine):
    llm, memory = Recorder(), memory_of(embedder=HashingEmbedder())
    chat = engine(llm, rolling(memory))
    chat.chat("My cat is called Przemek the Great.")
    for turn in range(14):
        chat.chat(question(turn))
    chat.chat("What is my cat Przemek called?")
    prompt = texts(llm.prompts[-1])
    assert prompt[-2].startswith("<earlier_messages>")
    assert "Przemek the Great" in prompt[-2]
    assert prompt[-1].endswith("What is my cat Przemek called?")


def test_conversations_tenants_and_users_stay_apart():
    llm, memory = Recorder(), memory_of()
    others = [
        CHAT,
        Conversation(id="42", tenant="globex", user="ada"),
        Conversation(id="42", tenant="acme", user="bob"),
        Conversation(id="43", tenant="acme", user="ada"),
    ]
    for turn in range(10):
        for n, one in enumerate(others):
            simple(llm, rolling(memory, one)).chat(question(turn, about=f"secret{n}"))
    for n, one in enumerate(others):
        kept = "".join(texts(rolling(memory, one).get() + rolling(memory, one).get_all()))
        assert f"secret{n}" in kept
        assert not any(f"secret{m}" in kept for m in range(4) if m != n)


def test_the_saving_and_the_cost_of_summaries_are_on_the_bill():
    llm = Recorder(model="gpt-4o")
    memory = memory_of(
        summariser=as_completer(ScriptedLLM(model="gpt-4o-mini", reply=SAID)), model="gpt-4o"
    )
    chat = simple(llm, rolling(memory))
    with track() as bill:
        for turn in range(12):
            chat.chat(question(turn))
    assert set(bill.savings) == {"memory"}
    assert bill.savings["memory"] > 0
    assert bill.overhead > 0
    assert memory.stats.folds["folded"] >= 1


def test_the_hold_out_reads_all_of_it():
    llm, memory = Recorder(), memory_of()
    chat = simple(llm, rolling(memory, token_limit=500))
    for turn in range(10):
        chat.chat(question(turn))
    with scoped(unoptimised=True):
        chat.chat(question(10))
    assert texts(llm.prompts[-1])[::2] == [*map(question, range(11))]
    assert memory.stats.views["holdout"] == 1


# --- what fails -----------------------------------------------------------------------------------


@ENGINES
def test_a_store_that_never_works_costs_money_and_nothing_else(engine):
    store = Faulty()
    store.broken = True
    llm, memory = Recorder(), memory_of(store)
    chat = engine(llm, rolling(memory))
    for turn in range(6):
        assert str(chat.chat(question(turn))).startswith("Answer")
    sent = texts(llm.prompts[-1])
    for turn in range(6):
        assert any(question(turn) in text for text in sent)
    assert memory.stats.views == {"error": 6}
    store.broken = False
    chat.chat(question(6))
    stored = store.messages(CHAT)
    assert [one.text for one in stored[::2]] == [*map(question, range(7))]
    assert len(stored) == 14


def test_a_store_that_fails_in_between_leaves_the_prompt_as_it_was():
    store, llm = Faulty(), Recorder()
    chat = simple(llm, rolling(memory_of(store)))
    for turn in range(10):
        chat.chat(question(turn))
    store.broken = True
    chat.chat(question(10))
    before, after = (texts(one) for one in llm.prompts[-2:])
    assert after[: len(before)] == before
    assert after[-1] == question(10)
    with pytest.raises(StoreError):
        rolling(memory_of(store)).get_all()
    store.broken = False
    chat.chat(question(11))
    assert len(store.messages(CHAT)) == 24


def test_a_summariser_that_fails_leaves_an_answer():
    llm, memory = Recorder(), memory_of(summariser=ScriptedCompleter([OSError("no line")]))
    chat = simple(llm, rolling(memory))
    for turn in range(12):
        assert str(chat.chat(question(turn)))
    assert memory.stats.errors["OSError"] >= 1
    assert len(llm.prompts[-1]) < 12  # sentences taken word for word stand for the rest


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memory": None}, "must be a ConversationMemory"),
        ({"conversation": "42"}, "Conversation\\(id="),
        ({"token_limit": 0}, "at least 1"),
        ({"tokenizer": len}, "no setting 'tokenizer'"),
    ],
)
def test_what_is_wrong_is_said(settings, says):
    settings = {"memory": memory_of(), "conversation": CHAT, **settings}
    with pytest.raises(ConfigError, match=says):
        RollingSummaryMemory.from_defaults(**settings)


# --- set, reset, limits ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["set", "aset"])
async def test_a_history_that_is_set_keeps_to_the_limit(how):
    """LlamaIndex's own memory keeps 1,020 tokens under a limit of 200 until the next message."""
    memory = rolling(memory_of(policy=MemoryPolicy(window=10_000)), token_limit=200)
    history = [
        (user if n % 2 == 0 else assistant)(f"Turn {n}: {FILLER} {FILLER}") for n in range(20)
    ]
    if how == "set":
        memory.set(history)
    else:
        await memory.aset(history)
    found = memory.get()
    assert tokens_in([as_message(one) for one in found]) <= 200
    assert found[-1] == history[-1]
    assert memory.get_all() == history


def test_the_limit_counts_calls_and_thinking():
    call = ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"q": FILLER * 20})
    thinks = ThinkingBlock(content=FILLER * 20)
    history = [
        user("One?"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="1", additional_kwargs={"tool_call_id": "1"}),
        user("Two?"),
        ChatMessage(role="assistant", blocks=[thinks, TextBlock(text="2")]),
        user("Three?"),
    ]
    memory = rolling(memory_of(policy=MemoryPolicy(tail_tokens=5_000)), token_limit=100)
    memory.set(history)
    assert memory.get() == history[-1:]
    memory = rolling(memory_of(policy=MemoryPolicy(tail_tokens=5_000)), token_limit=5_000)
    memory.set(history)
    assert memory.get() == history


def test_the_default_limit_is_not_the_models_window():
    assert rolling().token_limit == 30_000


def test_a_client_that_sends_the_whole_history_each_time():
    """It goes on, is edited, is cut off; the store keeps one conversation and its summary."""
    llm, memory, history = Recorder(), memory_of(), []
    for turn in range(12):
        answer = simple(llm, rolling(memory)).chat(question(turn), chat_history=history)
        history = [*history, user(question(turn)), assistant(str(answer))]
    assert rolling(memory).get_all() == history
    assert SAID in texts(llm.prompts[-1])[0]
    folded = memory.store.summary(CHAT)
    # The client kept only its end.
    simple(llm, rolling(memory)).chat(question(12), chat_history=history[-4:])
    assert len(rolling(memory).get_all()) == 26
    assert SAID in texts(llm.prompts[-1])[0]
    # An answer is asked for again: what follows it is gone, the summary still stands.
    simple(llm, rolling(memory)).chat("And then?", chat_history=history)
    assert rolling(memory).get_all()[:25] == [*history, user("And then?")]
    assert SAID in texts(llm.prompts[-1])[0]
    # The first message was edited: no summary of what was never said.
    edited = [user("Something else?"), *history[1:]]
    rolling(memory).set(edited)
    assert rolling(memory).get_all() == edited
    assert folded is not None
    found = memory.store.summary(CHAT)
    assert found is None or found.digest != folded.digest


def test_what_get_returned_can_be_handed_back():
    memory = memory_of()
    chat = simple(Recorder(), rolling(memory))
    for turn in range(12):
        chat.chat(question(turn))
    before = rolling(memory).get_all()
    shown = rolling(memory).get()
    assert shown[0].content == summary_block(SAID) or SAID in (shown[0].content or "")
    rolling(memory).set(shown)
    assert rolling(memory).get_all() == before


def test_the_same_twice_is_said_twice():
    memory = memory_of()
    for _ in range(3):
        rolling(memory).put(user("ok"))
    assert texts(rolling(memory).get_all()) == ["ok"] * 3
    assert texts(rolling(memory).get()) == ["ok"] * 3


async def test_reset_forgets_everything():
    memory = rolling()
    memory.set([ChatMessage(role="system", content="Be kind."), user("Hi."), assistant("Hello.")])
    await memory.areset()
    assert memory.get() == []
    memory.put(user("Hi."))
    memory.reset()
    assert memory.get_all() == []
    assert list(memory.memory.store.conversations()) == []


def test_system_messages_stay_first_and_are_never_folded():
    memory = memory_of()
    chat = rolling(memory)
    chat.put(ChatMessage(role="system", content="Be kind."))
    engine = simple(llm := Recorder(), chat)
    for turn in range(12):
        engine.chat(question(turn))
    assert all(texts(prompt)[0] == "Be kind." for prompt in llm.prompts)
    assert texts(rolling(memory).get())[0] == "Be kind."  # another replica
    assert SAID in texts(llm.prompts[-1])[1]
    rolling(memory).set([ChatMessage(role="system", content="Be brief."), *chat.get_all()[1:]])
    assert texts(rolling(memory).get())[0] == "Be brief."
    assert len(rolling(memory).get_all()) == 25


def test_what_is_handed_out_is_nobody_elses():
    """Agents write their state into the newest message."""
    memory = rolling()
    memory.put(user("Hi."))
    memory.get()[-1].blocks[0].text = "State: secret"
    assert texts(memory.get()) == ["Hi."]


# --- agents ---------------------------------------------------------------------------------------


@deprecations
@pytest.mark.parametrize("at_once", [1, 2])
async def test_an_agent_keeps_calls_and_results_together(at_once):
    llm, memory = Recorder(at_once=at_once), memory_of()
    for turn in range(8):
        agent = FunctionAgent(tools=[SEARCH], llm=llm, system_prompt="Be kind.", streaming=False)
        answer = await agent.run(question(turn), memory=rolling(memory))
        assert "The tool said Found" in str(answer)
    stored = memory.store.messages(CHAT)
    assert [one.role for one in stored] == (
        ["user", "assistant", *["tool"] * at_once, "assistant"] * 8
    )
    assert any(SAID in text for text in texts(llm.prompts[-1]))
    assert len(llm.prompts[-1]) < 20
    assert texts(llm.prompts[-1])[0] == "Be kind."
    kept = rolling(memory).get_all()
    assert [len(one.blocks) for one in kept if one.blocks[0].block_type == "tool_call"] == (
        [at_once] * 8
    )


@deprecations
async def test_a_react_agent():
    llm = Recorder(calls_tools=False, reply="Thought: I can answer.\nAnswer: It is fine.")
    memory = memory_of()
    for turn in range(8):
        agent = ReActAgent(tools=[SEARCH], llm=llm, streaming=False)
        answer = await agent.run(question(turn), memory=rolling(memory))
        assert str(answer) == "It is fine."
    assert [one.role for one in memory.store.messages(CHAT)] == ["user", "assistant"] * 8
    assert any(SAID in text for text in texts(llm.prompts[-1]))


@deprecations
async def test_a_workflow_that_is_written_down_goes_on():
    llm, memory = Recorder(), memory_of()
    agent = FunctionAgent(tools=[SEARCH], llm=llm, streaming=False)
    ctx = Context(agent)
    await agent.run("My cat is Przemek.", ctx=ctx, memory=rolling(memory))
    written = json.dumps(ctx.to_dict(serializer=JsonSerializer()))
    assert "sk-very-secret" not in written
    again = Context.from_dict(agent, json.loads(written), serializer=JsonSerializer())
    found = await again.store.get("memory")
    assert found.conversation == CHAT
    with pytest.raises(ConfigError, match="give it again"):
        found.get()
    await agent.run("And yours?", ctx=again, memory=rolling(memory))
    assert texts(llm.prompts[-1])[0] == "My cat is Przemek."


def test_a_memory_is_written_down_and_read():
    memory = memory_of()
    one = rolling(memory, token_limit=777)
    one.put(user("Hi."))
    again = RollingSummaryMemory.from_dict(one.to_dict(), memory=memory)
    assert (again.conversation, again.token_limit) == (CHAT, 777)
    assert texts(again.get()) == ["Hi."]


# --- completers -----------------------------------------------------------------------------------


async def test_a_summariser_goes_on_from_the_live_prompt():
    llm = Recorder(model="gpt-4o", reply=SAID)
    completer = as_completer(llm, prefix=[ChatMessage(role="system", content="Be kind.")])
    talk = [as_message(user("Hi.")), as_message(assistant("Hello."))]
    assert completer.complete_after(talk, "Summarise.") == SAID
    assert await completer.acomplete_after(talk, "Summarise.") == SAID
    assert [texts(one) for one in llm.prompts] == [["Be kind.", "Hi.", "Hello.", "Summarise."]] * 2
    assert completer.complete("Rate it.") == await completer.acomplete("Rate it.") == SAID


async def test_a_summariser_is_offered_the_agents_tools():
    llm = Recorder(reply=SAID)
    completer = as_completer(llm, tools=[SEARCH])
    completer.complete_after([as_message(user("Hi."))], "Summarise.")
    await completer.acomplete_after([as_message(user("Hi."))], "Summarise.")
    offered = [kwargs["tools"][0]["name"] for _, _, kwargs in llm._calls]
    assert offered == ["search", "search"]


# --- against LlamaIndex's own ---------------------------------------------------------------------


def spoken(turns):
    """Return a long chat, two lines a turn."""
    return [
        [f"Question {n}: {' '.join([FILLER] * 2)}?", f"Answer {n}. {' '.join([FILLER] * 2)}."]
        for n in range(turns)
    ]


def locomo():
    if not LOCOMO.exists():
        pytest.skip(f"no {LOCOMO} here")
    with gzip.open(LOCOMO, "rt", encoding="utf-8") as file:
        row = json.loads(file.readline())
    said = [turn["text"] for session in row["sessions"] for turn in session["turns"]]
    return [said[at : at + 2] for at in range(0, len(said) - 1, 2)]


@pytest.mark.parametrize("dialogue", [lambda: spoken(120), locomo], ids=["synthetic", "locomo"])
def test_fewer_summaries_than_llamaindex_writes(dialogue):
    """Its buffer writes one whenever it is full, which it then is at almost every turn."""
    talk = dialogue()
    theirs = ScriptedLLM(reply=SAID)
    buffer = ChatSummaryMemoryBuffer.from_defaults(llm=theirs, token_limit=2_000)
    ours = ScriptedCompleter([SAID])
    memory = rolling(memory_of(summariser=ours, policy=MemoryPolicy(), prices=DEAR))
    sent = 0
    for asks, answers in talk:
        for one in (buffer, memory):
            one.put(user(asks))
            shown = one.get()
            one.put(assistant(answers))
        sent += tokens_in([as_message(message) for message in shown])
    whole = 0
    for at in range(len(talk)):
        whole += tokens_in([as_message(user(text)) for pair in talk[: at + 1] for text in pair])
    assert 0 < len(ours.asked) < theirs.calls / 2
    assert sent < 0.5 * whole
    assert len(memory.get_all()) == 2 * len(talk)


# --- a real model ---------------------------------------------------------------------------------


def test_a_real_model_summarises():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = OpenAILike(
            model=NAME,
            api_base=serve(),
            api_key="none",
            is_chat_model=True,
            context_window=4_096,
            max_tokens=120,
            timeout=300,
            max_retries=0,
        )
    memory = memory_of(
        summariser=as_completer(llm), policy=MemoryPolicy(), wait_seconds=300, model="gpt-4o"
    )
    chat = rolling(memory)
    said = [
        ("I ordered a standing desk on 3 May, order AB-1234.", "Thanks, I see order AB-1234."),
        ("It cost 649 euros and has not come.", "It left our warehouse in Ghent on 9 May."),
        ("Please send it to Rua Augusta 12 in Lisbon.", "The address is Rua Augusta 12 now."),
        ("I want my money back after 20 May.", "Agreed: a refund after 20 May."),
    ]
    more = " I have been a customer of yours for many years and was always happy." * 2
    for asks, answers in said * 3:
        chat.put(user(asks + more))
        chat.get()
        chat.put(assistant(answers + more))
    chat.put(user("So when do I get my money back?"))
    shown = chat.get()
    assert memory.stats.errors == {}
    assert memory.stats.folds["folded"] >= 1
    prompt = "\n".join(texts(shown))
    for fact in ("AB-1234", "649", "Lisbon", "20 May"):
        assert fact in prompt
    assert len(chat.get_all()) == 25
    assert len(shown) < 13
