"""Models that nothing speaks for: another is better and costs no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from costwise_core.display_table import as_html, as_text
from costwise_core.errors import ConfigError
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.rates import Rates

__all__ = ["DominatedTier", "TierReport", "dominated_tiers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DominatedTier:
    """A model that a better one undercuts.

    Args:
        model: Which nothing speaks for.
        by: The better one.
        why: One sentence for a person.

    Example:
        >>> DominatedTier(model="a", by="b", why="b is better and cheaper").by
        'b'
    """

    model: str
    by: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TierReport:
    """Which models of a list are dominated; `print` it for a table.

    Args:
        dominated: They, and by which.
        rows: The prices; the first row names the columns.
        formula: How it is found.

    Example:
        >>> report = dominated_tiers(["gpt-3.5-turbo", "gpt-4o-mini", "gpt-4o"])
        >>> [(one.model, one.by) for one in report.dominated]
        [('gpt-3.5-turbo', 'gpt-4o-mini')]
    """

    dominated: tuple[DominatedTier, ...]
    rows: tuple[tuple[str, ...], ...]
    formula: str = "dominated: a better model costs no more for input, cached input and output"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "dominated": [
                {"model": one.model, "by": one.by, "why": one.why} for one in self.dominated
            ],
            "formula": self.formula,
            "rows": [list(row) for row in self.rows],
        }

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self.rows, notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self.rows, notes=self._notes())

    def _heading(self) -> str:
        if not self.dominated:
            return "Each model has something that speaks for it"
        return f"{len(self.dominated)} of {len(self.rows) - 1} models can go"

    def _notes(self) -> list[str]:
        return [*(one.why for one in self.dominated), self.formula]


def dominated_tiers(models: Sequence[str], *, prices: PriceBook | None = None) -> TierReport:
    """Find models that a better one undercuts.

    Args:
        models: From the weakest to the best.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if there are no models.
        PriceError: if one has no known price.

    Example:
        >>> print(dominated_tiers(["gpt-3.5-turbo", "gpt-4o-mini"]))
        1 of 2 models can go
          model          input  cached  output
          gpt-3.5-turbo  $0.50   $0.50   $1.50
          gpt-4o-mini    $0.15  $0.075   $0.60
          gpt-3.5-turbo costs more than gpt-4o-mini, which is better
          dominated: a better model costs no more for input, cached input and output
    """
    if not models:
        raise ConfigError("models must name at least one model, the weakest first.")
    book = prices or shared_prices()
    rates = {model: _three(book.rates(model)) for model in models}
    found = []
    for place, model in enumerate(models):
        better = [
            other
            for other in models[place + 1 :]
            if all(theirs <= ours for theirs, ours in zip(rates[other], rates[model], strict=True))
        ]
        if better:
            by = min(better, key=lambda other: rates[other])
            more = "as much as" if rates[by] == rates[model] else "more than"
            why = f"{model} costs {more} {by}, which is better"
            found.append(DominatedTier(model=model, by=by, why=why))
    rows: list[tuple[str, ...]] = [("model", "input", "cached", "output")]
    rows += [(model, *(f"${_plain(rate)}" for rate in rates[model])) for model in models]
    return TierReport(dominated=tuple(found), rows=tuple(rows))


def _three(rates: Rates) -> tuple[Decimal, Decimal, Decimal]:
    fresh = rates.input or Decimal(0)
    read = fresh if rates.cache_read is None else rates.cache_read
    return fresh, read, rates.output or Decimal(0)


def _plain(rate: Decimal) -> str:
    """Write a rate exactly, with at least cents."""
    exponent = rate.normalize().as_tuple().exponent
    places = max(2, -exponent) if isinstance(exponent, int) else 2
    return f"{rate:.{places}f}"
