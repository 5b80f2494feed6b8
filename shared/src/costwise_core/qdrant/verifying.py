"""Whether a collection keeps a plan's promise, asked with the questions that confirmed it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from costwise_core.errors import ConfigError
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Inspection, Target

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["Verified", "obstacles", "verified"]

_MANY: Final = 1_000_000
_TIES: Final = 32
"""So many more are asked for to find the true nearest, as some may be as near as the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """The recall that was measured, and whether it is enough.

    Attributes:
        recall: Mean share of the true k nearest that was found, in [0, 1].
        low: What the mean of all questions like these is at least, with the plan's confidence.
        target: The recall that was promised.
        below_half: Share of the questions that found less than half.
        questions: How many were asked.
        p50_ms: Median milliseconds of a search on the clock, with the network.

    Example:
        >>> seen = Verified(recall=0.97, low=0.96, target=0.95, below_half=0.0, questions=500,
        ...                 p50_ms=0.4)
        >>> seen.holds
        True
        >>> print(seen)
        recall 0.970, at least 0.960 (500 questions, target 0.95)
    """

    recall: float
    low: float
    target: float
    below_half: float
    questions: int
    p50_ms: float

    @property
    def holds(self) -> bool:
        """Whether the promise is kept: not the mean counts, but its lower bound."""
        return self.low >= self.target

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"recall {self.recall:.3f}, at least {self.low:.3f} "
            f"({self.questions:,} questions, target {self.target:g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**values)


def verified(
    target: Target, plan: "TuningPlan", search: SearchConfig, *, per_second: float | None
) -> Verified:
    """Measure a collection with the questions that confirmed a plan.

    What is true is asked anew, since the points may not be those of then.

    Args:
        target: The collection.
        plan: Has the questions, and what was promised.
        search: How to search.
        per_second: At most so many exact searches a second; each reads everything.

    Raises:
        ConfigError: if the collection is empty.
        StoreError: if it refuses or does not answer.
    """
    from statistics import median  # noqa: PLC0415

    from costwise_core.qdrant.ground_truth import target_truth  # noqa: PLC0415
    from costwise_core.qdrant.intervals import mean_low  # noqa: PLC0415

    seen = target.inspect()
    if not seen.points:
        raise ConfigError(f"{seen.collection!r} is empty: there is nothing to find in it.")
    if not len(plan.confirm):
        raise ConfigError("this plan has no questions to confirm it with.")
    truth = target_truth(
        target,
        plan.confirm,
        plan.k,
        collection=seen.collection,
        points=seen.points,
        per_second=per_second,
    )
    filters = plan.confirm.filters or None
    found = target.search(plan.confirm.vectors, plan.k, search, filters=filters)
    recalls = truth.recalls(found.ids)
    return Verified(
        recall=float(recalls.mean()),
        low=mean_low(recalls, plan.confidence, fresh=_MANY),
        target=plan.recall_target,
        below_half=float((recalls < 0.5).mean()),
        questions=len(recalls),
        p50_ms=1e3 * median(found.seconds),
    )


def obstacles(plan: "TuningPlan", seen: Inspection) -> list[str]:
    """Return why a plan cannot be used with a collection, or cannot be verified there.

    Args:
        plan: What is to be used.
        seen: The collection as it is.
    """
    why = []
    if plan.vector != seen.selected:
        why.append(f"the plan is for vector {plan.vector!r}, the target asks {seen.selected!r}")
    elif plan.dims != seen.vector.size:
        why.append(f"the plan is for {plan.dims} dimensions, the vector has {seen.vector.size}")
    elif plan.distance != seen.vector.distance:
        why.append(f"the plan is for {plan.distance}, the vector uses {seen.vector.distance}")
    if not seen.points:
        why.append("the collection is empty, so nothing could be verified")
    strict, search = seen.strict, plan.search
    if strict.get("search_allow_exact") is False:
        why.append(
            "strict mode forbids exact search, so the recall could not be verified; allow "
            "search_allow_exact meanwhile"
        )
    limits = (
        ("search_max_hnsw_ef", search.hnsw_ef),
        ("search_max_oversampling", search.oversampling),
        ("max_query_limit", plan.k + _TIES),
    )
    for name, wanted in limits:
        limit = strict.get(name)
        if limit is not None and wanted is not None and wanted > limit:
            why.append(f"strict mode allows {name} up to {limit}, the plan needs {wanted}")
    return why
