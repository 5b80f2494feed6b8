"""Charts as inline SVG whose lengths are shares of the page, so that they fit every width."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Final

from costwise_core.bill import Step
from costwise_core.report.sums import Row
from costwise_core.report.words import places_of, usd

__all__ = ["bar", "spark", "trend", "waterfall_bars"]

_TOP: Final = 4.0
_BOTTOM: Final = 99.5


def waterfall_bars(steps: Sequence[Step]) -> list[str]:
    """Return one picture for each step: a bar that begins where the one above ended."""
    priced = any(step.usd for step in steps)
    amounts = [float(step.usd) if priced else float(step.tokens) for step in steps]
    spans: list[tuple[float, float]] = []
    level = 0.0
    for step, amount in zip(steps, amounts, strict=True):
        start = 0.0 if step.kind == "whole" else level
        level = start + amount
        spans.append((start, level))
    low = min(0.0, *(min(span) for span in spans))
    high = max(0.0, *(max(span) for span in spans))
    scale = 100 / (high - low) if high > low else 0.0

    drawn = []
    for row, (step, (start, end)) in enumerate(zip(steps, spans, strict=True)):
        kind = "whole" if step.kind == "whole" else "less" if end < start else "more"
        left = (min(start, end) - low) * scale
        width = max(abs(end - start) * scale, 0.3)
        lines = ""
        if row:
            lines += _line((spans[row - 1][1] - low) * scale, "0", "20%")
        if row + 1 < len(steps):
            lines += _line((end - low) * scale, "80%", "100%")
        drawn.append(
            '<svg class="step" width="100%" height="34" aria-hidden="true">'
            f'{lines}<rect class="{kind}" x="{left:.2f}%" y="20%" width="{width:.2f}%" '
            'height="60%" rx="3"/></svg>'
        )
    return drawn


def _line(at: float, top: str, bottom: str) -> str:
    at = min(max(at, 0.1), 99.9)
    return f'<line x1="{at:.2f}%" x2="{at:.2f}%" y1="{top}" y2="{bottom}"/>'


def bar(part: float) -> str:
    """Return a thin bar that fills `part` of its cell, in [0, 1]."""
    width = 100 * min(max(part, 0.0), 1.0)
    return (
        '<svg class="share" width="100%" height="4" aria-hidden="true">'
        f'<rect class="rail" width="100%" height="4" rx="2"/>'
        f'<rect class="fill" width="{width:.1f}%" height="4" rx="2"/></svg>'
    )


def spark(values: Sequence[float], label: str) -> str:
    """Return a small line of how a number went, day by day; "" for fewer than three days."""
    if len(values) < 3:
        return ""
    high, low = max(values), min(0.0, *values)
    scale = 28 / (high - low) if high > low else 0.0
    last = len(values) - 1
    points = " ".join(
        f"{100 * n / last:.2f},{30 - (value - low) * scale:.2f}" for n, value in enumerate(values)
    )
    return (
        f'<svg class="spark" viewBox="0 0 100 32" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">'
        f'<polygon points="0,32 {points} 100,32"/><polyline points="{points}"/></svg>'
    )


def trend(days: Sequence[Row]) -> str:
    """Return what was paid and saved on each day, stacked, with its axis to the left."""
    paid = [max(float(row.sums.usd), 0.0) for row in days]
    saved = [max(float(row.sums.net), 0.0) for row in days]
    ticks = _ticks(max(one + more for one, more in zip(paid, saved, strict=True)))
    top = ticks[-1]
    places = places_of(Decimal(str(tick)) for tick in ticks[1:2])
    heights = [(_y(tick, top), usd(Decimal(str(tick)), places)) for tick in ticks]
    wide = 7 * max(len(words) for _, words in heights) + 10
    axis = "".join(
        f'<text x="{wide - 10}" y="{y:.2f}%" dy="4" text-anchor="end">{words}</text>'
        for y, words in heights
    )
    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%"/>' for y, _ in heights
    )
    step = 100 / len(days)
    bars = "".join(
        _day(row, step * n, step, _y(one + more, top), _y(one, top))
        for n, (row, one, more) in enumerate(zip(days, paid, saved, strict=True))
    )
    label = f"Dollars paid and saved on each of {len(days)} days"
    return (
        f'<svg class="trend" width="{wide}" height="220" aria-hidden="true">{axis}</svg>'
        f'<svg class="trend" width="100%" height="220" role="img" aria-label="{label}">'
        f"{grid}{bars}</svg>"
    )


def _day(row: Row, left: float, step: float, top: float, middle: float) -> str:
    places = places_of((row.sums.usd, row.sums.net))
    words = (
        f"{row.name}: paid {usd(row.sums.usd, places)}, saved {usd(row.sums.net, places)} net, "
        f"{row.sums.calls:,} requests"
    )
    wide = min(step * 0.76, 5.0)
    place = f'x="{left + (step - wide) / 2:.3f}%" width="{wide:.3f}%"'
    return (
        f'<g><rect class="hover" x="{left:.3f}%" width="{step:.3f}%" height="100%"/>'
        f'<rect class="less" {place} y="{top:.2f}%" height="{middle - top:.2f}%"/>'
        f'<rect class="paid" {place} y="{middle:.2f}%" height="{_BOTTOM - middle:.2f}%"/>'
        f"<title>{escape(words)}</title></g>"
    )


def _y(value: float, top: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * value / top


_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


def _ticks(highest: float) -> list[float]:
    """Return 0 and up to four round numbers above, the last at or over the highest value."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** (Decimal(str(highest / 4)).adjusted())
    step = next(step * power for step in _STEPS if step * power * 4 >= highest * 0.999999)
    return [round(step * n, 12) for n in range(5) if n == 0 or step * (n - 1) < highest * 0.999999]
