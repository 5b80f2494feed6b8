"""Routers over a real model: llama.cpp's server on this machine, behind LangChain's own client."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent

from costwise_core import Judgement, PriceBook
from langchain_costwise import Cascade, CostRouter, Fallback, track
from tests.llama_server import NAME, serve
from tests.openai_server import Provider

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI

ASK = "What is the capital of France? Answer in one word."
PRICES = PriceBook(
    overrides={NAME: {"input": 0.1, "output": 0.4}, "gpt-4o": {"input": 2.5, "output": 10}}
)


@pytest.fixture(scope="module")
def url() -> str:
    return serve()


@pytest.fixture
async def real(url: str) -> AsyncIterator[Any]:
    # The client keeps connections, which belong to one event loop.
    with httpx.Client() as http_client:
        async with httpx.AsyncClient() as http_async_client:
            yield ChatOpenAI(
                model=NAME,
                base_url=url,
                api_key="none",
                temperature=0,
                max_tokens=12,
                max_retries=0,
                stream_usage=True,
                http_client=http_client,
                http_async_client=http_async_client,
            )


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def models(real: Any, server: Provider) -> dict[str, Any]:
    dear = ChatOpenAI(
        model="gpt-4o", base_url=server.url, api_key="none", max_retries=0, stream_usage=True
    )
    return {"local": real, "dear": dear}


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


async def test_a_real_model_is_routed_to_in_every_way(models, server):
    model = CostRouter(models=models, prices=PRICES)
    with track(prices=PRICES) as bill:
        whole = model.invoke(ASK)
        chunks = list(model.stream(ASK))
        later = await model.ainvoke(ASK)
        pieces = [chunk async for chunk in model.astream(ASK)]
    texts = [whole.text, "".join(one.text for one in chunks), later.text]
    assert {*texts, "".join(one.text for one in pieces)} == {whole.text}
    assert whole.text
    assert len([one for one in chunks if one.text]) > 1
    assert whole.response_metadata["costwise"]["route"]["name"] == "local"
    assert bill.paid_calls == 4
    assert {record.model for record in bill.records} == {NAME}
    assert all(record.usage.output_tokens and not record.usage.estimated for record in bill.records)
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert bill.savings["route"] > 0
    assert server.asked == []


async def test_a_real_draft_is_judged_and_goes_up(models, server):
    for tokens, shown in ((1, "local"), (1_000, "dear")):
        judge = LongEnough(tokens)
        model = Cascade(models=models, judge=judge, prices=PRICES)
        with track(prices=PRICES) as bill:
            answers = [model.invoke(ASK), await model.ainvoke(ASK)]
            streamed = "".join(chunk.text for chunk in model.stream(ASK))
        for answer in answers:
            assert answer.response_metadata["costwise"]["route"]["name"] == shown
            assert answer.text == streamed
        assert judge.seen[0].finish_reason in {"stop", "length"}
        assert {one.overhead for one in bill.records if one.model == NAME} == {shown == "dear"}
        assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 500])
async def test_a_real_model_answers_for_one_that_fails(models, server, status):
    server.status = status
    model = Fallback(models={"dear": models["dear"], "local": models["local"]}, prices=PRICES)
    for answer in (model.invoke(ASK), await model.ainvoke(ASK)):
        told = answer.response_metadata["costwise"]["route"]
        assert told["name"] == "local"
        assert told["steps"][0]["failure"] == {429: "rate_limit", 500: "overload"}[status]
        assert answer.text


def test_a_real_server_says_that_a_prompt_is_too_long(models, server):
    model = CostRouter(models=models, prices=PRICES)
    answer = model.invoke("Paris is the capital of France. " * 800)
    told = answer.response_metadata["costwise"]["route"]
    assert told["name"] == "dear"
    assert told["steps"][0]["failure"] == "context_overflow"
    assert len(server.asked) == 1


def test_tools_reach_a_real_model(models):
    """It is too small to call one, but it is told of them and its answer comes back whole."""

    def capital(country: str) -> str:
        """Look up the capital of a country."""
        return {"France": "Paris"}.get(country, "?")

    model = CostRouter(models=models, prices=PRICES)
    bare = model.invoke(ASK).usage_metadata["input_tokens"]
    answer = model.bind_tools([capital]).invoke(ASK)
    assert answer.usage_metadata["input_tokens"] > bare + 40
    assert answer.response_metadata["costwise"]["route"]["name"] == "local"
    with track(prices=PRICES) as bill:
        said = create_agent(model, tools=[capital]).invoke({"messages": ASK})["messages"]
    assert said[-1].type == "ai"
    assert bill.paid_calls == len([one for one in said if one.type == "ai"])
