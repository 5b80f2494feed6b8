"""`CachedRetriever`: the search itself is saved."""

import datetime as dt
import sqlite3

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field, PrivateAttr, ValidationError

from costwise_core import Cache, FixedThreshold, MemoryStore, Selection, SQLiteStore, scoped
from costwise_core.testing.fakes import BrokenStore, HashingEmbedder
from langchain_costwise import CachedRetriever

ASK = "Where is Oslo?"
FOUND = [
    Document(
        id="a", page_content="Oslo ist schön.", metadata={"page": 3, "tags": ["no"], "s": 0.1}
    ),
    Document(page_content="Rome is old."),
]


class Shelf(BaseRetriever):
    """Knows no k; counts."""

    documents: list[Document] = Field(default_factory=lambda: list(FOUND))
    _asked: list[str] = PrivateAttr(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        self._asked.append(query)
        return [document.model_copy(deep=True) for document in self.documents]


class AsyncShelf(Shelf):
    async def _aget_relevant_documents(self, query, *, run_manager):
        self._asked.append(f"async {query}")
        return self.documents


def make(shelf, cache=None, **settings):
    settings = {"corpus": "v1", **settings}
    return CachedRetriever(retriever=shelf, cache=cache or Cache(MemoryStore()), **settings)


def test_documents_come_back_as_they_were():
    shelf = Shelf()
    retriever = make(shelf)
    assert retriever.invoke(ASK) == retriever.invoke("where is  Oslo?") == FOUND
    assert shelf._asked == [ASK]


def test_what_a_caller_changes_stays_his():
    retriever = make(Shelf())
    for _ in range(3):
        documents = retriever.invoke(ASK)
        assert documents == FOUND
        documents[0].metadata["page"] = 99
        documents.pop()


async def test_async_goes_its_own_way():
    shelf = AsyncShelf()
    retriever = make(shelf)
    assert await retriever.ainvoke(ASK) == await retriever.ainvoke(ASK) == FOUND
    assert shelf._asked == [f"async {ASK}"]


def test_rewordings_share_only_when_the_policy_says_so():
    reworded = "Where is Oslo, please?"
    for least, calls in ((0.97, 2), (0.7, 1)):
        shelf = Shelf()
        cache = Cache(
            MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=least)
        )
        retriever = make(shelf, cache)
        retriever.invoke(ASK)
        retriever.invoke(reworded)
        assert len(shelf._asked) == calls


def test_results_do_not_mix():
    """Tenant, corpus, k, arguments and retriever are scope."""
    shelf, cache = Shelf(), Cache(MemoryStore())
    make(shelf, cache).invoke(ASK)
    make(shelf, cache, corpus="v2").invoke(ASK)
    make(shelf, cache, k=1).invoke(ASK)
    make(shelf, cache).invoke(ASK, k=2)
    make(shelf, cache).invoke(ASK, lang="no")
    make(AsyncShelf(), cache).invoke(ASK)
    with scoped(tenant="acme"):
        make(shelf, cache).invoke(ASK)
    with scoped(corpus="v1"):
        make(shelf, cache, corpus="v2").invoke(ASK)
    make(shelf, cache).invoke(ASK, config={"configurable": {"costwise": {"tenant": "bolt"}}})
    assert cache.stats.hits == {}
    before = sum(cache.stats.misses.values())
    make(shelf, cache).invoke(ASK)
    assert (cache.stats.hits, sum(cache.stats.misses.values())) == ({"exact": 1}, before)


def test_settings_of_a_store_retriever_are_scope():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(f"Fact {n}.") for n in range(5)])
    cache = Cache(MemoryStore())
    two, three = (make(store.as_retriever(search_kwargs={"k": k}), cache) for k in (2, 3))
    assert [len(two.invoke(ASK)), len(three.invoke(ASK)), len(two.invoke(ASK))] == [2, 3, 2]
    assert len(three.invoke(ASK, k=4)) == 4


def test_k_cuts_what_a_retriever_without_k_finds():
    assert make(Shelf(), k=1).invoke(ASK) == FOUND[:1]
    assert make(Shelf()).invoke(ASK, k=1) == FOUND[:1]


def test_new_documents_are_found_after_deleting_by_corpus():
    shelf = Shelf()
    retriever = make(shelf)
    retriever.invoke(ASK)
    shelf.documents.append(Document("New."))
    assert retriever.invoke(ASK) == FOUND
    retriever.cache.clear(Selection(corpus="v1"))
    assert retriever.invoke(ASK)[-1].page_content == "New."


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ([], "no_documents"),
        ([Document("a", metadata={"at": dt.date(2026, 1, 1)})], "not_json"),
        ([Document("a", metadata={"span": (1, 2)})], "not_json"),
        ([Document("a", metadata={"score": float("nan")})], "not_json"),
        ([Document("a", metadata={1: "one"})], "not_json"),
        ([type("Own", (Document,), {})("a")], "not_json"),
    ],
)
def test_what_json_cannot_keep_exactly_is_not_kept(documents, reason):
    shelf = Shelf(documents=documents)
    retriever = make(shelf)
    for _ in range(2):
        assert str(retriever.invoke(ASK)) == str(documents)
    assert len(shelf._asked) == 2
    assert retriever.cache.stats.not_stored == {reason: 2}


@pytest.mark.parametrize(
    "broken", [BrokenStore(), type("Embeds", (), {"name": "x", "embed": lambda *_: 1 / 0})()]
)
def test_a_broken_cache_costs_nothing_but_hits(broken):
    cache = (
        Cache(broken) if isinstance(broken, BrokenStore) else Cache(MemoryStore(), embedder=broken)
    )
    assert make(Shelf(), cache).invoke(ASK) == FOUND
    assert cache.stats.errors


@pytest.mark.parametrize("payload", ["", "null", "{}", "[1]", '[{"id": 1}]', "[" * 100_000])
def test_damaged_results_are_misses(tmp_path, payload):
    path = tmp_path / "cache.db"
    with SQLiteStore(path) as store:
        make(Shelf(), Cache(store)).invoke(ASK)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE entries SET answer = ?", [payload])
    db.close()
    with SQLiteStore(path) as store:
        retriever = make(Shelf(), Cache(store))
        assert retriever.invoke(ASK) == FOUND
        assert retriever.invoke(ASK) == FOUND
        assert retriever.retriever._asked == [ASK]
        assert retriever.cache.stats.hits == {"exact": 1}


def test_scope_may_be_required_and_the_cache_passed_by():
    shelf = Shelf()
    retriever = make(shelf, require=("tenant",))
    for _ in range(2):
        assert retriever.invoke(ASK) == FOUND
    with scoped(tenant="acme"):
        retriever.invoke(ASK), retriever.invoke(ASK)
        with scoped(bypass=True):
            retriever.invoke(ASK)
    assert len(shelf._asked) == 4
    assert retriever.cache.stats.misses == {"bypass": 1, "no_entry": 1, "no_scope": 2}


def test_a_wrong_scope_breaks_no_search():
    retriever = make(Shelf())
    for _ in range(2):
        config = {"configurable": {"costwise": {"tennant": "acme"}}}
        assert retriever.invoke(ASK, config=config) == FOUND
    assert retriever.cache.stats.errors == {"ConfigError": 2}
    assert len(retriever.retriever._asked) == 2


def test_arguments_that_have_no_key_are_passed_on():
    retriever = make(Shelf())
    assert retriever.invoke(ASK, filter=lambda document: True) == FOUND
    assert retriever.cache.stats.stored == 0


@pytest.mark.parametrize("wrong", [{"corpus": ""}, {"k": 0}, {"require": ("tennant",)}])
def test_wrong_arguments_are_told_at_once(wrong):
    with pytest.raises(ValidationError):
        make(Shelf(), **wrong)
