"""What compressors leave out is on the bill of every call that is sent the rest."""

import copy

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore

from costwise_core import WhenWorthIt
from langchain_costwise import (
    CompressionMiddleware,
    CompressionPipeline,
    CompressionRetriever,
    CostwiseCompressor,
    ExtractiveCompressor,
    RerankTrim,
    track,
)
from langchain_costwise.testing import ScriptedChatModel
from tests.compressing import ASKED, PAGES, SAVED_ON, Broken, Sentences, saved, usd


def chain(*steps):
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(page, id=str(n)) for n, page in enumerate(PAGES)])
    retriever = CompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": len(PAGES)}),
        base_compressor=CompressionPipeline(transformers=steps),
    )
    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")
    return (
        {
            "context": retriever | (lambda kept: "\n\n".join(d.page_content for d in kept)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | ScriptedChatModel(model_name=SAVED_ON)
        | StrOutputParser()
    )


def trim():
    return RerankTrim(top_k=2)


def extract():
    return ExtractiveCompressor(share=0.5, min_tokens=0)


def worth():
    return CostwiseCompressor(WhenWorthIt(extract(), model=SAVED_ON, min_tokens=0))


@pytest.mark.parametrize(
    "steps", [[trim], [extract], [worth], [trim, extract], [extract, trim], [trim, worth]]
)
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "batch"])
async def test_what_is_left_out_is_saved_at_the_models_price(steps, how):
    steps = [make() for make in steps]
    app = chain(*steps)
    with track() as bill:
        for question in ASKED:
            if how == "ainvoke":
                await app.ainvoke(question)
            elif how == "stream":
                list(app.stream(question))
            elif how == "invoke":
                app.invoke(question)
        if how == "batch":
            app.batch(list(ASKED))
    tokens = sum(step.stats.tokens_saved for step in steps)
    assert tokens > 0
    assert saved(bill) == usd(tokens)


def test_a_context_sent_three_times_saves_three_times():
    step = trim()
    with track() as bill:
        context = step.compress_documents([Document(page) for page in PAGES], "Tesla?")
        for _ in range(3):
            ScriptedChatModel(model_name=SAVED_ON).invoke(
                "\n".join(d.page_content for d in context)
            )
        ScriptedChatModel(model_name=SAVED_ON).invoke("Something else")
    assert saved(bill) == usd(3 * step.stats.tokens_saved)


def test_two_questions_about_the_same_passages_save_once_each():
    app = chain(step := trim())
    with track() as bill:
        app.invoke("Where was Tesla born?")
        app.invoke("Where did Tesla work?")
    assert saved(bill) == usd(step.stats.tokens_saved)


def test_a_bill_for_each_request_holds_its_own_saving():
    app = chain(step := trim())
    for question in ASKED:
        before = step.stats.tokens_saved
        with track(request=question) as bill:
            app.invoke(question)
        assert saved(bill) == usd(step.stats.tokens_saved - before)


def test_nothing_is_saved_where_nothing_was_left_out():
    with track() as bill:
        chain(CostwiseCompressor(Broken(RuntimeError()))).invoke("Tesla?")
        chain(RerankTrim(top_k=len(PAGES))).invoke("Tesla?")
    assert bill.usd > 0
    assert saved(bill) == 0


def test_outside_a_block_nothing_is_remembered():
    documents = [Document(page) for page in PAGES]
    kept = trim().compress_documents(copy.deepcopy(documents), "Tesla?")
    with track() as bill:
        ScriptedChatModel(model_name=SAVED_ON).invoke("\n".join(d.page_content for d in kept))
    assert saved(bill) == 0


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tool_result_that_an_agent_reads_is_saved(how):
    @tool
    def search(query: str) -> str:
        """Search the handbook."""
        return "We are glad you came. The notice period is 30 days. Bring your router back."

    middleware = CompressionMiddleware(Sentences(), tools=["search"])
    agent = create_agent(
        ScriptedChatModel(model_name=SAVED_ON), tools=[search], middleware=[middleware]
    )
    asked = {"messages": [("user", "How long is the notice period?")]}
    with track() as bill:
        _ = agent.invoke(asked) if how == "invoke" else await agent.ainvoke(asked)
    assert middleware.stats.tokens_saved > 0
    # Of the two calls only the second reads the result.
    assert (bill.calls, saved(bill)) == (2, usd(middleware.stats.tokens_saved))
