"""A replay as HTML, in the looks of a report: a page of its own, or a fragment for a notebook."""

from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING

from costwise_core.bill import Step
from costwise_core.money import dollars, picodollars
from costwise_core.replaying.table import caveats, headline, interval, period, shown, wrong
from costwise_core.report.charts import waterfall_bars
from costwise_core.report.style import in_notebook, on_a_page
from costwise_core.report.words import count, places_of, usd

if TYPE_CHECKING:
    from costwise_core.replaying.result import Finding, Replay

__all__ = ["as_fragment", "as_page"]


def as_page(replay: "Replay") -> str:
    """Return a page of its own, which may load nothing from anywhere."""
    return on_a_page("What costwise would have saved", _body(replay))


def as_fragment(replay: "Replay") -> str:
    """Return the same for a notebook's cell."""
    return in_notebook(_body(replay))


def _body(replay: "Replay") -> str:
    told = period(replay)
    kinds = ", ".join(f"{name} ({rows:,} rows)" for name, rows in replay.formats.items())
    tone = " good" if replay.saved_usd > 0 else ""
    tokens = replay.input_tokens + replay.output_tokens
    meta = " · ".join(part for part in (told, kinds) if part)
    parts = [
        (
            f'<header><h1>What costwise would have saved</h1><p class="meta">{escape(meta)}</p>'
            f'</header><p class="hero{tone}">{escape(headline(replay))}</p>'
            f'<p class="soft">{replay.requests:,} calls, {count(tokens)} tokens; replayed from the '
            "log, no model was called</p>"
        )
    ]
    if replay.requests:
        parts += [_tiles(replay), _waterfall(replay), _findings(replay)]
    notes = "".join(f'<p class="note">{escape(_sentence(one))}</p>' for one in caveats(replay))
    if notes:
        parts.append(_card("Notes", notes))
    return "".join(parts)


def _card(title: str, content: str, below: str = "") -> str:
    said = f'<p class="meta">{escape(below)}</p>' if below else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{said}{content}</section>'


def _tiles(replay: "Replay") -> str:
    places = places_of((replay.paid_usd,))
    ends = interval(replay.low, replay.high, places)
    tiles = [
        ("Paid", usd(replay.paid_usd, places), "by the price list"),
        ("With costwise", usd(replay.after_usd, places), "all findings taken"),
        ("Saved", usd(replay.saved_usd, places), f"95 %: {ends}" if ends else ""),
    ]
    sure = replay.measured_usd
    if sure is not None:
        tiles.append(("Measured alone", usd(sure, places), "if nothing else is done"))
    near = next((one for one in replay.findings if one.wrong_share is not None), None)
    if near is not None and near.wrong_share is not None:
        ends = f"{near.wrong_low or 0:.1%} to {near.wrong_high or 0:.1%}"
        tiles.append(("Near-repeats expected wrong", f"{near.wrong_share:.1%}", f"95 %: {ends}"))
    drawn = "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd>'
        "</div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{drawn}</dl>'


def _waterfall(replay: "Replay") -> str:
    steps = _steps(replay)
    places = places_of(step.usd for step in steps)
    rows = []
    for step, picture in zip(steps, waterfall_bars(steps), strict=True):
        kind = f" <small>{step.evidence}</small>" if step.kind == "change" else ""
        rows.append(
            f'<tr class="{step.kind} {step.evidence}"><th scope="row">{escape(step.name)}{kind}'
            f'</th><td class="picture">{picture}</td><td>{usd(step.usd, places)}</td>'
            f"<td>{count(step.tokens)}</td><td>{count(step.requests)}</td></tr>"
        )
    head = '<th></th><td></td><th scope="col">dollars</th><th scope="col">tokens</th>'
    return _card(
        "From what was paid to what it would have cost",
        '<div class="scroll"><table class="falls"><caption>Each finding, priced after the ones '
        f"before it</caption><thead><tr>{head}"
        f'<th scope="col">calls</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>',
        "Each finding is priced after the ones before it, so they add up exactly.",
    )


def _steps(replay: "Replay") -> list[Step]:
    """Return the way down; tokens read from a cache instead are still sent."""
    tokens = replay.input_tokens + replay.output_tokens
    found = [one for one in replay.findings if one.usd]
    left = tokens - sum(one.tokens for one in found if one.name != "prompt_cache")
    hits = sum(one.requests for one in found if one.stage == "response_cache")
    return [
        Step(
            name="paid", kind="whole", usd=replay.paid_usd, tokens=tokens, requests=replay.requests
        ),
        *(
            Step(
                name=one.title,
                kind="change",
                usd=dollars(-picodollars(one.usd or Decimal(0))),
                tokens=0 if one.name == "prompt_cache" else -one.tokens,
                requests=one.requests,
                evidence="modelled" if one.confidence == "modelled" else "measured",
            )
            for one in found
        ),
        Step(
            name="with costwise",
            kind="whole",
            usd=replay.after_usd,
            tokens=left,
            requests=replay.requests - hits,
        ),
    ]


def _findings(replay: "Replay") -> str:
    places = places_of((replay.paid_usd,))
    ranked = sorted(replay.findings, key=lambda one: (one.usd is None, -(one.usd or Decimal(0))))
    items = "".join(_finding(one, places) for one in ranked)
    return _card(
        "Findings",
        f'<ol class="advice">{items}</ol>',
        "Dollars in turn, which add up; alone is what each would save if nothing else were done.",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _finding(one: "Finding", places: int) -> str:
    known = one.usd is not None
    ends = interval(one.low, one.high, places) if one.usd else ""
    stake = (
        f'<p class="stake{"" if one.usd else " soft"}">{shown(one.usd, places)}'
        f"<small>{escape(one.confidence if known else 'the log cannot tell')}</small></p>"
    )
    told = [f"{one.requests:,} call{'' if one.requests == 1 else 's'}"]
    if known:
        told.append(f"{shown(one.alone_usd, places)} alone")
    if ends:
        told.append(f"95 %: {ends}")
    if one.unpriced:
        told.append(f"{one.unpriced:,} without a known price")
    if share := wrong(one):
        told.append(share)
    return (
        f"<li>{stake}<div><h3>{escape(one.title)}</h3><p>{escape(_sentence(one.why))}</p>"
        f"<p>{escape(' · '.join(told))}</p><p>= {escape(one.formula)}</p></div></li>"
    )
