"""The steps of applying a plan and of taking it back, each written into the journal.

Whoever is cut off begins again with the same journal: what is done is not done again, and each step
may be done twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from costwise_core.errors import StoreError, StoreUnavailableError
from costwise_core.qdrant.changes import Json, back, forward, settings
from costwise_core.qdrant.copying import merge_late, rounds
from costwise_core.qdrant.journal import Journal
from costwise_core.qdrant.places import Place
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Inspection
from costwise_core.qdrant.verifying import Verified, verified

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["Mode", "Run", "begun", "carry_out", "take_back"]

Mode = Literal["patch", "shadow"]
_LOOKS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One plan being applied.

    Args:
        book: Where every step is written down.
        place: Where the collection lives.
        plan: What is wanted.
        per_second: Exact searches a second while it is measured.
        snapshot: Whether the collection is saved first.
        said: Told what happens.
        on_search: Told how to search from now on.
    """

    book: Journal
    place: Place
    plan: "TuningPlan"
    per_second: float | None
    snapshot: bool
    said: Callable[[str], None]
    on_search: Callable[[SearchConfig], None]

    def step(self, name: str, says: str, do: Callable[[], Any]) -> Any:
        """Do a step unless it is done, say so, and return its result."""

        def told() -> Any:
            self.said(f"{name}: {says}")
            return do()

        return self.book.step(name, says, told)

    def search_with(self, search: SearchConfig) -> None:
        """Tell the app how to search, and note it."""
        self.book.note("search", search.to_dict())
        self.on_search(search)


def begun(run: Run, seen: Inspection, mode: Mode) -> Json:
    """Return what was there before anything was changed, noted when the journal was new."""
    place, plan = run.place, run.plan

    def facts() -> Json:
        body = forward(seen, plan.index)
        return {
            "mode": mode,
            "name": place.name(),
            "forward": body,
            "back": back(seen, plan.index),
            "like": settings(seen, body),
            "indexes": place.schemas(),
            "indexed": seen.indexed_vectors / max(1, seen.points),
        }

    noted: Json = run.book.fact("before", facts)
    return noted


def carry_out(run: Run, before: Json) -> None:
    """Make the collection what the plan says, and take it back if that does not keep its promise.

    Raises:
        StoreUnavailableError: if the place cannot be reached, or time is over: go on later.
        StoreError: if it refuses.
    """
    if run.book.knows("failed"):
        take_back(run, before, why=run.book.fact("failed"))
        return
    if run.snapshot:
        run.step("snapshot", "save the collection", lambda: run.place.snapshot(before["name"]))
    if before["mode"] == "shadow" and before["forward"]:
        _shadow(run, before)
    else:
        _patch(run, before)


def take_back(run: Run, before: Json, *, why: str) -> None:
    """Undo whatever of a plan has been done, and note why."""
    run.book.note("failed", why)
    if before["mode"] == "shadow":
        _undo_shadow(run, before)
    else:
        _undo_patch(run, before)
    run.search_with(run.plan.baseline.search)
    run.book.note("outcome", {"state": "rolled back", "why": why})


def _patch(run: Run, before: Json) -> None:
    place, name, body = run.place, before["name"], before["forward"]
    if body:
        run.step("change", f"ask for {run.plan.index}", lambda: place.change(name, body))
    else:
        run.said("the collection is built like this already, so nothing is sent")
    seen = _settled_and_verified(run, before, name)
    if seen is None:
        return
    run.search_with(run.plan.search)
    run.book.note("outcome", {"state": "applied", "why": str(seen), "collection": name})


def _undo_patch(run: Run, before: Json) -> None:
    place, name, body = run.place, before["name"], before["back"]
    if run.plan.index.quantization != "none" and body:
        # Takes effect at once, while what comes next takes a rebuild.
        run.search_with(SearchConfig(hnsw_ef=run.plan.search.hnsw_ef, ignore_quantization=True))
    if not body or not run.book.has("change"):
        return
    run.step("undo: change", "ask for the old index", lambda: place.change(name, body))
    run.step(
        "undo: wait",
        "until the old index is built again",
        lambda: place.settle(name, body, indexed=before["indexed"]),
    )


def _shadow(run: Run, before: Json) -> None:
    place, name, book = run.place, before["name"], run.book
    shadow: str = book.fact("shadow", lambda: place.shadow(book.ident()))
    run.step(
        "create",
        f"make {shadow!r} with {run.plan.index}",
        lambda: place.create(shadow, before["like"], before["indexes"]),
    )
    run.step(
        "copy",
        "copy all points, until a round finds nothing new",
        lambda: [
            one.to_dict()
            for one in rounds(place.points(name), place.points(shadow), book, said=run.said)
        ],
    )
    seen = _settled_and_verified(run, before, shadow)
    if seen is None:
        return
    late, current = _switched(run, before, shadow)
    run.search_with(run.plan.search)
    run.step(
        "late writes",
        "bring over what was written to the old one meanwhile",
        lambda: merge_late(place.points(late), place.points(current), book).to_dict(),
    )
    book.note(
        "outcome",
        {"state": "applied", "why": str(seen), "collection": current, "kept": late},
    )


def _undo_shadow(run: Run, before: Json) -> None:
    place, book = run.place, run.book
    if not book.knows("shadow"):
        return
    shadow = book.fact("shadow")
    if not book.has("switch"):
        run.step("undo: drop", f"delete {shadow!r}, which nobody used", lambda: place.drop(shadow))
        return
    # A switch that was begun may have happened, so it is brought to its end first.
    old, new = _switched(run, before, shadow)
    late, current = run.step(
        "undo: switch", "let everybody use the old one", lambda: place.switch(new, old)
    )
    run.step(
        "undo: late writes",
        "bring back what was written to the new one meanwhile",
        lambda: merge_late(place.points(late), place.points(current), book, back=True).to_dict(),
    )
    book.note("left", late)


def _switched(run: Run, before: Json, shadow: str) -> tuple[str, str]:
    late, current = run.step(
        "switch",
        "let everybody use the new one",
        lambda: run.place.switch(before["name"], shadow),
    )
    return late, current


def _settled_and_verified(run: Run, before: Json, name: str) -> Verified | None:
    """Wait and measure; take all back and return None if it was refused or promised too much."""
    try:
        seen = _settled(run, before, name)
    except StoreUnavailableError:
        raise  # what was begun goes on there
    except StoreError as error:
        take_back(run, before, why=str(error))
        return None
    if not seen.holds:
        take_back(run, before, why=f"the promise was not kept: {seen}")
        return None
    return seen


def _settled(run: Run, before: Json, name: str) -> Verified:
    """Wait, measure, and do both again if something was still built while it was measured."""

    def both() -> Json:
        for _ in range(_LOOKS):
            looked = run.place.settle(name, before["forward"], indexed=before["indexed"])
            seen = _measured(run, name)
            run.said(str(seen))
            status = run.place.target(name).status()
            if status.status == "green" and not status.pending:
                break
        return {"looked": looked, **seen.to_dict()}

    found = run.step("wait and verify", "until it is built, then measure its recall", both)
    return Verified.from_dict({key: value for key, value in found.items() if key != "looked"})


def _measured(run: Run, name: str) -> Verified:
    return verified(run.place.target(name), run.plan, run.plan.search, per_second=run.per_second)
