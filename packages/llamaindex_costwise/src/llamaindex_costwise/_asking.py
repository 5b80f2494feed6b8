"""What routing knows of LlamaIndex's LLMs, requests and answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.llm import LLM

from costwise_core.budget.bounds import bound_in
from costwise_core.budget.payment import sent_tokens
from costwise_core.context import current_request
from costwise_core.errors import ConfigError, nearest
from costwise_core.passages import Passage
from costwise_core.route.portable import ending
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import CAPABILITIES, Ask, Candidate, Route
from costwise_core.tracking import current_tags
from llamaindex_costwise._convert import text_of
from llamaindex_costwise._ending import finish_reason
from llamaindex_costwise._request import messages_question, prompt_question
from llamaindex_costwise._spending import Sent, innermost
from llamaindex_costwise._usage import reported_usage

__all__ = [
    "RenderedMessages",
    "RenderedPrompt",
    "ask_of",
    "candidate_of",
    "provider_of",
    "routes_of",
]

Prompt = str | Sequence[ChatMessage]

_INSTRUCTIONS: Final = (MessageRole.SYSTEM, MessageRole.DEVELOPER)
_RESULTS: Final = (MessageRole.TOOL, MessageRole.FUNCTION)
_FORMATS: Final = ("response_format", "response_schema", "format")


class RenderedMessages(list[ChatMessage]):
    """Messages made from a template, with what went into it: the question, and the context."""

    def __init__(self, messages: Sequence[ChatMessage], variables: Mapping[str, Any]) -> None:
        super().__init__(messages)
        self.variables = variables


class RenderedPrompt(str):
    """A prompt made from a template, with what went into it."""

    __slots__ = ("variables",)
    variables: Mapping[str, Any]

    def __new__(cls, prompt: str, variables: Mapping[str, Any]) -> "RenderedPrompt":
        """Make the string and attach what went into it."""
        self = super().__new__(cls, prompt)
        self.variables = variables
        return self


def routes_of(models: Mapping[str, LLM], given: Iterable[Route]) -> list[Route]:
    """Return a route for each LLM: what was given, and for the rest what the LLM says of itself.

    Raises:
        ConfigError: if a route was given for an LLM that is not there.
    """
    said = {route.name: route for route in given}
    for name in said:
        if name not in models:
            raise ConfigError(
                f"there is a route {name!r} and no model of that name; models are "
                f"{', '.join(models)}.{nearest(name, models)}"
            )
    return [_route(said.get(name) or Route(name=name), llm) for name, llm in models.items()]


def _route(given: Route, llm: LLM) -> Route:
    told = llm.metadata
    able = frozenset(CAPABILITIES) - (set() if told.is_function_calling_model else {"tools"})
    # LlamaIndex's own default stands where nobody said how large the window is.
    known = told.context_window > 0 and told.context_window != DEFAULT_CONTEXT_WINDOW
    window = told.context_window if known else None
    return replace(
        given,
        model=given.model or told.model_name,
        context_window=given.context_window or window,
        capabilities=able if given.capabilities is None else given.capabilities,
        tags=given.tags | {provider_of(llm)},
    )


def provider_of(llm: LLM) -> str:
    """Return whose messages an LLM reads and writes: the class behind all wrappers."""
    return innermost(llm).class_name()


def ask_of(
    prompt: Prompt,
    kwargs: Mapping[str, Any],
    *,
    model: str,
    prefixes: Prefixes,
    structured: bool = False,
) -> Ask:
    """Return a request as routing sees it.

    Args:
        prompt: The prompt or messages.
        kwargs: The call's arguments.
        model: Whose tokenizer counts.
        prefixes: What is known of conversations' last prompts.
        structured: True where an object is asked for.
    """
    sent = Sent.of(prompt, kwargs)
    messages = [] if isinstance(prompt, str) else list(prompt)
    variables: Mapping[str, Any] = getattr(prompt, "variables", {})
    tokens = sent_tokens(sent.texts, model, offered=sent.offered, media=sent.media)
    conversation = _conversation()
    share = prefixes.shared(conversation, [sent.offered, *sent.texts])
    needs = {
        "tools": bool(kwargs.get("tools") or kwargs.get("functions")),
        "json": structured or any(kwargs.get(name) for name in _FORMATS),
        "images": _has(messages, "image"),
        "audio": _has(messages, "audio"),
    }
    return Ask(
        question=str(variables.get("query_str") or "") or _question(prompt),
        system="\n".join(one.content or "" for one in messages if one.role in _INSTRUCTIONS),
        prompt_tokens=tokens,
        output_tokens=bound_in(kwargs),
        needs=frozenset(name for name, needed in needs.items() if needed),
        passages=_passages(messages, variables),
        conversation=conversation,
        prefix_tokens=int(share * tokens),
    )


def _question(prompt: Prompt) -> str:
    hint = current_request().question
    if hint:
        return hint
    if isinstance(prompt, str):
        return prompt_question(prompt).text
    last = max((n for n, one in enumerate(prompt) if one.role == MessageRole.USER), default=-1)
    asked = prompt[last].content or "" if prompt else ""
    # Only its text: pictures have no words, and nothing before it is asked now.
    return messages_question([ChatMessage(role=MessageRole.USER, content=asked)]).text


def _passages(messages: Sequence[ChatMessage], variables: Mapping[str, Any]) -> tuple[Passage, ...]:
    """Return what was retrieved: a template's context, and what tools said to the last question."""
    last = max((n for n, one in enumerate(messages) if one.role == MessageRole.USER), default=-1)
    found = [one for one in messages[last + 1 :] if one.role in _RESULTS and one.content]
    tools = [
        Passage(text=str(one.content), id=str(one.additional_kwargs.get("tool_call_id") or n))
        for n, one in enumerate(found)
    ]
    context = str(variables.get("context_str") or "")
    return (*([Passage(text=context, id="context")] if context else ()), *tools)


def _conversation() -> str:
    tags = current_tags()
    if not tags.get("conversation"):
        return ""
    tenant = current_request().tenant or tags.get("tenant", "")
    return f"{tenant}\n{tags['conversation']}"  # two tenants may number theirs alike


def _has(messages: Sequence[ChatMessage], kind: str) -> bool:
    return any(block.block_type == kind for one in messages for block in one.blocks)


def candidate_of(answer: object) -> Candidate:
    """Return what a judge is to see of an answer, be it words or an object."""
    if isinstance(answer, ChatResponse | CompletionResponse):
        blocks = answer.message.blocks if isinstance(answer, ChatResponse) else ()
        return Candidate(
            text=text_of(answer),
            tool_calls=tuple(one.tool_name for one in blocks if isinstance(one, ToolCallBlock)),
            finish_reason=ending(finish_reason(answer.raw)),
            logprobs=tuple(one[0].logprob for one in answer.logprobs or () if one),
            usage=reported_usage(answer),
        )
    return Candidate(text=answer.model_dump_json() if isinstance(answer, BaseModel) else "")
