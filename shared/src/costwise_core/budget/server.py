"""What budgets in a server have in common, whichever server it is."""

from collections.abc import Sequence
from typing import Self

from costwise_core.budget.moves import Balance, Move, Moved, Refusal
from costwise_core.budget.together import Answer, Ask, Together
from costwise_core.drive import Flow, arun, run

__all__ = ["ServerBudgets"]


class ServerBudgets:
    """Is a `BudgetStore`, for threads and for event loops. A subclass says how, as flows.

    Every method has an asynchronous twin with an "a" in front.
    """

    def __init__(self) -> None:
        self._together = Together(
            lambda asks: run(self._moves(asks)), lambda asks: arun(self._moves(asks))
        )

    def move(
        self,
        reservation: str,
        operation: str,
        moves: Sequence[Move],
        *,
        now: float,
        expires: float,
    ) -> Moved | Refusal:
        """Make all the moves or none; see `BudgetStore.move`.

        Raises:
            StoreError: if the server cannot be used.
        """
        return self._together.move(Ask(reservation, operation, moves, now, expires))

    async def amove(
        self,
        reservation: str,
        operation: str,
        moves: Sequence[Move],
        *,
        now: float,
        expires: float,
    ) -> Moved | Refusal:
        """Do what `move` does, without blocking the event loop."""
        return await self._together.amove(Ask(reservation, operation, moves, now, expires))

    def balances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Return what each account has spent and holds; see `BudgetStore.balances`.

        Raises:
            StoreError: if the server cannot be used.
        """
        return run(self._balances(accounts, now))

    async def abalances(self, accounts: Sequence[str], *, now: float) -> list[Balance]:
        """Do what `balances` does, without blocking the event loop."""
        return await arun(self._balances(accounts, now))

    def forget(self, *, ended_before: float) -> int:
        """Delete accounts whose window is over; see `BudgetStore.forget`.

        Raises:
            StoreError: if the server cannot be used; some may have been deleted then.
        """
        return run(self._forget(ended_before))

    async def aforget(self, *, ended_before: float) -> int:
        """Do what `forget` does, without blocking the event loop."""
        return await arun(self._forget(ended_before))

    def close(self) -> None:
        """Close the connections; using the store again opens them again."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _moves(self, asks: Sequence[Ask]) -> Flow[list[Answer]]:
        raise NotImplementedError

    def _balances(self, accounts: Sequence[str], now: float) -> Flow[list[Balance]]:
        raise NotImplementedError

    def _forget(self, ended_before: float) -> Flow[int]:
        raise NotImplementedError
