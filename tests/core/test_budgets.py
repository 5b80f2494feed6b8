"""Budgets hold: reserve, extend, settle, release, share."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.budget.budgets import Budget, account_of, window_of
from costwise_core.budget.guard import Budgets
from costwise_core.budget.memory import MemoryBudgets
from costwise_core.errors import (
    BudgetExceededError,
    ConfigError,
    StoreUnavailableError,
    UnknownModelError,
)
from costwise_core.tracking import track
from costwise_core.types import Usage

MODEL = "gpt-4o-mini"


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def balance(budgets: Budgets, budget: Budget, now: float = 1_000_000.0, **tags: str):
    (found,) = budgets.store.balances([account_of(budget, tags, now) or ""], now=now)
    return found.spent, found.held


class TestBudget:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"limit": 0.5},
            {"limit": -1},
            {"limit": "NaN"},
            {"limit": "1.5", "unit": "calls"},
            {"limit": 1, "unit": "dollars"},
            {"limit": 1, "window": "fortnight"},
            {"limit": 1, "on_exceed": "explode"},
            {"limit": 1, "tags": {"tenant": 7}},
        ],
    )
    def test_what_is_wrong_is_refused_where_it_is_given(self, wrong):
        with pytest.raises(ConfigError):
            Budget(**wrong)

    def test_windows_are_calendar_windows_in_utc(self):
        at = 1_709_251_199.0  # 2024-02-29 23:59:59
        assert window_of("month", at) == (1_706_745_600.0, 1_709_251_200.0)
        assert window_of("day", at) == (1_709_164_800.0, 1_709_251_200.0)
        assert window_of("week", at)[0] == 1_708_905_600.0  # Monday 26 February

    def test_no_two_tag_sets_share_an_account(self):
        budget = Budget(limit=1, tags={"team": "*", "user": "*"})
        odd = {"team": "a/user=b", "user": ""}
        plain = {"team": "a", "user": "b"}
        assert account_of(budget, odd, 0.0) != account_of(budget, plain, 0.0)


class TestReserving:
    def test_dollars_are_held_and_then_booked(self):
        budget = Budget(limit="1.00", window="day")
        budgets = Budgets(budget, clock=Clock())
        call = budgets.reserve(MODEL, input_tokens=1_000_000, output_tokens=1_000_000)
        assert balance(budgets, budget) == (0, 750_000_000_000)  # .15 + .60
        call.settle(Usage(input_tokens=1_000_000, output_tokens=10_000))
        assert balance(budgets, budget) == (156_000_000_000, 0)
        call.settle(Usage(input_tokens=1_000_000))
        call.release()
        assert balance(budgets, budget) == (156_000_000_000, 0)

    def test_a_call_that_does_not_fit_is_refused_and_holds_nothing(self):
        tight = Budget(limit=1, unit="calls", window="hour", tags={"team": "*"})
        wide = Budget(limit=1_000, unit="tokens")
        budgets = Budgets(wide, tight, clock=Clock())
        budgets.reserve(MODEL, input_tokens=10, tags={"team": "x"}).settle(None)
        with pytest.raises(BudgetExceededError, match="each team") as caught:
            budgets.reserve(MODEL, input_tokens=10, tags={"team": "x"})
        assert caught.value.resets == 1_000_800.0
        assert balance(budgets, wide) == (10, 0)
        budgets.reserve(MODEL, input_tokens=10, tags={"team": "y"})

    def test_tags_come_from_the_block_around(self):
        budgets = Budgets(Budget(limit=1, unit="calls", tags={"tenant": "acme"}))
        with track(tenant="acme"):
            budgets.reserve(MODEL, input_tokens=1).settle(None)
            with pytest.raises(BudgetExceededError):
                budgets.reserve(MODEL, input_tokens=1)
        budgets.reserve(MODEL, input_tokens=1)

    def test_the_dearest_way_to_send_a_prompt_is_held(self):
        budgets = Budgets(budget := Budget(limit=100), clock=Clock())
        call = budgets.reserve("claude-haiku-4-5", input_tokens=1_000_000)
        assert balance(budgets, budget)[1] == 1_250_000_000_000
        call.settle(Usage(input_tokens=1_000_000, cache_write_tokens=1_000_000))
        assert balance(budgets, budget) == (1_250_000_000_000, 0)

    def test_an_unknown_price_is_refused_where_dollars_count(self):
        with pytest.raises(UnknownModelError):
            Budgets(Budget(limit=1)).reserve("mystery-9b", input_tokens=1)
        Budgets(Budget(limit=1, unit="calls")).reserve("mystery-9b", input_tokens=1).release()

    def test_nobody_knows_what_was_used(self):
        budgets = Budgets(budget := Budget(limit=100, unit="tokens"), clock=Clock())
        budgets.reserve(MODEL, input_tokens=10, output_tokens=5).settle(None)
        assert balance(budgets, budget) == (15, 0)

    def test_a_released_call_was_no_call(self):
        budgets = Budgets(
            calls := Budget(limit=1, unit="calls"), tokens := Budget(limit=9, unit="tokens")
        )
        budgets.reserve(MODEL, input_tokens=9).release()
        assert balance(budgets, calls) == balance(budgets, tokens) == (0, 0)

    def test_one_id_counts_once(self):
        budgets = Budgets(budget := Budget(limit=9, unit="tokens"), clock=Clock())
        for _ in range(2):
            budgets.reserve(MODEL, input_tokens=9, id="call-1").settle(Usage(input_tokens=9))
        assert balance(budgets, budget) == (9, 0)

    def test_what_was_paid_is_booked_beyond_the_limit(self):
        budgets = Budgets(budget := Budget(limit=10, unit="tokens"), clock=Clock())
        budgets.reserve(MODEL, input_tokens=5).settle(Usage(input_tokens=5, output_tokens=20))
        assert balance(budgets, budget) == (25, 0)
        with pytest.raises(BudgetExceededError, match="0 tokens left"):
            budgets.reserve(MODEL, input_tokens=1)

    def test_the_holder_that_died_gives_back(self):
        clock = Clock()
        budgets = Budgets(Budget(limit=10, unit="tokens"), seconds=60.0, clock=clock)
        lost = budgets.reserve(MODEL, input_tokens=10)
        with pytest.raises(BudgetExceededError):
            budgets.reserve(MODEL, input_tokens=1)
        clock.now += 61
        budgets.reserve(MODEL, input_tokens=10).settle(Usage(input_tokens=4))
        lost.settle(Usage(input_tokens=3))  # it lived after all
        assert balance(budgets, Budget(limit=10, unit="tokens"))[0] == 7

    def test_a_new_window_begins_at_nothing(self):
        clock = Clock()
        budget = Budget(limit=1, unit="calls", window="minute")
        budgets = Budgets(budget, clock=clock)
        budgets.reserve(MODEL, input_tokens=1).settle(None)
        assert balance(budgets, budget, clock.now) == (1, 0)
        clock.now += 60
        assert balance(budgets, budget, clock.now) == (0, 0)
        budgets.reserve(MODEL, input_tokens=1).settle(None)
        assert balance(budgets, budget, clock.now) == (1, 0)

    def test_a_prompt_in_a_loop_is_stopped(self):
        budgets = Budgets(Budget(limit=3, unit="calls", window="minute", tags={"prompt": "*"}))
        for _ in range(3):
            budgets.reserve(MODEL, input_tokens=1, tags={"prompt": "d1"}).settle(None)
        with pytest.raises(BudgetExceededError):
            budgets.reserve(MODEL, input_tokens=1, tags={"prompt": "d1"})
        budgets.reserve(MODEL, input_tokens=1, tags={"prompt": "d2"})


class TestStreams:
    def test_it_holds_more_as_the_answer_grows(self):
        budgets = Budgets(budget := Budget(limit=100, unit="tokens"), clock=Clock())
        call = budgets.reserve(MODEL, input_tokens=20, output_tokens=30)
        assert call.extend(30)
        assert call.extend(60)
        assert balance(budgets, budget) == (0, 80)
        assert not call.extend(90)
        assert balance(budgets, budget) == (0, 80)
        call.settle(Usage(input_tokens=20, output_tokens=60))
        assert balance(budgets, budget) == (80, 0)
        assert call.extend(10_000)  # nothing is held for a call that is over


class TestSharing:
    def test_a_retry_finds_the_place_of_the_first_try(self):
        budgets = Budgets(budget := Budget(limit=10, unit="tokens"), clock=Clock())
        with budgets.request():
            first = budgets.reserve(MODEL, input_tokens=10)
            first.release()
            with ThreadPoolExecutor(1) as other, pytest.raises(BudgetExceededError):
                other.submit(budgets.reserve, MODEL, input_tokens=1).result()
            budgets.reserve(MODEL, input_tokens=10).settle(Usage(input_tokens=6))
            assert balance(budgets, budget) == (6, 4)
        assert balance(budgets, budget) == (6, 0)

    async def test_in_async_code(self):
        budgets = Budgets(budget := Budget(limit=10, unit="tokens"), clock=Clock())
        async with budgets.arequest():
            call = await budgets.areserve(MODEL, input_tokens=4)
            assert await call.aextend(3)
            await call.asettle(Usage(input_tokens=4, output_tokens=3))
        assert balance(budgets, budget) == (7, 0)


def test_many_threads_never_pass_the_limit():
    budgets = Budgets(budget := Budget(limit=500, unit="calls"), clock=Clock())

    def one(_: int) -> bool:
        try:
            budgets.reserve(MODEL, input_tokens=1).settle(None)
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(one, range(2_000))) == 500
    assert balance(budgets, budget) == (500, 0)


def test_the_balance_is_told():
    seen = []
    budgets = Budgets(
        Budget(limit="0.01"),
        seen=lambda budget, account, now: seen.append(now.spent + now.held),
    )
    budgets.reserve(MODEL, input_tokens=10_000).settle(Usage(input_tokens=10_000))
    assert [Decimal(amount) / 10**12 for amount in seen] == [Decimal("0.0015")] * 2


class Faulty(MemoryBudgets):
    """Loses the connection: before a move is made, or after it, when nobody hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = ""

    def move(self, *args, **kwargs):
        if self.fails == "before":
            raise StoreUnavailableError("gone")
        made = super().move(*args, **kwargs)
        if self.fails == "after":
            raise StoreUnavailableError("gone")
        return made


class TestAStoreThatIsGone:
    @pytest.fixture
    def store(self):
        return Faulty()

    @pytest.fixture
    def budgets(self, store):
        return Budgets(Budget(limit=10, unit="tokens"), store=store, clock=Clock())

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_paid_answer_is_not_lost_and_is_booked_once(self, budgets, store, when):
        call = budgets.reserve(MODEL, input_tokens=8)
        store.fails = when
        call.settle(Usage(input_tokens=5))
        assert budgets.unbooked == 1
        assert budgets.faults == {"StoreUnavailableError": 1}
        with pytest.raises(StoreUnavailableError):
            budgets.reserve(MODEL, input_tokens=1)
        store.fails = ""
        budgets.reserve(MODEL, input_tokens=5).release()
        assert balance(budgets, *budgets.budgets) == (5, 0)
        assert budgets.unbooked == 0

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_hold_that_may_have_been_made_is_given_back(self, budgets, store, when):
        store.fails = when
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                budgets.reserve(MODEL, input_tokens=10)
        store.fails = ""
        budgets.reserve(MODEL, input_tokens=10).release()
        assert balance(budgets, *budgets.budgets) == (0, 0)

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_and_takes_nothing_from_the_rest_of_its_request(self, budgets, store, when):
        with budgets.request():
            first = budgets.reserve(MODEL, input_tokens=6)
            store.fails = when
            with pytest.raises(StoreUnavailableError):
                budgets.reserve(MODEL, input_tokens=3)
            store.fails = ""
            budgets.reserve(MODEL, input_tokens=1).release()
            assert balance(budgets, *budgets.budgets)[1] >= 6
            first.settle(None)
        assert balance(budgets, *budgets.budgets) == (6, 0)

    async def test_a_cancelled_reservation_holds_nothing(self):
        class Slow(MemoryBudgets):
            async def amove(self, *args, **kwargs):
                made = self.move(*args, **kwargs)
                await asyncio.sleep(0.01)
                return made

        budgets = Budgets(budget := Budget(limit=10, unit="tokens"), store=Slow(), clock=Clock())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(budgets.areserve(MODEL, input_tokens=10), 0.001)
        (await budgets.areserve(MODEL, input_tokens=9)).settle(None)
        assert balance(budgets, budget) == (9, 0)


def test_windows_that_are_over_are_forgotten():
    clock = Clock()
    budgets = Budgets(
        Budget(limit=3, unit="calls", window="minute", tags={"prompt": "*"}),
        seconds=60.0,
        clock=clock,
    )
    for number in range(300):
        clock.now += 2
        budgets.reserve(MODEL, input_tokens=1, tags={"prompt": str(number)}).settle(None)
    assert len(budgets.store._accounts) <= 120


def test_hierarchies_of_tags_hold_at_every_level():
    budgets = Budgets(
        Budget(limit=6, unit="calls", tags={"tenant": "*"}),
        Budget(limit=4, unit="calls", tags={"tenant": "*", "team": "*"}),
        Budget(limit=2, unit="calls", tags={"tenant": "*", "team": "*", "user": "*"}),
    )

    def calls(**tags: str) -> int:
        for made in range(10):
            try:
                budgets.reserve(MODEL, input_tokens=1, tags=tags).settle(None)
            except BudgetExceededError:
                return made
        return 10

    assert calls(tenant="a", team="x", user="1") == 2
    assert calls(tenant="a", team="x", user="2") == 2
    assert calls(tenant="a", team="x", user="3") == 0
    assert calls(tenant="a", team="y", user="1") == 2
    assert calls(tenant="a", team="z", user="1") == 0
    assert calls(tenant="b", team="x", user="1") == 2


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40))
def test_no_history_passes_the_limit_while_nobody_uses_more_than_it_held(history):
    budgets = Budgets(budget := Budget(limit=100, unit="tokens"), clock=Clock())
    under_way, paid = [], 0
    for held, used in history:
        with suppress(BudgetExceededError):
            under_way.append((budgets.reserve(MODEL, input_tokens=held), min(used, held)))
        if used % 3 == 0 and under_way:
            call, amount = under_way.pop(used % len(under_way))
            call.settle(Usage(input_tokens=amount))
            paid += amount
        spent, holding = balance(budgets, budget)
        assert spent == paid
        assert spent + holding <= 100
    for call, _ in under_way:
        call.release()
    assert balance(budgets, budget) == (paid, 0)
