"""Reserve before a call, settle after it: a budget that is checked afterwards stops nothing."""

import math
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from costwise_core.budget.budgets import Budget, account_of, window_of
from costwise_core.budget.memory import MemoryBudgets
from costwise_core.budget.moves import Balance, BudgetStore, Move, Moved, Refusal
from costwise_core.budget.reservation import Account, Request, Reservation
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.tracking import current_tags
from costwise_core.types import Usage

__all__ = ["Budgets", "Reservation", "Seen"]

Seen = Callable[[Budget, str, Balance | Refusal], object]
"""Is told of each budget's balance after a move, or that it refused, with the account's key."""


class Budgets:
    """Budgets that hold: no call begins that could take one over its limit. Thread-safe.

    A call reserves the most it can cost, in every budget that its tags fall under, all or none.
    Afterwards what it really cost is booked and the rest given back. A process that dies gives back
    what it held after `seconds`. If the store cannot be reached, calls are refused.

    Args:
        *budgets: The limits.
        store: Where spending is kept; memory by default. Processes with one limit share a store.
        prices: What calls are priced with. A model without a known price is refused where a budget
            in dollars applies.
        seconds: How long a reservation counts if nobody settles it: longer than any call takes.
        seen: Is told of every balance and refusal, for alerts; such as `Alerts.seen`.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if `seconds` is not positive.

    Example:
        >>> budgets = Budgets(Budget(limit=1, unit="calls", window="day", tags={"tenant": "*"}))
        >>> call = budgets.reserve("gpt-4o-mini", input_tokens=100, tags={"tenant": "acme"})
        >>> call.settle(Usage(input_tokens=100, output_tokens=20))
        >>> budgets.reserve("gpt-4o-mini", input_tokens=100, tags={"tenant": "acme"})
        Traceback (most recent call last):
            ...
        costwise_core.errors.BudgetExceededError: the budget "1 calls a day for each tenant" ...
    """

    def __init__(
        self,
        *budgets: Budget,
        store: BudgetStore | None = None,
        prices: PriceBook | None = None,
        seconds: float = 900.0,
        seen: Seen | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not seconds > 0:
            raise ConfigError(f"seconds must be positive, got {seconds!r}.")
        self.budgets = budgets
        self.store: BudgetStore = MemoryBudgets() if store is None else store
        self.prices = prices if prices is not None else shared_prices()
        self._seconds = seconds
        self._seen = seen
        self._clock = clock
        self._owed: deque[_Owed] = deque()
        self._tidied = -math.inf
        self.faults: Counter[str] = Counter()
        """What went wrong behind a caller's back, by the name of the error."""

    @property
    def unbooked(self) -> int:
        """How many settled calls wait for the store to come back."""
        return len(self._owed)

    # --- reserving ----------------------------------------------------------------------------

    def reserve(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int = 0,
        tags: Mapping[str, str] | None = None,
        id: str = "",  # noqa: A002 - the field's name
    ) -> Reservation:
        """Hold the most that a call can cost.

        Args:
            model: As the provider names it.
            input_tokens: Tokens that will be sent.
            output_tokens: The most that can be produced, or what to hold until `extend` is called.
            tags: The call's tags, beside those of the `track` block around.
            id: Unique to the call; what is reserved or settled twice under one id counts once.

        Raises:
            BudgetExceededError: if a budget has no room for it.
            PriceError: if the model has no known price and a budget is in dollars.
            StoreError: if the store cannot be reached.
        """
        return run(self._reserve(model, input_tokens, output_tokens, tags or {}, id))

    async def areserve(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int = 0,
        tags: Mapping[str, str] | None = None,
        id: str = "",  # noqa: A002
    ) -> Reservation:
        """Do what `reserve` does, without blocking the event loop."""
        return await arun(self._reserve(model, input_tokens, output_tokens, tags or {}, id))

    @contextmanager
    def request(self) -> Iterator[None]:
        """Let all calls inside the block share what they hold: retries, fallbacks, cascades.

        What a call held and did not spend stays with the request until the block ends, so that no
        other request can take it between two attempts.
        """
        request, token = self._enter()
        try:
            yield
        finally:
            _leave(token)
            run(request.give_back())

    @asynccontextmanager
    async def arequest(self) -> AsyncIterator[None]:
        """Do what `request` does, without blocking the event loop."""
        request, token = self._enter()
        try:
            yield
        finally:
            _leave(token)
            await arun(request.give_back())

    def _enter(self) -> tuple[Request, Token[Mapping[int, Request]]]:
        request = Request(self, uuid.uuid4().hex, shared=True)
        return request, _requests.set({**_requests.get(), id(self): request})

    def _reserve(
        self, model: str, input_tokens: int, output_tokens: int, tags: Mapping[str, str], ident: str
    ) -> Flow[Reservation]:
        ident = ident or uuid.uuid4().hex
        request = _requests.get().get(id(self)) or Request(self, ident, shared=False)
        accounts = self._accounts({**current_tags(), "model": model, **tags})
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        held = self.amounts(accounts, usage, model, most=True)
        yield from self._catch_up()
        yield from self._tidy()
        refused = yield from request.hold(f"{ident}/reserve", accounts, held)
        if refused is not None:
            raise _exceeded(accounts, refused, held)
        return Reservation(self, request, accounts, id=ident, model=model, usage=usage, held=held)

    def _accounts(self, tags: Mapping[str, str]) -> tuple[Account, ...]:
        now = self._clock()
        found: dict[str, Account] = {}
        for budget in self.budgets:
            key = account_of(budget, tags, now)
            # Of two limits on one account the lower one holds.
            if key is not None and (key not in found or budget.units < found[key].budget.units):
                found[key] = Account(budget=budget, key=key, ends=window_of(budget.window, now)[1])
        return tuple(found.values())

    # --- amounts ------------------------------------------------------------------------------

    def amounts(
        self,
        accounts: Sequence[Account],
        usage: Usage,
        model: str,
        *,
        calls: int = 1,
        most: bool = False,
        fallback: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, int]:
        """Return what a call takes from each account, in the accounts' whole units."""
        units = {account.budget.unit for account in accounts}
        usd: int | None = 0
        if "usd" in units and calls:
            usd = self._picodollars(usage, model, most=most, required=not fallback)
        taken = {"usd": usd, "tokens": usage.total_tokens, "calls": calls}
        found = {}
        for account in accounts:
            amount = taken[account.budget.unit]
            found[account.key] = fallback[account.key] if amount is None else amount
        return found

    def _picodollars(self, usage: Usage, model: str, *, most: bool, required: bool) -> int | None:
        try:
            usd = self.prices.cost(usage, model).usd
            if most:  # writing all of the prompt to the provider's cache may cost more
                written = replace(usage, cache_write_tokens=usage.input_tokens)
                usd = max(usd, self.prices.cost(written, model).usd)
        except Exception:
            if required:
                raise
            return None
        return picodollars(usd)

    # --- the store ----------------------------------------------------------------------------

    def moved(
        self, request: str, operation: str, moves: Mapping[Account, Move]
    ) -> Flow[Moved | Refusal]:
        """Have the store make moves, and tell `seen` what came of it."""
        if not moves:
            return Moved(balances=())
        found = yield from self._move(request, operation, list(moves.values()))
        if self._seen is not None:
            for account, balance in _told(moves, found):
                try:
                    self._seen(account.budget, account.key, balance)
                except Exception as error:  # noqa: BLE001 - it is decided, whoever watches it
                    self.faults[type(error).__name__] += 1
        return found

    def booked(self, request: str, operation: str, moves: Mapping[Account, Move]) -> Flow[None]:
        """Have the store make moves that it never refuses, now or before the next reservation."""
        try:
            yield from self.moved(request, operation, moves)
        except BaseException as error:
            self._owed.append(_Owed(request, operation, list(moves.values())))
            self.faults[type(error).__name__] += 1
            if not isinstance(error, Exception):
                raise

    def abandoned(self, request: str, operation: str, moves: Mapping[Account, Move]) -> None:
        """Take note of a hold that the store may have made or not, to give it back later."""
        self._owed.append(_Owed(request, operation, list(moves.values()), undo=True))

    def _catch_up(self) -> Flow[None]:
        while self._owed:
            try:
                owed = self._owed.popleft()
            except IndexError:  # another thread took it
                return
            try:
                # If it was made after all, under this name, it is not made again.
                found = yield from self._move(owed.request, owed.operation, owed.moves)
                if owed.undo and isinstance(found, Moved):
                    back = [replace(move, hold=-move.hold, spend=0) for move in owed.moves]
                    yield from self._move(owed.request, f"{owed.operation}/undo", back)
            except BaseException:
                self._owed.appendleft(owed)
                raise

    def _move(self, request: str, operation: str, moves: Sequence[Move]) -> Flow[Moved | Refusal]:
        now = self._clock()
        return (
            yield from call(
                self.store.move, request, operation, moves, now=now, expires=now + self._seconds
            )
        )

    def _tidy(self) -> Flow[None]:
        """Forget windows that are over, now and then: a budget for each prompt makes many."""
        now = self._clock()
        if now - self._tidied < self._seconds:
            return
        self._tidied = now
        try:
            # Calls that began in them may still be settled for so long.
            yield from call(self.store.forget, ended_before=now - self._seconds)
        except Exception as error:  # noqa: BLE001 - whoever can reserve may go on
            self.faults[type(error).__name__] += 1


@dataclass(frozen=True, slots=True)
class _Owed:
    request: str
    operation: str
    moves: list[Move]
    undo: bool = False


_requests: Final[ContextVar[Mapping[int, Request]]] = ContextVar(
    "costwise_budget_requests", default=MappingProxyType({})
)


def _told(
    moves: Iterable[Account], found: Moved | Refusal
) -> Iterator[tuple[Account, Balance | Refusal]]:
    if isinstance(found, Refusal):
        yield from ((account, found) for account in moves if account.key == found.account)
    elif not found.repeated:
        yield from zip(moves, found.balances, strict=True)


def _said(amount: int, budget: Budget) -> str:
    if budget.unit == "usd":
        return f"${dollars(amount):f}"
    return f"{amount:,} {budget.unit}"


def _leave(token: Token[Mapping[int, Request]]) -> None:
    # A generator may be closed in another context, where there is nothing to set back.
    with suppress(ValueError):
        _requests.reset(token)


def _exceeded(
    accounts: Sequence[Account], refused: Refusal, needed: Mapping[str, int]
) -> BudgetExceededError:
    account = next(one for one in accounts if one.key == refused.account)
    budget = account.budget
    until = (
        ""
        if account.ends == float("inf")
        else f" until {datetime.fromtimestamp(account.ends, UTC):%Y-%m-%d %H:%M} UTC"
    )
    return BudgetExceededError(
        f'the budget "{budget.name}" has {_said(refused.left, budget)} left{until}, and the '
        f"call may take {_said(needed[account.key], budget)}; nothing was sent.",
        budget=budget.name,
        on_exceed=budget.on_exceed,
        resets=account.ends,
    )
