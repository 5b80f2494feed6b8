"""What applying a plan would do, or why it cannot: known before anything is changed."""

from typing import TYPE_CHECKING

from costwise_core.errors import ConfigError, StoreError
from costwise_core.qdrant.apply_steps import Mode
from costwise_core.qdrant.changes import differing, forward
from costwise_core.qdrant.journal import Entry
from costwise_core.qdrant.places import Place
from costwise_core.qdrant.sizing import estimate
from costwise_core.qdrant.targets import Inspection
from costwise_core.qdrant.verifying import obstacles

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["preview", "refuse", "room"]


def preview(
    plan: "TuningPlan",
    place: Place,
    seen: Inspection,
    mode: Mode,
    *,
    snapshot: bool,
    disk_free: int | None,
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return the steps that applying a plan would take, and what to know.

    Raises:
        ConfigError: if the disk is too small, or a shadow has no alias to switch.
    """
    changes = differing(seen.vector.index, plan.index) if forward(seen, plan.index) else []
    steps = [Entry(name="snapshot", says="save the collection")] if snapshot else []
    if mode == "shadow" and changes:
        shadow = place.shadow("xxxxxxxx")
        steps += [
            Entry(name="create", says=f"make {shadow!r} with {plan.index}"),
            Entry(name="copy", says=f"copy {seen.points:,} points, until nothing new is found"),
        ]
    elif changes:
        was = ", ".join(f"{name} {getattr(seen.vector.index, name)}" for name in changes)
        now = ", ".join(f"{name} {getattr(plan.index, name)}" for name in changes)
        steps.append(Entry(name="change", says=f"{now} instead of {was}"))
    asked = len(plan.confirm)
    steps.append(
        Entry(name="wait and verify", says=f"until it is built, then ask {asked:,} questions")
    )
    if mode == "shadow" and changes:
        steps += [
            Entry(name="switch", says="let everybody use the new one"),
            Entry(name="late writes", says="bring over what was written to the old one meanwhile"),
        ]
    notes = [room(plan, place, seen, mode, disk_free)]
    if not changes:
        notes.append("the collection is built like this already; only the search settings change")
    if mode == "patch" and len(seen.vectors) > 1:
        notes.append("a change of one vector rebuilds the index of all")
    return tuple(steps), tuple(notes)


def refuse(plan: "TuningPlan", seen: Inspection) -> None:
    """Refuse what could not be applied or not be verified.

    Raises:
        ConfigError: if plan and collection do not fit.
        StoreError: if the collection is broken.
    """
    if why := obstacles(plan, seen):
        raise ConfigError(f"this plan cannot be applied to {seen.collection!r}: {'; '.join(why)}.")
    if seen.status == "red" or seen.fault:
        raise StoreError(
            f"{seen.collection!r} is not healthy ({seen.fault or 'status red'}): repair it first."
        )


def room(
    plan: "TuningPlan", place: Place, seen: Inspection, mode: Mode, disk_free: int | None
) -> str:
    """Return what disk the change takes.

    Raises:
        ConfigError: if it is not there.
    """
    # New files lie beside the old ones; a shadow's beside those it is built from, too.
    sizes = [
        estimate(
            seen.points,
            space.size,
            plan.index if space.name == seen.selected else space.index,
            datatype=space.datatype,
            replication=seen.replication,
        )
        for space in seen.vectors
        if space.kind != "sparse"
    ]
    needed = seen.replication * sum(
        size.disk if mode == "patch" else size.disk_peak for size in sizes
    )
    free = place.free() if disk_free is None else disk_free
    if free is None:
        return (
            f"about {needed / 1e6:,.0f} MB must be free on the server's disks (payloads not "
            "counted), which cannot be seen from here: give disk_free=... to have it checked"
        )
    if free < needed:
        raise ConfigError(
            f"mode={mode!r} needs about {needed / 1e6:,.0f} MB of free disk, {free / 1e6:,.0f} MB "
            f"are there.{' A patch needs less.' if mode == 'shadow' else ''}"
        )
    return (
        f"about {needed / 1e6:,.0f} MB of disk are needed meanwhile, {free / 1e6:,.0f} MB are free"
    )
