"""Answers past their time are served once more while one refresh is paid for behind."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, SQLiteStore
from costwise_core.cache.agreement import Turn
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.drive import arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.types import Hit

SCOPE = Scope(tenant="acme")
ASKED = "Who is on duty?"


class Model:
    """Answers with the number of the call, when it is let."""

    def __init__(self) -> None:
        self.calls, self.fails = 0, False
        self.go = threading.Event()
        self.go.set()

    def ask(self) -> str:
        self.calls += 1
        answer = f"answer {self.calls}"
        assert self.go.wait(10)
        if self.fails:
            raise ConnectionError("gone")
        return answer


def settled(happened) -> None:
    for _ in range(2_000):
        if happened():
            return
        time.sleep(0.005)
    raise AssertionError("it never happened")


async def asettled(happened) -> None:
    for _ in range(2_000):
        if happened():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def answer(cache, flights, model, question=ASKED, turns=()):
    """Do what an adapter does."""

    def paid(lead):
        with lead:
            text = yield from call(model.ask)
            yield from call(cache.store, question, SCOPE, text, turns=turns)
            lead.share(text)
        return text

    claim = yield from find_or_lead(cache, flights, question, SCOPE, turns=turns, renew=paid)
    return claim if isinstance(claim, Hit) else (yield from paid(claim))


def make(store=None, clock=None, **arguments):
    clock = clock or FakeClock()
    cache = Cache(
        store or MemoryStore(clock=clock),
        ttl=100,
        stale_while_revalidate=50,
        clock=clock,
        **arguments,
    )
    return cache, InFlight(), Model(), clock


TALK = (Turn(role="user", text="What does Nimbus Fibre 150 cost?"),)


@pytest.mark.parametrize(("question", "turns"), [(ASKED, ()), ("and with TV?", TALK)])
def test_a_thread_renews_what_is_served(question, turns):
    cache, flights, model, clock = make()
    assert run(answer(cache, flights, model, question, turns)) == "answer 1"
    clock.advance(99)
    assert not run(answer(cache, flights, model, question, turns)).stale
    clock.advance(2)
    hit = run(answer(cache, flights, model, question, turns))
    assert (hit.answer, hit.stale, hit.tier) == ("answer 1", True, "exact")
    assert "being refreshed" in hit.why
    settled(lambda: cache.stats.stored == 2)
    again = run(answer(cache, flights, model, question, turns))
    assert (again.answer, again.stale) == ("answer 2", False)
    assert (cache.stats.stale, flights.stats.refreshed, model.calls) == (1, 1, 2)


async def test_a_task_renews_what_is_served():
    cache, flights, model, clock = make()
    await arun(answer(cache, flights, model))
    clock.advance(101)
    assert (await arun(answer(cache, flights, model))).stale
    await asettled(lambda: cache.stats.stored == 2)
    assert (await arun(answer(cache, flights, model))).answer == "answer 2"


def test_a_hundred_threads_pay_for_one_refresh():
    cache, flights, model, clock = make()
    run(answer(cache, flights, model))
    clock.advance(101)
    model.go.clear()
    with ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda _: run(answer(cache, flights, model)), range(100)))
    assert {hit.answer for hit in got} == {"answer 1"}  # nobody waited
    model.go.set()
    settled(lambda: cache.stats.stored == 2)
    assert model.calls == 2


def test_processes_pay_for_one_refresh(tmp_path):
    clock = FakeClock()
    with SQLiteStore(tmp_path / "c.db", clock=clock) as store:
        pairs = [make(store, clock) for _ in range(2)]
        model = pairs[0][2]
        all_flights = [InFlight(leases=store) for _ in pairs]
        run(answer(pairs[0][0], all_flights[0], model))
        clock.advance(101)
        model.go.clear()
        for (cache, *_), flights in zip(pairs, all_flights, strict=True):
            assert run(answer(cache, flights, model)).stale
        settled(lambda: model.calls == 2)
        model.go.set()
        settled(lambda: sum(cache.stats.stored for cache, *_ in pairs) == 2)
        settled(lambda: not any(flights._flights.get(SCOPE.key) for flights in all_flights[1:]))
        assert model.calls == 2


def test_a_refresh_that_fails_leaves_the_answer_until_its_grace_ends():
    cache, flights, model, clock = make()
    run(answer(cache, flights, model))
    clock.advance(101)
    model.fails = True
    for tries in (1, 2):
        assert run(answer(cache, flights, model)).answer == "answer 1"
        settled(lambda tries=tries: cache.stats.errors.get("ConnectionError") == tries)
    clock.advance(50)
    with pytest.raises(ConnectionError):
        run(answer(cache, flights, model))


def test_what_was_invalidated_is_not_served_past_its_time():
    cache, flights, model, clock = make()
    cache.store(ASKED, SCOPE, "old", documents=(("rota", "v1"),))
    clock.advance(101)
    cache.invalidate({"rota": "v2"})
    assert run(answer(cache, flights, model)) == "answer 1"
    assert cache.stats.stale == 0


def test_who_cannot_renew_is_not_given_it_and_no_similar_question_is():
    cache, flights, model, clock = make(
        embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.6)
    )
    run(answer(cache, flights, model))
    assert cache.lookup("Who is on duty then?", SCOPE).tier == "near"
    clock.advance(101)
    assert not cache.lookup(ASKED, SCOPE)
    assert not cache.lookup("Who is on duty then?", SCOPE, stale=True)
    assert cache.lookup(ASKED, SCOPE, stale=True).stale


def test_a_request_that_needs_the_new_answer_joins_the_refresh():
    cache, flights, model, clock = make()
    run(answer(cache, flights, model))
    clock.advance(101)
    model.go.clear()
    assert run(answer(cache, flights, model)).stale
    settled(lambda: model.calls == 2)
    cache.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: run(answer(cache, flights, model)))
        time.sleep(0.05)
        model.go.set()
        assert waiting.result(10).answer == "answer 2"
    assert model.calls == 2


def test_an_answer_that_is_kept_for_no_time_gets_no_grace():
    cache, *_ = make()
    cache.store(ASKED, SCOPE, "now", ttl=0)
    assert not cache.lookup(ASKED, SCOPE, stale=True)


def test_a_grace_that_makes_no_sense():
    with pytest.raises(ConfigError, match="stale_while_revalidate"):
        Cache(MemoryStore(), stale_while_revalidate=-1)
