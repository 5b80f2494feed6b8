"""OpenAI's batch API, and whoever speaks like it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import IO, Any, Final

from costwise_core.batch.asking import Ending, Found, Outcome, Progress, Sent
from costwise_core.batch.clients import (
    TRANSIENT,
    Clients,
    in_doubt,
    json_lines,
    not_taken,
    status_of,
)
from costwise_core.drive import Flow, arun, call, run

__all__ = ["OpenAIBatches"]

_MARK: Final = "costwise"
_SKEW_SECONDS: Final = 300.0
_PAGE: Final = 100
_PAGES: Final = 100
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


class OpenAIBatches:
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
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self._api = Clients(client, async_client)

    def submit(self, token: str, requests: Sequence[Sent]) -> str:
        """Upload the requests and hand them in as one batch.

        Raises:
            BatchError: if it was certainly not taken.
            Exception: anything else leaves open whether it was.
        """
        return run(self._submit(token, requests))

    async def asubmit(self, token: str, requests: Sequence[Sent]) -> str:
        """Do what `submit` does, without blocking the event loop."""
        return await arun(self._submit(token, requests))

    def _submit(self, token: str, requests: Sequence[Sent]) -> Flow[str]:
        lines = b"".join(map(_line, requests))
        try:
            file = yield from call(
                self._api.ask, "files.create", file=(f"{token}.jsonl", lines), purpose="batch"
            )
        except Exception as error:  # a file alone is never run
            raise not_taken(self.name, error) from error
        try:
            batch = yield from call(
                self._api.ask,
                "batches.create",
                once=True,  # the SDK would try again after a lost answer, and pay twice
                input_file_id=file.id,
                endpoint=requests[0].endpoint,
                completion_window="24h",
                metadata={_MARK: token},
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

    def _find(self, token: str, since: float, _count: int, _known: Collection[str]) -> Flow[Found]:
        after: dict[str, Any] = {}
        for _ in range(_PAGES):
            page = yield from call(self._api.ask, "batches.list", limit=_PAGE, **after)
            for batch in page.data:
                if (batch.metadata or {}).get(_MARK) == token:
                    return Found(batch=str(batch.id))
            if not page.has_more or not page.data:
                return Found()
            if page.data[-1].created_at < since - _SKEW_SECONDS:
                return Found()
            after = {"after": page.data[-1].id}
        return Found(unsure=True)

    def poll(self, batch: str) -> Progress:
        """Say how far a batch is."""
        return run(self._poll(batch))

    async def apoll(self, batch: str) -> Progress:
        """Do what `poll` does, without blocking the event loop."""
        return await arun(self._poll(batch))

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

    def results(self, batch: str) -> Iterator[Outcome]:
        """Yield what became of the requests, out of the output file and the error file."""
        return run(self._results(batch))

    async def aresults(self, batch: str) -> Iterator[Outcome]:
        """Do what `results` does, without blocking the event loop until all is here."""
        return await arun(self._results(batch))

    def _results(self, batch: str) -> Flow[Iterator[Outcome]]:
        told = yield from call(self._api.ask, "batches.retrieve", batch_id=batch)
        files: list[IO[bytes]] = []
        for ident in (told.output_file_id, told.error_file_id):
            if ident:
                file = yield from call(self._api.download, "files.content", ident)
                files.append(file)
        return map(_outcome, chain.from_iterable(map(json_lines, files)))

    def cancel(self, batch: str) -> None:
        """Ask OpenAI to run no more of a batch; what was run until then is answered and paid."""
        run(call(self._api.ask, "batches.cancel", batch_id=batch))

    async def acancel(self, batch: str) -> None:
        """Do what `cancel` does, without blocking the event loop."""
        await arun(call(self._api.ask, "batches.cancel", batch_id=batch))

    def answer(self, request: Sent) -> Outcome:
        """Ask one request in real time."""
        return run(self._answer(request))

    async def aanswer(self, request: Sent) -> Outcome:
        """Do what `answer` does, without blocking the event loop."""
        return await arun(self._answer(request))

    def _answer(self, request: Sent) -> Flow[Outcome]:
        method = _ANSWERED_AT.get(request.endpoint)
        if method is None:
            said = f"{request.endpoint} is not asked in real time"
            return Outcome(ending="failed", custom_id=request.custom_id, error=said)
        body = json.loads(request.body)
        try:
            # What the SDK does not know as an argument is sent all the same.
            answer = yield from call(
                self._api.ask, method, **_REQUIRED[method](body), extra_body=body
            )
        except Exception as error:  # noqa: BLE001 - becomes the request's own ending
            return failure(request.custom_id, error)
        body = answer.model_dump(mode="json", exclude_unset=True, warnings=False)
        return Outcome(ending="answered", custom_id=request.custom_id, body=body)


_REQUIRED: Final[Mapping[str, Any]] = {
    "chat.completions.create": lambda body: {
        "model": body.get("model"),
        "messages": body.get("messages", []),
    },
    "responses.create": lambda _: {},
    "embeddings.create": lambda body: {"model": body.get("model"), "input": body.get("input")},
    "completions.create": lambda body: {"model": body.get("model"), "prompt": body.get("prompt")},
}


def failure(custom_id: str, error: Exception) -> Outcome:
    """Return what an SDK raised for one request as the request's ending."""
    status = status_of(error)
    passing = status is None or status in TRANSIENT
    return Outcome(
        ending="transient" if passing else "failed",
        custom_id=custom_id,
        error=f"{type(error).__name__}: {str(error)[:500]}",
    )


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
