"""Logs as others write them: what is read from each, and what is wrong with some."""

import gzip
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import replay
from costwise_core.errors import ConfigError
from costwise_core.replaying import reading
from costwise_core.replaying.reading import Seen, calls_in


def read(*rows, model=""):
    seen = Seen()
    return list(calls_in(list(rows), seen, model=model)), seen


CHAT = {
    "request": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "user": "u1"},
    "response": {
        "model": "gpt-4o-2024-11-20",
        "choices": [{"message": {"content": "Hello!"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 8, "completion_tokens": 2},
    },
    "created_at": "2026-11-01T10:00:00Z",
    "metadata": {"tenant": "acme", "feature": "faq", "thread_id": "t"},
}


def test_chat_completions():
    (one,), seen = read(CHAT)
    assert (one.model, one.answer, one.user, one.tenant) == (
        "gpt-4o-2024-11-20",
        "Hello!",
        "u1",
        "acme",
    )
    assert (one.feature, one.conversation, one.usage.input_tokens) == ("faq", "t", 8)
    assert one.at == datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()
    assert seen["OpenAI-style"] == 1


def test_columns_that_hold_json_as_text_read_the_same():
    text = {name: json.dumps(value) for name, value in CHAT.items() if isinstance(value, dict)}
    (one,), _ = read({**text, "created_at": CHAT["created_at"]})
    assert (one.answer, one.tenant, one.usage.input_tokens) == ("Hello!", "acme", 8)


def test_the_responses_api():
    (one,), _ = read(
        {
            "body": {
                "model": "gpt-5",
                "instructions": "Be kind.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "42"},
                ],
            },
            "response": {
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "message", "content": [{"type": "output_text", "text": "42."}]},
                ],
                "status": "completed",
                "usage": {
                    "input_tokens": 30,
                    "output_tokens": 12,
                    "output_tokens_details": {"reasoning_tokens": 8},
                },
            },
        }
    )
    assert [said.role for said in one.messages] == ["system", "user", "assistant", "tool"]
    assert (one.answer, one.usage.reasoning_tokens) == ("42.", 8)
    assert one.facts.tool_derived


def test_an_answer_kept_by_the_provider_is_in_no_log():
    row = {"model": "gpt-5", "input": "And then?", "previous_response_id": "r1", "output": []}
    (one,), _ = read(row)
    assert not one.whole
    rows = [{**row, "usage": {"input_tokens": 90_000, "output_tokens": 5}}] * 2
    assert all(found.requests == 0 for found in replay(rows).findings)


def test_a_stream_without_usage_is_estimated():
    chunks = [{"choices": [{"delta": {"content": word}}]} for word in ("Hel", "lo")]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    row = {"request": CHAT["request"], "response": chunks}
    (one,), _ = read(row)
    assert (one.answer, one.usage, one.facts.finish_reason) == ("Hello", None, "stop")
    report = replay([row])
    assert report.estimated == 1
    assert report.input_tokens > 0
    chunks.append({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2}})
    (one,), _ = read({"request": CHAT["request"], "response": chunks})
    assert one.usage.input_tokens == 8


def test_nulls_everywhere_are_no_error():
    row = {
        "model": None,
        "messages": [{"role": None, "content": None}, {"role": "user", "content": [None, "Hi"]}],
        "choices": [{"message": None, "finish_reason": None}],
        "usage": None,
        "tenant": None,
        "metadata": None,
        "timestamp": None,
    }
    (one,), seen = read(row, model="gpt-4o")
    assert one.model == "gpt-4o"
    assert seen["damaged"] == 0
    assert replay([row]).requests == 1
    for odd in ({"messages": None}, {"messages": 7}, {"request": None}, {"choices": []}):
        replay([row | odd, CHAT])


LANGSMITH = {
    "id": "1",
    "run_type": "llm",
    "session_id": "the project, not the conversation",
    "start_time": "2026-11-01T10:00:00.123456",
    "inputs": {
        "messages": [
            [
                {
                    "lc": 1,
                    "type": "constructor",
                    "id": ["langchain", "schema", "messages", "SystemMessage"],
                    "kwargs": {"content": "Be kind.", "type": "system"},
                },
                {
                    "lc": 1,
                    "type": "constructor",
                    "id": ["langchain", "schema", "messages", "HumanMessage"],
                    "kwargs": {"content": "Hi", "type": "human"},
                },
            ]
        ]
    },
    "outputs": {
        "generations": [
            [
                {
                    "text": "Hello!",
                    "message": {
                        "kwargs": {
                            "content": "Hello!",
                            "usage_metadata": {
                                "input_tokens": 18,
                                "output_tokens": 2,
                                "total_tokens": 20,
                                "input_token_details": {"cache_read": 4},
                            },
                            "response_metadata": {"finish_reason": "stop"},
                        }
                    },
                }
            ]
        ]
    },
    "extra": {
        "metadata": {"ls_model_name": "gpt-4o-mini", "tenant": "acme", "thread_id": "t"},
        "invocation_params": {"temperature": 0.0},
    },
    "feedback_stats": {"user_score": {"n": 2, "avg": 0.5}},
}


def test_langsmith_runs():
    chain = {"run_type": "chain", "inputs": {"question": "Hi"}, "outputs": {}}
    (one,), seen = read(chain, LANGSMITH)
    assert [(said.role, said.text) for said in one.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
    ]
    assert (one.model, one.answer, one.tenant, one.conversation) == (
        "gpt-4o-mini",
        "Hello!",
        "acme",
        "t",
    )
    assert (one.usage.input_tokens, one.usage.cache_read_tokens, one.mark) == (18, 4, 0.5)
    assert seen["other rows"] == 1
    openai = {
        **LANGSMITH,
        "inputs": {"messages": [{"role": "user", "content": "Hi"}]},
        "outputs": CHAT["response"],
    }
    (one,), _ = read(openai)
    assert (one.answer, one.usage.input_tokens) == ("Hello!", 8)


GENERATION = {
    "id": "o",
    "type": "GENERATION",
    "traceId": "t",
    "model": "gpt-4o",
    "startTime": "2026-11-01T10:00:00Z",
    "input": [{"role": "user", "content": "Hi"}],
    "output": {"role": "assistant", "content": "Hello!"},
    "usageDetails": {"input": 10, "output": 2, "input_cached_tokens": 90, "total": 102},
}


def test_langfuse_traces_and_observations():
    trace = {
        "id": "t",
        "userId": "u",
        "sessionId": "s",
        "metadata": {"tenant": "acme"},
        "observations": [{"type": "SPAN"}, GENERATION | {"sessionId": None}],
        "scores": [{"name": "quality", "value": 1}],
    }
    (one,), seen = read(trace)
    assert (one.user, one.conversation, one.answer, one.mark) == ("u", "s", "Hello!", 1.0)
    assert seen["Langfuse"] == 1
    assert (one.usage.input_tokens, one.usage.cache_read_tokens) == (100, 90)
    inside = {"input": 100, "output": 2, "input_cached_tokens": 90, "total": 102}
    (one,), _ = read(GENERATION | {"usageDetails": inside})
    assert (one.usage.input_tokens, one.usage.cache_read_tokens) == (100, 90)
    (none, _) = read(GENERATION | {"type": "EVENT"}, CHAT)
    assert len(none) == 1


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "question": ["What is RAG?", "What is RAG?", None],
            "answer": ["A method.", "A method.", "?"],
            "model": ["gpt-4o", "gpt-4o", float("nan")],
            "prompt_tokens": [1_000, 1_000, 1_000],
            "completion_tokens": [100, 100, 100],
            "time": pandas.to_datetime(["2026-11-01", "2026-11-02", "2026-11-03"]),
        }
    )
    report = replay(frame, model="gpt-4o")
    assert (report.requests, report.other_rows) == (2, 1)
    exact = next(one for one in report.findings if one.name == "exact_repeats")
    assert f"{exact.usd}" == "0.0035"


@pytest.mark.parametrize("wrap", [list, lambda rows: {"data": rows}, lambda rows: {"runs": rows}])
def test_json_documents_and_lines(tmp_path, wrap):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(wrap([CHAT, CHAT]), indent=2))
    assert replay(path).requests == 2
    path.write_text(json.dumps(wrap([CHAT, CHAT])))
    assert replay(str(path)).requests == 2


def test_damage_is_counted_and_not_fatal(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    good = json.dumps(CHAT).encode()
    deep = b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    lines = [good, b"{", b"\xff\xfe", b"7", b"", deep, good]
    path.write_bytes(b"\n".join(lines))
    report = replay(path)
    assert (report.requests, report.damaged) == (2, 4)
    monkeypatch.setattr(reading, "MAX_LINE", 1_000)
    path.write_bytes(b"\n".join([good, b'{"messages": "' + b"x" * 5_000 + b'"}', good]))
    report = replay(path)
    assert (report.requests, report.damaged) == (2, 1)


def test_a_file_cut_off_while_it_was_written(tmp_path):
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({**CHAT, "n": n}) + "\n" for n in range(600))
    path.write_bytes(path.read_bytes()[:-300])
    report = replay(path)
    assert report.requests > 0
    assert any("in part only" in note for note in report.notes)


def test_too_large_is_read_in_part(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    path.write_text((json.dumps(CHAT) + "\n") * 100)
    monkeypatch.setattr(reading, "MAX_BYTES", 10_000)
    report = replay(path)
    assert 0 < report.requests < 100
    assert any("in part only" in note for note in report.notes)


def test_what_is_no_log_says_what_would_be():
    for source in ([{"colour": "red"}], [1, 2], {"colour": "red"}):
        with pytest.raises(ConfigError, match="LangSmith"):
            replay(source)
    with pytest.raises(ConfigError, match="path, a table or rows"):
        replay(7)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "role",
                    "content",
                    "choices",
                    "message",
                    "usage",
                    "model",
                    "input",
                    "output",
                    "run_type",
                    "inputs",
                    "outputs",
                    "observations",
                    "type",
                    "request",
                    "response",
                    "question",
                    "prompt_tokens",
                    "metadata",
                    "timestamp",
                    "tools",
                    "text",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(JSON, max_size=4))
def test_no_row_whatever_it_holds_breaks_a_replay(rows):
    report = replay([CHAT, *rows])
    assert report.requests >= 1
    json.dumps(report.to_dict())
