"""A recipe that puts costwise's parts around a LlamaIndex app, in the order that keeps promises."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine

from costwise_core.bill import Bill
from costwise_core.budget.guard import Budgets
from costwise_core.cache.cache import Cache
from costwise_core.dedup import InFlight
from costwise_core.errors import ConfigError
from costwise_core.holdout import HoldOut
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation
from costwise_core.prices import PriceBook
from costwise_core.protocols import Compressor, Ledger
from costwise_core.recipe import check_required, close_all, recommended_parts
from costwise_core.route.presets import local_first
from costwise_core.route.routes import AnswerJudge, Router
from costwise_core.telling_apart import described
from llamaindex_costwise._scorer import as_embedder
from llamaindex_costwise._stack_chat import AnswersInContext, CachedTurns, Context, StackChatEngine
from llamaindex_costwise._stack_engine import StackQueryEngine
from llamaindex_costwise._stack_llms import budgeted, routed
from llamaindex_costwise.llm import CachedLLM
from llamaindex_costwise.memory import TOKEN_LIMIT, RollingSummaryMemory
from llamaindex_costwise.postprocessors import CostwiseCompressor
from llamaindex_costwise.retriever import CachedRetriever
from llamaindex_costwise.tracking import track as adapter_track

if TYPE_CHECKING:
    from costwise_core.protocols import Embedder

__all__ = ["Stack"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The parts of costwise that an app uses, and how they stand around its LLM and retriever.

    A recipe, not an orchestrator: it runs nothing and holds no state of its own. Its methods return
    LlamaIndex's own kinds of objects with the parts around them, always in one order: scope, cache,
    calls in flight, retrieval, trimming, compression, memory, routing, budgets, ledger. Each part
    may be None, and `dataclasses.replace(stack, compress=None)` is the same stack without it.

    Answers are kept apart by tenant, corpus, LLM with its settings, prompts, and the parts that
    shape an answer: those of a stack that compresses or routes are not served by one that does not.

    Args:
        cache: Where responses, answers and found nodes are kept.
        corpus: Name and version of what is searched, such as "handbook-v7"; needed with a cache.
        require: Fields out of "tenant" and "corpus" without which no request is looked up or kept.
        in_flight: The calls on their way: those that ask the same share one.
        trim: Leaves out nodes.
        compress: Leaves out parts of those that are left.
        memory: Keeps conversations, and shortens them where that pays.
        router: Chooses between the LLM and a cheaper one, where one is given.
        judge: Decides whether the cheaper LLM's answer will do, where there is no router; None is
            rules, and that the answer is in the nodes.
        threshold: Lowest score, in [0, 1], at which the cheaper LLM's answer is shown.
        budgets: What may be spent.
        ledger: Where calls are written down.
        prices: What they are priced with; None is the price list.
        holdout: Runs a share of the requests without all of this but budgets and ledger.

    Raises:
        ConfigError: if `require` names another field; from methods that search, if there is a cache
            and no corpus.

    Example:
        >>> from costwise_core import MemoryStore
        >>> from llama_index.core.llms import MockLLM
        >>> stack = Stack(cache=Cache(MemoryStore()))
        >>> llm = stack.llm(MockLLM(max_tokens=2))
        >>> with stack.track(feature="faq") as bill:
        ...     llm.complete("What is RAG?").text, llm.complete("what is  RAG?").text
        ('text text', 'text text')
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
        embedder: "Embedder | BaseEmbedding | None" = None,
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
            embedder: Costwise's or LlamaIndex's; None is the model of `costwise-models`. The one
                that made the vectors of your index saves work.
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

    def llm(self, llm: LLM, cheaper: LLM | None = None) -> LLM:
        """Return an LLM: the cache outside, then the router, budgets around each LLM.

        Args:
            llm: The LLM that is paid for.
            cheaper: Answers where the router, or else the judge, says that it will do.

        Example:
            >>> from llama_index.core.llms import MockLLM
            >>> Stack().llm(MockLLM(max_tokens=1)).complete("Is it?").text
            'text'
        """
        paid = self._paid(llm, cheaper)
        if self.cache is None:
            return paid
        return CachedLLM(llm=paid, cache=self.cache, require=self.require, **self._sharing())

    def retriever(self, source: BaseIndex[Any] | BaseRetriever) -> BaseRetriever:
        """Return a retriever that looks up before it searches.

        Nodes are trimmed and compressed by `postprocessors`, as LlamaIndex does.

        Args:
            source: Finds nodes; let it find some twenty where there is a `trim`.

        Raises:
            ConfigError: if there is a cache and no corpus.

        Example:
            >>> from llama_index.core import SummaryIndex
            >>> from llama_index.core.schema import TextNode
            >>> index = SummaryIndex([TextNode(text="RAG is a method.")])
            >>> [found] = Stack().retriever(index).retrieve("What is RAG?")
            >>> found.text
            'RAG is a method.'
        """
        retriever = _retriever(source)
        if self.cache is None:
            return retriever
        return CachedRetriever(
            retriever,
            cache=self.cache,
            corpus=self._corpus(),
            require=self.require,
            in_flight=self.in_flight,
        )

    def postprocessors(self) -> list[BaseNodePostprocessor]:
        """Return what trims and compresses nodes, in that order.

        Example:
            >>> from costwise_core import RerankTrim
            >>> len(Stack(trim=RerankTrim(top_k=2)).postprocessors())
            1
        """
        return [CostwiseCompressor(one) for one in (self.trim, self.compress) if one is not None]

    def query_engine(
        self,
        source: BaseIndex[Any] | BaseRetriever,
        llm: LLM,
        *,
        cheaper: LLM | None = None,
        **settings: Any,
    ) -> BaseQueryEngine:
        """Return a query engine that looks a question up before anything else.

        A hit spares search, compression and LLM. Responses carry the documents they were drawn
        from, so a changed document takes them along.

        Args:
            source: Finds nodes; let it find some twenty where there is a `trim`.
            llm: The LLM that is paid for.
            cheaper: As for `llm`.
            **settings: As for `RetrieverQueryEngine.from_args`: `streaming`, `text_qa_template`,
                `response_mode` and so on.

        Raises:
            ConfigError: if there is a cache and no corpus.

        Example:
            >>> from costwise_core import MemoryStore
            >>> from llama_index.core import SummaryIndex
            >>> from llama_index.core.llms import MockLLM
            >>> from llama_index.core.schema import TextNode
            >>> index = SummaryIndex([TextNode(text="RAG retrieves, then generates.")])
            >>> stack = Stack(cache=Cache(MemoryStore()), corpus="docs-v1")
            >>> engine = stack.query_engine(index, MockLLM(max_tokens=2))
            >>> _, second = engine.query("What is RAG?"), engine.query("what is  RAG?")
            >>> second.metadata["costwise"]["hit"]
            'exact'
        """
        retriever = _retriever(source)
        engine: BaseQueryEngine = RetrieverQueryEngine.from_args(
            retriever,
            llm=self._paid(llm, cheaper),
            node_postprocessors=[*settings.pop("node_postprocessors", ()), *self.postprocessors()],
            **settings,
        )
        if self.cache is None:
            return engine
        return StackQueryEngine(
            engine,
            retriever=retriever,
            cache=self.cache,
            **self._looking_up(engine, cheaper or llm),
        )

    def chat_engine(
        self,
        source: BaseIndex[Any] | BaseRetriever,
        llm: LLM,
        *,
        conversation: Conversation,
        cheaper: LLM | None = None,
        **settings: Any,
    ) -> BaseChatEngine:
        """Return a chat engine for one conversation, over what the source finds.

        Args:
            source: As for `query_engine`.
            llm: As for `query_engine`.
            conversation: Whose and which; the memory keeps it.
            cheaper: As for `llm`.
            **settings: As for `ContextChatEngine.from_defaults`: `system_prompt`,
                `context_template` and so on.

        Raises:
            ConfigError: if there is a cache and no corpus.

        Example:
            >>> from llama_index.core import SummaryIndex
            >>> from llama_index.core.llms import MockLLM
            >>> from llama_index.core.schema import TextNode
            >>> index = SummaryIndex([TextNode(text="We ship to Malta.")])
            >>> chat = Stack().chat_engine(
            ...     index, MockLLM(max_tokens=2), conversation=Conversation(id="42")
            ... )
            >>> str(chat.chat("Do you ship to Malta?"))
            'text text'
        """
        retriever, memory = _retriever(source), self.chat_memory(conversation)
        # LlamaIndex makes what it is called on, and says it makes its own class.
        context: Any = Context.from_defaults(
            retriever=retriever,
            llm=self._paid(llm, cheaper),
            memory=memory,
            node_postprocessors=[*settings.pop("node_postprocessors", ()), *self.postprocessors()],
            **settings,
        )
        engine: BaseQueryEngine = AnswersInContext(context)
        if self.cache is not None:
            engine = CachedTurns(
                engine,
                retriever=retriever,
                cache=self.cache,
                **self._looking_up(context, cheaper or llm),
            )
        return StackChatEngine(engine, memory=memory, conversation=conversation)

    def chat_memory(self, conversation: Conversation) -> BaseMemory:
        """Return a conversation's memory, for chat engines and agents.

        Args:
            conversation: Whose and which.

        Example:
            >>> Stack().chat_memory(Conversation(id="42")).get_all()
            []
        """
        if self.memory is None:
            return ChatMemoryBuffer.from_defaults(token_limit=TOKEN_LIMIT)
        return RollingSummaryMemory.from_defaults(memory=self.memory, conversation=conversation)

    def track(self, **tags: str) -> AbstractContextManager[Bill]:
        """Put all calls inside the block on a bill and in the stack's ledger.

        Args:
            **tags: As for `llamaindex_costwise.track`.

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

    def _corpus(self) -> str:
        if not self.corpus:
            raise ConfigError(
                "corpus must name what is searched and its version, such as 'handbook-v7': answers "
                "are kept for one corpus only."
            )
        return self.corpus

    def _looking_up(self, engine: Any, llm: LLM) -> dict[str, Any]:
        return {
            "model": llm.metadata.model_name,
            "recipe": [described(one) for one in engine._node_postprocessors],  # noqa: SLF001
            "corpus": self._corpus(),
            "require": self.require,
            "in_flight": self.in_flight,
        }

    def _sharing(self) -> dict[str, Any]:
        return {} if self.in_flight is None else {"in_flight": self.in_flight}

    def _paid(self, llm: LLM, cheaper: LLM | None) -> LLM:
        llm = budgeted(llm, self.budgets)
        if cheaper is None:
            return llm
        return routed(
            llm,
            budgeted(cheaper, self.budgets),
            router=self.router,
            judge=self._judge(),
            threshold=self.threshold,
            prices=self.prices,
        )

    def _judge(self) -> AnswerJudge | None:
        if self.router is not None or self.judge is not None:
            return self.judge
        return local_first("cheaper")["judge"]


def _retriever(source: BaseIndex[Any] | BaseRetriever) -> BaseRetriever:
    return source.as_retriever() if isinstance(source, BaseIndex) else source
