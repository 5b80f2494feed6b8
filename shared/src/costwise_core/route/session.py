"""Keeps a conversation on its model while the provider's cache of its prompt is worth more."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.prices import PriceBook
from costwise_core.route.choosing import Priced, expected_cost
from costwise_core.route.routes import Ask, Decision

__all__ = ["Sessions"]

_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Last:
    route: str
    at: float


class Sessions:
    """Remembers which route answered last in each conversation. Thread-safe, in this process.

    The tokens of a prompt that the last request began with as well are cheap on the model that saw
    them and cost their full price on any other, so a move to a cheaper model is made only if it
    is cheaper even so. A move to a dearer one is made for its quality and never held back; the
    conversation stays there then, until going back pays.

    Args:
        warm_for: Seconds a provider keeps the beginning of a prompt; five minutes with most.
        clock: Seconds, for tests.

    Example:
        >>> sessions = Sessions()
        >>> sessions.note(Ask(question="Hi", conversation="7"), "large")
        >>> sessions.last(Ask(question="And then?", conversation="7"))
        'large'
    """

    def __init__(
        self, *, warm_for: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._warm_for, self._clock = warm_for, clock
        self._last: OrderedDict[str, _Last] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, ask: Ask, route: str) -> None:
        """Note which route answered a request."""
        if not ask.conversation:
            return
        with self._lock:
            self._last[ask.conversation] = _Last(route, self._clock())
            self._last.move_to_end(ask.conversation)
            while len(self._last) > _MOST:
                self._last.popitem(last=False)

    def last(self, ask: Ask) -> str:
        """Return the route whose provider may have the prompt's beginning cached; "" for none."""
        with self._lock:
            last = self._last.get(ask.conversation) if ask.conversation else None
        return last.route if last and self._clock() - last.at < self._warm_for else ""

    def keep(
        self, ask: Ask, decision: Decision, fitting: Sequence[Priced], prices: PriceBook
    ) -> Decision:
        """Return the decision, or one to stay where the conversation is if that costs less.

        Args:
            ask: The request.
            decision: What the router says.
            fitting: The routes that can answer, cheapest first.
            prices: What they are priced with.
        """
        names = [one.route.name for one in fitting]
        here = self.last(ask)
        if here not in names or names.index(decision.model) >= names.index(here):
            return decision
        there = fitting[names.index(decision.model)]
        staying = expected_cost(
            ask, fitting[names.index(here)].route, prices, warm=ask.prefix_tokens
        )
        if staying is None or there.usd is None or there.usd < staying:
            return decision
        return replace(
            decision,
            model=here,
            expected_cost=staying,
            why=f"the conversation stays on {here}, which has {ask.prefix_tokens:,} tokens of it "
            f"cached: ${staying} against ${there.usd} on {there.route.name}",
        )
