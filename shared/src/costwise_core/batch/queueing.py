"""A queue of model calls that can wait, kept in a file, answered through a batch API."""

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

from costwise_core.batch.asking import BatchAnswer, BatchProvider, BatchRequest
from costwise_core.batch.billing import origin_of
from costwise_core.batch.queue_file import QueueFile
from costwise_core.batch.queue_rows import Counts, Item
from costwise_core.batch.steps import Steps
from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.stores.sqlite_file import check_file

__all__ = ["BatchQueue"]


class BatchQueue:
    """Model calls that can wait, at the price of a batch. Survives `kill -9`; shared by processes.

    `submit` returns once the requests can no longer be lost. Every `step` hands in what waits,
    looks after the batches under way and takes in what they brought; `as_completed` takes steps
    until all is answered. A request is known by its content and its job: whoever submits it again,
    in a program started anew, gets the answer that is there or on its way, and pays once.

    A batch is written down before it is handed in. If nobody could note what the provider said, it
    is looked for before anything of it is sent again. What a batch brings no answer for is tried in
    another; what expires, or has no time left, is asked in real time.

    Args:
        path: The file; made with mode 0600. Prompts and answers are kept in it until `forget`.
        provider: Who answers: `OpenAIBatches` or `AnthropicBatches`.
        real_time: Whether to ask in real time what no batch answers; False ends it with an error.
        reserve: Seconds before a deadline at which a batch is cancelled and what it has not
            answered is asked in real time. A deadline nearer than twice that is worth no batch.
        tries: How often a request is sent in batches, and after that in real time.
        retry_after: Seconds until something is tried again, doubled each time.
        grace: Seconds after which a batch that was handed in, but not noted and not found, counts
            as never taken. Longer than handing in can last.
        busy_timeout: Seconds to wait for another process's lock on the file.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import tempfile
        >>> from costwise_core.batch.openai_provider import OpenAIBatches
        >>> body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "RAG?"}]}
        >>> request = BatchRequest(endpoint="/v1/chat/completions", body=body)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with BatchQueue(f"{folder}/batch.db", OpenAIBatches(object())) as queue:
        ...         ids = queue.submit([request], job="nightly")
        ...         queue.counts()
        Counts(waiting=1, sent=0, done=0, failed=0)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: BatchProvider,
        *,
        real_time: bool = True,
        reserve: float = 900.0,
        tries: int = 3,
        retry_after: float = 60.0,
        grace: float = 1800.0,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (("reserve", reserve), ("retry_after", retry_after), ("grace", grace)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is in seconds and not negative, got {value!r}.")
        if tries < 1:
            raise ConfigError(f"tries must be at least 1, got {tries!r}.")
        checked = check_file(path, busy_timeout, instead="a list and the model's own batch()")
        self.provider = provider
        self.faults: Counter[str] = Counter()
        """Faults that were passed over and tried again, by the name of the error."""
        self._file = QueueFile(checked, provider.name, busy_timeout=busy_timeout)
        self._real_time = real_time
        self._reserve = reserve
        self._clock = clock
        self._steps = Steps(
            file=self._file,
            provider=provider,
            faults=self.faults,
            real_time=real_time,
            reserve=reserve,
            tries=tries,
            retry_after=retry_after,
            grace=grace,
            clock=clock,
        )

    # --- what callers do ------------------------------------------------------------------------

    def submit(
        self, requests: Sequence[BatchRequest], *, job: str = "", within: float | None = None
    ) -> list[str]:
        """Take requests in, durably, and return an id for each, in order.

        Args:
            requests: The calls.
            job: What they are for. The same request in the same job is asked once, however often
                it is submitted; twice in one call, it is two requests.
            within: Seconds from now within which the answers are needed; None is when they come.

        Raises:
            ConfigError: if a request is not one that a batch can hold.
            StoreError: if the file cannot be used; nothing was taken in then.
        """
        return run(self._submit(requests, job, within))

    async def asubmit(
        self, requests: Sequence[BatchRequest], *, job: str = "", within: float | None = None
    ) -> list[str]:
        """Do what `submit` does, without blocking the event loop."""
        return await arun(self._submit(requests, job, within))

    def step(self) -> Counts:
        """Do what is to be done now, and say how many requests are where.

        Answers are written to the `track` block around, with the tags they were submitted under.

        Raises:
            BatchError: if the provider refuses access to its batch API; the requests are kept.
            StoreError: if the file cannot be used.
        """
        return run(self._steps.step())

    async def astep(self) -> Counts:
        """Do what `step` does, without blocking the event loop."""
        return await arun(self._steps.step())

    def as_completed(
        self, ids: Collection[str] | None = None, *, every: float = 60.0
    ) -> Iterator[BatchAnswer]:
        """Yield answers as they come, taking a step every so many seconds.

        Args:
            ids: Which requests; None is all in the queue.
            every: Seconds until the next step when one brought nothing; well below `reserve`.

        Raises:
            ConfigError: if an id is not in the queue.
            BatchError: as for `step`.
        """
        left = run(call(self._known, ids))
        while left:
            self.step()
            before = len(left)
            for answer in self._file.ended(left):
                del left[answer.id]
                yield answer
            if len(left) == before:
                time.sleep(every)

    async def aas_completed(
        self, ids: Collection[str] | None = None, *, every: float = 60.0
    ) -> AsyncIterator[BatchAnswer]:
        """Do what `as_completed` does, without blocking the event loop."""
        left = await arun(call(self._known, ids))
        while left:
            await self.astep()
            before = len(left)
            for answer in await asyncio.to_thread(lambda: list(self._file.ended(left))):
                del left[answer.id]
                yield answer
            if len(left) == before:
                await asyncio.sleep(every)

    def answers(self, ids: Collection[str]) -> list[BatchAnswer]:
        """Return the answers of those of these requests that have ended, in any order."""
        return list(self._file.ended(ids))

    def counts(self) -> Counts:
        """Say how many requests are where."""
        return self._file.counts()

    def forget(self, ids: Collection[str]) -> int:
        """Delete requests that have ended, with their answers; return how many there were."""
        return self._file.forget(ids)

    def close(self) -> None:
        """Close the file; using the queue again opens it again."""
        self._file.close()

    def __enter__(self) -> "BatchQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- taking in ------------------------------------------------------------------------------

    def _submit(
        self, requests: Sequence[BatchRequest], job: str, within: float | None
    ) -> Flow[list[str]]:
        now = self._clock()
        if within is not None and not within > 0:
            raise ConfigError(f"within is in seconds from now and positive, got {within!r}.")
        due = None if within is None else now + within
        hasty = within is not None and within < 2 * self._reserve
        direct = self._real_time and (hasty or current_request().unoptimised)
        seen: Counter[str] = Counter()
        items, models, origins = [], [], []
        for request in requests:
            body = self._checked(request)
            ident = _ident(self.provider.name, job, request, seen)
            origins.append(origin_of(request.body))
            models.append(str(request.body["model"]))
            items.append(
                Item(
                    id=ident,
                    endpoint=request.endpoint,
                    body=body,
                    at=now,
                    due=due,
                    tries=0,
                    batch="",
                    place=-1 if direct else 0,
                )
            )
        yield from call(self._file.add, items, origins, models)
        return [one.id for one in items]

    def _checked(self, request: BatchRequest) -> bytes:
        if not isinstance(request.body.get("model"), str) or not request.body["model"]:
            raise ConfigError('the body of a batch request must name a "model".')
        if request.body.get("stream"):
            raise ConfigError("a batch cannot stream; leave `stream` out of the request.")
        try:
            # Keys stay in their order: a model fills in a schema's fields in the order given.
            body = json.dumps(dict(request.body), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"the body of a batch request must be JSON: {error}.") from error
        if len(body) > self.provider.max_bytes // 2:
            raise ConfigError(
                f"a request of {len(body):,} bytes is too large for a batch of "
                f"{self.provider.max_bytes:,}."
            )
        return body

    def _known(self, ids: Collection[str] | None) -> dict[str, None]:
        known = self._file.ids()
        if ids is None:
            return dict.fromkeys(known)
        if unknown := set(ids).difference(known):
            raise ConfigError(f"{len(unknown)} ids are not in this queue, such as {min(unknown)}.")
        return dict.fromkeys(ids)


def _ident(provider: str, job: str, request: BatchRequest, seen: Counter[str]) -> str:
    """Return 32 hexadecimal digits by which the same request is known in another process."""
    parts = [
        provider,
        job,
        current_request().tenant,
        request.endpoint,
        json.dumps(dict(request.body), sort_keys=True),
    ]
    same = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    seen[same] += 1
    return hashlib.sha256(f"{same} {seen[same]}".encode()).hexdigest()[:32]
