"""Calls that are on their way at once: one is paid for, and the bill says so."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import PrivateAttr

from costwise_core import Cache, FixedThreshold, MemoryLedger, MemoryStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.dedup import InFlight
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import CachedChatModel, CachedRetriever, SemanticCache, track
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the refund deadline?"
LONG = "Thirty days after the parcel has arrived, and not a day later."


class Slow(ScriptedChatModel):
    """Answers after a pause, so that all the others have asked by then."""

    pause: float = 0.2

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(self.pause)
        return self._generate(messages, stop, run_manager, **kwargs)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(self.pause)
        for chunk in self._stream(messages, stop, run_manager, **kwargs):
            await asyncio.sleep(0.01)
            yield chunk


@pytest.fixture
def paid():
    return Slow(script={ASK: LONG}, latency=0.0)


@pytest.fixture
def near():
    return SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(256), policy=FixedThreshold(min_cosine=0.5)
    )


def reworded(n):
    return f"{('', 'please ', 'so, ', 'well, ')[n % 4]}what is the refund deadline{'?' * (n % 25)}"


@pytest.mark.parametrize("ask", [lambda n: ASK, reworded], ids=["identical", "reworded"])
async def test_a_hundred_calls_pay_once(paid, near, ask):
    model = CachedChatModel(model=paid, cache=near)
    usage = UsageMetadataCallbackHandler()
    got = await asyncio.gather(
        *(model.ainvoke(ask(n), config={"callbacks": [usage]}) for n in range(100))
    )
    assert len(paid.asked) == 1
    assert len({one.text for one in got}) == 1
    assert len({one.id for one in got}) == 100
    marks = [one.response_metadata.get("costwise") for one in got]
    shared = [mark for mark in marks if mark]
    assert len(shared) == 99
    assert all(mark["why"].startswith("shared with a request in flight") for mark in shared)
    assert sum(one.usage_metadata["total_tokens"] for one in got) == next(
        one.usage_metadata["total_tokens"] for one, mark in zip(got, marks, strict=True) if not mark
    )
    # One of them is changed; the others do not notice.
    got[0].content = "spoilt"
    got[0].response_metadata.clear()
    assert sum(one.text == "spoilt" for one in got) == 1


async def test_the_bill_has_one_paid_call(paid, near):
    ledger = MemoryLedger()
    with track(ledger=ledger):
        model = CachedChatModel(model=paid, cache=near)
        await asyncio.gather(*(model.ainvoke(ASK) for _ in range(10)))
    rows = list(ledger.records())
    assert len(rows) == 10
    assert sorted(row.tier for row in rows) == [""] + ["exact"] * 9
    assert sum(row.usage.total_tokens for row in rows if row.tier) == 0
    assert all(row.savings for row in rows if row.tier)


def test_threads_pay_once(near):
    paid = ScriptedChatModel(latency=0.5)
    model = CachedChatModel(model=paid, cache=near)
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda _: model.invoke(ASK).text, range(20)))
    assert len(paid.asked) == 1
    assert len(set(got)) == 1


async def test_ten_read_one_stream_and_one_leaves_early(paid, near):
    model = CachedChatModel(model=paid, cache=near)

    async def read(n):
        chunks = []
        async for chunk in model.astream(ASK):
            chunks.append(chunk)
            if n == 3 and len(chunks) == 2:
                return None
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        return len(chunks), total

    got = await asyncio.gather(*(read(n) for n in range(10)))
    assert len(paid.asked) == 1
    assert got[3] is None
    whole = [one for one in got if one]
    assert {total.text for _, total in whole} == {LONG}
    assert len({total.id for _, total in whole}) == 9
    assert min(chunks for chunks, _ in whole) > 5  # live, not in one lump
    billed = [total.usage_metadata["total_tokens"] for _, total in whole]
    assert sum(1 for tokens in billed if tokens) == 1
    marked = [total for _, total in whole if "costwise" in total.response_metadata]
    assert len(marked) == 8
    assert all(one.response_metadata["costwise"]["saved_usage"]["output_tokens"] for one in marked)
    assert near.cache.stats.stored == 1


async def test_a_stream_goes_on_when_its_leader_is_cancelled(paid, near):
    model = CachedChatModel(model=paid, cache=near)

    async def read():
        return "".join([chunk.text async for chunk in model.astream(ASK)])

    leader, other = asyncio.create_task(read()), asyncio.create_task(read())
    await asyncio.sleep(0.25)
    leader.cancel()
    assert await other == LONG
    assert len(paid.asked) == 1


async def test_streams_and_plain_calls_share(paid, near):
    model = CachedChatModel(model=paid, cache=near)

    async def stream():
        return "".join([chunk.text async for chunk in model.astream(ASK)])

    async def plain():
        return (await model.ainvoke(ASK)).text

    assert set(await asyncio.gather(stream(), plain(), stream(), plain())) == {LONG}
    assert len(paid.asked) == 1


async def test_a_cut_off_answer_reaches_all_and_is_not_stored(near):
    paid = Slow(script={ASK: LONG}, tell={"finish_reason": "length"})
    model = CachedChatModel(model=paid, cache=near)

    async def read():
        total = None
        async for chunk in model.astream(ASK):
            total = chunk if total is None else total + chunk
        return total

    got = await asyncio.gather(*(read() for _ in range(3)))
    assert len(paid.asked) == 1
    assert {one.text for one in got} == {LONG}
    assert {one.response_metadata["finish_reason"] for one in got} == {"length"}
    assert near.cache.stats.stored == 0


async def test_errors_reach_all(near):
    class Dead(Slow):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            self.asked.append("x")
            await asyncio.sleep(0.1)
            raise ConnectionError("the line went dead")

    paid = Dead()
    model = CachedChatModel(model=paid, cache=near)
    got = await asyncio.gather(*(model.ainvoke(ASK) for _ in range(10)), return_exceptions=True)
    assert [type(one) for one in got] == [ConnectionError] * 10
    assert len(paid.asked) == 1


async def test_a_cancelled_call_hands_over(paid, near):
    model = CachedChatModel(model=paid, cache=near)
    calls = [asyncio.create_task(model.ainvoke(ASK)) for _ in range(5)]
    await asyncio.sleep(0.1)
    calls[0].cancel()
    got = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(got[0], asyncio.CancelledError)
    assert {one.text for one in got[1:]} == {LONG}
    assert len(paid.asked) == 1  # the cancelled call had not reached the model yet


async def test_tenants_pay_each_for_themselves(paid, near):
    model = CachedChatModel(model=paid, cache=near)

    async def ask(n):
        with scoped(tenant=f"t{n % 3}"):
            return await model.ainvoke(ASK)

    await asyncio.gather(*(ask(n) for n in range(9)))
    assert len(paid.asked) == 3


async def test_what_is_offered_tools_is_not_shared_unless_allowed(paid, near):
    def weather(city: str) -> str:
        """Tell the weather."""
        return city

    bound = CachedChatModel(model=paid, cache=near).bind_tools([weather])
    await asyncio.gather(*(bound.ainvoke(ASK) for _ in range(3)))
    assert len(paid.asked) == 3
    open_ = SemanticCache(MemoryStore(), admission=CachePolicy(allow=frozenset({"tool_calls"})))
    bound = CachedChatModel(model=paid, cache=open_).bind_tools([weather])
    got = await asyncio.gather(*(bound.ainvoke(ASK) for _ in range(3)))
    assert len(paid.asked) == 4
    assert len({one.tool_calls[0]["id"] for one in got}) == 3


async def test_wrappers_share_when_they_are_given_the_same_flights(paid, near):
    flights = InFlight()
    models = [CachedChatModel(model=paid, cache=near, in_flight=flights) for _ in range(2)]
    await asyncio.gather(*(model.ainvoke(ASK) for model in models))
    assert len(paid.asked) == 1


class SlowRetriever(BaseRetriever):
    _searched: list[str] = PrivateAttr(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        raise NotImplementedError

    async def _aget_relevant_documents(self, query, *, run_manager):
        self._searched.append(query)
        await asyncio.sleep(0.1)
        return [Document(id="1", page_content="Thirty days.", metadata={"page": 1})]


async def test_a_hundred_searches_search_once():
    inner = SlowRetriever()
    retriever = CachedRetriever(retriever=inner, cache=Cache(MemoryStore()), corpus="v1")
    got = await asyncio.gather(*(retriever.ainvoke(ASK) for _ in range(100)))
    assert len(inner._searched) == 1
    got[0][0].metadata["page"] = "spoilt"
    assert sum(one[0].metadata["page"] == "spoilt" for one in got) == 1
