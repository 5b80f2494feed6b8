"""Reserve before a call, settle after it: a budget that is checked afterwards stops nothing."""

import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from costwise_core.budget.budgets import Budget, account_of, window_of
from costwise_core.budget.memory import MemoryBudgets
from costwise_core.budget.moves import Balance, BudgetStore, Move, Moved, Refusal
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.tracking import current_tags
from costwise_core.types import Usage

__all__ = ["Budgets", "Reservation", "Seen"]

Seen = Callable[[Budget, str, Balance], object]
"""Is told of each budget's balance after a move, with the account's key."""


_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Account:
    budget: Budget = field(compare=False)
    key: str
    ends: float

    def move(self, *, hold: int = 0, spend: int = 0) -> Move:
        return Move(
            account=self.key, limit=self.budget.units, ends=self.ends, hold=hold, spend=spend
        )


class Reservation:
    """What one call may cost at most, held until it is settled or released.

    Settling and releasing twice changes nothing. All methods have an asynchronous twin.

    Attributes:
        id: Unique to the call.
        model: The model it was made for.
        output_tokens: How many produced tokens are covered.
    """

    def __init__(
        self,
        budgets: "Budgets",
        request: "_Request",
        accounts: tuple[_Account, ...],
        *,
        id: str,  # noqa: A002 - the field's name
        model: str,
        usage: Usage,
        held: Mapping[str, int],
    ) -> None:
        self.id = id
        self.model = model
        self.output_tokens = usage.output_tokens
        self._budgets = budgets
        self._request = request
        self._accounts = accounts
        self._usage = usage
        self._held = held
        self._step = 0
        self._open = True

    def extend(self, output_tokens: int) -> bool:
        """Hold more, because the answer grows; False if a budget has no room for it."""
        return run(self._extend(output_tokens))

    async def aextend(self, output_tokens: int) -> bool:
        """Do what `extend` does, without blocking the event loop."""
        return await arun(self._extend(output_tokens))

    def settle(self, usage: Usage | None) -> None:
        """Book what the call really used; None, if nobody knows, books what was held."""
        run(self._settle(usage))

    async def asettle(self, usage: Usage | None) -> None:
        """Do what `settle` does, without blocking the event loop."""
        await arun(self._settle(usage))

    def release(self) -> None:
        """Give everything back: the call failed and was not paid."""
        run(self._settle(Usage(), calls=0))

    async def arelease(self) -> None:
        """Do what `release` does, without blocking the event loop."""
        await arun(self._settle(Usage(), calls=0))

    def _extend(self, output_tokens: int) -> Flow[bool]:
        if output_tokens <= self.output_tokens or not self._open:
            return True
        usage = replace(self._usage, output_tokens=output_tokens)
        needed = self._budgets.amounts(self._accounts, usage, self.model, most=True)
        more = {key: amount - self._held[key] for key, amount in needed.items()}
        self._step += 1
        operation = f"{self.id}/extend{self._step}"
        refused = yield from self._request.hold(operation, self._accounts, more)
        if refused is not None:
            return False
        self._held, self._usage, self.output_tokens = needed, usage, output_tokens
        return True

    def _settle(self, usage: Usage | None, *, calls: int = 1) -> Flow[None]:
        if not self._open:
            return
        self._open = False
        if usage is None:
            spent = dict(self._held)
        else:
            spent = self._budgets.amounts(
                self._accounts, usage, self.model, calls=calls, fallback=self._held
            )
        yield from self._request.book(self.id, self._accounts, self._held, spent)


class _Request:
    """What a request holds that none of its calls uses now."""

    def __init__(self, budgets: "Budgets", ident: str, *, shared: bool) -> None:
        self.id = ident
        self._budgets = budgets
        self._shared = shared
        self._spare: dict[_Account, int] = {}

    def hold(
        self, operation: str, accounts: Sequence[_Account], amounts: Mapping[str, int]
    ) -> Flow[Refusal | None]:
        """Hold amounts, out of what is spare first."""
        taken = {one: min(amounts[one.key], self._spare.get(one, 0)) for one in accounts}
        # Taken before the store is asked, so that two calls of one request cannot take it both.
        self._change(taken, -1)
        moves = {one: one.move(hold=amounts[one.key] - taken[one]) for one in accounts}
        try:
            found = yield from self._budgets.moved(self.id, operation, moves)
        except BaseException:
            self._change(taken, +1)
            raise
        if isinstance(found, Refusal):
            self._change(taken, +1)
            return found
        return None

    def book(
        self,
        operation: str,
        accounts: Sequence[_Account],
        held: Mapping[str, int],
        spent: Mapping[str, int],
    ) -> Flow[None]:
        """Book what was spent; the rest goes back, or stays for the request's next call."""
        rest = {
            one: max(0, held[one.key] - spent[one.key]) if self._shared else 0 for one in accounts
        }
        moves = {
            one: one.move(hold=rest[one] - held[one.key], spend=spent[one.key]) for one in accounts
        }
        yield from self._budgets.moved(self.id, f"{operation}/settle", moves)
        self._change(rest, +1)

    def give_back(self) -> Flow[None]:
        moves = {one: one.move(hold=-amount) for one, amount in self._spare.items() if amount}
        self._spare = {}
        yield from self._budgets.moved(self.id, f"{uuid.uuid4().hex}/end", moves)

    def _change(self, amounts: Mapping[_Account, int], sign: int) -> None:
        with _LOCK:
            for account, amount in amounts.items():
                self._spare[account] = self._spare.get(account, 0) + sign * amount


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
        seen: Is told of every balance, for alerts.
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

    def _enter(self) -> tuple[_Request, Token[Mapping[int, _Request]]]:
        request = _Request(self, uuid.uuid4().hex, shared=True)
        return request, _requests.set({**_requests.get(), id(self): request})

    def _reserve(
        self, model: str, input_tokens: int, output_tokens: int, tags: Mapping[str, str], ident: str
    ) -> Flow[Reservation]:
        ident = ident or uuid.uuid4().hex
        request = _requests.get().get(id(self)) or _Request(self, ident, shared=False)
        accounts = self._accounts({**current_tags(), "model": model, **tags})
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        held = self.amounts(accounts, usage, model, most=True)
        refused = yield from request.hold(f"{ident}/reserve", accounts, held)
        if refused is not None:
            raise _exceeded(accounts, refused, held)
        return Reservation(self, request, accounts, id=ident, model=model, usage=usage, held=held)

    def _accounts(self, tags: Mapping[str, str]) -> tuple[_Account, ...]:
        now = self._clock()
        found: dict[str, _Account] = {}
        for budget in self.budgets:
            key = account_of(budget, tags, now)
            # Of two limits on one account the lower one holds.
            if key is not None and (key not in found or budget.units < found[key].budget.units):
                found[key] = _Account(budget, key, window_of(budget.window, now)[1])
        return tuple(found.values())

    # --- amounts ------------------------------------------------------------------------------

    def amounts(
        self,
        accounts: Sequence[_Account],
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
        self, request: str, operation: str, moves: Mapping[_Account, Move]
    ) -> Flow[Moved | Refusal]:
        """Have the store make moves, and tell `seen` of the balances."""
        if not moves:
            return Moved(balances=())
        now = self._clock()
        made = list(moves.values())
        found = yield from call(
            self.store.move, request, operation, made, now=now, expires=now + self._seconds
        )
        if self._seen is not None and isinstance(found, Moved) and not found.repeated:
            for account, balance in zip(moves, found.balances, strict=True):
                self._seen(account.budget, account.key, balance)
        return found


_requests: Final[ContextVar[Mapping[int, _Request]]] = ContextVar(
    "costwise_budget_requests", default=MappingProxyType({})
)


def _said(amount: int, budget: Budget) -> str:
    if budget.unit == "usd":
        return f"${dollars(amount):f}"
    return f"{amount:,} {budget.unit}"


def _leave(token: Token[Mapping[int, _Request]]) -> None:
    # A generator may be closed in another context, where there is nothing to set back.
    with suppress(ValueError):
        _requests.reset(token)


def _exceeded(
    accounts: Sequence[_Account], refused: Refusal, needed: Mapping[str, int]
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
