"""A response cache for `set_llm_cache` that matches on the question, inside an exact scope."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, overload

from langchain_core.caches import BaseCache
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import Generation
from langchain_core.runnables import RunnableConfig, ensure_config

from costwise_core.cache import VOLATILE, Cache, Volatile
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.cache.changes import Documents
from costwise_core.cache.judge import Judge
from costwise_core.context import RequestContext, current_request
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_refresh import Renew
from costwise_core.dedup_stream import Follow
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, nearest
from costwise_core.protocols import CacheStore, Completer, Embedder, NearPolicy
from costwise_core.tokens import count_tokens
from costwise_core.tracking import record_call
from costwise_core.types import Hit, Miss, Selection, Usage
from langchain_costwise._answers import read_answers, write_answers
from langchain_costwise._completer import as_completer
from langchain_costwise._convert import TEXT, Request, prompt_text, read_request
from langchain_costwise.embeddings import as_embedder

__all__ = [
    "SAID",
    "ModelCall",
    "Said",
    "SemanticCache",
    "check_names",
    "request_context",
    "with_said",
]

Said: TypeAlias = Mapping[str, object] | None
"""Fields of `RequestContext`, as a caller writes them into a config."""

SAID: Final = "costwise"
"""Where in a config's `configurable` those fields are."""

_SCOPE_FIELDS = ("tenant", "model", "corpus")


class ModelCall(NamedTuple):
    """One call of a chat model, as LangChain writes it for a cache.

    Args:
        prompt: A dump of the messages.
        llm_string: The model and its settings.
        said: Fields of `RequestContext`, if the caller gave any.
        tools: Whether the model is offered tools.
    """

    prompt: str
    llm_string: str
    said: Said
    tools: bool


class SemanticCache(BaseCache):
    """Serve answers to questions asked before, in LangChain's own cache slot.

    Similarity is measured on the last question alone. Model, settings, tools, system prompt,
    retrieved context, tenant and corpus must be equal; earlier turns must say the same where the
    question leans on them. Say whose a request is with
    `costwise_core.scoped(tenant=...)` around the call, or inside a chain, graph or agent with
    `config={"configurable": {"costwise": {"tenant": ...}}}`, which wins. LangChain does not show a
    cache the config of a direct `model.invoke(..., config=...)`: use `scoped` there, or
    `CachedChatModel`, which sees it (and caches streams too).

    Hits are new messages: a new id, no tokens, and `response_metadata["costwise"]` with the tier,
    the similarity, the stored question, the reason and the tokens saved. Whatever fails inside is
    counted in `stats` and never reaches the model call.

    Args:
        store: Where answers are kept: a store, the path of a SQLite file, or a whole `Cache`.
        embedder: Makes the near tier possible: a costwise embedder or LangChain `Embeddings`.
        policy: Decides whether a similar question's answer may be served; by default
            `RiskControl()`, which promises at most 2 % wrong answers and learns from the traffic.
        admission: What is neither looked up nor stored. Tool calls, answers drawn from tool results
            and structured output are kept only with
            `CachePolicy(allow=frozenset({"tool_calls", "tool_derived", "structured"}))`.
        rewriter: Makes follow-up questions self-contained: a small chat model, or any `Completer`.
        judge: Says whether two answers are the same, so that the policy learns.
        ttl: Seconds an answer may be served for; None is for ever.
        require: Fields out of "tenant", "model" and "corpus" that a request must have; one without
            is neither looked up nor stored.
        volatile: What may differ between two system prompts that count as the same.

    Raises:
        ConfigError: if a name is unknown, or a `Cache` is given with settings it already has.

    Example:
        >>> from costwise_core import MemoryStore, scoped
        >>> from langchain_core.language_models import FakeListChatModel
        >>> cache = SemanticCache(MemoryStore(), require=("tenant",))
        >>> model = FakeListChatModel(responses=["Paris.", "No idea."], cache=cache)
        >>> with scoped(tenant="acme"):
        ...     first = model.invoke("What is the capital of France?")
        ...     again = model.invoke("what is the capital of  France?")
        >>> again.text, again.response_metadata["costwise"]["hit"]
        ('Paris.', 'exact')
    """

    def __init__(
        self,
        store: CacheStore | Cache | str | Path,
        *,
        embedder: Embedder | Embeddings | None = None,
        policy: NearPolicy | None = None,
        admission: CachePolicy | None = None,
        rewriter: Completer | BaseChatModel | None = None,
        judge: Judge | None = None,
        ttl: float | None = None,
        require: tuple[str, ...] = (),
        volatile: Sequence[Volatile] = VOLATILE,
    ) -> None:
        check_names("require", require, _SCOPE_FIELDS)
        self.cache = _cache(
            store,
            embedder=embedder,
            policy=policy,
            admission=admission,
            rewriter=rewriter,
            judge=judge,
            ttl=ttl,
        )
        self.require = require
        self.volatile = tuple(volatile)

    def lookup(self, prompt: str, llm_string: str, *, said: Said = None) -> list[Generation] | None:
        """Return fresh generations for a question asked before, or None. Never raises.

        Args:
            prompt: A dump of the messages, or plain text.
            llm_string: The model and its settings.
            said: Fields of `RequestContext`; None to take them from the running chain's config.
        """
        return run(self._lookup(prompt, llm_string, said))

    async def alookup(
        self, prompt: str, llm_string: str, *, said: Said = None
    ) -> list[Generation] | None:
        """Do what `lookup` does, without blocking the event loop."""
        return await arun(self._lookup(prompt, llm_string, said))

    def update(
        self,
        prompt: str,
        llm_string: str,
        return_val: Sequence[Generation],
        *,
        said: Said = None,
    ) -> None:
        """Keep an answer if it is fit to be served again. Never raises.

        Args:
            prompt: As in `lookup`.
            llm_string: As in `lookup`.
            return_val: What the model answered.
            said: As in `lookup`.
        """
        run(self._update(prompt, llm_string, return_val, said))

    async def aupdate(
        self,
        prompt: str,
        llm_string: str,
        return_val: Sequence[Generation],
        *,
        said: Said = None,
    ) -> None:
        """Do what `update` does, without blocking the event loop."""
        await arun(self._update(prompt, llm_string, return_val, said))

    def clear(self, **kwargs: Any) -> None:
        """Delete all answers, or those that match every field of `Selection` given.

        Raises:
            ConfigError: if a field is unknown; deleting everything instead would be worse.
            StoreError: if the store cannot.
        """
        self.cache.clear(_selection(kwargs))

    async def aclear(self, **kwargs: Any) -> None:
        """Do what `clear` does, without blocking the event loop."""
        await self.cache.aclear(_selection(kwargs))

    # --- the logic, written once --------------------------------------------------------------

    def _lookup(self, prompt: str, llm_string: str, said: Said) -> Flow[list[Generation] | None]:
        try:
            request = self._request(prompt, llm_string, said)
            if isinstance(request, Miss):
                self.cache.count_miss(request.reason, request.why)
                return None
            found = yield from call(
                self.cache.lookup,
                request.question,
                request.scope,
                turns=request.turns,
                facts=request.facts,
                near=request.near,
            )
            answers = self._read(found) if isinstance(found, Hit) else None
            if answers and isinstance(found, Hit) and request.scope.kind == TEXT:
                # Text models run no callbacks on a hit, so nobody else can write it down.
                yield from call(
                    record_call,
                    operation="completion",
                    model=request.scope.model,
                    tier=found.tier,
                    usage_then=found.usage_then,
                    why=found.why,
                )
            return answers  # noqa: TRY300
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            return None

    @overload
    def claim(
        self, call: ModelCall, in_flight: InFlight, *, renew: Renew | None = ...
    ) -> Flow[list[Generation] | Lead]: ...
    @overload
    def claim(
        self, call: ModelCall, in_flight: InFlight, *, renew: Renew | None = ..., live: bool
    ) -> Flow[list[Generation] | Lead | Follow[Any]]: ...
    def claim(
        self,
        call: ModelCall,
        in_flight: InFlight,
        *,
        renew: Renew | None = None,
        live: bool = False,
    ) -> Flow[list[Generation] | Lead | Follow[Any]]:
        """Look up, else wait for the same call in flight, else get the right to pay.

        Args:
            call: The call.
            in_flight: The calls on their way.
            renew: Makes the call with the lead it is given and keeps the answer. With it, an answer
                past its time is served once more, and renewed behind.
            live: Whether to follow another call's stream.

        Raises:
            Exception: a copy of what the call that was waited for raised.
        """
        try:
            request = self._request(call.prompt, call.llm_string, call.said)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            return in_flight.alone("")
        if isinstance(request, Miss):
            self.cache.count_miss(request.reason, request.why)
            return in_flight.alone("")
        # Calls of tools are nobody else's, unless they are stored for others too.
        private = call.tools and "tool_calls" not in self.cache.admission.allow
        found = yield from find_or_lead(
            self.cache,
            None if private else in_flight,
            request.question,
            request.scope,
            turns=request.turns,
            facts=request.facts,
            near=request.near,
            renew=renew,
            # Calls of tools get ids of their own, which only a whole answer can be given.
            live=live and not call.tools,
        )
        if not isinstance(found, Hit):
            return found
        return self._read(found) or in_flight.alone(request.question)

    def keep(
        self, call: ModelCall, generations: Sequence[Generation], lead: Lead, **drawn: Any
    ) -> Flow[None]:
        """Keep an answer if it is fit to be served again, and give it to all who wait for it."""
        written = yield from self._update(
            call.prompt, call.llm_string, generations, call.said, **drawn
        )
        if written is not None:
            lead.share(*written)

    def _read(self, hit: Hit) -> list[Generation] | None:
        try:
            return read_answers(hit)
        except ValueError as error:
            self.cache.count_error(error)
            self.cache.take_back(hit, "damaged", "the stored answer could not be read")
            return None

    def _update(
        self,
        prompt: str,
        llm_string: str,
        generations: Sequence[Generation],
        said: Said,
        *,
        sent: str = "",
        documents: Documents = (),
        since: int | None = None,
    ) -> Flow[tuple[str, Usage] | None]:
        """Store an answer and return it as it was written, None if it is not fit for others."""
        try:
            request = self._request(prompt, llm_string, said)
            if isinstance(request, Miss):
                self.cache.count_not_stored(request.reason)
                return None
            written = write_answers(generations, request.facts)
            if isinstance(written, str):
                self.cache.count_not_stored(written)
                return None
            usage = written.usage or _estimate(
                sent or prompt_text(prompt), generations, request.scope.model
            )
            stored = yield from call(
                self.cache.store,
                request.question,
                request.scope,
                written.answer,
                turns=request.turns,
                facts=written.facts,
                near=request.near,
                text=written.text,
                usage=usage,
                documents=documents,
                since=since,
            )
            return (written.answer, usage) if stored.fit else None  # noqa: TRY300
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            return None

    def _request(self, prompt: str, llm_string: str, said: Said) -> Request | Miss:
        context = self._context(said)
        if context.uncached:
            return Miss(reason="bypass", why="the caller asked for no cache")
        request = read_request(prompt, llm_string, context, volatile=self.volatile)
        if isinstance(request, Miss):
            return request
        scope = context.complete(request.scope, self.require)
        if isinstance(scope, str):
            return Miss(reason="no_scope", why=scope)
        return replace(request, scope=scope)

    def _context(self, said: Said) -> RequestContext:
        return request_context(said)


def with_said(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Add what the config says to the arguments: LangChain hands on no config of a direct call."""
    said = ensure_config(config).get("configurable", {}).get(SAID)
    return kwargs if said is None else {**kwargs, SAID: said}


def request_context(said: Said = None) -> RequestContext:
    """Return what the caller said: here, else in the running chain's config, on top of `scoped`.

    Raises:
        ConfigError: if a field is unknown or has the wrong type.
    """
    if said is None:
        said = ensure_config().get("configurable", {}).get(SAID, {})
    if not isinstance(said, Mapping):
        raise ConfigError(f"'costwise' in a config is a dict of fields, got {type(said).__name__}.")
    return current_request().override(said)


def _cache(store: CacheStore | Cache | str | Path, **settings: Any) -> Cache:
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(store, Cache):
        if given:
            raise ConfigError(
                f"{', '.join(given)} belong to the Cache that was given; set them there."
            )
        return store
    if "embedder" in given:
        from costwise_core.embed.cached import CachedEmbedder  # noqa: PLC0415 - imports numpy

        # A miss embeds the question once to look, once to store.
        given["embedder"] = CachedEmbedder(as_embedder(given["embedder"]))
    if "rewriter" in given:
        given["rewriter"] = as_completer(given["rewriter"])
    if isinstance(store, str | Path):
        from costwise_core.stores.sqlite import SQLiteStore  # noqa: PLC0415 - only if it is used

        store = SQLiteStore(store)
    return Cache(store, **given)


def _estimate(sent: str, generations: Sequence[Generation], model: str) -> Usage:
    return Usage(
        input_tokens=count_tokens(sent, model).tokens,
        output_tokens=sum(count_tokens(item.text, model).tokens for item in generations),
        estimated=True,
    )


def _selection(fields: dict[str, Any]) -> Selection:
    check_names("clear", fields, tuple(Selection.__dataclass_fields__))
    return Selection(**fields)


def check_names(what: str, names: Collection[str], known: Sequence[str]) -> None:
    """Raise a `ConfigError` that names the nearest for a name that is not known."""
    if isinstance(names, str):
        raise ConfigError(f"{what} takes a tuple of names, got the string {names!r}.")
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{what} does not know {name!r}; known are {', '.join(known)}."
                f"{nearest(name, known)}"
            )
