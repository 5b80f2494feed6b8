"""Looking an answer up: the exact tier, the near tier, the policy's verdict; and never an error."""

from dataclasses import dataclass

from costwise_core.cache.asking import Asked, Asking, Request
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.cache.conversation import in_context, question_of
from costwise_core.cache.counts import Counts
from costwise_core.cache.key import question_key
from costwise_core.cache.learning import Learning, Pending
from costwise_core.cache.sharing import Sharing
from costwise_core.cache.storing import Lifetime
from costwise_core.drive import Flow, call
from costwise_core.protocols import CacheStore, Embedder, NearPolicy
from costwise_core.types import Entry, Hit, Miss, Vector

__all__ = ["Looking"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Looking:
    """Finds what may be served.

    Args:
        backend: Where entries are.
        embedder: Makes the near tier possible.
        policy: Decides about similar questions.
        neighbours: How many of them it is shown.
        lifetime: How long answers are served.
        asking: Says what a request is looked up as.
        learning: Remembers misses until their answers come.
        sharing: Is told of requests whose kind may be shared in flight.
        counts: Where everything is counted.
    """

    backend: CacheStore
    embedder: Embedder | None
    policy: NearPolicy
    neighbours: int
    lifetime: Lifetime
    asking: Asking
    learning: Learning
    sharing: Sharing | None
    counts: Counts

    def look(self, request: Request, admission: CachePolicy) -> Flow[Hit | Miss]:
        """Return what may be served, or why there is nothing. Never raises."""
        try:
            asked = yield from self.asking.ask(request, admission, self.lifetime.clock())
            if isinstance(asked, Miss):
                return self.counts.miss(asked.reason, asked.why)
            name = (asked.scope.key, question_key(asked.text))
            entry = yield from call(self.backend.get, name[1], name[0])
        except Exception as error:  # noqa: BLE001 - a cache fails open
            return self._failed("store_error", error)
        if entry is not None and (request.stale or not self.lifetime.past(entry)):
            return self._hit("exact", entry, 1.0, "asked before in the same words")
        if not asked.near or self.embedder is None:
            return self.counts.miss("no_entry", "not asked before in these words")
        try:
            vector = (yield from call(self.embedder.embed, [question_of(asked.text)]))[0]
            embedder = self.embedder.name
        except Exception as error:  # noqa: BLE001
            return self._failed("embedder_error", error)
        try:
            return (yield from self._near(asked, name, vector, embedder))
        except Exception as error:  # noqa: BLE001
            return self._failed("store_error", error)

    def peek(self, request: Request, admission: CachePolicy) -> Flow[Hit | None]:
        """Return what an exact repeat would be served, and count nothing.

        Raises:
            StoreError: if the store cannot read.
        """
        asked = yield from self.asking.ask(request, admission, self.lifetime.clock())
        if isinstance(asked, Miss):
            return None
        entry = yield from call(self.backend.get, question_key(asked.text), asked.scope.key)
        if entry is None or self.lifetime.past(entry):
            return None
        return self._served("exact", entry, 1.0, "asked before in the same words")

    def _near(
        self, asked: Asked, name: tuple[str, str], vector: Vector, embedder: str
    ) -> Flow[Hit | Miss]:
        yield from self.learning.exchange(embedder)
        if self.sharing is not None:
            self.sharing.count_request()
        stored = yield from call(self.backend.search, vector, self.neighbours, name[0], embedder)
        found = [one for one in stored if not self.lifetime.past(one.entry)]
        agreeing = in_context(asked.text, found)
        if isinstance(agreeing, str):
            self.counts.add("miss", "other_context")
            return Miss(reason="other_context", why=agreeing, vector=vector)
        verdict = self.policy.decide(question_of(asked.text), agreeing)
        best = verdict.candidate
        if verdict.action == "serve" and best is not None:
            # Reading it again counts the use, and tells whether it was deleted meanwhile.
            entry = yield from call(self.backend.get, best.entry.key, best.entry.scope)
            if entry is None:
                return self.counts.miss("no_entry", "the answer was deleted a moment ago")
            return self._hit("near", entry, best.cosine, verdict.why)
        if agreeing:
            pending = Pending(verdict=verdict, neighbours=tuple(agreeing), vector=vector)
            self.learning.remember(name, pending)
        self.counts.add("miss", verdict.reason)
        return Miss(
            reason=verdict.reason,
            why=verdict.why,
            nearest=agreeing[0].entry.question if agreeing else "",
            cosine=agreeing[0].cosine if agreeing else None,
            vector=vector,
        )

    def _hit(self, tier: str, entry: Entry, cosine: float, why: str) -> Hit:
        self.counts.add("hit", tier)
        hit = self._served(tier, entry, cosine, why)
        if hit.stale:
            self.counts.add("stale")
        return hit

    def _served(self, tier: str, entry: Entry, cosine: float, why: str) -> Hit:
        stale = self.lifetime.past(entry)
        return Hit(
            answer=entry.answer,
            usage_then=entry.usage,
            tier="exact" if tier == "exact" else "near",
            question=question_of(entry.question),
            cosine=cosine,
            age=max(0.0, self.lifetime.clock() - entry.created),
            why=f"{why}; past its time and being refreshed" if stale else why,
            stale=stale,
        )

    def _failed(self, reason: str, error: Exception) -> Miss:
        self.counts.add("error", type(error).__name__)
        return self.counts.miss(reason, f"{type(error).__name__} in the cache, passed over")
