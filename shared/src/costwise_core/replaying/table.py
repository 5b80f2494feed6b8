"""A replay as plain text, and the words that the page shares with it."""

from decimal import Decimal
from typing import TYPE_CHECKING

from costwise_core.display_table import as_text as table
from costwise_core.report.words import moment, places_of, usd

if TYPE_CHECKING:
    from costwise_core.replaying.result import Finding, Replay

__all__ = ["as_text", "caveats", "headline", "interval", "period", "shown", "wrong"]


def as_text(replay: "Replay") -> str:
    """Return a table.

    Example:
        >>> from costwise_core.replaying.result import Replay
        >>> print(as_text(Replay(requests=0, paid_usd=Decimal(0))))
        No calls in the log
    """
    if not replay.requests:
        return "\n  ".join(["No calls in the log", *caveats(replay)])
    places = places_of((replay.paid_usd,))
    rows = [("in turn", "calls", "saved", "95 % interval", "alone", "confidence")]
    rows += [
        (
            one.title,
            f"{one.requests:,}",
            shown(one.usd, places),
            interval(one.low, one.high, places),
            shown(one.alone_usd, places),
            one.confidence if one.usd is not None else "the log cannot tell",
        )
        for one in replay.findings
    ]
    rows.append(
        (
            "together",
            f"{replay.requests:,}",
            usd(replay.saved_usd, places),
            interval(replay.low, replay.high, places),
            "",
            "",
        )
    )
    wide = max(len(row[-1]) for row in rows)
    rows = [(*row[:-1], f"{row[-1]:<{wide}}") for row in rows]
    why = [f"{one.title}: {_why(one)}" for one in replay.findings]
    return table(headline(replay), rows, notes=[*why, *caveats(replay)])


def headline(replay: "Replay") -> str:
    """Return the replay in one line."""
    if not replay.requests:
        return "No calls in the log"
    if not replay.paid_usd:
        return f"{replay.requests:,} calls, and no known price for any"
    places = places_of((replay.paid_usd,))
    saved, paid = replay.saved_usd, usd(replay.paid_usd, places)
    if saved <= 0:
        return f"Nothing to save was found in {paid}"
    return f"{usd(saved, places)} of {paid} would have been saved, {replay.saved_share:.1%}"


def period(replay: "Replay") -> str:
    """Return the time a log is about, "" if it names none."""
    if replay.since is None or replay.until is None:
        return ""
    first, last = moment(replay.since)[:10], moment(replay.until)[:10]
    return first if first == last else f"{first} to {last}"


def shown(amount: Decimal | None, places: int) -> str:
    """Return dollars, or that they are not known."""
    return "not known" if amount is None else usd(amount, places)


def interval(low: float | None, high: float | None, places: int) -> str:
    """Return an interval of dollars; "" if there is none."""
    if low is None or high is None:
        return ""
    ends = (usd(Decimal(f"{one:.{places}f}") + 0, places) for one in (low, high))
    return " to ".join(ends)


def wrong(finding: "Finding") -> str:
    """Return the expected share of wrong answers in words; "" for what serves no stored answer."""
    if finding.wrong_share is None:
        return ""
    return (
        f"{finding.wrong_share:.1%} of them expected wrong "
        f"({finding.wrong_low or 0:.1%} to {finding.wrong_high or 0:.1%})"
    )


def caveats(replay: "Replay") -> list[str]:
    """Return what a reader must know before trusting the numbers."""
    told = []
    if replay.unpriced:
        models = ", ".join(
            f"{model or 'no model'} ({calls:,})" for model, calls in replay.unpriced.items()
        )
        told.append(f"no price known, so in no dollar: {models}")
    if replay.damaged:
        told.append(f"rows that could not be read: {replay.damaged:,} of {replay.rows:,}")
    if replay.estimated:
        told.append(f"calls whose tokens nobody reported, estimated here: {replay.estimated:,}")
    return [*told, *replay.notes]


def _why(one: "Finding") -> str:
    return "; ".join(part for part in (one.why, wrong(one)) if part)
