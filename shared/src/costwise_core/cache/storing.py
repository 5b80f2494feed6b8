"""Whether an answer is kept, and if not why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.cache.asking import Asked, Request
from costwise_core.cache.cacheable import CachePolicy, before_store
from costwise_core.cache.changes import Changes
from costwise_core.cache.conversation import leans_on, question_of
from costwise_core.cache.counts import Counts
from costwise_core.cache.key import question_key
from costwise_core.cache.learning import Learning
from costwise_core.drive import Flow, call
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Embedder
from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = ["Keeping", "Lifetime", "Stored", "entry_of"]

# Nothing is wrong with such an answer: there was only no place for it.
_NO_PLACE: Final = frozenset({"", "store_error", "answer_too_large"})
# Such an answer is good, so it tells whether a stored one would have been right.
_TELLING: Final = frozenset({"answer_too_large", "context_dependent"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Whether an answer was kept; true in a condition if it was.

    Args:
        why_not: Why it was not, in the word under which `stats.not_stored` counts it; else "".

    Example:
        >>> bool(Stored()), bool(Stored(why_not="refusal")), Stored(why_not="store_error").fit
        (True, False, True)
    """

    why_not: str = ""

    def __bool__(self) -> bool:
        return not self.why_not

    @property
    def fit(self) -> bool:
        """Whether others who ask the same may be given the answer: a full disk is no reason not."""
        return self.why_not in _NO_PLACE

    @property
    def telling(self) -> bool:
        """Whether a stored answer may be judged by this one, although this one was not kept."""
        return self.why_not in _TELLING


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    """How long answers are served, and how much longer while they are renewed.

    Stores delete an entry when it has had both; what part of its time is the grace, only the cache
    knows, so a cache with another grace reads the same entries by its own.

    Args:
        ttl: Seconds; None is for ever.
        grace: Seconds after that, for those who renew it.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if a number is out of range.
    """

    ttl: float | None
    grace: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        if self.ttl is not None and not self.ttl > 0:
            raise ConfigError(
                f"ttl is in seconds and must be above 0 (None is for ever), got {self.ttl!r}."
            )
        if not self.grace >= 0:
            raise ConfigError(
                f"stale_while_revalidate is in seconds, 0 or more, got {self.grace!r}."
            )

    def expires(self, now: float, own: float | None, classed: float | None) -> float | None:
        """Return when an entry's time and grace are over, by its own ttl and that of its class."""
        longest = self.ttl if own is None else own
        lives = [seconds for seconds in (longest, classed) if seconds is not None]
        if not lives:
            return None
        return now + min(lives) + (self.grace if min(lives) > 0 else 0.0)

    def past(self, entry: Entry) -> bool:
        """Whether an entry has had its time, though it may be served while it is renewed."""
        if entry.expires is None or not self.grace:
            return False
        return self.clock() >= entry.expires - self.grace


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """Takes an answer in: fit or not, what it teaches, its place, and once more whether it is old.

    Args:
        backend: Where entries go.
        embedder: Makes vectors.
        lifetime: How long answers are served.
        max_bytes: Longer answers are not stored.
        learning: What learns from fresh answers.
        changes: What documents have changed of late.
        counts: Where faults are counted.
    """

    backend: CacheStore
    embedder: Embedder | None
    lifetime: Lifetime
    max_bytes: int
    learning: Learning
    changes: Changes
    counts: Counts

    def keep(
        self,
        request: Request,
        asked: Asked,
        entry: Entry,
        policy: CachePolicy,
        vector: Vector | None,
        ttl: float | None,
        since: int | None,
    ) -> Flow[Stored]:
        """Store an answer if it is fit, and say whether it was.

        Args:
            request: What was asked.
            asked: What it was looked up as.
            entry: The answer, without its place.
            policy: What is not stored.
            vector: The question's embedding, if there is one.
            ttl: The answer's own time.
            since: The mark from before its documents were read.

        Raises:
            StoreError: if the store cannot.
        """
        stored = Stored(why_not=self._unfit(request, asked, entry, policy))
        if stored and (yield from self.changes.outdated(entry.documents, since=since)):
            stored = Stored(why_not="outdated")
        now = self.lifetime.clock()
        entry = replace(
            entry,
            key=question_key(asked.text),
            scope=asked.scope.key,
            question=entry.question if asked.alone else asked.text,
            created=now,
            expires=self.lifetime.expires(now, ttl, asked.ttl),
        )
        pending = self.learning.recall((entry.scope, entry.key))
        near = asked.near
        if pending is not None and (stored or stored.telling):
            vector = pending.vector if vector is None else vector
            group, worth_a_vector = yield from self.learning.compare(entry, pending)
            entry, near = replace(entry, group=group), near and worth_a_vector
        if not stored:
            return stored
        if near and self.embedder is not None:
            try:
                if vector is None:
                    vector = (yield from call(self.embedder.embed, [question_of(asked.text)]))[0]
                entry = replace(entry, vector=vector, embedder=self.embedder.name)
            except Exception as error:  # noqa: BLE001 - the exact tier can still serve it
                self.counts.add("error", type(error).__name__)
        yield from call(self.backend.put, [entry])
        # A change between the first look and the put has deleted nothing of this entry.
        if (yield from self.changes.outdated(entry.documents, since=since)):
            yield from call(self.backend.delete, Selection(scope=entry.scope, keys=(entry.key,)))
            return Stored(why_not="outdated")
        return stored

    def _unfit(self, request: Request, asked: Asked, entry: Entry, policy: CachePolicy) -> str:
        """Return in a word why an answer is not to be stored, or ""."""
        if not entry.answer:
            return "empty_answer"
        question = question_of(asked.text)
        verdict = before_store(question, entry.plain, call=request.facts, policy=policy)
        if not verdict.allowed:
            return verdict.reason
        if len(entry.answer.encode("utf-8", "surrogatepass")) > self.max_bytes:
            return "answer_too_large"
        if asked.alone and leans_on(request.turns, question, entry.plain):
            return "context_dependent"
        return ""


def entry_of(
    request: Request,
    answer: str,
    text: str,
    usage: Usage | None,
    tags: tuple[str, ...],
    documents: tuple[tuple[str, str], ...],
    worth: float,
) -> Entry:
    """Return what would be stored of an answer, before its place and time are known."""
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
