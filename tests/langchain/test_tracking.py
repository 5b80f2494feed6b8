"""`track`: each model call on the bill, once, whatever way it is made."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.runnables.config import ContextThreadPoolExecutor

from costwise_core import MemoryStore, scoped
from langchain_costwise import CachedChatModel, SemanticCache, track
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the capital of France?"
NAME = "gpt-4o-mini"


@pytest.fixture
def paid():
    return ScriptedChatModel(model_name=NAME, script={ASK: "Paris is the capital."})


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_every_way_to_call_counts_once(paid):
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | paid | StrOutputParser()
    with track(feature="faq") as bill:
        paid.invoke(ASK)
        await paid.ainvoke(ASK)
        list(paid.stream(ASK))
        [chunk async for chunk in paid.astream(ASK)]
        paid.batch([ASK, ASK])
        await paid.abatch([ASK, ASK])
        chain.invoke({"q": ASK})
        [event async for event in chain.astream_events({"q": ASK}, version="v2")]
        RunnableParallel(a=RunnableLambda(lambda _: ASK) | paid, b=chain).invoke({"q": ASK})
        paid.stream_events(ASK, version="v3").output  # noqa: B018
        await asyncio.gather(*(paid.ainvoke(ASK) for _ in range(3)))
        with ContextThreadPoolExecutor(2) as pool:
            list(pool.map(paid.invoke, [ASK, ASK]))
    assert bill.calls == bill.paid_calls == len(paid.asked) == 18
    assert bill.usage.input_tokens == 18 * 6
    assert bill.usage.output_tokens == 18 * 4
    assert not bill.usage.estimated
    assert bill.usd > 0
    assert {record.model for record in bill.records} == {NAME}
    assert {record.tags for record in bill.records} == {(("feature", "faq"),)}
    assert bill.faults == {}


def test_blocks_nest_and_end(paid):
    with track(feature="faq") as outer:
        paid.invoke(ASK)
        with track(team="x") as inner:
            paid.invoke(ASK)
    paid.invoke(ASK)
    assert (outer.calls, inner.calls) == (2, 1)
    assert inner.records[0].tags == (("feature", "faq"), ("team", "x"))


def test_a_stream_read_after_the_block_is_on_its_bill(paid):
    with track() as bill:
        stream = paid.stream(ASK)
        next(stream)
    list(stream)
    assert bill.calls == 1


def test_other_threads_have_their_own_bills(paid):
    def work(n: int):
        with track(user=f"u{n}") as bill:
            for _ in range(n):
                paid.invoke(ASK)
            return bill.calls

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(1, 9))) == list(range(1, 9))


@pytest.mark.parametrize("wrapped", [True, False])
async def test_hits_are_entered_with_what_they_saved(paid, wrapped):
    cache = SemanticCache(MemoryStore())
    model = (
        CachedChatModel(model=paid, cache=cache)
        if wrapped
        else paid.model_copy(update={"cache": cache})
    )
    with track() as bill:
        model.invoke(ASK)
        model.invoke(ASK)
        await model.ainvoke(ASK)
        if wrapped:
            list(model.stream(ASK))
            [chunk async for chunk in model.astream(ASK)]
    hits = 4 if wrapped else 2
    assert (bill.calls, bill.paid_calls, bill.hits) == (hits + 1, 1, hits)
    assert bill.usage.total_tokens == 10
    assert bill.saved == bill.usd * hits > 0
    assert {(r.tier, r.model) for r in bill.records} == {("", NAME), ("exact", NAME)}


def test_hits_of_text_models_are_entered_too():
    """LangChain runs no callbacks for them at all."""
    model = FakeListLLM(responses=["Paris."], cache=SemanticCache(MemoryStore()))
    with track() as bill:
        model.invoke(ASK)
        model.invoke(ASK)
    assert (bill.paid_calls, bill.hits) == (1, 1)
    paid, hit = bill.records
    assert hit.savings[0].tokens == paid.usage.total_tokens > 0
    assert (paid.operation, hit.operation) == ("completion", "completion")


def test_hits_of_other_caches_are_not_paid(paid):
    model = paid.model_copy(update={"cache": InMemoryCache()})
    with track() as bill:
        model.invoke(ASK), model.invoke(ASK)
    assert (bill.calls, bill.usage.total_tokens) == (1, 10)


def test_what_no_provider_reports_is_estimated_and_says_so():
    with track() as bill:
        FakeListChatModel(responses=["Paris is the capital."]).invoke(ASK)
        list(FakeListChatModel(responses=["Paris is the capital."]).stream(ASK))
        FakeListLLM(responses=["a", "b"]).generate(["one", "two"])
    assert bill.calls == 4
    assert all(r.usage.estimated and r.usage.input_tokens for r in bill.records)
    assert bill.unpriced


def test_reports_of_text_models_are_read():
    class Reporting(FakeListLLM):
        def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
            result = super()._generate(prompts, stop, run_manager, **kwargs)
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            result.llm_output = {"token_usage": usage, "model_name": "gpt-3.5-turbo-instruct"}
            return result

    with track() as bill:
        Reporting(responses=["a", "b"]).generate(["one", "two"])
    assert (bill.calls, bill.usage.input_tokens, bill.usage.estimated) == (2, 7, False)
    assert {record.model for record in bill.records} == {"gpt-3.5-turbo-instruct"}


def test_failures_cost_what_came_of_them(paid):
    broken = paid.model_copy(update={"fail_after": 2})
    dead = paid.model_copy(update={"fail_after": 0})
    with track() as bill:
        with pytest.raises(ConnectionError):
            list(broken.stream(ASK))
        with pytest.raises(ConnectionError):
            list(dead.stream(ASK))
        stream = paid.stream(ASK)
        next(stream)
        stream.close()
    assert [record.why.partition(";")[0] for record in bill.records] == [
        "broke off with ConnectionError",
        "broke off with GeneratorExit",
    ]
    assert all(record.usage.estimated for record in bill.records)


def test_bookkeeping_breaks_no_call(paid):
    class Full:
        def record(self, records):
            raise OSError("no space left on device")

        def records(self, **_):
            return iter(())

    with track(ledger=Full()) as bill:
        assert paid.invoke(ASK).text == "Paris is the capital."
    assert bill.faults == {"OSError": 1}
    assert bill.calls == 1


@pytest.mark.parametrize(
    "odd", ["yes", {}, {"hit": 7}, {"hit": "exact", "saved_usage": {"a": "b"}}]
)
def test_odd_markers_break_no_call(paid, odd):
    with track() as bill:
        assert paid.model_copy(update={"tell": {"costwise": odd}}).invoke(ASK).text
    assert (bill.calls, bill.faults) == (1, {})
    assert bill.hits == (isinstance(odd, dict) and odd.get("hit") == "exact")


def test_importing_hooks_nothing():
    code = (
        "import langchain_costwise.tracking\n"
        "from langchain_core.tracers import context\n"
        "before = len(context._configure_hooks)\n"
        "for _ in range(3):\n"
        "    with langchain_costwise.tracking.track(): pass\n"
        "assert len(context._configure_hooks) == before + 1, context._configure_hooks\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tags_are_said_in_a_config_too(paid):
    chain = RunnableLambda(lambda asked: asked) | paid
    with track(feature="faq", tenant="acme") as bill:
        chain.invoke(ASK, {"metadata": {"tenant": "other", "thread_id": "t1", "colour": "red"}})
    with track(feature="faq") as other, scoped(tenant="theirs"):
        paid.invoke(ASK)
    assert [dict(one.tags) for one in bill.records] == [
        {"feature": "faq", "tenant": "other", "conversation": "t1"}
    ]
    assert [dict(one.tags) for one in other.records] == [{"feature": "faq", "tenant": "theirs"}]
