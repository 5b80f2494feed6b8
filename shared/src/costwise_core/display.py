"""How a bill is shown: a plain table, and one HTML fragment with a waterfall, both escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from costwise_core.bill import Bill, Step
from costwise_core.holdout import HOLDOUT, true_saving

__all__ = ["as_html", "as_text"]


def as_text(bill: Bill) -> str:
    """Return the bill as a table of plain text.

    Example:
        >>> print(as_text(Bill()))
        Bill: no calls yet
    """
    if not bill.records:
        return "\n  ".join(["Bill: no calls yet", *_notes(bill)])
    steps = bill.steps
    places = _places(bill, steps)
    rows = [("", "calls", "tokens", "dollars", "")]
    rows += [
        (
            _label(step),
            f"{step.requests:,}",
            _count(step),
            _money(step, places),
            _evidence(step),
        )
        for step in steps
    ]
    name, *numbers, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    tags = f" ({_pairs(bill.tags)})" if bill.tags else ""
    lines = [f"Bill{tags}: {_headline(steps, places)}"]
    for row in rows:
        cells = zip(row[1:-1], numbers, strict=True)
        shown = [f"{row[0]:<{name}}", *(f"{cell:>{wide}}" for cell, wide in cells), row[-1]]
        lines.append("  ".join(shown).rstrip())
    return "\n  ".join([*lines, *_notes(bill)])


def as_html(bill: Bill) -> str:
    """Return the bill as one self-contained HTML fragment, for notebooks and reports.

    It brings its own light and dark colours, needs no script and no network, and takes over the
    colours of Jupyter and VS Code where they are set.

    Example:
        >>> as_html(Bill()).endswith('<p class="net">No calls yet</p></div>')
        True
    """
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(bill))
    if not bill.records:
        return f'<div class="costwise-bill">{_STYLE}<p class="net">No calls yet</p>{notes}</div>'
    steps = bill.steps
    places = _places(bill, steps)
    chart = f'<td class="chart" rowspan="{len(steps)}" aria-hidden="true">{_waterfall(steps)}</td>'
    rows = "".join(
        f'<tr class="{step.kind}"><th scope="row">{escape(_label(step))}</th>'
        f"<td>{step.requests:,}</td><td>{_count(step)}</td>"
        f"<td>{_money(step, places)}</td><td>{_evidence(step)}</td>"
        f"{chart if step is steps[0] else ''}</tr>"
        for step in steps
    )
    headline = _headline(steps, places)
    return (
        f'<div class="costwise-bill">{_STYLE}'
        f'<p class="net">{escape(headline[0].upper() + headline[1:])}</p>'
        f"<p>{escape(_pairs(bill.tags))}</p>"
        "<table><thead><tr><th></th><th>calls</th><th>tokens</th><th>dollars</th><th></th><th></th></tr>"
        f"</thead><tbody>{rows}</tbody></table>{notes}</div>"
    )


# --- words --------------------------------------------------------------------------------------


def _headline(steps: Sequence[Step], places: int | None) -> str:
    before, paid = steps[0], steps[-1]
    if places is None:
        return f"saved {before.tokens - paid.tokens:,} of {before.tokens:,} tokens (no price known)"
    net = before.usd - paid.usd
    if net > 0:
        share = f", {net / before.usd:.1%} of ${before.usd:,.{places}f}" if before.usd > 0 else ""
        return f"saved ${net:,.{places}f} net{share}"
    if net < 0:
        return f"cost ${-net:,.{places}f} more than without costwise"
    return f"nothing saved yet, ${paid.usd:,.{places}f} paid"


def _notes(bill: Bill) -> list[str]:
    notes = []
    if any(("arm", HOLDOUT) in record.tags for record in bill.records):
        found = true_saving(bill.records)
        notes.append(f"{'hold-out' if isinstance(found, str) else 'sampled'}: {found}")
    if bill.unpriced:
        models = ", ".join(f"{model} ({calls:,})" for model, calls in bill.unpriced.items())
        notes.append(f"no price known, so not in the dollars: {models}")
    if bill.estimated:
        notes.append(f"calls whose tokens were estimated, not reported: {bill.estimated:,}")
    if bill.faults:
        faults = ", ".join(f"{name} ({count:,})" for name, count in bill.faults.items())
        notes.append(f"faults in bookkeeping: {faults}; the ledger may lack calls")
    return notes


def _evidence(step: Step) -> str:
    return step.evidence if step.kind == "change" else ""


def _label(step: Step) -> str:
    return step.name.replace("_", " ")


def _pairs(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def _count(step: Step) -> str:
    return f"{step.tokens:+,}" if step.kind == "change" and step.tokens else f"{step.tokens:,}"


def _money(step: Step, places: int | None) -> str:
    if places is None:
        return "?"
    sign = "-" if step.usd < 0 else "+" if step.usd and step.kind == "change" else ""
    return f"{sign}${abs(step.usd):,.{places}f}"


def _places(bill: Bill, steps: Sequence[Step]) -> int | None:
    """Return how many decimals show four digits of the largest amount, None if none is known."""
    largest = max(abs(step.usd) for step in steps)
    if not largest:
        return None if bill.unpriced else 2
    return min(max(2, 3 - largest.adjusted()), 12)


# --- the picture --------------------------------------------------------------------------------

_ROW: Final = 28
_WIDTH: Final = 260


def _waterfall(steps: Sequence[Step]) -> str:
    """Draw each step as a bar that begins where the one above ended."""
    priced = any(step.usd for step in steps)
    amounts = [float(step.usd) if priced else float(step.tokens) for step in steps]
    bars: list[tuple[float, float]] = []
    level = 0.0
    for step, amount in zip(steps, amounts, strict=True):
        start = 0.0 if step.kind == "whole" else level
        level = start + amount
        bars.append((start, level))
    low = min(0.0, *(min(bar) for bar in bars))
    high = max(0.0, *(max(bar) for bar in bars))
    scale = (_WIDTH - 2) / (high - low) if high > low else 0.0

    def x(value: float) -> float:
        return 1 + (value - low) * scale

    drawn = []
    for row, (step, (start, end)) in enumerate(zip(steps, bars, strict=True)):
        kind = "whole" if step.kind == "whole" else "less" if end < start else "more"
        left, width = x(min(start, end)), max(abs(end - start) * scale, 1.0)
        drawn.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{row * _ROW + 7}" width="{width:.1f}" '
            f'height="{_ROW - 14}" rx="2"/>'
        )
        if row + 1 < len(steps):
            top = row * _ROW + _ROW - 7
            drawn.append(f'<path d="M{x(end):.1f} {top}v14"/>')
    height = _ROW * len(steps)
    return (
        f'<svg width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f"{''.join(drawn)}</svg>"
    )


# Own background and text colour, because a page that ignores dark mode stays white under it. Where
# Jupyter or VS Code say what they use, that wins.
_DARK: Final = (
    "--cw-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#e6e9ec));"
    "--cw-paper:var(--jp-layout-color0,var(--vscode-editor-background,#16191d));"
    "--cw-whole:#7d8a99;--cw-less:#3fb96b;--cw-more:#e08a4a"
)
_STYLE: Final = (
    "<style>"
    ".costwise-bill{--cw-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#1c2126));"
    "--cw-paper:var(--jp-layout-color0,var(--vscode-editor-background,#fff));"
    "--cw-whole:#8c98a5;--cw-less:#2b9a55;--cw-more:#d0702c;"
    "color:var(--cw-ink);background:var(--cw-paper);padding:12px 16px;width:fit-content;"
    "font:13px/1.4 system-ui,sans-serif;border-radius:6px}"
    f"@media (prefers-color-scheme:dark){{.costwise-bill{{{_DARK}}}}}"
    f"[data-theme=dark] .costwise-bill,[data-jp-theme-light=false] .costwise-bill{{{_DARK}}}"
    ".costwise-bill p{margin:4px 0;opacity:.75}"
    ".costwise-bill p.net{font-size:24px;font-weight:600;opacity:1}"
    ".costwise-bill table{border-collapse:collapse;margin:8px 0;color:inherit;"
    "font:inherit;font-variant-numeric:tabular-nums}"
    f".costwise-bill tr{{height:{_ROW}px;background:none}}"
    ".costwise-bill th,.costwise-bill td{padding:0 0 0 20px;border:0;text-align:right;"
    "white-space:nowrap;font-weight:400;vertical-align:middle;background:none}"
    ".costwise-bill thead th{opacity:.6}"
    ".costwise-bill tbody th{padding-left:0;text-align:left}"
    ".costwise-bill tr.whole th,.costwise-bill tr.whole td{font-weight:600}"
    ".costwise-bill svg{display:block}"
    ".costwise-bill rect.whole{fill:var(--cw-whole)}"
    ".costwise-bill rect.less{fill:var(--cw-less)}"
    ".costwise-bill rect.more{fill:var(--cw-more)}"
    ".costwise-bill path{stroke:var(--cw-whole);stroke-width:1;fill:none}"
    "</style>"
)
