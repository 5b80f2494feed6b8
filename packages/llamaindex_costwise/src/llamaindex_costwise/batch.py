"""LlamaIndex LLMs answered through a batch API, at half the price."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.tools import BaseTool

from costwise_core.batch.anthropic_provider import AnthropicBatches
from costwise_core.batch.asking import BatchAnswer, BatchProvider
from costwise_core.batch.openai_provider import OpenAIBatches
from costwise_core.batch.queueing import BatchQueue
from costwise_core.errors import BatchError, ConfigError
from llamaindex_costwise._batch_models import Call, call_of, sold_by

__all__ = ["abatch_as_completed", "batch_as_completed", "batch_later", "batch_queue"]


def batch_queue(path: str | os.PathLike[str], llm: LLM, **options: Any) -> BatchQueue:
    """Return a durable queue in a file, over the batch API of an LLM.

    It uses the LLM's own SDK clients, so its key, address and time-outs.

    Args:
        path: The file; made with mode 0600.
        llm: `OpenAI` or `Anthropic` from LlamaIndex's packages, plain or structured.
        **options: As for `BatchQueue`.

    Raises:
        ConfigError: if nobody sells the LLM in batches.

    Example:
        >>> from llama_index.llms.openai import OpenAI
        >>> batch_queue("nightly.db", OpenAI(model="gpt-4o-mini", api_key="...")).provider.name
        'openai'
    """
    return BatchQueue(
        path, _provider(llm.llm if isinstance(llm, StructuredLLM) else llm), **options
    )


def batch_as_completed(
    llm: LLM,
    inputs: Sequence[str | Sequence[ChatMessage]],
    *,
    queue: BatchQueue,
    tools: Sequence[BaseTool] = (),
    job: str = "",
    within: float | None = None,
    every: float = 60.0,
    return_exceptions: bool = False,
    **kwargs: Any,
) -> Iterator[tuple[int, ChatResponse | Exception]]:
    """Yield an LLM's answer to each input, as it comes, asked in a batch.

    A program that is started again with the same inputs and job goes on where it was: what is
    answered, or on its way, is not paid again.

    Args:
        llm: `OpenAI` or `Anthropic`, or what their `as_structured_llm` returns.
        inputs: A question or a conversation each.
        queue: Where requests are kept; see `batch_queue`.
        tools: What the LLM may call.
        job: What the requests are for: the same request in another job is another request.
        within: Seconds within which the answers are needed; see `BatchQueue`.
        every: Seconds between two looks at the batches.
        return_exceptions: Whether to yield the error of an input that failed, not raise it.
        **kwargs: What else `chat` would be given.

    Yields:
        Index of the input and what `chat` would have returned: with the tokens used in
        `additional_kwargs`, and there under "costwise" how it was asked. Of a structured LLM, `raw`
        is the object.

    Raises:
        ConfigError: if the LLM is not sold in batches, or by another than the queue's provider.
        BatchError: if an input failed, or the provider refuses access.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> list(batch_as_completed(MockLLM(), ["q"], queue=None))
        Traceback (most recent call last):
            ...
        costwise_core.errors.ConfigError: MockLLM is not sold in batches; ...
    """
    call = call_of(llm, tools, kwargs)
    _check(call, queue)
    ids = queue.submit([call.asked(one) for one in inputs], job=job, within=within)
    places = {ident: place for place, ident in enumerate(ids)}
    for answer in queue.as_completed(places, every=every):
        try:
            response = _response(call, answer)
        except Exception as error:
            if not return_exceptions:
                raise
            yield places[answer.id], error
        else:
            yield places[answer.id], response


async def abatch_as_completed(
    llm: LLM,
    inputs: Sequence[str | Sequence[ChatMessage]],
    *,
    queue: BatchQueue,
    tools: Sequence[BaseTool] = (),
    job: str = "",
    within: float | None = None,
    every: float = 60.0,
    return_exceptions: bool = False,
    **kwargs: Any,
) -> AsyncIterator[tuple[int, ChatResponse | Exception]]:
    """Do what `batch_as_completed` does, without blocking the event loop.

    Example:
        >>> import asyncio
        >>> from llama_index.core.llms import MockLLM
        >>> async def first():
        ...     return await anext(abatch_as_completed(MockLLM(), ["q"], queue=None))
        >>> asyncio.run(first())
        Traceback (most recent call last):
            ...
        costwise_core.errors.ConfigError: MockLLM is not sold in batches; ...
    """
    call = call_of(llm, tools, kwargs)
    _check(call, queue)
    ids = await queue.asubmit([call.asked(one) for one in inputs], job=job, within=within)
    places = {ident: place for place, ident in enumerate(ids)}
    async for answer in queue.aas_completed(places, every=every):
        try:
            response = _response(call, answer)
        except Exception as error:
            if not return_exceptions:
                raise
            yield places[answer.id], error
        else:
            yield places[answer.id], response


def batch_later(
    llm: LLM, *, queue: BatchQueue, job: str = ""
) -> Callable[[str | Sequence[ChatMessage], Mapping[str, Any]], str]:
    """Return what puts calls without a budget into a batch: the `queue` of `BudgetedLLM`.

    The ticket on the error is the request's id in the queue.

    Args:
        llm: The LLM that the budgeted one wraps.
        queue: Where the calls are kept; see `batch_queue`.
        job: What they are for.

    Example:
        >>> import tempfile
        >>> from llama_index.llms.openai import OpenAI
        >>> llm = OpenAI(model="gpt-4o-mini", api_key="...")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     queue = batch_queue(f"{folder}/later.db", llm)
        ...     ticket = batch_later(llm, queue=queue)("What is RAG?", {})
        ...     queue.counts().waiting, len(ticket)
        (1, 32)
    """

    def later(prompt: str | Sequence[ChatMessage], given: Mapping[str, Any]) -> str:
        return queue.submit([call_of(llm, (), given).asked(prompt)], job=job)[0]

    return later


def _response(call: Call, answer: BatchAnswer) -> ChatResponse:
    if answer.body is None:
        raise BatchError(f"a request of the batch failed: {answer.error}")
    response = call.answered(answer.body)
    response.additional_kwargs["costwise"] = {"processing": answer.processing}
    return response


def _provider(llm: LLM) -> BatchProvider:
    inner: Any = llm
    if sold_by(llm) == "openai":
        return OpenAIBatches(inner._get_client(), async_client=inner._get_aclient())  # noqa: SLF001
    return AnthropicBatches(inner._client, async_client=inner._aclient)  # noqa: SLF001


def _check(call: Call, queue: BatchQueue) -> None:
    kind = sold_by(call.llm)
    if queue.provider.name != kind:
        raise ConfigError(
            f"the queue is one of {queue.provider.name}, and {type(call.llm).__name__} asks "
            f"{kind}; make the queue with batch_queue(path, llm)."
        )
