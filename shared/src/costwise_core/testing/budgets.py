"""The contract of a budget store as a pytest class: a store is done when a subclass passes.

Example:
    >>> class TestMyBudgets(BudgetStoreContract):
    ...     def make_store(self):
    ...         return MyBudgets()
"""

# ruff: noqa: S101, S311 - these are tests, shipped

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from random import Random
from typing import Any, TypeVar

import pytest

from costwise_core.budget.memory import MemoryBudgets
from costwise_core.budget.moves import LARGEST, Balance, BudgetStore, Move, Moved, Refusal
from costwise_core.testing.entries import TEXTS

__all__ = ["AMOUNTS", "BudgetStoreContract"]

T = TypeVar("T")

NOW = 1_000_000.0
SOON = NOW + 60.0
ENDS = NOW + 3_600.0
AMOUNTS = (1, 10**9, 2**53 - 1, 2**53 + 1, 9 * 10**15 + 7, 2**63 - 1, 2**63 + 1, LARGEST // 10)
"""Amounts at which arithmetic that is not exact goes wrong."""

NAMES = (
    *TEXTS,
    "",
    " ",
    "{a}:b",
    "a/b=c%2F",
    "*",
    "'; DROP TABLE accounts; --",
    "long " * 5_000,
)


def hold(amount: int, account: str = "a", *, limit: int = 100, ends: float = ENDS) -> Move:
    """Return a move that holds an amount, or gives it back."""
    return Move(account=account, limit=limit, ends=ends, hold=amount)


def book(
    spend: int, back: int, account: str = "a", *, limit: int = 100, ends: float = ENDS
) -> Move:
    """Return a move that books what was spent and gives back what was held for it."""
    return Move(account=account, limit=limit, ends=ends, hold=-back, spend=spend)


class BudgetStoreContract:
    """Subclass it, say how a store is made, and pytest runs the contract."""

    @pytest.fixture
    def store(self) -> Iterator[Any]:
        """An empty store, closed afterwards if it can be."""
        store = self.make_store()
        yield store
        getattr(store, "close", lambda: None)()

    def make_store(self) -> Any:
        """Return a new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Any) -> Any:
        """Return the store as another process would find it; itself if it does not outlive one."""
        return store

    # --- one account ----------------------------------------------------------------------------

    def test_reserve_extend_settle(self, store: BudgetStore) -> None:
        """What is held makes room for what is spent, and each move tells the balance after it."""
        assert store.balances(["a"], now=NOW) == [Balance(spent=0, held=0)]
        assert move(store, "r1", "reserve", hold(60)) == moved(0, 60)
        assert move(store, "r2", "reserve", hold(40)) == moved(0, 100)
        assert move(store, "r1", "settle", book(25, 60)) == moved(25, 40)
        assert move(store, "r2", "extend", hold(35)) == moved(25, 75)
        assert move(store, "r2", "settle", book(75, 75)) == moved(100, 0)
        assert move(store, "r3", "reserve", hold(1)) == Refusal(account="a", left=0)
        other: BudgetStore = self.reopen(store)
        assert other.balances(["a"], now=NOW) == [Balance(spent=100, held=0)]

    def test_a_refused_move_leaves_nothing(self, store: BudgetStore) -> None:
        """It says what is left, holds nothing, and its name may be tried again."""
        move(store, "r1", "reserve", hold(70))
        assert move(store, "r2", "reserve", hold(31)) == Refusal(account="a", left=30)
        assert store.balances(["a"], now=NOW) == [Balance(spent=0, held=70)]
        assert move(store, "r2", "reserve", hold(30)) == moved(0, 100)

    def test_what_was_paid_is_booked(self, store: BudgetStore) -> None:
        """A move that raises no hold is never refused, however far beyond the limit it ends."""
        move(store, "r1", "reserve", hold(10))
        assert move(store, "r1", "settle", book(250, 10)) == moved(250, 0)
        assert move(store, "r2", "settle", book(1, 0)) == moved(251, 0)
        assert move(store, "r3", "reserve", hold(1)) == Refusal(account="a", left=0)
        assert move(store, "r3", "more room", hold(49, limit=300)) == moved(251, 49)

    def test_nobody_gives_back_more_than_is_held(self, store: BudgetStore) -> None:
        """A hold never falls below zero, and giving back touches nobody else's."""
        move(store, "r1", "reserve", hold(30))
        assert move(store, "r2", "release", hold(-50)) == moved(0, 30)
        assert move(store, "r1", "release", hold(-50)) == moved(0, 0)
        assert move(store, "r1", "reserve again", hold(100)) == moved(0, 100)

    @pytest.mark.parametrize("amount", AMOUNTS)
    def test_amounts_are_exact(self, store: BudgetStore, amount: int) -> None:
        """To the last unit, however large: the limit is usable to itself and not beyond."""
        limit = 3 * amount
        first = move(store, "r1", "reserve", hold(amount, limit=limit))
        assert first == moved(0, amount)
        assert move(store, "r1", "settle", book(amount, amount, limit=limit)) == moved(amount, 0)
        refused = move(store, "r2", "reserve", hold(2 * amount + 1, limit=limit))
        assert refused == Refusal(account="a", left=2 * amount)
        assert move(store, "r2", "reserve", hold(2 * amount, limit=limit)) == moved(
            amount, 2 * amount
        )
        over = book(2 * amount + 1, 2 * amount, limit=limit)
        assert move(store, "r2", "settle", over) == moved(limit + 1, 0)
        assert store.balances(["a"], now=NOW) == [Balance(spent=limit + 1, held=0)]

    # --- several accounts -----------------------------------------------------------------------

    def test_all_or_none(self, store: BudgetStore) -> None:
        """If one account has no room, none is changed; the first in order is named."""
        narrow = [hold(5, "wide"), hold(5, "narrow", limit=4), hold(5, "none", limit=0)]
        assert move(store, "r1", "reserve", *narrow) == Refusal(account="narrow", left=4)
        assert move(store, "r1", "reserve", *narrow[::-1]) == Refusal(account="none", left=0)
        names = ["wide", "narrow", "none"]
        assert store.balances(names, now=NOW) == [Balance(spent=0, held=0)] * 3
        assert move(store, "r1", "reserve", hold(2, "wide"), hold(4, "narrow", limit=4)) == Moved(
            balances=(Balance(spent=0, held=2), Balance(spent=0, held=4))
        )
        assert store.balances([*names, "wide"], now=NOW) == [
            Balance(spent=0, held=2),
            Balance(spent=0, held=4),
            Balance(spent=0, held=0),
            Balance(spent=0, held=2),
        ]

    def test_any_text_is_a_name(self, store: BudgetStore) -> None:
        """Accounts, reservations and operations may have any name, and no two are mixed up."""
        for number, name in enumerate(NAMES, 1):
            assert move(store, name, name, hold(number, name)) == moved(0, number)
        other: BudgetStore = self.reopen(store)
        held = [balance.held for balance in other.balances(NAMES, now=NOW)]
        assert held == list(range(1, len(NAMES) + 1))
        for number, name in enumerate(NAMES, 1):
            assert move(other, name, "back", hold(-number, name)) == moved(0, 0)
        assert move(store, "a", "bc", hold(1)) == moved(0, 1)
        assert move(store, "ab", "c", hold(1)) == moved(0, 2)

    # --- once -----------------------------------------------------------------------------------

    def test_one_operation_counts_once(self, store: BudgetStore) -> None:
        """Made again under its name, a move changes nothing and says so; elsewhere too."""
        other: BudgetStore = self.reopen(store)
        move(store, "r1", "reserve", hold(90))
        again = move(other, "r1", "reserve", hold(90))
        assert again == Moved(balances=(Balance(spent=0, held=90),), repeated=True)
        move(other, "r1", "settle", book(20, 90))
        again = move(store, "r1", "settle", book(20, 90))
        assert again == Moved(balances=(Balance(spent=20, held=0),), repeated=True)
        assert move(store, "r2", "reserve", hold(80)) == moved(20, 80)

    def test_a_name_without_moves_is_taken(self, store: BudgetStore) -> None:
        """Of all who take one name, one is told to be the first."""
        other: BudgetStore = self.reopen(store)
        assert move(store, "alerts", "50 %") == Moved(balances=())
        assert move(other, "alerts", "50 %") == Moved(balances=(), repeated=True)
        assert move(other, "alerts", "80 %") == Moved(balances=())
        taken = at_once(
            16, lambda n: move([store, other][n % 2], "alerts", "100 %") == Moved(balances=())
        )
        assert sum(taken) == 1

    def test_names_are_forgotten(self, store: BudgetStore) -> None:
        """A name is free again when the time that it was taken with is over."""
        move(store, "r1", "reserve", hold(1))
        for now, repeated in ((SOON - 1, True), (SOON, False), (SOON + 59, True)):
            made = store.move("r1", "reserve", [hold(1)], now=now, expires=SOON + 60)
            assert made == Moved(balances=moved(0, 1).balances, repeated=repeated)

    # --- time -----------------------------------------------------------------------------------

    def test_what_a_dead_holder_held_comes_back(self, store: BudgetStore) -> None:
        """A hold counts until it expires; if its holder lives after all, what it paid is booked."""
        move(store, "dead", "reserve", hold(100))
        assert store.balances(["a"], now=SOON - 0.001) == [Balance(spent=0, held=100)]
        assert store.balances(["a"], now=SOON) == [Balance(spent=0, held=0)]
        assert store.balances(["a"], now=NOW) == [Balance(spent=0, held=100)]
        late = store.move("r2", "reserve", [hold(60)], now=SOON, expires=SOON + 60)
        assert late == moved(0, 60)
        settled = store.move("dead", "settle", [book(30, 100)], now=SOON, expires=SOON + 60)
        assert settled == moved(30, 60)
        assert store.move("r3", "reserve", [hold(11)], now=SOON, expires=SOON + 60) == Refusal(
            account="a", left=10
        )

    def test_an_extended_hold_lasts_longer(self, store: BudgetStore) -> None:
        """Every move of its reservation renews a hold, and none shortens it."""
        move(store, "r1", "reserve", hold(40))
        store.move("r1", "extend", [hold(20)], now=NOW + 30, expires=NOW + 90)
        assert store.balances(["a"], now=SOON) == [Balance(spent=0, held=60)]
        store.move("r1", "less", [hold(-10)], now=NOW + 31, expires=NOW + 40)
        assert store.balances(["a"], now=NOW + 89.9) == [Balance(spent=0, held=50)]
        assert store.balances(["a"], now=NOW + 90) == [Balance(spent=0, held=0)]

    def test_what_expired_is_gone(self, store: BudgetStore) -> None:
        """A reservation that moves on after its hold expired does not get it back."""
        move(store, "r1", "reserve", hold(40))
        assert store.move("r1", "extend", [hold(5)], now=SOON, expires=SOON + 9) == moved(0, 5)

    def test_forgetting(self, store: BudgetStore) -> None:
        """Accounts whose window is over are deleted with what they hold, and no others."""
        for name, ends in (("old", NOW), ("new", ENDS), ("total", float("inf"))):
            move(store, "r1", f"reserve {name}", hold(7, name, ends=ends))
            move(store, "r2", f"settle {name}", book(3, 0, name, ends=ends))
        assert store.forget(ended_before=NOW - 1) == 0
        assert store.forget(ended_before=NOW) == 1
        assert store.forget(ended_before=NOW) == 0
        assert store.balances(["old", "new", "total"], now=NOW) == [
            Balance(spent=0, held=0),
            Balance(spent=3, held=7),
            Balance(spent=3, held=7),
        ]
        assert move(store, "r3", "reserve", hold(9, "old", ends=NOW)) == moved(0, 9)

    # --- at once --------------------------------------------------------------------------------

    def test_threads_never_pass_the_limit(self, store: BudgetStore) -> None:
        """All of a limit can be used by many threads, and not one unit more."""
        stores: list[BudgetStore] = [store, self.reopen(store)]
        numbers = count()

        def spend(worker: int) -> int:
            mine = stores[worker % 2]
            paid, random = 0, Random(worker)
            for _ in range(12):
                ident, most = f"r{next(numbers)}", random.randint(1, 9)
                if isinstance(move(mine, ident, "reserve", hold(most, limit=400)), Refusal):
                    continue
                used = random.randint(0, most)
                assert isinstance(move(mine, ident, "settle", book(used, most, limit=400)), Moved)
                paid += used
            return paid

        paid = sum(at_once(16, spend))
        assert store.balances(["a"], now=NOW) == [Balance(spent=paid, held=0)]
        assert paid <= 400
        # Whoever comes one by one gets the rest to the last unit.
        for _ in range(400 - paid):
            assert isinstance(move(store, f"r{next(numbers)}", "pay", hold(1, limit=400)), Moved)
        assert move(store, "late", "reserve", hold(1, limit=400)) == Refusal(account="a", left=0)

    def test_many_accounts_at_once(self, store: BudgetStore) -> None:
        """Moves over the same accounts in any order neither block each other nor mix."""
        stores: list[BudgetStore] = [store, self.reopen(store)]
        names = [f"account {n}" for n in range(6)]

        def shuffle(worker: int) -> int:
            random = Random(worker)
            made = 0
            for step in range(10):
                some = random.sample(names, 3)
                found = move(
                    stores[worker % 2],
                    f"r{worker}",
                    f"step {step}",
                    *(Move(account=name, limit=200, ends=ENDS, hold=1, spend=1) for name in some),
                )
                made += isinstance(found, Moved)
            return made

        made = sum(at_once(8, shuffle))
        balances = store.balances(names, now=NOW)
        assert sum(one.spent for one in balances) == 3 * made == 240
        assert sum(one.held for one in balances) == 3 * made
        for one in balances:
            assert one.spent == one.held

    # --- any history ----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(8))
    def test_any_history(self, store: BudgetStore, seed: int) -> None:
        """Whatever happens in whatever order of times, a store says what `MemoryBudgets` says."""
        random, plain = Random(seed), MemoryBudgets()
        other: BudgetStore = self.reopen(store)
        accounts = ("a", "b", "c")
        for step in range(120):
            now = NOW + step + random.uniform(-3, 3)  # of processes whose clocks differ
            some = random.sample(accounts, random.randint(1, 3))
            moves = [
                Move(
                    account=name,
                    limit=random.choice([50, 2**53 + 5]),
                    ends=ENDS,
                    hold=random.choice([-9, 0, 1, 5, 20, 2**52]),
                    spend=random.choice([0, 0, 0, 1, 3]),
                )
                for name in some
            ]
            reservation, operation = random.choice("rst"), f"{random.randrange(60)}"
            expires = now + random.choice([0.0, 2.0, 10.0, 40.0])
            arguments = (reservation, operation, moves)
            using = random.choice([store, other])
            assert using.move(*arguments, now=now, expires=expires) == plain.move(
                *arguments, now=now, expires=expires
            )
            at = now + random.uniform(-5, 20)
            assert using.balances(accounts, now=at) == plain.balances(accounts, now=at)


def move(store: BudgetStore, reservation: str, operation: str, *moves: Move) -> Moved | Refusal:
    """Make moves now, with holds that last a minute."""
    return store.move(reservation, operation, moves, now=NOW, expires=SOON)


def moved(spent: int, held: int) -> Moved:
    """Return what a store says after a move on one account."""
    return Moved(balances=(Balance(spent=spent, held=held),))


def at_once(workers: int, action: Callable[[int], T]) -> list[T]:
    """Let so many threads do something at the same moment, and return what came of it."""
    barrier = threading.Barrier(workers)

    def wait_and_do(worker: int) -> T:
        barrier.wait()
        return action(worker)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(wait_and_do, range(workers)))
