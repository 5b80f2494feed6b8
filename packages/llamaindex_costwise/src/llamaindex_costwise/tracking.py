"""The bill for what LlamaIndex calls inside a block."""

import inspect
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import active_instrument_tags
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import BaseSpan
from llama_index_instrumentation.span_handlers import BaseSpanHandler

from costwise_core.protocols import Ledger
from costwise_core.types import Usage
from llamaindex_costwise._convert import text_of
from llamaindex_costwise._usage import estimated_usage, reported_usage, reports_usage
from llamaindex_costwise.embedding import CachedEmbedding, CostwiseEmbedding
from llamaindex_costwise.events import CacheHitEvent

if TYPE_CHECKING:
    from costwise_core.bill import Bill
    from costwise_core.holdout import HoldOut
    from costwise_core.prices import PriceBook
    from costwise_core.tracking import Recorder
    from costwise_core.usage import StreamUsage

__all__ = ["track"]

_MOST_OPEN = 10_000


def track(
    *,
    ledger: Ledger | None = None,
    prices: "PriceBook | None" = None,
    holdout: "HoldOut | None" = None,
    **tags: str,
) -> "AbstractContextManager[Bill]":
    """Record every model call and cache hit of LlamaIndex inside the block.

    Counted is the innermost call only: LlamaIndex reports some calls twice (a `CustomLLM` chats by
    completing), and wrappers report calls of what they wrap. A stream counts when it ends; one
    that is abandoned counts with what it brought, marked as an estimate.

    Embeddings count too, with estimated tokens, as do rerankers that tell LlamaIndex of themselves
    and searches of vector stores ("vector_query"). LlamaIndex does not tell what an embed model's
    own `embeddings_cache` served, so that counts as embedded; `CachedEmbedding` does.

    Tags may be said by LlamaIndex's `instrument_tags({"tenant": "acme"})`, too; they win.

    Args:
        ledger: Where calls are kept beyond the block.
        prices: What calls are priced with; that of the block around, or the list, if not given.
        holdout: Makes the block one request, of which a share runs unoptimised; see
            `costwise_core.HoldOut`.
        **tags: `feature`, `team`, `user`, `tenant`, `endpoint`, `conversation`, `request`, `arm`.

    Returns:
        A context manager that yields the bill.

    Raises:
        ConfigError: on entry, if a tag has another name or is not text.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> with track(feature="faq") as bill:
        ...     answer = MockLLM().complete("What is RAG?")
        >>> bill.calls
        1
    """
    from costwise_core.tracking import track as core_track  # noqa: PLC0415 - brings the ledger

    _attach()
    return core_track(ledger=ledger, prices=prices, holdout=holdout, **tags)


@cache
def _attach() -> None:
    root = get_dispatcher()
    spans = _Spans()
    root.add_span_handler(spans)
    root.add_event_handler(_Calls(spans=spans))


@dataclass(slots=True)
class _Call:
    """A call that has begun. `outer` when another call was made to answer it.

    `holds` are the LLMs inside the one that is called, which a stream may call when it is read:
    by then its span is over, and nothing else tells that theirs are made for it.
    """

    recorder: "Recorder"
    operation: str
    model: str
    prompt: str | Sequence[ChatMessage]
    outer: bool
    holds: Sequence[LLM]
    began: float = field(default_factory=time.perf_counter)
    last: ChatResponse | CompletionResponse | None = None
    reported: "StreamUsage | None" = None


class _Span(BaseSpan):
    """A span that is open.

    `wrapper` when it is a method of an LLM that holds another LLM, `store` the class of the vector
    store that it searches, `local` when it is a method of an embed model of costwise's own and
    `cached` of one that remembers. While it embeds, `recorder` and `model` say for whom, and
    `within` counts the texts that went on to a model inside it.
    """

    instance: Any = None
    wrapper: bool = False
    store: str = ""
    local: bool = False
    cached: bool = False
    recorder: Any = None
    model: str = ""
    within: Counter[str] = Field(default_factory=Counter)


class _Spans(BaseSpanHandler[_Span]):
    """Keeps open spans, so that a call can be told which calls it was made for."""

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,  # noqa: ARG002
        instance: Any | None = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> _Span:
        """Open a span."""
        store = getattr(instance, "_vector_store", None)
        return _Span(
            id_=id_,
            parent_id=parent_span_id,
            instance=instance if isinstance(instance, LLM) else None,
            wrapper=isinstance(instance, LLM) and isinstance(getattr(instance, "llm", None), LLM),
            store="" if store is None else type(store).__name__,
            local=isinstance(instance, CostwiseEmbedding),
            cached=isinstance(instance, CachedEmbedding),
        )

    def prepare_to_exit_span(self, id_: str, *args: Any, **kwargs: Any) -> _Span | None:  # noqa: ARG002
        """Close a span."""
        return self.open_spans.get(id_)

    prepare_to_drop_span = prepare_to_exit_span

    def above(self, id_: str) -> list[str]:
        """Return the ids of the open spans that a span was opened in."""
        ids: list[str] = []
        while (span := self.open_spans.get(id_)) is not None and span.parent_id is not None:
            id_ = span.parent_id
            ids.append(id_)
        return ids

    def of(self, id_: str | None) -> _Span:
        """Return an open span, or one that says nothing."""
        return self.open_spans.get(id_ or "") or _Span(id_=id_ or "")


class _Calls(BaseEventHandler):
    """Records each innermost call once, when it ends."""

    spans: Any
    _open: OrderedDict[str, _Call] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:  # noqa: ARG002
        """Take note of one event. What it raises, LlamaIndex swallows."""
        if isinstance(event, LLMChatStartEvent):
            self._begin(event, "chat", _model(event.model_dict), event.messages)
        elif isinstance(event, LLMCompletionStartEvent):
            self._begin(event, "completion", _model(event.model_dict), event.prompt)
        elif isinstance(event, ReRankStartEvent):
            self._begin(event, "rerank", event.model_name, _pairs(event))
        elif isinstance(event, LLMChatInProgressEvent | LLMCompletionInProgressEvent):
            self._go_on(event)
        elif isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            self._settle(event.span_id, event.response)
        elif isinstance(event, ReRankEndEvent):
            self._reranked(event.span_id)
        elif isinstance(event, EmbeddingStartEvent):
            self._embed(event)
        elif isinstance(event, EmbeddingEndEvent):
            self._embedded(event)
        elif isinstance(event, RetrievalEndEvent):
            self._searched(event)
        elif isinstance(event, ExceptionEvent):
            self._settle(event.span_id, None)
        elif isinstance(event, SpanDropEvent):
            self._close(event.span_id)
        elif isinstance(event, CacheHitEvent):
            self._spare(event.span_id)
            _record_hit(event)

    # --- models -----------------------------------------------------------------------------------

    def _begin(
        self, event: BaseEvent, operation: str, model: str, prompt: str | Sequence[ChatMessage]
    ) -> None:
        # Who pays is settled now: a stream is often read where the block around it has ended.
        active = _recorder()
        span = event.span_id or ""
        self._spare(span)
        if active is None:
            return
        with self._lock:
            self._open[span] = _Call(
                recorder=active,
                operation=operation,
                model=model,
                prompt=prompt,
                outer=self.spans.of(span).wrapper,
                holds=_inside(self.spans.of(span).instance),
            )
            while len(self._open) > _MOST_OPEN:  # streams that were never read
                self._open.popitem(last=False)

    def _spare(self, span: str | None) -> None:
        """Count none of the calls that this span answers: what happens in it does."""
        caller = self.spans.of(span).instance
        with self._lock:
            for above in self.spans.above(span or ""):
                if above in self._open:
                    self._open[above].outer = True
            for id_, call in self._open.items():
                if call.holds and call.last is None and id_ not in self.spans.open_spans:
                    call.outer = call.outer or any(one is caller for one in call.holds)

    def _go_on(self, event: LLMChatInProgressEvent | LLMCompletionInProgressEvent) -> None:
        call = self._open.get(event.span_id or "")
        if call is None:
            return
        call.last = event.response
        if reports_usage(event.response.raw):
            from costwise_core.usage import StreamUsage  # noqa: PLC0415 - where something counts

            call.reported = call.reported or StreamUsage()
            call.reported.add(event.response.raw)

    def _close(self, span: str | None) -> _Call | None:
        with self._lock:
            return self._open.pop(span or "", None)

    def _settle(self, span: str | None, answer: ChatResponse | CompletionResponse | None) -> None:
        call = self._close(span)
        last = answer or (call.last if call else None)
        if call is None or call.outer or last is None:
            return
        usage = call.reported.usage if call.reported else None
        usage = usage or reported_usage(last)
        if usage is None or answer is None:
            usage = estimated_usage(call.prompt, text_of(last), call.model, reported=usage)
        from costwise_core.usage import processing_of  # noqa: PLC0415 - where something counts

        call.recorder.record(
            operation=call.operation,
            model=call.model,
            usage=usage,
            processing=processing_of(last.raw),
            seconds=time.perf_counter() - call.began,
            id=span,
            prompt=_text(call.prompt),
            why="" if answer is not None else "the stream was not read to its end",
        )

    def _reranked(self, span: str | None) -> None:
        call = self._close(span)
        if call is not None and not call.outer:
            call.recorder.record(
                operation=call.operation,
                model=call.model,
                usage=estimated_usage(call.prompt, "", call.model),
                seconds=time.perf_counter() - call.began,
                id=span,
            )

    # --- embeddings and searches --------------------------------------------------------------

    def _embed(self, event: EmbeddingStartEvent) -> None:
        span = self.spans.of(event.span_id)
        span.recorder, span.model = _recorder(), _model(event.model_dict)

    def _embedded(self, event: EmbeddingEndEvent) -> None:
        span, texts = self.spans.of(event.span_id), Counter(event.chunks)
        with self._lock:
            within = texts & span.within
            span.within -= within
            for above in self.spans.above(event.span_id or ""):
                self.spans.of(above).within.update(texts)
        # What a model inside embedded is on the bill already, and costwise's own models are free.
        spared = texts - within if span.cached else Counter[str]()
        paid = texts if not (within or span.local) else Counter[str]()
        if span.recorder is None or not (spared or paid):
            return
        usage = estimated_usage("\n".join((spared or paid).elements()), "", span.model)
        span.recorder.record(
            operation="embedding",
            model=span.model,
            usage=usage,
            tier="exact" if spared else "",
            usage_then=usage,
            id=event.id_,
        )

    def _searched(self, event: RetrievalEndEvent) -> None:
        active, store = _recorder(), self.spans.of(event.span_id).store
        if active is not None and store:
            active.record(operation="vector_query", model=store, usage=Usage(), id=event.id_)


def _text(prompt: str | Sequence[ChatMessage]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message.content or "" for message in prompt)


def _recorder() -> "Recorder | None":
    from costwise_core.tracking import recorder  # noqa: PLC0415 - brings the ledger

    active = recorder()
    return active.tagged(told_tags()) if active is not None else None


def told_tags() -> dict[str, str]:
    """Return what `instrument_tags` says of a request that is a tag of costwise's, too."""
    from costwise_core.tracking import TAGS  # noqa: PLC0415 - likewise

    said = active_instrument_tags.get()
    return {name: said[name] for name in TAGS if isinstance(said.get(name), str)}


def _inside(llm: LLM | None, depth: int = 4) -> list[LLM]:
    """Return the LLMs that an LLM holds in its fields, and those that they hold."""
    if llm is None or not depth:
        return []
    values = [*vars(llm).values(), *(llm.__pydantic_private__ or {}).values()]
    held = [one for one in values if isinstance(one, LLM)]
    for several in values:
        if isinstance(several, list | tuple):
            held += [one for one in several if isinstance(one, LLM)]
        elif isinstance(several, dict):
            held += [one for one in several.values() if isinstance(one, LLM)]
    return [found for one in held for found in (one, *_inside(one, depth - 1))]


def _model(told: Mapping[str, Any]) -> str:
    name = str(told.get("model_name") or "unknown")
    return str(told["class_name"]) if name == "unknown" else name  # LlamaIndex's word for unnamed


def _pairs(event: ReRankStartEvent) -> str:
    """Return what a reranker reads: the question with each passage."""
    query = event.query.query_str if isinstance(event.query, QueryBundle) else event.query or ""
    return "\n".join(f"{query}\n{one.node.get_content()}" for one in event.nodes)


def _record_hit(event: CacheHitEvent) -> None:
    active = _recorder()
    if active is not None:
        active.record(
            operation=event.operation,
            model=event.model,
            usage=Usage(),
            tier=event.tier,
            usage_then=event.usage_then,
            id=event.id_,
            why=event.why,
        )
