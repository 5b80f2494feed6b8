"""The one thing a budget store can do: move amounts on several accounts, all or none."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from costwise_core.errors import ConfigError

__all__ = ["LARGEST", "Balance", "BudgetStore", "Move", "Moved", "Refusal", "digest", "refusal"]

LARGEST: Final = 10**24
"""No amount is larger: a million million dollars. Stores are exact up to here and beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A change to one account. Amounts are whole: 10^-12 dollars, tokens or calls.

    Args:
        account: Key of the account; it includes the window.
        limit: What spent and held together may not pass.
        ends: When the account's window is over, in seconds since the epoch.
        hold: Added to what the reservation holds; negative gives back.
        spend: Added to what was spent for good.

    Raises:
        ConfigError: if an amount is no whole number, or beyond all reason.

    Example:
        >>> Move(account="day", limit=10, ends=86_400.0, hold=3).raises
        True
    """

    account: str
    limit: int
    ends: float
    hold: int = 0
    spend: int = 0

    def __post_init__(self) -> None:
        for amount in (self.limit, self.hold, self.spend):
            if not isinstance(amount, int) or not -LARGEST <= amount <= LARGEST:
                raise ConfigError(
                    f"an amount is a whole number of at most 24 digits, got {amount!r}."
                )

    @property
    def raises(self) -> bool:
        """Whether the account is to carry more than before, so that the limit has a say.

        What was paid is booked whatever the limit says: a bill is not undone by refusing it.
        """
        return self.hold > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """No move was made, because this account would have passed its limit. `left` is its rest.

    Example:
        >>> Refusal(account="a", left=4).left
        4
    """

    account: str
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """What an account has spent, and what reservations under way hold.

    Example:
        >>> Balance(spent=4, held=2)
        Balance(spent=4, held=2)
    """

    spent: int
    held: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """All moves were made. `balances` are the accounts' afterwards, in the order of the moves.

    With `repeated`, they had been made before, under the same name, and nothing was changed now.

    Example:
        >>> Moved(balances=(Balance(spent=4, held=0),)).repeated
        False
    """

    balances: tuple[Balance, ...]
    repeated: bool = False


class BudgetStore(Protocol):
    """Keeps what budgets have spent and hold, for all threads, and but for memory all processes.

    A store that cannot be asked raises `StoreUnavailableError`, soon: a budget fails closed. All
    times are the caller's. If the clocks of two processes differ, one finds the other's holds
    expired so much earlier or later; that is harmless while a call takes less than its hold lasts,
    minus the difference.

    Run `costwise_core.testing.budgets.BudgetStoreContract` on one of your own.

    Example:
        >>> from costwise_core import MemoryBudgets
        >>> store: BudgetStore = MemoryBudgets()
        >>> store.balances(["a"], now=0.0)
        [Balance(spent=0, held=0)]
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
        reservation holds never falls below zero. Once it has expired it counts no more, and is gone
        with the next move made on its account.

        Args:
            reservation: Whose holds are changed.
            operation: Name of this change; one made before under this name, by this reservation, is
                not made again. Names are remembered until the `expires` they were made with, those
                of refused moves not at all.
            moves: At most one for each account; with none, the operation's name is taken all the
                same, so that of several processes one learns that it was the first.
            now: Seconds since the epoch.
            expires: Until when the reservation's holds count, unless another move says later.

        Returns:
            The balances, or the first of the moves' accounts that has no room.

        Raises:
            StoreError: if the store cannot be used; the moves may have been made then, and may be
                tried again under the same name.
        """
        ...

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds now; unknown ones are empty."""
        ...

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window ended before, and return how many there were."""
        ...


def refusal(moves: Sequence[Move], balances: Mapping[str, Balance]) -> Refusal | None:
    """Return which account has no room for its move, None if all have.

    Example:
        >>> move = Move(account="a", limit=10, ends=60.0, hold=5)
        >>> refusal([move], {"a": Balance(spent=4, held=2)})
        Refusal(account='a', left=4)
    """
    for move in moves:
        now = balances[move.account]
        left = move.limit - now.spent - now.held
        if move.raises and move.hold + move.spend > left:
            return Refusal(account=move.account, left=max(0, left))
    return None


def digest(*texts: str) -> bytes:
    """Return 16 bytes by which shared stores know an account, a reservation or an operation.

    So no length and no character is too much for any of them, and none keeps names of users.

    Example:
        >>> digest("a", "b") == digest("ab")
        False
    """
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    framed = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return hashlib.blake2b(framed, digest_size=16).digest()
