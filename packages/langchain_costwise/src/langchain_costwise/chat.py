"""A chat model that asks the cache first, also where LangChain does not look at its own."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, overload

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
)
from langchain_core.tools import BaseTool
from pydantic import Field, model_validator

from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_stream import Follow, afan_out, fan_out
from costwise_core.drive import Flow, arun, run
from costwise_core.drive import call as effect
from costwise_core.errors import ConfigError
from langchain_costwise._convert import write_prompt
from langchain_costwise._replay import copied, relayed, replay, told_last, whole
from langchain_costwise.cache import SAID, ModelCall, SemanticCache, with_said

__all__ = ["CachedChatModel"]

# What belongs to a run or to the shape of its answers, so the wrapper takes it over.
_SHARED = (
    "callbacks",
    "custom_get_token_ids",
    "disable_streaming",
    "metadata",
    "output_version",
    "profile",
    "tags",
    "verbose",
)


class CachedChatModel(BaseChatModel):
    """Wrap any chat model so that all ways to call it ask the cache first, streams included.

    A hit is replayed word by word to whoever streams. A stream is stored once it has run to its
    end; one that is abandoned or fails is not. Each call is one run for callbacks and usage
    counters, and the model's own or global LangChain cache is left out of it. Tools, structured
    output and call-time settings go to the model as before.

    Args:
        model: The chat model that is paid for.
        cache: Where answers come from and go to.
        in_flight: The calls on their way: those that ask the same at once share one paid call, and
            its stream. Give several wrappers the same one to share between them.

    Example:
        >>> from costwise_core import MemoryStore
        >>> from langchain_core.language_models import FakeListChatModel
        >>> paid = FakeListChatModel(responses=["A method.", "No idea."])
        >>> model = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore()))
        >>> model.invoke("What is RAG?").text
        'A method.'
        >>> [chunk.text for chunk in model.stream("what is RAG?")]
        ['A ', 'method.', '']
    """

    model: BaseChatModel
    answers: SemanticCache = Field(exclude=True)
    """The cache. LangChain's own slot `cache` stays off, or every answer would go in twice."""
    in_flight: InFlight = Field(default_factory=InFlight, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: dict[str, Any]) -> dict[str, Any]:
        model, cache = values.get("model"), values.get("cache")
        if isinstance(model, BaseChatModel):
            values = {name: getattr(model, name) for name in _SHARED} | values
        if not isinstance(cache, SemanticCache):
            raise ConfigError(f"cache must be a SemanticCache, got {type(cache).__name__}.")
        return {**values, "answers": cache, "cache": False}

    # --- the same to the outside as the model --------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return self.model._llm_type  # noqa: SLF001 - LangChain's interface for model classes

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return dict(self.model._identifying_params)  # noqa: SLF001

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs.pop(SAID, None)
        return self.model._get_invocation_params(stop=stop, **kwargs)  # noqa: SLF001

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kwargs.pop(SAID, None)
        return self.model._get_ls_params(stop=stop, **kwargs)  # noqa: SLF001

    def _resolve_model_profile(self) -> ModelProfile | None:
        return self.model.profile

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's own token ids."""
        return self.model.get_token_ids(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the model's own count of tokens."""
        return self.model.get_num_tokens_from_messages(messages, tools)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools as the model does, and stay in front of it."""
        bound: Runnable[LanguageModelInput, AIMessage] = self._wrapped(
            self.model.bind_tools(tools, tool_choice=tool_choice, **kwargs)
        )
        return bound

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Ask for structured output as the model does, and stay in front of it."""
        bound: Runnable[LanguageModelInput, Any] = self._wrapped(
            self.model.with_structured_output(schema, include_raw=include_raw, **kwargs)
        )
        return bound

    def _wrapped(self, runnable: Any) -> Any:
        """Put this wrapper in the model's place in what the model built around itself."""
        if isinstance(runnable, BaseChatModel):
            return self if runnable is self.model else self.model_copy(update={"model": runnable})
        if isinstance(runnable, RunnableBinding):
            return runnable.model_copy(update={"bound": self._wrapped(runnable.bound)})
        if isinstance(runnable, RunnableSequence):
            steps = [self._wrapped(step) for step in runnable.steps]
            return RunnableSequence(*steps, name=runnable.name)
        if isinstance(runnable, RunnableParallel):
            return RunnableParallel(
                {name: self._wrapped(step) for name, step in runnable.steps__.items()}
            )
        return runnable

    # --- one call ------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        claim = run(self._claim(call, messages, stop, kwargs))
        if isinstance(claim, list):
            return ChatResult(generations=_chat(claim))
        with claim:
            if self.model.rate_limiter:
                self.model.rate_limiter.acquire(blocking=True)
            result = self.model._generate(messages, stop, run_manager, **kwargs)  # noqa: SLF001
            run(self.answers.keep(call, _complete(result), claim))
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        claim = await arun(self._claim(call, messages, stop, kwargs))
        if isinstance(claim, list):
            return ChatResult(generations=_chat(claim))
        with claim:
            if self.model.rate_limiter:
                await self.model.rate_limiter.aacquire(blocking=True)
            result = await self.model._agenerate(messages, stop, run_manager, **kwargs)  # noqa: SLF001
            await arun(self.answers.keep(call, _complete(result), claim))
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        claim = run(self._claim(call, messages, stop, kwargs, live=True))
        if isinstance(claim, list):
            yield from replay(_chat(claim)[0])
        elif isinstance(claim, Follow):
            for chunk in claim:
                yield relayed(chunk)
            yield told_last(claim.hit)
        else:
            paid = self._live(messages, stop, run_manager, kwargs)
            yield from fan_out(claim, paid, copied, self._finish(call, claim))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        claim = await arun(self._claim(call, messages, stop, kwargs, live=True))
        if isinstance(claim, list):
            for chunk in replay(_chat(claim)[0]):
                yield chunk
        elif isinstance(claim, Follow):
            async with aclosing(aiter(claim)) as shared:
                async for chunk in shared:
                    yield relayed(chunk)
            yield told_last(claim.hit)
        else:
            paid = self._alive(messages, stop, run_manager, kwargs)
            stream = afan_out(claim, paid, copied, self._finish(call, claim))
            async with aclosing(stream):
                async for chunk in stream:
                    yield chunk

    @overload
    def _claim(
        self,
        call: ModelCall,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
    ) -> Flow[list[Generation] | Lead]: ...
    @overload
    def _claim(
        self,
        call: ModelCall,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        live: bool,
    ) -> Flow[list[Generation] | Lead | Follow[Any]]: ...
    def _claim(
        self,
        call: ModelCall,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        live: bool = False,
    ) -> Flow[list[Generation] | Lead | Follow[Any]]:
        def renew(lead: Lead) -> Flow[None]:
            # A run of its own, so that it is on the bill, and none that asks the cache again.
            said = {**(call.said or {}), "bypass": True}
            result = yield from effect(
                self.generate, [messages], stop=stop, **{**kwargs, SAID: said}
            )
            yield from self.answers.keep(call, result.generations[0], lead)

        return self.answers.claim(call, self.in_flight, renew=renew, live=live)

    def _finish(
        self, call: ModelCall, lead: Lead
    ) -> Callable[[list[ChatGenerationChunk]], Flow[None]]:
        return lambda chunks: self.answers.keep(call, _merged(chunks), lead)

    def _live(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> Iterator[ChatGenerationChunk]:
        if self.model.rate_limiter:
            self.model.rate_limiter.acquire(blocking=True)
        if self.model._should_stream(async_api=False, **{**kwargs, "stream": True}):  # noqa: SLF001
            yield from self.model._stream(messages, stop, run_manager, **kwargs)  # noqa: SLF001
        else:
            result = self.model._generate(messages, stop, run_manager, **kwargs)  # noqa: SLF001
            yield whole(_complete(result)[0])

    async def _alive(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.model.rate_limiter:
            await self.model.rate_limiter.aacquire(blocking=True)
        if self.model._should_stream(async_api=True, **{**kwargs, "stream": True}):  # noqa: SLF001
            async for chunk in self.model._astream(messages, stop, run_manager, **kwargs):  # noqa: SLF001
                yield chunk
        else:
            result = await self.model._agenerate(messages, stop, run_manager, **kwargs)  # noqa: SLF001
            yield whole(_complete(result)[0])

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> ModelCall:
        """Take out what the caller said, and write the call as LangChain writes it for a cache."""
        return ModelCall(
            said=kwargs.pop(SAID, None),
            tools=bool(kwargs.get("tools") or kwargs.get("functions")),
            prompt=write_prompt(messages),
            llm_string=self.model._get_llm_string(stop=stop, **kwargs),  # noqa: SLF001
        )

    # --- the caller's config, which a direct call does not pass on -------------------------------

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer from the cache, or ask the model and keep its answer."""
        return super().invoke(input, config, stop=stop, **with_said(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Do what `invoke` does, without blocking the event loop."""
        return await super().ainvoke(input, config, stop=stop, **with_said(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Replay from the cache, or pass the model's stream on and keep it once it is complete."""
        yield from super().stream(input, config, stop=stop, **with_said(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Do what `stream` does, without blocking the event loop."""
        async for chunk in super().astream(input, config, stop=stop, **with_said(config, kwargs)):
            yield chunk

    def stream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what `stream` does, as events."""
        return super().stream_events(input, config, **with_said(config, kwargs))

    def astream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what `astream` does, as events."""
        return super().astream_events(input, config, **with_said(config, kwargs))


def _chat(found: Sequence[Generation]) -> list[ChatGeneration]:
    generations = [
        item
        if isinstance(item, ChatGeneration)
        else ChatGeneration(
            message=AIMessage(content=item.text), generation_info=item.generation_info
        )
        for item in found
    ]
    for item in generations:
        item.message.id = None  # LangChain gives the message the id of this run
    return generations


def _complete(result: ChatResult) -> list[ChatGeneration]:
    """Return the generations with what the model said about all of them at once."""
    return [
        item.model_copy(
            update={
                "generation_info": {**(result.llm_output or {}), **(item.generation_info or {})}
            }
        )
        for item in result.generations
    ]


def _merged(chunks: list[ChatGenerationChunk]) -> list[ChatGenerationChunk]:
    whole = merge_chat_generation_chunks(chunks)
    return [whole] if whole else []
