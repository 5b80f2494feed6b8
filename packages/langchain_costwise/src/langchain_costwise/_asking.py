"""What routing knows of LangChain's models, requests and answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration

from costwise_core.budget.bounds import bound_in
from costwise_core.errors import ConfigError, nearest
from costwise_core.passages import Passage
from costwise_core.route.portable import ending
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import Ask, Candidate, Route
from costwise_core.tracking import current_tags
from langchain_costwise._answers import usage_of
from langchain_costwise._spending import (
    innermost,
    input_tokens,
    media_in,
    model_name,
    offered_text,
    texts_sent,
)
from langchain_costwise._wrapper import TOLD_TAGS
from langchain_costwise.cache import SAID, request_context

__all__ = ["ask_of", "candidate_of", "provider_of", "routes_of"]

_ABILITIES: Final = {
    "tools": "tool_calling",
    "json": "structured_output",
    "images": "image_inputs",
    "audio": "audio_inputs",
    "reasoning": "reasoning_output",
}
_FORMATS: Final = ("response_format", "response_schema", "format")


def routes_of(models: Mapping[str, BaseChatModel], given: Iterable[Route]) -> list[Route]:
    """Return a route for each model: what was given, the rest as the model says of itself.

    Raises:
        ConfigError: if a route was given for a model that is not there.
    """
    said = {route.name: route for route in given}
    for name in said:
        if name not in models:
            raise ConfigError(
                f"there is a route {name!r} and no model of that name; models are "
                f"{', '.join(models)}.{nearest(name, models)}"
            )
    return [_route(said.get(name) or Route(name=name), model) for name, model in models.items()]


def _route(given: Route, model: BaseChatModel) -> Route:
    profile: Mapping[str, Any] = model.profile or {}
    able = frozenset(one for one, key in _ABILITIES.items() if profile.get(key) is not False)
    if type(innermost(model)).bind_tools is BaseChatModel.bind_tools:
        able -= {"tools"}
    told = profile.get("max_input_tokens")
    window = told if isinstance(told, int) and told > 0 else None
    return replace(
        given,
        model=given.model or model_name(model, {}),
        context_window=given.context_window or window,
        capabilities=able if given.capabilities is None else given.capabilities,
        tags=given.tags | {provider_of(model)},
    )


def provider_of(model: BaseChatModel) -> str:
    """Return LangChain's word for who a model's messages are written for."""
    told = model._get_ls_params().get("ls_provider")  # noqa: SLF001 - LangChain's interface
    return str(told or model._llm_type)  # noqa: SLF001


def ask_of(
    messages: Sequence[BaseMessage],
    kwargs: Mapping[str, Any],
    *,
    model: str,
    prefixes: Prefixes,
) -> Ask:
    """Return a request as routing sees it.

    Args:
        messages: The prompt.
        kwargs: The call's arguments, with what a wrapper was told.
        model: Whose tokenizer counts.
        prefixes: What is known of conversations' last prompts.
    """
    at = max(
        (n for n, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1
    )
    tokens = input_tokens(model, messages, kwargs)
    conversation = _conversation(kwargs)
    share = prefixes.shared(conversation, [offered_text(kwargs), *texts_sent(messages)])
    return Ask(
        question=messages[at].text if messages else "",
        system="\n".join(one.text for one in messages if isinstance(one, SystemMessage)),
        prompt_tokens=tokens,
        output_tokens=bound_in(kwargs),
        needs=_needs(messages, kwargs),
        passages=tuple(
            Passage(text=one.text, id=one.tool_call_id)
            for one in messages[at + 1 :]
            if isinstance(one, ToolMessage)
        ),
        conversation=conversation,
        prefix_tokens=int(share * tokens),
    )


def _conversation(kwargs: Mapping[str, Any]) -> str:
    tags = {**current_tags(), **kwargs.get(TOLD_TAGS, {})}
    if not tags.get("conversation"):
        return ""
    tenant = request_context(kwargs.get(SAID)).tenant or tags.get("tenant", "")
    return f"{tenant}\n{tags['conversation']}"  # two tenants may number theirs alike


def _needs(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> frozenset[str]:
    media = {kind for message in messages for kind in media_in(message)}
    found = {
        "tools": bool(kwargs.get("tools") or kwargs.get("functions")),
        "json": any(kwargs.get(name) for name in _FORMATS),
        "images": any(kind.startswith("image") for kind in media),
        "audio": any("audio" in kind for kind in media),
    }
    return frozenset(name for name, needed in found.items() if needed)


def candidate_of(generation: ChatGeneration) -> Candidate:
    """Return what a judge is to see of an answer."""
    message = generation.message
    told = {**(generation.generation_info or {}), **message.response_metadata}
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    reason = told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason")
    logprobs = told.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return Candidate(
        text=message.text,
        tool_calls=tuple(call["name"] for call in calls),
        finish_reason=ending(str(reason)),
        logprobs=tuple(
            float(one["logprob"])
            for one in tokens or ()
            if isinstance(one, Mapping) and isinstance(one.get("logprob"), int | float)
        ),
        usage=usage_of(generation),
    )
