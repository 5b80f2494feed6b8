"""What a conversation's memory did with it and why, for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.plan import MemoryPlan
from costwise_core.memory.view import MemoryView

__all__ = ["Explained"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Explained:
    """What is folded, kept and recalled of a conversation, why, and what that saved.

    Shows itself as a table, in notebooks as HTML.

    Args:
        conversation: Whose and which.
        folded: Messages that the summary stands for, oldest first; the store has them all.
        summary: What stands for them.
        view: What the next prompt would hold.
        plan: What the planner would do now.
        lost: Names, numbers and the like that the folded messages have and the summary has not.
        saved_usd: Estimated dollars saved so far against sending all each time, after all folds;
            None without prices. What was really paid is the ledger's to say.

    Example:
        >>> Explained(conversation=Conversation(id="42"), folded=(), summary=Summary(),
        ...           view=MemoryView(kept=()), plan=MemoryPlan(action="keep", why="it is new"))
        Conversation '42': 0 messages, 0 tokens; 0 tokens go into the next prompt
                    messages  tokens
          folded           0       0
          summary          0       0
          recalled         0       0
          kept             0       0
          next: keep, as it is new
    """

    conversation: Conversation
    folded: tuple[Message, ...]
    summary: Summary
    view: MemoryView
    plan: MemoryPlan
    lost: tuple[str, ...] = ()
    saved_usd: float | None = None

    def __repr__(self) -> str:
        return as_text(self._heading(), self._rows(), notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), notes=self._notes())

    def _heading(self) -> str:
        total = _tokens(self.folded) + _tokens(self.view.kept)
        number = len(self.folded) + len(self.view.kept)
        return (
            f"Conversation {self.conversation.id!r}: {number:,} messages, {total:,} tokens; "
            f"{total - self.view.left_out_tokens:,} tokens go into the next prompt"
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            ("", "messages", "tokens"),
            ("folded", f"{len(self.folded):,}", f"{_tokens(self.folded):,}"),
            ("summary", f"{bool(self.summary.text):d}", f"{self.summary.tokens:,}"),
            ("recalled", f"{len(self.view.recalled):,}", f"{_tokens(self.view.recalled):,}"),
            ("kept", f"{len(self.view.kept):,}", f"{_tokens(self.view.kept):,}"),
        ]

    def _notes(self) -> list[str]:
        summary, notes = self.summary, []
        if summary.folded:
            how = f"a model has read {summary.written:,} of its {summary.folded:,} messages"
            if summary.written < summary.folded:
                how += ", the others are in it by sentences taken word for word"
            notes.append(f"summary {summary.version}: {how}")
        if self.lost:
            some = ", ".join(self.lost[:_SOME])
            more = f" and {len(self.lost) - _SOME:,} more" if len(self.lost) > _SOME else ""
            notes.append(f"only in the raw messages: {some}{more}")
        if self.saved_usd is not None:
            notes.append(f"saved so far, estimated: {usd(Decimal(str(round(self.saved_usd, 9))))}")
        notes.append(f"next: {self.plan.action}, as {self.plan.why}")
        return notes


_SOME = 12


def _tokens(messages: Sequence[Message]) -> int:
    return sum(one.tokens for one in messages)
