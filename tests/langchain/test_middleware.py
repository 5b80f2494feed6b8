"""`SemanticCacheMiddleware` in a real agent with a real checkpointer."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from costwise_core import FixedThreshold, MemoryStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import BrokenStore, HashingEmbedder
from langchain_costwise import SemanticCache, SemanticCacheMiddleware, track
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the capital of France?"
STOCK = "How many chairs does the shop hold?"


@tool
def stock(item: str) -> str:
    """Count what is on the shelf."""
    return f"3 of {item}"


class Clerk(ScriptedChatModel):
    """Counts the chairs with its tool, and answers anything else by itself."""

    def _answer(self, messages, kwargs):
        if "chairs" not in messages[-1].text:
            kwargs = {name: value for name, value in kwargs.items() if name != "tools"}
        return super()._answer(messages, kwargs)


def hits(messages) -> list[str]:
    return [
        message.response_metadata["costwise"]["hit"]
        for message in messages
        if "costwise" in message.response_metadata
    ]


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def ask(request):
    """One turn, in each way to run an agent; returns the thread's messages."""

    async def ask(agent, question, thread="t", **config):
        config = {"configurable": {"thread_id": thread, **config}}
        said = {"messages": [HumanMessage(question)]}
        if request.param == "invoke":
            agent.invoke(said, config)
        elif request.param == "ainvoke":
            await agent.ainvoke(said, config)
        elif request.param == "stream":
            list(agent.stream(said, config, stream_mode="messages"))
        else:
            [_ async for _ in agent.astream(said, config, stream_mode="messages")]
        return agent.get_state(config).values["messages"]

    return ask


def make(paid, cache, **settings):
    settings = {"tools": [stock], "checkpointer": InMemorySaver(), **settings}
    middleware = [SemanticCacheMiddleware(cache), *settings.pop("after", ())]
    return create_agent(paid, middleware=middleware, **settings)


async def test_a_question_asked_before_is_served(ask, cache):
    paid = Clerk(script={ASK: "Paris."})
    agent = make(paid, cache)
    first = await ask(agent, ASK, "one")
    second = await ask(agent, "what is the  capital of France?", "two")
    assert paid.asked == [ASK]
    assert first[-1].text == second[-1].text == "Paris."
    assert (hits(first), hits(second)) == ([], ["exact"])
    assert second[-1].usage_metadata["total_tokens"] == 0


async def test_a_thread_grows_by_every_turn(ask, cache):
    """The id trap: message lists replace by id, so a served id made an earlier turn disappear."""
    paid = Clerk(script={ASK: "Paris."})
    agent = make(paid, cache)
    threads = {}
    for thread in ("paid", "served"):
        for turn, question in enumerate((ASK, "And of Spain?", "And of Italy?", ASK), 1):
            threads[thread] = await ask(agent, question, thread)
            assert len(threads[thread]) == 2 * turn
    assert len(paid.asked) == 4
    assert hits(threads["served"]) == ["exact"] * 4
    assert len({message.id for thread in threads.values() for message in thread}) == 16
    assert [m.text for m in threads["served"]] == [m.text for m in threads["paid"]]


async def test_tools_run_anew_each_time(ask, cache):
    """The leak of peers: an answer from one user's tools was stored for the next."""
    paid = Clerk()
    agent = make(paid, cache)
    for n in range(2):
        messages = await ask(agent, STOCK, f"t{n}")
        assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
        assert hits(messages) == []
    assert len(paid.asked) == 4
    assert cache.cache.stats.not_stored == {"tool_calls": 2, "tool_derived": 2}
    assert cache.cache.stats.misses["tool_derived"] == 2


async def test_tools_may_be_allowed(ask):
    policy = CachePolicy(allow=frozenset({"tool_calls", "tool_derived"}))
    cache = SemanticCache(MemoryStore(), admission=policy)
    paid = Clerk()
    agent = make(paid, cache)
    one, two = [await ask(agent, STOCK, f"t{n}") for n in range(2)]
    assert len(paid.asked) == 2
    assert hits(two) == ["exact", "exact"]
    assert two[-1].text == one[-1].text
    assert two[1].tool_calls[0]["id"] == two[2].tool_call_id != one[2].tool_call_id


async def test_the_turn_after_a_tool_is_answered_from_its_own_thread(ask, cache):
    paid = Clerk()
    agent = make(paid, cache)
    await ask(agent, STOCK)
    assert len(await ask(agent, ASK)) == 6
    other = await ask(agent, ASK, "another thread, without the tool's result")
    assert hits(other) == []


async def test_rewordings_are_served(ask):
    cache = SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.8)
    )
    agent = make(Clerk(script={ASK: "Paris."}), cache)
    await ask(agent, ASK, "one")
    messages = await ask(agent, "What is the capital city of France?", "two")
    assert (messages[-1].text, hits(messages)) == ("Paris.", ["near"])


async def test_whose_request_it_is(ask):
    cache = SemanticCache(MemoryStore(), require=("tenant",))
    paid = Clerk()
    agent = make(paid, cache)
    await ask(agent, ASK, "nobody")
    assert cache.cache.stats.misses == {"no_scope": 1}
    ours = await ask(agent, ASK, "a", costwise={"tenant": "acme"})
    theirs = await ask(agent, ASK, "b", costwise={"tenant": "bolt"})
    assert ours[-1].text != theirs[-1].text
    with scoped(tenant="acme"):
        again = await ask(agent, ASK, "c")
        assert (again[-1].text, hits(again)) == (ours[-1].text, ["exact"])
        await ask(agent, ASK, "d", costwise={"bypass": True})
    assert len(paid.asked) == 4


def test_the_runtime_context_wins(cache):
    @dataclass
    class Who:
        costwise: dict

    agent = make(Clerk(), cache, context_schema=Who)
    texts = [
        agent.invoke(
            {"messages": [HumanMessage(ASK)]},
            {"configurable": {"thread_id": str(n), "costwise": {"tenant": "zinc"}}},
            context=Who(costwise={"tenant": tenant}),
        )["messages"][-1].text
        for n, tenant in enumerate(("acme", "bolt", "acme"))
    ]
    assert texts[0] == texts[2] != texts[1]


def test_another_agent_has_other_answers(cache):
    @tool
    def price(item: str) -> str:
        """Tell the price."""
        return "3"

    paid = Clerk()
    for settings in ({}, {"system_prompt": "Rhyme."}, {"tools": [price]}, {"tools": []}):
        agent = make(paid, cache, **settings)
        messages = agent.invoke(
            {"messages": [HumanMessage(ASK)]}, {"configurable": {"thread_id": "t"}}
        )["messages"]
        assert hits(messages) == []
    assert len(paid.asked) == 4


class Capital(BaseModel):
    """A capital."""

    name: str


class Structured(ScriptedChatModel):
    def _answer(self, messages, kwargs):
        return super()._answer([HumanMessage("Paris")], kwargs)


def test_structured_responses_stay_structured(cache):
    """The peer's middleware gave `structured_response=None` on a hit."""
    agent = make(Structured(), cache, tools=[], response_format=ToolStrategy(Capital))
    for n in range(2):
        done = agent.invoke(
            {"messages": [HumanMessage(ASK)]}, {"configurable": {"thread_id": str(n)}}
        )
        assert done["structured_response"] == Capital(name="Paris")
    assert cache.cache.stats.misses == {"structured": 2}


async def test_streams_show_a_hit_once(cache):
    agent = make(Clerk(script={ASK: "Paris."}), cache)
    said = {"messages": [HumanMessage(ASK)]}
    for n in range(2):
        config = {"configurable": {"thread_id": str(n)}}
        chunks = [c async for c, _ in agent.astream(said, config, stream_mode="messages")]
        assert "".join(chunk.text for chunk in chunks if isinstance(chunk, AIMessage)) == "Paris."
        updates = [u async for u in agent.astream(said, config, stream_mode="updates")]
        assert updates[-1]["model"]["messages"][-1].text
    assert len(hits(chunks)) == 1


async def test_nobody_sees_the_rewriter_at_work():
    """LangGraph shows who streams an agent the tokens of every model inside it."""
    rewriter = ScriptedChatModel()
    agent = make(Clerk(), SemanticCache(MemoryStore(), rewriter=rewriter))
    config = {"configurable": {"thread_id": "t"}}
    shown = ""
    for question in (ASK, "And of Spain?"):
        said = {"messages": [HumanMessage(question)]}
        async for chunk, _ in agent.astream(said, config, stream_mode="messages"):
            shown += chunk.text
    assert len(rewriter.asked) == 1
    assert shown == "This is answer 1.This is answer 2."


async def test_runs_at_once_share_one_call(cache):
    class Slow(Clerk):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            await asyncio.sleep(0.2)
            return self._generate(messages, stop, run_manager, **kwargs)

    paid = Slow()
    agent = make(paid, cache, tools=[])
    done = await asyncio.gather(
        *(
            agent.ainvoke(
                {"messages": [HumanMessage(ASK)]}, {"configurable": {"thread_id": str(n)}}
            )
            for n in range(20)
        )
    )
    assert len(paid.asked) == 1
    assert len({run["messages"][-1].id for run in done}) == 20


class Approve(AgentMiddleware):
    """Asks a person before the model is called."""

    def wrap_model_call(self, request, handler):
        interrupt("May I?")
        return handler(request)

    async def awrap_model_call(self, request, handler):
        interrupt("May I?")
        return await handler(request)


@pytest.mark.parametrize("sync", [True, False])
async def test_interrupts_pass_through(cache, sync):
    paid = Clerk()
    agent = make(paid, cache, tools=[], after=[Approve()])
    config = {"configurable": {"thread_id": "t"}}

    async def go(value):
        return agent.invoke(value, config) if sync else await agent.ainvoke(value, config)

    assert (await go({"messages": [HumanMessage(ASK)]}))["__interrupt__"]
    assert paid.asked == []
    done = await go(Command(resume=True))
    assert len(done["messages"]) == 2
    assert len(paid.asked) == 1
    assert cache.cache.stats.stored == 1


async def test_a_waiting_run_is_not_interrupted_by_another(cache):
    """An interrupt belongs to the run it stops; whoever waits for the same answer goes on."""
    paid, runs = Clerk(), []

    class StopsTheFirst(AgentMiddleware):
        async def awrap_model_call(self, request, handler):
            runs.append(request)
            if len(runs) == 1:
                await asyncio.sleep(0.2)  # the other one waits by now
                interrupt("May I?")
            return await handler(request)

    agent = make(paid, cache, tools=[], after=[StopsTheFirst()])
    said = {"messages": [HumanMessage(ASK)]}
    first, second = await asyncio.gather(
        *(agent.ainvoke(said, {"configurable": {"thread_id": name}}) for name in ("a", "b"))
    )
    assert [("__interrupt__" in run, len(run["messages"])) for run in (first, second)] == [
        (True, 1),
        (False, 2),
    ]
    assert len(paid.asked) == 1


async def test_a_broken_cache_costs_nothing_but_hits(ask):
    cache = SemanticCache(BrokenStore())
    agent = make(Clerk(script={ASK: "Paris."}), cache)
    assert (await ask(agent, ASK))[-1].text == "Paris."
    assert cache.cache.stats.errors


def test_errors_of_the_model_reach_the_caller(cache):
    class Dead(Clerk):
        def _answer(self, messages, kwargs):
            raise ConnectionError("the line went dead")

    with pytest.raises(ConnectionError):
        make(Dead(), cache).invoke(
            {"messages": [HumanMessage(ASK)]}, {"configurable": {"thread_id": "t"}}
        )
    assert cache.cache.stats.stored == 0


def test_hits_are_on_the_bill(cache):
    agent = make(Clerk(), cache)
    with track() as bill:
        for n in range(3):
            agent.invoke({"messages": [HumanMessage(ASK)]}, {"configurable": {"thread_id": str(n)}})
    assert (bill.calls, bill.paid_calls) == (3, 1)


def test_a_wrong_cache_is_told_at_once():
    with pytest.raises(ConfigError, match="got MemoryStore"):
        SemanticCacheMiddleware(MemoryStore())


def test_without_langchain_the_extra_is_named():
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "import langchain_costwise\n"
        "try:\n    langchain_costwise.SemanticCacheMiddleware\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("MissingExtraError SemanticCacheMiddleware")
    assert "[agents]" in out.stdout
