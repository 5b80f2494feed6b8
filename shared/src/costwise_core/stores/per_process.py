"""What each process makes for itself, since a child must not touch what its parent has opened."""

import os
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PerProcess"]

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One thing for each process, such as its connections: a child shares none, and no lock either.

    Args:
        make: Makes it, when a process first asks.
        close: Closes it, which must be possible more than once. It is called when nobody has this
            object any more, and only in the process that made the thing.

    Example:
        >>> connections = PerProcess(lambda: ["one"], list.clear)
        >>> mine = connections.get()
        >>> connections.close()
        >>> mine
        []
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], object]) -> None:
        self._make = make
        self._close = close
        self._made: dict[int, T] = {}
        weakref.finalize(self, _close_mine, self._made, close)

    def get(self) -> T:
        """Return this process's."""
        try:
            return self._made[os.getpid()]
        except KeyError:
            return self._made.setdefault(os.getpid(), self._make())

    def close(self) -> None:
        """Close this process's, if there is one; it stays to be opened again."""
        _close_mine(self._made, self._close)


def _close_mine(made: dict[int, T], close: Callable[[T], object]) -> None:
    if os.getpid() in made:
        close(made[os.getpid()])
