"""A breaker opens, probes and closes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.errors import ConfigError, StoreUnavailableError
from costwise_core.stores.breaker import Breaker
from costwise_core.testing.fakes import FakeClock


def passes(breaker: Breaker) -> bool:
    try:
        breaker.check()
    except StoreUnavailableError:
        return False
    return True


def test_failures_in_a_row_open_it_and_a_probe_closes_it() -> None:
    clock = FakeClock()
    breaker = Breaker(failures=3, cooldown=5.0, clock=clock)
    for _ in range(2):
        breaker.failed()
    breaker.ok()  # not in a row
    for _ in range(2):
        breaker.failed()
        assert passes(breaker)
    breaker.failed()
    assert not passes(breaker)
    with pytest.raises(StoreUnavailableError, match=r"3 times in a row.*next try in 5\.0 s"):
        breaker.check()
    clock.advance(5)
    assert passes(breaker)
    assert not passes(breaker)  # one probe at a time
    breaker.failed()
    clock.advance(4)
    assert not passes(breaker)
    clock.advance(1)
    assert passes(breaker)
    breaker.ok()
    assert all(passes(breaker) for _ in range(10))


def test_a_probe_that_is_never_heard_of_again_costs_one_cooldown() -> None:
    clock = FakeClock()
    breaker = Breaker(failures=1, cooldown=5.0, clock=clock)
    breaker.failed()
    for _ in range(3):
        clock.advance(5)
        assert passes(breaker)
        assert not passes(breaker)


def test_of_many_threads_one_probes() -> None:
    clock = FakeClock()
    breaker = Breaker(failures=1, clock=clock)
    breaker.failed()
    clock.advance(5)
    barrier = threading.Barrier(16)

    def want(_: int) -> bool:
        barrier.wait()
        return passes(breaker)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(want, range(16))) == 1


@given(st.lists(st.sampled_from(["ok", "failed", "wait", "check"]), max_size=60))
def test_it_is_open_exactly_after_so_many_failures_in_a_row(steps) -> None:
    clock = FakeClock()
    breaker = Breaker(failures=3, cooldown=5.0, clock=clock)
    row, probe = 0, 0.0
    for step in steps:
        if step == "wait":
            clock.advance(2.0)
        elif step == "ok":
            breaker.ok()
            row = 0
        elif step == "failed":
            breaker.failed()
            row, probe = row + 1, clock.now + 5.0
        else:
            expected = row < 3 or clock.now >= probe
            if row >= 3 and expected:
                probe = clock.now + 5.0
            assert passes(breaker) == expected
        assert breaker.open == (row >= 3)


@pytest.mark.parametrize("values", [{"failures": 0}, {"cooldown": 0}, {"cooldown": float("inf")}])
def test_numbers_that_make_no_sense(values) -> None:
    with pytest.raises(ConfigError):
        Breaker(**values)
