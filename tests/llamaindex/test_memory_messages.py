"""LlamaIndex's messages in a memory's store, and back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.memory import Memory

from costwise_core import Message
from costwise_core.memory.messages import borders
from costwise_core.memory.prompts import recalled_block, summary_block
from costwise_core.tokens import count_tokens
from llamaindex_costwise._messages import MAX_RAW, as_message, is_own, question_of, restored
from tests.llamaindex.remembering import Shelf

CALL = ToolCallBlock(tool_call_id="c1", tool_name="search", tool_kwargs={"q": "ferries to Gozo"})
THINKS = ThinkingBlock(
    content="The user wants a ferry. " * 20, additional_information={"signature": "s1g"}
)
KINDS = [
    ChatMessage(role="user", content="Hello"),
    ChatMessage(role="user", content="Hello", additional_kwargs={"name": "ada"}),
    ChatMessage(role="user", blocks=[TextBlock(text="What is"), TextBlock(text="this?")]),
    ChatMessage(role="user", blocks=[TextBlock(text="What?"), ImageBlock(image=b"\x89PNG")]),
    ChatMessage(role="user", blocks=[ImageBlock(url="https://example.com/a.png")]),
    ChatMessage(
        role="user",
        blocks=[TextBlock(text="Mark."), CachePoint(cache_control={"type": "ephemeral"})],
    ),
    ChatMessage(role="system", content="Be kind."),
    ChatMessage(role="developer", content="Be brief."),
    ChatMessage(role="assistant", blocks=[]),
    ChatMessage(role="assistant", content=""),
    ChatMessage(role="assistant", blocks=[THINKS, TextBlock(text="At nine."), CALL]),
    ChatMessage(
        role="assistant",
        content="",
        additional_kwargs={
            "tool_calls": [{"id": "c1", "function": {"name": "search", "arguments": "{}"}}]
        },
    ),
    ChatMessage(role="tool", content="At nine.", additional_kwargs={"tool_call_id": "c1"}),
    ChatMessage(
        role="tool", content="No.", additional_kwargs={"tool_call_id": "c1", "name": "search"}
    ),
    ChatMessage(role="chatbot", content="Hello"),
]


@pytest.mark.parametrize("message", KINDS, ids=lambda one: one.role.value)
def test_every_kind_of_message_comes_back_as_it_was(message):
    before = message.model_copy(deep=True)
    back = restored(replace(as_message(message), id="given by the store"))
    assert message == before
    assert back == message
    assert back is not message


@given(st.text(max_size=200), st.sampled_from(["user", "assistant", "system"]))
def test_plain_text_needs_no_json(text, role):
    stored = Message(role=role, text=text)
    assert as_message(restored(stored)) == stored


def test_calls_and_results_belong_together():
    asks = ChatMessage(role="assistant", blocks=[CALL])
    told = ChatMessage(role="tool", content="At nine.", additional_kwargs={"tool_call_id": "c1"})
    hello = ChatMessage(role="user", content="Hello")
    call, result = as_message(asks), as_message(told)
    assert (call.role, call.calls, call.text) == (
        "assistant",
        ("c1",),
        'search({"q": "ferries to Gozo"})',
    )
    assert (result.role, result.answers) == ("tool", "c1")
    talk = [as_message(one) for one in (hello, asks, hello, told, hello)]
    assert borders(talk) == (4,)


def test_calls_in_extras_belong_together_too():
    """As OpenAI's clients used to keep them, and chat stores still do."""
    (message,) = [one for one in KINDS if "tool_calls" in one.additional_kwargs]
    assert as_message(message).calls == ("c1",)
    assert as_message(message).text == "search({})"


def test_calls_thinking_and_pictures_cost_tokens():
    """`Memory` counts a tool call as nothing."""
    long = CALL.model_copy(update={"tool_kwargs": {"q": "ferries to Gozo " * 50}})
    asks = ChatMessage(role="assistant", blocks=[long])
    assert (
        Memory.from_defaults(token_limit=100, chat_store=Shelf())._estimate_token_count(asks) == 0
    )
    assert as_message(asks).tokens > count_tokens("ferries to Gozo " * 50).tokens
    thinks = ChatMessage(role="assistant", blocks=[THINKS, TextBlock(text="At nine.")])
    assert as_message(thinks).tokens > count_tokens(THINKS.content).tokens
    assert as_message(thinks).text == "At nine."
    (picture,) = [
        one for one in KINDS if {"text", "image"} == {block.block_type for block in one.blocks}
    ]
    assert as_message(picture).tokens > 1000
    assert as_message(ChatMessage(role="user", content="Hello")).tokens == 0


def test_what_memory_adds_for_its_blocks_is_not_kept():
    message = ChatMessage(role="user", content="Hi", additional_kwargs={"session_id": "42"})
    assert restored(as_message(message)) == ChatMessage(role="user", content="Hi")
    assert message.additional_kwargs == {"session_id": "42"}


def test_what_is_too_large_leaves_its_text():
    picture = ChatMessage(
        role="user", blocks=[TextBlock(text="This."), ImageBlock(image=b"0" * MAX_RAW)]
    )
    stored = as_message(picture)
    assert stored.raw == ""
    assert restored(stored).content == "This."


@pytest.mark.parametrize(
    "raw",
    [
        "{",
        "[]",
        '{"role": "root", "blocks": []}',
        '{"blocks": [{"block_type": "shell", "run": "id"}]}',
        '{"role": "user", "additional_kwargs": {"images": [{"image": "AAAA"}]}}',
        '{"role": "user", "blocks": [{"block_type": "image", "path": "/no/such/file.png"}]}',
        " " * (MAX_RAW + 1),
    ],
)
def test_what_somebody_else_wrote_into_the_store_leaves_the_text(raw):
    found = restored(Message(role="user", text="Hello", raw=raw))
    assert found == ChatMessage(role="user", content="Hello")


def test_without_its_json_a_call_still_has_its_result():
    stored = replace(as_message(ChatMessage(role="assistant", blocks=[CALL])), raw="")
    assert as_message(restored(stored)).calls == ("c1",)


def test_extras_that_are_no_json_leave_the_text():
    message = ChatMessage(role="user", content="Hello", additional_kwargs={"client": object()})
    assert restored(as_message(message)).content == "Hello"


def test_own_messages_are_known():
    for block in (summary_block("Ada."), recalled_block([Message(role="user", text="Three.")])):
        assert is_own(ChatMessage(role="user", content=block))
        assert not is_own(ChatMessage(role="assistant", content=block))
    assert not is_own(ChatMessage(role="user", content="<conversation_summary> is a tag"))
    assert not is_own(KINDS[8])


def test_the_question():
    talk = [ChatMessage(role="user", content="One?"), ChatMessage(role="assistant", content="1.")]
    assert question_of(None, talk) == "One?"
    assert question_of("Two?", talk) == "Two?"
    assert question_of(ChatMessage(role="user", content="Three?"), talk) == "Three?"
    assert question_of(None) == ""
