"""Budgets of one process."""

import heapq
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from costwise_core.budget.moves import Balance, Move, Moved, Refusal, refusal

__all__ = ["MemoryBudgets"]


@dataclass(slots=True)
class _Account:
    ends: float = inf
    spent: int = 0
    held: int = 0
    # By reservation: what it holds, and until when.
    holds: dict[str, tuple[int, float]] = field(default_factory=dict)
    # No hold expires before, so that a move need not look at each.
    soonest: float = inf

    def balance(self, now: float) -> Balance:
        held = self.held
        if now >= self.soonest:
            held = sum(amount for amount, until in self.holds.values() if until > now)
        return Balance(spent=self.spent, held=held)

    def make(self, move: Move, reservation: str, now: float, expires: float) -> None:
        if now >= self.soonest:
            self.holds = {key: hold for key, hold in self.holds.items() if hold[1] > now}
            self.held = sum(amount for amount, _ in self.holds.values())
            self.soonest = min((until for _, until in self.holds.values()), default=inf)
        self.ends = move.ends
        self.spent += move.spend
        before, until = self.holds.pop(reservation, (0, expires))
        amount = max(0, before + move.hold)
        self.held += amount - before
        if amount:
            until = max(until, expires)
            self.holds[reservation] = (amount, until)
            self.soonest = min(self.soonest, until)


class MemoryBudgets:
    """Keeps what budgets have spent and hold, in this process. Thread-safe.

    Example:
        >>> store = MemoryBudgets()
        >>> move = Move(account="a", limit=10, ends=60.0, hold=8)
        >>> store.move("r1", "reserve", [move], now=0.0, expires=30.0).balances
        (Balance(spent=0, held=8),)
        >>> store.move("r2", "reserve", [move], now=0.0, expires=30.0).left
        2
    """

    blocking = False

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._done: dict[tuple[str, str], float] = {}
        self._ending: list[tuple[float, tuple[str, str]]] = []
        self._lock = threading.Lock()

    def move(
        self,
        reservation: str,
        operation: str,
        moves: Sequence[Move],
        *,
        now: float,
        expires: float,
    ) -> Moved | Refusal:
        """Make all the moves or none; see `BudgetStore.move`."""
        names = [move.account for move in moves]
        with self._lock:
            repeated = self._done.get((reservation, operation), -inf) > now
            if not repeated:
                refused = refusal(moves, dict(zip(names, self._balances(names, now), strict=True)))
                if refused is not None:
                    return refused
                for move in moves:
                    account = self._accounts.setdefault(move.account, _Account())
                    account.make(move, reservation, now, expires)
                self._remember((reservation, operation), now, expires)
            return Moved(balances=tuple(self._balances(names, now)), repeated=repeated)

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds; see `BudgetStore.balances`."""
        with self._lock:
            return self._balances(accounts, now)

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window is over; see `BudgetStore.forget`."""
        with self._lock:
            old = [name for name, one in self._accounts.items() if one.ends <= ended_before]
            for name in old:
                del self._accounts[name]
            return len(old)

    def _balances(self, accounts: Sequence[str], now: float) -> list[Balance]:
        return [self._accounts.get(name, _Account()).balance(now) for name in accounts]

    def _remember(self, name: tuple[str, str], now: float, expires: float) -> None:
        self._done[name] = expires
        heapq.heappush(self._ending, (expires, name))
        while self._ending and self._ending[0][0] <= now:
            _, old = heapq.heappop(self._ending)
            if self._done.get(old, inf) <= now:  # it may have been made again since
                del self._done[old]
