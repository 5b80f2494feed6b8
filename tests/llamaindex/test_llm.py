"""CachedLLM called directly: what hits, what must not, and what a hit looks like."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import BaseModel, Field

from costwise_core import Cache, MemoryStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.errors import ConfigError
from llamaindex_costwise import CachedLLM, CacheHitEvent
from llamaindex_costwise._convert import slices
from llamaindex_costwise._usage import reported_usage
from llamaindex_costwise.testing import ScriptedLLM


def user(text, role="user"):
    return ChatMessage(role=role, content=text)


ASKED = "What is the capital of France?"
REWORDED = "What is the capital city of France?"
OTHER = "Who wrote the second act of Faust?"


# --- the same question, every way to ask it ------------------------------------------------------


async def ask(llm, how, question=ASKED):
    messages = [user("Be short.", "system"), user(question)]
    match how:
        case "chat":
            return llm.chat(messages).message.content
        case "achat":
            return (await llm.achat(messages)).message.content
        case "stream_chat":
            return "".join(piece.delta or "" for piece in llm.stream_chat(messages))
        case "astream_chat":
            return "".join([p.delta or "" async for p in await llm.astream_chat(messages)])
        case "complete":
            return llm.complete(question).text
        case "acomplete":
            return (await llm.acomplete(question)).text
        case "stream_complete":
            return "".join(piece.delta or "" for piece in llm.stream_complete(question))
        case "astream_complete":
            return "".join([p.delta or "" async for p in await llm.astream_complete(question)])


CHATS = ["chat", "achat", "stream_chat", "astream_chat"]
COMPLETIONS = ["complete", "acomplete", "stream_complete", "astream_complete"]


@pytest.mark.parametrize("ways", [CHATS, COMPLETIONS], ids=["chat", "completion"])
async def test_one_call_answers_every_way_to_ask(llm, inner, ways):
    for first in ways:
        llm.cache.clear()
        inner._calls.clear()
        answers = [await ask(llm, how) for how in (first, *ways)]
        assert inner.calls == 1, first
        assert inner._calls[0][0] == first
        assert len(set(answers)) == 1


@pytest.mark.parametrize("how", CHATS + COMPLETIONS)
async def test_reworded_is_served_only_under_the_policy(inner, cache, how):
    loose = CachedLLM(llm=inner, cache=cache)
    assert await ask(loose, how) == await ask(loose, how, REWORDED)
    assert dict(cache.stats.hits) == {"near": 1}
    await ask(loose, how, OTHER)
    assert inner.calls == 2
    strict = CachedLLM(llm=ScriptedLLM(), cache=Cache(MemoryStore(), embedder=cache.embedder))
    assert await ask(strict, how) != await ask(strict, how, REWORDED)


def test_a_hit_says_so_and_reports_no_usage(llm):
    first, second = llm.chat([user(ASKED)]), llm.chat([user(ASKED)])
    assert "costwise" not in first.additional_kwargs
    note = second.raw["costwise"]
    assert note == second.additional_kwargs["costwise"]
    assert note["hit"] == "exact"
    assert note["saved_usage"]["output_tokens"] == 5
    assert "same words" in note["why"]
    assert reported_usage(first).output_tokens == 5
    assert reported_usage(second) is None
    assert second.message is not first.message


def test_a_served_answer_can_be_changed_without_harm(llm):
    llm.chat([user(ASKED)])
    served = llm.chat([user(ASKED)])
    served.message.blocks[0].text = "changed"
    served.raw["costwise"]["hit"] = "changed"
    assert llm.chat([user(ASKED)]).message.content != "changed"
    assert llm.chat([user(ASKED)]).raw["costwise"]["hit"] == "exact"


def test_the_callers_messages_are_not_changed(llm):
    messages = [user("Be short.", "system"), user(f"Context: x\nQuestion: {ASKED}\nAnswer:")]
    before = [m.model_dump() for m in messages]
    llm.chat(messages)
    llm.chat(messages)
    assert [m.model_dump() for m in messages] == before


# --- what else decides an answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        [user("Be long.", "system"), user(ASKED)],
        [user(ASKED)],
        [user("Be short.", "system"), user("Ok", "assistant"), user(ASKED, "assistant")],
        [user("Be short.", "system"), user(ASKED, "assistant")],
    ],
    ids=["system", "no system", "history", "role"],
)
def test_other_messages_around_the_question_are_a_miss(llm, inner, messages):
    llm.chat([user("Be short.", "system"), user(ASKED)])
    llm.chat(messages)
    assert inner.calls == 2


def test_settings_and_arguments_are_part_of_the_scope(cache):
    calls = [
        (ScriptedLLM(), {}),
        (ScriptedLLM(model="gpt-4o"), {}),
        (ScriptedLLM(temperature=0.7), {}),
        (ScriptedLLM(), {"max_tokens": 5}),
        (ScriptedLLM(), {"seed": 7}),
    ]
    for inner, kwargs in calls:
        CachedLLM(llm=inner, cache=cache).chat([user(ASKED)], **kwargs)
        assert inner.calls == 1
    assert cache.stats.stored == len(calls)


def test_another_class_with_the_same_model_name_is_a_miss(cache):
    class OtherLLM(ScriptedLLM):
        pass

    for inner in (ScriptedLLM(), OtherLLM()):
        CachedLLM(llm=inner, cache=cache).chat([user(ASKED)])
        assert inner.calls == 1


def test_two_prompt_functions_of_one_name_do_not_share_answers(cache):
    for inner in (
        ScriptedLLM(completion_to_prompt=lambda prompt: f"<a>{prompt}"),
        ScriptedLLM(completion_to_prompt=lambda prompt: f"<b>{prompt}"),
    ):
        CachedLLM(llm=inner, cache=cache).complete(ASKED)
        assert inner.calls == 1


def test_functions_are_told_apart_by_what_they_close_over(cache):
    def tagged(tag):
        return lambda prompt: f"<{tag}>{prompt}"

    for tag, calls in (("a", 1), ("b", 1), ("a", 0)):
        inner = ScriptedLLM(completion_to_prompt=tagged(tag))
        CachedLLM(llm=inner, cache=cache).complete(ASKED)
        assert inner.calls == calls


def test_a_new_key_or_time_limit_loses_nothing(cache):
    first, second = ScriptedLLM(), ScriptedLLM(api_key="sk-rotated")
    CachedLLM(llm=first, cache=cache).chat([user(ASKED)])
    CachedLLM(llm=second, cache=cache).chat([user(ASKED)])
    assert second.calls == 0


def test_tenants_and_corpora_never_share(llm, inner):
    for tenant in ("a", "b"):
        for corpus in ("v1", "v2"):
            with scoped(tenant=tenant, corpus=corpus):
                llm.chat([user(ASKED)])
                llm.chat([user(REWORDED)])
    assert inner.calls == 4


def test_without_a_required_tenant_nothing_is_looked_up_or_stored(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache, require=("tenant",))
    llm.chat([user(ASKED)])
    llm.chat([user(ASKED)])
    assert inner.calls == 2
    assert dict(cache.stats.misses) == {"no_scope": 2}
    assert cache.stats.stored == 0


def test_bypass_neither_looks_up_nor_stores(llm, inner, cache):
    with scoped(bypass=True):
        llm.chat([user(ASKED)])
    llm.chat([user(ASKED)])
    with scoped(bypass=True):
        llm.chat([user(ASKED)])
    assert inner.calls == 3
    assert cache.stats.misses["bypass"] == 2


def test_the_time_in_a_system_message_does_not_count_and_anywhere_else_it_does(llm, inner):
    for hour in ("08:30:00", "09:45:10"):
        llm.chat([user(f"It is 2026-11-21T{hour}Z.", "system"), user(ASKED)])
    assert inner.calls == 1
    for hour in ("08:30:00", "09:45:10"):
        llm.chat([user(f"We meet 2026-11-21T{hour}Z."), user("Ok.", "assistant"), user("When?")])
    assert inner.calls == 3
    for hour in ("08:30:00", "09:45:10"):
        llm.predict(QA, context_str=f"The train leaves 2026-11-21T{hour}Z.", query_str=ASKED)
    assert inner.calls == 5
    strict = CachedLLM(llm=inner, cache=llm.cache, volatile=())
    strict.chat([user("It is 2026-11-21T08:30:00Z.", "system"), user(ASKED)])
    assert inner.calls == 6


@pytest.mark.parametrize("how", ["complete", "chat", "predict"])
async def test_indentation_counts(llm, inner, how):
    for space in ("    ", ""):
        code = f"Explain this code:\n    if x:\n        f()\n{space}    g()"
        if how == "predict":
            llm.predict(QA, query_str=code, context_str="x")
        else:
            await ask(llm, how, code)
    assert inner.calls == 2


def test_a_hint_finds_the_question_in_any_prompt(llm, inner):
    for question in (ASKED, REWORDED):
        with scoped(question=question):
            llm.chat([user("Facts: " + "x " * 700 + f"\nNow, {question} Reply in Dutch.")])
    assert inner.calls == 1


def test_a_hint_that_occurs_in_the_context_too_never_mixes_contexts(llm, inner):
    for city in ("Paris", "Rome"):
        with scoped(question=city):
            llm.chat([user(f"{city} is big. " + "x " * 700 + city)])
    assert inner.calls == 2


def test_tool_output_of_a_react_agent_is_matched_exactly_only_and_on_request(cache, inner):
    allowed = CachePolicy(allow=frozenset({"tool_derived"}))
    llm = CachedLLM(llm=inner, cache=Cache(MemoryStore(), embedder=cache.embedder))
    before = [user("Use tools.", "system"), user(ASKED), user("Action: add", "assistant")]
    llm.chat([*before, user("Observation: the sum of all the parts is 41")])
    llm.chat([*before, user("Observation: the sum of all the parts is 42")])
    llm.chat([*before, user("Observation: the sum of all the parts is 41")])
    assert inner.calls == 3
    assert dict(llm.cache.stats.misses) == {"tool_derived": 3}
    assert llm.cache.stats.stored == 0
    llm.cache.admission = allowed
    for number in (41, 42, 41):
        llm.chat([*before, user(f"Observation: the sum of all the parts is {number}")])
    assert inner.calls == 5


# --- templates: the question apart from what it is put into --------------------------------------

QA = PromptTemplate("Context: {context_str}\nGiven that, answer the query.\n{query_str} Answer:")
CONTEXT = "Paris is the capital. " * 100


async def predict(llm, how, prompt=QA, **arguments):
    match how:
        case "predict":
            return llm.predict(prompt, **arguments)
        case "apredict":
            return await llm.apredict(prompt, **arguments)
        case "stream":
            return "".join(llm.stream(prompt, **arguments))
        case "astream":
            return "".join([token async for token in await llm.astream(prompt, **arguments)])


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("how", ["predict", "apredict", "stream", "astream"])
async def test_a_template_is_matched_on_its_question_alone(cache, how, is_chat):
    inner = ScriptedLLM(is_chat=is_chat)
    llm = CachedLLM(llm=inner, cache=cache)
    first = await predict(llm, how, query_str=ASKED, context_str=CONTEXT)
    assert first == await predict(llm, how, query_str=ASKED, context_str=CONTEXT)
    assert first == await predict(llm, how, query_str=REWORDED, context_str=CONTEXT)
    assert inner.calls == 1
    # 2,200 characters in common, another question.
    await predict(llm, how, query_str=OTHER, context_str=CONTEXT)
    assert inner.calls == 2
    await predict(llm, how, query_str=ASKED, context_str=CONTEXT + "Or is it?")
    assert inner.calls == 3
    other = PromptTemplate(QA.template.replace("answer", "deny"))
    await predict(llm, how, other, query_str=ASKED, context_str=CONTEXT)
    assert inner.calls == 4


def test_partial_templates_and_chat_history_inside_them_count(llm, inner):
    def prompt(history):
        template = ChatPromptTemplate(
            message_templates=[
                user("Use this: {context_str}", "system"),
                user(history),
                user("I see.", "assistant"),
                user("{query_str}"),
            ]
        )
        return template.partial_format(query_str=ASKED)

    llm.predict(prompt("We speak about France."), context_str="x")
    llm.predict(prompt("We speak about France."), context_str="x")
    assert inner.calls == 1
    llm.predict(prompt("We speak about Spain."), context_str="x")
    assert inner.calls == 2


def test_a_template_that_does_more_than_insert_the_question_is_matched_as_a_whole(llm, inner):
    def examples(**kwargs):
        return "examples for: " + kwargs["query_str"].rsplit(" ", 1)[-1]

    template = PromptTemplate(
        "{examples}\n" + "x " * 400 + "\n{query_str} Answer:",
        function_mappings={"examples": examples},
    )
    llm.predict(template, query_str="What is the capital of France")
    llm.predict(template, query_str="What is the capital of Spain")
    llm.predict(template, query_str="What is the capital of France")
    assert inner.calls == 2


def test_the_placeholder_in_the_context_cannot_be_abused(llm, inner):
    mark = "\ue000question\ue000"
    llm.predict(QA, query_str=ASKED, context_str=f"Who is {mark}?")
    llm.predict(QA, query_str=REWORDED, context_str=f"Who is {mark}?")
    llm.predict(QA, query_str=ASKED, context_str=f"Who is {ASKED}?")
    assert inner.calls == 3


def test_the_wrapped_models_system_prompt_is_sent_and_counts(cache):
    for system in ("Be brief.", "Be wordy."):
        inner = ScriptedLLM(system_prompt=system)
        CachedLLM(llm=inner, cache=cache).predict(QA, query_str=ASKED, context_str="x")
        assert inner._calls[0][1][0].content == system


@pytest.mark.parametrize("how", ["predict", "astream"])
async def test_a_template_without_a_known_question_is_matched_exactly_only(llm, inner, how):
    condense = PromptTemplate("History: {chat_history} Rephrase: {question}")
    for history in ("We speak about France.", "We speak about Spain."):
        await predict(llm, how, condense, chat_history=history, question="And its capital?")
    assert inner.calls == 2


def test_a_rendered_template_is_not_taken_for_a_question(llm, inner):
    for history in ("We speak about France.", "We speak about Spain."):
        llm.complete(f"History:\n{history}\nRephrase this:\nAnd what is its capital city?")
    assert inner.calls == 2


# --- streams -------------------------------------------------------------------------------------


async def test_streams_are_real_generators_hit_or_miss(llm):
    for _ in range(2):
        for stream in (llm.stream_chat([user(ASKED)]), llm.stream_complete(ASKED)):
            assert isinstance(stream, Generator)
            list(stream)
        for astream in (await llm.astream_chat([user(ASKED)]), await llm.astream_complete(ASKED)):
            assert isinstance(astream, AsyncGenerator)
            [piece async for piece in astream]
    assert llm.cache.stats.hits["exact"] == 6


def test_a_replayed_stream_grows_and_its_deltas_add_up(llm):
    whole = llm.chat([user(ASKED)]).message.content
    replayed = list(llm.stream_chat([user(ASKED)]))
    assert len(replayed) > 3
    text = ""
    for piece in replayed:
        text += piece.delta
        assert piece.message.content == text
        assert piece.raw["costwise"]["hit"] == "exact"
    assert text == whole


@given(st.text())
def test_slices_add_up(text):
    assert "".join(slices(text)) == text


def test_slices_are_few(llm):
    assert 4 < len(list(slices("語" * 5000))) <= 25
    assert 4 < len(list(slices("word " * 5000))) <= 25


async def test_an_abandoned_stream_is_not_stored(llm, inner, cache):
    stream = llm.stream_chat([user(ASKED)])
    next(stream)
    stream.close()
    astream = await llm.astream_chat([user(ASKED)])
    await anext(astream)
    await astream.aclose()
    assert cache.stats.stored == 0
    assert cache.stats.not_stored["unfinished"] == 2
    llm.chat([user(ASKED)])
    assert inner.calls == 3


async def test_a_stream_that_fails_raises_and_is_not_stored(cache):
    llm = CachedLLM(llm=ScriptedLLM(fail_after=2), cache=cache)
    with pytest.raises(ConnectionError):
        list(llm.stream_chat([user(ASKED)]))
    with pytest.raises(ConnectionError):
        [piece async for piece in await llm.astream_chat([user(ASKED)])]
    assert cache.stats.stored == 0


def test_a_stream_whose_pieces_do_not_add_up_is_not_stored(cache):
    class OnlyLastWord(ScriptedLLM):
        def _pieces(self, messages, kwargs):
            for piece in super()._pieces(messages, kwargs):
                yield piece.model_copy(update={"message": user(piece.delta, "assistant")})

    llm = CachedLLM(llm=OnlyLastWord(), cache=cache)
    list(llm.stream_chat([user(ASKED)]))
    assert cache.stats.not_stored == {"inconsistent_stream": 1}


def test_nothing_is_called_before_a_stream_is_asked_for(llm, inner):
    list(llm.stream_chat([user(ASKED)]))
    llm.stream_chat([user(ASKED)])
    assert inner.calls == 1


# --- answers that are not kept -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("length", "truncated"),
        ("max_tokens", "truncated"),
        ("MAX_TOKENS", "truncated"),
        ("content_filter", "refusal"),
        ("refusal", "refusal"),
        ("SAFETY", "refusal"),
        ("tool_calls", "tool_calls"),
        ("FINISH_REASON_MAX_TOKENS", "truncated"),
        ("who_knows", "unknown_ending"),
    ],
)
@pytest.mark.parametrize("how", ["chat", "astream_chat", "complete", "stream_complete"])
async def test_unfinished_answers_are_not_stored(cache, how, finish, reason):
    llm = CachedLLM(llm=ScriptedLLM(finish=finish), cache=cache)
    await ask(llm, how)
    assert cache.stats.not_stored == {reason: 1}
    assert cache.stats.stored == 0


@pytest.mark.parametrize("reply", ["", "   \n"])
async def test_empty_answers_are_not_stored(cache, reply):
    llm = CachedLLM(llm=ScriptedLLM(reply=reply), cache=cache)
    await ask(llm, "chat")
    await ask(llm, "stream_chat")
    assert cache.stats.stored == 0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f")]), "tool_calls"),
        (
            user("x", "assistant").model_copy(update={"additional_kwargs": {"tool_calls": [1]}}),
            "tool_calls",
        ),
        (
            user("No.", "assistant").model_copy(update={"additional_kwargs": {"refusal": "No."}}),
            "refusal",
        ),
        (
            ChatMessage(role="assistant", blocks=[ImageBlock(url="http://localhost/x.png")]),
            "modality",
        ),
    ],
    ids=["tool block", "tool extras", "refusal", "image"],
)
def test_answers_that_are_more_than_text_are_not_stored(cache, message, reason):
    class Fixed(ScriptedLLM):
        def _message(self, messages, kwargs):
            return message

    CachedLLM(llm=Fixed(), cache=cache).chat([user(ASKED)])
    assert cache.stats.not_stored == {reason: 1}


def test_thinking_and_extras_come_back_and_usage_does_not(cache):
    message = ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="Hm.", additional_information={"signature": "s"}),
            TextBlock(text="One."),
            TextBlock(text="Two."),
        ],
        additional_kwargs={"citations": ["a"], "total_tokens": 9, "usage": {"x": 1}},
    )

    class Fixed(ScriptedLLM):
        def _message(self, messages, kwargs):
            return message

    llm = CachedLLM(llm=Fixed(), cache=cache)
    llm.chat([user(ASKED)])
    served = llm.chat([user(ASKED)])
    assert served.message.blocks == message.blocks
    assert served.message.additional_kwargs == {"citations": ["a"]}
    replayed = list(llm.stream_chat([user(ASKED)]))
    assert replayed[-1].message.blocks == message.blocks


@pytest.mark.parametrize(
    ("messages", "kwargs", "reason"),
    [
        ([user(ASKED)], {"tools": [{"name": "f", "parameters": {}}]}, "tools"),
        ([user(ASKED), user("42", MessageRole.TOOL)], {}, "tool_derived"),
        ([user(ASKED)], {"response_format": {"type": "json_object"}}, "structured"),
        (
            [ChatMessage(blocks=[TextBlock(text=ASKED), ImageBlock(url="http://localhost/x.png")])],
            {},
            "modality",
        ),
    ],
    ids=["tools", "tool output", "structured", "image"],
)
def test_calls_that_are_not_plain_questions_pass_through(llm, messages, kwargs, reason):
    llm.chat(messages, **kwargs)
    llm.chat(messages, **kwargs)
    assert llm.llm.calls == 2
    assert dict(llm.cache.stats.misses) == {reason: 2}


# --- a good citizen of LlamaIndex ----------------------------------------------------------------


def test_metadata_and_class(llm, inner):
    assert llm.metadata == inner.metadata
    assert "FunctionCallingLLM" in [base.__name__ for base in CachedLLM.__mro__]
    assert llm.class_name() == "CachedLLM"


def test_serialised_it_holds_no_secret_and_no_answer(llm):
    llm.chat([user(ASKED)])
    shown = f"{llm!r} {llm.to_dict()} {llm.to_json()} {llm.to_payload()} {llm.model_dump()}"
    assert "sk-very-secret" not in shown
    assert "Answer number" not in shown
    assert llm.to_dict()["class_name"] == "CachedLLM"
    assert llm.to_dict()["llm"]["model_name"] == "gpt-4o-mini"


def test_a_handler_set_on_the_wrapper_counts_inner_calls_once(inner, cache):
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = CachedLLM(llm=inner, cache=cache)
    llm.callback_manager = CallbackManager([counter])
    llm.chat([user(ASKED)])
    assert len(counter.llm_token_counts) == 1
    llm.chat([user(ASKED)])
    list(llm.stream_chat([user(ASKED)]))
    assert len(counter.llm_token_counts) == 1
    again = CachedLLM(llm=inner, cache=cache, callback_manager=CallbackManager([counter]))
    again.chat([user(OTHER)])
    assert len(counter.llm_token_counts) == 2


def test_a_rate_limiter_set_on_the_wrapper_gates_inner_calls_only(llm):
    class Gate:
        passed = 0

        def acquire(self, num_tokens=0):
            self.passed += 1

    llm.rate_limiter = Gate()
    llm.chat([user(ASKED)])
    llm.chat([user(ASKED)])
    assert llm.rate_limiter.passed == 1


def test_a_hit_is_announced_in_the_span_it_spared_and_without_the_question(llm):
    class Listener(BaseEventHandler):
        seen: list[CacheHitEvent] = Field(default_factory=list)

        def handle(self, event, **kwargs):
            if isinstance(event, CacheHitEvent):
                self.seen.append(event)

    listener, root = Listener(), get_dispatcher()
    root.add_event_handler(listener)
    try:
        llm.chat([user(ASKED)])
        llm.chat([user(ASKED)])
    finally:
        root.event_handlers.remove(listener)
    (event,) = listener.seen
    assert event.span_id.startswith("CachedLLM.chat-")
    assert (event.operation, event.model, event.tier) == ("chat", "gpt-4o-mini", "exact")
    assert event.usage_then.output_tokens == 5
    assert ASKED not in event.model_dump_json()


def test_importing_the_package_imports_no_llama_index():
    code = (
        "import sys, llamaindex_costwise; llamaindex_costwise.scoped;"
        "print([m for m in sys.modules if m.split('.')[0] in ('llama_index', 'numpy', 'pydantic')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_structured_llm_is_refused_with_advice(cache):
    class Answer(BaseModel):
        text: str

    with pytest.raises(ConfigError, match="as_structured_llm"):
        CachedLLM(llm=ScriptedLLM().as_structured_llm(Answer), cache=cache)


def test_a_model_without_tools_says_so(cache):
    llm = CachedLLM(llm=MockLLM(), cache=cache)
    response = ChatResponse(message=user("x", "assistant"))
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="tool call"):
        llm.get_tool_calls_from_response(response)
    with pytest.raises(ConfigError, match="ReActAgent"):
        llm.chat_with_tools([], user_msg="x")


def test_tool_required_is_visible_to_llama_index(llm, inner):
    assert llm._prepare_chat_with_tools([], user_msg="x", tool_required=True)["tool_required"]


def test_any_custom_llm_can_be_wrapped(cache):
    llm = CachedLLM(llm=MockLLM(max_tokens=3), cache=cache)
    assert issubclass(MockLLM, CustomLLM)
    assert llm.complete("a b c d").text == llm.complete("a b c d").text
    assert [p.text for p in llm.stream_complete("a b c d")][-1] == "text text text"
    assert llm.chat([user("a b")]).message.content == llm.chat([user("a b")]).message.content
    assert dict(cache.stats.hits) == {"exact": 3}
