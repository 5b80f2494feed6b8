"""Which routes can answer a request at all, and what each would cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from costwise_core.errors import PriceError, RouteError
from costwise_core.prices import PriceBook
from costwise_core.route.routes import Ask, Route
from costwise_core.types import Usage

__all__ = ["EXPECTED_OUTPUT", "Priced", "can_answer", "expected_cost"]

EXPECTED_OUTPUT: Final = 256
"""Tokens an answer is taken to have, where nobody knows better, when routes are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """A route that can answer, with what that would cost.

    Args:
        route: The route.
        usd: Dollars the request is expected to cost there; None if no price is known.

    Example:
        >>> Priced(route=Route(name="small"), usd=None).route.name
        'small'
    """

    route: Route
    usd: Decimal | None


def expected_cost(ask: Ask, route: Route, prices: PriceBook, *, warm: int = 0) -> Decimal | None:
    """Return what a request is expected to cost on a route, in dollars; None without a price.

    Args:
        ask: The request. Its answer is taken to be as long as `EXPECTED_OUTPUT`, or as it asks for
            at most if that is less.
        route: Where it would be answered.
        prices: What it is priced with.
        warm: Tokens of the prompt that the provider has cached and sells at its reading price.

    Example:
        >>> ask = Ask(question="What is RAG?", prompt_tokens=1_000, output_tokens=100)
        >>> expected_cost(ask, Route(name="gpt-4o-mini"), PriceBook())
        Decimal('0.00021')
    """
    output = min(ask.output_tokens or EXPECTED_OUTPUT, EXPECTED_OUTPUT)
    usage = Usage(
        input_tokens=ask.prompt_tokens,
        output_tokens=output,
        cache_read_tokens=min(warm, ask.prompt_tokens),
    )
    try:
        return prices.cost(usage, route.priced_as).usd
    except PriceError:
        return None


def can_answer(ask: Ask, routes: Sequence[Route], prices: PriceBook) -> list[Priced]:
    """Return the routes that a request fits, cheapest first.

    A route without a known price comes after those that have one, in the order given: what may
    cost anything is not what to try first. But one with the tag "local" then comes before them.

    Raises:
        RouteError: if no route can answer; it says what each one lacks.

    Example:
        >>> small = Route(name="small", model="gpt-4o-mini", context_window=8_000)
        >>> large = Route(name="large", model="gpt-4o")
        >>> [one.route.name for one in can_answer(Ask(question="?"), [large, small], PriceBook())]
        ['small', 'large']
    """
    lacking = {route.name: _lacks(ask, route) for route in routes}
    fitting = [
        Priced(route=route, usd=expected_cost(ask, route, prices))
        for route in routes
        if not lacking[route.name]
    ]
    if not fitting:
        reasons = "; ".join(f"{name} {what}" for name, what in lacking.items())
        raise RouteError(f"no route can answer: {reasons or 'there is none'}.")
    return sorted(fitting, key=_rank)


def _rank(one: Priced) -> tuple[bool, Decimal]:
    dear = one.usd is None and "local" not in one.route.tags
    return dear, one.usd or Decimal(0)


def _lacks(ask: Ask, route: Route) -> str:
    """Say what a route lacks for a request; "" if nothing."""
    if route.capabilities is not None and (missing := ask.needs - route.capabilities):
        return f"cannot do {', '.join(sorted(missing))}"
    tokens = ask.prompt_tokens + (ask.output_tokens or 0)
    if route.context_window is not None and tokens > route.context_window:
        return f"takes {route.context_window:,} tokens and the request has {tokens:,}"
    return ""
