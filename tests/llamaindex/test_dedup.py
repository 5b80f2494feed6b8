"""Calls that are on their way at once: one is paid for, and the bill says so."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.schema import TextNode

from costwise_core import Cache, FixedThreshold, MemoryStore, scoped
from llamaindex_costwise import CachedLLM, CachedQueryEngine
from llamaindex_costwise.embedding import LlamaIndexEmbedder
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding

ASKED = "What is the refund deadline?"
QA = PromptTemplate("Context: {context_str}\nQuestion: {query_str}\nAnswer:")


class SlowLLM(ScriptedLLM):
    """Answers after a pause, so that all the others have asked by then."""

    pause: float = 0.2

    @llm_chat_callback()
    async def achat(self, messages, **kwargs):
        await asyncio.sleep(self.pause)
        return await ScriptedLLM.achat.__wrapped__(self, messages, **kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt, formatted=False, **kwargs):
        await asyncio.sleep(self.pause)
        return await ScriptedLLM.acomplete.__wrapped__(self, prompt, formatted, **kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages, **kwargs):
        self._calls.append(("astream_chat", list(messages), kwargs))

        async def gen():
            await asyncio.sleep(self.pause)
            for piece in self._pieces(messages, kwargs):
                await asyncio.sleep(0.01)
                yield piece

        return gen()


@pytest.fixture
def inner():
    return SlowLLM()


@pytest.fixture
def cache():
    return Cache(
        MemoryStore(),
        embedder=LlamaIndexEmbedder(WordEmbedding()),
        policy=FixedThreshold(min_cosine=0.5),
    )


def same(n):
    return ASKED


def reworded(n):
    return f"{('', 'please ', 'so, ', 'well, ')[n % 4]}what is the refund deadline{'?' * (n % 25)}"


WAYS = {
    "achat": lambda llm, q: llm.achat([ChatMessage(content=q)]),
    "acomplete": lambda llm, q: llm.acomplete(q),
    "apredict": lambda llm, q: llm.apredict(QA, query_str=q, context_str="30 days."),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("ask", [same, reworded])
async def test_a_hundred_calls_pay_once(inner, cache, way, ask):
    llm = CachedLLM(llm=inner, cache=cache)
    got = await asyncio.gather(*(way(llm, ask(n)) for n in range(100)))
    assert inner.calls == 1
    texts = {one if isinstance(one, str) else str(one) for one in got}
    assert len(texts) == 1
    marks = [one.raw.get("costwise") for one in got if not isinstance(one, str)]
    if marks:
        assert sum(mark is not None for mark in marks) == 99
        assert sum("usage" in one.raw for one in got) == 1
        assert all(
            mark["why"].startswith("shared with a request in flight") for mark in marks if mark
        )
    assert llm.in_flight.stats.shared == 99


async def test_ten_read_one_stream_and_one_leaves_early(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache)

    async def read(n):
        pieces = []
        stream = await llm.astream_chat([ChatMessage(content=ASKED)])
        async for piece in stream:
            pieces.append(piece)
            if n == 3 and len(pieces) == 2:
                await stream.aclose()
                return None
        return pieces

    got = await asyncio.gather(*(read(n) for n in range(10)))
    assert inner.calls == 1
    whole = [one for one in got if one]
    assert len(whole) == 9
    texts = {"".join(piece.delta for piece in one) for one in whole}
    assert texts == {whole[0][-1].message.content}
    assert min(len(one) for one in whole) > 4
    assert sum(any("usage" in piece.raw for piece in one) for one in whole) == 1
    assert sum("costwise" in one[-1].raw for one in whole) == 8
    assert cache.stats.stored == 1
    # Readers' pieces are their own.
    whole[0][-1].message.blocks[0].text = "spoilt"
    assert sum(one[-1].message.content == "spoilt" for one in whole) == 1


async def test_a_stream_goes_on_when_its_leader_is_cancelled(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache)
    under_way = asyncio.Event()

    async def read():
        stream, pieces = await llm.astream_chat([ChatMessage(content=ASKED)]), []
        async for piece in stream:
            pieces.append(piece.delta)
            under_way.set()
        return "".join(pieces)

    leader, other = asyncio.create_task(read()), asyncio.create_task(read())
    await under_way.wait()
    leader.cancel()
    assert (await other).startswith("Answer number")
    assert inner.calls == 1


async def test_a_stream_that_is_never_read_blocks_nobody(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache)
    stream = await llm.astream_chat([ChatMessage(content=ASKED)])
    del stream
    other = await asyncio.create_task(llm.achat([ChatMessage(content=ASKED)]))
    assert other.message.content
    assert llm.in_flight.stats.timed_out == 0


async def test_tenants_pay_each_for_themselves(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache)

    async def ask(n):
        with scoped(tenant=f"t{n % 3}"):
            return await llm.acomplete(ASKED)

    await asyncio.gather(*(ask(n) for n in range(9)))
    assert inner.calls == 3


async def test_errors_reach_all(cache):
    class Dead(SlowLLM):
        @llm_completion_callback()
        async def acomplete(self, prompt, formatted=False, **kwargs):
            self._calls.append(("acomplete", prompt, kwargs))
            await asyncio.sleep(0.1)
            raise ConnectionError("the line went dead")

    inner = Dead()
    llm = CachedLLM(llm=inner, cache=cache)
    got = await asyncio.gather(*(llm.acomplete(ASKED) for _ in range(10)), return_exceptions=True)
    assert [type(one) for one in got] == [ConnectionError] * 10
    assert inner.calls == 1


@pytest.mark.parametrize("ask", [same, reworded])
async def test_a_hundred_queries_pay_once(inner, cache, ask):
    index = VectorStoreIndex([TextNode(text="Thirty days.")], embed_model=WordEmbedding())
    engine = CachedQueryEngine(index.as_query_engine(llm=inner), cache=cache, corpus="v1")
    got = await asyncio.gather(*(engine.aquery(ask(n)) for n in range(100)))
    assert inner.calls == 1
    assert len({str(one) for one in got}) == 1
    assert sum("costwise" in (one.metadata or {}) for one in got) == 99
    assert all(len(one.source_nodes) == 1 for one in got)
    got[0].source_nodes[0].node.metadata["x"] = "spoilt"
    assert sum("x" in one.source_nodes[0].node.metadata for one in got) == 1


def test_a_streaming_engine_shares_with_threads(cache):
    index = VectorStoreIndex([TextNode(text="Thirty days.")], embed_model=WordEmbedding())
    inner = ScriptedLLM()
    plain = index.as_query_engine(llm=inner, streaming=True)
    engine = CachedQueryEngine(plain, cache=cache, corpus="v1")
    first = engine.query(ASKED)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(lambda: str(engine.query(ASKED))) for _ in range(3)]
        text = "".join(first.response_gen)
        assert {one.result(10) for one in waiting} == {text}
    assert inner.calls == 1
