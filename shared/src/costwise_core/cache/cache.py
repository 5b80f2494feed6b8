"""The cache: exact tier, near tier, verdict; and it never stands between a user and the model.

Whatever goes wrong inside (a locked file, a damaged row, an embedder that fails) is counted and
ends in a miss, so the caller asks the model as it would without a cache.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from costwise_core.cache.control import Health, RiskControl
from costwise_core.cache.judge import Judge, SameMeaning, SameText
from costwise_core.cache.key import canonical, question_key
from costwise_core.cache.policy import Verdict
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Embedder, Journal, NearPolicy
from costwise_core.types import Entry, Hit, Miss, Neighbour, Scope, Selection, Usage, Vector

__all__ = ["Cache", "CacheStats"]

MAX_ANSWER_BYTES: Final = 1_000_000
# Misses whose answer has not come yet; when it comes, it is compared with the candidate's.
_PENDING: Final = 2_000
# Answers of so many groups are compared with a fresh one to find the one it belongs to.
_GROUPS_COMPARED: Final = 8


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    """A miss whose answer is still to come, and what it was nearly served."""

    verdict: Verdict
    neighbours: tuple[Neighbour, ...]
    vector: Vector


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
        ttl: float | None = None,
        neighbours: int = 16,
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
        self.ttl = ttl
        self._neighbours = neighbours
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock
        self._counts: Counter[tuple[str, str]] = Counter()
        self._pending: OrderedDict[tuple[str, str], _Pending] = OrderedDict()
        self._position = ""
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
        text: str = "",
        usage: Usage | None = None,
        vector: Vector | None = None,
        near: bool = True,
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
            text: The answer as a person reads it, where `answer` is a dump of objects.
            usage: What it cost.
            vector: The question's embedding, if a miss brought one.
            near: Whether the entry may serve similar questions.
            tags: Labels to delete entries by.
            documents: Ids and versions of the documents the answer was drawn from.
            worth: Dollars that serving it once saves.
            ttl: Seconds this answer may be served for, in place of the cache's own.
        """
        entry = self._entry(question, scope, answer, text, usage, tags, documents, worth, ttl)
        return run(self._store(entry, vector=vector, near=near))

    async def astore(
        self,
        question: str,
        scope: Scope,
        answer: str,
        *,
        text: str = "",
        usage: Usage | None = None,
        vector: Vector | None = None,
        near: bool = True,
        tags: tuple[str, ...] = (),
        documents: tuple[tuple[str, str], ...] = (),
        worth: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Do what `store` does, without blocking the event loop."""
        entry = self._entry(question, scope, answer, text, usage, tags, documents, worth, ttl)
        return await arun(self._store(entry, vector=vector, near=near))

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

    def count_miss(self, reason: str, why: str) -> Miss:
        """Count and return a miss that an adapter found before any lookup, such as a bypass."""
        self._count("miss", reason)
        return Miss(reason=reason, why=why)

    def take_back(self, hit: Hit, reason: str, why: str) -> Miss:
        """Count a hit that an adapter could not use as a miss after all."""
        with self._lock:
            self._counts["hit", hit.tier] -= 1
        return self.count_miss(reason, why)

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
                {key: n for (kind, key), n in sorted(counts.items()) if kind == name and n}
            )

        return CacheStats(
            hits=group("hit"),
            misses=group("miss"),
            stored=counts["stored", ""],
            not_stored=group("not_stored"),
            errors=group("error"),
        )

    # --- looking up -------------------------------------------------------------------------

    def _lookup(self, question: str, scope: Scope, *, near: bool) -> Flow[Hit | Miss]:
        text = canonical(question)
        if not text:
            return self.count_miss("empty_question", "the question is empty")
        scope_key = scope.key
        key = question_key(text)
        try:
            entry = yield from call(self.backend.get, key, scope_key)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            return self._failed("store_error", error)
        if entry is not None:
            return self._hit("exact", entry, 1.0, "asked before in the same words")
        if not near or self.embedder is None:
            return self.count_miss("no_entry", "not asked before in these words")
        try:
            vector = (yield from call(self.embedder.embed, [text]))[0]
            embedder = self.embedder.name
        except Exception as error:  # noqa: BLE001
            return self._failed("embedder_error", error)
        try:
            yield from self._exchange()
            found = yield from call(
                self.backend.search, vector, self._neighbours, scope_key, embedder
            )
            verdict = self.policy.decide(text, found)
        except Exception as error:  # noqa: BLE001
            return self._failed("store_error", error)
        if verdict.action == "serve" and verdict.candidate is not None:
            best = verdict.candidate
            return self._hit("near", best.entry, best.cosine, verdict.why)
        if found:
            self._remember((scope_key, key), verdict, found, vector)
        self._count("miss", verdict.reason)
        return Miss(
            reason=verdict.reason,
            why=verdict.why,
            nearest=found[0].entry.question if found else "",
            cosine=found[0].cosine if found else None,
            vector=vector,
        )

    def _remember(
        self, name: tuple[str, str], verdict: Verdict, found: Sequence[Neighbour], vector: Vector
    ) -> None:
        pending = _Pending(verdict=verdict, neighbours=tuple(found), vector=vector)
        with self._lock:
            self._pending[name] = pending
            while len(self._pending) > _PENDING:
                self._pending.popitem(last=False)

    # --- storing ----------------------------------------------------------------------------

    def _entry(
        self,
        question: str,
        scope: Scope,
        answer: str,
        text: str,
        usage: Usage | None,
        tags: tuple[str, ...],
        documents: tuple[tuple[str, str], ...],
        worth: float,
        ttl: float | None,
    ) -> Entry:
        now = self._clock()
        ttl = ttl if ttl is not None else self.ttl
        return Entry(
            key=question_key(question),
            scope=scope.key,
            question=question,
            answer=answer,
            text=text,
            usage=usage if usage is not None else Usage(),
            tenant=scope.tenant,
            model=scope.model,
            corpus=scope.corpus,
            tags=tags,
            documents=documents,
            worth=worth,
            created=now,
            expires=None if ttl is None else now + ttl,
        )

    def _store(self, entry: Entry, *, vector: Vector | None, near: bool) -> Flow[bool]:
        with self._lock:
            pending = self._pending.pop((entry.scope, entry.key), None)
        text = canonical(entry.question)
        if not text or not entry.answer:
            self.count_not_stored("empty_question" if not text else "empty_answer")
            return False
        if len(entry.answer.encode("utf-8", "surrogatepass")) > self._max_answer_bytes:
            self.count_not_stored("answer_too_large")
            return False
        keep = True
        if pending is not None:
            vector = pending.vector if vector is None else vector
            group, keep = yield from self._compare(entry, pending)
            entry = replace(entry, group=group)
        if near and keep and self.embedder is not None:
            entry = yield from self._with_vector(entry, text, vector, self.embedder)
        try:
            yield from call(self.backend.put, [entry])
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.count_error(error)
            self.count_not_stored("store_error")
            return False
        self._count("stored", "")
        return True

    def _with_vector(
        self, entry: Entry, text: str, vector: Vector | None, embedder: Embedder
    ) -> Flow[Entry]:
        try:
            if vector is None:
                vector = (yield from call(embedder.embed, [text]))[0]
            return replace(entry, vector=vector, embedder=embedder.name)
        except Exception as error:  # noqa: BLE001 - the exact tier can still serve it
            self.count_error(error)
            return entry

    def _compare(self, entry: Entry, pending: _Pending) -> Flow[tuple[str, bool]]:
        """Judge the candidate by the fresh answer; find the group of answers it belongs to."""
        candidate = pending.verdict.candidate
        others: dict[str, Entry] = {}
        for neighbour in pending.neighbours:
            stored = neighbour.entry
            others.setdefault(stored.group or stored.key, stored)
        own = candidate.entry.group or candidate.entry.key if candidate else ""
        first = [(own, candidate.entry)] if candidate else []
        rest = [(name, one) for name, one in others.items() if name != own]
        try:
            for name, one in (first + rest)[:_GROUPS_COMPARED]:
                same = yield from call(self.judge.same, entry.question, entry.plain, one.plain)
                if name == own:
                    self.policy.learn(pending.verdict, same=same)
                if same:
                    return name, pending.verdict.keep or name != own
        except Exception as error:  # noqa: BLE001 - a label less
            self.count_error(error)
        return entry.key, True

    # --- learning together ------------------------------------------------------------------

    def _exchange(self) -> Flow[None]:
        """Share what the policy has learned with the processes that use the same store."""
        policy, backend = self.policy, self.backend
        if not isinstance(policy, RiskControl) or not policy.due:
            return
        rows = policy.outbox()
        if not isinstance(backend, Journal):
            policy.absorb(rows)
            return
        try:
            if rows:
                yield from call(backend.append, policy.journal, rows)
            found, self._position = yield from call(backend.read, policy.journal, self._position)
        except Exception as error:  # noqa: BLE001 - then this process learns for itself
            self.count_error(error)
            policy.absorb(rows)
            return
        for _ in range(policy.absorb(found)):
            self._count("error", "damaged_evidence")

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


def _changed(documents: Mapping[str, str] | Sequence[str]) -> tuple[tuple[str, str], ...]:
    if isinstance(documents, str):
        raise ConfigError(f"documents is a list of ids or a mapping, got the text {documents!r}.")
    if isinstance(documents, Mapping):
        return tuple(documents.items())
    return tuple((one, "") for one in documents)
