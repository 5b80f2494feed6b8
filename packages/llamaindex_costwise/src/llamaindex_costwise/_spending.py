"""What a call of a LlamaIndex LLM may cost at most, and what it did cost."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import LLM

from costwise_core.budget.bounds import bound_in, setting_in, thinks
from costwise_core.budget.guard import Budgets
from costwise_core.budget.payment import Payment, digest, sent_tokens
from costwise_core.types import Usage
from costwise_core.usage import StreamUsage, usage_of
from llamaindex_costwise._usage import reports_usage
from llamaindex_costwise.tracking import told_tags

__all__ = [
    "Sent",
    "Told",
    "bounded",
    "innermost",
    "offers",
    "output_bound",
    "payment_for",
]

Answer = ChatResponse | CompletionResponse

# Arguments that are sent besides the messages.
_OFFERED: Final = ("tools", "functions", "response_format", "response_schema", "format")
_MEDIA: Final = ("image", "audio", "video", "document")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What a call sends, as far as it is paid for.

    Args:
        texts: One for each message.
        offered: Tools and schemas.
        media: How many pictures and files there are.
    """

    texts: tuple[str, ...]
    offered: str = ""
    media: int = 0

    @classmethod
    def of(cls, prompt: str | Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> "Sent":
        """Read the arguments of `chat` or `complete`."""
        offered = {name: kwargs[name] for name in _OFFERED if kwargs.get(name)}
        dumped = json.dumps(offered, default=_schema) if offered else ""
        if isinstance(prompt, str):
            return cls(texts=(prompt,), offered=dumped)
        return cls(
            texts=tuple(f"{message.role.value}\n{_paid(message)}" for message in prompt),
            offered=dumped,
            media=sum(_media(message.blocks) for message in prompt),
        )


def offers(kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call sends tools or a schema, in a form that one provider reads."""
    return any(kwargs.get(name) for name in _OFFERED)


def payment_for(
    budgets: Budgets,
    llm: LLM,
    sent: Sent,
    kwargs: Mapping[str, Any],
    most: int,
    *,
    live: bool = False,
) -> Payment:
    """Return the payment for a call.

    Args:
        budgets: The limits.
        llm: The LLM to be called.
        sent: What it is sent.
        kwargs: The call's arguments.
        most: How many tokens are produced at most, where neither call nor LLM says.
        live: True for a stream.
    """
    extras = getattr(innermost(llm), "additional_kwargs", None) or {}
    name = str(kwargs.get("model") or llm.metadata.model_name)
    answers = kwargs.get("n") or extras.get("n") or 1
    return Payment(
        budgets,
        model=name,
        input_tokens=sent_tokens(sent.texts, name, offered=sent.offered, media=sent.media),
        output_tokens=output_bound(llm, kwargs, most) * answers,
        tags={**told_tags(), "prompt": digest(sent.texts)},
        # A model that thinks before it speaks is paid for words that no piece shows.
        live=live and not thinks(name),
    )


def output_bound(llm: LLM, kwargs: Mapping[str, Any], most: int) -> int:
    """Return how many tokens one answer can have: the call's word, else the lower of two."""
    given = bound_in(kwargs)
    if given is not None:
        return given
    own = _own_bound(innermost(llm))
    return most if own is None else min(own, most)


def bounded(llm: LLM, bound: int) -> LLM:
    """Return the LLM with this bound on its answers; the LLM itself is left as it is.

    One that has no setting of a known name comes back unbounded.
    """
    inner = getattr(llm, "llm", None)
    if isinstance(inner, LLM):
        made = bounded(inner, bound)
        return llm if made is inner else llm.model_copy(update={"llm": made})
    name = setting_in(type(llm).model_fields)
    if not name or _own_bound(llm) == bound:
        return llm
    update: dict[str, Any] = {name: bound}
    extras = getattr(llm, "additional_kwargs", None) or {}
    if again := setting_in(extras):  # they win over the setting
        update["additional_kwargs"] = {**extras, again: bound}
    return llm.model_copy(update=update)


def innermost(llm: LLM) -> LLM:
    """Return the LLM behind all wrappers."""
    inner = getattr(llm, "llm", None)
    return innermost(inner) if isinstance(inner, LLM) else llm


class Told:
    """Tells a payment what an answer brings. Each piece of a stream holds all before it."""

    def __init__(self, payment: Payment) -> None:
        self._payment = payment
        self._usage = StreamUsage()
        self._text = self._other = 0

    def note(self, answer: Answer) -> None:
        """Take note of an answer, or of the next piece of one."""
        other = ""
        if isinstance(answer, ChatResponse):
            whole = _other(answer.message)
            other, self._other = whole[self._other :], max(self._other, len(whole))
        new = answer.delta
        if new is None:
            text = answer.text if isinstance(answer, CompletionResponse) else _text(answer.message)
            new = text[self._text :]
        self._text += len(new)
        self._payment.note(new + other, self._reported(answer))
        if _is_hit(answer):
            self._payment.free()

    def _reported(self, answer: Answer) -> Usage | None:
        raw, extras = answer.raw, answer.additional_kwargs
        # Looked at closely only where something may be: it is paid for with each piece.
        begins = isinstance(raw, Mapping) and "message" in raw
        if not extras and not begins and not reports_usage(raw):
            return None
        self._usage.add(raw)
        return self._usage.usage or usage_of(extras)


def _is_hit(answer: Answer) -> bool:
    told = answer.additional_kwargs.get("costwise")
    return isinstance(told, Mapping) and bool(told.get("hit"))


def _own_bound(llm: LLM) -> int | None:
    extras = bound_in(getattr(llm, "additional_kwargs", None) or {})
    name = setting_in(type(llm).model_fields)
    return extras or (bound_in({name: getattr(llm, name)}) if name else None)


def _paid(message: ChatMessage) -> str:
    return _text(message) + _other(message)


def _text(message: ChatMessage) -> str:
    return "".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def _other(message: ChatMessage) -> str:
    """Return what is paid for besides the text, growing at its end only."""
    parts = [part for block in message.blocks for part in _unseen(block)]
    if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
        calls = message.additional_kwargs.get("tool_calls") or ()
        parts += [json.dumps(call, default=_schema) for call in calls]
    return "".join(parts)


def _unseen(block: Any) -> Iterator[str]:
    if isinstance(block, ThinkingBlock):
        yield block.content or ""
    elif isinstance(block, ToolCallBlock):
        args = block.tool_kwargs
        yield block.tool_name + (args if isinstance(args, str) else json.dumps(args, default=str))
    elif isinstance(block, CitableBlock):
        yield f"{block.title} {block.source}"
        for part in block.content:
            yield part.text if isinstance(part, TextBlock) else "".join(_unseen(part))


def _media(blocks: Iterable[Any]) -> int:
    found = 0
    for block in blocks:
        nested = block.content if isinstance(block, CitableBlock) else ()
        found += _media(nested) + (block.block_type in _MEDIA)
    return found


def _schema(value: Any) -> Any:
    # A schema is a class, a call that a client parsed is an object.
    make = getattr(value, "model_json_schema" if isinstance(value, type) else "model_dump", None)
    return make() if callable(make) else repr(value)
