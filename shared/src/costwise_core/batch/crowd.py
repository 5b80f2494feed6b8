"""Several flows at the same time."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from costwise_core.drive import Flow, arun, run

__all__ = ["Crowd"]

T = TypeVar("T")


class Crowd:
    """Drives flows at once: by threads in sync code, as tasks in async code.

    Args:
        at_once: How many run at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once

    def all(self, flows: Sequence[Flow[T]]) -> list[T]:
        """Return what the flows return, in order."""
        # The bills around are found through the context, which a pool's threads do not inherit.
        contexts = [copy_context() for _ in flows]
        with ThreadPoolExecutor(max_workers=self._at_once) as pool:
            return list(pool.map(lambda context, flow: context.run(run, flow), contexts, flows))

    async def aall(self, flows: Sequence[Flow[T]]) -> list[T]:
        """Do what `all` does, without blocking the event loop."""
        room = asyncio.Semaphore(self._at_once)

        async def drive(flow: Flow[T]) -> T:
            async with room:
                return await arun(flow)

        return await asyncio.gather(*map(drive, flows))
