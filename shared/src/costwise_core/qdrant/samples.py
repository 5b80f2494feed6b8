"""The questions a collection is tuned on: which ones decides more than any setting does.

The same index that finds 99 % for passages of its own corpus finds 90 % for questions of users, so
points of the collection stand in for questions only where nothing else is at hand, and say so.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import ConfigError, VectorError
from costwise_core.qdrant.extras import client_models

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["Floats", "Questions", "checked_vectors", "read_table"]

Floats: TypeAlias = NDArray[np.float32]

_LONGEST_LINE: Final = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Questions:
    """Vectors to search for, with their filters.

    Make it with `from_rows`, `from_file` or `of`, which leave out what was asked before.

    Args:
        vectors: (n, dims) of float32.
        filters: One for each, or none at all.
        source: Where they come from, in words.
        optimistic: Whether they are easier than what users ask.

    Example:
        >>> asked = Questions.of(np.eye(3, dtype=np.float32)[[0, 1, 1]])
        >>> len(asked), asked.source
        (2, 'given vectors')
    """

    vectors: Floats = field(repr=False)
    filters: "tuple[models.Filter | None, ...]" = field(default=(), repr=False)
    source: str
    optimistic: bool = False

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def filtered(self) -> bool:
        """Whether any has a filter."""
        return any(one is not None for one in self.filters)

    @classmethod
    def of(
        cls,
        vectors: "NDArray[Any]",
        *,
        filters: "Iterable[models.Filter | None] | None" = None,
        source: str = "given vectors",
        optimistic: bool = False,
    ) -> Self:
        """Take vectors, each only once with the same filter.

        Raises:
            VectorError: if one is not finite, is all zeros, or they are no table.
            ConfigError: if there is another number of filters.
        """
        array = checked_vectors(vectors, "question")
        said = tuple(filters) if filters is not None else (None,) * len(array)
        if len(said) != len(array):
            raise ConfigError(f"{len(array)} questions need as many filters, got {len(said)}.")
        first = {(row.tobytes(), _text(one)): n for n, (row, one) in _backwards(array, said)}
        kept = sorted(first.values())
        return cls(
            vectors=array[kept],
            filters=tuple(said[n] for n in kept) if any(said) else (),
            source=source,
            optimistic=optimistic,
        )

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], *, limit: int = 5_000, seed: int = 0
    ) -> "Questions":
        """Take a log: rows with a `vector` and, where one was used, a `filter` as Qdrant's JSON.

        Args:
            rows: In any order.
            limit: How many at most. Each kind of filter (which fields it asks for) keeps its share
                of the log, and at least one question.
            seed: For the choice among them.

        Raises:
            VectorError: if a vector is not finite, is all zeros or of another size.
            ConfigError: if a row has no vector or its filter is none.

        Example:
            >>> log = [{"vector": [1.0, n]} for n in range(9)]
            >>> len(Questions.from_rows(log, limit=4))
            4
        """
        vectors, filters = [], []
        for n, row in enumerate(rows):
            if not isinstance(row, Mapping) or "vector" not in row:
                raise ConfigError(f"row {n} of the questions has no 'vector'.")
            vectors.append(_vector(row["vector"], n))
            if len(vectors[n]) != len(vectors[0]):
                raise VectorError(
                    f"question {n} has {len(vectors[n])} dimensions, "
                    f"the first has {len(vectors[0])}."
                )
            filters.append(_filter(row.get("filter"), n))
        if not vectors:
            raise ConfigError("there are no questions; give a log, a file or vectors.")
        asked = cls.of(np.stack(vectors), filters=filters, source="a log")
        if len(asked) <= limit:
            return asked
        return asked.take(_shares(asked.strata(), limit, seed))

    @classmethod
    def from_file(cls, path: Path | str, *, limit: int = 5_000, seed: int = 0) -> "Questions":
        """Read questions from a `.npy` table or a `.jsonl` log (see `from_rows`).

        Raises:
            ConfigError: if it is neither, or cannot be read.
            VectorError: if a vector is not finite, is all zeros or of another size.
        """
        path = Path(path)
        if path.suffix == ".npy":
            asked = cls.of(read_table(path), source=path.name)
        elif path.suffix in (".jsonl", ".ndjson"):
            asked = cls.from_rows(_lines(path), limit=limit, seed=seed)
        else:
            raise ConfigError(f"{path.name!r} is no .npy or .jsonl file.")
        order = np.random.default_rng(seed).permutation(len(asked))[:limit]
        chosen = asked.take(np.sort(order)) if len(asked) > limit else asked
        return cls(vectors=chosen.vectors, filters=chosen.filters, source=path.name)

    def take(self, rows: "NDArray[np.intp]") -> "Questions":
        """Return those of these rows."""
        return Questions(
            vectors=self.vectors[rows],
            filters=tuple(self.filters[n] for n in rows) if self.filters else (),
            source=self.source,
            optimistic=self.optimistic,
        )

    def split(self, share: float, seed: int) -> "tuple[Questions, Questions]":
        """Return two parts by chance, in each of which every kind of filter has its share.

        Args:
            share: Of the first part.
            seed: For the choice.
        """
        size = max(1, round(share * len(self)))
        first = _shares(self.strata(), size, seed)
        rest = np.setdiff1d(np.arange(len(self)), first)
        return self.take(first), self.take(rest)

    def strata(self) -> list[str]:
        """Return for each question which fields its filter asks for."""
        return [_shape(one) for one in self.filters] or [""] * len(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "dims": int(self.vectors.shape[1]),
            "float32": base64.b64encode(self.vectors.astype("<f4").tobytes()).decode(),
            "filters": [one and json.loads(_text(one)) for one in self.filters],
            "source": self.source,
            "optimistic": self.optimistic,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            VectorError: if a vector cannot be searched for.
        """
        flat = np.frombuffer(base64.b64decode(values["float32"], validate=True), "<f4")
        return cls(
            vectors=checked_vectors(flat.reshape(-1, int(values["dims"])), "question"),
            filters=tuple(_filter(one, n) for n, one in enumerate(values["filters"])),
            source=str(values["source"]),
            optimistic=bool(values["optimistic"]),
        )


def checked_vectors(vectors: "NDArray[Any]", what: str, *, dims: int | None = None) -> Floats:
    """Return vectors as (n, dims) of float32; the engine itself takes NaN and zeros silently.

    Args:
        vectors: Numbers.
        what: What a row is, for the message.
        dims: How many dimensions they must have.

    Raises:
        VectorError: if a row is not finite, is all zeros, or has the wrong size; it names the row.

    Example:
        >>> checked_vectors(np.eye(2), "vector").dtype
        dtype('float32')
    """
    try:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorError(f"{what}s must be a table of numbers: {error}.") from None
    if array.ndim != 2:
        raise VectorError(f"{what}s must be a table (n, dims), got {array.shape}.")
    if dims is not None and array.shape[1] != dims:
        raise VectorError(f"{what}s must have {dims} dimensions, got {array.shape[1]}.")
    wrong = ~np.isfinite(array).all(axis=1) | ~array.any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        fault = "all zeros" if not array[row].any() else "not finite (NaN or infinity)"
        more = f", and {int(wrong.sum()) - 1} more rows" if wrong.sum() > 1 else ""
        raise VectorError(f"{what} in row {row} is {fault}{more}.")
    return array


def read_table(path: Path, *, mapped: bool = False) -> "NDArray[Any]":
    """Return the table in a `.npy` file.

    Args:
        path: The file.
        mapped: Whether it stays on disk until it is used.

    Raises:
        ConfigError: if it cannot be read, or holds objects.

    Example:
        >>> read_table(Path("missing.npy"))
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: 'missing.npy' cannot be read: No such file or directory.
    """
    try:
        table: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return table if mapped else np.array(table)
    except OSError as error:
        raise ConfigError(f"{path.name!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path.name!r} is no .npy table of numbers: {error}.") from None


def _backwards(array: Floats, filters: "tuple[models.Filter | None, ...]") -> Any:
    """Yield the last first, so that a dictionary keeps the first of equal ones."""
    return reversed(list(enumerate(zip(array, filters, strict=True))))


def _shares(strata: list[str], size: int, seed: int) -> "NDArray[np.intp]":
    """Choose rows so that each stratum keeps its share, and at least one."""
    groups = defaultdict(list)
    for n, stratum in enumerate(strata):
        groups[stratum].append(n)
    dice = np.random.default_rng(seed)
    chosen: list[int] = []
    for members in groups.values():
        wanted = max(1, round(size * len(members) / len(strata)))
        chosen += dice.permutation(members)[:wanted].tolist()
    kept = dice.permutation(chosen)[:size] if len(groups) == 1 else np.array(chosen)
    return np.sort(kept).astype(np.intp)


def _lines(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path.name!r} cannot be read: {error.strerror}.") from None
    with file:
        for n, line in enumerate(file):
            if len(line) > _LONGEST_LINE:
                raise ConfigError(f"line {n + 1} of {path.name} is longer than 4 MB.")
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ConfigError(f"line {n + 1} of {path.name}: {error}.") from None


def _vector(value: Any, row: int) -> Floats:
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        vector = np.zeros((0, 0), np.float32)
    if vector.ndim != 1 or not len(vector):
        raise VectorError(f"the vector in row {row} of the questions is no list of numbers.")
    return vector


def _filter(value: Any, row: int) -> "models.Filter | None":
    if value is None:
        return None
    models = client_models()
    if isinstance(value, models.Filter):
        return value  # type: ignore[no-any-return]
    try:
        return models.Filter.model_validate(value)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigError(f"the filter in row {row} is none of Qdrant's: {error}.") from None


def _text(one: "models.Filter | None") -> str:
    return "" if one is None else str(one.model_dump_json(exclude_none=True))


def _shape(one: "models.Filter | None") -> str:
    """Return which fields a filter asks for, whatever their values."""
    keys: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("key"), str):
                keys.add(value["key"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(json.loads(_text(one) or "{}"))
    return ",".join(sorted(keys))
