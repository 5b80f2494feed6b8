"""Chats reach the provider marked, or with a key, and the caller's objects stay as they were."""

import copy

import pytest
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI

from costwise_core import MemoryLedger, prompt_cache_use, scoped, track
from llamaindex_costwise import PromptCachedLLM
from llamaindex_costwise.prompt_cache import marked
from llamaindex_costwise.testing import ScriptedLLM
from llamaindex_costwise.tracking import track as tracked
from tests.anthropic_server import Claude

MODEL = "claude-sonnet-4-5"
RULES = "Cite the page of every figure you use. " * 200
MARK = {"type": "ephemeral", "ttl": "5m"}


def said(role, text):
    return ChatMessage(role=role, content=text)


def history(rules=RULES):
    return [
        said("system", rules),
        said("user", "Hi"),
        said("assistant", "Hello"),
        said("user", "?"),
    ]


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def points(messages):
    return [
        number
        for number, one in enumerate(messages)
        if any(isinstance(block, CachePoint) for block in one.blocks)
    ]


# --- marks ----------------------------------------------------------------------------------------


def test_the_history_is_marked_and_the_instructions_go_apart():
    messages = history()
    before = copy.deepcopy(messages)
    found, kwargs = marked(messages, {}, model=MODEL)
    assert points(found) == [2]
    assert kwargs == {
        "extra_body": {"system": [{"type": "text", "text": RULES, "cache_control": MARK}]}
    }
    assert messages == before
    assert found[0] is messages[0]


def test_instructions_are_cut_before_what_belongs_to_the_call():
    text = f"{RULES}\nRequest id: 7f3a9c21d0. Be brief."
    found, kwargs = marked(history(text), {"extra_body": {"x": 1}}, model=MODEL)
    first, rest = kwargs["extra_body"]["system"]
    assert points(found) == []
    assert first == {"type": "text", "text": RULES.rstrip(), "cache_control": MARK}
    assert first["text"] + rest["text"] == text
    assert kwargs["extra_body"]["x"] == 1


def test_several_instructions_are_joined_as_llamaindex_joins_them():
    messages = [said("system", RULES), said("system", "Be brief."), said("user", "?")]
    _, kwargs = marked(messages, {}, model=MODEL)
    assert [one["text"] for one in kwargs["extra_body"]["system"]] == [f"{RULES}\nBe brief."]


def test_bedrock_gets_its_own_points_in_the_instructions_too():
    found, kwargs = marked(history(), {}, model=f"anthropic.{MODEL}", system_apart=False)
    assert (points(found), kwargs) == ([0, 2], {})
    assert found[0].blocks[1].cache_control.type == "default"


def test_whoever_marks_by_themselves_is_left_alone():
    point = CachePoint(cache_control=CacheControl(type="ephemeral"))
    own = ChatMessage(role="user", blocks=[TextBlock(text=RULES), point])
    also = ChatMessage(role="user", content=RULES, additional_kwargs={"cache_control": MARK})
    for messages, kwargs in (
        ([own, *history()], {}),
        ([also, *history()], {}),
        (history(), {"cache_control": MARK}),
        (history(), {"extra_body": {"system": []}}),
    ):
        found, same = marked(messages, kwargs, model=MODEL)
        assert found is messages
        assert same is kwargs


def test_a_tool_s_result_is_not_marked_but_the_call_before_it():
    call = ToolCallBlock(tool_name="weather", tool_kwargs={"city": "Paris"}, tool_call_id="1")
    messages = [
        said("system", RULES),
        said("user", "Weather?"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "1"}),
    ]
    found, _ = marked(messages, {}, model=MODEL, tools="{}")
    assert points(found) == [2]


# --- the LLM --------------------------------------------------------------------------------------


async def test_other_llms_are_called_as_before():
    inner = ScriptedLLM()
    llm = PromptCachedLLM(llm=inner)
    messages = history()
    assert llm.chat(messages).message.content == ScriptedLLM().chat(messages).message.content
    assert (await llm.achat(messages)).message.content
    assert [one.delta for one in llm.stream_chat(messages)]
    assert [one.delta async for one in await llm.astream_chat(messages)]
    assert llm.complete("Hi").text
    assert llm.faults == {}


def test_the_key_is_made_of_tenant_model_tools_and_steady_instructions():
    llm = PromptCachedLLM(llm=OpenAI(model="gpt-4o", api_key="x"))

    def key(messages=None, tools=()):
        return llm._prepared(messages or history(), {}, tools)[1]["prompt_cache_key"]

    same = key()
    assert key([said("system", RULES), said("user", "Something else")]) == same
    with scoped(tenant="acme"):
        scoped_key = key()
    with track(tenant="acme"):
        tracked_key = key()
    assert scoped_key == tracked_key != same
    assert key(tools=[FunctionTool.from_defaults(weather)]) != same
    own = llm._prepared(history(), {"prompt_cache_key": "mine"})[1]
    assert own == {"prompt_cache_key": "mine"}


def test_a_server_that_is_not_openai_s_gets_a_key_only_when_told():
    elsewhere = OpenAI(model="gpt-4o", api_key="x", api_base="http://127.0.0.1:1/v1")
    assert PromptCachedLLM(llm=elsewhere)._prepared(history(), {})[1] == {}
    told = PromptCachedLLM(llm=elsewhere, key="v3")._prepared(history(), {})[1]
    assert told == {"prompt_cache_key": "v3"}


def test_a_chat_that_cannot_be_marked_is_sent_as_it_is_and_counted():
    llm = PromptCachedLLM(llm=OpenAI(model="gpt-4o", api_key="x"))
    assert llm._prepared(["odd"], {}) == (["odd"], {})
    assert sum(llm.faults.values()) == 1


def test_secrets_and_keys_are_not_serialised():
    llm = PromptCachedLLM(llm=OpenAI(model="gpt-4o", api_key="sk-secret"), key="v3")
    assert "sk-secret" not in llm.to_json()
    assert PromptCachedLLM.class_name() == "PromptCachedLLM"


# --- the real client ------------------------------------------------------------------------------


@pytest.fixture
def claude():
    anthropic = pytest.importorskip("llama_index.llms.anthropic").Anthropic
    server = Claude()
    yield anthropic(model="claude-sonnet-4-6", api_key="x", base_url=server.url), server
    server.close()


async def test_anthropic_s_request_has_the_marks_where_it_takes_them(claude):
    inner, server = claude
    llm = PromptCachedLLM(llm=inner)
    ledger = MemoryLedger()
    with tracked(ledger=ledger, feature="faq"):
        assert llm.chat(history()).message.content == "Paris."
    await llm.achat(history())
    assert [one.message.content for one in llm.stream_chat(history())][-1] == "Paris."
    deltas = [one.delta or "" async for one in await llm.astream_chat(history())]
    assert "".join(deltas) == "Paris."
    assert len(server.asked) == 4
    for asked in server.asked:
        assert asked["system"] == [{"type": "text", "text": RULES, "cache_control": MARK}]
        assert asked["messages"][1]["content"][0]["cache_control"] == MARK
        assert "cache_control" not in str(asked["messages"][2])
    assert prompt_cache_use(ledger.records()).uses[0].read_share == 0.9


async def test_an_agent_s_request_is_marked_and_its_list_of_messages_stays_as_it_was(claude):
    inner, server = claude
    llm = PromptCachedLLM(llm=inner)
    tools = [FunctionTool.from_defaults(weather)]
    given = [said("system", RULES)]
    called = llm.chat_with_tools(tools, user_msg="Weather in Paris?", chat_history=given)
    assert given == [said("system", RULES)]
    (call,) = llm.get_tool_calls_from_response(called)
    result = ChatMessage(
        role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id}
    )
    asked = said("user", "Weather in Paris?")
    await llm.achat_with_tools(tools, chat_history=[*given, asked, called.message, result])
    first, second = server.asked
    assert first["tools"][0]["name"] == "weather"
    assert first["messages"][-1]["content"][0]["cache_control"] == MARK
    assert second["system"][0]["cache_control"] == MARK
    assert second["messages"][1]["content"][-1]["cache_control"] == MARK
    assert "cache_control" not in str(second["messages"][-1])


def test_a_message_given_apart_is_not_lost(claude):
    """LlamaIndex's own LLM for Claude forgets a `user_msg` that is a message and not a text."""
    inner, server = claude
    tools = [FunctionTool.from_defaults(weather)]
    PromptCachedLLM(llm=inner).chat_with_tools(
        tools, user_msg=said("user", "Weather in Paris?"), chat_history=[said("system", RULES)]
    )
    assert "Weather in Paris?" in str(server.asked[0]["messages"])


def test_converse_s_request_has_the_points_where_it_takes_them():
    utils = pytest.importorskip("llama_index.llms.bedrock_converse.utils")
    model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    found, _ = marked(history(), {}, model=model, system_apart=False)
    messages, system = utils.messages_to_converse_messages(found, model)
    assert system == [{"text": RULES.strip()}, {"cachePoint": {"type": "default"}}]
    assert messages[1]["content"][-1] == {"cachePoint": {"type": "default"}}


def test_a_held_out_prompt_is_sent_as_it_is():
    inner = ScriptedLLM()
    llm = PromptCachedLLM(llm=inner, key="ours")
    with scoped(unoptimised=True):
        llm.chat(history())
    llm.chat(history())
    assert ["prompt_cache_key" in kwargs for _, _, kwargs in inner._calls] == [False, True]
