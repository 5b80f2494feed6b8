"""LlamaIndex answers to stored text and back: JSON, no raw provider data, nothing that runs.

What is read back is untrusted: its size is limited, only blocks that hold text are accepted (an
image block with a path would make the reader open a file), and anything odd raises `DamagedError`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from costwise_core.cache.cache import MAX_ANSWER_BYTES
from costwise_core.errors import StoreError
from costwise_core.types import Hit, Usage
from llamaindex_costwise._ending import finish_reason, unknown
from llamaindex_costwise._request import without_usage
from llamaindex_costwise._usage import reported_usage, reports_usage
from llamaindex_costwise.events import marker

__all__ = [
    "Answer",
    "DamagedError",
    "Tail",
    "load",
    "pack",
    "pieces",
    "slices",
    "text_of",
    "unfit_answer",
    "unpack",
]

Answer: TypeAlias = ChatResponse | CompletionResponse
AnswerT = TypeVar("AnswerT", ChatResponse, CompletionResponse)

_VERSION = 1
_PIECES = 24
# Words with the space before them; in scripts that write none, runs of 16 characters.
_WORDS = re.compile(r"\s*\S{1,16}|\s+")
_BLOCKS = {"text": TextBlock, "thinking": ThinkingBlock, "citation": CitationBlock}


class DamagedError(StoreError):
    """A stored answer cannot be read."""


def text_of(answer: Answer) -> str:
    """Return the text of an answer as its deltas spell it, without breaks between blocks."""
    if isinstance(answer, CompletionResponse):
        return answer.text
    return "".join(b.text for b in answer.message.blocks if isinstance(b, TextBlock))


def pack(answer: Answer) -> str:
    """Return an answer as text to store: its blocks, and no usage."""
    if isinstance(answer, CompletionResponse):
        body: dict[str, Any] = {"text": answer.text}
    else:
        body = {
            "role": answer.message.role.value,
            "blocks": [block.model_dump(mode="json") for block in answer.message.blocks],
            "extras": _plain_extras(answer.message),
        }
    return json.dumps({"v": _VERSION, **body})


def load(text: str) -> dict[str, Any]:
    """Read stored JSON.

    Raises:
        DamagedError: if it is too large, no JSON object, or of another version.
    """
    if len(text) > MAX_ANSWER_BYTES:
        raise DamagedError(f"a stored answer has {len(text)} characters, over {MAX_ANSWER_BYTES}.")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError("a stored answer is no JSON.") from error
    if not isinstance(body, dict) or body.get("v") != _VERSION:
        raise DamagedError("a stored answer is of another version.")
    return body


def unpack(hit: Hit, kind: type[AnswerT]) -> AnswerT:
    """Return a fresh answer made from a hit, marked as served from the cache.

    Raises:
        DamagedError: if the stored text cannot be read as this kind of answer.
    """
    body = load(hit.answer)
    note = {"costwise": marker(hit)}
    try:
        answer: Answer
        if "text" in body:
            answer = CompletionResponse(text=body["text"], raw=dict(note), additional_kwargs=note)
        else:
            message = ChatMessage(
                role=MessageRole(body["role"]),
                blocks=[_block(block) for block in body["blocks"]],
                additional_kwargs={k: v for k, v in body["extras"].items() if k != "images"},
            )
            answer = ChatResponse(message=message, raw=dict(note), additional_kwargs=note)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError("a stored answer does not have the expected shape.") from error
    if not isinstance(answer, kind):
        raise DamagedError(f"a stored answer is no {kind.__name__}.")
    return answer


def slices(text: str) -> Iterator[str]:
    """Yield a text in at most two dozen slices that end with words."""
    words = _WORDS.findall(text)
    step = max(1, -(-len(words) // _PIECES))
    for start in range(0, len(words), step):
        yield "".join(words[start : start + step])


def pieces(answer: AnswerT) -> Iterator[AnswerT]:
    """Yield an answer as a stream would have: the text so far, and what is new in `delta`.

    The last piece holds the complete message. Joined deltas are the text.
    """
    whole, text = text_of(answer), ""
    for delta in slices(whole):
        text += delta
        if len(text) == len(whole):
            yield answer.model_copy(update={"delta": delta})
        elif isinstance(answer, CompletionResponse):
            yield answer.model_copy(update={"text": text, "delta": delta})
        else:
            message = ChatMessage(role=answer.message.role, content=text)
            yield answer.model_copy(update={"message": message, "delta": delta})


def unfit_answer(answer: Answer, finish: str) -> str:
    """Return why an answer could not come back as it is, or "" if it could.

    Whether it is worth keeping is for the cache's own policy to say.

    Args:
        answer: The complete answer.
        finish: Its finish reason.
    """
    if unknown(finish):
        return "unknown_ending"
    if isinstance(answer, ChatResponse):
        extras = answer.message.additional_kwargs
        if extras.get("tool_calls") or extras.get("function_call"):
            return "tool_calls"
        if extras.get("refusal"):
            return "refusal"
        for block in answer.message.blocks:
            if isinstance(block, ToolCallBlock):
                return "tool_calls"
            if _text_only(block) is None:
                return "modality"
    return "" if text_of(answer).strip() else "empty"


class Tail:
    """What a stream has brought so far; only a complete and consistent one is worth storing."""

    def __init__(self) -> None:
        self._last: Answer | None = None
        self._deltas: list[str] = []
        self._finish = ""
        self._usage: Usage | None = None
        self._failed = False

    def add(self, piece: Answer) -> None:
        """Take note of one piece. Never raises."""
        try:
            self._last = piece
            self._deltas.append(piece.delta or "")
            self._finish = finish_reason(piece.raw) or self._finish
            if reports_usage(piece.raw):
                self._usage = reported_usage(piece) or self._usage
        except Exception:  # noqa: BLE001 - the stream goes on whatever it brings
            self._failed = True

    def finished(self) -> tuple[Answer, str, Usage | None] | str:
        """Return the whole answer, its finish reason and reported cost, or why it is not stored."""
        if self._failed:
            return "unreadable"
        if self._last is None:
            return "empty_answer"
        joined = "".join(self._deltas)
        # A model whose pieces do not add up to its text would be replayed as something else.
        if joined and joined != text_of(self._last):
            return "inconsistent_stream"
        return self._last, self._finish, self._usage


def _plain_extras(message: ChatMessage) -> dict[str, Any]:
    extras = {}
    for name, value in without_usage(message.additional_kwargs).items():
        try:
            extras[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return extras


def _block(data: Mapping[str, Any]) -> ContentBlock:
    block = _text_only(_BLOCKS[data["block_type"]](**data))
    if block is None:
        raise DamagedError("a stored answer holds a block that is not text.")
    return block


def _text_only(block: Any) -> ContentBlock | None:
    if isinstance(block, CitationBlock) and not isinstance(block.cited_content, TextBlock):
        return None
    return block if isinstance(block, TextBlock | ThinkingBlock | CitationBlock) else None
