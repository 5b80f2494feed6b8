"""One flow, two drivers."""

import asyncio
import threading

import pytest

from costwise_core.drive import arun, call, run


class Service:
    """Remembers which face was used."""

    def __init__(self):
        self.used = []

    def ask(self, text):
        self.used.append(("sync", threading.get_ident()))
        return text.upper()


class NativeService(Service):
    async def aask(self, text):
        self.used.append(("async", threading.get_ident()))
        await asyncio.sleep(0)
        return text.upper()


class LocalService(Service):
    blocking = False


def flow(service):
    first = yield from call(service.ask, "a")
    second = yield from call(service.ask, "b")
    return first + second


def test_run_calls_in_place():
    service = NativeService()
    assert run(flow(service)) == "AB"
    assert {face for face, _ in service.used} == {"sync"}


async def test_arun_prefers_the_async_twin():
    service = NativeService()
    assert await arun(flow(service)) == "AB"
    assert {face for face, _ in service.used} == {"async"}


async def test_arun_hands_blocking_calls_to_a_thread():
    service = Service()
    assert await arun(flow(service)) == "AB"
    assert threading.get_ident() not in {thread for _, thread in service.used}


async def test_arun_keeps_local_calls_on_the_loop():
    service = LocalService()
    assert await arun(flow(service)) == "AB"
    assert {thread for _, thread in service.used} == {threading.get_ident()}


def failing():
    try:
        yield from call(int, "x")
    except ValueError:
        return "handled"


async def test_errors_are_raised_inside_the_flow():
    assert run(failing()) == "handled"
    assert await arun(failing()) == "handled"


def unhandled():
    return (yield from call(int, "x"))


async def test_errors_the_flow_does_not_handle_reach_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        run(unhandled())
    with pytest.raises(ValueError, match="invalid literal"):
        await arun(unhandled())


async def test_cancelling_the_caller_reaches_the_flow():
    cleaned = []

    class Sleeper:
        def nap(self): ...

        async def anap(self):
            await asyncio.sleep(60)

    def sleeping():
        try:
            yield from call(Sleeper().nap)
        finally:
            cleaned.append(True)

    task = asyncio.create_task(arun(sleeping()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]
