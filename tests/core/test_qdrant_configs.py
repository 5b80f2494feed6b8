"""The two values of a collection: what they refuse, and what they become for client and engine."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.errors import ConfigError, VectorError
from costwise_core.qdrant import IndexConfig, Inspection, SearchConfig, VectorSpace
from costwise_core.qdrant.asking import checked
from costwise_core.qdrant.quantizers import QUANTIZATIONS, quantizations_of, server_version

models = pytest.importorskip("qdrant_client.models", reason="extra: qdrant")

INDEXES = st.builds(
    IndexConfig,
    m=st.integers(0, 100),
    ef_construct=st.integers(4, 1_000),
    quantization=st.sampled_from(tuple(QUANTIZATIONS)),
    quantile=st.none() | st.floats(0.5, 1),
    vectors=st.sampled_from(("cold", "cached")),
    quantized=st.sampled_from(("cold", "cached", "pinned")),
    graph=st.sampled_from(("cold", "cached", "pinned")),
)
SEARCHES = st.builds(
    SearchConfig,
    hnsw_ef=st.none() | st.integers(1, 1_000),
    rescore=st.none() | st.booleans(),
    oversampling=st.none() | st.floats(1, 100),
    exact=st.booleans(),
    ignore_quantization=st.booleans(),
    indexed_only=st.booleans(),
)


@given(INDEXES)
def test_index_config_survives_json(config):
    assert IndexConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(SEARCHES)
def test_search_config_survives_json_and_the_client(config):
    assert SearchConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    sent = config.for_client().model_dump(exclude_none=True)
    assert sent == models.SearchParams(**config.to_params()).model_dump(exclude_none=True)
    assert (sent.get("quantization") or {}).get("oversampling") == config.oversampling


@given(SEARCHES)
def test_a_threshold_never_meets_a_quantized_score(config):
    safe = config.for_threshold()
    assert safe.exact or safe.ignore_quantization or (safe.rescore and safe.oversampling >= 2)
    assert safe.for_threshold() == safe


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"m": -1}, "m must be"),
        ({"m": True}, "m must be"),
        ({"m": 16.0}, "m must be"),
        ({"ef_construct": 3}, "ef_construct must be"),
        ({"quantization": "int4"}, "Did you mean 'int8'"),
        ({"quantile": 0.1}, "quantile must be"),
        ({"quantile": float("nan")}, "quantile must be"),
        ({"vectors": "pinned"}, "cannot be pinned"),
        ({"graph": "ram"}, "graph must be one of"),
        ({"ef_constuct": 100}, "Did you mean 'ef_construct'"),
    ],
)
def test_index_config_refuses(values, said):
    with pytest.raises(ConfigError, match=said):
        IndexConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hnsw_ef": 0}, "hnsw_ef must be"),
        ({"oversampling": 0.5}, "oversampling must be"),
        ({"oversampling": float("nan")}, "oversampling must be"),
        ({"rescoring": True}, "Did you mean 'rescore'"),
    ],
)
def test_search_config_refuses(values, said):
    with pytest.raises(ConfigError, match=said):
        SearchConfig.from_dict(values)


# --- what a server of a version is told ---------------------------------------------------------


def test_memory_from_1_19_on_and_flags_before():
    config = IndexConfig(quantization="int8", vectors="cold", graph="pinned")
    new = config.for_client("1.19.0", vector="title")["vectors_config"]["title"]
    old = config.for_client("1.18.3", vector="title")["vectors_config"]["title"]
    assert new.model_dump(mode="json", exclude_none=True) == {
        "hnsw_config": {"m": 16, "ef_construct": 100, "memory": "pinned"},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "memory": "pinned"}},
        "memory": "cold",
    }
    assert old.model_dump(mode="json", exclude_none=True) == {
        "hnsw_config": {"m": 16, "ef_construct": 100, "on_disk": False},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
        "on_disk": True,
    }


def test_no_quantization_is_told_and_not_left_out():
    """None would mean: leave it as it is."""
    diff = IndexConfig().for_client("1.19.0")["vectors_config"][""]
    assert diff.quantization_config == models.Disabled.DISABLED
    created = IndexConfig().for_create("1.19.0", size=4, distance="Dot")
    assert created.quantization_config is None


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_every_quantization_is_known_to_client_and_engine(name):
    edge = pytest.importorskip("qdrant_edge", reason="extra: edge")
    config = IndexConfig(quantization=name)
    told = config.for_create("1.20.0", size=384, distance="Cosine").quantization_config
    made = config.for_edge(size=384, distance="Cosine").quantization_config
    assert (told is None) == (made is None) == (name == "none")
    if made is not None:
        assert made.memory == edge.Memory.Pinned
        (inner,) = told.model_dump(mode="json", exclude_none=True).values()
        assert inner["memory"] == "pinned"


def test_what_a_version_lacks_is_refused_and_the_rest_named():
    with pytest.raises(ConfigError, match=r"turbo4 needs Qdrant 1\.18 .* it has none, int8"):
        IndexConfig(quantization="turbo4").for_client("1.17.0")
    with pytest.raises(ConfigError, match=r"turbo8 needs Qdrant 1\.20"):
        IndexConfig(quantization="turbo8").for_client("1.19.0")
    with pytest.raises(ConfigError, match="no version"):
        server_version("latest")
    assert "binary" in quantizations_of("1.5.0")
    assert "binary2" not in quantizations_of("1.14.9")
    # 1.14 refuses an encoding, even the only one it has.
    told = IndexConfig(quantization="binary").for_create("1.14.0", size=8, distance="Dot")
    assert told.quantization_config.binary.encoding is None


# --- what is pasted into an app -----------------------------------------------------------------


def pasted(code: str, **names: object) -> dict[str, object]:
    space = dict(names)
    exec(code, space)
    return space


class Asked:
    """Notes what a store or an index is asked for."""

    def as_retriever(self, **arguments):
        return arguments


@given(SEARCHES)
def test_pasted_lines_run_and_say_the_same(config):
    lines = config.for_langchain()
    retriever = pasted(lines, vector_store=Asked())["retriever"]
    assert retriever == {"search_kwargs": {"search_params": config.for_client()}}
    retriever = pasted(config.for_llamaindex(), index=Asked())["retriever"]
    assert retriever == {"vector_store_kwargs": {"search_params": config.for_client()}}


# --- inspections and queries --------------------------------------------------------------------

SEEN = Inspection(
    where="remote",
    collection="docs",
    version="1.19.0",
    points=1,
    vectors=(
        VectorSpace(name="title", size=4),
        VectorSpace(name="words", size=0, kind="sparse"),
        VectorSpace(name="tokens", size=4, kind="multi"),
    ),
)


def test_only_a_dense_vector_that_exists_is_tuned():
    assert replace(SEEN, selected="title").vector.size == 4
    with pytest.raises(ConfigError, match=r"no vector 'titel'.*Did you mean 'title'.*'words'"):
        _ = replace(SEEN, selected="titel").vector
    with pytest.raises(ConfigError, match="no vector ''"):
        _ = SEEN.vector
    with pytest.raises(ConfigError, match="'words' is sparse: its index is exact"):
        _ = replace(SEEN, selected="words").vector
    with pytest.raises(ConfigError, match="'tokens' is multi: each query is many vectors"):
        _ = replace(SEEN, selected="tokens").vector


@pytest.mark.parametrize(
    "queries",
    [[[0.0, 0.0]], [[1.0, float("nan")]], [[float("inf"), 0.0]], [[1.0]], [1.0, 2.0], []],
)
def test_queries_that_cannot_be_asked_are_refused(queries):
    with pytest.raises(VectorError):
        checked(queries, 2)


def test_filters_come_one_for_each_query():
    with pytest.raises(ConfigError, match="need as many filters"):
        checked([[1.0, 0.0]], 2, [])
