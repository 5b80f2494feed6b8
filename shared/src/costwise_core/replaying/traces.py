"""Exports of LangSmith and Langfuse as calls."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from costwise_core.replaying.calls import LoggedCall, first, mark_of, moment_of
from costwise_core.replaying.shapes import CONVERSATION, FEATURE, TENANT, USER, Row, call_of
from costwise_core.types import Usage
from costwise_core.usage import usage_of

__all__ = ["langfuse_calls", "langsmith_calls"]


def langsmith_calls(row: Row, model: str = "") -> Iterator[LoggedCall]:
    """Yield the call in a run; runs of another type than "llm" hold none.

    A run's `session_id` is its project, not its conversation; that is told in the metadata.

    Example:
        >>> run = {"run_type": "llm", "inputs": {"messages": [{"role": "user", "content": "Hi"}]},
        ...        "outputs": {"choices": [{"message": {"content": "Hello!"}}]}}
        >>> [call.answer for call in langsmith_calls(run, "gpt-4o")]
        ['Hello!']
    """
    if row.get("run_type") != "llm":
        return
    extra = _map(row.get("extra"))
    told = {**_map(row.get("metadata")), **_map(extra.get("metadata"))}
    asked = {**_map(extra.get("invocation_params")), **_map(row.get("inputs"))}
    if asked.get("model") is None:
        asked["model"] = first(told, "ls_model_name") or first(asked, "model_name")
    outputs = _map(row.get("outputs"))
    response = _generation(outputs) or outputs
    call = call_of(told, asked, response, model=model)
    usage = call.usage or usage_of(outputs.get("llm_output")) or _counts(row)
    marks = [mark_of(one) for one in _map(row.get("feedback_stats")).values()]
    known = [mark for mark in marks if mark is not None]
    yield replace(
        call,
        usage=usage,
        at=moment_of(first(row, "start_time", "created_at")),
        mark=sum(known) / len(known) if known else call.mark,
        facts=replace(call.facts, finish_reason="error") if row.get("error") else call.facts,
    )


def _generation(outputs: Row) -> dict[str, Any] | None:
    """Return LangChain's answer, {"generations": [[{"message": ...}]]}, in OpenAI's shape."""
    made = outputs.get("generations")
    while isinstance(made, list) and made:
        made = made[0]
    if not isinstance(made, Mapping):
        return None
    message = _map(made.get("message"))
    inner = _map(message.get("kwargs")) or _map(message.get("data")) or message
    told = {**_map(made.get("generation_info")), **_map(inner.get("response_metadata"))}
    content = inner.get("content")
    return {
        "model": first(told, "model_name", "model"),
        "choices": [
            {
                "message": {
                    "content": made.get("text") if content is None else content,
                    "tool_calls": inner.get("tool_calls"),
                },
                "finish_reason": first(told, "finish_reason", "stop_reason"),
            }
        ],
        "usage": inner.get("usage_metadata")
        or first(told, "token_usage", "usage")
        or first(_map(outputs.get("llm_output")), "token_usage", "usage"),
    }


def _counts(row: Row) -> Usage | None:
    return usage_of(
        {
            "prompt_tokens": first(row, "prompt_tokens"),
            "completion_tokens": first(row, "completion_tokens"),
        }
    )


def langfuse_calls(row: Row, model: str = "") -> Iterator[LoggedCall]:
    """Yield the generations of a trace, or the one that an observation is.

    Example:
        >>> trace = {"id": "t", "userId": "u", "observations": [{"type": "GENERATION",
        ...          "model": "gpt-4o", "input": "Hi", "output": "Hello!",
        ...          "usageDetails": {"input": 8, "output": 2, "total": 10}}]}
        >>> [(call.user, call.usage.input_tokens) for call in langfuse_calls(trace)]
        [('u', 8)]
    """
    inner = row.get("observations")
    if isinstance(inner, list):
        whose = {name: row[name] for name in ("userId", "sessionId", "scores") if row.get(name)}
        whose["metadata"] = row.get("metadata")
        for one in inner:
            if isinstance(one, Mapping):
                yield from langfuse_calls({**whose, **_set(one)}, model)
        return
    if str(row.get("type", "")).upper() != "GENERATION":
        return
    told = _map(row.get("metadata"))
    about = {
        name: first(row, name) if first(row, name) is not None else first(told, name)
        for name in (*TENANT, *USER, *FEATURE, *CONVERSATION)
    }
    about["metadata"] = told
    given = row.get("input")
    request = dict(given) if isinstance(given, Mapping) else {"messages": given}
    request |= _map(row.get("modelParameters"))
    request.setdefault("model", first(row, "model", "providedModelName"))
    output = row.get("output")
    is_message = isinstance(output, Mapping) and "content" in output
    response: Any = {"choices": [{"message": output}]} if is_message else output
    call = call_of(about, request, response, model=model)
    marks = [mark_of(one) for one in row.get("scores") or () if isinstance(one, Mapping)]
    known = [mark for mark in marks if mark is not None]
    error = str(row.get("level", "")).upper() == "ERROR"
    yield replace(
        call,
        usage=_used(first(row, "usageDetails", "usage_details", "usage")) or call.usage,
        at=moment_of(first(row, "startTime", "start_time", "timestamp", "createdAt")),
        mark=sum(known) / len(known) if known else call.mark,
        facts=replace(call.facts, finish_reason="error") if error else call.facts,
    )


_READ: Final = ("input_cached_tokens", "cache_read_input_tokens", "input_cache_read")
_WRITTEN: Final = ("cache_creation_input_tokens", "input_cache_creation")
_HIDDEN: Final = ("output_reasoning_tokens", "output_reasoning")


def _used(told: object) -> Usage | None:
    """Read Langfuse's counts, whose cached tokens are in the input or beside it: the total says."""
    details = _map(told)
    sent = first(details, "input", "promptTokens", "prompt_tokens", "input_tokens")
    made = first(details, "output", "completionTokens", "completion_tokens", "output_tokens")
    read, written = first(details, *_READ) or 0, first(details, *_WRITTEN) or 0
    hidden = first(details, *_HIDDEN) or 0
    numbers = (sent or 0, made or 0, read, written, hidden)
    if sent is None and made is None:
        return usage_of(told)
    if not all(isinstance(one, int) and one >= 0 for one in numbers):
        return None
    sent, made = numbers[:2]
    total = details.get("total")
    if read + written > sent or total == sum(numbers) != sent + made:
        sent, made = sent + read + written, made + (hidden if total == sum(numbers) else 0)
    return Usage(
        input_tokens=sent,
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=min(hidden, made),
    )


def _set(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value not in (None, [], {})}


def _map(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
