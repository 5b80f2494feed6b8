"""`compressed_tool` around every kind of tool, called directly and by agents."""

import json

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.schema import Document, TextNode
from llama_index.core.tools import (
    FunctionTool,
    QueryEngineTool,
    RetrieverTool,
    ToolMetadata,
    ToolOutput,
)
from llama_index.core.tools.calling import call_tool
from llama_index.core.tools.types import BaseTool
from llama_index.core.workflow import Context

from costwise_core import scoped
from llamaindex_costwise import (
    CostwiseCompressor,
    ExtractiveCompressor,
    RerankTrim,
    compressed_tool,
)
from llamaindex_costwise.testing import ScriptedLLM
from tests.compressing import ASKED, PAGES, Broken, Sentences, Waits
from tests.llamaindex.fakes import deprecations

ASK = "How long is the notice period?"
PAGE = "We are glad you came. The notice period is 30 days. Bring your router back."
SHORT = "The notice period is 30 days."


def search(query: str) -> str:
    """Search the handbook."""
    return PAGE


def tool(fn=search, compressor=None, **settings):
    wrapped = FunctionTool.from_defaults(fn, **settings)
    return compressed_tool(wrapped, compressor or Sentences())


async def both(one_tool, **arguments):
    output = one_tool(**arguments)
    again = await one_tool.acall(**arguments)
    assert again.content == output.content
    return output


async def test_the_output_is_compressed_and_the_raw_one_kept():
    output = await both(tool(), query=ASK)
    assert (output.content, output.raw_output) == (SHORT, PAGE)
    assert (output.tool_name, output.raw_input) == (
        "search",
        {"args": (), "kwargs": {"query": ASK}},
    )
    assert not output.is_error


async def test_sentences_are_extracted_from_a_long_output():
    def read(query: str) -> str:
        return "\n\n".join(PAGES)

    one_tool = tool(read, extractive := ExtractiveCompressor(share=0.3, min_tokens=0))
    for question, answer in ASKED.items():
        output = await both(one_tool, query=question)
        assert answer in output.content
        assert output.raw_output == "\n\n".join(PAGES)
    assert extractive.stats.share_kept < 0.4


async def test_what_the_user_asked_counts_where_it_is_said():
    sentences = Sentences()
    with scoped(question="What must I bring?"):
        tool(compressor=sentences)(query="router")
    assert sentences.given[0][0] == "What must I bring?\nrouter"


def test_fixed_arguments_are_no_question():
    def keyed(query: str, key: str) -> str:
        return PAGE

    sentences = Sentences()
    one_tool = tool(keyed, sentences, partial_params={"key": "sk-very-secret"})
    assert one_tool(query=ASK).content == SHORT
    assert sentences.given[0][0] == ASK


async def test_left_whole():
    def rows(query: str) -> str:
        return json.dumps({"notice": "30 days. So."})

    assert json.loads((await both(tool(rows), query=ASK)).content)
    assert (await both(tool(return_direct=True), query=ASK)).content == PAGE

    def data(query: str) -> dict:
        return {"notice": "30 days. So."}

    assert (await both(tool(data), query=ASK)).content == str(data(ASK))
    cut = compressed_tool(FunctionTool.from_defaults(rows), Sentences(), json_too=True)
    assert cut(query="Any notice?").content == '{"notice": "30 days.'

    class Fails(BaseTool):
        metadata = ToolMetadata(name="fails", description="Fails.")

        def __call__(self, input):  # noqa: A002 - LlamaIndex's name
            return ToolOutput(
                tool_name="fails", content=PAGE, raw_input={}, raw_output=PAGE, is_error=True
            )

    assert compressed_tool(Fails(), Sentences())(ASK).content == PAGE
    assert (await compressed_tool(Fails(), Sentences()).acall(ASK)).is_error


async def test_an_error_of_the_tool_is_the_callers():
    def fails(query: str) -> str:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        tool(fails)(query=ASK)
    assert call_tool(tool(fails), {"query": ASK}).is_error


async def test_blocks_documents_and_pictures():
    def scans(query: str) -> list:
        return [TextBlock(text=PAGE), ImageBlock(url="https://example.org/a.png")]

    def pages(query: str) -> list:
        return [Document(text=PAGE), Document(text="Fibre is black.")]

    output = await both(tool(scans), query=ASK)
    assert [block.block_type for block in output.blocks] == ["text", "image"]
    assert output.blocks[0].text == SHORT
    assert (await both(tool(pages), query=ASK)).content == SHORT


async def test_a_retriever_tool_is_compressed_by_node():
    nodes = [
        TextNode(text=PAGE, metadata={"file": "terms.pdf"}),
        TextNode(text="Fibre comes with a router.", metadata={"file": "fibre.pdf"}),
    ]
    wrapped = RetrieverTool.from_defaults(SummaryIndex(nodes).as_retriever())
    output = await both(compressed_tool(wrapped, RerankTrim(top_k=1)), input=ASK)
    assert output.content.strip() == f"file: terms.pdf\n\n{PAGE}"
    assert [node.text for node in output.raw_output] == [node.text for node in nodes]


async def test_a_query_engine_tool():
    llm = ScriptedLLM(reply=PAGE)
    wrapped = QueryEngineTool.from_defaults(
        SummaryIndex([TextNode(text=PAGE)]).as_query_engine(llm=llm), name="handbook"
    )
    one_tool = compressed_tool(wrapped, Sentences())
    output = await both(one_tool, input=ASK)
    assert (output.content, str(output.raw_output)) == (SHORT, PAGE)
    assert one_tool.metadata is wrapped.metadata
    # LlamaIndex tries a second way to call a tool that fails: nothing of ours may make it.
    before = llm.calls
    assert call_tool(one_tool, {"input": ASK}).content == SHORT
    assert llm.calls == before + 1


async def test_no_output_is_emptied_and_a_broken_compressor_breaks_none():
    assert (await both(tool(), query="Nothing fits whatsoever.")).content == PAGE
    counted = CostwiseCompressor(Broken(OSError("no disk")))
    assert (await both(tool(compressor=counted), query=ASK)).content == PAGE
    assert dict(counted.stats.errors) == {"OSError": 2}


async def test_async_is_native_where_the_compressor_is():
    waits = Waits()
    await tool(compressor=waits).acall(query=ASK)
    assert waits.awaited == 1


@deprecations
async def test_agents_read_the_short_output_and_give_tools_their_context():
    async def counting(ctx: Context, query: str) -> str:
        """Search, and count it."""
        await ctx.store.set("searches", await ctx.store.get("searches", default=0) + 1)
        return "We are glad. Here are seven days. Bring it back."

    one_tool = tool(counting)
    assert isinstance(one_tool, FunctionTool)
    agent = FunctionAgent(tools=[one_tool], llm=ScriptedLLM(), streaming=False)
    context = Context(agent)
    response = await agent.run("How many days?", ctx=context)
    assert str(response) == "The tool said Here are seven days."
    assert await context.store.get("searches") == 1
    assert response.tool_calls[0].tool_output.raw_output.startswith("We are glad.")
