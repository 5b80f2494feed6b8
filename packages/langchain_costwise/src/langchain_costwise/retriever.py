"""A retriever that looks a question up before it searches."""

import json
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from pydantic import Field, PrivateAttr, field_validator

from costwise_core.cache import Cache, fingerprint, split_question
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.versions import Versions
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Hit, Miss, Scope
from langchain_costwise._answers import bounded_json
from langchain_costwise._documents import documents_of
from langchain_costwise.cache import SAID, Said, check_names, request_context, with_said

__all__ = ["CachedRetriever", "identity"]

_FOUND: Final = CallFacts(by_model=False)


class CachedRetriever(BaseRetriever):
    """Serve the documents found for a question asked before, without embedding or searching.

    Documents come back with id and metadata exactly as they were found, and as copies. Found
    documents that JSON cannot keep exactly are not stored, nor is an empty result. A result
    remembers which documents it holds, in which version (the metadata's "version", else the
    content); when a search brings a document in another version, all results with the old one go.

    Args:
        retriever: The retriever to ask on a miss.
        cache: Where results are kept; may be shared with other caches.
        corpus: Name and version of what is searched. Change it when documents change, or delete by
            it: `cache.clear(Selection(corpus="handbook-v7"))`.
        k: How many documents to ask for and to return; None leaves it to the retriever. May also be
            given per call: `retriever.invoke(question, k=3)`.
        require: Fields out of "tenant" and "corpus" that a request must have; one without is passed
            on uncached.
        in_flight: The searches on their way: those for the same question share one.

    Example:
        >>> from costwise_core import Cache, MemoryStore
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
        >>> _ = store.add_texts(["RAG is a method."])
        >>> retriever = CachedRetriever(
        ...     retriever=store.as_retriever(), cache=Cache(MemoryStore()), corpus="docs-v1"
        ... )
        >>> retriever.invoke("What is RAG?") == retriever.invoke("what is  RAG?")
        True
        >>> retriever.cache.stats.hits["exact"]
        1
    """

    retriever: BaseRetriever
    cache: Cache = Field(exclude=True)
    corpus: str = Field(min_length=1)
    k: int | None = Field(default=None, gt=0)
    require: tuple[str, ...] = ()
    in_flight: InFlight = Field(default_factory=InFlight, exclude=True)
    _versions: Versions = PrivateAttr(default_factory=Versions)

    @property
    def invalidated(self) -> int:
        """Stored results deleted because a search brought one of their documents changed."""
        return self._versions.invalidated

    @field_validator("require")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_names("require", names, ("tenant", "corpus"))
        return names

    def invoke(
        self,
        input: str,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Serve what was found for the question before, or search and keep what is found."""
        return super().invoke(input, config, **with_said(config, kwargs))

    async def ainvoke(
        self,
        input: str,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do what `invoke` does, without blocking the event loop."""
        return await super().ainvoke(input, config, **with_said(config, kwargs))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return run(self._find(query, kwargs, run_manager.get_child()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await arun(self._find(query, kwargs, run_manager.get_child()))

    def _find(self, query: str, kwargs: dict[str, Any], callbacks: Any) -> Flow[list[Document]]:
        said = kwargs.pop(SAID, None)
        if self.k is not None:
            kwargs.setdefault("k", self.k)
        scope = self._scope(said, kwargs)
        if isinstance(scope, Miss):
            self.cache.count_miss(scope.reason, scope.why)
            return (yield from self._search(query, kwargs, callbacks))
        near = split_question(query).near

        def renew(lead: Lead) -> Flow[list[Document]]:
            return self._paid(lead, query, scope, dict(kwargs), None, near=near)

        claim = yield from find_or_lead(
            self.cache, self.in_flight, query, scope, near=near, renew=renew
        )
        if isinstance(claim, Hit):
            if documents := self._read(claim):
                return documents
            claim = self.in_flight.alone(query)
        return (yield from self._paid(claim, query, scope, kwargs, callbacks, near=near))

    def _paid(
        self,
        lead: Lead,
        query: str,
        scope: Scope,
        kwargs: dict[str, Any],
        callbacks: Any,
        *,
        near: bool,
    ) -> Flow[list[Document]]:
        with lead:
            since = yield from call(self.cache.mark)
            documents = yield from self._search(query, kwargs, callbacks)
            written, used = _written(documents), documents_of(documents)
            current = yield from self._versions.notice(self.cache, used, since=since)
            if written is None:
                self.cache.count_not_stored("not_json" if documents else "no_documents")
            elif not current:
                self.cache.count_not_stored("outdated")
            else:
                stored = yield from call(
                    self.cache.store,
                    query,
                    scope,
                    written,
                    facts=_FOUND,
                    near=near,
                    text="\n".join(document.page_content for document in documents),
                    vector=lead.vector,
                    documents=used,
                    since=since,
                )
                if stored.fit:
                    lead.share(written)
        return documents

    def _search(self, query: str, kwargs: dict[str, Any], callbacks: Any) -> Flow[list[Document]]:
        documents = yield from call(
            self.retriever.invoke, query, config={"callbacks": callbacks}, **kwargs
        )
        # Retrievers that know no k ignore it.
        return documents[: kwargs.get("k")]

    def _scope(self, said: Said, kwargs: dict[str, Any]) -> Scope | Miss:
        try:
            context = request_context(said)
            arguments = json.dumps(kwargs, sort_keys=True)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            return Miss(reason="no_scope", why="the request's fields or arguments cannot be read")
        if context.uncached:
            return Miss(reason="bypass", why="the caller asked for no cache")
        scope = context.complete(
            Scope(
                kind="langchain-documents",
                corpus=self.corpus,
                # A corpus named for the whole request must not mix two retrievers' results.
                template=self.corpus,
                tools=fingerprint(identity(self.retriever), arguments, volatile=()),
            ),
            self.require,
        )
        return Miss(reason="no_scope", why=scope) if isinstance(scope, str) else scope

    def _read(self, hit: Hit) -> list[Document] | None:
        documents = []
        try:
            documents = [
                Document(id=item["id"], page_content=item["text"], metadata=item["metadata"])
                for item in bounded_json(hit.answer)
            ]
        except (ValueError, KeyError, TypeError) as error:
            self.cache.count_error(error)
        if documents:
            return documents
        self.cache.take_back(hit, "damaged", "the stored result could not be read")
        return None


def identity(retriever: BaseRetriever) -> str:
    """Return the retriever's class and plain settings; what it searches is told by the corpus."""
    settings = {
        name: value
        for name, value in retriever
        if name not in {"tags", "metadata"} and _plain(value)
    }
    return json.dumps([type(retriever).__qualname__, settings], sort_keys=True)


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float)


def _written(documents: Sequence[Document]) -> str | None:
    if not documents or any(type(document) is not Document for document in documents):
        return None
    rows = [
        {"id": item.id, "text": item.page_content, "metadata": item.metadata} for item in documents
    ]
    try:
        text = json.dumps(rows, ensure_ascii=False, allow_nan=False)
        return text if json.loads(text) == rows else None
    except (TypeError, ValueError):
        return None
