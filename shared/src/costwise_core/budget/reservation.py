"""What one call may take from its budgets: held before it, booked after it."""

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from costwise_core.budget.budgets import Budget
from costwise_core.budget.moves import Move, Refusal
from costwise_core.drive import Flow, arun, run
from costwise_core.types import Usage

if TYPE_CHECKING:
    from costwise_core.budget.guard import Budgets

__all__ = ["Account", "Request", "Reservation"]

_LOCK: Final = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A budget's share of a call's window and tags."""

    budget: Budget = field(compare=False)
    key: str
    ends: float

    def move(self, *, hold: int = 0, spend: int = 0) -> Move:
        """Return a change to it."""
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

    Example:
        >>> from costwise_core import Budget, Budgets
        >>> budgets = Budgets(Budget(limit=100, unit="tokens"))
        >>> call = budgets.reserve("gpt-4o", input_tokens=40, output_tokens=20)
        >>> call.extend(60), call.extend(61)
        (True, False)
        >>> call.settle(Usage(input_tokens=40, output_tokens=35))
        >>> budgets.reserve("gpt-4o", input_tokens=25).release()
    """

    def __init__(
        self,
        budgets: "Budgets",
        request: "Request",
        accounts: tuple[Account, ...],
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
        """Book what the call really used; None, if nobody knows, books what was held.

        Raises nothing: what a store cannot take now is booked before the next reservation.
        """
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


class Request:
    """What a request holds that none of its calls uses now.

    Args:
        budgets: Where its calls are held.
        ident: Unique to the request.
        shared: Whether a call's rest stays for the next call.
    """

    def __init__(self, budgets: "Budgets", ident: str, *, shared: bool) -> None:
        self.id = ident
        self._budgets = budgets
        self._shared = shared
        self._spare: dict[Account, int] = {}

    def hold(
        self, operation: str, accounts: Sequence[Account], amounts: Mapping[str, int]
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
            self._budgets.abandoned(self.id, operation, moves)
            raise
        if isinstance(found, Refusal):
            self._change(taken, +1)
            return found
        return None

    def book(
        self,
        operation: str,
        accounts: Sequence[Account],
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
        yield from self._budgets.booked(self.id, f"{operation}/settle", moves)
        self._change(rest, +1)

    def give_back(self) -> Flow[None]:
        """Give back what no call used; one that is settled later gives back its own."""
        self._shared = False
        with _LOCK:
            spare, self._spare = self._spare, {}
        moves = {one: one.move(hold=-amount) for one, amount in spare.items() if amount}
        yield from self._budgets.booked(self.id, f"{uuid.uuid4().hex}/end", moves)

    def _change(self, amounts: Mapping[Account, int], sign: int) -> None:
        with _LOCK:
            for account, amount in amounts.items():
                self._spare[account] = self._spare.get(account, 0) + sign * amount
