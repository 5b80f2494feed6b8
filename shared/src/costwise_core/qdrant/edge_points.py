"""Points on their way in and out: ids, vectors and payloads, checked before the engine sees them.

The engine takes NaN, vectors without a direction and unit vectors cut to whole numbers without a
word, and answers wrongly from then on.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from costwise_core.errors import ConfigError, VectorError, nearest
from costwise_core.qdrant.extras import client_models, edge_module

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "Spaces",
    "as_point",
    "in_rows",
    "plain",
    "point_id",
    "points_of",
    "record_of",
    "scored_of",
    "selected",
    "shown_id",
]

_MOST_ID: Final = 2**64 - 1
_UINT8_MOST: Final = 255


def point_id(given: object) -> int | UUID:
    """Return an id as the engine takes it.

    Raises:
        ConfigError: if it is neither an unsigned integer nor a UUID.

    Example:
        >>> point_id("0d7069096dd9412a9df6a71043e020de")
        UUID('0d706909-6dd9-412a-9df6-a71043e020de')
    """
    if isinstance(given, UUID):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= _MOST_ID:
        return int(given)
    if isinstance(given, str):
        try:
            return UUID(given)
        except ValueError:
            pass
    raise ConfigError(
        f"a point's id is an unsigned integer or a UUID, got {given!r}. For any other name, "
        "uuid.uuid5(namespace, name) gives the same UUID every time."
    )


def shown_id(ident: int | UUID) -> int | str:
    """Return an id as a server shows it.

    Example:
        >>> shown_id(UUID("0d7069096dd9412a9df6a71043e020de"))
        '0d706909-6dd9-412a-9df6-a71043e020de'
    """
    return str(ident) if isinstance(ident, UUID) else ident


class Spaces:
    """The vectors a collection has, and what may be put there.

    Args:
        dense: Their settings by name; "" is the vector without one.
        sparse: Names of the sparse ones.

    Example:
        >>> from qdrant_client import models
        >>> spaces = Spaces({"": models.VectorParams(size=2, distance="Cosine")}, [])
        >>> spaces.checked([3.0, 4.0], "")
        [3.0, 4.0]
        >>> spaces.checked([0.0, 0.0], "")
        Traceback (most recent call last):
        costwise_core.errors.VectorError: a vector of zeros has no direction, so no cosine ...
    """

    def __init__(self, dense: "Mapping[str, models.VectorParams]", sparse: Iterable[str]) -> None:
        self.dense, self.sparse = dict(dense), set(sparse)

    def checked(self, given: Any, name: str) -> Any:
        """Return a vector as the engine takes it.

        Raises:
            VectorError: if it would be stored or compared wrongly.
            ConfigError: if there is no such vector, or it is text to be embedded.
        """
        if name in self.sparse:
            return _sparse(given, name)
        if name not in self.dense:
            known = sorted([*self.dense, *self.sparse])
            raise ConfigError(
                f"this collection has no vector {name!r}, it has "
                f"{', '.join(map(repr, known))}.{nearest(name, known)}"
            )
        return _dense(given, self.dense[name], name)

    def of_point(self, given: Any) -> Any:
        """Return all vectors of a point as the engine takes them.

        Raises:
            VectorError: if one would be stored wrongly.
            ConfigError: if there is no such vector, or it is text to be embedded.
        """
        if not isinstance(given, Mapping):
            return {"": self.checked(given, "")}
        return {name: self.checked(one, name) for name, one in given.items()}


def points_of(given: Any) -> Iterable[Any]:
    """Yield the points of an upsert, given as a list or column by column as a `Batch`.

    Raises:
        ConfigError: if the columns of a batch are not as long as each other.

    Example:
        >>> from qdrant_client import models
        >>> [p.id for p in points_of(models.Batch(ids=[4, 5], vectors=[[1.0], [2.0]]))]
        [4, 5]
    """
    if not isinstance(given, client_models().Batch):
        yield from given
        return
    rows, vectors = len(given.ids), given.vectors
    columns = [*vectors.values()] if isinstance(vectors, Mapping) else [vectors]
    if given.payloads is not None:
        columns.append(given.payloads)
    if any(len(column) != rows for column in columns):
        raise ConfigError(f"a Batch of {rows} ids needs as many vectors and payloads.")
    yield from in_rows(vectors, given.payloads, given.ids)


def in_rows(
    vectors: Any,
    payloads: Iterable[dict[Any, Any] | None] | None,
    ids: Iterable[int | str | UUID] | None,
) -> "Iterator[models.PointStruct]":
    """Yield points that are given column by column, unchecked; without ids they get random ones.

    Args:
        vectors: One for each point, or by the vectors' names.
        payloads: One for each point, or none at all.
        ids: One for each point.

    Example:
        >>> [p.vector for p in in_rows({"a": [[1.0]], "b": [[2.0]]}, None, [7])]
        [{'a': [1.0], 'b': [2.0]}]
    """
    make = client_models().PointStruct.model_construct
    rows: Iterable[Any] = vectors
    if isinstance(vectors, Mapping):
        columns = zip(*vectors.values(), strict=True)
        rows = (dict(zip(vectors, row, strict=True)) for row in columns)
    named = iter(lambda: str(uuid4()), None) if ids is None else ids
    loads = repeat(None) if payloads is None else payloads
    for row, ident, payload in zip(rows, named, loads, strict=False):
        yield make(id=ident, vector=row, payload=payload)


def selected(given: Any) -> "tuple[list[int | UUID], models.Filter | None]":
    """Return which points a call is about: their ids, or the filter they pass.

    Raises:
        ConfigError: if it is neither, or an id is wrong.

    Example:
        >>> selected([4, 5])
        ([4, 5], None)
    """
    models = client_models()
    if isinstance(given, (models.FilterSelector, models.PointIdsList)) and given.shard_key:
        raise ConfigError("a shard_key needs a server; leave it out.")
    if isinstance(given, models.FilterSelector):
        return [], given.filter
    if isinstance(given, models.Filter):
        return [], given
    ids = given.points if isinstance(given, models.PointIdsList) else given
    if isinstance(ids, (int, str, UUID)):
        ids = [ids]
    if not isinstance(ids, (list, tuple, set)):
        raise ConfigError(f"points are named by ids or a Filter, got {type(given).__name__}.")
    return [point_id(ident) for ident in ids], None


def as_point(given: "models.PointStruct", spaces: Spaces) -> Any:
    """Return a point as the engine takes it.

    Raises:
        VectorError: if its vector would be stored wrongly.
        ConfigError: if its id or its payload cannot be stored.
    """
    ident = point_id(given.id)
    try:
        vector = spaces.of_point(given.vector)
    except VectorError as error:
        raise VectorError(f"point {shown_id(ident)}: {error}") from None
    payload = plain(given.payload or {})
    try:
        return edge_module().Point(id=ident, vector=vector, payload=payload)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the payload of point {shown_id(ident)} must be JSON: {_why(payload, error)}."
        ) from None


def plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload as JSON holds it: times, UUIDs and sets become strings and lists.

    Raises:
        ConfigError: if something in it has no such form.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python  # noqa: PLC0415

    try:
        made: dict[str, Any] = to_jsonable_python(dict(payload))
    except (PydanticSerializationError, UnicodeDecodeError) as error:
        raise ConfigError(f"a payload must be JSON: {error}.") from None
    return made


def record_of(found: Any) -> "models.Record":
    """Return a stored point as the client's model."""
    made: models.Record = client_models().Record(
        id=shown_id(found.id),
        payload=found.payload,
        vector=_shown(found.vector),
        order_value=found.order_value,
    )
    return made


def scored_of(found: Any, *, with_vector: bool) -> "models.ScoredPoint":
    """Return a point that was found as the client's model.

    Some queries of the engine hand vectors over unasked.
    """
    made: models.ScoredPoint = client_models().ScoredPoint(
        id=shown_id(found.id),
        version=found.version,
        score=found.score,
        payload=found.payload,
        vector=_shown(found.vector) if with_vector else None,
        order_value=found.order_value,
    )
    return made


def _shown(vector: Any) -> Any:
    if isinstance(vector, Mapping):
        return {name: _shown(one) for name, one in vector.items()}
    if hasattr(vector, "indices"):
        return client_models().SparseVector(
            indices=list(vector.indices), values=[float(value) for value in vector.values]
        )
    return vector


def _dense(given: Any, params: "models.VectorParams", name: str) -> Any:
    import numpy as np  # noqa: PLC0415

    try:
        # Too large for 32 bits counts as infinite, as it would be stored.
        with np.errstate(over="ignore"):
            array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{_called(name)} is a list of {params.size} numbers, got {_kind(given)}"
        ) from None
    rows = 2 if params.multivector_config is not None else 1
    if array.ndim != rows or array.shape[-1] != params.size or not array.size:
        many = "one or more lists" if rows > 1 else "a list"
        raise VectorError(
            f"{_called(name)} is {many} of {params.size} numbers, got the shape {array.shape}."
        )
    if not np.isfinite(array).all():
        raise VectorError(f"{_called(name)} has NaN or infinite numbers, or some beyond 32 bits.")
    if params.distance == "Cosine" and not array.any(axis=-1).all():
        raise VectorError(
            f"a vector of zeros has no direction, so no cosine ({_called(name)}); leave it out, or "
            "use the distance Dot."
        )
    if params.datatype == "uint8" and not _whole(array):
        raise VectorError(
            f"{_called(name)} is stored as uint8: whole numbers from 0 to 255. Unit vectors would "
            "be cut to zeros; use the datatype float32 with int8 quantization."
        )
    return array.tolist()


def _sparse(given: Any, name: str) -> Any:
    import numpy as np  # noqa: PLC0415

    if isinstance(given, Mapping):
        indices, values = given.get("indices"), given.get("values")
    else:
        indices, values = getattr(given, "indices", None), getattr(given, "values", None)
    if not isinstance(indices, Sequence) or not isinstance(values, Sequence):
        raise ConfigError(f"{_called(name)} is a SparseVector, got {_kind(given)}")
    if len(indices) != len(values) or len(set(indices)) != len(indices):
        raise VectorError(
            f"{_called(name)} needs as many values as indices, each index once, got "
            f"{len(indices)} indices ({len(set(indices))} different) and {len(values)} values."
        )
    if not np.isfinite(np.asarray(values, dtype=np.float32)).all():
        raise VectorError(f"{_called(name)} has NaN or infinite values.")
    try:
        return edge_module().SparseVector([int(i) for i in indices], [float(v) for v in values])
    except (TypeError, ValueError, OverflowError):
        raise VectorError(f"{_called(name)}: indices are unsigned 32-bit integers.") from None


def _whole(array: Any) -> bool:
    return bool((array == array.round()).all() and array.min() >= 0 and array.max() <= _UINT8_MOST)


def _called(name: str) -> str:
    return f"the vector {name!r}" if name else "the vector"


def _kind(given: object) -> str:
    kind = type(given).__name__
    if kind in {"Document", "Image", "InferenceObject", "str"}:
        return f"{kind}. Nothing is embedded here: pass the numbers your embedding model gives."
    return f"{kind}."


def _why(payload: dict[str, Any], error: Exception) -> str:
    """Return what is wrong with a payload in fewer words than the engine's."""
    checks: tuple[Callable[[], object], ...] = (
        lambda: json.dumps(payload, allow_nan=False),
        lambda: json.dumps(payload, ensure_ascii=False).encode(),
    )
    for check in checks:
        try:
            check()
        except (TypeError, ValueError) as reason:
            return str(reason)
    return str(error).partition("\n")[0]
