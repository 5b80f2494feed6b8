"""Calls whose place on the bill is known only once it is known whose answer is shown."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from costwise_core.tracking import Recorder, recorder, recording
from costwise_core.types import CallRecord

__all__ = ["Draft"]


class Draft:
    """Keeps back what a call cost until it is said what became of the answer.

    Does nothing outside every `track` block. A call that ends later, such as a stream, is written
    down when it ends.

    Args:
        baseline_model: What would have answered without routing; "" compares with nothing.
        priced_as: Under which name a model is priced, by the name it has itself.

    Example:
        >>> from costwise_core import Usage
        >>> from costwise_core.tracking import record_call, track
        >>> with track() as bill:
        ...     draft = Draft(baseline_model="gpt-4o")
        ...     with draft.written():
        ...         _ = record_call(
        ...             operation="chat", model="gpt-4o-mini", usage=Usage(input_tokens=400)
        ...         )
        ...     draft.settle(shown=False, why="small: too short")
        >>> bill.usd, bill.overhead, bill.saved
        (Decimal('0.00006'), Decimal('0.00006'), Decimal('0'))
    """

    def __init__(
        self, *, baseline_model: str = "", priced_as: Mapping[str, str] | None = None
    ) -> None:
        self._around = recorder()
        self._baseline = baseline_model
        self._priced_as = priced_as or {}
        self._kept: list[CallRecord] = []
        self._said: tuple[bool, str] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def written(self) -> Iterator[None]:
        """Keep back what the calls inside the block cost."""
        if self._around is None:
            yield
            return
        by = replace(
            self._around,
            bills=(),
            ledgers=(self,),
            baseline_model=self._baseline or self._around.baseline_model,
            priced_as={**self._around.priced_as, **self._priced_as},
        )
        with recording(by):
            yield

    def settle(self, *, shown: bool, why: str) -> None:
        """Write the calls down: as the answer, or as costwise's own cost, which saves nothing."""
        with self._lock:
            self._said = (shown, why)
            kept, self._kept = self._kept, []
        self._write(kept)

    def record(self, calls: Sequence[CallRecord]) -> None:
        """Take note of calls that have ended, as a ledger does."""
        with self._lock:
            if self._said is None:
                self._kept += calls
                return
        self._write(calls)

    def records(
        self,
        *,
        since: float | None = None,  # noqa: ARG002 - a ledger's signature
        tags: Iterable[tuple[str, str]] = (),  # noqa: ARG002
    ) -> Iterator[CallRecord]:
        """Yield what is kept back still."""
        with self._lock:
            return iter(list(self._kept))

    def _write(self, calls: Sequence[CallRecord]) -> None:
        if self._around is not None and self._said is not None:
            for one in calls:
                _write(self._around, _told(one, *self._said))


def _told(call: CallRecord, shown: bool, why: str) -> CallRecord:  # noqa: FBT001 - a pair, unpacked
    why = "; ".join(filter(None, (why, call.why)))
    return replace(call, why=why) if shown else replace(call, why=why, overhead=True, savings=())


def _write(around: Recorder, call: CallRecord) -> None:
    for bill in around.bills:
        bill.add(call)
    for ledger in around.ledgers:
        try:
            ledger.record([call])
        except Exception as error:  # noqa: BLE001 - bookkeeping never breaks the user's call
            for bill in around.bills:
                bill.count_fault(error)
