"""Budgets of one process."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from costwise_core.budget.moves import Balance, Move, Moved, Refusal

__all__ = ["MemoryBudgets"]

MAX_OPERATIONS = 100_000


@dataclass(slots=True)
class _Account:
    spent: int = 0
    ends: float = float("inf")
    # By reservation: what it holds, and until when.
    holds: dict[str, tuple[int, float]] = field(default_factory=dict)

    def held(self, now: float) -> int:
        self.holds = {key: hold for key, hold in self.holds.items() if hold[1] > now}
        return sum(amount for amount, _ in self.holds.values())


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
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()
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
        with self._lock:
            repeated = (reservation, operation) in self._done
            if not repeated:
                for move in moves:
                    account = self._accounts[move.account]
                    left = move.limit - account.spent - account.held(now)
                    if move.raises and move.hold + move.spend > left:
                        return Refusal(account=move.account, left=max(0, left))
                for move in moves:
                    self._make(self._accounts[move.account], reservation, move, expires)
                self._done[reservation, operation] = None
                while len(self._done) > MAX_OPERATIONS:
                    self._done.popitem(last=False)
            names = [move.account for move in moves]
            return Moved(balances=tuple(self._balances(names, now)), repeated=repeated)

    def _make(self, account: _Account, reservation: str, move: Move, expires: float) -> None:
        account.spent += move.spend
        account.ends = move.ends
        amount, until = account.holds.get(reservation, (0, expires))
        amount = max(0, amount + move.hold)
        if amount:
            account.holds[reservation] = (amount, max(until, expires))
        else:
            account.holds.pop(reservation, None)

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds; see `BudgetStore.balances`."""
        with self._lock:
            return self._balances(accounts, now)

    def _balances(self, accounts: Sequence[str], now: float) -> list[Balance]:
        found = [self._accounts.get(name, _Account()) for name in accounts]
        return [Balance(spent=one.spent, held=one.held(now)) for one in found]

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window is over; see `BudgetStore.forget`."""
        with self._lock:
            old = [name for name, one in self._accounts.items() if one.ends <= ended_before]
            for name in old:
                del self._accounts[name]
            return len(old)
