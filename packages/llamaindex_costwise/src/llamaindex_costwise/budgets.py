"""LLMs that cannot overspend: what a call may cost is held before it is made."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Final, NamedTuple, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr, SerializeAsAny
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from costwise_core.budget.bounds import without_empty_bounds
from costwise_core.budget.guard import Budgets
from costwise_core.budget.payment import Payment, first_that_fits
from costwise_core.drive import Flow, arun, run
from llamaindex_costwise._copies import BoundedCopies, calling, instead
from llamaindex_costwise._forwarding import ForwardingLLM
from llamaindex_costwise._spending import (
    Sent,
    Told,
    innermost,
    offers,
    output_bound,
    payment_for,
)

__all__ = ["BudgetedLLM", "Queue"]

Queue = Callable[[str | Sequence[ChatMessage], dict[str, Any]], object]
"""Takes a prompt or messages and the call's arguments for later, and returns a ticket."""

# All other methods of an LLM come down to these.
_CALLS: Final = (
    *("chat", "achat", "stream_chat", "astream_chat"),
    *("complete", "acomplete", "stream_complete", "astream_complete"),
)


class _Paid(NamedTuple):
    """A call whose cost is held."""

    payment: Payment
    llm: LLM
    kwargs: dict[str, Any]


class BudgetedLLM(ForwardingLLM):
    """Wraps any LlamaIndex LLM so that no way to call it can pass a budget.

    What a call can cost at most is held before it is sent: its prompt, tools and schema, and the
    longest answer it allows. Afterwards what the provider reports is booked, or an estimate where
    it reports nothing; a call that fails is given back. A stream holds 256 tokens at a time; when a
    budget has no room for more it ends with the finish reason "budget", and what was produced is
    the caller's. A model that thinks before it speaks holds all at once.

    Which budgets a call falls under is said by the tags of `track(...)`, and by
    `scoped(tenant=...)`. Retries, fallbacks and steps of one query share what they hold inside
    `with budgets.request():`.

    A hit of a cache reserves nothing where the cache stands in front, as in
    `CachedLLM(llm=BudgetedLLM(...), cache=...)` and `CachedQueryEngine`.

    Args:
        llm: The LLM that is paid for.
        budgets: The limits. Give all LLMs the same one.
        max_output_tokens: The longest answer, where a call does not say `max_tokens` and the LLM
            has no lower bound itself. It is passed to the LLM under the name of its own setting
            (`max_tokens`, `max_new_tokens` and the like); one without any is stopped in streams
            only.
        cheaper: Answers instead, for its own price, where a budget says "downgrade". Where tools or
            a schema are sent, only an LLM of the same class does.
        queue: Is handed the prompt and arguments of a call where a budget says "queue"; its ticket
            is on the error.
        wait: How many seconds a call waits, where a budget says "queue", for a new window or for
            what other calls give back.

    Raises:
        BudgetExceededError: from a call that does not fit; nothing was sent.
        PriceError: from a call, if a budget is in dollars and the model has no known price.
        StoreError: from a call, if the budgets' store cannot be reached.
        ConfigError: if `llm` is a structured LLM.

    Example:
        >>> from costwise_core import Budget, Budgets
        >>> from llama_index.core.llms import MockLLM
        >>> budgets = Budgets(Budget(limit=1, unit="calls", window="day"))
        >>> llm = BudgetedLLM(llm=MockLLM(max_tokens=2), budgets=budgets)
        >>> llm.complete("What is RAG?").text
        'text text'
        >>> llm.complete("What is RAG?")
        Traceback (most recent call last):
            ...
        costwise_core.errors.BudgetExceededError: the budget "1 calls a day" has 0 calls left ...
    """

    budgets: Budgets = Field(exclude=True, repr=False)
    max_output_tokens: int = Field(default=4_096, gt=0)
    cheaper: SerializeAsAny[LLM] | None = Field(default=None, exclude=True, repr=False)
    queue: Queue | None = Field(default=None, exclude=True, repr=False)
    wait: float = Field(default=0.0, ge=0)
    _copies: BoundedCopies = PrivateAttr(default_factory=BoundedCopies)

    def __init__(self, *, llm: LLM, budgets: Budgets, **kwargs: Any) -> None:
        super().__init__(llm=llm, budgets=budgets, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "BudgetedLLM"

    # --- plain calls --------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `chat`."""
        answer: ChatResponse = self._answer("chat", messages, kwargs)
        return answer

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `achat`."""
        answer: ChatResponse = await self._aanswer("achat", messages, kwargs)
        return answer

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the wrapped LLM's `stream_chat`."""
        return _begun(self._stream("stream_chat", messages, kwargs))

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_chat`."""
        return await _abegun(self._astream("astream_chat", messages, kwargs))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002 - LlamaIndex's signature
        """Answer by the wrapped LLM's `complete`."""
        kwargs["formatted"] = formatted
        answer: CompletionResponse = self._answer("complete", prompt, kwargs)
        return answer

    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponse:
        """Answer by the wrapped LLM's `acomplete`."""
        kwargs["formatted"] = formatted
        answer: CompletionResponse = await self._aanswer("acomplete", prompt, kwargs)
        return answer

    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Stream from the wrapped LLM's `stream_complete`."""
        kwargs["formatted"] = formatted
        return _begun(self._stream("stream_complete", prompt, kwargs))

    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_complete`."""
        kwargs["formatted"] = formatted
        return await _abegun(self._astream("astream_complete", prompt, kwargs))

    # --- one call -------------------------------------------------------------------------------

    def _answer(
        self,
        method: str,
        prompt: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> Any:
        paid = run(self._begin(prompt, kwargs))
        with paid.payment:
            answer = getattr(paid.llm, method)(prompt, **paid.kwargs)
            Told(paid.payment).note(answer)
            paid.payment.complete()
        return answer

    async def _aanswer(
        self,
        method: str,
        prompt: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> Any:
        paid = await arun(self._begin(prompt, kwargs))
        async with paid.payment:
            answer = await getattr(paid.llm, method)(prompt, **paid.kwargs)
            Told(paid.payment).note(answer)
            paid.payment.complete()
        return answer

    def _stream(
        self,
        method: str,
        prompt: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> Generator[Any, None, None]:
        paid = run(self._begin(prompt, kwargs, live=True))
        told = Told(paid.payment)
        with paid.payment:
            stream = getattr(paid.llm, method)(prompt, **paid.kwargs)
            yield None  # begun: what comes is read, or closed, from here
            with closing(stream):
                for piece in stream:
                    told.note(piece)
                    yield piece
                    if not paid.payment.goes_on():
                        yield _ended(piece)
                        return
            paid.payment.complete()

    async def _astream(
        self,
        method: str,
        prompt: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        paid = await arun(self._begin(prompt, kwargs, live=True))
        told = Told(paid.payment)
        async with paid.payment:
            stream = await getattr(paid.llm, method)(prompt, **paid.kwargs)
            yield None  # begun: what comes is read, or closed, from here
            async with aclosing(stream):
                async for piece in stream:
                    told.note(piece)
                    yield piece
                    if not await paid.payment.agoes_on():
                        yield _ended(piece)
                        return
            paid.payment.complete()

    def _begin(
        self,
        prompt: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
        *,
        live: bool = False,
    ) -> Flow[_Paid]:
        """Hold what the call may cost, with the LLM that the budgets allow."""
        kwargs = without_empty_bounds(kwargs)
        llms = [self.llm]
        if self.cheaper is not None and self._stands_in(self.cheaper, kwargs):
            llms.append(self.cheaper)
        sent = Sent.of(prompt, kwargs)
        payments = [self._payment(llm, sent, kwargs, live=live) for llm in llms]
        queue = self.queue and partial(self.queue, prompt, kwargs)
        payment = yield from first_that_fits(payments, queue, wait=self.wait)
        llm = llms[payments.index(payment)]
        bound = output_bound(llm, kwargs, self.max_output_tokens)
        return _Paid(payment, self._copies.get(llm, bound), kwargs)

    def _payment(
        self, llm: LLM, sent: Sent, kwargs: dict[str, Any], *, live: bool = False
    ) -> Payment:
        return payment_for(self.budgets, llm, sent, kwargs, self.max_output_tokens, live=live)

    def _stands_in(self, cheaper: LLM, kwargs: dict[str, Any]) -> bool:
        alike = type(innermost(cheaper)) is type(innermost(self.llm))
        return alike or not offers(kwargs)

    # --- tools and structured output: the wrapped LLM's own ways, each call of them paid ----------

    def _tool_caller(self) -> FunctionCallingLLM:
        super()._tool_caller()
        return cast("FunctionCallingLLM", self._paying(self.llm))

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Return an object that the wrapped LLM fills in."""
        cover = self._cover("structured_predict", output_cls, prompt, llm_kwargs, prompt_args)
        llm, payment = run(cover)
        with payment:
            answer = llm.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            _note(payment, answer)
        return answer

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Do what `structured_predict` does, without blocking the event loop."""
        cover = self._cover("astructured_predict", output_cls, prompt, llm_kwargs, prompt_args)
        llm, payment = await arun(cover)
        async with payment:
            answer = await llm.astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            _note(payment, answer)
        return answer

    def stream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Do what `structured_predict` does, as a stream of partial objects."""
        name = "stream_structured_predict"
        cover = self._cover(name, output_cls, prompt, llm_kwargs, prompt_args)
        llm, payment = run(cover)
        with payment:
            stream = llm.stream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            part = None
            try:
                for part in stream:
                    yield part
            finally:
                _note(payment, part)

    async def astream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """Do what `structured_predict` does, as an asynchronous stream of partial objects."""
        return self._astream_structured(output_cls, prompt, llm_kwargs, prompt_args)

    async def _astream_structured(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        name = "astream_structured_predict"
        cover = self._cover(name, output_cls, prompt, llm_kwargs, prompt_args)
        llm, payment = await arun(cover)
        async with payment:
            stream = await llm.astream_structured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            part = None
            try:
                async for part in stream:
                    yield part
            finally:
                _note(payment, part)

    def _cover(
        self,
        method: str,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> Flow[tuple[LLM, Payment]]:
        """Return an LLM whose calls are paid, and the payment if it makes none of them.

        LlamaIndex's own ways to structured output come down to a call that is paid by itself; a
        class may go another one, past them all. What that may cost is held until a call is seen.
        """
        messages = prompt.format_messages(**prompt_args)
        kwargs = {"response_format": output_cls, **(llm_kwargs or {})}
        if getattr(type(innermost(self.llm)), method) is getattr(LLM, method):
            sent = Sent(texts=())
            return self._paying(self.llm), self._payment(self.llm, sent, kwargs)
        paid = yield from self._begin(messages, kwargs)
        return self._paying(paid.llm, paid.payment), paid.payment

    def _paying(self, llm: LLM, cover: Payment | None = None) -> LLM:
        """Return the LLM with this wrapper's calls in the place of its own."""
        paid = {name: getattr(self, name) for name in _CALLS}
        return calling(llm, {k: instead(cover, v) for k, v in paid.items()} if cover else paid)


def _note(payment: Payment, answer: object) -> None:
    if isinstance(answer, BaseModel):
        payment.note(answer.model_dump_json())


def _begun(stream: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """Begin a stream here and now, so that one that nobody reads is closed with its payment."""
    next(stream)
    return stream


async def _abegun(stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    await anext(stream)
    return stream


def _ended(last: Any) -> Any:
    """Return the end of a stream that the budget cut: all that came, and why no more."""
    told = {"finish_reason": "budget"}
    return last.model_copy(update={"delta": "", "raw": told, "additional_kwargs": told})
