"""A chat model whose answers are as long as the task takes, and no longer."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from costwise_core.budget.bounds import bound_in, thinks, without_empty_bounds
from costwise_core.drive import Flow, arun, call, run
from costwise_core.output.profiles import OutputProfile, is_cut_off
from langchain_costwise._history import MARK
from langchain_costwise._routed import Routed
from langchain_costwise._spending import OFFERED, bounded, innermost, model_name, produced
from langchain_costwise._wrapper import ChatWrapper, aask, alive, ask, complete, live
from langchain_costwise.tracking import unshown

__all__ = ["OutputLimit"]

_JSON: Final[Mapping[str, Mapping[str, Any]]] = {
    "openai-chat": {"response_format": {"type": "json_object"}},
    "azure-openai-chat": {"response_format": {"type": "json_object"}},
    "chat-ollama": {"format": "json"},
}


class OutputLimit(ChatWrapper):
    """Wrap a chat model so that its answers are as long as a task takes, and no longer.

    The task's cap is set under the model's own name for it, in the place of the model's; its stop
    texts go along, and its instruction is added to the system prompt. An answer that hits the cap
    is asked for once more with a larger one, and one that is empty up to a stop text without it:
    the first is then on the bill as costwise's own cost, and kept if the second call fails. A
    stream has been read by then, so it is not asked for again. What happened is in the answer's
    `response_metadata["costwise"]["output"]`: `task`, `max_tokens`, `cut_off` (of what is shown)
    and `calls`.

    What a call says itself goes first: with a `max_tokens` or `stop` of its own it keeps them, and
    with tools or a schema only the cap is set, as those say what the answer looks like. A model
    that thinks before it answers is given room for its thoughts.

    Args:
        model: The chat model that is paid for. One without a setting for the longest answer is
            only told the instruction and the stop texts.
        task: `CLASSIFY`, `EXTRACT`, `ANSWER`, `SUMMARISE` or an `OutputProfile` of your own.

    Example:
        >>> from costwise_core import CLASSIFY
        >>> from langchain_core.language_models import FakeListChatModel
        >>> model = OutputLimit(model=FakeListChatModel(responses=["billing"]), task=CLASSIFY)
        >>> answer = model.invoke("Billing or support? 'My card was charged twice.'")
        >>> answer.text, answer.response_metadata["costwise"]["output"]["max_tokens"]
        ('billing', 16)
    """

    task: OutputProfile = Field(repr=False)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return run(self._answer(self._call(messages, stop, run_manager, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await arun(self._answer(self._call(messages, stop, run_manager, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked = self._call(messages, stop, run_manager, kwargs)
        stream = live(asked.model, asked.messages, asked.stop, run_manager, asked.kwargs)
        with closing(cast("Any", stream)):
            for chunk in stream:
                yield self._told(chunk, asked)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = self._call(messages, stop, run_manager, kwargs)
        stream = alive(asked.model, asked.messages, asked.stop, run_manager, asked.kwargs)
        async with aclosing(cast("Any", stream)):
            async for chunk in stream:
                yield self._told(chunk, asked)

    def _answer(self, asked: "_Call") -> Flow[ChatResult]:
        """Ask, and ask once more if the answer was cut off."""
        write = unshown(model_name(asked.model, asked.kwargs), asked.messages)
        first = yield from call(asked.ask)
        why = asked.wanting(first)
        if not why:
            return self._marked(first, asked)
        try:
            second = yield from call(asked.ask_again)
        except Exception:  # noqa: BLE001 - the first answer is paid for, and better than none
            return self._marked(first, asked)
        write(complete(first), f"not shown: {why}")
        return self._marked(second, asked, calls=2)

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        kwargs: Mapping[str, Any],
    ) -> "_Call":
        """Prepare a call: what it says itself goes first, then the task."""
        kwargs, own = without_empty_bounds(kwargs), bound_in(kwargs)
        free = not any(kwargs.get(name) for name in OFFERED)
        return _Call(
            model=self.model if own else _capped(self.model, self.task),
            larger=self.model if own else _capped(self.model, self.task, again=True),
            cap=own or self.task.cap(thoughts=_thoughts(self.model)),
            larger_cap=own or self.task.cap(again=True, thoughts=_thoughts(self.model)),
            messages=_instructed(messages, self.task.instruction) if free else messages,
            stop=stop,
            task_stop=_stops(self.model, self.task) if free else [],
            run_manager=run_manager,
            kwargs={**_json(self.model), **kwargs} if free and self.task.json else kwargs,
        )

    def _marked(self, result: ChatResult, asked: "_Call", calls: int = 1) -> ChatResult:
        told = self._note(asked, cut_off=_cut_off(result), calls=calls)
        generations = [
            one.model_copy(update={"message": _with_mark(one.message, told)})
            for one in result.generations
        ]
        return result.model_copy(update={"generations": generations})

    def _told(self, chunk: ChatGenerationChunk, asked: "_Call") -> ChatGenerationChunk:
        """Say of the piece that ends a stream how it ended."""
        if not (reason := _reason(chunk)):
            return chunk
        told = self._note(asked, cut_off=is_cut_off(reason), calls=1)
        return chunk.model_copy(update={"message": _with_mark(chunk.message, told)})

    def _note(self, asked: "_Call", *, cut_off: bool, calls: int) -> dict[str, Any]:
        cap = asked.larger_cap if calls > 1 else asked.cap
        return {"task": self.task.name, "max_tokens": cap, "cut_off": cut_off, "calls": calls}

    # --- another task, another model: to caches too -----------------------------------------------

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, "output": repr(self.task)}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return f"{super()._get_llm_string(stop=stop, **kwargs)}---{self.task!r}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """A call as the model gets it, and as it gets it the second time."""

    model: BaseChatModel
    larger: BaseChatModel
    cap: int
    larger_cap: int
    messages: list[BaseMessage]
    stop: list[str] | None
    task_stop: list[str]
    run_manager: Any
    kwargs: Mapping[str, Any]

    def wanting(self, answer: ChatResult) -> str:
        """Say what an answer lacks that a second try may have; "" if nothing."""
        if _cut_off(answer):
            grows = self.larger_cap > self.cap and self.larger is not self.model
            return f"cut off at {self.cap} tokens" if grows else ""
        stopped = bool(self.task_stop) and not self.stop
        blank = not any(produced(one.message).strip() for one in answer.generations)
        return "it began with what was to end it" if stopped and blank else ""

    def ask(self) -> ChatResult:
        """Ask for the answer."""
        stop = self.stop or self.task_stop or None
        return ask(self.model, self.messages, stop, self.run_manager, self.kwargs)

    async def aask(self) -> ChatResult:
        """Do what `ask` does, without blocking the event loop."""
        stop = self.stop or self.task_stop or None
        return await aask(self.model, self.messages, stop, self.run_manager, self.kwargs)

    def ask_again(self) -> ChatResult:
        """Ask for a longer answer; callbacks have heard of the first."""
        return ask(self.larger, self.messages, self.stop, None, self.kwargs)

    async def aask_again(self) -> ChatResult:
        """Do what `ask_again` does, without blocking the event loop."""
        return await aask(self.larger, self.messages, self.stop, None, self.kwargs)


def _capped(model: BaseChatModel, task: OutputProfile, *, again: bool = False) -> BaseChatModel:
    if isinstance(model, Routed):
        return model.over(lambda one: _capped(one, task, again=again))
    return bounded(model, task.cap(again=again, thoughts=_thoughts(model)))


def _thoughts(model: BaseChatModel) -> int | None:
    """Return how many tokens a model may think; None for as long as it likes."""
    paid = innermost(model)
    if _is_claude(paid):  # which thinks when it is told to, and for how long
        told = getattr(paid, "thinking", None) or {}
        off = told.get("type", "disabled") == "disabled"
        return 0 if off else told.get("budget_tokens")
    told = (model.profile or {}).get("reasoning_output")
    thinking = thinks(model_name(model, {})) if told is None else told
    return None if thinking else 0


def _stops(model: BaseChatModel, task: OutputProfile) -> list[str]:
    return task.stops(blank=not _is_claude(innermost(model)), thinks=_thoughts(model) != 0)


def _is_claude(model: BaseChatModel) -> bool:
    kind = f"{model._llm_type} {model_name(model, {})}".lower()  # noqa: SLF001 - LangChain's interface
    return "anthropic" in kind or "claude" in kind


def _json(model: BaseChatModel) -> Mapping[str, Any]:
    return _JSON.get(innermost(model)._llm_type, {})  # noqa: SLF001


def _instructed(messages: Sequence[BaseMessage], instruction: str) -> list[BaseMessage]:
    """Add an instruction to the system prompt, at its end: what comes before may be cached."""
    if not instruction:
        return list(messages)
    if not (messages and isinstance(messages[0], SystemMessage)):
        return [SystemMessage(instruction), *messages]
    content = messages[0].content
    more: Any = (
        f"{content}\n\n{instruction}"
        if isinstance(content, str)
        else [*content, {"type": "text", "text": instruction}]
    )
    return [messages[0].model_copy(update={"content": more}), *messages[1:]]


def _cut_off(result: ChatResult) -> bool:
    return any(is_cut_off(_reason(one)) for one in complete(result))


def _reason(generation: ChatGeneration) -> str:
    """Return why an answer, or a piece of one, ends; "" if it does not say."""
    told = {**(generation.generation_info or {}), **generation.message.response_metadata}
    details = told.get("incomplete_details")
    if isinstance(details, Mapping) and details.get("reason"):
        return str(details["reason"])
    names = ("finish_reason", "stop_reason", "done_reason")
    return next((str(told[name]) for name in names if told.get(name)), "")


def _with_mark(message: BaseMessage, told: dict[str, Any]) -> BaseMessage:
    metadata = message.response_metadata
    marked = {**metadata, MARK: {**metadata.get(MARK, {}), "output": told}}
    return message.model_copy(update={"response_metadata": marked})
