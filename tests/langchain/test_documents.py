"""Documents change: nothing drawn from the version before is served again."""

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field

from costwise_core import Cache, MemoryStore, Scope, SQLiteStore, scoped
from costwise_core.errors import StoreError
from costwise_core.testing.fakes import BrokenStore
from langchain_costwise import CachedRetriever, CacheInvalidator
from langchain_costwise._documents import documents_of


class Shelf(BaseRetriever):
    """Finds, for "n", the n-th document; for anything else all of them."""

    documents: list[Document] = Field(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        found = [self.documents[int(query)]] if query.isdigit() else self.documents
        return [document.model_copy(deep=True) for document in found]


def make(documents, store=None):
    cache = Cache(store or MemoryStore())
    shelf = Shelf(documents=list(documents))
    return shelf, CachedRetriever(retriever=shelf, cache=cache, corpus="c")


def law(n: int, text: str, **metadata) -> Document:
    return Document(id=f"law-{n}", page_content=text, metadata=metadata)


def texts(documents) -> list[str]:
    return [document.page_content for document in documents]


@pytest.mark.parametrize("how", ["version", "content"])
def test_a_search_that_finds_another_version_ends_the_old_results(how):
    said = {"version": 1} if how == "version" else {}
    shelf, retriever = make([law(n, f"Law {n}, old.", **said) for n in range(3)])
    retriever.invoke("0"), retriever.invoke("1"), retriever.invoke("all of them")
    said = {"version": 2} if how == "version" else {}
    shelf.documents[0] = law(0, "Law 0, new.", **said)
    # Another question brings the changed document.
    assert texts(retriever.invoke("which?"))[0] == "Law 0, new."
    assert retriever.invalidated == 2
    for question in ("0", "all of them"):
        assert texts(retriever.invoke(question))[0] == "Law 0, new."
    hits = retriever.cache.stats.hits
    assert texts(retriever.invoke("1")) == ["Law 1, old."]  # untouched, so still served
    assert retriever.cache.stats.hits["exact"] == hits.get("exact", 0) + 1


def test_a_later_process_notices_too(tmp_path):
    with SQLiteStore(tmp_path / "cache.db") as store:
        make([law(0, "Old.")], store)[1].invoke("0")
    with SQLiteStore(tmp_path / "cache.db") as store:
        _, retriever = make([law(0, "New.")], store)
        assert texts(retriever.invoke("0")) == ["Old."]  # nobody could have told it yet
        retriever.invoke("all")
        assert texts(retriever.invoke("0")) == ["New."]


class CountingStore(MemoryStore):
    deletions = 0

    def delete(self, selection):
        self.deletions += 1
        return super().delete(selection)


def test_an_unchanged_document_is_looked_after_once():
    store = CountingStore()
    _, retriever = make([law(0, "Old.")], store)
    for n in range(5):
        retriever.invoke(f"question {n}")
    assert store.deletions == 1
    assert (retriever.invalidated, retriever.cache.stats.errors) == (0, {})


def test_a_search_from_before_the_change_is_not_kept():
    """A slow search that began before the update must not bring the old text back."""
    shelf, retriever = make([law(0, "Old.")])
    retriever.invoke("warm up")

    class Slow(Shelf):
        def _get_relevant_documents(self, query, *, run_manager):
            found = super()._get_relevant_documents(query, run_manager=run_manager)
            if query == "slow":  # meanwhile the document changes and is found by another
                self.documents[0] = law(0, "New.")
                retriever.invoke("quick")
            return found

    retriever.retriever = Slow(documents=shelf.documents)
    assert texts(retriever.invoke("slow")) == ["Old."]
    assert retriever.cache.stats.not_stored == {"outdated": 1}
    assert texts(retriever.invoke("slow")) == ["New."]


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("said", [{}, {"source": "laws.pdf"}, {"version": "v1"}])
async def test_an_ingestion_while_a_search_is_on_its_way(sync, said):
    """The search has found the old text; before it is kept, the hook announces the new one."""
    shelf, retriever = make([law(0, "Old.", **said)])
    hook = CacheInvalidator(retriever.cache)

    class Overtaken(Shelf):
        def _get_relevant_documents(self, query, *, run_manager):
            found = super()._get_relevant_documents(query, run_manager=run_manager)
            if self.documents[0].page_content == "Old.":
                now = {name: "v2" if name == "version" else told for name, told in said.items()}
                self.documents[0] = law(0, "New.", **now)
                hook.transform_documents(self.documents)
            return found

    retriever.retriever = Overtaken(documents=shelf.documents)
    ask = lambda: retriever.invoke("0") if sync else retriever.ainvoke("0")  # noqa: E731
    found = [texts(ask() if sync else await ask()) for _ in range(3)]
    assert found == [["Old."], ["New."], ["New."]]
    assert retriever.cache.stats.not_stored == {"outdated": 1}
    assert retriever.cache.stats.hits == {"exact": 1}


def test_a_store_that_cannot_delete_breaks_no_search():
    _, retriever = make([law(0, "Old.")], BrokenStore())
    assert texts(retriever.invoke("0")) == ["Old."]
    assert retriever.cache.stats.errors["OSError"] >= 2


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("version", [None, "v"])
async def test_an_update_leaves_no_stale_hit(sync, version):
    """The whole way: a vector store, its retriever, and the hook in the ingestion."""
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    cache = Cache(MemoryStore())
    retriever = CachedRetriever(retriever=store.as_retriever(), cache=cache, corpus="laws")
    hook = CacheInvalidator(cache)

    async def ingest(edition: int) -> None:
        said = {"version": f"{version}{edition}"} if version else {}
        documents = [
            Document(
                id=f"{n}", page_content=f"{n} in edition {edition}", metadata={"source": n, **said}
            )
            for n in ("a", "b", "c", "d")
        ]
        store.add_documents(documents)
        passed = (
            hook.transform_documents(documents)
            if sync
            else await hook.atransform_documents(documents)
        )
        assert list(passed) == documents

    questions = [f"What is the rule number {n}?" for n in range(20)]
    stale = 0
    for edition in range(4):
        await ingest(edition)
        for question in questions * 2:
            found = retriever.invoke(question) if sync else await retriever.ainvoke(question)
            stale += sum(f"edition {edition}" not in one.page_content for one in found)
    assert stale == 0
    assert cache.stats.hits == {"exact": 80}


def test_unchanged_documents_keep_their_answers():
    _, retriever = make([law(0, "Old.", source="laws.pdf", version="v1")])
    retriever.invoke("0")
    hook = CacheInvalidator(retriever.cache)
    hook.transform_documents([Document("Old.", metadata={"source": "laws.pdf", "version": "v1"})])
    retriever.invoke("0")
    assert retriever.cache.stats.hits == {"exact": 1}
    hook.transform_documents([Document("Old.", metadata={"source": "laws.pdf"})])
    retriever.invoke("0")
    assert retriever.cache.stats.hits == {"exact": 1}


@pytest.mark.parametrize("name", ["law-0", "laws.pdf"])
async def test_deleted_documents_are_forgotten(name):
    _, retriever = make([law(0, "Old.", source="laws.pdf"), law(1, "Other.")])
    hook = CacheInvalidator(retriever.cache)
    for forget in (hook.forget, hook.aforget):
        retriever.invoke("0"), retriever.invoke("1")
        gone = forget([name])
        assert (await gone if hasattr(gone, "__await__") else gone) == 1
    assert retriever.cache.lookup("0", Scope()).reason == "no_entry"


def test_tenants_are_told_of_a_change_too():
    shelf, retriever = make([law(0, "Old.")])
    for tenant in ("acme", "bolt"):
        with scoped(tenant=tenant):
            retriever.invoke("0")
    shelf.documents[0] = law(0, "New.")
    with scoped(tenant="acme"):
        retriever.invoke("all")
    with scoped(tenant="bolt"):
        assert texts(retriever.invoke("0")) == ["New."]


def test_a_hook_that_cannot_delete_says_so():
    with pytest.raises((StoreError, OSError)):
        CacheInvalidator(Cache(BrokenStore())).transform_documents([law(0, "New.")])


def test_what_counts_as_one_document():
    text = "One text."
    chunk, named, versioned, bare = documents_of(
        [
            Document(text, metadata={"source": "a.pdf"}),
            Document(id="x", page_content=text),
            Document(text, metadata={"source": "b.pdf", "version": 3}),
            Document(text),
        ]
    )
    assert (chunk, versioned) == (("a.pdf", ""), ("b.pdf", "3"))
    assert named[0] == "x"
    assert named[1] == bare[0] == bare[1] != text
