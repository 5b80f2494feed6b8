"""A report for other programs: one CSV, one JSON. Dollars are exact in both."""

import csv
import io
import json
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from costwise_core.report.sums import Sums

if TYPE_CHECKING:
    from costwise_core.report.report import Report

__all__ = ["as_csv", "as_json"]

_DERIVED: Final = ("baseline", "net", "net_share", "hit_rate", "usd_per_call")
_COLUMNS: Final = (*(field.name for field in fields(Sums)), *_DERIVED)
_FORMULA: Final = tuple("=+-@\t\r")


def as_csv(report: "Report") -> str:
    """Return every table as one CSV, told apart by its first column.

    A name that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("table", "name", *_COLUMNS))
    writer.writerow(("total", "", *_values(report.totals)))
    tables = {**report.tables, "day": report.days}
    for table, rows in tables.items():
        for row in rows:
            name = f"'{row.name}" if row.name.startswith(_FORMULA) else row.name
            writer.writerow((table, name, *_values(row.sums)))
    return out.getvalue().encode("utf-8", "replace").decode()


def as_json(report: "Report") -> str:
    """Return everything in a report as JSON."""
    tables = {**report.tables, "day": report.days}
    return json.dumps(
        {
            "made": report.made,
            "since": report.since,
            "until": report.until,
            "tags": dict(report.tags),
            "damaged": report.damaged,
            "totals": _sums(report.totals),
            "true_saving": None if report.true_saving is None else _plain(report.true_saving),
            "steps": [_plain(step) for step in report.steps],
            "stages": [_plain(stage) for stage in report.stages],
            "tables": {
                table: [{"name": row.name, "others": row.others, **_sums(row.sums)} for row in rows]
                for table, rows in tables.items()
            },
            "prompts": [_plain(prompt) for prompt in report.prompts],
            "advice": [_plain(one) for one in report.advice],
        },
        indent=2,
    )


def _values(sums: Sums) -> list[object]:
    return [_exact(getattr(sums, name)) for name in _COLUMNS]


def _sums(sums: Sums) -> dict[str, object]:
    return dict(zip(_COLUMNS, _values(sums), strict=True))


def _plain(value: Any) -> dict[str, object]:
    return {field.name: _exact(getattr(value, field.name)) for field in fields(value)}


def _exact(value: object) -> object:
    return f"{value:f}" if isinstance(value, Decimal) else value
