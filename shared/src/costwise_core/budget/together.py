"""Moves of many callers made as one, because what a store takes most time for is to begin and end.

All calls of a tenant change the same account, one after the other. Whoever comes while a move is
being made waits anyway; the next one takes along what all of them want.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from costwise_core.budget.moves import Move, Moved, Refusal
from costwise_core.errors import StoreUnavailableError

__all__ = ["Answer", "Ask", "Together"]

F = TypeVar("F")

_MOST: Final = 128
"""How many are made at once, so that the first of them does not wait for ever."""


class Ask(NamedTuple):
    """The arguments of `BudgetStore.move`."""

    reservation: str
    operation: str
    moves: Sequence[Move]
    now: float
    expires: float


Answer: TypeAlias = Moved | Refusal | Exception
"""What came of one: an exception is raised where it was asked for."""


class Together:
    """Gathers what callers ask for while others' moves are made. Thread-safe; survives a fork.

    Args:
        many: Makes several moves, each as a whole or not at all, in their order.
        amany: Does the same without blocking; only for `amove`.

    Example:
        >>> together = Together(lambda asks: [Refusal(account="a", left=0) for _ in asks])
        >>> together.move(Ask("r", "reserve", [], 0.0, 60.0))
        Refusal(account='a', left=0)
    """

    def __init__(
        self,
        many: Callable[[Sequence[Ask]], Sequence[Answer]],
        amany: Callable[[Sequence[Ask]], Awaitable[Sequence[Answer]]] | None = None,
    ) -> None:
        self._many = many
        self._amany = amany
        self._crowds: dict[int, _Crowd] = {}
        self._loops = WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue]()

    def move(self, ask: Ask) -> Moved | Refusal:
        """Make a move, and those of others who wait; or have another make it.

        Raises:
            StoreError: whatever `many` raised.
        """
        # A lock that another thread held at a fork is never given back in the child.
        crowd = self._crowds.get(os.getpid()) or self._crowds.setdefault(os.getpid(), _Crowd())
        mine = _Asked[list[Answer]](ask, [])
        crowd.waiting.append(mine)
        with crowd.turn:
            while not mine.answer:
                batch = _taken(crowd.waiting)
                try:
                    answers = self._many([one.ask for one in batch])
                except BaseException as error:
                    for one in batch:
                        one.answer.append(_said(error))
                    if not isinstance(error, Exception):
                        raise
                else:
                    for one, answer in zip(batch, answers, strict=True):
                        one.answer.append(answer)
        return _result(mine.answer[0])

    async def amove(self, ask: Ask) -> Moved | Refusal:
        """Do what `move` does, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        queue = self._loops.setdefault(loop, _Queue())
        mine = _Asked[asyncio.Future[Answer]](ask, loop.create_future())
        queue.waiting.append(mine)
        if queue.worker is None or queue.worker.done():
            # A task of its own: a caller who is cancelled takes nobody's moves along.
            queue.worker = loop.create_task(self._serve(queue))
        return _result(await mine.answer)

    async def _serve(self, queue: "_Queue") -> None:
        if self._amany is None:
            raise NotImplementedError
        while queue.waiting:
            batch = [one for one in _taken(queue.waiting) if not one.answer.done()]
            try:
                answers = await self._amany([one.ask for one in batch]) if batch else []
            except BaseException as error:
                for one in batch:
                    _answer(one.answer, _said(error))
                if not isinstance(error, Exception):
                    raise
            else:
                for one, answer in zip(batch, answers, strict=True):
                    _answer(one.answer, answer)


class _Asked(NamedTuple, Generic[F]):
    ask: Ask
    answer: F


class _Crowd:
    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.waiting = deque[_Asked[list[Answer]]]()


class _Queue:
    def __init__(self) -> None:
        self.worker: asyncio.Task[None] | None = None
        self.waiting = deque[_Asked[asyncio.Future[Answer]]]()


def _taken(waiting: deque[_Asked[F]]) -> list[_Asked[F]]:
    return [waiting.popleft() for _ in range(min(len(waiting), _MOST))]


def _answer(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _said(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return StoreUnavailableError("whoever made the move was interrupted.")


def _result(answer: Answer) -> Moved | Refusal:
    if isinstance(answer, Exception):
        raise answer
    return answer
