"""Whether a collection still keeps a plan's promise, weeks after it was applied."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from costwise_core.errors import CostwiseError
from costwise_core.qdrant.changes import forward
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Inspection, Target
from costwise_core.qdrant.verifying import Verified, obstacles, verified

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["Watched", "watch"]

_UNINDEXED: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What a look at a collection found.

    Attributes:
        state: "fine", "drift" (the promise or the configuration does not hold any more) or
            "unmeasured" (nobody knows).
        why: The reason, in words.
        verified: What was measured, if anything could be.
        notes: What else was seen.

    Example:
        >>> print(Watched(state="unmeasured", why="the collection is empty"))
        unmeasured: the collection is empty
    """

    state: Literal["fine", "drift", "unmeasured"]
    why: str
    verified: Verified | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What a job should end with: 0 for fine, 1 for drift, 2 if it could not be measured."""
        return {"fine": 0, "drift": 1, "unmeasured": 2}[self.state]

    def __str__(self) -> str:
        """Return it as text."""
        return "\n".join([f"{self.state}: {self.why}", *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "state": self.state,
            "exit_code": self.exit_code,
            "why": self.why,
            "verified": self.verified and self.verified.to_dict(),
            "notes": list(self.notes),
        }


def watch(
    target: Target,
    plan: "TuningPlan",
    *,
    search: SearchConfig | None = None,
    per_second: float | None = 20.0,
) -> Watched:
    """Ask the plan's confirming questions again, and compare with what was promised.

    New points, deletions, another embedding model or a changed collection all show here. The
    questions are those of then: if users ask something else by now, tune again.

    Args:
        target: The collection.
        plan: The plan that was applied, or that said to keep what there is.
        search: How the app searches; as the plan says if None.
        per_second: At most so many exact searches a second; None for no limit.

    Returns:
        What was found. Nothing is raised for what a collection does: what cannot be measured is
        `unmeasured`, which is not `fine`.

    Example:
        >>> import tempfile
        >>> from costwise_core.qdrant.target_edge import EdgeTarget
        >>> from costwise_core.testing.shards import small_plan, small_shard
        >>> with tempfile.TemporaryDirectory() as folder, EdgeTarget(small_shard(folder)) as target:
        ...     seen = watch(target, small_plan(target), per_second=None)
        >>> seen.state, seen.exit_code, seen.verified.holds
        ('drift', 1, True)
        >>> seen.why.partition(",")[0]
        'the collection is float32'
    """
    try:
        seen = target.inspect()
        if why := obstacles(plan, seen):
            return Watched(state="unmeasured", why="; ".join(why))
        found = verified(target, plan, search or plan.search, per_second=per_second)
        faults = _faults(plan, seen, found)
    except CostwiseError as error:
        return Watched(state="unmeasured", why=str(error))
    return Watched(
        state="drift" if faults else "fine",
        why="; ".join([*faults, str(found)]),
        verified=found,
        notes=tuple(_notes(seen, found)),
    )


def _faults(plan: "TuningPlan", seen: Inspection, found: Verified) -> list[str]:
    faults = []
    if forward(seen, plan.index):
        faults.append(f"the collection is {seen.vector.index}, the plan is {plan.index}")
    if not found.holds:
        faults.append("the promise does not hold any more")
    return faults


def _notes(seen: Inspection, found: Verified) -> list[str]:
    notes = []
    if seen.status != "green":
        notes.append(f"the collection is {seen.status}: it is being optimized, or waits to be")
    dense = sum(space.kind != "sparse" for space in seen.vectors)
    missing = 1 - seen.indexed_vectors / max(1, dense * seen.points)
    if missing > _UNINDEXED:
        notes.append(f"{missing:.0%} of the vectors are in no index, and are compared one by one")
    if found.below_half:
        notes.append(f"{found.below_half:.1%} of the questions find less than half")
    return notes
