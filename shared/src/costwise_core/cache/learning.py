"""How a cache learns from its misses: each fresh answer says whether the candidate's was right."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.control import RiskControl
from costwise_core.cache.conversation import question_of
from costwise_core.cache.counts import Counts
from costwise_core.cache.judge import Judge
from costwise_core.cache.policy import Verdict
from costwise_core.cache.sharing import Sharing
from costwise_core.drive import Flow, call
from costwise_core.protocols import CacheStore, Journal, NearPolicy
from costwise_core.tracking import calling
from costwise_core.types import Entry, Neighbour, Vector

__all__ = ["Learning", "Pending"]

# Misses whose answer has not come yet.
_PENDING: Final = 2_000
# A judge may cost a model call: the candidate is judged, and so many other groups at most.
_OTHERS_JUDGED: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A miss whose answer is still to come, and what it was nearly served."""

    verdict: Verdict
    neighbours: tuple[Neighbour, ...]
    vector: Vector


class Learning:
    """Remembers misses until their answers come, judges the candidates, and tells the policy.

    Args:
        backend: Where processes exchange what they learned, if it keeps journals.
        policy: What learns.
        judge: What says whether two answers are the same.
        counts: Where faults are counted.
        sharing: What else learns: whether questions in flight may share.
    """

    def __init__(
        self,
        backend: CacheStore,
        policy: NearPolicy,
        judge: Judge,
        counts: Counts,
        sharing: Sharing | None = None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._judge = judge
        self._counts = counts
        self._sharing = sharing
        self._pending: OrderedDict[tuple[str, str], Pending] = OrderedDict()
        self._position = ""
        self._lock = threading.Lock()
        self._exchanging = threading.Lock()

    def remember(self, name: tuple[str, str], pending: Pending) -> None:
        """Keep a miss until its answer comes."""
        with self._lock:
            self._pending[name] = pending
            while len(self._pending) > _PENDING:
                self._pending.popitem(last=False)

    def recall(self, name: tuple[str, str]) -> Pending | None:
        """Return the miss an answer belongs to, once."""
        with self._lock:
            return self._pending.pop(name, None)

    def compare(self, entry: Entry, pending: Pending) -> Flow[tuple[str, bool]]:
        """Judge the candidate by the fresh answer, and find the group of answers it belongs to.

        Returns:
            The group, and whether the entry is worth a vector of its own.
        """
        verdict = pending.verdict
        own = "" if verdict.candidate is None else _group(verdict.candidate.entry)
        groups = {} if verdict.candidate is None else {own: verdict.candidate.entry}
        for neighbour in pending.neighbours:
            groups.setdefault(_group(neighbour.entry), neighbour.entry)
        # The very same text needs no judge.
        known = next((name for name, one in groups.items() if one.plain == entry.plain), None)
        try:
            if own:
                same = known == own or (yield from self._same(entry, groups[own]))
                self._policy.learn(verdict, same=same)
                if self._sharing is not None:
                    self._sharing.learn(question_of(entry.question), verdict, same=same)
                if same:
                    return own, verdict.keep
            others = [name for name in groups if name != own]
            for name in others[:_OTHERS_JUDGED] if known is None else [known]:
                if name == known or (yield from self._same(entry, groups[name])):
                    return name, True
        except Exception as error:  # noqa: BLE001 - a label less
            self._counts.add("error", type(error).__name__)
        return entry.key, True

    def _same(self, fresh: Entry, stored: Entry) -> Flow[bool]:
        with calling(overhead=True):
            return (yield from call(self._judge.same, fresh.question, fresh.plain, stored.plain))

    def exchange(self, embedder: str) -> Flow[None]:
        """Share what the policy learned with the processes that use the same store.

        Args:
            embedder: Name of what measures cosines: evidence from another one says nothing.
        """
        policy, backend = self._policy, self._backend
        if not isinstance(policy, RiskControl) or not policy.due:
            return
        # Two that read from one position would learn the same twice.
        if not self._exchanging.acquire(blocking=False):
            return
        try:
            rows = policy.outbox()
            found: Sequence[str] = rows
            if isinstance(backend, Journal):
                name = f"{policy.journal}/{embedder}"
                try:
                    if rows:
                        yield from call(backend.append, name, rows)
                    found = ()  # own rows come back with the others'
                    found, self._position = yield from call(backend.read, name, self._position)
                except Exception as error:  # noqa: BLE001 - then this process learns by itself
                    self._counts.add("error", type(error).__name__)
            damaged = policy.absorb(found)
        finally:
            self._exchanging.release()
        if damaged:
            self._counts.add("error", "damaged_evidence", damaged)


def _group(entry: Entry) -> str:
    return entry.group or entry.key
