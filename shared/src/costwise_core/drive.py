"""Logic that waits, written once: a generator yields effects, two small drivers run them.

A flow never does I/O itself. It says `answer = yield from call(store.get, key)`, and whoever drives
it decides how the call happens: `run` calls it, `arun` awaits its native async twin when the object
has one (the method of the same name with an "a" in front), calls it in place when the object says
that it does not block (`blocking = False`), and hands it to a thread otherwise.
The idea is that of httpx's authentication flows.
"""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

__all__ = ["Effect", "Flow", "arun", "call", "run"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Effect:
    """One call that may block, not made yet."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Flow = Generator[Effect, Any, T]
"""A generator that yields effects and returns a `T`."""


def call(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Flow[T]:
    """Ask the driver to make one call; `yield from` gives its result.

    Example:
        >>> def flow():
        ...     return (yield from call(len, "four"))
        >>> run(flow())
        4
    """
    result: T = yield Effect(fn, args, kwargs)
    return result


def run(flow: Flow[T]) -> T:
    """Drive a flow on the calling thread and return its result.

    Raises:
        Exception: whatever an effect raised and the flow did not handle.
    """
    try:
        effect = next(flow)
        while True:
            try:
                result = effect.fn(*effect.args, **effect.kwargs)
            except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def arun(flow: Flow[T]) -> T:
    """Drive a flow on the event loop without blocking it and return its result.

    Cancelling the caller raises `CancelledError` inside the flow, at the effect it was waiting for.

    Raises:
        Exception: whatever an effect raised and the flow did not handle.
    """
    try:
        effect = next(flow)
        while True:
            try:
                result = await _perform(effect)
            except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def _perform(effect: Effect) -> object:
    owner = getattr(effect.fn, "__self__", None)
    twin = getattr(owner, f"a{getattr(effect.fn, '__name__', '')}", None)
    if owner is not None and twin is not None:
        return await twin(*effect.args, **effect.kwargs)
    if not getattr(owner, "blocking", True):
        return effect.fn(*effect.args, **effect.kwargs)
    return await asyncio.to_thread(effect.fn, *effect.args, **effect.kwargs)
