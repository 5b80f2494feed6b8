"""The index beside a store: the contract, damage, death, and who may own it."""

import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from costwise_core import Cache, FixedThreshold, Scope, SQLiteStore
from costwise_core.errors import MissingExtraError, StoreUnavailableError
from costwise_core.stores.qdrant_shard import Shard
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.testing.stores import EMBEDDER, CacheStoreContract, direction, make_entry
from costwise_core.types import Selection

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed (extra: edge)")

from costwise_core.stores.qdrant_edge import QdrantEdgeStore, _rows


class TestQdrantEdgeStore(CacheStoreContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path):
        self.path = tmp_path
        self.opened: list[QdrantEdgeStore] = []
        yield
        for store in self.opened:
            store.close()

    def make_store(self, clock):
        self.clock = clock
        for store in self.opened:
            store.close()
        truth = SQLiteStore(self.path / "cache.db", busy_timeout=10, clock=clock)
        store = QdrantEdgeStore(truth, self.path / "index", clock=clock)
        store.catch_up()
        assert store.indexed
        self.opened.append(store)
        return store

    def reopen(self, store):
        return self.make_store(self.clock)


SCOPE = make_entry().scope


def opened(folder: Path, **options) -> QdrantEdgeStore:
    truth = SQLiteStore(folder / "cache.db", busy_timeout=10, **options)
    return QdrantEdgeStore(truth, folder / "index", **options)


def answers(store, seed: int, k: int = 5) -> list[tuple[str, float]]:
    found = store.search(direction(seed), k, SCOPE, EMBEDDER)
    return [(n.entry.answer, pytest.approx(n.cosine, abs=1e-5)) for n in found]


@pytest.fixture
def store(tmp_path: Path):
    with opened(tmp_path) as store:
        store.put([make_entry(n) for n in range(50)])
        store.catch_up()
        yield store


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not store.indexed
    code = (
        "import sys; from costwise_core.stores.qdrant_edge import QdrantEdgeStore;"
        "print('qdrant_edge' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_first_search_is_answered_and_brings_the_index(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put([make_entry(1)])
        assert answers(store, 1, 1)[0][0] == "answer 1"
        store._thread.join(30)
        assert store.indexed
        assert answers(store, 1, 1)[0][0] == "answer 1"


def test_searches_go_through_the_index_and_agree_with_the_store(store, monkeypatch) -> None:
    expected = {seed: answers(store.store, seed) for seed in range(20)}

    def unused(*args):
        raise AssertionError("the store was asked to search")

    monkeypatch.setattr(store.store, "search", unused)
    assert {seed: answers(store, seed) for seed in range(20)} == expected
    assert store.repairs == 0


def test_reopening_finds_the_index_as_it_was(tmp_path: Path, monkeypatch) -> None:
    with opened(tmp_path) as store:
        store.put([make_entry(n) for n in range(50)])
        store.catch_up()
        before = answers(store, 3)
    added = []
    add = Shard.add
    monkeypatch.setattr(Shard, "add", lambda self, rows: (added.extend(rows), add(self, rows))[1])
    with opened(tmp_path) as store:
        store.catch_up()
        assert answers(store, 3) == before
    assert added == [], "nothing had to be written again"


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def truncate(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "owner.lock":
            os.truncate(path, path.stat().st_size // 2)


def scribble(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".dat", ".wal", ""):
            path.write_bytes(os.urandom(200))


def empty(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def zero_the_vectors(folder: Path) -> None:
    for path in folder.rglob("vector_storage*/**/*"):
        if path.is_file() and path.suffix == ".mmap":
            path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [delete, truncate, empty, scribble, zero_the_vectors])
def test_an_index_that_was_harmed_is_made_again(tmp_path: Path, harm) -> None:
    with opened(tmp_path) as store:
        store.put([make_entry(n) for n in range(50)])
        store.catch_up()
        expected = {seed: answers(store, seed) for seed in range(10)}
    harm(tmp_path / "index")
    with opened(tmp_path) as store:
        store.catch_up()
        assert {seed: answers(store, seed) for seed in range(10)} == expected
        store.put([make_entry(99)])
        assert answers(store, 99, 1)[0][0] == "answer 99"
        store.delete(Selection(keys=(make_entry(99).key,)))
        store.rebuild()
        assert store.indexed
        assert {seed: answers(store, seed) for seed in range(10)} == expected


def test_an_engine_that_fails_costs_speed_only(store, monkeypatch) -> None:
    expected = answers(store, 3)

    def broken(*args, **kwargs):
        raise RuntimeError("the engine is in a bad mood")

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "search", broken)
        assert answers(store, 3) == expected
        assert not store.indexed
    store.catch_up()
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "add", broken)
        store.put([make_entry(77)])  # acknowledged: the store has it
    assert not store.indexed
    assert answers(store, 77, 1)[0][0] == "answer 77"
    store.catch_up()
    assert answers(store, 77, 1)[0][0] == "answer 77"
    assert store.repairs == 2


def test_a_wrong_row_never_makes_a_wrong_neighbour(store) -> None:
    expected = {seed: answers(store, seed) for seed in (3, 4)}
    wrong = replace(_rows([make_entry(3)])[0], vector=direction(4))
    (ghost,) = _rows([make_entry(1_000, vector=direction(4))])
    store._shard.add([wrong, ghost])
    assert {seed: answers(store, seed) for seed in (4, 3)} == expected
    assert store.repairs > 0
    repairs = store.repairs
    assert {seed: answers(store, seed) for seed in (4, 3)} == expected
    assert store.repairs == repairs, "it was put right"


def test_what_others_do_to_the_store(store) -> None:
    other = SQLiteStore(store.store.path, busy_timeout=10)
    other.put([make_entry(100)])
    other.delete(Selection(keys=(make_entry(3).key,)))
    other.put([make_entry(4, answer="newer")])
    assert "answer 3" not in {answer for answer, _ in answers(store, 3)}
    assert answers(store, 4, 1)[0][0] == "newer"
    store.catch_up()
    assert answers(store, 100, 1)[0][0] == "answer 100"
    assert answers(store, 7) == answers(other, 7)
    other.close()


def test_a_second_owner_lets_its_store_search(store, tmp_path: Path) -> None:
    with opened(tmp_path) as second:
        with pytest.raises(StoreUnavailableError, match="in use"):
            second.catch_up()
        assert answers(second, 3) == answers(store, 3)
        second._thread.join(30)
        assert not second.indexed
        second.put([make_entry(200)])
        assert answers(second, 200, 1)[0][0] == "answer 200"
        store.close()
        second.catch_up()
        assert second.indexed
        assert answers(second, 200, 1)[0][0] == "answer 200"


def test_evicted_and_expired_entries_are_not_proposed_for_ever(tmp_path: Path) -> None:
    clock = FakeClock()
    truth = SQLiteStore(tmp_path / "cache.db", max_entries=5, clock=clock)
    with QdrantEdgeStore(truth, tmp_path / "index", clock=clock) as store:
        store.catch_up()
        for number in range(12):
            store.put([make_entry(number, expires=clock.now + (10 if number == 11 else 1e9))])
        assert {answer for answer, _ in answers(store, 2, 9)} == {
            f"answer {n}" for n in range(7, 12)
        }
        clock.advance(100)
        store.put([make_entry(20)])
        assert "answer 11" not in {answer for answer, _ in answers(store, 11, 9)}
        store.catch_up()
        assert len(list(store._shard.idents())) == len(list(truth.entries(Selection())))


def test_writes_during_a_rebuild_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put([make_entry(n) for n in range(1_500)])
        done = threading.Event()

        def write() -> None:
            number = 5_000
            while not done.is_set():
                store.put(
                    [
                        make_entry(number),
                        make_entry(number % 1_500, vector=direction(number + 100_000)),
                    ]
                )
                store.delete(Selection(keys=(make_entry((number * 7) % 1_500).key,)))
                number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            store.catch_up()
            store.rebuild()
        finally:
            done.set()
            thread.join()
        for seed in (1, 5_000, 5_001, 700):
            assert answers(store, seed) == answers(store.store, seed)


def test_other_threads_run_while_the_index_is_made(tmp_path: Path) -> None:
    """`optimize` would hold Python's global lock until it is done, so it must not be called."""
    with opened(tmp_path) as store:
        store.put([make_entry(n) for n in range(3_000)])
        ticks, done = 0, threading.Event()

        def tick() -> None:
            nonlocal ticks
            while not done.wait(0.001):
                ticks += 1

        thread = threading.Thread(target=tick)
        thread.start()
        store.catch_up()
        done.set()
        thread.join()
        assert ticks > 10
        assert store._shard._shard.info().indexed_vectors_count == 0


@pytest.mark.parametrize("extreme", [math.inf, 1e308, None])
def test_entries_that_never_expire(store, extreme) -> None:
    store.put([make_entry(300, expires=extreme)])
    assert answers(store, 300, 1)[0][0] == "answer 300"


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tests.services.test_qdrant_edge import opened
from costwise_core.testing.stores import make_entry
store = opened(Path(sys.argv[1]))
store.catch_up()
for number in range(100_000):
    store.put([make_entry(number)])
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    for round_ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            acknowledged = -1
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged >= 150 * (round_ + 1):
                    break
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        assert acknowledged >= 150
        with opened(tmp_path) as store:
            store.catch_up()
            for number in range(acknowledged + 1):
                assert store.get(make_entry(number).key, SCOPE) is not None
            for number in (0, acknowledged // 2, acknowledged):
                assert answers(store, number, 1)[0][0] == f"answer {number}"
                assert answers(store, number) == answers(store.store, number)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"costwise-core\[edge\]"):
        opened(tmp_path)


async def test_it_serves_a_cache_in_async_code(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.catch_up()
        cache = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.5))
        scope = Scope(tenant="acme")
        assert await cache.astore("What is retrieval augmented generation?", scope, "A method.")
        hit = await cache.alookup("What is retrieval augmented generation", scope)
        assert hit, hit.why
        assert hit.answer == "A method."
        assert not await cache.alookup("What is retrieval augmented generation", Scope())
        assert cache.stats.errors == {}


def test_a_panic_of_the_engine_is_an_error_like_others(store, monkeypatch) -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        def query(self, *args):
            raise PanicException

        def close(self):
            pass

    expected = answers(store, 3)
    real = store._shard._shard
    store._shard._shard = Panicking()
    assert answers(store, 3) == expected
    assert not store.indexed
    real.close()
