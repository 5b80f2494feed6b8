"""The bill: every innermost call once, whoever wraps it, however it is read."""

import asyncio
import threading
from decimal import Decimal

import pytest
from llama_index.core import PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from costwise_core.errors import ConfigError
from llamaindex_costwise import CachedLLM, CachedQueryEngine, track
from llamaindex_costwise.testing import OUTPUT_TOKENS, ScriptedLLM
from tests.llamaindex.fakes import deprecations, seven

ASKED = [ChatMessage(content="What is the moon?")]


def answers(bill):
    """Return the calls that are no embedding: those of the cache are on the bill as well."""
    return [record for record in bill.records if record.operation != "embedding"]


async def test_each_way_to_call_counts_once_with_reported_usage(inner):
    with track(feature="faq") as bill:
        inner.chat(ASKED)
        await inner.achat(ASKED)
        list(inner.stream_chat(ASKED))
        [piece async for piece in await inner.astream_chat(ASKED)]
        inner.complete("What is the moon?")
        await inner.acomplete("What is the moon?")
        list(inner.stream_complete("What is the moon?"))
    assert bill.calls == inner.calls == 7
    assert bill.usage.output_tokens == 7 * OUTPUT_TOKENS
    assert bill.estimated == 0
    assert {record.model for record in bill.records} == {"gpt-4o-mini"}
    assert {record.tags for record in bill.records} == {(("feature", "faq"),)}
    assert bill.usd > 0


def test_nothing_is_counted_outside(inner):
    with track() as bill:
        pass
    inner.chat(ASKED)
    assert bill.calls == 0


def test_an_unknown_tag_is_an_error():
    with pytest.raises(ConfigError, match="feature"), track(featur="faq"):
        pass


def test_a_custom_llm_that_chats_by_completing_counts_once():
    llm = MockLLM(max_tokens=3)
    with track() as bill:
        llm.chat(ASKED)
        list(llm.stream_chat(ASKED))
        llm.predict(PromptTemplate("{x}"), x="moon")
    assert bill.calls == 3
    assert bill.estimated == 3


@deprecations
async def test_wrappers_add_nothing(cache, inner):
    class Moon(BaseModel):
        size: int

    llm = CachedLLM(llm=inner, cache=cache)
    with track() as bill:
        llm.chat(ASKED)
        list(llm.stream_chat([ChatMessage(content="And Mars?")]))
        structured = llm.as_structured_llm(Moon)
        structured.chat(ASKED)
        list(structured.stream_chat(ASKED))
        await structured.achat(ASKED)
    assert bill.calls == inner.calls == 5


async def test_hits_are_on_the_bill_with_what_they_save(cache, inner):
    llm = CachedLLM(llm=inner, cache=cache)
    with track() as bill:
        llm.chat(ASKED)
        llm.chat(ASKED)
        list(llm.stream_chat(ASKED))
        await llm.achat([ChatMessage(content="What is then the moon?")])
    paid, *hits = answers(bill)
    assert [hit.tier for hit in hits] == ["exact", "exact", "near"]
    assert bill.paid_calls == 1
    assert paid.usd > 0
    for hit in hits:
        assert hit.usd == 0
        assert hit.usage.total_tokens == 0
        assert hit.savings[0].usd == paid.usd
        assert hit.savings[0].tokens == paid.usage.total_tokens
        assert hit.savings[0].kind == "measured"
    assert bill.saved == 3 * paid.usd
    assert bill.net == bill.baseline - bill.usd


def test_without_reported_usage_a_saving_is_an_estimate(cache):
    llm = CachedLLM(llm=ScriptedLLM(usage=False), cache=cache)
    with track() as bill:
        llm.complete("What is the moon?")
        llm.complete("What is the moon?")
    paid, hit = answers(bill)
    assert paid.usage.estimated
    assert paid.usage.input_tokens > 0
    assert hit.savings[0].kind == "modelled"
    assert hit.savings[0].tokens > 0


def test_query_hits_are_on_the_bill(cache, inner):
    index = SummaryIndex([TextNode(text="The moon is round.")])
    engine = CachedQueryEngine(index.as_query_engine(llm=inner), cache=cache, corpus="v1")
    with track() as bill:
        engine.query("What is the moon?")
        engine.query("What is the moon?")
    assert [(r.operation, r.tier) for r in answers(bill)] == [("chat", ""), ("query", "exact")]
    assert bill.saved > Decimal(0)


# --- streams ----------------------------------------------------------------------------------


async def test_an_abandoned_stream_counts_with_what_it_brought(inner, llm):
    with track() as bill:
        for stream in (inner.stream_chat(ASKED), llm.stream_chat(ASKED)):
            next(stream)
            stream.close()
        astream = await inner.astream_chat(ASKED)
        await anext(astream)
        await astream.aclose()
        tokens = inner.stream_complete("What is the moon?")
        next(tokens)
        tokens.close()
    assert bill.calls == 4
    for record in answers(bill):
        assert record.usage.estimated
        assert 0 < record.usage.output_tokens < OUTPUT_TOKENS
        assert record.usage.input_tokens > 0
        assert "not read to its end" in record.why


def test_a_stream_that_fails_midway_counts_and_one_that_never_began_does_not():
    with track() as bill:
        with pytest.raises(ConnectionError):
            list(ScriptedLLM(fail_after=2).stream_chat(ASKED))
        with pytest.raises(ConnectionError):
            list(ScriptedLLM(fail_after=0).stream_chat(ASKED))
    assert bill.calls == 1


def test_a_call_that_fails_costs_nothing():
    class Failing(ScriptedLLM):
        def _message(self, messages, kwargs):
            raise ConnectionError

    with track() as bill, pytest.raises(ConnectionError):
        Failing().chat(ASKED)
    assert bill.calls == 0


def test_a_stream_read_after_the_block_or_in_another_thread_is_on_its_bill(inner, llm):
    with track(feature="a") as first:
        stream, other = inner.stream_chat(ASKED), llm.stream_chat(ASKED)
    with track(feature="b") as second:
        list(stream)
        thread = threading.Thread(target=lambda: list(other))
        thread.start()
        thread.join()
    assert (first.calls, second.calls) == (2, 0)
    assert not any(record.usage.estimated for record in answers(first))


def test_two_streams_open_at_once_are_two_calls(inner):
    with track() as bill:
        one, two = inner.stream_chat(ASKED), inner.stream_chat(ASKED)
        next(one)
        list(two)
        list(one)
    assert bill.calls == 2
    assert bill.estimated == 0


# --- concurrency ----------------------------------------------------------------------------------


async def test_tasks_keep_their_own_bills():
    async def work(name, times):
        llm = ScriptedLLM()
        with track(user=name) as bill:
            for _ in range(times):
                await llm.achat(ASKED)
                await asyncio.sleep(0)
        return bill

    bills = await asyncio.gather(*(work(f"u{n}", n) for n in range(1, 6)))
    assert [bill.calls for bill in bills] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["tree_summarize", "accumulate", "refine"])
async def test_synthesizers_that_fan_out(inner, mode):
    index = SummaryIndex([TextNode(text=f"Fact {n}. " + "word " * 3000) for n in range(4)])
    engine = index.as_query_engine(llm=inner, response_mode=mode, use_async=mode != "refine")
    with track() as bill:
        engine.query("What is the moon?")
        await engine.aquery("What is the moon?")
    assert inner.calls > 4
    assert bill.calls == inner.calls
    assert bill.estimated == 0


@deprecations
async def test_agents_are_billed_for_every_step(llm, inner):
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(seven)], llm=llm)
    with track() as bill:
        await agent.run("Say seven")
    assert bill.calls == inner.calls == 2
    assert bill.estimated == 0


def test_handlers_are_attached_once(inner):
    with track() as outer, track() as bill:
        inner.chat(ASKED)
    assert (outer.calls, bill.calls) == (1, 1)


def test_tags_are_said_by_llamaindex_too(inner):
    with track(feature="faq", tenant="acme") as bill, instrument_tags({"tenant": "o", "n": 1}):
        inner.chat(ASKED)
        list(inner.stream_chat(ASKED))
    assert [dict(one.tags) for one in bill.records] == [{"feature": "faq", "tenant": "o"}] * 2


def test_an_llm_without_a_name_is_known_by_its_class():
    with track() as bill:
        MockLLM().complete("q")
    assert [one.model for one in bill.records] == ["MockLLM"]
