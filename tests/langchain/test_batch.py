"""LangChain chains through a batch API, on a server that speaks both providers' protocols."""

import asyncio
import json
from decimal import Decimal

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from costwise_core import Budget, Budgets
from costwise_core.errors import BatchError, BudgetExceededError, ConfigError
from langchain_costwise import (
    BudgetedChatModel,
    MicroBatchEmbeddings,
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


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"Sun in {city}"


@pytest.fixture
def server():
    running = BatchServer()
    yield running
    running.close()


@pytest.fixture(params=["openai", "anthropic"])
def model(request, server):
    return model_of(request.param, server)


def model_of(kind, server, **more):
    if kind == "openai":
        return ChatOpenAI(
            model="gpt-4o-mini",
            api_key="k",
            base_url=f"{server.url}/v1",
            max_retries=0,
            temperature=0.3,
            **more,
        )
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(
        model="claude-haiku-4-5", api_key="k", base_url=server.url, max_retries=0, **more
    )


@pytest.fixture
def queue(tmp_path, model):
    with batch_queue(tmp_path / "b.db", model, retry_after=0.0, grace=0.0) as made:
        yield made


def in_order(pairs):
    return [output for _, output in sorted(pairs, key=lambda pair: pair[0])]


def calls_tool(name, /, **args):
    """The reply of a model that calls a tool, for both protocols."""

    def reply(body):
        if body["model"].startswith("gpt"):
            function = {"name": name, "arguments": json.dumps(args)}
            call = {"id": "call_1", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        block = {"type": "tool_use", "id": "call_1", "name": name, "input": args}
        return {"role": "assistant", "content": [block]}

    return reply


def test_messages_come_back_as_the_model_gives_them(server, model, queue):
    inputs = ["q0", [SystemMessage("Be brief."), HumanMessage("q1")], [("user", "q2")]]
    answers = in_order(batch_as_completed(model, inputs, queue=queue, every=0.01))
    alone = model.invoke("q0")
    assert [answer.text for answer in answers] == ["Answer to q0", "Answer to q1", "Answer to q2"]
    assert all(isinstance(answer, AIMessage) for answer in answers)
    assert answers[0].usage_metadata == alone.usage_metadata
    assert answers[0].usage_metadata["input_tokens"] == 100
    assert answers[0].response_metadata["costwise"] == {"processing": "batch"}
    for name in ("model_name", "model_provider"):
        assert answers[0].response_metadata[name] == alone.response_metadata[name]


def test_a_batch_sends_what_invoke_sends(server, model, queue):
    sent = []
    server.reply = sent.append
    history = [
        SystemMessage("Be brief."),
        HumanMessage("Weather?"),
        AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Bonn"}, "id": "call_9"}]),
        ToolMessage("Sun", tool_call_id="call_9"),
        HumanMessage([{"type": "text", "text": "And now?"}]),
    ]
    bound = model.bind_tools([weather]).bind(stop=["END"])
    list(batch_as_completed(bound, [history], queue=queue, every=0.01))
    bound.invoke(history)
    batch, alone = sent
    alone.pop("stream", None)
    assert batch == alone
    assert "tools" in batch


async def test_async_is_the_same(server, model, queue):
    pairs = [
        pair async for pair in abatch_as_completed(model, ["q0", "q1"], queue=queue, every=0.01)
    ]
    assert [answer.text for answer in in_order(pairs)] == ["Answer to q0", "Answer to q1"]


def test_what_stands_around_the_model_runs_too(server, model, queue):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "About {city}?")])
    chain = prompt | model.with_config(tags=["x"]) | StrOutputParser() | str.upper
    cities = [{"city": "Bonn"}, {"city": "Rome"}]
    answers = in_order(batch_as_completed(chain, cities, queue=queue, every=0.01))
    assert answers == ["ANSWER TO ABOUT BONN?", "ANSWER TO ABOUT ROME?"]


def test_tools_stay(server, model, queue):
    server.reply = calls_tool("weather", city="Bonn")
    bound = model.bind_tools([weather])
    ((_, answer),) = batch_as_completed(bound, ["Weather?"], queue=queue, every=0.01)
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("weather", {"city": "Bonn"})
    ]


@pytest.mark.parametrize("raw", [False, True])
def test_structured_output_by_tools_stays(server, model, queue, raw):
    server.reply = calls_tool("City", name="Bonn", people=330_000)
    chain = model.with_structured_output(City, method="function_calling", include_raw=raw)
    ((_, answer),) = batch_as_completed(chain, ["Bonn?"], queue=queue, every=0.01)
    assert (answer["parsed"] if raw else answer) == City(name="Bonn", people=330_000)
    if raw:
        assert answer["raw"].usage_metadata["output_tokens"] == 10


@pytest.mark.parametrize("schema", [City, City.model_json_schema()])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_structured_output_by_schema_stays(server, tmp_path, kind, schema):
    said = '{"name": "Bonn", "people": 330000}'
    server.reply = lambda body: {"role": "assistant", "content": said, "refusal": None}
    chain = model_of(kind, server).with_structured_output(schema, method="json_schema")
    with batch_queue(tmp_path / "b.db", chain) as queue:
        ((_, answer),) = batch_as_completed(chain, ["Bonn?"], queue=queue, every=0.01)
    found = City(name="Bonn", people=330_000)
    assert answer == (found if schema is City else found.model_dump())
    assert answer == chain.invoke("Bonn?")
    (job,) = server.jobs.values()
    wanted = "response_format" if kind == "openai" else "output_config"
    assert "330000" not in json.dumps(job.entries[0][1])
    assert "people" in json.dumps(job.entries[0][1][wanted])


def test_the_responses_api_goes_to_its_own_endpoint(server, tmp_path):
    model = model_of("openai", server, use_responses_api=True)
    with batch_queue(tmp_path / "b.db", model) as queue:
        ((_, answer),) = batch_as_completed(model, ["q"], queue=queue, every=0.01)
    assert answer.text == "Answer to q"
    assert answer.usage_metadata["input_tokens"] == 100
    assert [job.endpoint for job in server.jobs.values()] == ["/v1/responses"]


def test_the_bill_has_the_batch(server, model, queue):
    with track(feature="nightly") as bill:
        list(batch_as_completed(model, ["q0", "q1"], queue=queue, every=0.01))
    assert bill.calls == 2
    assert bill.usd == bill.savings["batch"] > Decimal(0)


def test_an_input_that_fails_does_so_alone(server, model, queue):
    server.fate = lambda _, body: "400" if asked(body) == "q1" else "ok"
    inputs = ["q0", "q1", "q2"]
    found = in_order(
        batch_as_completed(model, inputs, queue=queue, every=0.01, return_exceptions=True)
    )
    assert [isinstance(one, BatchError) for one in found] == [False, True, False]
    with pytest.raises(BatchError, match="no: 400"):
        list(batch_as_completed(model, inputs, queue=queue, every=0.01))
    assert server.paid == {"q0": 1, "q2": 1}


def test_equal_inputs_are_answered_each(server, model, queue):
    answers = in_order(batch_as_completed(model, ["q", "q"], queue=queue, every=0.01))
    assert [one.text for one in answers] == ["Answer to q"] * 2
    assert server.paid == {"q": 2}


def test_what_expires_is_answered_in_real_time_in_the_same_shape(server, model, queue):
    server.fate = lambda ident, _: "ok" if ident == "now" else "expired"
    with track() as bill:
        ((_, answer),) = batch_as_completed(
            model.bind_tools([weather]), ["q"], queue=queue, every=0.01
        )
    assert answer.text == "Answer to q"
    assert answer.response_metadata["costwise"] == {"processing": "standard"}
    assert bill.calls == 1  # the SDK is called beneath LangChain: nothing counts it twice
    assert "batch" not in bill.savings


def test_models_without_a_batch_endpoint_say_so(server, tmp_path, model, queue):
    with pytest.raises(ConfigError, match="FakeListChatModel is not sold in batches"):
        batch_queue(tmp_path / "x.db", FakeListChatModel(responses=["A"]))
    with pytest.raises(ConfigError, match="no chat model in this chain"):
        batch_queue(tmp_path / "x.db", StrOutputParser())
    kind = "anthropic" if queue.provider.name == "openai" else "openai"
    with pytest.raises(ConfigError, match="the queue is one of"):
        next(batch_as_completed(model_of(kind, server), ["q"], queue=queue))


def test_headers_that_a_batch_cannot_carry_are_refused(server, tmp_path):
    model = model_of("anthropic", server, betas=["context-1m-2025-08-07"])
    with (
        batch_queue(tmp_path / "b.db", model) as queue,
        pytest.raises(ConfigError, match="cannot carry betas"),
    ):
        next(batch_as_completed(model, ["q"], queue=queue))


def test_several_items_in_one_prompt(server, model):
    said = {"1": "good", "2": "bad"}
    server.reply = lambda body: {"role": "assistant", "content": json.dumps(said)}
    rate = packed_prompts(model, "Is the review good or bad?", check=("good", "bad").__contains__)
    with track() as bill:
        rated = rate.invoke(["Nice!", "Awful."])
    assert rated.answers == ("good", "bad")
    assert bill.calls == rated.calls == 1


async def test_several_items_in_one_prompt_async(server, model):
    server.reply = lambda body: {"role": "assistant", "content": '{"1": "good", "2": "odd"}'}
    rated = await packed_prompts(model, "Rate it.", check=lambda said: said == "good").ainvoke(
        ["Nice!", "Awful."]
    )
    assert rated.answers == ("good", None)
    assert (rated.calls, rated.repaired) == (2, 1)


async def test_embeddings_share_calls():
    class Counting(DeterministicFakeEmbedding):
        calls: list[int] = Field(default_factory=list)

        def embed_documents(self, texts):
            self.calls.append(len(texts))
            return super().embed_documents(texts)

    plain = Counting(size=4)
    shared = MicroBatchEmbeddings(plain, queries_as_documents=True)
    rows = await asyncio.gather(*(shared.aembed_documents([f"t{n}"]) for n in range(30)))
    assert plain.calls == [30]
    assert [row for (row,) in rows] == plain.embed_documents([f"t{n}" for n in range(30)])
    queries = await asyncio.gather(*(shared.aembed_query(f"t{n}") for n in range(30)))
    assert queries == [row for (row,) in rows]
    assert len(plain.calls) <= 4
    apart = MicroBatchEmbeddings(plain)
    assert apart.embed_query("t1") == plain.embed_query("t1")
    assert apart.calls == 0


def test_a_call_without_a_budget_waits_for_a_batch(server, model, queue):
    budgets = Budgets(Budget(limit=0, unit="calls", window="day", on_exceed="queue"))
    later = batch_later(model, queue=queue)
    budgeted = BudgetedChatModel(model=model, budgets=budgets, queue=later)
    with pytest.raises(BudgetExceededError) as caught:
        budgeted.bind_tools([weather]).invoke("Weather?")
    ((answer),) = queue.as_completed([caught.value.ticket], every=0.01)
    assert answer.ok
    (job,) = server.jobs.values()
    assert "tools" in job.entries[0][1]
    assert not server.run_now
