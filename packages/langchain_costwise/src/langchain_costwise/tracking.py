"""Every LangChain model call on one bill, without handing callbacks around."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation, LLMResult
from langchain_core.tracers.context import register_configure_hook

from costwise_core.bill import Bill
from costwise_core.holdout import HoldOut
from costwise_core.prices import PriceBook
from costwise_core.protocols import Ledger
from costwise_core.tracking import TAGS, Recorder, recorder
from costwise_core.tracking import track as core_track
from costwise_core.types import Usage
from costwise_core.usage import at_least, estimate_usage, processing_of
from costwise_core.usage import usage_of as read_usage
from langchain_costwise._answers import saved_usage, usage_of

__all__ = ["track", "unshown"]

_handler: ContextVar[BaseCallbackHandler | None] = ContextVar("costwise_handler", default=None)


@contextmanager
def track(
    *,
    ledger: Ledger | None = None,
    prices: PriceBook | None = None,
    holdout: HoldOut | None = None,
    **tags: str,
) -> Iterator[Bill]:
    """Put the cost of every chat and text model call inside the block on a bill; blocks nest.

    Calls of chains, graphs and agents count too, sync, async, batched or streamed, each once. A hit
    of costwise's own caches is entered with what it saved; one of another cache, which LangChain
    marks by a cost of zero, is left out. Tokens a provider does not report are estimated, and the
    record says so; so are those of a stream that broke off.

    Tags may be said in a call's config, too, as `{"metadata": {"tenant": "acme"}}`; they win.

    Searches of vector stores count as "vector_query". Embeddings, which LangChain tells nobody of,
    count where they go through costwise: through `CachedEmbeddings`, a cache or a scorer.

    Args:
        ledger: Where calls are kept beyond the block.
        prices: What calls are priced with; that of the block around, or the list, if not given.
        holdout: Makes the block one request, of which a share runs unoptimised; see
            `costwise_core.HoldOut`.
        **tags: `feature`, `team`, `user`, `tenant`, `endpoint`, `conversation`, `request`, `arm`.

    Yields:
        The bill, which fills while the block runs and stays afterwards.

    Raises:
        ConfigError: if a tag has another name or is not text.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> with track(feature="faq") as bill:
        ...     answer = FakeListChatModel(responses=["A method."]).invoke("What is RAG?")
        >>> bill.calls, bill.usage.estimated
        (1, True)
    """
    with core_track(ledger=ledger, prices=prices, holdout=holdout, **tags) as bill:
        token = _handler.set(_recording())
        try:
            yield bill
        finally:
            _handler.reset(token)


@cache
def _recording() -> "_Recording":
    register_configure_hook(_handler, inheritable=True)
    return _Recording()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Started:
    """A call that is under way, and the bills that were around when it began."""

    recorder: Recorder
    operation: str
    model: str
    prompt: Sequence[BaseMessage] | str
    at: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(message.text for message in self.prompt)


class _Recording(BaseCallbackHandler):
    """Writes each run of a model to the bills that were around when it began."""

    raise_error = False

    def __init__(self) -> None:
        self._started: dict[UUID, _Started] = {}
        self._lock = threading.Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's signature
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._start(run_id, "chat", messages[0], kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        prompts: list[str],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._start(run_id, "completion", "\n".join(prompts), kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, response, why="")

    def on_retriever_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        query: str,
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        if store := _first_text(kwargs.get("metadata") or {}, ("ls_vector_store_provider",)):
            self._begin(run_id, "vector_query", store, query, kwargs)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        if (started := self._take(run_id)) is not None:
            started.recorder.record(
                id=str(run_id),
                operation=started.operation,
                model=started.model,
                usage=Usage(),
                seconds=time.monotonic() - started.at,
            )

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        self._take(run_id)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **_: Any
    ) -> None:
        self._end(run_id, response, why=f"broke off with {type(error).__name__}")

    def _start(
        self,
        run_id: UUID,
        operation: str,
        prompt: Sequence[BaseMessage] | str,
        told: Mapping[str, Any],
    ) -> None:
        self._begin(run_id, operation, _asked_model(told), prompt, told)

    def _begin(
        self,
        run_id: UUID,
        operation: str,
        model: str,
        prompt: Sequence[BaseMessage] | str,
        told: Mapping[str, Any],
    ) -> None:
        active = recorder()
        if active is None:
            return
        active = active.tagged(tags_in(told.get("metadata") or {}))
        started = _Started(recorder=active, operation=operation, model=model, prompt=prompt)
        with self._lock:
            self._started[run_id] = started

    def _take(self, run_id: UUID) -> _Started | None:
        with self._lock:
            return self._started.pop(run_id, None)

    def _end(self, run_id: UUID, response: LLMResult | None, *, why: str) -> None:
        started = self._take(run_id)
        if started is None:
            return
        try:
            answers = [item for row in response.generations for item in row] if response else []
            if why and not any(map(_words, answers)):
                return  # failed before the first word: nothing came, nothing is known to be paid
            _write(str(run_id), started, answers, response, broke=bool(why), why=why)
        except Exception as error:  # noqa: BLE001 - bookkeeping never breaks the user's call
            for bill in started.recorder.bills:
                bill.count_fault(error)


def _write(
    ident: str,
    started: _Started,
    answers: Sequence[Generation],
    response: LLMResult | None,
    *,
    broke: bool = False,
    why: str = "",
) -> None:
    told = _told(answers)
    marker = told.get("costwise")
    marker = marker if isinstance(marker, Mapping) else {}
    call: dict[str, Any] = {
        "id": ident,
        "operation": started.operation,
        "model": _first_text(marker, ("priced_as",))
        or _answering_model(told, response)
        or _first_text(marker, ("model",))
        or started.model,
        "prompt": started.text(),
        "seconds": time.monotonic() - started.at,
    }
    baseline = _first_text(marker, ("baseline",)) or started.recorder.baseline_model
    writer = replace(started.recorder, baseline_model=baseline)
    if marker.get("hit") in {"exact", "near"}:
        writer.record(
            **call,
            tier=marker["hit"],
            usage_then=saved_usage(marker),
            why=str(marker.get("why", "")),
        )
    elif not _cached_elsewhere(answers):
        usage = _reported(answers, response)
        if usage is None or broke:
            words = "\n".join(map(_words, answers))
            usage = at_least(usage, estimate_usage(call["prompt"], words, call["model"]))
        route = marker.get("route")
        if not why and isinstance(route, Mapping):
            why = _first_text(route, ("why",))
        writer.record(**call, usage=usage, processing=processing_of(told), why=why)


def unshown(
    model: str, messages: Sequence[BaseMessage]
) -> Callable[[Sequence[Generation], str], None]:
    """Note that a call begins which is no run of its own: nobody else writes it down.

    Args:
        model: Under what it is priced.
        messages: The prompt.

    Returns:
        What writes the call down as costwise's own cost, given its answer and why nobody sees it.
    """
    active = recorder()
    if active is None:
        return lambda answers, why: None  # noqa: ARG005
    own = replace(active, overhead=True)
    started = _Started(recorder=own, operation="chat", model=model, prompt=messages)
    return lambda answers, why: _write(uuid4().hex, started, answers, None, why=why)


def tags_in(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that a config's metadata says; LangGraph's threads are conversations.

    Example:
        >>> tags_in({"tenant": "acme", "thread_id": "t1", "ls_provider": "openai"})
        {'tenant': 'acme', 'conversation': 't1'}
    """
    said = {"conversation": metadata.get("thread_id"), **metadata}
    return {name: said[name] for name in TAGS if isinstance(said.get(name), str)}


def _told(answers: Sequence[Generation]) -> Mapping[str, Any]:
    """Return what the first answer says about itself."""
    message = getattr(answers[0], "message", None) if answers else None
    return {
        **((answers[0].generation_info if answers else None) or {}),
        **(getattr(message, "response_metadata", None) or {}),
    }


def _reported(answers: Sequence[Generation], response: LLMResult | None) -> Usage | None:
    usage = usage_of(answers[0]) if answers else None
    told = (response.llm_output if response else None) or {}
    if usage is None and told.get("token_usage") == {}:
        return Usage()  # of several prompts at once, LangChain puts all tokens on the first
    return usage or read_usage(told)


def _words(answer: Generation) -> str:
    """Return what the model wrote, calls of tools included."""
    calls = getattr(getattr(answer, "message", None), "tool_calls", None)
    return f"{answer.text}{json.dumps(calls, default=str)}" if calls else answer.text


def _cached_elsewhere(answers: Sequence[Generation]) -> bool:
    """Say whether LangChain served this from another cache: it then writes a total cost of 0."""
    message = getattr(answers[0], "message", None) if answers else None
    reported = getattr(message, "usage_metadata", None) or {}
    return reported.get("total_cost") == 0


def _answering_model(told: Mapping[str, Any], response: LLMResult | None) -> str:
    output = (response.llm_output if response else None) or {}
    return _first_text(told, ("model_name", "model")) or _first_text(
        output, ("model_name", "model")
    )


def _asked_model(told: Mapping[str, Any]) -> str:
    return _first_text(told.get("metadata") or {}, ("ls_model_name",)) or _first_text(
        told.get("invocation_params") or {}, ("model_name", "model", "_type")
    )


def _first_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    found = (fields.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), "")
