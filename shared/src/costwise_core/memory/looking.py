"""From the messages of a conversation to what of it goes into the next prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from costwise_core.context import current_request
from costwise_core.drive import Flow, call
from costwise_core.errors import ConfigError
from costwise_core.memory.background import Background
from costwise_core.memory.counts import Counts
from costwise_core.memory.deciding import Deciding, standing
from costwise_core.memory.folding import Folding, Live
from costwise_core.memory.matching import matched
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.naming import named
from costwise_core.memory.noting import note_of
from costwise_core.memory.plan import MemoryPlan
from costwise_core.memory.recalling import Recalling
from costwise_core.memory.view import OWN_IDS, MemoryView, newest_question
from costwise_core.tracking import left_out

if TYPE_CHECKING:
    from costwise_core.memory.recall import Recalled
    from costwise_core.protocols import ConversationStore

__all__ = ["Looking"]


class Looking:
    """Makes views.

    Args:
        store: Where conversations are.
        deciding: Says what is due, and what recall may cost.
        folding: Does what is due.
        recalling: Finds old messages.
        behind: Where folds run.
        wait_seconds: How long a view waits for a fold; None not at all.
        counts: Told what happened.
    """

    def __init__(
        self,
        *,
        store: "ConversationStore",
        deciding: Deciding,
        folding: Folding,
        recalling: Recalling,
        behind: Background,
        wait_seconds: float | None,
        counts: Counts,
    ) -> None:
        self._store = store
        self._deciding = deciding
        self._folding = folding
        self.recalling = recalling
        self._behind = behind
        self._wait_seconds = wait_seconds
        self._counts = counts

    def look(
        self, conversation: Conversation, given: Sequence[Message], question: str, before: int
    ) -> Flow[MemoryView]:
        """Store what is new and return the view; see `ConversationMemory.view`."""
        check(conversation)
        system = tuple(one for one in given if one.role == "system")
        turns = turns_of(given)
        history = named(turns)
        try:
            stored = yield from call(self._store.messages, conversation)
            history, first = yield from call(self._counted, stored, turns, system)
            known = {one.id for one in stored}
            if new := [one for one in history if one.id not in known]:
                yield from call(self._store.append, conversation, new)
            live = Live(
                conversation=conversation,
                history=history,
                system=system,
                before=before + first,
                waits=self._wait_seconds is not None,
                coming=True,
            )
            view = yield from self._view(live, question)
        except ConfigError:
            raise  # it would fail the same way on every request
        except Exception as error:  # noqa: BLE001 - a memory fails open
            self._counts.error(error)
            why = f"the memory failed with {type(error).__name__}, so all that is known is sent"
            view = MemoryView(kept=history, system=system, reason="error", why=why)
        self._counts.add("view", view.reason)
        self._counts.add("tokens", by=view.left_out_tokens)
        return view

    def _view(self, live: Live, question: str) -> Flow[MemoryView]:
        conversation, history = live.conversation, live.history
        if current_request().unoptimised:
            why = "the request runs unoptimised"
            return MemoryView(kept=history, system=live.system, reason="holdout", why=why)
        found = yield from call(self._store.summary, conversation)
        summary = standing(found, history)
        question = question or current_request().question or asked(history)
        relevance = yield from self.recalling.relevance(
            conversation, history, summary.folded, question
        )
        plan = yield from call(
            self._deciding.plan,
            history,
            summary,
            before=live.before,
            relevance=relevance if summary.folded else 1.0,
            coming=True,
        )
        if plan.action == "fold":
            summary = yield from self._fold(live, summary, plan)
        recalled = yield from self.recalling.recalled(
            conversation, history, summary.folded, question, plan.recall_tokens
        )
        edited = found is not None and found.folded > 0 and not summary.folded
        view = view_of(history, summary, recalled, plan, system=live.system, edited=edited)
        view = replace(view, left_out_tokens=self.left_out_tokens(history, view))
        note = note_of(conversation, history, view, exact=self._deciding.exact)
        if note is not None:
            left_out(note)
        return view

    def _counted(
        self, stored: Sequence[Message], turns: Sequence[Message], system: Sequence[Message]
    ) -> tuple[tuple[Message, ...], int]:
        """Return the conversation with its tokens, and how many the system messages have."""
        history = self._deciding.sized(matched(stored, turns), stored)
        return history, sum(one.tokens for one in self._deciding.sized(system))

    def _fold(self, live: Live, summary: Summary, plan: MemoryPlan) -> Flow[Summary]:
        """Fold at once what a model is not needed for, start the rest; return what holds now."""
        if plan.mode == "extract":
            try:
                # The call at hand is sent with it, wherever other folds are done.
                live = replace(live, waits=True)
                return (yield from self._folding.extract(live, summary, plan))
            except Exception as error:  # noqa: BLE001 - the old state is as good as it was
                self._counts.error(error)
                return summary
        done = yield from call(self._behind.start, live.conversation.key, self._folding.fold(live))
        if done is None or self._wait_seconds is None:
            return summary
        yield from call(self._behind.join, done, self._wait_seconds)
        found = yield from call(self._store.summary, live.conversation)
        return standing(found, live.history)

    def left_out_tokens(self, history: Sequence[Message], view: MemoryView) -> int:
        """Return how many tokens fewer a view has than the whole history."""
        folded = history[: len(history) - len(view.kept)]
        instead = filter(None, (view.summary_message, view.recalled_message))
        return sum(one.tokens for one in folded) - sum(
            self._deciding.count(one.text) for one in instead
        )


def check(conversation: Conversation) -> None:
    """Raise ConfigError unless somebody said whose conversation it is."""
    if not isinstance(conversation, Conversation):
        raise ConfigError(
            "a conversation is named by Conversation(id=..., tenant=..., user=...); "
            f"got {type(conversation).__name__}."
        )


def turns_of(given: Sequence[Message]) -> tuple[Message, ...]:
    """Return what of some messages is conversation: no system messages, nothing a view made."""
    return tuple(one for one in given if one.role != "system" and one.id not in OWN_IDS)


def asked(history: Sequence[Message]) -> str:
    """Return the user's newest message."""
    at = newest_question(history)
    return "" if at is None else history[at].text


def view_of(
    history: Sequence[Message],
    summary: Summary,
    recalled: "Recalled | None",
    plan: MemoryPlan,
    *,
    system: tuple[Message, ...] = (),
    edited: bool = False,
) -> MemoryView:
    """Return a view, and why it is as it is."""
    reason = "folded" if summary.folded else "edited" if edited else "whole"
    why = {
        "folded": f"a summary of {summary.tokens:,} tokens stands for {summary.folded:,} messages",
        "edited": "the summary stands for other messages than these, so all are sent",
        "whole": "all messages are sent",
    }[reason]
    return MemoryView(
        kept=tuple(history[summary.folded :]),
        summary=summary.text,
        recalled=recalled.messages if recalled is not None else (),
        system=system,
        plan=plan,
        reason=reason,
        why="; ".join(filter(None, (why, recalled.why if recalled is not None else "", plan.why))),
    )
