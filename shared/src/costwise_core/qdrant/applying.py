"""Making a collection what a plan says: written down, waited for, measured, and undone if need be.

A plan is applied in one of two ways. A *patch* changes the collection where it is: it takes less
disk, and while the index is rebuilt the old one answers. A *shadow* is a second collection that is
copied, built and measured before anybody uses it, and then takes over by an alias: nobody sees a
worse index, and going back takes one request.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant.apply_preview import preview, refuse, room
from costwise_core.qdrant.apply_steps import Mode, Run, begun, carry_out, take_back
from costwise_core.qdrant.asking import checked_rate
from costwise_core.qdrant.journal import Entry, Journal
from costwise_core.qdrant.places import Place, RemotePlace
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.target_edge import EdgeTarget
from costwise_core.qdrant.target_remote import RemoteTarget
from costwise_core.qdrant.targets import Target
from costwise_core.qdrant.verifying import Verified
from costwise_core.qdrant.waiting import Patience

if TYPE_CHECKING:
    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["Applied", "apply", "rollback"]

State = Literal["planned", "kept", "applied", "rolled back"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What was done, or would be.

    Attributes:
        state: "planned" (a dry run), "kept" (the plan says so), "applied" or "rolled back".
        why: The reason: what was measured, or what failed.
        search: How to search from now on; the app must send it with each query.
        steps: All steps with their results, in their order.
        notes: What to know.
        verified: What was measured in the end, if anything.
        collection: What is in use now.
        spare: What is not used any more and was kept, to go back to; "" if nothing was.

    Example:
        >>> print(Applied(state="kept", why="the gain is under the noise.", search=SearchConfig(),
        ...               collection="docs"))
        docs: kept, since the gain is under the noise.
        search with: the server's defaults
    """

    state: State
    why: str
    search: SearchConfig
    collection: str
    steps: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    verified: Verified | None = None
    spare: str = ""

    def __str__(self) -> str:
        """Return it as text."""
        lines = [f"{self.collection}: {self.state}, since {self.why}"]
        for step in self.steps:
            if self.state == "planned":
                lines.append(f"  would {step.name}: {step.says}")
            else:
                took = "not finished" if step.seconds is None else f"{step.seconds:.1f} s"
                lines.append(f"  {step.name}: {step.says} ({took})")
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"search with: {self.search}")
        if self.spare:
            lines.append(f"kept to go back to: {self.spare}; delete it when you trust the new one")
        return "\n".join(lines)


def apply(
    plan: "TuningPlan",
    target: Target,
    *,
    mode: Mode = "patch",
    dry_run: bool = True,
    journal: str | Path | None = None,
    alias: str | None = None,
    snapshot: bool = False,
    disk_free: int | None = None,
    per_second: float | None = 20.0,
    patience: Patience | None = None,
    said: Callable[[str], None] = lambda _: None,
    on_search: Callable[[SearchConfig], None] = lambda _: None,
) -> Applied:
    """Make a collection what a plan says, measure that it keeps the promise, and go back if not.

    Only settings that differ are sent: sending those that are set already rebuilds nothing. The
    search settings are not a part of the collection, so half of the gain is that the app sends
    `Applied.search`.

    After a lost connection or a `kill -9`, the same call with the same journal goes on.

    Args:
        plan: What `tune` found.
        target: A `RemoteTarget`, or an `EdgeTarget` whose folder nobody else has open.
        mode: "patch" or "shadow".
        dry_run: Whether only to say what would be done; nothing is written then.
        journal: The file that holds what was done; a new one for each change. Needed if not dry.
        alias: For "shadow", the alias the apps use; the target's name if that is one.
        snapshot: Whether to save the collection first: a server's snapshot, or a folder's copy.
        disk_free: Bytes free on the server's disk, which cannot be seen from here.
        per_second: At most so many exact searches a second while it is measured; None for no limit.
        patience: How often to look while it is built, and for how long.
        said: Told each step, for a log or a progress line.
        on_search: Told how to search, whenever that changes: with the plan's settings when all is
            well; without quantization at once when it is not; with the old ones at the end.

    Raises:
        ConfigError: if plan, target and arguments do not fit, strict mode forbids what is needed,
            or the disk is too small. Nothing was changed.
        StoreUnavailableError: if the connection or patience was lost: call again to go on.
        StoreError: if the server refused.

    Example:
        >>> import tempfile
        >>> from costwise_core.testing.shards import small_plan, small_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = EdgeTarget(small_shard(folder))
        ...     result = apply(small_plan(target), target)
        >>> result.state, [step.name for step in result.steps]
        ('planned', ['change', 'wait and verify'])
    """
    checked_rate(per_second)
    with _place(target, alias, patience or Patience(), said) as place:
        seen = place.target(place.name()).inspect()
        given = _given(target)
        if plan.keep or not plan.reached:
            search = plan.baseline.search
            return Applied(state="kept", why=plan.why, search=search, collection=given)
        if dry_run:
            refuse(plan, seen)
            steps, notes = preview(plan, place, seen, mode, snapshot=snapshot, disk_free=disk_free)
            return Applied(
                state="planned",
                why="this is a dry run; nothing was changed",
                search=plan.search,
                collection=given,
                steps=steps,
                notes=notes,
            )
        if journal is None:
            raise ConfigError(
                "give journal=..., a file that does not exist yet: it holds what was there, and "
                "without it nothing could be resumed or rolled back."
            )
        with Journal(journal) as book:
            fresh = not book.knows("plan")
            if fresh:
                refuse(plan, seen)
                room(plan, place, seen, mode, disk_free)
                book.fact("target", lambda: given)
                book.fact("plan", plan.to_json)
            elif _digest(book.fact("plan")) != _digest(plan.to_json()):
                raise ConfigError(f"{journal} belongs to another plan; take a new file for this.")
            run = Run(
                book=book,
                place=place,
                plan=plan,
                per_second=per_second,
                snapshot=snapshot,
                said=said,
                on_search=on_search,
            )
            before = begun(run, seen, mode)
            if (before["mode"], book.fact("target")) != (mode, given):
                raise ConfigError(
                    f"{journal} is of mode={before['mode']!r} for {book.fact('target')!r}, not of "
                    f"{mode!r} for {given!r}."
                )
            if not book.knows("outcome"):
                with _resumable(book):
                    carry_out(run, before)
            return _applied(run)


def rollback(
    journal: str | Path,
    target: Target,
    *,
    alias: str | None = None,
    patience: Patience | None = None,
    said: Callable[[str], None] = lambda _: None,
    on_search: Callable[[SearchConfig], None] = lambda _: None,
) -> Applied:
    """Undo what a journal says was done, whether it was finished or not.

    A patch goes back in two steps: at once by search settings that leave out quantization (told
    to `on_search`), then by rebuilding the old index. A shadow goes back by its alias; what was
    written to it since the switch is brought back, and it is kept.

    Args:
        journal: The file that `apply` was given.
        target: The same collection as then.
        alias: The same as then.
        patience: How often to look while the old index is built, and for how long.
        said: Told each step.
        on_search: Told how to search, whenever that changes.

    Raises:
        ConfigError: if the journal has nothing to undo, or is another collection's.
        StoreUnavailableError: if the connection or patience was lost: call again to go on.
        StoreError: if the server refused.

    Example:
        >>> import tempfile
        >>> from costwise_core.testing.shards import small_plan, small_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target, file = EdgeTarget(small_shard(folder)), f"{folder}/docs.journal"
        ...     plan = small_plan(target)
        ...     done = apply(plan, target, dry_run=False, journal=file, per_second=None)
        ...     undone = rollback(file, target)
        >>> done.state, undone.state
        ('applied', 'rolled back')
    """
    from costwise_core.qdrant.plan import TuningPlan  # noqa: PLC0415

    if not Path(journal).exists():
        raise ConfigError(f"there is no journal at {journal}.")
    with Journal(journal) as book, _place(target, alias, patience or Patience(), said) as place:
        plan = TuningPlan.from_json(book.fact("plan"))
        given, then = _given(target), book.fact("target")
        if given != then:
            raise ConfigError(f"{journal} is of {then!r}, not of {given!r}.")
        run = Run(
            book=book,
            place=place,
            plan=plan,
            per_second=None,
            snapshot=False,
            said=said,
            on_search=on_search,
        )
        outcome = book.fact("outcome") if book.knows("outcome") else {}
        if outcome.get("state") != "rolled back" and book.knows("before"):
            with _resumable(book):
                take_back(run, book.fact("before"), why="it was asked for")
        return _applied(run)


def _applied(run: Run) -> Applied:
    book = run.book
    outcome = book.fact("outcome") if book.knows("outcome") else {}
    steps = {step.name: step for step in book.entries()}
    measured = steps.get("wait and verify")
    verified = None
    if measured is not None and measured.result:
        verified = Verified.from_dict({k: v for k, v in measured.result.items() if k != "looked"})
    undone = outcome.get("state") == "rolled back"
    spare = book.fact("left") if book.knows("left") else ""
    return Applied(
        state="rolled back" if undone else "applied",
        why=outcome.get("why", "nothing had been changed"),
        search=SearchConfig.from_dict(book.fact("search")),
        collection=outcome.get("collection") or book.fact("target"),
        steps=tuple(steps.values()),
        notes=_conflicts(steps),
        verified=verified,
        spare=spare if undone else outcome.get("kept", ""),
    )


def _conflicts(steps: dict[str, Entry]) -> tuple[str, ...]:
    count = sum(
        (steps[name].result or {}).get("conflicts", 0)
        for name in ("late writes", "undo: late writes")
        if name in steps
    )
    if not count:
        return ()
    return (
        f"{count:,} points were changed on both sides of the switch; the side in use kept its own",
    )


@contextmanager
def _place(
    target: Target, alias: str | None, patience: Patience, said: Callable[[str], None]
) -> Iterator[Place]:
    place: Place
    if isinstance(target, EdgeTarget):
        from costwise_core.qdrant.places_edge import EdgePlace  # noqa: PLC0415

        place = EdgePlace(target)
    elif isinstance(target, RemoteTarget):
        place = RemotePlace(target, alias=alias, patience=patience, said=said)
    else:
        raise ConfigError(
            f"{type(target).__name__} cannot be changed; a RemoteTarget or an EdgeTarget can. "
            "Local mode has no index to change."
        )
    try:
        yield place
    finally:
        place.close()


@contextmanager
def _resumable(book: Journal) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        open_steps = [step.name for step in book.entries() if step.seconds is None]
        during = f" during {open_steps[-1]!r}" if open_steps else ""
        kind = StoreUnavailableError if isinstance(error, StoreUnavailableError) else StoreError
        raise kind(
            f"{error} It was cut off{during}: call apply again with journal={str(book.path)!r} to "
            "go on, or rollback with it."
        ) from error


def _given(target: Any) -> str:
    if isinstance(target, EdgeTarget):
        return str(Path(target.path).absolute())
    return str(getattr(target, "collection", target))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
