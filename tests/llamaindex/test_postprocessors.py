"""Node postprocessors: what is kept is whole, and comes back; nothing of ours reaches the model."""

import asyncio
import copy
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core import PromptTemplate, SummaryIndex, VectorStoreIndex
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import CitationQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import SubQuestion
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.tools import QueryEngineTool

from costwise_core import Compressed, LabelledQuestion, calibrate_share, count_tokens
from costwise_core.errors import ConfigError
from costwise_core.score.dense import Dense
from costwise_core.testing.fakes import HashingEmbedder
from llamaindex_costwise import (
    CachedEmbedding,
    CachedQueryEngine,
    CostwiseCompressor,
    CostwiseEmbedding,
    ExtractiveCompressor,
    RerankTrim,
    passages_of,
    restore,
)
from llamaindex_costwise._documents import documents_of
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding
from tests.compressing import ASKED, PAGES, Broken, Merges, Sentences, Waits

ASK = "How long is the notice period?"
NOTICE = "We are glad you came. The notice period is 30 days. Bring your router back."


def nodes():
    terms = TextNode(
        text=NOTICE,
        id_="terms",
        metadata={"file": "terms.pdf", "page": 3, "secret": "x"},
        excluded_llm_metadata_keys=["secret"],
        excluded_embed_metadata_keys=["page"],
        embedding=[3.0, 4.0],
        start_char_idx=10,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id="handbook", hash="h1"),
            NodeRelationship.NEXT: RelatedNodeInfo(node_id="fibre"),
        },
    )
    return [
        NodeWithScore(node=terms, score=0.9),
        NodeWithScore(node=TextNode(text="Fibre comes with a router. It is black.", id_="fibre")),
        NodeWithScore(node=Document(text="A period of rest follows. Then we work.", id_="doc")),
    ]


def shorten(compressor=None, given=None, question=ASK):
    compressor = compressor or CostwiseCompressor(Sentences())
    return compressor.postprocess_nodes(given or nodes(), query_str=question)


def test_nodes_keep_what_they_are_and_say_what_was_done():
    kept = shorten()
    assert [one.get_content() for one in kept] == [
        "The notice period is 30 days.",
        "A period of rest follows.",
    ]
    before, after = nodes()[0].node, kept[0].node
    assert after.node_id == "terms"
    assert after.relationships == before.relationships
    assert after.ref_doc_id == "handbook"
    assert (after.embedding, after.start_char_idx) == ([3.0, 4.0], 10)
    assert [type(one.node) for one in kept] == [TextNode, Document]
    told = after.metadata["costwise"]
    assert after.metadata == {**before.metadata, "costwise": told}
    assert json.loads(json.dumps(told)) == told
    [(start, end)] = told["spans"]
    assert NOTICE[start:end].strip() == after.text
    assert kept[0].score == told["score"] == 1.0


def test_nothing_of_ours_is_sent_with_the_text():
    before, after = nodes()[0].node, shorten()[0].node
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert after.get_metadata_str(mode) == before.get_metadata_str(mode)
        assert "costwise" not in after.get_content(mode)
    assert after.get_content(MetadataMode.LLM) == (
        "file: terms.pdf\npage: 3\n\nThe notice period is 30 days."
    )
    assert after.get_content(MetadataMode.NONE) == "The notice period is 30 days."


def test_the_callers_nodes_never_change():
    given, before = nodes(), copy.deepcopy(nodes())
    for one in shorten(given=given):
        one.node.set_content("")
        one.node.metadata["page"] = 99
        one.node.excluded_llm_metadata_keys.append("file")
        one.node.relationships.clear()
        one.score = 0.0
    assert given == before


def test_restore_undoes_it():
    kept = shorten()
    assert [restore(one).node for one in kept] == [nodes()[0].node, nodes()[2].node]
    assert restore(kept[0]).node.hash == nodes()[0].node.hash
    twice = shorten(CostwiseCompressor(Sentences()), kept, "How long is the period?")
    assert restore(twice[0]).node == nodes()[0].node
    untouched = nodes()[0]
    assert restore(untouched) is untouched


@pytest.mark.parametrize("theirs", ["acme", None, 3, [], {"original": "no"}, {"why": 1}])
def test_what_others_wrote_under_our_name_breaks_nothing(theirs):
    node = NodeWithScore(node=TextNode(text="The notice is short.", metadata={"costwise": theirs}))
    assert restore(node).text == node.text
    [kept] = shorten(given=[node])
    assert restore(kept).text == node.text


@pytest.mark.parametrize("bundle", [None, QueryBundle(""), QueryBundle("  ")])
def test_without_a_question_everything_passes(bundle):
    given = nodes()
    kept = CostwiseCompressor(Sentences()).postprocess_nodes(given, bundle)
    assert all(a is b for a, b in zip(kept, given, strict=True))


def test_a_broken_compressor_costs_tokens_and_no_answer():
    given = nodes()
    compressor = CostwiseCompressor(Broken(RuntimeError("no memory")))
    kept = shorten(compressor, given)
    assert all(a is b for a, b in zip(kept, given, strict=True))
    assert (dict(compressor.stats.calls), dict(compressor.stats.errors)) == (
        {"error": 1},
        {"RuntimeError": 1},
    )


def test_what_cannot_work_at_all_is_told():
    with pytest.raises(ConfigError, match="no such folder"):
        shorten(CostwiseCompressor(Broken(ConfigError("no such folder"))))
    with pytest.raises(ConfigError, match="method compress"):
        CostwiseCompressor(object())


def test_a_compressor_may_make_passages_of_its_own():
    [kept] = shorten(CostwiseCompressor(Merges()))
    assert NOTICE in kept.get_content(MetadataMode.LLM)
    assert kept.metadata == {"costwise": {"why": "merged", "score": None}}
    assert "costwise" not in kept.get_content(MetadataMode.LLM)
    assert kept.node_id


def test_results_can_be_watched():
    seen = []
    compressor = CostwiseCompressor(Sentences(), on_compressed=seen.append)
    shorten(compressor)
    assert [dropped.passage.id for dropped in seen[0].dropped] == ["fibre"]
    assert dict(compressor.stats.calls) == {"compressed": 1}
    assert compressor.stats.tokens_saved == seen[0].tokens_saved > 0


def test_other_media_keep_their_places():
    picture = NodeWithScore(node=ImageNode(text="notice", image_url="https://example.org/a.png"))
    pointer = NodeWithScore(node=IndexNode(text="notice", index_id="inner"))
    scan = NodeWithScore(node=ImageDocument(text="notice", image=b"R0lGODlhAQABAAAAACw="))
    sentences = Sentences()
    first, second, third = nodes()
    kept = shorten(CostwiseCompressor(sentences), [picture, first, pointer, second, third, scan])
    assert [one.node_id for one in kept] == [
        picture.node_id,
        "terms",
        pointer.node_id,
        "doc",
        scan.node_id,
    ]
    assert kept[0] is picture
    assert [passage.id for passage in sentences.given[0][1]] == ["terms", "fibre", "doc"]


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"title": "Terms", "document_title": "Handbook"}, "Terms"),
        ({"title": " ", "document_title": "Handbook"}, "Handbook"),
        ({"header_path": "/Terms/Notice/"}, "Terms/Notice"),
        ({"header_path": "/", "file_path": "/srv/terms.pdf", "title": 3}, ""),
    ],
)
def test_titles_are_taken_from_the_metadata(metadata, title):
    sentences = Sentences()
    node = NodeWithScore(node=TextNode(text=NOTICE, metadata=metadata))
    shorten(CostwiseCompressor(sentences), [node])
    assert sentences.given[0][1][0].title == title


METADATA = {"title": "Terms", "file": "/srv/handbook/terms.pdf", "summary": "word " * 50}


@pytest.mark.parametrize(
    ("excluded", "kept"), [([], 1), (["summary"], 3), (["title", "file", "summary"], 4)]
)
def test_metadata_that_the_model_is_sent_count_as_tokens(excluded, kept):
    texts = [f"Clause {n}: the notice period is {n} days to the end of a month." for n in range(4)]
    given_ = [
        NodeWithScore(
            node=TextNode(text=text, metadata=METADATA, excluded_llm_metadata_keys=excluded)
        )
        for text in texts
    ]
    trim = RerankTrim(top_k=None, max_tokens=100)
    found = trim.postprocess_nodes(given_, query_str=ASK)
    rendered = "\n".join(one.node.get_content(MetadataMode.LLM) for one in found)
    assert (len(found), "costwise" in rendered) == (kept, False)
    assert count_tokens(rendered).tokens <= 110  # the template adds a little to each


def test_vectors_and_scores_reach_the_compressor():
    sentences = Sentences()
    shorten(CostwiseCompressor(sentences))
    passages = sentences.given[0][1]
    assert passages[0].vector.tolist() == pytest.approx([0.6, 0.8])
    assert [passage.score for passage in passages] == [0.9, None, None]


async def test_async_is_native_where_the_compressor_is():
    waits = Waits()
    kept = await CostwiseCompressor(waits).apostprocess_nodes(nodes(), query_str=ASK)
    assert (waits.awaited, len(kept)) == (1, 2)


async def test_a_slow_compressor_does_not_block_the_loop():
    release = threading.Event()

    class Slow:
        def compress(self, question, passages):
            assert release.wait(10)
            return Compressed.unchanged(passages, tokens=1, reason="short")

    slow = CostwiseCompressor(Slow())
    waiting = asyncio.create_task(slow.apostprocess_nodes(nodes(), query_str=ASK))
    await asyncio.sleep(0.01)
    release.set()
    assert [one.node_id for one in await waiting] == ["terms", "fibre", "doc"]


# --- RerankTrim -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scorer",
    [
        None,
        WordEmbedding(),
        ScriptedLLM(reply='{"1": 9, "2": 0, "3": 1}'),
        Dense(HashingEmbedder()),
    ],
    ids=lambda scorer: type(scorer).__name__,
)
async def test_trim_takes_what_llamaindex_users_have(scorer):
    trim = RerankTrim(scorer, top_k=2)
    given = nodes()
    kept = shorten(trim, given)
    assert kept == await trim.apostprocess_nodes(given, query_str=ASK)
    assert trim.stats.calls == {"compressed": 2}
    assert kept[0].node_id == "terms"
    assert [restore(one).node for one in kept] == [
        one.node for one in nodes() if one.node_id in {k.node_id for k in kept}
    ]
    assert all(one.score == one.metadata["costwise"]["score"] for one in kept)
    assert given == nodes()


def test_vectors_of_the_store_are_used():
    model = WordEmbedding()
    given = [
        NodeWithScore(node=TextNode(text=text, embedding=model.get_text_embedding(text)), score=0.1)
        for text in (NOTICE, "Fibre comes with a router.", "A period of rest follows.")
    ]
    model._texts.clear()
    kept = shorten(RerankTrim(model, top_k=1), given)
    assert (kept[0].node_id, model._texts) == (given[0].node_id, [])
    assert model._queries == [ASK]


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
        lambda: ExtractiveCompressor(WordEmbedding()),
    ],
)
def test_wild_input_is_kept_whole_or_reported(make):
    given = [NodeWithScore(node=TextNode(text=text, id_="same")) for text in WILD]
    before, seen = copy.deepcopy(given), []
    kept = shorten(
        CostwiseCompressor(make(), on_compressed=seen.append), given, "notice \ud800 period?"
    )
    assert given == before
    texts = [restore(one).text for one in kept]
    texts += [one.passage.restored().text for one in seen[0].dropped]
    assert sorted(texts) == sorted(WILD)
    assert make().postprocess_nodes([], query_str=ASK) == []


@given(
    st.lists(
        st.tuples(st.text(), st.dictionaries(st.text(), st.integers() | st.text())), max_size=6
    ),
    st.text(),
)
def test_any_nodes_come_back(rows, question):
    given = [NodeWithScore(node=TextNode(text=text, metadata=data)) for text, data in rows]
    before = copy.deepcopy(given)
    extractive = ExtractiveCompressor(share=0.5, min_tokens=0)
    for step in (CostwiseCompressor(Sentences()), RerankTrim(top_k=2), extractive):
        kept = step.postprocess_nodes(given, query_str=question)
        assert given == before
        by_id = {one.node_id: one.node for one in before}
        for one in kept:
            node = restore(one).node
            assert node.text == by_id[node.node_id].text


def test_a_node_compressed_for_two_questions_is_one_version():
    """Else each question would delete the answers that are cached for the others."""
    one, two = shorten(), shorten(question="May I keep the router?")
    assert one[0].text != two[0].text
    assert documents_of([one[0].node]) == documents_of([two[0].node])
    loose = NodeWithScore(node=TextNode(text=NOTICE, id_="loose"))
    assert documents_of([shorten(given=[loose])[0].node]) == documents_of([loose.node])


# --- ExtractiveCompressor ---------------------------------------------------------------------


async def test_sentences_keep_their_places_in_the_original():
    extractive = ExtractiveCompressor(WordEmbedding(), share=0.4, min_tokens=0)
    kept = shorten(extractive)
    assert kept == await extractive.apostprocess_nodes(nodes(), query_str=ASK)
    assert (kept[0].node_id, kept[0].score) == ("terms", 0.9)
    assert kept[0].text == "The notice period is 30 days."
    for one in kept:
        original = restore(one)
        assert original in nodes()
        [(start, end)] = one.metadata["costwise"]["spans"]
        assert original.get_content()[start:end] == one.get_content()


async def test_after_ingest_a_request_embeds_only_the_question():
    model = WordEmbedding()
    extractive = ExtractiveCompressor(CachedEmbedding(model=model), share=0.5, min_tokens=0)
    given = [one.node for one in nodes()]
    pieces = extractive.ingest(given)
    assert pieces == await extractive.aingest(given) == len(model._texts) == 7
    assert shorten(extractive)
    assert len(model._texts) == pieces
    assert model._queries == [ASK]


def test_a_share_is_calibrated_on_what_the_retriever_gives():
    given_ = passages_of([NodeWithScore(node=TextNode(text=page)) for page in PAGES])
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


# --- engines ----------------------------------------------------------------------------------


@pytest.fixture(params=["vector", "summary"])
def index(request):
    given = [one.node for one in nodes()[:2]]
    for node in given:
        node.embedding = None
    if request.param == "vector":
        return VectorStoreIndex(given, embed_model=WordEmbedding())
    return SummaryIndex(given)


def sent(llm):
    return str(llm._calls[-1][1])


@pytest.mark.parametrize("how", ["query", "aquery", "stream"])
async def test_query_engines_send_less(index, how):
    llm = ScriptedLLM()
    engine = index.as_query_engine(
        llm=llm, node_postprocessors=[CostwiseCompressor(Sentences())], streaming=how == "stream"
    )
    response = await engine.aquery(ASK) if how == "aquery" else engine.query(ASK)
    if how == "stream":
        "".join(response.response_gen)
    assert "30 days" in sent(llm)
    assert "glad" not in sent(llm)
    assert "costwise" not in sent(llm)
    assert [node.node_id for node in response.source_nodes] == ["terms"]
    assert restore(response.source_nodes[0]).text == NOTICE


@pytest.mark.parametrize("mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT])
@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_chat_engines_send_less(index, mode, how):
    llm = ScriptedLLM()
    engine = index.as_chat_engine(
        chat_mode=mode,
        llm=llm,
        node_postprocessors=[CostwiseCompressor(Sentences())],
        # Not `Memory`: it leaves a database connection open, which warns when collected.
        memory=ChatMemoryBuffer.from_defaults(token_limit=4000),
    )
    if how == "chat":
        engine.chat(ASK)
    elif how == "achat":
        await engine.achat(ASK)
    elif how == "stream_chat":
        "".join(engine.stream_chat(ASK).response_gen)
    else:
        response = await engine.astream_chat(ASK)
        [_ async for _ in response.async_response_gen()]
    assert "30 days" in sent(llm)
    assert "glad" not in sent(llm)
    assert "costwise" not in sent(llm)


def test_citations_are_numbered_sentences_of_the_original(index):
    extractive = ExtractiveCompressor(share=0.5, min_tokens=0)
    engine = CitationQueryEngine.from_args(
        index, llm=ScriptedLLM(), node_postprocessors=[extractive], citation_chunk_size=64
    )
    sources = engine.query(ASK).source_nodes
    assert extractive.stats.calls == {"compressed": 1}
    assert sources[0].text.split() == "Source 1: The notice period is 30 days.".split()
    for source in sources:
        told = source.metadata["costwise"]
        assert all(told["original"][start:end] in source.text for start, end in told["spans"])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_citations_point_at_what_was_retrieved(index, asynchronous):
    llm = ScriptedLLM(reply="The notice period is 30 days [1].")
    engine = CitationQueryEngine.from_args(
        index, llm=llm, node_postprocessors=[CostwiseCompressor(Sentences())]
    )
    response = await engine.aquery(ASK) if asynchronous else engine.query(ASK)
    [source] = response.source_nodes
    assert source.text.split() == "Source 1: The notice period is 30 days.".split()
    [(start, end)] = source.metadata["costwise"]["spans"]
    assert source.metadata["costwise"]["original"][start:end].strip() in source.text
    assert "costwise" not in sent(llm)


def test_sub_questions_are_each_compressed_for(index):
    class Asks:
        def generate(self, tools, query):
            return [
                SubQuestion(sub_question=text, tool_name="handbook")
                for text in (ASK, "May I keep the router?")
            ]

    llm = ScriptedLLM()
    sentences = Sentences()
    tool = QueryEngineTool.from_defaults(
        index.as_query_engine(llm=llm, node_postprocessors=[CostwiseCompressor(sentences)]),
        name="handbook",
        description="The handbook.",
    )
    engine = SubQuestionQueryEngine(
        question_gen=Asks(),
        response_synthesizer=get_response_synthesizer(llm=llm, use_async=False),
        query_engine_tools=[tool],
        use_async=False,
    )
    engine.query("How do I leave?")
    assert [question for question, _ in sentences.given] == [ASK, "May I keep the router?"]


def test_a_cached_engine_keeps_answers_to_two_questions_about_one_node(index, cache):
    llm = ScriptedLLM()
    engine = CachedQueryEngine(
        index.as_query_engine(llm=llm, node_postprocessors=[CostwiseCompressor(Sentences())]),
        cache=cache,
        corpus="v1",
    )
    for question in (ASK, "Where does the router go?", ASK, "Where does the router go?"):
        engine.query(question)
    assert (llm.calls, cache.stats.hits) == (2, {"exact": 2})
    assert restore(engine.query(ASK).source_nodes[0]).text == NOTICE


@pytest.mark.parametrize("how", ["trim", "extract", "both"])
async def test_a_rag_app_sends_less_and_still_finds_the_answer(how):
    pytest.importorskip("onnxruntime")
    from costwise_core.embed.onnx import OnnxEmbedder

    model = CachedEmbedding(model=CostwiseEmbedding(embedder=OnnxEmbedder()))
    index = VectorStoreIndex([TextNode(text=page) for page in PAGES], embed_model=model)
    trim = RerankTrim(model, top_k=2)
    extract = ExtractiveCompressor(model, share=0.5, min_tokens=0)
    steps = {"trim": [trim], "extract": [extract], "both": [trim, extract]}[how]
    llm = ScriptedLLM()
    engine = index.as_query_engine(
        llm=llm,
        similarity_top_k=len(PAGES),
        node_postprocessors=steps,
        text_qa_template=PromptTemplate("{context_str}\nQ: {query_str}"),
    )
    for question, answer in ASKED.items():
        for response in (engine.query(question), await engine.aquery(question)):
            assert answer in sent(llm)
            prompt = llm._calls[-1][1][0].content
            assert len(prompt) < 0.7 * sum(map(len, PAGES))
            assert all(restore(one).text in PAGES for one in response.source_nodes)
    assert all(step.stats.calls == {"compressed": 2 * len(ASKED)} for step in steps)
