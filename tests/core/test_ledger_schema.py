"""A ledger of an earlier version opens, with every record and sum in it as before."""

import json
import sqlite3
from decimal import Decimal

import pytest

from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.report.report import report_of
from costwise_core.types import CallRecord, Saving, Usage

# Written down as version 1 made it, not made by today's code.
VERSION_1 = """
CREATE TABLE calls (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, at REAL NOT NULL, operation BLOB NOT NULL,
    model BLOB NOT NULL, usd INTEGER, usage TEXT NOT NULL, savings TEXT NOT NULL,
    tags TEXT NOT NULL, overhead INTEGER NOT NULL, tier TEXT NOT NULL, seconds REAL NOT NULL,
    why BLOB NOT NULL
);
CREATE INDEX calls_at ON calls (at);
CREATE TABLE tags (
    name BLOB NOT NULL, value BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name, value, seq)
) WITHOUT ROWID;
PRAGMA application_id = 1129796428;
PRAGMA user_version = 1;
"""
ROWS = [
    # id, at, model, usd, usage, savings, tags, overhead, tier
    ("a", 1.0, "gpt", 250_000_000_000, {"input_tokens": 9, "output_tokens": 2, "estimated": True},
     [["route", 500_000_000_000, 3, "measured", "w"], ["compress", None, 7, "modelled", ""]],
     [["feature", "faq"], ["user", "ü\ud800"]], 0, ""),
    ("b", 2.0, "gpt", 0, {}, [["response_cache", 7, 1, "measured", ""]], [["feature", "faq"]],
     0, "near"),
    ("c", 86_403.0, "new", None, {"input_tokens": 5, "cache_read_tokens": 4}, [], [], 1, ""),
]  # fmt: skip
RECORDS = [
    CallRecord(
        id="a", at=1.0, operation="chat", model="gpt", usd=Decimal("0.25"),
        usage=Usage(input_tokens=9, output_tokens=2, estimated=True),
        savings=(
            Saving(stage="route", usd=Decimal("0.5"), tokens=3, why="w"),
            Saving(stage="compress", usd=None, tokens=7, kind="modelled"),
        ),
        tags=(("feature", "faq"), ("user", "ü\ud800")), seconds=0.5, why="y",
    ),
    CallRecord(
        id="b", at=2.0, operation="chat", model="gpt", usd=Decimal(0), tier="near",
        savings=(Saving(stage="response_cache", usd=Decimal("0.000000000007"), tokens=1),),
        tags=(("feature", "faq"),), seconds=0.5, why="y",
    ),
    CallRecord(
        id="c", at=86_403.0, operation="chat", model="new", usd=None,
        usage=Usage(input_tokens=5, cache_read_tokens=4), overhead=True, seconds=0.5, why="y",
    ),
]  # fmt: skip


def blob(text):
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
        for seq, (ident, at, model, usd, usage, savings, tags, own, tier) in enumerate(ROWS, 1):
            db.execute(
                "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0.5, ?)",
                (
                    seq, blob(ident), at, b"chat", blob(model), usd, json.dumps(usage),
                    json.dumps(savings), json.dumps(tags), own, tier, b"y",
                ),
            )  # fmt: skip
            db.executemany(
                "INSERT INTO tags VALUES (?, ?, ?)",
                [(blob(name), blob(value), seq) for name, value in tags],
            )
    db.close()
    return path


def sums(ledger):
    query = (
        "SELECT id, input_tokens, output_tokens, cache_read_tokens, estimated, saved, unpriced, "
        "series.operation, series.model, series.overhead, series.tier, feature, user, arm "
        "FROM calls JOIN series ON series.id = calls.series ORDER BY calls.id"
    )
    with ledger._file.reading() as db:
        return db.execute(query.replace("SELECT id", "SELECT calls.id")).fetchall()


def test_a_ledger_of_version_1_opens_with_all_that_was_in_it(old, tmp_path):
    with SQLiteLedger(old) as ledger, SQLiteLedger(tmp_path / "new.db") as new:
        assert list(ledger.records()) == RECORDS
        assert ledger.spent(tags=[("feature", "faq")]) == Decimal("0.25")
        new.record(RECORDS)
        assert sums(ledger) == sums(new)
        now = {"clock": lambda: 0.0}
        assert report_of(ledger, **now) == report_of(new, **now)
        ledger.record([CallRecord(id="d", at=3.0, operation="chat", model="gpt")])
        assert len(list(ledger.records())) == 4
    with SQLiteLedger(old) as again:
        assert len(list(again.records())) == 4


@pytest.mark.parametrize("column", ["usage", "savings", "usd", "at", "tier"])
@pytest.mark.parametrize("value", ["{", "[3]", '["x"]', "null", b"\xff", 9e99, 2**62])
def test_damage_in_an_old_file_does_not_keep_it_from_opening(old, column, value):
    with sqlite3.connect(old) as db:
        db.execute(f"UPDATE calls SET {column} = ? WHERE id = ?", (value, b"a"))
    db.close()
    with SQLiteLedger(old) as ledger:
        assert {record.id for record in ledger.records()} >= {"b", "c"}
        assert report_of(ledger).to_html()


def test_a_ledger_of_version_2_opens_and_is_summed_up_without_reading_its_rows(tmp_path):
    path, now = tmp_path / "old.db", {"clock": lambda: 0.0}
    with SQLiteLedger(path) as ledger:
        ledger.record(RECORDS)
        before = report_of(ledger, **now)
    with sqlite3.connect(path) as db:  # all that version 3 added
        db.execute("DROP INDEX calls_series")
        db.execute("DROP INDEX calls_prompt")
        db.execute("PRAGMA user_version = 2")
    db.close()
    with SQLiteLedger(path) as ledger:
        assert list(ledger.records()) == RECORDS
        assert report_of(ledger, **now) == before
        with ledger._file.reading() as db:
            assert db.execute("PRAGMA user_version").fetchone() == (3,)
            plan = db.execute(
                "EXPLAIN QUERY PLAN SELECT series, sum(usd), total(seconds) FROM calls GROUP BY 1"
            ).fetchall()
        assert [b"COVERING INDEX calls_series" in step[-1] for step in plan] == [True]


def test_an_old_file_that_two_open_at_once_is_brought_up_to_date_once(old):
    with SQLiteLedger(old) as one, SQLiteLedger(old) as other:
        assert one.spent() == other.spent()
        assert sums(one) == sums(other)
