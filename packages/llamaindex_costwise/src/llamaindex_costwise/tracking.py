"""The bill for what LlamaIndex calls inside a block."""

import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.llms.llm import LLM
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import BaseSpan
from llama_index_instrumentation.span_handlers import BaseSpanHandler

from costwise_core.protocols import Ledger
from costwise_core.types import Usage
from llamaindex_costwise._convert import text_of
from llamaindex_costwise._usage import estimated_usage, reported_usage, reports_usage
from llamaindex_costwise.events import CacheHitEvent

if TYPE_CHECKING:
    from costwise_core.bill import Bill
    from costwise_core.prices import PriceBook
    from costwise_core.tracking import Recorder

__all__ = ["track"]

_MOST_OPEN = 10_000


def track(
    *, ledger: Ledger | None = None, prices: "PriceBook | None" = None, **tags: str
) -> "AbstractContextManager[Bill]":
    """Record every model call and cache hit of LlamaIndex inside the block.

    Counted is the innermost call only: LlamaIndex reports some calls twice (a `CustomLLM` chats by
    completing), and wrappers report calls of what they wrap. A stream counts when it ends; one
    that is abandoned counts with what it brought, marked as an estimate.

    Args:
        ledger: Where calls are kept beyond the block.
        prices: What calls are priced with; that of the block around, or the list, if not given.
        **tags: `feature`, `team`, `user`, `tenant`, `endpoint`, `conversation`.

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
    return core_track(ledger=ledger, prices=prices, **tags)


@cache
def _attach() -> None:
    root = get_dispatcher()
    spans = _Spans()
    root.add_span_handler(spans)
    root.add_event_handler(_Calls(spans=spans))


@dataclass(slots=True)
class _Call:
    """A call that has begun. `outer` when another call was made to answer it."""

    recorder: "Recorder"
    operation: str
    model: str
    prompt: str | Sequence[ChatMessage]
    outer: bool
    began: float = field(default_factory=time.perf_counter)
    last: ChatResponse | CompletionResponse | None = None
    reported: ChatResponse | CompletionResponse | None = None


class _Span(BaseSpan):
    """A span that is open. `wrapper` when it is a method of an LLM that holds another LLM."""

    wrapper: bool = False


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
        wrapper = isinstance(instance, LLM) and isinstance(getattr(instance, "llm", None), LLM)
        return _Span(id_=id_, parent_id=parent_span_id, wrapper=wrapper)

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

    def is_wrapper(self, id_: str) -> bool:
        """Tell whether a span is a method of an LLM that holds another LLM."""
        span = self.open_spans.get(id_)
        return span is not None and span.wrapper


class _Calls(BaseEventHandler):
    """Records each innermost call once, when it ends."""

    spans: Any
    _open: OrderedDict[str, _Call] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:  # noqa: ARG002
        """Take note of one event. What it raises, LlamaIndex swallows."""
        if isinstance(event, LLMChatStartEvent):
            self._begin(event, "chat", event.messages)
        elif isinstance(event, LLMCompletionStartEvent):
            self._begin(event, "completion", event.prompt)
        elif isinstance(event, LLMChatInProgressEvent | LLMCompletionInProgressEvent):
            call = self._open.get(event.span_id or "")
            if call is not None:
                call.last = event.response
                if reports_usage(event.response.raw):
                    call.reported = event.response
        elif isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            self._settle(event.span_id, event.response)
        elif isinstance(event, ExceptionEvent):
            self._settle(event.span_id, None)
        elif isinstance(event, SpanDropEvent):
            self._close(event.span_id)
        elif isinstance(event, CacheHitEvent):
            _record_hit(event)

    def _begin(
        self,
        event: LLMChatStartEvent | LLMCompletionStartEvent,
        operation: str,
        prompt: str | Sequence[ChatMessage],
    ) -> None:
        from costwise_core.tracking import recorder  # noqa: PLC0415

        # Who pays is settled now: a stream is often read where the block around it has ended.
        active = recorder()
        span = event.span_id or ""
        with self._lock:
            for above in self.spans.above(span):
                if above in self._open:
                    self._open[above].outer = True
            if active is None:
                return
            self._open[span] = _Call(
                recorder=active,
                operation=operation,
                model=str(event.model_dict.get("model_name") or event.model_dict["class_name"]),
                prompt=prompt,
                outer=self.spans.is_wrapper(span),
            )
            while len(self._open) > _MOST_OPEN:  # streams that were never read
                self._open.popitem(last=False)

    def _close(self, span: str | None) -> _Call | None:
        with self._lock:
            return self._open.pop(span or "", None)

    def _settle(self, span: str | None, answer: ChatResponse | CompletionResponse | None) -> None:
        call = self._close(span)
        last = answer or (call.last if call else None)
        if call is None or call.outer or last is None:
            return
        usage = reported_usage(last)
        if usage is None and call.reported is not None:
            usage = reported_usage(call.reported)
        if usage is None:
            usage = estimated_usage(call.prompt, text_of(last), call.model)
        call.recorder.record(
            operation=call.operation,
            model=call.model,
            usage=usage,
            seconds=time.perf_counter() - call.began,
            id=span,
            prompt=_text(call.prompt),
            why="" if answer is not None else "the stream was not read to its end",
        )


def _text(prompt: str | Sequence[ChatMessage]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message.content or "" for message in prompt)


def _record_hit(event: CacheHitEvent) -> None:
    from costwise_core.tracking import recorder  # noqa: PLC0415

    active = recorder()
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
