"""Filters as the engine takes them; a condition it would read otherwise is an error."""

from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.edge_mirror import mirrored, parsed
from costwise_core.qdrant.edge_points import point_id
from costwise_core.qdrant.extras import client_models, edge_module

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

__all__ = ["as_filter"]

_TESTS: Final = (
    "match",
    "range",
    "geo_bounding_box",
    "geo_radius",
    "geo_polygon",
    "values_count",
    "is_empty",
    "is_null",
)


def as_filter(given: "models.Filter | None") -> "qdrant_edge.Filter | None":
    """Return the engine's filter for the client's.

    Raises:
        ConfigError: if a condition says nothing, says two things, or needs a server.

    Example:
        >>> from qdrant_client import models
        >>> old = models.FieldCondition(key="year", range=models.Range(lt=2000))
        >>> print(as_filter(models.Filter(must=[old])).must[0].key)
        year
    """
    wanted = parsed(client_models().Filter, given)
    if wanted is None:
        return None
    edge = edge_module()
    at_least = None
    if wanted.min_should is not None:
        count = wanted.min_should.min_count
        if count < 1:
            raise ConfigError(f"min_should needs a min_count of 1 or more, got {count}.")
        at_least = edge.MinShould(_conditions(wanted.min_should.conditions), count)
    made: qdrant_edge.Filter = edge.Filter(
        must=_conditions(wanted.must),
        should=_conditions(wanted.should),
        must_not=_conditions(wanted.must_not),
        min_should=at_least,
    )
    return made


def _conditions(given: Any) -> list[Any] | None:
    if given is None:
        return None
    return [_condition(one) for one in (given if isinstance(given, list) else [given])]


def _condition(one: Any) -> Any:
    edge, kind = edge_module(), type(one).__name__
    match kind:
        case "Filter":
            return as_filter(one)
        case "FieldCondition":
            return _field(one)
        case "IsEmptyCondition":
            return edge.IsEmptyCondition(one.is_empty.key)
        case "IsNullCondition":
            return edge.IsNullCondition(one.is_null.key)
        case "HasIdCondition":
            return edge.HasIdCondition({point_id(ident) for ident in one.has_id})
        case "HasVectorCondition":
            return edge.HasVectorCondition(one.has_vector)
        case "NestedCondition":
            return edge.NestedCondition(one.nested.key, as_filter(one.nested.filter))
        case _:
            raise ConfigError(
                f"a filter cannot have {kind} here. What works: FieldCondition, IsEmptyCondition, "
                "IsNullCondition, HasIdCondition, HasVectorCondition, NestedCondition, Filter."
            )


def _field(one: Any) -> Any:
    said = [name for name in _TESTS if getattr(one, name) is not None]
    if len(said) != 1:
        # The engine looks at one of several and forgets the others.
        raise ConfigError(
            f"the condition on {one.key!r} must test one thing, got "
            f"{' and '.join(said) or 'none'}; put each into a FieldCondition of its own."
        )
    match = one.match
    if isinstance(getattr(match, "value", None), bool):
        import numpy as np  # noqa: PLC0415

        # The binding takes Python's True for the number 1, and numpy's for what it is.
        return edge_module().FieldCondition(
            key=one.key, match=edge_module().MatchValue(np.bool_(match.value))
        )
    if type(match).__name__ == "MatchExcept":
        return edge_module().FieldCondition(
            key=one.key, match=edge_module().MatchExcept(match.except_)
        )
    return mirrored(one)
