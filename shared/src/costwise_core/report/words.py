"""How numbers are written in a report, in every format alike."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from costwise_core.holdout import HOLDOUT

if TYPE_CHECKING:
    from costwise_core.report.report import Report

__all__ = ["count", "headline", "moment", "notes", "period", "places_of", "share", "usd"]


def places_of(amounts: Iterable[Decimal]) -> int:
    """Return how many decimals show three digits of the largest amount, and at least cents.

    Example:
        >>> places_of([Decimal("0.0012"), Decimal("0.05")]), places_of([Decimal(12)])
        (4, 2)
    """
    largest = max((abs(amount) for amount in amounts), default=Decimal(0))
    return min(max(2, 2 - largest.adjusted()), 12) if largest else 2


def usd(amount: Decimal | None, places: int = 2) -> str:
    """Return dollars with so many decimals; None is not known.

    Example:
        >>> usd(Decimal("-1234.5")), usd(None)
        ('-$1,234.50', '?')
    """
    if amount is None:
        return "?"
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def count(number: float) -> str:
    """Return a number with thousands separated, shortened from a million on.

    Example:
        >>> count(12_345), count(1_234_567), count(2_500_000_000)
        ('12,345', '1.23M', '2.50B')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:,.0f}"


def share(part: float) -> str:
    """Return a share as percent.

    Example:
        >>> share(0.1234)
        '12.3%'
    """
    return f"{part:.1%}"


def moment(seconds: float) -> str:
    """Return a moment in UTC, to the minute.

    Example:
        >>> moment(0.0)
        '1970-01-01 00:00 UTC'
    """
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s after 1970"


def period(report: "Report") -> str:
    """Return the time a report is about, such as "2026-11-01 to 2026-11-30"."""
    first = report.days[0].name if report.days else ""
    last = report.days[-1].name if report.days else ""
    begins = moment(report.since) if report.since is not None else first
    ends = moment(report.until) if report.until is not None else last
    if not begins and not ends:
        return "no calls"
    return begins if begins == ends else f"{begins or 'the beginning'} to {ends or 'now'}"


def headline(report: "Report") -> str:
    """Return the report in one line."""
    totals = report.totals
    places = places_of((totals.baseline, totals.usd))
    if not totals.calls and not totals.own_calls:
        return "No calls yet"
    if totals.net > 0:
        of = f", {share(totals.net_share)} of {usd(totals.baseline, places)}"
        return f"Saved {usd(totals.net, places)} net{of if totals.baseline > 0 else ''}"
    if totals.net < 0:
        return f"Cost {usd(-totals.net, places)} more than without costwise"
    return f"Paid {usd(totals.usd, places)}, nothing saved yet"


def notes(report: "Report") -> list[str]:
    """Return what a reader must know before trusting the numbers."""
    totals = report.totals
    told = []
    if totals.unpriced:
        told.append(
            f"{totals.unpriced:,} calls have no known price, wholly or in part, "
            "and add nothing to the dollars."
        )
    if totals.estimated:
        told.append(
            f"The tokens of {totals.estimated:,} calls were estimated; nobody reported them."
        )
    modelled = sorted({stage.name for stage in report.stages if stage.kind != "measured"})
    if modelled:
        names = ", ".join(name.replace("_", " ") for name in modelled)
        told.append(f"Savings that are at least partly modelled or sampled, not measured: {names}.")
    arms = {row.name for row in report.tables.get("arm", ())}
    if HOLDOUT in arms and report.true_saving is None:
        told.append(
            "Too few requests were held out, or treated, to tell the true saving with an interval."
        )
    if report.damaged:
        told.append(f"{report.damaged:,} records could not be read and are in no number.")
    return told
