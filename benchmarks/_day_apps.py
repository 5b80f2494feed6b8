"""The day's app in both frameworks: as a tutorial writes it, and with `Stack.recommended` around.

Both arms have the same vectors, the same words around passages and question, and the same model.
A tutorial's app sends the ten nearest passages whole, and all of a conversation.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks._day_ideas import Idea
from benchmarks._day_traffic import TOP_K, Day, Request
from costwise_core import Bill, Conversation, Message, PriceBook, scoped
from costwise_core.protocols import Embedder
from demo.model import Endpoint

__all__ = ["APPS", "App", "Setting"]

MAX_TOKENS: Final = 64
WINDOW: Final = 8_192
SYSTEM: Final = (
    "Answer from the passages alone. If they do not hold the answer, say that you do not know."
)
PATIENCE_SECONDS: Final = 900


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One arm of the comparison.

    Args:
        day: Corpus and vectors.
        endpoint: Where the model listens.
        prices: What its tokens are priced at.
        priced_as: The model's name in the price list.
        embedder: The one that made the vectors.
        folder: Where the stack keeps its files; None is the tutorial's app.
        idea: What differs from the recommended stack.
    """

    day: Day
    endpoint: Endpoint
    prices: PriceBook
    priced_as: str
    embedder: Embedder
    folder: Path | None = None
    idea: Idea | None = None


@dataclass(frozen=True, kw_only=True)
class App:
    """A way to ask, and the `track` of its framework."""

    ask: Callable[[Request], str]
    track: Callable[..., AbstractContextManager[Bill]]


@contextmanager
def langchain_app(setting: Setting) -> Iterator[App]:
    """Build a chain over an in-memory vector store."""
    from langchain_core.documents import Document
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_openai import ChatOpenAI

    from langchain_costwise import CachedEmbeddings, OutputLimit, track
    from langchain_costwise.stack import Stack

    store = InMemoryVectorStore(CachedEmbeddings(setting.embedder))
    store.add_documents([Document(id=one.id, page_content=one.text) for one in setting.day.corpus])
    retriever: Any = store.as_retriever(search_kwargs={"k": TOP_K})
    model: Any = ChatOpenAI(
        base_url=setting.endpoint.base_url,
        api_key=setting.endpoint.api_key,
        model=setting.endpoint.model,
        temperature=0,
        max_tokens=MAX_TOKENS,
        max_retries=0,
        timeout=PATIENCE_SECONDS,
    )
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", f"{SYSTEM}\n\n{{context}}"),
            MessagesPlaceholder("history", optional=True),
            ("human", "{question}"),
        ]
    )
    if setting.folder is None:
        heard: dict[str, list[Any]] = {}

        def ask(request: Request) -> str:
            turns = _turns(request.given)
            history = [
                HumanMessage(text) if role == "user" else AIMessage(text) for role, text in turns
            ]
            if request.conversation:
                history = heard.setdefault(request.conversation, history)
            found = retriever.invoke(request.question)
            message = (prompt | model).invoke(
                {
                    "context": "\n\n".join(one.page_content for one in found),
                    "question": request.question,
                    "history": history,
                }
            )
            history += [HumanMessage(request.question), AIMessage(message.text)]
            return str(message.text)

        yield App(ask=ask, track=track)
        return

    stack = _recommended(Stack, setting)
    if setting.idea is not None and setting.idea.limit is not None:
        model = OutputLimit(model=model, task=setting.idea.limit)
    alone = stack.rag_chain(retriever, model, prompt)
    talking = stack.chat_chain(retriever, model, prompt)

    def ask_stack(request: Request) -> str:
        if not request.conversation:
            return str(alone.invoke(request.question).text)
        _tell(stack.memory, request)
        run: Any = {"configurable": {"thread_id": request.conversation}}
        return str(talking.invoke(request.question, run).text)

    yield App(ask=_scoped(ask_stack), track=track)
    stack.close()


@contextmanager
def llamaindex_app(setting: Setting) -> Iterator[App]:
    """Build a query engine and chat engines over a vector index."""
    from llama_index.core import ChatPromptTemplate, VectorStoreIndex
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.chat_engine import ContextChatEngine
    from llama_index.core.memory import ChatMemoryBuffer
    from llama_index.core.schema import TextNode
    from llama_index.llms.openai_like import OpenAILike

    from llamaindex_costwise import CostwiseEmbedding, OutputLimit, track
    from llamaindex_costwise.stack import Stack

    index = VectorStoreIndex(
        [TextNode(id_=one.id, text=one.text) for one in setting.day.corpus],
        embed_model=CostwiseEmbedding(embedder=setting.embedder),
    )
    retriever = index.as_retriever(similarity_top_k=TOP_K)
    llm: Any = OpenAILike(
        api_base=setting.endpoint.base_url,
        api_key=setting.endpoint.api_key,
        model=setting.endpoint.model,
        temperature=0,
        max_tokens=MAX_TOKENS,
        is_chat_model=True,
        context_window=WINDOW,
        max_retries=0,
        timeout=PATIENCE_SECONDS,
    )
    said = f"{SYSTEM}\n\n{{context_str}}"
    template = ChatPromptTemplate(
        message_templates=[
            ChatMessage(said, role=MessageRole.SYSTEM),
            ChatMessage("{query_str}", role=MessageRole.USER),
        ]
    )
    engine: Any
    if setting.folder is None:
        engine = index.as_query_engine(llm=llm, similarity_top_k=TOP_K, text_qa_template=template)
        heard: dict[str, Any] = {}

        def ask(request: Request) -> str:
            if not request.conversation:
                return str(engine.query(request.question))
            if request.conversation not in heard:
                history = [ChatMessage(text, role=role) for role, text in _turns(request.given)]
                heard[request.conversation] = ContextChatEngine.from_defaults(
                    retriever=retriever,
                    llm=llm,
                    context_template=said,
                    memory=ChatMemoryBuffer.from_defaults(history, token_limit=WINDOW),
                )
            return str(heard[request.conversation].chat(request.question))

        yield App(ask=ask, track=track)
        return

    stack = _recommended(Stack, setting)
    if setting.idea is not None and setting.idea.limit is not None:
        llm = OutputLimit(llm=llm, task=setting.idea.limit)
    engine = stack.query_engine(retriever, llm, text_qa_template=template)

    def ask_stack(request: Request) -> str:
        if not request.conversation:
            return str(engine.query(request.question))
        _tell(stack.memory, request)
        chat = stack.chat_engine(
            retriever, llm, conversation=_conversation(request), context_template=said
        )
        return str(chat.chat(request.question))

    yield App(ask=_scoped(ask_stack), track=track)
    stack.close()


APPS: Final[Mapping[str, Callable[[Setting], AbstractContextManager[App]]]] = {
    "LangChain": langchain_app,
    "LlamaIndex": llamaindex_app,
}


def _recommended(stack: Any, setting: Setting) -> Any:
    """Return what `Stack.recommended` gives, with a setting's own parts in it."""
    made = stack.recommended(
        setting.folder,
        corpus="day-v1",
        model=setting.priced_as,
        embedder=setting.embedder,
        prices=setting.prices,
        require=("tenant",),
        ledger=None,
    )
    if setting.idea is None:
        return made
    return replace(made, **setting.idea.parts(made, setting.embedder, setting.day))


def _scoped(ask: Callable[[Request], str]) -> Callable[[Request], str]:
    def asked(request: Request) -> str:
        with scoped(tenant=request.tenant):
            return ask(request)

    return asked


def _conversation(request: Request) -> Conversation:
    return Conversation(id=request.conversation, tenant=request.tenant)


def _tell(memory: Any, request: Request) -> None:
    """Let a memory hear what was said before the first question that it is asked."""
    if memory is not None and request.given:
        turns = [Message(role=role, text=text) for role, text in _turns(request.given)]
        memory.add(_conversation(request), turns)


def _turns(given: tuple[str, ...]) -> list[tuple[Any, str]]:
    return [(("user", "assistant")[at % 2], text) for at, text in enumerate(given)]
