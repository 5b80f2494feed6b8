"""An answer that was not paid for as the chunks of a stream, as if the model were answering now."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from costwise_core.types import Hit
from langchain_costwise._answers import lasting, marker

__all__ = ["copied", "relayed", "replay", "told_last", "whole"]

_WORD = re.compile(r"\s*\S+\s*")


def replay(generation: ChatGeneration) -> Iterator[ChatGenerationChunk]:
    """Yield an answer in pieces; all that is said about it comes with the last one, once."""
    message = generation.message
    assert isinstance(message, AIMessage)  # noqa: S101
    for piece in _pieces(message.content):
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    end = whole(generation)
    end.message.content = "" if isinstance(message.content, str) else []
    yield end


def whole(generation: ChatGeneration) -> ChatGenerationChunk:
    """Return an answer as one last chunk."""
    message = generation.message
    assert isinstance(message, AIMessage)  # noqa: S101 - chat models answer with nothing else
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=message.content,
            name=message.name,
            id=message.id,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            tool_call_chunks=_tool_chunks(message),
            chunk_position="last",
        ),
        generation_info=generation.generation_info,
    )


def copied(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """Return a copy that shares nothing that can be changed."""
    return chunk.model_copy(
        update={
            "message": chunk.message.model_copy(deep=True),
            "generation_info": deepcopy(chunk.generation_info),
        }
    )


def relayed(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """Return a chunk of somebody else's paid stream without what ties it to that call."""
    message = chunk.message
    assert isinstance(message, AIMessageChunk)  # noqa: S101 - chat models stream nothing else
    message.id = None
    message.usage_metadata = None
    message.chunk_position = None
    message.response_metadata = lasting(message.response_metadata)
    chunk.generation_info = lasting(chunk.generation_info) or None
    return chunk


def told_last(hit: Hit) -> ChatGenerationChunk:
    """Return the last chunk of a stream that was shared: no text, no tokens, and why."""
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            response_metadata={"costwise": marker(hit)},
            usage_metadata=UsageMetadata(input_tokens=0, output_tokens=0, total_tokens=0),
            chunk_position="last",
        )
    )


def _pieces(content: str | list[str | dict[str, Any]]) -> Iterator[Any]:
    if isinstance(content, str):
        yield from _words(content)
        return
    for index, block in enumerate(content):
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            for n, word in enumerate(_words(block["text"])):
                # Pieces with one index are put together again; fields beside the text come once.
                rest = block if n == 0 else {"type": block.get("type", "text")}
                yield [{**rest, "text": word, "index": index}]
        else:
            yield [{**block, "index": index} if isinstance(block, dict) else block]


def _words(text: str) -> list[str]:
    return _WORD.findall(text) or ([text] if text else [])


def _tool_chunks(message: AIMessage) -> list[Any]:
    return [
        tool_call_chunk(
            name=item["name"], args=json.dumps(item["args"]), id=item["id"], index=index
        )
        for index, item in enumerate(message.tool_calls)
    ]
