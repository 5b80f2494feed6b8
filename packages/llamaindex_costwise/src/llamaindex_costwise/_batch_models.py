"""One call of a LlamaIndex LLM as its provider's endpoint takes it, and its answer back.

Everything is converted by the functions and methods that the LLM's own `chat` uses: they are
private, and there is no other way to what it would send.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.tools import BaseTool

from costwise_core.batch.asking import BatchRequest
from costwise_core.errors import ConfigError

__all__ = ["Call", "call_of", "sold_by"]

_SOLD = {
    ("llama_index.llms.openai", "OpenAI"): "openai",
    ("llama_index.llms.anthropic", "Anthropic"): "anthropic",
}
_HEADERS = frozenset({"betas", "extra_headers", "extra_query", "timeout"})


def sold_by(llm: LLM) -> Literal["openai", "anthropic"]:
    """Say whose batch API takes calls of this LLM.

    Raises:
        ConfigError: if none does.
    """
    for kind in type(llm).__mro__:
        name = _SOLD.get((kind.__module__.rpartition(".")[0], kind.__name__))
        if name == "openai" and llm.metadata.is_chat_model:
            return "openai"
        if name == "anthropic":
            return "anthropic"
    raise ConfigError(
        f"{type(llm).__name__} is not sold in batches; OpenAI's chat models and Anthropic are. "
        "Call its own achat to ask it in real time."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """How an LLM is called: with which tools, or for an object of which class.

    Args:
        llm: The LLM itself, without what stands around it.
        given: Its keyword arguments beside the messages.
        output_cls: The class of the answer, or None.
        by_schema: Whether the answer's text is the object, and not a tool call.
    """

    llm: Any
    given: Mapping[str, Any]
    output_cls: type[BaseModel] | None
    by_schema: bool = False

    def asked(self, question: str | Sequence[ChatMessage]) -> BatchRequest:
        """Return what the LLM would post for a question.

        Raises:
            ConfigError: if it would send what a batch cannot carry.
        """
        messages = (
            [ChatMessage(role=MessageRole.USER, content=question)]
            if isinstance(question, str)
            else list(question)
        )
        if sold_by(self.llm) == "openai":
            endpoint, body = "/v1/chat/completions", self._openai_body(messages)
        else:
            endpoint, body = "/v1/messages", self._anthropic_body(messages)
        if headers := _HEADERS & {name for name, value in body.items() if value}:
            raise ConfigError(
                f"a batch cannot carry {', '.join(sorted(headers))}, which go beside a request."
            )
        body = {name: value for name, value in body.items() if _is_given(value)}
        extra = body.pop("extra_body", None)
        return BatchRequest(endpoint=endpoint, body={**body, **(extra or {})})

    def answered(self, body: Mapping[str, Any]) -> ChatResponse:
        """Return a response as the LLM's `chat` would have.

        Raises:
            Exception: if the answer is no object of the class that was asked for.
        """
        response = (
            self._openai_response(body)
            if sold_by(self.llm) == "openai"
            else self._anthropic_response(body)
        )
        if self.output_cls is None:
            return response
        if self.by_schema:
            made = self.output_cls.model_validate_json(response.message.content or "")
        else:
            calls = self.llm.get_tool_calls_from_response(response)
            made = self.output_cls.model_validate(calls[0].tool_kwargs)
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content=made.model_dump_json()),
            raw=made,
            additional_kwargs=response.additional_kwargs,
        )

    def _openai_body(self, messages: list[ChatMessage]) -> dict[str, Any]:
        from llama_index.llms.openai.utils import (  # noqa: PLC0415 - an extra
            to_openai_message_dicts,
        )

        return {
            "messages": to_openai_message_dicts(messages, model=self.llm.model),
            **self.llm._get_model_kwargs(**self.given),  # noqa: SLF001
        }

    def _anthropic_body(self, messages: list[ChatMessage]) -> dict[str, Any]:
        from llama_index.llms.anthropic.utils import (  # noqa: PLC0415 - an extra
            messages_to_anthropic_messages,
        )

        converted, system = messages_to_anthropic_messages(
            messages, self.llm.cache_idx, self.llm.model
        )
        body = {"messages": converted, **self.llm._get_all_kwargs(**self.given)}  # noqa: SLF001
        return {**body, "system": system} if system else body

    def _openai_response(self, body: Mapping[str, Any]) -> ChatResponse:
        from llama_index.llms.openai.utils import (  # noqa: PLC0415 - an extra
            from_openai_message,
            from_openai_token_logprobs,
        )
        from openai.types.chat import ChatCompletion  # noqa: PLC0415

        completion = ChatCompletion.model_validate(body)
        choice = completion.choices[0]
        logprobs = choice.logprobs.content if choice.logprobs else None
        return ChatResponse(
            message=from_openai_message(choice.message, modalities=self.llm.modalities or ["text"]),
            raw=completion,
            logprobs=from_openai_token_logprobs(logprobs) if logprobs else None,
            additional_kwargs=self.llm._get_response_token_counts(completion),  # noqa: SLF001
        )

    def _anthropic_response(self, body: Mapping[str, Any]) -> ChatResponse:
        from anthropic.types import Message  # noqa: PLC0415 - an extra

        message = Message.model_validate(body)
        blocks, citations = self.llm._get_blocks_and_tool_calls_and_thinking(message)  # noqa: SLF001
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks),
            raw=dict(message),
            additional_kwargs={
                "prompt_tokens": message.usage.input_tokens,
                "completion_tokens": message.usage.output_tokens,
                "total_tokens": message.usage.input_tokens + message.usage.output_tokens,
                **({"citations": citations} if citations else {}),
            },
        )


def call_of(llm: LLM, tools: Sequence[BaseTool], given: Mapping[str, Any]) -> Call:
    """Return how an LLM is called with tools, or as a structured LLM.

    Raises:
        ConfigError: if it is not sold in batches.
    """
    output_cls = None
    if isinstance(llm, StructuredLLM):
        output_cls, llm = llm.output_cls, llm.llm
    kind = sold_by(llm)
    inner: Any = llm
    if output_cls is None:
        return Call(
            llm=llm,
            given={**_with_tools(inner, tools), **given} if tools else given,
            output_cls=None,
        )
    if kind == "openai" and inner._should_use_structure_outputs():  # noqa: SLF001
        schema = inner._prepare_schema(dict(given), output_cls)  # noqa: SLF001
        return Call(llm=llm, given=schema, output_cls=output_cls, by_schema=True)
    made = _with_tools(inner, [get_function_tool(output_cls)], tool_required=True)
    return Call(llm=llm, given={**made, **given}, output_cls=output_cls)


def _with_tools(llm: Any, tools: Sequence[BaseTool], **given: Any) -> dict[str, Any]:
    prepared: dict[str, Any] = llm._prepare_chat_with_tools(list(tools), **given)  # noqa: SLF001
    return {name: value for name, value in prepared.items() if name != "messages"}


def _is_given(value: object) -> bool:
    """Tell a value from what the SDKs leave out."""
    return value is not None and type(value).__name__ not in {"NotGiven", "Omit"}
