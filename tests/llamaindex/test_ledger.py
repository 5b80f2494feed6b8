"""What a request spends besides its LLM call is on the same bill; wrappers are counted once."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core import SummaryIndex, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import CustomLLM, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index_instrumentation import get_dispatcher

from costwise_core import HoldOut, MemoryLedger, PriceBook, true_saving
from llamaindex_costwise import (
    CachedEmbedding,
    CachedLLM,
    CachedQueryEngine,
    CachedRetriever,
    LlamaIndexEmbedder,
    RerankTrim,
    track,
)
from llamaindex_costwise.testing import OUTPUT_TOKENS, ScriptedLLM, WordEmbedding

ASKED = [ChatMessage(content="What is the moon?")]
EMBEDDER = "text-embedding-3-small"


@pytest.fixture
def words():
    return WordEmbedding(model_name=EMBEDDER)


def of(bill, operation):
    return [record for record in bill.records if record.operation == operation]


# --- somebody else's wrappers ---------------------------------------------------------------------


class Decorated(CustomLLM):
    """A wrapper as many write it: decorated like an LLM, streaming from a generator of its own."""

    inside: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="wrapper")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self.inside.complete(prompt, formatted, **kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def pieces():
            yield from self.inside.stream_complete(prompt, formatted, **kwargs)

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self.inside.chat(messages, **kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self.inside.achat(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        def pieces():
            yield from self.inside.stream_chat(messages, **kwargs)

        return pieces()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        async def pieces():
            async for piece in await self.inside.astream_chat(messages, **kwargs):
                yield piece

        return pieces()


@pytest.mark.parametrize("depth", [1, 2])
async def test_a_decorated_wrapper_is_never_a_second_call(inner, depth):
    llm = inner
    for _ in range(depth):
        llm = Decorated(inside=llm)
    with track() as bill:
        llm.chat(ASKED)
        await llm.achat(ASKED)
        llm.complete("What is the moon?")
        list(llm.stream_chat(ASKED))
        [piece async for piece in await llm.astream_chat(ASKED)]
        list(llm.stream_complete("What is the moon?"))
    assert bill.calls == inner.calls == 6
    assert bill.usage.output_tokens == 6 * OUTPUT_TOKENS
    assert {record.model for record in bill.records} == {"gpt-4o-mini"}


async def test_a_hit_inside_a_decorated_wrapper_is_never_paid(llm, inner):
    outer = Decorated(inside=llm)
    llm.chat(ASKED)
    with track() as bill:
        outer.chat(ASKED)
        await outer.achat(ASKED)
        list(outer.stream_chat(ASKED))
        [piece async for piece in await outer.astream_chat(ASKED)]
    assert (bill.paid_calls, bill.hits) == (0, 4)
    assert inner.calls == 1
    assert bill.usd == bill.overhead


def test_a_wrapped_stream_closed_early_counts_once(inner):
    outer = Decorated(inside=inner)
    with track() as bill:
        stream = outer.stream_chat(ASKED)
        next(stream)
        next(stream)
        stream.close()
    (record,) = bill.records
    assert record.usage.estimated
    assert 0 < record.usage.output_tokens < OUTPUT_TOKENS


# --- streams --------------------------------------------------------------------------------------


class AnthropicLike(ScriptedLLM):
    """Says the input at the start of a stream and the output at the end."""

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        def pieces():
            told = {"input_tokens": 25, "cache_read_input_tokens": 4_000, "output_tokens": 1}
            rows = [("", {"message": {"usage": told}}), ("The moon ", {}), ("is round. ", {})]
            text = ""
            for delta, raw in [*rows, ("", {"usage": {"output_tokens": 15}})]:
                text += delta
                message = ChatMessage(role="assistant", content=text)
                yield ChatResponse(message=message, delta=delta, raw=raw)

        return pieces()


def test_reports_spread_over_a_stream_are_put_together():
    with track() as bill:
        list(AnthropicLike(model="claude-haiku-4-5").stream_chat(ASKED))
    usage = bill.records[0].usage
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (4_025, 4_000, 15)
    assert not usage.estimated
    assert [saving.stage for saving in bill.records[0].savings] == ["prompt_cache"]


def test_a_stream_closed_early_is_no_less_than_what_came():
    with track() as bill:
        stream = AnthropicLike().stream_chat(ASKED)
        for _ in range(3):
            next(stream)
        stream.close()
    usage = bill.records[0].usage
    assert usage.input_tokens == 4_025
    assert usage.output_tokens >= 4
    assert usage.estimated


# --- embeddings -----------------------------------------------------------------------------------


async def test_embeddings_are_on_the_bill(words):
    with track() as bill:
        words.get_query_embedding("How many?")
        await words.aget_query_embedding("How many?")
        words.get_text_embedding("One fact.")
        words.get_text_embedding_batch([f"Fact {n}." for n in range(25)])
        await words.aget_text_embedding_batch([f"Fact {n}." for n in range(25)])
    assert {record.operation for record in bill.records} == {"embedding"}
    assert {record.model for record in bill.records} == {EMBEDDER}
    assert len(bill.records) == 3 + 2 * 3, "batches of ten"
    assert bill.calls == 0, "no request was answered yet"
    assert all(record.usd > 0 and record.usage.estimated for record in bill.records)
    assert not bill.overhead


async def test_known_embeddings_are_hits(words):
    cached = CachedEmbedding(model=words)
    with track() as bill:
        cached.get_text_embedding_batch(["One fact.", "Two facts.", "One fact."])
        await cached.aget_text_embedding_batch(["One fact."])
        cached.get_query_embedding("How many?")
        await cached.aget_query_embedding("How many?")
    made = [record for record in bill.records if not record.tier]
    spared = [record for record in bill.records if record.tier]
    assert (len(made), len(spared)) == (2, 3)
    assert all(record.usd > 0 for record in made)
    assert all(record.usd == 0 and record.savings[0].usd > 0 for record in spared)


def test_what_costwise_embeds_for_itself_is_overhead(words):
    with track() as bill:
        LlamaIndexEmbedder(words).embed(["One fact."])
    assert [record.overhead for record in bill.records] == [True]


# --- searches, rerankers, our own calls -----------------------------------------------------------


@pytest.fixture
def index(words):
    return VectorStoreIndex([TextNode(text=f"Fact {n}.") for n in range(4)], embed_model=words)


async def test_searches_of_vector_stores_count_and_cost_what_is_said(index, inner):
    prices = PriceBook(overrides={"SimpleVectorStore": {"request": 0.0004}})
    with track(prices=prices) as bill:
        index.as_retriever().retrieve("Which fact?")
        await index.as_retriever().aretrieve("Which fact?")
        index.as_query_engine(llm=inner).query("Which fact?")
    searches = of(bill, "vector_query")
    assert [record.usd for record in searches] == [Decimal("0.0004")] * 3
    assert {record.model for record in searches} == {"SimpleVectorStore"}
    assert len(of(bill, "embedding")) == 3
    assert len(of(bill, "chat")) == 1


def test_a_retrieval_cache_spares_search_and_embedding(index, cache, words):
    retriever = CachedRetriever(index.as_retriever(), cache=cache, corpus="v1")
    with track() as bill:
        retriever.retrieve("Which fact?")
        retriever.retrieve("Which fact?")
    assert len(of(bill, "vector_query")) == 1
    index_side = [record for record in of(bill, "embedding") if record.model == EMBEDDER]
    assert len(index_side) <= 1
    summary = SummaryIndex([TextNode(text="One fact.")])
    with track() as bill:
        summary.as_retriever().retrieve("Which fact?")
    assert not bill.records, "nothing was searched by vector"


class Hosted(BaseNodePostprocessor):
    """Tells LlamaIndex of itself as the rerankers of hosted services do."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        dispatcher = get_dispatcher(__name__)
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=1, model_name="hosted-reranker")
        )
        dispatcher.event(ReRankEndEvent(nodes=nodes[:1]))
        return nodes[:1]


def test_rerankers_count_and_cost_what_is_said():
    nodes = [NodeWithScore(node=TextNode(text=f"Fact {n}.")) for n in range(4)]
    prices = PriceBook(overrides={"hosted-reranker": {"request": 0.002}})
    with track(prices=prices) as bill:
        Hosted().postprocess_nodes(nodes, query_str="Which fact?")
    (record,) = bill.records
    assert (record.operation, record.usd) == ("rerank", Decimal("0.002"))
    assert record.usage.input_tokens > 4 * 3
    with track(prices=PriceBook(overrides={"hosted-reranker": {"input": 1}})) as by_token:
        Hosted().postprocess_nodes(nodes, query_str="Which fact?")
    assert by_token.usd == by_token.usage.input_tokens / Decimal(1_000_000)


def test_a_reranker_that_asks_an_llm_counts_as_that_call():
    class Asking(Hosted):
        def _postprocess_nodes(
            self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
        ) -> list[NodeWithScore]:
            dispatcher = get_dispatcher(__name__)
            event = ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=1, model_name="gpt-4o-mini"
            )
            dispatcher.event(event)
            ScriptedLLM().complete("Which fact?")
            dispatcher.event(ReRankEndEvent(nodes=nodes))
            return nodes

    nodes = [NodeWithScore(node=TextNode(text="One fact."))]
    with track() as bill:
        Asking().postprocess_nodes(nodes, query_str="Which fact?")
    assert [record.operation for record in bill.records] == ["completion"]


def test_scorers_are_overhead(inner):
    trim = RerankTrim(scorer=MockLLM(), top_k=1)
    nodes = [NodeWithScore(node=TextNode(text=f"Fact {n} is here.")) for n in range(3)]
    with track() as bill:
        trim.postprocess_nodes(nodes, query_str="Which is first?")
        inner.chat(ASKED)
    *own, answer = bill.records
    assert own
    assert all(record.overhead for record in own)
    assert not answer.overhead
    assert bill.calls == 1


# --- hold-out -------------------------------------------------------------------------------------


async def test_held_out_requests_pass_every_cache(llm, inner, words):
    cached = CachedEmbedding(model=words)
    trim = RerankTrim(top_k=1)
    nodes = [NodeWithScore(node=TextNode(text=f"Fact {n}.")) for n in range(9)]
    with track() as bill:
        llm.chat(ASKED)
        cached.get_query_embedding("How many?")
        with track(holdout=HoldOut(share=1)) as held:
            llm.chat(ASKED)
            await llm.achat(ASKED)
            list(llm.stream_chat(ASKED))
            cached.get_query_embedding("How many?")
            assert len(trim.postprocess_nodes(nodes, query_str="Which is fact 3?")) == 9
        with track(holdout=HoldOut(share=0)) as treated:
            llm.chat(ASKED)
            assert len(trim.postprocess_nodes(nodes, query_str="Which is fact 3?")) == 1
    assert inner.calls == 4
    assert (held.hits, held.paid_calls) == (0, 3)
    assert not any(record.tier for record in held.records)
    assert treated.hits == 1
    assert bill.hits == 1


def test_the_true_saving_of_a_cached_engine(cache, inner):
    engine = CachedQueryEngine(
        SummaryIndex([TextNode(text="The moon is round.")]).as_query_engine(llm=inner),
        cache=cache,
        corpus="v1",
    )
    ledger = MemoryLedger()
    prices = PriceBook(overrides={"unknown": {"input": 0}})  # this embed model runs here
    engine.query("What is the moon?")
    for n in range(60):
        with track(ledger=ledger, prices=prices, holdout=HoldOut(share=0.3), request=f"r{n}"):
            engine.query("What is the moon?")
    saving = true_saving(ledger.records())
    assert not isinstance(saving, str)
    assert saving.treated + saving.holdout == 60
    assert saving.usd == saving.holdout_usd > 0
    assert saving.treated_usd == 0


def test_a_cached_llm_inside_a_held_out_wrapper_is_paid(inner, cache):
    llm = CachedLLM(llm=inner, cache=cache)
    llm.chat(ASKED)
    with track(holdout=HoldOut(share=1)) as bill:
        Decorated(inside=llm).chat(ASKED)
    assert (bill.calls, bill.hits, inner.calls) == (1, 0, 2)
