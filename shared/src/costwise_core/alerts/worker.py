"""A thread that does slow things for those who cannot wait: bounded, and none while idle."""

import atexit
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")
_AT_EXIT = 3.0


class Worker(Generic[T]):
    """Hands items to a function, one after the other, in a daemon thread. Thread-safe.

    The thread lives while there is work. When the program ends, it has three seconds to finish.

    Args:
        do: Is given each item; what it raises is counted.
        room: How many items may wait; more are dropped, and counted.

    Example:
        >>> done = []
        >>> worker = Worker(done.append, room=10)
        >>> worker.put("a"), worker.flush(5.0), done
        (True, True, ['a'])
    """

    def __init__(self, do: Callable[[T], object], *, room: int) -> None:
        self._do = do
        self._room = room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._known_at_exit = False
        self.dropped = 0
        """How many items found no room, or no thread."""
        self.faults: Counter[str] = Counter()
        """What the function raised, by the name of the error."""

    def put(self, item: T) -> bool:
        """Have an item done soon; False, at once, if it was dropped."""
        with self._changed:
            if len(self._items) >= self._room:
                self.dropped += 1
                return False
            self._items.append(item)
            # Not alive while it should be is what a fork leaves in the child.
            if self._thread is None or not self._thread.is_alive():
                return self._start()
            return True

    def flush(self, seconds: float) -> bool:
        """Wait until everything is done; False if that takes longer."""
        ends = time.monotonic() + seconds
        with self._changed:
            while self._thread is not None and self._thread.is_alive():
                left = ends - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return not self._items

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="costwise-alerts", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending
            self._items.clear()
            self.dropped += 1
            return False
        self._thread = thread
        if not self._known_at_exit:
            atexit.register(self.flush, _AT_EXIT)
            self._known_at_exit = True
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._items:
                    self._thread = None
                    self._changed.notify_all()
                    return
                item = self._items.popleft()
            try:
                self._do(item)
            except Exception as error:  # noqa: BLE001 - the next item is to be done all the same
                self.faults[type(error).__name__] += 1
