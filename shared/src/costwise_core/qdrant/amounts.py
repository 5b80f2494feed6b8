"""Bytes, seconds and dollars in words."""

from decimal import Decimal

__all__ = ["as_change", "as_seconds", "as_size", "exact_text"]


def exact_text(amount: Decimal | None) -> str | None:
    """Return dollars as JSON can hold them exactly.

    Example:
        >>> exact_text(Decimal("1E+2"))
        '100'
    """
    return None if amount is None else f"{amount:f}"


def as_size(size: float) -> str:
    """Return bytes in the unit that suits them, of 1,024 each.

    Example:
        >>> as_size(1_536_000_000)
        '1.43 GiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} TiB"


def as_seconds(seconds: float) -> str:
    """Return seconds in the unit that suits them.

    Example:
        >>> as_seconds(240)
        '4 min'
    """
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 7200 else f"{seconds / 3600:,.2g} h"


def as_change(before: float, after: float) -> str:
    """Return a change as a share of what was; "" if there was nothing.

    Example:
        >>> as_change(4, 3)
        '-25%'
    """
    return f"{after / before - 1:+.0%}" if before else ""
