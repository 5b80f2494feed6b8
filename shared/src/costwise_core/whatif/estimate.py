"""What every calculator takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook
from costwise_core.types import Usage

__all__ = ["HOURS", "Estimate", "Load", "exact_share", "money_of"]

HOURS: Final = {"day": 24, "month": 730}
"""Hours of a period; a month is a twelfth of a year."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Requests that are alike.

    Args:
        requests: How many in a period.
        input_tokens: Sent with each.
        output_tokens: Produced for each.
        period: "day" or "month".

    Raises:
        ConfigError: if a number is negative or the period is neither.

    Example:
        >>> Load(requests=1_000_000, input_tokens=500, output_tokens=200, period="day").hours
        24
    """

    requests: int
    input_tokens: int
    output_tokens: int
    period: Literal["day", "month"] = "month"

    def __post_init__(self) -> None:
        for name in ("requests", "input_tokens", "output_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)!r}.")
        if self.period not in HOURS:
            raise ConfigError(f"period must be 'day' or 'month', got {self.period!r}.")

    @property
    def hours(self) -> int:
        """Hours of the period."""
        return HOURS[self.period]

    @property
    def usage(self) -> Usage:
        """Tokens of one request."""
        return Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a change would do to a bill; `print` it for a table.

    Args:
        title: What was asked.
        formula: How it is counted.
        before: Dollars a period as it is.
        after: Dollars a period as it would be.
        period: "day" or "month".
        rows: The table; its first row names the columns.
        notes: What there is to know.

    Example:
        >>> estimate = Estimate(
        ...     title="half", formula="x / 2", before=Decimal(4), after=Decimal(2), period="month",
        ...     rows=(("", "$"), ("now", "4")),
        ... )
        >>> estimate.saved, estimate.saved_share
        (Decimal('2'), 0.5)
    """

    title: str
    formula: str
    before: Decimal
    after: Decimal
    period: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> Decimal:
        """Dollars a period; negative where it would cost more."""
        return dollars(picodollars(self.before) - picodollars(self.after))

    @property
    def saved_share(self) -> float:
        """The same as a share of what it costs now; 0 if that is nothing."""
        return float(self.saved / self.before) if self.before else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; dollars are strings, to stay exact."""
        return {
            "title": self.title,
            "formula": self.formula,
            "before_usd": f"{self.before:f}",
            "after_usd": f"{self.after:f}",
            "saved_usd": f"{self.saved:f}",
            "saved_share": self.saved_share,
            "period": self.period,
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self.rows, notes=(self.formula, *self.notes))

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self.rows, notes=(self.formula, *self.notes))

    def _heading(self) -> str:
        saved = self.saved
        change = f"saves {usd(saved)}" if saved >= 0 else f"costs {usd(-saved)} more"
        return (
            f"{self.title}: {usd(self.before)} -> {usd(self.after)} a {self.period}, "
            f"{change} ({abs(self.saved_share):.1%})"
        )


def exact_share(name: str, value: float | Decimal | str) -> Fraction:
    """Return a share as it was written: 0.1 is a tenth, not the float next to it.

    Raises:
        ConfigError: if it is not in [0, 1].

    Example:
        >>> exact_share("hit_rate", 0.1)
        Fraction(1, 10)
    """
    try:
        share = Fraction(str(value))
    except ValueError:
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} must be a share in [0, 1], got {value!r}.")
    return share


def money_of(
    shares: Sequence[tuple[Fraction, Usage, str, str]], requests: int, prices: PriceBook
) -> Decimal:
    """Return what so many requests cost, given the shares that are of one kind each.

    Args:
        shares: Share of the requests, tokens of one of them, its model and its price tier.
        requests: In all.
        prices: What they are priced with.

    Raises:
        PriceError: if a model has no known price.

    Example:
        >>> usage = Usage(output_tokens=1_000_000)
        >>> money_of([(Fraction(1, 2), usage, "gpt-4o", "standard")], 2, PriceBook())
        Decimal('10')
    """
    picos = sum(
        (
            share * picodollars(prices.cost(usage, model, tier=tier).usd)
            for share, usage, model, tier in shares
        ),
        Fraction(),
    )
    return dollars(round(picos * requests))
