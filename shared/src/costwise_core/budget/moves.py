"""The one thing a budget store can do: move amounts on several accounts, all or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Balance", "BudgetStore", "Move", "Moved", "Refusal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A change to one account. Amounts are whole: 10^-12 dollars, tokens or calls.

    Args:
        account: Key of the account; it includes the window.
        limit: What spent and held together may not pass.
        ends: When the account's window is over, in seconds since the epoch.
        hold: Added to what the reservation holds; negative gives back.
        spend: Added to what was spent for good.
    """

    account: str
    limit: int
    ends: float
    hold: int = 0
    spend: int = 0

    @property
    def raises(self) -> bool:
        """Whether the account is to carry more than before, so that the limit has a say.

        What was paid is booked whatever the limit says: a bill is not undone by refusing it.
        """
        return self.hold > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """No move was made, because this account would have passed its limit. `left` is its rest."""

    account: str
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """What an account has spent, and what reservations under way hold."""

    spent: int
    held: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """All moves were made. `balances` are the accounts' afterwards, in the order of the moves.

    With `repeated`, they had been made before, under the same name, and nothing was changed now.
    """

    balances: tuple[Balance, ...]
    repeated: bool = False


class BudgetStore(Protocol):
    """Keeps what budgets have spent and hold, for all threads, and but for memory all processes.

    Run `costwise_core.testing.budgets.BudgetStoreContract` on one of your own.
    """

    def move(
        self,
        reservation: str,
        operation: str,
        moves: Sequence[Move],
        *,
        now: float,
        expires: float,
    ) -> Moved | Refusal:
        """Make all the moves or none, and say which account refused.

        A move that raises what is held is refused if spent + held (of reservations not expired)
        would pass the limit. Any other move is made always: it books what was paid. What a
        reservation holds never falls below zero, and counts no more once it has expired.

        Args:
            reservation: Whose holds are changed.
            operation: Name of this change; one made before under this name is not made again.
            moves: At most one for each account; with none, the operation's name is taken all the
                same, so that of several processes one learns that it was the first.
            now: Seconds since the epoch.
            expires: Until when the reservation's holds count, unless a later move says later.
        """
        ...

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds now; unknown ones are empty."""
        ...

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window ended before, and return how many there were."""
        ...
