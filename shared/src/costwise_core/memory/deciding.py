"""What a memory decides with: the model's prices and tokenizer, and how short to keep things."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from costwise_core.errors import PriceError
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.messages import Message, Summary, digest
from costwise_core.memory.plan import MemoryPlan, MemoryPolicy, plan, saved_usd
from costwise_core.prices import shared_prices
from costwise_core.tokens import shared_tokens

if TYPE_CHECKING:
    from costwise_core.protocols import TokenCounter

__all__ = ["Deciding", "standing"]


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The planner, with all that it is told about one application.

    Args:
        model: That answers; "" is unknown.
        summariser: The summariser's name; "" is none.
        appends: Whether the summariser can go on from a live prompt.
        policy: How short.
        stated: What both charge, None to look it up.
        tokens: Counts tokens, None to count as `model` does.
        lengths: Calls of finished conversations.

    Example:
        >>> Deciding(model="gpt-4o").prices.input
        2.5
    """

    model: str = ""
    summariser: str = ""
    appends: bool = False
    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    stated: MemoryPrices | None = None
    tokens: "TokenCounter | None" = None
    lengths: Sequence[int] = ()

    @cached_property
    def prices(self) -> MemoryPrices | None:
        """What both models charge; None where nobody knows."""
        found = self.stated
        if found is None and self.model:
            try:
                found = MemoryPrices.of(shared_prices(), self.model, self.summariser)
            except PriceError:
                return None
        if found is None or not found.appended or self.appends:
            return found
        return replace(found, appended=False)

    @cached_property
    def count(self) -> "TokenCounter":
        """Counts the tokens of a text."""
        return self.tokens if self.tokens is not None else shared_tokens().counter(self.model)

    @property
    def exact(self) -> bool:
        """Whether tokens are counted and not estimated."""
        return self.tokens is not None or not shared_tokens().count("", self.model).estimated

    def plan(
        self,
        messages: Sequence[Message],
        summary: Summary,
        *,
        before: int,
        relevance: float = 1.0,
        alone: bool = False,
        coming: bool = False,
    ) -> MemoryPlan:
        """Decide what to do with a conversation now; `alone` is without a summariser."""
        prices = self.prices
        if alone and prices is not None:
            prices = replace(prices, summary_input=None, summary_output=None, appended=False)
        return plan(
            messages,
            summary,
            prices,
            self.policy,
            before=before,
            lengths=self.lengths,
            relevance=relevance,
            model=self.model,
            coming=coming,
        )

    def saved_usd(self, messages: Sequence[Message], summary: Summary, *, before: int) -> float:
        """Return what a conversation saved so far, after its folds."""
        return saved_usd(
            messages, summary, self.prices, self.policy, before=before, model=self.model
        )

    def sized(
        self, messages: Sequence[Message], known: Sequence[Message] = ()
    ) -> tuple[Message, ...]:
        """Return the messages with their tokens counted, once for those that are known."""
        sizes = {one.id: (one.text, one.tokens) for one in known if one.id}
        found = []
        for one in messages:
            text, tokens = sizes.get(one.id, ("", 0))
            if not one.tokens:
                counted = tokens if text == one.text and tokens else self.count(one.text)
                one = replace(one, tokens=counted)  # noqa: PLW2901
            found.append(one)
        return tuple(found)


def standing(summary: Summary | None, messages: Sequence[Message]) -> Summary:
    """Return the summary if it stands for the first of these messages, else an empty one.

    An edited message, an answer made anew and another branch are other messages.

    Example:
        >>> talk = [Message(role="user", text="a", id="1"), Message(role="user", text="b", id="2")]
        >>> one = Summary(text="A.", folded=1, digest=digest(talk[:1]), version=3)
        >>> standing(one, talk).text, standing(one, talk[1:]).text, standing(one, []).version
        ('A.', '', 3)
    """
    if summary is None:
        return Summary()
    known = summary.folded <= len(messages) and (
        not summary.folded or summary.digest == digest(messages[: summary.folded])
    )
    if not known:
        return Summary(version=summary.version)
    # Fewer messages than when it was made are a call that is made again, with this summary.
    return replace(summary, seen=min(summary.seen, len(messages)))
