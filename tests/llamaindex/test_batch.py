"""LlamaIndex LLMs through a batch API, on a server that speaks both providers' protocols."""

import asyncio
import json
from decimal import Decimal

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms import MockLLM
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from pydantic import BaseModel

from costwise_core import Budget, Budgets, MicroBatchEmbedder
from costwise_core.errors import BatchError, BudgetExceededError, ConfigError
from llamaindex_costwise import (
    BudgetedLLM,
    CostwiseEmbedding,
    LlamaIndexEmbedder,
    abatch_as_completed,
    batch_as_completed,
    batch_later,
    batch_queue,
    packed_prompts,
    track,
)
from tests.services.batch_server import BatchServer, asked


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tell the weather."""
    return f"Sun in {city}"


@pytest.fixture
def server():
    running = BatchServer()
    yield running
    running.close()


@pytest.fixture(params=["openai", "anthropic"])
def llm(request, server):
    return llm_of(request.param, server)


def llm_of(kind, server, model=None, **more):
    if kind == "openai":
        return OpenAI(
            model=model or "gpt-4o-mini",
            api_key="k",
            api_base=f"{server.url}/v1",
            max_retries=0,
            temperature=0.3,
            **more,
        )
    from llama_index.llms.anthropic import Anthropic

    return Anthropic(
        model=model or "claude-haiku-4-5", api_key="k", base_url=server.url, max_retries=0, **more
    )


@pytest.fixture
def queue(tmp_path, llm):
    with batch_queue(tmp_path / "b.db", llm, retry_after=0.0, grace=0.0) as made:
        yield made


def in_order(pairs):
    return [output for _, output in sorted(pairs, key=lambda pair: pair[0])]


def calls_tool(name, /, **args):
    def reply(body):
        if body["model"].startswith("gpt"):
            function = {"name": name, "arguments": json.dumps(args)}
            call = {"id": "call_1", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        block = {"type": "tool_use", "id": "call_1", "name": name, "input": args}
        return {"role": "assistant", "content": [block]}

    return reply


def test_responses_come_back_as_chat_gives_them(server, llm, queue):
    inputs = ["q0", [ChatMessage("Be brief.", role="system"), ChatMessage("q1")]]
    answers = in_order(batch_as_completed(llm, inputs, queue=queue, every=0.01))
    alone = llm.chat([ChatMessage("q0")])
    assert [one.message.content for one in answers] == ["Answer to q0", "Answer to q1"]
    assert all(isinstance(one, ChatResponse) for one in answers)
    assert answers[0].message == alone.message
    assert answers[0].additional_kwargs["total_tokens"] == 110
    assert answers[0].additional_kwargs["costwise"] == {"processing": "batch"}


def test_a_batch_sends_what_chat_sends(server, llm, queue):
    sent = []
    server.reply = sent.append
    history = [ChatMessage("Be brief.", role="system"), ChatMessage("Weather?")]
    tools = [FunctionTool.from_defaults(weather)]
    list(batch_as_completed(llm, [history], queue=queue, tools=tools, every=0.01))
    llm.chat_with_tools(tools, chat_history=list(history))
    batch, alone = sent
    alone.pop("stream", None)
    assert batch == alone
    assert batch["tools"]


async def test_async_is_the_same(server, llm, queue):
    pairs = [pair async for pair in abatch_as_completed(llm, ["q0"], queue=queue, every=0.01)]
    assert pairs[0][1].message.content == "Answer to q0"


def test_tools_stay(server, llm, queue):
    server.reply = calls_tool("weather", city="Bonn")
    ((_, answer),) = batch_as_completed(
        llm, ["Weather?"], queue=queue, tools=[FunctionTool.from_defaults(weather)], every=0.01
    )
    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Bonn"})


@pytest.mark.parametrize("by", ["schema", "tools"])
def test_structured_output_stays(server, tmp_path, by):
    if by == "schema":
        said = '{"name": "Bonn", "people": 330000}'
        server.reply = lambda body: {"role": "assistant", "content": said}
        llm = llm_of("openai", server)
    else:
        server.reply = calls_tool("City", name="Bonn", people=330_000)
        llm = llm_of("anthropic", server)
    structured = llm.as_structured_llm(City)
    with batch_queue(tmp_path / "b.db", structured) as queue:
        ((_, answer),) = batch_as_completed(structured, ["Bonn?"], queue=queue, every=0.01)
    assert answer.raw == City(name="Bonn", people=330_000)
    assert json.loads(answer.message.content) == {"name": "Bonn", "people": 330_000}
    assert answer.additional_kwargs["total_tokens"] == 110


def test_an_object_that_does_not_fit_is_that_inputs_error(server, tmp_path):
    server.reply = lambda body: {"role": "assistant", "content": "no object"}
    structured = llm_of("openai", server).as_structured_llm(City)
    with batch_queue(tmp_path / "b.db", structured) as queue:
        ((_, error),) = batch_as_completed(
            structured, ["Bonn?"], queue=queue, every=0.01, return_exceptions=True
        )
    assert "City" in str(error)


def test_the_bill_has_the_batch(server, llm, queue):
    with track(feature="nightly") as bill:
        list(batch_as_completed(llm, ["q0", "q1"], queue=queue, every=0.01))
    assert bill.calls == 2
    assert bill.usd == bill.savings["batch"] > Decimal(0)


def test_an_input_that_fails_does_so_alone(server, llm, queue):
    server.fate = lambda _, body: "400" if asked(body) == "q1" else "ok"
    found = in_order(
        batch_as_completed(llm, ["q0", "q1"], queue=queue, every=0.01, return_exceptions=True)
    )
    assert isinstance(found[1], BatchError)
    assert found[0].message.content == "Answer to q0"


def test_models_without_a_batch_endpoint_say_so(server, tmp_path, queue, llm):
    with pytest.raises(ConfigError, match="MockLLM is not sold in batches"):
        batch_queue(tmp_path / "x.db", MockLLM())
    with pytest.raises(ConfigError, match="not sold in batches"):
        batch_queue(tmp_path / "x.db", OpenAIResponses(model="gpt-4o-mini", api_key="k"))
    with pytest.raises(ConfigError, match="not sold in batches"):
        batch_queue(tmp_path / "x.db", llm_of("openai", server, "gpt-3.5-turbo-instruct"))
    kind = "anthropic" if queue.provider.name == "openai" else "openai"
    with pytest.raises(ConfigError, match="the queue is one of"):
        next(batch_as_completed(llm_of(kind, server), ["q"], queue=queue))


async def test_several_items_in_one_prompt(server, llm):
    server.reply = lambda body: {"role": "assistant", "content": '{"1": "good", "2": "odd"}'}
    rate = packed_prompts(llm, "Rate it.", check=lambda said: said == "good")
    rated = await rate.aask(["Nice!", "Awful."])
    assert rated.answers == rate.ask(["Nice!", "Awful."]).answers == ("good", None)
    assert (rated.calls, rated.repaired) == (2, 1)


async def test_embeddings_share_calls():
    shared = MicroBatchEmbedder(LlamaIndexEmbedder(MockEmbedding(embed_dim=4)))
    model = CostwiseEmbedding(embedder=shared.offline)
    rows = await asyncio.gather(*(model.aget_text_embedding(f"t{n}") for n in range(30)))
    assert rows == [[0.5] * 4] * 30
    assert shared.calls == 1


def test_a_call_without_a_budget_waits_for_a_batch(server, llm, queue):
    budgets = Budgets(Budget(limit=0, unit="calls", window="day", on_exceed="queue"))
    budgeted = BudgetedLLM(llm=llm, budgets=budgets, queue=batch_later(llm, queue=queue))
    with pytest.raises(BudgetExceededError) as caught:
        budgeted.complete("What is RAG?")
    (answer,) = queue.as_completed([caught.value.ticket], every=0.01)
    assert answer.ok
    assert not server.run_now
