"""A chat model for tests: offline, scripted, with usage, streams, tools and faults."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

__all__ = ["ScriptedChatModel"]


class ScriptedChatModel(BaseChatModel):
    """Answers from a script without a network, as a provider's class would.

    It reports usage (words, so that a test can count them), streams word by word, calls the first
    tool it is offered (or the one it is told to) and answers from a tool's result. With prices for
    its name (`costwise_core.testing.fakes.PRICES`) its calls are on the bill.

    Args:
        model_name: What it is called on bills.
        script: Answers by question; any other question gets a sentence with the call's number.
        tell: Why the answer ended, as `generation_info` says it.
        extra: The message's `additional_kwargs`.
        fail_after: Break off a stream with `ConnectionError` after so many words.
        latency: Seconds each call takes.
        asked: The questions so far.

    Example:
        >>> model = ScriptedChatModel(script={"What is RAG?": "Retrieval, then an answer."})
        >>> model.invoke("What is RAG?").text, model.invoke("And now?").text
        ('Retrieval, then an answer.', 'This is answer 2.')
        >>> [chunk.text for chunk in model.stream("What is RAG?")][:2]
        ['Retrieval, ', 'then ']
    """

    model_name: str = "scripted-1"
    script: dict[str, str] = Field(default_factory=dict)
    tell: dict[str, Any] = Field(default_factory=lambda: {"finish_reason": "stop"})
    extra: dict[str, Any] = Field(default_factory=dict)
    fail_after: int | None = None
    latency: float = 0.0
    asked: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(ls_provider="scripted", ls_model_type="chat", ls_temperature=0.0)
        params["ls_max_tokens"] = 100
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        if stop:
            params["ls_stop"] = stop
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        return self.bind(
            tools=[convert_to_openai_tool(tool) for tool in tools],
            tool_choice=tool_choice,
            **kwargs,
        )

    def _answer(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        time.sleep(self.latency)
        question = messages[-1].text
        self.asked.append(question)
        message = AIMessage(
            content=self.script.get(question, f"This is answer {len(self.asked)}."),
            additional_kwargs=dict(self.extra),
            response_metadata={"model_name": kwargs.get("model", self.model_name)},
        )
        tools = {tool["function"]["name"]: tool["function"] for tool in kwargs.get("tools", ())}
        if tools and not isinstance(messages[-1], ToolMessage):
            chosen = tools.get(kwargs.get("tool_choice") or "", next(iter(tools.values())))
            args = _arguments(chosen["parameters"].get("properties", {}), question)
            message.content = ""
            message.tool_calls = [
                {
                    "name": chosen["name"],
                    "args": args,
                    "id": f"paid_{len(self.asked)}",
                    "type": "tool_call",
                }
            ]
        sent = sum(len(item.text.split()) for item in messages)
        made = len(message.text.split()) + len(message.tool_calls)
        message.usage_metadata = UsageMetadata(
            input_tokens=sent, output_tokens=made, total_tokens=sent + made
        )
        return message

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self._answer(messages, kwargs)
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info=dict(self.tell))],
            llm_output={"id": f"chatcmpl-{len(self.asked)}", "token_usage": {"prompt_tokens": 1}},
        )

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._answer(messages, kwargs)
        for n, word in enumerate(re.findall(r"\S+\s*", message.text)):
            if n == self.fail_after:
                raise ConnectionError("the line went dead")
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(name=call["name"], args=_json(call["args"]), id=call["id"], index=n)
            for n, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                tool_call_chunks=calls,
                additional_kwargs=message.additional_kwargs,
                response_metadata=message.response_metadata,
                usage_metadata=message.usage_metadata,
                chunk_position="last",
            ),
            generation_info=dict(self.tell),
        )


def _arguments(properties: dict[str, Any], question: str) -> dict[str, Any]:
    return {
        name: 3 if schema.get("type") == "integer" else question
        for name, schema in properties.items()
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
