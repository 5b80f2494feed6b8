"""Original vectors on disk, quantized ones in memory: the change that makes quantization pay."""

from dataclasses import replace
from typing import TYPE_CHECKING

from costwise_core.errors import ConfigError
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.prices import QdrantPrices
from costwise_core.qdrant.sizing import estimate
from costwise_core.qdrant.sizing_change import SizingChange
from costwise_core.qdrant.targets import Target

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["tiered", "tiering"]


def tiering(
    target: Target, index: IndexConfig | None = None, prices: QdrantPrices | None = None
) -> SizingChange:
    """Return what a collection takes now, and with its originals cold and quantized vectors pinned.

    The price is in the slowest searches: where memory is short, each rescored vector is read from
    disk. Measure with the memory you will deploy with.

    Args:
        target: The collection.
        index: How it is to be indexed; as it is, or int8 if it is not quantized.
        prices: What memory and disk cost you.

    Returns:
        Both; `.after.config` is the index to use.

    Example:
        >>> import tempfile
        >>> from costwise_core.qdrant.target_edge import EdgeTarget
        >>> from costwise_core.testing.shards import small_shard
        >>> with tempfile.TemporaryDirectory() as folder, EdgeTarget(small_shard(folder)) as target:
        ...     print(tiering(target).after.config)
        int8, m 16, ef_construct 100, vectors cold
    """
    seen = target.inspect()
    space = seen.vector
    index = index or space.index
    if index.quantization == "none":
        index = replace(index, quantization="int8", quantile=0.99)
    after = replace(index, vectors="cold", quantized="pinned")
    before, then = (
        estimate(
            seen.points,
            space.size,
            config,
            prices,
            datatype=space.datatype,
            replication=seen.replication,
            segments=max(1, seen.segments),
        )
        for config in (space.index, after)
    )
    return SizingChange(before=before, after=then)


def tiered(plan: "TuningPlan") -> "TuningPlan":
    """Return a plan with the same index, its originals cold and its quantized vectors pinned.

    Where parts lie changes no answer, so what was measured of recall still holds; what was measured
    of time does not, and is left out.

    Raises:
        ConfigError: if the plan's index is not quantized: there would be nothing left in memory.

    Example:
        >>> import tempfile
        >>> from costwise_core.qdrant.target_edge import EdgeTarget
        >>> from costwise_core.testing.shards import small_plan, small_shard
        >>> with tempfile.TemporaryDirectory() as folder, EdgeTarget(small_shard(folder)) as target:
        ...     print(tiered(small_plan(target)).index)
        int8, m 16, ef_construct 100, vectors cold
    """
    chosen = plan.chosen
    if chosen.index.quantization == "none":
        raise ConfigError(
            "this plan's index is not quantized, so with cold originals every search would read "
            "the disk; tune with quantization in the space."
        )
    freed = 4.0 * plan.dims if chosen.index.vectors != "cold" else 0.0
    moved = replace(
        chosen,
        index=replace(chosen.index, vectors="cold", quantized="pinned"),
        hot_bytes=None if chosen.hot_bytes is None else chosen.hot_bytes - freed,
        search_cpu_ms=None,
        p50_ms=None,
        p95_ms=None,
        cost=None,
    )
    return replace(plan, keep=False, recommended=moved, why=f"originals cold: {plan.why}")
