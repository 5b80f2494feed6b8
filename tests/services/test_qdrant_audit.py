"""Every silent fault, as a server would show it, through the real client; and on real shards."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra: qdrant)")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed (extra: edge)")

import numpy as np
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from costwise_core.__main__ import main
from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant import (
    EdgeTarget,
    IndexConfig,
    LocalTarget,
    RemoteTarget,
    SearchConfig,
    audit,
)
from costwise_core.qdrant.edge_optimize import rebuild
from costwise_core.testing.shards import small_plan, small_shard
from tests.services.qdrant_double import Double, RefusalError
from tests.services.qdrant_server import running

HEALTHY: dict[str, Any] = {
    "status": "green",
    "optimizer_status": "ok",
    "points_count": 100_000,
    "indexed_vectors_count": 100_000,
    "segments_count": 2,
    "config": {
        "params": {
            "vectors": {"size": 384, "distance": "Cosine", "memory": "cold"},
            "shard_number": 1,
            "replication_factor": 2,
            "on_disk_payload": True,
        },
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
            "indexing_threshold": 10_000,
        },
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "memory": "pinned"}},
    },
    "payload_schema": {"tenant": {"data_type": "keyword", "points": 100_000}},
}
GOOD = SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0)
NOTED = {"rescoring_reads_disk"}
"""What is noted of a healthy collection."""


class Said(Double):
    """A server that has one collection and says of it what it is told to say."""

    info: dict[str, Any]
    version = "1.19.0"

    def handle(self, method: str, path: str, raw: bytes) -> tuple[int, bytes]:
        if path == "/":
            return 200, json.dumps({"title": "qdrant", "version": self.version}).encode()
        return super().handle(method, path, raw)

    def route(self, method: str, path: str, asked: Any) -> Any:
        if (method, path) != ("GET", "/collections/docs"):
            raise RefusalError(404, "no such way")
        return self.info


@pytest.fixture
def server(tmp_path: Path):
    said = Said(tmp_path)
    said.info = deepcopy(HEALTHY)
    yield said
    said.close()


def target(url: str, vector: str = "") -> RemoteTarget:
    return RemoteTarget(QdrantClient(url, check_compatibility=False), "docs", vector)


def put(info: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        info = info.setdefault(name, {})
    info[last] = value


def test_a_healthy_collection_has_notes_only(server):
    found = audit(target(server.url), search=GOOD, filters_on=["tenant"])
    assert found.ok
    assert {finding.code for finding in found.findings} == NOTED
    seen = found.inspection
    assert seen.vector.index == IndexConfig(quantization="int8", vectors="cold")
    assert (seen.version, seen.points, seen.replication, seen.payload) == (
        "1.19.0",
        100_000,
        2,
        "cold",
    )
    assert seen.raw["quantization_config"]["scalar"]["quantile"] == 0.99
    assert server.requests == [("GET", "/collections/docs")]  # it reads its description only


VECTORS = "config.params.vectors"
QUANTIZED = "config.quantization_config"
STRICT = "config.strict_mode_config"
FAULTS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # unindexed segments, and thresholds that count kilobytes
    ("unindexed", "warning", {"indexed_vectors_count": 60_000}, {}),
    (
        "below_indexing_threshold",
        "note",
        {"points_count": 9_000, "indexed_vectors_count": 0},
        {},
    ),
    ("indexing_off", "error", {"config.optimizer_config.indexing_threshold": 0}, {}),
    (
        "below_full_scan_threshold",
        "note",
        {"points_count": 9_000, "indexed_vectors_count": 9_000},
        {},
    ),
    ("no_graph", "warning", {"config.hnsw_config.m": 0, "indexed_vectors_count": 0}, {}),
    ("deferred", "error", {"update_queue": {"length": 0, "deferred_points": 7}}, {}),
    # quantization that saves nothing
    ("hot_originals", "warning", {f"{VECTORS}.memory": "cached"}, {}),
    ("hot_originals", "warning", {f"{VECTORS}.memory": None}, {}),
    ("cold_quantized", "warning", {f"{QUANTIZED}.scalar.memory": None}, {}),
    ("cold_unquantized", "warning", {QUANTIZED: None}, {}),
    (
        "inline_unquantized",
        "error",
        {QUANTIZED: None, "config.hnsw_config.inline_storage": True},
        {},
    ),
    ("coarse_for_dims", "warning", {QUANTIZED: {"binary": {"memory": "pinned"}}}, {}),
    (
        "coarse_for_dims",
        "warning",
        {QUANTIZED: {"turbo": {"bits": "bits1", "memory": "pinned"}}},
        {},
    ),
    ("uint8_cosine", "error", {f"{VECTORS}.datatype": "uint8"}, {}),
    # settings that lose against others
    ("overridden", "note", {f"{VECTORS}.hnsw_config": {"m": 32}}, {}),
    ("flag_overruled", "error", {f"{VECTORS}.on_disk": False}, {}),
    (
        "flag_overruled",
        "error",
        {f"{VECTORS}.hnsw_config": {"memory": "cold", "on_disk": False}},
        {},
    ),
    # search settings, and where they are put
    (
        "search_setting_in_collection",
        "error",
        {},
        {"settings": {"quantization_config": {"scalar": {"type": "int8", "rescore": True}}}},
    ),
    ("not_rescored", "warning", {}, {"search": SearchConfig(hnsw_ef=128)}),
    ("not_rescored", "note", {}, {"search": None}),
    ("rescore_without_oversampling", "warning", {}, {"search": SearchConfig(rescore=True)}),
    ("rescore_unquantized", "error", {QUANTIZED: None}, {"search": GOOD}),
    (
        "quantized_scores",
        "error",
        {},
        {"score_threshold": True, "search": SearchConfig(hnsw_ef=128)},
    ),
    # strict mode
    (
        "strict_no_exact",
        "warning",
        {STRICT: {"enabled": True, "search_allow_exact": False}},
        {},
    ),
    ("strict_hnsw_ef", "error", {STRICT: {"enabled": True, "search_max_hnsw_ef": 64}}, {}),
    ("strict_hnsw_ef", "note", {STRICT: {"enabled": True, "search_max_hnsw_ef": 512}}, {}),
    (
        "strict_oversampling",
        "error",
        {STRICT: {"enabled": True, "search_max_oversampling": 1.5}},
        {},
    ),
    # payload indexes
    ("missing_payload_index", "warning", {}, {"filters_on": ["lang"]}),
    (
        "missing_payload_index",
        "error",
        {STRICT: {"enabled": True, "unindexed_filtering_retrieve": False}},
        {"filters_on": ["lang"]},
    ),
    ("no_payload_index", "note", {"payload_schema": {}}, {"filters_on": []}),
    # how it is
    ("empty", "note", {"points_count": 0, "indexed_vectors_count": 0}, {}),
    ("optimizing", "note", {"status": "yellow"}, {}),
    ("grey", "warning", {"status": "grey"}, {}),
    ("optimizer_failed", "error", {"status": "red"}, {}),
    ("optimizer_failed", "error", {"optimizer_status": {"error": "No space left"}}, {}),
    ("server_warning", "warning", {"warnings": [{"message": "raise ulimit"}]}, {}),
]


@pytest.mark.parametrize(("code", "severity", "said", "asked"), FAULTS)
def test_a_silent_fault_is_found(server, code, severity, said, asked):
    for path, value in said.items():
        put(server.info, path, value)
    known = {"search": GOOD, "filters_on": ["tenant"]} | asked
    found = audit(target(server.url), **known)
    named = {finding.code: finding for finding in found.findings}
    assert code in named, found
    assert named[code].severity == severity
    assert named[code].fix
    assert found.ok == all(finding.severity == "note" for finding in found.findings)
    # Nothing is found that has nothing to do with what was changed.
    assert set(named) - NOTED - {code} <= RELATED.get(code, set()), found
    order = ["error", "warning", "note"]
    assert [f.severity for f in found.findings] == sorted(
        (f.severity for f in found.findings), key=order.index
    )


RELATED = {
    "below_indexing_threshold": set(),
    "cold_unquantized": {"rescore_unquantized"},
    "inline_unquantized": {"cold_unquantized", "rescore_unquantized"},
    "rescore_unquantized": {"cold_unquantized"},
    "quantized_scores": {"not_rescored"},
    "uint8_cosine": set(),
    "flag_overruled": {"overridden"},
}


def test_strict_mode_that_is_off_limits_nothing(server):
    put(server.info, STRICT, {"enabled": False, "search_allow_exact": False})
    assert audit(target(server.url), search=GOOD, filters_on=["tenant"]).ok


def test_old_servers_say_the_same_with_flags(server):
    server.version = "1.12.4"
    put(server.info, VECTORS, {"size": 384, "distance": "Cosine", "on_disk": True})
    put(server.info, QUANTIZED, {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}})
    found = audit(target(server.url), search=GOOD, filters_on=["tenant"])
    assert found.ok, found
    assert found.inspection.vector.index == IndexConfig(quantization="int8", vectors="cold")
    put(server.info, f"{VECTORS}.on_disk", False)
    assert "hot_originals" in {f.code for f in audit(target(server.url)).findings}


def test_all_vectors_are_looked_at_and_only_dense_ones_counted(server):
    put(
        server.info,
        VECTORS,
        {
            "title": {"size": 384, "distance": "Cosine", "memory": "cold"},
            "body": {
                "size": 768,
                "distance": "Dot",
                "quantization_config": {"turbo": {"bits": "bits4", "memory": "pinned"}},
            },
            "tokens": {
                "size": 128,
                "distance": "Cosine",
                "memory": "cold",
                "multivector_config": {"comparator": "max_sim"},
            },
        },
    )
    put(server.info, "config.params.sparse_vectors", {"words": {}})
    found = audit(target(server.url, "title"), search=GOOD, filters_on=["tenant"])
    said = {(finding.code, finding.what.partition(":")[0]) for finding in found.findings}
    assert ("hot_originals", "vector 'body'") in said
    assert ("sparse_vector", "vector 'words' is sparse") in said
    assert ("multi_vector", "vector 'tokens' is multi") in said
    # 100,000 are indexed of 200,000 in two dense vectors, though there are only 100,000 points.
    assert "unindexed" in {finding.code for finding in found.findings}
    body = next(space for space in found.inspection.vectors if space.name == "body")
    assert body.index.quantization == "turbo4"
    with pytest.raises(ConfigError, match=r"no vector 'titles'.*Did you mean 'title'"):
        _ = audit(target(server.url, "titles")).inspection.vector


def test_metadata_may_say_what_it_likes(server):
    put(server.info, "config.metadata", {"rescore": True, "note": "see the wiki"})
    assert audit(target(server.url), search=GOOD, filters_on=["tenant"]).ok


def test_an_audit_is_shown_as_text_html_and_json(server):
    put(server.info, "optimizer_status", {"error": "<b>No space left</b>"})
    found = audit(target(server.url))
    assert "error optimizer_failed" in str(found)
    assert "<b>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()
    again = json.loads(json.dumps(found.to_dict()))
    assert not again["ok"]
    assert again["findings"][0]["code"] == "optimizer_failed"


# --- a server that does not answer --------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_server_that_refuses_is_an_error_of_ours_without_the_key(server, status):
    server.status = status
    with pytest.warns(UserWarning, match="insecure"):
        client = QdrantClient(server.url, api_key="s3cret", check_compatibility=False)
    kind = StoreUnavailableError if status >= 500 else StoreError
    with pytest.raises(kind, match=str(status)) as caught:
        audit(RemoteTarget(client, "docs"))
    assert "s3cret" not in f"{caught.value!r} {caught.value.__context__}"


def test_a_server_that_is_gone_is_unavailable(server):
    gone = target(server.url)
    server.vanish()
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        audit(gone)


# --- search parameters arrive -------------------------------------------------------------------


def test_pasted_parameters_reach_the_server_from_both_frameworks(tmp_path):
    langchain_qdrant = pytest.importorskip("langchain_qdrant")
    embeddings = pytest.importorskip("langchain_core.embeddings")
    core = pytest.importorskip("llama_index.core")
    llama_qdrant = pytest.importorskip("llama_index.vector_stores.qdrant")
    config = SearchConfig(hnsw_ef=64, rescore=True, oversampling=2.0)
    with running(tmp_path) as server:
        client = QdrantClient(server.url, check_compatibility=False)
        space = models.VectorParams(size=8, distance=models.Distance.COSINE)
        client.create_collection("docs", vectors_config=space)
        store = langchain_qdrant.QdrantVectorStore(
            client=client,
            collection_name="docs",
            embedding=embeddings.DeterministicFakeEmbedding(size=8),
        )
        store.add_texts(["one", "two"])
        names: dict[str, Any] = {"vector_store": store}
        exec(config.for_langchain(), names)
        assert {doc.page_content for doc in names["retriever"].invoke("one")} == {"one", "two"}
        assert sent(server) == [config.to_params()]

        server.said.clear()
        vectors = llama_qdrant.QdrantVectorStore(client=client, collection_name="pages")
        index = core.VectorStoreIndex.from_documents(
            [core.Document(text="one")],
            storage_context=core.StorageContext.from_defaults(vector_store=vectors),
            embed_model=core.MockEmbedding(embed_dim=8),
        )
        names = {"index": index}
        exec(config.for_llamaindex(), names)
        assert [node.text for node in names["retriever"].retrieve("one")] == ["one"]
        assert sent(server) == [config.to_params()]


def sent(server: Any) -> list[Any]:
    """Return the parameters of the searches that arrived, without what means nothing."""
    found = []
    for _, path, asked in server.said:
        for one in asked.get("searches", [asked]) if "/points/query" in path else []:
            params = {k: v for k, v in one["params"].items() if v not in (None, False)}
            quantization = params.get("quantization") or {}
            params["quantization"] = {k: v for k, v in quantization.items() if v}
            found.append(params)
    return found


# --- targets ------------------------------------------------------------------------------------

POINTS, DIMS = 2_000, 32


def clustered(n: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, DIMS))
    found = centres[rng.integers(0, 40, n)] + rng.normal(scale=0.4, size=(n, DIMS))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def truth(vectors: Any, queries: Any, k: int) -> list[set[int]]:
    return [set(np.argsort(-(vectors @ query))[:k].tolist()) for query in queries]


def made(folder: Path, config: IndexConfig, *, name: str = "") -> Path:
    path, vectors = folder / "shard", clustered(POINTS)
    shape = config.for_edge(size=DIMS, distance="Cosine", vector=name, threads=1)
    shard = edge.EdgeShard.create(str(path), shape)
    points = [
        edge.Point(id=i, vector={name: v} if name else v, payload={"even": i % 2 == 0})
        for i, v in enumerate(vectors.tolist())
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()
    rebuild(path, vector=name)
    return path


def test_a_real_shard_is_read_searched_and_rebuilt(tmp_path):
    config = IndexConfig(quantization="int8", vectors="cold", ef_construct=64)
    queries = clustered(20, seed=1)
    with EdgeTarget(made(tmp_path, config, name="body"), "body") as shard:
        seen = shard.inspect()
        assert (seen.points, seen.indexed_vectors) == (POINTS, POINTS)
        assert (seen.vector.index, seen.vector.name, seen.vector.size) == (config, "body", DIMS)
        assert audit(shard, search=GOOD).ok
        exact = shard.exact(queries, 10)
        expected = truth(clustered(POINTS), queries, 10)
        assert [set(ids) for ids in exact.ids] == expected  # by the originals, not by int8
        found = shard.search(queries, 10, GOOD)
        shares = [len(set(a) & b) / 10 for a, b in zip(found.ids, expected, strict=True)]
        assert np.mean(shares) > 0.95
        assert found.cpu_seconds is not None
        assert len(found.seconds) == 20

        other = IndexConfig(quantization="binary", m=8)
        shard.configure(other)
        assert shard.inspect().vector.index == other
        assert shard.status().indexed_vectors == POINTS
        assert {f.code for f in audit(shard, search=GOOD).findings} >= {
            "hot_originals",
            "coarse_for_dims",
        }
        with pytest.raises(ConfigError, match="cannot lose its quantization"):
            shard.configure(IndexConfig())


def test_an_edge_shard_filters_and_samples(tmp_path):
    with EdgeTarget(made(tmp_path, IndexConfig())) as shard:
        even = models.Filter(
            must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))]
        )
        queries = clustered(2, seed=1)
        found = shard.exact(queries, 5, filters=[even, None])
        assert all(ident % 2 == 0 for ident in found.ids[0])
        assert set(found.ids[1]) == truth(clustered(POINTS), queries, 5)[1]
        sample = shard.vectors(50, seed=3, payload=True)
        assert sample.ids == shard.vectors(50, seed=3).ids
        assert sample.ids != shard.vectors(50, seed=4).ids
        assert len(set(sample.ids)) == 50
        assert np.allclose(sample.vectors, clustered(POINTS)[list(sample.ids)], atol=1e-6)
        assert [one["even"] for one in sample.payloads] == [i % 2 == 0 for i in sample.ids]
        assert len(shard.vectors(10_000).ids) == POINTS


def test_a_shard_in_use_or_missing_says_so(tmp_path):
    path = made(tmp_path, IndexConfig())
    with EdgeTarget(path) as first:
        first.inspect()
        with pytest.raises(StoreUnavailableError, match="in use"):
            EdgeTarget(path).inspect()
        with pytest.raises(StoreUnavailableError, match="in use"):
            rebuild(path)
    with pytest.raises(StoreError, match="no edge shard"):
        EdgeTarget(tmp_path / "nowhere").inspect()
    (path / "edge_config.json").write_text("[]")
    with pytest.raises(StoreError, match="cannot be read"):
        EdgeTarget(path).inspect()


def test_a_remote_collection_is_read_searched_and_changed(tmp_path):
    queries = clustered(10, seed=1)
    with running(tmp_path) as server:
        client = QdrantClient(server.url, check_compatibility=False)
        space = IndexConfig().for_create(server.version, size=DIMS, distance="Cosine")
        client.create_collection("docs", vectors_config={"body": space})
        client.upsert(
            "docs",
            [
                models.PointStruct(id=i, vector={"body": v}, payload={"even": i % 2 == 0})
                for i, v in enumerate(clustered(POINTS).tolist())
            ],
        )
        docs = RemoteTarget(client, "docs", "body")
        seen = docs.inspect()
        assert (seen.where, seen.version, seen.points) == ("remote", "1.19.0", POINTS)
        assert seen.vector.index == IndexConfig()
        exact = docs.exact(queries, 10, per_second=1_000)
        assert [set(ids) for ids in exact.ids] == truth(clustered(POINTS), queries, 10)
        assert exact.cpu_seconds is None
        sample = docs.vectors(20, seed=1, payload=True)
        assert np.allclose(sample.vectors, clustered(POINTS)[list(sample.ids)], atol=1e-6)

        config = IndexConfig(quantization="int8", vectors="cold")
        docs.configure(config)
        assert docs.inspect().vector.index == config
        assert docs.status().pending == 0
        docs.configure(IndexConfig())
        assert docs.inspect().vector.index == IndexConfig()


def test_an_old_server_cannot_say_what_is_pending(tmp_path):
    with running(tmp_path, version="1.15.0") as server:
        client = QdrantClient(server.url, check_compatibility=False)
        space = models.VectorParams(size=4, distance=models.Distance.DOT)
        client.create_collection("docs", vectors_config=space)
        assert RemoteTarget(client, "docs").status().pending is None


def test_strict_mode_that_forbids_exact_search_says_what_to_do(server):
    put(server.info, STRICT, {"enabled": True, "search_allow_exact": False})
    with pytest.raises(StoreError, match=r"allow search_allow_exact .* sandbox"):
        target(server.url).exact(np.ones((1, 384), np.float32), 10)


def test_local_mode_is_refused_with_reasons(tmp_path):
    client = QdrantClient(path=str(tmp_path / "local"))
    space = models.VectorParams(
        size=DIMS,
        distance=models.Distance.COSINE,
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
        ),
    )
    client.create_collection("docs", vectors_config=space)
    points = [models.PointStruct(id=i, vector=v) for i, v in enumerate(clustered(20).tolist())]
    client.upsert("docs", points)
    with pytest.raises(ConfigError, match="use LocalTarget"):
        RemoteTarget(client, "docs")
    local = LocalTarget(client, "docs")
    # It shows the quantization that it does not do: whoever believes it is fooled.
    assert local.inspect().vector.index.quantization == "int8"
    [finding] = audit(local).findings
    assert (finding.code, finding.severity) == ("local_mode", "error")
    assert "recall is always 1" in finding.what
    queries = clustered(1)
    for refused in (
        lambda: local.search(queries, 1, SearchConfig()),
        lambda: local.exact(queries, 1),
        lambda: local.configure(IndexConfig()),
    ):
        with pytest.raises(ConfigError, match="sandbox"):
            refused()
    sample = local.vectors(5, seed=1)
    assert np.allclose(sample.vectors, clustered(20)[list(sample.ids)], atol=1e-6)
    client.close()


# --- the command --------------------------------------------------------------------------------


def test_audit_on_the_command_line(server, monkeypatch, capsys):
    monkeypatch.setenv("QDRANT_URL", server.url)
    line = ["qdrant", "audit", "--collection", "docs", "--ef", "128", "--rescore"]
    line += ["--oversampling", "2", "--filters-on", "tenant"]
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    put(server.info, "indexed_vectors_count", 10)
    assert main(line) == 1
    assert "warning unindexed" in capsys.readouterr().out
    server.vanish()
    assert main(line) == 1
    assert "did not answer" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Api key is used")
def test_a_key_comes_from_the_environment_and_is_never_shown(server, monkeypatch, capsys):
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")
    line = ["qdrant", "audit", "--url", server.url, "--collection", "docs"]
    server.status = 401
    assert main(line) == 1
    assert main([*line, "--api-key=s3cret"]) == 2
    assert main([*line, "--api-key", "s3cret"]) == 2
    assert main(["qdrant", "audit", "--url", "http://u:s3cret@:x", "--collection", "docs"]) == 2
    out, err = capsys.readouterr()
    assert "s3cret" not in out + err
    assert "api key right" in err
    assert "unknown argument '--api-key'" in err


def test_wrong_arguments_are_2(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("QDRANT_URL", raising=False)
    assert main(["qdrant", "audit"]) == 2
    assert main(["qdrant", "audit", "--collection", "docs"]) == 2
    assert main(["qdrant", "estimate"]) == 2
    assert main(["qdrant", "estimate", "--points", "10", "--dims", "4", "--ram-gib", "1"]) == 2
    assert main(["qdrant", "estimate", "--points", "-1", "--dims", "4"]) == 2
    absent = ["--local", str(tmp_path / "none"), "--collection", "docs"]
    assert main(["qdrant", "audit", *absent]) == 2
    with pytest.raises(SystemExit) as left:
        main(["qdrant", "tuned"])
    assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_estimate_of_a_real_shard_on_the_command_line(tmp_path, capsys):
    path = made(tmp_path, IndexConfig())
    line = ["qdrant", "estimate", "--edge", str(path), "--quantization", "int8"]
    line += ["--originals", "cold", "--ram-gib", "4", "--disk-gib", "0.1", "--json"]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["before"]["points"] == POINTS
    assert found["before"]["config"] == IndexConfig().to_dict()
    assert found["after"]["config"]["vectors"] == "cold"
    assert float(found["saved_usd_month"]) == pytest.approx(
        float(found["before"]["usd_month"]) - float(found["after"]["usd_month"])
    )


def test_a_local_folder_on_the_command_line(tmp_path, capsys):
    client = QdrantClient(path=str(tmp_path / "local"))
    space = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=space)
    client.close()
    line = ["--local", str(tmp_path / "local"), "--collection", "docs"]
    assert main(["qdrant", "audit", *line]) == 1
    assert "error local_mode" in capsys.readouterr().out


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys; import costwise_core.qdrant.command, costwise_core.qdrant.auditing, "
        "costwise_core.qdrant.sizing, costwise_core.qdrant.target_remote; "
        "print({'numpy', 'qdrant_client', 'qdrant_edge'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_apply_watch_and_roll_back_on_the_command_line(tmp_path, capsys):
    """Over a real shard, with the exit codes that a job sees."""
    shard, plan, journal = small_shard(tmp_path), tmp_path / "plan.json", tmp_path / "journal"
    at = ["--edge", shard]
    np.save(tmp_path / "queries.npy", clustered(10, seed=1))
    line = ["qdrant", "tune", *at, "--queries", str(tmp_path / "queries.npy"), "--k", "5"]
    assert main(line) == 1  # they have other dimensions
    few = ["qdrant", "tune", *at, "--queries", "10", "--out", str(plan), "--json"]
    assert main(few) == 2
    assert "are needed" in capsys.readouterr().err

    with EdgeTarget(shard) as target:
        small_plan(target).save(plan)
    assert main(["qdrant", "apply", str(plan), *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "planned"
    assert main(["qdrant", "watch", str(plan), *at]) == 1  # it was not applied
    assert main(["qdrant", "apply", str(plan), *at, "--do"]) == 2  # without a journal
    line = ["qdrant", "apply", str(plan), *at, "--do", "--journal", str(journal)]
    assert main(line) == 0
    assert "applied" in capsys.readouterr().out
    assert main(["qdrant", "watch", str(plan), *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "fine"
    assert main(["qdrant", "rollback", *at, "--journal", str(journal)]) == 0
    assert "rolled back" in capsys.readouterr().out
    assert main(["qdrant", "rollback", *at, "--journal", str(tmp_path / "none")]) == 2
