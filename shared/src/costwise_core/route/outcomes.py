"""What routers are trained on and promises are made from: both models' marks for one question."""

import math
from dataclasses import dataclass, field
from decimal import Decimal

from costwise_core.errors import ConfigError
from costwise_core.types import Vector

__all__ = ["PairedOutcome"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedOutcome:
    """How well a cheap and a dear model answered the same question.

    Both must have been asked: what one model did elsewhere says nothing of what it would have done
    here.

    Args:
        question: As a user asked it.
        weak: Mark of the cheaper model's answer, from 0, wrong, to 1, right.
        strong: Mark of the dearer model's.
        weak_usd: What the cheaper model's answer cost in dollars; None if not known.
        strong_usd: What the dearer model's cost.
        answer: The cheaper model's answer, for judges that learn.
        vector: Embedding of the question, if there is one.

    Raises:
        ConfigError: if a mark is not from 0 to 1 or a cost is negative.

    Example:
        >>> PairedOutcome(question="What is 17 * 23?", weak=0, strong=1).gain
        1
    """

    question: str
    weak: float
    strong: float
    weak_usd: Decimal | None = None
    strong_usd: Decimal | None = None
    answer: str = field(default="", repr=False)
    vector: Vector | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, mark in (("weak", self.weak), ("strong", self.strong)):
            if not (math.isfinite(mark) and 0 <= mark <= 1):
                raise ConfigError(
                    f"{name} is the mark of an answer, from 0 to 1, got {mark!r}; divide by the "
                    "best mark there is."
                )
        for name, usd in (("weak_usd", self.weak_usd), ("strong_usd", self.strong_usd)):
            if usd is not None and not usd >= 0:
                raise ConfigError(f"{name} is a cost in dollars, at least 0, got {usd!r}.")

    @property
    def gain(self) -> float:
        """What asking the dearer model adds, in [-1, 1]."""
        return self.strong - self.weak
