"""Rows of OpenAI's kind, and plain rows of question and answer, as calls."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from costwise_core.cache.cacheable import CallFacts
from costwise_core.replaying.calls import (
    LoggedCall,
    Said,
    first,
    mark_of,
    moment_of,
    role_of,
    text_of,
)
from costwise_core.types import Usage
from costwise_core.usage import StreamUsage, processing_of, usage_of

__all__ = ["Row", "answer_of", "call_of", "messages_of", "openai_call", "plain_call"]

Row: TypeAlias = Mapping[str, Any]

AT: Final = ("at", "timestamp", "created_at", "start_time", "startTime", "created", "time", "ts")
TENANT: Final = ("tenant", "tenant_id", "org", "org_id", "organization", "customer", "customer_id")
USER: Final = ("user", "user_id", "userId", "end_user", "safety_identifier")
FEATURE: Final = ("feature", "endpoint", "app", "task")
CONVERSATION: Final = (
    "conversation",
    "conversation_id",
    "session",
    "session_id",
    "sessionId",
    "thread_id",
    "chat_id",
)
MARK: Final = ("mark", "outcome", "score", "correct", "feedback")
CONTEXT: Final = ("context", "contexts", "passages", "documents", "retrieved")

_ANSWER_CHANGES: Final = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "response_format",
    "text",
    "reasoning",
    "reasoning_effort",
    "tool_choice",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "modalities",
    "previous_response_id",
    "conversation",
)
_OFFERED: Final = ("tools", "functions")


def openai_call(row: Row, model: str = "") -> LoggedCall:
    """Return the call in a row of requests and responses, of chat completions or the responses API.

    The two may stand side by side (under `request` or `body`, and `response`) or in one object. A
    response may be the list of chunks that a stream came in.

    Example:
        >>> row = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}],
        ...        "choices": [{"message": {"content": "Hello!"}, "finish_reason": "stop"}],
        ...        "usage": {"prompt_tokens": 8, "completion_tokens": 2}}
        >>> call = openai_call(row)
        >>> call.messages[0].text, call.answer, call.usage.input_tokens
        ('Hi', 'Hello!', 8)
    """
    request = _mapping(first(row, "request", "body", "kwargs", "input_body")) or row
    request = _mapping(request.get("body")) or request
    response = _parsed(first(row, "response", "completion", "result", "output_body"))
    response = (
        _mapping(response).get("body", response) if isinstance(response, Mapping) else response
    )
    if response is None:
        response = row
    return call_of(row, request, response, model=model)


def call_of(row: Row, request: Row, response: Any, *, model: str = "") -> LoggedCall:
    """Put a request and its response together; `row` says whose and when it was."""
    given = request.get("messages")
    if given is None:
        given = first(request, "input", "prompt")
    messages, plain = messages_of(_parsed(given))
    system, _ = text_of(first(request, "instructions", "system"))
    if system:
        messages = (Said(role="system", text=system), *messages)
    answer, finish, called = answer_of(response)
    about = [row, _mapping(row.get("metadata")), _mapping(request.get("metadata")), request]
    kept = bool(first(request, "previous_response_id", "conversation"))
    offered = [request[name] for name in _OFFERED if request.get(name)]
    structured = first(request, "response_format") or first(_mapping(request.get("text")), "format")
    return LoggedCall(
        model=_word(first(response, "model") if isinstance(response, Mapping) else None)
        or _word(request.get("model"))
        or _word(row.get("model"))
        or model,
        messages=messages,
        answer=answer,
        usage=_usage(response, row),
        at=_named(about, AT, moment_of) or moment_of(first(response, "created", "created_at")),
        tenant=_word(_named(about, TENANT)),
        user=_word(_named(about, USER)),
        feature=_word(_named(about[:3], FEATURE)),
        conversation="" if kept else _word(_named(about[:3], CONVERSATION)),
        tools=json.dumps(offered, sort_keys=True, default=str) if offered else "",
        shape=json.dumps(
            {name: request[name] for name in _ANSWER_CHANGES if request.get(name) is not None},
            sort_keys=True,
            default=str,
        ),
        context=_passages(_named(about[:3], CONTEXT)),
        facts=CallFacts(
            temperature=_number(request.get("temperature")),
            structured=isinstance(structured, Mapping) and structured.get("type") != "text",
            tool_calls=called,
            tool_derived=any(message.role == "tool" for message in messages),
            text_only=plain,
            finish_reason=finish,
        ),
        whole=plain and not kept,
        processing=_word(first(row, "processing")) or processing_of(response) or "standard",
        mark=_named(about[:2], MARK, mark_of),
    )


def plain_call(row: Row, model: str = "") -> LoggedCall:
    """Return the call in a row of a table: question, answer, and what else has a column.

    Example:
        >>> call = plain_call({"question": "Open?", "answer": "Yes.", "contexts": ["a", "b"]})
        >>> call.question, call.context, call.answer
        ('Open?', ('a', 'b'), 'Yes.')
    """
    question, plain = text_of(first(row, "question", "query", "prompt", "user_input"))
    answer, _ = text_of(first(row, "answer", "response", "output", "completion"))
    about = [row, _mapping(row.get("metadata"))]
    passages = _passages(_named(about, CONTEXT))
    system, _ = text_of(first(row, "system", "system_prompt"))
    prompt = [Said(role="user", text="\n\n".join((*passages, question)))]
    return LoggedCall(
        model=_word(row.get("model")) or model,
        messages=tuple([Said(role="system", text=system)] if system else []) + tuple(prompt),
        answer=answer,
        usage=_usage(row, row),
        at=_named(about, AT, moment_of),
        tenant=_word(_named(about, TENANT)),
        user=_word(_named(about, USER)),
        feature=_word(_named(about, FEATURE)),
        conversation=_word(_named(about, CONVERSATION)),
        question=question,
        context=passages,
        facts=CallFacts(text_only=plain, finish_reason=_word(row.get("finish_reason"))),
        whole=plain,
        mark=_named(about, MARK, mark_of),
    )


def messages_of(given: object) -> tuple[tuple[Said, ...], bool]:
    """Return messages however they are nested, and whether all of them are text.

    Known are OpenAI's, the responses API's items, LangChain's dumps and a plain text.

    Example:
        >>> messages_of([{"role": "user", "content": "Hi"}])[0][0].text
        'Hi'
        >>> messages_of("Hi")[0][0].role
        'user'
    """
    if given is None:
        return (), True
    if isinstance(given, str):
        return (Said(role="user", text=given),), True
    if isinstance(given, Mapping):
        inner = first(given, "messages", "input", "prompt", "prompts")
        if inner is not None:
            return messages_of(inner)
        given = [given]
    if not isinstance(given, list | tuple):
        return (), True
    if len(given) == 1 and isinstance(given[0], list | tuple) and not _is_pair(given[0]):
        return messages_of(given[0])  # LangChain logs a batch of one
    found = [_message(one) for one in given]
    return tuple(said for said, _ in found), all(plain for _, plain in found)


def _message(one: object) -> tuple[Said, bool]:
    if isinstance(one, list | tuple) and _is_pair(one):
        text, plain = text_of(one[1])
        return Said(role=role_of(one[0]), text=text), plain
    if not isinstance(one, Mapping):
        return Said(role="user", text=str(one)), True
    inner = first(one, "kwargs", "data")
    if isinstance(inner, Mapping) and "content" in inner:  # LangChain: {"lc", "id", "kwargs"}
        names = one.get("id")
        kind = names[-1] if isinstance(names, list) and names else one.get("type")
        kind = inner.get("type") if kind == "constructor" else kind
        one = {**inner, "role": kind}
    kind = one.get("type")
    if kind == "function_call_output":
        return Said(role="tool", text=text_of(one.get("output"))[0]), True
    if kind in ("function_call", "reasoning"):
        return Said(role="assistant", text=json.dumps(one, sort_keys=True, default=str)), True
    text, plain = text_of(first(one, "content", "text"))
    calls = first(one, "tool_calls", "function_call")
    if calls:
        text += json.dumps(calls, sort_keys=True, default=str)
    return Said(role=role_of(first(one, "role", "speaker") or kind), text=text), plain


def _is_pair(one: object) -> bool:
    return (
        isinstance(one, list | tuple)
        and len(one) == 2
        and isinstance(one[0], str)
        and isinstance(one[1], str)
        and (role_of(one[0]) != "user" or one[0].lower() in ("user", "human"))
    )


def answer_of(response: object) -> tuple[str, str, bool]:
    """Return the answer's text, how it ended and whether it calls tools.

    Example:
        >>> answer_of({"output": [{"type": "message", "content": [{"type": "output_text",
        ...            "text": "Hi"}]}], "status": "completed"})
        ('Hi', 'completed', False)
    """
    if isinstance(response, str):
        return response, "", False
    if isinstance(response, list | tuple):
        return _streamed(response)
    if not isinstance(response, Mapping):
        return "", "", False
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        choice = choices[0]
        message = _mapping(first(choice, "message", "delta"))
        text, _ = text_of(first(message, "content", "refusal") or choice.get("text"))
        called = bool(first(message, "tool_calls", "function_call"))
        return text, _word(choice.get("finish_reason")), called
    output = response.get("output")
    if isinstance(output, list):
        items = [_mapping(item) for item in output]
        text = "".join(text_of(item.get("content"))[0] for item in items if "content" in item)
        called = any(str(item.get("type", "")).endswith("_call") for item in items)
        return text, _word(first(response, "status")), called
    if isinstance(output, str):
        return output, "", False
    if "content" in response:
        text, _ = text_of(response["content"])
        ended = _word(first(response, "stop_reason", "finish_reason"))
        called = bool(response.get("tool_calls")) or ended in ("tool_use", "tool_calls")
        return text, ended, called
    return "", "error" if response.get("error") else "", False


def _streamed(chunks: list[Any] | tuple[Any, ...]) -> tuple[str, str, bool]:
    text, ended, called = [], "", False
    for chunk in chunks:
        piece, end, calls = answer_of(chunk) if isinstance(chunk, Mapping) else ("", "", False)
        if isinstance(chunk, Mapping) and chunk.get("type") == "response.output_text.delta":
            piece = _word(chunk.get("delta"))
        text.append(piece)
        ended, called = end or ended, called or calls
    return "".join(text), ended, called


def _usage(response: Any, row: Row) -> Usage | None:
    if isinstance(response, list | tuple):
        stream = StreamUsage()
        for chunk in response:
            stream.add(chunk)
        found = stream.usage
    else:
        found = usage_of(response) if response is not None else None
    found = found or usage_of(row) or usage_of(_parsed(first(row, "usage", "token_usage")))
    return found if found is not None and found.total_tokens else None


def _named(rows: list[Row], names: tuple[str, ...], read: Any = None) -> Any:
    for row in rows:
        value = first(row, *names)
        value = read(value) if read and value is not None else value
        if value is not None:
            return value
    return None


def _passages(value: object) -> tuple[str, ...]:
    value = _parsed(value)
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if not isinstance(value, list | tuple):
        return ()
    found = (
        text_of(first(one, "page_content", "text", "content") if isinstance(one, Mapping) else one)
        for one in value
    )
    return tuple(text for text, _ in found if text.strip())


def _parsed(value: Any) -> Any:
    """Read a column that holds JSON as text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _mapping(value: object) -> Row:
    value = _parsed(value)
    return value if isinstance(value, Mapping) else {}


def _word(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and value == value else ""  # noqa: PLR0124


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
