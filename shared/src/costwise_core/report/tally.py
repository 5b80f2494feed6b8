"""The sums a report is made of, read from a ledger's file by SQLite itself.

A million records are never made into objects: what leaves the file are sums over calls of one kind,
over days and over prompts.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from costwise_core.ledger_schema import SERIES_TAGS

__all__ = ["DAY", "Group", "Numbers", "Prefixes", "PromptNumbers", "Repeats", "Tally", "read_tally"]

DAY: Final = 86_400
_TOP_PROMPTS: Final = 20
_LAST_MOMENT: Final = 253_402_300_799
"""The last second of the year 9999."""
_CACHE_SECONDS: Final = 300
"""How long providers keep a prompt prefix at least."""


class Group(NamedTuple):
    """Calls of one kind. Texts are "" where a call has no such tag."""

    operation: str
    model: str
    overhead: bool
    tier: str
    feature: str
    team: str
    user: str
    tenant: str
    endpoint: str
    arm: str


class Numbers(NamedTuple):
    """Sums over some calls; money in whole 10^-12 dollars."""

    calls: int
    usd: int
    saved: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    unpriced: int
    estimated: int
    seconds: float


class PromptNumbers(NamedTuple):
    """What one prompt cost, known by its hash only; money in whole 10^-12 dollars."""

    prompt_hash: str
    model: str
    feature: str
    paid_calls: int
    hits: int
    usd: int
    input_tokens: int
    output_tokens: int


class Repeats(NamedTuple):
    """Prompts that were paid for more than once.

    `again` are the calls after the first of each, `usd` what they cost in whole 10^-12 dollars.
    """

    prompts: int
    again: int
    usd: int


class Prefixes(NamedTuple):
    """Prompts of one model that begin alike, sent within minutes, and not read from its cache.

    `writes` are the calls that would have filled the provider's cache, `reads` those that could
    have read it.
    """

    model: str
    writes: int
    reads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Everything a report is made of.

    Args:
        groups: Sums by kind of call.
        days: Sums by (days since 1970 in UTC, overhead, whether it was a hit).
        stages: (stage, kind of saving, calls, 10^-12 dollars, tokens).
        prompts: The dearest, dearest first.
        repeats: Prompts paid for more than once.
        prefixes: By model, what a provider's cache could have read.
        damaged: Records with an amount or a time that could not be read.
    """

    groups: Sequence[tuple[Group, Numbers]]
    days: Sequence[tuple[tuple[int, bool, bool], Numbers]]
    stages: Sequence[tuple[str, str, int, int, int]]
    prompts: Sequence[PromptNumbers]
    repeats: Repeats
    prefixes: Sequence[Prefixes]
    damaged: int = 0


def read_tally(db: sqlite3.Connection, where: str, values: Sequence[object]) -> Tally:
    """Sum up the calls of a ledger's file, all as of one moment.

    Args:
        db: A connection to a ledger of the newest version.
        where: SQL that selects from `calls`.
        values: For the question marks in it.

    Raises:
        sqlite3.Error: if the file cannot be read.
    """
    # A damaged amount is no amount, and a time no calendar has is none. Records with such are
    # passed over, here as everywhere.
    chosen = (
        f"{where} AND typeof(at) = 'real' AND at BETWEEN 0 AND {_LAST_MOMENT} "
        "AND typeof(usd) IN ('integer', 'null')"
    )
    db.execute("BEGIN")
    try:
        return Tally(
            groups=_groups(db, chosen, values),
            days=_days(db, chosen, values),
            stages=_stages(db, chosen, values),
            prompts=_prompts(db, chosen, values),
            repeats=_repeats(db, chosen, values),
            prefixes=_prefixes(db, chosen, values),
            damaged=_count(db, where, values) - _count(db, chosen, values),
        )
    finally:
        db.execute("ROLLBACK")


# A sum of 64 bits would overflow at nine million dollars, so dollars are summed in two parts.
_HIGH: Final = 1_000_000
_SUMS: Final = (
    f"count(*), sum(usd / {_HIGH}), sum(usd % {_HIGH}), sum(saved / {_HIGH}), "
    f"sum(saved % {_HIGH}), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), "
    "sum(cache_write_tokens), sum(unpriced), sum(estimated), total(seconds)"
)
_PAID: Final = "tier = '' AND NOT overhead"


def _numbers(row: Sequence[Any]) -> Numbers:
    calls, usd, usd_low, saved, saved_low, *counts, seconds = row
    sums = (calls, _money(usd, usd_low), _money(saved, saved_low), *map(int, counts), seconds)
    return Numbers._make(sums)


def _groups(
    db: sqlite3.Connection, where: str, values: Sequence[object]
) -> list[tuple[Group, Numbers]]:
    kinds = {
        row[0]: Group(_text(row[1]), _text(row[2]), bool(row[3]), *map(_text, row[4:]))
        for row in db.execute(
            f"SELECT id, operation, model, overhead, tier, {', '.join(SERIES_TAGS)} FROM series"  # noqa: S608
        )
    }
    unknown = Group("", "", False, *[""] * 7)  # noqa: FBT003
    rows = db.execute(f"SELECT series, {_SUMS} FROM calls WHERE {where} GROUP BY 1", values)  # noqa: S608
    return [(kinds.get(row[0], unknown), _numbers(row[1:])) for row in rows]


def _days(
    db: sqlite3.Connection, where: str, values: Sequence[object]
) -> list[tuple[tuple[int, bool, bool], Numbers]]:
    rows = db.execute(
        f"SELECT CAST(at / {DAY} AS INTEGER), overhead, tier <> '', {_SUMS} "  # noqa: S608
        f"FROM calls WHERE {where} GROUP BY 1, 2, 3",
        values,
    )
    return [((row[0], bool(row[1]), bool(row[2])), _numbers(row[3:])) for row in rows]


def _stages(
    db: sqlite3.Connection, where: str, values: Sequence[object]
) -> list[tuple[str, str, int, int, int]]:
    usd = "json_extract(savings, one.fullkey || '[1]')"
    tokens = "json_extract(savings, one.fullkey || '[2]')"
    rows = db.execute(
        "SELECT json_extract(savings, one.fullkey || '[0]'), "  # noqa: S608
        f"json_extract(savings, one.fullkey || '[3]'), count(*), "
        f"sum({usd} / {_HIGH}), sum({usd} % {_HIGH}), sum({tokens}) FROM calls, "
        "json_each(CASE WHEN json_valid(savings) THEN savings ELSE '[]' END) AS one "
        f"WHERE {where} AND savings <> '[]' AND typeof({usd}) IN ('integer', 'null') "
        f"AND typeof({tokens}) = 'integer' GROUP BY 1, 2",
        values,
    )
    return [
        (_text(row[0]), _text(row[1]), row[2], _money(row[3], row[4]), int(row[5])) for row in rows
    ]


def _prompts(db: sqlite3.Connection, where: str, values: Sequence[object]) -> list[PromptNumbers]:
    rows = db.execute(
        f"SELECT prompt_hash, model, series, sum({_PAID}), sum(tier <> ''), "  # noqa: S608
        f"sum(usd / {_HIGH}) AS high, sum(usd % {_HIGH}), sum(input_tokens), sum(output_tokens) "
        f"FROM calls WHERE {where} AND prompt_hash <> x'' GROUP BY 1 "
        f"ORDER BY high DESC, 1 LIMIT {_TOP_PROMPTS}",
        values,
    ).fetchall()
    features = {
        row[2]: db.execute("SELECT feature FROM series WHERE id = ?", (row[2],)).fetchone()
        for row in rows
    }
    return [
        PromptNumbers(
            _text(row[0]),
            _text(row[1]),
            _text((features[row[2]] or (b"",))[0]),
            int(row[3]),
            int(row[4]),
            _money(row[5], row[6]),
            int(row[7]),
            int(row[8]),
        )
        for row in rows
    ]


def _repeats(db: sqlite3.Connection, where: str, values: Sequence[object]) -> Repeats:
    prompts, again, usd, low = db.execute(
        f"SELECT count(*), sum(n - 1), sum((paid - paid / n) / {_HIGH}), "  # noqa: S608
        f"sum((paid - paid / n) % {_HIGH}) FROM ("
        f"SELECT count(*) AS n, coalesce(sum(usd), 0) AS paid FROM calls WHERE {where} "
        f"AND prompt_hash <> x'' AND {_PAID} GROUP BY prompt_hash HAVING n > 1)",
        values,
    ).fetchone()
    return Repeats(prompts, int(again or 0), _money(usd, low))


def _prefixes(db: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Prefixes]:
    rows = db.execute(
        "SELECT model, count(*), sum(unread - 1) FROM ("  # noqa: S608
        "SELECT model, sum(cache_read_tokens = 0) AS unread "
        f"FROM calls WHERE {where} AND prefix_hash <> x'' AND {_PAID} "
        f"GROUP BY prefix_hash, CAST(at / {_CACHE_SECONDS} AS INTEGER) HAVING unread > 1"
        ") GROUP BY 1",
        values,
    )
    return [Prefixes(_text(row[0]), int(row[1]), int(row[2])) for row in rows]


def _count(db: sqlite3.Connection, where: str, values: Sequence[object]) -> int:
    return int(db.execute(f"SELECT count(*) FROM calls WHERE {where}", values).fetchone()[0])  # noqa: S608


def _money(high: Any, low: Any) -> int:
    return int(high or 0) * _HIGH + int(low or 0)


def _text(value: object) -> str:
    """Read a text for people to look at: what is no text in the file is shown as such."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
