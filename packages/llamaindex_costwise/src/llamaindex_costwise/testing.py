"""An LLM and an embed model for tests: offline, scripted, with usage, streams, tools and faults."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

__all__ = ["OUTPUT_TOKENS", "ScriptedLLM", "WordEmbedding"]

OUTPUT_TOKENS: Final = 5
"""What `ScriptedLLM` says each of its answers has."""


class ScriptedLLM(FunctionCallingLLM):
    """Answers with a digest of what it was sent, as a provider's class would, without a network.

    It reports usage as OpenAI does (words sent, `OUTPUT_TOKENS` produced), streams word by word,
    calls the first tool it is offered once and answers with the tool's output. With prices for its
    name its calls are on the bill.

    Args:
        model: What it is called on bills.
        temperature: Part of what makes answers exchangeable.
        api_key: A secret, to see that nothing keeps it.
        is_chat: Whether it is a chat model.
        calls_tools: Whether it can call tools.
        usage: Whether it tells its usage.
        finish: Why its answers end.
        reply: Every answer, instead of the digest.
        fail_after: Break off a stream with `ConnectionError` after so many words.

    Example:
        >>> llm = ScriptedLLM(reply="Retrieval, then an answer.")
        >>> str(llm.complete("What is RAG?")), llm.calls
        ('Retrieval, then an answer.', 1)
    """

    model: str = "gpt-4o-mini"
    temperature: float = 0.0
    api_key: str = "sk-very-secret"
    is_chat: bool = True
    calls_tools: bool = True
    usage: bool = True
    finish: str = "stop"
    reply: str | None = None
    fail_after: int | None = Field(default=None, description="Raise after this many pieces.")
    _calls: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "ScriptedLLM"

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return len(self._calls)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=8000,
            num_output=256,
            is_chat_model=self.is_chat,
            is_function_calling_model=self.calls_tools,
            model_name=self.model,
        )

    def _text(self, sent: str) -> str:
        if self.reply is not None:
            return self.reply
        digest = hashlib.sha256(sent.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"Answer number {digest} to what was asked."

    def _raw(self, sent: str, finish: str | None, *, usage: bool) -> dict[str, Any]:
        raw: dict[str, Any] = {"choices": [{"finish_reason": finish}]}
        if self.usage and usage:
            raw["usage"] = {
                "prompt_tokens": max(1, len(sent.split())),
                "completion_tokens": OUTPUT_TOKENS,
                "total_tokens": max(1, len(sent.split())) + OUTPUT_TOKENS,
            }
        return raw

    def _message(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> ChatMessage:
        tools = kwargs.get("tools")
        if tools and not any(m.role == MessageRole.TOOL for m in messages):
            wanted = tools[0]
            fields = wanted["parameters"].get("properties", {})
            arguments = {
                name: (7 if field.get("type") == "integer" else "seven")
                for name, field in fields.items()
            }
            call = ToolCallBlock(
                tool_call_id="call_1", tool_name=wanted["name"], tool_kwargs=arguments
            )
            return ChatMessage(role="assistant", blocks=[call])
        if tools:
            return ChatMessage(role="assistant", content=f"The tool said {messages[-1].content}")
        return ChatMessage(role="assistant", content=self._text(_sent(messages)))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self._calls.append(("chat", list(messages), kwargs))
        return ChatResponse(
            message=self._message(messages, kwargs),
            raw=self._raw(_sent(messages), self.finish, usage=True),
            additional_kwargs={"prompt_tokens": 1, "completion_tokens": OUTPUT_TOKENS},
        )

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self._calls.append(("achat", list(messages), kwargs))
        return ChatResponse(
            message=self._message(messages, kwargs),
            raw=self._raw(_sent(messages), self.finish, usage=True),
        )

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        self._calls.append(("stream_chat", list(messages), kwargs))

        def gen() -> ChatResponseGen:
            yield from self._pieces(messages, kwargs)

        return gen()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        self._calls.append(("astream_chat", list(messages), kwargs))

        async def gen() -> ChatResponseAsyncGen:
            for piece in self._pieces(messages, kwargs):
                yield piece

        return gen()

    def _pieces(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> ChatResponseGen:
        whole, sent, text = self._message(messages, kwargs), _sent(messages), ""
        if whole.content is None:
            yield ChatResponse(
                message=whole, delta="", raw=self._raw(sent, "tool_calls", usage=True)
            )
            return
        for number, word in enumerate(re.findall(r"\S+\s*", whole.content)):
            if number == self.fail_after:
                raise ConnectionError("the provider hung up")
            text += word
            message = ChatMessage(role="assistant", blocks=[TextBlock(text=text)])
            yield ChatResponse(message=message, delta=word, raw=self._raw(sent, None, usage=False))
        message = ChatMessage(role="assistant", blocks=[TextBlock(text=text)])
        yield ChatResponse(message=message, delta="", raw=self._raw(sent, self.finish, usage=False))
        # OpenAI's last chunk with stream_options: usage and no choice.
        last = {**self._raw(sent, None, usage=True), "choices": []}
        yield ChatResponse(message=message, delta="", raw=last)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._calls.append(("complete", prompt, kwargs))
        return CompletionResponse(
            text=self._text(prompt), raw=self._raw(prompt, self.finish, usage=True)
        )

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        self._calls.append(("acomplete", prompt, kwargs))
        return CompletionResponse(
            text=self._text(prompt), raw=self._raw(prompt, self.finish, usage=True)
        )

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        self._calls.append(("stream_complete", prompt, kwargs))

        def gen() -> CompletionResponseGen:
            text = ""
            for word in re.findall(r"\S+\s*", self._text(prompt)):
                text += word
                yield CompletionResponse(text=text, delta=word)
            yield CompletionResponse(
                text=text, delta="", raw=self._raw(prompt, self.finish, usage=True)
            )

        return gen()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        self._calls.append(("astream_complete", prompt, kwargs))

        async def gen() -> CompletionResponseAsyncGen:
            text = ""
            for word in re.findall(r"\S+\s*", self._text(prompt)):
                text += word
                yield CompletionResponse(text=text, delta=word)

        return gen()

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(
                ChatMessage(role="user", content=user_msg)
                if isinstance(user_msg, str)
                else user_msg
            )
        return {
            "messages": messages,
            "tools": [
                {"name": t.metadata.name, "parameters": t.metadata.get_parameters_dict()}
                for t in tools
            ],
            "tool_required": tool_required,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=(
                    json.loads(block.tool_kwargs)
                    if isinstance(block.tool_kwargs, str)
                    else block.tool_kwargs
                ),
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        if not calls and error_on_no_tool_call:
            raise ValueError("no tool call")
        return calls


def _sent(messages: Sequence[ChatMessage]) -> str:
    return "\n".join(f"{m.role.value}: {m.content}" for m in messages)


class WordEmbedding(BaseEmbedding):
    """Bag of hashed words, so that reworded questions are near and other questions are not.

    Args:
        dim: How many dimensions the vectors have.
        scale: Their length.

    Example:
        >>> len(WordEmbedding(dim=64).get_query_embedding("What is RAG?"))
        64
    """

    dim: int = 256
    scale: float = 1.0
    _queries: list[str] = PrivateAttr(default_factory=list)
    _texts: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "WordEmbedding"

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dim
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dim] += 1.0
        norm = math.hypot(*vector) or 1.0
        return [x / norm * self.scale for x in vector]

    def _get_query_embedding(self, query: str) -> list[float]:
        self._queries.append(query)
        return self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        self._texts.append(text)
        return self._vector(text)
