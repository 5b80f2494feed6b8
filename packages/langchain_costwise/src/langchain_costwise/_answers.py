"""A model's answer as the JSON that is stored, and stored JSON as a fresh answer.

A store is untrusted: what is read back is plain JSON that can only become text and messages from
the assistant, never another class. What identifies the paid call (ids, token counts, headers) is
not kept: it would be counted twice, or tie a later conversation to somebody else's.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final
from uuid import uuid4

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.outputs import ChatGeneration, Generation

from costwise_core.cache.cacheable import CallFacts, before_store
from costwise_core.types import Hit, Usage
from costwise_core.usage import usage_of as read_usage

__all__ = [
    "Written",
    "bounded_json",
    "lasting",
    "marker",
    "read_answers",
    "saved_usage",
    "usage_of",
    "write_answers",
]

MAX_CHARS: Final = 8_000_000
_FORMAT: Final = 1

_CALL_ONLY = frozenset(
    {
        "id",
        "request_id",
        "headers",
        "token_usage",
        "usage",
        "costwise",
        "service_tier",
        "system_fingerprint",
    }
)
# The ways providers say that an answer came to its own end. Any other reason is taken for a cut.
_ENDED = frozenset(
    {
        "stop",
        "end_turn",
        "stop_sequence",
        "eos",
        "eos_token",
        "complete",
        "completed",
        "finished",
        "done",
        "success",
    }
)
_TOOL_ENDS = frozenset(("tool_calls", "tool_call", "tool_use", "function_call"))
_MEDIA = ("image", "image_url", "audio", "video", "file")
_REASONS = ("finish_reason", "stop_reason", "done_reason", "stopReason", "status")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """An answer that can be kept.

    Args:
        answer: The JSON to store.
        text: What a person reads of it.
        usage: What it cost, if that was reported.
        facts: What the cache's admission policy is told about it.
    """

    answer: str
    text: str
    usage: Usage | None
    facts: CallFacts


def write_answers(generations: Sequence[Generation], facts: CallFacts) -> Written | str:
    """Return what to store, or one word on why this cannot be kept.

    Several generations are stored together or not at all.

    Args:
        generations: What the model answered.
        facts: What is known of the call that was made.
    """
    if not generations:
        return "empty"
    written = []
    for generation in generations:
        reason = _unfit(generation)
        if reason:
            return reason
        written.append(_written(generation))
        facts = _with_answer(facts, generation)
    payload = {"format": _FORMAT, "generations": written}
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        if json.loads(text) != payload:
            return "not_json"
    except (TypeError, ValueError):
        return "not_json"
    return Written(
        answer=text,
        text="\n".join(generation.text for generation in generations).strip(),
        usage=usage_of(generations[0]),
        facts=facts,
    )


def read_answers(hit: Hit) -> list[Generation]:
    """Build fresh generations from a hit: new ids, no tokens, and a marker that says why.

    Plain generations (of models that are no chat models) come back exactly as they were.

    Raises:
        ValueError: if the stored text is damaged, foreign or too long.
    """
    payload = bounded_json(hit.answer)
    try:
        if payload["format"] != _FORMAT:
            raise ValueError("the stored answer has another format")
        answers = [_read(item, hit) for item in payload["generations"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the stored answer is not one of this cache") from error
    if not answers:
        raise ValueError("the stored answer is empty")
    return answers


def bounded_json(text: str) -> Any:
    """Parse what came out of a store.

    Raises:
        ValueError: if it is no JSON, nested too deeply or too long.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"a stored answer has more than {MAX_CHARS} characters")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("a stored answer is nested too deeply") from error


def usage_of(generation: Generation) -> Usage | None:
    """Return the tokens a generation reports, None if it reports none."""
    message = getattr(generation, "message", None)
    reports = (
        getattr(message, "usage_metadata", None),
        getattr(message, "response_metadata", None),
        generation.generation_info,
    )
    return next((usage for report in reports if (usage := read_usage(report))), None)


def saved_usage(told: Mapping[str, Any]) -> Usage:
    """Return what a hit's marker says the answer cost when it was paid for."""
    saved = told.get("saved_usage")
    numbers = saved if isinstance(saved, Mapping) else {}
    known: Mapping[str, Any] = {
        field.name: numbers[field.name]
        for field in fields(Usage)
        if isinstance(numbers.get(field.name), int)
    }
    return Usage(**known)


# --- writing ----------------------------------------------------------------------------------


def _unfit(generation: Generation) -> str:
    """Say why nothing can be made of an answer; what may be kept is the admission policy's say."""
    if not isinstance(generation, ChatGeneration):
        return "" if generation.text.strip() else "empty"
    message = generation.message
    if not isinstance(message, AIMessage):
        return "not_an_answer"
    if message.invalid_tool_calls:
        return "invalid_tool_calls"
    if _calls(message) or _refuses(message) or message.text.strip():
        return ""
    return "" if _ending(_told(generation)) else "empty"


def _with_answer(facts: CallFacts, generation: Generation) -> CallFacts:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        ending = _ending(generation.generation_info or {})
        return replace(facts, finish_reason=facts.finish_reason or ending)
    calls = _calls(message)
    ending = "refusal" if _refuses(message) else _ending(_told(generation), calls=calls)
    return replace(
        facts,
        finish_reason=facts.finish_reason or ending,
        tool_calls=facts.tool_calls or calls,
        structured=facts.structured or "parsed" in message.additional_kwargs,
        text_only=facts.text_only and not any(_has_block(message, kind) for kind in _MEDIA),
    )


def _told(generation: Generation) -> Mapping[str, Any]:
    message = getattr(generation, "message", None)
    return {**getattr(message, "response_metadata", {}), **(generation.generation_info or {})}


def _ending(told: Mapping[str, Any], *, calls: bool = False) -> str:
    """Return how an answer broke off, "" if it came to its own end or nothing is said."""
    if told.get("incomplete_details"):
        return "incomplete"
    ends = _ENDED | _TOOL_ENDS if calls else _ENDED
    for name in _REASONS:
        # Enumerations print as "FinishReason.STOP".
        reason = str(told.get(name) or "").rpartition(".")[2].lower()
        if reason and reason not in ends:
            known = not before_store("", "?", call=CallFacts(finish_reason=reason)).allowed
            return reason if known else "incomplete"
    return ""


def _calls(message: AIMessage) -> bool:
    return bool(message.tool_calls or message.additional_kwargs.get("function_call"))


def _refuses(message: AIMessage) -> bool:
    return bool(message.additional_kwargs.get("refusal")) or _has_block(message, "refusal")


def _has_block(message: AIMessage, kind: str) -> bool:
    return isinstance(message.content, list) and any(
        isinstance(block, dict) and block.get("type") == kind for block in message.content
    )


def _written(generation: Generation) -> dict[str, Any]:
    if not isinstance(generation, ChatGeneration):
        return {"text": generation.text, "info": generation.generation_info}
    message = message_chunk_to_message(generation.message)
    assert isinstance(message, AIMessage)  # noqa: S101 - _unfit lets nothing else through
    content = message.content
    if isinstance(content, list):
        content = [
            {k: v for k, v in block.items() if k != "id" or "tool" in str(block.get("type"))}
            if isinstance(block, dict)
            else block
            for block in content
        ]
    return {
        "info": lasting(generation.generation_info),
        "message": {
            "content": content,
            "name": message.name,
            "tool_calls": message.tool_calls,
            "additional_kwargs": message.additional_kwargs,
            "response_metadata": lasting(message.response_metadata),
        },
    }


def lasting(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is said about an answer, less what is true of the paid call only."""
    return {name: value for name, value in (told or {}).items() if name not in _CALL_ONLY}


# --- reading ----------------------------------------------------------------------------------


def _read(item: dict[str, Any], hit: Hit) -> Generation:
    if "message" not in item:
        return Generation(text=item["text"], generation_info=item["info"])
    stored = item["message"]
    fresh = {call["id"]: f"call_{uuid4().hex}" for call in stored["tool_calls"] if call.get("id")}
    stored = _renamed(stored, fresh) if fresh else stored
    message = AIMessage(
        content=stored["content"],
        name=stored["name"],
        tool_calls=stored["tool_calls"],
        additional_kwargs=stored["additional_kwargs"],
        response_metadata={**stored["response_metadata"], "costwise": marker(hit)},
        usage_metadata=UsageMetadata(input_tokens=0, output_tokens=0, total_tokens=0),
        # Message lists replace a message by one with the same id, so an id is served only once.
        id=f"lc_run--{uuid4()}",
    )
    return ChatGeneration(message=message, generation_info=item["info"] or None)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {name: _renamed(item, names) for name, item in value.items()}
    return value


def marker(hit: Hit) -> dict[str, Any]:
    """Return what a served message says about itself in `response_metadata["costwise"]`."""
    # Zeros are left out, except in the two fields everybody looks for.
    saved = {
        name: value
        for name, value in asdict(hit.usage_then).items()
        if value or name in {"input_tokens", "output_tokens"}
    }
    return {
        "hit": hit.tier,
        "cosine": round(hit.cosine, 4) if math.isfinite(hit.cosine) else None,
        "question": hit.question,
        "why": hit.why,
        "age": round(hit.age, 3),
        "saved_usage": saved,
    }
