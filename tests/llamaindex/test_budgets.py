"""Budgets hold in every way to call a LlamaIndex LLM: a real client, a server that counts."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from costwise_core import MemoryBudgets, MemoryStore, SQLiteBudgets, scoped
from costwise_core.budget.budgets import account_of
from costwise_core.errors import ConfigError, StoreUnavailableError, UnknownModelError
from llamaindex_costwise import (
    Budget,
    BudgetedLLM,
    BudgetExceededError,
    Budgets,
    Cache,
    CachedLLM,
    track,
)
from llamaindex_costwise.testing import ScriptedLLM
from tests.llamaindex.fakes import deprecations, seven
from tests.openai_server import Provider

openai = pytest.importorskip("llama_index.llms.openai")
openai_like = pytest.importorskip("llama_index.llms.openai_like")

ASK = "What is the capital of France?"
ASKED = [ChatMessage(content=ASK)]
TEXT = "Paris is it."
TEN = Budget(limit=10, unit="calls")
LOTS = Budget(limit=1_000_000, unit="tokens")
TOOL = FunctionTool.from_defaults(seven)
PROMPT = PromptTemplate("What is the capital of {country}?")


class Number(BaseModel):
    """A number."""

    number: int = Field(description="how many")


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


def client(server: Provider, **settings: Any) -> LLM:
    return openai_like.OpenAILike(
        **{
            "model": "gpt-4o-mini",
            "api_base": server.url,
            "api_key": "none",
            "is_chat_model": True,
            "is_function_calling_model": True,
            "reuse_client": False,
            "max_retries": 0,
            "additional_kwargs": {"stream_options": {"include_usage": True}},
            **settings,
        }
    )


def plain(server: Provider, **settings: Any) -> LLM:
    """Return a client whose calls that are no streams may say so."""
    return client(server, additional_kwargs={}, **settings)


@pytest.fixture
def budgeted(server: Provider) -> Callable[..., BudgetedLLM]:
    def make(*budgets: Budget, **settings: Any) -> BudgetedLLM:
        found = settings.pop("guard", None) or Budgets(*budgets)
        llm = settings.pop("llm", None) or client(server)
        return BudgetedLLM(llm=llm, budgets=found, **settings)

    return make


def balance(budgets: Budgets, budget: Budget, **tags: str) -> tuple[int, int]:
    (found,) = budgets.store.balances([account_of(budget, tags, 0.0) or ""], now=0.0)
    return found.spent, found.held


# --- 100 attempts on ten calls ------------------------------------------------------------------


async def _read(stream: Any) -> list[Any]:
    return [piece async for piece in await stream]


async def _agent(llm: LLM, **settings: Any) -> Any:
    return await FunctionAgent(llm=llm, tools=[], **settings).run(ASK)


SYNC: dict[str, Callable[[Any], Any]] = {
    "chat": lambda llm: llm.chat(ASKED),
    "stream_chat": lambda llm: list(llm.stream_chat(ASKED)),
    "complete": lambda llm: llm.complete(ASK),
    "stream_complete": lambda llm: list(llm.stream_complete(ASK)),
    "tools": lambda llm: llm.chat_with_tools([TOOL], ASK),
    "stream tools": lambda llm: list(llm.stream_chat_with_tools([TOOL], ASK)),
    "predict and call": lambda llm: llm.predict_and_call([TOOL], ASK),
    "predict": lambda llm: llm.predict(PROMPT, country="France"),
    "stream": lambda llm: list(llm.stream(PROMPT, country="France")),
    "structured": lambda llm: llm.structured_predict(Number, PROMPT, country="France"),
    "stream structured": lambda llm: list(
        llm.stream_structured_predict(Number, PROMPT, country="France")
    ),
    "structured llm": lambda llm: llm.as_structured_llm(Number).chat(ASKED),
    "engine": lambda llm: (
        SummaryIndex.from_documents([Document(text="France")]).as_query_engine(llm=llm).query(ASK)
    ),
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "achat": lambda llm: llm.achat(ASKED),
    "acomplete": lambda llm: llm.acomplete(ASK),
    "astream_chat": lambda llm: _read(llm.astream_chat(ASKED)),
    "astream_complete": lambda llm: _read(llm.astream_complete(ASK)),
    "tools": lambda llm: llm.achat_with_tools([TOOL], ASK),
    "stream tools": lambda llm: _read(llm.astream_chat_with_tools([TOOL], ASK)),
    "apredict": lambda llm: llm.apredict(PROMPT, country="France"),
    "astream": lambda llm: _read(llm.astream(PROMPT, country="France")),
    "structured": lambda llm: llm.astructured_predict(Number, PROMPT, country="France"),
    "stream structured": lambda llm: _read(
        llm.astream_structured_predict(Number, PROMPT, country="France")
    ),
    "agent": _agent,
    "agent without streams": lambda llm: _agent(llm, streaming=False),
}


def _paid(call: Callable[[Any], Any], llm: Any) -> bool:
    try:
        call(llm)
    except BudgetExceededError:
        return False
    return True


@deprecations
@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("way", SYNC)
def test_ten_of_a_hundred_are_paid(server, budgeted, way, workers):
    llm = budgeted(TEN, LOTS)
    with ThreadPoolExecutor(workers) as pool:
        paid = list(pool.map(lambda _: _paid(SYNC[way], llm), range(100)))
    assert sum(paid) == len(server.asked) == 10
    assert balance(llm.budgets, TEN) == (10, 0)
    assert balance(llm.budgets, LOTS) == (190, 0)  # as reported
    assert not llm.budgets.faults


@deprecations
@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("way", ASYNC)
async def test_ten_of_a_hundred_are_paid_async(server, budgeted, way, workers):
    llm = budgeted(TEN, LOTS)
    gate = asyncio.Semaphore(workers)

    async def one() -> bool:
        async with gate:
            try:
                await ASYNC[way](llm)
            except BudgetExceededError:
                return False
            return True

    assert sum(await asyncio.gather(*(one() for _ in range(100)))) == len(server.asked) == 10
    assert balance(llm.budgets, TEN) == (10, 0)
    assert balance(llm.budgets, LOTS) == (190, 0)


async def test_ten_of_a_hundred_with_a_store_on_disk(server, budgeted, tmp_path):
    guard = Budgets(TEN, LOTS, store=SQLiteBudgets(tmp_path / "budgets.db"))
    llm = budgeted(guard=guard)
    calls = [llm.achat(ASKED) for _ in range(50)]
    calls += [_read(llm.astream_chat(ASKED)) for _ in range(50)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, BudgetExceededError) for one in found) == 90
    assert len(server.asked) == 10
    assert balance(guard, TEN) == (10, 0)
    assert balance(guard, LOTS) == (190, 0)
    guard.store.close()


@pytest.mark.parametrize("mode", ["sync", "async", "stream", "astream"])
async def test_the_clients_own_json_mode_is_kept_and_paid(server, budgeted, mode):
    """OpenAI's class asks for JSON its own way, and not by a tool."""
    server.words = ['{"number"', ": 7}"]
    given = {"api_base": server.url, "api_key": "none", "reuse_client": False, "max_retries": 0}
    streams = {"additional_kwargs": {"stream_options": {"include_usage": True}}}
    extras = streams if "stream" in mode else {}
    llm = budgeted(TEN, LOTS, llm=openai.OpenAI(model="gpt-4o-mini", **given, **extras))
    for _ in range(3):
        match mode:
            case "sync":
                found = llm.structured_predict(Number, PROMPT, country="France")
            case "async":
                found = await llm.astructured_predict(Number, PROMPT, country="France")
            case "stream":
                *_, found = llm.stream_structured_predict(Number, PROMPT, country="France")
            case _:
                stream = llm.astream_structured_predict(Number, PROMPT, country="France")
                *_, found = await _read(stream)
        assert found.number == 7
    assert server.asked[0]["response_format"]["json_schema"]["name"] == "Number"
    assert balance(llm.budgets, TEN) == (3, 0)
    assert balance(llm.budgets, LOTS) == (3 * 19, 0)


class Aside(ScriptedLLM):
    """Asks for structured output past its own `chat`, as some clients do."""

    asides: int = 0

    def structured_predict(self, output_cls: Any, prompt: Any, *_: Any, **__: Any) -> Any:
        self.asides += 1
        return output_cls(number=7)

    async def astructured_predict(self, output_cls: Any, prompt: Any, *_: Any, **__: Any) -> Any:
        return output_cls(number=7)

    def stream_structured_predict(self, output_cls: Any, prompt: Any, *_: Any, **__: Any) -> Any:
        for number in range(3):
            yield output_cls(number=number)

    async def astream_structured_predict(
        self, output_cls: Any, prompt: Any, *_: Any, **__: Any
    ) -> Any:
        async def numbers() -> Any:
            for number in range(3):
                yield output_cls(number=number)

        return numbers()


@pytest.mark.parametrize("way", ["structured", "stream structured"])
async def test_structured_output_past_all_calls_is_held_and_estimated(budgeted, way):
    llm = budgeted(TEN, LOTS, llm=Aside())
    for _ in range(5):
        SYNC[way](llm)
        await ASYNC[way](llm)
    assert balance(llm.budgets, TEN) == (10, 0)
    spent, held = balance(llm.budgets, LOTS)
    assert (10 * 20 < spent < 10 * 100, held) == (True, 0)
    with pytest.raises(BudgetExceededError):
        SYNC[way](llm)
    with pytest.raises(BudgetExceededError):
        await ASYNC[way](llm)


# --- what is held and what is booked ------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "call", "sent"),
    [
        ({}, {}, 50),
        ({"max_tokens": 20}, {}, 20),
        ({"max_tokens": 80}, {}, 50),
        ({}, {"max_tokens": 70}, 70),
        ({"max_tokens": 20}, {"max_tokens": 70}, 70),
        ({}, {"max_tokens": None}, 50),
        ({"additional_kwargs": {"max_tokens": 90}}, {}, 50),
    ],
)
async def test_the_answer_is_bounded(server, budgeted, made, call, sent):
    inner = plain(server, **made) if "additional_kwargs" not in made else client(server, **made)
    llm = budgeted(LOTS, llm=inner, max_output_tokens=50)
    seen = []
    llm.budgets._seen = lambda budget, key, now: seen.append(now.held)
    llm.chat(ASKED, **call)
    await llm.achat(ASKED, **call)
    list(llm.stream_chat(ASKED, **call))
    for asked in server.asked:
        assert asked.get("max_completion_tokens", asked.get("max_tokens")) == sent
    assert seen[0] == seen[2] == seen[4] == 17 + sent
    assert inner.max_tokens == made.get("max_tokens")


def test_a_bounded_copy_follows_the_llm_and_keeps_its_client(server, budgeted):
    inner = openai.OpenAI(model="gpt-4o-mini", api_base=server.url, api_key="none")
    llm = budgeted(LOTS, llm=inner)
    llm.chat(ASKED)
    first = llm._copies.get(inner, 4_096)
    llm.chat(ASKED)
    assert llm._copies.get(inner, 4_096)._client is first._client is not None
    inner.temperature = 0.7
    llm.chat(ASKED)
    assert [asked["temperature"] for asked in server.asked] == [0.1, 0.1, 0.7]
    nested = budgeted(LOTS, llm=CachedLLM(llm=inner, cache=Cache(MemoryStore())))
    nested.chat(ASKED)
    inner.temperature = 0.9
    nested.chat(ASKED)
    assert [asked["temperature"] for asked in server.asked[3:]] == [0.7, 0.9]


def test_the_prompt_is_counted_with_its_tools_pictures_and_thoughts(budgeted):
    llm = budgeted(LOTS, llm=ScriptedLLM(), max_output_tokens=100)
    seen = []
    llm.budgets._seen = lambda budget, key, now: seen.append(now.held)
    picture = ImageBlock(image=b"\x89PNG", image_mimetype="image/png")
    call = ToolCallBlock(tool_call_id="1", tool_name="seven", tool_kwargs={"number": 7})
    for blocks in (
        [TextBlock(text=ASK)],
        [TextBlock(text=ASK), picture],
        [TextBlock(text=ASK), ThinkingBlock(content="Hm, let me think.")],
        [TextBlock(text=ASK), call],
    ):
        llm.chat([ChatMessage(role="user", blocks=blocks)])
    llm.chat_with_tools([TOOL], ASK)
    text, picture, thought, called, tools = seen[::2]
    assert picture == text + 1_600
    assert (thought > text, called > text, tools > text + 15) == (True, True, True)


def test_tokens_from_the_providers_cache_cost_less(server, budgeted):
    server.usage = {
        "prompt_tokens": 2_000,
        "completion_tokens": 5,
        "total_tokens": 2_005,
        "prompt_tokens_details": {"cached_tokens": 1_500},
    }
    llm = budgeted(usd := Budget(limit=1))
    llm.chat(ASKED)
    list(llm.stream_chat(ASKED))
    once = 500 * 150_000 + 1_500 * 75_000 + 5 * 600_000
    assert balance(llm.budgets, usd) == (2 * once, 0)


@pytest.mark.parametrize("way", ["chat", "stream_chat"])
def test_the_clients_own_retries_are_one_call(server, budgeted, way):
    server.fails = 2
    llm = budgeted(TEN, LOTS, llm=client(server, max_retries=3))
    SYNC[way](llm)
    assert len(server.asked) == 3
    assert balance(llm.budgets, TEN) == (1, 0)
    assert balance(llm.budgets, LOTS) == (19, 0)


def test_an_llm_that_chats_by_completing_is_paid_once(budgeted):
    llm = budgeted(TEN, llm=MockLLM(max_tokens=3))
    llm.chat(ASKED)
    list(llm.stream_chat(ASKED))
    assert balance(llm.budgets, TEN) == (2, 0)


def test_no_report_is_an_estimate(server, budgeted):
    server.usage = None
    llm = budgeted(LOTS)
    llm.chat(ASKED)
    assert balance(llm.budgets, LOTS) == (17 + 4, 0)
    list(llm.stream_chat(ASKED))
    assert balance(llm.budgets, LOTS) == (42, 0)


async def test_tool_calls_without_report_are_counted(server, budgeted):
    server.usage = None
    llm = budgeted(LOTS)
    list(llm.stream_chat_with_tools([TOOL], ASK))
    spent, _ = balance(llm.budgets, LOTS)
    llm.chat_with_tools([TOOL], ASK)
    assert balance(llm.budgets, LOTS) == (2 * spent, 0)
    list(llm.stream_chat(ASKED))
    assert balance(llm.budgets, LOTS)[0] == 2 * spent + 21  # less: no tools, no call
    assert spent > 21 + 30


def test_a_report_in_two_pieces_is_one(budgeted):
    """The prompt with the first event and the answer with the last, as Anthropic does."""

    class TwoParts(ScriptedLLM):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            for delta, usage in (
                ("Paris", {"input_tokens": 900, "output_tokens": 1}),
                (".", None),
                ("", {"output_tokens": 7}),
            ):
                message = ChatMessage(role="assistant", content=delta)
                yield self._piece(message, delta, usage)

        def _piece(self, message: ChatMessage, delta: str, usage: Any) -> Any:
            from llama_index.core.base.llms.types import ChatResponse

            return ChatResponse(message=message, delta=delta, raw={"usage": usage})

    llm = budgeted(LOTS, llm=TwoParts())
    list(llm.stream_chat(ASKED))
    assert balance(llm.budgets, LOTS) == (907, 0)


@pytest.mark.parametrize("way", ["chat", "stream_chat", "complete", "stream_complete"])
async def test_a_call_that_fails_is_given_back(server, budgeted, way):
    server.status = 500
    llm = budgeted(TEN, LOTS)
    for _ in range(20):
        with pytest.raises(Exception, match="no"):
            SYNC[way](llm)
        with pytest.raises(Exception, match="no"):
            await ASYNC[f"a{way}"](llm)
    assert len(server.asked) == 40
    assert balance(llm.budgets, TEN) == balance(llm.budgets, LOTS) == (0, 0)
    server.status = 200
    assert llm.chat(ASKED).message.content == TEXT


def test_a_stream_that_breaks_is_booked_as_far_as_it_came(server, budgeted):
    server.breaks_after = 2
    llm = budgeted(TEN, LOTS)
    got = []
    with pytest.raises(Exception):  # noqa: B017, PT011 - httpx names it
        got.extend(piece.delta for piece in llm.stream_chat(ASKED))
    assert balance(llm.budgets, TEN) == (1, 0)
    assert balance(llm.budgets, LOTS)[0] == 17 + 3  # "Paris ", "is "


async def test_an_abandoned_stream_is_booked_as_far_as_it_came(server, budgeted):
    llm = budgeted(LOTS)
    stream = llm.stream_chat(ASKED)
    next(stream)
    assert balance(llm.budgets, LOTS)[1] > 17
    stream.close()
    assert balance(llm.budgets, LOTS) == (17 + 2, 0)
    async for _ in await llm.astream_chat(ASKED):
        break
    gc.collect()
    await asyncio.sleep(0.1)
    assert balance(llm.budgets, LOTS) == (2 * 19, 0)


async def test_a_stream_that_nobody_reads_holds_nothing_for_long(budgeted):
    llm = budgeted(TEN, llm=ScriptedLLM())
    llm.stream_chat(ASKED)
    await llm.astream_chat(ASKED)
    gc.collect()
    await asyncio.sleep(0.1)
    assert balance(llm.budgets, TEN) == (2, 0)


async def test_a_cancelled_call_is_booked_with_its_prompt(budgeted):
    class Slow(ScriptedLLM):
        async def achat(self, messages: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(5)

    llm = budgeted(LOTS, llm=Slow())
    task = asyncio.create_task(llm.achat(ASKED))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spent, held = balance(llm.budgets, LOTS)
    assert (spent > 0, held) == (True, 0)


# --- a stream that meets its limit --------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
async def test_a_stream_ends_where_the_budget_does(server, budgeted, way):
    server.words = ["word "] * 20_000
    llm = budgeted(room := Budget(limit=700, unit="tokens"))
    stream = llm.stream_chat(ASKED) if way == "stream_chat" else _read(llm.astream_chat(ASKED))
    pieces = list(stream) if way == "stream_chat" else await stream
    text = "".join(piece.delta or "" for piece in pieces)
    assert 250 <= text.count("word") <= 700 - 17
    assert pieces[-1].raw["finish_reason"] == "budget"
    assert pieces[-1].message.content == text  # all that was paid is the caller's
    spent, held = balance(llm.budgets, room)
    assert held == 0
    assert text.count("word") + 17 <= spent <= 700
    assert server.sent < 20_000  # the connection was closed


def test_a_stream_takes_more_as_it_grows(server, budgeted):
    server.words, server.usage = ["word "] * 1_000, None
    llm = budgeted(LOTS)
    assert "".join(p.delta or "" for p in llm.stream_chat(ASKED)).count("word") == 1_000
    assert balance(llm.budgets, LOTS)[0] in range(1_017, 1_020)


def test_a_cut_stream_is_not_cached(server, budgeted):
    server.words = ["word "] * 2_000
    llm = budgeted(Budget(limit=1_000, unit="tokens"))
    cached = CachedLLM(llm=llm, cache=Cache(MemoryStore()))
    list(cached.stream_chat(ASKED))
    assert cached.cache.stats.stored == 0


def test_who_thinks_holds_the_whole_answer(budgeted):
    llm = budgeted(Budget(limit=1_000, unit="tokens"), llm=ScriptedLLM(model="o3-mini"))
    with pytest.raises(BudgetExceededError):
        llm.stream_chat(ASKED)
    list(llm.stream_chat(ASKED, max_tokens=100))


# --- what happens to a call that does not fit ---------------------------------------------------


def test_downgraded_to_the_cheaper_llm_at_its_price(server, budgeted):
    dear = Budget(limit="0.01", on_exceed="downgrade")
    llm = budgeted(dear, llm=client(server, model="gpt-4o"), cheaper=client(server))
    assert llm.chat(ASKED).message.content == TEXT  # 4,096 tokens of gpt-4o are $0.041
    assert "".join(p.delta or "" for p in llm.stream_chat(ASKED)) == TEXT
    assert [asked["model"] for asked in server.asked] == ["gpt-4o-mini", "gpt-4o"]
    assert balance(llm.budgets, dear)[0] == 14 * 150_000 + 5 * 600_000 + 14 * 2_500_000 + 50_000_000
    assert llm.get_tool_calls_from_response(llm.chat_with_tools([TOOL], ASK))
    assert llm.structured_predict(Number, PROMPT, country="France").number == 7
    assert [asked["model"] for asked in server.asked[2:]] == ["gpt-4o-mini"] * 2


def test_tools_are_not_handed_to_another_class(server, budgeted):
    budget = Budget(limit=0, unit="calls", tags={"model": "gpt-4o-mini"}, on_exceed="downgrade")
    llm = budgeted(budget, cheaper=ScriptedLLM(model="other"))
    assert llm.chat(ASKED).message.content.startswith("Answer number")
    with pytest.raises(BudgetExceededError):
        llm.chat_with_tools([TOOL], ASK)
    assert server.asked == []


@deprecations
@pytest.mark.parametrize("on_exceed", ["refuse", "cache_only", "queue", "downgrade"])
async def test_refused(server, budgeted, on_exceed):
    llm = budgeted(Budget(limit=0, unit="calls", window="day", on_exceed=on_exceed))
    for call in SYNC.values():
        with pytest.raises(BudgetExceededError, match="has 0 calls left until 2") as caught:
            call(llm)
        assert caught.value.on_exceed == on_exceed
        assert caught.value.ticket is None
        assert caught.value.resets % 86_400 == 0
    for acall in ASYNC.values():
        with pytest.raises(BudgetExceededError):
            await acall(llm)
    assert server.asked == []


async def test_queued(server, budgeted):
    queued = []

    def queue(prompt, settings):
        queued.append((prompt, settings))
        return len(queued)

    llm = budgeted(Budget(limit=0, unit="calls", on_exceed="queue"), queue=queue)
    with pytest.raises(BudgetExceededError) as caught:
        llm.chat(ASKED, max_tokens=5)
    assert caught.value.ticket == 1
    with pytest.raises(BudgetExceededError) as caught:
        await llm.acomplete(ASK)
    assert caught.value.ticket == 2
    assert queued == [(ASKED, {"max_tokens": 5}), (ASK, {"formatted": False})]


@pytest.mark.parametrize("way", ["chat", "achat"])
async def test_waits_for_what_others_give_back(budgeted, way):
    room = Budget(limit=100, unit="tokens", on_exceed="queue")
    llm = budgeted(room, llm=ScriptedLLM(), max_output_tokens=50, wait=30.0)
    other = llm.budgets.reserve("gpt-4o-mini", input_tokens=90)
    asyncio.get_running_loop().call_later(0.1, other.release)
    if way == "chat":
        answer = await asyncio.to_thread(llm.chat, ASKED)
    else:
        answer = await llm.achat(ASKED)
    assert answer.message.content
    impatient = budgeted(guard=llm.budgets, llm=ScriptedLLM(), wait=0.05)
    with pytest.raises(BudgetExceededError):
        await impatient.achat(ASKED)


# --- caches -------------------------------------------------------------------------------------


async def test_a_hit_reserves_nothing(server, budgeted):
    llm = budgeted(TEN)
    cached = CachedLLM(llm=llm, cache=Cache(MemoryStore()))
    for _ in range(3):
        cached.chat(ASKED)
        await cached.achat(ASKED)
        list(cached.stream_chat(ASKED))
        cached.chat_with_tools([TOOL], ASK)  # never cached, always paid
    assert balance(llm.budgets, TEN) == (4, 0)
    used_up = budgeted(Budget(limit=0, unit="calls", on_exceed="cache_only"))
    behind = CachedLLM(llm=used_up, cache=cached.cache)
    assert behind.chat(ASKED).message.content == TEXT
    with pytest.raises(BudgetExceededError):
        behind.chat([ChatMessage(content="Another question?")])


def test_a_hit_behind_the_budget_is_given_back(server, budgeted):
    llm = budgeted(TEN, llm=CachedLLM(llm=client(server), cache=Cache(MemoryStore())))
    for _ in range(3):
        llm.chat(ASKED)
        list(llm.stream_chat(ASKED))
    assert balance(llm.budgets, TEN) == (1, 0)
    assert server.asked[0]["max_tokens"] == 4_096
    assert llm.structured_predict(Number, PROMPT, country="France").number == 7
    assert llm.get_tool_calls_from_response(llm.chat_with_tools([TOOL], ASK))
    assert balance(llm.budgets, TEN) == (3, 0)


# --- whose budget -------------------------------------------------------------------------------


async def test_tags_come_from_track_and_scope(server, budgeted):
    each = Budget(limit=1, unit="calls", tags={"tenant": "*"})
    llm = budgeted(each)
    with track(tenant="a"):
        stream = llm.stream_chat(ASKED)
    list(stream)  # read outside, paid by who asked
    with track(tenant="a"), pytest.raises(BudgetExceededError, match="each tenant"):
        llm.chat(ASKED)
    with scoped(tenant="b"):
        await llm.achat(ASKED)
        with pytest.raises(BudgetExceededError):
            await llm.acomplete(ASK)
    for tenant in "ab":
        assert balance(llm.budgets, each, tenant=tenant) == (1, 0)


def test_a_loop_is_stopped(budgeted):
    llm = budgeted(
        Budget(limit=3, unit="calls", window="minute", tags={"prompt": "*"}), llm=ScriptedLLM()
    )
    for _ in range(3):
        llm.chat(ASKED)
    with pytest.raises(BudgetExceededError, match="each prompt"):
        llm.chat(ASKED)
    llm.chat([ChatMessage(content="Another question?")])


def test_calls_of_one_request_share_one_place(server, budgeted):
    guard = Budgets(room := Budget(limit=100, unit="tokens"))
    down = Provider()
    down.status = 500
    first = budgeted(guard=guard, llm=client(down), max_output_tokens=80)
    second = budgeted(guard=guard, max_output_tokens=80)
    with guard.request():
        with pytest.raises(Exception, match="no"):
            first.chat(ASKED)
        assert balance(guard, room) == (0, 97)
        assert second.chat(ASKED).message.content == TEXT
        assert balance(guard, room) == (19, 97 - 19)
    assert balance(guard, room) == (19, 0)
    down.close()


# --- nothing paid is lost -----------------------------------------------------------------------


class Flaky(MemoryBudgets):
    """A store that goes away between holding and booking."""

    gone = False

    def move(self, reservation, operation, moves, *, now, expires):
        if self.gone and not operation.endswith("reserve"):
            raise StoreUnavailableError("the store is gone")
        return super().move(reservation, operation, moves, now=now, expires=expires)


async def test_a_store_that_goes_away_costs_no_answer(budgeted):
    store = Flaky()
    llm = budgeted(guard=Budgets(TEN, store=store), llm=ScriptedLLM())
    stream = await llm.astream_chat(ASKED)
    store.gone = True
    assert "".join([piece.delta or "" async for piece in stream]).startswith("Answer")
    assert (llm.budgets.unbooked, llm.budgets.faults) == (1, {"StoreUnavailableError": 1})
    with pytest.raises(StoreUnavailableError):  # nothing new is paid while nothing can be booked
        llm.chat(ASKED)
    store.gone = False
    llm.chat(ASKED)
    assert balance(llm.budgets, TEN) == (2, 0)


def test_an_answer_that_cannot_be_parsed_was_paid_all_the_same(server, budgeted):
    llm = budgeted(TEN, llm=openai.OpenAI(model="gpt-4o", api_base=server.url, api_key="none"))
    with pytest.raises(ValueError, match="JSON"):
        llm.structured_predict(Number, PROMPT, country="France")
    assert balance(llm.budgets, TEN) == (1, 0)


def test_an_unknown_price_is_refused(budgeted):
    llm = budgeted(Budget(limit=1), llm=ScriptedLLM(model="nobody-knows-it"))
    with pytest.raises(UnknownModelError):
        llm.chat(ASKED)
    assert llm.llm.calls == 0


# --- in front of an LLM, and nothing else ---------------------------------------------------------


@deprecations
async def test_an_agent_pays_for_each_turn(server, budgeted):
    llm = budgeted(TEN)
    for _ in range(5):
        found = await FunctionAgent(llm=llm, tools=[seven]).run(ASK)
        assert str(found) == TEXT
    with pytest.raises(BudgetExceededError):
        await FunctionAgent(llm=llm, tools=[seven]).run(ASK)
    assert len(server.asked) == 10


@deprecations
async def test_an_agent_that_needs_no_tools_of_the_model(server, budgeted):
    llm = budgeted(TEN)
    server.words = ["Thought: I know.\n", "Answer: ", "Paris."]
    assert "Paris" in str(await ReActAgent(llm=llm, tools=[seven]).run(ASK))
    assert balance(llm.budgets, TEN) == (len(server.asked), 0) == (1, 0)


async def test_one_call_on_the_bill(server, budgeted):
    llm = budgeted(TEN)
    with track() as bill:
        llm.chat(ASKED)
        await _read(llm.astream_chat(ASKED))
        llm.structured_predict(Number, PROMPT, country="France")
        llm.chat_with_tools([TOOL], ASK)
    assert (bill.paid_calls, bill.usage.total_tokens) == (4, 4 * 19)


def test_is_the_llm_it_wraps(server, budgeted):
    llm = budgeted(TEN)
    assert llm.metadata == llm.llm.metadata
    assert "none" not in f"{llm!r}"
    assert llm.class_name() == llm.to_dict()["class_name"] == "BudgetedLLM"
    with pytest.raises(ConfigError, match="cannot call tools"):
        budgeted(TEN, llm=MockLLM()).chat_with_tools([TOOL], ASK)


def test_what_is_wrong_is_refused_where_it_is_given(budgeted):
    with pytest.raises(ValueError, match="max_output_tokens"):
        budgeted(TEN, llm=ScriptedLLM(), max_output_tokens=0)
    with pytest.raises(ConfigError, match="structured"):
        budgeted(TEN, llm=ScriptedLLM().as_structured_llm(Number))
