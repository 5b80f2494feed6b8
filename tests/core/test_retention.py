"""Retention: nothing is deleted before its copy is on the disk, and again changes nothing."""

import gzip
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError, StoreVersionError
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_archive import Archive, add_to_archive, written_whole
from costwise_core.ledger_retention import Retention, _alone, retain_calls, retain_reports
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.report.report import report_of
from costwise_core.types import CallRecord, Saving, Usage

DAY = 86_400.0


def call(ident, *, at=0.0, usd="0.25", **fields):
    fields = {"operation": "chat", "model": "m", "tags": (("user", f"u{ident}"),), **fields}
    return CallRecord(id=ident, at=at, usd=None if usd is None else Decimal(usd), **fields)


FULL = call(
    "full \ud800",
    usd="0.000000000001",
    usage=Usage(input_tokens=9, output_tokens=2, reasoning_tokens=1, estimated=True),
    savings=(
        Saving(stage="route", usd=Decimal("-0.5"), tokens=7, kind="modelled", why="w"),
        Saving(stage="compress", usd=None),
    ),
    overhead=True,
    tier="near",
    seconds=0.5,
    why="because \ud800\n",
    prompt_hash="p",
    prefix_hash="q",
)


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request, tmp_path):
    if request.param == "memory":
        yield MemoryLedger()
    else:
        with SQLiteLedger(tmp_path / "ledger.db") as opened:
            yield opened


def test_whole_days_that_are_old_go_to_a_file_each(ledger, tmp_path):
    records = [call(str(n), at=n * DAY / 4) for n in range(40)]  # ten days
    ledger.record([*records, FULL])
    before = report_of(ledger, clock=lambda: 0.0)
    policy = Retention(keep_days=3, archive=tmp_path / "old")
    kept = retain_calls(ledger, policy, clock=lambda: 9.5 * DAY)
    assert (kept.archived, kept.deleted) == (25, 0)
    assert sorted(path.name for path in (tmp_path / "old").glob("*.gz")) == [
        f"calls-1970-01-{day:02}.jsonl.gz" for day in range(1, 7)
    ]
    assert [record.id for record in ledger.records()] == [str(n) for n in range(24, 40)]
    archive = Archive(tmp_path / "old")
    assert set(archive.records()) == {*records[:24], FULL}
    assert report_of(ledger, archive, clock=lambda: 0.0) == before
    assert not retain_calls(ledger, policy, clock=lambda: 9.5 * DAY).archived


def test_an_archive_is_read_by_time_and_tags(tmp_path):
    add_to_archive(tmp_path, 0, [call("a", at=1.0), call("b", at=2.0)])
    (path,) = tmp_path.glob("*.gz")
    assert [record.id for record in Archive(path).records(since=2.0)] == ["b"]
    assert [record.id for record in Archive(tmp_path).records(tags=[("user", "ua")])] == ["a"]
    assert path.stat().st_mode & 0o077 == 0


def test_without_an_archive_old_records_are_deleted_with_all_that_names_them(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as ledger:
        ledger.record([call("a", savings=FULL.savings), call("b", at=50 * DAY)])
        kept = retain_calls(ledger, Retention(keep_days=1), clock=lambda: 51 * DAY)
        assert (kept.archived, kept.deleted) == (0, 1)
        with ledger._file.reading() as db:
            assert db.execute("SELECT value FROM tags").fetchall() == [(b"ub",)]
            assert db.execute("SELECT user FROM series").fetchall() == [(b"ub",)]
            assert not db.execute("SELECT * FROM savings").fetchall()


@pytest.mark.parametrize("column", ["tags", "savings"])
@pytest.mark.parametrize("value", ["{", "[[1, 2, 3, 4, 5]]", "[[[], 0, 0, {}, 0]]", "7"])
def test_a_damaged_record_is_deleted_with_all_that_names_it(tmp_path, column, value):
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record([replace(FULL, id="a", tags=(("user", "ann"),)), call("b")])
        with ledger._file.writing() as db:
            db.execute(f"UPDATE calls SET {column} = ? WHERE id = ?", (value, b"a"))
        assert ledger.delete(["a", "missing"]) == 1
        with ledger._file.reading() as db:
            assert db.execute("SELECT value FROM tags").fetchall() == [(b"ub",)]
            assert not db.execute("SELECT * FROM savings").fetchall()


def test_a_policy_that_makes_no_sense_is_refused():
    for wrong in (
        {"keep_days": 0},
        {"keep_days": float("nan")},
        {"keep_days": 5, "archive_days": 9},
        {"keep_days": 5, "archive": "x", "archive_days": 5},
    ):
        with pytest.raises(ConfigError):
            Retention(**wrong)


def test_archived_files_age_out_in_turn(ledger, tmp_path):
    ledger.record([call(str(day), at=day * DAY) for day in range(10)])
    policy = Retention(keep_days=2, archive=tmp_path / "old", archive_days=5)
    assert retain_calls(ledger, policy, clock=lambda: 10 * DAY).expired == 5
    assert {record.id for record in Archive(tmp_path / "old").records()} == {"5", "6", "7"}
    assert {record.id for record in ledger.records()} == {"8", "9"}


def test_records_that_come_late_join_the_file_of_their_day(ledger, tmp_path):
    policy = Retention(keep_days=1, archive=tmp_path / "old")
    for name in "ab":
        ledger.record([call(name, at=5.0)])
        retain_calls(ledger, policy, clock=lambda: 9 * DAY)
    assert [record.id for record in Archive(tmp_path / "old").records()] == ["a", "b"]


# --- cut short ----------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def test_cut_short_after_the_archive_was_written_nothing_is_there_twice(tmp_path, monkeypatch):
    path = tmp_path / "ledger.db"
    policy = Retention(keep_days=1, archive=tmp_path / "old")
    with SQLiteLedger(path) as ledger:
        ledger.record([call("a"), call("b")])
        before = report_of(ledger, clock=lambda: 0.0)

        def stop(self, ids):
            list(ids)
            raise StoppedError

        with monkeypatch.context() as patched:
            patched.setattr(SQLiteLedger, "delete", stop)
            with pytest.raises(StoppedError):
                retain_calls(ledger, policy, clock=lambda: 9 * DAY)
        archive = Archive(tmp_path / "old")
        assert report_of(ledger, archive, clock=lambda: 0.0) == before
        assert retain_calls(ledger, policy, clock=lambda: 9 * DAY).archived == 2
        assert [record.id for record in archive.records()] == ["a", "b"]
        assert not list(ledger.records())


def test_cut_short_while_writing_the_old_file_stays_and_nothing_is_deleted(tmp_path):
    add_to_archive(tmp_path, 0, [call("a")])

    def records():
        yield call("b")
        raise StoppedError

    with pytest.raises(StoppedError):
        add_to_archive(tmp_path, 0, records())
    assert [record.id for record in Archive(tmp_path).records()] == ["a"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_is_full_keeps_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(StoreUnavailableError, match="cannot be written"), written_whole(path):
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


KILLED = """
import sys
from costwise_core import Retention, SQLiteLedger, retain_calls
print("ready", flush=True)
with SQLiteLedger(sys.argv[1]) as ledger:
    retain_calls(ledger, Retention(keep_days=1, archive=sys.argv[2]))
"""


def test_killed_at_any_moment_no_record_is_lost(tmp_path):
    path, old = tmp_path / "ledger.db", tmp_path / "old"
    records = [call(str(n), at=n * 300.0) for n in range(3_000)]
    with SQLiteLedger(path) as ledger:
        ledger.record(records)
    made = random.Random(0)
    for _ in range(6):
        worker = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(old)], stdout=subprocess.PIPE
        )
        worker.stdout.readline()
        time.sleep(made.random() * 0.4)
        worker.kill()
        worker.wait()
        worker.stdout.close()
        with SQLiteLedger(path) as ledger:
            found = {record.id for record in ledger.records()}
        archive = Archive(old)
        found |= {record.id for record in archive.records()} if old.exists() else set()
        assert len(found) == 3_000
        assert not archive.damaged
    with SQLiteLedger(path) as ledger:
        retain_calls(ledger, Retention(keep_days=1, archive=old))
        assert not list(ledger.records())
    assert sorted(r.id for r in Archive(old).records()) == sorted(r.id for r in records)


def keep_writing(path, name):
    with SQLiteLedger(path, busy_timeout=30) as ledger:
        for n in range(300):
            ledger.record([call(f"{name}-{n}", at=float(n * 1_000))])


def test_processes_record_while_one_archives(tmp_path):
    path, old = tmp_path / "ledger.db", tmp_path / "old"
    workers = [
        multiprocessing.get_context("spawn").Process(target=keep_writing, args=(path, name))
        for name in "ab"
    ]
    for worker in workers:
        worker.start()
    policy = Retention(keep_days=1, archive=old)
    with SQLiteLedger(path, busy_timeout=30) as ledger:
        while any(worker.is_alive() for worker in workers):
            retain_calls(ledger, policy)
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        retain_calls(ledger, policy)
        assert not list(ledger.records())
    found = [record.id for record in Archive(old).records()]
    assert sorted(found) == sorted(f"{name}-{n}" for name in "ab" for n in range(300))


def test_two_may_not_archive_into_one_folder_at_once(tmp_path):
    ledger = MemoryLedger()
    ledger.record([call("a")])
    policy = Retention(keep_days=1, archive=tmp_path)
    with _alone(tmp_path), pytest.raises(StoreUnavailableError, match="locked"):
        retain_calls(ledger, policy)
    assert len(list(ledger.records())) == 1
    assert retain_calls(ledger, policy).archived == 1


# --- damage -------------------------------------------------------------------------------------


def damaged(folder, change):
    add_to_archive(folder, 0, [call("a"), call("b")])
    (path,) = folder.glob("*.gz")
    path.write_bytes(change(path.read_bytes()))
    return path


def rewritten(line):
    def change(data):
        return gzip.compress(gzip.decompress(data).splitlines()[0] + b"\n" + line + b"\n")

    return change


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"id": 5}',
        b"\xff",
        b"9" * 1_500_000,
    ],
)
def test_a_damaged_line_is_passed_over_and_counted(tmp_path, line):
    archive = Archive(damaged(tmp_path, rewritten(line)))
    assert not list(archive.records())
    assert archive.damaged >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("usd", 0.5),
        ("usd", "NaN"),
        ("usage", {"input_tokens": -1}),
        ("usage", {"inptu_tokens": 1}),
        ("savings", [{"stage": "x", "usd": None, "tokens": 1, "kind": "guessed", "why": ""}]),
        ("tags", [["a"]]),
        ("tier", "guess"),
        ("model", 7),
        ("at", "soon"),
        ("overhead", "no"),
    ],
)
def test_a_damaged_value_is_passed_over_and_counted(tmp_path, name, value):
    import json

    add_to_archive(tmp_path, 0, [call("a")])
    (path,) = tmp_path.glob("*.gz")
    heading, line = gzip.decompress(path.read_bytes()).splitlines()
    changed = json.dumps({**json.loads(line), name: value}).encode()
    path.write_bytes(gzip.compress(heading + b"\n" + changed + b"\n"))
    archive = Archive(path)
    assert not list(archive.records())
    assert archive.damaged == 1
    ledger = MemoryLedger()
    assert report_of(ledger, archive).damaged == 1


def test_nothing_is_added_to_a_damaged_file_and_nothing_deleted(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    path = damaged(old, lambda data: data[: len(data) // 2])
    before = path.read_bytes()
    ledger = MemoryLedger()
    ledger.record([call("c")])
    with pytest.raises(StoreError, match="damaged"):
        retain_calls(ledger, Retention(keep_days=1, archive=old))
    assert path.read_bytes() == before
    assert len(list(ledger.records())) == 1


def test_what_is_no_archive_is_said(tmp_path):
    for name, data in (
        ("text.gz", b"no gzip"),
        ("other.gz", gzip.compress(b'{"a": 1}\n')),
        ("newer.gz", gzip.compress(b'{"costwise": "calls", "version": 9}\n')),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StoreVersionError, match=r"no archive|newer costwise"):
            list(Archive(tmp_path / name).records())
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        list(Archive(tmp_path / "missing.gz").records())


# --- reports ------------------------------------------------------------------------------------


def test_old_reports_are_compressed_and_others_left_alone(tmp_path):
    folder, old = tmp_path / "reports", tmp_path / "old"
    folder.mkdir()
    for name in ("report-1.html", "report-2.md", "notes.html", "report.py"):
        (folder / name).write_text(name)
        os.utime(folder / name, (0, 0))
    (folder / "report-new.html").write_text("new")
    policy = Retention(keep_days=1, archive=old, archive_days=100_000)
    assert retain_reports(folder, policy).archived == 2
    assert {path.name for path in folder.iterdir()} == {
        "notes.html",
        "report.py",
        "report-new.html",
    }
    copy = old / "report-1-19700101T000000.html.gz"
    assert gzip.decompress(copy.read_bytes()) == b"report-1.html"
    assert not retain_reports(folder, policy).archived
    shorter = Retention(keep_days=1, archive=old, archive_days=2)
    assert retain_reports(folder, shorter).expired == 2
    assert not list(Path(old).glob("*.gz"))
