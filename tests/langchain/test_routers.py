"""Routers, cascades and fallbacks: a real client, servers on this machine that count and fail."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, Field

from costwise_core import Decision, HoldOut, Judgement, MemoryStore, PromiseWatch, Route
from costwise_core.budget.budgets import account_of
from costwise_core.errors import ConfigError, RouteError
from langchain_costwise import (
    Budget,
    BudgetCallback,
    BudgetedChatModel,
    BudgetExceededError,
    BudgetMiddleware,
    Budgets,
    CachedChatModel,
    Cascade,
    CostRouter,
    Fallback,
    RouterMiddleware,
    SemanticCache,
    track,
)
from langchain_costwise.testing import ScriptedChatModel
from tests.openai_server import Provider

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI

ASK = "What is the capital of France?"
CHEAP, DEAR = "gpt-4o-mini", "gpt-4o"
LOTS = Budget(limit=1_000_000, unit="tokens")
CALLS = Budget(limit=100, unit="calls")


class Two:
    """Two providers: one cheap, one dear."""

    def __init__(self) -> None:
        self.small, self.large = Provider(), Provider()
        self.large.words = ["The ", "capital ", "is ", "Paris."]
        self.large.usage = {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21}

    def models(self, **settings: Any) -> dict[str, Any]:
        given = {"stream_usage": True, "max_retries": 0, "api_key": "none", **settings}
        return {
            "large": ChatOpenAI(model=DEAR, base_url=self.large.url, **given),
            "small": ChatOpenAI(model=CHEAP, base_url=self.small.url, **given),
        }

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.small.asked), len(self.large.asked)


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    two.small.close()
    two.large.close()


class Chooses:
    """Chooses what it was told to, for a reason."""

    blocking = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Any] = []

    def __repr__(self) -> str:
        return f"Chooses({self.name!r})"

    def decide(self, ask: Any, routes: Any) -> Decision:
        self.asked.append(ask)
        return Decision(model=self.name, why="as told", p=0.25)


class Scores:
    """Scores answers by what they say."""

    blocking = False

    def __init__(self, **scores: float) -> None:
        self.scores = scores
        self.seen: list[Any] = []

    def __repr__(self) -> str:
        return f"Scores({self.scores!r})"

    def judge(self, ask: Any, answer: Any) -> Judgement:
        self.seen.append(answer)
        return Judgement(score=self.scores.get(answer.route, 0.0), why=f"{answer.route} is weak")


def number(number: int) -> str:
    """Say a number."""
    return f"number {number}"


class Numbered(BaseModel):
    """A number."""

    number: int = Field(description="how many")


async def _read(stream: Any) -> list[Any]:
    return [item async for item in stream]


def _joined(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke(ASK),
    "stream": lambda model: _joined(list(model.stream(ASK))),
    "batch": lambda model: model.batch([ASK])[0],
    "generate": lambda model: model.generate([[HumanMessage(ASK)]]).generations[0][0].message,
    "chain": lambda model: ((lambda text: text) | model.with_config(tags=["x"])).invoke(ASK),
    "agent": lambda model: create_agent(model, tools=[]).invoke({"messages": ASK})["messages"][-1],
    "ainvoke": lambda model: asyncio.run(model.ainvoke(ASK)),
    "astream": lambda model: _joined(asyncio.run(_read(model.astream(ASK)))),
    "abatch": lambda model: asyncio.run(model.abatch([ASK]))[0],
}


def balance(budgets: Budgets, budget: Budget) -> tuple[int, int]:
    (found,) = budgets.store.balances([account_of(budget, {}, 0.0) or ""], now=0.0)
    return found.spent, found.held


def way_of(answer: Any) -> dict[str, Any]:
    return answer.response_metadata["costwise"]["route"]


# --- one request, one run, one answer ------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_routed_call_is_one_run_with_its_decision(two, way):
    router = Chooses("small")
    model = CostRouter(models=two.models(), router=router)
    with track() as bill, get_usage_metadata_callback() as counted:
        answer = WAYS[way](model)
    assert answer.text == "Paris is it."
    assert two.asked == (1, 0)
    told = way_of(answer)
    assert told["decision"]["model"] == told["name"] == "small"
    assert (told["decision"]["why"], told["decision"]["p"]) == ("as told", 0.25)
    assert Decimal(told["decision"]["expected_cost"]) > 0
    assert [step["route"] for step in told["steps"]] == ["small"]
    assert answer.usage_metadata["total_tokens"] == 19
    assert counted.usage_metadata[CHEAP]["total_tokens"] == 19
    (record,) = bill.records
    assert (record.model, record.usage.total_tokens, record.overhead) == (CHEAP, 19, False)
    assert bill.savings["route"] == Decimal(14) * Decimal("0.00000235") + Decimal(5) * Decimal(
        "0.0000094"
    )
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert router.asked[0].question == ASK


@pytest.mark.parametrize("way", WAYS)
def test_a_cascade_shows_one_answer_and_bills_both(two, way):
    judge = Scores(small=0.2)
    model = Cascade(models=two.models(), judge=judge, threshold=0.5)
    with track() as bill, get_usage_metadata_callback() as counted:
        answer = WAYS[way](model)
    assert answer.text == "The capital is Paris."
    assert two.asked == (1, 1)
    steps = way_of(answer)["steps"]
    assert [(step["route"], step.get("score")) for step in steps] == [
        ("small", 0.2),
        ("large", None),
    ]
    assert answer.usage_metadata["total_tokens"] == 21
    assert set(counted.usage_metadata) == {DEAR}
    draft, shown = sorted(bill.records, key=lambda record: not record.overhead)
    assert (draft.model, draft.usage.total_tokens, draft.overhead) == (CHEAP, 19, True)
    assert (shown.model, shown.usage.total_tokens, shown.overhead) == (DEAR, 21, False)
    assert draft.why == "not shown: small is weak"
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert bill.overhead > 0
    assert (judge.seen[0].text, judge.seen[0].finish_reason) == ("Paris is it.", "stop")
    assert judge.seen[0].usage.output_tokens == 5


@pytest.mark.parametrize("way", WAYS)
def test_a_good_answer_ends_a_cascade(two, way):
    model = Cascade(models=two.models(), judge=Scores(small=0.9))
    with track() as bill:
        answer = WAYS[way](model)
    assert answer.text == "Paris is it."
    assert two.asked == (1, 0)
    assert answer.usage_metadata["total_tokens"] == 19
    (record,) = bill.records
    assert (record.model, record.overhead, record.usage.estimated) == (CHEAP, False, False)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_streams_of_events(two):
    model = Cascade(models=two.models(), judge=Scores(small=0.2))
    with track() as bill:
        events = await _read(model.astream_events(ASK, version="v2"))
        assert list(model.stream_events(ASK, version="v3"))
        newest = await model.astream_events(ASK, version="v3")
        assert [event async for event in newest]
    starts = [event for event in events if event["event"] == "on_chat_model_start"]
    shown = [
        event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"
    ]
    assert len(starts) == 1
    assert "".join(shown) == "The capital is Paris."
    output = await newest.output
    await asyncio.sleep(0.1)  # the end of the newest kind is told behind the reader's back
    assert way_of(output)["name"] == "large"
    assert sorted(record.model for record in bill.records) == [DEAR] * 3 + [CHEAP] * 3


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_committed_stream_comes_at_once_and_is_not_judged(two, way):
    judge = Scores(small=0.0)
    model = Cascade(models=two.models(), judge=judge, stream_mode="commit")
    assert WAYS[way](model).text == "Paris is it."
    assert judge.seen == []
    assert model.invoke(ASK).text == "The capital is Paris."


async def test_nothing_of_a_draft_reaches_who_listens(two):
    """LangGraph shows the tokens of every run; a draft is no part of one."""
    models = {name: model.model_copy() for name, model in two.models(streaming=True).items()}
    agent = create_agent(Cascade(models=models, judge=Scores(small=0.1)), tools=[])
    shown = [chunk.text for chunk, _ in agent.stream({"messages": ASK}, stream_mode="messages")]
    assert "".join(shown) == "The capital is Paris."
    shown = [
        chunk.text async for chunk, _ in agent.astream({"messages": ASK}, stream_mode="messages")
    ]
    assert "".join(shown) == "The capital is Paris."


def test_a_router_says_where_a_cascade_begins(two):
    model = Cascade(models=two.models(), judge=Scores(small=0.1), router=Chooses("large"))
    assert way_of(model.invoke(ASK))["name"] == "large"
    assert two.asked == (0, 1)


@pytest.mark.parametrize("kind", ["router", "cascade", "fallback"])
async def test_a_request_that_is_held_out_is_not_routed(two, kind):
    models = two.models()
    model: Any = {
        "router": lambda: CostRouter(models=models, router=Chooses("small")),
        "cascade": lambda: Cascade(models=models, judge=Scores(small=1.0)),
        "fallback": lambda: Fallback(models=models),
    }[kind]()
    with track(holdout=HoldOut(share=1.0)) as bill:
        for answer in (model.invoke(ASK), await model.ainvoke(ASK)):
            assert way_of(answer)["name"] == "large"
        assert "".join(chunk.text for chunk in model.stream(ASK)) == "The capital is Paris."
    assert two.asked == (0, 3)
    assert bill.savings == {}


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_another_model_answers_for_one_that_fails(two, way, status):
    two.small.status = status
    model = Fallback(models={name: two.models()[name] for name in ("small", "large")})
    with track() as bill:
        answer = WAYS[way](model)
    assert answer.text == "The capital is Paris."
    assert two.asked == (1, 1)
    assert [step["route"] for step in way_of(answer)["steps"]] == ["small", "large"]
    assert way_of(answer)["steps"][0]["failure"]
    (record,) = bill.records
    assert record.model == DEAR
    assert bill.savings == {}


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
def test_another_model_answers_for_one_that_takes_too_long(two, way):
    two.small.delay = 5.0
    model = Fallback(models={**two.models(timeout=0.3)})
    model = Fallback(models={name: model.models[name] for name in ("small", "large")})
    answer = WAYS[way](model)
    assert answer.text == "The capital is Paris."
    assert way_of(answer)["steps"][0]["failure"] == "timeout"


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_an_error_of_the_request_is_raised(two, way, status):
    two.small.status = status
    with pytest.raises(Exception, match="no"):
        WAYS[way](CostRouter(models=two.models()))
    assert two.asked == (1, 0)


def test_the_first_of_a_fallback_is_preferred_whatever_it_costs(two):
    models = two.models()
    model = Fallback(models={"large": models["large"], "small": models["small"]})
    assert model.invoke(ASK).text == "The capital is Paris."
    two.large.status = 503
    assert model.invoke(ASK).text == "Paris is it."


def test_a_model_is_left_alone_for_as_long_as_its_provider_says(two):
    two.small.status, two.small.headers = 429, {"Retry-After": "60"}
    model = CostRouter(models=two.models())
    for _ in range(3):
        assert model.invoke(ASK).text == "The capital is Paris."
    assert two.asked == (1, 3)


async def test_after_the_deadline_nobody_else_is_asked(two):
    two.small.delay = 0.3
    judge = Scores(small=0.1)
    model = Cascade(models=two.models(), judge=judge, deadline=0.2)
    for answer in (model.invoke(ASK), await model.ainvoke(ASK)):
        assert answer.text == "Paris is it."
    assert two.asked == (2, 0)
    two.small.delay, two.small.status = 0.3, 503
    with pytest.raises(Exception, match="no"):
        model.invoke(ASK)
    assert two.asked == (3, 0)


def test_all_down_is_the_last_ones_error(two):
    two.small.status = two.large.status = 503
    two.large.error = "the dear one is down"
    with pytest.raises(Exception, match="the dear one"):
        CostRouter(models=two.models()).invoke(ASK)
    assert two.asked == (1, 1)


def test_a_prompt_too_long_goes_to_a_larger_window(two):
    two.small.status = 400
    two.small.error = "This model's maximum context length is 8 tokens"
    third = Provider()
    models = {**two.models(), "tiny": ChatOpenAI(model=CHEAP, base_url=third.url, api_key="none")}
    routes = [
        Route(name="small", model=CHEAP, context_window=1_000),
        Route(name="tiny", model="gpt-4o-2024-05-13", context_window=1_000),
        Route(name="large", model=DEAR, context_window=2_000),
    ]
    model = CostRouter(models=models, routes=routes)
    assert way_of(model.invoke(ASK))["name"] == "large"
    assert len(third.asked) == 0
    two.small.asked.clear()
    assert way_of(model.invoke("word " * 1_200))["name"] == "large"
    assert two.small.asked == []
    with pytest.raises(RouteError, match="takes 2,000 tokens"):
        model.invoke("word " * 5_000)
    third.close()


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_breaks_off_is_no_second_answer(two, way):
    two.small.breaks_after = 2
    model = CostRouter(models=two.models())
    got: list[str] = []

    async def collect() -> None:
        got.extend([chunk.text async for chunk in model.astream(ASK)])

    with track() as bill, pytest.raises(Exception):  # noqa: B017, PT011, PT012 - httpx names it
        if way == "stream":
            got.extend(chunk.text for chunk in model.stream(ASK))
        else:
            await_ = collect()
            asyncio.run(await_)
    assert two.asked == (1, 0)
    (record,) = bill.records
    assert record.model == CHEAP
    assert record.usage.output_tokens > 0


def test_the_best_draft_is_given_where_nobody_dearer_answers(two):
    two.large.status = 503
    model = Cascade(models=two.models(), judge=Scores(small=0.2))
    answer = model.invoke(ASK)
    assert answer.text == "Paris is it."
    assert [step.get("failure") for step in way_of(answer)["steps"]] == [None, "overload"]


# --- budgets --------------------------------------------------------------------------------------


def budgeted(two: Two, budgets: Budgets, **settings: Any) -> dict[str, Any]:
    return {
        name: BudgetedChatModel(model=model, budgets=budgets, **settings)
        for name, model in two.models().items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_every_step_is_booked_once(two, way):
    budgets = Budgets(CALLS, LOTS)
    model = Cascade(models=budgeted(two, budgets), judge=Scores(small=0.1))
    assert WAYS[way](model).text == "The capital is Paris."
    assert balance(budgets, CALLS) == (2, 0)
    assert balance(budgets, LOTS) == (40, 0)


async def test_a_callback_leaves_it_to_the_models_budgets(two):
    budgets = Budgets(CALLS, LOTS)
    model = CostRouter(models=budgeted(two, budgets))
    net = {"callbacks": [BudgetCallback(budgets)]}
    model.invoke(ASK, net)
    await _read(model.astream(ASK, net))
    assert balance(budgets, CALLS) == (2, 0)
    assert balance(budgets, LOTS) == (38, 0)


def test_steps_share_what_they_hold(two):
    """What the draft leaves of its reservation, nobody else can take before the next step."""
    room = Budget(limit=100, unit="tokens")
    budgets = Budgets(room)
    seen: list[int] = []

    class Others(Scores):
        def judge(self, ask: Any, answer: Any) -> Judgement:
            seen.append(balance(budgets, room)[1])
            return super().judge(ask, answer)

    model = Cascade(models=budgeted(two, budgets, max_output_tokens=50), judge=Others(small=0.1))
    assert model.invoke(ASK).text == "The capital is Paris."
    assert seen[0] > 0
    assert balance(budgets, room) == (40, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_budget_that_says_no_says_it_for_every_model(two, way):
    budgets = Budgets(Budget(limit=0, unit="calls"))
    with pytest.raises(BudgetExceededError):
        WAYS[way](Fallback(models=budgeted(two, budgets)))
    assert two.asked == (0, 0)


@pytest.mark.parametrize("kind", ["final", "draft"])
async def test_a_stream_closed_early_is_settled(two, kind):
    budgets = Budgets(LOTS)
    models = budgeted(two, budgets)
    model = (
        CostRouter(models=models)
        if kind == "final"
        else Cascade(models=models, judge=Scores(small=1.0))
    )
    produced = 2 if kind == "final" else 5  # a draft was paid for as a whole
    with track() as bill:
        stream = model.stream(ASK)
        while not next(stream).text:
            pass
        stream.close()
        async for chunk in model.astream(ASK):
            if chunk.text:
                break
        gc.collect()
        for _ in range(200):  # LangChain leaves closing to the event loop
            if balance(budgets, LOTS)[1] == 0 and len(bill.records) == 2:
                break
            await asyncio.sleep(0.05)
    sent = 17 if kind == "final" else 14
    assert balance(budgets, LOTS) == (2 * (sent + produced), 0)
    for record in bill.records:
        assert record.model == CHEAP
        assert record.usage.output_tokens >= (1 if kind == "final" else 5)
    assert len(bill.records) == 2


def test_an_agents_budgets_go_around_a_routers_models(two):
    budgets = Budgets(CALLS, LOTS)
    model = Cascade(models=two.models(), judge=Scores(small=0.1))
    agent = create_agent(model, tools=[], middleware=[BudgetMiddleware(budgets)])
    assert agent.invoke({"messages": ASK})["messages"][-1].text == "The capital is Paris."
    assert balance(budgets, CALLS) == (2, 0)
    assert balance(budgets, LOTS) == (40, 0)
    with pytest.raises(ValueError, match="around its models"):
        BudgetedChatModel(model=model, budgets=budgets)


# --- caches ---------------------------------------------------------------------------------------


def test_routers_never_share_answers(two):
    def keys(model: Any) -> str:
        return model._get_llm_string(stop=None)

    models = two.models()
    warm = {**models, "small": models["small"].model_copy(update={"temperature": 0.9})}
    found = [
        keys(one)
        for one in (
            CostRouter(models=models),
            CostRouter(models=models, router=Chooses("small")),
            CostRouter(models=models, router=Chooses("large")),
            CostRouter(models=models, routes=[Route(name="small", model="o3")]),
            CostRouter(models=warm),
            Fallback(models=models),
            Cascade(models=models, judge=Scores(small=0.1)),
            Cascade(models=models, judge=Scores(small=0.2)),
            Cascade(models=models, judge=Scores(small=0.1), threshold=0.6),
            Cascade(models=models, judge=Scores(small=0.1), stream_mode="commit"),
        )
    ]
    assert len(set(found)) == len(found)
    assert keys(CostRouter(models=models)) == keys(CostRouter(models=two.models()))


def test_a_cache_in_front_has_one_entry(two):
    model = CostRouter(models=two.models())
    model.cache = InMemoryCache()
    assert model.invoke(ASK).text == model.invoke(ASK).text == "Paris is it."
    assert len(model.cache._cache) == 1
    cached = CachedChatModel(
        model=CostRouter(models=two.models()), cache=SemanticCache(MemoryStore())
    )
    with track() as bill:
        assert cached.invoke(ASK).text == cached.invoke(ASK).text == "Paris is it."
        assert "".join(chunk.text for chunk in cached.stream(ASK)) == "Paris is it."
    assert (bill.paid_calls, bill.calls) == (1, 3)
    assert two.asked == (2, 0)
    assert {"route", "response_cache"} <= set(bill.savings)


# --- tools and structured output ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["router", "cascade", "fallback"])
async def test_tools_reach_whichever_model_answers(two, kind):
    two.small.status = 503 if kind == "fallback" else 200
    models = {name: two.models()[name] for name in ("small", "large")}
    model: Any = {
        "router": lambda: CostRouter(models=models),
        "cascade": lambda: Cascade(models=models, judge=Scores(small=0.1)),
        "fallback": lambda: Fallback(models=models),
    }[kind]()
    bound = model.bind_tools([number, Numbered], tool_choice="any")
    assert isinstance(bound, RunnableBinding)
    for answer in (
        bound.invoke(ASK),
        await bound.ainvoke(ASK),
        _joined(list(bound.stream(ASK))),
        _joined(await _read(bound.astream(ASK))),
    ):
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
            ("number", {"number": 7})
        ]
    asked = (two.small if kind == "router" else two.large).asked[-1]
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["number", "Numbered"]
    assert asked["tool_choice"] == "required"
    found = model.with_structured_output(Numbered)
    assert found.invoke(ASK) == await found.ainvoke(ASK) == Numbered(number=7)
    raw = model.with_structured_output(Numbered, include_raw=True).invoke(ASK)
    assert raw["parsed"] == Numbered(number=7)
    assert way_of(raw["raw"])


def test_models_that_have_no_tools_are_left_out(two):
    from langchain_core.language_models import FakeListChatModel

    router = Chooses("talker")
    talker = FakeListChatModel(responses=["Hello."])
    model = CostRouter(models={"talker": talker, **two.models()}, router=router)
    assert model.invoke(ASK).text == "Hello."
    router.name = "small"
    assert model.bind_tools([number]).invoke(ASK).tool_calls
    assert router.asked[-1].needs == {"tools"}
    only = CostRouter(models={"talker": talker})
    with pytest.raises(RouteError, match="cannot do tools"):
        only.bind_tools([number]).invoke(ASK)


async def test_an_agent_with_tools_is_routed_each_turn(two):
    router = Chooses("small")
    model = CostRouter(models=two.models(), router=router)
    with track() as bill:
        said = create_agent(model, tools=[number]).invoke({"messages": ASK})["messages"]
    assert [message.type for message in said] == ["human", "ai", "tool", "ai"]
    assert bill.paid_calls == len(router.asked) == 2
    assert router.asked[1].passages[0].text == "number 7"
    two.small.words = ['{"number"', ": 7}"]
    found = create_agent(model, tools=[], response_format=Numbered).invoke({"messages": ASK})
    assert found["structured_response"] == Numbered(number=7)


async def test_middleware_gives_turns_to_a_cheaper_model(two):
    models = two.models()
    stack = [RouterMiddleware({"small": models["small"]}, judge=Scores(small=0.9))]
    agent = create_agent(models["large"], tools=[number], middleware=stack)
    for said in (agent.invoke({"messages": ASK}), await agent.ainvoke({"messages": ASK})):
        last = said["messages"][-1]
        assert (last.text, way_of(last)["name"]) == ("Paris is it.", "small")
    assert two.asked == (4, 0)
    stack = [RouterMiddleware({"small": models["small"]}, router=Chooses("agent"))]
    agent = create_agent(models["large"], tools=[number], middleware=stack)
    assert agent.invoke({"messages": ASK})["messages"][-1].text == "The capital is Paris."
    with pytest.raises(ConfigError, match="another name"):
        RouterMiddleware({"agent": models["small"]})


# --- conversations --------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["track", "metadata", "thread"])
def test_a_conversation_stays_where_its_prompt_is_cached(two, told):
    router = Chooses("large")
    model = CostRouter(models=two.models(), router=router)
    config: dict[str, Any] = {
        "track": {},
        "metadata": {"metadata": {"conversation": "7"}},
        "thread": {"configurable": {"thread_id": "7"}},
    }[told]
    messages: list[Any] = [HumanMessage("A long story. " * 200)]
    cheap = Route(name="small", model="gpt-4.1-mini")
    model = CostRouter(
        models=two.models(),
        router=router,
        routes=[cheap, Route(name="large", model="gpt-4.1")],
    )

    def ask() -> Any:
        if told != "track":
            return model.invoke(messages, config)
        with track(conversation="7"):
            return model.invoke(messages)

    messages.append(ask())
    messages.append(HumanMessage("And then?"))
    assert router.asked[0].prefix_tokens == 0
    ask()
    first, second = router.asked
    assert second.conversation == first.conversation != ""
    assert 0.9 < second.prefix_tokens / second.prompt_tokens < 1


def test_a_move_that_does_not_pay_is_not_made(two):
    """A little cheaper, but the other one has nearly all of the prompt cached."""
    router = Chooses("large")
    routes = [Route(name="small", model="gpt-4.1"), Route(name="large", model="gpt-4o")]
    model = CostRouter(models=two.models(), router=router, routes=routes)
    messages: list[Any] = [HumanMessage("A long story. " * 500)]
    with track(conversation="7"):
        messages += [model.invoke(messages), HumanMessage("And then?")]
        router.name = "small"
        answer = model.invoke(messages)
        assert way_of(answer)["name"] == "large"
        assert "stays on large" in way_of(answer)["why"]
    assert way_of(model.invoke(messages))["name"] == "small"


def test_tenants_have_conversations_of_their_own(two):
    router = Chooses("small")
    model = CostRouter(models=two.models(), router=router)
    for tenant in ("a", "b"):
        with track(tenant=tenant, conversation="1"):
            model.invoke("A long story. " * 50)
    first, second = router.asked
    assert first.conversation != second.conversation
    assert second.prefix_tokens == 0


def test_an_agents_thread_is_its_conversation(two):
    router = Chooses("small")
    model = CostRouter(models=two.models(), router=router)
    agent = create_agent(model, tools=[], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": "A long story. " * 50}, thread)
    agent.invoke({"messages": "And then?"}, thread)
    assert router.asked[1].prefix_tokens > 100


def test_what_another_provider_left_is_made_readable(two):
    model = CostRouter(models=two.models())
    model.invoke(
        [
            HumanMessage(ASK),
            AIMessage(
                [
                    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                    {"type": "text", "text": "Let me see.", "citations": []},
                    {"type": "tool_use", "id": "toolu_01A:1", "name": "number", "input": {}},
                ],
                tool_calls=[
                    {
                        "name": "number",
                        "args": {"number": 1},
                        "id": "toolu_01A:1",
                        "type": "tool_call",
                    }
                ],
                response_metadata={"model_provider": "anthropic"},
            ),
            ToolMessage("number 1", tool_call_id="toolu_01A:1"),
            HumanMessage("And?"),
        ]
    )
    _, answer, tool, _ = two.small.asked[0]["messages"]
    assert answer["content"] == "Let me see."
    (call,) = answer["tool_calls"]
    assert call["id"] == tool["tool_call_id"]
    assert len(call["id"]) == 9
    assert call["id"].isalnum()


# --- what is asked for and what is wrong ----------------------------------------------------------


def test_what_a_model_says_of_itself_is_its_route(two):
    model = CostRouter(models=two.models())
    small = next(route for route in model._routing.routes if route.name == "small")
    assert (small.model, small.context_window) == (CHEAP, 128_000)
    assert small.capabilities == {"tools", "json", "images"}
    assert small.tags == {"openai"}
    assert model.profile["tool_calling"] is True
    assert model.profile["max_input_tokens"] == 128_000
    assert "audio_inputs" not in model.profile
    router = Chooses("small")
    model = CostRouter(models=two.models(), router=router)
    image = {"type": "image", "url": "http://127.0.0.1/a.png"}
    model.invoke([HumanMessage([{"type": "text", "text": "What?"}, image])], max_tokens=7)
    assert router.asked[0].needs == {"images"}
    assert router.asked[0].output_tokens == 7
    assert router.asked[0].prompt_tokens > 1_600


def test_a_price_of_ones_own_is_on_the_bill(two):
    routes = [Route(name="small", model="gpt-4.1-nano")]
    with track() as bill:
        CostRouter(models=two.models(), routes=routes).invoke(ASK)
    assert bill.records[0].model == "gpt-4.1-nano"


def test_what_is_wrong_is_refused_where_it_is_given(two):
    with pytest.raises(ValueError, match="no routes"):
        CostRouter(models={})
    with pytest.raises(ValueError, match=r"smal.*small"):
        CostRouter(models=two.models(), routes=[Route(name="smal")])
    with pytest.raises(ValueError, match="threshold"):
        Cascade(models=two.models(), judge=Scores(), threshold=2.0)
    with pytest.raises(ConfigError, match=r"chose 'larg'"):
        CostRouter(models=two.models(), router=Chooses("larg")).invoke(ASK)


async def test_a_router_that_fails_takes_the_dearest(two):
    class Broken:
        def decide(self, ask: Any, routes: Any) -> Decision:
            raise ValueError

    model = CostRouter(models=two.models(), router=Broken())
    for answer in (model.invoke(ASK), await model.ainvoke(ASK)):
        assert way_of(answer)["name"] == "large"
        assert way_of(answer)["decision"]["abstained"] is True


def test_the_models_own_are_left_as_they_are(two):
    scripted = ScriptedChatModel()
    model = CostRouter(models={"one": scripted, "two": ScriptedChatModel()})
    question = [HumanMessage("Hi"), AIMessage("Hello", id="1"), HumanMessage("And?")]
    before = [message.model_copy(deep=True) for message in question]
    model.invoke(question)
    assert question == before
    assert model.bind_tools([number]).invoke(question).tool_calls
    assert scripted.asked == ["And?", "And?"]


# --- a promise that is checked while it runs ------------------------------------------------------


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_checked_answer_is_compared_and_the_other_is_overhead(two, way):
    two.small.words = ["It ", "is ", "Rome."]
    watch = PromiseWatch(share=1.0)
    model = CostRouter(models=two.models(), router=Chooses("small"), watch=watch)
    with track() as bill:
        if way == "invoke":
            text = model.invoke(ASK).text
        elif way == "ainvoke":
            text = (await model.ainvoke(ASK)).text
        elif way == "stream":
            text = "".join(chunk.text for chunk in model.stream(ASK))
        else:
            text = "".join([chunk.text async for chunk in model.astream(ASK)])
    assert text == "It is Rome."
    assert two.asked == (1, 1)
    assert (watch.state.checks, watch.state.kept) == (1, 0.0)
    shown, compared = sorted(bill.records, key=lambda record: record.overhead)
    assert (shown.model, shown.overhead) == (CHEAP, False)
    assert (compared.model, compared.overhead) == (DEAR, True)
    assert "asked to compare: it says something else" in compared.why
