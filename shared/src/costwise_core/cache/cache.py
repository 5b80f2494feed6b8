"""The cache: exact tier, near tier, verdict; and it never stands between a user and the model.

Whatever goes wrong inside (a locked file, a damaged row, an embedder that fails) is counted and
ends in a miss, so the caller asks the model as it would without a cache.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from costwise_core.cache.agreement import Turn
from costwise_core.cache.asking import Asking, Request
from costwise_core.cache.cacheable import CachePolicy, CallFacts
from costwise_core.cache.changes import Changes, changed
from costwise_core.cache.control import Health, RiskControl
from costwise_core.cache.counts import CacheStats, Counts
from costwise_core.cache.judge import Judge, SameMeaning, SameText
from costwise_core.cache.learning import Learning
from costwise_core.cache.looking import Looking
from costwise_core.cache.policy import Verdict
from costwise_core.cache.sharing import Sharing
from costwise_core.cache.storing import Keeping, Lifetime, Stored, entry_of
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Completer, Embedder, NearPolicy
from costwise_core.types import Entry, Hit, Miss, Neighbour, Scope, Selection, Usage, Vector

__all__ = ["Cache", "CacheStats"]

MAX_ANSWER_BYTES: Final = 1_000_000
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
        stale_while_revalidate: Seconds for which an answer past its time is still served to its own
            question, while the caller pays for a new one behind; callers that cannot, and similar
            questions, are not given it. The adapters' models, engines and retrievers can.
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
        Stored(why_not='')
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
        stale_while_revalidate: float = 0.0,
        neighbours: int = 8,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl is not None and not ttl > 0:
            raise ConfigError(
                f"ttl is in seconds and must be above 0 (None is for ever), got {ttl!r}."
            )
        if not stale_while_revalidate >= 0:
            raise ConfigError(
                f"stale_while_revalidate is in seconds, 0 or more, got {stale_while_revalidate!r}."
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
        self._clock = clock
        self._counts = Counts()
        self._asking = Asking(rewriter)
        self._sharing = Sharing(self.policy) if isinstance(self.policy, RiskControl) else None
        self._learning = Learning(store, self.policy, judge, self._counts, self._sharing)
        self.changes = Changes(store, self._counts, clock)
        lifetime = Lifetime(ttl=ttl, grace=stale_while_revalidate, clock=clock)
        self._looking = Looking(
            backend=store,
            embedder=embedder,
            policy=self.policy,
            neighbours=neighbours,
            lifetime=lifetime,
            asking=self._asking,
            learning=self._learning,
            sharing=self._sharing,
            counts=self._counts,
        )
        self._keeping = Keeping(
            backend=store,
            embedder=embedder,
            lifetime=lifetime,
            max_bytes=max_answer_bytes,
            learning=self._learning,
            changes=self.changes,
            counts=self._counts,
        )

    # --- what callers use -------------------------------------------------------------------

    def lookup(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
        stale: bool = False,
    ) -> Hit | Miss:
        """Return a stored answer that may be served, or why there is none. Never raises.

        Args:
            question: The question alone, not the prompt around it.
            scope: Everything else the answer depends on.
            turns: The conversation before the question, oldest first; then not part of `scope`.
            facts: What is known about the model call.
            near: Whether a similar question's answer may be served too.
            stale: Whether an answer past its time may be served, because the caller then asks the
                model behind and stores what it says (`stale_while_revalidate`).
        """
        request = Request(
            question=question,
            scope=scope,
            turns=tuple(turns),
            facts=facts,
            near=near,
            stale=stale,
        )
        return run(self._looking.look(request, self.admission))

    async def alookup(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
        near: bool = True,
        stale: bool = False,
    ) -> Hit | Miss:
        """Do what `lookup` does, without blocking the event loop."""
        request = Request(
            question=question,
            scope=scope,
            turns=tuple(turns),
            facts=facts,
            near=near,
            stale=stale,
        )
        return await arun(self._looking.look(request, self.admission))

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
        since: int | None = None,
    ) -> Stored:
        """Keep an answer and return whether it was kept, or why not. Never raises.

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
            since: The `mark` from before the documents were read: an answer from documents that
                have changed since is not kept.
        """
        request = Request(
            question=question, scope=scope, turns=tuple(turns), facts=facts, near=near
        )
        entry = entry_of(request, answer, text, usage, tags, documents, worth)
        return run(self._store(request, entry, vector=vector, ttl=ttl, since=since))

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
        since: int | None = None,
    ) -> Stored:
        """Do what `store` does, without blocking the event loop."""
        request = Request(
            question=question, scope=scope, turns=tuple(turns), facts=facts, near=near
        )
        entry = entry_of(request, answer, text, usage, tags, documents, worth)
        return await arun(self._store(request, entry, vector=vector, ttl=ttl, since=since))

    def peek(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
    ) -> Hit | None:
        """Return what an exact repeat would be served, and count nothing.

        Raises:
            StoreError: if the store cannot read.
        """
        request = Request(question=question, scope=scope, turns=tuple(turns), facts=facts)
        return run(self._looking.peek(request, self.admission))

    async def apeek(
        self,
        question: str,
        scope: Scope,
        *,
        turns: Sequence[Turn] = (),
        facts: CallFacts = _PLAIN,
    ) -> Hit | None:
        """Do what `peek` does, without blocking the event loop."""
        request = Request(question=question, scope=scope, turns=tuple(turns), facts=facts)
        return await arun(self._looking.peek(request, self.admission))

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

        Answers that are on their way are not kept either: see `mark`. For five minutes, none is
        that was drawn from another version, should retrieval not have the new one yet.

        Args:
            documents: Ids of changed or deleted documents, or ids with their version now: answers
                drawn from that very version stay.

        Raises:
            StoreError: if the store cannot.

        Example:
            >>> from costwise_core import Cache, MemoryStore, Scope
            >>> cache = Cache(MemoryStore())
            >>> _ = cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
            >>> cache.invalidate({"terms": "v1"}), cache.invalidate({"terms": "v2"})
            (0, 1)
        """
        return run(self._invalidate(documents))

    async def ainvalidate(self, documents: Mapping[str, str] | Sequence[str]) -> int:
        """Do what `invalidate` does, without blocking the event loop."""
        return await arun(self._invalidate(documents))

    def mark(self) -> int:
        """Return the present, for `store(since=...)`; take it before documents are retrieved.

        Example:
            >>> from costwise_core import Cache, MemoryStore, Scope
            >>> cache, documents = Cache(MemoryStore()), (("terms", "v1"),)
            >>> since = cache.mark()
            >>> cache.invalidate(["terms"])  # while the model answers
            0
            >>> cache.store("Notice period?", Scope(), "30", documents=documents, since=since)
            Stored(why_not='outdated')
        """
        return run(self.changes.mark())

    async def amark(self) -> int:
        """Do what `mark` does, without blocking the event loop."""
        return await arun(self.changes.mark())

    def health(self) -> Health | None:
        """Return how the policy's promise stands; None if it makes none."""
        return self.policy.health() if isinstance(self.policy, RiskControl) else None

    @property
    def stats(self) -> CacheStats:
        """Counts since this cache was made."""
        return self._counts.stats()

    def match_in_flight(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Decide between similar questions in flight: by guards, on a promise's account.

        Other policies than `RiskControl` promise nothing of requests and decide for themselves.
        """
        return (self._sharing or self.policy).decide(question, neighbours)

    # --- what adapters count ------------------------------------------------------------------

    def count_miss(self, reason: str, why: str) -> Miss:
        """Count and return a miss that an adapter found before any lookup, such as a bypass."""
        return self._counts.miss(reason, why)

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

    # --- storing ----------------------------------------------------------------------------

    def _store(
        self,
        request: Request,
        entry: Entry,
        *,
        vector: Vector | None,
        ttl: float | None,
        since: int | None,
    ) -> Flow[Stored]:
        try:
            asked = yield from self._asking.ask(request, self.admission, self._clock())
            if isinstance(asked, Miss):
                stored = Stored(why_not=asked.reason)
            else:
                stored = yield from self._keeping.keep(
                    request, asked, entry, self.admission, vector, ttl, since
                )
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.count_error(error)
            stored = Stored(why_not="store_error")
        if stored:
            self._counts.add("stored")
        else:
            self.count_not_stored(stored.why_not)
        return stored

    def _invalidate(self, documents: Mapping[str, str] | Sequence[str]) -> Flow[int]:
        now = changed(documents)
        # First, so that what is stored after the deletion is found out.
        yield from self.changes.announce(now)
        return (yield from call(self.backend.delete, Selection(changed=now)))
