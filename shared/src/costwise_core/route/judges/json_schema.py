"""The part of JSON schema that structured answers use, checked without a dependency."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = ["breach"]

_DEEPEST: Final = 64
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def breach(value: object, schema: Mapping[str, Any]) -> str:
    """Say how a value breaks a schema, naming places but no values; "" if it does not.

    Known are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`,
    `prefixItems`, the bounds on numbers, lengths and counts, `pattern`, `allOf`, `anyOf`, `oneOf`,
    `not` and references that begin with "#". Other words are passed over, as JSON schema has it.

    Example:
        >>> breach({"n": "2"}, {"properties": {"n": {"type": "integer"}}})
        "has at 'n' a str where integer is wanted"
    """
    return next(_breaches(value, schema, schema, "", 0), "")


def _breaches(value: Any, schema: Any, root: Any, at: str, depth: int) -> Iterator[str]:
    if schema is True or not isinstance(schema, Mapping):
        if schema is False:
            yield f"has{_place(at)} what must not be there"
        return
    if depth > _DEEPEST:
        yield "is nested too deeply"
        return

    def inner(one: Any, value: Any = value, at: str = at) -> Iterator[str]:
        return _breaches(value, one, root, at, depth + 1)

    if isinstance(reference := schema.get("$ref"), str):
        yield from inner(_resolved(reference, root))
    yield from _of_type(value, schema, at)
    if isinstance(value, dict):
        yield from _of_object(value, schema, at, inner)
    elif isinstance(value, list):
        first = schema.get("prefixItems") or []
        for n, (one, item) in enumerate(zip(first, value, strict=False)):
            yield from inner(one, item, f"{at}[{n}]")
        rest = schema.get("items", True)
        for n, item in enumerate(value[len(first) :], len(first)):
            yield from inner(rest, item, f"{at}[{n}]")
    yield from _of_size(value, schema, at)
    for one in schema.get("allOf") or ():
        yield from inner(one)
    for word, most in (("anyOf", None), ("oneOf", 1)):
        options = schema.get(word) or ()
        fitting = sum(next(inner(one), None) is None for one in options)
        if options and not 1 <= fitting <= (most or fitting):
            yield f"fits{_place(at)} {fitting} of the forms there are"
    if "not" in schema and next(inner(schema["not"]), None) is None:
        yield f"has{_place(at)} what must not be there"


def _of_type(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    wanted = schema.get("type")
    types = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if types and not any(_TYPES.get(name, lambda _: True)(value) for name in types):
        yield f"has{_place(at)} a {type(value).__name__} where {' or '.join(types)} is wanted"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"has{_place(at)} another value than the one allowed"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield f"has{_place(at)} a value that is not one of those allowed"


def _of_object(
    value: dict[str, Any],
    schema: Mapping[str, Any],
    at: str,
    inner: Callable[..., Iterator[str]],
) -> Iterator[str]:
    for name in schema.get("required") or ():
        if name not in value:
            yield f"lacks {_joined(at, name)!r}"
    known = schema.get("properties") or {}
    others = schema.get("additionalProperties", True)
    for name, one in value.items():
        if name in known:
            yield from inner(known[name], one, _joined(at, name))
        elif others is False and not schema.get("patternProperties"):
            yield f"has {_joined(at, name)!r}, which is not in the schema"
        elif isinstance(others, Mapping):
            yield from inner(others, one, _joined(at, name))


def _of_size(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    measures: tuple[tuple[bool, Any, str, str], ...] = (
        (_TYPES["number"](value), value, "minimum", "maximum"),
        (isinstance(value, str), _length(value), "minLength", "maxLength"),
        (isinstance(value, list), _length(value), "minItems", "maxItems"),
        (isinstance(value, dict), _length(value), "minProperties", "maxProperties"),
    )
    for applies, size, least, most in measures:
        if applies and size < schema.get(least, size):
            yield f"is{_place(at)} below {least} {schema[least]}"
        if applies and size > schema.get(most, size):
            yield f"is{_place(at)} above {most} {schema[most]}"
    if measures[0][0] and value <= schema.get("exclusiveMinimum", value - 1):
        yield f"is{_place(at)} not above {schema['exclusiveMinimum']}"
    if measures[0][0] and value >= schema.get("exclusiveMaximum", value + 1):
        yield f"is{_place(at)} not below {schema['exclusiveMaximum']}"
    pattern = schema.get("pattern")
    if isinstance(value, str) and isinstance(pattern, str) and not re.search(pattern, value):
        yield f"does not match{_place(at)} the pattern"


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where 1 and true are not."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _resolved(reference: str, root: Any) -> Any:
    """Return what a reference within the schema names; one elsewhere allows everything."""
    if not reference.startswith("#"):
        return True
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping):
            root = root.get(name, True)
        elif isinstance(root, list) and name.isdecimal() and int(name) < len(root):
            root = root[int(name)]
        else:
            return True
    return root


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _place(at: str) -> str:
    return f" at {at!r}" if at else ""
