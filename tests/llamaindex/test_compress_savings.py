"""What compressors leave out is on the bill of every call that is sent the rest."""

import pytest
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool

from llamaindex_costwise import (
    CostwiseCompressor,
    ExtractiveCompressor,
    RerankTrim,
    compressed_tool,
    track,
)
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding
from tests.compressing import ASKED, PAGES, SAVED_ON, Broken, Sentences, saved, usd
from tests.llamaindex.fakes import deprecations


def index():
    nodes = [TextNode(text=page, metadata={"page": n}) for n, page in enumerate(PAGES)]
    return VectorStoreIndex(nodes, embed_model=WordEmbedding())


def engine(*steps):
    return index().as_query_engine(
        llm=ScriptedLLM(model=SAVED_ON),
        similarity_top_k=len(PAGES),
        node_postprocessors=list(steps),
        text_qa_template=PromptTemplate("{context_str}\nQ: {query_str}"),
    )


def trim():
    return RerankTrim(top_k=2)


def extract():
    return ExtractiveCompressor(share=0.5, min_tokens=0)


@pytest.mark.parametrize("steps", [[trim], [extract], [trim, extract], [extract, trim]])
@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_what_is_left_out_is_saved_at_the_models_price(steps, how):
    steps = [make() for make in steps]
    asked = engine(*steps)
    with track() as bill:
        for question in ASKED:
            _ = asked.query(question) if how == "query" else await asked.aquery(question)
    tokens = sum(step.stats.tokens_saved for step in steps)
    assert tokens > 0
    assert saved(bill) == usd(tokens)


async def test_a_chat_engine_saves_too():
    step = trim()
    chat = index().as_chat_engine(
        chat_mode=ChatMode.CONTEXT,
        llm=ScriptedLLM(model=SAVED_ON),
        similarity_top_k=len(PAGES),
        node_postprocessors=[step],
        memory=ChatMemoryBuffer.from_defaults(token_limit=4000),
    )
    with track() as bill:
        chat.chat("Where was Tesla born?")
        await chat.achat("Into which sea does the Rhine empty?")
    assert saved(bill) == usd(step.stats.tokens_saved)


def test_two_questions_about_the_same_passages_save_once_each():
    asked = engine(step := trim())
    with track() as bill:
        asked.query("Where was Tesla born?")
        asked.query("Where did Tesla work?")
    assert saved(bill) == usd(step.stats.tokens_saved)


def test_nothing_is_saved_where_nothing_was_left_out():
    with track() as bill:
        engine(CostwiseCompressor(Broken(RuntimeError()))).query("Tesla?")
        engine(RerankTrim(top_k=len(PAGES))).query("Tesla?")
    assert bill.usd > 0
    assert saved(bill) == 0


@deprecations
async def test_a_tool_output_that_an_agent_reads_is_saved():
    def search(query: str) -> str:
        """Search the handbook."""
        return "We are glad. Here are seven days. Bring it back."

    compressor = CostwiseCompressor(Sentences())
    one_tool = compressed_tool(FunctionTool.from_defaults(search), compressor)
    agent = FunctionAgent(tools=[one_tool], llm=ScriptedLLM(model=SAVED_ON), streaming=False)
    with track() as bill:
        await agent.run("How many days?")
    assert compressor.stats.tokens_saved > 0
    # Of the two calls only the second reads the output.
    assert (bill.calls, saved(bill)) == (2, usd(compressor.stats.tokens_saved))
