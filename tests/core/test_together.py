"""Moves made together: each caller gets its own answer, whoever made it."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from costwise_core.budget.moves import Move, Moved, Refusal
from costwise_core.budget.together import Answer, Ask, Together
from costwise_core.errors import StoreUnavailableError

WORKERS = 40


def ask(number: int) -> Ask:
    return Ask(f"r{number}", "reserve", [Move(account="a", limit=1, ends=1.0)], 0.0, 60.0)


class Store:
    """Answers with who asked, slowly, and notes how many asked at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: BaseException | None = None

    def many(self, asks) -> list[Answer]:
        self.batches.append(len(asks))
        time.sleep(0.01)
        return self.answers(asks)

    async def amany(self, asks) -> list[Answer]:
        self.batches.append(len(asks))
        await asyncio.sleep(0.01)
        return self.answers(asks)

    def answers(self, asks) -> list[Answer]:
        if self.error is not None:
            raise self.error
        return [Refusal(account=one.reservation, left=0) for one in asks]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def together(store):
    return Together(store.many, store.amany)


def test_each_thread_gets_its_own_answer(store, together):
    barrier = threading.Barrier(WORKERS)

    def one(number: int) -> str:
        barrier.wait()
        return together.move(ask(number)).account

    with ThreadPoolExecutor(WORKERS) as pool:
        assert list(pool.map(one, range(WORKERS))) == [f"r{n}" for n in range(WORKERS)]
    assert sum(store.batches) == WORKERS
    assert len(store.batches) < WORKERS / 2


async def test_each_task_gets_its_own_answer(store, together):
    found = await asyncio.gather(*(together.amove(ask(n)) for n in range(WORKERS)))
    assert [one.account for one in found] == [f"r{n}" for n in range(WORKERS)]
    assert sum(store.batches) == WORKERS
    assert len(store.batches) < WORKERS / 2


def test_no_batch_is_endless(store, together):
    crowd = 300

    async def all_at_once() -> None:
        await asyncio.gather(*(together.amove(ask(n)) for n in range(crowd)))

    asyncio.run(all_at_once())
    assert sum(store.batches) == crowd
    assert max(store.batches) <= 128


def test_an_error_reaches_everybody_and_the_next_call_is_tried_again(store, together):
    store.error = StoreUnavailableError("gone")

    def one(number: int) -> str:
        with pytest.raises(StoreUnavailableError, match="gone"):
            together.move(ask(number))
        return "raised"

    with ThreadPoolExecutor(WORKERS) as pool:
        assert list(pool.map(one, range(WORKERS))) == ["raised"] * WORKERS
    store.error = None
    assert together.move(ask(1)) == Refusal(account="r1", left=0)


async def test_an_error_reaches_every_task(store, together):
    store.error = StoreUnavailableError("gone")
    found = await asyncio.gather(
        *(together.amove(ask(n)) for n in range(5)), return_exceptions=True
    )
    assert [str(one) for one in found] == ["gone"] * 5
    store.error = None
    assert await together.amove(ask(1)) == Refusal(account="r1", left=0)


def test_one_that_fails_alone_is_raised_alone():
    def many(asks):
        return [
            StoreUnavailableError("damaged") if one.reservation == "r1" else Moved(balances=())
            for one in asks
        ]

    async def amany(asks):
        return many(asks)

    async def both():
        together = Together(many, amany)
        return await asyncio.gather(
            *(together.amove(ask(n)) for n in (0, 1)), return_exceptions=True
        )

    good, bad = asyncio.run(both())
    assert good == Moved(balances=())
    assert str(bad) == "damaged"


def test_whoever_is_interrupted_leaves_nobody_waiting(store, together):
    store.error = KeyboardInterrupt()
    begun, found = threading.Event(), []
    slow = store.many

    def many(asks):
        begun.set()
        time.sleep(0.05)
        return slow(asks)

    together = Together(many)

    def one(number: int) -> None:
        try:
            together.move(ask(number))
        except BaseException as error:  # noqa: BLE001
            found.append(type(error).__name__)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) in (
        ["KeyboardInterrupt", "KeyboardInterrupt", "StoreUnavailableError"],
        ["KeyboardInterrupt"] * 3,
    )


async def test_a_task_that_is_cancelled_takes_nobody_along(store, together):
    tasks = [asyncio.create_task(together.amove(ask(n))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks[1:])
    assert [one.account for one in found] == ["r1", "r2"]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


def test_event_loops_do_not_share_tasks(together):
    for number in range(3):
        assert asyncio.run(together.amove(ask(number))).account == f"r{number}"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_moves_does_not_hang(store, together):
    begun, done = threading.Event(), threading.Event()

    def many(asks):
        begun.set()
        done.wait(10)
        return store.answers(asks)

    slow = Together(many)
    thread = threading.Thread(target=slow.move, args=(ask(1),))
    thread.start()
    assert begun.wait(10)
    pid = os.fork()
    if pid == 0:
        done.set()
        code = 1
        try:
            code = 0 if slow.move(ask(2)) == Refusal(account="r2", left=0) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(pid, 9)
        ended = os.waitpid(pid, 0)
    done.set()
    thread.join()
    assert ended == (pid, 0)
