"""`CachedChatModel`: every way to call a model, cached, and otherwise as the model itself."""

import asyncio
import contextlib

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import (
    BaseChatModel,
    FakeListChatModel,
    FakeMessagesListChatModel,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBinding, RunnableLambda, RunnableSequence
from langchain_core.tools import tool
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream
from pydantic import BaseModel, ValidationError

from costwise_core import MemoryStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.testing.fakes import BrokenStore, HashingEmbedder
from langchain_costwise import CachedChatModel, SemanticCache
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the capital of France?"
LONG = "Paris is the capital of France,\n\nand has been for long."


class Tokens(BaseCallbackHandler):
    """Counts runs and keeps tokens, as a chat window does."""

    def __init__(self):
        self.tokens, self.starts, self.ends, self.errors = [], 0, 0, 0

    def on_chat_model_start(self, *args, **kwargs):
        self.starts += 1

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, *args, **kwargs):
        self.ends += 1

    def on_llm_error(self, *args, **kwargs):
        self.errors += 1


@pytest.fixture
def paid():
    return ScriptedChatModel(script={ASK: LONG})


@pytest.fixture
def model(paid, cache):
    return CachedChatModel(model=paid, cache=cache)


def whole(chunks):
    chunks = list(chunks)
    message = chunks[0]
    for chunk in chunks[1:]:
        message += chunk
    return message


async def every_way(model) -> list[AIMessage]:
    """Ask in all the ways there are."""
    return [
        model.invoke(ASK),
        await model.ainvoke(ASK),
        whole(model.stream(ASK)),
        whole([chunk async for chunk in model.astream(ASK)]),
        model.batch([ASK])[0],
        (await model.abatch([ASK]))[0],
        model.generate([[HumanMessage(ASK)]]).generations[0][0].message,
        (await model.agenerate([[HumanMessage(ASK)]])).generations[0][0].message,
        with_events(model),
        await with_async_events(model),
    ]


def with_events(model) -> AIMessage:
    return model.stream_events(ASK, version="v3").output


async def with_async_events(model) -> AIMessage:
    return await (await model.astream_events(ASK, version="v3")).output


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_every_way_hits_what_every_way_stored(paid):
    """Trap 1: streams neither looked up nor stored."""
    for first in range(10):
        cache = SemanticCache(MemoryStore())
        model = CachedChatModel(model=paid, cache=cache)
        paid.asked.clear()
        # The first to ask pays, whichever way it asks; all others are served.
        answers = [await _one_way(model, first), *await every_way(model)]
        assert len(paid.asked) == 1, first
        for hit in answers[1:]:
            assert hit.text == LONG
            assert hit.response_metadata["costwise"]["hit"] == "exact"
            assert hit.response_metadata["model_name"] == "scripted-1"
            assert hit.usage_metadata["total_tokens"] == 0
        ids = [answer.id for answer in answers]
        assert None not in ids
        assert len(set(ids)) == len(ids)


async def _one_way(model, number) -> AIMessage:
    match number:
        case 0:
            return model.invoke(ASK)
        case 1:
            return await model.ainvoke(ASK)
        case 2:
            return whole(model.stream(ASK))
        case 3:
            return whole([chunk async for chunk in model.astream(ASK)])
        case 4:
            return model.batch([ASK])[0]
        case 5:
            return (await model.abatch([ASK]))[0]
        case 6:
            return model.generate([[HumanMessage(ASK)]]).generations[0][0].message
        case 7:
            return (await model.agenerate([[HumanMessage(ASK)]])).generations[0][0].message
        case 8:
            return with_events(model)
    return await with_async_events(model)


# --- streams -------------------------------------------------------------------------------------


def test_a_hit_is_replayed_in_pieces(model, paid):
    live = [chunk.text for chunk in model.stream(ASK)]
    replayed = list(model.stream(ASK))
    assert len(paid.asked) == 1
    assert [chunk.text for chunk in replayed if chunk.text] == [text for text in live if text]
    assert replayed[-1].chunk_position == "last"
    assert [bool(chunk.response_metadata) for chunk in replayed].count(True) == 1


def test_a_miss_is_passed_on_live(cache):
    """The second piece is made only when the first has been taken."""
    paid = ScriptedChatModel(script={ASK: LONG}, fail_after=2)
    stream = CachedChatModel(model=paid, cache=cache).stream(ASK)
    assert next(stream).text == "Paris "
    assert next(stream).text == "is "
    with pytest.raises(ConnectionError):
        next(stream)


def test_broken_and_abandoned_streams_are_not_stored(cache):
    broken = CachedChatModel(model=ScriptedChatModel(script={ASK: LONG}, fail_after=3), cache=cache)
    with pytest.raises(ConnectionError):
        list(broken.stream(ASK))
    whole_model = CachedChatModel(model=ScriptedChatModel(script={ASK: LONG}), cache=cache)
    stream = whole_model.stream(ASK)
    next(stream)
    stream.close()
    assert cache.cache.stats.stored == 0
    assert whole(whole_model.stream(ASK)).text == LONG
    assert cache.cache.stats.stored == 1


async def test_cancelled_streams_are_not_stored(model, cache):
    async def read():
        async for _ in model.astream(ASK):
            await asyncio.sleep(10)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.cache.stats.stored == 0
    assert (await model.ainvoke(ASK)).text == LONG


def test_cut_streams_are_not_stored(cache):
    model = CachedChatModel(model=ScriptedChatModel(tell={"finish_reason": "length"}), cache=cache)
    list(model.stream(ASK))
    assert cache.cache.stats.not_stored == {"truncated": 1}


def test_those_who_listen_get_tokens_on_a_hit(model, paid):
    """Trap 1: under a listening handler, a hit through `invoke` gave start and end only."""
    from langchain_core.tracers._streaming import _StreamingCallbackHandler

    class Listening(Tokens, _StreamingCallbackHandler):
        def tap_output_aiter(self, run_id, output):
            return output

        def tap_output_iter(self, run_id, output):
            return output

    first, second = Listening(), Listening()
    model.invoke(ASK, config={"callbacks": [first]})
    model.invoke(ASK, config={"callbacks": [second]})
    assert len(paid.asked) == 1
    assert "".join(second.tokens) == LONG
    assert [token for token in second.tokens if token] == [token for token in first.tokens if token]
    assert (second.starts, second.ends) == (1, 1)


async def test_event_streams_carry_hits(model, paid):
    async def texts():
        return [
            event["data"]["chunk"].text
            async for event in model.astream_events(ASK, version="v2")
            if event["event"] == "on_chat_model_stream"
        ]

    assert "".join(await texts()) == "".join(await texts()) == LONG
    assert len(paid.asked) == 1


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_the_third_kind_of_events_is_whole_on_a_hit(model, paid):
    model.invoke(ASK)
    events = list(model.stream_events(ASK, version="v3"))
    assert_valid_event_stream(events)
    assert len(events) > 6
    assert len(paid.asked) == 1


def test_blocks_are_replayed_as_blocks(cache):
    blocks = [
        {"type": "reasoning", "reasoning": "Think of maps."},
        {"type": "text", "text": "Paris, of course.", "annotations": []},
        {"type": "text", "text": " Sure."},
    ]
    model = CachedChatModel(
        model=FakeMessagesListChatModel(responses=[AIMessage(blocks)]), cache=cache
    )
    model.invoke(ASK)
    chunks = list(model.stream(ASK))
    replayed = [{k: v for k, v in b.items() if k != "index"} for b in whole(chunks).content]
    assert replayed == blocks
    assert len(chunks) == 6


@pytest.mark.parametrize("disable", [True, "tool_calling"])
def test_a_model_that_must_not_stream_does_not(cache, disable):
    paid = ScriptedChatModel(script={ASK: LONG}, disable_streaming=disable, fail_after=0)
    model = CachedChatModel(model=paid, cache=cache)
    if disable is True:
        assert [chunk.text for chunk in model.stream(ASK)] == [LONG]
    bound = model.bind_tools([weather])
    assert whole(bound.stream(ASK)).tool_calls[0]["name"] == "weather"


def test_a_model_that_cannot_stream_is_replayed_all_the_same(cache):
    model = CachedChatModel(
        model=FakeMessagesListChatModel(responses=[AIMessage("a b c"), AIMessage("d")]), cache=cache
    )
    assert whole(model.stream(ASK)).text == "a b c"
    assert len(list(model.stream(ASK))) == 4


# --- one call is one call ------------------------------------------------------------------------


async def test_each_call_is_one_run(model):
    """Trap of 1.3: calling the inner model's `invoke` counted everything twice."""
    for ask in (model.invoke, lambda *a, **k: whole(model.stream(*a, **k))):
        handler = Tokens()
        ask(ASK, config={"callbacks": [handler]})
        assert (handler.starts, handler.ends) == (1, 1)
    with get_usage_metadata_callback() as usage:
        model.invoke("What is the capital of Spain?")
    assert usage.usage_metadata["scripted-1"]["input_tokens"] == 6


def test_the_models_own_callbacks_run_once(cache):
    handler = Tokens()
    model = CachedChatModel(
        model=ScriptedChatModel(callbacks=[handler], tags=["paid"]), cache=cache
    )
    model.invoke(ASK)
    model.invoke(ASK)
    assert (handler.starts, handler.ends) == (2, 2)
    assert model.tags == ["paid"]


def test_a_global_cache_gets_nothing_twice(model, everywhere):
    """Trap of 1.3: a cache for all models got two entries for one call."""
    other = InMemoryCache()
    everywhere(other)
    model.invoke(ASK)
    list(model.stream("What is the capital of Spain?"))
    assert other._cache == {}


def test_it_shares_answers_with_the_bare_model(model, paid, cache):
    model.invoke(ASK)
    bare = ScriptedChatModel(script={ASK: LONG}, cache=cache)
    assert bare.invoke(ASK).response_metadata["costwise"]["hit"] == "exact"


def test_different_models_do_not_share(cache):
    """Trap of 1.3: what a wrapper is called did not tell which model is inside."""
    small, large = (
        CachedChatModel(model=ScriptedChatModel(model_name=name), cache=cache)
        for name in ("small", "large")
    )
    small.invoke(ASK)
    assert "costwise" not in large.invoke(ASK).response_metadata
    assert "costwise" not in small.invoke(ASK, model="medium").response_metadata
    assert "costwise" not in small.invoke(ASK, stop=["\n"]).response_metadata


def test_it_looks_like_the_model(model, paid):
    assert model._llm_type == paid._llm_type
    assert model._identifying_params == paid._identifying_params
    assert model._get_ls_params(model="other") == paid._get_ls_params(model="other")
    assert isinstance(model, BaseChatModel)


def test_paying_waits_its_turn_and_hits_do_not(cache):
    """Trap 10, with the limiter on the wrapped model."""
    from tests.langchain.test_cache import Counter

    limiter = Counter()
    model = CachedChatModel(model=ScriptedChatModel(rate_limiter=limiter), cache=cache)
    model.invoke(ASK), model.invoke(ASK), list(model.stream(ASK)), list(model.stream("Why?"))
    assert limiter.acquired == 2


def test_a_broken_cache_breaks_no_stream():
    """Trap 8."""
    cache = SemanticCache(BrokenStore())
    model = CachedChatModel(model=ScriptedChatModel(script={ASK: LONG}), cache=cache)
    assert whole(model.stream(ASK)).text == model.invoke(ASK).text == LONG
    assert cache.cache.stats.errors == {"OSError": 4}


def test_the_models_errors_are_its_own(cache):
    class Failing(ScriptedChatModel):
        def _generate(self, *args, **kwargs):
            raise ConnectionError("down")

    model = CachedChatModel(model=Failing(), cache=cache)
    with pytest.raises(ConnectionError, match="down"):
        model.invoke(ASK)
    assert cache.cache.stats.errors == {}


# --- scope ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_the_config_of_a_direct_call_is_seen(paid):
    """Trap 9: it never reached a cache, so one tenant was served another's answer."""
    cache = SemanticCache(MemoryStore(), require=("tenant",))
    model = CachedChatModel(model=paid, cache=cache)

    def config(tenant):
        return {"configurable": {"costwise": {"tenant": tenant}}}

    model.invoke(ASK, config=config("acme"))
    for tenant, hits in (("acme", True), ("bolt", False)):
        answers = [
            model.with_config(config(tenant)).invoke(ASK, {"tags": ["x"]}),
            await model.ainvoke(ASK, config=config(tenant)),
            whole(model.stream(ASK, config=config(tenant))),
            whole([chunk async for chunk in model.astream(ASK, config=config(tenant))]),
            model.batch([ASK], config=config(tenant))[0],
            model.stream_events(ASK, config=config(tenant), version="v3").output,
        ]
        assert ["costwise" in answer.response_metadata for answer in answers] == [
            hits,
            *[True] * 5,
        ]
    model.invoke(ASK)
    assert cache.cache.stats.misses["no_scope"] == 1


def test_scope_comes_in_every_other_way_too(model, paid):
    with scoped(tenant="acme"):
        model.invoke(ASK)
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | model | StrOutputParser()
    chain.invoke({"q": ASK}, config={"configurable": {"costwise": {"tenant": "acme"}}})
    assert len(paid.asked) == 1
    list(chain.stream({"q": ASK}, config={"configurable": {"costwise": {"tenant": "bolt"}}}))
    assert len(paid.asked) == 2
    with scoped(tenant="acme", bypass=True):
        list(model.stream(ASK))
    assert len(paid.asked) == 3


def test_a_wrong_scope_breaks_no_call(model, paid):
    for _ in range(2):
        config = {"configurable": {"costwise": {"tennant": "acme"}}}
        assert model.invoke(ASK, config=config).text == LONG
    assert len(paid.asked) == 2


def test_what_a_caller_says_reaches_neither_model_nor_trace(cache):
    seen = {}

    class Looking(ScriptedChatModel):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            seen.update(kwargs)
            return super()._generate(messages, stop, run_manager, **kwargs)

    class Tracing(BaseCallbackHandler):
        def on_chat_model_start(self, *args, **kwargs):
            seen["params"] = (kwargs["invocation_params"], kwargs["options"])

    model = CachedChatModel(model=Looking(), cache=cache)
    config = {"configurable": {"costwise": {"tenant": "acme"}}, "callbacks": [Tracing()]}
    model.invoke(ASK, config=config, temperature=0.5)
    assert "acme" not in repr(seen)
    assert seen["temperature"] == 0.5


# --- tools and structure -------------------------------------------------------------------------


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"{city} is dry."


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def test_bound_tools_stay_bound(model, paid):
    """Trap of 1.3: a wrapper's `bind_tools` must be a binding, and stay in front of the model."""
    bound = model.bind_tools([weather])
    assert isinstance(bound, RunnableBinding)
    assert isinstance(bound.bound, CachedChatModel)
    assert bound.invoke(ASK).tool_calls[0]["args"] == {"city": ASK}


def test_tools_are_scope(paid):
    cache = SemanticCache(MemoryStore(), admission=CachePolicy(allow=frozenset({"tool_calls"})))
    model = CachedChatModel(model=paid, cache=cache)
    bound = model.bind_tools([weather])
    first, hit = bound.invoke(ASK), whole(bound.stream(ASK))
    assert hit.tool_calls[0]["args"] == first.tool_calls[0]["args"]
    assert hit.tool_calls[0]["id"] != first.tool_calls[0]["id"]
    assert model.invoke(ASK).text == LONG
    assert len(paid.asked) == 2


@pytest.mark.parametrize("raw", [True, False])
def test_structured_output_stays_structured(paid, raw):
    cache = SemanticCache(
        MemoryStore(), admission=CachePolicy(allow=frozenset({"tool_calls", "structured"}))
    )
    model = CachedChatModel(model=paid, cache=cache)
    for _ in range(2):
        told = model.with_structured_output(Joke, include_raw=raw).invoke("What is a knock-knock?")
        assert (told["parsed"] if raw else told) == Joke(
            setup="What is a knock-knock?", punchline="What is a knock-knock?"
        )
    assert len(paid.asked) == 1


def test_what_a_model_builds_around_itself_is_rebuilt_around_the_wrapper(cache):
    class Piping(ScriptedChatModel):
        def bind_tools(self, tools, **kwargs):
            return self.model_copy(update={"model_name": "with-tools"}) | RunnableLambda(len_of)

    def len_of(message):
        return len(message.text)

    model = CachedChatModel(model=Piping(), cache=cache)
    piped = model.bind_tools([weather])
    assert isinstance(piped, RunnableSequence)
    assert isinstance(piped.first, CachedChatModel)
    assert piped.invoke(ASK) == piped.invoke(ASK)
    assert cache.cache.stats.hits == {"exact": 1}


# --- arguments -----------------------------------------------------------------------------------


def test_wrong_arguments_are_told_at_once(paid):
    with pytest.raises(ValidationError, match="must be a SemanticCache, got NoneType"):
        CachedChatModel(model=paid)
    with pytest.raises(ValidationError):
        CachedChatModel(model="gpt-4o", cache=SemanticCache(MemoryStore()))
    with pytest.raises(ValidationError, match="must be a SemanticCache, got InMemoryCache"):
        CachedChatModel(model=paid, cache=InMemoryCache())


def test_settings_of_the_model_are_taken_over():
    paid = ScriptedChatModel(output_version="v1", metadata={"team": "a"}, disable_streaming=True)
    model = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore()))
    assert (model.output_version, model.disable_streaming) == ("v1", True)
    assert model.metadata["team"] == "a"
    own = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore()), tags=["mine"])
    assert own.tags == ["mine"]


def test_a_rewording_streams_too(paid):
    from costwise_core import FixedThreshold

    cache = SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.8)
    )
    model = CachedChatModel(model=paid, cache=cache)
    list(model.stream(ASK))
    hit = whole(model.stream("What is the capital city of France?"))
    assert (hit.text, hit.response_metadata["costwise"]["hit"]) == (LONG, "near")


def test_fake_models_of_langchain_work(cache):
    model = CachedChatModel(model=FakeListChatModel(responses=["abc", "x"]), cache=cache)
    with contextlib.closing(model.stream(ASK)) as stream:
        assert whole(stream).text == "abc"
    assert model.invoke(ASK).text == "abc"
