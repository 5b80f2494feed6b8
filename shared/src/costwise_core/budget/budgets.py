"""What a budget is: a limit for the calls that carry some tags, within a window of time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, TypeAlias

from costwise_core.errors import ConfigError, nearest
from costwise_core.money import picodollars

__all__ = ["ANY", "WINDOWS", "Budget", "OnExceed", "Unit", "account_of", "window_of"]

Unit: TypeAlias = Literal["usd", "tokens", "calls"]
OnExceed: TypeAlias = Literal["refuse", "downgrade", "cache_only", "queue"]

ANY: Final = "*"
"""As a tag's value: every value has a budget of its own."""

WINDOWS: Final = ("minute", "hour", "day", "week", "month", "total")
_UNITS: Final = ("usd", "tokens", "calls")
_ON_EXCEED: Final = ("refuse", "downgrade", "cache_only", "queue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A limit that the calls with some tags share.

    Args:
        limit: Dollars (`Decimal`, int or text such as "2.50"; no float), tokens or calls.
        unit: What is counted: "usd", "tokens" (sent plus produced) or "calls".
        window: "minute", "hour", "day", "week" (from Monday), "month" or "total"; in UTC, beginning
            anew at its full hour, day and so on.
        tags: Which calls it is for, by their tags (see `track`); `{}` is all. The value "*" gives
            every value a budget of its own, calls without the tag one together. Besides the tags of
            `track` there are "model" and "prompt" (a digest): ten equal prompts a minute is
            `Budget(limit=10, unit="calls", window="minute", tags={"prompt": "*"})`.
        on_exceed: What happens to a call that does not fit: "refuse" it, "downgrade" to the cheaper
            model that the wrapper was given, "cache_only" (like "refuse", for wrappers behind a
            cache: stored answers are still served), or "queue" it for a batch.

    Raises:
        ConfigError: if an argument is wrong.

    Example:
        >>> Budget(limit="5", window="day", tags={"tenant": "*"}).name
        '5 usd a day for each tenant'
    """

    limit: Decimal | int | str
    unit: Unit = "usd"
    window: str = "total"
    tags: Mapping[str, str] = field(default_factory=dict)
    on_exceed: OnExceed = "refuse"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("unit", self.unit, _UNITS),
            ("window", self.window, WINDOWS),
            ("on_exceed", self.on_exceed, _ON_EXCEED),
        ):
            if value not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {value!r}."
                    f"{nearest(str(value), known)}"
                )
        try:
            amount = Decimal(self.limit) if not isinstance(self.limit, float) else None
        except (InvalidOperation, TypeError, ValueError):
            amount = None
        if amount is None or not amount.is_finite() or not 0 <= amount < 10**6 * 10**6:
            raise ConfigError(
                f"limit must be a number from 0 up, as Decimal, int or text, got {self.limit!r}."
            )
        if self.unit != "usd" and amount != amount.to_integral_value():
            raise ConfigError(f"a limit in {self.unit} must be a whole number, got {self.limit!r}.")
        if not all(isinstance(item, str) for pair in self.tags.items() for item in pair):
            raise ConfigError(f"tags must be text, got {dict(self.tags)!r}.")
        object.__setattr__(self, "limit", amount)
        object.__setattr__(self, "tags", dict(sorted(self.tags.items())))

    @property
    def units(self) -> int:
        """The limit as a whole number: of 10^-12 dollars, tokens or calls."""
        amount = Decimal(self.limit)
        return picodollars(amount) if self.unit == "usd" else int(amount)

    @property
    def name(self) -> str:
        """The budget in words, the same for equal budgets."""
        whose = [
            f"each {name}" if value == ANY else f"{name} {value!r}"
            for name, value in self.tags.items()
        ]
        window = "in total" if self.window == "total" else f"a {self.window}"
        return f"{self.limit} {self.unit} {window}" + (f" for {', '.join(whose)}" if whose else "")


def account_of(budget: Budget, tags: Mapping[str, str], at: float) -> str | None:
    """Return the key under which a call's share of a budget is counted, None if it is not meant.

    Example:
        >>> budget = Budget(limit=9, unit="calls", window="day", tags={"tenant": "*"})
        >>> account_of(budget, {"tenant": "acme"}, at=0.0)
        'calls/day/1970-01-01T00:00Z/tenant=acme'
        >>> account_of(Budget(limit=9, tags={"team": "x"}), {}, at=0.0) is None
        True
    """
    whose = []
    for name, value in budget.tags.items():
        given = tags.get(name, "")
        if value not in (ANY, given):
            return None
        whose.append(f"{_plain(name)}={_plain(given)}")
    start, _ = window_of(budget.window, at)
    return "/".join((budget.unit, budget.window, _stamp(start), *whose))


def window_of(window: str, at: float) -> tuple[float, float]:
    """Return when the window around a moment began and when it ends, in seconds since the epoch.

    Example:
        >>> window_of("minute", 61.0)
        (60.0, 120.0)
    """
    if window == "total":
        return 0.0, float("inf")
    if window in _SECONDS:
        start = at // _SECONDS[window] * _SECONDS[window]
        return start, start + _SECONDS[window]
    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "week":
        first = day - timedelta(days=day.weekday())
        return first.timestamp(), (first + timedelta(days=7)).timestamp()
    first = day.replace(day=1)
    return first.timestamp(), (first + timedelta(days=31)).replace(day=1).timestamp()


_SECONDS: Final = {"minute": 60.0, "hour": 3_600.0, "day": 86_400.0}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _plain(text: str) -> str:
    """Write a tag so that no two tag sets have one key."""
    return text.replace("%", "%25").replace("/", "%2F").replace("=", "%3D")
