"""When the answer to a similar question may be served: the choices, and the fixed ones.

`RiskControl` (control.py) is the default: it learns the boundary from the traffic itself. A fixed
cosine is right on no two kinds of traffic; it is here for those who have measured theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from costwise_core.errors import ConfigError
from costwise_core.types import Neighbour

__all__ = ["FixedThreshold", "Verdict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a policy says of the neighbours of a question.

    Args:
        action: "serve" the candidate's answer; "check" it, that is ask the model although it could
            be served, and compare; or "refuse".
        why: One sentence for a person.
        reason: The same in one word, for counting; becomes the reason of the miss.
        candidate: The neighbour it is about, if any.
        features: The evidence, as the policy wants it back with the label.
        weight: How many requests the label stands for.
        keep: Whether a fresh answer that turns out the same as the candidate's is worth a near
            entry of its own.
    """

    action: Literal["serve", "check", "refuse"]
    why: str
    reason: str = "no_entry"
    candidate: Neighbour | None = None
    features: tuple[float, ...] = ()
    weight: float = 1.0
    keep: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedThreshold:
    """Serve the nearest entry when its cosine similarity reaches one fixed value.

    It promises nothing: measure the wrong share on your own traffic first (`calibrate`), or use
    `RiskControl`, which does.

    Args:
        min_cosine: Between 0 and 1, higher is closer.

    Raises:
        ConfigError: if `min_cosine` is not in (0, 1].

    Example:
        >>> FixedThreshold(min_cosine=0.95).decide("a question", []).why
        'nothing similar is stored in this scope'
    """

    min_cosine: float

    def __post_init__(self) -> None:
        if not 0.0 < self.min_cosine <= 1.0:
            raise ConfigError(
                "min_cosine is a similarity between 0 and 1 (1 is identical), "
                f"got {self.min_cosine!r}; if you have a distance, 1 - distance is what is meant."
            )

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:  # noqa: ARG002
        """Serve the nearest entry if it is near enough."""
        if not neighbours:
            return Verdict(action="refuse", why="nothing similar is stored in this scope")
        best = neighbours[0]
        # Two embeddings of one text differ in the last bits, so 1.0 must not be out of reach.
        if best.cosine >= self.min_cosine - 1e-6:
            why = f"asked before in similar words (cosine {best.cosine:.3f})"
            return Verdict(action="serve", why=why, candidate=best)
        why = f"nearest question has cosine {best.cosine:.3f}, below {self.min_cosine:.3f}"
        return Verdict(action="refuse", why=why, reason="below_threshold", candidate=best)

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Learn nothing."""
