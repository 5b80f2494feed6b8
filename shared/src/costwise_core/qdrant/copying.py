"""Copying a collection while others write to it, so that no write is lost that can be seen.

Qdrant has no list of changes. So every point is read in rounds, and the digest of what was read is
written into the journal: a round copies what differs from the one before, and drops what is gone.
A copy cut short anywhere begins its round again, reads everything, and writes only what is missing.

After the readers and writers have been switched over, one more round finds what was still written
to the old side. There it is a merge of three: the old side, the new side, and the digests of both
as they were copied. A point that only one side changed is taken from there; if both did, the side
that is in use now keeps its own, and the point is counted as a conflict.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from costwise_core.errors import StoreError
from costwise_core.qdrant.journal import Journal

__all__ = ["Point", "Points", "Round", "copy_round", "merge_late", "rounds"]

_PAGE: Final = 256
_MOST_ROUNDS: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point, whole: all its vectors (dense, sparse, multi) and its payload, as JSON.

    Args:
        ident: Its id; numbers and UUIDs are told apart.
        vector: As the engine's JSON has it.
        payload: Likewise.
    """

    ident: int | str
    vector: Any
    payload: dict[str, Any] | None

    @property
    def key(self) -> str:
        """The id as the journal holds it."""
        return json.dumps(self.ident)

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that differ when anything of it does."""
        text = json.dumps([self.vector, self.payload or {}], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Points(Protocol):
    """One side of a copy."""

    def pages(self, size: int) -> Iterator[list[Point]]:
        """Yield all points, a page at a time."""
        ...

    def get(self, idents: Sequence[int | str]) -> list[Point]:
        """Return those of these points that there are."""
        ...

    def put(self, points: Sequence[Point]) -> None:
        """Write points, and return when they can be read."""
        ...

    def drop(self, idents: Sequence[int | str]) -> None:
        """Remove points; those that are not there are ignored."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one pass over all points did.

    Attributes:
        read: Points that were looked at.
        written: Points that were written, since they were new or differed.
        dropped: Points that were removed, since they are gone.
        conflicts: Points that both sides changed; left as they were.
    """

    read: int
    written: int
    dropped: int
    conflicts: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return it as JSON can hold it."""
        return asdict(self)


def rounds(
    source: Points, copy: Points, journal: Journal, *, said: Callable[[str], None]
) -> list[Round]:
    """Copy until a round finds nothing to do, or five were not enough.

    A source that is written to all the time is never still; what it then lacks is little, and
    `merge_late` brings it after the switch.
    """
    done: list[Round] = []
    while len(done) < _MOST_ROUNDS:
        done.append(copy_round(source, copy, journal))
        said(
            f"round {len(done)}: {done[-1].read:,} points read, {done[-1].written:,} written, "
            f"{done[-1].dropped:,} dropped"
        )
        if not done[-1].written and not done[-1].dropped:
            break
    return done


def copy_round(source: Points, copy: Points, journal: Journal) -> Round:
    """Read all points once, and make the copy like them."""
    number = journal.next_round()
    read = written = dropped = 0
    for page in source.pages(_PAGE):
        read += len(page)
        known = journal.digests([point.key for point in page])
        fresh = [p for p in page if p.key not in known or known[p.key][0] != p.digest]
        copied = {key: (key, *both) for key, both in known.items()}
        copied |= {one[0]: one for one in _written(fresh, copy)}
        written += len(fresh)
        journal.note_copied(copied.values(), round=number)
    for keys in journal.unseen(round=number, page=_PAGE):
        copy.drop([json.loads(key) for key in keys])
        journal.note_dropped(keys)
        dropped += len(keys)
    return Round(read=read, written=written, dropped=dropped)


def merge_late(late: Points, current: Points, journal: Journal, *, back: bool = False) -> Round:
    """Bring what was written to one side after it was copied to the side that is in use now.

    Args:
        late: The side that is not used any more.
        current: The side that is.
        journal: Has the digests of both as they were copied.
        back: Whether the late side is the copy, as after a rollback.
    """
    number = journal.next_round()
    read = written = dropped = conflicts = 0
    mine, theirs = (1, 0) if back else (0, 1)
    for page in late.pages(_PAGE):
        read += len(page)
        known = journal.digests([point.key for point in page])
        changed = [p for p in page if p.key not in known or known[p.key][mine] != p.digest]
        there = _digests(current, [p.ident for p in changed])
        carried = []
        for point in changed:
            then = known[point.key][theirs] if point.key in known else None
            if there.get(point.key) == then:  # as it was copied, so nobody has touched it here
                carried.append(point)
            else:
                conflicts += there.get(point.key) != point.digest
        written += len(carried)
        copied = {key: (key, *both) for key, both in known.items()}
        for key, own, other in _written(carried, current):
            copied[key] = (key, other, own) if back else (key, own, other)
        journal.note_copied(copied.values(), round=number)
    for keys in journal.unseen(round=number, page=_PAGE):
        known = journal.digests(keys)
        there = _digests(current, [json.loads(key) for key in keys])
        gone = [key for key in keys if there.get(key) == known[key][theirs]]
        conflicts += sum(key in there and key not in gone for key in keys)
        current.drop([json.loads(key) for key in gone])
        journal.note_dropped(keys)
        dropped += len(gone)
    return Round(read=read, written=written, dropped=dropped, conflicts=conflicts)


def _written(points: Sequence[Point], copy: Points) -> list[tuple[str, bytes, bytes]]:
    """Write points, read them back, and return the digests of both sides.

    The two may differ: an engine that normalises vectors or stores them in 8 bits gives back
    something else than it was given. What is read back is also the proof that it was written.
    """
    if not points:
        return []
    copy.put(points)
    back = _digests(copy, [point.ident for point in points])
    if missing := [point.key for point in points if point.key not in back]:
        raise StoreError(
            f"the copy lacks {len(missing)} of {len(points)} points just written to it, such as "
            f"{missing[0]}; does something else remove them?"
        )
    return [(point.key, point.digest, back[point.key]) for point in points]


def _digests(points: Points, idents: Sequence[int | str]) -> dict[str, bytes]:
    return {point.key: point.digest for point in points.get(idents)} if idents else {}
