"""`LLMLinguaCompressor` in LangChain's and LlamaIndex's place, with a real token classifier."""

import copy

import pytest

pytestmark = [
    # transformers and torch announce changes to themselves.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUESTION = "What did the operator pay?"
HARBOUR = (
    "The northern harbour was opened in 1904 after eleven years of work by the city, and in the "
    "end the operator paid $150,782 for the right to run it for thirty years [3]."
)
RAILWAY = (
    "The railway reached the quays only in 1911, and the cranes that were promised to the city by "
    "the operator were not delivered until the autumn of 1913."
)
TEXTS = [HARBOUR, RAILWAY]


async def test_langchain(classifier):
    from langchain_core.documents import Document

    from langchain_costwise import LLMLinguaCompressor, restore

    lingua = LLMLinguaCompressor(classifier, share=0.6, min_tokens=1)
    documents = [Document(text, id=f"d{n}", metadata={"n": n}) for n, text in enumerate(TEXTS)]
    before = copy.deepcopy(documents)
    kept = lingua.compress_documents(documents, QUESTION)
    assert kept == await lingua.acompress_documents(documents, QUESTION)
    assert lingua.stats.calls == {"compressed": 2}
    assert lingua.stats.share_kept < 0.9
    assert [document.id for document in kept] == ["d0", "d1"]
    assert "$150,782" in kept[0].page_content
    assert [restore(document) for document in kept] == documents == before
    for document, text in zip(kept, TEXTS, strict=True):
        spans = document.metadata["costwise"]["spans"]
        assert "".join(text[start:end] for start, end in spans) == document.page_content


async def test_llamaindex(classifier):
    from llama_index.core.schema import NodeWithScore, TextNode

    from llamaindex_costwise import LLMLinguaCompressor, restore

    lingua = LLMLinguaCompressor(classifier, share=0.6, min_tokens=1)
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=f"d{n}", metadata={"n": n}), score=0.5)
        for n, text in enumerate(TEXTS)
    ]
    before = copy.deepcopy(nodes)
    kept = lingua.postprocess_nodes(nodes, query_str=QUESTION)
    assert kept == await lingua.apostprocess_nodes(nodes, query_str=QUESTION)
    assert lingua.stats.share_kept < 0.9
    assert [(one.node_id, one.score) for one in kept] == [("d0", 0.5), ("d1", 0.5)]
    assert [restore(one) for one in kept] == nodes == before
    assert "n: 0" in kept[0].node.get_content("llm")
    assert "costwise" not in kept[0].node.get_content("llm")
