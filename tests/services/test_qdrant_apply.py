"""Applying a plan: to a server's double that misbehaves, and to real shards."""

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra: qdrant)")
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed (extra: edge)")

from qdrant_client import QdrantClient, models

from costwise_core.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from costwise_core.qdrant.applying import apply, rollback
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.journal import Journal
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.target_edge import EdgeTarget
from costwise_core.qdrant.target_local import LocalTarget
from costwise_core.qdrant.target_remote import RemoteTarget
from costwise_core.qdrant.waiting import Patience
from costwise_core.testing.shards import clustered, small_plan, small_shard
from tests.services.qdrant_server import Fault, Server, running

POINTS = 300
FAST = Patience(poll_seconds=0.01, settle_seconds=0.1, timeout_seconds=20)
INT8 = IndexConfig(quantization="int8", ef_construct=120)


@pytest.fixture
def server(tmp_path: Path):
    with running(tmp_path / "server") as server:
        yield server


@pytest.fixture
def client(server: Server):
    client = connected(server)
    yield client
    client.close()


def connected(server: Server) -> QdrantClient:
    return QdrantClient(server.url, check_compatibility=False, timeout=5)


def fill(server: Server, client: QdrantClient, name: str = "docs-1", **settings) -> None:
    client.create_collection(
        name,
        **{
            "vectors_config": models.VectorParams(size=16, distance=models.Distance.COSINE),
            "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=1),
            "hnsw_config": models.HnswConfigDiff(full_scan_threshold=10),
        }
        | settings,
    )
    client.upsert(
        name,
        [
            models.PointStruct(id=n, vector=row, payload={"page": n})
            for n, row in enumerate(clustered(POINTS).tolist())
        ],
    )
    server.optimize(name)
    server.built[name].stale = False
    point(client, "docs", name)


def point(client: QdrantClient, alias: str, name: str) -> None:
    made = models.CreateAlias(collection_name=name, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=made)])


@pytest.fixture
def target(server: Server, client: QdrantClient):
    fill(server, client)
    return RemoteTarget(client, "docs")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "docs.journal"


def applied(plan, target, journal, **more):
    given = {"dry_run": False, "journal": journal, "per_second": None, "patience": FAST} | more
    return apply(plan, target, **given)


def sent(server: Server, method: str, path: str) -> list:
    return [body for m, p, body in server.said if m == method and p.endswith(path)]


def writes(server: Server) -> list:
    reads = ("query", "scroll", "count", "exists", "/points")
    return [
        (m, p) for m, p, _ in server.said if m != "GET" and not (m == "POST" and p.endswith(reads))
    ]


def everything(client: QdrantClient, name: str) -> dict:
    records, _ = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    return {record.id: (record.vector, record.payload) for record in records}


# What it says and what it sends


def test_a_dry_run_writes_nothing_and_says_every_step(server, target, tmp_path):
    plan = small_plan(target, index=INT8)
    before, files = len(writes(server)), set(tmp_path.iterdir())
    patch = apply(plan, target)
    shadow = apply(plan, target, mode="shadow")
    assert len(writes(server)) == before
    assert set(tmp_path.iterdir()) == files
    assert patch.state == shadow.state == "planned"
    assert patch.steps[0].says == (
        "ef_construct 120, quantization int8 instead of ef_construct 100, quantization none"
    )
    assert [s.name for s in shadow.steps] == [
        "create",
        "copy",
        "wait and verify",
        "switch",
        "late writes",
    ]
    assert "cannot be seen from here" in patch.notes[0]


def test_a_patch_sends_only_what_differs_and_tells_how_to_search(server, target, journal):
    plan = small_plan(target, index=INT8)
    told: list[SearchConfig] = []
    result = applied(plan, target, journal, on_search=told.append)
    assert result.state == "applied"
    assert result.verified.holds
    assert result.search == plan.search
    assert told == [plan.search]
    (body,) = sent(server, "PATCH", "docs-1")
    assert body["vectors"][""]["hnsw_config"] == {"ef_construct": 120}
    assert set(body["vectors"][""]) == {"hnsw_config", "quantization_config"}
    assert target.inspect().vector.index == INT8
    assert server.built["docs-1"].rebuilds == 1


def test_what_is_set_already_is_not_sent(server, target, journal):
    plan = small_plan(target, index=IndexConfig(quantile=None))
    assert "only the search settings change" in str(apply(plan, target))
    result = applied(plan, target, journal)
    assert result.state == "applied"
    assert not sent(server, "PATCH", "docs-1")
    assert rollback(journal, target, patience=FAST).state == "rolled back"
    assert not sent(server, "PATCH", "docs-1")
    applied(plan, target, journal.with_suffix(".shadow"), mode="shadow")
    assert list(server.built) == ["docs-1"]


def test_an_older_server_is_asked_in_its_own_words(tmp_path, journal):
    with running(tmp_path, version="1.15.3") as server:
        client = connected(server)
        fill(server, client)
        target = RemoteTarget(client, "docs")
        cold = replace(INT8, vectors="cold")
        assert applied(small_plan(target, index=cold), target, journal).state == "applied"
        (body,) = sent(server, "PATCH", "docs-1")
        assert body["vectors"][""]["on_disk"] is True
        assert body["vectors"][""]["quantization_config"]["scalar"]["always_ram"] is True
        with pytest.raises(ConfigError, match=r"turbo4 needs Qdrant 1\.18"):
            apply(small_plan(target, index=IndexConfig(quantization="turbo4")), target)
        client.close()


def test_a_plan_that_keeps_changes_nothing(server, target, journal):
    plan = replace(small_plan(target, index=INT8), keep=True, why="the gain is under the noise")
    result = applied(plan, target, journal)
    assert (result.state, result.why) == ("kept", "the gain is under the noise")
    assert not journal.exists()


def test_the_journal_is_needed(target):
    with pytest.raises(ConfigError, match="give journal="):
        apply(small_plan(target), target, dry_run=False)


# Waiting


@pytest.mark.parametrize("version", ["1.19.0", "1.16.2"])
@pytest.mark.parametrize(
    "phases",
    [
        ["yellow"],
        ["green", "green", "green", "yellow", "yellow"],
        ["grey"],
        ["yellow", "grey", "yellow", "grey"],
    ],
    ids=" ".join,
)
def test_nothing_is_measured_before_it_is_built(tmp_path, journal, version, phases):
    with running(tmp_path / "s", version=version) as server:
        client = connected(server)
        fill(server, client)
        server.phases = phases
        target = RemoteTarget(client, "docs")
        built: list[int] = []

        def watcher(method: str, path: str) -> None:
            if "query" in path:
                built.append(server.built["docs-1"].rebuilds)

        server.watchers.append(watcher)
        result = applied(small_plan(target, index=INT8), target, journal)
        assert result.state == "applied"
        assert built
        assert set(built) == {1}
        client.close()


def test_a_build_that_begins_while_it_is_measured_is_measured_again(tmp_path, journal):
    """Without a list of optimizations a server may look done for longer than anybody waits."""
    with running(tmp_path / "s", version="1.16.2") as server:
        client = connected(server)
        fill(server, client)
        server.phases = ["green"] * 6 + ["yellow"] * 4
        target = RemoteTarget(client, "docs")
        hasty = replace(FAST, settle_seconds=0.0)
        applied(small_plan(target, index=INT8), target, journal, patience=hasty)
        assert server.built["docs-1"].rebuilds == 1
        client.close()


def test_patience_ends_and_can_be_taken_up_again(server, target, journal):
    plan = small_plan(target, index=INT8)
    server.phases, server.stuck = ["yellow"], True
    with pytest.raises(StoreUnavailableError, match=r"docs\.journal") as caught:
        applied(plan, target, journal, patience=replace(FAST, timeout_seconds=0.3))
    assert "yellow" in str(caught.value)
    assert "'wait and verify'" in str(caught.value)
    server.stuck = False
    assert applied(plan, target, journal).state == "applied"
    assert len(sent(server, "PATCH", "docs-1")) == 1


def test_an_optimizer_that_gives_up_brings_the_old_configuration_back(server, target, journal):
    old = target.inspect().vector.index

    def watcher(method: str, path: str) -> None:
        patches = len(sent(server, "PATCH", "docs-1")) + (method == "PATCH")
        server.optimizer_status = {"error": "No space left on device"} if patches == 1 else "ok"

    server.watchers.append(watcher)
    result = applied(small_plan(target, index=INT8), target, journal)
    assert result.state == "rolled back"
    assert "No space left on device" in result.why
    assert target.inspect().vector.index == old


# Promises


@pytest.mark.parametrize("mode", ["patch", "shadow"])
def test_a_broken_promise_is_taken_back(server, client, target, journal, mode):
    old, before = target.inspect().vector.index, everything(client, "docs")
    bad = small_plan(
        target,
        index=IndexConfig(quantization="binary"),
        search=SearchConfig(rescore=False, hnsw_ef=4),
    )
    told: list[SearchConfig] = []
    result = applied(bad, target, journal, mode=mode, on_search=told.append)
    assert result.state == "rolled back"
    assert "promise was not kept" in result.why
    assert result.verified.recall < 0.9
    assert result.search == bad.baseline.search
    assert target.inspect().vector.index == old
    assert everything(client, "docs") == before
    assert server.aliases == {"docs": "docs-1"}
    assert list(server.built) == ["docs-1"]
    if mode == "patch":  # at once by searching differently, then by rebuilding
        assert [search.ignore_quantization for search in told] == [True, False]
    # To ask again is answered from the journal.
    asked = len(writes(server))
    assert applied(bad, target, journal, mode=mode).state == "rolled back"
    assert len(writes(server)) == asked


@pytest.mark.parametrize("mode", ["patch", "shadow"])
def test_to_apply_twice_is_to_apply_once(server, target, journal, mode):
    plan = small_plan(target, index=INT8)
    first = applied(plan, target, journal, mode=mode)
    asked = len(writes(server))
    second = applied(plan, target, journal, mode=mode)
    assert len(writes(server)) == asked
    assert (second.state, second.collection) == (first.state, first.collection)
    assert second.verified == first.verified


@pytest.mark.parametrize("mode", ["patch", "shadow"])
def test_rollback_restores_what_was_there(server, client, target, journal, mode):
    old, before = target.inspect().raw, everything(client, "docs")
    plan = small_plan(target, index=INT8)
    applied(plan, target, journal, mode=mode)
    result = rollback(journal, target, patience=FAST)
    assert result.state == "rolled back"
    assert result.search == plan.baseline.search
    now = target.inspect()
    assert now.vector.index == small_plan(target).baseline.index
    assert now.raw.get("quantization_config") == old.get("quantization_config")
    assert everything(client, "docs") == before
    assert rollback(journal, target, patience=FAST).state == "rolled back"
    assert applied(plan, target, journal, mode=mode).state == "rolled back"


def test_one_vector_loses_the_collections_quantization_and_the_others_keep_it(
    server, client, journal
):
    both = {
        name: models.VectorParams(size=16, distance=models.Distance.COSINE) for name in ("a", "b")
    }
    int8 = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.95)
    )
    client.create_collection("two", vectors_config=both, quantization_config=int8)
    rows = clustered(POINTS).tolist()
    client.upsert(
        "two", [models.PointStruct(id=n, vector={"a": v, "b": v}) for n, v in enumerate(rows)]
    )
    a, b = RemoteTarget(client, "two", "a"), RemoteTarget(client, "two", "b")
    plan = small_plan(a, index=IndexConfig())
    assert "rebuilds the index of all" in str(apply(plan, a))
    assert applied(plan, a, journal).state == "applied"
    assert a.inspect().vector.index.quantization == "none"
    assert b.inspect().vector.index.quantization == "int8"
    rollback(journal, a, patience=FAST)
    assert a.inspect().vector.index.quantization == "int8"
    assert a.inspect().vector.index.quantile == 0.95


# What cannot be applied


def test_a_plan_that_does_not_fit_is_refused(target, client):
    plan = small_plan(target)
    for wrong, why in (
        (replace(plan, vector="title"), "for vector 'title'"),
        (replace(plan, dims=384), "for 384 dimensions"),
        (replace(plan, distance="Dot"), "for Dot"),
    ):
        with pytest.raises(ConfigError, match=why):
            apply(wrong, target)
    space = models.VectorParams(size=16, distance=models.Distance.COSINE)
    client.create_collection("nothing", vectors_config=space)
    with pytest.raises(ConfigError, match="empty"):
        apply(plan, RemoteTarget(client, "nothing"))
    with pytest.raises(StoreError, match="404"):
        apply(plan, RemoteTarget(client, "elsewhere"))


def test_strict_mode_is_read_before_anything_is_changed(server, client, journal):
    strict = models.StrictModeConfig(
        enabled=True,
        search_allow_exact=False,
        search_max_hnsw_ef=64,
        search_max_oversampling=1.5,
        max_query_limit=10,
    )
    fill(server, client, strict_mode_config=strict)
    target = RemoteTarget(client, "docs")
    asked = len(writes(server))
    with pytest.raises(ConfigError, match="forbids exact search") as caught:
        applied(small_plan(target), target, journal)
    assert "search_max_hnsw_ef up to 64, the plan needs 128" in str(caught.value)
    assert "search_max_oversampling up to 1.5" in str(caught.value)
    assert "max_query_limit up to 10, the plan needs 37" in str(caught.value)
    assert len(writes(server)) == asked


def test_a_small_disk_is_refused(target, journal):
    with pytest.raises(ConfigError, match=r"A patch needs less"):
        applied(small_plan(target), target, journal, mode="shadow", disk_free=1_000)
    assert "are free" in str(apply(small_plan(target), target, disk_free=10**12))


def test_local_mode_is_refused(target):
    client = QdrantClient(":memory:")
    space = models.VectorParams(size=16, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=space)
    with pytest.raises(ConfigError, match="LocalTarget cannot be changed"):
        apply(small_plan(target), LocalTarget(client, "docs"))
    client.close()


def test_a_shadow_needs_an_alias(server, client, target, journal):
    plain = RemoteTarget(client, "docs-1")
    plan = small_plan(plain, index=INT8)
    with pytest.raises(ConfigError, match=r"no alias.*It has the aliases 'docs'"):
        apply(plan, plain, mode="shadow")
    result = applied(plan, plain, journal, mode="shadow", alias="live")
    assert server.aliases["live"] == result.collection
    assert result.spare == "docs-1"


def test_a_server_that_refuses_is_quoted(server, target, journal):
    server.faults.append(Fault("PATCH", "docs-1", 403, times=9))
    with pytest.raises(StoreError, match=r"403.*api key"):
        applied(small_plan(target, index=INT8), target, journal)
    server.faults.clear()
    assert applied(small_plan(target, index=INT8), target, journal).state == "applied"


# Connections


REQUESTS = {
    "patch": [
        ("PATCH", "docs-1"),
        ("GET", "docs-1$"),
        ("GET", "optimizations"),
        ("POST", "query"),
        ("GET", "aliases"),
    ],
    "shadow": [
        ("PUT", "docs-1-[0-9a-f]+(\\?.*)?$"),
        ("POST", "scroll"),
        ("PUT", "points"),
        ("POST", "points$"),
        ("POST", "query"),
        ("POST", "aliases"),
    ],
}
CUTS = [(mode, *request) for mode, requests in REQUESTS.items() for request in requests]


LOSSES = [(*cut, "lost after") for cut in CUTS] + [
    (mode, method, path, "lost before" if mode == "patch" else 500)
    for mode, method, path in CUTS
    if method != "GET"
]


@pytest.mark.parametrize(("mode", "method", "path", "how"), LOSSES, ids=str)
def test_a_lost_connection_costs_nothing(server, client, target, journal, mode, method, path, how):
    """One loss is asked again or resumed with the same journal; either way all ends well."""
    before = everything(client, "docs")
    plan = small_plan(target, index=INT8, questions=60)
    server.faults.append(Fault(method, path, how))
    try:
        result = applied(plan, target, journal, mode=mode)
    except StoreUnavailableError:
        result = applied(plan, target, journal, mode=mode)
    assert server.faults[0].times == 0
    assert result.state == "applied"
    assert target.inspect().vector.index == INT8
    assert everything(client, "docs") == before
    assert server.aliases == {"docs": result.collection}
    assert len(server.built) == (2 if mode == "shadow" else 1)


def test_a_slow_server_is_asked_again(server, target, journal):
    """The PATCH takes longer than the client waits, and is carried out all the same."""
    server.faults.append(Fault("PATCH", "docs-1", "slow"))
    hasty = QdrantClient(server.url, check_compatibility=False, timeout=1)
    told: list[str] = []
    plan = small_plan(target, index=INT8, questions=60)
    result = applied(plan, RemoteTarget(hasty, "docs"), journal, said=told.append)
    assert result.state == "applied"
    assert any("Asking again" in text for text in told)
    hasty.close()


CHILD = """
import sys
from qdrant_client import QdrantClient
from costwise_core.qdrant.applying import apply
from costwise_core.qdrant.plan import TuningPlan
from costwise_core.qdrant.target_remote import RemoteTarget
from costwise_core.qdrant.waiting import Patience

url, plan, mode, journal = sys.argv[1:]
target = RemoteTarget(QdrantClient(url, check_compatibility=False), "docs")
patience = Patience(poll_seconds=0.01, settle_seconds=0.1, timeout_seconds=20)
apply(TuningPlan.load(plan), target, mode=mode, dry_run=False, journal=journal, per_second=None,
      patience=patience)
"""


KILLS = [(*cut, False) for cut in CUTS if cut[1] != "GET"] + [
    (*cut, True) for cut in CUTS if not cut[2].startswith(("query", "scroll")) and cut[1] != "GET"
]


@pytest.mark.parametrize(("mode", "method", "path", "after"), KILLS, ids=str)
def test_a_killed_process_is_taken_up_where_it_was(
    server, client, target, journal, tmp_path, mode, method, path, after
):
    before = everything(client, "docs")
    plan = small_plan(target, index=INT8, questions=60)
    plan.save(tmp_path / "plan.json")
    child: list[subprocess.Popen] = []
    fault = Fault(method, path, lambda: os.kill(child[0].pid, signal.SIGKILL), also_do=after)
    begun = len(server.said)
    arguments = [server.url, str(tmp_path / "plan.json"), mode, str(journal)]
    child.append(
        subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE)
    )
    server.faults.append(fault)
    _, said = child[0].communicate(timeout=60)
    assert child[0].returncode == -signal.SIGKILL, said.decode()[-500:]
    assert len(server.said) > begun
    assert everything(client, "docs") == before  # users have noticed nothing
    result = applied(plan, target, journal, mode=mode)
    assert result.state == "applied"
    assert target.inspect().vector.index == INT8
    assert everything(client, "docs") == before
    assert server.aliases == {"docs": result.collection}
    assert len(server.built) == (2 if mode == "shadow" else 1)


def test_whoever_was_killed_can_also_be_taken_back(server, client, target, journal):
    before = everything(client, "docs")
    plan = small_plan(target, index=INT8, questions=60)
    for mode, method, path in (("patch", "PATCH", "docs-1"), ("shadow", "POST", "aliases")):
        file = journal.with_suffix(f".{mode}")
        server.faults.append(Fault(method, path, "lost after", times=9))
        with pytest.raises(StoreUnavailableError):
            applied(plan, target, file, mode=mode)
        server.faults.clear()
        assert rollback(file, target, patience=FAST).state == "rolled back"
        assert target.inspect().vector.index.quantization == "none"
        assert server.aliases == {"docs": "docs-1"}
        assert everything(client, "docs") == before


# A shadow


def test_a_shadow_has_everything_the_original_has(server, client, journal):
    client.create_collection(
        "rich-1",
        vectors_config={
            "title": models.VectorParams(size=16, distance=models.Distance.COSINE),
            "pages": models.VectorParams(
                size=4,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
            ),
        },
        sparse_vectors_config={"words": models.SparseVectorParams()},
        strict_mode_config=models.StrictModeConfig(enabled=True, upsert_max_batchsize=50),
        metadata={"made_by": "a test"},
    )
    rows = clustered(120).tolist()
    for begin in range(0, 120, 50):
        client.upsert(
            "rich-1",
            [
                models.PointStruct(
                    id=n if n % 2 else str(uuid.UUID(int=n)),
                    vector={"title": rows[n]}
                    | ({"pages": [rows[n][:4], rows[n][4:8]]} if n % 3 else {})
                    | (
                        {"words": models.SparseVector(indices=[n, 900], values=[0.5, 1.0])}
                        if n % 5
                        else {}
                    ),
                    payload={"page": n, "text": "größe", "deep": {"list": [1, None]}},
                )
                for n in range(begin, min(120, begin + 50))
            ],
        )
    client.create_payload_index("rich-1", "page", models.PayloadSchemaType.INTEGER)
    point(client, "rich", "rich-1")
    target = RemoteTarget(client, "rich", "title")
    before = target.inspect()
    result = applied(small_plan(target, index=INT8), target, journal, mode="shadow")
    assert result.state == "applied", result.why
    assert everything(client, "rich") == everything(client, "rich-1")
    assert len(everything(client, "rich")) == 120
    after = target.inspect()
    assert after.payload_indexes == before.payload_indexes == {"page": "integer"}
    assert after.raw["metadata"] == {"made_by": "a test"}
    assert after.strict == before.strict
    assert [(s.name, s.kind, s.size) for s in after.vectors] == [
        (s.name, s.kind, s.size) for s in before.vectors
    ]
    assert after.vector.index == INT8
    assert result.spare == "rich-1"


def moved(n: int) -> list[float]:
    return clustered(1, seed=1000 + n)[0].tolist()


def put(client: QdrantClient, name: str, ident: int | str, text: str) -> None:
    client.upsert(name, [models.PointStruct(id=ident, vector=moved(3), payload={"text": text})])


def test_writes_while_it_is_copied_come_along(server, client, target, journal):
    writer = connected(server)
    scrolls = []

    def watcher(method: str, path: str) -> None:
        if path.partition("?")[0] == "/collections/docs-1/points/scroll":
            scrolls.append(path)
            if len(scrolls) == 2:  # the first round is at its second page
                put(writer, "docs-1", 3, "changed")
                put(writer, "docs-1", 10_000, "new")
                writer.delete("docs-1", points_selector=[5])

    server.watchers.append(watcher)
    result = applied(small_plan(target, index=INT8), target, journal, mode="shadow")
    server.watchers.clear()
    now = everything(client, "docs")
    assert result.state == "applied"
    assert now[3][1] == {"text": "changed"}
    assert now[10_000][1] == {"text": "new"}
    assert 5 not in now
    assert now == everything(client, "docs-1")
    writer.close()


def test_writes_between_copy_and_switch_come_along_and_conflicts_are_told(
    server, client, target, journal
):
    """An app that still wrote to the old one, and one that already wrote to the new one."""
    writer = connected(server)

    def before_the_switch(method: str, path: str) -> None:
        if (method, path.partition("?")[0]) == ("POST", "/collections/aliases"):
            server.watchers.clear()
            put(writer, "docs-1", 3, "late")
            put(writer, "docs-1", 4, "late on the old side")
            put(writer, "docs-1", 10_000, "new on the old side")
            writer.delete("docs-1", points_selector=[5])
            (new,) = set(server.built) - {"docs-1"}
            put(writer, new, 4, "early on the new side")
            put(writer, new, 10_001, "new on the new side")

    server.watchers.append(before_the_switch)
    result = applied(small_plan(target, index=INT8), target, journal, mode="shadow")
    now = {ident: payload for ident, (_, payload) in everything(client, "docs").items()}
    assert now[3] == {"text": "late"}
    assert now[4] == {"text": "early on the new side"}
    assert now[10_000] == {"text": "new on the old side"}
    assert now[10_001] == {"text": "new on the new side"}
    assert 5 not in now
    assert any("1 points were changed on both sides" in note for note in result.notes)
    writer.close()


def test_a_rollback_of_a_shadow_brings_later_writes_back(server, client, target, journal):
    applied(small_plan(target, index=INT8), target, journal, mode="shadow")
    put(client, "docs", 3, "after the switch")
    put(client, "docs", 10_000, "new after the switch")
    client.delete("docs", points_selector=[5])
    result = rollback(journal, target, patience=FAST)
    assert server.aliases == {"docs": "docs-1"}
    now = {ident: payload for ident, (_, payload) in everything(client, "docs").items()}
    assert now[3] == {"text": "after the switch"}
    assert now[10_000] == {"text": "new after the switch"}
    assert 5 not in now
    assert result.spare in server.built


def test_an_alias_that_somebody_else_moved_is_left_alone(server, client, target, journal):
    fill(server, client, "docs-9")
    server.aliases["docs"] = "docs-1"

    def watcher(method: str, path: str) -> None:
        if "query" in path:
            server.aliases["docs"] = "docs-9"

    server.watchers.append(watcher)
    with pytest.raises(StoreError, match="somebody else has moved it"):
        applied(small_plan(target, index=INT8), target, journal, mode="shadow")
    assert server.aliases["docs"] == "docs-9"


def test_a_snapshot_is_taken_first_where_it_is_wanted(server, target, journal):
    result = applied(small_plan(target, index=INT8), target, journal, snapshot=True)
    assert result.steps[0].name == "snapshot"
    assert "on the server" in result.steps[0].result
    assert len(server.built["docs-1"].snapshots) == 1


# The journal


def test_a_journal_belongs_to_one_change(client, server, target, journal):
    plan = small_plan(target, index=INT8)
    applied(plan, target, journal)
    with pytest.raises(ConfigError, match="another plan"):
        applied(small_plan(target, index=IndexConfig(m=8)), target, journal)
    with pytest.raises(ConfigError, match="mode='patch'"):
        applied(plan, target, journal, mode="shadow")
    with pytest.raises(ConfigError, match="'docs-1'"):
        rollback(journal, RemoteTarget(client, "docs-1"))


def test_two_processes_cannot_make_the_same_change(target, journal):
    plan = small_plan(target, index=INT8)
    with Journal(journal), pytest.raises(StoreUnavailableError, match="in use"):
        applied(plan, target, journal)


def test_files_that_are_no_journal_are_left_alone(target, tmp_path):
    plan = small_plan(target, index=INT8)
    text = tmp_path / "notes.txt"
    text.write_text("my notes, which are longer than the header of a database" * 20)
    with pytest.raises(StoreVersionError, match="no journal"):
        applied(plan, target, text)
    assert text.read_text().startswith("my notes")
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        applied(plan, target, tmp_path / "missing" / "docs.journal")
    with pytest.raises(ConfigError, match="there is no journal"):
        rollback(tmp_path / "nowhere.journal", target)
    with Journal(tmp_path / "empty.journal"):
        pass
    with pytest.raises(ConfigError, match="nothing was begun"):
        rollback(tmp_path / "empty.journal", target)


# Shards in a folder


@pytest.fixture
def shard(tmp_path: Path):
    with EdgeTarget(small_shard(tmp_path)) as target:
        yield target


@pytest.mark.parametrize("mode", ["patch", "shadow"])
def test_a_shard_is_changed_and_changed_back(shard, journal, mode):
    before = {i: v.tolist() for i, v in zip(*sample(shard), strict=True)}
    result = applied(small_plan(shard, index=INT8), shard, journal, mode=mode)
    assert result.state == "applied"
    assert shard.inspect().vector.index == INT8
    assert rollback(journal, shard).state == "rolled back"
    assert (
        shard.inspect().vector.index.quantization == "none"
    )  # which the engine cannot do in place
    assert shard.inspect().vector.index.ef_construct == 100
    assert {i: v.tolist() for i, v in zip(*sample(shard), strict=True)} == before


def sample(target):
    found = target.vectors(10_000)
    return found.ids, found.vectors


def test_a_shards_snapshot_is_a_copy_that_opens(shard, journal):
    result = applied(small_plan(shard, index=INT8), shard, journal, snapshot=True)
    with EdgeTarget(result.steps[0].result) as copy:
        assert copy.inspect().vector.index.quantization == "none"
        assert copy.inspect().points == shard.inspect().points


def test_a_shard_that_somebody_has_open_is_refused(shard, journal):
    plan = small_plan(shard, index=INT8)
    shard.close()
    other = EdgeTarget(shard.path)
    other.inspect()
    with pytest.raises(StoreUnavailableError, match="in use"):
        applied(plan, shard, journal)
    other.close()
    assert applied(plan, shard, journal).state == "applied"


EDGE_CHILD = """
import sys
from costwise_core.qdrant.applying import apply
from costwise_core.qdrant.plan import TuningPlan
from costwise_core.qdrant.target_edge import EdgeTarget

path, plan, mode, journal, stop = sys.argv[1:]

def said(text):
    if text.startswith(stop):
        print("there", flush=True)

apply(TuningPlan.load(plan), EdgeTarget(path), mode=mode, dry_run=False, journal=journal,
      per_second=None, said=said)
"""


@pytest.mark.parametrize(
    ("mode", "step"),
    [("patch", "change"), ("patch", "wait"), ("shadow", "copy"), ("shadow", "switch")],
)
def test_a_killed_change_of_a_shard_is_taken_up(shard, journal, tmp_path, mode, step):
    plan = small_plan(shard, index=INT8, questions=60)
    points = shard.inspect().points
    shard.close()
    plan.save(tmp_path / "plan.json")
    arguments = [shard.path, str(tmp_path / "plan.json"), mode, str(journal), step]
    child = subprocess.Popen(
        [sys.executable, "-c", EDGE_CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout.readline() == b"there\n", child.stderr.read().decode()[-800:]
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)
    assert applied(plan, shard, journal, mode=mode).state == "applied"
    assert shard.inspect().vector.index == INT8
    assert shard.inspect().points == points
