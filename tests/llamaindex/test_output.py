"""Answers as long as the task takes: a real client, a server that keeps to the cap."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from costwise_core import ANSWER, CLASSIFY, EXTRACT, MemoryStore, OutputProfile
from costwise_core.budget.budgets import account_of
from costwise_core.errors import ConfigError
from llamaindex_costwise import (
    Budget,
    BudgetedLLM,
    Budgets,
    Cache,
    CachedLLM,
    OutputLimit,
    track,
)
from llamaindex_costwise.testing import ScriptedLLM
from tests.llama_server import NAME, serve
from tests.llamaindex.fakes import deprecations, seven
from tests.openai_server import Provider

openai_like = pytest.importorskip("llama_index.llms.openai_like")

ASK = "Which city?"
ASKED = [ChatMessage(content=ASK)]
SHORT = OutputProfile(name="short", max_tokens=2, longest=6)
TOOL = FunctionTool.from_defaults(seven)
PROMPT = PromptTemplate("What is the capital of {country}?")


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
def client(server: Provider) -> Callable[..., LLM]:
    def make(**settings: Any) -> LLM:
        return openai_like.OpenAILike(
            **{
                "model": "gpt-4o-mini",
                "api_base": server.url,
                "api_key": "none",
                "is_chat_model": True,
                "is_function_calling_model": True,
                "reuse_client": False,
                "max_retries": 0,
                **settings,
            }
        )

    return make


def told(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.additional_kwargs["costwise"]["output"]
    return found


def caps(server: Provider) -> list[int]:
    return [asked["max_tokens"] for asked in server.asked]


async def test_what_is_cut_off_is_asked_again_and_both_are_on_the_bill(server, client):
    llm = OutputLimit(llm=client(), task=SHORT)
    with track() as bill:
        answers = [
            llm.chat(ASKED),
            await llm.achat(ASKED),
            llm.complete(ASK),
            await llm.acomplete(ASK),
        ]
    assert caps(server) == [2, 6] * 4
    assert bill.calls == 8
    for answer in answers:
        assert str(answer).endswith("Paris is it.")
        assert told(answer) == {"task": "short", "max_tokens": 6, "cut_off": False, "calls": 2}


def test_an_answer_that_fits_is_asked_for_once(server, client):
    answer = OutputLimit(llm=client(), task=ANSWER).chat(ASKED)
    assert caps(server) == [400]
    assert told(answer) == {"task": "answer", "max_tokens": 400, "cut_off": False, "calls": 1}


def test_a_second_try_is_the_last(server, client):
    server.words = ["on "] * 9
    answer = OutputLimit(llm=client(), task=SHORT).chat(ASKED)
    assert caps(server) == [2, 6]
    assert told(answer)["cut_off"]


def test_a_paid_answer_is_kept_when_the_second_call_fails(server, client):
    paid = BudgetedLLM(llm=client(), budgets=Budgets(Budget(limit=1, unit="calls")))
    answer = OutputLimit(llm=paid, task=SHORT).chat(ASKED)
    assert answer.message.content == "Paris is "
    assert told(answer) == {"task": "short", "max_tokens": 2, "cut_off": True, "calls": 1}


def test_each_try_is_held_by_a_budget(server, client):
    paid = BudgetedLLM(llm=client(), budgets=Budgets(Budget(limit=2, unit="calls")))
    assert OutputLimit(llm=paid, task=SHORT).chat(ASKED).message.content == "Paris is it."
    assert caps(server) == [2, 6]


async def test_a_stream_is_not_asked_again_and_says_that_it_was_cut_off(server, client):
    llm = OutputLimit(llm=client(), task=SHORT)
    streams = [
        list(llm.stream_chat(ASKED)),
        [piece async for piece in await llm.astream_chat(ASKED)],
        list(llm.stream_complete(ASK)),
        [piece async for piece in await llm.astream_complete(ASK)],
    ]
    for pieces in streams:
        assert "".join(piece.delta or "" for piece in pieces) == "Paris is "
        assert told(pieces[-1]) == {
            "task": "short",
            "max_tokens": 2,
            "cut_off": True,
            "calls": 1,
        }
    assert caps(server) == [2] * 4


def test_a_stream_that_is_closed_early_settles_what_was_produced(server, client):
    server.words = ["word "] * 200
    budget = Budget(limit=1_000_000, unit="tokens")
    budgets = Budgets(budget)
    paid = BudgetedLLM(llm=client(), budgets=budgets)
    stream = OutputLimit(llm=paid, task=ANSWER).stream_chat(ASKED)
    assert next(stream).delta is not None
    stream.close()
    (found,) = budgets.store.balances([account_of(budget, {}, 0.0) or ""], now=0.0)
    assert found.held == 0
    assert 0 < found.spent < 100


def test_the_instruction_goes_to_the_system_prompt(server, client):
    sent = [ChatMessage(role="system", content="You know cities."), *ASKED]
    llm = OutputLimit(llm=client(), task=CLASSIFY)
    llm.chat(sent)
    llm.chat(ASKED)
    llm.complete(ASK)
    first, second, third = (asked["messages"] for asked in server.asked)
    assert first[0]["content"] == f"You know cities.\n\n{CLASSIFY.instruction}"
    assert second[0] == {"role": "system", "content": CLASSIFY.instruction}
    assert third == [{"role": "user", "content": f"{CLASSIFY.instruction}\n\n{ASK}"}]
    assert sent[0].content == "You know cities."
    assert server.asked[0]["stop"] == ["\n"]


def test_json_is_switched_on(server, client):
    OutputLimit(llm=client(), task=EXTRACT).chat(ASKED)
    assert server.asked[0]["response_format"] == {"type": "json_object"}


async def test_tools_say_themselves_what_an_answer_looks_like(server, client):
    llm = OutputLimit(llm=client(), task=EXTRACT)
    answers = [
        llm.chat_with_tools([TOOL], ASK),
        await llm.achat_with_tools([TOOL], ASK),
        list(llm.stream_chat_with_tools([TOOL], ASK))[-1],
        [piece async for piece in await llm.astream_chat_with_tools([TOOL], ASK)][-1],
    ]
    for answer in answers:
        (called,) = llm.get_tool_calls_from_response(answer)
        assert called.tool_kwargs == {"number": 7}
    for asked in server.asked:
        assert [message["role"] for message in asked["messages"]] == ["user"]
        assert "response_format" not in asked
        assert asked["max_tokens"] == 256


@deprecations
async def test_structured_output_is_capped_and_not_told_otherwise(server, client):
    llm = OutputLimit(llm=client(), task=replace(EXTRACT, stop=("END",)))
    found = [
        llm.structured_predict(Number, PROMPT, country="France"),
        await llm.astructured_predict(Number, PROMPT, country="France"),
        llm.as_structured_llm(Number).chat(ASKED).raw,
    ]
    assert found == [Number(number=7)] * 3
    server.words = ['{"number": ', "7}"]
    plain = client(is_function_calling_model=False)
    text = OutputLimit(llm=plain, task=EXTRACT).structured_predict(Number, PROMPT, country="x")
    assert text == Number(number=7)
    for asked in server.asked:
        assert EXTRACT.instruction not in str(asked["messages"])
        assert "stop" not in asked
        assert asked["max_tokens"] == 256


def test_an_engine_asks_again_too(server, client):
    llm = OutputLimit(llm=client(), task=SHORT)
    engine = SummaryIndex.from_documents([Document(text="France")]).as_query_engine(llm=llm)
    assert str(engine.query(ASK)) == "Paris is it."
    assert caps(server) == [2, 6]


def test_what_the_call_says_goes_first(server, client):
    answer = OutputLimit(llm=client(), task=CLASSIFY).chat(ASKED, stop=["!"], max_tokens=1)
    assert server.asked[0]["stop"] == ["!"]
    assert caps(server) == [1]
    assert told(answer) == {"task": "classify", "max_tokens": 1, "cut_off": True, "calls": 1}


def test_a_model_that_thinks_has_room_for_it_and_no_stop(server, client):
    OutputLimit(llm=client(model="deepseek-r1"), task=CLASSIFY).chat(ASKED)
    assert caps(server) == [16 + 4_096]
    assert "stop" not in server.asked[0]


def test_an_answer_that_begins_with_its_stop_is_asked_for_without_it(server, client):
    server.words = [""]
    OutputLimit(llm=client(), task=CLASSIFY).chat(ASKED)
    assert [asked.get("stop") for asked in server.asked] == [["\n"], None]


def test_an_llm_of_another_maker_is_sent_no_argument_it_may_not_know():
    paid = ScriptedLLM(finish="MAX_TOKENS")
    answer = OutputLimit(llm=paid, task=CLASSIFY).chat(ASKED)
    assert told(answer) == {"task": "classify", "max_tokens": 16, "cut_off": True, "calls": 1}
    assert [kwargs for _, _, kwargs in paid._calls] == [{}]


def test_two_tasks_share_no_cached_answer(server, client):
    cache = Cache(MemoryStore())
    for task in (ANSWER, SHORT, ANSWER):
        CachedLLM(llm=OutputLimit(llm=client(), task=task), cache=cache).chat(ASKED)
    assert caps(server) == [400, 2, 6]


def test_the_llm_is_left_as_it_is(server, client):
    inner = client(max_tokens=77)
    OutputLimit(llm=inner, task=SHORT).chat(ASKED)
    assert inner.max_tokens == 77
    assert caps(server) == [2, 6]


def test_a_structured_llm_is_refused():
    with pytest.raises(ConfigError, match="structured"):
        OutputLimit(llm=MockLLM().as_structured_llm(Number), task=ANSWER)


def test_a_real_model_goes_on_where_it_was_cut_off(client):
    real = client(model=NAME, api_base=serve(), temperature=0.0)
    llm = OutputLimit(llm=real, task=replace(ANSWER, max_tokens=3, longest=48))
    with track() as bill:
        answer = llm.complete("Name three European capitals.")
    first, second = (record.usage.output_tokens for record in bill.records)
    assert first == 3 < second <= 48
    assert told(answer)["calls"] == 2
    assert told(list(llm.stream_complete("Name three European capitals."))[-1])["cut_off"]
