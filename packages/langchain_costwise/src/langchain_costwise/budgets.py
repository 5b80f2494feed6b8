"""Chat models that cannot overspend: what a call may cost is held before it is made."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, NamedTuple, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field

from costwise_core.budget.bounds import without_empty_bounds
from costwise_core.budget.guard import Budgets
from costwise_core.budget.payment import Payment, first_that_fits
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.usage import usage_of as read_usage
from langchain_costwise._routed import Routed
from langchain_costwise._spending import (
    HELD_BY,
    OFFERED,
    bounded,
    innermost,
    is_hit,
    output_bound,
    payment_for,
    produced,
    reported,
)
from langchain_costwise._wrapper import (
    ChatWrapper,
    aask,
    alive,
    ask,
    complete,
    live,
    told,
    without_told,
)

__all__ = ["BudgetedChatModel", "Queue"]

Queue = Callable[[Sequence[BaseMessage], Mapping[str, Any]], object]
"""Takes messages and the call's arguments for later, and returns a ticket."""


_Asked = tuple[Sequence[BaseMessage], Mapping[str, Any]]


class _Paid(NamedTuple):
    """A call whose cost is held."""

    payment: Payment
    model: BaseChatModel
    kwargs: dict[str, Any]


class BudgetedChatModel(ChatWrapper):
    """Wrap any chat model so that no way to call it can pass a budget.

    What a call can cost at most is held before it is sent: its prompt, tools and schema, and the
    longest answer it allows. Afterwards what the provider reports is booked, or an estimate where
    it reports nothing; a call that fails is given back. A stream holds 256 tokens at a time; when a
    budget has no room for more it ends with the finish reason "budget", and what was produced is
    the caller's. A model that thinks before it speaks (`profile["reasoning_output"]`) holds all at
    once.

    Which budgets a call falls under is said by the tags of `track(...)`, by tags of the same names
    in `config={"metadata": {...}}`, which win, and by `scoped(tenant=...)`. Retries, fallbacks and
    steps of one chain share what they hold inside `with budgets.request():`.

    A hit of a cache reserves nothing where the cache stands in front: `set_llm_cache`, or
    `CachedChatModel(model=BudgetedChatModel(...), cache=...)`.

    A `batch` that raises its first error would lose the answers beside it, and so would `generate`
    with several prompts: what all of them can cost is held first, and if it does not fit, none is
    sent. `batch(..., return_exceptions=True)` answers those that fit.

    Args:
        model: The chat model that is paid for.
        budgets: The limits. Give all models and middleware the same one.
        max_output_tokens: The longest answer, where a call does not say `max_tokens` and the model
            has no lower bound itself. It is passed to the model under the name of its own setting
            (`max_tokens`, `num_predict` and the like); one without any is stopped in streams only.
        cheaper: Answers instead, for its own price, where a budget says "downgrade". Where tools or
            a schema are bound, only a model of the same provider does.
        queue: Is handed the messages and arguments of a call where a budget says "queue"; its
            ticket is on the error.
        wait: How many seconds a call waits before that, where a budget says "queue", for a new
            window or for what other calls give back.

    Raises:
        ConfigError: if the model is a router: budgets go around its models, and its steps share
            what they hold.
        BudgetExceededError: from a call that does not fit; nothing was sent.
        PriceError: from a call, if a budget is in dollars and the model has no known price.
        StoreError: from a call, if the budgets' store cannot be reached.

    Example:
        >>> from costwise_core import Budget, Budgets
        >>> from langchain_core.language_models import FakeListChatModel
        >>> budgets = Budgets(Budget(limit=1, unit="calls", window="day"))
        >>> paid = FakeListChatModel(responses=["A method."])
        >>> model = BudgetedChatModel(model=paid, budgets=budgets)
        >>> model.invoke("What is RAG?").text
        'A method.'
        >>> model.invoke("What is RAG?")
        Traceback (most recent call last):
            ...
        costwise_core.errors.BudgetExceededError: the budget "1 calls a day" has 0 calls left ...
    """

    budgets: Budgets = Field(exclude=True)
    max_output_tokens: int = Field(default=4_096, gt=0)
    cheaper: BaseChatModel | None = None
    queue: Queue | None = Field(default=None, exclude=True)
    wait: float = Field(default=0.0, ge=0)

    def model_post_init(self, context: Any, /) -> None:
        """Refuse what one reservation cannot hold: a router may make several calls."""
        super().model_post_init(context)
        if isinstance(innermost(self.model), Routed):
            raise ConfigError(
                "a router makes calls of several prices; put the budgets around its models: "
                "CostRouter(models={name: BudgetedChatModel(model=..., budgets=...), ...})."
            )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        paid = run(self._begin(messages, kwargs))
        with paid.payment:
            result = ask(paid.model, messages, stop, run_manager, paid.kwargs)
            _note(paid.payment, result)
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        paid = await arun(self._begin(messages, kwargs))
        async with paid.payment:
            result = await aask(paid.model, messages, stop, run_manager, paid.kwargs)
            _note(paid.payment, result)
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        paid = run(self._begin(messages, kwargs, live=True))
        seen = _Told(paid.payment)
        stream = live(paid.model, messages, stop, run_manager, paid.kwargs)
        with paid.payment, closing(cast("Any", stream)):
            for chunk in stream:
                seen.note(chunk)
                yield chunk
                if not paid.payment.goes_on():
                    yield _ended()
                    return
            paid.payment.complete()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        paid = await arun(self._begin(messages, kwargs, live=True))
        seen = _Told(paid.payment)
        stream = alive(paid.model, messages, stop, run_manager, paid.kwargs)
        async with paid.payment, aclosing(cast("Any", stream)):
            async for chunk in stream:
                seen.note(chunk)
                yield chunk
                if not await paid.payment.agoes_on():
                    yield _ended()
                    return
            paid.payment.complete()

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # A callback with the same budgets leaves the call to this wrapper.
        params = super()._get_invocation_params(stop, **kwargs)
        return {**params, HELD_BY: (*params.get(HELD_BY, ()), id(self.budgets))}

    def _begin(
        self,
        messages: Sequence[BaseMessage],
        kwargs: Mapping[str, Any],
        *,
        live: bool = False,
    ) -> Flow[_Paid]:
        """Hold what the call may cost, with the model that the budgets allow."""
        kwargs = without_empty_bounds(kwargs)
        offers = self._offers(messages, kwargs, live=live)
        queue = self.queue and partial(self.queue, messages, without_told(kwargs))
        payment = yield from first_that_fits(list(offers), queue, wait=self.wait)
        model = offers[payment]
        bound = output_bound(model, kwargs, self.max_output_tokens)
        return _Paid(payment, bounded(model, bound), kwargs)

    def _offers(
        self, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], *, live: bool = False
    ) -> dict[Payment, BaseChatModel]:
        models = [self.model]
        if self.cheaper is not None and self._stands_in(self.cheaper, kwargs):
            models.append(self.cheaper)
        return {
            payment_for(
                self.budgets, model, messages, kwargs, self.max_output_tokens, live=live
            ): model
            for model in models
        }

    def _stands_in(self, cheaper: BaseChatModel, kwargs: Mapping[str, Any]) -> bool:
        alike = cheaper._llm_type == self.model._llm_type  # noqa: SLF001
        return alike or not any(kwargs.get(name) for name in OFFERED)

    # --- several calls at once: sent all or none ------------------------------------------------

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer prompts at once: all, or with `return_exceptions` those that fit."""
        answer = partial(super().batch, inputs, config, **kwargs)
        if return_exceptions or not self._lost(inputs):
            return answer(return_exceptions=return_exceptions)
        with self.budgets.request():
            run(self._hold_all(self._asked(inputs, config, kwargs)))
            return answer()

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Do what `batch` does, without blocking the event loop."""
        answer = partial(super().abatch, inputs, config, **kwargs)
        if return_exceptions or not self._lost(inputs):
            return await answer(return_exceptions=return_exceptions)
        async with self.budgets.arequest():
            await arun(self._hold_all(self._asked(inputs, config, kwargs)))
            return await answer()

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """Answer prompts, all or none."""
        if not self._lost(messages):
            return super().generate(messages, *args, **kwargs)
        with self.budgets.request():
            run(self._hold_all([(prompt, kwargs) for prompt in messages]))
            return super().generate(messages, *args, **kwargs)

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Do what `generate` does, without blocking the event loop."""
        if not self._lost(messages):
            return await super().agenerate(messages, *args, **kwargs)
        async with self.budgets.arequest():
            await arun(self._hold_all([(prompt, kwargs) for prompt in messages]))
            return await super().agenerate(messages, *args, **kwargs)

    def _lost(self, prompts: Sequence[object]) -> bool:
        """Tell whether the refusal of one call would lose the answers to others."""
        # A cache keeps them, and may have some already, for which nothing is to be held.
        kept = self.cache is not False and (self.cache or get_llm_cache()) is not None
        return len(prompts) > 1 and not kept

    def _asked(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None,
        kwargs: dict[str, Any],
    ) -> list[_Asked]:
        configs = get_config_list(config, len(inputs))
        return [
            (self._convert_input(one).to_messages(), told(whose, kwargs))
            for one, whose in zip(inputs, configs, strict=True)
        ]

    def _hold_all(self, asked: Sequence[_Asked]) -> Flow[None]:
        """Hold what all of a request's calls may cost, for them to take."""
        held: list[Payment] = []
        try:
            for messages, kwargs in asked:
                offers = self._offers(messages, without_empty_bounds(kwargs))
                held.append((yield from first_that_fits(list(offers), wait=self.wait)))
        except BudgetExceededError as error:
            if error.on_exceed == "queue" and self.queue is not None:
                tickets: list[object] = []
                for messages, kwargs in asked:
                    tickets.append((yield from call(self.queue, messages, without_told(kwargs))))
                error.ticket = tickets
            error.add_note(
                f"It was asked with {len(asked) - 1} others, and they are sent all or none; with "
                "batch(..., return_exceptions=True) those that fit are."
            )
            raise
        finally:
            for payment in held:
                yield from payment.give_back()


class _Told:
    """Tells a payment what a stream brings. LangChain's reports of pieces add up."""

    def __init__(self, payment: Payment) -> None:
        self._payment = payment
        self._sum: UsageMetadata | None = None

    def note(self, chunk: ChatGenerationChunk) -> None:
        if told := getattr(chunk.message, "usage_metadata", None):
            self._sum = add_usage(self._sum, told)
        usage = read_usage(self._sum) if self._sum else reported([chunk])
        self._payment.note(produced(chunk.message), usage)
        if is_hit([chunk]):
            self._payment.free()


def _note(payment: Payment, result: ChatResult) -> None:
    generations = complete(result)
    text = "".join(produced(item.message) for item in generations)
    payment.note(text, reported(generations))
    payment.complete()
    if is_hit(generations):
        payment.free()


def _ended() -> ChatGenerationChunk:
    return ChatGenerationChunk(
        message=AIMessageChunk(content="", chunk_position="last"),
        generation_info={"finish_reason": "budget"},
    )
