"""Several LLMs as one: real clients of two servers, in every way LlamaIndex calls an LLM."""

import gc
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    LLMMetadata,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.tools import FunctionTool
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import BaseModel, Field

from costwise_core import (
    Decision,
    HoldOut,
    Judgement,
    MemoryStore,
    ModelJudge,
    PromiseWatch,
    Route,
    SQLiteLedger,
    local_first,
)
from costwise_core.budget.budgets import account_of
from costwise_core.errors import ConfigError, RouteError
from llamaindex_costwise import (
    Budget,
    BudgetedLLM,
    BudgetExceededError,
    Budgets,
    Cache,
    CachedLLM,
    Cascade,
    CostRouter,
    Fallback,
    RouteEvent,
    as_completer,
    scoped,
    track,
)
from llamaindex_costwise.testing import ScriptedLLM
from tests.llamaindex.fakes import deprecations, seven
from tests.openai_server import Provider

openai_like = pytest.importorskip("llama_index.llms.openai_like")

ASK = "What is the capital of France?"
ASKED = [ChatMessage(content=ASK)]
TOOL = FunctionTool.from_defaults(seven)
PROMPT = PromptTemplate("What is the capital of {country}?")
SMALL, LARGE = "Paris is it.", "It is Paris, on the Seine."


class Number(BaseModel):
    """A number."""

    number: int = Field(description="how many")


@dataclass
class To:
    """A router that has made up its mind, and remembers what it was asked."""

    name: str
    blocking = False
    asked: Any = None

    def decide(self, ask: Any, routes: Any) -> Decision:
        self.asked = ask
        return Decision(model=self.name, why="it always does")


@dataclass
class Wants:
    """A judge that wants a word in the answer, or a call of a tool."""

    word: str
    blocking = False
    asked: Any = None

    def judge(self, ask: Any, answer: Any) -> Judgement:
        self.asked = ask
        found = self.word in answer.text or self.word in answer.tool_calls
        return Judgement(score=float(found), why=f"{self.word!r} is {'' if found else 'not '}there")


@pytest.fixture
def small() -> Iterator[Provider]:
    yield from served(SMALL)


@pytest.fixture
def large() -> Iterator[Provider]:
    yield from served(LARGE)


def served(said: str) -> Iterator[Provider]:
    server = Provider()
    server.words = [f"{word} " for word in said.split()]
    server.words[-1] = server.words[-1].strip()
    yield server
    server.close()


def client(server: Provider, model: str, **settings: Any) -> LLM:
    return openai_like.OpenAILike(
        **{
            "model": model,
            "api_base": server.url,
            "api_key": "none",
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": 100_000,
            "reuse_client": False,
            "max_retries": 0,
            "additional_kwargs": {"stream_options": {"include_usage": True}},
            **settings,
        }
    )


@pytest.fixture
def models(small: Provider, large: Provider) -> dict[str, LLM]:
    return {"small": client(small, "gpt-4o-mini"), "large": client(large, "gpt-4o")}


async def read(stream: Any) -> list[Any]:
    return [piece async for piece in await stream]


def route_of(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.additional_kwargs["costwise"]["route"]
    return found


def text_of(answer: Any) -> str:
    return str(answer.message.content if hasattr(answer, "message") else answer.text)


SYNC: dict[str, Callable[[Any], Any]] = {
    "chat": lambda llm: llm.chat(ASKED),
    "stream_chat": lambda llm: list(llm.stream_chat(ASKED)),
    "complete": lambda llm: llm.complete(ASK),
    "stream_complete": lambda llm: list(llm.stream_complete(ASK)),
    "chat_with_tools": lambda llm: llm.chat_with_tools([TOOL], ASK),
    "stream_chat_with_tools": lambda llm: list(llm.stream_chat_with_tools([TOOL], ASK)),
    "structured_predict": lambda llm: llm.structured_predict(Number, PROMPT, country="France"),
    "stream_structured_predict": lambda llm: list(
        llm.stream_structured_predict(Number, PROMPT, country="France")
    ),
    "predict": lambda llm: llm.predict(PROMPT, country="France"),
    "stream": lambda llm: list(llm.stream(PROMPT, country="France")),
    "predict_and_call": lambda llm: llm.predict_and_call([TOOL], ASK),
    "structured llm": lambda llm: llm.as_structured_llm(Number).chat(ASKED),
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "achat": lambda llm: llm.achat(ASKED),
    "astream_chat": lambda llm: read(llm.astream_chat(ASKED)),
    "acomplete": lambda llm: llm.acomplete(ASK),
    "astream_complete": lambda llm: read(llm.astream_complete(ASK)),
    "achat_with_tools": lambda llm: llm.achat_with_tools([TOOL], ASK),
    "astream_chat_with_tools": lambda llm: read(llm.astream_chat_with_tools([TOOL], ASK)),
    "astructured_predict": lambda llm: llm.astructured_predict(Number, PROMPT, country="France"),
    "astream_structured_predict": lambda llm: read(
        llm.astream_structured_predict(Number, PROMPT, country="France")
    ),
    "apredict": lambda llm: llm.apredict(PROMPT, country="France"),
    "astream": lambda llm: read(llm.astream(PROMPT, country="France")),
    "apredict_and_call": lambda llm: llm.apredict_and_call([TOOL], ASK),
    "structured llm": lambda llm: llm.as_structured_llm(Number).achat(ASKED),
}


def check(found: Any, said: str) -> None:
    """Check what any of the ways gave: words, a call of the tool, or an object."""
    last = found[-1] if isinstance(found, list) and not isinstance(found[-1], str) else found
    if isinstance(last, Number):
        assert last.number == 7
    elif isinstance(last, str | list):
        assert "".join(last) == said
    elif hasattr(last, "sources"):
        assert last.response == "number 7"
    elif hasattr(last, "raw") and isinstance(last.raw, Number):
        assert last.raw.number == 7
    elif hasattr(last, "message") and not last.message.content:
        (call,) = [one for one in last.message.blocks if isinstance(one, ToolCallBlock)]
        assert call.tool_name == "seven"
    else:
        assert text_of(last) == said


class TestEveryWay:
    @deprecations
    @pytest.mark.parametrize("way", SYNC)
    @pytest.mark.parametrize("to", ["small", "large"])
    def test_the_router_says_who_answers(self, models, small, large, way, to):
        llm = CostRouter(models=models, router=To(to))
        with track() as bill:
            check(SYNC[way](llm), SMALL if to == "small" else LARGE)
        asked = {"small": len(small.asked), "large": len(large.asked)}
        assert asked == {"small": 0, "large": 0} | {to: 1}
        (record,) = bill.records  # counted once
        assert record.model == models[to].model
        assert record.why.startswith("it always does")
        assert bill.usage.output_tokens == 5  # as reported

    @deprecations
    @pytest.mark.parametrize("way", ASYNC)
    @pytest.mark.parametrize("to", ["small", "large"])
    async def test_the_router_says_who_answers_async(self, models, small, large, way, to):
        llm = CostRouter(models=models, router=To(to))
        with track() as bill:
            check(await ASYNC[way](llm), SMALL if to == "small" else LARGE)
        asked = {"small": len(small.asked), "large": len(large.asked)}
        assert asked == {"small": 0, "large": 0} | {to: 1}
        (record,) = bill.records
        assert record.model == models[to].model
        assert bill.usage.output_tokens == 5

    @deprecations
    @pytest.mark.parametrize("way", SYNC)
    def test_a_cascade_goes_up(self, models, small, large, way):
        wanted = "Seine" if way not in _OBJECTS else '"number":8'
        llm = Cascade(models=models, judge=Wants(wanted))
        with track() as bill:
            check(SYNC[way](llm), LARGE)
        assert len(small.asked) == len(large.asked) == 1
        first, last = bill.records
        assert (first.model, first.overhead) == ("gpt-4o-mini", True)
        assert first.why == f"not shown: {wanted!r} is not there"
        assert (last.model, last.overhead, last.savings) == ("gpt-4o", False, ())
        assert bill.saved == 0  # a dearer way than without it
        assert bill.net < 0

    @deprecations
    @pytest.mark.parametrize("way", ASYNC)
    async def test_a_cascade_goes_up_async(self, models, small, large, way):
        wanted = "Seine" if way not in _OBJECTS else '"number":8'
        llm = Cascade(models=models, judge=Wants(wanted))
        with track() as bill:
            check(await ASYNC[way](llm), LARGE)
        assert len(small.asked) == len(large.asked) == 1
        first, last = bill.records
        assert (first.model, first.overhead, last.model) == ("gpt-4o-mini", True, "gpt-4o")

    @deprecations
    @pytest.mark.parametrize("way", SYNC)
    def test_a_fallback_goes_on(self, models, small, large, way):
        small.fails = 1
        check(SYNC[way](Fallback(models=models)), LARGE)
        assert len(small.asked) == len(large.asked) == 1

    @deprecations
    @pytest.mark.parametrize("way", ASYNC)
    async def test_a_fallback_goes_on_async(self, models, small, large, way):
        small.fails = 1
        check(await ASYNC[way](Fallback(models=models)), LARGE)
        assert len(small.asked) == len(large.asked) == 1


_OBJECTS = {
    *("structured_predict", "stream_structured_predict", "structured llm"),
    *("astructured_predict", "astream_structured_predict"),
}


class TestFallback:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
    def test_what_another_may_answer(self, models, small, large, status):
        small.status = status
        answer = Fallback(models=models).chat(ASKED)
        assert text_of(answer) == LARGE
        first, last = route_of(answer)["steps"]
        assert first["failure"] in {"timeout", "overload", "rate_limit"}
        assert (first["route"], last["route"]) == ("small", "large")

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
    def test_what_nobody_else_may(self, models, small, large, status):
        small.status = status
        with pytest.raises(Exception, match=str(status)):
            Fallback(models=models).chat(ASKED)
        assert not large.asked

    def test_a_time_out(self, small, large):
        small.delay = 0.5
        slow = client(small, "gpt-4o-mini", timeout=0.1)
        llm = Fallback(models={"small": slow, "large": client(large, "gpt-4o")})
        answer = llm.chat(ASKED)
        assert route_of(answer)["steps"][0]["failure"] == "timeout"
        assert text_of(answer) == LARGE

    def test_a_prompt_that_is_too_long_goes_to_a_larger_window(self, small, large):
        small.status, small.error = 400, "This model's maximum context length is 8192 tokens."
        tiny = client(large, "gpt-4", context_window=4_000)
        roomy = client(large, "gpt-4o", context_window=128_000)
        main = client(small, "gpt-4o-mini", context_window=8_192)
        answer = Fallback(models={"main": main, "tiny": tiny, "roomy": roomy}).chat(ASKED)
        assert [step["route"] for step in route_of(answer)["steps"]] == ["main", "roomy"]

    def test_retry_after_is_respected(self, models, small, large):
        small.status, small.headers = 429, {"Retry-After": "60"}
        llm = Fallback(models=models)
        llm.chat(ASKED)
        llm.chat(ASKED)
        assert len(small.asked) == 1
        assert len(large.asked) == 2

    def test_the_last_error_is_raised_where_nobody_answers(self, models, small, large):
        small.status, large.status = 500, 503
        with pytest.raises(Exception, match="503"):
            Fallback(models=models).chat(ASKED)

    @pytest.mark.parametrize("words", [0, 2])
    def test_a_stream_that_breaks_off(self, models, small, large, words):
        """Nothing shown: the next one answers. Something shown: two answers would be worse."""
        small.breaks_after = words
        stream = Fallback(models=models).stream_chat
        if words:
            said = []
            with pytest.raises(Exception, match=r"(?i)incomplete|peer|closed"):
                said.extend(piece.delta for piece in stream(ASKED))
            assert not large.asked
        else:
            assert text_of(list(stream(ASKED))[-1]) == LARGE

    def test_the_first_one_is_preferred_whatever_it_costs(self, models, small, large):
        llm = Fallback(models={"large": models["large"], "small": models["small"]})
        with track() as bill:
            assert text_of(llm.chat(ASKED)) == LARGE
        assert bill.savings == {}

    def test_a_budget_that_says_no_says_it_for_all(self, models, small, large):
        none = Budgets(Budget(limit=0, unit="calls"))
        held = {name: BudgetedLLM(llm=llm, budgets=none) for name, llm in models.items()}
        with pytest.raises(BudgetExceededError):
            Fallback(models=held).chat(ASKED)
        assert not small.asked
        assert not large.asked


class TestCascade:
    def test_a_good_answer_stays(self, models, large):
        with track() as bill:
            answer = Cascade(models=models, judge=Wants("Paris")).chat(ASKED)
        assert text_of(answer) == SMALL
        assert route_of(answer)["steps"][0]["score"] == 1.0
        assert not large.asked
        (record,) = bill.records
        assert not record.overhead
        # 14 tokens in and 5 out, at the prices of the two.
        assert bill.savings == {"route": Decimal("0.0000799")}

    @pytest.mark.parametrize("word", ["Paris", "Seine"])
    def test_a_stream_shows_one_answer(self, models, word):
        pieces = list(Cascade(models=models, judge=Wants(word)).stream_chat(ASKED))
        assert "".join(piece.delta for piece in pieces) == (SMALL if word == "Paris" else LARGE)
        assert len(pieces) > 2
        assert {route_of(piece)["name"] for piece in pieces} == {
            "small" if word == "Paris" else "large"
        }

    def test_a_committed_stream_is_not_judged(self, models, large):
        llm = Cascade(models=models, judge=Wants("Seine"), stream_mode="commit")
        assert text_of(list(llm.stream_chat(ASKED))[-1]) == SMALL
        assert not large.asked
        assert text_of(llm.chat(ASKED)) == LARGE

    def test_the_dearer_one_is_down(self, models, large):
        large.status = 503
        answer = Cascade(models=models, judge=Wants("Seine")).chat(ASKED)
        assert text_of(answer) == SMALL
        assert [step["route"] for step in route_of(answer)["steps"]] == ["small", "large"]

    def test_an_object_that_does_not_fit_goes_up(self, models, small, large):
        small.words = ["seven"]
        no_tools = client(small, "gpt-4o-mini", is_function_calling_model=False)
        llm = Cascade(models={**models, "small": no_tools}, judge=Wants("number"))
        assert llm.structured_predict(Number, PROMPT, country="France") == Number(number=7)
        assert len(small.asked) == len(large.asked) == 1

    def test_a_judge_sees_what_was_retrieved(self, models):
        judge = Wants("Paris")
        llm = Cascade(models=models, judge=judge)
        index = SummaryIndex.from_documents([Document(text="Paris is the capital of France.")])
        index.as_query_engine(llm=llm).query(ASK)
        assert judge.asked.question == ASK
        (passage,) = judge.asked.passages
        assert passage.text == "Paris is the capital of France."


class TestBill:
    def test_what_routing_saved(self, models):
        with track() as bill:
            CostRouter(models=models).chat(ASKED)
        assert bill.savings == {"route": Decimal("0.0000799")}

    def test_a_route_says_what_a_model_is_priced_as(self, models):
        models["small"].model = "our-deployment"
        llm = CostRouter(
            models=models,
            routes=(Route(name="small", model="openai:gpt-4o-mini"),),
            router=To("small"),
        )
        with track() as bill:
            llm.chat(ASKED)
            models["small"].chat(ASKED)
        assert [one.model for one in bill.records] == ["openai:gpt-4o-mini", "our-deployment"]
        assert [one.usd for one in bill.records] == [Decimal("0.0000051"), None]
        assert bill.savings == {"route": Decimal("0.0000799")}

    def test_a_stream_read_after_the_block(self, models, tmp_path):
        ledger = SQLiteLedger(tmp_path / "ledger.db")
        with track(ledger=ledger) as bill:
            stream = CostRouter(models=models).stream_chat(ASKED)
        assert bill.calls == 0
        list(stream)
        (record,) = bill.records
        assert [one.id for one in ledger.records()] == [record.id]
        assert record.usage.output_tokens == 5
        ledger.close()

    @pytest.mark.parametrize("mode", ["closed", "dropped"])
    def test_a_stream_that_is_not_read_to_its_end(self, models, small, mode):
        with track() as bill:
            stream = CostRouter(models=models).stream_chat(ASKED)
            first = next(stream)
            if mode == "closed":
                stream.close()
            else:
                del stream
                # A collection asked for while another thread's is under way does nothing.
                for _ in range(100):
                    gc.collect()
                    if bill.records:
                        break
                    time.sleep(0.02)
        assert first.delta == "Paris "
        (record,) = bill.records
        assert record.usage.estimated

    def test_the_hold_out_goes_to_the_usual_model(self, models, large):
        judge = Wants("Seine")
        with track(holdout=HoldOut(share=1.0)) as bill:
            answer = Cascade(models=models, judge=judge).chat(ASKED)
            CostRouter(models=models, router=To("small")).chat(ASKED)
        assert text_of(answer) == LARGE
        assert judge.asked is None
        assert [one.model for one in bill.records] == ["gpt-4o", "gpt-4o"]
        assert bill.savings == {}

    def test_the_hold_out_of_a_fallback_is_its_first(self, models):
        with scoped(unoptimised=True):
            assert text_of(Fallback(models=models).chat(ASKED)) == SMALL

    def test_one_reservation_for_all_steps(self, models):
        calls = Budget(limit=1_000, unit="calls")
        budgets = Budgets(calls)
        held = {name: BudgetedLLM(llm=llm, budgets=budgets) for name, llm in models.items()}
        Cascade(models=held, judge=Wants("Seine")).chat(ASKED)
        list(Cascade(models=held, judge=Wants("Seine")).stream_chat(ASKED))
        (found,) = budgets.store.balances([account_of(calls, {}, 0.0) or ""], now=0.0)
        assert (found.spent, found.held) == (4, 0)

    @pytest.mark.parametrize("way", ["chat", "chat_with_tools", "stream_chat_with_tools"])
    def test_a_budget_around_holds_for_tools_too(self, models, small, way):
        llm = BudgetedLLM(
            llm=CostRouter(models=models), budgets=Budgets(Budget(limit=1, unit="calls"))
        )
        SYNC[way](llm)
        with pytest.raises(BudgetExceededError):
            SYNC[way](llm)
        assert len(small.asked) == 1

    def test_a_cache_around(self, models, small):
        llm = CachedLLM(llm=CostRouter(models=models), cache=Cache(MemoryStore()))
        first, second = llm.chat(ASKED), llm.chat(ASKED)
        assert text_of(first) == text_of(second) == SMALL
        assert len(small.asked) == 1
        assert second.raw["costwise"]["hit"] == "exact"


class TestAsOneLLM:
    def test_metadata(self):
        one, other = ScriptedLLM(), MockLLM()
        told = CostRouter(models={"one": one, "other": other}).metadata
        assert told == LLMMetadata(
            context_window=3900,
            num_output=256,
            is_chat_model=False,
            is_function_calling_model=False,
            model_name="CostRouter(one, other)",
        )
        assert CostRouter(models={"one": one}).metadata.is_function_calling_model

    def test_tools_go_to_who_can(self, models, small):
        no_tools = client(small, "gpt-4o-mini", is_function_calling_model=False)
        llm = CostRouter(models={**models, "small": no_tools})
        assert route_of(llm.chat_with_tools([TOOL], ASK))["name"] == "large"
        assert route_of(llm.chat(ASKED))["name"] == "small"

    def test_a_route_says_only_what_it_says(self, models):
        llm = CostRouter(models=models, routes=local_first("small")["routes"])
        answer = llm.chat(ASKED)
        with track() as bill:
            llm.chat(ASKED)
        assert route_of(answer)["decision"]["expected_cost"]
        assert [one.model for one in bill.records] == ["gpt-4o-mini"]

    def test_local_first(self, models, small):
        small.words = ["I ", "do ", "not ", "know."]
        llm = Cascade(models=models, **local_first("small"))
        assert text_of(llm.chat(ASKED)) == LARGE
        small.words = ["The ", "capital ", "is ", "Paris."]
        assert text_of(llm.chat(ASKED)) == "The capital is Paris."

    async def test_a_judge_that_asks_a_model_is_overhead(self, models, large):
        large.words = ['{"1": ', "9}"]
        llm = Cascade(models=models, judge=ModelJudge(completer=as_completer(models["large"])))
        for answer in ("sync", "async"):
            with track() as bill:
                found = llm.chat(ASKED) if answer == "sync" else await llm.achat(ASKED)
            assert text_of(found) == SMALL
            # The draft is written down once it is judged.
            assert [(one.model, one.overhead) for one in bill.records] == [
                ("gpt-4o", True),
                ("gpt-4o-mini", False),
            ]

    def test_nobody_can(self, small):
        llm = CostRouter(models={"small": client(small, "gpt-4o-mini", context_window=5)})
        with pytest.raises(RouteError, match="small takes 5 tokens"):
            llm.chat(ASKED)
        assert not small.asked

    def test_callbacks_and_limits_reach_every_model(self, models):
        counter = TokenCountingHandler(tokenizer=str.split)
        llm = CostRouter(models=models, router=To("large"))
        llm.callback_manager = CallbackManager([counter])
        llm.chat(ASKED)
        assert len(counter.llm_token_counts) == 1
        assert all(one.callback_manager is llm.callback_manager for one in models.values())

    def test_real_generators(self, models):
        assert isinstance(CostRouter(models=models).stream_chat(ASKED), Generator)

    async def test_real_async_generators(self, models):
        stream = await CostRouter(models=models).astream_chat(ASKED)
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()

    def test_the_way_is_told_to_whoever_listens(self, models):
        heard: list[RouteEvent] = []

        class Listener(BaseEventHandler):
            def handle(self, event: Any, **_: Any) -> None:
                if isinstance(event, RouteEvent):
                    heard.append(event)

        dispatcher, listener = get_dispatcher(), Listener()
        dispatcher.add_event_handler(listener)
        try:
            index = SummaryIndex.from_documents([Document(text="Paris.")])
            index.as_query_engine(llm=CostRouter(models=models)).query(ASK)
        finally:
            dispatcher.event_handlers.remove(listener)
        (event,) = heard
        assert (event.model, event.told["decision"]["model"]) == ("small", "small")

    def test_no_secret_is_written_down(self, models):
        llm = CostRouter(models={"one": ScriptedLLM()})
        assert "sk-very-secret" not in llm.to_json()
        assert "sk-very-secret" not in str(llm.to_payload())

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"models": {}}, "no models"),
            ({"models": {"a": MockLLM().as_structured_llm(Number)}}, "structured LLM"),
            ({"models": {"a": MockLLM()}, "routes": (Route(name="b"),)}, "no model of that name"),
        ],
    )
    def test_wrong_arguments(self, wrong, said):
        with pytest.raises(ConfigError, match=said):
            CostRouter(**wrong)

    def test_a_threshold_out_of_range(self, models):
        with pytest.raises(ConfigError, match="threshold"):
            Cascade(models=models, judge=Wants("x"), threshold=2.0)


class TestEngines:
    def test_settings_and_query_engine(self, models, monkeypatch):
        monkeypatch.setattr(Settings, "_llm", None)
        Settings.llm = CostRouter(models=models, router=To("large"))
        index = SummaryIndex.from_documents([Document(text="Paris")])
        engine = RetrieverQueryEngine.from_args(index.as_retriever())
        assert str(engine.query(ASK)) == LARGE

    def test_streaming_query_engine(self, models):
        index = SummaryIndex.from_documents([Document(text="Paris")])
        engine = index.as_query_engine(
            llm=Cascade(models=models, judge=Wants("Seine")), streaming=True
        )
        assert "".join(engine.query(ASK).response_gen) == LARGE

    async def test_chat_engine(self, models):
        index = SummaryIndex.from_documents([Document(text="Paris")])
        engine = CondensePlusContextChatEngine.from_defaults(
            index.as_retriever(),
            llm=CostRouter(models=models),
            memory=ChatMemoryBuffer.from_defaults(token_limit=3_000),
        )
        assert str(engine.chat(ASK)) == SMALL
        assert str(await engine.achat("And then?")) == SMALL
        assert "".join(engine.stream_chat(ASK).response_gen) == SMALL

    @deprecations
    @pytest.mark.parametrize("streaming", [True, False])
    @pytest.mark.parametrize("kind", ["router", "cascade", "fallback"])
    async def test_function_agent(self, models, small, large, kind, streaming):
        llm = {
            "router": lambda: CostRouter(models=models, router=To("large")),
            "cascade": lambda: Cascade(models=models, judge=Wants("seven")),
            "fallback": lambda: Fallback(models=models),
        }[kind]()
        small.fails = int(kind == "fallback")
        found = await FunctionAgent(llm=llm, tools=[TOOL], streaming=streaming).run(ASK)
        assert [call.tool_name for call in found.tool_calls] == ["seven"]
        assert str(found) in {SMALL, LARGE}

    @deprecations
    async def test_workflow_takes_the_right_agent(self, models):
        workflow = AgentWorkflow.from_tools_or_functions([TOOL], llm=CostRouter(models=models))
        (agent,) = workflow.agents.values()
        assert isinstance(agent, FunctionAgent)

    @deprecations
    async def test_react_agent(self, models, small):
        small.words = ["Thought: I can answer.\n", "Answer: Paris."]
        found = await ReActAgent(llm=CostRouter(models=models), tools=[TOOL]).run(ASK)
        assert str(found) == "Paris."


class Claude(ScriptedLLM):
    """Another provider's."""

    @classmethod
    def class_name(cls) -> str:
        return "Claude_LLM_Anthropic"


class Thinks(Claude):
    """Thinks before it calls a tool."""

    def _message(self, messages: Any, kwargs: Any) -> ChatMessage:
        message = super()._message(messages, kwargs)
        thought = ThinkingBlock(content="hm", additional_information={"signature": "s"})
        return ChatMessage(role="assistant", blocks=[thought, *message.blocks])


class TestConversations:
    def test_history_of_another_provider_is_made_readable(self):
        thinking, other = Thinks(model="claude-x"), ScriptedLLM()
        router = To("thinking")
        llm = CostRouter(models={"thinking": thinking, "other": other}, router=router)
        first = llm.chat_with_tools([TOOL], ASK)
        tool = ChatMessage(role="tool", content="7", additional_kwargs={"tool_call_id": "call_1"})
        mark = TextBlock(text="Go on."), CachePoint(cache_control=CacheControl(type="ephemeral"))
        history = [*ASKED, first.message, tool, ChatMessage(role="user", blocks=list(mark))]
        llm.chat(history)
        assert thinking._calls[-1][1] == history  # its own: as it was
        router.name = "other"
        llm.chat(history)
        _, sent, _ = other._calls[-1]
        assert [block.block_type for block in sent[1].blocks] == ["tool_call"]
        ident = sent[1].blocks[0].tool_call_id
        assert ident != "call_1"
        assert ident.isalnum()
        assert sent[2].additional_kwargs["tool_call_id"] == ident
        assert [block.block_type for block in sent[3].blocks] == ["text"]
        assert first.message.blocks[0].block_type == "thinking"  # nothing given was changed

    def test_one_provider_keeps_everything(self):
        llm = CostRouter(models={"one": Thinks(model="a"), "two": Thinks(model="b")})
        strange = ChatMessage(
            role="assistant",
            blocks=[ThinkingBlock(content="hm"), TextBlock(text="x")],
            additional_kwargs={"refusal": "no"},
        )
        llm.chat([*ASKED, strange, *ASKED])
        assert llm.models["one"]._calls[-1][1][1] is strange

    def test_tool_calls_are_read_by_who_made_them(self):
        class Shouts(Claude):
            def get_tool_calls_from_response(self, *args: Any, **kwargs: Any) -> Any:
                found = super().get_tool_calls_from_response(*args, **kwargs)
                return [
                    one.model_copy(update={"tool_name": one.tool_name.upper()}) for one in found
                ]

        models = {"plain": ScriptedLLM(), "shouts": Shouts()}
        for name, said in (("plain", "seven"), ("shouts", "SEVEN")):
            llm = CostRouter(models=models, router=To(name))
            *_, last = llm.stream_chat_with_tools([TOOL], ASK)
            (call,) = llm.get_tool_calls_from_response(last)
            assert call.tool_name == said

    def test_a_conversation_stays_where_its_prompt_is_cached(self, models, small, large):
        router = To("large")
        llm = CostRouter(models=models, router=router)
        long = ChatMessage(role="system", content="You know all about towns. " * 1_000)
        # Dear to write anew on a model that costs about as much as the cached rest of this one.
        llm = CostRouter(
            models=models,
            router=router,
            routes=(Route(name="small", model="gpt-4.1"), Route(name="large", model="gpt-4o")),
        )
        with track(conversation="7"):
            assert route_of(llm.chat([long, *ASKED]))["name"] == "large"
            router.name = "small"
            answer = llm.chat([long, *ASKED, ChatMessage(role="assistant", content="P"), *ASKED])
        assert route_of(answer)["name"] == "large"
        assert "stays on large" in route_of(answer)["why"]


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_checked_answer_is_compared_and_the_other_is_overhead(small, large, way) -> None:
    watch = PromiseWatch(share=1.0)
    models = {"small": client(small, "gpt-4o-mini"), "large": client(large, "gpt-4o")}
    llm = CostRouter(models=models, router=To("small"), watch=watch)
    with track() as bill:
        answer = getattr(llm, way)(ASKED)
        if way.startswith("a"):
            answer = await answer
        if isinstance(answer, AsyncGenerator):
            answer = [piece async for piece in answer][-1]
        elif isinstance(answer, Generator):
            answer = list(answer)[-1]
    assert answer.message.content == SMALL
    assert (watch.state.checks, watch.state.kept) == (1, 0.0)
    shown, compared = sorted(bill.records, key=lambda record: record.overhead)
    assert (shown.model, shown.overhead) == ("gpt-4o-mini", False)
    assert (compared.model, compared.overhead) == ("gpt-4o", True)
    assert "it says something else" in compared.why
