"""Every way to put a cache before a LangChain model keeps the contract of a cache."""

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage

from costwise_core.testing.caches import AnswerCacheContract, Served
from langchain_costwise import CachedChatModel, SemanticCache, SemanticCacheMiddleware
from langchain_costwise.testing import ScriptedChatModel


def served(message, pieces=()):
    usage = message.usage_metadata
    return Served(
        text=message.text,
        hit="costwise" in message.response_metadata,
        id=message.id or "",
        tokens=usage["total_tokens"] if usage else None,
        pieces=tuple(piece.text for piece in pieces),
    )


def joined(chunks):
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return served(whole, chunks)


def said(question, system):
    return [*([SystemMessage(system)] if system else []), HumanMessage(question)]


class Asks:
    def __init__(self, inner, model):
        self.inner, self.model = inner, model

    @property
    def paid(self):
        return len(self.inner.asked)

    def ask(self, question, *, system="", stream=False):
        messages = said(question, system)
        if stream:
            return joined(list(self.model.stream(messages)))
        return served(self.model.invoke(messages))

    async def aask(self, question, *, system="", stream=False):
        messages = said(question, system)
        if stream:
            return joined([chunk async for chunk in self.model.astream(messages)])
        return served(await self.model.ainvoke(messages))


class Agent(Asks):
    def ask(self, question, *, system="", stream=False):
        return served(self.model.invoke({"messages": said(question, system)})["messages"][-1])

    async def aask(self, question, *, system="", stream=False):
        found = await self.model.ainvoke({"messages": said(question, system)})
        return served(found["messages"][-1])


def scripted(*, truncated):
    return ScriptedChatModel(tell={"finish_reason": "length" if truncated else "stop"})


class TestCachedChatModel(AnswerCacheContract):
    def make_app(self, cache, *, truncated=False):
        inner = scripted(truncated=truncated)
        return Asks(inner, CachedChatModel(model=inner, cache=SemanticCache(cache)))


class TestFrameworksOwnPlugPoint(AnswerCacheContract):
    streams = False  # LangChain asks its cache for whole answers only

    def make_app(self, cache, *, truncated=False):
        inner = scripted(truncated=truncated)
        inner.cache = SemanticCache(cache)
        return Asks(inner, inner)


class TestMiddleware(AnswerCacheContract):
    streams = False  # an agent's answer is its state

    def make_app(self, cache, *, truncated=False):
        inner = scripted(truncated=truncated)
        middleware = SemanticCacheMiddleware(SemanticCache(cache))
        return Agent(inner, create_agent(inner, middleware=[middleware]))
