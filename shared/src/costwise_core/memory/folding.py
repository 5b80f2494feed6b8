"""Folding old messages into a summary: by one at a time, and never at the price of a message.

Nothing is deleted, so a fold that is cut off anywhere leaves the conversation as it was. Who folds
holds a lease, which other replicas see and which ends by itself; and the summary is swapped only if
it is still the one that was read, so even two that fold at once cannot mix theirs.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from costwise_core.drive import Flow, call
from costwise_core.errors import StoreUnavailableError
from costwise_core.memory.counts import Counts
from costwise_core.memory.deciding import Deciding, standing
from costwise_core.memory.extract import extract
from costwise_core.memory.messages import Conversation, Message, Summary, digest
from costwise_core.memory.plan import MemoryPlan
from costwise_core.memory.prompts import fold_instruction, shown
from costwise_core.memory.prune import prune
from costwise_core.memory.summarising import Written, checked, shortened, summarise
from costwise_core.memory.view import MemoryView
from costwise_core.protocols import Completer
from costwise_core.stores.breaker import Breaker
from costwise_core.tracking import calling

if TYPE_CHECKING:
    from costwise_core.protocols import ConversationStore

__all__ = ["LEASE_SECONDS", "Folding", "Live"]

LEASE_SECONDS: Final = 300.0
_FAILURES: Final = 3
_COOLDOWN: Final = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """A conversation as a call has it, or would.

    Args:
        conversation: Whose and which.
        history: All its messages, oldest first, with ids and tokens.
        system: System messages before it.
        before: Tokens of every prompt that are not among the messages.
        waits: Whether the call at hand waits for the fold, and is sent with what comes of it.
        coming: Whether a call is at hand though its question is not among the messages yet.
    """

    conversation: Conversation
    history: tuple[Message, ...]
    system: tuple[Message, ...] = ()
    before: int = 0
    waits: bool = False
    coming: bool = False

    @property
    def missed(self) -> int:
        """How many messages must follow before a call can have what is folded now."""
        if self.waits or not self.history:
            return 0
        return 1 if self.history[-1].role != "assistant" else 2 * self.coming


class Folding:
    """Carries out plans.

    Args:
        store: Where summaries are swapped.
        deciding: Says what is due.
        summariser: Writes; None leaves it at extracts.
        counts: Told how folds ended.
    """

    def __init__(
        self,
        store: "ConversationStore",
        deciding: Deciding,
        summariser: Completer | None,
        counts: Counts,
    ) -> None:
        self._store = store
        self._deciding = deciding
        self._summariser = summariser
        self._counts = counts
        self._breaker = Breaker(failures=_FAILURES, cooldown=_COOLDOWN)

    def extract(
        self, live: Live, summary: Summary, plan: MemoryPlan, *, spent: float = 0.0
    ) -> Flow[Summary]:
        """Fold at once into sentences taken word for word; return the summary that holds now.

        Raises:
            StoreError: if the store fails.
        """
        text, cut = summary.text, summary.folded
        if plan.action == "fold":
            cut = plan.cut
            text = yield from call(
                self._extract, summary.text, live.history[summary.folded : cut], plan.summary_tokens
            )
        made = self._made(live, summary, text, cut, written=summary.written, spent=spent)
        if (yield from self._swapped(live, summary, made)):
            self._counts.add("fold", "extracted" if cut > summary.folded else "paid")
            return made
        found = yield from call(self._store.summary, live.conversation)
        return standing(found, live.history)

    def _extract(self, summary: str, messages: Sequence[Message], most: int) -> str:
        count = self._deciding.count
        text = extract(summary, messages, max_tokens=most, count=count)
        # Where every sentence is too long, the beginning of the newest says more than nothing.
        return text or shortened(shown(messages[-1:]), most, count)

    def fold(self, live: Live) -> Flow[Summary | None]:
        """Do what is due, if nobody else is at it; return what was written. Never raises."""
        owner = uuid.uuid4().hex
        try:
            if not (yield from self._claimed(live, owner)):
                self._counts.add("fold", "busy")
                return None
            try:
                made = yield from self._due(live, owner)
            except GeneratorExit:
                raise  # nobody is there to give the lease back; it ends by itself
            except BaseException:
                yield from self._release(live, owner)
                raise
            yield from self._release(live, owner)
        except Exception as error:  # noqa: BLE001 - folding is a help, never a condition
            self._counts.error(error)
            self._counts.add("fold", "error")
            return None
        return made

    def _due(self, live: Live, owner: str) -> Flow[Summary | None]:
        # Read under the lease: what was due a moment ago may have been done since.
        found = yield from call(self._store.summary, live.conversation)
        summary = standing(found, live.history)
        plan = yield from call(self._deciding.plan, live.history, summary, before=live.before)
        if plan.action == "keep":
            self._counts.add("fold", "nothing_due")
            return None
        if plan.mode == "extract" or self._summariser is None:
            return (yield from self.extract(live, summary, plan))
        wrote, spent = yield from self._asked(live, summary, plan, owner)
        if wrote.fault:
            self._counts.add("fold", wrote.fault)
            # What was paid for nothing is written down, so the next try waits until it is saved.
            instead = yield from call(
                self._deciding.plan, live.history, summary, before=live.before, alone=True
            )
            if instead.action == "keep" and not spent:
                return None
            return (yield from self.extract(live, summary, instead, spent=spent))
        self._counts.add("facts", "added", wrote.added)
        self._counts.add("facts", "lost", wrote.lost)
        made = self._made(live, summary, wrote.text, plan.cut, written=plan.cut, spent=spent)
        if not (yield from self._swapped(live, summary, made)):
            self._counts.add("fold", "raced")
            return None
        self._counts.add("fold", "folded")
        return made

    def _asked(
        self, live: Live, summary: Summary, plan: MemoryPlan, owner: str
    ) -> Flow[tuple[Written, float]]:
        """Return what the summariser wrote, and what that cost. Never raises."""
        assert self._summariser is not None  # noqa: S101 - for the type checker
        each = plan.expected_usd / max(len(plan.steps), 1)
        spent, found = 0.0, Written(text=summary.text)
        try:
            self._breaker.check()
        except StoreUnavailableError:
            return Written(fault="resting"), spent
        try:
            for start, stop in plan.steps:
                block = live.history[start:stop]
                if spent:  # a long block takes its time
                    yield from self._claimed(live, owner)
                if plan.mode == "appended":
                    found = yield from self._appended(live, summary, plan, self._summariser)
                else:
                    pruned = yield from call(prune, block)
                    found = yield from summarise(
                        self._summariser,
                        found.text,
                        pruned.messages or block,
                        max_tokens=plan.summary_tokens,
                        window=self._deciding.policy.summariser_window,
                        count=self._deciding.count,
                    )
                spent += each
                if found.fault:
                    break
        except Exception as error:  # noqa: BLE001 - whatever a model's client raises
            self._breaker.failed()
            self._counts.error(error)
            return Written(fault="error"), spent
        self._breaker.ok()
        return found, spent

    def _appended(
        self, live: Live, summary: Summary, plan: MemoryPlan, summariser: Completer
    ) -> Flow[Written]:
        """Ask at the end of the live prompt, whose beginning the provider has in its cache."""
        prompt = MemoryView(
            kept=live.history[summary.folded :], summary=summary.text, system=live.system
        ).messages
        instruction = fold_instruction(max_tokens=plan.summary_tokens)
        with calling(overhead=True):
            answer = yield from call(summariser.complete_after, prompt, instruction)  # type: ignore[attr-defined]
        folded = live.history[summary.folded : plan.cut]
        source = "\n".join((summary.text, *(one.text for one in folded)))
        return (
            yield from call(
                checked,
                answer,
                source,
                max_tokens=plan.summary_tokens,
                count=self._deciding.count,
            )
        )

    def _made(
        self,
        live: Live,
        old: Summary,
        text: str,
        folded: int,
        *,
        written: int,
        spent: float,
    ) -> Summary:
        return Summary(
            text=text,
            folded=folded,
            tokens=self._deciding.count(text),
            version=old.version + 1,
            digest=digest(live.history[:folded]),
            written=written,
            # A call that did not wait is on its way with the old state, and saves with that.
            seen=len(live.history) + live.missed,
            saved_usd=self._deciding.saved_usd(live.history, old, before=live.before) - spent,
        )

    def _swapped(self, live: Live, old: Summary, new: Summary) -> Flow[bool]:
        return (yield from call(self._store.replace, live.conversation, new, version=old.version))

    def _claimed(self, live: Live, owner: str) -> Flow[bool]:
        key = live.conversation.key
        return (yield from call(self._store.acquire, key, owner, LEASE_SECONDS))

    def _release(self, live: Live, owner: str) -> Flow[None]:
        try:
            yield from call(self._store.release, live.conversation.key, owner)
        except Exception as error:  # noqa: BLE001 - it ends by itself too
            self._counts.error(error)
