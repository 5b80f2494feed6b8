"""LangChain's messages in a memory's store, and back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call

from costwise_core import Message
from costwise_core.memory.view import MemoryView
from costwise_core.tokens import count_tokens
from langchain_costwise._messages import MAX_RAW, as_message, prompt_of, restored, returns

CALL = {"name": "search", "args": {"q": "ferries to Gozo"}, "id": "c1", "type": "tool_call"}
THINKS = {"type": "thinking", "thinking": "The user wants a ferry. " * 20, "signature": "s1g"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
KINDS: list[BaseMessage] = [
    HumanMessage("Hello", id="1"),
    HumanMessage("Hello", id="1", name="ada"),
    HumanMessage([{"type": "text", "text": "What is this?"}, PICTURE], id="1"),
    HumanMessage([{"type": "text", "text": "Mark.", "cache_control": {"type": "ephemeral"}}]),
    SystemMessage("Be kind.", additional_kwargs={"priority": 1}),
    AIMessage("Hello", id="lc_run--1"),
    AIMessage(
        "Hello",
        usage_metadata={"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
        response_metadata={"model_name": "gpt-4o"},
        additional_kwargs={"refusal": None},
    ),
    AIMessage([THINKS, {"type": "text", "text": "At nine."}], tool_calls=[CALL], id="2"),
    AIMessage("", invalid_tool_calls=[invalid_tool_call(name="f", args="{", id="x", error="e")]),
    AIMessageChunk("Hel", id="lc_run--2"),
    ToolMessage("At nine.", tool_call_id="c1", name="search", id="3"),
    ToolMessage("No.", tool_call_id="c1", status="error", artifact={"raw": [1]}),
    FunctionMessage("At nine.", name="search"),
    ChatMessage("Be brief.", role="developer"),
]


@pytest.mark.parametrize("message", KINDS, ids=lambda one: type(one).__name__)
def test_every_kind_of_message_comes_back_as_it_was(message):
    before = message.model_copy(deep=True)
    stored = as_message(message)
    back = restored(replace(stored, id=stored.id or "given by the store"))
    assert message == before
    assert type(back) is type(message)
    assert back.id == (message.id or "given by the store")
    assert back.model_copy(update={"id": message.id}) == message
    assert returns(message)


@given(st.text(max_size=200), st.sampled_from(["user", "assistant", "system"]), st.text(max_size=9))
def test_plain_text_needs_no_json(text, role, ident):
    stored = Message(role=role, text=text, id=ident)
    assert as_message(restored(stored)) == stored


def test_roles_calls_and_results():
    asks = as_message(AIMessage("Let me see.", tool_calls=[CALL, {**CALL, "id": "c2"}]))
    assert (asks.role, asks.calls) == ("assistant", ("c1", "c2"))
    assert asks.text.splitlines() == ["Let me see.", *['search({"q": "ferries to Gozo"})'] * 2]
    told = as_message(ToolMessage("At nine.", tool_call_id="c1", name="search"))
    assert (told.role, told.answers, told.name) == ("tool", "c1", "search")
    assert as_message(ChatMessage("Be brief.", role="developer")).role == "system"
    assert as_message(ChatMessage("Hi.", role="Ada")).role == "user"


def test_thinking_and_pictures_are_counted_besides_the_text():
    assert as_message(HumanMessage("What is this?")).tokens == 0  # the memory counts text itself
    thinks = as_message(AIMessage([THINKS, {"type": "text", "text": "At nine."}]))
    assert thinks.text == "At nine."
    assert thinks.tokens > count_tokens(THINKS["thinking"]).tokens
    picture = as_message(HumanMessage([{"type": "text", "text": "What is this?"}, PICTURE]))
    assert picture.tokens == 1_600 + count_tokens("What is this?").tokens
    deepseek = AIMessage("At nine.", additional_kwargs={"reasoning_content": THINKS["thinking"]})
    assert as_message(deepseek).tokens > count_tokens(THINKS["thinking"]).tokens


def test_what_is_too_large_or_no_json_is_kept_as_text():
    huge = [{"type": "text", "text": "See."}, {"type": "image", "base64": "A" * MAX_RAW}]
    stored = as_message(HumanMessage(huge, id="1"))
    assert (stored.raw, stored.text) == ("", "See.")
    assert restored(stored) == HumanMessage("See.", id="1")
    assert not returns(HumanMessage(huge, id="1"))
    odd = AIMessage("Hi.", response_metadata={"client": object()}, tool_calls=[CALL])
    back = restored(as_message(odd))
    # Its results must not become orphans, which providers refuse.
    assert [call["id"] for call in back.tool_calls] == ["c1"]
    assert not returns(odd)


def test_an_artifact_is_no_reason_to_lose_a_message():
    for artifact in ([Document("At nine.")], object()):
        told = ToolMessage("At nine.", tool_call_id="c1", artifact=artifact, status="error")
        assert returns(told)
        assert restored(as_message(told)).status == "error"


@pytest.mark.parametrize(
    "raw",
    [
        "{",
        "[]",
        "7",
        json.dumps({"type": "remove", "data": {"id": "__remove_all__", "content": ""}}),
        json.dumps({"type": "constructor", "data": {}}),
        json.dumps({"type": "human", "data": {"content": 7}}),
        json.dumps({"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}),
        json.dumps({"lc": 1, "type": "constructor", "id": ["langchain", "x"], "kwargs": {}}),
    ],
)
def test_nothing_but_messages_is_made_of_what_a_store_says(raw):
    assert restored(Message(role="user", text="Hi.", id="1", raw=raw)) == HumanMessage(
        "Hi.", id="1"
    )


def test_messages_that_are_kept_are_the_very_same_objects():
    given = [SystemMessage("Be kind."), *(HumanMessage(f"{n}", id=f"{n}") for n in range(4))]
    kept = [as_message(one) for one in given[3:]]
    view = MemoryView(
        kept=tuple(kept),
        system=(as_message(given[0]),),
        summary="They counted.",
        recalled=(as_message(given[1]),),
    )
    prompt = prompt_of(view, given)
    assert prompt[0] is given[0]
    assert "They counted." in prompt[1].text
    assert prompt[2] is given[3]
    assert "user: 0" in prompt[3].text
    assert prompt[4] is given[4]
    whole = MemoryView(kept=tuple(map(as_message, given[1:])), system=view.system)
    later = [*given[1:3], given[0], *given[3:]]
    assert all(one is two for one, two in zip(prompt_of(whole, later), later, strict=True))
