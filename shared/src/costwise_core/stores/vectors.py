"""Unit vectors, and the exact scan over them that the embedded stores share.

A scan reads every vector of one scope and embedder and no other. It is exact, so a stored neighbour
is never overlooked; at the sizes these stores are for, it costs less than to embed a question.
"""

import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costwise_core.errors import VectorError
from costwise_core.types import Vector

__all__ = ["VectorIndex", "unit"]

_T = TypeVar("_T", bound=np.generic)
_FIRST_ROWS: Final = 16
_FEW: Final = 16


def unit(vector: ArrayLike, *, dim: int | None = None) -> Vector:
    """Return a fresh float32 copy of a vector, scaled to unit length.

    Args:
        vector: Anything numpy can read as a row of numbers.
        dim: How many dimensions it must have; None for any.

    Raises:
        VectorError: if it is not one row of finite numbers, is all zeros, or has the wrong width.

    Example:
        >>> unit([3.0, 4.0]).tolist() == np.float32([0.6, 0.8]).tolist()
        True
    """
    try:
        values = np.array(vector, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise VectorError(f"a vector must be a row of numbers: {error}.") from None
    if values.ndim != 1 or not values.size:
        raise VectorError(f"a vector must have one axis and at least 1 number, got {values.shape}.")
    if dim is not None and values.size != dim:
        raise VectorError(f"a vector of this embedder has {dim} dimensions, got {values.size}.")
    largest = float(np.abs(values).max())
    if not math.isfinite(largest):
        raise VectorError("a vector must be finite, got one with NaN or infinity.")
    if largest == 0.0:
        raise VectorError("a vector of zeros has no direction, so nothing can be similar to it.")
    values /= largest  # so that squares neither overflow nor vanish
    values /= math.sqrt(float(values @ values))
    return values.astype(np.float32)


class VectorIndex:
    """Finds the most similar vectors of one scope and embedder. Not thread-safe.

    Example:
        >>> index = VectorIndex()
        >>> index.add(7, unit([1, 0]), scope="s", embedder="e", expires=None)
        >>> index.search(unit([1, 0]), 3, scope="s", embedder="e", now=0.0)
        [(7, 1.0)]
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, _Rows]] = {}
        self._places: dict[int, tuple[str, str, int]] = {}

    def __contains__(self, ident: int) -> bool:
        return ident in self._places

    def dim(self, embedder: str) -> int | None:
        """Return how many dimensions this embedder's vectors have, None while there are none."""
        scopes = self._groups.get(embedder)
        return next(iter(scopes.values())).matrix.shape[1] if scopes else None

    def add(
        self, ident: int, vector: Vector, *, scope: str, embedder: str, expires: float | None
    ) -> None:
        """Add a unit vector under an id that is not in use.

        Raises:
            VectorError: if the embedder's other vectors have another width.
        """
        dim = self.dim(embedder)
        if dim is not None and dim != vector.size:
            raise VectorError(f"vectors of {embedder!r} have {dim} dimensions, got {vector.size}.")
        rows = self._groups.setdefault(embedder, {}).setdefault(scope, _Rows(vector.size))
        self._places[ident] = (embedder, scope, rows.append(ident, vector, expires))

    def discard(self, ident: int) -> None:
        """Remove a vector; an unknown id is ignored."""
        place = self._places.pop(ident, None)
        if place is None:
            return
        embedder, scope, position = place
        rows = self._groups[embedder][scope]
        moved = rows.remove(position)
        if moved is not None:
            self._places[moved] = place
        elif not rows.n:
            del self._groups[embedder][scope]
            if not self._groups[embedder]:
                del self._groups[embedder]

    def get(self, ident: int) -> Vector | None:
        """Return a copy of the vector under an id, None if there is none."""
        if ident not in self._places:
            return None
        embedder, scope, position = self._places[ident]
        vector: Vector = self._groups[embedder][scope].matrix[position].copy()
        return vector

    def search(
        self, vector: Vector, k: int, *, scope: str, embedder: str, now: float
    ) -> list[tuple[int, float]]:
        """Return up to `k` ids with their cosines, most similar first, none expired.

        Args:
            vector: Unit vector to compare with.
            k: At most how many.
            scope: The only scope that is looked at.
            embedder: The only embedder whose vectors are compared.
            now: Seconds since the epoch.
        """
        rows = self._groups.get(embedder, {}).get(scope)
        if rows is None:
            return []
        for ident in rows.due(now):
            self.discard(ident)
        scores = rows.matrix[: rows.n] @ vector
        return [(int(rows.ids[i]), min(score, 1.0)) for i, score in _best(scores, k)]


def _best(scores: Vector, k: int) -> list[tuple[int, float]]:
    """Return positions and values of the `k` largest scores, largest first; spoils `scores`."""
    k = min(k, scores.size)
    if k > _FEW:
        top = np.argpartition(scores, -k)[-k:]
        top = top[np.argsort(-scores[top], kind="stable")]
        return [(int(i), float(scores[i])) for i in top]
    best = []
    # A few passes for the maximum are 20 times faster than one partition.
    for _ in range(k):
        position = int(scores.argmax())
        best.append((position, float(scores[position])))
        scores[position] = -np.inf
    return best


class _Rows:
    """The vectors of one scope and embedder, without gaps, in a matrix that doubles when full."""

    __slots__ = ("expires", "ids", "matrix", "n", "soonest")

    def __init__(self, dim: int) -> None:
        self.matrix: NDArray[np.float32] = np.empty((_FIRST_ROWS, dim), dtype=np.float32)
        self.ids: NDArray[np.int64] = np.empty(_FIRST_ROWS, dtype=np.int64)
        self.expires: NDArray[np.float64] = np.empty(_FIRST_ROWS, dtype=np.float64)
        self.soonest = math.inf
        self.n = 0

    def append(self, ident: int, vector: Vector, expires: float | None) -> int:
        """Add a row at the end and return its position."""
        if self.n == len(self.ids):
            self.matrix = _doubled(self.matrix)
            self.ids = _doubled(self.ids)
            self.expires = _doubled(self.expires)
        position = self.n
        self.matrix[position] = vector
        self.ids[position] = ident
        self.expires[position] = math.inf if expires is None else expires
        self.soonest = min(self.soonest, float(self.expires[position]))
        self.n += 1
        return position

    def remove(self, position: int) -> int | None:
        """Fill the gap with the last row and return that row's id, None if it was the last."""
        self.n -= 1
        if position == self.n:
            return None
        for column in (self.matrix, self.ids, self.expires):
            column[position] = column[self.n]
        return int(self.ids[position])

    def due(self, now: float) -> list[int]:
        """Return the ids of expired rows; cheap while none can be."""
        if now < self.soonest:
            return []
        expires = self.expires[: self.n]
        expired = expires <= now
        self.soonest = float(expires[~expired].min(initial=math.inf))
        return [int(ident) for ident in self.ids[: self.n][expired]]


def _doubled(array: NDArray[_T]) -> NDArray[_T]:
    larger = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
