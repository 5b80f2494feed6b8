"""The PostgreSQL store on a real server: what it shares, survives, refuses and gives up on."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costwise_core import Cache, FixedThreshold, Scope
from costwise_core.errors import (
    ConfigError,
    EntryTooLargeError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    VectorError,
)
from costwise_core.stores.checks import checked
from costwise_core.stores.eviction import rank
from costwise_core.stores.postgres import PostgresStore
from costwise_core.stores.postgres_entries import Notes, page
from costwise_core.stores.postgres_link import sql
from costwise_core.stores.postgres_schema import SCHEMA, prepare
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.testing.sharing import JournalContract, LeasesContract
from costwise_core.testing.stores import EMBEDDER, CacheStoreContract, direction, make_entry
from costwise_core.types import Selection
from tests.services.postgres_engine import Postgres, postgres

SCOPE = make_entry().scope
pytestmark = pytest.mark.usefixtures("postgres_server")

WRITER = """
import sys
from costwise_core.stores.postgres import PostgresStore
from costwise_core.testing.stores import make_entry
store = PostgresStore(sys.argv[1], schema=sys.argv[2], timeout=30, write_timeout=30)
first = int(sys.argv[3])
for number in range(first, first + 1_000_000, 3):
    batch = [make_entry(n, answer=f"answer {n} " * 200) for n in range(number, number + 3)]
    store.put(batch)
    store.append("log", [str(number)])
    print(number, flush=True)
"""

# Does what it is told, one command a line, and answers each with one line of JSON.
PARTNER = """
import json, sys
from costwise_core.stores.postgres import PostgresStore
from costwise_core.testing.stores import EMBEDDER, direction, make_entry
from costwise_core.types import Selection
store = PostgresStore(sys.argv[1], schema=sys.argv[2], timeout=30, write_timeout=30)
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
    elif verb == "near":
        answer = [n.entry.answer for n in store.search(direction(numbers[0]), 2, scope, EMBEDDER)]
    elif verb == "lease":
        answer = store.acquire("job", "partner", 60)
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def make(opened, postgres_server: Postgres, schema: str):
    """Makes stores of one schema, patient ones unless told otherwise, and closes them."""

    def make(conninfo: str = postgres_server.conninfo, **arguments) -> PostgresStore:
        return opened(
            PostgresStore(
                conninfo, **{"schema": schema, "timeout": 10, "write_timeout": 30, **arguments}
            )
        )

    return make


@pytest.fixture
def store(make) -> PostgresStore:
    return make()


class Made:
    """What the contracts ask of a store, on the real server."""

    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    def make_store(self, clock):
        self.clock = clock
        return self.make(clock=clock)

    def reopen(self, store):
        return self.make(clock=self.clock)


class TestPostgresStore(Made, CacheStoreContract):
    pass


class TestPostgresJournal(Made, JournalContract):
    pass


class TestPostgresLeases(Made, LeasesContract):
    pass


class TestPostgresLeasesByTheServersClock(Made, LeasesContract):
    def make_store(self, clock):
        return self.make()

    def reopen(self, store):
        return self.make()

    def pass_time(self, clock, seconds):
        time.sleep(seconds)


def near(store: PostgresStore, number: int, k: int = 1) -> list[str]:
    return [n.entry.answer for n in store.search(direction(number), k, SCOPE, EMBEDDER)]


def spawn(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- nothing acknowledged is lost -----------------------------------------------------------------


def killed_at_random(writer: subprocess.Popen, rng: random.Random, kill) -> set[int]:
    """Return what a writer acknowledged before something was killed under it."""
    acknowledged = {int(writer.stdout.readline()) for _ in range(rng.randint(3, 6))}
    time.sleep(rng.uniform(0.0, 0.05))
    kill()
    rest = writer.communicate()[0].splitlines(keepends=True)
    return acknowledged | {int(line) for line in rest if line.endswith("\n")}


def check_all_there(store: PostgresStore, raw_sql, acknowledged: set[int]) -> None:
    for number in acknowledged:
        for n in range(number, number + 3):
            found = store.get(make_entry(n).key, SCOPE)
            assert found is not None
            assert found.answer == f"answer {n} " * 200
    assert {str(n) for n in acknowledged} <= set(store.read("log")[0])
    ((rows, whole, counted),) = raw_sql(
        "SELECT count(*), count(vector), (SELECT sum(entries) FROM @totals) FROM @entries"
    )
    assert rows == whole == counted
    assert rows % 3 == 0


def test_a_writer_is_killed(
    postgres_server: Postgres, schema: str, store: PostgresStore, raw_sql
) -> None:
    rng, acknowledged = random.Random(7), set()
    for round_ in range(10):
        writer = spawn(WRITER, postgres_server.conninfo, schema, round_ * 1_000_000)
        acknowledged |= killed_at_random(writer, rng, writer.kill)
        assert writer.returncode == -signal.SIGKILL
        check_all_there(store, raw_sql, acknowledged)
    assert len(acknowledged) > 20
    assert store.damaged == 0


def test_the_server_is_killed() -> None:
    rng, acknowledged = random.Random(11), set()
    with (
        postgres() as server,
        PostgresStore(server.conninfo, schema="s", timeout=10, write_timeout=10) as store,
    ):
        raw = lambda statement: server.sql(statement.replace("@", "s."))  # noqa: E731
        for round_ in range(3):
            writer = spawn(WRITER, server.conninfo, "s", round_ * 1_000_000)
            kill = lambda: server.stop(signal.SIGKILL)  # noqa: E731
            acknowledged |= killed_at_random(writer, rng, kill)
            assert writer.returncode == 1
            with pytest.raises(StoreUnavailableError):
                store.get(make_entry(0).key, SCOPE)
            server.start()
            check_all_there(store, raw, acknowledged)
            assert store.acquire("job", f"owner {round_}", 60)  # leases do not outlive a crash


# --- it is shared ---------------------------------------------------------------------------------


@pytest.fixture
def partner(postgres_server: Postgres, schema: str):
    process = spawn(PARTNER, postgres_server.conninfo, schema)

    def tell(verb: str, *arguments: int):
        process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield tell
    process.communicate()
    assert process.returncode == 0


def test_two_processes_see_each_other_at_once(store: PostgresStore, partner) -> None:
    assert near(store, 1) == partner("near", 1) == []
    partner("put", 1, 2)
    assert near(store, 1) == ["partner 1"]
    store.put([make_entry(1, answer="mine"), make_entry(3, answer="mine too")])
    assert partner("get", 1) == "mine"
    assert partner("near", 3)[0] == "mine too"
    assert partner("delete", 3) == 1
    assert store.get(make_entry(3).key, SCOPE) is None
    assert "mine too" not in near(store, 3, 9)
    assert store.acquire("job", "me", 60)
    assert not partner("lease")
    store.release("job", "me")
    assert partner("lease")
    assert store.delete(Selection()) == 2
    assert partner("near", 1) == []


def test_replicas_that_start_together(
    postgres_server: Postgres, schema: str, store, raw_sql
) -> None:
    writers = [
        spawn(WRITER.replace("1_000_000", "9"), postgres_server.conninfo, schema, first)
        for first in range(0, 600, 100)
    ]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 6
    assert len(near(store, 0, 999)) == 6 * 9
    assert raw_sql("SELECT version FROM @costwise") == [(len(SCHEMA),)]


@pytest.mark.parametrize("before", [0, 1])
def test_replicas_that_upgrade_together(make, raw_sql, monkeypatch, before: int) -> None:
    if before:
        make().put([make_entry(1)])
    newer = (*SCHEMA, "ALTER TABLE @entries ADD COLUMN extra integer DEFAULT 7")
    monkeypatch.setattr("costwise_core.stores.postgres_schema.SCHEMA", newer)
    replicas = [make() for _ in range(8)]
    barrier, errors = threading.Barrier(8), []

    def start(number: int) -> None:
        barrier.wait()
        try:
            replicas[number].put([make_entry(number + 1)])
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert raw_sql("SELECT version FROM @costwise") == [(len(newer),)]
    assert raw_sql("SELECT count(*), min(extra) FROM @entries") == [(8, 7)]


def test_a_row_that_commits_late_is_not_skipped(
    store: PostgresStore, postgres_server, schema
) -> None:
    import psycopg

    store.append("log", ["first"])
    _, position = store.read("log")
    with psycopg.connect(postgres_server.conninfo) as slow:
        # Another replica took its number and has not committed.
        slow.execute(
            f"WITH log AS (UPDATE {schema}.journals SET newest = newest + 1 RETURNING *) "
            f"INSERT INTO {schema}.journal SELECT name, newest, 'late' FROM log"
        )
        thread = threading.Thread(target=store.append, args=("log", ["after"]))
        thread.start()
        time.sleep(0.3)
        assert store.read("log", position) == ([], position)
        store.append("other log", ["is not held up"])
        slow.commit()
    thread.join()
    assert store.read("log", position)[0] == ["late", "after"]


def test_a_log_begun_anew_is_read_from_its_beginning(store: PostgresStore, raw_sql) -> None:
    store.append("log", ["a", "b", "c"])
    _, position = store.read("log")
    raw_sql("TRUNCATE @journal, @journals")
    store.append("log", ["d"])
    assert store.read("log", position)[0] == ["d"]
    for unknown in ("x", "-1", "1.5", "9" * 30):
        with pytest.raises(StoreError, match="position"):
            store.read("log", unknown)


def test_a_damaged_row_of_a_log_is_passed_over(store: PostgresStore, raw_sql) -> None:
    store.append("log", ["a", "b", "c"])
    raw_sql("UPDATE @journal SET content = %s WHERE number = 2", b"\xff")
    assert store.read("log")[0] == ["a", "c"]
    assert store.damaged == 1


def test_a_forked_child_has_connections_of_its_own(store: PostgresStore) -> None:
    def backend() -> int:
        ((pid,),) = store._session.link.run(ask("SELECT pg_backend_pid()"), seconds=10)
        return pid

    mine = backend()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.put([make_entry(1)])
            code = 2 if backend() == mine else 0
            store.close()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert backend() == mine  # the child has not closed it
    assert near(store, 1) == ["answer 1"]


def ask(text: str, *values: object):
    """Return the script of one statement."""
    return (yield sql(text, *values))


# --- scopes ---------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=12).filter(lambda text: "\ud800" not in text),
            st.integers(0, 5),
            st.sampled_from(["e1", "e2"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_random_scopes_never_cross(postgres_server, store: PostgresStore, placed) -> None:
    store.delete(Selection())
    expected: dict[tuple[str, str], tuple[str, str]] = {}
    batch = []
    for step, (scope, number, embedder) in enumerate(placed):
        answer = f"{step} of {scope}"
        batch.append(make_entry(number, scope=scope, answer=answer, embedder=embedder))
        expected[scope, batch[-1].key] = (answer, embedder)
    store.put(batch)
    for scope in {scope for scope, _ in expected}:
        for embedder in ("e1", "e2"):
            own = {a for (s, _), (a, e) in expected.items() if (s, e) == (scope, embedder)}
            found = store.search(direction(1), 99, scope, embedder)
            assert {n.entry.answer for n in found} == own
        for number in range(6):
            found = store.get(make_entry(number).key, scope)
            there = expected.get((scope, make_entry(number).key))
            assert (found and (found.answer, found.embedder)) == there
    assert store.search(direction(1), 99, "no such scope", "e1") == []


# --- limits ---------------------------------------------------------------------------------------


def test_what_saves_least_per_byte_leaves_first(make, raw_sql) -> None:
    clock = FakeClock()
    store = make(clock=clock, max_entries=20)
    rng = random.Random(3)
    entries = [
        make_entry(n, worth=rng.choice([0, 0.001, 0.1]), answer="x" * rng.randint(1, 4000))
        for n in range(60)
    ]
    for start in range(0, 20, 5):
        store.put(entries[start : start + 5])
        clock.advance(7)
    for n in (0, 0, 0, 1, 7):
        store.get(entries[n].key, SCOPE)
    store.put([make_entry(100)])
    ranks = {key.decode(): rank for key, rank in raw_sql("SELECT key, rank FROM @entries")}
    assert len(ranks) == 20
    for start in range(20, 60, 5):
        store.put(entries[start : start + 5])
    kept = {entry.key for entry in store.entries(Selection())}
    assert len(kept) == 20
    newer = {entry.key: worth_now(entry, clock) for entry in entries[20:]}
    everything = {**ranks, **newer}
    assert min(everything[key] for key in kept) >= max(
        value for key, value in everything.items() if key not in kept
    )


def worth_now(entry, clock) -> float:
    (sized,) = checked([entry], None)
    return rank(worth=entry.worth, uses=entry.uses, size=sized.size, used=clock())


def test_it_is_limited_in_bytes(make, raw_sql) -> None:
    store = make(max_entries=None, max_bytes=50_000)
    for n in range(40):
        store.put([make_entry(n, answer="é" * 2_000)])
    assert sorted(near(store, 1, 99)) == ["é" * 2_000] * 11
    kept = {int(entry.key, 16) for entry in store.entries(Selection())}
    assert kept == set(range(29, 40))
    with pytest.raises(EntryTooLargeError, match="accepts 50000"):
        store.put([make_entry(1, answer="x" * 50_000)])
    ((counted,),) = raw_sql("SELECT sum(bytes) <= 50000 FROM @totals")
    assert counted


def test_totals_stay_right_whoever_deletes(make, raw_sql) -> None:
    store = make(max_entries=10)
    store.put([make_entry(n) for n in range(10)])
    raw_sql("DELETE FROM @entries WHERE id % 2 = 0")
    store.put([make_entry(n) for n in range(20, 25)])
    assert len(near(store, 1, 99)) == 10
    raw_sql("TRUNCATE @entries")
    store.put([make_entry(n, vector=np.ones(7, dtype=np.float32)) for n in range(10)])
    assert len(list(store.entries(Selection()))) == 10


def test_expired_rows_leave_with_the_next_write(make, raw_sql) -> None:
    clock = FakeClock()
    store = make(clock=clock)
    store.put([make_entry(n, expires=clock() + 10) for n in range(5)])
    clock.advance(10)
    assert near(store, 1, 9) == []
    assert raw_sql("SELECT count(*) FROM @entries") == [(5,)]
    store.put([make_entry(9)])
    assert raw_sql("SELECT count(*), (SELECT sum(entries) FROM @totals) FROM @entries") == [(1, 1)]


def test_the_servers_clock(store: PostgresStore) -> None:
    now = time.time()
    store.put([make_entry(1, expires=now - 60), make_entry(2, expires=now + 60)])
    assert near(store, 1, 9) == ["answer 2"]
    assert store.get(make_entry(1).key, SCOPE) is None
    assert store.delete(Selection(unused_since=now - 60)) == 0
    assert store.delete(Selection(unused_since=now + 60)) == 1


def test_large_entries_go_in_and_out_a_few_at_a_time(store: PostgresStore) -> None:
    entries = [make_entry(n, answer=f"{n}" + "x" * 5_000_000, created=n) for n in range(8)]
    store.put(entries)
    assert [entry.answer for entry in store.entries(Selection())] == [e.answer for e in entries]
    first = page(Notes(), Selection(), (0.0, 0), None)
    found, _ = store._session.link.run(first, seconds=10)
    assert 1 < len(found) < 8


@pytest.mark.parametrize("dim", [384, 3072, 16_000])
def test_vectors_of_any_width_fit(store: PostgresStore, dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((20, dim)).astype(np.float32)
    store.put([make_entry(n, vector=vectors[n], answer="x" * 5_000 * n) for n in range(20)])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = store.search(vectors[3] + vectors[7], 20, SCOPE, EMBEDDER)
    query = vectors[3] + vectors[7]
    scores = units.astype(np.float64) @ (query / np.linalg.norm(query)).astype(np.float64)
    assert [int(n.entry.key, 16) for n in found] == np.argsort(-scores).tolist()
    assert [n.cosine for n in found] == pytest.approx(np.sort(scores)[::-1].tolist(), abs=1e-5)


# --- what is damaged, newer or somebody else's ----------------------------------------------------

DAMAGE = {
    "usage": "{not json",
    "usage ": '{"input_tokens": "many"}',
    "usage  ": '{"no_such_field": 1}',
    "usage   ": "[" * 100_000,
    "tags": [None],
    "tags ": [[b"a"], [b"b"]],
    "document_ids": [b"\xff"],
    "question": b"\x80",
    "answer": b"\xff\xfe not utf-8",
}


@pytest.mark.parametrize("column", DAMAGE)
def test_a_damaged_row_is_passed_over_and_counted(store, raw_sql, column: str) -> None:
    store.put([make_entry(n, documents=(("d", "v"),)) for n in range(20)])
    raw_sql(f"UPDATE @entries SET {column} = %s WHERE key = %s", DAMAGE[column], b"%032x" % 3)
    assert store.get(make_entry(3).key, SCOPE) is None
    (best,) = near(store, 3)
    assert best != "answer 3"  # it made room for the next
    others = sorted(f"answer {n}" for n in range(20) if n != 3)
    assert sorted(near(store, 3, 99)) == others
    assert sorted(e.answer for e in store.entries(Selection())) == others
    assert store.damaged >= 3
    store.put([make_entry(3, answer="again")])
    assert near(store, 3) == ["again"]


@pytest.mark.parametrize(
    "damage",
    [
        "vector = '[1,2,3]'",
        "vector = vector + vector",
        "dim = 7",
        "vector = NULL",
        "document_ids = '{a,b}'",
        "answer = decode(repeat('00', 9000000), 'hex')",
        "embedder = NULL",
    ],
)
def test_what_no_row_can_be_the_server_refuses(store, raw_sql, damage: str) -> None:
    import psycopg

    store.put([make_entry(1)])
    with pytest.raises(psycopg.IntegrityError):
        raw_sql(f"UPDATE @entries SET {damage}")


def test_a_newer_version(make, raw_sql) -> None:
    make().put([make_entry(1)])
    raw_sql("UPDATE @costwise SET version = version + 1")
    newer = make()
    for use in uses(newer):
        with pytest.raises(StoreVersionError, match="newer costwise"):
            use()
    raw_sql("UPDATE @costwise SET version = version - 1")
    assert near(newer, 1) == ["answer 1"]


@pytest.mark.parametrize(
    "theirs", ["entries (mine text)", "costwise (version text)", "costwise (version integer)"]
)
def test_tables_of_somebody_else(make, raw_sql, schema, theirs: str) -> None:
    raw_sql(f"CREATE SCHEMA {schema}")
    raw_sql(f"CREATE TABLE @{theirs}")
    if "text)" in theirs:
        raw_sql(f"INSERT INTO @{theirs.partition(' ')[0]} VALUES ('precious')")
    for use in uses(make()):
        with pytest.raises(StoreVersionError, match="not written by this kind of store"):
            use()
    assert raw_sql("SELECT count(*) FROM pg_tables WHERE schemaname = %s", schema) == [(1,)]


def uses(store: PostgresStore) -> list:
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


def test_a_schema_that_is_gone_is_made_again(store: PostgresStore, raw_sql, schema) -> None:
    store.put([make_entry(1)])
    raw_sql(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(StoreUnavailableError, match="does not exist"):
        store.get(make_entry(1).key, SCOPE)
    assert store.get(make_entry(1).key, SCOPE) is None
    store.put([make_entry(1)])
    assert near(store, 1) == ["answer 1"]


def test_a_role_that_may_not(make, postgres_server, schema) -> None:
    postgres_server.sql(f"CREATE ROLE {schema}_guest LOGIN")
    with pytest.raises(StoreUnavailableError, match="permission denied"):
        make(conninfo=f"{postgres_server.conninfo} user={schema}_guest").get("k", "s")
    postgres_server.sql(f"DROP ROLE {schema}_guest")


def test_a_server_without_pgvector() -> None:
    def answer(script) -> None:
        statement = next(script)
        while True:
            lacks = "pg_extension" in statement.text
            statement = script.send([(True, False, False)] if lacks else [])

    with pytest.raises(StoreUnavailableError, match="no pgvector"):
        answer(prepare("costwise", seconds=1))


def test_the_extension_is_made_where_it_is_missing(make, postgres_server, schema) -> None:
    postgres_server.sql(f"CREATE DATABASE bare_{schema}")
    bare = make(conninfo=f"{postgres_server.conninfo} dbname=bare_{schema}")
    assert bare.get("k", "s") is None
    bare.close()
    postgres_server.sql(f"DROP DATABASE bare_{schema}")


def test_another_embedder_is_never_compared(store: PostgresStore) -> None:
    store.put([make_entry(1)])
    assert store.search(direction(1), 4, SCOPE, "another") == []
    with pytest.raises(VectorError, match="24 dimensions, got 12"):
        store.search(direction(1)[:12], 4, SCOPE, EMBEDDER)


def test_a_connection_string_that_is_none_is_not_quoted() -> None:
    with pytest.raises(ConfigError, match="no connection string") as caught:
        PostgresStore("host=x password=my secret")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_other_defaults_of_the_database_change_nothing(make, postgres_server, schema) -> None:
    postgres_server.sql(f"CREATE ROLE {schema}_strict SUPERUSER LOGIN")
    postgres_server.sql(
        f"ALTER ROLE {schema}_strict SET default_transaction_isolation = serializable"
    )
    store = make(conninfo=f"{postgres_server.conninfo} user={schema}_strict")
    for _ in range(5):
        await asyncio.gather(*(store.aput([make_entry(n)]) for n in range(8)))
        await asyncio.gather(*(store.aappend("log", ["a"]) for n in range(8)))
    assert len(store.read("log")[0]) == 40
    store.delete(Selection())
    postgres_server.sql(f"REASSIGN OWNED BY {schema}_strict TO postgres")
    postgres_server.sql(f"DROP ROLE {schema}_strict")


@pytest.mark.parametrize(
    "arguments",
    [
        {"schema": ""},
        {"schema": 'x"; DROP TABLE users; --'},
        {"schema": "x" * 64},
        {"pool_size": 0},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"write_timeout": -1},
        {"connect_timeout": 1},
        {"max_entries": 0},
    ],
)
def test_misuse_is_refused_at_once(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        PostgresStore("host=/nowhere", **arguments)


# --- the time box ---------------------------------------------------------------------------------


async def check_fails_open(store: PostgresStore) -> Cache:
    """Use a cache on a store that cannot answer; it must count and go on."""
    cache = Cache(store, embedder=HashingEmbedder())
    scope = Scope(tenant="acme")
    for _ in range(4):
        assert cache.lookup("What is RAG?", scope).reason == "store_error"
        assert (await cache.alookup("What is RAG?", scope)).reason == "store_error"
        assert not cache.store("What is RAG?", scope, "A method.")
        assert not await cache.astore("What is RAG?", scope, "A method.")
    assert cache.stats.errors == {"StoreUnavailableError": 16}
    assert cache.stats.misses == {"store_error": 8}
    with pytest.raises(StoreUnavailableError):
        cache.clear()
    return cache


async def test_the_cache_passes_over_a_server_that_never_was(tmp_path) -> None:
    await check_fails_open(PostgresStore(f"host={tmp_path} user=nobody"))


async def test_the_cache_passes_over_a_server_that_is_gone_and_finds_it_again() -> None:
    with (
        postgres() as server,
        PostgresStore(server.conninfo, timeout=2, write_timeout=5) as store,
    ):
        store.put([make_entry(1)])
        assert await store.aget(make_entry(1).key, SCOPE)
        server.stop()
        await check_fails_open(store)
        server.start()
        store._session.link._breaker.ok()  # in place of waiting for its next probe
        assert near(store, 1) == ["answer 1"]
        assert await store.aget(make_entry(1).key, SCOPE)


async def test_a_server_that_was_restarted_meanwhile_is_not_noticed() -> None:
    with (
        postgres() as server,
        PostgresStore(server.conninfo, timeout=2, write_timeout=5) as store,
    ):
        store.put([make_entry(1)])
        assert await store.aget(make_entry(1).key, SCOPE)
        server.stop()
        server.start()
        assert near(store, 1) == ["answer 1"]
        assert await store.aget(make_entry(1).key, SCOPE)


async def test_a_frozen_server_is_given_up_on_in_time() -> None:
    with (
        postgres() as server,
        PostgresStore(server.conninfo, timeout=0.25, write_timeout=0.5) as store,
    ):
        for _ in range(3):  # the first use makes the tables, which may take its time
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "_timeout", 10)
                patch.setattr(store, "_write_timeout", 10)
                store.put([make_entry(1)])
                assert await store.aget(make_entry(1).key, SCOPE)
        server.signal(signal.SIGSTOP)
        try:
            done = threading.Event()
            watch = threading.Thread(target=lambda: (done.wait(60), server.signal(signal.SIGCONT)))
            watch.start()  # or a store that waits for ever would hang the test
            with pytest.raises(StoreUnavailableError, match="in time"):
                store.get(make_entry(1).key, SCOPE)
            assert not done.is_set()
            with pytest.raises(StoreUnavailableError, match="in time"):
                await store.aget(make_entry(1).key, SCOPE)
            with pytest.raises(StoreUnavailableError):  # a new connection is not made either
                store.get(make_entry(1).key, SCOPE)
            with pytest.raises(StoreUnavailableError, match="left alone"):
                store.get(make_entry(1).key, SCOPE)
        finally:
            done.set()
            watch.join()
        store._session.link._breaker.ok()
        store._timeout = 10
        assert near(store, 1) == ["answer 1"]


def test_a_lock_of_somebody_else_is_waited_for_no_longer(make, postgres_server, schema) -> None:
    import psycopg

    store = make(timeout=0.2, write_timeout=0.3)
    store.put([make_entry(1)])
    with psycopg.connect(postgres_server.conninfo) as other:
        other.execute(f"LOCK TABLE {schema}.entries IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match=r"longer than 0\.2 s"):
            store.get(make_entry(1).key, SCOPE)
        with pytest.raises(StoreUnavailableError, match=r"longer than 0\.3 s"):
            store.put([make_entry(2)])
    assert near(store, 1, 9) == ["answer 1"]


def test_errors_do_not_quote_entries(store: PostgresStore, raw_sql) -> None:
    store.put([make_entry(1)])
    raw_sql("ALTER TABLE @entries ADD CHECK (length(answer) < 20)")
    with pytest.raises(StoreError) as caught:
        store.put([make_entry(2, answer="a secret of some length")])
    assert "secret" not in str(caught.value)
    assert b"secret".hex() not in str(caught.value)
    assert caught.value.__suppress_context__
    assert near(store, 1, 9) == ["answer 1"]


# --- async code -----------------------------------------------------------------------------------


async def test_every_method_has_an_asynchronous_twin(store: PostgresStore) -> None:
    await store.aput([make_entry(1), make_entry(2)])
    assert await store.aget(make_entry(1).key, SCOPE) == store.get(make_entry(1).key, SCOPE)
    found = await store.asearch(direction(1), 2, SCOPE, EMBEDDER)
    assert found == store.search(direction(1), 2, SCOPE, EMBEDDER)
    await store.aappend("log", ["a"])
    assert await store.aread("log") == store.read("log")
    assert await store.aacquire("job", "me", 60)
    assert not store.acquire("job", "you", 60)
    await store.arelease("job", "me")
    assert store.acquire("job", "you", 60)
    assert await store.adelete(Selection()) == 2
    with pytest.raises(VectorError):
        await store.aput([make_entry(1, vector=np.zeros(24, dtype=np.float32))])
    with pytest.raises(ConfigError):
        await store.aacquire("job", "me", 0)


async def test_the_event_loop_goes_on_meanwhile(make, postgres_server, schema) -> None:
    import psycopg

    store = make()
    store.put([make_entry(1)])
    with psycopg.connect(postgres_server.conninfo) as other:
        other.execute(f"LOCK TABLE {schema}.entries IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(store.aget(make_entry(1).key, SCOPE)) for _ in range(20)]
        for _ in range(50):  # would never come to an end if one of them held the loop
            await asyncio.sleep(0.001)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        other.commit()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert [entry.answer for entry in found[1:]] == ["answer 1"] * 19


async def test_more_tasks_than_connections(make, postgres_server) -> None:
    store = make(pool_size=3)
    await asyncio.gather(*(store.aput([make_entry(n)]) for n in range(40)))
    found = await asyncio.gather(*(store.aget(make_entry(n).key, SCOPE) for n in range(40)))
    assert [entry.answer for entry in found] == [f"answer {n}" for n in range(40)]
    assert len(store._session.link._aidle) <= 3


def test_one_event_loop_after_another(store: PostgresStore) -> None:
    async def use() -> list[str]:
        await asyncio.gather(*(store.aput([make_entry(n)]) for n in range(12)))
        found = await store.asearch(direction(1), 1, SCOPE, EMBEDDER)
        return [n.entry.answer for n in found]

    for _ in range(3):
        assert asyncio.run(use()) == ["answer 1"]


def test_through_the_cache(store: PostgresStore) -> None:
    cache = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.5))
    for tenant in "abc":
        assert cache.store("What is a red fox?", Scope(tenant=tenant), f"An animal, says {tenant}")
    for tenant in "abc":
        assert cache.lookup("what is a red fox?", Scope(tenant=tenant)).answer[-1] == tenant
        assert cache.lookup("what is the red fox?", Scope(tenant=tenant)).answer[-1] == tenant
    assert cache.clear(Selection(tenant="b")) == 1
    assert not cache.lookup("what is the red fox?", Scope(tenant="b"))


def test_a_batch_may_be_large_and_replace_itself(store: PostgresStore, raw_sql) -> None:
    batch = [make_entry(n % 700, answer=f"{n}") for n in range(1000)]
    store.put(batch)
    store.put([replace(entry, answer=f"again {entry.answer}") for entry in batch])
    assert raw_sql("SELECT count(*), (SELECT sum(entries) FROM @totals) FROM @entries") == [
        (700, 700)
    ]
    assert near(store, 5) == ["again 705"]
