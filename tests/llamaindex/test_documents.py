"""Documents that change: answers drawn from older versions are served no more."""

import pytest
from llama_index.core import Document, SummaryIndex, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import (
    ImageNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters, SimpleVectorStore

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, scoped
from costwise_core.cache.versions import Versions
from costwise_core.drive import run
from costwise_core.errors import ConfigError, StoreError
from llamaindex_costwise import (
    CachedLLM,
    CachedQueryEngine,
    CachedRetriever,
    CacheInvalidator,
    LlamaIndexEmbedder,
)
from llamaindex_costwise._documents import documents_of
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding

ASKED = "How long is the notice period?"
REWORDED = "How long is the notice period please?"
OTHER = "Who signs the contract?"


def document(text, name="terms", **metadata):
    return Document(id_=name, text=text, metadata=metadata)


def indexed(*documents):
    return VectorStoreIndex.from_documents(documents, embed_model=WordEmbedding())


class Switching(BaseRetriever):
    """Searches whichever index there is now."""

    def __init__(self, index):
        self.index = index
        self.calls = 0
        super().__init__()

    def _retrieve(self, query_bundle):
        self.calls += 1
        return self.index.as_retriever().retrieve(query_bundle)

    async def _aretrieve(self, query_bundle):
        self.calls += 1
        return await self.index.as_retriever().aretrieve(query_bundle)


def engine_over(retriever, inner, cache, **kwargs):
    engine = RetrieverQueryEngine.from_args(retriever, llm=inner, **kwargs)
    return CachedQueryEngine(engine, cache=cache, corpus="law")


# --- ids and versions ----------------------------------------------------------------------------


def test_the_version_is_that_of_the_document_and_not_of_its_parts():
    one = document("First sentence here. " * 60)
    nodes = SentenceSplitter(chunk_size=60, chunk_overlap=0).get_nodes_from_documents([one])
    assert len(nodes) > 2
    assert documents_of(nodes) == (("terms", one.hash),)
    assert documents_of([one]) == (("terms", one.hash),)
    stated = document("Text.", version=7)
    assert documents_of([stated]) == (("terms", "7"),)


def test_a_node_that_only_names_its_document_stands_for_itself_too():
    node = TextNode(id_="n", text="x")
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="terms")
    assert documents_of([node, node]) == (("terms", ""), ("n", node.hash))


# --- noticed by an engine ------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_an_update_leaves_no_stale_answer(inner, cache, how, streaming):
    retriever = Switching(indexed(document("Thirty days.")))
    engine = engine_over(retriever, inner, cache, streaming=streaming)

    async def ask(question):
        response = engine.query(question) if how == "query" else await engine.aquery(question)
        if streaming and how == "aquery":
            return "".join([token async for token in response.async_response_gen()])
        return str(response)

    old = await ask(ASKED)
    retriever.index = indexed(document("Sixty days."))
    await ask(OTHER)
    assert engine.versions.invalidated == 1
    assert await ask(ASKED) != old
    assert await ask(REWORDED) != old
    assert inner.calls == 3
    assert await ask(ASKED) != old
    assert inner.calls == 3


def test_unchanged_documents_invalidate_nothing(inner, cache):
    engine = engine_over(Switching(indexed(document("Thirty days."))), inner, cache)
    for question in (ASKED, OTHER, ASKED, OTHER):
        engine.query(question)
    assert inner.calls == 2
    assert engine.versions.invalidated == 0


def test_sources_that_cannot_be_read_are_served_and_not_stored(inner, cache):
    node = TextNode(text="Thirty days.")
    node.relationships[NodeRelationship.SOURCE] = [RelatedNodeInfo(node_id="terms")]
    engine = engine_over(Fixed([NodeWithScore(node=node)]), inner, cache)
    assert engine.query(ASKED).response
    assert cache.stats.not_stored == {"unreadable": 1}


def test_a_change_is_noticed_in_a_response_that_is_not_stored(cache):
    inner = ScriptedLLM()
    retriever = Switching(indexed(document("Thirty days.")))
    engine = engine_over(retriever, inner, cache)
    engine.query(ASKED)
    retriever.index = indexed(document("Sixty days."))
    inner.finish = "length"
    engine.query(OTHER)
    inner.finish = "stop"
    engine.query(ASKED)
    assert engine.versions.invalidated == 1


def test_an_answer_from_before_a_change_that_comes_late_is_not_stored():
    cache, versions = Cache(MemoryStore()), Versions()
    early = cache.mark()
    assert run(versions.notice(cache, (("terms", "v2"),), since=cache.mark()))
    assert not run(versions.notice(cache, (("terms", "v1"),), since=early))
    # Asked for after the change, it is a document that went back.
    assert run(versions.notice(cache, (("terms", "v1"),), since=cache.mark()))


def test_a_store_that_cannot_delete_is_counted_and_asked_again(inner):
    class Stubborn(MemoryStore):
        broken = True

        def delete(self, selection):
            if self.broken:
                raise StoreError("locked")
            return super().delete(selection)

    store = Stubborn()
    cache = Cache(store)
    engine = engine_over(Switching(indexed(document("Thirty days."))), inner, cache)
    assert engine.query(ASKED).response
    assert cache.stats.errors == {"StoreError": 1}
    store.broken = False
    engine.query(OTHER)
    assert cache.stats.errors == {"StoreError": 1}


# --- cut off answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "cached"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["query", "aquery"])
@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "truncated"), ("content_filter", "refusal"), ("odd", "unknown_ending")],
)
async def test_cut_off_answers_are_not_stored(cache, how, streaming, wrapped, finish, reason):
    inner = ScriptedLLM(finish=finish)
    llm = CachedLLM(llm=inner, cache=Cache(MemoryStore())) if wrapped else inner
    engine = engine_over(
        Switching(indexed(document("Thirty days."))), llm, cache, streaming=streaming
    )
    for _ in range(2):
        if how == "query":
            assert str(engine.query(ASKED))
        else:
            response = await engine.aquery(ASKED)
            if streaming:
                assert [token async for token in response.async_response_gen()]
    assert inner.calls == 2
    assert cache.stats.not_stored == {reason: 2}


def test_one_cut_off_part_spoils_the_whole(cache):
    class Tiring(ScriptedLLM):
        def _raw(self, sent, finish, *, usage):
            first = self.calls == 1
            return super()._raw(sent, "length" if first else finish, usage=usage)

    inner = Tiring()
    nodes = [TextNode(text=f"Fact {n}. " * 400) for n in range(6)]
    engine = SummaryIndex(nodes).as_query_engine(llm=inner, response_mode="tree_summarize")
    CachedQueryEngine(engine, cache=cache, corpus="law").query(ASKED)
    assert inner.calls > 2
    assert cache.stats.not_stored == {"truncated": 1}


def test_what_another_engine_heard_does_not_count(cache):
    short = engine_over(Switching(indexed(document("A."))), ScriptedLLM(finish="length"), cache)
    whole = engine_over(Switching(indexed(document("A."))), ScriptedLLM(model="gpt-4o"), cache)
    short.query(ASKED)
    whole.query(ASKED)
    assert cache.stats.stored == 1


# --- the retriever -------------------------------------------------------------------------------


@pytest.fixture
def switching():
    return Switching(indexed(document("Thirty days.", page=3, tags=["a", "ö"])))


@pytest.fixture
def retriever(switching, cache):
    return CachedRetriever(switching, cache=cache, corpus="law")


async def test_nodes_come_back_exactly(retriever, switching, cache):
    first = retriever.retrieve(ASKED)
    second, third = await retriever.aretrieve(ASKED), await retriever.aretrieve(REWORDED)
    assert second == third == first
    assert [n.score for n in second] == [n.score for n in first]
    assert switching.calls == 1
    assert dict(cache.stats.hits) == {"exact": 1, "near": 1}
    second[0].node.metadata["page"] = "spoilt"
    assert retriever.retrieve(ASKED) == first


def test_a_retriever_notices_an_update(retriever, switching):
    old = retriever.retrieve(ASKED)
    switching.index = indexed(document("Sixty days."))
    retriever.retrieve(OTHER)
    assert retriever.retrieve(ASKED) != old
    assert switching.calls == 3


async def test_a_retriever_inside_an_engine(retriever, switching, inner):
    engine = RetrieverQueryEngine.from_args(retriever, llm=inner)
    assert str(engine.query(ASKED)) == str(await engine.aquery(ASKED))
    assert switching.calls == 1


def test_retrievers_that_differ_do_not_share(cache):
    index = indexed(document("Thirty days."), document("Sixty.", "other"))
    filters = MetadataFilters(filters=[ExactMatchFilter(key="page", value=1)])
    plain = [
        index.as_retriever(similarity_top_k=1),
        index.as_retriever(similarity_top_k=2),
        index.as_retriever(similarity_top_k=2, filters=filters),
        Switching(index),
    ]
    for one in plain:
        CachedRetriever(one, cache=cache, corpus="law").retrieve(ASKED)
        fused = QueryFusionRetriever([one], llm=ScriptedLLM(), num_queries=1)
        CachedRetriever(fused, cache=cache, corpus="law").retrieve(ASKED)
    CachedRetriever(plain[0], cache=cache, corpus="tax").retrieve(ASKED)
    with scoped(tenant="b"):
        CachedRetriever(plain[0], cache=cache, corpus="law").retrieve(ASKED)
    assert not cache.stats.hits
    CachedRetriever(plain[0], cache=cache, corpus="law").retrieve(ASKED)
    assert dict(cache.stats.hits) == {"exact": 1}


def test_a_setting_changed_later_counts(cache):
    index = indexed(document("Thirty days."), document("Sixty.", "other"))
    plain = index.as_retriever(similarity_top_k=1)
    retriever = CachedRetriever(plain, cache=cache, corpus="law")
    assert len(retriever.retrieve(ASKED)) == 1
    plain.similarity_top_k = 2
    assert len(retriever.retrieve(ASKED)) == 2


def test_a_search_by_other_strings_is_another_search(retriever, switching):
    retriever.retrieve(ASKED)
    retriever.retrieve(QueryBundle(ASKED, custom_embedding_strs=["x"]))
    retriever.retrieve(QueryBundle(ASKED, image_path="x.png"))
    assert switching.calls == 3


def test_a_miss_hands_its_vector_to_the_search():
    embedding = WordEmbedding()
    index = VectorStoreIndex.from_documents([document("Thirty days.")], embed_model=embedding)
    cache = Cache(MemoryStore(), embedder=LlamaIndexEmbedder(embedding))
    CachedRetriever(index.as_retriever(), cache=cache, corpus="law").retrieve(ASKED)
    assert len(embedding._queries) == 1


class Fixed(BaseRetriever):
    def __init__(self, nodes):
        self.nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle):
        return self.nodes


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "no_documents"),
        ([NodeWithScore(node=ImageNode(image_path="/etc/passwd"))], "node_type"),
        ([NodeWithScore(node=TextNode(text="x", metadata={"pair": (1, 2)}))], "not_exact"),
    ],
)
def test_nodes_that_could_not_come_back_are_not_stored(cache, nodes, reason):
    retriever = CachedRetriever(Fixed(nodes), cache=cache, corpus="law")
    assert retriever.retrieve(ASKED) == retriever.retrieve(ASKED) == nodes
    assert cache.stats.not_stored == {reason: 2}


def test_documents_that_sound_like_a_refusal_are_stored(cache):
    nodes = [NodeWithScore(node=TextNode(text="I'm sorry, but I can't help with that."))]
    CachedRetriever(Fixed(nodes), cache=cache, corpus="law").retrieve(ASKED)
    assert cache.stats.stored == 1


@pytest.mark.parametrize("text", ["{", '{"v": 1}', '{"v": 1, "sources": [{"node": 3}]}'])
def test_damaged_results_are_no_hits(switching, text):
    class Damaging(MemoryStore):
        def get(self, key, scope):
            found = super().get(key, scope)
            if found is not None:
                object.__setattr__(found, "answer", text)
            return found

    cache = Cache(Damaging(), policy=FixedThreshold(min_cosine=0.9))
    retriever = CachedRetriever(switching, cache=cache, corpus="law")
    assert retriever.retrieve(ASKED) == retriever.retrieve(ASKED)
    assert not cache.stats.hits
    assert cache.stats.misses["damaged"] == 1


def test_a_required_tenant_and_bypass(switching, cache):
    retriever = CachedRetriever(switching, cache=cache, corpus="law", require=("tenant",))
    retriever.retrieve(ASKED)
    with scoped(tenant="a", bypass=True):
        retriever.retrieve(ASKED)
    assert dict(cache.stats.misses) == {"no_scope": 1, "bypass": 1}
    assert cache.stats.stored == 0
    with pytest.raises(ConfigError, match="handbook-v7"):
        CachedRetriever(switching, cache=cache, corpus="")


# --- ingestion -----------------------------------------------------------------------------------


@pytest.fixture
def invalidator(cache):
    return CacheInvalidator(cache=cache)


def pipeline_with(invalidator):
    return IngestionPipeline(
        transformations=[SentenceSplitter(), WordEmbedding(), invalidator],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=SimpleVectorStore(),
    )


@pytest.mark.parametrize("how", ["run", "arun"])
async def test_an_upsert_leaves_no_stale_answer(inner, cache, invalidator, how):
    pipeline = pipeline_with(invalidator)

    async def ingest(*documents):
        documents = list(documents)
        if how == "run":
            pipeline.run(documents=documents)
        else:
            await pipeline.arun(documents=documents)

    fees = document("Ten euros.", "fees")
    await ingest(document("Thirty days."), fees)
    engine = engine_over(
        Switching(indexed(document("Thirty days."), fees)), inner, cache, streaming=False
    )
    old = str(engine.query(ASKED))
    await ingest(document("Thirty days."), fees)
    assert str(engine.query(ASKED)) == old
    assert inner.calls == 1
    await ingest(document("Sixty days."), fees)
    engine.query(ASKED)
    assert inner.calls == 2


def test_a_document_that_goes_back_is_a_change_too(cache, invalidator):
    pipeline = pipeline_with(invalidator)
    versions = [document("Thirty days."), document("Sixty days."), document("Thirty days.")]
    for now in versions:
        pipeline.run(documents=[now])
        assert not cache.stats.hits
        assert cache.lookup(ASKED, Scope()).reason == "no_entry"
        cache.store(ASKED, Scope(), now.text, documents=documents_of([now]))


def test_nodes_pass_unchanged_and_forgotten_documents_are_gone(cache, invalidator):
    nodes = [TextNode(text="a"), document("b")]
    before = [node.to_dict() for node in nodes]
    assert invalidator(nodes) is nodes
    assert [node.to_dict() for node in nodes] == before
    cache.store(ASKED, Scope(), "b", documents=documents_of(nodes[1:]))
    assert invalidator.forget(["other"]) == 0
    assert invalidator.forget(["terms"]) == 1


async def test_asynchronous_forgetting(cache, invalidator):
    cache.store(ASKED, Scope(), "b", documents=(("terms", "v1"),))
    assert await invalidator.aforget(["terms"]) == 1


def test_an_invalidation_that_fails_stops_the_pipeline():
    class Stubborn(MemoryStore):
        def delete(self, selection):
            raise StoreError("locked")

    pipeline = pipeline_with(CacheInvalidator(cache=Cache(Stubborn())))
    with pytest.raises(StoreError):
        pipeline.run(documents=[document("Thirty days.")])
    with pytest.raises(StoreError):  # nothing was recorded, so it is not taken for done
        pipeline.run(documents=[document("Thirty days.")])


def test_other_processes_are_refused_with_advice(invalidator):
    import pickle

    with pytest.raises(ConfigError, match="num_workers"):
        pickle.dumps(invalidator)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_an_ingestion_while_an_answer_is_on_its_way(cache, how, streaming):
    """The old text is retrieved; before the answer is kept, the pipeline announces the new one."""
    retriever = Switching(indexed(document("Thirty days.")))

    class Overtaken(ScriptedLLM):
        def _text(self, sent):
            if self.calls == 1:
                update = document("Sixty days.")
                IngestionPipeline(transformations=[CacheInvalidator(cache=cache)]).run(
                    documents=[update]
                )
                retriever.index = indexed(update)
            return "Sixty." if "Sixty" in sent else "Thirty."

    engine = engine_over(retriever, Overtaken(), cache, streaming=streaming)

    async def ask():
        response = engine.query(ASKED) if how == "query" else await engine.aquery(ASKED)
        if streaming and how == "aquery":
            return "".join([token async for token in response.async_response_gen()])
        return str(response)

    assert [await ask() for _ in range(3)] == ["Thirty.", "Sixty.", "Sixty."]
    assert cache.stats.not_stored == {"outdated": 1}
    assert cache.stats.hits == {"exact": 1}


def test_an_ingestion_while_a_search_is_on_its_way(cache):
    class Overtaken(Switching):
        def _retrieve(self, query_bundle):
            found = super()._retrieve(query_bundle)
            if self.calls == 1:
                update = document("Sixty days.")
                CacheInvalidator(cache=cache)([update])
                self.index = indexed(update)
            return found

    retriever = CachedRetriever(
        Overtaken(indexed(document("Thirty days."))), cache=cache, corpus="law"
    )
    found = [retriever.retrieve(ASKED)[0].node.text for _ in range(3)]
    assert found == ["Thirty days.", "Sixty days.", "Sixty days."]
    assert cache.stats.hits == {"exact": 1}
