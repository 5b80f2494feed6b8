"""Other settings of the stack, to see what each is worth; none is chosen on the day itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks._day_traffic import Day
from costwise_core import Cache, ExtractiveCompressor, GuardedThreshold, calibrate_share
from costwise_core.output.profiles import ANSWER, OutputProfile
from costwise_core.protocols import Embedder
from costwise_core.recipe import in_order

__all__ = ["IDEAS", "Idea"]

TARGET: Final = 0.95
SHARES: Final = (0.75, 0.5, 0.35, 0.2, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Idea:
    """What differs from the recommended stack.

    Args:
        parts: The fields that differ, by the recommended stack, the embedder and the day, of which
            only the questions that nobody asks may be looked at.
        limit: What the model is told about the length of its answers.
    """

    parts: Callable[[Any, Embedder, Day], Mapping[str, Any]] = lambda *_: {}
    limit: OutputProfile | None = None


def _guarded(stack: Any, embedder: Embedder, _: Day) -> Mapping[str, Any]:
    return {"cache": Cache(stack.cache.backend, embedder=embedder, policy=GuardedThreshold())}


def _calibrated(stack: Any, embedder: Embedder, day: Day) -> Mapping[str, Any]:
    """Keep the smallest share of which labels say that 95 of 100 answers stay in the prompt."""
    found = calibrate_share(
        lambda share: in_order([stack.trim, _sentences(embedder, share)]),
        day.labelled(embedder),
        target=TARGET,
        shares=SHARES,
    )
    return {"compress": _sentences(embedder, found.share)}


def _sentences(embedder: Embedder, share: float) -> ExtractiveCompressor:
    return ExtractiveCompressor(embedder=embedder, share=share)


IDEAS: Final[Mapping[str, Idea]] = {
    "calibrated": Idea(parts=_calibrated),
    "guarded": Idea(parts=_guarded),
    "short": Idea(limit=ANSWER),
}
