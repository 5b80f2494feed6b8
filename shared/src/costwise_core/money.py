"""Money is counted in whole 10^-12 dollars, so that sums are exact on every machine.

One token of a model at $0.02 per million costs 20,000 of them. `decimal` alone would not do: its
precision is a setting of the running thread, and a bill must not depend on it.
"""

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Final

__all__ = ["dollars", "multiplied", "picodollars", "total"]

_WIDE: Final = Context(prec=60)
_PLACES: Final = 12


def picodollars(usd: Decimal) -> int:
    """Return an amount as a whole number of 10^-12 dollars, rounded half to even.

    Raises:
        ValueError: if the amount is not finite.

    Example:
        >>> picodollars(Decimal("0.00000015"))
        150000
    """
    if not usd.is_finite():
        raise ValueError(f"an amount of money must be finite, got {usd}.")
    return int(usd.scaleb(_PLACES, _WIDE).to_integral_value(context=_WIDE))


def dollars(picos: int) -> Decimal:
    """Return a number of 10^-12 dollars as dollars, without trailing zeros.

    Example:
        >>> dollars(150_000), dollars(0), dollars(-2_000_000_000_000)
        (Decimal('1.5E-7'), Decimal('0'), Decimal('-2'))
    """
    whole, fraction = divmod(picos, 10**_PLACES)
    return Decimal(picos).scaleb(-_PLACES, _WIDE).normalize(_WIDE) if fraction else Decimal(whole)


def total(amounts: Iterable[Decimal | None]) -> Decimal:
    """Add amounts exactly; None, an unknown amount, adds nothing.

    Example:
        >>> total([Decimal("0.1"), None, Decimal("0.2")])
        Decimal('0.3')
    """
    return dollars(sum(picodollars(usd) for usd in amounts if usd is not None))


def multiplied(amount: Decimal, factor: Decimal) -> Decimal:
    """Multiply exactly, whatever the thread's decimal precision is.

    Example:
        >>> multiplied(Decimal("0.075"), Decimal("0.9"))
        Decimal('0.0675')
    """
    return _WIDE.multiply(amount, factor)
