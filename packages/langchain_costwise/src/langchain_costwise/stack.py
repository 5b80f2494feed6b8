"""A recipe that puts costwise's parts around a LangChain app, in the order that keeps promises."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever

from costwise_core.bill import Bill
from costwise_core.budget.guard import Budgets
from costwise_core.cache.cache import Cache
from costwise_core.dedup import InFlight
from costwise_core.errors import ConfigError
from costwise_core.holdout import HoldOut
from costwise_core.memory.memory import ConversationMemory
from costwise_core.prices import PriceBook
from costwise_core.protocols import Compressor, Ledger
from costwise_core.recipe import check_required, close_all, recommended_parts
from costwise_core.route.presets import local_first
from costwise_core.route.routes import AnswerJudge, Router
from costwise_core.telling_apart import described
from langchain_costwise._budgeting import budgeted
from langchain_costwise._stack_answers import StackAnswers
from langchain_costwise._stack_chain import GroundedChain, checked_prompt
from langchain_costwise._stack_models import routed
from langchain_costwise.chat import CachedChatModel
from langchain_costwise.compression_retriever import CompressionRetriever
from langchain_costwise.compressors import CompressionPipeline, CostwiseCompressor
from langchain_costwise.embeddings import as_embedder
from langchain_costwise.retriever import CachedRetriever, identity
from langchain_costwise.tracking import track as adapter_track

if TYPE_CHECKING:
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.embeddings import Embeddings

    from costwise_core.protocols import Embedder

__all__ = ["Stack"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The parts of costwise that an app uses, and how they stand around its model and retriever.

    A recipe, not an orchestrator: it runs nothing and holds no state of its own. Its methods return
    LangChain's own kinds of objects with the parts around them, always in one order: scope, cache,
    calls in flight, retrieval, trimming, compression, memory, routing, budgets, ledger. Each part
    may be None, and `dataclasses.replace(stack, compress=None)` is the same stack without it.

    Answers are kept apart by tenant, corpus, model with its settings, prompt, and the parts that
    shape an answer: those of a stack that compresses or routes are not served by one that does not.

    Args:
        cache: Where answers and found documents are kept.
        corpus: Name and version of what is searched, such as "handbook-v7"; needed with a cache.
        require: Fields out of "tenant" and "corpus" without which no request is looked up or kept.
        in_flight: The calls on their way: those that ask the same share one.
        trim: Leaves out documents.
        compress: Leaves out parts of those that are left.
        memory: Keeps conversations, and shortens them where that pays.
        router: Chooses between the model and a cheaper one, where one is given.
        judge: Decides whether the cheaper model's answer will do, where there is no router; None is
            rules, and that the answer is in the documents.
        threshold: Lowest score, in [0, 1], at which the cheaper model's answer is shown.
        budgets: What may be spent.
        ledger: Where calls are written down.
        prices: What they are priced with; None is the price list.
        holdout: Runs a share of the requests without all of this but budgets and ledger.

    Raises:
        ConfigError: if `require` names another field; from methods that search, if there is a cache
            and no corpus.

    Example:
        >>> from costwise_core import MemoryStore
        >>> from langchain_core.language_models import FakeListChatModel
        >>> stack = Stack(cache=Cache(MemoryStore()))
        >>> model = stack.chat_model(FakeListChatModel(responses=["A method.", "No idea."]))
        >>> with stack.track(feature="faq") as bill:
        ...     model.invoke("What is RAG?").text, model.invoke("what is  RAG?").text
        ('A method.', 'A method.')
        >>> bill.calls, bill.paid_calls
        (2, 1)
    """

    cache: Cache | None = None
    corpus: str = ""
    require: tuple[str, ...] = ()
    in_flight: InFlight | None = field(default_factory=InFlight)
    trim: Compressor | None = None
    compress: Compressor | None = None
    memory: ConversationMemory | None = None
    router: Router | None = None
    judge: AnswerJudge | None = None
    threshold: float = 0.5
    budgets: Budgets | None = None
    ledger: Ledger | None = None
    prices: PriceBook | None = None
    holdout: HoldOut | None = None

    def __post_init__(self) -> None:
        """Refuse a scope that cannot be."""
        check_required(self.require)

    @classmethod
    def recommended(
        cls,
        folder: str | Path,
        *,
        corpus: str,
        model: str,
        embedder: "Embedder | Embeddings | None" = None,
        prices: PriceBook | None = None,
        **parts: Any,
    ) -> "Stack":
        """Return a stack that is safe without being tuned.

        A cache whose near hits promise at most 2 % wrong answers; of what was found the
        sentences that matter, three tenths of the tokens, where that saves money; a memory that
        folds a conversation only when that pays; a ledger. No router and no budgets, unless given.

        Args:
            folder: Where answers, conversations and the ledger are kept, a SQLite file each. It is
                made if it is not there; files are opened when they are first used.
            corpus: Name and version of what is searched.
            model: Whose prices decide what pays, as the provider names it.
            embedder: Costwise's or LangChain's; None is the model of `costwise-models`. The one
                that made the vectors of your store saves work.
            prices: The price list, if yours differs.
            **parts: Fields of the stack that you set yourself.

        Raises:
            MissingExtraError: if no embedder is given and `costwise-models` is not installed.

        Example:
            >>> from tempfile import mkdtemp
            >>> from costwise_core.testing.fakes import HashingEmbedder
            >>> stack = Stack.recommended(
            ...     mkdtemp(), corpus="docs-v1", model="gpt-4o", embedder=HashingEmbedder()
            ... )
            >>> stack.router is None, stack.memory is None
            (True, False)
        """
        chosen = recommended_parts(
            Path(folder),
            embedder=None if embedder is None else as_embedder(embedder),
            model=model,
            prices=prices,
        )
        return cls(**{"corpus": corpus, "prices": prices, **chosen, **parts})

    # --- around what the user has -----------------------------------------------------------------

    def chat_model(
        self, model: BaseChatModel, cheaper: BaseChatModel | None = None
    ) -> BaseChatModel:
        """Return a chat model: the cache outside, then the router, budgets around each model.

        Args:
            model: The model that is paid for.
            cheaper: Answers where the router, or else the judge, says that it will do.

        Example:
            >>> from langchain_core.language_models import FakeListChatModel
            >>> Stack().chat_model(FakeListChatModel(responses=["Yes."])).invoke("Is it?").text
            'Yes.'
        """
        paid = self._paid(model, cheaper)
        if self.cache is None:
            return paid
        answers = StackAnswers(self.cache, corpus=self.corpus, require=self.require)
        return CachedChatModel(model=paid, cache=answers, **self._sharing())

    def retriever(self, retriever: BaseRetriever) -> BaseRetriever:
        """Return a retriever that looks up, else searches, and then trims and compresses.

        Args:
            retriever: Finds documents; let it find some twenty where there is a `trim`.

        Raises:
            ConfigError: if there is a cache and no corpus.

        Example:
            >>> from langchain_core.embeddings import DeterministicFakeEmbedding
            >>> from langchain_core.vectorstores import InMemoryVectorStore
            >>> from costwise_core import RerankTrim
            >>> store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
            >>> _ = store.add_texts(["RAG is a method.", "Oslo is a town."])
            >>> stack = Stack(trim=RerankTrim(top_k=1))
            >>> [found] = stack.retriever(store.as_retriever()).invoke("What is RAG?")
            >>> found.page_content
            'RAG is a method.'
        """
        if self.cache is not None:
            retriever = CachedRetriever(
                retriever=retriever,
                cache=self.cache,
                corpus=self._corpus(),
                require=self.require,
                **self._sharing(),
            )
        return self._compressed(retriever)

    def rag_chain(
        self,
        retriever: BaseRetriever,
        model: BaseChatModel,
        prompt: ChatPromptTemplate | None = None,
        *,
        cheaper: BaseChatModel | None = None,
    ) -> GroundedChain:
        """Return a chain from a question to an answer drawn from what the retriever finds.

        The question alone is looked up; a hit spares search, compression and model. Answers carry
        the documents they were drawn from, so a changed document takes them along.

        Args:
            retriever: Finds documents; let it find some twenty where there is a `trim`.
            model: The model that is paid for.
            prompt: Has the variables `context` and `question`.
            cheaper: As for `chat_model`.

        Raises:
            ConfigError: if there is a cache and no corpus, or the prompt lacks a variable.

        Example:
            >>> from costwise_core import MemoryStore
            >>> from langchain_core.embeddings import DeterministicFakeEmbedding
            >>> from langchain_core.language_models import FakeListChatModel
            >>> from langchain_core.vectorstores import InMemoryVectorStore
            >>> store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
            >>> _ = store.add_texts(["RAG is a method."])
            >>> stack = Stack(cache=Cache(MemoryStore()), corpus="docs-v1")
            >>> model = FakeListChatModel(responses=["A method.", "No idea."])
            >>> chain = stack.rag_chain(store.as_retriever(), model)
            >>> chain.invoke("What is RAG?").text
            'A method.'
            >>> chain.invoke("what is  RAG?").response_metadata["costwise"]["hit"]
            'exact'
        """
        return self._chain(retriever, model, prompt, cheaper, memory=None)

    def chat_chain(
        self,
        retriever: BaseRetriever,
        model: BaseChatModel,
        prompt: ChatPromptTemplate | None = None,
        *,
        cheaper: BaseChatModel | None = None,
    ) -> GroundedChain:
        """Return a chain like `rag_chain`'s that knows what was said before.

        The conversation is the one that `config={"configurable": {"thread_id": ...}}` names, its
        user `user_id` there; the memory keeps it. Without a memory each question stands alone.

        Args:
            retriever: As for `rag_chain`.
            model: As for `rag_chain`.
            prompt: As for `rag_chain`; what was said stands where it has a placeholder `history`.
            cheaper: As for `chat_model`.

        Raises:
            ConfigError: as `rag_chain`; when run, if nothing says which conversation it is.

        Example:
            >>> from costwise_core import MemoryConversations
            >>> from langchain_core.embeddings import DeterministicFakeEmbedding
            >>> from langchain_core.language_models import FakeListChatModel
            >>> from langchain_core.vectorstores import InMemoryVectorStore
            >>> store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
            >>> _ = store.add_texts(["We ship to Malta."])
            >>> stack = Stack(memory=ConversationMemory(MemoryConversations(), model="gpt-4o"))
            >>> model = FakeListChatModel(responses=["Yes, we do.", "Ten euros."])
            >>> chain = stack.chat_chain(store.as_retriever(), model)
            >>> thread = {"configurable": {"thread_id": "42"}}
            >>> chain.invoke("Do you ship to Malta?", thread).text
            'Yes, we do.'
            >>> chain.invoke("What does it cost?", thread).text
            'Ten euros.'
        """
        return self._chain(retriever, model, prompt, cheaper, memory=self.memory)

    def middleware(
        self, *, tools: Collection[str] = (), cheaper: BaseChatModel | None = None
    ) -> "list[AgentMiddleware[Any, Any, Any]]":
        """Return middleware for `create_agent`: cache, memory, compression, router, budgets.

        Args:
            tools: Names of the tools whose results may be compressed; none unless named.
            cheaper: As for `chat_model`.

        Raises:
            MissingExtraError: if langchain is not installed.

        Example:
            >>> from costwise_core import MemoryStore
            >>> from langchain.agents import create_agent
            >>> from langchain_core.language_models import FakeListChatModel
            >>> stack = Stack(cache=Cache(MemoryStore()))
            >>> model = FakeListChatModel(responses=["A method.", "No idea."])
            >>> agent = create_agent(model, middleware=stack.middleware())
            >>> for _ in range(2):
            ...     agent.invoke({"messages": "What is RAG?"})["messages"][-1].text
            'A method.'
            'A method.'
        """
        from langchain_costwise._stack_agent import agent_middleware  # noqa: PLC0415 - an extra

        answers = None
        if self.cache is not None:
            # The router stands inside, where the cache does not see it.
            ways = () if cheaper is None else self._ways(cheaper)
            answers = StackAnswers(
                self.cache, recipe=ways, corpus=self.corpus, require=self.require
            )
        return agent_middleware(
            answers=answers,
            in_flight=self.in_flight,
            memory=self.memory,
            compressors=self._compressors(),
            tools=tools,
            cheaper=cheaper,
            router=self.router,
            judge=self._judge(),
            threshold=self.threshold,
            prices=self.prices,
            budgets=self.budgets,
        )

    def track(self, **tags: str) -> AbstractContextManager[Bill]:
        """Put all calls inside the block on a bill and in the stack's ledger.

        Args:
            **tags: As for `langchain_costwise.track`.

        Example:
            >>> with Stack().track(feature="faq") as bill:
            ...     pass
            >>> bill.calls
            0
        """
        return adapter_track(ledger=self.ledger, prices=self.prices, holdout=self.holdout, **tags)

    def close(self) -> None:
        """Close the files and connections of the parts; they open again when used again.

        Example:
            >>> Stack().close()
        """
        close_all(
            [
                self.cache and self.cache.backend,
                self.memory and self.memory.store,
                self.budgets and self.budgets.store,
                self.ledger,
            ]
        )

    # --- the parts --------------------------------------------------------------------------------

    def _chain(
        self,
        retriever: BaseRetriever,
        model: BaseChatModel,
        prompt: ChatPromptTemplate | None,
        cheaper: BaseChatModel | None,
        *,
        memory: ConversationMemory | None,
    ) -> GroundedChain:
        shown = checked_prompt(prompt, history=memory is not None)
        answers = None
        if self.cache is not None:
            answers = StackAnswers(
                self.cache,
                recipe=(repr(shown), identity(retriever), *map(described, self._compressors())),
                corpus=self._corpus(),
                require=self.require,
            )
        return GroundedChain(
            retriever=self._compressed(retriever),
            model=self._paid(model, cheaper),
            prompt=shown,
            memory=memory,
            answers=answers,
            in_flight=self.in_flight,
        )

    def _corpus(self) -> str:
        if not self.corpus:
            raise ConfigError(
                "corpus must name what is searched and its version, such as 'handbook-v7': answers "
                "are kept for one corpus only."
            )
        return self.corpus

    def _sharing(self) -> dict[str, Any]:
        return {} if self.in_flight is None else {"in_flight": self.in_flight}

    def _compressed(self, retriever: BaseRetriever) -> BaseRetriever:
        steps = [CostwiseCompressor(one) for one in self._compressors()]
        if not steps:
            return retriever
        return CompressionRetriever(
            base_retriever=retriever, base_compressor=CompressionPipeline(transformers=steps)
        )

    def _paid(self, model: BaseChatModel, cheaper: BaseChatModel | None) -> BaseChatModel:
        model = budgeted(model, self.budgets)
        if cheaper is None:
            return model
        return routed(
            model,
            budgeted(cheaper, self.budgets),
            router=self.router,
            judge=self._judge(),
            threshold=self.threshold,
            prices=self.prices,
        )

    def _compressors(self) -> list[Compressor]:
        return [one for one in (self.trim, self.compress) if one is not None]

    def _ways(self, cheaper: BaseChatModel) -> tuple[str, ...]:
        settings = cheaper._get_llm_string()  # noqa: SLF001 - LangChain's interface
        return settings, described(self.router), described(self._judge()), repr(self.threshold)

    def _judge(self) -> AnswerJudge | None:
        if self.router is not None or self.judge is not None:
            return self.judge
        return local_first("cheaper")["judge"]
