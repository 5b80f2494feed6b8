"""Answers as long as the task takes: a real client, a server that keeps to the cap."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel, Field

from costwise_core import ANSWER, CLASSIFY, EXTRACT, MemoryLedger, OutputProfile
from costwise_core.budget.budgets import account_of
from langchain_costwise import (
    Budget,
    BudgetedChatModel,
    Budgets,
    CostRouter,
    OutputLimit,
    track,
)
from langchain_costwise.testing import ScriptedChatModel
from tests.llama_server import NAME, serve
from tests.openai_server import Provider

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI

ASK = "Which city?"
SHORT = OutputProfile(name="short", max_tokens=2, longest=6)


class Number(BaseModel):
    """A number."""

    number: int = Field(description="how many")


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    server.caps = True
    yield server
    server.close()


@pytest.fixture
def client(server: Provider) -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        given = {"model": "gpt-4o-mini", "api_key": "none", "base_url": server.url}
        return ChatOpenAI(**given, stream_usage=True, max_retries=0, **settings)

    return make


def told(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = message.response_metadata["costwise"]["output"]
    return found


def cap(asked: dict[str, Any]) -> Any:
    return asked.get("max_completion_tokens") or asked.get("max_tokens")


async def test_what_is_cut_off_is_asked_again_and_both_are_on_the_bill(server, client):
    model = OutputLimit(model=client(), task=SHORT)
    ledger = MemoryLedger()
    for answer in (lambda: model.invoke(ASK), None):
        server.asked.clear()
        with track(ledger=ledger) as bill:
            message = answer() if answer else await model.ainvoke(ASK)
        assert message.text == "Paris is it."
        assert [cap(asked) for asked in server.asked] == [2, 6]
        assert told(message) == {"task": "short", "max_tokens": 6, "cut_off": False, "calls": 2}
        assert [record.overhead for record in bill.records] == [True, False]
        assert bill.records[0].why == "not shown: cut off at 2 tokens"
        assert {record.usage.output_tokens for record in bill.records} == {5}
        assert bill.usd == 2 * bill.records[1].usd


def test_an_answer_that_fits_is_asked_for_once(server, client):
    message = OutputLimit(model=client(), task=ANSWER).invoke(ASK)
    assert len(server.asked) == 1
    assert told(message) == {"task": "answer", "max_tokens": 400, "cut_off": False, "calls": 1}


def test_a_second_try_is_the_last(server, client):
    server.words = ["on "] * 9
    message = OutputLimit(model=client(), task=SHORT).invoke(ASK)
    assert len(server.asked) == 2
    assert told(message)["cut_off"]
    assert message.text.split() == ["on"] * 6


def test_a_paid_answer_is_kept_when_the_second_call_fails(server, client):
    budgets = Budgets(Budget(limit=1, unit="calls", window="day"))
    paid = BudgetedChatModel(model=client(), budgets=budgets)
    with track() as bill:
        message = OutputLimit(model=paid, task=SHORT).invoke(ASK)
    assert message.text == "Paris is "
    assert told(message) == {"task": "short", "max_tokens": 2, "cut_off": True, "calls": 1}
    assert [record.overhead for record in bill.records] == [False]


def test_each_try_is_held_by_a_budget(server, client):
    budget = Budget(limit=2, unit="calls", window="day")
    paid = BudgetedChatModel(model=client(), budgets=Budgets(budget))
    assert OutputLimit(model=paid, task=SHORT).invoke(ASK).text == "Paris is it."
    assert [cap(asked) for asked in server.asked] == [2, 6]


async def test_a_stream_is_not_asked_again_and_says_that_it_was_cut_off(server, client):
    model = OutputLimit(model=client(), task=SHORT)
    pieces = list(model.stream(ASK))
    apieces = [piece async for piece in model.astream(ASK)]
    for found in (pieces, apieces):
        whole = found[0]
        for piece in found[1:]:
            whole += piece
        assert whole.text == "Paris is "
        assert whole.response_metadata["finish_reason"] == "length"
        assert told(whole)["cut_off"]
    assert len(server.asked) == 2


def test_a_stream_that_is_closed_early_settles_what_was_produced(server, client):
    server.words = ["word "] * 200
    budget = Budget(limit=1_000_000, unit="tokens")
    budgets = Budgets(budget)
    paid = BudgetedChatModel(model=client(), budgets=budgets)
    stream = OutputLimit(model=paid, task=ANSWER).stream(ASK)
    assert next(stream).text is not None
    stream.close()
    (found,) = budgets.store.balances([account_of(budget, {}, 0.0) or ""], now=0.0)
    assert found.held == 0
    assert 0 < found.spent < 100


def test_the_instruction_goes_to_the_end_of_the_system_prompt(server, client):
    sent = [SystemMessage("You know cities."), HumanMessage(ASK)]
    model = OutputLimit(model=client(), task=CLASSIFY)
    model.invoke(sent)
    model.invoke(ASK)
    first, second = (asked["messages"] for asked in server.asked)
    assert first[0]["content"] == f"You know cities.\n\n{CLASSIFY.instruction}"
    assert second[0] == {"role": "system", "content": CLASSIFY.instruction}
    assert sent[0].content == "You know cities."
    assert server.asked[0]["stop"] == ["\n"]


def test_json_is_switched_on(server, client):
    OutputLimit(model=client(), task=EXTRACT).invoke(ASK)
    assert server.asked[0]["response_format"] == {"type": "json_object"}


async def test_tools_and_schemas_say_themselves_what_an_answer_looks_like(server, client):
    model = OutputLimit(model=client(), task=replace(EXTRACT, stop=("END",)))
    called = model.bind_tools([Number]).invoke(ASK)
    assert called.tool_calls[0]["args"] == {"number": 7}
    schema = model.with_structured_output(Number, method="function_calling")
    assert schema.invoke(ASK) == await schema.ainvoke(ASK) == Number(number=7)
    for asked in server.asked:
        assert [message["role"] for message in asked["messages"]] == ["user"]
        assert "response_format" not in asked
        assert "stop" not in asked
        assert cap(asked) == 256


def test_what_the_call_says_goes_first(server, client):
    model = OutputLimit(model=client(), task=CLASSIFY)
    message = model.invoke(ASK, stop=["!"], max_tokens=1)
    assert server.asked[0]["stop"] == ["!"]
    assert [cap(asked) for asked in server.asked] == [1]
    assert told(message) == {"task": "classify", "max_tokens": 1, "cut_off": True, "calls": 1}


def test_a_model_that_thinks_has_room_for_it_and_no_stop(server, client):
    OutputLimit(
        model=client(model_kwargs={}).model_copy(update={"model_name": "o3"}), task=CLASSIFY
    )
    thinking = ChatOpenAI(model="o3", api_key="none", base_url=server.url, max_retries=0)
    OutputLimit(model=thinking, task=CLASSIFY).invoke(ASK)
    assert cap(server.asked[0]) == 16 + 4_096
    assert "stop" not in server.asked[0]


def test_claude_gets_no_stop_of_blanks():
    class Claude(ScriptedChatModel):
        stops: list[Any] = Field(default_factory=list)

        @property
        def _llm_type(self) -> str:
            return "anthropic-chat"

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self.stops.append(stop)
            return super()._generate(messages, stop, run_manager, **kwargs)

    claude = Claude()
    OutputLimit(model=claude, task=CLASSIFY).invoke(ASK)
    OutputLimit(model=claude, task=replace(CLASSIFY, stop=("\n", "END"))).invoke(ASK)
    assert claude.stops == [None, ["END"]]


def test_claude_has_room_for_the_thoughts_it_was_told_to_have():
    class Claude(ScriptedChatModel):
        thinking: dict[str, Any] | None = None
        max_tokens: int = 9_000

        @property
        def _llm_type(self) -> str:
            return "anthropic-chat"

    def cap(**settings: Any) -> int:
        message = OutputLimit(model=Claude(**settings), task=CLASSIFY).invoke(ASK)
        found: int = told(message)["max_tokens"]
        return found

    assert cap(profile={"reasoning_output": True}) == 16
    assert cap(thinking={"type": "enabled", "budget_tokens": 2_048}) == 16 + 2_048
    assert cap(thinking={"type": "adaptive"}) == 16 + 4_096


def test_an_answer_that_begins_with_its_stop_is_asked_for_without_it():
    class Breaks(ScriptedChatModel):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            text = "" if stop else "\nbilling"
            self.asked.append(text)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    paid = Breaks()
    assert OutputLimit(model=paid, task=CLASSIFY).invoke(ASK).text == "\nbilling"
    assert len(paid.asked) == 2


@pytest.mark.parametrize(
    "ending",
    [
        {"finish_reason": "length"},
        {"stop_reason": "max_tokens"},
        {"finish_reason": "MAX_TOKENS"},
        {"done_reason": "length"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    ],
)
def test_every_providers_word_for_it_is_understood(ending):
    class Capped(ScriptedChatModel):
        max_tokens: int = 100

    paid = Capped(tell=ending)
    assert told(OutputLimit(model=paid, task=SHORT).invoke(ASK))["cut_off"]
    assert len(paid.asked) == 2


def test_a_model_without_a_cap_is_not_asked_for_the_same_again():
    paid = ScriptedChatModel(tell={"finish_reason": "length"})
    assert told(OutputLimit(model=paid, task=SHORT).invoke(ASK))["calls"] == 1
    assert len(paid.asked) == 1


def test_two_tasks_share_no_cached_answer():
    model = FakeListChatModel(responses=["a"])
    strings = {
        OutputLimit(model=model, task=task)._get_llm_string() for task in (ANSWER, CLASSIFY, SHORT)
    }
    assert len(strings) == 3


def test_each_model_of_a_router_is_capped(server, client):
    router = CostRouter(models={"small": client()})
    assert OutputLimit(model=router, task=SHORT).invoke(ASK).text == "Paris is it."
    assert [cap(asked) for asked in server.asked] == [2, 6]


def test_a_batch_keeps_its_order_and_what_was_given(server, client):
    model = OutputLimit(model=client(), task=SHORT)
    inner = model.model
    answers = model.batch([ASK] * 4)
    assert [answer.text for answer in answers] == ["Paris is it."] * 4
    assert model.model is inner
    assert inner.max_tokens is None


def test_a_real_model_goes_on_where_it_was_cut_off():
    real = ChatOpenAI(
        model=NAME, base_url=serve(), api_key="none", temperature=0, stream_usage=True
    )
    model = OutputLimit(model=real, task=replace(ANSWER, max_tokens=3, longest=48))
    with track() as bill:
        message = model.invoke("Name three European capitals.")
    first, second = (record.usage.output_tokens for record in bill.records)
    assert first == 3 < second <= 48
    assert told(message)["calls"] == 2
    last = list(model.stream("Name three European capitals."))
    assert any(told(one)["cut_off"] for one in last if "costwise" in one.response_metadata)


# --- LangChain's own suites -----------------------------------------------------------------------


class _Limited:
    chat_model_class = OutputLimit
    model_override_value = "scripted-2"
    standard_chat_model_params: dict[str, Any] = {}  # noqa: RUF012

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChatModel(), "task": ANSWER}


class TestUnit(_Limited, ChatModelUnitTests): ...


class TestIntegration(_Limited, ChatModelIntegrationTests): ...
