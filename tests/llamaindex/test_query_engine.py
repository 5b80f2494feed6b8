"""CachedQueryEngine: whole responses, sources included, and one embedding per question."""

import datetime as dt

import pytest
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.query_engine import CustomQueryEngine, RouterQueryEngine
from llama_index.core.schema import (
    ImageNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import BaseModel, Field

from costwise_core import Cache, FixedThreshold, MemoryStore, Selection, scoped
from costwise_core.errors import ConfigError
from llamaindex_costwise import CachedQueryEngine, LlamaIndexEmbedder
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding

ASKED = "How large is the moon compared with the earth?"
REWORDED = "How large is the moon when compared with the earth?"
OTHER = "Why does the sun not fall down?"


def nodes():
    return [
        TextNode(
            id_=f"node-{i}",
            text=f"Fact {i}: the moon is {i} times as large as something.",
            metadata={"page": i, "tags": ["moon", "größe"], "file": {"name": "a.pdf"}},
            excluded_llm_metadata_keys=["file"],
            start_char_idx=i * 10,
            end_char_idx=i * 10 + 9,
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc-1", metadata={"v": 1}),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id=f"node-{i + 1}"),
            },
        )
        for i in range(4)
    ]


@pytest.fixture
def embedding():
    return WordEmbedding()


@pytest.fixture
def index(embedding):
    return VectorStoreIndex(nodes(), embed_model=embedding)


def engine_of(index, inner, cache, **kwargs):
    plain = index.as_query_engine(llm=inner, **kwargs)
    return CachedQueryEngine(plain, cache=cache, corpus="moon-v1")


@pytest.fixture
def engine(index, inner, cache):
    return engine_of(index, inner, cache)


def sources(response):
    return [(n.node.to_dict(), n.score) for n in response.source_nodes]


async def test_sources_come_back_exactly(engine, inner):
    first, second = engine.query(ASKED), engine.query(ASKED)
    third = await engine.aquery(REWORDED)
    assert inner.calls == 1
    for served in (second, third):
        assert type(served) is Response
        assert served.response == first.response
        assert sources(served) == sources(first)
        assert [n.node for n in served.source_nodes] == [n.node for n in first.source_nodes]
        assert {k: v for k, v in served.metadata.items() if k != "costwise"} == first.metadata
        assert served.get_formatted_sources() == first.get_formatted_sources()
    assert second.metadata["costwise"]["hit"] == "exact"
    assert third.metadata["costwise"]["hit"] == "near"
    assert "costwise" not in first.metadata


async def test_another_question_corpus_or_tenant_is_a_miss(engine, inner, index, cache):
    await engine.aquery(ASKED)
    engine.query(OTHER)
    assert inner.calls == 2
    with scoped(tenant="acme"):
        engine.query(ASKED)
    with scoped(corpus="moon-v2"):
        engine.query(ASKED)
    other = CachedQueryEngine(index.as_query_engine(llm=inner), cache=cache, corpus="mars")
    other.query(ASKED)
    assert inner.calls == 5
    assert cache.clear(Selection(corpus="mars")) == 1


def test_engines_that_differ_do_not_share(index, inner, cache):
    lie = PromptTemplate("Lie about {query_str} given {context_str}")
    engine_of(index, inner, cache).query(ASKED)
    engine_of(index, inner, cache, text_qa_template=lie).query(ASKED)
    engine_of(index, inner, cache, response_mode="tree_summarize").query(ASKED)
    engine_of(index, ScriptedLLM(temperature=1.0), cache).query(ASKED)
    engine_of(index, ScriptedLLM(model="gpt-4o"), cache).query(ASKED)
    assert not cache.stats.hits


def test_other_strings_to_retrieve_by_are_another_question(engine, inner):
    engine.query(ASKED)
    engine.query(QueryBundle(ASKED, custom_embedding_strs=["something else"]))
    engine.query(QueryBundle(ASKED, embedding=[1.0] * 256))
    assert inner.calls == 3


def test_a_corpus_must_be_named(index, cache):
    with pytest.raises(ConfigError, match="handbook-v7"):
        CachedQueryEngine(index.as_query_engine(llm=ScriptedLLM()), cache=cache, corpus="")


def test_required_tenant_and_bypass(index, inner, cache):
    plain = index.as_query_engine(llm=inner)
    engine = CachedQueryEngine(plain, cache=cache, corpus="v1", require=("tenant",))
    engine.query(ASKED)
    with scoped(tenant="a", bypass=True):
        engine.query(ASKED)
    engine.query(QueryBundle(ASKED, image_path="moon.png"))
    assert dict(cache.stats.misses) == {"bypass": 1, "modality": 1, "no_scope": 1}
    assert cache.stats.stored == 0


# --- streams -------------------------------------------------------------------------------------


async def test_streams_stay_streams(index, inner, cache):
    engine = engine_of(index, inner, cache, streaming=True)
    first = engine.query(ASKED)
    assert isinstance(first, StreamingResponse)
    tokens = first.response_gen
    text = next(tokens)
    assert cache.stats.stored == 0
    text += "".join(tokens)
    assert cache.stats.stored == 1
    again = engine.query(ASKED)
    assert isinstance(again, StreamingResponse)
    assert again.metadata["costwise"]["hit"] == "exact"
    replayed = list(again.response_gen)
    assert "".join(replayed) == text
    assert len(replayed) > 2
    assert sources(again) == sources(first)
    asynchronous = await engine.aquery(REWORDED)
    assert isinstance(asynchronous, AsyncStreamingResponse)
    assert "".join([t async for t in asynchronous.async_response_gen()]) == text
    assert inner.calls == 1


async def test_asynchronous_streams(index, inner, cache):
    engine = engine_of(index, inner, cache, streaming=True)
    first = await engine.aquery(ASKED)
    text = "".join([t async for t in first.async_response_gen()])
    assert str(engine.query(ASKED)) == text
    assert inner.calls == 1


async def test_abandoned_streams_are_not_stored(index, inner, cache):
    engine = engine_of(index, inner, cache, streaming=True)
    tokens = engine.query(ASKED).response_gen
    next(tokens)
    tokens.close()
    response = await engine.aquery(ASKED)
    agen = response.response_gen
    await anext(agen)
    await agen.aclose()
    assert cache.stats.not_stored == {"unfinished": 2}


def test_streaming_and_plain_engines_do_not_share(index, inner, cache):
    engine_of(index, inner, cache).query(ASKED)
    streamed = engine_of(index, inner, cache, streaming=True).query(ASKED)
    assert isinstance(streamed, StreamingResponse)
    assert str(streamed)
    assert inner.calls == 2


# --- what is not kept ----------------------------------------------------------------------------


class Fixed(CustomQueryEngine):
    """An engine of somebody else, with none of LlamaIndex's parts."""

    answer: object

    def custom_query(self, query_str):
        return self.answer


class Moon(BaseModel):
    size: int


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(""), "empty_answer"),
        (Response(None), "empty_answer"),
        (Response("Empty Response"), "empty_answer"),
        (PydanticResponse(Moon(size=1)), "structured"),
        (Response("x", [NodeWithScore(node=ImageNode(image_path="/etc/passwd"))]), "node_type"),
        (Response("x", metadata={"when": dt.date(2026, 1, 1)}), "not_exact"),
        (Response("x", metadata={"pair": (1, 2)}), "not_exact"),
    ],
    ids=["empty", "none", "no sources", "pydantic", "image", "date", "tuple"],
)
def test_responses_that_could_not_come_back_are_not_stored(cache, answer, reason):
    engine = CachedQueryEngine(Fixed(answer=answer), cache=cache, corpus="v1")
    assert engine.query(ASKED) is answer
    assert engine.query(ASKED) is answer
    assert cache.stats.not_stored == {reason: 2}


def test_no_documents_found_is_not_stored(inner, cache, embedding):
    engine = engine_of(VectorStoreIndex([], embed_model=embedding), inner, cache)
    assert str(engine.query(ASKED)) == "Empty Response"
    assert cache.stats.not_stored == {"empty_answer": 1}


# --- one embedding -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_retrieval_takes_the_vector_of_the_miss(index, embedding, inner, how):
    cache = Cache(MemoryStore(), embedder=LlamaIndexEmbedder(embedding))
    engine = engine_of(index, inner, cache)
    plain = index.as_query_engine(llm=inner).query(ASKED)
    embedding._queries.clear()
    response = engine.query(ASKED) if how == "query" else await engine.aquery(ASKED)
    assert len(embedding._queries) == 1
    assert [n.node_id for n in response.source_nodes] == [n.node_id for n in plain.source_nodes]
    assert [n.score for n in response.source_nodes] == pytest.approx(
        [n.score for n in plain.source_nodes], abs=1e-6
    )


@pytest.mark.parametrize(
    "other",
    [WordEmbedding(dim=128), WordEmbedding(model_name="other"), WordEmbedding(scale=2.0)],
    ids=["size", "name", "not unit"],
)
def test_the_vector_of_another_embed_model_is_not_taken(inner, other):
    searched = WordEmbedding(scale=2.0) if other.scale == 2.0 else WordEmbedding()
    index = VectorStoreIndex(nodes(), embed_model=searched)
    cache = Cache(MemoryStore(), embedder=LlamaIndexEmbedder(other))
    engine_of(index, inner, cache).query(ASKED)
    assert len(searched._queries) == 1
    assert len(other._queries) == 1


def test_the_callers_query_bundle_is_not_changed(engine, embedding):
    query = QueryBundle(ASKED)
    engine.query(query)
    assert query == QueryBundle(ASKED)


# --- a good citizen of LlamaIndex ----------------------------------------------------------------


def test_query_events_and_prompts(engine):
    class Recorder(BaseEventHandler):
        seen: list[type] = Field(default_factory=list)

        def handle(self, event, **kwargs):
            if isinstance(event, QueryStartEvent | QueryEndEvent):
                self.seen.append(type(event))

    recorder, root = Recorder(), get_dispatcher()
    engine.query(ASKED)
    root.add_event_handler(recorder)
    try:
        engine.query(ASKED)
    finally:
        root.event_handlers.remove(recorder)
    assert recorder.seen == [QueryStartEvent, QueryEndEvent]
    assert "response_synthesizer:text_qa_template" in engine.get_prompts()


def test_changed_prompts_are_a_miss(engine, inner):
    engine.query(ASKED)
    name = "response_synthesizer:text_qa_template"
    engine.update_prompts({name: PromptTemplate("Deny {query_str} {context_str}")})
    engine.query(ASKED)
    assert inner.calls == 2


async def test_as_a_tool_and_behind_a_router(engine, embedding, inner):
    tool = QueryEngineTool.from_defaults(engine, name="moon", description="about the moon")
    assert tool(ASKED).content == (await tool.acall(ASKED)).content
    router = RouterQueryEngine(
        selector=EmbeddingSingleSelector.from_defaults(embed_model=embedding),
        query_engine_tools=[tool],
        llm=inner,
    )
    router.query(ASKED)
    assert inner.calls == 1


def test_retrieve_and_synthesize_reach_the_engine(engine, inner):
    found = engine.retrieve(QueryBundle(ASKED))
    assert len(found) == 2
    assert engine.synthesize(QueryBundle(ASKED), found).source_nodes == found
    assert inner.calls == 1


def test_policy_decides_about_reworded_questions(index, inner):
    cache = Cache(
        MemoryStore(),
        embedder=LlamaIndexEmbedder(WordEmbedding()),
        policy=FixedThreshold(min_cosine=1.0),
    )
    engine = engine_of(index, inner, cache)
    engine.query(ASKED)
    engine.query(REWORDED)
    assert inner.calls == 2
