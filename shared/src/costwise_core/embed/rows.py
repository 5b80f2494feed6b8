"""Vectors of somebody else's embedder as the unit rows costwise works with."""

from collections.abc import Sequence

import numpy as np

from costwise_core.stores.vectors import unit
from costwise_core.types import Matrix

__all__ = ["unit_rows"]


def unit_rows(vectors: Sequence[Sequence[float]]) -> Matrix:
    """Return the vectors scaled to unit length: shape (len(vectors), dim), float32.

    Raises:
        VectorError: if one is not finite, is all zeros, or is not as wide as the first.

    Example:
        >>> unit_rows([[3.0, 4.0], [0.0, 2.0]]).shape
        (2, 2)
    """
    if not vectors:
        return np.empty((0, 0), np.float32)
    width = len(vectors[0])
    return np.stack([unit(vector, dim=width) for vector in vectors])
