"""What batch providers have in common that are asked through their SDK."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from costwise_core.batch.asking import Found, Outcome, Progress, Sent
from costwise_core.batch.clients import TRANSIENT, Clients, in_doubt, not_taken, status_of
from costwise_core.drive import Flow, arun, call, run

__all__ = ["MOST_PAGES", "PAGE", "SKEW_SECONDS", "SDKBatches"]

PAGE: Final = 100
"""How many batches are listed at once when one is looked for."""

MOST_PAGES: Final = 100
"""How many such lists are read."""

SKEW_SECONDS: Final = 300.0
"""How much earlier than by our clock a batch may have been made by the provider's."""


class SDKBatches:
    """Is a `BatchProvider`, for threads and for event loops. A subclass says how, as flows.

    Every method has an asynchronous twin with an "a" in front.

    Args:
        client: The SDK's sync client, or None if only async methods will be used.
        async_client: Its async client; without it async methods use `client` in a thread.
        max_requests: How many requests a batch may hold.
        max_bytes: How large it may be.

    Raises:
        ConfigError: if no client was given.
    """

    name: str

    def __init__(
        self, client: Any, async_client: Any, *, max_requests: int, max_bytes: int
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

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> Found:
        """Look through the newest batches for the one with this token."""
        return run(self._find(token, since, count, known))

    async def afind(self, token: str, since: float, count: int, known: Collection[str]) -> Found:
        """Do what `find` does, without blocking the event loop."""
        return await arun(self._find(token, since, count, known))

    def poll(self, batch: str) -> Progress:
        """Say how far a batch is."""
        return run(self._poll(batch))

    async def apoll(self, batch: str) -> Progress:
        """Do what `poll` does, without blocking the event loop."""
        return await arun(self._poll(batch))

    def results(self, batch: str) -> Iterator[Outcome]:
        """Yield what became of the requests."""
        return run(self._results(batch))

    async def aresults(self, batch: str) -> Iterator[Outcome]:
        """Do what `results` does, without blocking the event loop until all is here."""
        return await arun(self._results(batch))

    def cancel(self, batch: str) -> None:
        """Ask the provider to run no more of a batch; what was run until then is paid."""
        run(self._cancel(batch))

    async def acancel(self, batch: str) -> None:
        """Do what `cancel` does, without blocking the event loop."""
        await arun(self._cancel(batch))

    def answer(self, request: Sent) -> Outcome:
        """Ask one request in real time."""
        return run(self._answer(request))

    async def aanswer(self, request: Sent) -> Outcome:
        """Do what `answer` does, without blocking the event loop."""
        return await arun(self._answer(request))

    # --- what a subclass says -------------------------------------------------------------------

    def _submit(self, token: str, requests: Sequence[Sent], /) -> Flow[str]:
        raise NotImplementedError

    def _find(self, token: str, since: float, count: int, known: Collection[str], /) -> Flow[Found]:
        raise NotImplementedError

    def _poll(self, batch: str) -> Flow[Progress]:
        raise NotImplementedError

    def _results(self, batch: str) -> Flow[Iterator[Outcome]]:
        raise NotImplementedError

    def _cancel(self, batch: str) -> Flow[None]:
        raise NotImplementedError

    def _answer(self, request: Sent) -> Flow[Outcome]:
        raise NotImplementedError

    # --- what it is said with -------------------------------------------------------------------

    def _create(self, method: str, **given: Any) -> Flow[str]:
        """Make a batch and return its id."""
        try:
            # The SDK would try again after a lost answer, and pay twice.
            batch = yield from call(self._api.ask, method, once=True, **given)
        except Exception as error:
            if in_doubt(error):
                raise
            raise not_taken(self.name, error) from error
        return str(batch.id)

    def _ended(self, request: Sent, method: str, **given: Any) -> Flow[Outcome]:
        """Ask in real time; an error becomes the request's own ending."""
        try:
            answer = yield from call(self._api.ask, method, **given)
        except Exception as error:  # noqa: BLE001 - becomes the request's own ending
            status = status_of(error)
            return Outcome(
                ending="transient" if status is None or status in TRANSIENT else "failed",
                custom_id=request.custom_id,
                error=f"{type(error).__name__}: {str(error)[:500]}",
            )
        body = answer.model_dump(mode="json", exclude_unset=True, warnings=False)
        return Outcome(ending="answered", custom_id=request.custom_id, body=body)
