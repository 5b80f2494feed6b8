"""Logistic regression on many sparse columns and a few dense ones, in numpy alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Design", "Sparse", "logistic", "minimise", "stacked", "weighted"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparse:
    """A matrix that is mostly zero: for each entry its row, column and value.

    Args:
        shape: Rows and columns.
        rows: Row of each entry.
        columns: Its column.
        values: The entries.

    Example:
        >>> ends = np.array([0, 1])
        >>> eye = Sparse(shape=(2, 2), rows=ends, columns=ends, values=np.ones(2))
        >>> eye.times(np.array([3.0, 4.0])).tolist()
        [3.0, 4.0]
    """

    shape: tuple[int, int]
    rows: Ints
    columns: Ints
    values: Floats

    def times(self, weights: Floats) -> Floats:
        """Return the product with a vector of one number for each column."""
        products = self.values * weights[self.columns]
        sums: Floats = np.bincount(self.rows, products, self.shape[0]).astype(np.float64)
        return sums

    def across(self, numbers: Floats) -> Floats:
        """Return the product of the transpose with a vector of one number for each row."""
        products = self.values * numbers[self.rows]
        sums: Floats = np.bincount(self.columns, products, self.shape[1]).astype(np.float64)
        return sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """What a model is fitted on: sparse columns, dense columns, and how hard each is held down.

    Args:
        sparse: Shape (n, terms).
        dense: Shape (n, d).
        ridges: How hard weights of sparse columns are held down, and those of dense ones.
    """

    sparse: Sparse
    dense: Floats
    ridges: tuple[float, float]


def weighted(
    terms: Mapping[str, int], index: Mapping[str, int], idf: Floats
) -> tuple[Ints, Floats]:
    """Return the columns of a text's known terms and their TF-IDF weights, of length one together.

    Salton and Buckley, "Term-weighting approaches in automatic text retrieval" (1988), with
    logarithms of the counts.

    Example:
        >>> weighted({"a": 1, "b": 2}, {"a": 0}, np.ones(1))[1].tolist()
        [1.0]
    """
    known = [(index[term], count) for term, count in terms.items() if term in index]
    columns = np.array([column for column, _ in known], np.int64)
    counts = np.array([count for _, count in known], np.float64)
    values = (1 + np.log(counts)) * idf[columns]
    return columns, values / (float(np.sqrt(values @ values)) or 1.0)


def stacked(rows: Sequence[tuple[Ints, Floats]], columns: int) -> Sparse:
    """Return the matrix whose rows are given as columns and values."""
    sizes = [len(one) for one, _ in rows]
    return Sparse(
        shape=(len(rows), columns),
        rows=np.repeat(np.arange(len(rows)), sizes),
        columns=np.concatenate([one for one, _ in rows]),
        values=np.concatenate([one for _, one in rows]),
    )


def logistic(design: Design, marks: Floats) -> tuple[Floats, Floats, float]:
    """Fit the chance of a good mark.

    Args:
        design: What is known of each question.
        marks: Shape (n,), each from 0 to 1.

    Returns:
        Weights of the sparse columns, of the dense ones, and the constant.
    """
    sparse, dense = design.sparse, design.dense
    terms = sparse.shape[1]
    held = np.concatenate(
        [
            np.full(terms, design.ridges[0]),
            np.full(dense.shape[1], design.ridges[1]),
            np.zeros(1),
        ]
    )

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = sparse.times(weights[:terms]) + dense @ weights[terms:-1] + weights[-1]
        value = float(np.sum(np.logaddexp(0, logits) - marks * logits))
        error = 1 / (1 + np.exp(-np.clip(logits, -30, 30))) - marks
        slope = np.concatenate([sparse.across(error), error @ dense, [error.sum()]])
        pull = held * weights
        return value + 0.5 * float(pull @ weights), slope + pull

    weights = minimise(loss, np.zeros(len(held)))
    return weights[:terms], weights[terms:-1], float(weights[-1])


def minimise(
    loss: Callable[[Floats], tuple[float, Floats]], start: Floats, *, steps: int = 60
) -> Floats:
    """Return where a smooth convex function is smallest: L-BFGS (Liu and Nocedal 1989).

    Args:
        loss: Returns the value and the gradient at a point.
        start: Where to begin.
        steps: Most steps to take.

    Example:
        >>> def bowl(x):
        ...     return float(np.sum((x - 3) ** 2)), 2 * (x - 3)
        >>> minimise(bowl, np.zeros(2)).round(3).tolist()
        [3.0, 3.0]
    """
    point = start
    value, slope = loss(point)
    past: list[tuple[Floats, Floats]] = []
    for _ in range(steps):
        step = _direction(slope, past)
        length = 1.0 if past else 1.0 / max(1.0, float(np.abs(slope).sum()))
        gain = float(slope @ step)
        after, value_after, slope_after = point, value, slope
        while length > 1e-8:
            after = point - length * step
            value_after, slope_after = loss(after)
            if value_after <= value - 1e-4 * length * gain:
                break
            length /= 2
        moved, turned = after - point, slope_after - slope
        if float(moved @ turned) > 1e-12:
            past = [*past[-7:], (moved, turned)]
        done = value - value_after < 1e-5 * abs(value)
        point, value, slope = after, value_after, slope_after
        if done:
            break
    return point


def _direction(slope: Floats, past: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return the slope times the inverse curvature that the past steps have shown."""
    step = slope.copy()
    shares = []
    for moved, turned in reversed(past):
        share = float(moved @ step) / float(moved @ turned)
        step -= share * turned
        shares.append(share)
    if past:
        moved, turned = past[-1]
        step *= float(moved @ turned) / float(turned @ turned)
    for (moved, turned), share in zip(past, reversed(shares), strict=True):
        step += moved * (share - float(turned @ step) / float(moved @ turned))
    return step
