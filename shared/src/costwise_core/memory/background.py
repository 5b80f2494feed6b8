"""Work behind the answer: a bounded number of folds, in threads or in tasks, one of a kind."""

import asyncio
import os
import threading
import time
from concurrent import futures
from contextvars import copy_context
from typing import Final

from costwise_core.drive import Flow, arun, run

__all__ = ["Background"]

MOST: Final = 4


class Background:
    """Runs flows behind the caller: in a thread, in async code in a task of the running loop.

    The caller's context goes along, so what a flow pays is written to the bills that were around.
    Threads are daemons: a process that ends does not wait, and a flow must bear to be cut off.

    Args:
        most: How many flows may run at once. More are refused, not queued: a fold that is due is
            found due again by the next request.
        seconds: After so long, a flow's key and room are free again, whatever became of it.

    Example:
        >>> from costwise_core.drive import call
        >>> done = []
        >>> behind = Background()
        >>> behind.start("fold", call(done.append, 1)) is not None
        True
        >>> behind.wait(), done
        (True, [1])
    """

    def __init__(self, *, most: int = MOST, seconds: float = 300.0) -> None:
        self._most = most
        self._seconds = seconds
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, futures.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._process = os.getpid()
        self._closed = False

    def start(self, key: str, flow: Flow[object]) -> futures.Future[None] | None:
        """Start a flow in a thread; None if its key is running, too much is, or all is closed.

        The future ends with the flow and never holds an exception: a flow has nobody to tell.

        Raises:
            RuntimeError: if no thread is to be had.
        """
        done = self._admit(key)
        if done is None:
            flow.close()
            return None
        context = copy_context()

        def work() -> None:
            try:
                run(flow)
            finally:
                self._finish(key, done)

        thread = threading.Thread(
            target=context.run, args=(work,), name="costwise-fold", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            flow.close()
            self._finish(key, done)
            raise
        return done

    async def astart(self, key: str, flow: Flow[object]) -> futures.Future[None] | None:
        """Do what `start` does, in a task of the running event loop."""
        done = self._admit(key)
        if done is None:
            flow.close()
            return None

        async def work() -> None:
            await arun(flow)

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)  # the loop itself keeps only weak references

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            # A task cancelled before its first step leaves the flow unstarted.
            flow.close()
            self._finish(key, done)

        task.add_done_callback(ended)
        return done

    def join(self, done: futures.Future[None], seconds: float) -> bool:
        """Wait for one flow; False if it takes longer, and goes on."""
        return bool(futures.wait([done], timeout=seconds).done)

    async def ajoin(self, done: futures.Future[None], seconds: float) -> bool:
        """Do what `join` does, without blocking the event loop."""
        finished, _ = await asyncio.wait([asyncio.wrap_future(done)], timeout=seconds)
        return bool(finished)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing runs; False if something still does."""
        return not futures.wait(self._left(), timeout=seconds).not_done

    async def await_(self, seconds: float | None = None) -> bool:
        """Do what `wait` does, without blocking the event loop."""
        left = [asyncio.wrap_future(one) for one in self._left()]
        if not left:
            return True
        _, running = await asyncio.wait(left, timeout=seconds)
        return not running

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True

    def _left(self) -> list[futures.Future[None]]:
        with self._lock:
            return [done for _, done in self._running.values()]

    def _admit(self, key: str) -> futures.Future[None] | None:
        now = time.monotonic()
        with self._lock:
            if self._process != os.getpid():
                # A forked child has the table but not the threads.
                self._process, self._running = os.getpid(), {}
            # One that has not come back by now may never do: it takes no room from others.
            self._running = {
                name: (began, done)
                for name, (began, done) in self._running.items()
                if now - began < self._seconds
            }
            if self._closed or key in self._running or len(self._running) >= self._most:
                return None
            done: futures.Future[None] = futures.Future()
            self._running[key] = (now, done)
            return done

    def _finish(self, key: str, done: futures.Future[None]) -> None:
        with self._lock:
            if self._running.get(key, (0.0, None))[1] is done:
                del self._running[key]
        done.set_result(None)
