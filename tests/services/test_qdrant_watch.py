"""Watching a collection: fine, drift, or nobody knows; and where its parts lie."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra: qdrant)")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed (extra: edge)")

from qdrant_client import QdrantClient, models

from costwise_core.__main__ import main
from costwise_core.errors import ConfigError
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.plan import TuningPlan
from costwise_core.qdrant.prices import QdrantPrices
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.target_edge import EdgeTarget
from costwise_core.qdrant.target_remote import RemoteTarget
from costwise_core.qdrant.tiers import tiered, tiering
from costwise_core.qdrant.watching import watch
from costwise_core.testing.shards import clustered, small_plan, small_shard
from tests.services.qdrant_server import Fault, Server, running


@pytest.fixture
def server(tmp_path: Path):
    with running(tmp_path / "server") as server:
        yield server


@pytest.fixture
def client(server: Server):
    client = QdrantClient(server.url, check_compatibility=False, timeout=5)
    client.create_collection(
        "docs",
        vectors_config=models.VectorParams(size=16, distance=models.Distance.COSINE),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
        hnsw_config=models.HnswConfigDiff(full_scan_threshold=10),
    )
    fill(client, 0, 300)
    server.optimize("docs")
    server.built["docs"].stale = False
    yield client
    client.close()


def fill(client: QdrantClient, begin: int, end: int) -> None:
    rows = clustered(end, seed=begin)[begin:].tolist()
    client.upsert("docs", [models.PointStruct(id=begin + n, vector=v) for n, v in enumerate(rows)])


@pytest.fixture
def target(client: QdrantClient):
    return RemoteTarget(client, "docs")


def kept(target, **more) -> TuningPlan:
    """A plan for the collection as it is."""
    return small_plan(target, index=target.inspect().vector.index, **more)


def test_what_keeps_its_promise_is_fine(target, client):
    seen = watch(target, kept(target), per_second=None)
    assert (seen.state, seen.exit_code) == ("fine", 0)
    assert seen.verified.recall > 0.95
    fill(client, 300, 400)  # what is true is asked anew, so new points are no drift
    assert watch(target, kept(target), per_second=None).exit_code == 0


def test_a_promise_that_broke_is_drift(target):
    plan = kept(target, search=SearchConfig(hnsw_ef=128))
    worse = SearchConfig(hnsw_ef=1, indexed_only=True)
    seen = watch(target, replace(plan, recall_target=0.999), search=worse, per_second=None)
    assert (seen.state, seen.exit_code) == ("drift", 1)
    assert "does not hold any more" in seen.why
    assert seen.verified.low < 0.999


def test_another_configuration_is_drift_although_the_recall_is_there(target, client):
    plan = kept(target)
    client.update_collection("docs", hnsw_config=models.HnswConfigDiff(m=4))
    seen = watch(target, plan, per_second=None)
    assert seen.exit_code == 1
    assert "the collection is float32, m 4" in seen.why


def test_vectors_without_an_index_are_mentioned(target, client, server):
    plan = kept(target)
    server.phases, server.stuck = ["yellow"], True
    fill(client, 300, 600)
    seen = watch(target, plan, per_second=None)
    assert any("in no index" in note for note in seen.notes)
    assert any("yellow" in note for note in seen.notes)


def test_what_cannot_be_measured_is_not_fine(target, client, server):
    plan = kept(target)
    client.update_collection(
        "docs", strict_mode_config=models.StrictModeConfig(enabled=True, search_allow_exact=False)
    )
    seen = watch(target, plan, per_second=None)
    assert (seen.state, seen.exit_code) == ("unmeasured", 2)
    assert "search_allow_exact" in seen.why
    client.update_collection("docs", strict_mode_config=models.StrictModeConfig(enabled=False))
    server.faults.append(Fault("POST", "query", "lost before", times=99))
    assert watch(target, plan, per_second=None).exit_code == 2
    server.faults.clear()
    assert watch(target, replace(plan, dims=7), per_second=None).exit_code == 2
    client.delete("docs", points_selector=models.Filter())
    empty = watch(target, plan, per_second=None)
    assert (empty.exit_code, "empty" in empty.why) == (2, True)
    server.vanish()
    assert watch(target, plan, per_second=None).exit_code == 2


def test_the_command_ends_with_the_same_codes(target, server, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    kept(target, questions=20).save(plan)

    def command(what: str, *more: str) -> int:
        where = ["--url", server.url, "--collection", "docs", "--json"]
        return main(["qdrant", what, *more, *where])

    fast = ["--per-second", "10000"]
    assert command("watch", str(plan), *fast) == 1  # 20 questions cannot show 0.9
    kept(target).save(plan)
    assert command("watch", str(plan), *fast) == 0
    assert '"state": "fine"' in capsys.readouterr().out
    assert command("watch", str(tmp_path / "lost.json")) == 2
    assert command("watch", str(plan), "--per-second", "0") == 2
    assert command("apply", str(plan), "--per-second", "-1") == 2
    server.faults.append(Fault("POST", "query", 503, times=99))
    assert command("watch", str(plan), *fast) == 2
    server.faults.clear()
    assert command("apply", str(plan)) == 0
    assert '"state": "planned"' in capsys.readouterr().out
    journal = str(tmp_path / "journal")
    assert command("apply", str(plan), "--do", "--journal", journal, *fast) == 0
    assert '"state": "applied"' in capsys.readouterr().out
    assert command("rollback", "--journal", journal) == 0
    assert '"state": "rolled back"' in capsys.readouterr().out


# Where parts lie


def test_tiering_says_what_it_saves_and_is_a_plan(tmp_path):
    with EdgeTarget(small_shard(tmp_path)) as target:
        change = tiering(target, prices=QdrantPrices(ram_gib=4, disk_gib="0.1"))
        assert change.before.config == IndexConfig()
        assert str(change.after.config) == "int8, m 16, ef_construct 100, vectors cold"
        assert change.after.ram_fast < change.before.ram_fast
        plan = small_plan(target)
        cold = tiered(plan)
        assert cold.index == replace(plan.index, vectors="cold")
        assert cold.search == plan.search
        assert cold.recommended.recall == plan.recommended.recall
        assert cold.recommended.p50_ms is None  # it was measured with originals in memory
        with pytest.raises(ConfigError, match="not quantized"):
            tiered(small_plan(target, index=IndexConfig()))
