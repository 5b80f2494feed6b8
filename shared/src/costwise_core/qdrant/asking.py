"""What every target does alike when it is asked, whoever answers: check, draw, time and collect."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from costwise_core.errors import ConfigError
from costwise_core.qdrant.edge_points import shown_id
from costwise_core.qdrant.targets import Answers, Filters, PointId, Sample, VectorSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["answers_of", "checked", "checked_rate", "drawn", "sample_of"]


def checked(queries: "NDArray[Any]", size: int, filters: Filters = None) -> "NDArray[np.float32]":
    """Return queries as (n, dims) of float32.

    Raises:
        VectorError: if one is not finite, is all zeros, or has another number of dimensions.
        ConfigError: if there is another number of filters.

    Example:
        >>> checked([[1, 0], [0, 2]], 2).dtype
        dtype('float32')
    """
    from costwise_core.qdrant.samples import checked_vectors  # noqa: PLC0415 - it brings numpy

    array = checked_vectors(queries, "question", dims=size)
    if filters is not None and len(filters) != len(array):
        raise ConfigError(f"{len(array)} queries need as many filters, got {len(filters)}.")
    return array


def checked_rate(per_second: float | None) -> None:
    """Refuse a limit that is none; it is checked before anything is changed or measured.

    Raises:
        ConfigError: if it is not above 0.

    Example:
        >>> checked_rate(0)
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: per_second must be above 0, got 0.
    """
    if per_second is not None and not per_second > 0:
        raise ConfigError(f"per_second must be above 0, got {per_second!r}.")


def answers_of(
    searches: Iterable[Callable[[], Iterable[Any]]],
    *,
    per_second: float | None = None,
    here: bool = False,
) -> Answers:
    """Run searches one after the other, as users would, and return what they found.

    Args:
        searches: Each returns its points, the best first. They are made ready off the clock.
        per_second: At most so many a second; None for as many as there can be.
        here: Whether this process does the work, whose CPU time is then told.

    Raises:
        ConfigError: if `per_second` is not above 0.

    Example:
        >>> answers_of([list, list]).ids
        ((), ())
    """
    checked_rate(per_second)
    ids, scores, seconds, cpu = [], [], list[float](), 0.0
    for search in searches:
        if per_second and seconds:
            time.sleep(max(0.0, 1 / per_second - seconds[-1]))
        began, used = time.perf_counter(), time.process_time()
        found = search()
        cpu += time.process_time() - used
        seconds.append(time.perf_counter() - began)
        ids.append(tuple(shown_id(point.id) for point in found))
        scores.append(tuple(float(point.score) for point in found))
    return Answers(
        ids=tuple(ids),
        scores=tuple(scores),
        seconds=tuple(seconds),
        cpu_seconds=cpu if here else None,
    )


def drawn(ids: Sequence[PointId], limit: int, seed: int) -> list[PointId]:
    """Return up to `limit` of the ids by chance, in their order; the seed decides which.

    Example:
        >>> drawn([7, 8, 9], 2, 0) == drawn([7, 8, 9], 2, 0)
        True
    """
    import numpy as np  # noqa: PLC0415

    order = np.random.default_rng(seed).permutation(len(ids))[:limit]
    return [ids[at] for at in sorted(order)]


def sample_of(records: Iterable[Any], space: VectorSpace, *, payload: bool) -> Sample:
    """Return points as they were retrieved, those that lack the vector left out.

    Args:
        records: With vectors, and with payloads if they are wanted.
        space: Which vector.
        payload: Whether payloads are wanted.

    Example:
        >>> len(sample_of([], VectorSpace(size=2), payload=True).vectors)
        0
    """
    import numpy as np  # noqa: PLC0415

    ids: list[PointId] = []
    vectors: list[Any] = []
    payloads: list[Mapping[str, Any]] = []
    for record in records:
        found = record.vector
        found = found.get(space.name) if isinstance(found, dict) else found
        if found is not None:
            ids.append(shown_id(record.id))
            vectors.append(found)
            payloads.append(record.payload or {})
    return Sample(
        ids=tuple(ids),
        vectors=np.asarray(vectors, dtype=np.float32).reshape(-1, space.size),
        payloads=tuple(payloads) if payload else (),
    )
