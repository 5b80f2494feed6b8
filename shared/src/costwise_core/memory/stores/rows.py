"""How conversations are written down and read back, where nothing read is taken on trust."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin

from costwise_core.budget.moves import digest
from costwise_core.errors import ConfigError, EntryTooLargeError
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.naming import named

__all__ = [
    "MAX_BYTES",
    "Place",
    "Reader",
    "Row",
    "as_row",
    "conversation_of",
    "from_row",
    "message_of",
    "packed",
    "rows_of",
    "summary_of",
]

MAX_BYTES: Final = 1_000_000
"""No message, summary or name may take more as JSON, so that nothing read back can either."""

_MAX_COUNT: Final = 2**53

T = TypeVar("T", Message, Summary, Conversation)


class Row(NamedTuple):
    """A message as it is kept: what it is known by in its conversation, and its JSON."""

    key: bytes
    body: bytes


class Place(NamedTuple):
    """What shared stores know a conversation by. No length or character of a name matters.

    Attributes:
        key: 16 bytes for the conversation.
        tenant: 16 bytes for its tenant.
        owner: 16 bytes for its tenant and user.
        names: All three names as JSON.
        lease: The name of its lease.
    """

    key: bytes
    tenant: bytes
    owner: bytes
    names: bytes
    lease: str

    @classmethod
    def of(cls, conversation: Conversation) -> "Place":
        """Return the place of a conversation.

        Raises:
            EntryTooLargeError: if its names are longer than any store accepts.
            ConfigError: if one of them is no text.
        """
        names = packed(conversation)
        return cls(
            key=bytes.fromhex(conversation.key),
            tenant=digest(conversation.tenant),
            owner=digest(conversation.tenant, conversation.user),
            names=names,
            lease=conversation.key,
        )


def rows_of(messages: Sequence[Message]) -> list[Row]:
    """Return the messages as they are kept, each of them once.

    Raises:
        EntryTooLargeError: if one is larger than any store accepts.
        ConfigError: if one is none that could be read back.
    """
    # The first of an id stays, as it does between two calls.
    found = dict[bytes, bytes]()
    for message in named(messages):
        key = digest(message.id)
        if key not in found:
            found[key] = packed(message)
    return [Row(key, body) for key, body in found.items()]


def packed(value: T) -> bytes:
    """Return a value as JSON.

    Raises:
        EntryTooLargeError: if it is larger than any store accepts.
        ConfigError: if it is none that could be read back.
    """
    row = as_row(value)
    try:
        from_row(type(value), row)
    except ValueError as error:
        raise ConfigError(f"this is no {type(value).__name__} to be kept: {error}.") from None
    try:
        body = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only write as an escape
        body = json.dumps(row, separators=(",", ":")).encode()
    if len(body) > MAX_BYTES:
        raise EntryTooLargeError(
            f"a {type(value).__name__.lower()} has {len(body):,} bytes; "
            f"stores of conversations accept {MAX_BYTES:,}."
        )
    return body


def message_of(body: object) -> Message:
    """Read a message.

    Raises:
        ValueError: if it is not what `packed` writes.
    """
    return from_row(Message, _object(body))


def summary_of(body: object, version: int) -> Summary:
    """Read a summary, which has the version it is kept under.

    Raises:
        ValueError: if it is not what `packed` writes.
    """
    return from_row(Summary, {**_object(body), "version": version})


def conversation_of(names: object, key: bytes) -> Conversation:
    """Read whose conversation is kept under a key and which.

    Raises:
        ValueError: if the names are not what `packed` writes, or not those of the key.
    """
    found = from_row(Conversation, _object(names))
    if bytes.fromhex(found.key) != key:
        raise ValueError("the names are those of another conversation")
    return found


class Reader:
    """Reads rows, passes over those that are damaged, and counts them.

    Example:
        >>> reader = Reader()
        >>> reader.messages([b'{"role": "user", "text": "Hello."}', b"{}"])[0].text, reader.damaged
        ('Hello.', 1)
    """

    def __init__(self) -> None:
        self.damaged = 0

    def messages(self, bodies: Iterable[object]) -> list[Message]:
        """Return the messages that can be read."""
        found = []
        for body in bodies:
            try:
                found.append(message_of(body))
            except ValueError:
                self.damaged += 1
        return found

    def summary(self, body: object, version: int) -> Summary | None:
        """Return a summary; None without a version. A damaged one has its version and no text."""
        if not version:
            return None
        try:
            return summary_of(body, version)
        except ValueError:
            self.damaged += 1
            return Summary(version=version)

    def conversations(self, rows: Iterable[tuple[bytes, object]]) -> Iterator[Conversation]:
        """Yield whose conversations are kept under these keys, where their names can be read."""
        for key, names in rows:
            try:
                yield conversation_of(names, key)
            except ValueError:
                self.damaged += 1


def as_row(value: Message | Summary | Conversation) -> dict[str, Any]:
    """Return a value as an object for JSON, without what is at its default."""
    row = [(one.name, getattr(value, one.name), one.default) for one in _FIELDS[type(value)]]
    return {name: found for name, found, default in row if found != default}


def from_row(kind: type[T], row: Mapping[str, Any]) -> T:
    """Read a value; what a newer costwise may have added to it is passed over.

    Raises:
        ValueError: if a field is missing or of another type.

    Example:
        >>> from_row(Conversation, {"id": "1", "tenant": 7})
        Traceback (most recent call last):
        ValueError: tenant must be a text
    """
    found = dict[str, Any]()
    for name, default, checked in _FIELDS[kind]:
        if name in row:
            try:
                found[name] = checked(row[name])
            except ValueError as error:
                raise ValueError(f"{name} must be {error}") from None
        elif default is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**found)


class _Field(NamedTuple):
    name: str
    default: object
    checked: Callable[[Any], Any]


def _checked(kind: Any) -> Callable[[Any], Any]:
    """Return what checks a value of JSON for a field of this type and turns it into one."""
    if get_origin(kind) is UnionType:
        given = _checked(next(one for one in get_args(kind) if one is not NoneType))
        return lambda value: None if value is None else given(value)
    if get_origin(kind) is Literal:
        return partial(_one_of, get_args(kind))
    return {str: _text, int: _count, float: _number}.get(kind, _texts)


def _one_of(known: tuple[str, ...], value: Any) -> Any:
    if value not in known:
        raise ValueError(f"one of {', '.join(known)}")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("a text")  # noqa: TRY004 - damage, whatever its kind
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _count(value: Any) -> Any:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ValueError("a whole number, 0 or more")
    return value


def _number(value: Any) -> float:
    # Compared before it is turned into a float, which an int may be too large for.
    if type(value) not in (int, float) or not -1e300 < value < 1e300:
        raise ValueError("a finite number")
    return float(value)


# Once for all, as ten thousand messages may be read at a time.
_FIELDS: Final[Mapping[type, Sequence[_Field]]] = {
    kind: [_Field(one.name, one.default, _checked(one.type)) for one in fields(kind)]
    for kind in (Message, Summary, Conversation)
}


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, bytes) or len(body) > MAX_BYTES:
        raise ValueError("no bytes, or too many")
    try:
        row = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("no object")  # noqa: TRY004
    return row
