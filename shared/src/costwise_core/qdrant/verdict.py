"""Whether to change anything, why, and what to know before relying on it: in words."""

from collections.abc import Iterator
from typing import Final

from costwise_core.qdrant.confirming import Confirmed
from costwise_core.qdrant.ground_truth import Truth
from costwise_core.qdrant.plan import Measured
from costwise_core.qdrant.sources import Source

__all__ = ["notes_on", "verdict"]

_UNINDEXED_KB: Final = 10_000


def verdict(
    final: Confirmed,
    found: Measured | None,
    *,
    target: float,
    confidence: float,
    min_saving: float,
) -> tuple[bool, str]:
    """Return whether to keep what is there, and why."""
    before, best = final.baseline, final.best
    sure = f"{confidence:.0%} confidence"
    if found is None:
        seen = f"the best found is {best.index} with {best.search}: recall {best.recall:.3f}"
        if best.recall < target:
            return True, (
                f"nothing tried reaches a recall of {target:g}; {seen}. Try a wider space (higher "
                "hnsw_ef, ef_construct or m), or search exactly"
            )
        more = f"; about {final.needed:,} would be, for the best" if final.needed else ""
        return True, (
            f"a recall of {target:g} was reached, but not shown with {sure}; {seen}, at least "
            f"{best.recall_low:.3f}. There are too few questions to tell{more}"
        )
    saving = 1 - (found.cost or 0.0) / before.cost if before.cost else 0.0
    base_ok = (before.recall_low or 0.0) >= target
    noise = max(min_saving, final.cost_noise)
    if base_ok and saving < noise:
        return True, (
            f"what is there keeps the promise, and the cheapest found saves {saving:.0%}, which is "
            f"under {noise:.0%} (your minimum, or what two measurements differ by)"
        )
    gain = found.recall - before.recall
    if not base_ok and saving < min_saving and gain <= final.noise:
        return True, (
            f"the cheapest found differs by {gain:+.3f} in recall, which is no more than two "
            f"builds of the same index do ({final.noise:.3f})"
        )
    change = f"saves {saving:.0%}" if saving >= 0 else f"costs {-saving:.0%} more"
    if base_ok:
        return False, f"it keeps a recall of {target:g} with {sure} and {change}"
    return False, (
        f"what is there is not shown to reach {target:g} (recall {before.recall:.3f}, at least "
        f"{before.recall_low:.3f}); this is, with {sure}, and {change}"
    )


def notes_on(source: Source, final: Confirmed, truth: Truth) -> Iterator[str]:
    """Yield what limits the promise."""
    asked = source.questions
    if asked.optimistic:
        yield "the questions are the collection's own vectors: expect less for what users ask"
    if unmatched := truth.wanted.count(0):
        yield (
            f"filters of {unmatched:,} of {len(truth.wanted):,} confirming questions let nothing "
            "through: to find nothing is right then, which raises the recall; see whether the "
            "filters are those of this collection"
        )
    if len(source.vectors) + (len(asked) if source.held_out else 0) < source.points:
        yield (
            f"measured on a sample of {len(source.vectors):,} of {source.points:,} vectors: "
            "expect lower recall on all of them, so verify after the change"
        )
    if source.seen is None:
        yield "the baseline is Qdrant's default index, since bare vectors have none deployed"
    elif source.seen.where == "local":
        yield (
            "local mode compares every vector and has no index: what is said here holds for a "
            "server or an edge shard"
        )
    elif source.seen.segments > 1:
        yield (
            f"the collection has {source.seen.segments} segments and the sandbox one: there, "
            "recall is higher and a search takes more"
        )
    if any(one.search.rescore and one.index.vectors == "cold" for one in final.finalists):
        yield (
            "rescoring reads original vectors that are cold: here they came from the page "
            "cache; on a machine without room for them each search waits for the disk"
        )
    size = source.points * source.vectors.shape[1] * 4 / 1024
    if size < _UNINDEXED_KB:
        yield (
            f"{size:,.0f} KB of vectors are under the 10,000 KB from which Qdrant builds a graph; "
            "unless that threshold is lowered, it compares everything, exactly"
        )
    if source.vectors.shape[1] < 512 and any(
        one.index.quantization.startswith("binary") for one in final.finalists
    ):
        yield "binary quantization is made for more dimensions than these"
