"""An LLM that answers from a cache where it may, and is the LLM it wraps in every other respect."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any, TypeVar

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
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.tools import BaseTool

from costwise_core.cache import VOLATILE, Cache, Volatile, fingerprint
from costwise_core.context import current_request
from costwise_core.dedup import InFlight
from costwise_core.drive import arun, run
from costwise_core.errors import ConfigError
from costwise_core.types import Scope
from llamaindex_costwise._request import (
    MARK,
    UnstableModelError,
    asked_messages,
    asked_prompt,
    facts_of,
    messages_question,
    prompt_question,
    settings_of,
    unfit_request,
)
from llamaindex_costwise._through import Request, Through

__all__ = ["CachedLLM"]


RenderedT = TypeVar("RenderedT", list[ChatMessage], str)

# Settings and synthesizers set these on the outermost LLM only; they mean the one that is called.
_SHARED = (
    "callback_manager",
    "completion_to_prompt",
    "messages_to_prompt",
    "output_parser",
    "pydantic_program_mode",
    "query_wrapper_prompt",
    "rate_limiter",
    "system_prompt",
)


class CachedLLM(FunctionCallingLLM):
    """Wraps any LlamaIndex LLM and spares it the questions it has answered before.

    Similarity is measured on the question alone. Everything else (template, retrieved context,
    model with its settings, call arguments, tenant) must match exactly. A conversation before the
    question counts where the question leans on it. Inside query and chat engines the question is
    the template's `query_str`; in bare calls it is found in the last user message. Calls with
    tools, structured output or other input than text go straight to the wrapped LLM, as do
    questions that the cache's admission policy keeps out, and everything when the cache fails.

    The wrapper and the wrapped LLM share callback manager, rate limiter, system prompt and prompt
    functions: set on the wrapper, they reach the LLM that is called.

    Args:
        llm: The LLM that answers what the cache cannot. Not one made by `as_structured_llm`:
            wrap the LLM below it instead.
        cache: Where answers are kept, and the policy for similar questions.
        require: Names of scope fields ("tenant", "corpus") without which nothing is looked up or
            stored; give them with `scoped(tenant=...)`.
        in_flight: The calls on their way: those that ask the same at once share one paid call, and
            its stream. Give several LLMs the same one to share between them.
        volatile: What may differ between two system messages that count as the same; applies to
            bare calls, since a template's system message may hold documents.

    Raises:
        ConfigError: if `llm` is a structured LLM.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> from llamaindex_costwise import Cache, CachedLLM
        >>> from costwise_core import MemoryStore
        >>> llm = CachedLLM(llm=MockLLM(), cache=Cache(MemoryStore()))
        >>> first, second = llm.complete("What is RAG?"), llm.complete("what is RAG?")
        >>> second.text, second.raw["costwise"]["hit"]
        ('What is RAG?', 'exact')
    """

    llm: SerializeAsAny[LLM] = Field(repr=False)
    cache: Cache = Field(exclude=True, repr=False)
    require: tuple[str, ...] = ()
    in_flight: InFlight = Field(default_factory=InFlight, exclude=True, repr=False)
    volatile: tuple[Volatile, ...] = Field(default=VOLATILE, exclude=True, repr=False)

    def __init__(self, *, llm: LLM, cache: Cache, **kwargs: Any) -> None:
        if isinstance(llm, StructuredLLM):
            raise ConfigError(
                "CachedLLM cannot wrap a structured LLM; wrap the LLM below it: "
                "CachedLLM(llm=..., cache=...).as_structured_llm(output_cls)."
            )
        shared = {name: getattr(llm, name) for name in _SHARED}
        super().__init__(**{**shared, **kwargs, "llm": llm, "cache": cache})
        for name in kwargs.keys() & set(_SHARED):
            setattr(self, name, kwargs[name])

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _SHARED:
            setattr(self.llm, name, value)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CachedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The wrapped LLM's metadata: prompts are sized and agents chosen by it."""
        return self.llm.metadata

    @field_serializer("llm")
    def _without_secrets(self, llm: LLM) -> dict[str, Any]:
        return llm.to_payload()

    # --- plain calls --------------------------------------------------------------------------
    # None is decorated with LlamaIndex's callbacks: the wrapped LLM's methods are, and a call
    # must not be counted twice.

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer from the cache or by the wrapped LLM's `chat`."""
        request = self._request(messages, kwargs)
        return run(
            self._through.answer(request, ChatResponse, self.llm.chat, list(messages), **kwargs)
        )

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer from the cache or by the wrapped LLM's `achat`."""
        request = self._request(messages, kwargs)
        return await arun(
            self._through.answer(request, ChatResponse, self.llm.chat, list(messages), **kwargs)
        )

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the cache or from the wrapped LLM's `stream_chat`."""
        request = self._request(messages, kwargs)
        return self._through.stream(
            request, ChatResponse, self.llm.stream_chat, list(messages), **kwargs
        )

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream from the cache or from the wrapped LLM's `astream_chat`."""
        request = self._request(messages, kwargs)
        return await self._through.astream(
            request, ChatResponse, self.llm.astream_chat, list(messages), **kwargs
        )

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002 - LlamaIndex's signature
        """Answer from the cache or by the wrapped LLM's `complete`."""
        kwargs["formatted"] = formatted
        request = self._request(prompt, kwargs)
        return run(
            self._through.answer(
                request, CompletionResponse, self.llm.complete, str(prompt), **kwargs
            )
        )

    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponse:
        """Answer from the cache or by the wrapped LLM's `acomplete`."""
        kwargs["formatted"] = formatted
        request = self._request(prompt, kwargs)
        return await arun(
            self._through.answer(
                request, CompletionResponse, self.llm.complete, str(prompt), **kwargs
            )
        )

    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Stream from the cache or from the wrapped LLM's `stream_complete`."""
        kwargs["formatted"] = formatted
        request = self._request(prompt, kwargs)
        return self._through.stream(
            request, CompletionResponse, self.llm.stream_complete, str(prompt), **kwargs
        )

    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Stream from the cache or from the wrapped LLM's `astream_complete`."""
        kwargs["formatted"] = formatted
        request = self._request(prompt, kwargs)
        return await self._through.astream(
            request, CompletionResponse, self.llm.astream_complete, str(prompt), **kwargs
        )

    # --- calls with tools or structured output: always the wrapped LLM --------------------------

    def chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Call the wrapped LLM; an answer that runs tools is not served from a cache."""
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
        self.cache.count_miss("tools", "the call offers tools")
        return self.llm

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Call the wrapped LLM, which may have a JSON mode of its own."""
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
        self.cache.count_miss("structured", "the call asks for structured output")
        return self.llm

    # --- the question, taken where a template still holds it apart ------------------------------
    # `predict`, `stream` and their twins call these two and hand the result to `chat` and co.

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        render = super()._get_messages
        return self._asked(prompt, prompt_args, render, asked_messages)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return self._asked(prompt, prompt_args, super()._get_prompt, asked_prompt)

    def _asked(
        self,
        prompt: BasePromptTemplate,
        prompt_args: dict[str, Any],
        render: Callable[..., RenderedT],
        asked: Callable[[RenderedT, RenderedT, str], RenderedT],
    ) -> RenderedT:
        """Render a template so that the result knows its question, the template's `query_str`."""
        rendered = render(prompt, **prompt_args)
        question = {**prompt.kwargs, **prompt_args}.get("query_str")
        try:
            if not isinstance(question, str) or not question.strip():
                return asked(rendered, rendered, "")
            return asked(rendered, render(prompt, **{**prompt_args, "query_str": MARK}), question)
        except UnstableModelError:  # pictures: the call will pass by anyway
            return rendered
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            return rendered

    # --- what a call asks -----------------------------------------------------------------------

    @property
    def _through(self) -> Through:
        return Through(self.cache, self.in_flight)

    def _request(
        self, prompt: str | Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> Request | None:
        """Return what to look up, or None (counted) if this call must go to the LLM."""
        try:
            context = current_request()
            messages = () if isinstance(prompt, str) else prompt
            reason = "bypass" if context.bypass else unfit_request(messages, kwargs)
            if reason:
                self.cache.count_miss(reason, "the call is not one to cache")
                return None
            if isinstance(prompt, str):
                operation, asked = "completion", prompt_question(prompt, context.question)
            else:
                operation = "chat"
                asked = messages_question(prompt, context.question, self.volatile)
            scope = context.complete(
                Scope(
                    model=self.metadata.model_name,
                    template=settings_of(self.llm, kwargs),
                    context=fingerprint(asked.around, volatile=()),
                    kind=f"llama_index.{operation}",
                ),
                self.require,
            )
        except UnstableModelError as error:
            self.cache.count_miss("unstable_model", str(error))
            return None
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.count_miss("unreadable", f"{type(error).__name__} while reading the request")
            return None
        if isinstance(scope, str):
            self.cache.count_miss("no_scope", scope)
            return None
        facts = facts_of(self.llm, messages, kwargs)
        return Request(asked=asked, scope=scope, facts=facts, operation=operation, prompt=prompt)
