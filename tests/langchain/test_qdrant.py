"""`langchain_qdrant.QdrantVectorStore` on `EdgeQdrantClient`, and the retriever that tunes it."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
pytest.importorskip("langchain_qdrant", reason="langchain-qdrant is not installed")

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings, SparseVector
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from pydantic import ValidationError
from qdrant_client import QdrantClient, models

from costwise_core.qdrant import EdgeQdrantClient, SearchConfig
from langchain_costwise import TunedQdrantRetriever

SIZE = 6
EMBEDDING = DeterministicFakeEmbedding(size=SIZE)


class WordsAsNumbers(SparseEmbeddings):
    """Each word is an axis: a sparse embedding that needs no model."""

    def embed_query(self, text: str) -> SparseVector:
        counts: dict[int, float] = {}
        for word in re.findall(r"\w+", text.lower()):
            axis = int.from_bytes(word.encode()[:4].ljust(4, b"\0"), "big")
            counts[axis] = counts.get(axis, 0.0) + 1.0
        return SparseVector(indices=list(counts), values=list(counts.values()))

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [self.embed_query(text) for text in texts]


class NamedStore(QdrantVectorStore):
    """The stock store for the ids that the standard suite uses, which are no ids of Qdrant's.

    The suite also wants documents with an id of their own; the stock store puts it into metadata.
    """

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        ids = kwargs.pop("ids", None)
        names = list(ids) if ids else [one.id or uuid.uuid4().hex for one in documents]
        names = [name or uuid.uuid4().hex for name in names]
        super().add_texts(
            [one.page_content for one in documents],
            [{**one.metadata, "name": name} for one, name in zip(documents, names, strict=True)],
            [point(name) for name in names],
            **kwargs,
        )
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        return super().delete([point(name) for name in ids or []], **kwargs)

    def get_by_ids(self, ids: Any, /) -> list[Document]:
        return super().get_by_ids([point(name) for name in ids])

    @classmethod
    def _document_from_point(cls, *args: Any) -> Document:
        found = super()._document_from_point(*args)
        kept = {name: value for name, value in found.metadata.items() if name[0] != "_"}
        return Document(found.page_content, id=kept.pop("name"), metadata=kept)


def point(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path) -> Iterator[NamedStore]:
        with EdgeQdrantClient(tmp_path) as client:
            yield stored(client, NamedStore)


class TestHybridVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path) -> Iterator[NamedStore]:
        with EdgeQdrantClient(tmp_path) as client:
            yield stored(client, NamedStore, RetrievalMode.HYBRID)


def stored(client, kind=QdrantVectorStore, mode=RetrievalMode.DENSE, name="dense", **said):
    client.create_collection(
        "docs",
        vectors_config={name: models.VectorParams(size=SIZE, distance="Cosine")},
        sparse_vectors_config={"words": models.SparseVectorParams()},
        **said,
    )
    return kind(
        client,
        "docs",
        EMBEDDING,
        retrieval_mode=mode,
        vector_name=name,
        sparse_embedding=WordsAsNumbers(),
        sparse_vector_name="words",
    )


TEXTS = [f"{color} tea {number}" for number, color in enumerate(["green", "red", "black"] * 4)]


def filled(client, mode=RetrievalMode.DENSE, **said):
    store = stored(client, mode=mode, **said)
    store.add_texts(
        TEXTS,
        [{"n": n, "color": text.split()[0]} for n, text in enumerate(TEXTS)],
        [str(uuid.UUID(int=n + 1)) for n in range(len(TEXTS))],
    )
    return store


@pytest.fixture(params=list(RetrievalMode))
def both(request, tmp_path):
    """The stock store on the engine here, and on qdrant-client's exact local mode."""
    with EdgeQdrantClient(tmp_path) as client:
        yield filled(client, request.param), filled(QdrantClient(":memory:"), request.param)


def color(name):
    match = models.MatchValue(value=name)
    return models.Filter(must=[models.FieldCondition(key="metadata.color", match=match)])


def test_the_stock_store_finds_what_it_finds_on_local_mode(both):
    mine, theirs = both
    for said in ({"k": 3}, {"k": 4, "filter": color("red")}, {"k": 2, "offset": 1}):
        found, wanted = (one.similarity_search_with_score("red tea 4", **said) for one in both)
        assert len(found) == len(wanted)
        if mine.retrieval_mode != RetrievalMode.HYBRID:  # which of equals is second is by chance
            assert [score for _, score in found] == pytest.approx(
                [score for _, score in wanted], abs=1e-4
            )
        if mine.retrieval_mode == RetrievalMode.DENSE:
            assert [one for one, _ in found] == [one for one, _ in wanted]
        elif "offset" not in said and "filter" not in said:
            assert found[0] == wanted[0]
    if mine.retrieval_mode != RetrievalMode.SPARSE:
        ask = EMBEDDING.embed_query("red tea 4")
        assert mine.similarity_search_by_vector(ask, 3) == theirs.similarity_search_by_vector(
            ask, 3
        )
        spread = {"k": 3, "fetch_k": 8, "lambda_mult": 0.4, "filter": color("red")}
        assert mine.max_marginal_relevance_search(
            "red tea 4", **spread
        ) == theirs.max_marginal_relevance_search("red tea 4", **spread)
    ids = [str(uuid.UUID(int=n)) for n in (3, 2, 99)]
    assert mine.get_by_ids(ids) == theirs.get_by_ids(ids)
    assert mine.delete(ids)
    assert mine.client.count("docs").count == len(TEXTS) - 2


async def test_the_stock_store_works_with_await(tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        store = stored(client, mode=RetrievalMode.HYBRID)
        ids = await store.aadd_texts(TEXTS)
        found = await store.asimilarity_search("black tea 5", k=2)
        assert found[0].page_content == "black tea 5"
        assert await store.adelete(ids[:4])
        assert client.count("docs").count == len(TEXTS) - 4


def test_the_stock_store_checks_the_collection_as_on_a_server(tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        stored(client)
        with pytest.raises(Exception, match="embeddings are 4-dimensional"):
            QdrantVectorStore(
                client, "docs", DeterministicFakeEmbedding(size=4), vector_name="dense"
            )
        with pytest.raises(Exception, match="does not contain dense vector named"):
            QdrantVectorStore(client, "docs", EMBEDDING, vector_name="dens")


def test_what_was_stored_is_there_in_the_next_process(tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        wanted = filled(client).similarity_search("green tea 0", k=3)
    with EdgeQdrantClient(tmp_path) as client:
        store = QdrantVectorStore(client, "docs", EMBEDDING, vector_name="dense")
        assert store.similarity_search("green tea 0", k=3) == wanted


# --- the retriever ----------------------------------------------------------------------------

TUNED = SearchConfig(hnsw_ef=77, rescore=True, oversampling=1.5)


class Plan:
    """As `tune` returns one: it has a `.search`."""

    search = TUNED


class Watched:
    """A client that remembers how it was asked, and asks the real one."""

    def __init__(self, client):
        self.client, self.asked = client, []

    def __getattr__(self, name):
        return getattr(self.client, name)

    def query_points(self, *args, **kwargs):
        self.asked.append(kwargs)
        return self.client.query_points(*args, **kwargs)


@pytest.fixture
def watched(tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        watch = Watched(client)
        yield filled(watch), watch.asked


class TestTunedRetriever(RetrieversIntegrationTests):
    retriever_constructor = TunedQdrantRetriever
    retriever_query_example = "green tea"
    retriever_constructor_params: Any = None

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path) -> Iterator[None]:
        with EdgeQdrantClient(tmp_path) as client:
            self.retriever_constructor_params = {"vectorstore": filled(client), "search": TUNED}
            yield


@pytest.mark.parametrize("given", [TUNED, Plan()])
@pytest.mark.parametrize("kind", ["similarity", "mmr"])
async def test_every_search_is_as_tuned(watched, given, kind):
    store, asked = watched
    retriever = TunedQdrantRetriever(
        vectorstore=store,
        search=given,
        k=2,
        search_type=kind,
        search_kwargs={"filter": color("red")},
    )
    found = retriever.invoke("red tea 1")
    assert len(found) == 2
    assert {one.metadata["color"] for one in found} == {"red"}
    assert await retriever.ainvoke("red tea 1") == found
    assert len(retriever.invoke("red tea 1", k=4)) == 4
    assert len(await retriever.ainvoke("red tea 1", k=1)) == 1
    assert [one["search_params"] for one in asked] == [TUNED.for_client()] * 4
    assert retriever.search_kwargs == {"filter": color("red")}, "what was given is left alone"


def test_hybrid_searches_are_as_tuned_too(tmp_path):
    with EdgeQdrantClient(tmp_path) as client:
        watch = Watched(client)
        store = filled(watch, RetrievalMode.HYBRID)
        found = TunedQdrantRetriever(vectorstore=store, search=TUNED, k=1).invoke("black tea 5")
        assert found[0].page_content == "black tea 5"
        (asked,) = watch.asked
        assert [one.params for one in asked["prefetch"]] == [TUNED.for_client()] * 2


def test_a_threshold_is_compared_to_scores_of_the_original_vectors(watched):
    store, asked = watched
    coarse = SearchConfig(hnsw_ef=77, rescore=False)
    retriever = TunedQdrantRetriever(
        vectorstore=store,
        search=coarse,
        search_type="similarity_score_threshold",
        search_kwargs={"score_threshold": 0.99},
    )
    assert [one.page_content for one in retriever.invoke("red tea 1")] == ["red tea 1"]
    assert asked[0]["search_params"] == coarse.for_threshold().for_client()
    assert asked[0]["search_params"].quantization.rescore
    TunedQdrantRetriever(vectorstore=store, search=coarse).invoke("x", score_threshold=0.5)
    assert asked[1]["search_params"].quantization.rescore


def test_whoever_passes_parameters_wins(watched):
    store, asked = watched
    own = models.SearchParams(hnsw_ef=5)
    TunedQdrantRetriever(vectorstore=store, search=TUNED).invoke("x", search_params=own)
    retriever = TunedQdrantRetriever(
        vectorstore=store, search=TUNED, k=1, search_kwargs={"search_params": own, "k": 3}
    )
    assert len(retriever.invoke("x")) == 3
    assert [one["search_params"] for one in asked] == [own, own]


def test_what_says_no_search_is_refused(watched):
    for wrong in ({"hnsw_ef": 3}, None, models.SearchParams(hnsw_ef=3)):
        with pytest.raises(ValidationError, match="SearchConfig is wanted"):
            TunedQdrantRetriever(vectorstore=watched[0], search=wrong)
    with pytest.raises(ValidationError, match="greater than 0"):
        TunedQdrantRetriever(vectorstore=watched[0], search=TUNED, k=0)


def test_tuned_searches_find_the_neighbours_on_quantized_vectors(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2_000, 64))
    int8 = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8"))

    class Numbered(DeterministicFakeEmbedding):
        def embed_query(self, text: str) -> list[float]:
            return list(vectors[int(text) if text.isdigit() else 0])

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

    with EdgeQdrantClient(tmp_path) as client:
        client.create_collection(
            "docs",
            models.VectorParams(size=64, distance="Cosine"),
            quantization_config=int8,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=100),
            hnsw_config=models.HnswConfigDiff(full_scan_threshold=10),
        )
        store = QdrantVectorStore(client, "docs", Numbered(size=64))
        store.add_texts([str(n) for n in range(2_000)], batch_size=500)
        assert client.optimize("docs")
        retriever = TunedQdrantRetriever(vectorstore=store, search=SearchConfig(hnsw_ef=256), k=10)
        exact = TunedQdrantRetriever(vectorstore=store, search=SearchConfig(exact=True), k=10)
        asked = range(0, 2_000, 100)
        texts = [
            [{one.page_content for one in way.invoke(str(n))} for n in asked]
            for way in (retriever, exact)
        ]
        recall = np.mean([len(a & b) / 10 for a, b in zip(*texts, strict=True)])
        assert recall > 0.9
