"""Questions in a conversation: the ones that stand alone are shared, the others are not."""

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.tools import FunctionTool

from costwise_core import Cache, FixedThreshold, MemoryStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from llamaindex_costwise import CachedLLM
from llamaindex_costwise.testing import ScriptedLLM
from tests.llamaindex.fakes import deprecations, seven

ALONE = "What is the capital of France?"
LEANS = "And how much does it cost?"


def user(text, role="user"):
    return ChatMessage(role=role, content=text)


def talk(*texts):
    roles = ("user", "assistant")
    return [user(text, roles[n % 2]) for n, text in enumerate(texts)]


FIBRE = talk("What does Nimbus Fibre 150 offer?", "Nimbus Fibre 150 is fast.")
MOBILE = talk("What does Nimbus Mobile 20 offer?", "Nimbus Mobile 20 is slow.")


async def ask(llm, how, history, question):
    messages = [user("Be short.", "system"), *history, user(question)]
    template = ChatPromptTemplate(
        message_templates=[user("Use {context_str}", "system"), *history, user("{query_str}")]
    )
    match how:
        case "chat":
            return llm.chat(messages).message.content
        case "stream_chat":
            return "".join(piece.delta for piece in llm.stream_chat(messages))
        case "astream_chat":
            return "".join([piece.delta async for piece in await llm.astream_chat(messages)])
        case "predict":
            return llm.predict(template, query_str=question, context_str="x")


WAYS = ["chat", "stream_chat", "astream_chat", "predict"]


@pytest.mark.parametrize("how", WAYS)
async def test_a_question_that_stands_alone_is_shared_between_conversations(llm, inner, how):
    first = await ask(llm, how, FIBRE, ALONE)
    assert await ask(llm, how, MOBILE, ALONE) == first
    assert await ask(llm, how, [], ALONE) == first
    assert inner.calls == 1


@pytest.mark.parametrize("how", WAYS)
async def test_a_follow_up_is_shared_only_where_the_conversations_agree(llm, inner, how):
    first = await ask(llm, how, FIBRE, LEANS)
    assert await ask(llm, how, FIBRE, LEANS) == first
    await ask(llm, how, MOBILE, LEANS)
    assert inner.calls == 2
    await ask(llm, how, [], LEANS)
    assert inner.calls == 3


@pytest.mark.parametrize("how", WAYS)
async def test_system_prompt_and_context_stay_in_the_scope(cache, how):
    inner = ScriptedLLM()
    llm = CachedLLM(llm=inner, cache=cache)
    await ask(llm, how, FIBRE, ALONE)
    if how == "predict":
        template = ChatPromptTemplate(
            message_templates=[user("Use {context_str}", "system"), *FIBRE, user("{query_str}")]
        )
        llm.predict(template, query_str=ALONE, context_str="y")
    else:
        llm.chat([user("Be long.", "system"), *FIBRE, user(ALONE)])
    assert inner.calls == 2


def test_a_rewriter_makes_follow_ups_stand_alone(cache, inner):
    class Rewriter:
        def complete(self, prompt):
            return "How much does Nimbus Fibre 150 cost?"

    rewriting = Cache(MemoryStore(), embedder=cache.embedder, rewriter=Rewriter())
    llm = CachedLLM(llm=inner, cache=rewriting)
    llm.chat([*FIBRE, user(LEANS)])
    llm.chat([user("How much does Nimbus Fibre 150 cost?")])
    assert inner.calls == 1


def test_a_conversation_in_flight_is_not_shared_with_another(llm, inner):
    first, second = llm.stream_chat([*FIBRE, user(LEANS)]), llm.stream_chat([*MOBILE, user(LEANS)])
    one, other = ("".join(piece.delta for piece in stream) for stream in (first, second))
    assert one != other
    assert inner.calls == 2


def with_tools(number):
    return [
        user("Add two numbers."),
        ChatMessage(
            role="assistant",
            blocks=[ToolCallBlock(tool_name="add", tool_kwargs={}, tool_call_id="1")],
        ),
        ChatMessage(role="tool", content=str(number), additional_kwargs={"tool_call_id": "1"}),
        user("Done.", "assistant"),
    ]


def test_a_history_with_tools_is_matched_exactly(llm, inner):
    for number in (41, 42):
        llm.chat([*with_tools(number), user(ALONE)])
    llm.chat([*with_tools(41), user("What is the capital city of France?")])
    assert inner.calls == 3
    llm.chat([*with_tools(41), user(ALONE)])
    assert inner.calls == 3
    assert dict(llm.cache.stats.hits) == {"exact": 1}


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat"])
async def test_answers_after_tool_results_are_neither_looked_up_nor_stored(llm, inner, how):
    for _ in range(2):
        messages = with_tools(41)[:-1]
        if how == "chat":
            llm.chat(messages)
        elif how == "achat":
            await llm.achat(messages)
        else:
            list(llm.stream_chat(messages))
    assert inner.calls == 2
    assert dict(llm.cache.stats.misses) == {"tool_derived": 2}
    assert llm.cache.stats.not_stored == {"tool_derived": 2}


def test_a_history_with_pictures_passes_by(llm, inner):
    picture = ChatMessage(
        blocks=[TextBlock(text="Look."), ImageBlock(url="http://localhost/x.png")]
    )
    for _ in range(2):
        llm.chat([picture, user("I see.", "assistant"), user(ALONE)])
    assert inner.calls == 2
    assert dict(llm.cache.stats.misses) == {"modality": 2}


def test_a_chat_engine_shares_what_stands_alone(llm, inner):
    def engine():
        return SimpleChatEngine.from_defaults(
            llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=4000)
        )

    first, second = engine(), engine()
    first.chat("What does Nimbus Fibre 150 offer?")
    second.chat("Who wrote the second act of Faust?")
    assert inner.calls == 2
    assert str(first.chat(ALONE)) == str(second.chat(ALONE))
    assert inner.calls == 3


# --- whose request, and what the policy keeps out -------------------------------------------------


@pytest.mark.parametrize(
    ("question", "reply", "missed", "kept_out"),
    [
        ("Cancel my order 4711.", None, "action", "action"),
        ("What is the weather right now?", None, "freshness", "freshness"),
        (ALONE, "I'm sorry, but I can't help with that.", "no_entry", "refusal"),
    ],
)
def test_what_the_policy_keeps_out_is_counted(question, reply, missed, kept_out):
    cache = Cache(MemoryStore())
    inner = ScriptedLLM(reply=reply)
    llm = CachedLLM(llm=inner, cache=cache)
    for _ in range(2):
        llm.chat([user(question)])
    assert inner.calls == 2
    assert dict(cache.stats.misses) == {missed: 2}
    assert cache.stats.not_stored == {kept_out: 2}


def test_temperature_counts_where_the_policy_says_so():
    cache = Cache(MemoryStore(), admission=CachePolicy(deny=frozenset({"temperature"})))
    warm, cold = ScriptedLLM(temperature=0.7), ScriptedLLM()
    for inner in (warm, warm, cold, cold):
        CachedLLM(llm=inner, cache=cache).chat([user(ALONE)])
    assert (warm.calls, cold.calls) == (2, 1)
    CachedLLM(llm=cold, cache=cache).chat([user(ALONE)], temperature=0.5)
    assert cache.stats.misses["temperature"] == 3


def test_structured_output_by_opt_in():
    cache = Cache(MemoryStore(), admission=CachePolicy(allow=frozenset({"structured"})))
    inner = ScriptedLLM()
    for form in ("json_object", "json_object", "json_schema"):
        CachedLLM(llm=inner, cache=cache).chat([user(ALONE)], response_format={"type": form})
    assert inner.calls == 2


@deprecations
async def test_an_agent_with_a_required_tenant(inner):
    cache = Cache(MemoryStore(), policy=FixedThreshold(min_cosine=0.9))
    llm = CachedLLM(llm=inner, cache=cache, require=("tenant",))
    for values in ({}, {"tenant": "a"}, {"tenant": "a", "bypass": True}):
        with scoped(**values):
            agent = FunctionAgent(tools=[FunctionTool.from_defaults(seven)], llm=llm)
            assert str(await agent.run("Say seven")) == "The tool said number 7"
            await llm.achat([user(ALONE)])
    assert dict(cache.stats.misses) == {"tools": 6, "no_scope": 1, "no_entry": 1, "bypass": 1}
    assert cache.stats.stored == 1
