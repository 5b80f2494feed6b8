"""How long answers are kept at most, whatever their own time to live says."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore
from costwise_core.types import Selection

__all__ = ["Retained", "aretain", "retain"]

_ALL: Final = Selection()


@dataclass(frozen=True, kw_only=True, slots=True)
class Retained:
    """What was deleted.

    Args:
        aged: Entries stored longer ago than `max_age`.
        idle: Younger ones that nobody asked for within `max_idle`.
    """

    aged: int = 0
    idle: int = 0


def retain(
    store: CacheStore,
    *,
    max_age: float | None = None,
    max_idle: float | None = None,
    selection: Selection = _ALL,
    clock: Callable[[], float] = time.time,
) -> Retained:
    """Delete what is too old or no longer asked for; call it now and then.

    Size needs no call: a store that is full evicts by itself what saves least per byte.

    Args:
        store: Where to delete.
        max_age: Seconds since an answer was stored.
        max_idle: Seconds since it was stored or last served.
        selection: Among which entries; its own limits of time hold too.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if neither limit is given, or one is not a finite number above 0.
        StoreError: if the store cannot; a deletion must not fail silently.

    Example:
        >>> from costwise_core import Entry, MemoryStore
        >>> store = MemoryStore(clock=lambda: 100.0)
        >>> store.put([Entry(key=k, scope="s", question="q", answer="a", created=t)
        ...            for k, t in (("old", 0.0), ("new", 95.0))])
        >>> retain(store, max_age=60, clock=lambda: 100.0)
        Retained(aged=1, idle=0)
    """
    return run(_retain(store, max_age, max_idle, selection, clock))


async def aretain(
    store: CacheStore,
    *,
    max_age: float | None = None,
    max_idle: float | None = None,
    selection: Selection = _ALL,
    clock: Callable[[], float] = time.time,
) -> Retained:
    """Do what `retain` does, without blocking the event loop.

    Example:
        >>> import asyncio
        >>> from costwise_core import MemoryStore
        >>> asyncio.run(aretain(MemoryStore(), max_idle=30 * 86_400))
        Retained(aged=0, idle=0)
    """
    return await arun(_retain(store, max_age, max_idle, selection, clock))


def _retain(
    store: CacheStore,
    max_age: float | None,
    max_idle: float | None,
    selection: Selection,
    clock: Callable[[], float],
) -> Flow[Retained]:
    for name, limit in (("max_age", max_age), ("max_idle", max_idle)):
        if limit is not None and not 0 < limit < math.inf:
            raise ConfigError(f"{name} is in seconds and must be above 0, got {limit!r}.")
    if max_age is None and max_idle is None:
        raise ConfigError("give max_age, max_idle or both, in seconds.")
    now, aged, idle = clock(), 0, 0
    if max_age is not None:
        before = _earlier(selection.created_before, now - max_age)
        aged = yield from call(store.delete, replace(selection, created_before=before))
    if max_idle is not None:
        since = _earlier(selection.unused_since, now - max_idle)
        idle = yield from call(store.delete, replace(selection, unused_since=since))
    return Retained(aged=aged, idle=idle)


def _earlier(limit: float | None, bound: float) -> float:
    return bound if limit is None else min(limit, bound)
