"""Anthropic's message batches."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from costwise_core.batch.asking import Ending, Found, Outcome, Progress, Sent
from costwise_core.batch.clients import Clients, in_doubt, json_lines, not_taken, status_of
from costwise_core.batch.openai_provider import failure
from costwise_core.drive import Flow, arun, call, run

__all__ = ["AnthropicBatches"]

_SKEW_SECONDS: Final = 300.0
_PAGE: Final = 100
_PAGES: Final = 100
_CREATE_SECONDS: Final = 600.0
_FOR_GOOD: Final = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
    }
)
_ENDINGS: Final[Mapping[str, Ending]] = {"expired": "expired", "canceled": "cancelled"}


class AnthropicBatches:
    """Anthropic's message batches through its SDK: half the price, answers within a day.

    Anthropic keeps no mark on a batch. One whose id nobody could note is known by its number of
    requests while it runs, and by the ids in its results when it has ended.

    Args:
        client: `anthropic.Anthropic`, or None if only async methods will be used.
        async_client: `anthropic.AsyncAnthropic`; without it async methods use `client` in a thread.
        max_requests: How many requests a batch may hold; Anthropic takes 100,000.
        max_bytes: How large it may be; Anthropic takes 256 MB.

    Raises:
        ConfigError: if no client was given.

    Example:
        >>> AnthropicBatches(object()).name  # an `anthropic.Anthropic` in real life
        'anthropic'
    """

    name = "anthropic"

    def __init__(
        self,
        client: Any = None,
        *,
        async_client: Any = None,
        max_requests: int = 100_000,
        max_bytes: int = 256_000_000,
    ) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self._api = Clients(client, async_client)

    def submit(self, token: str, requests: Sequence[Sent]) -> str:
        """Hand in the requests as one batch.

        Raises:
            BatchError: if it was certainly not taken.
            Exception: anything else leaves open whether it was.
        """
        return run(self._submit(token, requests))

    async def asubmit(self, token: str, requests: Sequence[Sent]) -> str:
        """Do what `submit` does, without blocking the event loop."""
        return await arun(self._submit(token, requests))

    def _submit(self, _token: str, requests: Sequence[Sent]) -> Flow[str]:
        entries = [{"custom_id": one.custom_id, "params": json.loads(one.body)} for one in requests]
        try:
            batch = yield from call(
                self._api.ask,
                "messages.batches.create",
                once=True,  # the SDK would try again after a lost answer, and pay twice
                requests=entries,
                timeout=_CREATE_SECONDS,
            )
        except Exception as error:
            if in_doubt(error):
                raise
            raise not_taken(self.name, error) from error
        return str(batch.id)

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> Found:
        """Look through the newest batches for the one with this token."""
        return run(self._find(token, since, count, known))

    async def afind(self, token: str, since: float, count: int, known: Collection[str]) -> Found:
        """Do what `find` does, without blocking the event loop."""
        return await arun(self._find(token, since, count, known))

    def _find(self, token: str, since: float, count: int, known: Collection[str]) -> Flow[Found]:
        after: dict[str, Any] = {}
        unsure = False
        for _ in range(_PAGES):
            page = yield from call(self._api.ask, "messages.batches.list", limit=_PAGE, **after)
            for batch in page.data:
                if batch.created_at.timestamp() < since - _SKEW_SECONDS:
                    return Found(unsure=unsure)
                if batch.id in known or _size(batch) != count:
                    continue
                if batch.processing_status != "ended":
                    unsure = True
                elif (yield from self._is_it(batch.id, token)):
                    return Found(batch=str(batch.id))
            if not page.has_more or not page.data:
                return Found(unsure=unsure)
            after = {"after_id": page.data[-1].id}
        return Found(unsure=True)

    def _is_it(self, batch: str, token: str) -> Flow[bool]:
        outcomes = yield from self._results(batch)
        first = next(outcomes, None)
        return first is not None and first.custom_id.startswith(f"{token}-")

    def poll(self, batch: str) -> Progress:
        """Say how far a batch is."""
        return run(self._poll(batch))

    async def apoll(self, batch: str) -> Progress:
        """Do what `poll` does, without blocking the event loop."""
        return await arun(self._poll(batch))

    def _poll(self, batch: str) -> Flow[Progress]:
        try:
            told = yield from call(
                self._api.ask, "messages.batches.retrieve", message_batch_id=batch
            )
        except Exception as error:
            if status_of(error) == 404:
                return Progress(state="gone", error="Anthropic does not know the batch any more")
            raise
        if told.archived_at is not None:
            return Progress(state="gone", error="Anthropic has archived the batch")
        return Progress(state="ended" if told.processing_status == "ended" else "running")

    def results(self, batch: str) -> Iterator[Outcome]:
        """Yield what became of the requests."""
        return run(self._results(batch))

    async def aresults(self, batch: str) -> Iterator[Outcome]:
        """Do what `results` does, without blocking the event loop until all is here."""
        return await arun(self._results(batch))

    def _results(self, batch: str) -> Flow[Iterator[Outcome]]:
        lines = yield from call(self._api.ask, "messages.batches.results", message_batch_id=batch)
        file = yield from call(self._api.save, lines)
        return map(_outcome, json_lines(file))

    def cancel(self, batch: str) -> None:
        """Ask Anthropic to run no more of a batch."""
        run(call(self._api.ask, "messages.batches.cancel", message_batch_id=batch))

    async def acancel(self, batch: str) -> None:
        """Do what `cancel` does, without blocking the event loop."""
        await arun(call(self._api.ask, "messages.batches.cancel", message_batch_id=batch))

    def answer(self, request: Sent) -> Outcome:
        """Ask one request in real time."""
        return run(self._answer(request))

    async def aanswer(self, request: Sent) -> Outcome:
        """Do what `answer` does, without blocking the event loop."""
        return await arun(self._answer(request))

    def _answer(self, request: Sent) -> Flow[Outcome]:
        body = json.loads(request.body)
        required = {name: body.pop(name, None) for name in ("model", "messages", "max_tokens")}
        try:
            answer = yield from call(self._api.ask, "messages.create", **required, extra_body=body)
        except Exception as error:  # noqa: BLE001 - becomes the request's own ending
            return failure(request.custom_id, error)
        found = answer.model_dump(mode="json", exclude_unset=True, warnings=False)
        return Outcome(ending="answered", custom_id=request.custom_id, body=found)


def _size(batch: Any) -> int:
    counts = batch.request_counts
    return int(
        counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    )


def _outcome(line: Mapping[str, Any]) -> Outcome:
    """Read one line of a results file, trusting nothing in it."""
    custom_id, result = str(line.get("custom_id")), line.get("result")
    if not isinstance(result, Mapping):
        return Outcome(ending="transient", custom_id=custom_id, error="the line has no result")
    kind, message = str(result.get("type")), result.get("message")
    if kind == "succeeded" and isinstance(message, Mapping):
        return Outcome(ending="answered", custom_id=custom_id, body=message)
    if kind in _ENDINGS:
        return Outcome(ending=_ENDINGS[kind], custom_id=custom_id, error=kind)
    told = result.get("error")
    inner = told.get("error", told) if isinstance(told, Mapping) else {}
    name = str(inner.get("type")) if isinstance(inner, Mapping) else ""
    said = str(inner.get("message"))[:500] if isinstance(inner, Mapping) else ""
    return Outcome(
        ending="failed" if name in _FOR_GOOD else "transient",
        custom_id=custom_id,
        error=f"{name}: {said}",
    )
