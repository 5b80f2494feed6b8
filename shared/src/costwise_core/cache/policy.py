"""When the answer to a similar question may be served.

This first policy is one fixed cosine. No fixed value is right on all traffic, so the one here is
high enough to serve little but near-repeats (docs/cache.md has the curve).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.errors import ConfigError
from costwise_core.types import Neighbour

__all__ = ["CONSERVATIVE", "FixedThreshold"]

CONSERVATIVE: Final = 0.97
"""Cosine that lets near-repeats through and little else, for sentence embedders like MiniLM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedThreshold:
    """Serve the nearest entry when its cosine similarity reaches one fixed value.

    Args:
        min_cosine: Between 0 and 1, higher is closer. The default is conservative.

    Raises:
        ConfigError: if `min_cosine` is not in (0, 1].

    Example:
        >>> FixedThreshold(min_cosine=0.95).choose("a question", [])
        'nothing similar is stored in this scope'
    """

    min_cosine: float = CONSERVATIVE

    def __post_init__(self) -> None:
        if not 0.0 < self.min_cosine <= 1.0:
            raise ConfigError(
                "min_cosine is a similarity between 0 and 1 (1 is identical), "
                f"got {self.min_cosine!r}; if you have a distance, 1 - distance is what is meant."
            )

    def choose(self, question: str, neighbours: Sequence[Neighbour]) -> Neighbour | str:  # noqa: ARG002
        """Return the nearest entry if it is near enough, else why it is not."""
        if not neighbours:
            return "nothing similar is stored in this scope"
        best = neighbours[0]
        # Two embeddings of one text differ in the last bits, so 1.0 must not be out of reach.
        if best.cosine >= self.min_cosine - 1e-6:
            return best
        return f"nearest question has cosine {best.cosine:.3f}, below {self.min_cosine:.3f}"
