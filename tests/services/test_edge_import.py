"""Collections come over whole from elsewhere, and a folder with anything odd in it does nothing."""

import pickle
import sqlite3
import uuid

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from costwise_core.errors import ConfigError, StoreError, VectorError
from costwise_core.qdrant import EdgeQdrantClient
from costwise_core.qdrant.edge_pickled import read_point


def fill(client, n=40):
    random = np.random.default_rng(0)
    client.create_collection(
        "named",
        vectors_config={"d": models.VectorParams(size=4, distance="Cosine")},
        sparse_vectors_config={"s": models.SparseVectorParams()},
    )
    client.create_collection("plain", models.VectorParams(size=2, distance="Dot"))
    client.upsert(
        "named",
        [
            models.PointStruct(
                id=i if i % 2 else str(uuid.UUID(int=i)),
                vector={
                    "d": random.normal(size=4).tolist(),
                    "s": models.SparseVector(indices=[i, i + 7], values=[0.5, 2.0]),
                },
                payload={"n": i, "t": ["ünï", None, True, -1.5, 10**12, {}], "deep": {"x": []}},
            )
            for i in range(n)
        ],
    )
    client.upload_collection("plain", random.normal(size=(n, 2)), ids=range(n))
    client.upsert("plain", [models.PointStruct(id=0, vector=[9.0, 9.0], payload={"late": True})])
    client.delete("plain", [1])


def assert_same(mine, theirs):
    for name in ("named", "plain"):
        ours, wanted = (
            {p.id: p for p in one.scroll(name, limit=1000, with_vectors=True)[0]}
            for one in (mine, theirs)
        )
        assert ours.keys() == wanted.keys()
        for ident, point in wanted.items():
            assert ours[ident].payload == (point.payload or {})
            got, vector = ours[ident].vector, point.vector
            if name == "plain":
                assert got == pytest.approx(vector)
            else:
                # A folder that local mode has just opened holds them as they were given.
                unit = np.array(vector["d"]) / np.linalg.norm(vector["d"])
                assert got["d"] == pytest.approx(unit, abs=1e-6)
                assert got["s"] == vector["s"]


@pytest.fixture
def local(tmp_path):
    client = QdrantClient(path=str(tmp_path / "local"))
    fill(client)
    client.close()
    return tmp_path / "local"


def test_a_local_folder_comes_over_whole(local, tmp_path):
    before = {p: p.read_bytes() for p in local.rglob("*") if p.is_file()}
    with EdgeQdrantClient.from_local(local, tmp_path / "edge") as mine:
        assert {p: p.read_bytes() for p in local.rglob("*") if p.is_file()} == before
        theirs = QdrantClient(path=str(local))
        assert_same(mine, theirs)
        theirs.close()
        info = mine.get_collection("named").config.params
        assert info.vectors["d"].distance == models.Distance.COSINE
    assert {p.name for p in tmp_path.iterdir()} == {"local", "edge"}


@pytest.mark.parametrize("of", ["memory", "edge"])
def test_a_client_comes_over_whole(tmp_path, of):
    source = QdrantClient(":memory:") if of == "memory" else EdgeQdrantClient(tmp_path / "old")
    fill(source, 600)
    if of == "edge":
        source.create_payload_index("named", "n", "integer")
    with EdgeQdrantClient.from_client(source, tmp_path / "new") as mine:
        assert_same(mine, source)
        if of == "edge":
            assert list(mine.get_collection("named").payload_schema) == ["n"]
    with EdgeQdrantClient.from_client(source, tmp_path / "one", collections=["plain"]) as mine:
        assert [c.name for c in mine.get_collections().collections] == ["plain"]
    with pytest.raises(ConfigError, match=r"no collection 'plan'\. Did you mean 'plain'"):
        EdgeQdrantClient.from_client(source, tmp_path / "none", collections=["plan"])
    source.close()


def test_an_import_makes_a_new_folder_or_none(local, tmp_path):
    with pytest.raises(ConfigError, match="exists; an import makes a new folder"):
        EdgeQdrantClient.from_local(local, local)
    with pytest.raises(ConfigError, match=r"no meta\.json"):
        EdgeQdrantClient.from_local(tmp_path / "nowhere", tmp_path / "edge")
    broken = QdrantClient(":memory:")
    broken.create_collection("c", models.VectorParams(size=2, distance="Cosine"))
    broken.upsert("c", [models.PointStruct(id=1, vector=[0.0, 0.0])])
    with pytest.raises(VectorError, match=r"point 1: .*no direction"):
        EdgeQdrantClient.from_client(broken, tmp_path / "edge")
    assert {p.name for p in tmp_path.iterdir()} == {"local"}


def test_a_local_folder_is_not_opened_as_ours(local):
    with pytest.raises(ConfigError, match="import it with"):
        EdgeQdrantClient(local).get_collections()
    assert not (local / "owner.lock").exists()


class Bomb:
    """What unpickling would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def bombs(path):
    point = models.PointStruct.model_construct(id=1, vector=[1.0, 2.0], payload={"x": Bomb(path)})
    return {
        "in a payload": pickle.dumps(point),
        "alone": pickle.dumps(Bomb(path)),
        "old protocol": pickle.dumps(Bomb(path), protocol=0),
        "newobj ex": pickle.dumps(np.ones(2)),
        "hidden module": pickle.dumps(point).replace(b"models.models", b"models_models"),
    }


@pytest.mark.parametrize("name", bombs("x"))
def test_nothing_in_a_folder_is_run(local, tmp_path, name):
    mark = tmp_path / "ran"
    db = sqlite3.connect(local / "collection/plain/storage.sqlite")
    with db:
        db.execute("UPDATE points SET point = ? WHERE rowid = 3", (bombs(mark)[name],))
    db.close()
    with pytest.raises(StoreError, match="stored point"):
        EdgeQdrantClient.from_local(local, tmp_path / "edge")
    assert not mark.exists()
    assert not (tmp_path / "edge").exists()


payloads = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=3), inside),
        max_leaves=20,
    ),
    max_size=4,
)


@given(payloads, st.sampled_from([2, 4, 5]))
def test_points_are_read_as_pickle_would(payload, protocol):
    sparse = models.SparseVector(indices=[1, 300, 70_000], values=[1.0, 0.25, -2.0])
    vector = {"d": [0.5, 1.0], "many": [[1.0], [2.0]], "s": sparse}
    point = models.PointStruct.model_construct(id=7, vector=vector, payload=payload)
    raw = pickle.dumps(point, protocol=protocol)
    if protocol == 2:  # local mode has always written a later one
        with pytest.raises(StoreError, match="stored point"):
            read_point(raw)
        return
    assert read_point(raw) == {
        "id": 7,
        "vector": vector | {"s": {"indices": [1, 300, 70_000], "values": [1.0, 0.25, -2.0]}},
        "payload": payload,
    }


def test_parts_that_repeat_without_end_are_refused():
    many: list = ["x"]
    for _ in range(60):
        many = [many, many]
    itself: list = []
    itself.append(itself)
    for payload in ({"a": many}, {"a": itself}):
        point = models.PointStruct.model_construct(id=1, vector=[1.0], payload=payload)
        with pytest.raises(StoreError, match="without end"):
            read_point(pickle.dumps(point))
    twice = ["a", "b"]
    point = models.PointStruct.model_construct(id=1, vector=[1.0], payload={"a": twice, "b": twice})
    assert read_point(pickle.dumps(point))["payload"] == {"a": twice, "b": twice}


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_do_harm(noise, cut):
    point = models.PointStruct(id=1, vector=[1.0, 2.0], payload={"a": [1, "b", None]})
    whole = pickle.dumps(point)
    for raw in (noise, whole[:cut], whole[:cut] + noise):
        try:
            found = read_point(raw)
        except StoreError:
            continue
        assert found.keys() == {"id", "vector", "payload"}
