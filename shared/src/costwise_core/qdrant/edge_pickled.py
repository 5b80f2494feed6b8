"""Reads the points of `QdrantClient(path=...)`, which are pickled, without unpickling them.

Unpickling can run any code that whoever wrote the file wished. `pickletools` only says which steps
a pickle is made of. The steps that such a point takes are done here on plain lists and
dictionaries; any other step, or a mention of any class but a point's own, ends it. Nothing is ever
imported or called.
"""

import pickletools
from typing import Any, Final

from costwise_core.errors import StoreError

__all__ = ["read_point"]

_MODULE: Final = "qdrant_client.http.models.models"
_CLASSES: Final = frozenset({"PointStruct", "SparseVector"})
_MOST_BYTES: Final = 64 * 2**20
_VALUES: Final = frozenset(
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BININT BININT1 BININT2 LONG1 BINFLOAT".split()
)
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_MARK: Final = object()


class _Class:
    """A mention of a class that is known."""


class _Object(dict[str, Any]):
    """What becomes of such a class: its fields."""


def read_point(raw: bytes) -> dict[str, Any]:
    """Return the `id`, `vector` and `payload` of a pickled point.

    Raises:
        StoreError: if it is anything but such a point, or larger than 64 MiB.

    Example:
        >>> import pickle
        >>> from qdrant_client import models
        >>> point = models.PointStruct(id=7, vector=[0.5, 1.0], payload={"title": "Tea"})
        >>> read_point(pickle.dumps(point))
        {'id': 7, 'vector': [0.5, 1.0], 'payload': {'title': 'Tea'}}
        >>> import fractions
        >>> read_point(pickle.dumps(fractions.Fraction(1, 2)))
        Traceback (most recent call last):
        costwise_core.errors.StoreError: a stored point mentions 'fractions.Fraction', which ...
    """
    if len(raw) > _MOST_BYTES:
        raise StoreError(f"a stored point has {len(raw):,} bytes, more than {_MOST_BYTES:,}.")
    try:
        found = _followed(raw)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"a stored point is damaged: {error!r}.") from error
    if not isinstance(found, _Object) or not {"id", "vector"} <= found.keys():
        raise StoreError("a stored point is not what qdrant-client stores.")
    _check_spread(found, most=1_000 + 4 * len(raw))
    return {"id": found["id"], "vector": found["vector"], "payload": found.get("payload")}


def _followed(raw: bytes) -> Any:
    stack: list[Any] = []
    memo: list[Any] = []
    for step, argument, _ in pickletools.genops(raw):
        name = step.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MEMOIZE":
            memo.append(stack[-1])
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(memo[int(argument or 0)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "STOP":
            return stack.pop()
        elif name not in {"PROTO", "FRAME"}:
            _join(name, stack)
    raise StoreError("a stored point is cut short.")


def _join(name: str, stack: list[Any]) -> None:
    """Do a step that puts what is on top of the stack into what lies below."""
    match name:
        case "APPEND":
            one = stack.pop()
            _plain(stack[-1], list).append(one)
        case "APPENDS":
            many = _since_mark(stack)
            _plain(stack[-1], list).extend(many)
        case "ADDITEMS":
            many = _since_mark(stack)
            _plain(stack[-1], set).update(many)
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            _plain(stack[-1], dict)[key] = value
        case "SETITEMS":
            many = _since_mark(stack)
            _plain(stack[-1], dict).update(zip(many[::2], many[1::2], strict=True))
        case "STACK_GLOBAL":
            what, module = stack.pop(), stack.pop()
            if module != _MODULE or what not in _CLASSES:
                raise StoreError(
                    f"a stored point mentions {f'{module}.{what}'!r}, which no point of "
                    "qdrant-client does. Nothing was run."
                )
            stack.append(_Class())
        case "NEWOBJ":
            arguments, kind = stack.pop(), stack.pop()
            if not isinstance(kind, _Class) or arguments != ():
                raise StoreError("a stored point makes an object in a way no point does.")
            stack.append(_Object())
        case "BUILD":
            state = stack.pop()
            _plain(stack[-1], _Object).update(_plain(state, dict)["__dict__"])
        case _:
            raise StoreError(f"a stored point takes the step {name}, which no point does.")


def _check_spread(found: Any, *, most: int) -> None:
    """Refuse what refers to its own parts so often that written out it would fill the memory."""
    todo, seen = [found], 0
    while todo:
        one = todo.pop()
        seen += 1
        if seen > most:
            raise StoreError("a stored point repeats its own parts without end.")
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list):
            todo += one


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    many = stack[place + 1 :]
    del stack[place:]
    return many


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise StoreError(f"a stored point puts something into a {type(value).__name__}.")
    return value
