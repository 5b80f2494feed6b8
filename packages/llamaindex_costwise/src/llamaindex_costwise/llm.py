"""An LLM that answers from a cache where it may, and is the LLM it wraps in every other respect."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate

from costwise_core.cache import VOLATILE, Cache, Volatile, fingerprint
from costwise_core.context import current_request
from costwise_core.dedup import InFlight
from costwise_core.drive import arun, run
from costwise_core.types import Scope
from llamaindex_costwise._forwarding import ForwardingLLM
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


class CachedLLM(ForwardingLLM):
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

    cache: Cache = Field(exclude=True, repr=False)
    require: tuple[str, ...] = ()
    in_flight: InFlight = Field(default_factory=InFlight, exclude=True, repr=False)
    volatile: tuple[Volatile, ...] = Field(default=VOLATILE, exclude=True, repr=False)

    def __init__(self, *, llm: LLM, cache: Cache, **kwargs: Any) -> None:
        super().__init__(llm=llm, cache=cache, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CachedLLM"

    # --- plain calls --------------------------------------------------------------------------

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

    def _tool_caller(self) -> FunctionCallingLLM:
        caller = super()._tool_caller()
        self.cache.count_miss("tools", "the call offers tools")
        return caller

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
            reason = "bypass" if context.uncached else unfit_request(messages, kwargs)
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
