"""The same RAG app twice: stock classes of LangChain and of LlamaIndex, plain and with costwise.

What costwise adds stands between the two marks in each function; everything else is what the
frameworks' own tutorials write. It is a `Stack` with a cache alone: what is retrieved is one short
paragraph, so there is nothing to trim or compress, and no conversation to remember. The near tier
goes by `GuardedThreshold`: 56 questions are too few for `RiskControl`, the default, to have learned
enough to open.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costwise_core import Bill, PriceBook
from demo.model import Endpoint

__all__ = ["FRAMEWORKS", "App", "Passage", "Reply"]

TOP_K = 1  # a model of 135 million parameters loses the thread in more than one paragraph
MAX_TOKENS = 64
PROMPT = (
    "Read this and answer the question with words from it.\n\n{context}\n\nQuestion: {question}"
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One paragraph of the corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer; `marker` is what costwise says about a hit, None for a paid answer."""

    text: str
    marker: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class App:
    """A way to ask, and the `track` of its framework."""

    ask: Callable[[str], Reply]
    track: Callable[..., AbstractContextManager[Bill]]
    prices: PriceBook


@contextmanager
def langchain_app(
    passages: Sequence[Passage], endpoint: Endpoint, prices: PriceBook, cache: Path | None
) -> Iterator[App]:
    """Build an LCEL chain: vector store, prompt, `ChatOpenAI`."""
    from langchain_core.documents import Document
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_openai import ChatOpenAI

    from costwise_core import Cache, GuardedThreshold, OnnxEmbedder, SQLiteStore
    from langchain_costwise import CachedEmbeddings, Stack, track

    embedder = OnnxEmbedder()
    embeddings = CachedEmbeddings(embedder)
    store = InMemoryVectorStore(embeddings)
    store.add_documents(
        [Document(id=p.id, page_content=p.text, metadata={"title": p.title}) for p in passages]
    )
    retriever = store.as_retriever(search_kwargs={"k": TOP_K})
    model = ChatOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        model=endpoint.model,
        temperature=0,
        max_tokens=MAX_TOKENS,
    )
    prompt = ChatPromptTemplate.from_template(PROMPT)

    def joined(documents: list[Document]) -> str:
        return "\n\n".join(document.page_content for document in documents)

    chain: Any = {"context": retriever | joined, "question": RunnablePassthrough()} | prompt | model
    # --- costwise: a stack around the same parts, one cache file ---
    if cache is not None:
        answers = Cache(SQLiteStore(cache), embedder=embedder, policy=GuardedThreshold())
        chain = Stack(cache=answers, corpus="demo-v1").rag_chain(retriever, model, prompt)
    # -------------------------------------------------------------------------

    def ask(question: str) -> Reply:
        message = chain.invoke(question)
        return Reply(text=str(message.content), marker=message.response_metadata.get("costwise"))

    yield App(ask=ask, track=track, prices=prices)


@contextmanager
def llamaindex_app(
    passages: Sequence[Passage], endpoint: Endpoint, prices: PriceBook, cache: Path | None
) -> Iterator[App]:
    """Build a query engine: vector index, `OpenAILike`."""
    from llama_index.core import PromptTemplate, VectorStoreIndex
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import TextNode
    from llama_index.llms.openai_like import OpenAILike

    from costwise_core import Cache, GuardedThreshold, OnnxEmbedder, SQLiteStore
    from llamaindex_costwise import CostwiseEmbedding, Stack, track

    embedder = OnnxEmbedder()
    index = VectorStoreIndex(
        [TextNode(id_=p.id, text=p.text, metadata={"title": p.title}) for p in passages],
        embed_model=CostwiseEmbedding(embedder=embedder),
    )
    llm = OpenAILike(
        api_base=endpoint.base_url,
        api_key=endpoint.api_key,
        model=endpoint.model,
        temperature=0,
        max_tokens=MAX_TOKENS,
        is_chat_model=True,
        context_window=4096,
    )
    retriever = index.as_retriever(similarity_top_k=TOP_K)
    template = PromptTemplate(PROMPT.format(context="{context_str}", question="{query_str}"))
    engine: Any = RetrieverQueryEngine.from_args(retriever, llm=llm, text_qa_template=template)
    # --- costwise: a stack around the same parts, one cache file ---
    if cache is not None:
        answers = Cache(SQLiteStore(cache), embedder=embedder, policy=GuardedThreshold())
        stack = Stack(cache=answers, corpus="demo-v1")
        engine = stack.query_engine(retriever, llm, text_qa_template=template)
    # -------------------------------------------------------------------------

    def ask(question: str) -> Reply:
        response = engine.query(question)
        return Reply(text=str(response), marker=(response.metadata or {}).get("costwise"))

    yield App(ask=ask, track=track, prices=prices)


FRAMEWORKS = {"LangChain": langchain_app, "LlamaIndex": llamaindex_app}
