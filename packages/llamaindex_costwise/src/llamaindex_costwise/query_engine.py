"""A query engine that answers from a cache where it may, sources included."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle

from costwise_core.cache import Cache, fingerprint, split_question
from costwise_core.cache.agreement import Turn
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.versions import Versions
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Hit, Scope
from llamaindex_costwise._documents import documents_of
from llamaindex_costwise._ending import heard, unknown, worst
from llamaindex_costwise._request import facts_of, settings_of
from llamaindex_costwise._response import (
    areplay,
    pack_response,
    replay,
    unfit_response,
    unpack_response,
)
from llamaindex_costwise._scoped import check_corpus, given, scope_of
from llamaindex_costwise._usage import estimated_usage
from llamaindex_costwise.embedding import with_vector
from llamaindex_costwise.events import announce

__all__ = ["CachedQueryEngine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One query that may be answered from the cache."""

    question: str
    scope: Scope
    facts: CallFacts
    near: bool
    turns: tuple[Turn, ...] = ()
    endings: list[str] = field(default_factory=list)


class CachedQueryEngine(BaseQueryEngine):
    """Wraps any query engine and spares it the questions it has answered before.

    A hit spares retrieval, reranking and the model. The response comes back as it was: text and
    source nodes with ids, scores, relationships and metadata, streamed if the engine streams; its
    `metadata["costwise"]` says why it was served. An engine that returns Pydantic objects is
    called every time. When a source comes in another version than before, the responses drawn from
    the old one are deleted. A response is not stored if a model call behind it was cut off.

    Where the cache embeds questions with the index's own embed model, a miss hands its vector to
    retrieval, which then embeds nothing.

    Args:
        engine: The engine that answers what the cache cannot.
        cache: Where responses are kept, and the policy for similar questions.
        corpus: Name and version of what the engine searches. Change it when documents are added:
            answers are served within one corpus only. `scoped(corpus=...)` wins over it.
        require: Names of scope fields ("tenant") without which nothing is looked up or stored.
        in_flight: The queries on their way: those that ask the same at once share one. Give several
            engines the same one to share between them; None is one of its own.

    Raises:
        ConfigError: if `corpus` is empty.

    Example:
        >>> from llama_index.core import MockEmbedding, SummaryIndex
        >>> from llama_index.core.llms import MockLLM
        >>> from llama_index.core.schema import TextNode
        >>> from costwise_core import Cache, MemoryStore
        >>> index = SummaryIndex([TextNode(text="RAG retrieves, then generates.")])
        >>> engine = CachedQueryEngine(
        ...     index.as_query_engine(llm=MockLLM(max_tokens=2)),
        ...     cache=Cache(MemoryStore()),
        ...     corpus="handbook-v7",
        ... )
        >>> _, second = engine.query("What is RAG?"), engine.query("What is RAG?")
        >>> second.metadata["costwise"]["hit"], len(second.source_nodes)
        ('exact', 1)
    """

    def __init__(
        self,
        engine: BaseQueryEngine,
        *,
        cache: Cache,
        corpus: str,
        require: tuple[str, ...] = (),
        in_flight: InFlight | None = None,
    ) -> None:
        check_corpus(corpus, "engine")
        super().__init__(callback_manager=engine.callback_manager)
        self.engine = engine
        self.cache = cache
        self.corpus = corpus
        self.in_flight = in_flight if in_flight is not None else InFlight()
        self.versions = Versions()
        self._require = require

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Retrieve as the wrapped engine does."""
        return self.engine.retrieve(query_bundle)

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Synthesize as the wrapped engine does."""
        return self.engine.synthesize(query_bundle, nodes, additional_source_nodes)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Synthesize as the wrapped engine does, without blocking the event loop."""
        return await self.engine.asynthesize(query_bundle, nodes, additional_source_nodes)

    def get_prompts(self) -> PromptDictType:
        """Return the wrapped engine's prompts; LlamaIndex cannot set those two levels down."""
        return self.engine.get_prompts()

    def update_prompts(self, prompts_dict: PromptDictType) -> None:
        """Change the wrapped engine's prompts; answers to the old ones are served no more."""
        self.engine.update_prompts(prompts_dict)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        request = self._request(query_bundle)
        if request is None:
            return self.engine.query(query_bundle)
        claim = run(self._claim(request, query_bundle))
        if not isinstance(claim, Lead):
            stored, streamed = claim
            if not streamed:
                return stored
            tokens = replay(stored.response or "")
            return StreamingResponse(tokens, stored.source_nodes, stored.metadata)
        return self._paid(request, query_bundle, claim)

    def _paid(self, request: _Request, query: QueryBundle, lead: Lead) -> RESPONSE_TYPE:
        with ExitStack() as duties:
            duties.enter_context(lead)
            since = self.cache.mark()
            asked = self._with_vector(query, lead)
            with heard(request.endings):
                response = self.engine.query(asked)
            if not isinstance(response, StreamingResponse):
                run(self._keep(request, lead, response, since))
                return response
            duties.pop_all()
        return StreamingResponse(
            self._tee(request, lead, response, since), response.source_nodes, response.metadata
        )

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        request = self._request(query_bundle)
        if request is None:
            return await self.engine.aquery(query_bundle)
        claim = await arun(self._claim(request, query_bundle))
        if not isinstance(claim, Lead):
            stored, streamed = claim
            if not streamed:
                return stored
            tokens = areplay(stored.response or "")
            return AsyncStreamingResponse(tokens, stored.source_nodes, stored.metadata)
        return await self._apaid(request, query_bundle, claim)

    async def _apaid(self, request: _Request, query: QueryBundle, lead: Lead) -> RESPONSE_TYPE:
        with ExitStack() as duties:
            duties.enter_context(lead)
            since = await self.cache.amark()
            asked = self._with_vector(query, lead)
            with heard(request.endings):
                response = await self.engine.aquery(asked)
            if not isinstance(response, AsyncStreamingResponse):
                await arun(self._keep(request, lead, response, since))
                return response
            duties.pop_all()
        return AsyncStreamingResponse(
            self._atee(request, lead, response, since), response.source_nodes, response.metadata
        )

    # --- the cache around one query -------------------------------------------------------------

    def _request(self, query: QueryBundle) -> _Request | None:
        """Return what to look up, or None (counted) if this query must go to the engine."""
        facts = CallFacts()

        def own() -> Scope:
            nonlocal facts
            llm = self._llm()
            facts = CallFacts() if llm is None else facts_of(llm, (), {})
            return self._scope(query)

        scope = scope_of(query, self.cache, self._require, own)
        if scope is None:
            return None
        return _Request(
            question=query.query_str,
            scope=scope,
            facts=facts,
            near=split_question(query.query_str).near,
            turns=self._turns(query),
        )

    def _turns(self, query: QueryBundle) -> tuple[Turn, ...]:  # noqa: ARG002 - for chat engines
        """Return the conversation before the question."""
        return ()

    def _llm(self) -> Any:
        return _part(_part(self.engine, "_response_synthesizer"), "_llm")

    def _scope(self, query: QueryBundle) -> Scope:
        synthesizer, llm = _part(self.engine, "_response_synthesizer"), self._llm()
        prompts = self.engine.get_prompts()
        return Scope(
            corpus=self.corpus,
            model=llm.metadata.model_name if llm is not None else "",
            template=fingerprint(
                type(self.engine).__qualname__,
                type(synthesizer).__qualname__,
                str(_part(synthesizer, "_streaming")),
                settings_of(llm) if llm is not None else "",
                *(f"{name}\0{prompts[name].get_template()}" for name in sorted(prompts)),
                volatile=(),
            ),
            # Whatever else retrieval would go by.
            context=given(query),
            kind="llama_index.response",
        )

    def _claim(self, request: _Request, query: QueryBundle) -> Flow[tuple[Response, bool] | Lead]:
        """Return a response to serve and whether it was a stream, or the right to pay for one."""
        found = yield from find_or_lead(
            self.cache,
            self.in_flight,
            request.question,
            request.scope,
            turns=request.turns,
            facts=request.facts,
            near=request.near,
            # What the model calls behind it say must not mix with what is heard here.
            renew=_Renewal(self, replace(request, endings=[]), query),
        )
        if not isinstance(found, Hit):
            return found
        try:
            served = unpack_response(found)
            announce(found, operation="query", model=request.scope.model)
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.take_back(found, "damaged", "a stored response could not be read")
            return self.in_flight.alone(request.question)
        return served

    def _keep(
        self,
        request: _Request,
        lead: Lead,
        response: RESPONSE_TYPE,
        since: int,
        *,
        streamed: bool = False,
    ) -> Flow[None]:
        if not isinstance(response, Response):
            self.cache.count_not_stored("structured")
            return
        try:
            documents = documents_of(source.node for source in response.source_nodes)
            current = yield from self.versions.notice(self.cache, documents, since=since)
            if not current:
                self.cache.count_not_stored("outdated")
                return
            finish = worst(request.endings)
            reason = "unknown_ending" if unknown(finish) else unfit_response(response)
            packed = None if reason else pack_response(response, streamed=streamed)
            if packed is None:
                self.cache.count_not_stored(reason or "not_exact")
                return
            prompt = "\n".join(
                [request.question, *(n.get_content() for n in response.source_nodes)]
            )
            text = response.response or ""
            usage = estimated_usage(prompt, text, request.scope.model)
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.count_not_stored("unreadable")
            return
        kept = yield from call(
            self.cache.store,
            request.question,
            request.scope,
            packed,
            turns=request.turns,
            facts=replace(request.facts, finish_reason=finish),
            near=request.near,
            text=text,
            usage=usage,
            vector=lead.vector,
            documents=documents,
            since=since,
        )
        if kept.fit:
            lead.share(packed, usage)

    def _with_vector(self, query: QueryBundle, lead: Lead) -> QueryBundle:
        model = _part(_part(self.engine, "_retriever"), "_embed_model")
        return with_vector(query, lead.vector, model, self.cache.embedder)

    def _tee(
        self, request: _Request, lead: Lead, response: StreamingResponse, since: int
    ) -> Generator[str, None, None]:
        tokens: list[str] = []
        with lead:
            try:
                stream = iter(response.response_gen)
                while (token := _next(stream, request.endings)) is not None:
                    tokens.append(token)
                    yield token
            except BaseException:
                self.cache.count_not_stored("unfinished")
                raise
            whole = Response("".join(tokens), response.source_nodes, response.metadata)
            run(self._keep(request, lead, whole, since, streamed=True))

    async def _atee(
        self, request: _Request, lead: Lead, response: AsyncStreamingResponse, since: int
    ) -> AsyncGenerator[str, None]:
        tokens: list[str] = []
        with lead:
            try:
                stream = aiter(response.async_response_gen())
                while (token := await _anext(stream, request.endings)) is not None:
                    tokens.append(token)
                    yield token
            except BaseException:
                self.cache.count_not_stored("unfinished")
                raise
            whole = Response("".join(tokens), response.source_nodes, response.metadata)
            await arun(self._keep(request, lead, whole, since, streamed=True))


@dataclass(frozen=True, slots=True)
class _Renewal:
    """Pays for a response behind, and reads it to its end if it is a stream."""

    engine: CachedQueryEngine
    request: _Request
    query: QueryBundle

    def __call__(self, lead: Lead) -> Flow[None]:
        return call(self.pay, lead)

    def pay(self, lead: Lead) -> None:
        response = self.engine._paid(self.request, self.query, lead)  # noqa: SLF001 - same file
        if isinstance(response, StreamingResponse):
            deque(response.response_gen, maxlen=0)

    async def apay(self, lead: Lead) -> None:
        response = await self.engine._apaid(self.request, self.query, lead)  # noqa: SLF001
        if isinstance(response, AsyncStreamingResponse):
            async for _ in response.async_response_gen():
                pass


def _part(owner: object, name: str) -> Any:
    """Return a part that LlamaIndex's own engines have and others may not."""
    return getattr(owner, name, None)


def _next(stream: Iterator[str], endings: list[str]) -> str | None:
    with heard(endings):
        return next(stream, None)


async def _anext(stream: AsyncIterator[str], endings: list[str]) -> str | None:
    with heard(endings):
        return await anext(stream, None)
