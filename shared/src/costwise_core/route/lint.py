"""What is wrong with a table of routes: models nothing speaks for, prices that no longer hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from costwise_core.errors import PriceError
from costwise_core.pricelist import deprecated
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.rates import Rates
from costwise_core.route.routes import Route
from costwise_core.types import Usage
from costwise_core.whatif.tiers import dominated_tiers

__all__ = ["RouteFinding", "lint_routes"]

Kind: TypeAlias = Literal["dominated", "unpriced", "stale", "deprecated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteFinding:
    """One thing that is wrong with a route.

    Args:
        kind: "dominated" (a better route costs no more), "unpriced" (no price is known, so it comes
            last), "stale" (its price changed, or yours is not the list's) or "deprecated" (its
            maker gives it up).
        route: The route's name.
        why: One sentence for a person.

    Example:
        >>> RouteFinding(kind="unpriced", route="local", why="no price is known").route
        'local'
    """

    kind: Kind
    route: str
    why: str


def lint_routes(
    routes: Sequence[Route], *, prices: PriceBook | None = None, since: float | None = None
) -> tuple[RouteFinding, ...]:
    """Find routes that nothing speaks for, and prices that no longer hold.

    Args:
        routes: From the weakest to the best. A better one only counts against a weaker one whose
            abilities and window it has.
        prices: The price list; by default the one everything in this process prices with.
        since: Seconds since the epoch at which the table, or a promise about it, was made: prices
            that changed after it are reported.

    Example:
        >>> old = Route(name="old", model="gpt-3.5-turbo")
        >>> new = Route(name="new", model="gpt-4o-mini")
        >>> [(one.kind, one.route) for one in lint_routes([old, new])]
        [('dominated', 'old')]
    """
    book = prices or shared_prices()
    found: list[RouteFinding] = []
    for place, route in enumerate(routes):
        found += _about(route, routes[place + 1 :], book, since)
    return tuple(found)


def _about(
    route: Route, better: Sequence[Route], book: PriceBook, since: float | None
) -> Iterator[RouteFinding]:
    now = _rates(route, book)
    if isinstance(now, PriceError):
        yield RouteFinding(kind="unpriced", route=route.name, why=str(now))
        return
    if why := _dominated(route, better, book):
        yield RouteFinding(kind="dominated", route=route.name, why=why)
    if why := _stale(route, now, book, since):
        yield RouteFinding(kind="stale", route=route.name, why=why)
    if deprecated(route.priced_as):
        why = f"the price list says that {route.priced_as} is deprecated"
        yield RouteFinding(kind="deprecated", route=route.name, why=why)


def _dominated(route: Route, better: Sequence[Route], book: PriceBook) -> str:
    for other in better:
        if not _stands_in(other, route) or isinstance(_rates(other, book), PriceError):
            continue
        report = dominated_tiers([route.priced_as, other.priced_as], prices=book)
        if report.dominated:
            return f"{report.dominated[0].why} (route {other.name!r})"
    return ""


def _stale(route: Route, now: Rates, book: PriceBook, since: float | None) -> str:
    model = route.priced_as
    if since is not None:
        then = _rates(route, book, since)
        if isinstance(then, Rates) and then != now:
            return f"the price of {model} has changed since: {_words(then)}, now {_words(now)}"
    listed = _rates(route, PriceBook())
    own = book.cost(Usage(), model).source == "your prices"
    if own and isinstance(listed, Rates) and listed != now:
        return f"your price of {model} is {_words(now)}, the list's {_words(listed)}"
    return ""


def _stands_in(other: Route, route: Route) -> bool:
    """Tell whether a route can do all that another can."""
    able = other.capabilities is None or (
        route.capabilities is not None and route.capabilities <= other.capabilities
    )
    wide = other.context_window is None or (
        route.context_window is not None and route.context_window <= other.context_window
    )
    return able and wide


def _rates(route: Route, book: PriceBook, at: float | None = None) -> Rates | PriceError:
    try:
        return book.rates(route.priced_as, at=at)
    except PriceError as error:
        return error


def _words(rates: Rates) -> str:
    return f"${rates.input or 0} in and ${rates.output or 0} out"
