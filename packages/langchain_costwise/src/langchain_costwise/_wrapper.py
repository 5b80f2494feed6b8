"""What every chat model that stands in front of another has in common with it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    ensure_config,
)
from langchain_core.tools import BaseTool
from pydantic import model_validator

from langchain_costwise._replay import whole
from langchain_costwise.cache import SAID, with_said
from langchain_costwise.tracking import tags_in

__all__ = [
    "TOLD_TAGS",
    "ChatWrapper",
    "ToldModel",
    "aask",
    "alive",
    "ask",
    "complete",
    "live",
    "told",
    "without_told",
]

TOLD_TAGS: Final = "costwise_tags"
"""Under which argument the tags in a call's config reach `_generate` and `_stream`."""

# What belongs to a run or to the shape of its answers, so the wrapper takes it over.
_SHARED = (
    "cache",
    "callbacks",
    "custom_get_token_ids",
    "disable_streaming",
    "metadata",
    "output_version",
    "profile",
    "tags",
    "verbose",
)


class ToldModel(BaseChatModel):
    """Is told what the caller's config says of a request, which LangChain does not pass on."""

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer one prompt."""
        return super().invoke(input, config, stop=stop, **told(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Do what `invoke` does, without blocking the event loop."""
        return await super().ainvoke(input, config, stop=stop, **told(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer one prompt piece by piece."""
        yield from super().stream(input, config, stop=stop, **told(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Do what `stream` does, without blocking the event loop."""
        stream = super().astream(input, config, stop=stop, **told(config, kwargs))
        async with aclosing(cast("Any", stream)):
            async for chunk in stream:
                yield chunk

    def stream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what `stream` does, as events."""
        return super().stream_events(input, config, **told(config, kwargs))

    def astream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what `astream` does, as events."""
        return super().astream_events(input, config, **told(config, kwargs))


class ChatWrapper(ToldModel):
    """Is the model it wraps to the outside, and one run for callbacks and usage counters.

    A subclass says what a call is: `_generate`, `_stream` and their twins, which call the model
    through `ask`, `live`, `aask` and `alive`.
    """

    model: BaseChatModel

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: dict[str, Any]) -> dict[str, Any]:
        model = values.get("model")
        if isinstance(model, BaseChatModel):
            return {name: getattr(model, name) for name in _SHARED} | values
        return values

    @property
    def model_name(self) -> str:
        """The model's name, by which LangChain's agents know what a model can do."""
        name = self._get_ls_params().get("ls_model_name")
        return name if isinstance(name, str) and name else self._llm_type

    @property
    def _llm_type(self) -> str:
        return self.model._llm_type  # noqa: SLF001 - LangChain's interface for model classes

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return dict(self.model._identifying_params)  # noqa: SLF001

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        return self.model._get_invocation_params(stop=stop, **without_told(kwargs))  # noqa: SLF001

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.model._get_ls_params(stop=stop, **without_told(kwargs))  # noqa: SLF001

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return self.model._get_llm_string(stop=stop, **without_told(kwargs))  # noqa: SLF001

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
        bound: Runnable[LanguageModelInput, AIMessage] = self._in_front(
            self.model.bind_tools(tools, tool_choice=tool_choice, **kwargs)
        )
        return bound

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Ask for structured output as the model does, and stay in front of it."""
        bound: Runnable[LanguageModelInput, Any] = self._in_front(
            self.model.with_structured_output(schema, include_raw=include_raw, **kwargs)
        )
        return bound

    def _in_front(self, runnable: Any) -> Any:
        """Put this wrapper in the model's place in what the model built around itself."""
        if isinstance(runnable, BaseChatModel):
            return self if runnable is self.model else self.model_copy(update={"model": runnable})
        if isinstance(runnable, RunnableBinding):
            return runnable.model_copy(update={"bound": self._in_front(runnable.bound)})
        if isinstance(runnable, RunnableSequence):
            steps = [self._in_front(step) for step in runnable.steps]
            return RunnableSequence(*steps, name=runnable.name)
        if isinstance(runnable, RunnableParallel):
            return RunnableParallel(
                {name: self._in_front(step) for name, step in runnable.steps__.items()}
            )
        return runnable


def told(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Add what a config says of a request to the arguments."""
    config = ensure_config(config)
    thread = config.get("configurable", {}).get("thread_id")
    tags = tags_in({"thread_id": thread, **config["metadata"]})
    kwargs = with_said(config, kwargs)
    return {**kwargs, TOLD_TAGS: {**kwargs.get(TOLD_TAGS, {}), **tags}} if tags else kwargs


def without_told(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are the model's own."""
    return {name: value for name, value in kwargs.items() if name not in {SAID, TOLD_TAGS}}


# --- calling the model, inside the run that is open already -------------------------------------


def ask(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> ChatResult:
    """Return a model's answer; its rate limiter is kept, its cache is not asked."""
    if model.rate_limiter:
        model.rate_limiter.acquire(blocking=True)
    given = _for(model, kwargs)
    # A model set to stream says so in what it sends, so only its stream can be read.
    if model._should_stream(async_api=False, **kwargs):  # noqa: SLF001
        return generate_from_stream(model._stream(messages, stop, run_manager, **given))  # noqa: SLF001
    return model._generate(messages, stop, run_manager, **given)  # noqa: SLF001


async def aask(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> ChatResult:
    """Do what `ask` does, without blocking the event loop."""
    if model.rate_limiter:
        await model.rate_limiter.aacquire(blocking=True)
    given = _for(model, kwargs)
    if model._should_stream(async_api=True, **kwargs):  # noqa: SLF001
        pieces = model._astream(messages, stop, run_manager, **given)  # noqa: SLF001
        return await agenerate_from_stream(pieces)
    return await model._agenerate(messages, stop, run_manager, **given)  # noqa: SLF001


def live(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> Iterator[ChatGenerationChunk]:
    """Return a model's answer as it comes, in one piece if the model does not stream."""
    if model._should_stream(async_api=False, **{**kwargs, "stream": True}):  # noqa: SLF001
        if model.rate_limiter:
            model.rate_limiter.acquire(blocking=True)
        yield from model._stream(messages, stop, run_manager, **_for(model, kwargs))  # noqa: SLF001
    else:
        yield whole(complete(ask(model, messages, stop, run_manager, kwargs))[0])


async def alive(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> AsyncIterator[ChatGenerationChunk]:
    """Do what `live` does, without blocking the event loop."""
    if model._should_stream(async_api=True, **{**kwargs, "stream": True}):  # noqa: SLF001
        if model.rate_limiter:
            await model.rate_limiter.aacquire(blocking=True)
        pieces = model._astream(messages, stop, run_manager, **_for(model, kwargs))  # noqa: SLF001
        try:
            async for chunk in pieces:
                yield chunk
        finally:
            # Who leaves early settles now, not when the garbage is collected.
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
    else:
        yield whole(complete(await aask(model, messages, stop, run_manager, kwargs))[0])


def complete(result: ChatResult) -> list[ChatGeneration]:
    """Return the generations with what the model said about all of them at once."""
    return [
        item.model_copy(
            update={
                "generation_info": {**(result.llm_output or {}), **(item.generation_info or {})}
            }
        )
        for item in result.generations
    ]


def _for(model: BaseChatModel, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(kwargs) if isinstance(model, ToldModel) else without_told(kwargs)
