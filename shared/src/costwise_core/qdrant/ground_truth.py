"""What the nearest really are, by comparing everything with the vectors as they were given.

Ties count fairly: whatever is as near as the k-th is right, so equal points do not cost recall.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from costwise_core.errors import ConfigError
from costwise_core.qdrant.samples import Floats, Questions
from costwise_core.qdrant.targets import Answers, PointId, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Truth", "exact_truth", "target_truth"]

_SPARE: Final = 32
_DEEPEST: Final = 4_096
_BLOCK: Final = 64
# Two ways to add up the same numbers differ by this much of how large they are.
_SAME: Final = 2e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """Which points may be among the k nearest of each question.

    Args:
        right: For each question the points at least as near as the k-th.
        wanted: For each question how many there are to find: k, or fewer if fewer match.

    Example:
        >>> truth = Truth(right=(frozenset({1, 2, 3}),), wanted=(2,))
        >>> truth.recalls([[3, 9]]).tolist()
        [0.5]
    """

    right: tuple[frozenset[PointId], ...]
    wanted: tuple[int, ...]

    def recalls(self, found: "Sequence[Sequence[PointId]]") -> "NDArray[np.float64]":
        """Return for each question the share of its nearest that was found.

        A question that nothing matches is answered by finding nothing: 1.
        """
        return np.array(
            [
                min(wanted, len(right.intersection(ids))) / wanted if wanted else 1.0
                for right, wanted, ids in zip(self.right, self.wanted, found, strict=True)
            ]
        )

    def take(self, rows: "Sequence[int] | NDArray[np.intp]") -> "Truth":
        """Return that of these questions."""
        return Truth(
            right=tuple(self.right[n] for n in rows), wanted=tuple(self.wanted[n] for n in rows)
        )


def exact_truth(
    vectors: Floats,
    questions: Questions,
    k: int,
    *,
    distance: str,
    allowed: "Callable[[int], NDArray[np.bool_] | None]" = lambda _: None,
) -> Truth:
    """Return what is nearest among vectors in memory; points are named by their row.

    Args:
        vectors: (n, dims).
        questions: What to search for.
        k: How many.
        distance: "Cosine", "Dot", "Euclid" or "Manhattan".
        allowed: For a question's row, which vectors its filter lets through; None for all.

    Raises:
        ConfigError: if the distance is unknown.

    Example:
        >>> asked = Questions.of(np.eye(2, dtype=np.float32))
        >>> exact_truth(np.eye(2, dtype=np.float32), asked, 1, distance="Cosine").right
        (frozenset({0}), frozenset({1}))
    """
    nearness = _nearness(vectors, distance)
    right: list[frozenset[PointId]] = []
    wanted: list[int] = []
    for start in range(0, len(questions), _BLOCK):
        block = zip(*nearness(questions.vectors[start : start + _BLOCK]), strict=True)
        for n, (scores, sizes) in enumerate(block, start=start):
            mask = allowed(n)
            rows = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
            among = scores[rows]
            count = min(k, len(rows))
            if count:
                last = np.partition(among, -count)[-count]
                rows = rows[among >= last - _SAME * sizes[rows]]
            right.append(frozenset(rows.tolist()))
            wanted.append(count)
    return Truth(right=tuple(right), wanted=tuple(wanted))


def _nearness(vectors: Floats, distance: str) -> "Callable[[Floats], tuple[Floats, Floats]]":
    """Return what says how near all vectors are, and how large the numbers were it added up."""
    if distance == "Cosine":
        unit = vectors / _lengths(vectors)[:, None]
        return lambda asked: _products(asked / _lengths(asked)[:, None], unit)
    if distance == "Dot":
        return lambda asked: _products(asked, vectors)
    if distance == "Euclid":
        # Where all lie far from zero, squared lengths would drown the distances between them.
        middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        moved = vectors - middle
        squares = _lengths(moved) ** 2

        def near(asked: Floats) -> tuple[Floats, Floats]:
            products, sizes = _products(asked - middle, moved)
            return 2 * products - squares, 2 * sizes + squares

        return near
    if distance == "Manhattan":

        def nearer(asked: Floats) -> tuple[Floats, Floats]:
            far = np.stack([np.abs(vectors - one).sum(axis=1) for one in asked])
            return -far, far

        return nearer
    raise ConfigError(f"distance {distance!r} is unknown: Cosine, Dot, Euclid or Manhattan.")


def _products(asked: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    return asked @ vectors.T, np.outer(_lengths(asked), _lengths(vectors))


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1)
    return lengths


def target_truth(
    target: Target,
    questions: Questions,
    k: int,
    *,
    collection: str,
    points: int,
    per_second: float | None = None,
    folder: Path | None = None,
) -> Truth:
    """Return what is nearest in a collection, by asking it for an exact search.

    Args:
        target: The collection.
        questions: What to search for.
        k: How many.
        collection: Its name, under which the answer is kept.
        points: How many it holds: with another number, it is asked again.
        per_second: Exact search reads everything, so a server in use needs a limit.
        folder: Where the answer is kept; nowhere if None.

    Raises:
        StoreError: if the collection refuses exact searches, as strict mode can.
    """
    digest = hashlib.sha256(questions.vectors.tobytes())
    digest.update(json.dumps([collection, points, k, questions.to_dict()["filters"]]).encode())
    path = folder / f"truth-{digest.hexdigest()[:32]}.json" if folder else None
    if path is not None and (kept := _read(path, len(questions))) is not None:
        return kept
    filters = questions.filters or None
    depth = k + _SPARE
    answers = target.exact(questions.vectors, depth, filters=filters, per_second=per_second)
    right: list[frozenset[PointId]] = []
    wanted: list[int] = []
    for n in range(len(questions)):
        ids, scores = answers.ids[n], answers.scores[n]
        # Where more tie with the k-th than were fetched, fetch more.
        while len(ids) >= depth and _ties(scores, k) == len(ids) and len(ids) < _DEEPEST:
            more = _one(target, questions, n, 2 * len(ids), per_second)
            depth_now = 2 * len(ids)
            ids, scores = more.ids[0], more.scores[0]
            if len(ids) < depth_now:
                break
        right.append(frozenset(ids[: _ties(scores, k)]))
        wanted.append(min(k, len(ids)))
    truth = Truth(right=tuple(right), wanted=tuple(wanted))
    if path is not None:
        _write(path, truth)
    return truth


def _one(
    target: Target, questions: Questions, row: int, depth: int, per_second: float | None
) -> Answers:
    filters = [questions.filters[row]] if questions.filters else None
    asked = questions.vectors[row : row + 1]
    return target.exact(asked, depth, filters=filters, per_second=per_second)


def _ties(scores: Sequence[float], k: int) -> int:
    """Return how many of the best are as near as the k-th, whichever direction is better."""
    if len(scores) <= k:
        return len(scores)
    last = scores[k - 1]
    slack = _SAME * max(abs(scores[0]), abs(last))
    return sum(1 for n, score in enumerate(scores) if n < k or abs(score - last) <= slack)


def _write(path: Path, truth: Truth) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[sorted(right, key=str) for right in truth.right], list(truth.wanted)]
    half = path.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps(rows), encoding="utf-8")
    half.replace(path)


def _read(path: Path, questions: int) -> Truth | None:
    try:
        right, wanted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if len(right) != questions or len(wanted) != questions:
        return None
    return Truth(right=tuple(map(frozenset, right)), wanted=tuple(map(int, wanted)))
