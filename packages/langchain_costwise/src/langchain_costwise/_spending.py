"""What a call of a LangChain model may cost at most, and what it did cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import Generation

from costwise_core.budget.bounds import bound_in, is_bound, setting_in, thinks
from costwise_core.budget.guard import Budgets
from costwise_core.budget.payment import Payment, digest, sent_tokens
from costwise_core.context import RequestContext
from costwise_core.tracking import TAGS
from costwise_core.types import Usage
from langchain_costwise._answers import usage_of
from langchain_costwise._wrapper import TOLD_TAGS, ChatWrapper
from langchain_costwise.cache import SAID

__all__ = [
    "HELD_BY",
    "OFFERED",
    "bounded",
    "innermost",
    "input_tokens",
    "is_hit",
    "media_in",
    "model_name",
    "offered_text",
    "output_bound",
    "payment_for",
    "payment_from_run",
    "produced",
    "reported",
    "texts_sent",
]

HELD_BY: Final = "costwise_budgets"
"""Under which invocation parameter a wrapper says in which budgets it holds its calls."""
OFFERED: Final = ("tools", "functions", "response_format", "response_schema", "format")
"""Arguments that are sent besides the messages, in a form that one provider reads."""


def payment_for(
    budgets: Budgets,
    model: BaseChatModel,
    messages: Sequence[BaseMessage],
    kwargs: Mapping[str, Any],
    most: int,
    *,
    live: bool = False,
) -> Payment:
    """Return the payment for a call.

    Args:
        budgets: The limits.
        model: The model to be called.
        messages: The prompt.
        kwargs: The call's arguments, with what a `ChatWrapper` was told.
        most: How many tokens are produced at most, where neither call nor model says.
        live: True for a stream.
    """
    answers = kwargs.get("n") or getattr(model, "n", None) or 1
    name = model_name(model, kwargs)
    return _payment(
        budgets,
        name,
        messages,
        kwargs,
        output_bound(model, kwargs, most) * answers,
        # A model that thinks before it speaks is paid for words that no piece shows.
        live=live and not (model.profile or {}).get("reasoning_output", thinks(name)),
    )


def _payment(
    budgets: Budgets,
    name: str,
    messages: Sequence[BaseMessage],
    kwargs: Mapping[str, Any],
    most: int,
    *,
    live: bool = False,
) -> Payment:
    texts = texts_sent(messages)
    return Payment(
        budgets,
        model=name,
        input_tokens=input_tokens(name, messages, kwargs),
        output_tokens=most,
        tags={**_tags(kwargs), "prompt": digest(texts)},
        live=live,
    )


def input_tokens(name: str, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> int:
    """Return how many tokens are sent to a model, rather too many than too few."""
    return sent_tokens(
        texts_sent(messages),
        name,
        offered=offered_text(kwargs),
        media=sum(len(media_in(message)) for message in messages),
    )


def texts_sent(messages: Sequence[BaseMessage]) -> list[str]:
    """Return what is sent of each message, as text."""
    return [_sent(message) for message in messages]


def offered_text(kwargs: Mapping[str, Any]) -> str:
    """Return the tools and schemas that are sent besides, as text."""
    offered = {key: kwargs[key] for key in OFFERED if kwargs.get(key)}
    return json.dumps(offered, default=_schema) if offered else ""


def payment_from_run(
    budgets: Budgets, messages: Sequence[BaseMessage], told: Mapping[str, Any], most: int
) -> Payment:
    """Return the payment for a call that only callbacks see.

    Args:
        budgets: The limits.
        messages: The prompt.
        told: What LangChain tells a handler besides.
        most: How many tokens to expect where the settings do not say.
    """
    params, metadata = told.get("invocation_params") or {}, told.get("metadata") or {}
    names = (metadata.get("ls_model_name"), *(params.get(key) for key in ("model_name", "model")))
    name = _first_text(names, str(params.get("_type", "")))
    tags = {key: metadata[key] for key in TAGS if isinstance(metadata.get(key), str)}
    most = bound_in(params) or most
    return _payment(
        budgets, name, messages, {**params, TOLD_TAGS: tags}, most * (params.get("n") or 1)
    )


def model_name(model: BaseChatModel, kwargs: Mapping[str, Any]) -> str:
    """Return the name under which a call is priced."""
    asked = {key: kwargs[key] for key in ("model", "model_name") if kwargs.get(key)}
    told = model._get_ls_params(**asked)  # noqa: SLF001 - LangChain's interface for model classes
    params = model._identifying_params  # noqa: SLF001
    names = (told.get("ls_model_name"), *(params.get(key) for key in ("model_name", "model")))
    return _first_text(names, model._llm_type)  # noqa: SLF001


def output_bound(model: BaseChatModel, kwargs: Mapping[str, Any], most: int) -> int:
    """Return how many tokens one answer can have: the call's word, else the lower of two."""
    given = bound_in(kwargs)
    if given is not None:
        return given
    name = _setting(innermost(model))
    own = getattr(innermost(model), name) if name else None
    return min(own, most) if is_bound(own) else most


def bounded(model: BaseChatModel, bound: int) -> BaseChatModel:
    """Return the model with this bound on its answers; the model itself is left as it is.

    A model that has no setting of a known name comes back unbounded.
    """
    if isinstance(model, ChatWrapper):
        return model.model_copy(update={"model": bounded(model.model, bound)})
    name = _setting(model)
    if not name or getattr(model, name) == bound:
        return model
    return model.model_copy(update={name: bound})


def produced(message: BaseMessage) -> str:
    """Return all that a message or a piece of one holds and that is paid for, as text."""
    parts = [_text(message.content)]
    if isinstance(message, AIMessage):
        chunks = getattr(message, "tool_call_chunks", None)
        calls: Sequence[Mapping[str, Any]] = chunks or message.tool_calls
        for call in calls:
            args = call.get("args") or ""
            parts += [call.get("name") or "", args if isinstance(args, str) else json.dumps(args)]
        thought = message.additional_kwargs.get("reasoning_content")
        parts.append(thought if isinstance(thought, str) else "")
    return "".join(parts)


def reported(generations: Sequence[Generation]) -> Usage | None:
    """Return the tokens that the provider reports for one call."""
    return usage_of(generations[0]) if generations else None


def is_hit(generations: Sequence[Generation]) -> bool:
    """Tell whether an answer came from a cache: costwise's, or LangChain's, which writes cost 0."""
    message = getattr(generations[0], "message", None) if generations else None
    if not isinstance(message, AIMessage):
        return False
    told = message.response_metadata.get("costwise")
    hit = isinstance(told, Mapping) and bool(told.get("hit"))
    usage: Mapping[str, Any] = message.usage_metadata or {}
    return hit or usage.get("total_cost") == 0


def _tags(kwargs: Mapping[str, Any]) -> dict[str, str]:
    tenant = RequestContext().override(kwargs.get(SAID) or {}).tenant
    return {**({"tenant": tenant} if tenant else {}), **(kwargs.get(TOLD_TAGS) or {})}


def _sent(message: BaseMessage) -> str:
    parts = [message.type, getattr(message, "name", None) or "", produced(message)]
    return "\n".join(part for part in parts if part)


def _text(content: str | list[str | dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        if isinstance(block, str):
            parts.append(block)
        elif not _is_media(block):
            plain = (block.get(key) for key in ("text", "thinking", "reasoning"))
            text = next((value for value in plain if isinstance(value, str)), None)
            parts.append(json.dumps(block, default=str) if text is None else text)
    return "".join(parts)


def media_in(message: BaseMessage) -> list[str]:
    """Return the kinds of the pictures, sounds and files in a message, as its blocks call them."""
    return [
        str(block.get("type"))
        for block in message.content
        if isinstance(block, dict) and _is_media(block)
    ]


def _is_media(block: Mapping[str, Any]) -> bool:
    kind = str(block.get("type", ""))
    return kind.startswith(("image", "audio", "input_audio", "video", "file", "document", "media"))


def innermost(model: BaseChatModel) -> BaseChatModel:
    """Return the model behind all wrappers."""
    return innermost(model.model) if isinstance(model, ChatWrapper) else model


def _setting(model: BaseChatModel) -> str:
    return setting_in(type(model).model_fields)


def _first_text(values: Iterable[object], otherwise: str) -> str:
    return next((value for value in values if isinstance(value, str) and value), otherwise)


def _schema(value: Any) -> Any:
    make = getattr(value, "model_json_schema", None)
    return make() if callable(make) else repr(value)
