"""Answers past their time: served once more, renewed behind, and on the bill."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import TextNode

from costwise_core import Cache, MemoryLedger, MemoryStore
from costwise_core.testing.fakes import FakeClock
from llamaindex_costwise import (
    CachedLLM,
    CachedQueryEngine,
    CachedRetriever,
    LlamaIndexEmbedder,
    track,
)
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding
from tests.llamaindex.test_dedup import reworded

ASKED = "What is the refund deadline?"


async def until(happened):
    for _ in range(2_000):
        if happened():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def wait(happened):
    for _ in range(2_000):
        if happened():
            return
        time.sleep(0.005)
    raise AssertionError("it never happened")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def aging(clock):
    store = MemoryStore(clock=clock)
    return Cache(store, ttl=100, stale_while_revalidate=50, clock=clock)


SYNC = {
    "chat": lambda llm: llm.chat([ChatMessage(content=ASKED)]),
    "complete": lambda llm: llm.complete(ASKED),
    "stream_chat": lambda llm: list(llm.stream_chat([ChatMessage(content=ASKED)])),
    "stream_complete": lambda llm: list(llm.stream_complete(ASKED)),
}


@pytest.mark.parametrize("ask", SYNC.values(), ids=SYNC)
def test_a_thread_renews_what_is_served(aging, clock, ask):
    inner, ledger = ScriptedLLM(), MemoryLedger()
    llm = CachedLLM(llm=inner, cache=aging)
    with track(ledger=ledger):
        ask(llm)
        clock.advance(101)
        ask(llm)
        wait(lambda: aging.stats.stored == 2)
        ask(llm)
        wait(lambda: len(list(ledger.records())) == 4)
    assert inner.calls == 2
    assert aging.stats.stale == 1
    assert sorted(row.tier for row in ledger.records()) == ["", "", "exact", "exact"]


async def read(stream):
    return [piece async for piece in await stream]


ASYNC = {
    "achat": lambda llm: llm.achat([ChatMessage(content=ASKED)]),
    "acomplete": lambda llm: llm.acomplete(ASKED),
    "astream_chat": lambda llm: read(llm.astream_chat([ChatMessage(content=ASKED)])),
    "astream_complete": lambda llm: read(llm.astream_complete(ASKED)),
}


@pytest.mark.parametrize("ask", ASYNC.values(), ids=ASYNC)
async def test_a_task_renews_what_is_served(aging, clock, ask):
    inner, ledger = ScriptedLLM(), MemoryLedger()
    llm = CachedLLM(llm=inner, cache=aging)
    with track(ledger=ledger):
        await ask(llm)
        clock.advance(101)
        await asyncio.gather(*(ask(llm) for _ in range(20)))
        await until(lambda: aging.stats.stored == 2)
        await ask(llm)
        await until(lambda: len(list(ledger.records())) == 23)
    assert inner.calls == 2
    assert aging.stats.stale == 20


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("sync", [True, False])
async def test_an_engine_renews_what_it_serves(aging, clock, streaming, sync):
    class Counting(ScriptedLLM):
        def _text(self, sent):
            return f"answer {self.calls}"

    inner = Counting()
    index = SummaryIndex([TextNode(text="Thirty days.")])
    engine = CachedQueryEngine(
        index.as_query_engine(llm=inner, streaming=streaming), cache=aging, corpus="c"
    )

    async def ask():
        response = engine.query(ASKED) if sync else await engine.aquery(ASKED)
        if not streaming:
            return str(response)
        if sync:
            return "".join(response.response_gen)
        return "".join([token async for token in response.async_response_gen()])

    first = await ask()
    clock.advance(101)
    assert await ask() == first
    await until(lambda: aging.stats.stored == 2)
    assert (first, await ask()) == ("answer 1", "answer 2")
    assert aging.stats.stale == 1


@pytest.mark.parametrize("sync", [True, False])
async def test_a_retriever_renews_what_it_serves(aging, clock, sync):
    node = TextNode(text="Old.", metadata={"version": "1"})
    index = SummaryIndex([node])
    retriever = CachedRetriever(index.as_retriever(), cache=aging, corpus="c")

    async def ask():
        found = retriever.retrieve(ASKED) if sync else await retriever.aretrieve(ASKED)
        return [one.node.text for one in found]

    await ask()
    clock.advance(101)
    assert await ask() == ["Old."]
    await until(lambda: aging.stats.stored == 2)
    assert aging.stats.stale == 1


@pytest.mark.parametrize("ask", [lambda n: ASKED, reworded], ids=["identical", "reworded"])
async def test_a_hundred_calls_pay_once_as_the_cache_comes(ask):
    class Slow(ScriptedLLM):
        async def acomplete(self, prompt, formatted=False, **kwargs):
            await asyncio.sleep(0.2)
            return await super().acomplete(prompt, formatted, **kwargs)

    inner = Slow()
    cache = Cache(MemoryStore(), embedder=LlamaIndexEmbedder(WordEmbedding()))
    llm = CachedLLM(llm=inner, cache=cache)
    await asyncio.gather(*(llm.acomplete(ask(n)) for n in range(100)))
    assert inner.calls == 1


@pytest.mark.parametrize("ask", [lambda n: ASKED, reworded], ids=["identical", "reworded"])
def test_a_hundred_threads_pay_once_as_the_cache_comes(ask):
    class Slow(ScriptedLLM):
        def complete(self, prompt, formatted=False, **kwargs):
            time.sleep(1.0)
            return super().complete(prompt, formatted, **kwargs)

    inner = Slow()
    cache = Cache(MemoryStore(), embedder=LlamaIndexEmbedder(WordEmbedding()))
    llm = CachedLLM(llm=inner, cache=cache)
    with ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda n: llm.complete(ask(n)).text, range(100)))
    assert (inner.calls, len(set(got))) == (1, 1)
