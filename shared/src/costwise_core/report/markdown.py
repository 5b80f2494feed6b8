"""A report as GitHub's Markdown, for pull requests, chats and terminals."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from costwise_core.bill import Step
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
    from costwise_core.report.sums import Row

__all__ = ["as_markdown"]

_COLUMNS = ("paid", "saved", "calls", "hits", "per call")


def as_markdown(report: "Report") -> str:
    """Return the report as Markdown; what comes from the ledger is escaped."""
    parts = [*_head(report), *_body(report)]
    text = "\n\n".join(parts) + "\n"
    return text.encode("utf-8", "replace").decode()


def _head(report: "Report") -> Iterator[str]:
    tags = "".join(f", {_plain(name)} {_plain(value)}" for name, value in report.tags)
    yield f"# Cost report: {period(report)}{tags}"
    yield f"**{headline(report)}**  \nMade {moment(report.made)}."


def _body(report: "Report") -> Iterator[str]:
    if report.totals.calls or report.totals.own_calls:
        yield "## From what it would have cost to what it did"
        places = places_of(step.usd for step in report.steps)
        yield _table(
            ("", "dollars", "tokens", "calls"),
            (
                (
                    f"{step.name.replace('_', ' ')}{_evidence(step)}",
                    usd(step.usd, places),
                    count(step.tokens),
                    count(step.requests),
                )
                for step in report.steps
            ),
        )
    if report.true_saving is not None:
        yield "## True saving, by hold-out"
        yield _plain(f"{report.true_saving}.")
    if report.advice:
        yield "## What could still be saved"
        places = places_of(one.usd for one in report.advice if one.usd is not None)
        yield "\n".join(
            f"- **{usd(one.usd, places)}** {one.bound}: {_plain(one.title)}. {_plain(one.why)} "
            f"({_plain(one.formula)})"
            for one in report.advice
        )
    for key, rows in report.tables.items():
        yield f"## By {key}"
        yield _sums(key, rows)
    if len(report.days) > 1:
        yield "## By day"
        yield _sums("day", report.days)
    if report.prompts:
        yield "## Dearest prompts"
        places = places_of(prompt.usd for prompt in report.prompts)
        yield _table(
            ("prompt", "paid", "model", "feature", "paid calls", "hits"),
            (
                (
                    prompt.hash,
                    usd(prompt.usd, places),
                    prompt.model,
                    prompt.feature,
                    count(prompt.paid_calls),
                    count(prompt.hits),
                )
                for prompt in report.prompts
            ),
        )
    if told := notes(report):
        yield "## Notes"
        yield "\n".join(f"- {_plain(note)}" for note in told)


def _evidence(step: Step) -> str:
    told = step.kind == "change" and step.evidence != "measured"
    return f" ({step.evidence})" if told else ""


def _sums(key: str, rows: "Sequence[Row]") -> str:
    places = places_of(row.sums.usd for row in rows)
    return _table(
        (key, *_COLUMNS),
        (
            (
                row.name or "none",
                usd(row.sums.usd, places),
                share(row.sums.net_share),
                count(row.sums.calls or row.sums.serving_calls),
                share(row.sums.hit_rate),
                usd(row.sums.usd_per_call, places_of((row.sums.usd_per_call,))),
            )
            for row in rows
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for more than a text."""
    for mark in "\\`*_[]<>|&":
        text = text.replace(mark, f"\\{mark}" if mark != "&" else "&amp;")
    return " ".join(text.split())
