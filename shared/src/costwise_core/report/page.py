"""A report as HTML: a page of its own, or a fragment for a notebook; everything in it escaped."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from costwise_core.bill import Step
from costwise_core.report.advice import Advice
from costwise_core.report.charts import bar, spark, trend, waterfall_bars
from costwise_core.report.style import in_notebook, on_a_page
from costwise_core.report.sums import Row, Sums
from costwise_core.report.words import (
    count,
    headline,
    moment,
    notes,
    period,
    places_of,
    share,
    usd,
)

if TYPE_CHECKING:
    from costwise_core.report.report import Report

__all__ = ["as_fragment", "as_page"]


def as_page(report: "Report") -> str:
    """Return a page of its own, which may load nothing from anywhere."""
    return on_a_page(f"Cost report, {period(report)}", _body(report))


def as_fragment(report: "Report") -> str:
    """Return the same for a notebook's cell."""
    return in_notebook(_body(report))


def _body(report: "Report") -> str:
    tags = "".join(f" · {name} {value}" for name, value in report.tags)
    made = escape(moment(report.made))
    told = escape(period(report) + tags)
    tone = " good" if report.totals.net > 0 else " bad" if report.totals.net < 0 else ""
    paid = usd(report.totals.usd, places_of((report.totals.baseline, report.totals.usd)))
    calls = report.totals.calls
    requests = f"{calls:,} request{'' if calls == 1 else 's'}, {paid} paid"
    parts = [
        f'<header><h1>Cost report</h1><p class="meta">{told} · made {made}</p></header>',
        f'<p class="hero{tone}">{escape(headline(report))}</p><p class="soft">{requests}</p>',
    ]
    if report.totals.calls or report.totals.own_calls:
        parts += [_tiles(report), _waterfall(report), _sampled(report), _trend(report)]
        parts += [_advice(report), _tables(report), _prompts(report)]
    remarks = "".join(f'<p class="note">{escape(note)}</p>' for note in notes(report))
    if remarks:
        parts.append(_card("Notes", remarks))
    return "".join(parts)


def _card(title: str, content: str, below: str = "") -> str:
    said = f'<p class="meta">{escape(below)}</p>' if below else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{said}{content}</section>'


def _tiles(report: "Report") -> str:
    totals, days = report.totals, [row.sums for row in report.days]
    places = places_of((totals.baseline, totals.usd))
    each = places_of((totals.usd_per_call,))
    tokens = totals.input_tokens + totals.output_tokens
    read = totals.cache_read_tokens / totals.input_tokens if totals.input_tokens else 0.0
    seconds = totals.seconds / totals.calls if totals.calls else 0.0
    tiles = (
        (
            "Paid",
            usd(totals.usd, places),
            f"{usd(totals.overhead, places)} of it overhead" if totals.overhead else "",
            [float(sums.usd) for sums in days],
        ),
        (
            "Saved net",
            usd(totals.net, places),
            f"{share(totals.net_share)} of the baseline",
            [float(sums.net) for sums in days],
        ),
        (
            "Requests",
            count(totals.calls),
            f"{seconds:.2g} s on average" if seconds else "",
            [sums.calls for sums in days],
        ),
        (
            "Paid per request",
            usd(totals.usd_per_call, each),
            "hits included",
            [float(sums.usd_per_call) for sums in days],
        ),
        (
            "Answered from cache",
            share(totals.hit_rate),
            f"{count(totals.hits)} requests",
            [sums.hit_rate for sums in days],
        ),
        (
            "Tokens",
            count(tokens),
            f"{share(read)} of input from the provider's cache",
            [sums.input_tokens + sums.output_tokens for sums in days],
        ),
    )
    drawn = (
        f'<div class="tile"><dt>{name}</dt><dd>{value}<small>{escape(more)}</small></dd>'
        f"{spark(values, f'{name}, day by day')}</div>"
        for name, value, more, values in tiles
    )
    return f'<dl class="tiles">{"".join(drawn)}</dl>'


def _waterfall(report: "Report") -> str:
    steps = report.steps
    places = places_of(step.usd for step in steps)
    rows = []
    for step, picture in zip(steps, waterfall_bars(steps), strict=True):
        sign = "+" if step.kind == "change" and step.usd > 0 else ""
        rows.append(
            f'<tr class="{step.kind} {step.evidence}"><th scope="row">'
            f"{escape(step.name.replace('_', ' '))}{_evidence(step)}</th>"
            f'<td class="picture">{picture}</td><td>{sign}{usd(step.usd, places)}</td>'
            f"<td>{count(step.tokens)}</td><td>{count(step.requests)}</td></tr>"
        )
    head = '<th></th><td></td><th scope="col">dollars</th><th scope="col">tokens</th>'
    return _card(
        "From what it would have cost to what it did",
        '<div class="scroll"><table class="falls"><caption>Each stage that saved, priced after '
        f"the ones before it</caption><thead><tr>{head}"
        f'<th scope="col">calls</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>',
        "Each stage is priced after the ones before it, so the steps add up exactly.",
    )


def _sampled(report: "Report") -> str:
    if report.true_saving is None:
        return ""
    return _card(
        "True saving, by hold-out", f'<p class="note">{escape(str(report.true_saving))}.</p>'
    )


def _evidence(step: Step) -> str:
    """Say of a change what it rests on; the two ends rest on all of them."""
    told = step.kind == "change" and step.evidence != "measured"
    return f" <small>{step.evidence}</small>" if told else ""


def _trend(report: "Report") -> str:
    days = report.days
    if len(days) < 2:
        return ""
    names = [days[0].name, days[len(days) // 2].name, days[-1].name]
    labels = "".join(f"<span>{name}</span>" for name in names if len(days) > 2 or name != names[1])
    legend = (
        '<p class="legend"><span><i class="paid"></i>paid</span>'
        '<span><i class="less"></i>saved net</span></p>'
    )
    plot = f'<div class="plot">{trend(days)}<p class="days">{labels}</p></div>'
    return _card("Day by day", legend + plot)


def _advice(report: "Report") -> str:
    if not report.advice:
        return ""
    places = places_of(one.usd for one in report.advice if one.usd is not None)
    items = "".join(
        f"<li>{_stake(one, places)}<div>"
        f"<h3>{escape(one.title)}</h3><p>{escape(one.why)}</p>"
        f"<p>= {escape(one.formula)}</p></div></li>"
        for one in report.advice
    )
    return _card(
        "What could still be saved",
        f'<ol class="advice">{items}</ol>',
        "Dollars at stake over the time of this report. They overlap, so they do not add up.",
    )


def _stake(one: Advice, places: int) -> str:
    if one.usd is None:
        return '<p class="stake soft">not priced<small>unknown</small></p>'
    return f'<p class="stake">{usd(one.usd, places)}<small>{one.bound}</small></p>'


def _tables(report: "Report") -> str:
    names = {"arm": "arm of the experiment"}
    drawn = [
        _card(f"By {names.get(key, key)}", _table(key, rows)) for key, rows in report.tables.items()
    ]
    by_day = [row for row in reversed(report.days) if row.sums.calls or row.sums.own_calls]
    if len(by_day) > 1:
        drawn.append(_card("By day", _table("day", by_day[:31])))
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _table(key: str, rows: Sequence[Row]) -> str:
    places = places_of(row.sums.usd for row in rows)
    most = max((float(row.sums.usd) for row in rows), default=0.0)
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("paid", "saved", "calls", "hits", "per call")
    )
    body = "".join(_row(row, places, float(row.sums.usd) / most if most else 0.0) for row in rows)
    return (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="By {key}">'
        f"<table><caption>What was paid and saved by {key}</caption>"
        f'<thead><tr><th scope="col" class="words">{key}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Row, places: int, part: float) -> str:
    sums: Sums = row.sums
    name = escape(row.name) if row.name else '<span class="soft">none</span>'
    return (
        f'<tr><th scope="row">{name}{bar(part)}</th><td>{usd(sums.usd, places)}</td>'
        f"<td>{share(sums.net_share)}</td><td>{count(sums.calls or sums.serving_calls)}</td>"
        f"<td>{share(sums.hit_rate)}</td>"
        f"<td>{usd(sums.usd_per_call, places_of((sums.usd_per_call,)))}</td></tr>"
    )


def _prompts(report: "Report") -> str:
    if not report.prompts:
        return ""
    places = places_of(prompt.usd for prompt in report.prompts)
    body = "".join(
        f'<tr><th scope="row"><code>{escape(prompt.hash)}</code></th>'
        f'<td class="words">{escape(prompt.model)}</td>'
        f'<td class="words">{escape(prompt.feature) or "<span class=soft>none</span>"}</td>'
        f"<td>{usd(prompt.usd, places)}</td><td>{count(prompt.paid_calls)}</td>"
        f"<td>{count(prompt.hits)}</td><td>{count(prompt.input_tokens)}</td>"
        f"<td>{count(prompt.output_tokens)}</td></tr>"
        for prompt in report.prompts
    )
    head = "".join(
        f'<th scope="col"{" class=words" if n < 3 else ""}>{name}</th>'
        for n, name in enumerate(
            ("prompt", "model", "feature", "paid", "paid calls", "hits", "tokens in", "out")
        )
    )
    return _card(
        "Dearest prompts",
        '<div class="scroll"><table><caption>The prompts that cost most, by hash</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        "By hash: no text of a prompt is ever kept.",
    )
