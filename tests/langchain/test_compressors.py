"""Document compressors, the pipeline and the retriever: what is kept is whole, and comes back."""

import asyncio
import copy
import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import PrivateAttr

from costwise_core import Cache, Compressed, LabelledQuestion, MemoryStore, calibrate_share
from costwise_core.compress.worth import WhenWorthIt
from costwise_core.errors import ConfigError, CostwiseError
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import (
    CachedEmbeddings,
    CachedRetriever,
    CompressionPipeline,
    CompressionRetriever,
    CostwiseCompressor,
    ExtractiveCompressor,
    RerankTrim,
    passages_of,
    restore,
)
from langchain_costwise._documents import documents_of
from langchain_costwise.testing import ScriptedChatModel
from tests.compressing import ASKED, PAGES, Broken, Merges, Sentences, Waits

ASK = "How long is the notice period?"
NOTICE = "We are glad you came. The notice period is 30 days. Bring your router back."
FOUND = [
    Document(NOTICE, id="terms", metadata={"source": "terms.pdf", "page": 3, "tags": ["legal"]}),
    Document("Fibre comes with a router. It is black.", id="fibre", metadata={"title": "Fibre"}),
    Document("A period of rest follows. Then we work.", metadata={"relevance_score": 0.7}),
]


def found():
    return copy.deepcopy(FOUND)


def test_documents_keep_id_and_metadata_and_say_what_was_done():
    kept = CostwiseCompressor(Sentences()).compress_documents(found(), ASK)
    assert [document.id for document in kept] == ["terms", None]
    assert [document.page_content for document in kept] == [
        "The notice period is 30 days.",
        "A period of rest follows.",
    ]
    told = kept[0].metadata["costwise"]
    assert kept[0].metadata == {**FOUND[0].metadata, "costwise": told}
    assert json.loads(json.dumps(told)) == told
    assert told["why"] == "1 sentences"
    assert told["score"] == 1.0
    [(start, end)] = told["spans"]
    assert FOUND[0].page_content[start:end].strip() == kept[0].page_content


def test_the_callers_documents_never_change():
    documents = found()
    for document in CostwiseCompressor(Sentences()).compress_documents(documents, ASK):
        document.metadata["page"] = 99
        document.page_content = ""
    assert documents == FOUND


def test_restore_undoes_it():
    kept = CostwiseCompressor(Sentences()).compress_documents(found(), ASK)
    assert [restore(document) for document in kept] == [FOUND[0], FOUND[2]]
    assert restore(FOUND[0]) is FOUND[0]


@pytest.mark.parametrize(
    "theirs", ["acme", None, 3, [], {"original": "no"}, {"why": 1}, {"why": "", "original": 5}]
)
def test_what_others_wrote_under_our_name_breaks_nothing(theirs):
    document = Document("The notice is short.", metadata={"costwise": theirs})
    assert restore(document).page_content == document.page_content
    [kept] = CostwiseCompressor(Sentences()).compress_documents([document], ASK)
    assert restore(kept).page_content == document.page_content


@pytest.mark.parametrize("question", ["", "  \n", None])
def test_without_a_question_everything_passes(question):
    documents = found()
    kept = CostwiseCompressor(Sentences()).compress_documents(documents, question)
    assert all(a is b for a, b in zip(kept, documents, strict=True))


def test_a_broken_compressor_costs_tokens_and_no_answer():
    documents = found()
    compressor = CostwiseCompressor(Broken(RuntimeError("no memory")))
    kept = compressor.compress_documents(documents, ASK)
    assert all(a is b for a, b in zip(kept, documents, strict=True))
    stats = compressor.stats
    assert (dict(stats.calls), dict(stats.errors)) == ({"error": 1}, {"RuntimeError": 1})
    assert stats.tokens_before == stats.tokens_after > 20


def test_what_cannot_work_at_all_is_told():
    with pytest.raises(ConfigError, match="no such folder"):
        CostwiseCompressor(Broken(ConfigError("no such folder"))).compress_documents(found(), ASK)
    with pytest.raises(ConfigError, match="method compress"):
        CostwiseCompressor(object())


def test_a_compressor_may_make_passages_of_its_own():
    [kept] = CostwiseCompressor(Merges()).compress_documents(found(), ASK)
    assert NOTICE in kept.page_content
    assert kept.metadata == {"costwise": {"why": "merged", "score": None}}


def test_results_can_be_watched():
    seen = []
    compressor = CostwiseCompressor(Sentences(), on_compressed=seen.append)
    compressor.compress_documents(found(), ASK)
    compressor.compress_documents(found(), "")
    assert [result.reason for result in seen] == ["compressed", "no_question"]
    assert [dropped.passage.id for dropped in seen[0].dropped] == ["fibre"]
    assert seen[0].restore("fibre").text == FOUND[1].page_content
    stats = compressor.stats
    assert dict(stats.calls) == {"compressed": 1, "no_question": 1}
    assert stats.tokens_saved == seen[0].tokens_saved > 0


def test_who_watches_breaks_nothing():
    compressor = CostwiseCompressor(Sentences(), on_compressed=lambda result: 1 / 0)
    assert len(compressor.compress_documents(found(), ASK)) == 2
    assert compressor.stats.errors == {"ZeroDivisionError": 1}


async def test_async_is_native_where_the_compressor_is():
    waits = Waits()
    kept = await CostwiseCompressor(waits).acompress_documents(found(), ASK)
    assert (waits.awaited, len(kept)) == (1, 2)


async def test_a_slow_compressor_does_not_block_the_loop():
    release = threading.Event()

    class Slow:
        def compress(self, question, passages):
            assert release.wait(10)
            return Compressed.unchanged(passages, tokens=1, reason="short")

    waiting = asyncio.create_task(CostwiseCompressor(Slow()).acompress_documents(found(), ASK))
    await asyncio.sleep(0.01)
    release.set()
    assert await waiting == FOUND


def test_titles_scores_and_vectors_reach_the_compressor():
    class WithState(Document):
        """As LangChain's filters hand documents on."""

        state: dict[str, Any]

    sentences = Sentences()
    documents = [
        *found(),
        WithState(
            page_content="The notice is short. Bye.",
            state={"embedded_doc": [3.0, 4.0], "query": ""},
        ),
        WithState(page_content="No notice.", state={"embedded_doc": [0.0, 0.0]}),
        Document("Notice.", metadata={"Header 1": "Terms", "Header 2": "Ending"}),
    ]
    kept = CostwiseCompressor(sentences).compress_documents(documents, ASK)
    [(_, passages)] = sentences.given
    assert [one.title for one in passages] == ["", "Fibre", "", "", "", "Terms > Ending"]
    assert [one.score for one in passages] == [None, None, 0.7, None, None, None]
    assert passages[3].vector.tolist() == pytest.approx([0.6, 0.8])
    assert passages[4].vector is None
    # Their vector is of the whole text, so it must not go on with the short one.
    assert {type(document) for document in kept} == {Document}


# --- RerankTrim -------------------------------------------------------------------------------


class Overlap(BaseCrossEncoder):
    def score(self, text_pairs):
        return [len(set(a.lower().split()) & set(b.lower().split())) for a, b in text_pairs]


@pytest.mark.parametrize(
    "scorer",
    [
        None,
        DeterministicFakeEmbedding(size=16),
        Overlap(),
        FakeListChatModel(responses=['{"1": 9, "2": 0, "3": 1}']),
        HashingEmbedder(),
    ],
    ids=lambda scorer: type(scorer).__name__,
)
async def test_trim_takes_what_langchain_users_have(scorer):
    if isinstance(scorer, HashingEmbedder):
        from costwise_core.score.dense import Dense

        scorer = Dense(scorer)
    trim = RerankTrim(scorer, top_k=2)
    documents = found()
    kept = trim.compress_documents(documents, ASK)
    assert kept == await trim.acompress_documents(documents, ASK)
    assert trim.stats.calls == {"compressed": 2}
    assert len(kept) == 2
    assert [restore(document) for document in kept] == [
        document for document in FOUND if document.page_content in {k.page_content for k in kept}
    ]
    assert all(isinstance(d.metadata["costwise"]["score"], float) for d in kept)
    assert documents == FOUND


def test_trim_says_what_is_wrong_at_once():
    with pytest.raises(ConfigError, match="top_k"):
        RerankTrim(top_k=0)
    with pytest.raises(TypeError, match="topk"):
        RerankTrim(topk=3)


WILD = [
    "",
    " \n\t",
    "\x00\x01\xff" * 200,
    "كم مدة الإشعار؟ ثلاثون يوما." * 20,
    "lone \ud800 surrogate \udfff notice",
    "notice " * 200_000,
    "|a|b|\n|-|-|\n|1|2|",
    "通知期は三十日です。ルーターを返してください。",
]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RerankTrim(top_k=4),
        lambda: RerankTrim(max_tokens=50),
        lambda: ExtractiveCompressor(min_tokens=0),
        lambda: ExtractiveCompressor(DeterministicFakeEmbedding(size=8)),
    ],
)
def test_wild_input_is_kept_whole_or_reported(make):
    documents = [Document(text, id="same") for text in WILD]
    given = copy.deepcopy(documents)
    seen = []
    trim = CostwiseCompressor(make(), on_compressed=seen.append)
    kept = trim.compress_documents(documents, "notice \ud800 period?")
    assert documents == given
    texts = [restore(document).page_content for document in kept]
    texts += [one.passage.restored().text for one in seen[0].dropped]
    assert sorted(texts) == sorted(WILD)
    assert trim.compress_documents([], ASK) == []


@given(
    st.lists(
        st.tuples(
            st.text(), st.none() | st.text(), st.dictionaries(st.text(), st.integers() | st.text())
        ),
        max_size=6,
    ),
    st.text(),
)
def test_any_documents_come_back(rows, question):
    documents = [Document(text, id=name, metadata=data) for text, name, data in rows]
    before = copy.deepcopy(documents)
    extractive = ExtractiveCompressor(share=0.5, min_tokens=0)
    for step in (CostwiseCompressor(Sentences()), RerankTrim(top_k=2), extractive):
        kept = step.compress_documents(documents, question)
        assert documents == before
        originals = [(restore(one).page_content, one.id or None) for one in kept]
        assert all(one in [(b.page_content, b.id or None) for b in before] for one in originals)


@pytest.mark.parametrize(("cached", "reason"), [(0.0, "compressed"), (0.99, "not_worth_it")])
def test_what_is_cheaper_to_send_is_sent(cached, reason):
    trim = RerankTrim(top_k=2)
    gate = WhenWorthIt(trim, model="claude-haiku-4-5", share=0.6, cached=cached, min_tokens=1)
    compressor = CostwiseCompressor(gate)
    documents = found()
    kept = compressor.compress_documents(documents, ASK)
    assert compressor.stats.calls == {reason: 1}
    assert (kept == FOUND) == (reason != "compressed")
    # The inner compressor was never asked where its work could not pay.
    assert sum(trim.stats.calls.values()) == (reason == "compressed")


def test_a_stable_prefix_stays_the_same_object():
    gate = WhenWorthIt(
        RerankTrim(top_k=1),
        model="claude-haiku-4-5",
        min_tokens=1,
        stable=lambda passage: passage.id == "fibre",
    )
    documents = found()[1::-1] + found()[2:]
    first, second = CostwiseCompressor(gate).compress_documents(documents, ASK)
    assert first is documents[0]
    assert (second.id, restore(second)) == ("terms", FOUND[0])


# --- ExtractiveCompressor ---------------------------------------------------------------------


class Counting(DeterministicFakeEmbedding):
    """Counts the documents it embeds."""

    _embedded: int = PrivateAttr(default=0)

    def embed_documents(self, texts):
        self._embedded += len(texts)
        return super().embed_documents(texts)


async def test_sentences_keep_their_places_in_the_original():
    extractive = ExtractiveCompressor(HashingEmbedder(dim=256), share=0.3, min_tokens=0)
    documents = found()
    kept = extractive.compress_documents(documents, ASK)
    assert kept == await extractive.acompress_documents(documents, ASK)
    assert kept[0].page_content == "The notice period is 30 days."
    for document in kept:
        original = restore(document)
        assert original in FOUND
        [(start, end)] = document.metadata["costwise"]["spans"]
        assert original.page_content[start:end] == document.page_content


async def test_after_ingest_a_request_embeds_only_the_question():
    model = Counting(size=8)
    extractive = ExtractiveCompressor(CachedEmbeddings(model), share=0.5, min_tokens=0)
    pieces = extractive.ingest(found())
    assert pieces == await extractive.aingest(found()) == model._embedded == 7
    assert extractive.compress_documents(found(), ASK)
    assert model._embedded == pieces
    with pytest.raises(ConfigError, match="needs an embedder"):
        ExtractiveCompressor().ingest(found())


def test_extracting_twice_still_restores():
    pipeline = CompressionPipeline(
        transformers=[
            RerankTrim(top_k=2),
            ExtractiveCompressor(share=0.7, min_tokens=0),
            ExtractiveCompressor(share=0.6, min_tokens=0),
        ]
    )
    for document in pipeline.compress_documents(found(), ASK):
        original = next(one for one in FOUND if one.id == document.id)
        assert restore(document) == original
        told = document.metadata["costwise"]
        for start, end in told.get("spans", []):
            assert original.page_content[start:end] in document.page_content


# --- pipeline and runnable --------------------------------------------------------------------


class Upper(BaseDocumentTransformer):
    def transform_documents(self, documents, **kwargs):
        return [d.model_copy(update={"page_content": d.page_content.upper()}) for d in documents]


async def test_a_pipeline_runs_its_steps_in_order():
    pipeline = CompressionPipeline(
        transformers=[RerankTrim(top_k=1), CostwiseCompressor(waits := Waits()), Upper()]
    )
    kept = pipeline.compress_documents(found(), ASK)
    assert [document.page_content for document in kept] == ["THE NOTICE PERIOD IS 30 DAYS."]
    assert kept == await pipeline.acompress_documents(found(), ASK)
    assert waits.awaited == 1
    assert restore(kept[0]) == FOUND[0]
    assert CompressionPipeline(transformers=[]).compress_documents(FOUND, ASK) == FOUND


async def test_as_a_step_of_a_chain():
    shorter = RerankTrim(top_k=1).as_runnable(documents="context")
    chain = RunnablePassthrough.assign(context=shorter) | (lambda given: given["context"])
    asked = {"question": ASK, "context": found()}
    [kept] = chain.invoke(asked)
    assert [kept] == await chain.ainvoke(asked) == chain.batch([asked, asked])[1]
    assert kept.id == "terms"
    assert asked == {"question": ASK, "context": FOUND}


def test_a_missing_key_is_named():
    shorter = CompressionPipeline(transformers=[]).as_runnable()
    with pytest.raises(CostwiseError, match=r"no 'documents', only 'question', 'document'.*mean"):
        shorter.invoke({"question": ASK, "document": []})


def test_a_share_is_calibrated_on_what_the_retriever_gives():
    given_ = passages_of([Document(page, id=str(n)) for n, page in enumerate(PAGES)])
    labelled = [
        LabelledQuestion(question=question, passages=given_, answers=(answer,))
        for question, answer in ASKED.items()
        for _ in range(12)
    ]
    found = calibrate_share(
        lambda share: ExtractiveCompressor(share=share, min_tokens=0), labelled, target=0.95
    )
    assert found.curve[0].recall == 1
    assert 0.05 <= found.share < 1
    assert found.chosen.kept < 0.9


# --- retriever --------------------------------------------------------------------------------


class Shelf(BaseRetriever):
    """Knows no k; says how it was asked."""

    _asked: list[str] = PrivateAttr(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        self._asked.append(query)
        return found()

    async def _aget_relevant_documents(self, query, *, run_manager):
        self._asked.append(f"async {query}")
        return found()


async def test_a_retriever_compresses_what_another_finds():
    shelf = Shelf()
    retriever = CompressionRetriever(
        base_retriever=shelf, base_compressor=CostwiseCompressor(waits := Waits())
    )
    kept = retriever.invoke(ASK)
    assert kept == await retriever.ainvoke(ASK)
    assert [document.id for document in kept] == ["terms", None]
    assert (shelf._asked, waits.awaited) == ([ASK, f"async {ASK}"], 1)
    assert [document.id for document in retriever.invoke(ASK, k=1)] == ["terms"]


async def test_the_inner_search_is_a_run_of_its_own():
    class Runs(BaseCallbackHandler):
        def __init__(self):
            self.parents = []

        def on_retriever_start(self, serialized, query, *, parent_run_id=None, **kwargs):
            self.parents.append(parent_run_id is not None)

    retriever = CompressionRetriever(base_retriever=Shelf(), base_compressor=RerankTrim(top_k=1))
    for _ in range(2):
        runs = Runs()
        retriever.invoke(ASK, config={"callbacks": [runs]})
        assert runs.parents == [False, True]
    runs = Runs()
    await retriever.ainvoke(ASK, config={"callbacks": [runs]})
    assert runs.parents == [False, True]


async def test_whose_request_it_is_reaches_a_cache_inside():
    shelf, cache = Shelf(), Cache(MemoryStore())
    retriever = CompressionRetriever(
        base_retriever=CachedRetriever(
            retriever=shelf, cache=cache, corpus="v1", require=("tenant",)
        ),
        base_compressor=CostwiseCompressor(Sentences()),
    )
    for tenant in ("acme", "bolt", "acme"):
        config = {"configurable": {"costwise": {"tenant": tenant}}}
        assert len(retriever.invoke(ASK, config=config)) == 2
        assert len(await retriever.ainvoke(ASK, config=config)) == 2
    assert (len(shelf._asked), cache.stats.hits) == (2, {"exact": 4})


def test_a_document_compressed_for_two_questions_is_one_version():
    """Else each question would delete what is cached for the others."""
    compressor = CostwiseCompressor(Sentences())
    documents = [Document(NOTICE, id="terms"), Document(NOTICE)]
    one = compressor.compress_documents(documents, ASK)
    two = compressor.compress_documents(documents, "May I keep the router?")
    assert one[0].page_content != two[0].page_content
    assert documents_of(one) == documents_of(two) == documents_of(documents)


class TestCompressionRetriever(RetrieversIntegrationTests):
    retriever_constructor = CompressionRetriever
    retriever_query_example = "What is fact 3?"

    @property
    def retriever_constructor_params(self) -> Mapping[str, Any]:
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
        store.add_documents([Document(id=str(n), page_content=f"Fact {n}.") for n in range(9)])
        return {
            "base_retriever": store.as_retriever(),
            "base_compressor": RerankTrim(top_k=9, order="best_first"),
        }


# --- a whole app ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("onnxruntime")
    from costwise_core.embed.onnx import OnnxEmbedder

    return OnnxEmbedder()


@pytest.mark.parametrize("how", ["trim", "extract", "both"])
async def test_a_rag_app_sends_less_and_still_finds_the_answer(embedder, how):
    embeddings = CachedEmbeddings(embedder)
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page, id=str(n)) for n, page in enumerate(PAGES)])
    trim = RerankTrim(embeddings, top_k=2)
    extract = ExtractiveCompressor(embeddings, share=0.5, min_tokens=0)
    steps = {"trim": [trim], "extract": [extract], "both": [trim, extract]}[how]
    model = ScriptedChatModel()
    retriever = CompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": 5}),
        base_compressor=CompressionPipeline(transformers=steps),
    )
    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")
    chain = (
        {
            "context": retriever | (lambda kept: "\n".join(d.page_content for d in kept)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | model
        | StrOutputParser()
    )
    for question in ASKED:
        assert chain.invoke(question)
        assert await chain.ainvoke(question)
        assert "".join(chain.stream(question))
    sent = [prompt.partition("\nQuestion")[0] for prompt in model.asked]
    answers = [answer for answer in ASKED.values() for _ in range(3)]
    assert all(answer in prompt for answer, prompt in zip(answers, sent, strict=True))
    assert max(map(len, sent)) < 0.7 * sum(map(len, PAGES))
    assert all(step.stats.calls == {"compressed": 15} for step in steps)
