"""`EdgeQdrantClient` answers as qdrant-client's own local mode does, and says what it cannot do."""

import asyncio
import inspect
import re
import subprocess
import sys
import threading
import time
import uuid
import warnings
from datetime import UTC, datetime

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")

import numpy as np
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError, VectorError
from costwise_core.qdrant import (
    AsyncEdgeQdrantClient,
    EdgeQdrantClient,
    IndexConfig,
    RemoteTarget,
    audit,
)

SIZE = 6
UUIDS = [str(uuid.UUID(int=n)) for n in (3, 2**90)]


def one_of(name):
    return models.FieldCondition(key="kind", match=models.MatchValue(value=name))


RED = models.Filter(must=[one_of("red")])


@pytest.fixture
def client(tmp_path):
    with EdgeQdrantClient(tmp_path / "edge") as made:
        yield made


def dense(size=SIZE, distance="Cosine", **more):
    return models.VectorParams(size=size, distance=distance, **more)


def points(n=30, seed=0):
    random = np.random.default_rng(seed)
    for i in range(n):
        indices = sorted(random.choice(20, size=4, replace=False).tolist())
        yield models.PointStruct(
            id=i if i % 5 else str(uuid.UUID(int=i)),
            vector={
                "d": random.normal(size=SIZE).tolist(),
                "many": random.normal(size=(1 + i % 3, 3)).tolist(),
                "s": models.SparseVector(indices=indices, values=random.uniform(1, 2, 4).tolist()),
            },
            payload={"n": i, "kind": ("red", "blue")[i % 2], "deep": {"x": [i, i + 1]}},
        )


def both_filled(folder, distance="Cosine"):
    here, reference = EdgeQdrantClient(folder), QdrantClient(":memory:")
    best = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    for one in (here, reference):
        one.create_collection(
            "c",
            vectors_config={
                "d": dense(distance=distance),
                "many": dense(3, multivector_config=best),
            },
            sparse_vectors_config={"s": models.SparseVectorParams()},
        )
        one.upsert("c", list(points()))
    return here, reference


@pytest.fixture(scope="module", params=["Cosine", "Dot", "Euclid", "Manhattan"])
def both(request, tmp_path_factory):
    here, reference = both_filled(tmp_path_factory.mktemp("edge") / "c", request.param)
    here.create_payload_index("c", "n", "integer")
    yield here, reference
    here.close()


VECTOR = np.random.default_rng(9).normal(size=SIZE).tolist()
SPARSE = models.SparseVector(indices=[1, 4, 7, 11], values=[1.0, 0.5, 2.0, 1.5])
PREFETCH = [
    models.Prefetch(query=VECTOR, using="d", limit=10, filter=RED),
    models.Prefetch(query=SPARSE, using="s", limit=8),
]
QUERIES = {
    "vector": {"query": VECTOR, "using": "d"},
    "numpy": {"query": np.array(VECTOR), "using": "d"},
    "filter": {"query": VECTOR, "using": "d", "query_filter": RED},
    "page": {"query": VECTOR, "using": "d", "limit": 3, "offset": 4},
    "id": {"query": 7, "using": "d"},
    "uuid": {"query": uuid.UUID(int=5), "using": "d", "query_filter": RED},
    "nearest": {"query": models.NearestQuery(nearest=VECTOR), "using": "d"},
    "sparse": {"query": SPARSE, "using": "s"},
    "sparse of a point": {"query": 8, "using": "s"},
    "many": {"query": [[1.0, 0.0, 0.5], [0.2, 1.0, 0.0]], "using": "many"},
    "rrf": {"query": models.FusionQuery(fusion="rrf"), "prefetch": PREFETCH},
    "rrf k": {"query": models.RrfQuery(rrf=models.Rrf(k=7)), "prefetch": PREFETCH},
    "rrf weights": {
        "query": models.RrfQuery(rrf=models.Rrf(weights=[3.0, 1.0])),
        "prefetch": PREFETCH,
    },
    "dbsf": {"query": models.FusionQuery(fusion="dbsf"), "prefetch": PREFETCH},
    "again": {"query": VECTOR, "using": "d", "prefetch": PREFETCH[1]},
    "order": {"query": models.OrderByQuery(order_by="n"), "limit": 5},
    "order down": {
        "query": models.OrderByQuery(
            order_by=models.OrderBy(key="n", direction="desc", start_from=20)
        ),
        "limit": 5,
    },
    "recommend": {
        "query": models.RecommendQuery(
            recommend=models.RecommendInput(positive=[1, 2], negative=[3])
        ),
        "using": "d",
    },
    "recommend best": {
        "query": models.RecommendQuery(
            recommend=models.RecommendInput(positive=[1, VECTOR], strategy="best_score")
        ),
        "using": "d",
    },
    "recommend sum": {
        "query": models.RecommendQuery(
            recommend=models.RecommendInput(positive=[1], negative=[4], strategy="sum_scores")
        ),
        "using": "d",
    },
    "payload fields": {"query": VECTOR, "using": "d", "with_payload": ["kind", "deep"]},
    "payload without": {
        "query": VECTOR,
        "using": "d",
        "with_payload": models.PayloadSelectorExclude(exclude=["kind"]),
    },
    "vectors": {"query": VECTOR, "using": "d", "with_vectors": True, "with_payload": False},
    "one vector": {"query": VECTOR, "using": "d", "with_vectors": ["s"]},
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries_are_answered_as_by_local_mode(both, name):
    here, reference = both
    got = here.query_points("c", **QUERIES[name]).points
    wanted = reference.query_points("c", **QUERIES[name]).points
    assert wanted
    if name not in {"rrf", "rrf k", "rrf weights", "dbsf"}:  # equal scores come in any order
        assert [p.id for p in got] == [p.id for p in wanted]
    assert [p.score for p in got] == pytest.approx([p.score for p in wanted], abs=1e-4)
    theirs = {p.id: p for p in wanted}
    for point in got:
        if point.id in theirs:
            assert point.payload == theirs[point.id].payload
            assert_vectors(point.vector, theirs[point.id].vector)


def assert_vectors(ours, theirs):
    if not isinstance(theirs, dict):
        assert ours is None is theirs
        return
    assert ours.keys() == theirs.keys()
    for name, vector in theirs.items():
        if name == "s":
            assert ours[name].indices == vector.indices
            assert ours[name].values == pytest.approx(vector.values)
        else:
            assert np.allclose(ours[name], vector, atol=1e-6)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_mmr_is_that_of_local_mode(tmp_path, diversity):
    here, reference = both_filled(tmp_path / "c")
    query = models.NearestQuery(
        nearest=VECTOR, mmr=models.Mmr(diversity=diversity, candidates_limit=12)
    )
    got, wanted = (
        one.query_points("c", query, using="d", limit=4).points for one in (here, reference)
    )
    assert [p.id for p in got] == [p.id for p in wanted]
    assert all(p.vector is None for p in got)
    here.close()


def test_a_threshold_keeps_what_local_mode_keeps(both):
    here, reference = both
    scores = [p.score for p in reference.query_points("c", VECTOR, using="d", limit=30).points]
    threshold = (scores[9] + scores[10]) / 2
    asked = {"query": VECTOR, "using": "d", "limit": 30, "score_threshold": threshold}
    assert [p.id for p in here.query_points("c", **asked).points] == [
        p.id for p in reference.query_points("c", **asked).points
    ]


def test_a_batch_answers_each_in_its_place(both):
    here, reference = both
    asked = [
        models.QueryRequest(query=VECTOR, using="d", limit=3, with_payload=True),
        models.QueryRequest(query=SPARSE, using="s", limit=4, filter=RED),
    ]
    got, wanted = (one.query_batch_points("c", asked) for one in (here, reference))
    for mine, theirs in zip(got, wanted, strict=True):
        assert [p.id for p in mine.points] == [p.id for p in theirs.points]
        assert [p.payload for p in mine.points] == [p.payload for p in theirs.points]


def test_scrolling_goes_through_everything_once(both):
    here, _ = both
    seen, offset = [], None
    while True:
        page, offset = here.scroll("c", limit=7, offset=offset, with_vectors=["d"])
        seen += page
        if offset is None:
            break
    assert len(seen) == 30 == len({p.id for p in seen})
    assert all(list(p.vector) == ["d"] for p in seen)
    red, _ = here.scroll("c", RED, limit=100, order_by="n", with_payload=["n"])
    assert [p.payload["n"] for p in red] == list(range(0, 30, 2))


CHANGES = {
    "set": lambda one: one.set_payload("c", {"new": [1], "kind": "green"}, points=[1, 2]),
    "set by filter": lambda one: one.set_payload("c", {"new": None}, points=RED),
    "set inside": lambda one: one.set_payload("c", {"y": 1}, points=[1], key="deep"),
    "overwrite": lambda one: one.overwrite_payload("c", {"only": True}, points=[3]),
    "delete keys": lambda one: one.delete_payload(
        "c", ["kind"], points=models.PointIdsList(points=[1])
    ),
    "clear": lambda one: one.clear_payload("c", models.FilterSelector(filter=RED)),
    "delete": lambda one: one.delete("c", [1, 2, 999]),
    "delete uuid": lambda one: one.delete("c", [uuid.UUID(int=5).hex]),
    "delete by filter": lambda one: one.delete("c", RED),
    "delete vectors": lambda one: one.delete_vectors("c", ["d"], points=[1, 2]),
    "update vectors": lambda one: one.update_vectors(
        "c", [models.PointVectors(id=1, vector={"d": VECTOR})]
    ),
    "replace": lambda one: one.upsert(
        "c", [models.PointStruct(id=1, vector={"d": VECTOR}, payload={"a": 1})]
    ),
    "batch": lambda one: one.upsert(
        "c",
        models.Batch(ids=[1, UUIDS[0]], vectors={"d": [VECTOR, VECTOR]}, payloads=[{}, {"b": 2}]),
    ),
    "insert only": lambda one: one.upsert(
        "c",
        [
            models.PointStruct(id=1, vector={"d": VECTOR}, payload={"a": 1}),
            models.PointStruct(id=500, vector={"d": VECTOR}, payload={"a": 1}),
        ],
        update_mode=models.UpdateMode.INSERT_ONLY,
    ),
    "only red": lambda one: one.upsert(
        "c",
        [
            models.PointStruct(id=1, vector={"d": VECTOR}, payload={"a": 1}),
            models.PointStruct(id=2, vector={"d": VECTOR}, payload={"a": 2}),
        ],
        update_filter=RED,
    ),
    "odd values": lambda one: one.upsert(
        "c",
        [
            models.PointStruct(
                id=1,
                vector={"d": VECTOR},
                payload={"when": datetime(2026, 1, 2, tzinfo=UTC), "who": uuid.UUID(int=9)},
            )
        ],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_leave_what_local_mode_leaves(tmp_path, name):
    here, reference = both_filled(tmp_path / "c")
    for one in (here, reference):
        CHANGES[name](one)
    mine, theirs = (
        {p.id: p for p in one.scroll("c", limit=100, with_vectors=True)[0]}
        for one in (here, reference)
    )
    assert mine.keys() == theirs.keys()
    for ident, point in theirs.items():
        assert mine[ident].payload == (point.payload or {})
        assert_vectors(mine[ident].vector, point.vector)
    assert here.count("c").count == reference.count("c").count
    assert here.count("c", RED).count == reference.count("c", RED).count
    here.close()


def test_arguments_are_those_of_the_client():
    for name, ours in vars(EdgeQdrantClient).items():
        theirs = getattr(QdrantClient, name, None)
        if name.startswith("_") or theirs is None:
            continue
        mine = [p for p in inspect.signature(ours).parameters if p not in {"said", "args"}]
        known = list(inspect.signature(theirs).parameters)
        ordered = [p for p in known if p in mine]
        assert mine == ordered, name
        # What may be passed by place stands in the same place.
        assert mine[:2] == known[:2] or len(mine) < 2, name


def test_points_come_back_in_the_order_they_were_asked_for(client):
    client.create_collection("c", vectors_config=dense())
    client.upload_points("c", (models.PointStruct(id=i, vector=VECTOR) for i in range(20)), 7)
    assert [p.id for p in client.retrieve("c", [5, 3, 99, 5, 11])] == [5, 3, 11]
    assert client.retrieve("c", []) == []


def test_columns_can_be_uploaded(client):
    client.create_collection("c", vectors_config={"a": dense(2), "b": dense(3)})
    columns = {"a": np.ones((5, 2)), "b": np.ones((5, 3))}
    client.upload_collection("c", columns, payload=({"n": n} for n in range(5)), batch_size=2)
    found, _ = client.scroll("c", limit=10, with_vectors=True)
    assert sorted(p.payload["n"] for p in found) == list(range(5))
    assert all(len(p.vector["b"]) == 3 and uuid.UUID(p.id) for p in found)


def test_settings_are_told_as_they_were_given(client):
    client.create_collection(
        "c",
        vectors_config={"a": dense(2, on_disk=True), "b": dense(3, "Dot")},
        sparse_vectors_config={"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type="int8", always_ram=True)
        ),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=50),
        metadata={"embedder": "MiniLM"},
        shard_number=1,
        replication_factor=None,
    )
    client.create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
    client.create_payload_index("c", "t", models.TextIndexParams(type="text", lowercase=True))
    info = client.get_collection("c")
    assert info.config.params.vectors["b"].distance == models.Distance.DOT
    assert info.config.params.sparse_vectors["s"].modifier == models.Modifier.IDF
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (8, 100)
    assert info.config.optimizer_config.indexing_threshold == 50
    assert info.config.quantization_config.scalar.always_ram
    assert info.config.metadata == {"embedder": "MiniLM"}
    assert {name: one.data_type.value for name, one in info.payload_schema.items()} == {
        "n": "integer",
        "t": "text",
    }
    assert info.status == "green"
    client.delete_payload_index("c", "n")
    assert list(client.get_collection("c").payload_schema) == ["t"]


def test_collections_are_kept_apart_and_deleted_whole(client, tmp_path):
    for name in ("a/b", "a_b", "..", "ünï", "x" * 300):
        assert client.create_collection(name, vectors_config=dense(2))
        client.upsert(name, [models.PointStruct(id=1, vector=[1.0, 2.0], payload={"of": name})])
    names = [c.name for c in client.get_collections().collections]
    assert sorted(names) == sorted(["a/b", "a_b", "..", "ünï", "x" * 300])
    assert all(client.retrieve(n, [1])[0].payload == {"of": n} for n in names)
    assert client.delete_collection("a/b")
    assert not client.delete_collection("a/b")
    assert not client.collection_exists("a/b")
    assert client.collection_exists("a_b")
    client.recreate_collection("a_b", vectors_config=dense(3))
    assert client.count("a_b").count == 0
    assert len(list((tmp_path / "edge/collections").iterdir())) == 4


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([float("nan")] * SIZE, "NaN"),
        ([float("inf")] + [1.0] * (SIZE - 1), "infinite"),
        ([1e39] * SIZE, "beyond 32 bits"),
        ([0.0] * SIZE, "no direction"),
        ([1.0] * (SIZE + 1), r"6 numbers, got the shape \(7,\)"),
        ([], "shape"),
        ([[1.0] * SIZE], "shape"),
    ],
)
def test_vectors_that_would_be_compared_wrongly_are_refused(client, vector, said):
    client.create_collection("c", vectors_config=dense())
    good = models.PointStruct(id=1, vector=[1.0] * SIZE)
    for refused in (
        lambda: client.upsert("c", [good, models.PointStruct(id=2, vector=vector)]),
        lambda: client.update_vectors("c", [models.PointVectors(id=2, vector=vector)]),
        lambda: client.query_points("c", vector),
    ):
        with pytest.raises(VectorError, match=said):
            refused()
    assert client.count("c").count == 0, "of a refused upsert nothing is stored"


def test_a_vector_of_zeros_is_fine_where_no_direction_is_needed(client):
    client.create_collection("c", vectors_config=dense(2, "Euclid"))
    client.upsert("c", [models.PointStruct(id=1, vector=[0.0, 0.0])])
    assert client.query_points("c", [0.0, 0.0]).points[0].score == 0


def test_unit_vectors_are_not_cut_to_whole_numbers(client):
    client.create_collection("c", vectors_config=dense(2, datatype="uint8"))
    client.upsert("c", [models.PointStruct(id=1, vector=[3.0, 255.0])])
    for vector in ([0.6, 0.8], [-1.0, 4.0], [256.0, 1.0]):
        with pytest.raises(VectorError, match="whole numbers from 0 to 255"):
            client.upsert("c", [models.PointStruct(id=2, vector=vector)])


@pytest.mark.parametrize(
    "sparse",
    [
        models.SparseVector(indices=[1, 1], values=[1.0, 2.0]),
        models.SparseVector(indices=[1], values=[1.0, 2.0]),
        models.SparseVector(indices=[1], values=[float("nan")]),
        models.SparseVector(indices=[-1], values=[1.0]),
        models.SparseVector(indices=[2**32], values=[1.0]),
    ],
)
def test_broken_sparse_vectors_are_refused(client, sparse):
    client.create_collection("c", sparse_vectors_config={"s": models.SparseVectorParams()})
    with pytest.raises(VectorError, match="'s'"):
        client.upsert("c", [models.PointStruct(id=1, vector={"s": sparse})])


POINT = {"id": 1, "vector": [1.0, 2.0]}
REFUSED = {
    "id": (lambda c: c.upsert("c", [models.PointStruct(**POINT | {"id": "one"})]), "uuid5"),
    "negative id": (lambda c: c.retrieve("c", [-1]), "unsigned integer"),
    "payload nan": (
        lambda c: c.upsert("c", [models.PointStruct(**POINT, payload={"a": float("nan")})]),
        "point 1 must be JSON: Out of range",
    ),
    "payload surrogate": (
        lambda c: c.upsert("c", [models.PointStruct(**POINT, payload={"a": "\ud800"})]),
        "must be JSON: .*surrogates",
    ),
    "payload object": (
        lambda c: c.upsert("c", [models.PointStruct(**POINT, payload={"a": object()})]),
        "must be JSON",
    ),
    "no collection": (lambda c: c.count("cc"), "no such collection here. Did you mean 'c'"),
    "again": (lambda c: c.create_collection("c", dense(2)), "already exists"),
    "no name": (lambda c: c.create_collection("", dense(2)), "needs a name"),
    "no vectors": (lambda c: c.create_collection("d"), "needs vectors_config"),
    "shards": (lambda c: c.create_collection("d", dense(2), shard_number=2), "needs a server"),
    "custom sharding": (
        lambda c: c.create_collection("d", dense(2), sharding_method=models.ShardingMethod.CUSTOM),
        "custom sharding needs a server",
    ),
    "strict mode": (
        lambda c: c.create_collection(
            "d", dense(2), strict_mode_config=models.StrictModeConfig(enabled=True)
        ),
        "strict mode",
    ),
    "shard key": (lambda c: c.count("c", shard_key_selector="a"), "needs a server"),
    "unknown argument": (lambda c: c.count("c", exakt=True), "exakt"),
    "vector name": (lambda c: c.query_points("c", [1.0, 2.0], using="e"), "no vector 'e'"),
    "text": (
        lambda c: c.query_points("c", models.Document(text="tea", model="m")),
        "Nothing is embedded here",
    ),
    "query": (
        lambda c: c.query_points("c", models.ContextQuery(context=[])),
        "ContextQuery needs a server. What works",
    ),
    "missing point": (lambda c: c.query_points("c", 77), "no point 77"),
    "lookup": (
        lambda c: c.query_points("c", 1, lookup_from=models.LookupLocation(collection="d")),
        "lookup_from",
    ),
    "index kind": (lambda c: c.create_payload_index("c", "a", "keywrd"), "'keyword'"),
    "no index kind": (lambda c: c.create_payload_index("c", "a"), "field_schema"),
    "selector": (lambda c: c.delete("c", None), "ids or a Filter"),
    "uneven": (
        lambda c: c.upsert("c", models.Batch(ids=[1, 2], vectors=[[1.0, 2.0]])),
        "as many vectors",
    ),
    "two tests": (
        lambda c: c.count(
            "c",
            models.Filter(
                must=models.FieldCondition(
                    key="a", match=models.MatchValue(value=1), range=models.Range(gt=1)
                )
            ),
        ),
        "match and range",
    ),
    "no test": (
        lambda c: c.count("c", models.Filter(must=models.FieldCondition(key="a"))),
        "got none",
    ),
    "slice": (
        lambda c: c.count(
            "c",
            models.Filter(must=[models.SliceCondition(slice=models.Slice(total=2, index=0))]),
        ),
        "What works",
    ),
    "min_should": (
        lambda c: c.count(
            "c", models.Filter(min_should=models.MinShould(conditions=[], min_count=0))
        ),
        "min_count",
    ),
    "unquantize": (
        lambda c: c.update_collection("q", quantization_config=models.Disabled.DISABLED),
        "take quantization off",
    ),
    "shape": (lambda c: c.update_collection("c", collection_params="x"), "cannot be changed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said(client, name):
    client.create_collection("c", vectors_config=dense(2))
    int8 = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8"))
    client.create_collection("q", vectors_config=dense(2), quantization_config=int8)
    call, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said) as caught:
        call(client)
    assert re.split(r"[(:]", str(caught.value))[0] in vars(EdgeQdrantClient), "it names the call"


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": -1},
        {"limit": 2**70},
        {"limit": 1, "offset": -1},
        {"limit": 1, "search_params": models.SearchParams(hnsw_ef=-1)},
    ],
)
def test_numbers_out_of_range_are_said(client, wrong):
    client.create_collection("c", vectors_config=dense())
    with pytest.raises(ConfigError, match=r"^query_points\('c'\): a number is out of range"):
        client.query_points("c", query=VECTOR, **wrong)


def test_errors_of_the_engine_are_ours(client):
    client.create_collection("c", vectors_config=dense(2))
    with pytest.raises(StoreError, match=r"scroll\('c'\): No range index"):
        client.scroll("c", order_by="n")


def test_calls_of_a_server_are_no_attributes(client):
    assert not hasattr(client, "_client"), "LlamaIndex looks for it"
    with pytest.raises(AttributeError, match="no call 'create_snapshot'"):
        client.create_snapshot("c")
    with pytest.raises(AttributeError, match="Did you mean 'scroll'"):
        client.scrol("c")


def test_dictionaries_do_for_models(client):
    client.create_collection("c", vectors_config=dense(2))
    client.upsert("c", [models.PointStruct(id=n, vector=[1.0, n]) for n in range(4)])
    only = {"must": [{"has_id": [1, 2]}]}
    params = {"hnsw_ef": 32, "exact": True}
    found = client.query_points("c", [1.0, 0.0], query_filter=only, search_params=params)
    assert [p.id for p in found.points] == [1, 2]
    with pytest.raises(ConfigError, match="Filter"):
        client.count("c", {"mast": []})


# --- scores, threads, loops -------------------------------------------------------------------


def filled(client, quantization, n=600, size=32):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(n, size))
    client.create_collection(
        "q",
        vectors_config=dense(size),
        quantization_config=quantization,
        optimizers_config=models.OptimizersConfigDiff(
            indexing_threshold=1, default_segment_number=1
        ),
        hnsw_config=models.HnswConfigDiff(full_scan_threshold=1),
    )
    client.upload_collection("q", vectors, ids=range(n))
    assert client.optimize("q")
    assert client.get_collection("q").indexed_vectors_count == n
    return vectors


def test_a_threshold_compares_cosines_and_not_counts_of_bits(client):
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
    vectors = filled(client, binary)
    raw = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
    ask = vectors[0] + vectors[1]
    coarse = client.query_points("q", ask, search_params=raw, score_threshold=0.99).points
    assert coarse, "a quantized score passes any threshold"
    assert coarse[0].score > 1.01
    assert client.query_points("q", ask, score_threshold=0.99).points == []
    assert client.query_points("q", vectors[5], score_threshold=0.99).points[0].id == 5


def test_a_tuned_configuration_is_built_and_told(client):
    vectors = filled(client, None)
    tuned = IndexConfig(m=8, quantization="int8", vectors="cold")
    assert client.update_collection("q", **tuned.for_client("1.20.0"))
    assert client.get_collection("q").status == "grey"
    assert client.optimize("q")
    info = client.get_collection("q")
    assert info.status == "green"
    assert info.config.params.vectors.hnsw_config.m == 8
    assert info.config.params.vectors.quantization_config.scalar.type == "int8"
    exact = models.SearchParams(exact=True)
    int8 = models.SearchParams(
        hnsw_ef=64, quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
    )
    scores = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
    found = 0
    for vector in vectors[:50]:
        truth, near = (
            {p.id for p in client.query_points("q", vector, search_params=how).points}
            for how in (exact, int8)
        )
        found += len(truth & near)
    assert found > 450
    best = client.query_points("q", vectors[7], search_params=scores, limit=1).points[0]
    assert best.id == 7
    assert best.score != pytest.approx(1.0, abs=1e-6), "it was compared by the quantized vectors"
    assert not client.optimize("q"), "nothing is left to do"


def test_threads_share_one_client_while_an_index_is_built(client):
    vectors = filled(client, None)
    written, wrong, stop = [], [], threading.Event()

    def ask(start):
        number = start
        while not stop.is_set():
            number = (number + 1) % 600
            found = client.query_points("q", vectors[number], limit=1).points
            if [p.id for p in found] != [number]:
                wrong.append((number, found))

    def write():
        number = 1_000
        while not stop.is_set():
            client.upsert("q", [models.PointStruct(id=number, vector=-vectors[number % 600])])
            if number % 3 == 0:
                client.delete("q", [number])
            else:
                written.append(number)
            number += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in (0, 300)]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    try:
        client.update_collection("q", hnsw_config=models.HnswConfigDiff(m=32))
        assert client.optimize("q")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert written
    here = {p.id for p in client.scroll("q", limit=1_000_000)[0]}
    assert here == {*range(600), *written}


def test_deleting_a_collection_ends_the_building_of_its_index(client):
    filled(client, None, n=3_000)
    client.update_collection("q", hnsw_config=models.HnswConfigDiff(m=32, ef_construct=400))
    failed = []

    def build():
        try:
            client.optimize("q")
        except StoreError as error:
            failed.append(str(error))

    thread = threading.Thread(target=build)
    thread.start()
    while not client._home._open["q"]._building.locked():
        time.sleep(0.001)
    client.delete_collection("q")
    client.create_collection("q", vectors_config=dense(2))
    client.upsert("q", [models.PointStruct(id=1, vector=[1.0, 2.0])])
    thread.join()
    assert len(failed) == 1
    assert client.retrieve("q", [1], with_vectors=True)[0].id == 1
    client.close()
    with EdgeQdrantClient(client._home._path) as again:
        assert again.count("q").count == 1
        assert again.get_collection("q").config.params.vectors.size == 2


async def test_a_loop_is_not_blocked_and_sees_the_same(client):
    waiting = AsyncEdgeQdrantClient(client)
    assert await waiting.create_collection("c", vectors_config=dense(2))
    await asyncio.gather(
        *(waiting.upsert("c", [models.PointStruct(id=n, vector=[1.0, n])]) for n in range(20))
    )
    assert (await waiting.count("c")).count == client.count("c").count == 20
    found = await waiting.query_points("c", [1.0, 0.0], limit=1)
    assert found.points[0].id == 0
    with pytest.raises(ConfigError, match="no such collection"):
        await waiting.count("nope")
    with pytest.raises(AttributeError, match="no call"):
        await waiting.create_snapshot("c")
    for name in ("scroll", "delete", "retrieve", "query_batch_points", "create_payload_index"):
        assert inspect.iscoroutinefunction(getattr(waiting, name))
        assert hasattr(AsyncQdrantClient, name)
    async with waiting:
        pass
    with pytest.raises(StoreUnavailableError, match="closed"):
        client.count("c")


def test_the_auditor_reads_it_as_it_reads_a_server(client):
    filled(client, None)
    found = audit(RemoteTarget(client, "q"))
    assert found.inspection.points == 600
    assert found.inspection.indexed_vectors == 600


def test_nothing_warns_and_nothing_is_opened_too_early(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = EdgeQdrantClient(tmp_path / "edge")
        assert not (tmp_path / "edge").exists()
        client.close()


@pytest.mark.parametrize("missing", ["qdrant_edge", "qdrant_client"])
def test_importing_loads_nothing_and_a_missing_package_is_named(missing):
    code = f"""
import sys
from costwise_core.qdrant import AsyncEdgeQdrantClient, EdgeQdrantClient
print([m for m in ("qdrant_edge", "qdrant_client", "numpy") if m in sys.modules])
sys.modules[{missing!r}] = None
try:
    EdgeQdrantClient("x")
except ImportError as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = ran.stdout.splitlines()
    assert first == "[]"
    extra = {"qdrant_edge": "edge", "qdrant_client": "qdrant"}[missing]
    assert f"costwise-core[{extra}]" in second
