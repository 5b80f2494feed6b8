"""Every way to put a cache before a LlamaIndex model or engine keeps the contract of a cache."""

from llama_index.core import SummaryIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import TextNode

from costwise_core.testing.caches import AnswerCacheContract, Served
from llamaindex_costwise import CachedLLM, CachedQueryEngine
from llamaindex_costwise.testing import ScriptedLLM


def said(question, system):
    instructions = [ChatMessage(role="system", content=system)] if system else []
    return [*instructions, ChatMessage(role="user", content=question)]


def served(answer, pieces=()):
    hit = "costwise" in (answer.raw or {})
    return Served(
        text=answer.message.content or "",
        hit=hit,
        tokens=0 if hit else None,
        pieces=tuple(piece.delta or "" for piece in pieces),
    )


class Asks:
    def __init__(self, inner, llm):
        self.inner, self.llm = inner, llm

    @property
    def paid(self):
        return self.inner.calls

    def ask(self, question, *, system="", stream=False):
        if stream:
            pieces = list(self.llm.stream_chat(said(question, system)))
            return served(pieces[-1], pieces)
        return served(self.llm.chat(said(question, system)))

    async def aask(self, question, *, system="", stream=False):
        if stream:
            pieces = [piece async for piece in await self.llm.astream_chat(said(question, system))]
            return served(pieces[-1], pieces)
        return served(await self.llm.achat(said(question, system)))


class Engine(Asks):
    def ask(self, question, *, system="", stream=False):
        return self._told(self.llm.query(question))

    async def aask(self, question, *, system="", stream=False):
        return self._told(await self.llm.aquery(question))

    def _told(self, response):
        return Served(text=str(response), hit="costwise" in (response.metadata or {}))


class TestCachedLLM(AnswerCacheContract):
    def make_app(self, cache, *, truncated=False):
        inner = ScriptedLLM(finish="length" if truncated else "stop")
        return Asks(inner, CachedLLM(llm=inner, cache=cache))


class TestCachedQueryEngine(AnswerCacheContract):
    streams = False  # made streaming or not when it is built
    systems = False

    def make_app(self, cache, *, truncated=False):
        inner = ScriptedLLM(finish="length" if truncated else "stop")
        index = SummaryIndex([TextNode(text="You reset it under Settings, Security.")])
        engine = index.as_query_engine(llm=inner)
        return Engine(inner, CachedQueryEngine(engine, cache=cache, corpus="handbook-v7"))
