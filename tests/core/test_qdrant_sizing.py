"""What a collection takes, compared with shards that the engine really built."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.errors import ConfigError
from costwise_core.qdrant import IndexConfig, QdrantPrices, SizingChange, estimate
from costwise_core.qdrant.amounts import as_seconds, as_size
from costwise_core.qdrant.byte_model import (
    codebook_bytes,
    graph_bytes,
    graph_formula,
    quantized_bytes,
)
from costwise_core.qdrant.quantizers import QUANTIZATIONS

CONFIGS = st.builds(
    IndexConfig,
    m=st.integers(0, 128),
    ef_construct=st.integers(4, 1_000),
    quantization=st.sampled_from(tuple(QUANTIZATIONS)),
    vectors=st.sampled_from(("cold", "cached")),
    quantized=st.sampled_from(("cold", "cached", "pinned")),
    graph=st.sampled_from(("cold", "cached", "pinned")),
)
SIZINGS = st.builds(
    estimate,
    st.integers(0, 10**9),
    st.integers(1, 8_192),
    CONFIGS,
    st.none() | st.builds(QdrantPrices, ram_gib=st.integers(0, 99), disk_gib=st.integers(0, 99)),
    payload_bytes=st.integers(0, 10_000),
    payload_index_bytes=st.integers(0, 1_000),
    replication=st.integers(1, 5),
    segments=st.integers(1, 16),
    headroom=st.floats(0, 0.9),
)


@given(SIZINGS)
def test_parts_add_up_and_tiers_are_in_order(sizing):
    assert sizing.ram_least <= sizing.ram_fast <= sum(part.ram for part in sizing.parts)
    assert sizing.ram_fast <= sizing.ram_peak
    assert sizing.disk == sum(part.disk for part in sizing.parts)
    assert sizing.disk <= sizing.disk_peak <= 2 * sizing.disk
    assert 0 <= sizing.hot_bytes_per_vector * sizing.points <= sizing.ram_fast * 1.000001
    assert sizing.build_cpu_seconds >= 0
    json.dumps(sizing.to_dict())
    assert str(sizing).count("\n") >= 5
    assert sizing._repr_html_().startswith("<div")


@given(SIZINGS)
def test_quantization_adds_to_the_disk_and_only_cold_originals_save_memory(sizing):
    config = sizing.config
    plain = estimate(
        sizing.points, sizing.dims, replace(config, quantization="none", vectors="cached")
    )
    quantized = estimate(sizing.points, sizing.dims, replace(config, vectors="cached"))
    assert quantized.disk >= plain.disk
    assert quantized.ram_fast >= plain.ram_fast


def test_copies_and_headroom_are_paid_for():
    prices = QdrantPrices(ram_gib="8", disk_gib=0)
    one = estimate(2**20, 256, IndexConfig(m=0), prices, headroom=0)
    # 256 float32 make a KiB, so 2^20 of them a GiB; ids take 52 bytes each.
    assert one.usd_month == Decimal(8) + Decimal(8) * 52 / 1024
    three = estimate(2**20, 256, IndexConfig(m=0), prices, headroom=0.5, replication=3)
    assert three.usd_month == 6 * one.usd_month
    least = Decimal(8) * 52 / 1024
    assert one.usd_month_least == least
    assert one.usd_build is None
    priced = replace(one, prices=replace(prices, vcpu=73), build_cpu_seconds=3600.0)
    assert priced.usd_build == Decimal("0.1")  # an hour of a month's 730


def test_without_prices_there_are_no_dollars():
    sizing = estimate(1_000, 8)
    assert (sizing.usd_month, sizing.usd_build) == (None, None)
    assert "$" not in str(sizing)
    assert SizingChange(before=sizing, after=sizing).saved is None


def test_prices_survive_json_and_have_no_defaults():
    prices = QdrantPrices(ram_gib="0.1", disk_gib=2, vcpu="30")
    assert QdrantPrices.from_dict(json.loads(json.dumps(prices.to_dict()))) == prices
    with pytest.raises(ConfigError, match="needs 'disk_gib'"):
        QdrantPrices.from_dict({"ram_gib": 1})
    with pytest.raises(ConfigError, match="Did you mean 'ram_gib'"):
        QdrantPrices.from_dict({"ram_gb": 1, "disk_gib": 1})


@pytest.mark.parametrize("wrong", ["-1", "free", "NaN", "Infinity", None])
def test_a_price_is_a_number(wrong):
    with pytest.raises(ConfigError, match="ram_gib must be a price"):
        QdrantPrices(ram_gib=wrong, disk_gib=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"points": -1}, "points must be"),
        ({"dims": 0}, "dims must be"),
        ({"replication": 0}, "replication must be"),
        ({"segments": 0}, "segments must be"),
        ({"headroom": 1.0}, "headroom must be"),
        ({"headroom": float("nan")}, "headroom must be"),
        ({"payload_bytes": -1}, "payload_bytes must be"),
        ({"payload_index_bytes": float("nan")}, "payload_index_bytes must be"),
        ({"payload": "pinned"}, "payload must be"),
        ({"datatype": "float8"}, "datatype 'float8' is unknown"),
    ],
)
def test_an_estimate_refuses(values, said):
    with pytest.raises(ConfigError, match=said):
        estimate(**({"points": 1, "dims": 1} | values))


def test_a_change_is_shown_with_what_it_saves_and_what_it_adds():
    prices = QdrantPrices(ram_gib=4, disk_gib="0.1", vcpu=20)
    before = estimate(10**6, 384, prices=prices, replication=2)
    hot = SizingChange(
        before=before,
        after=estimate(10**6, 384, IndexConfig(quantization="int8"), prices, replication=2),
    )
    assert hot.saved < 0
    assert "costs $" in str(hot)
    assert "adds memory and saves none" in str(hot)
    cold = SizingChange(
        before=before,
        after=estimate(
            10**6, 384, IndexConfig(quantization="int8", vectors="cold"), prices, replication=2
        ),
    )
    assert cold.saved > 0
    assert cold.ram_share < 0.35
    assert cold.to_dict()["saved_usd_month"] == f"{cold.saved:f}"


def test_words_for_amounts():
    assert [as_size(n) for n in (0, 999, 2**20, 3 * 2**40)] == ["0 B", "999 B", "1 MiB", "3 TiB"]
    assert [as_seconds(n) for n in (0, 90, 600, 36_000)] == ["0 s", "90 s", "10 min", "10 h"]


# --- what the engine builds ---------------------------------------------------------------------

PASSAGES = Path("../shared/data/vec/passages.f16.npy")


def built(folder: Path, vectors, config: IndexConfig) -> dict[str, int]:
    """Build a shard and return the bytes of its parts."""
    edge = pytest.importorskip("qdrant_edge", reason="extra: edge")
    from costwise_core.qdrant.edge_optimize import rebuild

    path = folder / "shard"
    dims = vectors.shape[1]
    shard = edge.EdgeShard.create(
        str(path), config.for_edge(size=dims, distance="Cosine", threads=1)
    )
    points = [edge.Point(id=i, vector=v) for i, v in enumerate(vectors.tolist())]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()
    rebuild(path)
    [segment] = {file.parents[1] for file in path.rglob("matrix.dat")}

    def of(pattern: str) -> int:
        return sum(file.stat().st_size for file in segment.glob(pattern))

    return {
        "original vectors": of("vector_storage/matrix.dat"),
        "quantized vectors": of("vector_storage/quantized.data"),
        "codebook": of("vector_storage/quantized.*.json"),
        "graph": of("vector_index/*"),
        "ids": of("id_tracker.*"),
    }


@pytest.mark.parametrize("name", [name for name in QUANTIZATIONS if name != "none"])
def test_quantized_vectors_take_what_the_engine_writes(tmp_path, name):
    np = pytest.importorskip("numpy")
    vectors = np.random.default_rng(0).normal(size=(400, 100)).astype(np.float32)
    found = built(tmp_path, vectors, IndexConfig(quantization=name, m=4, ef_construct=8))
    assert found["quantized vectors"] == 400 * quantized_bytes(100, name)
    assert found["codebook"] == pytest.approx(codebook_bytes(100, name), rel=0.1, abs=500)


@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(),
        IndexConfig(m=8, ef_construct=200),
        IndexConfig(m=32, quantization="int8"),
        IndexConfig(m=16, quantization="turbo4"),
    ],
    ids=str,
)
def test_an_estimate_is_near_a_real_shard_of_text_vectors(tmp_path, config):
    np = pytest.importorskip("numpy")
    if not PASSAGES.exists():
        pytest.skip(f"needs {PASSAGES}")
    vectors = np.load(PASSAGES)[:4_000].astype(np.float32)
    found = built(tmp_path, vectors, config)
    told = {part.name: part.disk for part in estimate(len(vectors), 384, config).parts}
    assert found["original vectors"] == pytest.approx(told["original vectors"], rel=0.001)
    quantized = found["quantized vectors"] + found["codebook"]
    assert quantized == pytest.approx(told.get("quantized vectors", 0), rel=0.02)
    assert found["graph"] == pytest.approx(told["graph"], rel=0.15)
    assert found["graph"] < 4_000 * graph_formula(config.m)  # which plans for more
    assert found["ids"] == pytest.approx(told["ids"], rel=0.05)
    whole = sum(told.values()) - told["write-ahead log"]
    assert sum(found.values()) == pytest.approx(whole, rel=0.02)


@given(st.integers(2, 10**9), st.integers(4, 64), st.integers(16, 512))
def test_more_links_and_more_care_never_make_a_smaller_graph(points, m, ef_construct):
    here = graph_bytes(points, m, ef_construct)
    assert here <= graph_bytes(points, 2 * m, ef_construct)
    assert here <= graph_bytes(points, m, 2 * ef_construct)
    assert here <= graph_bytes(2 * points, m, ef_construct)
