"""How a model's answer ended; and how those ended that a query was answered with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
)
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler

from costwise_core.cache.cacheable import CallFacts, before_store

__all__ = ["finish_reason", "heard", "unknown", "worst"]

# The words with which providers say that an answer is whole.
_WHOLE = frozenset(
    {"", "complete", "completed", "end_turn", "eos", "eos_token", "finished", "stop"}
    | {"stop_sequence"}
)
_SAID = (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
)

_heard: ContextVar[tuple[list[str], ...]] = ContextVar("costwise_endings", default=())


def finish_reason(raw: object) -> str:
    """Return the finish reason in a provider's data in lower case; "" if it gave none."""
    choice = _first_choice(raw)
    if _get(_get(choice, "message"), "refusal"):
        return "refusal"
    for holder in (choice, raw):
        for name in ("finish_reason", "stop_reason", "done_reason"):
            reason = _get(holder, name)
            if reason:
                return str(getattr(reason, "name", reason)).lower().removeprefix("finish_reason_")
    return ""


def unknown(reason: str) -> bool:
    """Tell whether a finish reason says neither that an answer is whole nor why it is not."""
    fit = before_store("", "any", call=CallFacts(finish_reason=reason)).allowed
    return fit and reason not in _WHOLE


@contextmanager
def heard(endings: list[str]) -> Iterator[None]:
    """Write down how model calls in the block end; blocks nest, and each hears all inside it.

    A stream ends where it is read, so that needs a block too.
    """
    _attach()
    token = _heard.set((*_heard.get(), endings))
    try:
        yield
    finally:
        _heard.reset(token)


def worst(endings: list[str]) -> str:
    """Return the finish reason of an answer drawn from several: the first that is not whole.

    Calls of tools count as whole: an engine that selects or plans with them goes on afterwards.
    """
    called = ("tool", "function")
    return next((e for e in endings if e not in _WHOLE and not e.startswith(called)), "")


class _Listener(BaseEventHandler):
    def handle(self, event: BaseEvent, **kwargs: Any) -> None:  # noqa: ARG002
        """Take note of one event."""
        lists = _heard.get()
        if lists and isinstance(event, _SAID) and event.response is not None:
            reason = finish_reason(event.response.raw)
            for endings in lists if reason else ():
                endings.append(reason)


@cache
def _attach() -> None:
    get_dispatcher().add_event_handler(_Listener())


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _first_choice(raw: object) -> object:
    for name in ("choices", "candidates"):
        choices = _get(raw, name)
        if isinstance(choices, list | tuple) and choices:
            return choices[0]
    return None
