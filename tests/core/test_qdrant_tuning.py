"""Tuning on the real engine: what is recommended, kept, refused, resumed and shown."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from costwise_core.errors import ConfigError, StoreError, VectorError
from costwise_core.qdrant import (
    EdgeTarget,
    IndexConfig,
    LocalTarget,
    Measured,
    QdrantPrices,
    Questions,
    RemoteTarget,
    Sandbox,
    SearchConfig,
    Space,
    TuningPlan,
    tune,
)
from costwise_core.qdrant.ground_truth import exact_truth
from costwise_core.qdrant.plan import pareto
from costwise_core.testing.shards import clustered, small_shard
from tests.services.qdrant_server import running

DIMS = 64
SMALL = Space(efs=(32, 128), quantizations=("int8",), ef_constructs=(100,), ms=(16,))


def vectors(rows: int = 700) -> np.ndarray:
    return clustered(rows, DIMS)


def questions(rows: int = 240, dims: int = DIMS) -> np.ndarray:
    return clustered(rows, dims, seed=1)


@pytest.fixture(scope="module")
def plan() -> TuningPlan:
    space = replace(SMALL, quantizations=("none", "int8", "turbo1"))
    return tune(vectors(), questions(), space=space, progress=False)


# --- what is found ------------------------------------------------------------------------------


def test_something_cheaper_is_found_and_it_keeps_the_promise(plan: TuningPlan) -> None:
    assert not plan.keep
    assert plan.recommended is not None
    assert plan.index.quantization == "int8"
    assert plan.index.vectors == "cold"
    assert (plan.recommended.recall_low or 0) >= 0.95
    assert plan.recommended.recall_low < plan.recommended.recall
    assert (plan.recommended.hot_bytes or 0) < 0.6 * (plan.baseline.hot_bytes or 0)
    assert plan.tune_cpu_seconds > 0


def test_the_promise_holds_on_a_rebuild_and_new_questions(plan: TuningPlan, tmp_path: Path) -> None:
    asked = Questions.of(clustered(200, DIMS, seed=2))
    sandbox = Sandbox(tmp_path, vectors())
    built = sandbox.build(plan.index, order=9)
    [trial] = sandbox.measure([(built, plan.search)], asked, plan.k)
    truth = exact_truth(vectors(), asked, plan.k, distance="Cosine")
    assert truth.recalls(trial.found.tolist()).mean() >= plan.chosen.recall_low


def test_questions_that_chose_do_not_confirm(plan: TuningPlan) -> None:
    assert plan.tune_questions + len(plan.confirm) == 240
    assert plan.recommended is not None
    assert plan.recommended.questions == len(plan.confirm)


def test_float32_is_measured_beside_it(plan: TuningPlan) -> None:
    assert plan.float32 is not None
    assert plan.float32.index == IndexConfig()
    assert (plan.float32.recall_low or 0) >= 0.95


def test_small_collections_are_told_that_no_graph_is_built(plan: TuningPlan) -> None:
    assert any("10,000 KB" in note for note in plan.notes)


def test_what_saves_too_little_is_not_worth_it() -> None:
    plan = tune(vectors(), questions(), space=SMALL, min_saving=0.95, progress=False)
    assert plan.keep
    assert plan.index == IndexConfig()
    assert "under 95%" in plan.why
    assert plan.report().startswith("Keep what you have")


def test_an_unreachable_target_names_the_best() -> None:
    space = Space(efs=(10,), quantizations=("binary",), ef_constructs=(4,), ms=(4,))
    noise = np.random.default_rng(0).normal(size=(1_000, 128)).astype(np.float32)
    plan = tune(noise[:760], noise[760:], space=space, progress=False)
    assert not plan.reached
    assert plan.keep
    assert "the best found is" in plan.why


def test_prices_make_costs_dollars() -> None:
    prices = QdrantPrices(ram_gib=4, disk_gib="0.1", vcpu=20)
    plan = tune(
        vectors(), questions(), prices=prices, searches_per_second=0, space=SMALL, progress=False
    )
    assert plan.priced
    assert any("searches_per_second" in note for note in plan.notes)
    one = plan.baseline
    assert one.cost == pytest.approx(
        700 / 2**30 * (4 * (one.hot_bytes or 0) + 0.1 * (one.disk_bytes or 0))
    )


def test_held_out_vectors_are_optimistic() -> None:
    plan = tune(vectors(), 240, space=SMALL, progress=False)
    assert plan.confirm.optimistic
    assert plan.sampled == 460
    assert any("own vectors" in note for note in plan.notes)


def test_a_sample_says_so() -> None:
    plan = tune(vectors(), questions(), space=replace(SMALL, sample=500), progress=False)
    assert (plan.sampled, plan.points) == (500, 700)
    assert any("sample of 500" in note for note in plan.notes)


def test_noise_of_cpu_counts_only_where_cpu_costs() -> None:
    memory_only = QdrantPrices(ram_gib=4, disk_gib=0)
    plan = tune(vectors(), questions(), prices=memory_only, space=SMALL, progress=False)
    # What bytes cost is the same in each turn, so no noise can hide what they save.
    assert not plan.keep
    assert plan.index.vectors == "cold"


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1.0, 0.0), (1e6, 0.0), (1.0, 300.0)])
def test_what_is_near_does_not_depend_on_the_unit(
    distance: str, scale: float, shift: float
) -> None:
    moved = shift if distance == "Euclid" else 0.0
    rows, asked = (vectors() + moved) * scale, (questions(40) + moved) * scale
    truth = exact_truth(np.float32(rows), Questions.of(asked), 10, distance=distance)
    expected = exact_truth(vectors(), Questions.of(questions(40)), 10, distance=distance)
    assert np.mean([len(right) for right in truth.right]) < 10.2
    assert truth.recalls([list(right) for right in expected.right]).mean() > 0.99


# --- sources ------------------------------------------------------------------------------------


def test_an_edge_shard_is_also_measured_where_it_is(tmp_path: Path) -> None:
    asked = clustered(200, 16, seed=1)
    with EdgeTarget(small_shard(tmp_path)) as target:
        before = target.inspect()
        plan = tune(target, asked, k=5, space=SMALL, folder=tmp_path / "kept", progress=False)
        assert replace(target.inspect(), raw={}) == replace(before, raw={})
    assert plan.deployed is not None
    assert plan.deployed.recall > 0.9
    assert plan.points == 400
    assert list((tmp_path / "kept").glob("truth-*.json"))
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json", ".jsonl"}


def test_a_folder_with_files_of_the_user_keeps_them(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", vectors())
    (tmp_path / "shard-mine").mkdir()
    before = (tmp_path / "vectors.npy").read_bytes()
    tune(tmp_path / "vectors.npy", questions(), space=SMALL, folder=tmp_path, progress=False)
    assert (tmp_path / "vectors.npy").read_bytes() == before
    assert (tmp_path / "shard-mine").is_dir()


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_tables_of_other_numbers(kind: type, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", (7 * vectors()).astype(kind))
    plan = tune(tmp_path / "vectors.npy", questions(), space=SMALL, progress=False)
    assert plan.reached
    assert plan.dims == DIMS


def test_filters_come_along(tmp_path: Path) -> None:
    rows = [
        {
            "vector": row,
            "filter": {"must": [{"key": "page", "range": {"lt": 200}}]} if n % 2 else None,
        }
        for n, row in enumerate(clustered(200, 16, seed=1).tolist())
    ]
    with EdgeTarget(small_shard(tmp_path)) as target:
        plan = tune(target, Questions.from_rows(rows), k=5, space=SMALL, progress=False)
    assert plan.confirm.filtered
    assert plan.deployed is not None
    assert plan.deployed.recall > 0.9
    assert plan.baseline.recall > 0.7  # nothing is linked for filters that have no payload index


def test_filters_that_let_nothing_through_are_told(tmp_path: Path) -> None:
    nowhere = {"must": [{"key": "page", "match": {"value": "3"}}]}  # its pages are numbers
    rows = [{"vector": row, "filter": nowhere} for row in clustered(200, 16, seed=1).tolist()]
    with EdgeTarget(small_shard(tmp_path)) as target:
        asked = Questions.from_rows(rows)
        plan = tune(target, asked, k=5, space=SMALL, per_second=9_999, progress=False)
    [said] = [note for note in plan.notes if "let nothing through" in note]
    assert f"{len(plan.confirm)} of {len(plan.confirm)} confirming" in said


def test_a_filter_lets_through_what_it_says(tmp_path: Path) -> None:
    pages = [{"page": n} for n in range(300)]
    sandbox = Sandbox(tmp_path, vectors(300), payloads=pages, payload_indexes={"page": "integer"})
    condition = {"must": [{"key": "page", "range": {"lt": 20}}]}
    rows = [{"vector": row} for row in questions(2).tolist()]
    asked = Questions.from_rows([rows[0], {**rows[1], "filter": condition}])
    built = sandbox.build(IndexConfig())
    every, some = sandbox.allowed(built, asked)
    assert every is None
    assert some is not None
    assert np.flatnonzero(some).tolist() == list(range(20))
    [trial] = sandbox.measure([(built, SearchConfig(hnsw_ef=64))], asked, 5)
    assert set(trial.found[1].tolist()) <= set(range(20))


@pytest.mark.parametrize("value", [True, False])
def test_true_is_not_one(value: bool, tmp_path: Path) -> None:
    pages = [{"flag": bool(n % 2), "one": int(n % 2)} for n in range(300)]
    asked = Questions.from_rows(
        {"vector": row, "filter": {"must": [{"key": key, "match": {"value": value}}]}}
        for key, row in zip(("flag", "one"), questions(2).tolist(), strict=True)
    )
    sandbox = Sandbox(tmp_path, vectors(300), payloads=pages, payload_indexes={"flag": "bool"})
    flags, numbers = sandbox.allowed(sandbox.build(IndexConfig()), asked)
    assert flags is not None
    assert numbers is not None
    assert np.flatnonzero(flags).tolist() == list(range(int(value), 300, 2))
    assert not numbers.any()
    with remote(tmp_path) as target:
        client = target.client
        filters = [one for one in asked.filters if one is not None]
        assert [client.count("docs", count_filter=one).count for one in filters] == [250, 0]


def test_filters_need_something_to_filter() -> None:
    condition = {"must": [{"key": "page", "range": {"lt": 200}}]}
    rows = [{"vector": row, "filter": condition} for row in questions().tolist()]
    with pytest.raises(ConfigError, match="nothing to filter"):
        tune(vectors(), Questions.from_rows(rows), space=SMALL)


def test_local_mode_is_tuned_in_the_sandbox_alone() -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    space = models.VectorParams(size=DIMS, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=space)
    client.upload_collection("docs", vectors=vectors(500))
    plan = tune(LocalTarget(client, "docs"), questions(), space=SMALL, progress=False)
    client.close()
    assert plan.deployed is None
    assert any("local mode" in note for note in plan.notes)


# --- what is refused ----------------------------------------------------------------------------


def test_ten_questions_are_too_few() -> None:
    with pytest.raises(ConfigError, match=r"10 different questions .* at least 1\d\d are needed"):
        tune(vectors(), questions(10), space=SMALL)


def test_the_same_question_again_is_no_other_question() -> None:
    with pytest.raises(ConfigError, match="10 different questions"):
        tune(vectors(), np.tile(questions(10), (50, 1)), space=SMALL)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_bad_vector_is_refused_with_its_row(bad: float) -> None:
    rows = vectors()
    rows[123] = bad
    with pytest.raises(VectorError, match="row 123"):
        tune(rows, questions(), space=SMALL)
    asked = questions()
    asked[7] = bad
    with pytest.raises(VectorError, match="question in row 7"):
        tune(vectors(), asked, space=SMALL)


def test_questions_of_another_size() -> None:
    with pytest.raises(VectorError, match="questions have 32 dimensions, the collection has 64"):
        tune(vectors(), questions(dims=32), space=SMALL)


def test_nothing_to_search() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        tune(np.zeros((0, DIMS), np.float32), questions(), space=SMALL)
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune(vectors(20), questions(), space=SMALL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"recall_target": 1.0},
        {"confidence": 0.0},
        {"min_saving": 1.0},
        {"per_second": 0},
        {"per_second": -1},
        {"per_second": float("nan")},
    ],
)
def test_arguments_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        tune(vectors(), questions(), space=SMALL, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "holds", "said"),
    [
        ("missing.npy", None, "cannot be read: No such file"),
        ("missing.jsonl", None, "cannot be read: No such file"),
        ("torn.npy", b"\x93NUM", "no .npy table"),
        ("zip.npy", b"PK\x03\x04" + bytes(60), "no .npy table"),
        ("binary.jsonl", b"\xff\xfe{}", "line 1 of binary.jsonl"),
        ("log.csv", b"1,2", "no .npy or .jsonl file"),
    ],
)
def test_files_that_cannot_be_read(
    name: str, holds: bytes | None, said: str, tmp_path: Path
) -> None:
    if holds is not None:
        (tmp_path / name).write_bytes(holds)
    with pytest.raises(ConfigError, match=said):
        tune(vectors(), tmp_path / name, space=SMALL)
    if name.endswith(".npy"):
        with pytest.raises(ConfigError, match=said):
            tune(tmp_path / name, questions(), space=SMALL)
    with pytest.raises(ConfigError, match=r"cannot be read|no tuning plan"):
        TuningPlan.load(tmp_path / name)


@pytest.mark.parametrize("wrong", [5, None, [], ["a"], [1, [2]], {"dense": [1.0]}])
def test_a_row_of_a_log_that_is_no_vector(wrong: object) -> None:
    with pytest.raises(VectorError, match="row 1 of the questions is no list of numbers"):
        Questions.from_rows([{"vector": [1.0, 2.0]}, {"vector": wrong}])


def test_a_failing_engine_is_quoted(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, vectors(200), distance="Chebyshev")
    with pytest.raises(StoreError, match="Chebyshev"):
        sandbox.build(IndexConfig())


# --- resuming -----------------------------------------------------------------------------------

KILLED = """
import sys
from costwise_core.qdrant import Space, tune
from costwise_core.testing.shards import clustered
space = Space(efs=(32, 128), quantizations=("int8",), ef_constructs=(100, 200), ms=(16, 8))
plan = tune(clustered(700, 64), clustered(240, 64, seed=1), space=space,
            folder=sys.argv[1], progress=False)
print(plan.tune_cpu_seconds)
plan.save(sys.argv[1] + "/plan.json")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "measured.jsonl"
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    first = subprocess.Popen(command)
    until = time.monotonic() + 120
    while time.monotonic() < until and first.poll() is None:
        if journal.exists() and journal.read_text().count("\n") > 3:
            break
        time.sleep(0.05)
    assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = journal.read_text().splitlines()
    with journal.open("a") as file:
        file.write('{"key": "torn')
    subprocess.run(command, check=True, capture_output=True)
    after = [json.loads(line) for line in journal.read_text().splitlines()]
    # All that was measured is still there, as it was, and was not measured again.
    assert after[: len(before)] == [json.loads(line) for line in before]
    keys = [line["key"] for line in after[1:]]
    assert len(keys) == len(set(keys)) > len(before)
    assert TuningPlan.load(tmp_path / "plan.json").reached
    assert not (tmp_path / "costwise-sandbox").exists()


# --- showing ------------------------------------------------------------------------------------


def test_a_plan_survives_json(plan: TuningPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    again = TuningPlan.load(tmp_path / "plan.json")
    assert again.report() == plan.report()
    assert again.confirm.vectors.tolist() == plan.confirm.vectors.tolist()
    assert replace(again, confirm=plan.confirm) == replace(plan, confirm=plan.confirm)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}'])
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(ConfigError):
        TuningPlan.from_json(text)


def test_a_report_has_what_to_paste(plan: TuningPlan) -> None:
    said = plan.report()
    assert "search_params=" in said or '"search_params"' in said
    assert f"hnsw_ef={plan.search.hnsw_ef}" in said
    assert "CPU seconds" in said
    assert "95% confidence" in said


def test_html_has_a_picture_and_is_escaped(plan: TuningPlan) -> None:
    page = replace(plan, why="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page
    assert page.count("<svg") == 1


def test_a_plot(plan: TuningPlan) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.subplots()
    plan.plot(ax)
    assert ax.get_ylabel() == "recall@10"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"tried", "target"} <= set(labels)


def test_the_front_has_nothing_beaten() -> None:
    dice = np.random.default_rng(0)
    found = [
        Measured(
            index=IndexConfig(),
            search=SearchConfig(),
            questions=1,
            recall=float(dice.random()),
            p5=0,
            below_half=0,
            cost=float(dice.random()),
        )
        for _ in range(100)
    ]
    front = pareto(found)
    for one in front:
        assert not any(
            other.recall >= one.recall and other.cost < one.cost  # type: ignore[operator]
            for other in found
        )


# --- a server -----------------------------------------------------------------------------------


@contextmanager
def remote(folder: Path, *, version: str = "1.19.0", **settings: object) -> Iterator[RemoteTarget]:
    """A collection of a loopback stand-in; no real server was at hand."""
    with running(folder / "server", version=version) as server:
        client = QdrantClient(server.url, check_compatibility=False, timeout=30)
        space = models.VectorParams(size=DIMS, distance=models.Distance.COSINE)
        client.create_collection("docs", vectors_config=space, **settings)  # type: ignore[arg-type]
        points = [
            models.PointStruct(id=n, vector=row, payload={"flag": bool(n % 2)})
            for n, row in enumerate(vectors(500).tolist())
        ]
        client.upsert("docs", points)
        server.said.clear()
        yield RemoteTarget(client, "docs")
        client.close()
        changes = [said for said in server.said if said[0] in ("PUT", "PATCH", "DELETE")]
        assert not changes


def test_a_server_is_asked_and_not_changed(tmp_path: Path) -> None:
    with remote(tmp_path) as target:
        plan = tune(
            target,
            questions(),
            space=SMALL,
            folder=tmp_path / "kept",
            per_second=500,
            progress=False,
        )
    assert plan.deployed is not None
    assert plan.deployed.search_cpu_ms is None
    assert plan.deployed.recall == 1.0
    assert plan.collection == "docs"
    assert plan.versions["collection"] == "remote 1.19.0"


def test_an_old_server_gets_only_what_it_has(tmp_path: Path) -> None:
    space = replace(SMALL, quantizations=("none", "int8", "turbo4"))
    with remote(tmp_path, version="1.16.0") as target:
        plan = tune(target, questions(), space=space, per_second=500, progress=False)
    assert {one.index.quantization for one in plan.tried} == {"none", "int8"}


def test_what_strict_mode_forbids_is_not_recommended(tmp_path: Path) -> None:
    strict = models.StrictModeConfig(
        enabled=True, search_max_hnsw_ef=64, search_max_oversampling=1.2
    )
    with remote(tmp_path, strict_mode_config=strict) as target:
        plan = tune(target, questions(), space=SMALL, per_second=500, progress=False)
    assert max(one.search.hnsw_ef or 0 for one in plan.tried) <= 64
    assert all(one.search.oversampling is None for one in plan.tried)


def test_strict_mode_is_noted(tmp_path: Path) -> None:
    strict = models.StrictModeConfig(enabled=True, search_allow_exact=False)
    with remote(tmp_path, strict_mode_config=strict) as target:
        plan = tune(target, questions(), space=SMALL, progress=False)
    assert plan.deployed is None
    assert any("search_allow_exact" in note for note in plan.notes)
    assert plan.reached
