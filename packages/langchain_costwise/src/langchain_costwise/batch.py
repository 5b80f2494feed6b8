"""LangChain models and chains answered through a batch API, at half the price."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)

from costwise_core.batch.anthropic_provider import AnthropicBatches
from costwise_core.batch.asking import BatchAnswer, BatchProvider
from costwise_core.batch.openai_provider import OpenAIBatches
from costwise_core.batch.queueing import BatchQueue
from costwise_core.errors import BatchError, ConfigError
from langchain_costwise._batch_models import answer_of, request_of, sold_by

__all__ = ["abatch_as_completed", "batch_as_completed", "batch_later", "batch_queue"]

Output = TypeVar("Output")


def batch_queue(
    path: str | os.PathLike[str], runnable: Runnable[Any, Any], **options: Any
) -> BatchQueue:
    """Return a durable queue in a file, over the batch API of the model in a chain.

    It uses the model's own SDK clients, so its key, address and time-outs.

    Args:
        path: The file; made with mode 0600.
        runnable: `ChatOpenAI` or `ChatAnthropic`, or a chain with one.
        **options: As for `BatchQueue`.

    Raises:
        ConfigError: if there is no such model in the chain: nobody sells it in batches.

    Example:
        >>> from langchain_openai import ChatOpenAI
        >>> batch_queue("nightly.db", ChatOpenAI(model="gpt-4o-mini", api_key="...")).provider.name
        'openai'
    """
    return BatchQueue(path, _provider(_apart(runnable).model), **options)


@overload
def batch_as_completed(
    runnable: Runnable[Any, Output],
    inputs: Sequence[Any],
    *,
    queue: BatchQueue,
    job: str = ...,
    within: float | None = ...,
    every: float = ...,
    return_exceptions: Literal[False] = ...,
) -> Iterator[tuple[int, Output]]: ...
@overload
def batch_as_completed(
    runnable: Runnable[Any, Output],
    inputs: Sequence[Any],
    *,
    queue: BatchQueue,
    job: str = ...,
    within: float | None = ...,
    every: float = ...,
    return_exceptions: bool,
) -> Iterator[tuple[int, Output | Exception]]: ...
def batch_as_completed(
    runnable: Runnable[Any, Output],
    inputs: Sequence[Any],
    *,
    queue: BatchQueue,
    job: str = "",
    within: float | None = None,
    every: float = 60.0,
    return_exceptions: bool = False,
) -> Iterator[tuple[int, Output | Exception]]:
    """Yield what a chain gives for each input, as it comes, its model called in a batch.

    What stands before the model in the chain (prompt, retriever) runs at once and here, what stands
    behind it (parser) runs when the answer is there. Tools and structured output that are bound to
    the model stay bound. A program that is started again with the same inputs and job goes on where
    it was: what is answered, or on its way, is not paid again.

    Args:
        runnable: `ChatOpenAI` or `ChatAnthropic`, with anything bound to it, or a chain with one.
        inputs: What its `invoke` takes, one each.
        queue: Where requests are kept; see `batch_queue`.
        job: What the requests are for: the same request in another job is another request.
        within: Seconds within which the answers are needed; see `BatchQueue`.
        every: Seconds between two looks at the batches.
        return_exceptions: Whether to yield the error of an input that failed, not raise it.

    Yields:
        Index of the input and the chain's output, as `Runnable.batch_as_completed` does. Messages
        have `usage_metadata`, and `response_metadata["costwise"]` says how they were asked.

    Raises:
        ConfigError: if the chain has no model sold in batches, or another than the queue's.
        BatchError: if an input failed, or the provider refuses access.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> list(batch_as_completed(FakeListChatModel(responses=["A"]), ["q"], queue=None))
        Traceback (most recent call last):
            ...
        costwise_core.errors.ConfigError: FakeListChatModel is not sold in batches; ...
    """
    chain = _apart(runnable)
    _check(chain, queue)
    prompts = chain.before.batch(list(inputs))
    ids = queue.submit([chain.asked(one) for one in prompts], job=job, within=within)
    places = {ident: place for place, ident in enumerate(ids)}
    for answer in queue.as_completed(places, every=every):
        place = places[answer.id]
        try:
            output = chain.after.invoke(chain.message(prompts[place], answer))
        except Exception as error:
            if not return_exceptions:
                raise
            yield place, error
        else:
            yield place, output


async def abatch_as_completed(
    runnable: Runnable[Any, Output],
    inputs: Sequence[Any],
    *,
    queue: BatchQueue,
    job: str = "",
    within: float | None = None,
    every: float = 60.0,
    return_exceptions: bool = False,
) -> AsyncIterator[tuple[int, Output | Exception]]:
    """Do what `batch_as_completed` does, without blocking the event loop.

    Example:
        >>> import asyncio
        >>> from langchain_core.language_models import FakeListChatModel
        >>> async def first():
        ...     model = FakeListChatModel(responses=["A"])
        ...     return await anext(abatch_as_completed(model, ["q"], queue=None))
        >>> asyncio.run(first())
        Traceback (most recent call last):
            ...
        costwise_core.errors.ConfigError: FakeListChatModel is not sold in batches; ...
    """
    chain = _apart(runnable)
    _check(chain, queue)
    prompts = await chain.before.abatch(list(inputs))
    requests = [chain.asked(one) for one in prompts]
    ids = await queue.asubmit(requests, job=job, within=within)
    places = {ident: place for place, ident in enumerate(ids)}
    async for answer in queue.aas_completed(places, every=every):
        place = places[answer.id]
        try:
            output = await chain.after.ainvoke(chain.message(prompts[place], answer))
        except Exception as error:
            if not return_exceptions:
                raise
            yield place, error
        else:
            yield place, output


def batch_later(
    model: BaseChatModel, *, queue: BatchQueue, job: str = ""
) -> Callable[[Sequence[BaseMessage], Mapping[str, Any]], str]:
    """Return what puts calls without a budget into a batch: the `queue` of `BudgetedChatModel`.

    The ticket on the error is the request's id in the queue.

    Args:
        model: The model that the budgeted one wraps.
        queue: Where the calls are kept; see `batch_queue`.
        job: What they are for.

    Example:
        >>> import tempfile
        >>> from langchain_core.messages import HumanMessage
        >>> from langchain_openai import ChatOpenAI
        >>> model = ChatOpenAI(model="gpt-4o-mini", api_key="...")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     queue = batch_queue(f"{folder}/later.db", model)
        ...     ticket = batch_later(model, queue=queue)([HumanMessage("What is RAG?")], {})
        ...     queue.counts().waiting, len(ticket)
        (1, 32)
    """

    def later(messages: Sequence[BaseMessage], settings: Mapping[str, Any]) -> str:
        return queue.submit([request_of(model, list(messages), settings)], job=job)[0]

    return later


@dataclass(frozen=True, kw_only=True, slots=True)
class _Apart:
    """A chain cut at its model: what runs before it, what is bound to it, what runs after it."""

    before: Runnable[Any, Any]
    model: BaseChatModel
    bound: dict[str, Any]
    after: Runnable[Any, Any]

    def asked(self, prompt: Any) -> Any:
        return request_of(self.model, prompt, self.bound)

    def message(self, prompt: Any, answer: BatchAnswer) -> AIMessage:
        if answer.body is None:
            raise BatchError(f"a request of the batch failed: {answer.error}")
        message = answer_of(self.model, prompt, self.bound, answer.body)
        message.response_metadata["costwise"] = {"processing": answer.processing}
        return message


def _apart(runnable: Runnable[Any, Any]) -> _Apart:
    steps = runnable.steps if isinstance(runnable, RunnableSequence) else [runnable]
    for place, step in enumerate(steps):
        found = _model_in(step)
        if found is not None:
            model, bound, behind = found
            return _Apart(
                before=_joined(steps[:place]),
                model=model,
                bound=bound,
                after=_joined([*behind, *steps[place + 1 :]]),
            )
    raise ConfigError(
        "there is no chat model in this chain that can be seen from outside; "
        "give the model, or a sequence of prompt, model and parser."
    )


def _model_in(
    step: Runnable[Any, Any],
) -> tuple[BaseChatModel, dict[str, Any], list[Runnable[Any, Any]]] | None:
    bound: dict[str, Any] = {}
    while isinstance(step, RunnableBinding) and not isinstance(step, BaseChatModel):
        bound = {**step.kwargs, **bound}
        step = step.bound
    if isinstance(step, BaseChatModel):
        return step, bound, []
    if isinstance(step, RunnableSequence):  # a structured model within a chain
        inner = _apart(step)
        if inner.before is _NOTHING:
            return inner.model, inner.bound, [inner.after]
    if isinstance(step, RunnableParallel) and len(step.steps__) == 1:
        # with_structured_output(include_raw=True) keeps the message under "raw"
        ((name, branch),) = step.steps__.items()
        found = _model_in(branch)
        if found is not None:
            model, bound, behind = found
            return model, bound, [*behind, RunnableLambda(lambda output: {name: output})]
    return None


_NOTHING: Runnable[Any, Any] = RunnablePassthrough()


def _joined(steps: Sequence[Runnable[Any, Any]]) -> Runnable[Any, Any]:
    if not steps:
        return _NOTHING
    return steps[0] if len(steps) == 1 else RunnableSequence(*steps)


def _provider(model: BaseChatModel) -> BatchProvider:
    if sold_by(model) == "openai":
        return OpenAIBatches(
            getattr(model, "root_client", None),
            async_client=getattr(model, "root_async_client", None),
        )
    return AnthropicBatches(
        getattr(model, "_client", None), async_client=getattr(model, "_async_client", None)
    )


def _check(chain: _Apart, queue: BatchQueue) -> None:
    kind = sold_by(chain.model)
    if queue.provider.name != kind:
        raise ConfigError(
            f"the queue is one of {queue.provider.name}, and {type(chain.model).__name__} asks "
            f"{kind}; make the queue with batch_queue(path, model)."
        )
