"""The cache: exact tier, near tier, verdict; and it never stands between a user and the model.

Whatever goes wrong inside (a locked file, a damaged row, an embedder that fails) is counted and
ends in a miss, so the caller asks the model as it would without a cache.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from costwise_core.cache.key import canonical, question_key
from costwise_core.cache.policy import FixedThreshold
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Embedder, NearPolicy
from costwise_core.types import Entry, Hit, Miss, Scope, Selection, Usage, Vector

__all__ = ["Cache", "CacheStats"]

MAX_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """What a cache did since it was made.

    Args:
        hits: Served answers by tier, "exact" and "near".
        misses: Lookups without an answer, by reason.
        stored: Answers stored.
        not_stored: Answers not stored, by reason.
        errors: Faults that were passed over, by the name of the error's class.
    """

    hits: Mapping[str, int] = field(default_factory=dict)
    misses: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0
    not_stored: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Hits as a share of lookups, 0.0 before the first lookup."""
        hits, misses = sum(self.hits.values()), sum(self.misses.values())
        return hits / (hits + misses) if hits + misses else 0.0


class Cache:
    """Answers to questions asked before, within an exact scope.

    Thread-safe; one cache may serve synchronous and asynchronous callers at once.

    Args:
        store: Where entries are kept.
        embedder: Makes the near tier possible; without one only exact repeats hit.
        policy: Decides whether a similar question's answer may be served.
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
        ttl: float | None = None,
        neighbours: int = 4,
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
        self.policy = policy if policy is not None else FixedThreshold()
        self.ttl = ttl
        self._neighbours = neighbours
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    # --- what callers use -------------------------------------------------------------------

    def lookup(self, question: str, scope: Scope, *, near: bool = True) -> Hit | Miss:
        """Return a stored answer that may be served, or why there is none. Never raises.

        Args:
            question: The question alone, not the prompt around it.
            scope: Everything else the answer depends on.
            near: Whether a similar question's answer may be served too.
        """
        return run(self._lookup(question, scope, near=near))

    async def alookup(self, question: str, scope: Scope, *, near: bool = True) -> Hit | Miss:
        """Do what `lookup` does, without blocking the event loop."""
        return await arun(self._lookup(question, scope, near=near))

    def store(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        usage: Usage | None = None,
        vector: Vector | None = None,
        near: bool = True,
        tags: tuple[str, ...] = (),
        ttl: float | None = None,
    ) -> bool:
        """Keep an answer and return whether it was kept. Never raises.

        Args:
            question: The question that was answered.
            scope: Everything else the answer depends on.
            answer: The answer as text.
            usage: What it cost.
            vector: The question's embedding, if a miss brought one.
            near: Whether the entry may serve similar questions.
            tags: Labels to delete entries by.
            ttl: Seconds this answer may be served for, in place of the cache's own.
        """
        return run(
            self._store(
                question, scope, answer, usage=usage, vector=vector, near=near, tags=tags, ttl=ttl
            )
        )

    async def astore(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        usage: Usage | None = None,
        vector: Vector | None = None,
        near: bool = True,
        tags: tuple[str, ...] = (),
        ttl: float | None = None,
    ) -> bool:
        """Do what `store` does, without blocking the event loop."""
        return await arun(
            self._store(
                question, scope, answer, usage=usage, vector=vector, near=near, tags=tags, ttl=ttl
            )
        )

    def clear(self, selection: Selection | None = None) -> int:
        """Delete the selected entries, or all, and return how many there were.

        Raises:
            StoreError: if the store cannot; a deletion must not fail silently.
        """
        return run(call(self.backend.delete, selection or Selection()))

    async def aclear(self, selection: Selection | None = None) -> int:
        """Do what `clear` does, without blocking the event loop."""
        return await arun(call(self.backend.delete, selection or Selection()))

    def count_miss(self, reason: str, why: str) -> Miss:
        """Count and return a miss that an adapter found before any lookup, such as a bypass."""
        self._count("miss", reason)
        return Miss(reason=reason, why=why)

    def count_not_stored(self, reason: str) -> None:
        """Count an answer that an adapter did not offer, such as a truncated one."""
        self._count("not_stored", reason)

    def count_error(self, error: BaseException) -> None:
        """Count a fault that was passed over."""
        self._count("error", type(error).__name__)

    @property
    def stats(self) -> CacheStats:
        """Counts since this cache was made."""
        with self._lock:
            counts = Counter(self._counts)

        def group(name: str) -> Mapping[str, int]:
            return MappingProxyType(
                {key: n for (kind, key), n in sorted(counts.items()) if kind == name}
            )

        return CacheStats(
            hits=group("hit"),
            misses=group("miss"),
            stored=counts["stored", ""],
            not_stored=group("not_stored"),
            errors=group("error"),
        )

    # --- the logic, written once ------------------------------------------------------------

    def _lookup(self, question: str, scope: Scope, *, near: bool) -> Flow[Hit | Miss]:
        text = canonical(question)
        if not text:
            return self.count_miss("empty_question", "the question is empty")
        scope_key = scope.key
        try:
            entry = yield from call(self.backend.get, question_key(text), scope_key)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            return self._failed("store_error", error)
        if entry is not None:
            return self._hit("exact", entry, 1.0, "asked before in the same words")
        if not near or self.embedder is None:
            return self.count_miss("no_entry", "not asked before in these words")
        try:
            vector = (yield from call(self.embedder.embed, [text]))[0]
        except Exception as error:  # noqa: BLE001
            return self._failed("embedder_error", error)
        try:
            found = yield from call(
                self.backend.search, vector, self._neighbours, scope_key, self.embedder.name
            )
            verdict = self.policy.choose(text, found)
        except Exception as error:  # noqa: BLE001
            return self._failed("store_error", error)
        if isinstance(verdict, str):
            self._count("miss", "below_threshold" if found else "no_entry")
            return Miss(
                reason="below_threshold" if found else "no_entry",
                why=verdict,
                nearest=found[0].entry.question if found else "",
                cosine=found[0].cosine if found else None,
                vector=vector,
            )
        return self._hit(
            "near",
            verdict.entry,
            verdict.cosine,
            f"asked before in similar words (cosine {verdict.cosine:.3f})",
        )

    def _store(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        usage: Usage | None,
        vector: Vector | None,
        near: bool,
        tags: tuple[str, ...],
        ttl: float | None,
    ) -> Flow[bool]:
        text = canonical(question)
        if not text or not answer:
            self.count_not_stored("empty_question" if not text else "empty_answer")
            return False
        if len(answer.encode("utf-8", "surrogatepass")) > self._max_answer_bytes:
            self.count_not_stored("answer_too_large")
            return False
        embedder = self.embedder if near else None
        if embedder is None:
            vector = None
        elif vector is None:
            try:
                vector = (yield from call(embedder.embed, [text]))[0]
            except Exception as error:  # noqa: BLE001 - the exact tier can still serve it
                self.count_error(error)
        now = self._clock()
        ttl = ttl if ttl is not None else self.ttl
        entry = Entry(
            key=question_key(text),
            scope=scope.key,
            question=question,
            answer=answer,
            vector=vector,
            embedder=embedder.name if embedder is not None and vector is not None else "",
            usage=usage if usage is not None else Usage(),
            tenant=scope.tenant,
            model=scope.model,
            corpus=scope.corpus,
            tags=tags,
            created=now,
            expires=None if ttl is None else now + ttl,
        )
        try:
            yield from call(self.backend.put, [entry])
        except Exception as error:  # noqa: BLE001
            self.count_error(error)
            self.count_not_stored("store_error")
            return False
        self._count("stored", "")
        return True

    # --- counting -----------------------------------------------------------------------------

    def _hit(self, tier: str, entry: Entry, cosine: float, why: str) -> Hit:
        self._count("hit", tier)
        return Hit(
            answer=entry.answer,
            usage_then=entry.usage,
            tier="exact" if tier == "exact" else "near",
            question=entry.question,
            cosine=cosine,
            age=max(0.0, self._clock() - entry.created),
            why=why,
        )

    def _failed(self, reason: str, error: Exception) -> Miss:
        self.count_error(error)
        return self.count_miss(reason, f"{type(error).__name__} in the cache, passed over")

    def _count(self, kind: str, key: str) -> None:
        with self._lock:
            self._counts[kind, key] += 1
