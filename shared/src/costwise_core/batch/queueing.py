"""A queue of model calls that can wait, kept in a file, answered through a batch API."""

import asyncio
import hashlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import Final

from costwise_core.batch.asking import BatchAnswer, BatchProvider, BatchRequest, Outcome
from costwise_core.batch.billing import origin_of, write_down, write_late
from costwise_core.batch.clients import may_pass, never_sent, status_of
from costwise_core.batch.crowd import Crowd
from costwise_core.batch.queue_file import Batch, Counts, Item, QueueFile
from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import BatchError, ConfigError
from costwise_core.stores.sqlite_file import check_file
from costwise_core.tracking import recorder

__all__ = ["BatchQueue"]

_WINDOW_SECONDS: Final = 25 * 3600.0
"""Providers end a batch within 24 hours; what has no answer then is asked in real time."""
_LEASE_SECONDS: Final = 2400.0
"""What a process that died was asking is asked again then: longer than any call lasts."""
_AT_ONCE: Final = 8
_ROUNDS: Final = 25
_KEPT_AT_ONCE: Final = 500
_LONGEST_BACK_OFF: Final = 3600.0


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
        self._tries = tries
        self._retry_after = retry_after
        self._grace = grace
        self._clock = clock
        self._crowd = Crowd(_AT_ONCE)

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
        return run(self._step())

    async def astep(self) -> Counts:
        """Do what `step` does, without blocking the event loop."""
        return await arun(self._step())

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

    # --- one step -------------------------------------------------------------------------------

    def _step(self) -> Flow[Counts]:
        yield from self._look_for_lost()
        yield from self._hurry()
        yield from self._hand_in()
        yield from self._follow()
        yield from self._ask_now()
        yield from self._bill()
        return (yield from call(self._file.counts))

    def _look_for_lost(self) -> Flow[None]:
        """Find batches that were handed in but whose id nobody could note."""
        for batch in (yield from call(self._file.batches, "submitting")):
            known = yield from call(self._file.remotes)
            try:
                found = yield from call(
                    self.provider.find, batch.token, batch.at, batch.size, known
                )
            except Exception as error:  # noqa: BLE001 - still in doubt; the next step looks again
                self._pass_over(error)
                continue
            if found.batch:
                yield from call(self._file.note_submitted, batch.token, found.batch)
            elif not found.unsure and self._clock() >= batch.at + self._grace:
                yield from call(self._file.give_up, batch.token, ready=0.0)

    def _hand_in(self) -> Flow[None]:
        while True:
            token = uuid.uuid4().hex
            made = yield from call(
                self._file.make_batch,
                token,
                self._clock(),
                most=self.provider.max_requests,
                most_bytes=self.provider.max_bytes,
            )
            if made is None:
                return
            batch, items = made
            try:
                remote = yield from call(
                    self.provider.submit, token, [item.sent() for item in items]
                )
            except BatchError as error:
                yield from self._not_taken(batch, error)
                continue
            except Exception as error:  # noqa: BLE001 - maybe taken: the next step looks for it
                self._pass_over(error)
                continue
            if not (yield from call(self._file.note_submitted, token, remote)):
                # This process slept so long that another has sent the requests again.
                yield from call(self.provider.cancel, remote)

    def _not_taken(self, batch: Batch, error: BatchError) -> Flow[None]:
        self.faults[type(error).__name__] += 1
        ready = self._clock() + self._retry_after
        said = str(error) if error.reason == "rejected" else ""
        yield from call(self._file.give_up, batch.token, ready=ready, error=said)
        if error.reason == "access":
            raise error

    def _follow(self) -> Flow[None]:
        for batch in (yield from call(self._file.batches, "running")):
            try:
                yield from self._follow_one(batch)
            except Exception as error:  # noqa: BLE001 - the next step asks again
                self._pass_over(error)

    def _pass_over(self, error: Exception) -> None:
        """Count a fault that may pass; raise any other, or callers would wait for ever."""
        self.faults[type(error).__name__] += 1
        if status_of(error) in {401, 403} or never_sent(error):
            raise BatchError(
                f"{self.provider.name} refuses access to its batches: {str(error)[:500]}",
                reason="access",
            ) from error
        if not may_pass(error):
            raise error

    def _follow_one(self, batch: Batch) -> Flow[None]:
        progress = yield from call(self.provider.poll, batch.remote)
        if progress.state == "running":
            late = batch.due is not None and self._clock() >= batch.due - self._reserve
            if late and self._real_time and not batch.cancelled:
                yield from call(self.provider.cancel, batch.remote)
                yield from call(self._file.note_cancelled, batch.token)
            return
        if progress.state == "ended":
            yield from self._take_in(batch)
            # What has no line was never run, or nobody will ever know.
            left = Outcome(ending="transient", error="the batch ended without an answer to it")
        else:
            left = Outcome(ending="transient", error=progress.error)
        if batch.cancelled:  # for want of time
            left = Outcome(ending="cancelled", error=left.error)
        waiting = dict((yield from call(self._file.in_batch, batch.token)))
        bad = progress.bad & waiting.keys()
        yield from call(self._file.failed, batch.token, bad, error=progress.error)
        rest = {place: tries for place, tries in waiting.items() if place not in bad}
        # Too much waits at the provider, or others were at fault: that is no try of theirs.
        forgiven = progress.full or bool(bad)
        yield from self._after(batch, dict.fromkeys(rest, left), rest, forgiven=forgiven)
        yield from call(self._file.end_batch, batch.token)

    def _take_in(self, batch: Batch) -> Flow[None]:
        tries = dict((yield from call(self._file.in_batch, batch.token)))
        outcomes = yield from call(self.provider.results, batch.remote)
        while kept := (yield from call(_some, outcomes, batch.token)):
            answers = [(place, one) for place, one in kept if one.ending == "answered"]
            late = yield from call(self._file.answered, batch.token, answers)
            if active := recorder():
                yield from call(write_late, active, late)
            others = {place: one for place, one in kept if one.ending != "answered"}
            yield from self._after(batch, others, tries)

    def _after(
        self,
        batch: Batch,
        outcomes: dict[int, Outcome],
        tries: dict[int, int],
        *,
        forgiven: bool = False,
    ) -> Flow[None]:
        """Decide what comes next for requests of a batch that it did not answer."""
        now = self._clock()
        for (ending, error, tried), places in _grouped(outcomes, tries).items():
            retry = ending == "transient" and (forgiven or tried < self._tries)
            if retry:
                ready = now + (self._retry_after if forgiven else self._back_off(tried))
                yield from call(
                    self._file.again, batch.token, places, ready=ready, direct=False, error=error
                )
            elif ending == "failed" or not self._real_time:
                yield from call(self._file.failed, batch.token, places, error=error)
            else:
                yield from call(
                    self._file.again, batch.token, places, ready=0.0, direct=True, error=error
                )

    def _back_off(self, tries: int) -> float:
        return min(self._retry_after * 2.0 ** (tries - 1), _LONGEST_BACK_OFF)

    # --- real time ------------------------------------------------------------------------------

    def _hurry(self) -> Flow[None]:
        yield from call(
            self._file.hurry,
            self._clock(),
            # Cancelling takes its time; what was answered until then need not be paid twice.
            before_due=self._reserve / 3 if self._real_time else 0.0,
            waited=_WINDOW_SECONDS,
            direct=self._real_time,
        )

    def _ask_now(self) -> Flow[None]:
        for _ in range(_ROUNDS):  # answers are to be seen before thousands of others are asked for
            items = yield from call(
                self._file.claim_direct, self._clock(), most=_AT_ONCE, lease=_LEASE_SECONDS
            )
            if not items:
                return
            yield from call(self._crowd.all, [self._ask_one(item) for item in items])

    def _ask_one(self, item: Item) -> Flow[None]:
        outcome = yield from call(self.provider.answer, item.sent())
        again = outcome.ending == "transient" and item.tries < 2 * self._tries
        again_at = self._clock() + self._back_off(item.tries) if again else None
        yield from call(self._file.settle, item.id, outcome, again_at=again_at)

    # --- the bill -------------------------------------------------------------------------------

    def _bill(self) -> Flow[None]:
        active = recorder()
        while active and (rows := (yield from call(self._file.unrecorded))):
            yield from call(write_down, active, rows)
            yield from call(self._file.note_recorded, [row[0] for row in rows])


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


def _some(outcomes: Iterator[Outcome], token: str) -> list[tuple[int, Outcome]]:
    """Read the next lines of a batch's results by place; lines of another batch are no answers."""
    found: list[tuple[int, Outcome]] = []
    for outcome in outcomes:
        mark, _, place = outcome.custom_id.rpartition("-")
        if mark == token and place.isdecimal() and len(place) < 10:
            found.append((int(place), outcome))
            if len(found) >= _KEPT_AT_ONCE:
                break
    return found


def _grouped(
    outcomes: dict[int, Outcome], tries: dict[int, int]
) -> dict[tuple[str, str, int], list[int]]:
    groups: dict[tuple[str, str, int], list[int]] = {}
    for place, outcome in outcomes.items():
        if place in tries:
            key = (outcome.ending, outcome.error, tries[place])
            groups.setdefault(key, []).append(place)
    return groups
