"""What the demo prints, and the page it writes."""

from collections.abc import Sequence
from html import escape

from demo.run import Asked, Run

__all__ = ["as_html", "as_text"]

COLUMNS = ("", "model calls", "tokens", "dollars", "hits", "wrong hits", "gold answer in", "time")


def row(run: Run) -> tuple[str, ...]:
    bill = run.bill
    return (
        f"{run.framework}, {run.mode}",
        f"{run.model_calls}",
        f"{bill.usage.total_tokens:,}",
        f"{bill.usd:.6f}",
        f"{run.hits}",
        f"{run.wrong_hits}",
        f"{run.gold_share:.0%}",
        f"{run.seconds:.0f} s",
    )


def change(plain: Run, costwise: Run) -> str:
    saved = 1 - costwise.bill.usd / plain.bill.usd if plain.bill.usd else 0
    return (
        f"{plain.framework}: {saved:.1%} of the dollars saved; "
        f"{plain.gold_share:.1%} of the answers held a gold answer before, "
        f"{costwise.gold_share:.1%} after; "
        f"{costwise.wrong_hits} of {costwise.hits} hits answered another question."
    )


def pairs(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(run.framework, {})[run.mode] = run
    return [(both["plain"], both["costwise"]) for both in found.values()]


def as_text(runs: Sequence[Run], *, price: str) -> str:
    """Return the tables for the terminal: one line a run, then why each hit was served."""
    table = [COLUMNS, *map(row, runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "",
        f"{len(runs[0].asked)} questions; tokens billed at the price of {price}",
        "",
        *(
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            for cells in table
        ),
        "",
    ]
    for plain, costwise in pairs(runs):
        lines += [change(plain, costwise), "", repr(costwise.bill), "", "Hits, and why:"]
        lines += [
            f"  {mark(one)} {one.request.question}\n        {one.why}: {one.served_question}"
            for one in costwise.asked
            if one.hit
        ]
        missed = sum(one.request.kind != "new" and not one.hit for one in costwise.asked)
        lines += [f"  ({missed} repeated or reworded questions were paid for, to be safe)", ""]
    return "\n".join(lines)


def mark(one: Asked) -> str:
    return ("WRONG" if one.wrong_hit else one.hit).ljust(5)


STYLE = """
:root { color-scheme: light dark;
  --line: #d8dee4; --soft: #656d76; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root {
  --line: #30363d; --soft: #9198a1; --good: #3fb950; --bad: #f85149; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table.runs, table.asked { border-collapse: collapse; width: 100%; }
table.runs td, table.runs th, table.asked td, table.asked th {
  border-bottom: 1px solid var(--line); padding: .35rem .6rem;
  text-align: right; vertical-align: top; }
table.runs td:first-child, table.asked td, table.asked th { text-align: left; }
thead th { color: var(--soft); font-weight: 500; }
.soft { color: var(--soft); font-size: .88em; }
.tag { border: 1px solid currentColor; border-radius: 1em; padding: 0 .5em;
  font-size: .85em; white-space: nowrap; }
.hit { color: var(--good); } .wrong { color: var(--bad); }
"""


def as_html(runs: Sequence[Run], *, price: str) -> str:
    """Return one self-contained page: the table, both bills, every question with its answers."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row(run)) + "</tr>" for run in runs
    )
    sections = "".join(section(plain, costwise) for plain, costwise in pairs(runs))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>costwise demo</title><style>{STYLE}</style></head><body>"
        "<h1>A RAG app, plain and with costwise</h1>"
        f"<p>{len(runs[0].asked)} questions that people asked about three encyclopedia articles, "
        'some asked again or by another person in other words (those of the kind "written" were '
        "written for the demo). Tokens are real; dollars are those tokens "
        f"at the price of <b>{escape(price)}</b>.</p>"
        f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"{sections}</body></html>"
    )


def section(plain: Run, costwise: Run) -> str:
    rows = "".join(
        f"<tr><td>{escape(now.request.question)}<div class=soft>gold: "
        f"{escape(' / '.join(now.request.answers))}</div></td><td>{escape(now.request.kind)}</td>"
        f"<td>{escape(before.text)}</td><td>{verdict(now)}{escape(now.text)}</td></tr>"
        for before, now in zip(plain.asked, costwise.asked, strict=True)
    )
    return (
        f"<h2>{escape(plain.framework)}</h2><p>{escape(change(plain, costwise))}</p>"
        f"{costwise.bill._repr_html_()}"
        "<details><summary>Every question</summary><table class=asked><thead><tr><th>question</th>"
        "<th>kind</th><th>plain</th><th>with costwise</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details>"
    )


def verdict(one: Asked) -> str:
    if not one.hit:
        return ""
    kind, word = ("wrong", "wrong hit") if one.wrong_hit else ("hit", f"{one.hit} hit")
    served = f"{one.why}: {one.served_question}"
    return f'<span class="tag {kind}">{word}</span> <span class=soft>{escape(served)}</span><br>'
