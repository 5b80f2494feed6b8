"""Anthropic's message batches."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from costwise_core.batch.asking import Ending, Found, Outcome, Progress, Sent
from costwise_core.batch.clients import json_lines, status_of
from costwise_core.batch.sdk_batches import MOST_PAGES, PAGE, SKEW_SECONDS, SDKBatches
from costwise_core.drive import Flow, call

__all__ = ["AnthropicBatches"]

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


class AnthropicBatches(SDKBatches):
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
        super().__init__(client, async_client, max_requests=max_requests, max_bytes=max_bytes)

    def _submit(self, _token: str, requests: Sequence[Sent]) -> Flow[str]:
        entries = [{"custom_id": one.custom_id, "params": json.loads(one.body)} for one in requests]
        return (
            yield from self._create(
                "messages.batches.create", requests=entries, timeout=_CREATE_SECONDS
            )
        )

    def _find(self, token: str, since: float, count: int, known: Collection[str]) -> Flow[Found]:
        after: dict[str, Any] = {}
        unsure = False
        for _ in range(MOST_PAGES):
            page = yield from call(self._api.ask, "messages.batches.list", limit=PAGE, **after)
            for batch in page.data:
                if batch.created_at.timestamp() < since - SKEW_SECONDS:
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

    def _results(self, batch: str) -> Flow[Iterator[Outcome]]:
        lines = yield from call(self._api.ask, "messages.batches.results", message_batch_id=batch)
        file = yield from call(self._api.save, lines)
        return map(_outcome, json_lines(file))

    def _cancel(self, batch: str) -> Flow[None]:
        yield from call(self._api.ask, "messages.batches.cancel", message_batch_id=batch)

    def _answer(self, request: Sent) -> Flow[Outcome]:
        body = json.loads(request.body)
        required = {name: body.pop(name, None) for name in ("model", "messages", "max_tokens")}
        return (yield from self._ended(request, "messages.create", **required, extra_body=body))


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
