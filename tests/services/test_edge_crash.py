"""One process has a folder; whenever it dies, what it was told was written is still there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")

import numpy as np
from qdrant_client import models

from costwise_core.errors import StoreError, StoreUnavailableError, StoreVersionError
from costwise_core.qdrant import EdgeQdrantClient

SIZE = 16
SETTINGS = {
    "vectors_config": models.VectorParams(size=SIZE, distance="Cosine"),
    "optimizers_config": models.OptimizersConfigDiff(
        indexing_threshold=1, default_segment_number=1
    ),
}


def point(number):
    vector = np.random.default_rng(number).normal(size=SIZE).tolist()
    return models.PointStruct(id=number, vector=vector, payload={"n": number})


def child(code, *args):
    """Start a process that runs `code` and says on its output what it has done."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


PRELUDE = f"""
import sys, threading, time, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_edge_crash import SETTINGS, point
from costwise_core.qdrant import EdgeQdrantClient
client = EdgeQdrantClient(sys.argv[1])
def say(word):  # two threads speak: a word and its end of line in one piece
    sys.stdout.write(str(word) + "\\n")
    sys.stdout.flush()
"""
WRITES = """
client.create_collection("c", **SETTINGS)
for number in range(1_000_000):
    client.upsert("c", [point(number)])
    if number % 7 == 0:
        client.delete("c", [number])
    say(number)
"""


def wait_for_a_copy(folder, seconds=60):
    end = time.monotonic() + seconds
    while len(list(folder.glob("collections/*/shard-*/wal"))) < 2:
        assert time.monotonic() < end, "no copy was made"
        time.sleep(0.002)


def wait_for_the_end_of(pids, seconds=60):
    end = time.monotonic() + seconds
    while not all(is_dead(pid) for pid in pids):
        assert time.monotonic() < end, "what was started goes on alone"
        time.sleep(0.01)


def is_dead(pid):
    """Return whether a process has ended, though nobody may have asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kept(folder):
    with EdgeQdrantClient(folder) as client:
        return {p.id for p in client.scroll("c", limit=1_000_000)[0]}


def test_a_kill_in_the_middle_of_writing_loses_nothing_acknowledged(tmp_path):
    with child(WRITES, tmp_path / "edge") as process:
        said = [int(process.stdout.readline()) for _ in range(60)]
        process.kill()
        said += [int(line) for line in process.stdout.read().split()]
    here = kept(tmp_path / "edge")
    assert {n for n in said if n % 7} <= here
    assert not {n for n in said if not n % 7} & here
    assert max(here) <= max(said) + 1


BUILDS = """
client.create_collection("c", **SETTINGS)
for start in range(0, 600, 300):
    client.upsert("c", [point(n) for n in range(start, start + 300)])
def write():
    for number in range(600, 1_000_000):
        client.upsert("c", [point(number)])
        say(number)
        time.sleep(0.002)
threading.Thread(target=write, daemon=True).start()
say("building")
client.optimize("c")
say("built")
threading.Event().wait()
"""


@pytest.mark.parametrize("moment", ["copying", "building", "built"])
def test_a_kill_while_an_index_is_built_loses_nothing_acknowledged(tmp_path, moment):
    folder = tmp_path / "edge"
    said = []
    with child(BUILDS, folder) as process:
        for line in process.stdout:
            said.append(line.strip())
            if said[-1] == ("built" if moment == "built" else "building"):
                break
        if moment == "building":
            wait_for_a_copy(folder)
        if moment != "copying":
            said += [process.stdout.readline().strip() for _ in range(20)]
        builders = children_of(process.pid) if moment == "building" else []
        process.kill()
        said += process.stdout.read().split()
    wait_for_the_end_of(builders)
    written = {int(word) for word in said if word.isdigit()}
    assert written or moment == "copying"
    assert {*range(600), *written} <= kept(folder)
    with EdgeQdrantClient(folder) as client:
        assert client.optimize("c") in {True, False}
        assert client.get_collection("c").indexed_vectors_count >= 600
        assert len(list((folder / "collections").glob("*/shard-*"))) == 1
    assert {*range(600), *written} <= kept(folder)


def test_killing_the_process_that_builds_is_an_error_and_nothing_more(tmp_path):
    folder = tmp_path / "edge"
    with child(BUILDS, folder) as process:
        while process.stdout.readline().strip() != "building":
            pass
        builder = None
        end = time.monotonic() + 60
        while builder is None and time.monotonic() < end:
            builder = next(iter(children_of(process.pid)), None)
        os.kill(builder, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert "StoreError: optimize('c'): the process that builds the index was killed" in errors
    assert set(range(600)) <= kept(folder)


def children_of(pid):
    """Return the processes that a process has started."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        pytest.skip("this system does not list a process's children")
    return [int(word) for word in listed.split()]


def test_another_process_is_told_who_has_the_folder(tmp_path):
    folder = tmp_path / "edge"
    code = 'client.create_collection("c", **SETTINGS); say("open"); threading.Event().wait()'
    with child(code, folder) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreUnavailableError, match=r"in use by another process\. One client"):
            EdgeQdrantClient(folder).get_collections()
        process.kill()
    with EdgeQdrantClient(folder) as client:
        assert client.collection_exists("c")
        with pytest.raises(StoreUnavailableError, match="in use"):
            EdgeQdrantClient(folder).get_collections()


def test_a_fork_is_told_to_open_its_own(tmp_path):
    process = child(
        """
import os
client.create_collection("c", **SETTINGS)
client.upsert("c", [point(1)])
if (pid := os.fork()) == 0:
    try:
        client.count("c")
    except Exception as error:
        say(type(error).__name__ + ": " + str(error))
    client.close()
    sys.exit(0)
os.waitpid(pid, 0)
client.upsert("c", [point(2)])
say(client.count("c").count)
client.close()
""",
        tmp_path / "edge",
    )
    output, errors = process.communicate(timeout=60)
    first, second = output.splitlines()
    assert errors == ""
    assert "StoreUnavailableError: count('c'): this client was opened by process" in first
    assert second == "2"
    assert kept(tmp_path / "edge") == {1, 2}


def test_a_collection_is_there_again_after_closing(tmp_path):
    with EdgeQdrantClient(tmp_path / "edge") as client:
        client.create_collection("c", **SETTINGS)
        client.upsert("c", [point(n) for n in range(300)])
        client.create_payload_index("c", "n", "integer")
        assert client.optimize("c")
        client.update_collection("c", metadata={"embedder": "MiniLM"})
        before = client.query_points("c", point(7).vector, with_vectors=True)
    with pytest.raises(StoreUnavailableError, match=r"count\('c'\): this client is closed"):
        client.count("c")
    client.close()
    with EdgeQdrantClient(tmp_path / "edge") as client:
        info = client.get_collection("c")
        assert info.config.metadata == {"embedder": "MiniLM"}
        assert list(info.payload_schema) == ["n"]
        assert info.indexed_vectors_count == 300
        assert client.query_points("c", point(7).vector, with_vectors=True) == before


def test_what_was_made_halfway_is_swept_away(tmp_path):
    with EdgeQdrantClient(tmp_path / "edge") as client:
        client.create_collection("c", **SETTINGS)
        client.upsert("c", [point(1)])
    (folder,) = (tmp_path / "edge/collections").iterdir()
    (folder / "shard-0123456789abcdef").mkdir()
    (tmp_path / "edge/collections/halfway-0000000000000000/shard-1").mkdir(parents=True)
    assert kept(tmp_path / "edge") == {1}
    assert len(list(folder.glob("shard-*"))) == 1
    assert list((tmp_path / "edge/collections").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"edge": "0.8.1"}, StoreVersionError, "written by qdrant-edge-py 0.8.1"),
        ({"format": 99}, StoreVersionError, "format 99"),
        ({"shard": "shard-/../../x"}, StoreError, "outside its folder"),
        ({"shard": "../x"}, StoreError, "outside its folder"),
        ({"settings": 3}, StoreError, "cannot be read"),
        (None, StoreError, "cannot be read"),
    ],
)
def test_files_of_another_kind_are_refused_and_left_alone(tmp_path, change, error, said):
    with EdgeQdrantClient(tmp_path / "edge") as client:
        client.create_collection("c", **SETTINGS)
        client.upsert("c", [point(1)])
    (file,) = (tmp_path / "edge/collections").glob("*/collection.json")
    good = file.read_text()
    file.write_text("{" if change is None else json.dumps(json.loads(good) | change))
    client = EdgeQdrantClient(tmp_path / "edge")
    with pytest.raises(error, match=said):
        client.count("c")
    file.write_text(good)
    assert client.count("c").count == 1, "the folder was let go, and nothing in it was changed"
    client.close()
    assert kept(tmp_path / "edge") == {1}


def test_a_shard_whose_files_are_gone_is_an_error_that_names_it(tmp_path):
    with EdgeQdrantClient(tmp_path / "edge") as client:
        client.create_collection("c", **SETTINGS)
    (shard,) = (tmp_path / "edge/collections").glob("*/shard-*")
    for path in sorted(shard.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with (
        EdgeQdrantClient(tmp_path / "edge") as client,
        pytest.raises(StoreUnavailableError, match=r"shard-.* cannot be opened"),
    ):
        client.count("c")


def test_a_copy_keeps_the_holes_of_files(tmp_path):
    from costwise_core.qdrant.edge_folder import copied

    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    with (source / "deep/sparse").open("wb") as file:
        file.write(b"start")
        file.seek(64 * 2**20)
        file.write(b"end")
        file.truncate(96 * 2**20)
    (source / "empty").touch()
    copied(source, tmp_path / "target")
    old, new = source / "deep/sparse", tmp_path / "target/deep/sparse"
    assert new.read_bytes() == old.read_bytes()
    assert new.stat().st_blocks * 512 < 8 * 2**20
    assert (tmp_path / "target/empty").read_bytes() == b""
