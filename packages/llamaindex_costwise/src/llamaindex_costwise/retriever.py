"""A retriever that looks a question up before it searches."""

import json
from collections.abc import Mapping
from enum import Enum
from functools import partial

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters

from costwise_core.cache import Cache, fingerprint, split_question
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.versions import Versions
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Hit, Scope
from llamaindex_costwise._documents import documents_of
from llamaindex_costwise._response import pack_nodes, unfit_nodes, unpack_nodes
from llamaindex_costwise._scoped import check_corpus, given, scope_of
from llamaindex_costwise.embedding import with_vector

__all__ = ["CachedRetriever", "identity"]

_FOUND = CallFacts(by_model=False)


class CachedRetriever(BaseRetriever):
    """Serve the nodes found for a question asked before, without embedding or searching.

    Nodes come back with ids, scores, relationships and metadata exactly as they were found, and as
    copies. Nodes that JSON cannot keep exactly are not stored, nor is an empty result. When a
    document is found in another version than before, what was drawn from the old one is deleted.

    Args:
        retriever: The retriever to ask on a miss.
        cache: Where results are kept; may be shared with other caches.
        corpus: Name and version of what is searched. `scoped(corpus=...)` wins over it.
        require: Names of scope fields ("tenant") without which nothing is looked up or stored.
        in_flight: The searches on their way: those for the same question share one.

    Raises:
        ConfigError: if `corpus` is empty.

    Example:
        >>> from llama_index.core import SummaryIndex
        >>> from llama_index.core.schema import TextNode
        >>> from costwise_core import Cache, MemoryStore
        >>> index = SummaryIndex([TextNode(text="RAG is a method.")])
        >>> retriever = CachedRetriever(
        ...     index.as_retriever(), cache=Cache(MemoryStore()), corpus="docs-v1"
        ... )
        >>> retriever.retrieve("What is RAG?") == retriever.retrieve("what is  RAG?")
        True
        >>> retriever.cache.stats.hits["exact"]
        1
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        *,
        cache: Cache,
        corpus: str,
        require: tuple[str, ...] = (),
        in_flight: InFlight | None = None,
    ) -> None:
        check_corpus(corpus, "retriever")
        super().__init__(callback_manager=retriever.callback_manager)
        self.retriever = retriever
        self.cache = cache
        self.corpus = corpus
        self.in_flight = in_flight if in_flight is not None else InFlight()
        self.versions = Versions()
        # LlamaIndex's retrievers keep settings in private attributes, which are read each time.
        # Public ones of other retrievers may be counters, so those are settings as they are now.
        self._public = json.dumps(identity(retriever, public=True))
        self._require = require

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return run(self._find(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await arun(self._find(query_bundle))

    def _find(self, query: QueryBundle) -> Flow[list[NodeWithScore]]:
        scope = scope_of(query, self.cache, self._require, lambda: self._scope(query))
        if scope is None:
            return (yield from self._search(query))
        near = split_question(query.query_str).near
        renew = partial(self._paid, query, scope, near=near)
        claim = yield from find_or_lead(
            self.cache, self.in_flight, query.query_str, scope, facts=_FOUND, near=near, renew=renew
        )
        if isinstance(claim, Hit):
            try:
                return unpack_nodes(claim)
            except Exception as error:  # noqa: BLE001 - a cache fails open
                self.cache.count_error(error)
                self.cache.take_back(claim, "damaged", "a stored result could not be read")
            claim = self.in_flight.alone(query.query_str)
        return (yield from self._paid(query, scope, claim, near=near))

    def _paid(
        self, query: QueryBundle, scope: Scope, lead: Lead, *, near: bool
    ) -> Flow[list[NodeWithScore]]:
        model = getattr(self.retriever, "_embed_model", None)
        with lead:
            since = yield from call(self.cache.mark)
            found = yield from self._search(
                with_vector(query, lead.vector, model, self.cache.embedder)
            )
            yield from self._keep(query.query_str, scope, lead, found, near=near, since=since)
        return found

    def _search(self, query: QueryType) -> Flow[list[NodeWithScore]]:
        return call(self.retriever.retrieve, query)

    def _keep(
        self,
        question: str,
        scope: Scope,
        lead: Lead,
        found: list[NodeWithScore],
        *,
        near: bool,
        since: int,
    ) -> Flow[None]:
        try:
            reason = unfit_nodes(found) if found else "no_documents"
            packed = None if reason else pack_nodes(found)
            documents = documents_of(one.node for one in found)
            text = "\n".join(one.node.get_content() for one in found)
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.count_not_stored("unreadable")
            return
        current = yield from self.versions.notice(self.cache, documents, since=since)
        if packed is None or not current:
            self.cache.count_not_stored(reason or ("outdated" if packed else "not_exact"))
            return
        kept = yield from call(
            self.cache.store,
            question,
            scope,
            packed,
            facts=_FOUND,
            near=near,
            text=text,
            vector=lead.vector,
            documents=documents,
            since=since,
        )
        if kept.fit:
            lead.share(packed)

    def _scope(self, query: QueryBundle) -> Scope:
        return Scope(
            kind="llama_index.nodes",
            corpus=self.corpus,
            # A corpus named for the whole request must not mix two retrievers' results.
            template=self.corpus,
            tools=fingerprint(self._public, json.dumps(identity(self.retriever)), volatile=()),
            context=given(query),
        )


def identity(value: object, *, public: bool = False) -> object:
    """Return the retriever's classes and plain settings; what it searches is told by the corpus."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, BaseRetriever):
        settings = {
            name: identity(held, public=public)
            for name, held in sorted(vars(value).items())
            if _searches(held) or name.startswith("_") != public
        }
        return [type(value).__qualname__, settings]
    if isinstance(value, MetadataFilters | Enum):
        return value.model_dump_json() if isinstance(value, BaseModel) else value.name
    if isinstance(value, Mapping):
        return {str(name): identity(item, public=public) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item, public=public) for item in value]
    return type(value).__qualname__


def _searches(held: object) -> bool:
    return any(
        isinstance(one, BaseRetriever) for one in (held if isinstance(held, list) else [held])
    )
