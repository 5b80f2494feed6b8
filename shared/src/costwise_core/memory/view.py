"""What of a conversation goes into one prompt, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.memory.messages import Message
from costwise_core.memory.plan import MemoryPlan
from costwise_core.memory.prompts import recalled_block, summary_block

__all__ = ["OWN_IDS", "MemoryView", "newest_question"]

_SUMMARY_ID: Final = "costwise-summary"
_RECALLED_ID: Final = "costwise-recalled"
OWN_IDS: Final = frozenset({_SUMMARY_ID, _RECALLED_ID})
"""Of messages that a view made; handed back with a history, they are no part of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryView:
    """What of a conversation goes into one prompt.

    Args:
        kept: Messages that go in as they are, oldest first.
        summary: What stands for those before them, "" for nothing.
        recalled: Messages the summary stands for that are quoted besides, oldest first.
        system: System messages; they are never folded and come first.
        plan: What the planner decided; None where it was not asked.
        left_out_tokens: How many tokens fewer this is than the whole history.
        reason: One word, that is counted: "whole" (there was nothing to leave out), "folded",
            "edited" (the summary stands for other messages), "holdout", "error".
        why: One sentence for a person.

    Example:
        >>> view = MemoryView(kept=(Message(role="user", text="And in blue?"),), summary="Shoes.")
        >>> [message.role for message in view.messages], view.messages[-1].text
        (['user', 'user'], 'And in blue?')
    """

    kept: tuple[Message, ...]
    summary: str = ""
    recalled: tuple[Message, ...] = ()
    system: tuple[Message, ...] = ()
    plan: MemoryPlan | None = None
    left_out_tokens: int = 0
    reason: str = "whole"
    why: str = ""

    @property
    def summary_message(self) -> Message | None:
        """The summary as one message, the same bytes until the next fold; None without one."""
        if not self.summary:
            return None
        return Message(role="user", text=summary_block(self.summary), id=_SUMMARY_ID)

    @property
    def recalled_message(self) -> Message | None:
        """The recalled messages quoted in one; None without any."""
        if not self.recalled:
            return None
        return Message(role="user", text=recalled_block(self.recalled), id=_RECALLED_ID)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt: what stays the same from call to call first, what changes last.

        System messages, the summary, the kept messages, and right before the newest message of the
        user those that were recalled for it. A provider's cache goes on reading all before that.
        """
        summary, recalled = self.summary_message, self.recalled_message
        at = newest_question(self.kept)
        at = 0 if at is None else at
        return (
            *self.system,
            *((summary,) if summary else ()),
            *self.kept[:at],
            *((recalled,) if recalled else ()),
            *self.kept[at:],
        )


def newest_question(messages: Sequence[Message]) -> int | None:
    """Return the index of the user's newest message, None if there is none.

    Example:
        >>> newest_question([Message(role="user", text="a"), Message(role="assistant", text="b")])
        0
    """
    found = (at for at in range(len(messages) - 1, -1, -1) if messages[at].role == "user")
    return next(found, None)
