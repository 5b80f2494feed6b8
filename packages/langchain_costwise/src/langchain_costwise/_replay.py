"""A stored answer as the chunks of a stream, as if the model were answering now."""

import json
import re
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

__all__ = ["replay", "whole"]

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
