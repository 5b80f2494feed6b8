"""Answers past their time: served once more, renewed behind, and on the bill."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from costwise_core import Cache, MemoryLedger, MemoryStore
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from langchain_costwise import CachedChatModel, CachedRetriever, SemanticCache, track
from langchain_costwise.testing import ScriptedChatModel
from tests.langchain.test_dedup import reworded
from tests.langchain.test_documents import Shelf, law, texts

ASK = "What is the refund deadline?"


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


def spoken(chunks):
    return "".join(chunk.text for chunk in chunks)


SYNC = {
    "invoke": lambda model: model.invoke(ASK).text,
    "stream": lambda model: spoken(model.stream(ASK)),
}


@pytest.mark.parametrize("ask", SYNC.values(), ids=SYNC)
def test_a_thread_renews_what_is_served(aging, clock, ask):
    paid, ledger = ScriptedChatModel(), MemoryLedger()
    model = CachedChatModel(model=paid, cache=SemanticCache(aging))
    with track(ledger=ledger):
        first = ask(model)
        clock.advance(101)
        assert ask(model) == first
        wait(lambda: aging.stats.stored == 2)
        assert ask(model) == "This is answer 2."
        wait(lambda: len(list(ledger.records())) == 4)
    assert paid.asked == [ASK, ASK]
    assert sorted(row.tier for row in ledger.records()) == ["", "", "exact", "exact"]
    assert (aging.stats.stale, model.in_flight.stats.refreshed) == (1, 1)


async def joined(stream):
    return spoken([chunk async for chunk in stream])


ASYNC = {
    "ainvoke": lambda model: model.ainvoke(ASK),
    "astream": lambda model: joined(model.astream(ASK)),
}


@pytest.mark.parametrize("ask", ASYNC.values(), ids=ASYNC)
async def test_a_task_renews_what_is_served(aging, clock, ask):
    paid, ledger = ScriptedChatModel(), MemoryLedger()
    model = CachedChatModel(model=paid, cache=SemanticCache(aging))
    with track(ledger=ledger):
        await ask(model)
        clock.advance(101)
        await asyncio.gather(*(ask(model) for _ in range(20)))
        await until(lambda: aging.stats.stored == 2)
        await ask(model)
    assert len(paid.asked) == 2
    assert aging.stats.stale == 20
    rows = [row.tier for row in ledger.records()]
    assert (rows.count(""), rows.count("exact")) == (2, 21)


def test_the_answer_says_that_it_is_past_its_time(aging, clock):
    model = CachedChatModel(model=ScriptedChatModel(), cache=SemanticCache(aging))
    model.invoke(ASK)
    clock.advance(101)
    assert "being refreshed" in model.invoke(ASK).response_metadata["costwise"]["why"]


def test_where_nothing_can_be_renewed_it_is_a_miss(aging, clock):
    paid = ScriptedChatModel(cache=SemanticCache(aging))
    paid.invoke(ASK)
    clock.advance(101)
    assert paid.invoke(ASK).text == "This is answer 2."


@pytest.mark.parametrize("sync", [True, False])
async def test_a_retriever_renews_what_it_serves(aging, clock, sync):
    shelf = Shelf(documents=[law(0, "Old.")])
    retriever = CachedRetriever(retriever=shelf, cache=aging, corpus="c")
    ask = lambda: retriever.invoke("0") if sync else retriever.ainvoke("0")  # noqa: E731
    found = [ask() if sync else await ask()]
    shelf.documents[0] = law(0, "New.")
    clock.advance(101)
    found.append(ask() if sync else await ask())
    await until(lambda: aging.stats.stored == 2)
    found.append(ask() if sync else await ask())
    assert [texts(one) for one in found] == [["Old."], ["Old."], ["New."]]


@pytest.mark.parametrize("ask", [lambda n: ASK, reworded], ids=["identical", "reworded"])
async def test_a_hundred_calls_pay_once_as_the_cache_comes(ask):
    class Slow(ScriptedChatModel):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            await asyncio.sleep(0.2)
            return self._generate(messages, stop, run_manager, **kwargs)

    paid = Slow()
    cache = SemanticCache(MemoryStore(), embedder=HashingEmbedder(256))
    model = CachedChatModel(model=paid, cache=cache)
    await asyncio.gather(*(model.ainvoke(ask(n)) for n in range(100)))
    assert len(paid.asked) == 1


@pytest.mark.parametrize("ask", [lambda n: ASK, reworded], ids=["identical", "reworded"])
def test_a_hundred_threads_pay_once_as_the_cache_comes(ask):
    paid = ScriptedChatModel(latency=1.0)
    cache = SemanticCache(MemoryStore(), embedder=HashingEmbedder(256))
    model = CachedChatModel(model=paid, cache=cache)
    with ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda n: model.invoke(ask(n)).text, range(100)))
    assert (len(paid.asked), len(set(got))) == (1, 1)
