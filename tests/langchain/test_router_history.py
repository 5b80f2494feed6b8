"""A conversation of several providers, as each of them can read it."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from langchain_costwise._history import readable_for

TWO = {"small": "openai", "large": "anthropic"}
THOUGHTS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "reasoning", "id": "rs_1", "encrypted_content": "x", "summary": []},
    {"type": "tool_use", "id": "toolu_1", "name": "number", "input": {}},
    {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}},
    {"type": "non_standard", "value": {}},
]


def said(content: Any, provider: str = "anthropic", **more: Any) -> AIMessage:
    return AIMessage(content, response_metadata={"model_provider": provider}, **more)


@pytest.mark.parametrize("block", THOUGHTS, ids=lambda block: block["type"])
def test_what_only_its_maker_reads_is_left_out_for_others(block):
    message = said([block, {"type": "text", "text": "Yes."}], additional_kwargs={"raw": 1})
    (own,) = readable_for("anthropic", [message], TWO)
    assert own is message
    (other,) = readable_for("openai", [message], TWO)
    assert (other.content, other.additional_kwargs, other.response_metadata) == ("Yes.", {}, {})


def test_the_route_says_who_made_it_before_the_provider_does():
    told = {"costwise": {"route": {"name": "large"}}}
    message = AIMessage(THOUGHTS, response_metadata=told)
    assert readable_for("anthropic", [message], TWO)[0] is message
    assert readable_for("openai", [message], TWO)[0].content == ""


def test_what_nobody_says_the_maker_of_is_theirs_who_make_everything():
    message = AIMessage(THOUGHTS)
    assert readable_for("openai", [message], {"a": "openai", "b": "openai"})[0] is message
    assert readable_for("openai", [message], TWO)[0].content == ""


def test_pictures_stay_and_marks_for_a_cache_go():
    picture = {"type": "image", "base64": "", "mime_type": "image/png"}
    mark = {"cache_control": {"type": "ephemeral"}}
    messages = [
        SystemMessage([{"type": "text", "text": "Be kind.", **mark}, {"cachePoint": {}}]),
        said([{"type": "text", "text": "See:", "citations": []}, picture]),
    ]
    first, second = readable_for("openai", messages, TWO)
    assert first.content == [{"type": "text", "text": "Be kind."}]
    assert second.content == [{"type": "text", "text": "See:"}, picture]
    assert readable_for("anthropic", messages, TWO) == messages


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["openai", "anthropic", "mistral", ""]),
            st.text(max_size=60).filter(bool),
        ),
        max_size=6,
    ),
    st.sampled_from(["openai", "anthropic", "mistral"]),
)
def test_every_result_still_answers_its_call(calls, provider):
    messages: list[Any] = [HumanMessage("Hi")]
    for maker, ident in calls:
        messages.append(said("", maker, tool_calls=[tool_call(name="f", args={}, id=ident)]))
        messages.append(ToolMessage("1", tool_call_id=ident))
    before = deepcopy(messages)
    found = readable_for(provider, messages, TWO)
    assert messages == before
    assert readable_for(provider, messages, TWO) == found
    for (maker, ident), call, result in zip(calls, found[1::2], found[2::2], strict=True):
        now = call.tool_calls[0]["id"]
        assert now == result.tool_call_id
        if maker == provider:
            assert now == ident
        else:
            assert (len(now), now.isascii(), now.isalnum()) == (9, True, True)
