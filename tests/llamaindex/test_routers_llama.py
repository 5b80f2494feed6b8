"""Routers over a real model: llama.cpp's server on this machine, behind OpenAI's client."""

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from costwise_core import Judgement, PriceBook
from llamaindex_costwise import Cascade, CostRouter, Fallback, track
from tests.llama_server import NAME, serve
from tests.llamaindex.fakes import deprecations
from tests.openai_server import Provider

openai_like = pytest.importorskip("llama_index.llms.openai_like")

ASK = "What is the capital of France? Answer in one word."
ASKED = [ChatMessage(content=ASK)]
PRICES = PriceBook(
    overrides={NAME: {"input": 0.1, "output": 0.4}, "gpt-4o": {"input": 2.5, "output": 10}}
)


class Town(BaseModel):
    """A town."""

    town: str


def capital(country: str) -> str:
    """Look up the capital of a country."""
    return {"France": "Paris"}.get(country, "?")


TOOL = FunctionTool.from_defaults(capital)


@pytest.fixture(scope="module")
def url() -> str:
    return serve()


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def models(url: str, server: Provider) -> dict[str, LLM]:
    def client(model: str, at: str, **settings: Any) -> LLM:
        return openai_like.OpenAILike(
            model=model,
            api_base=at,
            api_key="none",
            is_chat_model=True,
            is_function_calling_model=True,
            reuse_client=False,
            max_retries=0,
            temperature=0,
            additional_kwargs={"stream_options": {"include_usage": True}},
            **settings,
        )

    return {"local": client(NAME, url, max_tokens=24), "dear": client("gpt-4o", server.url)}


class LongEnough:
    """Wants at least so many tokens."""

    blocking = False

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.seen: list[Any] = []

    def judge(self, ask: Any, answer: Any) -> Judgement:
        self.seen.append(answer)
        made = answer.usage.output_tokens if answer.usage else 0
        return Judgement(score=float(made >= self.tokens), why=f"{made} tokens")


def name_of(answer: Any) -> str:
    return str(answer.additional_kwargs["costwise"]["route"]["name"])


async def test_a_real_model_is_routed_to_in_every_way(models, server):
    llm = CostRouter(models=models, prices=PRICES)
    with track(prices=PRICES) as bill:
        whole = llm.chat(ASKED)
        pieces = list(llm.stream_chat(ASKED))
        later = await llm.achat(ASKED)
        live = [piece async for piece in await llm.astream_chat(ASKED)]
    said = whole.message.content
    assert said
    assert {later.message.content, pieces[-1].message.content, live[-1].message.content} == {said}
    assert "".join(piece.delta or "" for piece in pieces) == said
    assert len([piece for piece in pieces if piece.delta]) > 1
    assert name_of(whole) == name_of(pieces[0]) == "local"
    assert {record.model for record in bill.records} == {NAME}
    assert bill.paid_calls == 4
    assert all(record.usage.output_tokens and not record.usage.estimated for record in bill.records)
    assert bill.savings["route"] > 0
    assert server.asked == []


async def test_a_real_draft_is_judged_and_goes_up(models, server):
    for tokens, shown in ((1, "local"), (1_000, "dear")):
        judge = LongEnough(tokens)
        llm = Cascade(models=models, judge=judge, prices=PRICES)
        with track(prices=PRICES) as bill:
            answers = [llm.chat(ASKED), await llm.achat(ASKED)]
            *_, last = llm.stream_chat(ASKED)
        for answer in answers:
            assert name_of(answer) == shown
            assert answer.message.content == last.message.content
        assert judge.seen[0].finish_reason in {"stop", "length"}
        assert {one.overhead for one in bill.records if one.model == NAME} == {shown == "dear"}
        assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 500])
async def test_a_real_model_answers_for_one_that_fails(models, server, status):
    server.status = status
    llm = Fallback(models={"dear": models["dear"], "local": models["local"]}, prices=PRICES)
    for answer in (llm.chat(ASKED), await llm.achat(ASKED)):
        assert name_of(answer) == "local"
        assert answer.message.content


def test_a_real_server_says_that_a_prompt_is_too_long(models, server):
    llm = CostRouter(models=models, prices=PRICES)
    answer = llm.chat([ChatMessage(content="Paris is the capital of France. " * 800)])
    first, _ = answer.additional_kwargs["costwise"]["route"]["steps"]
    assert (first["route"], first["failure"]) == ("local", "context_overflow")
    assert name_of(answer) == "dear"


async def test_tools_reach_a_real_model(models, server):
    """It is too small to call one, but it is told of them and its answer comes back whole."""
    llm = CostRouter(models=models, prices=PRICES)
    bare = llm.chat(ASKED).raw.usage.prompt_tokens
    whole = await llm.achat_with_tools([TOOL], ASK, tool_required=True)
    *_, live = llm.stream_chat_with_tools([TOOL], ASK)
    assert whole.raw.usage.prompt_tokens > bare + 40
    assert name_of(whole) == name_of(live) == "local"
    assert llm.get_tool_calls_from_response(live, error_on_no_tool_call=False) == []
    assert server.asked == []


async def test_a_real_object_in_the_clients_own_json_mode(models, server):
    models["local"].should_use_structured_outputs = True
    llm = CostRouter(models=models, prices=PRICES)
    prompt = PromptTemplate("Name the capital of {country}.")
    with track(prices=PRICES) as bill:
        found = llm.structured_predict(Town, prompt, country="France")
        later = await llm.astructured_predict(Town, prompt, country="France")
    assert isinstance(found, Town)
    assert found == later
    assert [record.model for record in bill.records] == [NAME, NAME]
    assert server.asked == []


@deprecations
async def test_a_real_model_in_an_engine_and_an_agent(models, server):
    llm = CostRouter(models=models, prices=PRICES)
    index = SummaryIndex.from_documents([Document(text="Paris is the capital of France.")])
    with track(prices=PRICES) as bill:
        assert str(index.as_query_engine(llm=llm).query(ASK))
        await FunctionAgent(llm=llm, tools=[TOOL]).run(ASK)
    assert {record.model for record in bill.records} == {NAME}
    assert server.asked == []
