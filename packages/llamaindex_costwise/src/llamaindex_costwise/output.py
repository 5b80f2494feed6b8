"""An LLM whose answers are as long as the task takes, and no longer."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Final, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM

from costwise_core.budget.bounds import bound_in, thinks, without_empty_bounds
from costwise_core.drive import Flow, arun, call, run
from costwise_core.output.profiles import OutputProfile, is_cut_off
from llamaindex_costwise._copies import BoundedCopies, calling
from llamaindex_costwise._ending import finish_reason
from llamaindex_costwise._forwarding import ForwardingLLM
from llamaindex_costwise._spending import innermost, offers

__all__ = ["OutputLimit"]

# All other methods of an LLM come down to these.
_CALLS: Final = (
    *("chat", "achat", "stream_chat", "astream_chat"),
    *("complete", "acomplete", "stream_complete", "astream_complete"),
)
# By what their class, or one it is made from, calls the argument; to others none is sent.
_STOP: Final[Mapping[str, str]] = {"OpenAI": "stop", "Anthropic": "stop_sequences"}
_JSON: Final[Mapping[str, Any]] = {"response_format": {"type": "json_object"}}


class OutputLimit(ForwardingLLM):
    """Wraps an LLM so that its answers are as long as a task takes, and no longer.

    The task's cap is set under the LLM's own name for it, in the place of the LLM's; its
    instruction is added to the system prompt, or put before the prompt of `complete`. OpenAI's
    class and those made from it are given its stop texts and told of JSON, Anthropic's the stop
    texts. An answer that hits the cap is asked for once more with a larger one, and one that is
    empty up to a stop text without it; both calls are on the bill, and the first is the answer if
    the second fails. A stream has been read by then, so it is not asked for again. What happened is
    in the answer's `additional_kwargs["costwise"]["output"]`: `task`, `max_tokens`, `cut_off` (of
    what is shown) and `calls`; of a stream, in the pieces from the one that says how it ended.

    What a call says itself goes first: with a `max_tokens` or `stop` of its own it keeps them, and
    with tools or a schema only the cap is set, as those say what the answer looks like. An LLM that
    thinks before it answers is given room for its thoughts. Put it inside `CachedLLM` and the like.

    Args:
        llm: The LLM that is paid for. One without a setting for the longest answer is only told
            the rest.
        task: `CLASSIFY`, `EXTRACT`, `ANSWER`, `SUMMARISE` or an `OutputProfile` of your own.

    Raises:
        ConfigError: if `llm` is a structured LLM.

    Example:
        >>> from costwise_core import CLASSIFY
        >>> from llama_index.core.llms import MockLLM
        >>> llm = OutputLimit(llm=MockLLM(), task=CLASSIFY)
        >>> answer = llm.chat([ChatMessage("Billing or support? 'My card was charged twice.'")])
        >>> answer.additional_kwargs["costwise"]["output"]["max_tokens"]
        16
    """

    task: OutputProfile = Field(repr=False)
    _copies: BoundedCopies = PrivateAttr(default_factory=BoundedCopies)

    def __init__(self, *, llm: LLM, task: OutputProfile, **kwargs: Any) -> None:
        super().__init__(llm=llm, task=task, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "OutputLimit"

    # --- plain calls --------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `chat`."""
        answer: ChatResponse = run(self._answer("chat", messages, kwargs))
        return answer

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `achat`."""
        answer: ChatResponse = await arun(self._answer("chat", messages, kwargs))
        return answer

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the wrapped LLM's `stream_chat`."""
        asked = self._call(messages, kwargs)
        return self._told(asked.llm.stream_chat(asked.prompt, **asked.kwargs), asked)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_chat`."""
        asked = self._call(messages, kwargs)
        return self._atold(await asked.llm.astream_chat(asked.prompt, **asked.kwargs), asked)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002 - LlamaIndex's signature
        """Answer by the wrapped LLM's `complete`."""
        kwargs["formatted"] = formatted
        answer: CompletionResponse = run(self._answer("complete", prompt, kwargs))
        return answer

    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponse:
        """Answer by the wrapped LLM's `acomplete`."""
        kwargs["formatted"] = formatted
        answer: CompletionResponse = await arun(self._answer("complete", prompt, kwargs))
        return answer

    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Stream from the wrapped LLM's `stream_complete`."""
        asked = self._call(prompt, {**kwargs, "formatted": formatted})
        return self._told(asked.llm.stream_complete(asked.prompt, **asked.kwargs), asked)

    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_complete`."""
        asked = self._call(prompt, {**kwargs, "formatted": formatted})
        return self._atold(await asked.llm.astream_complete(asked.prompt, **asked.kwargs), asked)

    # --- tools and structured output: the wrapped LLM's own ways, each call of them capped --------

    def _tool_caller(self) -> FunctionCallingLLM:
        super()._tool_caller()
        return cast("FunctionCallingLLM", self._structurer())

    def _structurer(self) -> LLM:
        # The schema may stand in the prompt, where nobody sees that it says what is wanted.
        task = self.task
        bare = OutputProfile(name=task.name, max_tokens=task.max_tokens, longest=task.longest)
        only_capped = self.model_copy(update={"task": bare})
        calls = {name: getattr(only_capped, name) for name in _CALLS}
        cap = task.cap(thoughts=_thoughts(self.llm))
        return calling(self._copies.get(self.llm, cap), calls)

    # --- one call -------------------------------------------------------------------------------

    def _answer(
        self, method: str, prompt: str | Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> Flow[Any]:
        """Ask, and ask once more if the answer was cut off."""
        asked = self._call(prompt, kwargs)
        first = yield from call(getattr(asked.llm, method), asked.prompt, **asked.kwargs)
        if not asked.wants_more(first):
            return self._marked(first, asked)
        try:
            again = getattr(asked.larger, method)
            second = yield from call(again, asked.prompt, **asked.again)
        except Exception:  # noqa: BLE001 - the first answer is paid for, and better than none
            return self._marked(first, asked)
        return self._marked(second, asked, calls=2)

    def _call(self, prompt: str | Sequence[ChatMessage], kwargs: dict[str, Any]) -> "_Call":
        """Prepare a call: what it says itself goes first, then the task."""
        kwargs, own = without_empty_bounds(kwargs), bound_in(kwargs)
        thoughts, free = _thoughts(self.llm), not offers(kwargs)
        caps = [own or self.task.cap(again=again, thoughts=thoughts) for again in (False, True)]
        llms = [self.llm if own else self._copies.get(self.llm, cap) for cap in caps]
        if free:
            prompt = _instructed(prompt, self.task.instruction, kwargs)
            kwargs = {**self._format(), **kwargs}
        stop = self._stop(kwargs) if free else {}
        return _Call(
            llm=llms[0],
            larger=llms[1],
            cap=caps[0],
            larger_cap=caps[1],
            prompt=prompt,
            kwargs={**kwargs, **stop},
            again=kwargs,
        )

    def _format(self) -> Mapping[str, Any]:
        return _JSON if self.task.json and "OpenAI" in _family(self.llm) else {}

    def _stop(self, kwargs: Mapping[str, Any]) -> dict[str, list[str]]:
        family = _family(self.llm)
        name = next((argument for one, argument in _STOP.items() if one in family), "")
        if not name or kwargs.get(name):
            return {}
        texts = self.task.stops(blank="Anthropic" not in family, thinks=_thoughts(self.llm) != 0)
        return {name: texts} if texts else {}

    def _told(self, stream: Any, asked: "_Call") -> Generator[Any, None, None]:
        """Say in the last pieces of a stream how it ended."""
        note: dict[str, Any] | None = None
        with closing(stream):
            for piece in stream:
                note = note or self._ending(piece, asked)
                yield _with_note(piece, note) if note else piece

    async def _atold(self, stream: Any, asked: "_Call") -> AsyncGenerator[Any, None]:
        note: dict[str, Any] | None = None
        async with aclosing(stream):
            async for piece in stream:
                note = note or self._ending(piece, asked)
                yield _with_note(piece, note) if note else piece

    def _ending(self, piece: Any, asked: "_Call") -> dict[str, Any] | None:
        reason = _reason(piece)
        return self._note(asked, cut_off=is_cut_off(reason)) if reason else None

    def _marked(self, answer: Any, asked: "_Call", calls: int = 1) -> Any:
        return _with_note(answer, self._note(asked, cut_off=_cut_off(answer), calls=calls))

    def _note(self, asked: "_Call", *, cut_off: bool, calls: int = 1) -> dict[str, Any]:
        cap = asked.larger_cap if calls > 1 else asked.cap
        return {"task": self.task.name, "max_tokens": cap, "cut_off": cut_off, "calls": calls}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """A call as the LLM gets it, and as it gets it the second time."""

    llm: LLM
    larger: LLM
    cap: int
    larger_cap: int
    prompt: Any
    kwargs: dict[str, Any]
    again: dict[str, Any]

    def wants_more(self, answer: Any) -> bool:
        """Tell whether a second try may have what an answer lacks."""
        if _cut_off(answer):
            return self.larger_cap > self.cap and self.larger is not self.llm
        return self.kwargs != self.again and not _produced(answer).strip()


def _thoughts(llm: LLM) -> int | None:
    """Return how many tokens an LLM may think; None for as long as it likes."""
    if "Anthropic" in _family(llm):  # which thinks when it is told to, and for how long
        told = getattr(innermost(llm), "thinking_dict", None) or {}
        off = told.get("type", "disabled") == "disabled"
        return 0 if off else told.get("budget_tokens")
    return None if thinks(llm.metadata.model_name) else 0


def _family(llm: LLM) -> set[str]:
    return {one.__name__ for one in type(innermost(llm)).__mro__}


def _instructed(
    prompt: str | Sequence[ChatMessage], instruction: str, kwargs: Mapping[str, Any]
) -> Any:
    """Add an instruction where it is steady: what comes after it may be cached or not."""
    if not instruction or kwargs.get("formatted"):
        return prompt
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    if not (prompt and prompt[0].role == MessageRole.SYSTEM):
        return [ChatMessage(role=MessageRole.SYSTEM, content=instruction), *prompt]
    first = prompt[0]
    more = TextBlock(text=f"\n\n{instruction}")
    if first.blocks and isinstance(first.blocks[-1], TextBlock):
        last = first.blocks[-1]
        more = last.model_copy(update={"text": f"{last.text}\n\n{instruction}"})
        return [first.model_copy(update={"blocks": [*first.blocks[:-1], more]}), *prompt[1:]]
    return [first.model_copy(update={"blocks": [*first.blocks, more]}), *prompt[1:]]


def _cut_off(answer: Any) -> bool:
    return is_cut_off(_reason(answer))


def _reason(answer: Any) -> str:
    raw = answer.raw
    details = raw.get("incomplete_details") if isinstance(raw, Mapping) else None
    if details is None:
        details = getattr(raw, "incomplete_details", None)
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return str(reason or getattr(details, "reason", None) or finish_reason(raw))


def _produced(answer: Any) -> str:
    if isinstance(answer, CompletionResponse):
        return answer.text
    blocks = answer.message.blocks
    calls = answer.message.additional_kwargs.get("tool_calls") or ()
    return "".join(one.text if isinstance(one, TextBlock) else one.block_type for one in blocks) + (
        "tool" * len(calls)
    )


def _with_note(answer: Any, note: dict[str, Any]) -> Any:
    extras = answer.additional_kwargs
    told = {**extras, "costwise": {**(extras.get("costwise") or {}), "output": note}}
    return answer.model_copy(update={"additional_kwargs": told})
