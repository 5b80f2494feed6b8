"""`CompressionMiddleware` in a real agent."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.tools import create_retriever_tool, tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.types import Command

from costwise_core import scoped
from costwise_core.errors import ConfigError
from langchain_costwise import CompressionMiddleware, ExtractiveCompressor, RerankTrim
from langchain_costwise.testing import ScriptedChatModel
from tests.compressing import ASKED, PAGES, Broken, Sentences, Waits

ASK = "How long is the notice period?"
PAGE = "We are glad you came. The notice period is 30 days. Bring your router back."
SHORT = "The notice period is 30 days."


@tool
def search(query: str) -> str:
    """Search the handbook."""
    return PAGE


@tool
def rows(query: str) -> str:
    """Search the table."""
    return json.dumps([{"notice": "30 days.", "glad": "yes. no."}])


@tool
def blocks(query: str) -> list:
    """Search the scans."""
    return [
        {"type": "text", "text": PAGE, "extra": 1},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "Nothing to see."},
    ]


@tool
def fails(query: str) -> ToolMessage:
    """Fail."""
    return ToolMessage(PAGE, tool_call_id="1", status="error")


@tool(return_direct=True)
def direct(query: str) -> str:
    """Answer the user."""
    return PAGE


@tool
def commands(query: str) -> Command:
    """Change the state."""
    return Command(update={"messages": [ToolMessage(PAGE, tool_call_id="paid_1")]})


@tool(response_format="content_and_artifact")
def artifact(query: str) -> tuple[str, dict]:
    """Search, and keep the raw result."""
    return PAGE, {"raw": 1}


def retriever_tool():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(
        [
            Document(PAGE, id="terms", metadata={"n": 1}),
            Document("Fibre comes with a router. It is black.", id="fibre", metadata={"n": 2}),
        ]
    )
    return create_retriever_tool(
        store.as_retriever(),
        "search",
        "Search the handbook.",
        document_prompt=PromptTemplate.from_template("<doc {n}>\n{page_content}"),
        document_separator="\n---\n",
        response_format="content_and_artifact",
    )


@pytest.fixture(params=["invoke", "ainvoke"])
def ask(request):
    """Run an agent with one tool and return what the tool's message became."""

    async def ask(one_tool, middleware, question=ASK):
        agent = create_agent(ScriptedChatModel(), tools=[one_tool], middleware=[middleware])
        said = {"messages": [HumanMessage(question)]}
        run = agent.invoke(said) if request.param == "invoke" else await agent.ainvoke(said)
        [message] = [one for one in run["messages"] if isinstance(one, ToolMessage)]
        return message

    return ask


async def test_a_result_is_compressed_for_the_question(ask):
    middleware = CompressionMiddleware(sentences := Sentences(), tools=["search"])
    message = await ask(search, middleware)
    assert message.content == SHORT
    assert (message.tool_call_id, message.name, message.status) == ("paid_1", "search", "success")
    told = message.response_metadata["costwise"]
    assert told["original"] == PAGE
    assert json.loads(json.dumps(told)) == told
    assert dict(middleware.stats.calls) == {"compressed": 1}
    # The model's own words for the search count too; here they are the question's.
    assert sentences.given[0][0] == ASK


async def test_sentences_are_extracted_from_a_long_result(ask):
    @tool
    def read(query: str) -> str:
        """Read the encyclopedia."""
        return "\n\n".join(PAGES)

    middleware = CompressionMiddleware(
        ExtractiveCompressor(share=0.3, min_tokens=0), tools=["read"]
    )
    for question, answer in ASKED.items():
        message = await ask(read, middleware, question)
        assert answer in message.content
        assert len(message.content) < 0.4 * len("\n\n".join(PAGES))
    assert middleware.stats.calls == {"compressed": len(ASKED)}


async def test_the_words_of_the_call_count(ask):
    class Chat(ScriptedChatModel):
        def _answer(self, messages, kwargs):
            message = super()._answer(messages, kwargs)
            for call in message.tool_calls:
                call["args"] = {"query": "router"}
            return message

    middleware = CompressionMiddleware(sentences := Sentences(), tools=["search"])
    agent = create_agent(Chat(), tools=[search], middleware=[middleware])
    history = [HumanMessage("Hi"), AIMessage("Hello."), HumanMessage("What to return?")]
    run = agent.invoke({"messages": history})
    assert sentences.given[0][0] == "What to return?\nrouter"
    assert [m.content for m in run["messages"] if m.type == "tool"] == ["Bring your router back."]
    with scoped(question="What must I bring back?"):
        agent.invoke({"messages": history})
    assert sentences.given[1][0] == "What must I bring back?\nrouter"


@pytest.mark.parametrize("one_tool", [rows, fails, direct], ids=lambda one: one.name)
async def test_left_whole(ask, one_tool):
    middleware = CompressionMiddleware(Sentences(), tools=[one_tool.name])
    message = await ask(one_tool, middleware)
    assert "glad" in message.content
    assert "costwise" not in message.response_metadata


async def test_commands_and_unlisted_tools_pass_by(ask):
    for one_tool, names in ((commands, ["commands"]), (search, ["other"])):
        middleware = CompressionMiddleware(Sentences(), tools=names)
        assert (await ask(one_tool, middleware)).content == PAGE
        assert middleware.stats.calls == {}


async def test_json_is_cut_when_told_to(ask):
    middleware = CompressionMiddleware(Sentences(), tools=["rows"], json_too=True)
    assert (await ask(rows, middleware, "Is there a notice?")).content == '[{"notice": "30 days.'


async def test_only_the_texts_of_blocks_are_touched(ask):
    message = await ask(blocks, CompressionMiddleware(Sentences(), tools=["blocks"]))
    assert message.content == [
        {"type": "text", "text": SHORT, "extra": 1},
        {"type": "image_url", "image_url": {"url": "data:,"}},
    ]
    assert len(message.response_metadata["costwise"]["original"]) == 3


async def test_artifacts_stay(ask):
    message = await ask(artifact, CompressionMiddleware(Sentences(), tools=["artifact"]))
    assert (message.content, message.artifact) == (SHORT, {"raw": 1})


async def test_a_retriever_tool_is_compressed_by_document(ask):
    message = await ask(
        retriever_tool(), CompressionMiddleware(RerankTrim(top_k=1), tools=["search"])
    )
    assert message.content.strip("-\n") == f"<doc 1>\n{PAGE}"
    assert {document.id for document in message.artifact} == {"terms", "fibre"}


@pytest.mark.parametrize("question", ["Nothing fits whatsoever.", "?"])
async def test_no_result_is_emptied(ask, question):
    message = await ask(search, CompressionMiddleware(Sentences(), tools=["search"]), question)
    assert message.content == PAGE


async def test_a_broken_compressor_breaks_no_tool(ask):
    middleware = CompressionMiddleware(Broken(OSError("no disk")), tools=["search"])
    assert (await ask(search, middleware)).content == PAGE
    assert dict(middleware.stats.errors) == {"OSError": 1}


async def test_async_is_native_where_the_compressor_is():
    middleware = CompressionMiddleware(waits := Waits(), tools=["search"])
    agent = create_agent(ScriptedChatModel(), tools=[search], middleware=[middleware])
    await agent.ainvoke({"messages": [HumanMessage(ASK)]})
    assert waits.awaited == 1


@pytest.mark.parametrize("tools", [[], "search"])
def test_tools_are_named(tools):
    with pytest.raises(ConfigError, match="names of tools"):
        CompressionMiddleware(Sentences(), tools=tools)
