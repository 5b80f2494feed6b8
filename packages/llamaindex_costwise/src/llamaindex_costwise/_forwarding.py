"""What every LLM that stands in front of another has in common with it."""

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, SerializeAsAny, field_serializer
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import BaseTool

from costwise_core.errors import ConfigError

__all__ = ["SHARED", "ForwardingLLM"]

# Settings and synthesizers set these on the outermost LLM only; they mean the one that is called.
SHARED: Final = (
    "callback_manager",
    "completion_to_prompt",
    "messages_to_prompt",
    "output_parser",
    "pydantic_program_mode",
    "query_wrapper_prompt",
    "rate_limiter",
    "system_prompt",
)


class ForwardingLLM(FunctionCallingLLM):
    """Is the LLM it wraps to the outside; every call goes on to it.

    No method is decorated with LlamaIndex's callbacks: the wrapped LLM's methods are, and a call
    must not be counted twice.
    """

    llm: SerializeAsAny[LLM] = Field(repr=False)

    def __init__(self, *, llm: LLM, **kwargs: Any) -> None:
        if isinstance(llm, StructuredLLM):
            name = type(self).__name__
            raise ConfigError(
                f"{name} cannot wrap a structured LLM; wrap the LLM below it: "
                f"{name}(llm=..., ...).as_structured_llm(output_cls)."
            )
        shared = {name: getattr(llm, name) for name in SHARED}
        super().__init__(**{**shared, **kwargs, "llm": llm})
        for name in kwargs.keys() & set(SHARED):
            setattr(self, name, kwargs[name])

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in SHARED:
            setattr(self.llm, name, value)

    @property
    def metadata(self) -> LLMMetadata:
        """The wrapped LLM's metadata: prompts are sized and agents chosen by it."""
        return self.llm.metadata

    @field_serializer("llm")
    def _without_secrets(self, llm: LLM) -> dict[str, Any]:
        return llm.to_payload()

    # --- plain calls --------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `chat`."""
        return self.llm.chat(messages, **kwargs)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `achat`."""
        return await self.llm.achat(messages, **kwargs)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the wrapped LLM's `stream_chat`."""
        return self.llm.stream_chat(messages, **kwargs)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_chat`."""
        return await self.llm.astream_chat(messages, **kwargs)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002 - LlamaIndex's signature
        """Answer by the wrapped LLM's `complete`."""
        return self.llm.complete(prompt, formatted=formatted, **kwargs)

    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponse:
        """Answer by the wrapped LLM's `acomplete`."""
        return await self.llm.acomplete(prompt, formatted=formatted, **kwargs)

    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Stream from the wrapped LLM's `stream_complete`."""
        return self.llm.stream_complete(prompt, formatted=formatted, **kwargs)

    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_complete`."""
        return await self.llm.astream_complete(prompt, formatted=formatted, **kwargs)

    # --- calls with tools: the wrapped LLM prepares them, and calls itself -----------------------

    def chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Offer tools, as the wrapped LLM does."""
        return self._tool_caller().chat_with_tools(*args, **kwargs)

    async def achat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Do what `chat_with_tools` does, without blocking the event loop."""
        return await self._tool_caller().achat_with_tools(*args, **kwargs)

    def stream_chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponseGen:
        """Do what `chat_with_tools` does, as a stream."""
        return self._tool_caller().stream_chat_with_tools(*args, **kwargs)

    async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponseAsyncGen:
        """Do what `chat_with_tools` does, as an asynchronous stream."""
        return await self._tool_caller().astream_chat_with_tools(*args, **kwargs)

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> list[ToolSelection]:
        """Read tool calls as the wrapped LLM does; a model without tools makes none."""
        if isinstance(self.llm, FunctionCallingLLM):
            return self.llm.get_tool_calls_from_response(
                response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
            )
        if error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but the model cannot call tools.")
        return []

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: FBT001, FBT002
        allow_parallel_tool_calls: bool = False,  # noqa: FBT001, FBT002
        tool_required: bool = False,  # noqa: FBT001, FBT002 - LlamaIndex looks for this name
        **kwargs: Any,
    ) -> dict[str, Any]:
        return self._tool_caller()._prepare_chat_with_tools_compat(  # noqa: SLF001 - same family
            tools,
            user_msg=user_msg,
            chat_history=chat_history,
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
            **kwargs,
        )

    def _tool_caller(self) -> FunctionCallingLLM:
        if not isinstance(self.llm, FunctionCallingLLM):
            raise ConfigError(
                f"{self.llm.class_name()} cannot call tools; use an agent that needs none of it, "
                "such as ReActAgent."
            )
        return self.llm

    # --- structured output: the wrapped LLM may have a JSON mode of its own ---------------------

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Return an object that the wrapped LLM fills in."""
        return self._structurer().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Do what `structured_predict` does, without blocking the event loop."""
        return await self._structurer().astructured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    def stream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Do what `structured_predict` does, as a stream of partial objects."""
        return self._structurer().stream_structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    async def astream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """Do what `structured_predict` does, as an asynchronous stream of partial objects."""
        return await self._structurer().astream_structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    def _structurer(self) -> LLM:
        return self.llm
