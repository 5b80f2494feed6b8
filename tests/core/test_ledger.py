"""Both ledgers: exact sums, once per id, by tag; and the file shared, killed, damaged and full."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.types import CallRecord, Saving, Usage


def call(ident="1", *, at=1.0, usd="0.25", tags=(), **fields):
    fields = {"operation": "chat", "model": "m", **fields}
    amount = None if usd is None else Decimal(usd)
    return CallRecord(id=ident, at=at, usd=amount, tags=tags, **fields)


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request, tmp_path):
    if request.param == "memory":
        yield MemoryLedger()
    else:
        with SQLiteLedger(tmp_path / "ledger.db") as opened:
            yield opened


FULL = call(
    "full",
    usd="0.000000000001",
    tags=(("feature", "faq"), ("team", "söme \ud800 'team'")),
    usage=Usage(
        input_tokens=9, output_tokens=2, cache_read_tokens=3, reasoning_tokens=1, estimated=True
    ),
    savings=(
        Saving(stage="response_cache", usd=Decimal("-0.5"), tokens=7, kind="modelled", why="w"),
        Saving(stage="trim", usd=None),
    ),
    overhead=True,
    tier="near",
    seconds=0.5,
    why="because \ud800",
)


def test_a_record_comes_back_as_it_was(ledger):
    ledger.record([FULL, call("unpriced", usd=None)])
    assert list(ledger.records()) == [FULL, call("unpriced", usd=None)]


def test_an_id_counts_once(ledger):
    ledger.record([call("a"), call("a", usd="9")])
    ledger.record([call("a", usd="9", tags=(("feature", "x"),)), call("b")])
    assert ledger.spent() == Decimal("0.50")
    assert [record.id for record in ledger.records()] == ["a", "b"]
    assert not list(ledger.records(tags=[("feature", "x")]))


def test_records_are_found_by_tags_and_time_oldest_first(ledger):
    faq, ops = ("feature", "faq"), ("team", "ops")
    ledger.record([call("3", at=3.0, tags=(faq, ops)), call("1", at=1.0, tags=(faq,))])
    ledger.record([call("2", at=2.0, tags=(ops,)), call("0", at=0.0)])

    def ids(**query):
        return [record.id for record in ledger.records(**query)]

    assert ids() == ["0", "1", "2", "3"]
    assert ids(tags=[faq]) == ["1", "3"]
    assert ids(tags=[faq, ops]) == ["3"]
    assert ids(since=2.0) == ["2", "3"]
    assert ids(since=2.5, tags=iter([ops])) == ["3"]
    assert ids(tags=[("feature", "' OR 1=1 --")]) == []
    assert ledger.spent(since=2.0, tags=[ops]) == Decimal("0.50")


def test_more_records_than_a_page_and_many_at_one_instant(ledger):
    ledger.record([call(str(n), at=float(n // 700)) for n in range(2_100)])
    assert [record.id for record in ledger.records()] == [str(n) for n in range(2_100)]


def test_sums_beyond_64_bits_are_exact(ledger):
    ledger.record([call(str(n), usd="9000000.000000000001") for n in range(4)])
    assert ledger.spent() == Decimal("36000000.000000000004")


def test_an_empty_ledger(ledger):
    assert ledger.spent() == 0
    assert not list(ledger.records())
    ledger.record([])


AMOUNTS = st.decimals(-1000, 1000, places=12)


@settings(max_examples=25, deadline=None)
@given(amounts=st.lists(AMOUNTS, max_size=20))
def test_sums_are_exact(tmp_path_factory, amounts):
    records = [call(str(n), usd=usd) for n, usd in enumerate(amounts)]
    expected = sum(amounts, Decimal(0))
    memory = MemoryLedger()
    memory.record(records)
    assert memory.spent() == expected
    with SQLiteLedger(tmp_path_factory.mktemp("sums") / "ledger.db") as ledger:
        ledger.record(records)
        assert ledger.spent() == expected
        assert [record.usd for record in ledger.records()] == amounts


def test_threads_write_at_once(ledger):
    def work(name):
        for n in range(100):
            ledger.record([call(f"{name}-{n}", usd="0.01"), call(f"shared-{n}", usd="0.01")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.spent() == Decimal("5.00")


# --- the file -----------------------------------------------------------------------------------


def test_constructing_touches_nothing(tmp_path):
    SQLiteLedger(tmp_path / "missing" / "ledger.db")
    assert not list(tmp_path.iterdir())
    for path in ("", ":memory:", "file:x"):
        with pytest.raises(ConfigError, match="MemoryLedger"):
            SQLiteLedger(path)
    with pytest.raises(ConfigError, match="busy_timeout"):
        SQLiteLedger(tmp_path / "l.db", busy_timeout=-1)


def test_the_file_is_private_and_closing_is_not_the_end(tmp_path):
    ledger = SQLiteLedger(tmp_path / "ledger.db")
    ledger.record([call("a")])
    assert (tmp_path / "ledger.db").stat().st_mode & 0o077 == 0
    ledger.close()
    ledger.record([call("b")])
    assert ledger.spent() == Decimal("0.50")
    ledger.close()


def write_some(path, name):
    with SQLiteLedger(path, busy_timeout=30) as ledger:
        for n in range(100):
            ledger.record([call(f"{name}-{n}", usd="0.01"), call(f"shared-{n}", usd="0.01")])


def test_processes_share_one_file(tmp_path):
    path = tmp_path / "ledger.db"
    workers = [
        multiprocessing.get_context("spawn").Process(target=write_some, args=(path, name))
        for name in "abc"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with SQLiteLedger(path) as ledger:
        assert ledger.spent() == Decimal("4.00")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_opens_the_file_for_itself(tmp_path):
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record([call("parent")])
        child = os.fork()
        if child == 0:
            try:
                ledger.record([call("child")])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert {record.id for record in ledger.records()} == {"parent", "child"}


KILLED = """
import sys
from decimal import Decimal
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.types import CallRecord
ledger = SQLiteLedger(sys.argv[1])
n = 0
while True:
    both = [CallRecord(id=f"{sys.argv[2]}-{n}-{half}", at=0.0, operation="chat", model="m",
                       usd=Decimal(1), tags=(("feature", "faq"),)) for half in "ab"]
    ledger.record(both)
    print(n, flush=True)
    n += 1
"""


def test_killed_writers_lose_nothing_they_were_told_is_written(tmp_path):
    path = tmp_path / "ledger.db"
    acknowledged = set()
    for run in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(run)], stdout=subprocess.PIPE
        )
        first = writer.stdout.readline()
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        lines = [first, *writer.stdout.read().splitlines()]
        writer.stdout.close()
        writer.wait()
        acknowledged |= {f"{run}-{int(line)}" for line in lines if line.strip()}
    with SQLiteLedger(path) as ledger:
        found = {record.id for record in ledger.records(tags=[("feature", "faq")])}
    assert {f"{name}-{half}" for name in acknowledged for half in "ab"} <= found
    assert all(f"{ident[:-1]}b" in found for ident in found), "a transaction was torn in half"


def test_a_newer_or_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as ledger:
        ledger.record([call()])
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreVersionError, match="newer costwise"):
        SQLiteLedger(path).spent()
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StoreVersionError, match="not written by this kind of store"):
        SQLiteLedger(foreign).record([call()])
    text = tmp_path / "text.db"
    text.write_text("this is no database, but long enough to look at " * 50)
    with pytest.raises(StoreVersionError, match="not a SQLite database"):
        list(SQLiteLedger(text).records())


def test_a_folder_that_is_missing_is_said_at_first_use(tmp_path):
    with pytest.raises(StoreUnavailableError, match="folder must exist"):
        SQLiteLedger(tmp_path / "missing" / "ledger.db").record([call()])


def test_a_read_only_file_is_said_at_first_write(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as ledger:
        ledger.record([call()])
        # Root may write to any file, so the connection itself is made read-only.
        with ledger._file.writing() as db:
            pass
        db.execute("PRAGMA query_only=1")
        with pytest.raises(StoreUnavailableError, match="may only be read"):
            ledger.record([call("2")])


def test_a_full_disk_is_said_and_loses_nothing_written_before(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as ledger:
        ledger.record([call()])
        with ledger._file.writing() as db:
            pass
        db.execute("PRAGMA max_page_count=1")
        with pytest.raises(StoreUnavailableError, match="full"):
            ledger.record([call(str(n), why="x" * 1_000) for n in range(1_000)])
        assert ledger.spent() == Decimal("0.25")


def test_a_locked_file_is_given_up_after_the_time_allowed(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path, busy_timeout=0.05) as ledger:
        ledger.record([call()])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            ledger.record([call("2")])
        other.close()


def test_an_absurd_amount_is_refused(tmp_path):
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        with pytest.raises(StoreError, match="cannot be recorded"):
            ledger.record([call(usd="1e9")])
        assert ledger.spent() == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("usd", "free"),
        ("usd", b"\x00"),
        ("usd", 0.5),
        ("usage", "{"),
        ("usage", '{"input_tokens": -1}'),
        ("usage", '{"input_tokens": "1"}'),
        ("usage", '{"inptu_tokens": 1}'),
        ("usage", "[" * 100_000),
        ("savings", '[["trim", 0.5, 1, "measured", ""]]'),
        ("savings", '[["trim", 5, 1, "guessed", ""]]'),
        ("savings", "[3]"),
        ("tags", '[["a"]]'),
        ("tier", "guess"),
        ("model", b"\xff\xfe"),
        ("at", "soon"),
        ("seconds", "long"),
    ],
)
def test_a_damaged_row_is_passed_over_and_counted(tmp_path, column, value):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as ledger:
        ledger.record([call("damaged"), call("whole", at=0.5), call("last", at=2.0)])
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE calls SET {column} = ? WHERE id = ?", (value, b"damaged"))
        db.close()
        assert {record.id for record in ledger.records()} == {"whole", "last"}
        assert ledger.damaged == 1
        assert ledger.spent() in (Decimal("0.50"), Decimal("0.75"))
