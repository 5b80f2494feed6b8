"""What a request spends besides its model call is on the same bill: nothing is lost or doubled."""

import json
from decimal import Decimal

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from costwise_core import (
    Cache,
    HoldOut,
    MemoryLedger,
    MemoryStore,
    PriceBook,
    SQLiteLedger,
    true_saving,
)
from costwise_core.context import scoped
from langchain_costwise import (
    CachedChatModel,
    CachedEmbeddings,
    CachedRetriever,
    LangChainEmbedder,
    RerankTrim,
    SemanticCache,
    track,
)
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the capital of France?"
NAME = "gpt-4o-mini"
EMBEDDER = "text-embedding-3-small"


class Words(Embeddings):
    """A bag of words, under the name of a model that has a price."""

    model = EMBEDDER

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        self.asked.append(text)
        row = [0.0] * 64
        for word in text.lower().split():
            row[hash(word) % 64] += 1.0
        return row if any(row) else [1.0] * 64


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def paid():
    return ScriptedChatModel(model_name=NAME, script={ASK: "Paris is the capital."})


def of(bill, operation):
    return [record for record in bill.records if record.operation == operation]


# --- embeddings -----------------------------------------------------------------------------------


async def test_embeddings_are_on_the_bill_and_known_ones_are_hits(words):
    cached = CachedEmbeddings(words)
    with track(feature="index") as bill:
        cached.embed_documents(["One fact.", "Two facts.", "One fact."])
        await cached.aembed_documents(["One fact."])
        cached.embed_query("How many?")
        await cached.aembed_query("How many?")
    made = [record for record in bill.records if not record.tier]
    spared = [record for record in bill.records if record.tier]
    assert (len(made), len(spared), len(words.asked)) == (2, 3, 3)
    assert {record.operation for record in bill.records} == {"embedding"}
    assert {record.model for record in bill.records} == {EMBEDDER}
    assert all(record.usd > 0 and record.usage.estimated for record in made)
    assert all(record.usd == 0 and record.savings[0].usd > 0 for record in spared)
    assert all(record.savings[0].kind == "modelled" for record in spared)
    assert not bill.overhead


def test_what_costwise_embeds_for_itself_is_overhead(words, paid):
    cache = SemanticCache(MemoryStore(), embedder=words)
    model = CachedChatModel(model=paid, cache=cache)
    with track() as bill:
        model.invoke(ASK)
        model.invoke(ASK)
    own = of(bill, "embedding")
    assert len(own) == len(words.asked) == 1, "the second question was known"
    assert own[0].overhead
    assert bill.overhead == own[0].usd > 0
    assert (bill.calls, bill.hits) == (2, 1)
    assert bill.net == bill.saved - own[0].usd


def test_an_embedding_cache_inside_is_counted_once_and_as_overhead_too(words):
    embedder = LangChainEmbedder(CachedEmbeddings(words))
    with track() as bill:
        embedder.embed(["One fact."])
        embedder.embed(["One fact."])
    assert [(record.tier, record.overhead) for record in bill.records] == [
        ("", True),
        ("exact", True),
    ]
    assert len(words.asked) == 1


def test_outside_a_block_embeddings_cost_no_counting(words):
    assert len(CachedEmbeddings(words).embed_documents(["a", "b"])) == 2


# --- searches and our own calls -------------------------------------------------------------------


async def test_searches_of_vector_stores_count_and_cost_what_is_said(words):
    store = InMemoryVectorStore(CachedEmbeddings(words))
    store.add_texts(["One fact."])
    prices = PriceBook(overrides={"InMemoryVectorStore": {"request": 0.0004}})
    with track(prices=prices) as bill:
        store.as_retriever().invoke("How many?")
        await store.as_retriever().ainvoke("How many?")
    searches = of(bill, "vector_query")
    assert [record.usd for record in searches] == [Decimal("0.0004")] * 2
    assert {record.model for record in searches} == {"InMemoryVectorStore"}
    assert len(of(bill, "embedding")) == 2
    with track() as free:
        store.as_retriever().invoke("How many?")
    (search,) = of(free, "vector_query")
    assert (search.usd, search.why) == (0, "no price per query is stated")
    assert not free.unpriced


def test_a_retriever_that_searches_no_vectors_or_fails_is_no_query():
    class Fixed(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            if query == "fail":
                raise ConnectionError
            return []

    with track() as bill:
        Fixed().invoke("anything")
        with pytest.raises(ConnectionError):
            Fixed().invoke("fail")
    assert not bill.records


def test_a_retrieval_cache_spares_search_and_embedding(words):
    store = InMemoryVectorStore(words)
    store.add_texts(["One fact."])
    retriever = CachedRetriever(
        retriever=store.as_retriever(), cache=Cache(MemoryStore()), corpus="v1"
    )
    with track() as bill:
        retriever.invoke("How many?")
        retriever.invoke("How many?")
    assert len(of(bill, "vector_query")) == 1


def test_judges_rewriters_and_scorers_are_overhead(paid):
    rater = FakeListChatModel(responses=[json.dumps({"ratings": [9, 1, 1]})] * 3)
    trim = RerankTrim(scorer=rater, top_k=1)
    documents = [Document(f"Fact {n}.") for n in range(3)]
    with track() as bill:
        trim.compress_documents(documents, "Which is first?")
        paid.invoke(ASK)
    assert [record.overhead for record in of(bill, "chat")] == [True, False]
    assert bill.calls == 1


# --- streams and hits -----------------------------------------------------------------------------


class EarlyReporter(ScriptedChatModel):
    """Reports the input with the first piece and the output with the last, as Anthropic does."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        told = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=told))
        for word in "Paris is the capital of France indeed".split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))


def test_a_stream_closed_early_is_no_less_than_what_came():
    with track() as bill:
        stream = EarlyReporter(model_name=NAME).stream(ASK)
        for _ in range(7):
            next(stream)
        stream.close()
    (record,) = bill.records
    assert record.usage.estimated
    assert record.usage.input_tokens == 100
    assert record.usage.output_tokens >= 6


def test_a_service_tier_is_priced_as_that(paid):
    usd = {}
    for tier in ("default", "flex"):
        model = paid.model_copy(
            update={
                "model_name": "gpt-5.1",
                "tell": {"service_tier": tier, "finish_reason": "stop"},
            }
        )
        with track() as bill:
            model.invoke(ASK)
        usd[tier] = bill.usd
    assert usd["flex"] == usd["default"] / 2 > 0


def test_an_answer_of_tool_calls_alone_is_estimated_by_what_they_say():
    call = {"name": "weather", "args": {"city": "Rome, the capital of Italy"}, "id": "call_1"}
    silent = FakeMessagesListChatModel(responses=[AIMessage("", tool_calls=[call])])
    with track() as bill:
        silent.invoke("How is the weather in Rome?")
    assert bill.usage.estimated
    assert bill.usage.output_tokens > 10


async def test_wrappers_around_wrappers_pay_once(paid, words):
    cache = SemanticCache(MemoryStore())
    inner = CachedChatModel(model=paid, cache=cache)
    outer = CachedChatModel(model=inner, cache=SemanticCache(MemoryStore()))
    with track() as bill:
        outer.invoke(ASK)
        await outer.ainvoke(ASK)
        list(outer.stream(ASK))
    assert (bill.calls, bill.paid_calls, bill.hits) == (3, 1, 2)
    assert len(paid.asked) == 1


# --- hold-out ------------------------------------------------------------------------------------


async def test_held_out_requests_pass_every_cache(paid, words):
    model = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore(), embedder=words))
    cached = CachedEmbeddings(words)
    ledger = MemoryLedger()
    with track(ledger=ledger):
        model.invoke(ASK)
        cached.embed_query(ASK)
        for _ in range(2):
            with track(holdout=HoldOut(share=1)):
                asked, embedded = len(paid.asked), len(words.asked)
                model.invoke(ASK)
                await model.ainvoke(ASK)
                list(model.stream(ASK))
                cached.embed_query(ASK)
                assert len(paid.asked) == asked + 3
                assert len(words.asked) == embedded + 1
        with track(holdout=HoldOut(share=0)):
            asked = len(paid.asked)
            model.invoke(ASK)
            assert len(paid.asked) == asked
    arms = [dict(record.tags).get("arm") for record in ledger.records()]
    assert arms.count("holdout") == 8
    assert not any(r.tier for r in ledger.records() if ("arm", "holdout") in r.tags)


def test_a_config_alone_can_ask_for_it(paid):
    model = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore()))
    model.invoke(ASK)
    model.invoke(ASK, {"configurable": {"costwise": {"unoptimised": True}}})
    with scoped(unoptimised=True):
        model.invoke(ASK)
    assert len(paid.asked) == 3


def test_the_true_saving_of_a_cached_model(paid, tmp_path):
    model = CachedChatModel(model=paid, cache=SemanticCache(MemoryStore()))
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        model.invoke(ASK)
        for n in range(120):
            with track(ledger=ledger, holdout=HoldOut(share=0.3), request=f"r{n}"):
                model.invoke(ASK)
        saving = true_saving(ledger.records())
    assert not isinstance(saving, str)
    assert saving.treated + saving.holdout == 120
    assert saving.usd == saving.holdout_usd == saving.claimed_usd > 0
    assert saving.treated_usd == 0
