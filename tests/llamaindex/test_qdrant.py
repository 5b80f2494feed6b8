"""LlamaIndex's `QdrantVectorStore` on `EdgeQdrantClient`, and the retriever that tunes it."""

import logging
import re
import uuid

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
pytest.importorskip(
    "llama_index.vector_stores.qdrant", reason="llama-index-vector-stores-qdrant is not installed"
)

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from costwise_core.errors import ConfigError
from costwise_core.qdrant import AsyncEdgeQdrantClient, EdgeQdrantClient, SearchConfig
from llamaindex_costwise import TunedQdrantRetriever

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")

TEXTS = [f"{color} tea {number}" for number, color in enumerate(["green", "red", "black"] * 4)]


def words_as_numbers(texts):
    """Each word is an axis: a sparse embedding that needs no model."""
    indices, values = [], []
    for text in texts:
        words = dict.fromkeys(re.findall(r"\w+", text.lower()))
        indices.append([int.from_bytes(w.encode()[:4].ljust(4, b"\0"), "big") for w in words])
        values.append([1.0 + len(w) / 10 for w in words])
    return indices, values


def nodes():
    return [
        TextNode(
            id_=str(uuid.UUID(int=n + 1)),
            text=text,
            embedding=[float(n), 1.0, 2.0],
            metadata={"n": n, "color": text.split()[0], "price": n / 2, "about": text},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{n % 3}")},
        )
        for n, text in enumerate(TEXTS)
    ]


def store(client, *, hybrid=False, aclient=None, **said):
    sparse = {"sparse_doc_fn": words_as_numbers, "sparse_query_fn": words_as_numbers}
    return QdrantVectorStore(
        "docs",
        client=client,
        aclient=aclient,
        enable_hybrid=hybrid,
        **(sparse if hybrid else {}),
        **said,
    )


@pytest.fixture(params=[False, True], ids=["dense", "hybrid"])
def both(request, tmp_path):
    """The stock store on the engine here, and on qdrant-client's exact local mode."""
    with EdgeQdrantClient(tmp_path) as client:
        pair = (
            store(client, hybrid=request.param),
            store(QdrantClient(":memory:"), hybrid=request.param),
        )
        for one in pair:
            assert one.add(nodes()) == [node.node_id for node in nodes()]
        yield pair


def only(*filters, condition=FilterCondition.AND):
    return MetadataFilters(
        filters=[MetadataFilter(key=k, operator=o, value=v) for k, o, v in filters],
        condition=condition,
    )


FILTERS = {
    "none": None,
    "equal": only(("color", FilterOperator.EQ, "red")),
    "equal number": only(("n", FilterOperator.EQ, 4)),
    "equal float": only(("price", FilterOperator.EQ, 1.5)),
    "not equal": only(("color", FilterOperator.NE, "red")),
    "range": only(("n", FilterOperator.GTE, 3), ("n", FilterOperator.LT, 8)),
    "or": only(
        ("n", FilterOperator.GT, 9),
        ("color", FilterOperator.EQ, "red"),
        condition=FilterCondition.OR,
    ),
    "not": only(("color", FilterOperator.EQ, "red"), condition=FilterCondition.NOT),
    "in": only(("color", FilterOperator.IN, ["red", "black"])),
    "not in": only(("n", FilterOperator.NIN, [1, 2, 3])),
    "text": only(("about", FilterOperator.TEXT_MATCH, "tea 4")),
    "empty": only(("nothing", FilterOperator.IS_EMPTY, None)),
    "nested": MetadataFilters(
        filters=[
            only(("n", FilterOperator.LTE, 5)),
            only(
                ("color", FilterOperator.EQ, "red"),
                ("color", FilterOperator.EQ, "black"),
                condition=FilterCondition.OR,
            ),
        ]
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_the_stock_store_finds_what_it_finds_on_local_mode(both, name):
    query = VectorStoreQuery(
        query_embedding=[1.0, 1.0, 2.0], similarity_top_k=5, filters=FILTERS[name]
    )
    found, wanted = (one.query(query) for one in both)
    assert found.ids == wanted.ids
    assert found.ids
    assert found.similarities == pytest.approx(wanted.similarities, abs=1e-5)
    assert [node.text for node in found.nodes] == [node.text for node in wanted.nodes]
    assert found.nodes[0].ref_doc_id == wanted.nodes[0].ref_doc_id
    listed = [{n.node_id for n in one.get_nodes(filters=FILTERS[name])} for one in both]
    assert listed[0] == listed[1]


def test_nodes_are_listed_and_deleted(both):
    ids = [str(uuid.UUID(int=n)) for n in (1, 2, 99)]
    for one in both:
        assert len(one.get_nodes()) == len(TEXTS)
        assert {node.node_id for node in one.get_nodes(node_ids=ids)} == set(ids[:2])
        one.delete_nodes(node_ids=ids)
        assert len(one.get_nodes()) == len(TEXTS) - 2
        one.delete("doc2")
        one.delete_nodes(filters=FILTERS["equal number"])
    assert {n.node_id for n in both[0].get_nodes()} == {n.node_id for n in both[1].get_nodes()}
    for one in both:
        one.clear()
    assert not both[0].client.collection_exists("docs")
    both[0].add(nodes())
    assert len(both[0].get_nodes()) == len(TEXTS)


@pytest.mark.parametrize("mode", [VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SPARSE])
def test_hybrid_search_is_that_of_local_mode(tmp_path, mode):
    with EdgeQdrantClient(tmp_path) as client:
        pair = [store(one, hybrid=True) for one in (client, QdrantClient(":memory:"))]
        query = VectorStoreQuery(
            query_embedding=[1.0, 1.0, 2.0],
            query_str="black tea 5",
            similarity_top_k=4,
            sparse_top_k=6,
            mode=mode,
            filters=FILTERS["in"],
        )
        for one in pair:
            one.add(nodes())
        found, wanted = (one.query(query) for one in pair)
        assert found.similarities == pytest.approx(wanted.similarities, abs=1e-4)
        assert len(found.nodes) == len(wanted.nodes)


@pytest.mark.parametrize("hybrid", [False, True])
async def test_the_stock_store_works_with_await(tmp_path, hybrid):
    with EdgeQdrantClient(tmp_path) as client:
        pair = [
            store(client, hybrid=hybrid, aclient=AsyncEdgeQdrantClient(client)),
            store(None, hybrid=hybrid, aclient=AsyncQdrantClient(":memory:")),
        ]
        query = VectorStoreQuery(
            query_embedding=[1.0, 1.0, 2.0], similarity_top_k=3, filters=FILTERS["range"]
        )
        results = []
        for one in pair:
            await one.async_add(nodes())
            found = await one.aquery(query)
            await one.adelete("doc1")
            await one.adelete_nodes(node_ids=[str(uuid.UUID(int=1))])
            left = await one.aget_nodes(filters=FILTERS["range"])
            results.append((found.ids, {node.node_id for node in left}))
            await one.aclear()
        assert results[0] == results[1]
        assert results[0][0]
        assert not client.collection_exists("docs")


def test_one_folder_serves_both_faces_and_the_next_process(tmp_path, caplog):
    with EdgeQdrantClient(tmp_path) as client, caplog.at_level(logging.WARNING):
        store(client, aclient=AsyncEdgeQdrantClient(client)).add(nodes())
    assert caplog.records == []
    with EdgeQdrantClient(tmp_path) as client:
        again = store(client)
        again.add(nodes()[:1])
        assert len(again.get_nodes()) == len(TEXTS)
        assert list(client.get_collection("docs").payload_schema) == ["doc_id"]


def test_what_the_stock_store_asks_for_is_kept(tmp_path):
    int8 = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8"))
    with EdgeQdrantClient(tmp_path) as client:
        made = store(
            client,
            quantization_config=int8,
            payload_indexes=[{"field_name": "color", "field_schema": "keyword"}],
        )
        made.add(nodes())
        info = client.get_collection("docs")
        assert info.config.quantization_config == int8
        assert {"doc_id", "color"} == info.payload_schema.keys()
        with pytest.raises(ConfigError, match="unsigned integer or a UUID, got 'page-1'"):
            made.add([TextNode(id_="page-1", text="x", embedding=[1.0, 2.0, 3.0])])


# --- the retriever ----------------------------------------------------------------------------

TUNED = SearchConfig(hnsw_ef=77, rescore=True, oversampling=1.5)


class Plan:
    """As `tune` returns one: it has a `.search`."""

    search = TUNED


class Watched:
    """A client that remembers how it was asked, and asks the real one."""

    def __init__(self, client, asked):
        self.client, self.asked = client, asked

    def __getattr__(self, name):
        return getattr(self.client, name)

    def query_points(self, **kwargs):
        self.asked.append(kwargs)
        return self.client.query_points(**kwargs)

    def query_batch_points(self, **kwargs):
        self.asked += [{"search_params": one.params} for one in kwargs["requests"]]
        return self.client.query_batch_points(**kwargs)


@pytest.fixture(params=[False, True], ids=["dense", "hybrid"])
def indexed(request, tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        asked = []
        made = store(
            Watched(client, asked),
            hybrid=request.param,
            aclient=Watched(AsyncEdgeQdrantClient(client), asked),
        )
        made.add(nodes())
        context = StorageContext.from_defaults(vector_store=made)
        index = VectorStoreIndex([], storage_context=context, embed_model=MockEmbedding(3))
        yield index, asked, request.param


@pytest.mark.parametrize("given", [TUNED, Plan()])
async def test_every_search_is_as_tuned(indexed, given):
    index, asked, hybrid = indexed
    mode = VectorStoreQueryMode.HYBRID if hybrid else VectorStoreQueryMode.DEFAULT
    retriever = TunedQdrantRetriever(
        index,
        search=given,
        similarity_top_k=3,
        filters=FILTERS["equal"],
        vector_store_query_mode=mode,
    )
    found = retriever.retrieve("red tea 1")
    assert {one.node.metadata["color"] for one in found} == {"red"}
    assert len(found) == 3
    again = await retriever.aretrieve("red tea 1")
    assert [one.node.node_id for one in again] == [one.node.node_id for one in found]
    assert [one["search_params"] for one in asked] == [TUNED.for_client()] * len(asked)
    assert len(asked) == (4 if hybrid else 2)


def test_what_is_passed_to_the_store_goes_along(indexed):
    index, asked, _ = indexed
    match = models.FieldCondition(key="color", match=models.MatchValue(value="black"))
    passed = {"qdrant_filters": models.Filter(must=[match])}
    retriever = TunedQdrantRetriever(
        index, search=TUNED, similarity_top_k=9, vector_store_kwargs=passed
    )
    found = retriever.retrieve("tea")
    assert [one.node.metadata["color"] for one in found] == ["black"] * 4
    assert asked[0]["search_params"] == TUNED.for_client()
    assert passed.keys() == {"qdrant_filters"}, "what was given is left alone"
    own = {"search_params": models.SearchParams(hnsw_ef=5)}
    TunedQdrantRetriever(index, search=TUNED, vector_store_kwargs=own).retrieve("tea")
    assert asked[1] | own == asked[1]


def test_what_says_no_search_is_refused(indexed):
    for wrong in ({"hnsw_ef": 3}, None, models.SearchParams(hnsw_ef=3)):
        with pytest.raises(ConfigError, match="SearchConfig is wanted"):
            TunedQdrantRetriever(indexed[0], search=wrong)
