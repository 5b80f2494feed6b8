"""One paid call as a block: held on the way in, booked on the way out, whatever happens between.

payment = run(first_that_fits([dear, cheap]))
with payment:
for piece in stream:
payment.note(piece.text)
if not payment.goes_on():
break
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from costwise_core.budget.guard import Budgets
from costwise_core.budget.reservation import Reservation
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import BudgetExceededError
from costwise_core.tokens import shared_tokens
from costwise_core.types import Usage

__all__ = ["Payment", "digest", "first_that_fits", "sent_tokens"]

STEP: Final = 256
"""Produced tokens a stream holds at a time."""

_SHORTEST: Final = 0.02  # seconds between two attempts to get room
_LONGEST: Final = 0.5
_AHEAD: Final = 32
_FRAME: Final = 4  # tokens around each message, and at the start of the answer
_MEDIA: Final = 1_600
_UPWARD: Final = 1.25


def sent_tokens(texts: Sequence[str], model: str, *, offered: str = "", media: int = 0) -> int:
    """Return how many tokens a prompt takes, rather too many than too few.

    Exact up to the frame around messages where the model's tokenizer is here; a count by script is
    raised by a quarter. A picture or file counts as 1,600.

    Args:
        texts: One for each message.
        model: As the provider names it.
        offered: Tools and schemas, as they are sent.
        media: How many pictures and files there are.

    Example:
        >>> sent_tokens(["What is RAG?"], "claude-haiku-4-5")
        12
    """
    found = [shared_tokens().count(text, model) for text in (*texts, offered)]
    tokens = sum(math.ceil(one.tokens * (_UPWARD if one.estimated else 1)) for one in found)
    return tokens + _FRAME * (len(texts) + 1) + _MEDIA * media


def digest(texts: Sequence[str]) -> str:
    """Return a short digest of a prompt: the tag "prompt", by which a loop is known.

    Example:
        >>> digest(["a", "b"]) == digest(["ab"])
        False
    """
    return hashlib.sha256(repr(list(texts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Payment:
    """What a call may cost, held from `begin` to the end of the block; then what it did is booked.

    A call that fails before anything came is given back whole. One that was cancelled or abandoned
    is booked with its prompt and what came. A report of the provider's goes before our count.

    Args:
        budgets: The limits.
        model: As the provider names it.
        input_tokens: The most that is sent.
        output_tokens: The most that can be produced.
        tags: As for `Budgets.reserve`.
        live: True for a stream, which holds a part of `output_tokens` and more as it grows.

    Example:
        >>> from costwise_core.budget.budgets import Budget
        >>> budgets = Budgets(Budget(limit=100, unit="tokens"))
        >>> payment = Payment(budgets, model="gpt-4o", input_tokens=9, output_tokens=50)
        >>> run(payment.begin())
        >>> with payment:
        ...     payment.note("Paris.")
        >>> payment.used.output_tokens
        2
    """

    def __init__(
        self,
        budgets: Budgets,
        *,
        model: str,
        input_tokens: int,
        output_tokens: int,
        tags: Mapping[str, str] | None = None,
        live: bool = False,
    ) -> None:
        self.model = model
        self.used: Usage | None = None
        """What was booked, once the block has ended; None if nothing was."""
        self._budgets = budgets
        self._sent = input_tokens
        self._first = min(output_tokens, STEP) if live else output_tokens
        self._tags = tags or {}
        self._held: Reservation | None = None
        self._texts: list[str] = []
        self._produced = 0
        self._reported: Usage | None = None
        self._whole = self._free = self._refused = False

    def begin(self) -> Flow[None]:
        """Hold what the call may take.

        Raises:
            BudgetExceededError: if it does not fit.
            PriceError: as for `Budgets.reserve`.
            StoreError: likewise.
        """
        self._held = yield from call(
            self._budgets.reserve,
            self.model,
            input_tokens=self._sent,
            output_tokens=self._first,
            tags=self._tags,
        )

    def note(self, text: str = "", usage: Usage | None = None) -> None:
        """Take note of what came: text, and what the provider reported so far."""
        if text:
            self._texts.append(text)
            self._produced += shared_tokens().count(text, self.model).tokens
        self._reported = usage or self._reported

    def complete(self) -> None:
        """Take note that the answer is whole, so that the provider's report is the last."""
        self._whole = True

    def free(self) -> None:
        """Take note that nothing is paid: somebody's cache answered."""
        self._free = True

    def give_back(self) -> Flow[None]:
        """Give back all that is held, as somebody else pays for the call, or nobody."""
        self._free = True
        return self._end(None)

    def goes_on(self) -> bool:
        """Say whether the stream may be read on, and hold more if it needs more."""
        return run(self._goes_on())

    async def agoes_on(self) -> bool:
        """Do what `goes_on` does, without blocking the event loop."""
        return await arun(self._goes_on())

    def _goes_on(self) -> Flow[bool]:
        held = self._held
        if held is None:
            return True
        spent = self._produced >= held.output_tokens
        if not spent and (self._refused or self._produced + _AHEAD < held.output_tokens):
            return True
        # Asked for ahead of need, and again when all is used: others may have settled meanwhile.
        try:
            granted = yield from call(held.extend, max(self._produced, held.output_tokens) + STEP)
        except Exception as error:  # noqa: BLE001 - what is held still holds
            self._budgets.faults[type(error).__name__] += 1
            granted = False
        self._refused = not granted
        return granted or not spent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run(self._end(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await arun(self._end(error))

    def _end(self, error: BaseException | None) -> Flow[None]:
        held, self._held = self._held, None
        if held is None:
            return
        failed = isinstance(error, Exception)
        if self._free or (failed and not self._texts and self._reported is None):
            yield from call(held.release)
            return
        self.used = self._usage(broken=error is not None or not self._whole)
        yield from call(held.settle, self.used)

    def _usage(self, *, broken: bool) -> Usage:
        if self._reported is not None and not broken:
            return self._reported
        counted = shared_tokens().count("".join(self._texts), self.model).tokens
        if self._reported is None:
            return Usage(input_tokens=self._sent, output_tokens=counted, estimated=True)
        # Some providers report the prompt with the first piece, and the answer with the last.
        more = max(counted, self._reported.output_tokens)
        return replace(self._reported, output_tokens=more, estimated=True)


def first_that_fits(
    payments: Sequence[Payment],
    queue: Callable[[], object] | None = None,
    *,
    wait: float = 0.0,
) -> Flow[Payment]:
    """Begin the first payment that fits, as far as the budget that refuses says so.

    Args:
        payments: The call as it is wanted, and cheaper ones for budgets that say "downgrade".
        queue: Takes the call for later where a budget says "queue", and returns a ticket.
        wait: How many seconds to wait before that, for a new window or what others give back.

    Raises:
        BudgetExceededError: if none fits; with the queue's `ticket`, if it took the call.
    """
    until = time.monotonic() + wait
    pause = _SHORTEST
    while True:
        try:
            return (yield from _first_now(payments))
        except BudgetExceededError as error:
            left = until - time.monotonic()
            if error.on_exceed != "queue" or left <= 0:
                if error.on_exceed == "queue" and queue is not None:
                    error.ticket = yield from call(queue)
                raise
        yield from call(_pause.sleep, min(pause, left))
        pause = min(2 * pause, _LONGEST)


def _first_now(payments: Sequence[Payment]) -> Flow[Payment]:
    wanted, *cheaper = payments
    try:
        yield from wanted.begin()
    except BudgetExceededError as error:
        if error.on_exceed == "downgrade" and cheaper:
            return (yield from _first_now(cheaper))
        raise
    return wanted


class _Pause:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_pause = _Pause()
