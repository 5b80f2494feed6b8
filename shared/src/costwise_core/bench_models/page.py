"""A benchmark as HTML, in the looks of a report; everything in it escaped."""

import math
from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Final

from costwise_core.display_table import usd
from costwise_core.report.charts import bar
from costwise_core.report.style import in_notebook, on_a_page

if TYPE_CHECKING:
    from costwise_core.bench_models.summary import BenchReport, ModelSummary

__all__ = ["as_fragment", "as_page"]

_WIDE: Final = 1_080
_HIGH: Final = 280
_EDGE: Final = 44


def as_page(report: "BenchReport") -> str:
    """Return a page of its own, which may load nothing from anywhere."""
    return on_a_page("Models compared", _body(report))


def as_fragment(report: "BenchReport") -> str:
    """Return the same for a notebook's cell."""
    return in_notebook(_body(report))


def _body(report: "BenchReport") -> str:
    head = (
        f'<header><h1>Models compared</h1><p class="meta">{report.prompts:,} prompts, '
        f"{len(report.models)} models</p></header>"
        f'<p class="hero">{escape(_headline(report))}</p>'
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    parts = [head, _picture(report.models), _table(report), _card("Notes", notes)]
    return "".join(parts)


def _headline(report: "BenchReport") -> str:
    """Say which is best, and which is the cheapest of which no difference to it is seen."""
    marked = [one for one in report.models if one.quality is not None]
    if not marked:
        return "No answer has a mark"
    best = next(one for one in marked if one.against_best is None)
    alike = [
        one
        for one in marked
        if one is not best
        and one.against_best is not None
        and one.against_best.high >= 0
        and one.usd_each is not None
        and best.usd_each is not None
        and one.usd_each.value < best.usd_each.value
    ]
    if not alike:
        return f"{best.name} answers best"
    cheapest = min(alike, key=lambda one: one.usd_each.value if one.usd_each else 0.0)
    return f"{best.name} answers best; no difference to {cheapest.name} is seen, which costs less"


def _card(title: str, content: str, below: str = "") -> str:
    said = f'<p class="meta">{escape(below)}</p>' if below else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{said}{content}</section>'


def _table(report: "BenchReport") -> str:
    head, *rows = report.rows()
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}'
        f"{bar(one.quality.value) if one.quality else ''}</th>"
        f"{''.join(map(_cell, row[1:]))}</tr>"
        for row, one in zip(rows, report.models, strict=True)
    )
    return _card(
        "Quality, dollars, latency, tokens",
        '<div class="scroll" tabindex="0" role="region" aria-label="Models"><table>'
        "<caption>What was found of each model</caption>"
        f'<thead><tr><th scope="col" class="words">model</th>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>",
        "Below a number: where it is likely to lie.",
    )


def _cell(text: str) -> str:
    value, bracket, interval = text.partition(" [")
    ends = escape(interval.rstrip("]").replace(", ", " to "))
    below = f'<br><small class="soft">{ends}</small>' if bracket else ""
    return f"<td>{escape(value)}{below}</td>"


def _picture(models: "Sequence[ModelSummary]") -> str:
    """Draw quality over dollars: what is up and to the left is better and cheaper."""
    shown = [one for one in models if one.quality is not None and one.usd_each is not None]
    if len(shown) < 2:
        return ""
    most = max(one.usd_each.high for one in shown if one.usd_each) or 1.0
    least = math.floor(10 * min(one.quality.low for one in shown if one.quality)) / 10
    least = min(least, 0.9)
    marks = "".join(_cross(one, most, least) for one in shown)
    left, right = usd(Decimal(0)), usd(Decimal(f"{1_000 * most:.3g}"))
    bottom = _HIGH - _EDGE
    axes = (
        f'<line class="grid" x1="{_EDGE}" x2="{_WIDE}" y1="{bottom}" y2="{bottom}"/>'
        f'<line class="grid" x1="{_EDGE}" x2="{_EDGE}" y1="0" y2="{bottom}"/>'
        f'<text x="0" y="12">1.0</text><text x="0" y="{bottom}">{least:.1f}</text>'
        f'<text x="{_EDGE}" y="{bottom + 18}">{left}</text>'
        f'<text x="{_WIDE}" y="{bottom + 18}" text-anchor="end">{right}</text>'
    )
    return _card(
        "Quality over dollars per 1,000 answers",
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="100%" role="img" '
        f'aria-label="Quality over dollars, also in the table">{axes}{marks}</svg>',
        "Up is better, left is cheaper; the lines are the intervals.",
    )


def _cross(one: "ModelSummary", most: float, least: float) -> str:
    quality, each = one.quality, one.usd_each
    if quality is None or each is None:
        return ""
    wide, high = (_WIDE - _EDGE) / most, (_HIGH - _EDGE) / (1 - least)
    x, x1, x2 = (_EDGE + wide * part for part in (each.value, each.low, each.high))
    y, y1, y2 = (high * (1 - part) for part in (quality.value, quality.low, quality.high))
    right = x > _WIDE / 2
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
        f'<rect class="paid" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" rx="2"/>'
        f'<text x="{x + (-10 if right else 10):.1f}" y="{max(12.0, y - 8):.1f}" '
        f'text-anchor="{"end" if right else "start"}">{escape(one.name)}</text>'
    )
