"""A whole RAG app of LangChain's own parts, before and after costwise, with a real embedder."""

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from costwise_core import Cache, FixedThreshold, SQLiteStore
from langchain_costwise import (
    CachedChatModel,
    CachedEmbeddings,
    CachedRetriever,
    SemanticCache,
    scoped,
    track,
)
from langchain_costwise.testing import ScriptedChatModel

FACTS = {
    "How do I reset my password?": "To reset a password, press 'Forgotten' on the login page.",
    "How long does shipping take?": "Shipping takes three days inside the country.",
    "Which cards do you accept?": "We accept all credit cards except one.",
}
STREAM = [
    "How do I reset my password?",
    "How do I reset my password?",  # a repeat
    "how do I  reset my password?",  # the same in other letters
    "How can I reset my password?",  # a rewording
    "How long does shipping take?",
    "How long does shipping take to Norway?",  # near, and another question
    "Which cards do you accept?",
    "How long does shipping take?",
]


class Answering(ScriptedChatModel):
    """Answers with the first line of the context, as a good model would."""

    def _answer(self, messages, kwargs):
        message = super()._answer(messages, kwargs)
        message.content = messages[0].text.partition("Context: ")[2].partition("\n")[0]
        return message


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("onnxruntime")
    from costwise_core.embed.onnx import OnnxEmbedder

    return OnnxEmbedder()


def app(embedder, model, retriever=None):
    store = InMemoryVectorStore(CachedEmbeddings(embedder))
    store.add_documents([Document(id=q, page_content=fact) for q, fact in FACTS.items()])
    found = store.as_retriever(search_kwargs={"k": 1})
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from the context.\nContext: {context}"), ("human", "{question}")]
    )
    return (
        {
            "context": (retriever(found) if retriever else found) | join,
            "question": RunnablePassthrough(),
        }
        | prompt
        | model
        | StrOutputParser()
    )


def join(documents):
    return "\n".join(document.page_content for document in documents)


@pytest.mark.parametrize("streamed", [True, False])
def test_repeats_and_rewordings_are_served_and_the_rest_is_not(tmp_path, embedder, streamed):
    policy = FixedThreshold(min_cosine=0.93)
    plain = app(embedder, Answering())
    expected = [plain.invoke(question) for question in STREAM]
    with SQLiteStore(tmp_path / "cache.db") as store:
        cache = Cache(store, embedder=embedder, policy=policy)
        paid = Answering(model_name="gpt-4o-mini")
        cached = app(
            embedder,
            CachedChatModel(model=paid, cache=SemanticCache(cache)),
            lambda found: CachedRetriever(retriever=found, cache=cache, corpus="faq-v1"),
        )
        with scoped(tenant="acme"), track(feature="faq") as bill:
            ask = cached.stream if streamed else cached.invoke
            assert ["".join(ask(question)) for question in STREAM] == expected
    assert paid.asked == [STREAM[0], STREAM[4], STREAM[5], STREAM[6]]
    assert (bill.calls, bill.paid_calls, bill.hits) == (8, 4, 4)
    assert [record.tier for record in bill.records].count("near") == 1
    assert bill.saved > 0
    assert bill.baseline == bill.usd + bill.saved


async def test_it_runs_async_and_keeps_tenants_apart(tmp_path, embedder):
    with SQLiteStore(tmp_path / "cache.db") as store:
        cache = Cache(store, embedder=embedder)
        paid = Answering()
        cached = app(
            embedder,
            CachedChatModel(model=paid, cache=SemanticCache(cache, require=("tenant",))),
            lambda found: CachedRetriever(retriever=found, cache=cache, corpus="faq-v1"),
        )
        for tenant in ("acme", "bolt", "acme", "bolt"):
            config = {"configurable": {"costwise": {"tenant": tenant}}}
            assert await cached.ainvoke(STREAM[0], config=config) == FACTS[STREAM[0]]
        await cached.ainvoke(STREAM[0])
    assert len(paid.asked) == 3
    assert cache.stats.hits == {"exact": 4}  # twice the documents, twice the answer
    assert cache.stats.misses["no_scope"] == 1
    assert cache.stats.errors == {}
