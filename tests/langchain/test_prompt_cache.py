"""Prompts reach the provider marked, or with a key, and the caller's objects stay as they were."""

import copy
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import Field

from costwise_core import MemoryLedger, prompt_cache_use, scoped
from langchain_costwise import PromptCachedChatModel, track
from langchain_costwise.prompt_cache import marked
from langchain_costwise.testing import ScriptedChatModel
from tests.anthropic_server import Claude
from tests.openai_server import Provider

MODEL = "claude-sonnet-5"
RULES = "Cite the page of every figure you use. " * 200
MARK = {"type": "ephemeral", "ttl": "5m"}


class FakeClaude(ScriptedChatModel):
    """Says that it is Claude, and keeps what reached it."""

    model_name: str = MODEL
    came: list[Any] = Field(default_factory=list)
    kind: str = "anthropic-chat"

    @property
    def _llm_type(self) -> str:
        return self.kind

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.came.append((messages, kwargs))
        return super()._generate(messages, stop, run_manager, **kwargs)


@tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def history():
    return [SystemMessage(RULES), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Why?")]


def marks(messages):
    return [
        (number, place)
        for number, one in enumerate(messages)
        if isinstance(one.content, list)
        for place, block in enumerate(one.content)
        if "cache_control" in block or "cachePoint" in block
    ]


# --- marks ----------------------------------------------------------------------------------------


def test_instructions_and_history_are_marked_and_what_was_given_is_not_changed():
    messages = history()
    before = copy.deepcopy(messages)
    found, kwargs = marked(messages, {}, model=MODEL)
    assert marks(found) == [(0, 0), (2, 0)]
    assert found[0].content == [{"type": "text", "text": RULES, "cache_control": MARK}]
    assert (messages, kwargs) == (before, {})
    assert found[3] is messages[3]
    assert [one.text for one in found] == [one.text for one in messages]


def test_blocks_that_came_as_blocks_are_copied():
    system = SystemMessage([{"type": "text", "text": RULES}, "and be brief"])
    before = copy.deepcopy(system)
    (found, _), _ = marked([system, HumanMessage("Why?")], {}, model=MODEL)
    assert marks([found]) == [(0, 1)]
    assert found.content[1] == {"type": "text", "text": "and be brief", "cache_control": MARK}
    assert system == before


@pytest.mark.parametrize(
    "content",
    [
        f"{RULES}\nRequest id: 7f3a9c21d0. Be brief.",
        [{"type": "text", "text": f"{RULES}\nRequest id: 7f3a9c21d0. Be brief."}],
        [{"type": "text", "text": RULES}, {"type": "text", "text": "nonce: abcdef"}],
    ],
)
def test_instructions_are_cut_before_what_belongs_to_the_call(content):
    system = SystemMessage(content)
    (found, _), _ = marked([system, HumanMessage("Why?")], {}, model=MODEL)
    assert marks([found]) == [(0, 0)]
    assert found.content[0]["text"] == RULES.rstrip() or found.content[0]["text"] == RULES
    assert "".join(one["text"] for one in found.content) == system.text


def test_whoever_marks_by_themselves_is_left_alone():
    own = SystemMessage([{"type": "text", "text": RULES, "cache_control": MARK}])
    for messages, kwargs in (
        ([own, *history()[1:]], {}),
        (history(), {"cache_control": MARK}),
        (history(), {"tools": [{"name": "t", "cache_control": MARK}]}),
    ):
        found, same = marked(messages, kwargs, model=MODEL)
        assert found is messages
        assert same is kwargs


def test_converse_gets_a_point_behind_the_block_and_a_lifetime_only_where_asked():
    found, _ = marked(history(), {}, model=f"anthropic.{MODEL}", style="converse")
    assert found[0].content[1] == {"cachePoint": {"type": "default"}}
    found, _ = marked(history(), {}, model=f"anthropic.{MODEL}", style="converse", ttl="1h")
    assert found[2].content[1] == {"cachePoint": {"type": "default", "ttl": "1h"}}


def test_tools_are_marked_where_the_instructions_cannot_be():
    tools = [{"name": "a", "description": RULES}, {"name": "b"}]
    messages = [SystemMessage("Request id: 7f3a9c21d0."), HumanMessage("Why?")]
    found, kwargs = marked(messages, {"tools": tools}, model=MODEL)
    assert [("cache_control" in one) for one in kwargs["tools"]] == [False, True]
    assert "cache_control" not in tools[1]
    assert marks(found) == []


def test_an_agent_s_steps_are_marked_at_their_end():
    messages = [
        SystemMessage(RULES),
        HumanMessage("Weather?"),
        AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "1"}]),
        ToolMessage("sunny", tool_call_id="1"),
    ]
    found, _ = marked(messages, {}, model=MODEL)
    assert marks(found) == [(0, 0), (3, 0)]
    assert found[2] is messages[2]


# --- the model ------------------------------------------------------------------------------------


async def test_every_way_to_call_reaches_the_model_marked():
    inner = FakeClaude()
    model = PromptCachedChatModel(model=inner)
    model.invoke(history())
    await model.ainvoke(history())
    assert [marks(messages) for messages, _ in inner.came] == [[(0, 0), (2, 0)]] * 2
    streamed = "".join(chunk.text for chunk in model.stream(history()))
    assert streamed
    assert [chunk.text async for chunk in model.astream(history())]


def test_other_models_are_called_as_before():
    inner = FakeClaude(kind="scripted", model_name="our-llama")
    PromptCachedChatModel(model=inner).invoke(history())
    ((messages, kwargs),) = inner.came
    assert marks(messages) == []
    assert "prompt_cache_key" not in kwargs


def test_a_prompt_that_cannot_be_marked_is_sent_as_it_is_and_counted():
    inner = FakeClaude()
    model = PromptCachedChatModel(model=inner)
    odd = SystemMessage(RULES).model_copy(update={"content": [RULES, 7]})
    assert model._prepared([odd], {}) == ([odd], {})
    assert sum(model.faults.values()) == 1


@pytest.fixture
def provider():
    server = Provider()
    yield server
    server.close()


def openai(server, **values):
    return ChatOpenAI(base_url=server.url, api_key="x", model="gpt-4o", **values)


def test_openai_gets_a_key_that_is_the_tenant_s_and_the_beginning_s(provider):
    model = PromptCachedChatModel(model=openai(provider), key="")
    # The server here is not OpenAI's, so the key is asked for by hand.
    assert not model._takes_key()
    model.invoke(history())
    keyed = PromptCachedChatModel(model=openai(provider), key="support-v3")
    keyed.invoke(history())
    keyed.invoke(history(), prompt_cache_key="mine")
    assert [one.get("prompt_cache_key") for one in provider.asked] == [None, "support-v3", "mine"]


def test_the_key_is_made_of_tenant_model_tools_and_steady_instructions():
    model = PromptCachedChatModel(model=ChatOpenAI(api_key="x", model="gpt-4o"))

    def key(messages=None, **kwargs):
        return model._prepared(messages or history(), kwargs)[1]["prompt_cache_key"]

    same = key()
    assert key([SystemMessage(RULES), HumanMessage("Something else")]) == same
    assert key([SystemMessage(f"{RULES} Request id: 7f3a9c21d0"), HumanMessage("a")]) == key(
        [SystemMessage(f"{RULES} Request id: 0f3a9c21d9"), HumanMessage("b")]
    )
    with scoped(tenant="acme"):
        scoped_key = key()
    with track(tenant="acme"):
        tracked_key = key()
    told = key(costwise={"tenant": "acme"})
    assert scoped_key == tracked_key == told != same
    assert key(tools=[{"name": "t"}]) != same
    assert "acme" not in told


# --- the real client ------------------------------------------------------------------------------


@pytest.fixture
def claude():
    chat = pytest.importorskip("langchain_anthropic").ChatAnthropic
    server = Claude()
    yield chat(model=MODEL, api_key="x", base_url=server.url, max_retries=0), server
    server.close()


def test_anthropic_s_request_has_the_marks_where_it_takes_them(claude):
    inner, server = claude
    ledger = MemoryLedger()
    with track(ledger=ledger, feature="faq"):
        answer = PromptCachedChatModel(model=inner, ttl="1h").invoke(history())
    assert answer.text == "Paris."
    (asked,) = server.asked
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert asked["system"] == [{"type": "text", "text": RULES, "cache_control": mark}]
    assert asked["messages"][1]["content"][0]["cache_control"] == mark
    assert prompt_cache_use(ledger.records()).uses[0].read_share == 0.9


def test_an_agent_s_request_has_the_mark_on_the_tool_s_result(claude):
    inner, server = claude
    model = PromptCachedChatModel(model=inner).bind_tools([weather])
    messages = [SystemMessage(RULES), HumanMessage("Weather in Paris?")]
    called = model.invoke(messages)
    result = weather.invoke(called.tool_calls[0])
    model.invoke([*messages, called, result])
    first, second = server.asked
    assert first["messages"][-1]["content"][0]["cache_control"] == MARK
    assert second["messages"][-1]["content"][0]["type"] == "tool_result"
    assert second["messages"][-1]["content"][0]["cache_control"] == MARK
    assert "cache_control" not in str(second["messages"][:-1])


def test_a_stream_has_the_marks_too(claude):
    inner, server = claude
    text = "".join(chunk.text for chunk in PromptCachedChatModel(model=inner).stream(history()))
    assert text == "Paris."
    assert server.asked[0]["stream"]
    assert server.asked[0]["system"][0]["cache_control"] == MARK


def test_converse_s_request_has_the_points_where_it_takes_them():
    converse = pytest.importorskip("langchain_aws.chat_models.bedrock_converse")
    found, _ = marked(history(), {}, model=f"anthropic.{MODEL}", style="converse")
    messages, system = converse._messages_to_bedrock(found)
    assert system == [{"text": RULES}, {"cachePoint": {"type": "default"}}]
    assert messages[1]["content"][-1] == {"cachePoint": {"type": "default"}}


def test_a_held_out_prompt_is_sent_as_it_is():
    inner = FakeClaude()
    model = PromptCachedChatModel(model=inner)
    with scoped(unoptimised=True):
        model.invoke(history())
    model.invoke(history(), {"configurable": {"costwise": {"unoptimised": True}}})
    assert [marks(messages) for messages, _ in inner.came] == [[], []]
