"""What is tuned: vectors from wherever they lie, and the questions that are asked of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from costwise_core.errors import ConfigError, VectorError
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.samples import Questions, checked_vectors, read_table
from costwise_core.qdrant.targets import Inspection, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Asked", "Given", "Source", "source_of"]

_SMALLEST: Final = 16_384

Given: TypeAlias = "Target | NDArray[Any] | Path | str"
"""A collection, a table of vectors, or a `.npy` file of one."""

Asked: TypeAlias = "Questions | NDArray[Any] | Path | str | int"
"""Questions, a table or a file of them, or how many of the vectors to hold out instead."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Vectors in an order by chance, the questions, and where they come from."""

    vectors: "NDArray[np.float32]"
    payloads: tuple[Any, ...]
    questions: Questions
    distance: str
    points: int
    name: str
    target: Target | None
    seen: Inspection | None
    held_out: bool

    @property
    def base(self) -> IndexConfig:
        """The index that is deployed; Qdrant's default where none is."""
        return self.seen.vector.index if self.seen else IndexConfig()

    @property
    def full_scan_threshold(self) -> int:
        """Kilobytes of the sample that are scanned where the collection would scan.

        The collection's, as large a part of the sample as of the whole. Where all of it lies below,
        the smallest there is, since the sample is to stand for a collection with a graph.
        """
        whole = self.seen.vector.full_scan_threshold if self.seen else 10_000
        part = max(1, round(whole * len(self.vectors) / self.points))
        return part if self.vectors.nbytes / 1024 > part else 1


def source_of(given: Given, asked: Asked, *, limit: int, seed: int) -> Source:
    """Take vectors by chance, in an order by chance, and the questions.

    Args:
        given: What is tuned.
        asked: What is asked.
        limit: Vectors at most.
        seed: For the choice.

    Raises:
        ConfigError: if there is nothing in it, or it does not fit the questions.
        VectorError: if a vector cannot be searched for; it names the row.
    """
    target: Target | None = None
    seen: Inspection | None = None
    payloads: tuple[Any, ...] = ()
    distance = "Cosine"
    questions = None if isinstance(asked, int) else _questions(asked, seed)
    if isinstance(given, np.ndarray | str | Path):
        table = given if isinstance(given, np.ndarray) else _table(Path(given))
        name = "vectors" if isinstance(given, np.ndarray) else Path(given).name
        points = len(table)
        rows = np.random.default_rng(seed).permutation(points)[:limit]
        vectors = table[rows] if table.ndim == 2 else table
    else:
        target, seen = given, given.inspect()
        distance, points, name = seen.vector.distance, seen.points, seen.collection
        filtered = questions is not None and questions.filtered
        sample = given.vectors(limit, seed=seed, payload=filtered) if points else None
        rows = np.random.default_rng(seed).permutation(len(sample.ids) if sample else 0)
        vectors = sample.vectors[rows] if sample else np.zeros((0, seen.vector.size), np.float32)
        payloads = tuple(sample.payloads[n] for n in rows) if sample and filtered else ()
    if not len(vectors):
        raise ConfigError(f"{name!r} is empty: there is nothing to measure recall on.")
    vectors = _checked(vectors, rows)
    if vectors.nbytes < _SMALLEST:
        raise ConfigError(
            f"{name!r} holds {len(vectors):,} vectors: to compare them all takes less than any "
            "index could save, so there is nothing to tune."
        )
    held_out = isinstance(asked, int)
    if questions is None:
        count = int(asked)  # type: ignore[arg-type]
        if not 0 < count <= len(vectors) // 2:
            raise ConfigError(
                f"{count} of {len(vectors)} vectors cannot be held out; take at most half."
            )
        questions = Questions.of(
            vectors[:count], source="held-out vectors of the collection", optimistic=True
        )
        vectors, payloads = vectors[count:], payloads[count:]
    if questions.vectors.shape[1] != vectors.shape[1]:
        raise VectorError(
            f"questions have {questions.vectors.shape[1]} dimensions, "
            f"the collection has {vectors.shape[1]}."
        )
    if questions.filtered and target is None:
        raise ConfigError("questions have filters, but bare vectors have nothing to filter by.")
    return Source(
        vectors=vectors,
        payloads=payloads,
        questions=questions,
        distance=distance,
        points=points,
        name=name,
        target=target if seen is not None and seen.where != "local" else None,
        seen=seen,
        held_out=held_out,
    )


def _table(path: Path) -> "NDArray[Any]":
    if path.suffix != ".npy":
        raise ConfigError(f"{path.name!r} is no .npy file; give vectors, a .npy file or a target.")
    return read_table(path, mapped=True)


def _checked(vectors: "NDArray[Any]", rows: "NDArray[Any]") -> "NDArray[np.float32]":
    """Check vectors that were shuffled, and name a bad row as its owner counts."""
    if vectors.ndim == 2:
        fault = ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)
        if fault.any():
            row = int(rows[fault].min())
            raise VectorError(
                f"the vector in row {row} is all zeros or holds NaN or infinity "
                f"({int(fault.sum())} such rows); the engine would take it and never find it."
            )
    return checked_vectors(vectors, "vector")


def _questions(asked: Asked, seed: int) -> Questions:
    if isinstance(asked, Questions):
        return asked
    if isinstance(asked, str | Path):
        return Questions.from_file(asked, seed=seed)
    return Questions.of(np.asarray(asked))
