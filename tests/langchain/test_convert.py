"""What counts as the question, what as the scope, and what not at all."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from costwise_core.context import RequestContext
from costwise_core.types import Miss
from langchain_costwise._convert import Request, prompt_text, read_request

LLM = "[('_type', 'scripted'), ('model_name', 'gpt-4o-mini'), ('stop', None)]"


def read(*messages, llm=LLM, **context) -> Request:
    request = read_request(dumps(list(messages)), llm, RequestContext(**context))
    assert isinstance(request, Request)
    return request


def same(one: list, other: list) -> bool:
    return key(*one) == key(*other)


def key(*messages) -> tuple:
    request = read(*messages)
    return request.question, request.scope, request.turns


def test_a_bare_question_is_the_question():
    request = read(SystemMessage("Be brief."), HumanMessage("What is RAG?"))
    assert (request.question, request.near, request.facts.tool_derived) == (
        "What is RAG?",
        True,
        False,
    )
    assert request.scope.model == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([SystemMessage("Be brief.")], [SystemMessage("Be rude.")], id="system"),
        pytest.param([], [SystemMessage("Be brief.")], id="no system"),
        pytest.param(
            [HumanMessage("I am Ann."), AIMessage("Hi.")],
            [HumanMessage("I am Bob."), AIMessage("Hi.")],
            id="history",
        ),
        pytest.param([AIMessage("Yes.")], [HumanMessage("Yes.")], id="who said it"),
        pytest.param([HumanMessage("a", name="ann")], [HumanMessage("a", name="bob")], id="name"),
        pytest.param(
            [HumanMessage("It leaves on 2026-01-01T08:30.")],
            [HumanMessage("It leaves on 2026-01-01T09:45.")],
            id="time in what a person said",
        ),
        pytest.param(
            [HumanMessage([{"type": "image", "source_type": "id", "id": "file-1"}])],
            [HumanMessage([{"type": "image", "source_type": "id", "id": "file-2"}])],
            id="picture by id",
        ),
        pytest.param(
            [AIMessage("", tool_calls=[{"name": "f", "args": {"id": "1"}, "id": "x"}])],
            [AIMessage("", tool_calls=[{"name": "f", "args": {"id": "2"}, "id": "x"}])],
            id="arguments called id",
        ),
    ],
)
def test_everything_else_is_scope(one, other):
    question = HumanMessage("What is RAG?")
    assert not same([*one, question], [*other, question])


def answered(run: str, **more) -> list:
    return [
        HumanMessage("Is it raining?", id=f"h-{run}"),
        AIMessage(
            "",
            id=f"run-{run}",
            tool_calls=[{"name": "weather", "args": {"city": "Oslo"}, "id": f"call_{run}"}],
        ),
        ToolMessage("No.", tool_call_id=f"call_{run}", id=f"t-{run}", artifact={"raw": run}),
        AIMessage(
            "It is dry.",
            id=f"run-{run}-1",
            response_metadata={"id": f"chatcmpl-{run}", "model_name": "m", **more},
            usage_metadata={"input_tokens": len(run), "output_tokens": 1, "total_tokens": 9},
        ),
        HumanMessage("And tomorrow?"),
    ]


def test_two_runs_of_one_conversation_are_one():
    """Traps 4 and 5: ids, request metadata, usage and `total_cost` once were part of the key."""
    first, second = answered("aaa"), answered("b", system_fingerprint="fp_1")
    second[3].usage_metadata = {**second[3].usage_metadata, "total_cost": 0}
    assert same(first, second)


def test_a_streamed_turn_is_the_turn():
    assert same(
        [AIMessage("Hi."), HumanMessage("Bye?")], [AIMessageChunk("Hi."), HumanMessage("Bye?")]
    )


def test_text_may_come_in_blocks():
    block = [{"type": "text", "text": "What is RAG?", "cache_control": {"type": "ephemeral"}}]
    assert same([HumanMessage("What is RAG?")], [HumanMessage(block)])


def test_system_prompts_may_tell_the_time_and_the_rule_is_replaceable():
    one, other = (
        [SystemMessage(f"It is 2026-11-21T{hour}:00:00Z."), HumanMessage("Who are you?")]
        for hour in ("08", "09")
    )
    assert same(one, other)
    scopes = {
        read_request(dumps(messages), LLM, RequestContext(), volatile=()).scope.key
        for messages in (one, other)
    }
    assert len(scopes) == 2


def test_pictures_are_matched_exactly_only():
    def look(data: str) -> list:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        return [HumanMessage([{"type": "text", "text": "What is this?"}, picture])]

    assert same(look("AAAA"), look("AAAA"))
    assert not same(look("AAAA"), look("AAAB"))
    assert not read(*look("AAAA")).near


def test_answers_from_tools_are_told_apart():
    request = read(*answered("a")[:3])
    assert (request.facts.tool_derived, request.near) == (True, False)
    assert not read(*answered("a")).facts.tool_derived  # an earlier turn's tools are history


def test_a_rag_prompt_gives_up_its_question_and_keeps_its_context():
    prompt = "Answer from the context.\nContext: {}\nQuestion: {}\nAnswer:"
    one = read(HumanMessage(prompt.format("Oslo is in Norway. " * 50, "Where is Oslo?")))
    two = read(HumanMessage(prompt.format("Oslo is in Norway. " * 50, "Where does Oslo lie?")))
    three = read(HumanMessage(prompt.format("Oslo is in Sweden. " * 50, "Where is Oslo?")))
    assert one.question == "Where is Oslo?"
    assert one.near
    assert one.scope == two.scope != three.scope


def test_the_caller_may_say_what_the_question_is():
    text = "Context: " + "Paris is big. " * 60 + "Tell me about Paris"
    said = read(HumanMessage(text), question="Tell me about Paris")
    assert (said.question, said.near) == ("Tell me about Paris", True)
    unsaid = read(HumanMessage(text), question="not in there")
    assert (unsaid.question, unsaid.near) == (text, False)


def test_indentation_is_not_lost_on_code():
    one, other = ("Explain:\nif x:\n  a()\n  b()", "Explain:\nif x:\n  a()\nb()")
    assert not same([HumanMessage(one)], [HumanMessage(other)])


def test_plain_text_prompts_work():
    request = read_request("What is RAG?", LLM, RequestContext())
    assert (request.question, request.near) == ("What is RAG?", True)
    chat = read(HumanMessage("What is RAG?"))
    assert request.scope != chat.scope


@pytest.mark.parametrize("prompt", ["", "[{", '[{"a": 1}]', '[{"lc": 1}]', "[" * 9, "\ud800"])
def test_what_is_no_dump_is_text(prompt):
    assert isinstance(read_request(prompt, LLM, RequestContext()), Request)


def test_settings_named_by_an_address_have_no_key():
    """Part of trap 9: a callable in the settings prints where it lies, which names nothing."""
    miss = read_request("a", f"[('tools', [{test_plain_text_prompts_work!r}])]", RequestContext())
    assert isinstance(miss, Miss)
    assert miss.reason == "unstable_model"


def test_settings_are_scope():
    question = HumanMessage("What is RAG?")
    hot = LLM.replace("('stop', None)", "('stop', None), ('temperature', 1.0)")
    assert read(question).scope != read(question, llm=hot).scope


@pytest.mark.parametrize(
    ("llm", "structured"),
    [
        (LLM, False),
        ("{}---[('response_format', {'type': 'json_object'}), ('stop', None)]", True),
        ("{}---[('response_format', None)]", False),
        ("[('tools', [{'properties': {'day': {'type': 'string', 'format': 'date'}}}])]", False),
    ],
)
def test_asking_for_a_format_is_seen(llm, structured):
    assert read(HumanMessage("a"), llm=llm).facts.structured is structured


@pytest.mark.parametrize(
    ("llm", "temperature"),
    [
        (LLM, None),
        ("[('temperature', 0.7), ('stop', None)]", 0.7),
        ("[('temperature', None)]", None),
        ("{\"kwargs\": {\"temperature\": 0.2}}---[('stop', None), ('temperature', 1)]", 1.0),
        ("[('tools', [{'properties': {'temperature': {'type': 'number'}}}])]", None),
    ],
)
def test_the_temperature_is_seen(llm, temperature):
    assert read(HumanMessage("a"), llm=llm).facts.temperature == temperature


def test_prompt_text_is_what_was_said():
    assert prompt_text(dumps([SystemMessage("Be brief."), HumanMessage("Hi")])) == "Be brief.\nHi"
    assert prompt_text("Hi") == "Hi"


text = st.text(alphabet=string.ascii_letters + " ?é\n\"'\\{}", max_size=60)
turns = st.lists(
    st.tuples(st.sampled_from([HumanMessage, AIMessage, SystemMessage]), text), max_size=5
)


@given(turns, turns, text, text)
def test_equal_requests_and_only_they_share_a_scope(one, other, first, second):
    """Whatever is said: the same turns give the same scope, other turns another one."""

    def build(said, question):
        return [*(kind(words) for kind, words in said), HumanMessage(f"x {question}")]

    assert same(build(one, first), build(one, first))
    if one != other:
        assert key(*build(one, first))[1:] != key(*build(other, first))[1:]
    if read(*build(one, first)).near and read(*build(one, second)).near:
        assert key(*build(one, first))[1:] == key(*build(one, second))[1:]


@given(st.recursive(st.none() | st.booleans() | st.integers() | text, st.lists, max_leaves=8))
def test_odd_dumps_never_raise_anything_but_value_errors(value):
    prompt = json.dumps([{"lc": 1, "kwargs": {"content": value, "type": "human"}}])
    assert isinstance(read_request(prompt, LLM, RequestContext()), Request)
