"""A chat model that asks the cache first, also where LangChain does not look at its own."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, overload

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from pydantic import Field, model_validator

from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_stream import Follow, afan_out, fan_out
from costwise_core.drive import Flow, arun, run
from costwise_core.drive import call as effect
from costwise_core.errors import ConfigError
from langchain_costwise._convert import write_prompt
from langchain_costwise._replay import copied, relayed, replay, told_last
from langchain_costwise._wrapper import ChatWrapper, aask, alive, ask, complete, live
from langchain_costwise.cache import SAID, ModelCall, SemanticCache

__all__ = ["CachedChatModel"]


class CachedChatModel(ChatWrapper):
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

    answers: SemanticCache = Field(exclude=True)
    """The cache. LangChain's own slot `cache` stays off, or every answer would go in twice."""
    in_flight: InFlight = Field(default_factory=InFlight, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: dict[str, Any]) -> dict[str, Any]:
        cache = values.get("cache")
        if not isinstance(cache, SemanticCache):
            raise ConfigError(f"cache must be a SemanticCache, got {type(cache).__name__}.")
        return {**values, "answers": cache, "cache": False}

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
            result = ask(self.model, messages, stop, run_manager, kwargs)
            run(self.answers.keep(call, complete(result), claim))
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
            result = await aask(self.model, messages, stop, run_manager, kwargs)
            await arun(self.answers.keep(call, complete(result), claim))
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
            paid = live(self.model, messages, stop, run_manager, kwargs)
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
            paid = alive(self.model, messages, stop, run_manager, kwargs)
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

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> ModelCall:
        """Write the call as LangChain writes it for a cache."""
        return ModelCall(
            said=kwargs.get(SAID),
            tools=bool(kwargs.get("tools") or kwargs.get("functions")),
            prompt=write_prompt(messages),
            llm_string=self._get_llm_string(stop=stop, **kwargs),
        )


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


def _merged(chunks: list[ChatGenerationChunk]) -> list[ChatGenerationChunk]:
    whole = merge_chat_generation_chunks(chunks)
    return [whole] if whole else []
