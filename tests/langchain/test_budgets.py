"""Budgets hold in every way to call a LangChain model: a real client, a server that counts."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import (
    ProviderStrategy,
    StructuredOutputValidationError,
    ToolStrategy,
)
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, Field

from costwise_core import MemoryBudgets, MemoryStore, SQLiteBudgets, scoped
from costwise_core.budget.budgets import account_of
from costwise_core.errors import ConfigError, StoreUnavailableError
from langchain_costwise import (
    Budget,
    BudgetCallback,
    BudgetedChatModel,
    BudgetExceededError,
    BudgetMiddleware,
    Budgets,
    CachedChatModel,
    SemanticCache,
    SemanticCacheMiddleware,
    track,
)
from langchain_costwise.testing import ScriptedChatModel
from tests.openai_server import Provider

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI

ASK = "What is the capital of France?"
TEXT = "Paris is it."
TEN = Budget(limit=10, unit="calls")
LOTS = Budget(limit=1_000_000, unit="tokens")


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


def client(server: Provider, **settings: Any) -> BaseChatModel:
    given = {"model": "gpt-4o-mini", "stream_usage": True, "max_retries": 0, **settings}
    return ChatOpenAI(api_key="none", base_url=server.url, **given)


@pytest.fixture
def budgeted(server: Provider) -> Callable[..., BudgetedChatModel]:
    def make(*budgets: Budget, **settings: Any) -> BudgetedChatModel:
        found = settings.pop("guard", None) or Budgets(*budgets)
        model = settings.pop("model", None) or client(server)
        return BudgetedChatModel(model=model, budgets=found, **settings)

    return make


def balance(budgets: Budgets, budget: Budget, **tags: str) -> tuple[int, int]:
    (found,) = budgets.store.balances([account_of(budget, tags, 0.0) or ""], now=0.0)
    return found.spent, found.held


def number(number: int) -> str:
    """Say a number."""
    return f"number {number}"


def agent(model: Any) -> Any:
    return create_agent(model, tools=[])


# --- 100 attempts on ten calls ------------------------------------------------------------------

SYNC: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke(ASK),
    "stream": lambda model: list(model.stream(ASK)),
    "generate": lambda model: model.generate([[HumanMessage(ASK)]]),
    "tools": lambda model: model.bind_tools([number]).invoke(ASK),
    "chain": lambda model: ((lambda text: text) | model.with_config(tags=["x"])).invoke(ASK),
    "agent": lambda model: agent(model).invoke({"messages": ASK}),
    "agent stream": lambda model: list(
        agent(model).stream({"messages": ASK}, stream_mode="messages")
    ),
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "ainvoke": lambda model: model.ainvoke(ASK),
    "astream": lambda model: _read(model.astream(ASK)),
    "astream_events": lambda model: _read(model.astream_events(ASK, version="v2")),
    "agent": lambda model: agent(model).ainvoke({"messages": ASK}),
}


async def _read(stream: Any) -> list[Any]:
    return [item async for item in stream]


def _paid(call: Callable[[Any], Any], model: Any) -> bool:
    try:
        call(model)
    except BudgetExceededError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("way", SYNC)
def test_ten_of_a_hundred_are_paid(server, budgeted, way, workers):
    model = budgeted(TEN, LOTS)
    with ThreadPoolExecutor(workers) as pool:
        paid = list(pool.map(lambda _: _paid(SYNC[way], model), range(100)))
    assert sum(paid) == len(server.asked) == 10
    assert balance(model.budgets, TEN) == (10, 0)
    assert balance(model.budgets, LOTS) == (190, 0)  # as reported
    assert not model.budgets.faults


@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("way", ASYNC)
async def test_ten_of_a_hundred_are_paid_async(server, budgeted, way, workers):
    model = budgeted(TEN, LOTS)
    gate = asyncio.Semaphore(workers)

    async def one() -> bool:
        async with gate:
            try:
                await ASYNC[way](model)
            except BudgetExceededError:
                return False
            return True

    assert sum(await asyncio.gather(*(one() for _ in range(100)))) == len(server.asked) == 10
    assert balance(model.budgets, TEN) == (10, 0)
    assert balance(model.budgets, LOTS) == (190, 0)


@pytest.mark.parametrize("workers", [1, 32])
async def test_ten_of_a_hundred_in_batches(server, budgeted, workers):
    for batch in ("batch", "abatch"):
        model = budgeted(TEN)
        config = {"max_concurrency": workers}
        found = getattr(model, batch)([ASK] * 100, config, return_exceptions=True)
        answers = found if batch == "batch" else await found
        assert sum(not isinstance(answer, Exception) for answer in answers) == 10
    assert len(server.asked) == 20


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_the_newest_stream_of_events(server, budgeted):
    model = budgeted(Budget(limit=2, unit="calls"), LOTS)
    assert list(model.stream_events(ASK, version="v3"))
    assert [event async for event in await model.astream_events(ASK, version="v3")]
    with pytest.raises(BudgetExceededError):
        list(model.stream_events(ASK, version="v3"))
    assert len(server.asked) == 2
    assert balance(model.budgets, LOTS) == (38, 0)


async def test_ten_of_a_hundred_with_a_store_on_disk(server, budgeted, tmp_path):
    guard = Budgets(TEN, LOTS, store=SQLiteBudgets(tmp_path / "budgets.db"))
    model = budgeted(guard=guard)
    found = await model.abatch([ASK] * 50, return_exceptions=True)
    streams = [_read(model.astream(ASK)) for _ in range(50)]
    found += await asyncio.gather(*streams, return_exceptions=True)
    assert sum(isinstance(one, BudgetExceededError) for one in found) == 90
    assert len(server.asked) == 10
    assert balance(guard, TEN) == (10, 0)
    assert balance(guard, LOTS) == (190, 0)
    guard.store.close()


@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_middleware_and_callback_hold_too(server, workers, way):
    def run(runnable: Any, config: Any = None) -> None:
        if way == "invoke":
            runnable.invoke({"messages": ASK}, config)
        elif way == "ainvoke":
            asyncio.run(runnable.ainvoke({"messages": ASK}, config))
        else:
            list(runnable.stream({"messages": ASK}, config, stream_mode="messages"))

    guard, watched = Budgets(TEN), Budgets(TEN)
    wrapped = create_agent(client(server), tools=[], middleware=[BudgetMiddleware(guard)])
    bare, net = create_agent(client(server), tools=[]), {"callbacks": [BudgetCallback(watched)]}
    with ThreadPoolExecutor(workers) as pool:
        paid = list(pool.map(lambda _: _paid(run, wrapped), range(100)))
        assert sum(paid) == len(server.asked) == 10
        paid = list(pool.map(lambda _: _paid(lambda it: run(it, net), bare), range(100)))
        assert sum(paid) == len(server.asked) - 10 == 10
    for budgets in (guard, watched):
        assert balance(budgets, TEN) == (10, 0)


# --- what is held and what is booked ------------------------------------------------------------


def test_the_prompt_is_counted_with_its_tools(server, budgeted):
    model = budgeted(bare := Budget(limit=10**6, unit="tokens"), max_output_tokens=100)
    seen = []
    model.budgets._seen = lambda budget, key, now: seen.append(now.held)
    model.invoke(ASK)
    # "human", 7 tokens of text, a frame for the message and one for the answer
    assert seen[0] - 100 == 7 + 2 + 8
    model.bind_tools([number]).invoke(ASK)
    assert seen[2] - seen[0] > 30
    assert balance(model.budgets, bare)[0] == 38


@pytest.mark.parametrize(
    ("made", "call", "sent"),
    [
        ({}, {}, 50),
        ({"max_tokens": 20}, {}, 20),
        ({"max_tokens": 80}, {}, 50),
        ({}, {"max_tokens": 70}, 70),
        ({"max_tokens": 20}, {"max_completion_tokens": 70}, 70),
        ({}, {"max_tokens": None}, 50),
    ],
)
def test_the_answer_is_bounded(server, budgeted, made, call, sent):
    inner = client(server, **made)
    model = budgeted(LOTS, model=inner, max_output_tokens=50)
    seen = []
    model.budgets._seen = lambda budget, key, now: seen.append(now.held)
    model.invoke(ASK, **call)
    list(model.stream(ASK, **call))
    for asked in server.asked:
        assert asked.get("max_completion_tokens", asked.get("max_tokens")) == sent
    assert seen[0] == seen[2] == 17 + sent
    assert inner.max_tokens == made.get("max_tokens")


def test_answers_in_several_versions_are_held_all(server, budgeted):
    model = budgeted(Budget(limit=150, unit="tokens"), max_output_tokens=50)
    model.invoke(ASK)
    with pytest.raises(BudgetExceededError):
        model.invoke(ASK, n=3)
    assert len(server.asked) == 1


def test_tokens_from_the_providers_cache_cost_less(server, budgeted):
    server.usage = {
        "prompt_tokens": 2_000,
        "completion_tokens": 5,
        "total_tokens": 2_005,
        "prompt_tokens_details": {"cached_tokens": 1_500},
    }
    model = budgeted(usd := Budget(limit=1))
    model.invoke(ASK)
    list(model.stream(ASK))
    once = 500 * 150_000 + 1_500 * 75_000 + 5 * 600_000
    assert balance(model.budgets, usd) == (2 * once, 0)


def test_the_clients_own_retries_are_one_call(server, budgeted):
    server.fails = 2
    model = budgeted(TEN, LOTS, model=client(server, max_retries=2))
    assert model.invoke(ASK).text == TEXT
    assert len(server.asked) == 3
    assert balance(model.budgets, TEN) == (1, 0)
    assert balance(model.budgets, LOTS) == (19, 0)


def test_each_attempt_of_a_retry_has_a_place_of_its_own(server, budgeted):
    server.fails = 2
    model = budgeted(one := Budget(limit=1, unit="calls"))
    retried = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    assert retried.invoke(ASK).text == TEXT
    assert len(server.asked) == 3
    assert balance(model.budgets, one) == (1, 0)


def test_no_report_is_an_estimate(server, budgeted):
    server.usage = None
    model = budgeted(LOTS)
    model.invoke(ASK)
    assert balance(model.budgets, LOTS) == (17 + 4, 0)
    list(model.stream(ASK))
    assert balance(model.budgets, LOTS) == (42, 0)


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_a_call_that_fails_is_given_back(server, budgeted, way):
    server.status = 500
    model = budgeted(TEN, LOTS)
    for _ in range(20):
        with pytest.raises(Exception, match="no"):
            SYNC[way](model)
        with pytest.raises(Exception, match="no"):
            await ASYNC[f"a{way}"](model)
    assert len(server.asked) == 40
    assert balance(model.budgets, TEN) == balance(model.budgets, LOTS) == (0, 0)
    server.status = 200
    assert model.invoke(ASK).text == TEXT


def test_a_stream_that_breaks_is_booked_as_far_as_it_came(server, budgeted):
    server.breaks_after = 2
    model = budgeted(TEN, LOTS)
    got = []
    with pytest.raises(Exception):  # noqa: B017, PT011 - httpx names it
        got.extend(chunk.text for chunk in model.stream(ASK))
    assert balance(model.budgets, TEN) == (1, 0)
    assert balance(model.budgets, LOTS)[0] == 17 + 3  # "Paris ", "is "


def test_an_abandoned_stream_is_booked_as_far_as_it_came(server, budgeted):
    model = budgeted(LOTS)
    stream = model.stream(ASK)
    next(stream)
    assert balance(model.budgets, LOTS)[1] > 17
    stream.close()
    assert balance(model.budgets, LOTS) == (17 + 2, 0)


async def test_a_cancelled_call_is_booked_with_its_prompt(budgeted):
    slow = FakeListChatModel(responses=["A method."], sleep=5.0)
    model = budgeted(LOTS, model=slow)
    task = asyncio.create_task(_read(model.astream(ASK)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    spent, held = balance(model.budgets, LOTS)
    assert (spent > 0, held) == (True, 0)


# --- a stream that meets its limit --------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_stream_ends_where_the_budget_does(server, budgeted, way):
    server.words = ["word "] * 50_000
    model = budgeted(room := Budget(limit=700, unit="tokens"))
    chunks = list(model.stream(ASK)) if way == "stream" else await _read(model.astream(ASK))
    text = "".join(chunk.text for chunk in chunks)
    assert 250 <= text.count("word") <= 700 - 17
    assert chunks[-1].response_metadata["finish_reason"] == "budget"
    assert chunks[-1].chunk_position == "last"
    spent, held = balance(model.budgets, room)
    assert held == 0
    assert text.count("word") + 17 <= spent <= 700
    assert server.sent < 50_000  # the connection was closed


def test_a_stream_takes_more_as_it_grows(server, budgeted):
    server.words, server.usage = ["word "] * 1_000, None
    model = budgeted(LOTS)
    text = "".join(chunk.text for chunk in model.stream(ASK))
    assert text.count("word") == 1_000
    assert balance(model.budgets, LOTS)[0] in range(1_017, 1_020)


def test_a_cut_stream_is_not_cached(server, budgeted):
    server.words = ["word "] * 2_000
    model = budgeted(Budget(limit=1_000, unit="tokens"))
    cached = CachedChatModel(model=model, cache=SemanticCache(MemoryStore()))
    list(cached.stream(ASK))
    assert cached.answers.cache.stats.stored == 0


# --- what happens to a call that does not fit ---------------------------------------------------


def test_downgraded_to_the_cheaper_model_at_its_price(server, budgeted):
    dear = Budget(limit="0.01", on_exceed="downgrade")
    cheap = client(server, model="gpt-4o-mini")
    model = budgeted(dear, model=client(server, model="gpt-4o"), cheaper=cheap)
    assert model.invoke(ASK).text == TEXT  # 4,096 tokens of gpt-4o are $0.041
    assert "".join(chunk.text for chunk in model.stream(ASK, max_tokens=4_096)) == TEXT
    assert [asked["model"] for asked in server.asked] == ["gpt-4o-mini", "gpt-4o"]
    assert (
        balance(model.budgets, dear)[0] == 14 * 150_000 + 5 * 600_000 + 14 * 2_500_000 + 50_000_000
    )
    assert model.bind_tools([number]).invoke(ASK).tool_calls


def test_tools_are_not_handed_to_another_providers_model(server, budgeted):
    budget = Budget(limit=0, unit="calls", tags={"model": "gpt-4o-mini"}, on_exceed="downgrade")
    model = budgeted(budget, cheaper=ScriptedChatModel())
    assert model.invoke(ASK).text == "This is answer 1."
    with pytest.raises(BudgetExceededError):
        model.bind_tools([number]).invoke(ASK)
    assert server.asked == []


@pytest.mark.parametrize("on_exceed", ["refuse", "cache_only", "queue", "downgrade"])
async def test_refused(server, budgeted, on_exceed):
    model = budgeted(Budget(limit=0, unit="calls", window="day", on_exceed=on_exceed))
    for call in SYNC.values():
        with pytest.raises(BudgetExceededError) as caught:
            call(model)
        assert caught.value.on_exceed == on_exceed
        assert caught.value.ticket is None
    assert server.asked == []


async def test_queued(server, budgeted):
    queued = []

    def queue(messages, settings):
        queued.append((messages[0].text, dict(settings)))
        return len(queued)

    none = Budget(limit=0, unit="calls", on_exceed="queue")
    model = budgeted(none, queue=queue)
    with pytest.raises(BudgetExceededError) as caught:
        model.invoke(ASK, max_tokens=5)
    assert caught.value.ticket == 1
    with pytest.raises(BudgetExceededError) as caught:
        await model.ainvoke(ASK, {"metadata": {"team": "x"}})
    assert caught.value.ticket == 2
    assert queued == [(ASK, {"max_tokens": 5}), (ASK, {})]
    guarded = create_agent(
        client(server), tools=[], middleware=[BudgetMiddleware(Budgets(none), queue=queue)]
    )
    with pytest.raises(BudgetExceededError) as caught:
        guarded.invoke({"messages": ASK})
    assert caught.value.ticket == 3


def test_a_hit_reserves_nothing(server, budgeted, everywhere):
    model = budgeted(Budget(limit=1, unit="calls", on_exceed="cache_only"))
    cached = CachedChatModel(model=model, cache=SemanticCache(MemoryStore()))
    for _ in range(5):
        assert cached.invoke(ASK).text == TEXT
        assert "".join(chunk.text for chunk in cached.stream(ASK)) == TEXT
    with pytest.raises(BudgetExceededError):
        cached.invoke("What is the capital of Italy?")
    everywhere(SemanticCache(MemoryStore()))
    second = budgeted(Budget(limit=1, unit="calls"))
    assert [second.invoke(ASK).text for _ in range(3)] == [TEXT] * 3
    assert len(server.asked) == 2


def test_a_hit_behind_the_budget_is_given_back(server):
    guard = Budgets(TEN)
    inner = CachedChatModel(model=client(server), cache=SemanticCache(MemoryStore()))
    model = BudgetedChatModel(model=inner, budgets=guard)
    for _ in range(3):
        model.invoke(ASK)
        list(model.stream(ASK))
    assert balance(guard, TEN) == (1, 0)
    assert server.asked[0]["max_completion_tokens"] == 4_096


def test_middleware_behind_a_cache_and_before_it(server):
    cache = SemanticCache(MemoryStore())
    guard = Budgets(TEN)
    for stack in (
        [SemanticCacheMiddleware(cache), BudgetMiddleware(guard)],
        [BudgetMiddleware(guard), SemanticCacheMiddleware(cache)],
    ):
        made = create_agent(client(server), tools=[], middleware=stack)
        for _ in range(3):
            assert made.invoke({"messages": ASK})["messages"][-1].text == TEXT
    assert balance(guard, TEN) == (1, 0)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_waits_for_what_others_give_back(budgeted, way):
    room = Budget(limit=100, unit="tokens", on_exceed="queue")
    model = budgeted(room, model=ScriptedChatModel(), max_output_tokens=50, wait=30.0)
    other = model.budgets.reserve("scripted-1", input_tokens=90)
    asyncio.get_running_loop().call_later(0.1, other.release)
    if way == "invoke":
        answer = await asyncio.to_thread(model.invoke, ASK)
    else:
        answer = await model.ainvoke(ASK)
    assert answer.text
    impatient = budgeted(guard=model.budgets, model=ScriptedChatModel(), wait=0.05)
    with pytest.raises(BudgetExceededError):
        await impatient.ainvoke(ASK)


# --- several at once: no answer is lost beside a refusal ------------------------------------------


@pytest.mark.parametrize("way", ["batch", "abatch", "generate", "agenerate", "chain"])
async def test_a_batch_is_sent_all_or_none(server, budgeted, way):
    model = budgeted(TEN, LOTS)

    async def ask(number: int) -> Any:
        if way.endswith("generate"):
            prompts = [[HumanMessage(ASK)]] * number
            found = getattr(model, way)(prompts)
        else:
            runnable = model if way != "chain" else (lambda text: text) | model
            found = getattr(runnable, way if way != "chain" else "batch")([ASK] * number)
        return await found if way.startswith("a") else found

    with pytest.raises(BudgetExceededError) as caught:
        await ask(11)
    assert "10 others" in caught.value.__notes__[0]
    assert server.asked == []
    assert balance(model.budgets, TEN) == balance(model.budgets, LOTS) == (0, 0)
    await ask(10)
    assert balance(model.budgets, TEN) == (10, 0)
    assert balance(model.budgets, LOTS) == (190, 0)


def test_a_batch_asks_under_each_ones_tags(server, budgeted):
    each = Budget(limit=1, unit="calls", tags={"tenant": "*"})
    model = budgeted(each)
    configs = [{"metadata": {"tenant": tenant}} for tenant in "aab"]
    with pytest.raises(BudgetExceededError):
        model.batch([ASK] * 3, configs)
    assert len(model.batch([ASK] * 2, configs[1:])) == 2
    found = model.batch([ASK] * 3, configs, return_exceptions=True)
    assert all(isinstance(one, BudgetExceededError) for one in found)
    assert len(server.asked) == 2


def test_a_batch_goes_down_or_into_the_queue_as_a_whole(server, budgeted):
    dear = Budget(limit=0, unit="calls", tags={"model": "gpt-4o"}, on_exceed="downgrade")
    model = budgeted(dear, TEN, model=client(server, model="gpt-4o"), cheaper=client(server))
    assert len(model.batch([ASK] * 10)) == 10
    assert balance(model.budgets, TEN) == (10, 0)
    tickets = iter(range(100))
    queued = budgeted(
        Budget(limit=2, unit="calls", on_exceed="queue"), queue=lambda *_: next(tickets)
    )
    with pytest.raises(BudgetExceededError) as caught:
        queued.batch([ASK] * 3)
    assert caught.value.ticket == [0, 1, 2]


def test_a_batch_of_hits_holds_nothing(server, budgeted):
    model = budgeted(one := Budget(limit=1, unit="calls"))
    model.cache = InMemoryCache()
    model.invoke(ASK)
    assert [answer.text for answer in model.batch([ASK] * 3)] == [TEXT] * 3
    assert balance(model.budgets, one) == (1, 0)


async def test_a_wrapper_and_a_callback_count_once(server, budgeted):
    model = budgeted(TEN, LOTS)
    cached = CachedChatModel(model=model, cache=SemanticCache(MemoryStore()))
    net = {"callbacks": [BudgetCallback(model.budgets)]}
    model.invoke(ASK, net)
    await model.ainvoke(ASK, net)
    list(model.stream(ASK, net))
    await _read(cached.astream(ASK, net))
    assert balance(model.budgets, TEN) == (4, 0)
    assert balance(model.budgets, LOTS) == (76, 0)


def test_a_wrapper_and_middleware_count_once(server, budgeted):
    model = budgeted(TEN)
    cached = CachedChatModel(model=model, cache=SemanticCache(MemoryStore()))
    for one in (model, cached):
        made = create_agent(one, tools=[], middleware=[BudgetMiddleware(model.budgets)])
        made.invoke({"messages": ASK})
    assert balance(model.budgets, TEN) == (2, 0)


def test_an_agent_keeps_what_it_paid_for(server, budgeted):
    """Stopped at its second turn, it goes on from there once there is room."""
    limited = Budgets(Budget(limit=1, unit="calls"))
    thread = {"configurable": {"thread_id": "1"}}
    saver = InMemorySaver()

    def made(guard: Budgets) -> Any:
        middleware = [BudgetMiddleware(guard)]
        return create_agent(
            client(server), tools=[number], middleware=middleware, checkpointer=saver
        )

    with pytest.raises(BudgetExceededError):
        made(limited).invoke({"messages": ASK}, thread)
    kept = made(limited).get_state(thread).values["messages"]
    assert [message.type for message in kept] == ["human", "ai", "tool"]
    assert made(Budgets(TEN)).invoke(None, thread)["messages"][-1].text == TEXT
    assert len(server.asked) == 2


async def test_a_stream_left_early_is_booked_when_the_loop_gets_to_it(server, budgeted):
    model = budgeted(LOTS)
    async for _ in model.astream(ASK):
        break
    gc.collect()
    await asyncio.sleep(0.1)
    assert balance(model.budgets, LOTS) == (17 + 2, 0)


# --- whose budget -------------------------------------------------------------------------------


async def test_tags_come_from_track_config_and_scope(server, budgeted):
    each = Budget(limit=1, unit="calls", tags={"tenant": "*"})
    model = budgeted(each)
    cached = CachedChatModel(model=model, cache=SemanticCache(MemoryStore()))
    with track(tenant="a"):
        model.invoke(ASK)
        with pytest.raises(BudgetExceededError, match="each tenant"):
            model.invoke(ASK)
        config = {"metadata": {"tenant": "b", "other": "x"}}
        list(model.stream(ASK, config))
    with pytest.raises(BudgetExceededError):
        await model.ainvoke(ASK, config)
    with pytest.raises(BudgetExceededError):
        await _read(cached.astream(ASK, config))  # through another wrapper, with the config
    with scoped(tenant="c"):
        model.invoke(ASK)
        with pytest.raises(BudgetExceededError):
            model.invoke(ASK)
    chain = (lambda text: text) | model
    chain.invoke(ASK, {"configurable": {"costwise": {"tenant": "d"}}})
    guarded = create_agent(client(server), tools=[], middleware=[BudgetMiddleware(model.budgets)])
    guarded.invoke({"messages": ASK}, {"metadata": {"tenant": "e"}})
    client(server).invoke(
        ASK, {"callbacks": [BudgetCallback(model.budgets)], "metadata": {"tenant": "f"}}
    )
    for tenant in "abcdef":
        assert balance(model.budgets, each, tenant=tenant) == (1, 0)


def test_a_loop_is_stopped(server, budgeted):
    model = budgeted(Budget(limit=3, unit="calls", window="minute", tags={"prompt": "*"}))
    for _ in range(3):
        model.invoke(ASK)
    with pytest.raises(BudgetExceededError, match="each prompt"):
        model.invoke([HumanMessage(ASK, id="another")])
    model.invoke("Another question?")


def test_fallbacks_and_retries_share_one_place(server):
    """While the second model is tried, nobody takes the room that the first one gave back."""
    guard = Budgets(room := Budget(limit=100, unit="tokens"))
    down = Provider()
    down.status = 500
    first = BudgetedChatModel(model=client(down), budgets=guard, max_output_tokens=80)
    second = BudgetedChatModel(model=client(server), budgets=guard, max_output_tokens=80)
    with guard.request():
        assert first.with_fallbacks([second]).invoke(ASK).text == TEXT
        assert balance(guard, room) == (19, 97 - 19)
        with pytest.raises(Exception, match="no"):
            first.invoke(ASK, max_tokens=10)
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


async def test_a_store_that_goes_away_costs_no_answer(server, budgeted):
    store = Flaky()
    model = budgeted(guard=Budgets(TEN, store=store))
    stream = model.astream("Again?")
    first = await anext(stream)
    store.gone = True
    assert first.text + "".join(chunk.text for chunk in await _read(stream)) == TEXT
    assert (model.budgets.unbooked, model.budgets.faults) == (1, {"StoreUnavailableError": 1})
    with pytest.raises(StoreUnavailableError):  # nothing new is paid while nothing can be booked
        model.invoke(ASK)
    store.gone = False
    model.invoke(ASK)
    assert model.budgets.unbooked == 0
    assert balance(model.budgets, TEN) == (2, 0)


def test_who_watches_cannot_break_a_call(server):
    def seen(*_: object) -> None:
        raise RuntimeError("the pager is down")

    guard = Budgets(TEN, seen=seen)
    assert BudgetedChatModel(model=client(server), budgets=guard).invoke(ASK).text == TEXT
    assert guard.faults["RuntimeError"] == 2
    assert balance(guard, TEN) == (1, 0)


def test_an_unknown_price_is_refused(budgeted):
    from costwise_core.errors import UnknownModelError

    model = budgeted(Budget(limit=1), model=ScriptedChatModel())
    with pytest.raises(UnknownModelError):
        model.invoke(ASK)
    assert model.model.asked == []


# --- in front of a model, and nothing else ------------------------------------------------------


class Capital(BaseModel):
    """A capital."""

    number: int = Field(description="how many")


async def test_structured_output_and_tools_stay_behind_the_budget(server, budgeted):
    model = budgeted(TEN)
    asked = model.with_structured_output(Capital, method="function_calling")
    for _ in range(5):
        assert asked.invoke(ASK).number == (await asked.ainvoke(ASK)).number == 7
    with pytest.raises(BudgetExceededError):
        asked.invoke(ASK)
    assert len(server.asked) == 10


@pytest.mark.parametrize("strategy", [Capital, ToolStrategy(Capital), ProviderStrategy(Capital)])
def test_structured_output_of_an_agent(server, strategy):
    """The answer that is no object was paid for all the same."""
    guard = Budgets(TEN)
    made = create_agent(
        client(server), tools=[], response_format=strategy, middleware=[BudgetMiddleware(guard)]
    )
    asked = {"messages": [HumanMessage(ASK)]}
    if isinstance(strategy, ToolStrategy):
        assert made.invoke(asked)["structured_response"].number == 7
    else:
        with pytest.raises(StructuredOutputValidationError):
            made.invoke(asked)
    assert balance(guard, TEN) == (len(server.asked), 0) == (1, 0)
    wrapped = BudgetedChatModel(model=ScriptedChatModel(), budgets=guard)
    made = create_agent(wrapped, tools=[], response_format=Capital)
    assert made.invoke(asked)["structured_response"].number == 3
    assert balance(guard, TEN) == (2, 0)


def test_an_agent_pays_for_each_turn(server, budgeted):
    model = budgeted(TEN)
    for _ in range(5):
        answer = create_agent(model, tools=[number]).invoke({"messages": ASK})["messages"]
        assert [message.type for message in answer] == ["human", "ai", "tool", "ai"]
    with pytest.raises(BudgetExceededError):
        create_agent(model, tools=[number]).invoke({"messages": ASK})


async def test_one_run_on_the_bill(server, budgeted):
    model = budgeted(TEN)
    with track() as bill:
        model.invoke(ASK)
        await _read(model.astream(ASK))
    assert (bill.paid_calls, bill.usage.total_tokens) == (2, 38)


def test_the_models_rate_limiter_is_kept(budgeted):
    limiter = InMemoryRateLimiter(requests_per_second=0.001, max_bucket_size=1)
    model = budgeted(TEN, model=ScriptedChatModel(rate_limiter=limiter))
    limiter.available_tokens = 1
    model.invoke(ASK)
    assert limiter.available_tokens < 1


def test_text_models_under_the_callback():
    guard = Budgets(TEN)
    net = {"callbacks": [BudgetCallback(guard)]}
    with ThreadPoolExecutor(8) as pool:
        model = FakeListLLM(responses=["A method."])
        paid = pool.map(lambda _: _paid(lambda it: it.invoke(ASK, net), model), range(50))
        assert sum(paid) == 10
    assert balance(guard, TEN) == (10, 0)


def test_a_failure_under_the_callback_is_given_back(server):
    guard = Budgets(TEN)
    server.status = 500
    with pytest.raises(Exception, match="no"):
        client(server).invoke(ASK, {"callbacks": [BudgetCallback(guard)]})
    server.status = 200
    stream = client(server).stream(ASK, {"callbacks": [BudgetCallback(guard)]})
    next(stream)
    stream.close()
    assert balance(guard, TEN) == (1, 0)


def test_what_is_wrong_is_refused_where_it_is_given():
    with pytest.raises(ValueError, match="max_output_tokens"):
        BudgetedChatModel(model=ScriptedChatModel(), budgets=Budgets(), max_output_tokens=0)
    for make in (BudgetMiddleware, BudgetCallback):
        with pytest.raises(ConfigError, match="max_output_tokens"):
            make(Budgets(), max_output_tokens=0)


class _Chat:
    chat_model_class = BudgetedChatModel
    model_override_value = "scripted-2"
    standard_chat_model_params: dict[str, Any] = {}  # noqa: RUF012

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "budgets": Budgets(TEN, LOTS)}


class TestChatModelUnit(_Chat, ChatModelUnitTests):
    """LangChain's own suite."""


class TestChatModel(_Chat, ChatModelIntegrationTests):
    """LangChain's own suite."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "budgets": Budgets(LOTS)}
