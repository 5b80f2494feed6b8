"""One step of a batch queue: hand in, look after, take in, ask what can wait no longer, bill."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from costwise_core.batch.asking import BatchProvider, Outcome
from costwise_core.batch.billing import write_down, write_late
from costwise_core.batch.clients import may_pass, never_sent, status_of
from costwise_core.batch.crowd import Crowd
from costwise_core.batch.queue_file import QueueFile
from costwise_core.batch.queue_rows import Batch, Counts, Item
from costwise_core.drive import Flow, call
from costwise_core.errors import BatchError
from costwise_core.tracking import recorder

__all__ = ["Steps"]

_WINDOW_SECONDS: Final = 25 * 3600.0
"""Providers end a batch within 24 hours; what has no answer then is asked in real time."""
_LEASE_SECONDS: Final = 2400.0
"""What a process that died was asking is asked again then: longer than any call lasts."""
_AT_ONCE: Final = 8
_ROUNDS: Final = 25
_KEPT_AT_ONCE: Final = 500
_LONGEST_BACK_OFF: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What moves the requests of a queue on. The arguments are those of `BatchQueue`.

    Args:
        file: Where the state is.
        provider: Who answers.
        faults: Where faults that were passed over are counted.
        real_time: Whether to ask in real time what no batch answers.
        reserve: Seconds before a deadline at which a batch is cancelled.
        tries: How often a request is sent in batches, and after that in real time.
        retry_after: Seconds until something is tried again, doubled each time.
        grace: Seconds after which a batch that is not found counts as never taken.
        clock: Returns seconds since the epoch.
    """

    file: QueueFile
    provider: BatchProvider
    faults: Counter[str]
    real_time: bool
    reserve: float
    tries: int
    retry_after: float
    grace: float
    clock: Callable[[], float]
    crowd: Crowd = field(default_factory=lambda: Crowd(_AT_ONCE), init=False)

    def step(self) -> Flow[Counts]:
        """Do what is to be done now, and say how many requests are where."""
        yield from self._look_for_lost()
        yield from self._hurry()
        yield from self._hand_in()
        yield from self._follow()
        yield from self._ask_now()
        yield from self._bill()
        return (yield from call(self.file.counts))

    def _look_for_lost(self) -> Flow[None]:
        """Find batches that were handed in but whose id nobody could note."""
        for batch in (yield from call(self.file.batches, "submitting")):
            known = yield from call(self.file.remotes)
            try:
                found = yield from call(
                    self.provider.find, batch.token, batch.at, batch.size, known
                )
            except Exception as error:  # noqa: BLE001 - still in doubt; the next step looks again
                self._pass_over(error)
                continue
            if found.batch:
                yield from call(self.file.note_submitted, batch.token, found.batch)
            elif not found.unsure and self.clock() >= batch.at + self.grace:
                yield from call(self.file.give_up, batch.token, ready=0.0)

    def _hand_in(self) -> Flow[None]:
        while True:
            token = uuid.uuid4().hex
            made = yield from call(
                self.file.make_batch,
                token,
                self.clock(),
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
            if not (yield from call(self.file.note_submitted, token, remote)):
                # This process slept so long that another has sent the requests again.
                yield from call(self.provider.cancel, remote)

    def _not_taken(self, batch: Batch, error: BatchError) -> Flow[None]:
        self.faults[type(error).__name__] += 1
        ready = self.clock() + self.retry_after
        said = str(error) if error.reason == "rejected" else ""
        yield from call(self.file.give_up, batch.token, ready=ready, error=said)
        if error.reason == "access":
            raise error

    def _follow(self) -> Flow[None]:
        for batch in (yield from call(self.file.batches, "running")):
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
            late = batch.due is not None and self.clock() >= batch.due - self.reserve
            if late and self.real_time and not batch.cancelled:
                yield from call(self.provider.cancel, batch.remote)
                yield from call(self.file.note_cancelled, batch.token)
            return
        if progress.state == "ended":
            yield from self._take_in(batch)
            # What has no line was never run, or nobody will ever know.
            left = Outcome(ending="transient", error="the batch ended without an answer to it")
        else:
            left = Outcome(ending="transient", error=progress.error)
        if batch.cancelled:  # for want of time
            left = Outcome(ending="cancelled", error=left.error)
        waiting = dict((yield from call(self.file.in_batch, batch.token)))
        bad = progress.bad & waiting.keys()
        yield from call(self.file.failed, batch.token, bad, error=progress.error)
        rest = {place: tries for place, tries in waiting.items() if place not in bad}
        # Too much waits at the provider, or others were at fault: that is no try of theirs.
        forgiven = progress.full or bool(bad)
        yield from self._after(batch, dict.fromkeys(rest, left), rest, forgiven=forgiven)
        yield from call(self.file.end_batch, batch.token)

    def _take_in(self, batch: Batch) -> Flow[None]:
        tries = dict((yield from call(self.file.in_batch, batch.token)))
        outcomes = yield from call(self.provider.results, batch.remote)
        while kept := (yield from call(_some, outcomes, batch.token)):
            answers = [(place, one) for place, one in kept if one.ending == "answered"]
            late = yield from call(self.file.answered, batch.token, answers)
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
        now = self.clock()
        for (ending, error, tried), places in _grouped(outcomes, tries).items():
            retry = ending == "transient" and (forgiven or tried < self.tries)
            if retry:
                ready = now + (self.retry_after if forgiven else self._back_off(tried))
                yield from call(
                    self.file.again, batch.token, places, ready=ready, direct=False, error=error
                )
            elif ending == "failed" or not self.real_time:
                yield from call(self.file.failed, batch.token, places, error=error)
            else:
                yield from call(
                    self.file.again, batch.token, places, ready=0.0, direct=True, error=error
                )

    def _back_off(self, tries: int) -> float:
        return min(self.retry_after * 2.0 ** (tries - 1), _LONGEST_BACK_OFF)

    # --- real time ------------------------------------------------------------------------------

    def _hurry(self) -> Flow[None]:
        yield from call(
            self.file.hurry,
            self.clock(),
            # Cancelling takes its time; what was answered until then need not be paid twice.
            before_due=self.reserve / 3 if self.real_time else 0.0,
            waited=_WINDOW_SECONDS,
            direct=self.real_time,
        )

    def _ask_now(self) -> Flow[None]:
        for _ in range(_ROUNDS):  # answers are to be seen before thousands of others are asked for
            items = yield from call(
                self.file.claim_direct, self.clock(), most=_AT_ONCE, lease=_LEASE_SECONDS
            )
            if not items:
                return
            yield from call(self.crowd.all, [self._ask_one(item) for item in items])

    def _ask_one(self, item: Item) -> Flow[None]:
        outcome = yield from call(self.provider.answer, item.sent())
        again = outcome.ending == "transient" and item.tries < 2 * self.tries
        again_at = self.clock() + self._back_off(item.tries) if again else None
        yield from call(self.file.settle, item.id, outcome, again_at=again_at)

    # --- the bill -------------------------------------------------------------------------------

    def _bill(self) -> Flow[None]:
        active = recorder()
        while active and (rows := (yield from call(self.file.unrecorded))):
            yield from call(write_down, active, rows)
            yield from call(self.file.note_recorded, [row[0] for row in rows])


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
