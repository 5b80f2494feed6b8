"""OpenAI's batch API, and whoever speaks like it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import IO, Any, Final

from costwise_core.batch.asking import Ending, Found, Outcome, Progress, Sent
from costwise_core.batch.clients import (
    TRANSIENT,
    json_lines,
    not_taken,
    status_of,
)
from costwise_core.batch.sdk_batches import MOST_PAGES, PAGE, SKEW_SECONDS, SDKBatches
from costwise_core.drive import Flow, call

__all__ = ["OpenAIBatches"]

_MARK: Final = "costwise"
_CREATE_SECONDS: Final = 120.0
_ENDED: Final = frozenset({"completed", "expired", "cancelled"})
_ANSWERED_AT: Final = {
    "/v1/chat/completions": "chat.completions.create",
    "/v1/responses": "responses.create",
    "/v1/embeddings": "embeddings.create",
    "/v1/completions": "completions.create",
}
# OpenAI writes these where a request of an expired or cancelled batch was never run.
_NEVER_RUN: Final[Mapping[str, Ending]] = {
    "batch_expired": "expired",
    "batch_cancelled": "cancelled",
}


class OpenAIBatches(SDKBatches):
    """OpenAI's batch API through its SDK: half the price, answers within a day.

    A batch holds requests to one endpoint and one model. It is marked with a token in its metadata,
    by which it is found again if nobody could note its id.

    Args:
        client: `openai.OpenAI`, or None if only async methods will be used.
        async_client: `openai.AsyncOpenAI`; without it async methods use `client` in a thread.
        max_requests: How many requests a batch may hold; OpenAI takes 50,000.
        max_bytes: How large its file may be; OpenAI takes 200 MB.

    Raises:
        ConfigError: if no client was given.

    Example:
        >>> OpenAIBatches(object()).name  # an `openai.OpenAI` in real life
        'openai'
    """

    name = "openai"

    def __init__(
        self,
        client: Any = None,
        *,
        async_client: Any = None,
        max_requests: int = 50_000,
        max_bytes: int = 200_000_000,
    ) -> None:
        super().__init__(client, async_client, max_requests=max_requests, max_bytes=max_bytes)

    def _submit(self, token: str, requests: Sequence[Sent]) -> Flow[str]:
        lines = b"".join(map(_line, requests))
        try:
            file = yield from call(
                self._api.ask, "files.create", file=(f"{token}.jsonl", lines), purpose="batch"
            )
        except Exception as error:  # a file alone is never run
            raise not_taken(self.name, error) from error
        return (
            yield from self._create(
                "batches.create",
                input_file_id=file.id,
                endpoint=requests[0].endpoint,
                completion_window="24h",
                metadata={_MARK: token},
                timeout=_CREATE_SECONDS,
            )
        )

    def _find(self, token: str, since: float, _count: int, _known: Collection[str]) -> Flow[Found]:
        after: dict[str, Any] = {}
        for _ in range(MOST_PAGES):
            page = yield from call(self._api.ask, "batches.list", limit=PAGE, **after)
            for batch in page.data:
                if (batch.metadata or {}).get(_MARK) == token:
                    return Found(batch=str(batch.id))
            if not page.has_more or not page.data:
                return Found()
            if page.data[-1].created_at < since - SKEW_SECONDS:
                return Found()
            after = {"after": page.data[-1].id}
        return Found(unsure=True)

    def _poll(self, batch: str) -> Flow[Progress]:
        try:
            told = yield from call(self._api.ask, "batches.retrieve", batch_id=batch)
        except Exception as error:
            if status_of(error) == 404:
                return Progress(state="gone", error="OpenAI does not know the batch any more")
            raise
        if told.status == "failed":
            return _refusal(told)
        return Progress(state="ended" if told.status in _ENDED else "running")

    def _results(self, batch: str) -> Flow[Iterator[Outcome]]:
        told = yield from call(self._api.ask, "batches.retrieve", batch_id=batch)
        files: list[IO[bytes]] = []
        for ident in (told.output_file_id, told.error_file_id):
            if ident:
                file = yield from call(self._api.download, "files.content", ident)
                files.append(file)
        return map(_outcome, chain.from_iterable(map(json_lines, files)))

    def _cancel(self, batch: str) -> Flow[None]:
        yield from call(self._api.ask, "batches.cancel", batch_id=batch)

    def _answer(self, request: Sent) -> Flow[Outcome]:
        method = _ANSWERED_AT.get(request.endpoint)
        if method is None:
            said = f"{request.endpoint} is not asked in real time"
            return Outcome(ending="failed", custom_id=request.custom_id, error=said)
        body = json.loads(request.body)
        # What the SDK does not know as an argument is sent all the same.
        return (yield from self._ended(request, method, **_REQUIRED[method](body), extra_body=body))


_REQUIRED: Final[Mapping[str, Any]] = {
    "chat.completions.create": lambda body: {
        "model": body.get("model"),
        "messages": body.get("messages", []),
    },
    "responses.create": lambda _: {},
    "embeddings.create": lambda body: {"model": body.get("model"), "input": body.get("input")},
    "completions.create": lambda body: {"model": body.get("model"), "prompt": body.get("prompt")},
}


def _line(request: Sent) -> bytes:
    start = {"custom_id": request.custom_id, "method": "POST", "url": request.endpoint}
    return json.dumps(start)[:-1].encode() + b', "body": ' + request.body + b"}\n"


def _refusal(told: Any) -> Progress:
    errors = (told.errors.data if told.errors else None) or []
    return Progress(
        state="refused",
        error="; ".join(f"{one.code}: {one.message}" for one in errors[:3])[:500] or "no reason",
        full=any(one.code == "token_limit_exceeded" for one in errors),
        bad=frozenset(one.line - 1 for one in errors if isinstance(one.line, int)),
    )


def _outcome(line: Mapping[str, Any]) -> Outcome:
    """Read one line of a results file, trusting nothing in it."""
    custom_id = str(line.get("custom_id"))
    response, error = line.get("response"), line.get("error")
    if isinstance(error, Mapping):
        code = str(error.get("code"))
        said = f"{code}: {str(error.get('message'))[:500]}"
        return Outcome(ending=_NEVER_RUN.get(code, "transient"), custom_id=custom_id, error=said)
    if not isinstance(response, Mapping):
        return Outcome(ending="transient", custom_id=custom_id, error="the line has no response")
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and isinstance(body, Mapping):
        return Outcome(ending="answered", custom_id=custom_id, body=body)
    told = body.get("error") if isinstance(body, Mapping) else None
    said = str(told.get("message") if isinstance(told, Mapping) else told)[:500]
    return Outcome(
        ending="transient" if status == 200 or status in TRANSIENT else "failed",
        custom_id=custom_id,
        error=f"status {status}: {said}",
    )
