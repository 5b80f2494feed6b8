"""Requests in flight: who pays, who shares, and that nobody waits for ever."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.cache import Cache
from costwise_core.cache.control import RiskControl
from costwise_core.cache.guards.verify import GuardedThreshold
from costwise_core.cache.policy import FixedThreshold
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_stream import Follow, afan_out, fan_out
from costwise_core.drive import arun, call, run
from costwise_core.errors import ConfigError, SharedStreamError
from costwise_core.stores.memory import MemoryStore
from costwise_core.stores.sqlite import SQLiteStore
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Hit, Scope, Usage

SCOPE = Scope(tenant="acme", model="m")
SAME = ["What is the refund deadline?"] * 100
REWORDED = [
    f"{please}{tell} the refund deadline for {item} orders{end}"
    for please in ("", "please ", "kindly ", "hello, ", "hi, ")
    for tell in ("what is", "tell me", "what would be", "state", "give me")
    for item in ("all my",)
    for end in ("?", " ?", " please?", ".")
]
# Guards take "state" for a thing, so that wording pays for itself.
RECOGNISED = [question.replace("state", "what's") for question in REWORDED]


class Model:
    """A paid model, in both faces: slow enough that everybody else has asked by then."""

    def __init__(self, latency=0.2, fail=None):
        self.calls = 0
        self.latency = latency
        self.fail = fail
        self.lock = threading.Lock()

    def ask(self, question):
        with self.lock:
            self.calls += 1
        time.sleep(self.latency)
        if self.fail:
            raise self.fail
        return f"answer to {question}"

    async def aask(self, question):
        self.calls += 1
        await asyncio.sleep(self.latency)
        if self.fail:
            raise self.fail
        return f"answer to {question}"


async def until(happened):
    for _ in range(5_000):
        if happened():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never happened")


def answer(cache, flights, model, question, scope=SCOPE):
    """Do what an adapter does."""
    claim = yield from find_or_lead(cache, flights, question, scope)
    if isinstance(claim, Hit):
        return claim
    with claim:
        text = yield from call(model.ask, question)
        yield from call(cache.store, question, scope, text, vector=claim.vector)
        claim.share(text, Usage(output_tokens=3))
    return text


def cache_of(policy=None):
    return Cache(
        MemoryStore(),
        embedder=HashingEmbedder(256),
        policy=policy or FixedThreshold(min_cosine=0.5),
    )


# --- one paid call ---------------------------------------------------------------------------


@pytest.mark.parametrize("questions", [SAME, REWORDED], ids=["identical", "reworded"])
def test_a_hundred_threads_pay_once(questions):
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.5)
    with ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda q: run(answer(cache, flights, model, q)), questions))
    assert len(got) == 100
    assert model.calls == 1
    assert len({one.answer if isinstance(one, Hit) else one for one in got}) == 1
    assert flights.stats.led == 1
    assert flights.stats.shared + sum(cache.stats.hits.values()) == 99


@pytest.mark.parametrize("questions", [SAME, REWORDED], ids=["identical", "reworded"])
async def test_a_hundred_tasks_pay_once(questions):
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.05)
    got = await asyncio.gather(*(arun(answer(cache, flights, model, q)) for q in questions))
    assert model.calls == 1
    hits = [one for one in got if isinstance(one, Hit)]
    assert len(hits) == 99
    assert all(hit.why.startswith("shared with a request in flight") for hit in hits)
    assert {hit.tier for hit in hits} == ({"exact"} if questions is SAME else {"near"})
    assert {hit.usage_then for hit in hits} == {Usage(output_tokens=3)}


@pytest.mark.parametrize("questions", [SAME, RECOGNISED], ids=["identical", "reworded"])
def test_a_hundred_threads_pay_once_as_the_cache_comes(questions):
    cache = Cache(MemoryStore(), embedder=HashingEmbedder(256))
    flights, model = InFlight(), Model(latency=1.0)
    with ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda q: run(answer(cache, flights, model, q)), questions))
    assert (len(got), model.calls) == (100, 1)
    assert flights.stats.reworded == (99 if questions is RECOGNISED else 0)


@pytest.mark.parametrize("questions", [SAME, RECOGNISED], ids=["identical", "reworded"])
async def test_a_hundred_tasks_pay_once_as_the_cache_comes(questions):
    cache = Cache(MemoryStore(), embedder=HashingEmbedder(256))
    flights, model = InFlight(), Model(latency=0.05)
    await asyncio.gather(*(arun(answer(cache, flights, model, q)) for q in questions))
    assert model.calls == 1


async def test_a_promise_too_strict_for_the_guards_shares_less():
    """At 0.2 % in a hundred requests, no share may be expected to go wrong as often as 1 in 79."""
    policy = RiskControl(max_wrong=0.002)
    cache = Cache(MemoryStore(), embedder=HashingEmbedder(256), policy=policy)
    flights, model = InFlight(), Model(latency=0.05)
    await asyncio.gather(*(arun(answer(cache, flights, model, q)) for q in RECOGNISED))
    shared = flights.stats.reworded
    assert 1 <= shared <= 0.002 * 100 * 79
    assert model.calls == 100 - shared


async def test_threads_and_tasks_of_two_loops_share_one_call():
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.5)
    ask = lambda: answer(cache, flights, model, SAME[0])  # noqa: E731
    with ThreadPoolExecutor(10) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, lambda: run(ask())) for _ in range(5)]
        loops = [loop.run_in_executor(pool, lambda: asyncio.run(arun(ask()))) for _ in range(5)]
        await asyncio.gather(*threads, *loops, *(arun(ask()) for _ in range(5)))
    assert model.calls == 1


async def test_a_lookup_that_began_before_the_answer_came_still_shares_it():
    """Looking and claiming are two steps: an answer that lands between them must not be missed."""
    flights = InFlight()
    since = flights.clock()
    with await arun(flights.claim("q?", SCOPE)) as lead:
        lead.share("a")
    assert isinstance(await arun(flights.claim("q?", SCOPE, since=since)), Hit)
    assert isinstance(await arun(flights.claim("q?", SCOPE)), Lead)


def test_look_alikes_do_not_share():
    cache = cache_of(GuardedThreshold(same_words=0.3, other_words=0.5))
    flights, model = InFlight(), Model(latency=0.2)
    questions = ["How do I lock my card?", "How do I unlock my card?", "How do I lock my 2 cards?"]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda q: run(answer(cache, flights, model, q)), questions))
    assert model.calls == 3


def test_tenants_do_not_share():
    cache, flights, model = cache_of(), InFlight(window=60.0), Model(latency=0.1)
    scopes = [Scope(tenant=f"t{n % 5}", model=f"m{n % 2}") for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        got = pool.map(lambda s: (s, run(answer(cache, flights, model, SAME[0], s))), scopes)
    assert len(list(got)) == 20
    assert model.calls == 10


def test_a_comparison_that_fails_costs_a_call_and_nothing_else():
    class Broken(FixedThreshold):
        def decide(self, question, neighbours):
            if neighbours:
                raise RuntimeError("no verdict")
            return super().decide(question, neighbours)

    cache, flights, model = cache_of(Broken(min_cosine=0.5)), InFlight(), Model()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda q: run(answer(cache, flights, model, q)), REWORDED[:2]))
    assert model.calls == 2
    assert flights.stats.errors >= 1


# --- errors, cancellation ----------------------------------------------------------------------


class ClientError(Exception):
    """Like those of client libraries: its constructor wants more than `args` holds."""

    def __init__(self, message, *, body):
        super().__init__(message)
        self.body = body


async def test_the_leaders_error_reaches_all_as_copies():
    error = ClientError("rate limited", body={"code": 429})
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.05, fail=error)
    got = await asyncio.gather(
        *(arun(answer(cache, flights, model, q)) for q in SAME), return_exceptions=True
    )
    assert model.calls == 1
    assert all(type(one) is ClientError and one.body == {"code": 429} for one in got)
    assert len({id(one) for one in got}) == 100
    frames = [len(traceback.extract_tb(one.__traceback__)) for one in got]
    assert max(frames) < 15  # one shared object would collect the frames of all
    # The failure is not remembered.
    model.fail = None
    assert isinstance(await arun(answer(cache, flights, model, SAME[0])), str)


async def test_a_cancelled_leader_hands_over_to_one():
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.1)
    tasks = [asyncio.create_task(arun(answer(cache, flights, model, SAME[0]))) for _ in range(10)]
    await until(lambda: model.calls)
    tasks[0].cancel()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(got[0], asyncio.CancelledError)
    assert not any(isinstance(one, BaseException) for one in got[1:])
    assert model.calls == 2
    assert flights.stats.handed_over == 1


async def test_leaders_cancelled_one_after_another_hand_over_each_time():
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.02)
    tasks = [asyncio.create_task(arun(answer(cache, flights, model, SAME[0]))) for _ in range(6)]
    for task in tasks[:5]:
        await asyncio.sleep(0.005)
        task.cancel()
    assert (await asyncio.wait_for(tasks[5], 5)) is not None


async def test_a_cancelled_waiter_harms_nobody():
    cache, flights, model = cache_of(), InFlight(), Model(latency=0.1)
    tasks = [asyncio.create_task(arun(answer(cache, flights, model, q))) for q in SAME]
    await until(lambda: model.calls)
    for task in tasks[1:50]:
        task.cancel()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert model.calls == 1
    assert sum(isinstance(one, asyncio.CancelledError) for one in got) == 49
    assert sum(isinstance(one, Hit) for one in got) == 50


def test_a_leader_that_is_gone_without_a_word_hands_over():
    flights = InFlight()
    lead = run(flights.claim("q?", SCOPE))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: run(flights.claim("q?", SCOPE)))
        while not lead.flight.wanted:
            time.sleep(0.001)
        del lead
        gc.collect()
        assert isinstance(waiting.result(timeout=5), Lead)


def test_an_answer_that_is_not_for_others_makes_each_pay_at_once():
    flights = InFlight()
    lead = run(flights.claim("q?", SCOPE))
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(lambda: run(flights.claim("q?", SCOPE))) for _ in range(5)]
        while len(lead.flight._tickets) < 5:
            time.sleep(0.001)
        lead.decline()
        assert all(isinstance(one.result(timeout=5), Lead) for one in waiting)
    assert flights.stats.alone == 5


CALLERS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which question
        st.integers(0, 12),  # when it is asked
        st.none() | st.integers(0, 20),  # when its caller gives up
        st.integers(1, 6),  # how long its answer takes, should it lead
        st.sampled_from(["answers", "answers", "fails", "declines"]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(CALLERS)
def test_whatever_callers_do_everybody_is_answered_and_nobody_pays_twice(callers):
    flights, running = InFlight(max_wait=20.0), [0, 0, 0]

    async def ticks(n):
        for _ in range(n):
            await asyncio.sleep(0)

    async def ask(question, asked, latency, fate):
        await ticks(asked)
        claim = await arun(flights.claim(f"question {question}?", SCOPE))
        if isinstance(claim, Hit):
            return claim.answer
        with claim:
            followed = bool(claim.flight.key)
            running[question] += followed
            try:
                assert running[question] <= 1
                await ticks(latency)
            finally:
                running[question] -= followed
            if fate == "fails":
                raise ConnectionError(str(question))
            if fate == "answers":
                claim.share(f"answer {question}")
        return f"answer {question}"

    async def give_up(task, when):
        await ticks(when)
        task.cancel()

    async def scene():
        tasks, ends = [], []
        for question, asked, gives_up, latency, fate in callers:
            tasks.append(asyncio.create_task(ask(question, asked, latency, fate)))
            if gives_up is not None:
                ends.append(asyncio.create_task(give_up(tasks[-1], gives_up)))
        got = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        await asyncio.gather(*ends)
        return got

    got = asyncio.run(scene())
    for (question, _, gives_up, _, _), one in zip(callers, got, strict=True):
        if isinstance(one, asyncio.CancelledError):
            assert gives_up is not None
        else:
            assert str(one) in {f"answer {question}", str(question)}
    assert flights.stats.timed_out == 0
    assert not any(
        flight.outcome is None for here in flights._flights.values() for flight in here.values()
    )


# --- no waiting for ever ------------------------------------------------------------------------


def test_waiting_has_a_bound():
    flights = InFlight(max_wait=0.05)
    lead = run(flights.claim("q?", SCOPE))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: run(flights.claim("q?", SCOPE))).result(timeout=5)
    assert isinstance(late, Lead)
    assert flights.stats.timed_out == 1
    lead.share("a")  # too late for that one, and no fault


async def test_waiting_has_a_bound_in_tasks_too():
    flights = InFlight(max_wait=0.05)
    lead = await arun(flights.claim("q?", SCOPE))
    late = await asyncio.create_task(_claim_elsewhere(flights, "q?"))
    assert isinstance(late, Lead)
    assert not late.flight.wanted
    assert lead.flight.outcome is None


async def _claim_elsewhere(flights, question):
    task = asyncio.get_running_loop().create_task(
        arun(flights.claim(question, SCOPE)), context=Context()
    )
    return await task


def test_a_hung_leader_is_replaced():
    now = [0.0]
    flights = InFlight(max_wait=10.0, clock=lambda: now[0])
    hung = run(flights.claim("q?", SCOPE))
    now[0] = 11.0
    fresh = run(flights.claim("q?", SCOPE))
    assert isinstance(fresh, Lead)
    fresh.share("new")
    hung.share("old")
    assert run(flights.claim("q?", SCOPE, since=0.0)).answer == "new"


def test_a_request_inside_its_own_answer_does_not_wait_for_itself():
    flights = InFlight()
    with run(flights.claim("q?", SCOPE)) as outer:
        inner = run(flights.claim("q?", SCOPE))
        inner.share("inner")
        outer.share("outer")
    assert flights.stats.alone == 1
    assert run(flights.claim("q?", SCOPE, since=0.0)).answer == "outer"


async def test_nor_through_a_thread_or_a_child_task():
    flights = InFlight()
    with await arun(flights.claim("q?", SCOPE)):
        assert isinstance(await asyncio.to_thread(lambda: run(flights.claim("q?", SCOPE))), Lead)
        assert isinstance(await asyncio.create_task(arun(flights.claim("q?", SCOPE))), Lead)


async def test_a_blocking_caller_on_the_leaders_loop_does_not_wait():

    flights = InFlight()
    lead = await arun(flights.claim("q?", SCOPE))
    # A handler that blocks the loop the leader needs.
    assert isinstance(Context().run(lambda: run(flights.claim("q?", SCOPE))), Lead)
    lead.share("a")


async def test_two_that_would_wait_for_each_other_do_not():
    flights = InFlight()
    both = asyncio.Barrier(2)

    async def lead(own, other):
        with await arun(flights.claim(own, SCOPE)) as claim:
            await both.wait()
            inner = await arun(flights.claim(other, SCOPE))
            claim.share(own)
            return inner

    one, two = await asyncio.wait_for(asyncio.gather(lead("a?", "b?"), lead("b?", "a?")), 5)
    assert {type(one), type(two)} == {Hit, Lead}
    assert flights.stats.alone == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_its_parents_requests():
    flights = InFlight()
    lead = run(flights.claim("q?", SCOPE))
    child = os.fork()
    if child == 0:
        found = run(flights.claim("q?", SCOPE))
        os._exit(0 if isinstance(found, Lead) and flights.stats.led == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lead.share("a")


def test_nothing_stays_behind():
    now = [0.0]
    flights = InFlight(window=1.0, clock=lambda: now[0])
    for n in range(3_000):
        with run(flights.claim(f"question {n}?", SCOPE)) as lead:
            lead.share("a")
    assert len(flights._flights[SCOPE.key]) <= 1_025
    now[0] = 60.0
    run(flights.claim("the last one?", SCOPE)).decline()
    assert not flights._flights


# --- several processes -------------------------------------------------------------------------

ASK = """
import sys, time
from pathlib import Path
from costwise_core.cache import Cache
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.drive import run
from costwise_core.stores.sqlite import SQLiteStore
from costwise_core.types import Hit, Scope

folder, latency, wait = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
store = SQLiteStore(folder / "cache.db")
cache, scope = Cache(store), Scope(tenant="acme")
claim = run(find_or_lead(cache, InFlight(leases=store, max_wait=wait), "q?", scope))
if isinstance(claim, Hit):
    print("hit", claim.answer, claim.why)
else:
    with claim:
        with (folder / "paid").open("a") as paid:
            paid.write("x")
        print("paying", flush=True)
        time.sleep(latency)
        cache.store("q?", scope, "a")
        claim.share("a")
"""


def ask_in_a_process(folder, latency, wait=30.0):
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(folder), str(latency), str(wait)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_share_a_store_pay_once(tmp_path):
    with SQLiteStore(tmp_path / "cache.db") as store:
        store.put([])
    first = ask_in_a_process(tmp_path, 2.0)
    assert first.stdout.readline() == "paying\n"
    second = ask_in_a_process(tmp_path, 2.0)
    assert "hit a shared with a request in flight in another process" in second.communicate()[0]
    first.communicate()
    assert (tmp_path / "paid").read_text() == "x"


def test_a_killed_process_is_taken_over_from_when_its_lease_ends(tmp_path):
    first = ask_in_a_process(tmp_path, 60.0, wait=1.5)
    assert first.stdout.readline() == "paying\n"
    first.kill()
    first.communicate()
    second = ask_in_a_process(tmp_path, 0.0, wait=30.0)
    assert second.communicate(timeout=30)[0] == "paying\n"
    assert (tmp_path / "paid").read_text() == "xx"


async def test_tasks_of_two_caches_on_one_store_pay_once(tmp_path):
    model = Model(latency=0.2)
    with SQLiteStore(tmp_path / "cache.db") as store:
        flights = [InFlight(leases=store) for _ in range(2)]
        cache = Cache(store)
        got = await asyncio.gather(
            *(arun(answer(cache, flights[n % 2], model, SAME[0])) for n in range(10))
        )
    assert model.calls == 1
    assert sum(isinstance(one, Hit) for one in got) == 9


class BrokenLeases:
    blocking = False

    def acquire(self, name, owner, seconds):
        raise OSError("no space left on device")

    def release(self, name, owner):
        raise OSError("no space left on device")


def test_leases_that_fail_cost_a_call_and_nothing_else():
    cache, model, flights = cache_of(), Model(latency=0), InFlight(leases=BrokenLeases())
    assert run(answer(cache, flights, model, SAME[0])) == f"answer to {SAME[0]}"
    assert flights.stats.errors == 1


# --- the window ------------------------------------------------------------------------------


def test_the_window_shares_what_has_just_ended():
    now = [0.0]
    flights = InFlight(window=5.0, clock=lambda: now[0])
    with run(flights.claim("q?", SCOPE)) as lead:
        lead.share("a")
    now[0] = 4.9
    hit = run(flights.claim("q?", SCOPE))
    assert (hit.answer, hit.age) == ("a", 4.9)
    now[0] = 5.1
    assert isinstance(run(flights.claim("q?", SCOPE)), Lead)


@pytest.mark.parametrize("wrong", [{"window": -1.0}, {"max_wait": 0.0}, {"window": float("nan")}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigError):
        InFlight(**wrong)


# --- streams ------------------------------------------------------------------------------------

PIECES = [[n] for n in range(20)]


def whole(lead):
    def finish(pieces):
        lead.share(str([piece[0] for piece in pieces]))
        return
        yield

    return finish


def copied(piece):
    return list(piece)


class Source:
    """A paid stream in both faces that counts how often it is opened, and sees itself closed."""

    def __init__(self, pause=0.005, fail_at=None):
        self.opened = 0
        self.closed = 0
        self.given = 0
        self.pause = pause
        self.fail_at = fail_at

    def sync(self):
        self.opened += 1
        try:
            for piece in PIECES:
                time.sleep(self.pause)
                if piece[0] == self.fail_at:
                    raise ConnectionError("the line went dead")
                self.given += 1
                yield list(piece)
        finally:
            self.closed += 1

    async def run(self):
        self.opened += 1
        try:
            for piece in PIECES:
                await asyncio.sleep(self.pause)
                if piece[0] == self.fail_at:
                    raise ConnectionError("the line went dead")
                self.given += 1
                yield list(piece)
        finally:
            self.closed += 1


def read(flights, source, stop=None):
    claim = run(flights.claim("q?", SCOPE, live=True))
    if isinstance(claim, Hit):
        return claim.answer
    if isinstance(claim, Lead):
        claim = fan_out(claim, source.sync(), copied, whole(claim))
    got = []
    for piece in claim:
        got.append(piece[0])
        piece.append("spoilt")  # must reach nobody else
        if len(got) == stop:
            break
    claim.close()
    return got


async def aread(flights, source, stop=None):
    claim = await arun(flights.claim("q?", SCOPE, live=True))
    if isinstance(claim, Hit):
        return claim.answer
    if isinstance(claim, Lead):
        claim = afan_out(claim, source.run(), copied, whole(claim))
    stream = claim.__aiter__()
    got = []
    async for piece in stream:
        got.append(piece[0])
        piece.append("spoilt")
        if len(got) == stop:
            break
    await stream.aclose()
    return got


ALL = list(range(20))


def test_ten_threads_read_one_stream_and_one_leaves_early():
    flights, source = InFlight(), Source()
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(read, flights, source)
        while not source.given:
            time.sleep(0.001)
        early = pool.submit(read, flights, source, 3)
        rest = [pool.submit(read, flights, source) for _ in range(8)]
        time.sleep(0.03)
        late = pool.submit(read, flights, source)
        assert first.result(5) == ALL
        assert early.result(5) == [0, 1, 2]
        assert all(one.result(5) == ALL for one in rest)
        assert late.result(5) in (ALL, str(ALL))
    assert source.opened == source.closed == 1


async def test_ten_tasks_read_one_stream_and_one_leaves_early():
    flights, source = InFlight(), Source()
    tasks = [asyncio.create_task(aread(flights, source, 3 if n == 4 else None)) for n in range(10)]
    got = await asyncio.gather(*tasks)
    assert got == [[0, 1, 2] if n == 4 else ALL for n in range(10)]
    assert source.opened == source.closed == 1


async def test_threads_and_tasks_read_one_stream():
    flights, source = InFlight(), Source()
    with ThreadPoolExecutor(4) as pool:
        loop = asyncio.get_running_loop()
        leader = asyncio.create_task(aread(flights, source))
        await until(lambda: source.given)
        threads = [loop.run_in_executor(pool, read, flights, source) for _ in range(4)]
        got = await asyncio.gather(leader, *threads)
    assert all(one == ALL for one in got)
    assert source.opened == 1


async def test_a_stream_goes_on_without_its_leader():
    flights, source = InFlight(), Source()
    leader = asyncio.create_task(aread(flights, source))
    await until(lambda: source.given >= 3)
    other = asyncio.create_task(aread(flights, source))
    await until(lambda: flights.stats.shared)
    leader.cancel()
    assert await asyncio.wait_for(other, 5) == ALL
    assert leader.cancelled()
    assert source.opened == source.closed == 1


def test_a_stream_goes_on_without_its_leader_in_threads_too():
    flights, source = InFlight(), Source()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(read, flights, source, 5)
        while source.given < 2:
            time.sleep(0.001)
        other = pool.submit(read, flights, source)
        assert leader.result(5) == [0, 1, 2, 3, 4]
        assert other.result(5) == ALL
    assert source.opened == 1


async def test_a_stream_that_nobody_wants_any_more_is_closed():
    flights, source = InFlight(), Source()
    leader = asyncio.create_task(aread(flights, source, 5))
    await until(lambda: source.given >= 2)
    other = asyncio.create_task(aread(flights, source, 8))
    assert await leader == [0, 1, 2, 3, 4]
    assert await other == list(range(8))
    await until(lambda: source.closed)
    assert source.closed == 1
    assert source.given < 20
    assert isinstance(await arun(flights.claim("q?", SCOPE)), Lead)


async def test_a_stream_read_by_its_leader_alone_is_closed_when_it_stops():
    flights, source = InFlight(), Source()
    assert await aread(flights, source, 2) == [0, 1]
    assert source.closed == 1
    other = Source()
    assert await asyncio.to_thread(read, flights, other, 2) == [0, 1]
    assert other.closed == 1


async def test_the_error_of_a_stream_reaches_all_its_readers():
    flights, source = InFlight(), Source(fail_at=7)
    got = await asyncio.gather(*(aread(flights, source) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in got] == [ConnectionError] * 5
    assert len({id(one) for one in got}) == 5
    with ThreadPoolExecutor(3) as pool:
        again = [pool.submit(read, flights, Source(fail_at=7)) for _ in range(3)]
        assert all(isinstance(one.exception(5), ConnectionError) for one in again)


def test_who_wants_no_stream_gets_the_whole_of_one():
    flights, source = InFlight(), Source()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(read, flights, source)
        while not source.given:
            time.sleep(0.001)
        hit = pool.submit(lambda: run(flights.claim("q?", SCOPE))).result(5)
        assert hit.answer == str(ALL)
        assert leader.result(5) == ALL


def test_a_stream_that_stands_still_is_given_up():
    flights = InFlight(max_wait=0.05)
    lead = run(flights.claim("q?", SCOPE))
    lead.emit([0])

    def follow():
        claim = run(flights.claim("q?", SCOPE, live=True))
        assert isinstance(claim, Follow)
        return list(claim)

    with ThreadPoolExecutor(1) as pool, pytest.raises(SharedStreamError, match="stood still"):
        pool.submit(follow).result(5)
    assert not lead.flight.wanted


def test_a_stream_too_long_to_keep_is_shared_no_more(monkeypatch):
    monkeypatch.setattr("costwise_core.dedup_flight.MAX_PIECES", 10)
    flights = InFlight()
    stream = None
    lead = run(flights.claim("q?", SCOPE))
    stream = fan_out(lead, Source(pause=0).sync(), copied, whole(lead))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        claim = pool.submit(lambda: run(flights.claim("q?", SCOPE, live=True))).result(5)
        assert sum(1 for _ in stream) == 19
        with pytest.raises(SharedStreamError, match="too long"):
            pool.submit(list, claim).result(5)


def test_a_stream_that_is_never_read_blocks_nobody():
    flights = InFlight()
    lead = run(flights.claim("q?", SCOPE))
    stream = fan_out(lead, Source().sync(), copied, whole(lead))
    del stream, lead
    gc.collect()
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(lambda: run(flights.claim("q?", SCOPE))).result(5), Lead)
    assert flights.stats.timed_out == 0


def test_two_streams_of_one_question_read_in_turn_by_one_thread():
    flights, source = InFlight(), Source(pause=0)

    def stream():
        claim = run(flights.claim("q?", SCOPE, live=True))
        assert isinstance(claim, Lead)
        yield from fan_out(claim, source.sync(), copied, whole(claim))

    one, two = stream(), stream()
    contexts = copy_context(), copy_context()  # as chains do with each step of a stream
    pairs = [(contexts[0].run(next, one), contexts[1].run(next, two)) for _ in ALL]
    assert pairs == [([n], [n]) for n in ALL]
    one.close()
    two.close()
