"""Serve now, pay behind: one refresh for each answer that is served past its time."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeAlias

from costwise_core.cache.cache import Cache
from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Hit

__all__ = ["Renew", "refresh"]

Renew: TypeAlias = Callable[[Lead], Flow[object]]
"""Pays for an answer, stores it and shares it, as a request that missed would."""

_tasks: set[asyncio.Task[None]] = set()
"""The event loop itself keeps only weak references to tasks."""


def refresh(
    cache: Cache,
    in_flight: InFlight,
    lead: Lead,
    renew: Renew,
    peek: Callable[[], Flow[Hit | None]],
) -> Flow[None]:
    """Start to pay for an answer behind: in a thread, in async code in a task. Never raises.

    If it fails, that is counted, and the old answer goes on to be served until its grace ends.

    Args:
        cache: Where faults are counted.
        in_flight: What the lead is of; by its leases one process alone pays.
        lead: The right to pay.
        renew: What pays.
        peek: Looks whether somebody else has renewed the answer meanwhile.
    """
    try:
        yield from call(_behind.start, _refresh(cache, in_flight, lead, renew, peek))
    except Exception as error:  # noqa: BLE001 - no thread to be had; the hit is served all the same
        lead.abandon()
        cache.count_error(error)


def _refresh(
    cache: Cache,
    in_flight: InFlight,
    lead: Lead,
    renew: Renew,
    peek: Callable[[], Flow[Hit | None]],
) -> Flow[None]:
    try:
        with lead:
            first = yield from in_flight.take_over(lead)
            if first and (yield from peek()) is None:
                yield from renew(lead)
            else:
                lead.abandon()
    except Exception as error:  # noqa: BLE001 - nobody is there to be told
        cache.count_error(error)


class _Behind:
    def start(self, flow: Flow[None]) -> None:
        context = copy_context()
        threading.Thread(target=context.run, args=(run, flow), daemon=True).start()

    async def astart(self, flow: Flow[None]) -> None:
        task = asyncio.get_running_loop().create_task(arun(flow))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


_behind = _Behind()
