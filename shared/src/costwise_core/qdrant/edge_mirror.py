"""The client's models as the engine's objects: both name the same things nearly alike."""

from datetime import UTC, date, datetime, time
from enum import Enum
from functools import cache
from typing import Any, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.extras import edge_module

__all__ = ["mirrored", "parsed"]

_NAMES: Final = {
    "Datatype": "VectorStorageDatatype",
    "Range": "RangeFloat",
    "DatetimeRange": "RangeDateTime",
    "DisabledStemmerParams": "DisabledStemmer",
}
_INNER: Final = {
    "ScalarQuantization": "scalar",
    "ProductQuantization": "product",
    "BinaryQuantization": "binary",
    "TurboQuantization": "turbo",
    "GeoLineString": "points",
}
"""Models that only wrap what the engine takes itself."""


def mirrored(value: Any) -> Any:
    """Return the engine's object for a model of the client; plain values stay as they are.

    Raises:
        ConfigError: if the engine has nothing like it.

    Example:
        >>> from qdrant_client import models
        >>> mirrored(models.Range(gte=2)).gte
        2.0
    """
    if isinstance(value, Enum):
        return _member(value)
    if isinstance(value, list):
        return [mirrored(one) for one in value]
    if isinstance(value, date):
        return _stamp(value)
    if not hasattr(value, "model_fields_set"):
        return value
    kind = type(value).__name__
    if kind in _INNER:
        return mirrored(getattr(value, _INNER[kind]))
    made = getattr(edge_module(), _NAMES.get(kind, kind), None)
    if made is None:
        raise ConfigError(f"the engine in this process has nothing like {kind}; a server has.")
    said = {name: getattr(value, name) for name in type(value).model_fields}
    fields = {
        name: mirrored(one)
        for name, one in said.items()
        if one is not None and not (name == "type" and not hasattr(made, "type"))
    }
    try:
        return made(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the engine does not take this {kind}: {_first_line(error)}.") from None


def parsed(model: Any, value: Any) -> Any:
    """Return a value as this model; like `QdrantClient`, it may be given as a dictionary.

    Raises:
        ConfigError: if it is neither.

    Example:
        >>> from qdrant_client import models
        >>> parsed(models.Filter, {"must": []})
        Filter(should=None, min_should=None, must=[], must_not=None)
    """
    if value is None or isinstance(value, model):
        return value
    if isinstance(value, dict):
        try:
            return model(**value)
        except ValueError as error:
            raise ConfigError(f"no {model.__name__} can be made of {value!r}: {error}") from None
    raise ConfigError(f"a {model.__name__} is wanted here, got {type(value).__name__}.")


@cache
def _member(value: Enum) -> Any:
    """Return the engine's enum value, which differs in case and underscores only."""
    kind = type(value).__name__
    owner = getattr(edge_module(), _NAMES.get(kind, kind), None)
    wanted = str(value.value).replace("_", "").casefold()
    for name in dir(owner):
        if name.replace("_", "").casefold() == wanted:
            return getattr(owner, name)
    raise ConfigError(f"the engine in this process has no {kind} {value.value!r}.")


def _stamp(value: date) -> str:
    """Return a time as the engine reads it; without a zone it is UTC, as on a server."""
    moment = value if isinstance(value, datetime) else datetime.combine(value, time.min)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
