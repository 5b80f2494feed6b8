"""The sums a report is made of, read from a ledger's file by SQLite itself.

A million records are never made into objects: what leaves the file are sums over calls of one kind,
over days and over prompts.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from costwise_core.holdout import HOLDOUT, TREATED, Request, TrueSaving, saving_of
from costwise_core.ledger_schema import SERIES_TAGS
from costwise_core.types import SERVING

__all__ = [
    "DAY",
    "Group",
    "Kind",
    "Numbers",
    "Prefixes",
    "PromptNumbers",
    "Repeats",
    "Tally",
    "read_tally",
]

DAY: Final = 86_400
_TOP_PROMPTS: Final = 20
_LAST_MOMENT: Final = 253_402_300_799
"""The last second of the year 9999."""
_SOUND: Final = (
    # The plus keeps SQLite from going by this instead of the day it is asked for.
    f"typeof(at) = 'real' AND +at BETWEEN 0 AND {_LAST_MOMENT} "
    "AND typeof(usd) IN ('integer', 'null')"
)
"""A damaged amount is no amount, and a time no calendar has is none: such records are left out."""
_EVERYTHING: Final = f"1 AND {_SOUND}"
_CACHE_SECONDS: Final = 300
"""How long providers keep a prompt prefix at least."""


Kind: TypeAlias = Literal["paid", "hit", "serving", "own"]
"""What calls are: paid answers, hits, what served to answer requests, or costwise's own."""


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

    @property
    def kind(self) -> Kind:
        """What calls these are."""
        if self.overhead:
            return "own"
        if self.operation in SERVING:
            return "serving"
        return "hit" if self.tier else "paid"


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
        days: Sums by days since 1970 in UTC, and what calls they are.
        stages: (stage, kind of saving, calls, 10^-12 dollars, tokens).
        prompts: The dearest, dearest first.
        repeats: Prompts paid for more than once.
        prefixes: By model, what a provider's cache could have read.
        sampled: What a hold-out shows, or why it shows nothing yet; "" where nothing is held out.
        damaged: Records with an amount or a time that could not be read.
    """

    groups: Sequence[tuple[Group, Numbers]]
    days: Sequence[tuple[tuple[int, Kind], Numbers]]
    stages: Sequence[tuple[str, str, int, int, int]]
    prompts: Sequence[PromptNumbers]
    repeats: Repeats
    prefixes: Sequence[Prefixes]
    sampled: TrueSaving | str = ""
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
    db.execute("BEGIN")
    try:
        chosen = _chosen(db, where, values)
        groups = _groups(db, chosen)
        prompts, repeats = _prompts(db, chosen)
        wanted = db.execute(f"SELECT count(*) FROM calls WHERE {where}", values).fetchone()[0]  # noqa: S608
        return Tally(
            groups=groups,
            days=_days(db, chosen),
            stages=_stages(db, chosen),
            prompts=prompts,
            repeats=repeats,
            prefixes=_prefixes(db, chosen),
            sampled=_sampled(db, chosen),
            damaged=wanted - sum(numbers.calls for _, numbers in groups),
        )
    finally:
        db.execute("ROLLBACK")


def _chosen(db: sqlite3.Connection, where: str, values: Sequence[object]) -> str:
    """Return SQL that selects the wanted calls that are sound; what it looks up ends with ROLLBACK.

    Which calls carry a tag takes long to find, so it is found once and not for every sum.
    """
    if where == "1":
        return _EVERYTHING
    db.execute("CREATE TEMP TABLE chosen (seq INTEGER PRIMARY KEY)")
    db.execute(f"INSERT INTO chosen SELECT seq FROM calls WHERE {where} AND {_SOUND}", values)  # noqa: S608
    return "seq IN (SELECT seq FROM chosen)"


# A sum of 64 bits would overflow at nine million dollars, so dollars are summed in two parts.
_HIGH: Final = 1_000_000
_SUMS: Final = (
    f"count(*), sum(usd / {_HIGH}), sum(usd % {_HIGH}), sum(saved / {_HIGH}), "
    f"sum(saved % {_HIGH}), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), "
    "sum(cache_write_tokens), sum(unpriced), sum(estimated), total(seconds)"
)
_OWN_SUMS: Final = "coalesce(sum(overhead), 0), " + ", ".join(
    f"coalesce(sum({what}) FILTER (WHERE overhead), 0)"
    for what in (
        f"usd / {_HIGH}",
        f"usd % {_HIGH}",
        f"saved / {_HIGH}",
        f"saved % {_HIGH}",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "unpriced",
        "estimated",
        "seconds",
    )
)
_BLOBS: Final = ", ".join(f"CAST('{name}' AS BLOB)" for name in sorted(SERVING))
_SERVES: Final = f"(NOT overhead AND operation IN ({_BLOBS}))"
_PAID: Final = "tier = '' AND NOT overhead"
_HAS_PROMPT: Final = "prompt_hash <> x''"


def _numbers(row: Sequence[Any]) -> Numbers:
    calls, usd, usd_low, saved, saved_low, *counts, seconds = row
    sums = (calls, _money(usd, usd_low), _money(saved, saved_low), *map(int, counts), seconds)
    return Numbers._make(sums)


def _groups(db: sqlite3.Connection, where: str) -> list[tuple[Group, Numbers]]:
    kinds = {
        row[0]: Group(_text(row[1]), _text(row[2]), bool(row[3]), *map(_text, row[4:]))
        for row in db.execute(
            f"SELECT id, operation, model, overhead, tier, {', '.join(SERIES_TAGS)} FROM series"  # noqa: S608
        )
    }
    unknown = Group("", "", False, *[""] * 7)  # noqa: FBT003
    rows = db.execute(f"SELECT series, {_SUMS} FROM calls WHERE {where} GROUP BY 1")  # noqa: S608
    return [(kinds.get(row[0], unknown), _numbers(row[1:])) for row in rows]


def _days(db: sqlite3.Connection, where: str) -> list[tuple[tuple[int, Kind], Numbers]]:
    """Sum up day by day along the index of times, since sorting all records would cost more."""
    where = f"+{where}"  # which keeps SQLite from going through all that are chosen, every day
    first = f"SELECT min(at) FROM calls WHERE {where} AND at >= ?"  # noqa: S608
    sums = (
        f"SELECT {_SUMS}, {_OWN_SUMS}, coalesce(sum(tier <> '' AND NOT {_SERVES}), 0), "  # noqa: S608
        f"coalesce(sum({_SERVES}), 0), total(seconds) FILTER (WHERE {_SERVES}) "
        f"FROM calls WHERE {where} AND at >= ? AND at < ?"
    )
    found: list[tuple[tuple[int, Kind], Numbers]] = []
    after = 0.0
    while (at := db.execute(first, (after,)).fetchone()[0]) is not None:
        day = int(at // DAY)
        after = float((day + 1) * DAY)
        row = db.execute(sums, (day * DAY, after)).fetchone()
        every, own, (hits, serving, seconds) = _numbers(row[:12]), _numbers(row[12:24]), row[24:]
        rest = Numbers._make(one - other for one, other in zip(every, own, strict=True))
        # Of hits and what serves only the number is told apart: the rest is in the sums of all.
        paid = rest._replace(
            calls=rest.calls - hits - serving, seconds=max(0.0, rest.seconds - seconds)
        )
        found += [
            ((day, "paid"), paid),
            ((day, "hit"), Numbers(hits, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)),
            ((day, "serving"), Numbers(serving, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)),
            ((day, "own"), own),
        ]
    return found


def _stages(db: sqlite3.Connection, where: str) -> list[tuple[str, str, int, int, int]]:
    inner = "" if where == _EVERYTHING else f"WHERE {where}"
    rows = db.execute(
        f"SELECT stage, kind, count(*), sum(usd / {_HIGH}), sum(usd % {_HIGH}), sum(tokens) "  # noqa: S608
        f"FROM savings {inner} GROUP BY 1, 2"
    )
    return [
        (_text(row[0]), _text(row[1]), row[2], _money(row[3], row[4]), int(row[5])) for row in rows
    ]


def _prompts(db: sqlite3.Connection, where: str) -> tuple[list[PromptNumbers], Repeats]:
    """Sum up every prompt's cost once, keeping the dearest and the sum over repeated ones."""
    repeated, *dearest = db.execute(
        "WITH prompts AS MATERIALIZED ("  # noqa: S608
        "SELECT prompt_hash, count(*) AS calls, coalesce(sum(usd), 0) AS usd "
        f"FROM calls WHERE {where} AND {_HAS_PROMPT} AND {_PAID} GROUP BY 1"
        "), again AS ("
        "SELECT calls - 1 AS calls, usd - usd / calls AS usd FROM prompts WHERE calls > 1) "
        f"SELECT count(*), sum(calls), sum(usd / {_HIGH}), sum(usd % {_HIGH}) FROM again "
        "UNION ALL SELECT * FROM (SELECT prompt_hash, NULL, NULL, NULL FROM prompts "
        f"ORDER BY usd DESC, prompt_hash LIMIT {_TOP_PROMPTS})"
    ).fetchall()
    prompts, again, usd, low = repeated
    repeats = Repeats(prompts, int(again or 0), _money(usd, low))
    return _dearest(db, where, [row[0] for row in dearest]), repeats


def _dearest(db: sqlite3.Connection, where: str, ranked: Sequence[bytes]) -> list[PromptNumbers]:
    rows = db.execute(
        f"SELECT prompt_hash, model, series, sum({_PAID}), sum(tier <> ''), "  # noqa: S608
        f"sum(usd / {_HIGH}), sum(usd % {_HIGH}), sum(input_tokens), sum(output_tokens) "
        f"FROM calls WHERE {where} AND {_HAS_PROMPT} AND NOT overhead "
        f"AND prompt_hash IN ({', '.join('?' * len(ranked))}) GROUP BY 1",
        tuple(ranked),
    ).fetchall()
    found = {}
    for name, model, series, paid_calls, hits, usd, low, sent, produced in rows:
        feature = db.execute("SELECT feature FROM series WHERE id = ?", (series,)).fetchone()
        found[name] = PromptNumbers(
            _text(name),
            _text(model),
            _text(feature[0] if feature else b""),
            int(paid_calls),
            int(hits),
            _money(usd, low),
            int(sent),
            int(produced),
        )
    return [found[name] for name in ranked]


def _prefixes(db: sqlite3.Connection, where: str) -> list[Prefixes]:
    rows = db.execute(
        "SELECT model, count(*), sum(unread - 1) FROM ("  # noqa: S608
        "SELECT model, count(*) AS unread "
        f"FROM calls WHERE {where} AND prefix_hash <> x'' AND cache_read_tokens = 0 AND {_PAID} "
        f"GROUP BY prefix_hash, CAST(at / {_CACHE_SECONDS} AS INTEGER) HAVING unread > 1"
        ") GROUP BY 1"
    )
    return [Prefixes(_text(row[0]), int(row[1]), int(row[2])) for row in rows]


def _sampled(db: sqlite3.Connection, where: str) -> TrueSaving | str:
    """Compare the arms of a hold-out, request by request; without one this costs nothing."""
    if not db.execute("SELECT 1 FROM series WHERE arm = CAST(? AS BLOB)", (HOLDOUT,)).fetchone():
        return ""
    # From the tags to the calls: the other way round nothing leads, and it would be quadratic.
    request = "SELECT seq AS call, value FROM tags WHERE name = CAST('request' AS BLOB)"
    sums = "sum(usd), sum(saved - CASE WHEN calls.overhead THEN usd ELSE 0 END), sum(usd IS NULL) "
    series = "series.id = calls.series AND arm IN (CAST(? AS BLOB), CAST(? AS BLOB))"
    asked = db.execute(
        f"SELECT arm, {sums} FROM ({request}) AS asked CROSS JOIN calls "  # noqa: S608
        f"ON calls.seq = asked.call CROSS JOIN series ON {series} "
        f"WHERE {where} GROUP BY arm, asked.value",
        (HOLDOUT, TREATED),
    )
    alone = db.execute(
        f"SELECT arm, {sums} FROM calls CROSS JOIN series ON {series} "  # noqa: S608
        f"WHERE {where} AND calls.seq NOT IN (SELECT call FROM ({request})) GROUP BY calls.seq",
        (HOLDOUT, TREATED),
    )
    return saving_of(
        Request(arm.decode(), paid or 0, claimed or 0, not unpriced)
        for arm, paid, claimed, unpriced in chain(asked, alone)
    )


def _money(high: Any, low: Any) -> int:
    return int(high or 0) * _HIGH + int(low or 0)


def _text(value: object) -> str:
    """Read a text for people to look at: what is no text in the file is shown as such."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
