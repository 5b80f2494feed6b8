"""What only a file can do: survive, be shared, full, locked, damaged, or somebody else's."""

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, SQLiteStore
from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    VectorError,
)
from costwise_core.stores.sqlite_rows import APPLICATION_ID, SCHEMA
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
from costwise_core.types import Selection, Usage

SCOPE = make_entry().scope

WRITER = """
import sys
from costwise_core import SQLiteStore
from costwise_core.testing.stores import make_entry
store = SQLiteStore(sys.argv[1], busy_timeout=10)
first = int(sys.argv[2])
for number in range(first, first + 1_000_000, 3):
    batch = [make_entry(n, answer=f"answer {n} " * 200) for n in range(number, number + 3)]
    store.put(batch)
    print(number, flush=True)
"""

# Does what it is told, one command a line, and answers each with one line of JSON.
PARTNER = """
import json, sys
from costwise_core import SQLiteStore
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
from costwise_core.types import Selection
store = SQLiteStore(sys.argv[1], busy_timeout=10)
scope = make_entry().scope
for line in sys.stdin:
    verb, *numbers = json.loads(line)
    if verb == "put":
        store.put([make_entry(n, answer=f"partner {n}") for n in numbers])
        answer = True
    elif verb == "delete":
        answer = store.delete(Selection(keys=tuple(make_entry(n).key for n in numbers)))
    elif verb == "get":
        found = store.get(make_entry(numbers[0]).key, scope)
        answer = found and found.answer
    elif verb == "list":
        answer = [entry.answer for entry in store.entries(Selection())]
    elif verb == "append":
        answer = store.append("log", [str(n) for n in numbers])
    elif verb == "read":
        answer = store.read("log", *map(str, numbers))
    elif verb == "acquire":
        answer = store.acquire("job", "partner", numbers[0])
    elif verb == "release":
        answer = store.release("job", "partner")
    elif verb == "near":
        answer = [n.entry.answer for n in store.search(direction(numbers[0]), 2, scope, EMBEDDER)]
    print(json.dumps(answer), flush=True)
"""

SHARER = """
import sys
from costwise_core import SQLiteStore
store = SQLiteStore(sys.argv[1], busy_timeout=10)
me, rows = sys.argv[2], int(sys.argv[3])
for number in range(rows):
    store.append("log", [f"{me} {number} {part}" for part in "abc"])
    if store.acquire(f"job {number}", me, 600):
        print(f"won {number}", flush=True)
    print(f"row {number}", flush=True)
"""

# What version 1 of the file was made with. It never changes: such files exist.
VERSION_1 = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope BLOB NOT NULL,
    key BLOB NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    used REAL NOT NULL,
    bytes INTEGER NOT NULL,
    usage TEXT NOT NULL,
    tags TEXT NOT NULL,
    tenant BLOB NOT NULL,
    model BLOB NOT NULL,
    corpus BLOB NOT NULL,
    embedder BLOB NOT NULL,
    dim INTEGER NOT NULL,
    vector BLOB,
    question BLOB NOT NULL,
    answer BLOB NOT NULL
);;
CREATE UNIQUE INDEX entries_name ON entries (scope, key);;
CREATE INDEX entries_used ON entries (used);;
CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL;;
CREATE TABLE gone (seq INTEGER PRIMARY KEY, id INTEGER NOT NULL);;
CREATE TABLE totals (
    embedder BLOB PRIMARY KEY,
    dim INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO totals VALUES (new.embedder, new.dim, 1, new.bytes)
        ON CONFLICT DO UPDATE SET entries = entries + 1, bytes = bytes + excluded.bytes;
END;;
CREATE TRIGGER entry_gone AFTER DELETE ON entries BEGIN
    INSERT INTO gone (id) VALUES (old.id);
    UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes
        WHERE embedder = old.embedder;
    DELETE FROM totals WHERE embedder = old.embedder AND entries <= 0;
END
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def store(path: Path):
    with SQLiteStore(path, busy_timeout=10) as store:
        yield store


def near(store: SQLiteStore, number: int, k: int = 1) -> list[str]:
    return [n.entry.answer for n in store.search(direction(number), k, SCOPE, EMBEDDER)]


def raw(path: Path, *statement: object) -> list[tuple]:
    """Run one statement behind the store's back."""
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        return db.execute(*statement).fetchall()
    finally:
        db.close()


# --- it outlives its process ------------------------------------------------------------------


def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    rng = random.Random(7)
    acknowledged: set[int] = set()
    for round_ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(round_ * 1_000_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        acknowledged.add(int(writer.stdout.readline()))
        time.sleep(rng.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].splitlines(keepends=True)
        acknowledged.update(int(line) for line in rest if line.endswith("\n"))
        assert writer.returncode == -signal.SIGKILL
        assert raw(path, "PRAGMA integrity_check") == [("ok",)]
        with SQLiteStore(path) as store:
            for number in acknowledged:
                for n in range(number, number + 3):
                    found = store.get(make_entry(n).key, SCOPE)
                    assert found is not None
                    assert found.answer == f"answer {n} " * 200
            some = rng.choice(sorted(acknowledged))
            assert near(store, some) == [f"answer {some} " * 200]
            assert store.damaged == 0
        # Whole batches only, and every row with both its vector and its answer.
        ((rows, whole),) = raw(
            path, "SELECT count(*), sum(length(vector) = 4 * dim AND answer != '') FROM entries"
        )
        assert rows == whole
        assert rows % 3 == 0
        assert rows >= 3 * len(acknowledged)
    assert len(acknowledged) > 40


def test_logs_and_leases_survive_kill_9(path: Path) -> None:
    rng = random.Random(11)
    rows: list[str] = []
    holders: dict[str, str] = {}
    for round_ in range(10):
        sharer = subprocess.Popen(
            [sys.executable, "-c", SHARER, str(path), f"s{round_}", "1000000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert sharer.stdout is not None
        said = [sharer.stdout.readline()]
        time.sleep(rng.uniform(0.0, 0.05))
        sharer.send_signal(signal.SIGKILL)
        said += sharer.communicate()[0].splitlines(keepends=True)
        assert sharer.returncode == -signal.SIGKILL
        for verb, number in (line.split() for line in said if line.endswith("\n")):
            if verb == "won":
                assert holders.setdefault(number, f"s{round_}") == f"s{round_}"
            else:
                rows += [f"s{round_} {number} {part}" for part in "abc"]
        with SQLiteStore(path) as store:
            kept, _ = store.read("log")
            assert set(rows) <= set(kept)
            assert [row[-1] for row in kept] == ["a", "b", "c"] * (len(kept) // 3)
            for number, holder in list(holders.items())[-20:]:
                assert not store.acquire(f"job {number}", "another", 600)
                assert store.acquire(f"job {number}", holder, 600)
        assert raw(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(rows) > 60
    assert holders


# --- it is shared -------------------------------------------------------------------------------


@pytest.fixture
def partner(path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", PARTNER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def tell(verb: str, *numbers: int):
        process.stdin.write(json.dumps([verb, *numbers]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield tell
    process.communicate()
    assert process.returncode == 0


def test_two_processes_see_each_other_at_once(store: SQLiteStore, partner) -> None:
    assert near(store, 1) == partner("near", 1) == []
    partner("put", 1, 2)
    assert near(store, 1) == ["partner 1"]
    store.put([make_entry(1, answer="mine"), make_entry(3, answer="mine too")])
    assert partner("get", 1) == "mine"
    assert partner("near", 1)[0] == "mine"
    assert partner("near", 3)[0] == "mine too"
    assert partner("delete", 3) == 1
    assert store.get(make_entry(3).key, SCOPE) is None
    assert "mine too" not in near(store, 3, 9)
    partner("put", 3)
    assert near(store, 3) == ["partner 3"]
    assert store.delete(Selection()) == 3
    assert partner("near", 1) == []
    assert partner("get", 1) is None


def test_two_processes_share_logs_and_leases(store: SQLiteStore, partner) -> None:
    partner("append", 1, 2)
    rows, position = store.read("log")
    assert rows == ["1", "2"]
    store.append("log", ["3"])
    assert partner("read") == [["1", "2", "3"], "3"]
    assert partner("read", int(position)) == [["3"], "3"]
    assert partner("acquire", 60)
    assert not store.acquire("job", "me", 60)
    partner("release")
    assert store.acquire("job", "me", 60)
    assert not partner("acquire", 60)
    store.put([make_entry(2, created=1.0), make_entry(1)])
    assert partner("list") == ["answer 2", "answer 1"]


def test_processes_that_append_and_claim_at_once(path: Path) -> None:
    sharers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARER, str(path), f"s{number}", "40"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    said = [sharer.communicate()[0].splitlines() for sharer in sharers]
    assert [sharer.returncode for sharer in sharers] == [0] * 6
    won = sorted(int(line[4:]) for lines in said for line in lines if line.startswith("won"))
    assert won == list(range(40))
    with SQLiteStore(path) as store:
        rows, position = store.read("log")
    assert position == str(len(rows)) == str(6 * 40 * 3)
    for number in range(6):
        own = [row for row in rows if row.startswith(f"s{number} ")]
        assert own == [f"s{number} {step} {part}" for step in range(40) for part in "abc"]


def test_a_log_in_a_deleted_file_starts_again(store: SQLiteStore, path: Path) -> None:
    store.append("log", ["a", "b"])
    _, position = store.read("log")
    path.unlink()
    store.append("log", ["c"])
    assert store.read("log", position) == (["c"], "1")


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "٣", "9" * 30])
def test_a_position_that_is_none(store: SQLiteStore, position: str) -> None:
    with pytest.raises(StoreError, match="position"):
        store.read("log", position)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"x" * 5_000, 7])
def test_a_damaged_row_of_a_log_is_passed_over(store: SQLiteStore, path: Path, damage) -> None:
    store.append("log", ["a", "b", "c"])
    raw(path, "UPDATE journal SET row = ? WHERE seq = 2", (damage,))
    assert store.read("log") == (["a", "c"], "3")
    assert store.damaged == 1


def test_a_process_that_slept_through_the_log_of_deletions(store, path, monkeypatch) -> None:
    monkeypatch.setattr("costwise_core.stores.sqlite._GONE_KEPT", 5)
    with SQLiteStore(path) as sleeper:
        store.put([make_entry(n) for n in range(40)])
        assert near(sleeper, 7) == ["answer 7"]
        for n in range(30):
            store.delete(Selection(keys=(make_entry(n).key,)))
        ((kept,),) = raw(path, "SELECT count(*) FROM gone")
        assert kept <= 6
        assert sorted(near(sleeper, 7, 99)) == sorted(f"answer {n}" for n in range(30, 40))


def test_processes_that_start_together(path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER.replace("1_000_000", "9"), str(path), str(first)],
            stdout=subprocess.PIPE,
        )
        for first in range(0, 600, 100)
    ]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 6
    with SQLiteStore(path) as store:
        assert len(near(store, 0, 999)) == 6 * 9


def test_many_threads_and_two_stores_on_one_file(path: Path) -> None:
    stores = [SQLiteStore(path, busy_timeout=30) for _ in range(2)]
    barrier = threading.Barrier(8)

    def work(worker: int) -> None:
        mine, other = stores[worker % 2], stores[1 - worker % 2]
        barrier.wait()
        for step in range(25):
            number = worker * 1000 + step
            mine.put([make_entry(number)])
            assert near(other, number) == [f"answer {number}"]
            other.delete(Selection(keys=(make_entry(number).key,)))
            assert mine.get(make_entry(number).key, SCOPE) is None
            assert near(mine, number) != [f"answer {number}"]

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, worker) for worker in range(8)]:
            future.result()
    for each in stores:
        assert near(each, 1, 99) == []
        each.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_files_of_its_own(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(1)])
    assert near(store, 1) == ["answer 1"]
    child = os.fork()
    if child == 0:  # pragma: no cover - measured in the parent only
        try:
            store.put([make_entry(2)])
            fine = near(store, 2) == ["answer 2"] and "answer 1" in near(store, 1)
            store.close()
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    for n in range(10, 60):  # the parent goes on meanwhile
        store.put([make_entry(n)])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert near(store, 2) == ["answer 2"]
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_deleted_file_is_made_again(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(1)])
    assert near(store, 1) == ["answer 1"]
    path.unlink()
    assert store.get(make_entry(1).key, SCOPE) is None
    store.put([make_entry(2)])
    assert near(store, 1, 9) == ["answer 2"]
    with SQLiteStore(path) as other:
        assert near(other, 1, 9) == ["answer 2"]
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


# --- it has limits ------------------------------------------------------------------------------


def test_the_least_recently_used_leave_first(path: Path) -> None:
    clock = FakeClock()
    with SQLiteStore(path, max_entries=3, clock=clock) as store:
        for n in range(3):
            clock.advance(1)
            store.put([make_entry(n)])
        clock.advance(1)
        assert store.get(make_entry(0).key, SCOPE) is not None
        assert near(store, 2) == ["answer 2"]  # being looked at is no use
        clock.advance(1)
        store.put([make_entry(1, answer="replaced")])  # evicts nobody
        assert raw(path, "SELECT count(*) FROM entries") == [(3,)]
        store.put([make_entry(3)])
        assert sorted(near(store, 1, 9)) == ["answer 0", "answer 3", "replaced"]


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 9), st.sampled_from([0.0, 1e-4, 0.5])),
            st.tuples(st.just("get"), st.integers(0, 9), st.just(0.0)),
            st.tuples(st.just("wait"), st.integers(1, 200_000), st.just(0.0)),
        ),
        max_size=40,
    )
)
def test_memory_and_file_evict_the_same(history) -> None:
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            MemoryStore(max_entries=3, clock=clock),
            SQLiteStore(Path(folder) / "cache.db", max_entries=3, clock=clock),
        ]
        for verb, number, worth in history:
            clock.advance(number if verb == "wait" else 1)
            for store in stores:
                if verb == "put":
                    store.put([make_entry(number, worth=worth, created=clock.now)])
                elif verb == "get":
                    store.get(make_entry(number).key, SCOPE)
        for store in stores:
            store.delete(Selection(keys=()))  # writes the uses that are still only counted
        mine, other = [[(e.key, e.uses) for e in store.entries(Selection())] for store in stores]
        assert mine == other
        stores[1].close()


def test_what_saves_least_per_byte_leaves_first(path: Path) -> None:
    clock = FakeClock()
    with SQLiteStore(path, max_entries=3, clock=clock) as store:
        store.put([make_entry(1, worth=0.01), make_entry(2, worth=0.02), make_entry(3, worth=0.03)])
        for _ in range(3):
            assert store.get(make_entry(1).key, SCOPE)  # saved four times as much by now
        store.put([make_entry(4, worth=0.05)])
        assert sorted(near(store, 1, 9)) == ["answer 1", "answer 3", "answer 4"]
        store.put([make_entry(5, worth=0.06, answer="long " * 1_000)])  # much for its many bytes?
        assert sorted(near(store, 1, 9)) == ["answer 1", "answer 3", "answer 4"]
        clock.advance(30 * 86_400)  # what was worth much a month ago
        store.put([make_entry(6, worth=0.001)])
        assert sorted(near(store, 1, 9)) == ["answer 1", "answer 4", "answer 6"]


def test_lookups_write_nothing(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(1)])
    (before,) = raw(path, "SELECT uses, used FROM entries")
    for _ in range(5):
        assert store.get(make_entry(1).key, SCOPE)
        assert near(store, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # a lookup that wrote would have to wait for this
    assert store.get(make_entry(1).key, SCOPE)
    other.execute("ROLLBACK")
    other.close()
    assert raw(path, "SELECT uses, used FROM entries") == [before]
    store.put([make_entry(2)])
    assert raw(path, "SELECT uses FROM entries ORDER BY id") == [(6,), (0,)]


def test_a_file_of_version_1_keeps_its_entries(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    for statement in VERSION_1.split(";;"):
        db.execute(statement)
    for n in range(50):
        db.execute(
            "INSERT INTO entries (scope, key, created, expires, used, bytes, usage, tags, tenant, "
            "model, corpus, embedder, dim, vector, question, answer) "
            "VALUES (?, ?, ?, NULL, ?, 300, ?, ?, ?, ?, ?, ?, 24, ?, ?, ?)",
            (
                SCOPE.encode(),
                make_entry(n).key.encode(),
                float(n),
                1_000.0 - n,
                '{"input_tokens": 7}',
                '["x"]',
                b"acme",
                b"m",
                b"c",
                EMBEDDER.encode(),
                direction(n).astype("<f4").tobytes(),
                f"question {n}".encode(),
                f"answer {n}".encode(),
            ),
        )
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute("PRAGMA user_version=1")
    db.close()
    with SQLiteStore(path, max_entries=48) as store:
        listed = list(store.entries(Selection()))
        assert [entry.answer for entry in listed] == [f"answer {n}" for n in range(50)]
        assert near(store, 7) == ["answer 7"]
        expected = make_entry(
            7,
            created=7.0,
            tenant="acme",
            model="m",
            corpus="c",
            tags=("x",),
            usage=Usage(input_tokens=7),
        )
        assert store.get(expected.key, SCOPE) == expected
        store.append("log", ["a"])
        assert store.acquire("job", "me", 60)
        # The least recently used of the old ones make room for a new one.
        store.put([make_entry(99, documents=(("d", "v1"),))])
        left = {entry.answer for entry in store.entries(Selection())}
        assert left == {f"answer {n}" for n in (*range(47), 99)}
        assert store.delete(Selection(changed=(("d", "v2"),))) == 1
    assert raw(path, "PRAGMA user_version") == [(2,)]
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_the_documents_of_what_is_gone_are_forgotten(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(n, documents=(("d", "v1"), ("e", "v1"))) for n in range(5)])
    store.put([make_entry(0)])
    assert raw(path, "SELECT count(*) FROM sources") == [(8,)]
    store.delete(Selection(changed=(("d", "v2"),)))
    assert raw(path, "SELECT count(*) FROM sources") == [(0,)]


def test_bytes_are_limited(path: Path) -> None:
    with SQLiteStore(path, max_entries=None, max_bytes=50_000) as store:
        for n in range(40):
            store.put([make_entry(n, answer="é" * 2_000)])
        ((rows, held),) = raw(path, "SELECT count(*), sum(bytes) FROM entries")
        assert 10 <= rows <= 12
        assert 40_000 < held <= 50_000
        assert raw(path, "SELECT entries, bytes FROM totals") == [(rows, held)]
        with pytest.raises(StoreError, match="accepts 50000"):
            store.put([make_entry(1, answer="x" * 50_000)])
        assert store.get(make_entry(39).key, SCOPE) is not None


def test_expired_rows_leave_the_file_with_the_next_put(path: Path) -> None:
    clock = FakeClock()
    with SQLiteStore(path, clock=clock) as store:
        store.put([make_entry(n, expires=clock.now + 5) for n in range(10)])
        clock.advance(5)
        store.put([make_entry(99)])
        assert raw(path, "SELECT count(*) FROM entries") == [(1,)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_entries": 0},
        {"max_bytes": -1},
        {"max_entries": 1.5},
        {"busy_timeout": -1},
        {"busy_timeout": float("nan")},
        {"path": ""},
        {"path": ":memory:"},
        {"path": "file:x?mode=ro"},
    ],
)
def test_misuse_is_refused_at_once(path: Path, arguments: dict) -> None:
    with pytest.raises(ConfigError):
        SQLiteStore(**{"path": path, **arguments})


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "no" / "such" / "folder" / "cache.db")
    SQLiteStore(tmp_path / "cache.db").close()
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_may_read_it(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(1)])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


# --- what is wrong with it is said, and nothing in it is changed ----------------------------------


def test_a_file_that_is_no_database(path: Path, store: SQLiteStore) -> None:
    path.write_bytes(b"These are the notes of somebody else.\n" * 100)
    before = path.read_bytes()
    for use in uses(store):
        with pytest.raises(StoreVersionError, match="not a SQLite database"):
            use()
    assert path.read_bytes() == before


def test_a_database_of_somebody_else(path: Path, store: SQLiteStore) -> None:
    raw(path, "CREATE TABLE entries (mine TEXT)")
    before = path.read_bytes()
    for use in uses(store):
        with pytest.raises(StoreVersionError, match="not written by this kind of store"):
            use()
    assert path.read_bytes() == before


def test_a_newer_version(path: Path, store: SQLiteStore) -> None:
    store.put([make_entry(1)])
    store.close()
    raw(path, f"PRAGMA user_version={len(SCHEMA) + 1}")
    for use in uses(store):
        with pytest.raises(StoreVersionError, match="newer costwise"):
            use()
    raw(path, f"PRAGMA user_version={len(SCHEMA)}")
    assert near(store, 1) == ["answer 1"]


def test_an_older_version_is_brought_up_to_date(path: Path, store, monkeypatch) -> None:
    store.put([make_entry(1)])
    store.close()
    monkeypatch.setattr(
        "costwise_core.stores.sqlite.SCHEMA", (*SCHEMA, "ALTER TABLE entries ADD COLUMN extra")
    )
    with SQLiteStore(path) as newer:
        assert near(newer, 1) == ["answer 1"]
    assert raw(path, "PRAGMA user_version") == [(len(SCHEMA) + 1,)]
    assert raw(path, "SELECT extra FROM entries") == [(None,)]


def test_a_missing_folder(tmp_path: Path) -> None:
    for use in uses(SQLiteStore(tmp_path / "missing" / "cache.db")):
        with pytest.raises(StoreUnavailableError, match="folder must exist"):
            use()


def test_another_embedder_is_never_compared(store: SQLiteStore) -> None:
    store.put([make_entry(1)])
    assert store.search(direction(1), 4, SCOPE, "another") == []
    with pytest.raises(VectorError, match="24 dimensions, got 12"):
        store.search(direction(1)[:12], 4, SCOPE, EMBEDDER)
    with pytest.raises(VectorError, match="24 dimensions, got 12"):
        store.put([make_entry(2, vector=direction(1)[:12])])


DAMAGE = {
    "usage": b"{not json",
    "usage ": '{"input_tokens": "many"}',
    "usage  ": '{"no_such_field": 1}',
    "usage   ": "[" * 100_000,
    "tags": '{"a": 1}',
    "question": b"\x80",
    "text": b"\x80",
    "[group]": 5,
    "documents": '[["only a name"]]',
    "documents ": '{"a": "b"}',
    "documents  ": '[[1, "v1"]]',
    "worth": "much",
    "worth ": -1.0,
    "worth  ": float("inf"),
    "uses": "often",
    "uses ": -1,
    "answer": b"\xff\xfe not utf-8",
    "created": "yesterday",
    "expires": "never",
    "vector": b"123",
    "vector ": np.full(24, np.nan, dtype="<f4").tobytes(),
    "vector  ": np.zeros(24, dtype="<f4").tobytes(),
    "vector   ": "a text of 96 letters".ljust(96),
    "dim": 7,
    "dim ": -1,
    "dim  ": "wide",
    "embedder": 17,
}


@pytest.mark.parametrize("column", DAMAGE)
def test_a_damaged_row_is_passed_over_and_counted(path: Path, store, column: str) -> None:
    store.put([make_entry(n) for n in range(20)])
    store.close()
    key = make_entry(3).key.encode()
    raw(path, f"UPDATE entries SET {column} = ? WHERE key = ?", (DAMAGE[column], key))
    assert near(store, 3) != ["answer 3"]
    assert sorted(near(store, 3, 99)) == sorted(f"answer {n}" for n in range(20) if n != 3)
    found = store.get(make_entry(3).key, SCOPE)
    assert found is None or found.answer == "answer 3"  # only the vector was damaged
    assert store.damaged >= 1
    store.put([make_entry(3, answer="again")])
    assert near(store, 3) == ["again"]
    assert store.get(make_entry(3).key, SCOPE).answer == "again"


def test_uses_of_a_damaged_row_are_passed_over(path: Path, store: SQLiteStore) -> None:
    store.put([make_entry(1), make_entry(2), make_entry(3)])
    for n in (1, 2, 3):
        assert store.get(make_entry(n).key, SCOPE)
    raw(path, "UPDATE entries SET bytes = 0 WHERE key = ?", (make_entry(1).key.encode(),))
    raw(path, "UPDATE entries SET used = 'x' WHERE key = ?", (make_entry(2).key.encode(),))
    store.put([make_entry(4)])
    assert store.damaged == 2
    assert raw(path, "SELECT uses FROM entries ORDER BY id") == [(0,), (0,), (1,), (0,)]


def test_an_answer_too_long_to_read_is_passed_over(path: Path, store: SQLiteStore) -> None:
    store.put([make_entry(1), make_entry(2)])
    store.close()
    raw(
        path,
        "UPDATE entries SET answer = zeroblob(30000000) WHERE key = ?",
        (make_entry(1).key.encode(),),
    )
    assert store.get(make_entry(1).key, SCOPE) is None
    assert near(store, 1, 9) == ["answer 2"]
    assert store.damaged == 2


def test_damaged_pages(path: Path, store: SQLiteStore) -> None:
    store.put([make_entry(n, answer=f"answer {n} " * 300) for n in range(200)])
    store.close()
    data = bytearray(path.read_bytes())
    for page in range(3, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 200] = b"\x5a" * 200
    path.write_bytes(data)
    outcomes = set()
    for n in range(200):
        try:
            found = store.get(make_entry(n).key, SCOPE)
        except StoreUnavailableError as error:
            outcomes.add("said" if "it is damaged" in str(error) else str(error))
        else:
            assert found is None or found.answer == f"answer {n} " * 300
            outcomes.add("answer" if found else "none")
    assert "said" in outcomes
    assert outcomes <= {"said", "answer", "none"}


def test_locked(path: Path) -> None:
    with SQLiteStore(path, busy_timeout=0.01) as store:
        store.put([make_entry(1)])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.put([make_entry(2)])
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.delete(Selection())
        assert near(store, 1) == ["answer 1"]  # readers do not wait for writers
        other.execute("ROLLBACK")
        other.close()
        store.put([make_entry(2)])
        assert near(store, 2) == ["answer 2"]


def test_a_full_disk(path: Path) -> None:
    # A limit on file size is the nearest thing to a full disk that needs no disk of its own.
    script = """
import resource, sys
from costwise_core import SQLiteStore
from costwise_core.errors import StoreUnavailableError
from costwise_core.testing.stores import make_entry
store = SQLiteStore(sys.argv[1])
store.put([make_entry(0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
kept = 0
try:
    for kept in range(1, 1000):
        store.put([make_entry(kept, answer="x" * 3000)])
except StoreUnavailableError as error:
    print(type(error).__name__)
for n in range(kept):
    assert store.get(make_entry(n).key, make_entry().scope) is not None, n
assert store.get(make_entry(kept).key, make_entry().scope) is None
print(kept)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    error, kept = done.stdout.split()
    assert error == "StoreUnavailableError"
    with SQLiteStore(path) as store:  # somebody made room
        store.put([make_entry(5000)])
        assert len(near(store, 0, 9999)) == int(kept) + 1
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_sqlite_says_full(store: SQLiteStore, path: Path) -> None:
    store.put([make_entry(0)])
    with store._session.file.writing() as db:
        db.execute("PRAGMA max_page_count=20")
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        store.put([make_entry(n, answer="x" * 9_000) for n in range(1, 50)])
    assert near(store, 1, 99) == ["answer 0"]


def test_a_read_only_file(tmp_path: Path) -> None:
    # Root may write anywhere, so the file is opened in a way that forbids it to everybody.
    path = tmp_path / "cache.db"
    with SQLiteStore(path) as store:
        store.put([make_entry(1)])
        with store._session.file.writing():
            pass
        store._session.file._writer.db.execute("PRAGMA query_only=1")
        with pytest.raises(StoreUnavailableError, match="only be read"):
            store.put([make_entry(2)])
        assert near(store, 1, 9) == ["answer 1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only files")
def test_a_file_without_write_permission(path: Path, store: SQLiteStore) -> None:
    store.put([make_entry(1)])
    store.close()
    path.chmod(0o400)
    with pytest.raises(StoreUnavailableError):
        store.put([make_entry(2)])


def uses(store: SQLiteStore) -> list:
    return [
        lambda: store.get(make_entry(1).key, SCOPE),
        lambda: store.search(direction(1), 1, SCOPE, EMBEDDER),
        lambda: store.put([make_entry(1)]),
        lambda: store.delete(Selection()),
        lambda: list(store.entries(Selection())),
        lambda: store.append("log", ["a"]),
        lambda: store.read("log"),
        lambda: store.acquire("job", "me", 1),
        lambda: store.release("job", "me"),
    ]


# --- through the cache none of it reaches the user ------------------------------------------------


def break_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def break_content(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def break_version(path: Path) -> None:
    raw(path, "PRAGMA user_version=99")


@pytest.mark.parametrize(
    ("breaks", "error"),
    [
        (break_folder, "StoreUnavailableError"),
        (break_content, "StoreVersionError"),
        (break_version, "StoreVersionError"),
    ],
)
async def test_the_cache_passes_over_a_broken_file(path: Path, breaks, error: str) -> None:
    scope = Scope(tenant="acme")
    with SQLiteStore(path) as store:
        first = Cache(store, embedder=HashingEmbedder())
        assert first.store("What is RAG?", scope, "A method.")
        assert first.lookup("What is RAG?", scope)
    breaks(path)
    cache = Cache(store, embedder=HashingEmbedder())
    assert cache.lookup("What is RAG?", scope).reason == "store_error"
    assert (await cache.alookup("What is RAG?", scope)).reason == "store_error"
    assert not cache.store("What is a cow?", scope, "An animal.")
    assert not await cache.astore("What is a cow?", scope, "An animal.")
    assert cache.stats.errors == {error: 4}
    assert cache.stats.misses == {"store_error": 2}
    assert cache.stats.not_stored == {"store_error": 2}
    with pytest.raises(StoreError):
        cache.clear()
    store.close()


def test_the_cache_passes_over_damaged_rows_and_vectors(path: Path) -> None:
    scope = Scope(tenant="acme")

    class Broken(HashingEmbedder):
        def embed(self, texts, role="query"):
            return super().embed(texts, role) * np.float32("nan")

    with SQLiteStore(path) as store:
        healthy = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.5))
        assert healthy.store("What is a red fox?", scope, "An animal.")
        assert healthy.lookup("what is the red fox?", scope).tier == "near"
        broken = Cache(store, embedder=Broken())
        assert broken.lookup("What is a red fox?", scope).tier == "exact"
        assert broken.lookup("what is the red fox?", scope).reason == "store_error"
        assert not broken.store("What is a cow?", scope, "An animal.")
        assert broken.stats.errors == {"VectorError": 2}
        raw(path, "UPDATE entries SET answer = ?", (b"\xff",))
        assert healthy.lookup("What is a red fox?", scope).reason == "no_entry"
        assert store.damaged >= 1
        assert healthy.store("What is a red fox?", scope, "An animal, again.")
        assert healthy.lookup("What is a red fox?", scope).answer == "An animal, again."


def test_tenants_never_mix_through_the_cache(store: SQLiteStore) -> None:
    cache = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.01))
    for tenant in "abc":
        cache.store("What is a balance?", Scope(tenant=tenant), f"balance of {tenant}")
    for tenant in "abc":
        assert cache.lookup("What is a balance?", Scope(tenant=tenant)).answer[-1] == tenant
        assert cache.lookup("what is the balance of a", Scope(tenant=tenant)).answer[-1] == tenant
    assert cache.lookup("What is a balance?", Scope()).reason == "no_entry"
    assert cache.clear(Selection(tenant="b")) == 1
    assert not cache.lookup("what is the balance of a", Scope(tenant="b"))
