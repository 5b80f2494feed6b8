"""A conversation as numbers: what its calls cost, and what they would have cost with all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from costwise_core.errors import ConfigError
from costwise_core.memory.economics import MemoryPrices, calls_of, prompt_usd
from costwise_core.memory.messages import Message, Summary
from costwise_core.tokens import count_tokens

__all__ = ["FRAME_TOKENS", "Talk", "talk_of"]

FRAME_TOKENS: Final = 50
"""What stands around a summary, or around recalled messages, in a prompt."""


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation as numbers.

    Args:
        summary: What stands for its first messages.
        prices: What model and summariser charge.
        share: Of what a call saves, which recall may spend.
        before: Tokens that come before it and never change.
        total: Tokens of the first n messages, for every n.
        calls: How many messages lay before each call that was answered.
        pending: Whether a call with all messages is still to be sent.

    Example:
        >>> talk_of([Message(role="user", text="", tokens=7)], Summary(), None).total
        [0, 7]
    """

    summary: Summary
    prices: MemoryPrices | None
    share: float
    before: int
    total: Sequence[int]
    calls: Sequence[int]
    pending: bool

    @property
    def size(self) -> int:
        """Messages there are."""
        return len(self.total) - 1

    @property
    def sent(self) -> int:
        """Messages in the last call that was answered: the prefix that a cache knows of."""
        return self.calls[-1] if self.calls else 0

    @property
    def prompts(self) -> list[int]:
        """How many messages lay before each call, the one at hand included."""
        return [*self.calls, *([self.size] if self.pending else [])]

    def kept(self, stop: int) -> int:
        """Tokens of the conversation in a prompt of the first `stop` messages, as things stand."""
        folded = self.summary.folded
        stands_in = self.summary.tokens + FRAME_TOKENS if folded else 0
        return stands_in + self.total[stop] - self.total[folded]

    def since(self) -> list[int]:
        """How many messages lay before each call since the summary was made."""
        return [stop for stop in self.prompts if stop >= self.summary.seen]

    def usd(self, tokens: int, cached: int = 0) -> float:
        """What the conversation's part of a prompt costs; 0 without prices."""
        if self.prices is None:
            return 0.0
        return prompt_usd(self.prices, tokens, cached, before=self.before)

    def gains(self) -> list[float]:
        """What each call since the summary was made saves against the whole history."""
        if not self.summary.folded:
            return [0.0] * len(self.since())
        found, last = [], None
        for previous, stop in pairwise([0, *self.prompts]):
            if stop >= self.summary.seen:
                cached = 0 if last is None else self.kept(last)
                ours = self.usd(self.kept(stop), cached)
                found.append(self.usd(self.total[stop], self.total[previous]) - ours)
                last = stop
        return found

    def after_recall(self, gain: float) -> float:
        """What is left of a call's gain once recall has spent all that it may."""
        return gain - max(gain, 0.0) * self.share

    def saved(self) -> float:
        """What the answered calls saved, after folds and what recall might have cost."""
        gains = self.gains()
        answered = gains[: len(gains) - self.pending]
        return self.summary.saved_usd + sum(map(self.after_recall, answered))


def talk_of(
    messages: Sequence[Message],
    summary: Summary,
    prices: MemoryPrices | None,
    *,
    share: float = 0.0,
    before: int = 0,
    model: str = "",
    coming: bool = False,
) -> Talk:
    """Count a conversation; `coming` is whether a call is, whoever spoke last.

    Raises:
        ConfigError: if the summary stands for more messages than there are.

    Example:
        >>> talk_of([Message(role="user", text="", tokens=7)], Summary(), None).pending
        True
    """
    if summary.folded > len(messages):
        raise ConfigError(
            f"the summary stands for {summary.folded} messages, but only {len(messages)} were "
            "given; give all messages of the conversation."
        )
    sizes = (one.tokens or count_tokens(one.text, model).tokens for one in messages)
    return Talk(
        summary=summary,
        prices=prices,
        share=share,
        before=before,
        total=list(accumulate(sizes, initial=0)),
        calls=calls_of(messages),
        pending=bool(messages) and (coming or messages[-1].role != "assistant"),
    )
