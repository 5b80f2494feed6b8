"""One call of a LangChain model as its provider's endpoint takes it, and its answer back.

Everything is converted by the model's own methods, the very ones its `invoke` uses: they are
private, and there is no other way to what a model would send.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult

from costwise_core.batch.asking import BatchRequest
from costwise_core.errors import ConfigError

__all__ = ["answer_of", "request_of", "sold_by"]

_SOLD = {
    ("langchain_openai", "ChatOpenAI"): "openai",
    ("langchain_anthropic", "ChatAnthropic"): "anthropic",
}
# What LangChain keeps for its traces and takes out again before it asks.
_NOT_SENT = frozenset({"stream", "stream_options", "ls_structured_output_format"})
_HEADERS = frozenset({"betas", "extra_headers", "extra_query", "timeout"})


def sold_by(model: BaseChatModel) -> Literal["openai", "anthropic"]:
    """Say whose batch API takes calls of this model.

    Raises:
        ConfigError: if none does.
    """
    for kind in type(model).__mro__:
        name = _SOLD.get((kind.__module__.partition(".")[0], kind.__name__))
        if name == "openai":
            return "openai"
        if name == "anthropic":
            return "anthropic"
    raise ConfigError(
        f"{type(model).__name__} is not sold in batches; ChatOpenAI and ChatAnthropic are. "
        "Call the model's own batch_as_completed to ask it in real time."
    )


def request_of(model: BaseChatModel, prompt: Any, bound: Mapping[str, Any]) -> BatchRequest:
    """Return what the model would post for a prompt.

    Raises:
        ConfigError: if it would send what a batch cannot carry.
    """
    kind = sold_by(model)
    payload = _payload(model, prompt, bound)
    if headers := _HEADERS & {name for name, value in payload.items() if value}:
        raise ConfigError(
            f"a batch cannot carry {', '.join(sorted(headers))}, which go beside a request."
        )
    body = {name: value for name, value in payload.items() if name not in _NOT_SENT}
    if kind == "anthropic":
        endpoint = "/v1/messages"
        body = {name: value for name, value in body.items() if value is not None}
    elif "messages" in body:
        endpoint = "/v1/chat/completions"
        if inspect.isclass(schema := body.get("response_format")):
            body["response_format"] = _as_json(schema)
    else:
        endpoint = "/v1/responses"
    extra = body.pop("extra_body", None)
    return BatchRequest(endpoint=endpoint, body={**body, **(extra or {})})


def answer_of(
    model: BaseChatModel, prompt: Any, bound: Mapping[str, Any], body: Mapping[str, Any]
) -> AIMessage:
    """Return a response as the message that the model would have given.

    Raises:
        Exception: whatever the model raises for such a response, as for one cut off in its schema.
    """
    result = (
        _anthropic_result(model, body)
        if sold_by(model) == "anthropic"
        else _openai_result(model, prompt, bound, body)
    )
    found = result.generations[0]
    message = found.message
    if not isinstance(message, AIMessage):
        raise ConfigError(f"the response holds no answer, but {type(message).__name__}.")
    message.response_metadata = {
        **(result.llm_output or {}),
        **(found.generation_info or {}),
        **message.response_metadata,
    }
    return message


def _payload(model: BaseChatModel, prompt: Any, bound: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in bound.items() if name not in _NOT_SENT}
    payload: dict[str, Any] = getattr(model, "_get_request_payload")(prompt, **given)  # noqa: B009
    return payload


def _as_json(schema: Any) -> Any:
    from openai.lib._parsing import type_to_response_format_param  # noqa: PLC0415 - an extra

    return type_to_response_format_param(schema)


def _openai_result(
    model: BaseChatModel, prompt: Any, bound: Mapping[str, Any], body: Mapping[str, Any]
) -> ChatResult:
    given: Any = bound.get("response_format")
    schema: Any = given if inspect.isclass(given) else None
    if body.get("object") == "response":
        from langchain_openai.chat_models import base  # noqa: PLC0415
        from openai.types.responses import Response  # noqa: PLC0415

        result: ChatResult = base._construct_lc_result_from_responses_api(  # noqa: SLF001
            Response.model_validate(body),
            schema=schema,
            output_version=getattr(model, "output_version", None),
        )
        return result
    from openai.lib._parsing import parse_chat_completion  # noqa: PLC0415
    from openai.types.chat import ChatCompletion  # noqa: PLC0415

    completion: Any = ChatCompletion.model_validate(body)
    if schema is not None:
        tools = _payload(model, prompt, bound).get("tools") or []
        completion = parse_chat_completion(
            response_format=schema, input_tools=tools, chat_completion=completion
        )
    made: ChatResult = getattr(model, "_create_chat_result")(completion)  # noqa: B009
    return made


def _anthropic_result(model: BaseChatModel, body: Mapping[str, Any]) -> ChatResult:
    from anthropic.types import Message  # noqa: PLC0415 - an extra

    made: ChatResult = getattr(model, "_format_output")(Message.model_validate(body))  # noqa: B009
    return made
