"""The cache: exact tier, near tier, verdict; and it never stands between a user and the model.

Whatever goes wrong inside (a locked file, a damaged row, an embedder that fails) is counted and
ends in a miss, so the caller asks the model as it would without a cache.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from costwise_core.cache.agreement import Turn
from costwise_core.cache.asking import Asked, Request, ask
from costwise_core.cache.cacheable import DAY, CachePolicy, CallFacts, before_store
from costwise_core.cache.control import Health, RiskControl
from costwise_core.cache.conversation import in_context, leans_on, question_of
from costwise_core.cache.counts import CacheStats, Counts
from costwise_core.cache.judge import Judge, SameMeaning, SameText
from costwise_core.cache.key import question_key
from costwise_core.cache.learning import Learning, Pending
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Completer, Embedder, NearPolicy
from costwise_core.types import Entry, Hit, Miss, Scope, Selection, Usage, Vector

__all__ = ["Cache", "CacheStats"]

MAX_ANSWER_BYTES: Final = 1_000_000
_ASKED: Final = 2_000
_PLAIN: Final = CallFacts()


class Cache:
    """Answers to questions asked before, within an exact scope.

    Thread-safe; one cache may serve synchronous and asynchronous callers at once.

    Args:
        store: Where entries are kept.
        embedder: Makes the near tier possible; without one only exact repeats hit.
        policy: Decides whether a similar question's answer may be served; by default
            `RiskControl()`, which promises at most 2 % wrong answers and learns from the traffic.
        judge: Says whether two answers are the same, so that the policy learns. By default
            `SameMeaning` with the cache's embedder.
        admission: What is neither looked up nor stored (actions, personal data, what changes by the
            minute, refusals, cut-off answers) and how long the rest is kept.
        rewriter: Makes follow-up questions self-contained; without one they are matched by what
            their conversations say.
        ttl: Seconds an answer may be served for; None is for ever.
        neighbours: How many similar questions the policy is shown.
        max_answer_bytes: Longer answers are not stored.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> cache = Cache(MemoryStore())
        >>> scope = Scope(tenant="acme", model="gpt-4o-mini")
        >>> miss = cache.lookup("What is RAG?", scope)
        >>> cache.store("What is RAG?", scope, "Retrieval-augmented generation.")
        True
        >>> cache.lookup("what is  RAG?", scope).answer
        'Retrieval-augmented generation.'
    """

    def __init__(
        self,
        store: CacheStore,
        *,
        embedder: Embedder | None = None,
        policy: NearPolicy | None = None,
        judge: Judge | None = None,
        admission: CachePolicy | None = None,
        rewriter: Completer | None = None,
        ttl: float | None = None,
        neighbours: int = 8,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl is not None and not ttl > 0:
            raise ConfigError(
                f"ttl is in seconds and must be above 0 (None is for ever), got {ttl!r}."
            )
        if neighbours < 1:
            raise ConfigError(f"neighbours must be at least 1, got {neighbours!r}.")
        self.backend = store
        self.embedder = embedder
        self.policy: NearPolicy = policy if policy is not None else RiskControl()
        if judge is None:
            judge = SameText() if embedder is None else SameMeaning(embedder=embedder)
        self.judge = judge
        self.admission = admission if admission is not None else CachePolicy()
        self.rewriter = rewriter
        self.ttl = ttl
        self._neighbours = neighbours
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock
        self._counts = Counts()
        self._learning = Learning(store, self.policy, judge, self._counts)
        # What requests were looked up as, for when their answers come.
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._lock = threading.Lock()

    # --- what callers use -------------------------------------------------------------------

    def lookup(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
    ) -> Hit | Miss:
        """Return a stored answer that may be served, or why there is none. Never raises.

        Args:
            question: The question alone, not the prompt around it.
            scope: Everything else the answer depends on.
            turns: The conversation before the question, oldest first; then not part of `scope`.
            facts: What is known about the model call.
            near: Whether a similar question's answer may be served too.
        """
        return run(self._lookup(_request(question, scope, turns, facts, near)))

    async def alookup(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
    ) -> Hit | Miss:
        """Do what `lookup` does, without blocking the event loop."""
        return await arun(self._lookup(_request(question, scope, turns, facts, near)))

    def store(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
        text: str = "",
        usage: Usage | None = None,
        vector: Vector | None = None,
        tags: tuple[str, ...] = (),
        documents: tuple[tuple[str, str], ...] = (),
        worth: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Keep an answer and return whether it was kept. Never raises.

        Args:
            question: The question that was answered.
            scope: Everything else the answer depends on.
            answer: The answer as text.
            turns: As for `lookup`; likewise `facts` and `near`.
            facts: With the finish reason, which only the answer shows.
            near: Whether the entry may serve similar questions.
            text: The answer as a person reads it, where `answer` is a dump of objects.
            usage: What it cost.
            vector: The question's embedding, if a miss brought one.
            tags: Labels to delete entries by.
            documents: Ids and versions of the documents the answer was drawn from.
            worth: Dollars that serving it once saves.
            ttl: Seconds this answer may be served for, in place of the cache's own.
        """
        request = _request(question, scope, turns, facts, near)
        entry = _entry(request, answer, text, usage, tags, documents, worth)
        return run(self._store(request, entry, vector=vector, ttl=ttl))

    async def astore(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
        text: str = "",
        usage: Usage | None = None,
        vector: Vector | None = None,
        tags: tuple[str, ...] = (),
        documents: tuple[tuple[str, str], ...] = (),
        worth: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Do what `store` does, without blocking the event loop."""
        request = _request(question, scope, turns, facts, near)
        entry = _entry(request, answer, text, usage, tags, documents, worth)
        return await arun(self._store(request, entry, vector=vector, ttl=ttl))

    def clear(self, selection: Selection | None = None) -> int:
        """Delete the selected entries, or all, and return how many there were.

        Raises:
            StoreError: if the store cannot; a deletion must not fail silently.
        """
        return run(call(self.backend.delete, selection or Selection()))

    async def aclear(self, selection: Selection | None = None) -> int:
        """Do what `clear` does, without blocking the event loop."""
        return await arun(call(self.backend.delete, selection or Selection()))

    def invalidate(self, documents: Mapping[str, str] | Sequence[str]) -> int:
        """Delete the answers drawn from documents that have changed; returns how many there were.

        Args:
            documents: Ids of changed or deleted documents, or ids with their version now: answers
                drawn from that very version stay.

        Raises:
            StoreError: if the store cannot.

        Example:
            >>> from costwise_core import Cache, MemoryStore, Scope
            >>> cache = Cache(MemoryStore())
            >>> cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
            True
            >>> cache.invalidate({"terms": "v1"}), cache.invalidate({"terms": "v2"})
            (0, 1)
        """
        return self.clear(Selection(changed=_changed(documents)))

    async def ainvalidate(self, documents: Mapping[str, str] | Sequence[str]) -> int:
        """Do what `invalidate` does, without blocking the event loop."""
        return await self.aclear(Selection(changed=_changed(documents)))

    def health(self) -> Health | None:
        """Return how the policy's promise stands; None if it makes none."""
        return self.policy.health() if isinstance(self.policy, RiskControl) else None

    @property
    def stats(self) -> CacheStats:
        """Counts since this cache was made."""
        return self._counts.stats()

    # --- what adapters count ------------------------------------------------------------------

    def count_miss(self, reason: str, why: str) -> Miss:
        """Count and return a miss that an adapter found before any lookup, such as a bypass."""
        self._counts.add("miss", reason)
        return Miss(reason=reason, why=why)

    def take_back(self, hit: Hit, reason: str, why: str) -> Miss:
        """Count a hit that an adapter could not use as a miss after all."""
        self._counts.add("hit", hit.tier, by=-1)
        return self.count_miss(reason, why)

    def count_not_stored(self, reason: str) -> None:
        """Count an answer that an adapter did not offer."""
        self._counts.add("not_stored", reason)

    def count_error(self, error: BaseException) -> None:
        """Count a fault that was passed over."""
        self._counts.add("error", type(error).__name__)

    # --- looking up -------------------------------------------------------------------------

    def _ask(self, request: Request) -> Flow[Asked | Miss]:
        now = self._clock()
        if self.rewriter is None or not request.turns:
            return (yield from ask(request, policy=self.admission, rewriter=None, now=now))
        # A rewriter is not asked twice, and what it said must hold when the answer comes.
        name = f"{request.name} {now // DAY}"
        known = self._asked.get(name)
        if known is not None:
            return known
        found = yield from ask(request, policy=self.admission, rewriter=self.rewriter, now=now)
        if isinstance(found, Asked):
            with self._lock:
                self._asked[name] = found
                while len(self._asked) > _ASKED:
                    self._asked.popitem(last=False)
        return found

    def _lookup(self, request: Request) -> Flow[Hit | Miss]:
        try:
            asked = yield from self._ask(request)
            if isinstance(asked, Miss):
                return self.count_miss(asked.reason, asked.why)
            name = (asked.scope.key, question_key(asked.text))
            entry = yield from call(self.backend.get, name[1], name[0])
        except Exception as error:  # noqa: BLE001 - a cache fails open
            return self._failed("store_error", error)
        if entry is not None:
            return self._hit("exact", entry, 1.0, "asked before in the same words")
        if not asked.near or self.embedder is None:
            return self.count_miss("no_entry", "not asked before in these words")
        try:
            vector = (yield from call(self.embedder.embed, [question_of(asked.text)]))[0]
            embedder = self.embedder.name
        except Exception as error:  # noqa: BLE001
            return self._failed("embedder_error", error)
        try:
            return (yield from self._near(asked, name, vector, embedder))
        except Exception as error:  # noqa: BLE001
            return self._failed("store_error", error)

    def _near(
        self, asked: Asked, name: tuple[str, str], vector: Vector, embedder: str
    ) -> Flow[Hit | Miss]:
        yield from self._learning.exchange(embedder)
        found = yield from call(self.backend.search, vector, self._neighbours, name[0], embedder)
        agreeing = in_context(asked.text, found)
        if isinstance(agreeing, str):
            self._counts.add("miss", "other_context")
            return Miss(reason="other_context", why=agreeing, vector=vector)
        verdict = self.policy.decide(question_of(asked.text), agreeing)
        best = verdict.candidate
        if verdict.action == "serve" and best is not None:
            # Reading it again counts the use, and tells whether it was deleted meanwhile.
            entry = yield from call(self.backend.get, best.entry.key, best.entry.scope)
            if entry is None:
                return self.count_miss("no_entry", "the answer was deleted a moment ago")
            return self._hit("near", entry, best.cosine, verdict.why)
        if agreeing:
            pending = Pending(verdict=verdict, neighbours=tuple(agreeing), vector=vector)
            self._learning.remember(name, pending)
        self._counts.add("miss", verdict.reason)
        return Miss(
            reason=verdict.reason,
            why=verdict.why,
            nearest=agreeing[0].entry.question if agreeing else "",
            cosine=agreeing[0].cosine if agreeing else None,
            vector=vector,
        )

    # --- storing ----------------------------------------------------------------------------

    def _store(
        self, request: Request, entry: Entry, *, vector: Vector | None, ttl: float | None
    ) -> Flow[bool]:
        try:
            asked = yield from self._ask(request)
            reason = asked.reason if isinstance(asked, Miss) else self._unfit(request, asked, entry)
            if isinstance(asked, Miss) or reason:
                self.count_not_stored(reason)
                return False
            yield from self._keep(asked, entry, vector, ttl)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.count_error(error)
            self.count_not_stored("store_error")
            return False
        self._counts.add("stored")
        return True

    def _unfit(self, request: Request, asked: Asked, entry: Entry) -> str:
        """Return in a word why an answer is not stored, or ""."""
        if not entry.answer:
            return "empty_answer"
        if len(entry.answer.encode("utf-8", "surrogatepass")) > self._max_answer_bytes:
            return "answer_too_large"
        question = question_of(asked.text)
        verdict = before_store(question, entry.plain, call=request.facts, policy=self.admission)
        if not verdict.allowed:
            return verdict.reason
        if asked.alone and leans_on(request.turns, question, entry.plain):
            return "context_dependent"
        return ""

    def _keep(
        self, asked: Asked, entry: Entry, vector: Vector | None, ttl: float | None
    ) -> Flow[None]:
        now = self._clock()
        longest = self.ttl if ttl is None else ttl
        lives = [seconds for seconds in (longest, asked.ttl) if seconds is not None]
        key, scope = question_key(asked.text), asked.scope.key
        entry = replace(
            entry,
            key=key,
            scope=scope,
            question=entry.question if asked.alone else asked.text,
            created=now,
            expires=now + min(lives) if lives else None,
        )
        pending = self._learning.recall((scope, key))
        near = asked.near
        if pending is not None:
            vector = pending.vector if vector is None else vector
            group, worth_a_vector = yield from self._learning.compare(entry, pending)
            entry, near = replace(entry, group=group), near and worth_a_vector
        if near and self.embedder is not None:
            try:
                if vector is None:
                    vector = (yield from call(self.embedder.embed, [question_of(asked.text)]))[0]
                entry = replace(entry, vector=vector, embedder=self.embedder.name)
            except Exception as error:  # noqa: BLE001 - the exact tier can still serve it
                self.count_error(error)
        yield from call(self.backend.put, [entry])

    # --- counting -----------------------------------------------------------------------------

    def _hit(self, tier: str, entry: Entry, cosine: float, why: str) -> Hit:
        self._counts.add("hit", tier)
        return Hit(
            answer=entry.answer,
            usage_then=entry.usage,
            tier="exact" if tier == "exact" else "near",
            question=question_of(entry.question),
            cosine=cosine,
            age=max(0.0, self._clock() - entry.created),
            why=why,
        )

    def _failed(self, reason: str, error: Exception) -> Miss:
        self.count_error(error)
        return self.count_miss(reason, f"{type(error).__name__} in the cache, passed over")


def _request(
    question: str,
    scope: Scope,
    turns: Sequence[Turn],
    facts: CallFacts,
    near: bool,  # noqa: FBT001 - private
) -> Request:
    return Request(question=question, scope=scope, turns=tuple(turns), facts=facts, near=near)


def _entry(
    request: Request,
    answer: str,
    text: str,
    usage: Usage | None,
    tags: tuple[str, ...],
    documents: tuple[tuple[str, str], ...],
    worth: float,
) -> Entry:
    scope = request.scope
    return Entry(
        key="",
        scope="",
        question=request.question,
        answer=answer,
        text=text,
        usage=usage if usage is not None else Usage(),
        tenant=scope.tenant,
        model=scope.model,
        corpus=scope.corpus,
        tags=tags,
        documents=documents,
        worth=worth,
    )


def _changed(documents: Mapping[str, str] | Sequence[str]) -> tuple[tuple[str, str], ...]:
    if isinstance(documents, str):
        raise ConfigError(f"documents is a list of ids or a mapping, got the text {documents!r}.")
    if isinstance(documents, Mapping):
        return tuple(documents.items())
    return tuple((one, "") for one in documents)
