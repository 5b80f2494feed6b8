"""An entry as a Qdrant point, and selections as Qdrant filters; nothing read back is trusted.

Requests are written as the JSON that Qdrant's REST interface documents, so this file needs neither
the client nor a server.
"""

import hashlib
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, TypeAlias

from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = [
    "INDEXES",
    "Json",
    "entry_of",
    "escape",
    "live",
    "match",
    "point_id",
    "point_of",
    "selected",
    "unescape",
    "vector_name",
]

Json: TypeAlias = dict[str, Any]

_NAMESPACE: Final = uuid.UUID("6a1c1f0e-9a53-5c0d-8f63-0c57715e0001")
_NUMBERS: Final = frozenset(field.name for field in fields(Usage))
_TEXTS: Final = (
    *("key", "scope", "question", "answer", "embedder", "tenant", "model", "corpus"),
    *("text", "group"),
)
_MATCHED: Final = ("scope", "tenant", "model", "corpus")
_ESCAPED: Final = re.compile(r"\\(\\|u[0-9a-f]{4})")

INDEXES: Final[Mapping[str, Json | str]] = {
    # Points of one scope are stored together, so a search reads those and no others.
    "scope": {"type": "keyword", "is_tenant": True},
    "key": "keyword",
    "embedder": "keyword",
    "tenant": "keyword",
    "model": "keyword",
    "corpus": "keyword",
    "tags": "keyword",
    "documents[].id": "keyword",
    "created": "float",
    "expires": "float",
    "used": "float",
}
"""Payload fields that are filtered or sorted by, each with the index it needs."""


def point_id(scope: str, key: str) -> str:
    """Return the id of the point that holds the entry of this scope and key.

    Example:
        >>> point_id("a", "bc") == point_id("ab", "c")
        False
    """
    name = f"{len(scope)}:{escape(scope)}{escape(key)}"
    return str(uuid.uuid5(_NAMESPACE, name))


def vector_name(embedder: str, dim: int) -> str:
    """Return the name of the vectors that this embedder makes at this width.

    Example:
        >>> vector_name("minilm", 384)
        '831cca366f0017ea-384'
    """
    return f"{hashlib.sha256(escape(embedder).encode()).hexdigest()[:16]}-{dim}"


def point_of(entry: Entry, now: float) -> Json:
    """Return the point that holds an entry.

    Args:
        entry: Its vector, if any, must be of unit length.
        now: Seconds since the epoch.
    """
    payload: Json = {name: escape(getattr(entry, name)) for name in _TEXTS}
    payload |= {
        "tags": [escape(tag) for tag in entry.tags],
        "documents": [
            {"id": escape(ident), "version": escape(version)} for ident, version in entry.documents
        ],
        "usage": {name: value for name, value in asdict(entry.usage).items() if value},
        "created": entry.created,
        "used": now,
        "worth": entry.worth,
        "uses": entry.uses,
    }
    if entry.expires is not None:  # JSON knows no infinity
        payload["expires"] = min(max(entry.expires, -sys.float_info.max), sys.float_info.max)
    vector = entry.vector
    named = {} if vector is None else {vector_name(entry.embedder, vector.size): vector.tolist()}
    return {
        "id": point_id(entry.scope, entry.key),
        "payload": payload,
        "vector": named,
    }


def entry_of(payload: object, vector: Vector | None = None) -> Entry:
    """Read the payload that `point_of` wrote.

    Raises:
        ValueError: if something in it is not what `point_of` writes.
    """
    if not isinstance(payload, dict):
        raise ValueError("a payload is an object")  # noqa: TRY004 - one error for all damage
    texts = {name: unescape(payload.get(name)) for name in _TEXTS}
    usage, expires = payload.get("usage"), payload.get("expires")
    if not isinstance(usage, dict) or not all(
        name in _NUMBERS and isinstance(value, int) for name, value in usage.items()
    ):
        raise ValueError("usage is not what was written")
    uses = payload.get("uses")
    if not isinstance(uses, int):
        raise ValueError("uses is not what was written")  # noqa: TRY004
    return Entry(
        **texts,
        vector=vector,
        usage=Usage(**usage),
        tags=tuple(map(unescape, _list(payload.get("tags")))),
        documents=tuple(
            (unescape(_field(one, "id")), unescape(_field(one, "version")))
            for one in _list(payload.get("documents"))
        ),
        created=_number(payload.get("created")),
        expires=None if expires is None else _number(expires),
        worth=_number(payload.get("worth")),
        uses=uses,
    )


def live(now: float, *must: Json) -> Json:
    """Return the filter of points that meet every condition and have not expired."""
    return {"must": list(must), "must_not": [{"key": "expires", "range": {"lte": now}}]}


def selected(selection: Selection) -> list[Json]:
    """Write a selection as conditions that must all be met."""
    must = [
        match(name, value) for name in _MATCHED if (value := getattr(selection, name)) is not None
    ]
    if selection.keys is not None:
        must.append({"key": "key", "match": {"any": [escape(key) for key in selection.keys]}})
    if selection.tag is not None:
        must.append(match("tags", selection.tag))
    if selection.changed is not None:
        idents = [escape(ident) for ident, _ in selection.changed]
        must.append({"key": "documents[].id", "match": {"any": idents}})  # indexed, so first
        must.append({"should": [_changed(*document) for document in selection.changed]})
    if selection.created_before is not None:
        must.append({"key": "created", "range": {"lt": selection.created_before}})
    if selection.unused_since is not None:
        must.append({"key": "used", "range": {"lt": selection.unused_since}})
    return must


def match(name: str, value: str) -> Json:
    """Return the condition that a field, or one item of a list field, is this text."""
    return {"key": name, "match": {"value": escape(value)}}


def escape(text: str) -> str:
    r"""Write any Python string as valid UTF-8 without NUL, so that every server keeps it.

    Example:
        >>> print(escape("a\\b\ud800\0é"))
        a\\b\ud800\u0000é
    """
    if "\\" in text or "\0" in text:
        text = text.replace("\\", "\\\\").replace("\0", "\\u0000")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def unescape(text: object) -> str:
    r"""Undo `escape`.

    Raises:
        ValueError: if the value is no text.

    Example:
        >>> unescape(escape("a\\ud800 \ud800\0")) == "a\\ud800 \ud800\0"
        True
    """
    if not isinstance(text, str):
        raise ValueError("a text was expected")  # noqa: TRY004
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)


def _changed(ident: str, version: str) -> Json:
    """Return the condition that the document was used in another version than this one."""
    inner: Json = {"must": [match("id", ident)]}
    if version:
        inner["must_not"] = [match("version", version)]
    return {"nested": {"key": "documents", "filter": inner}}


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise ValueError("a list was expected")  # noqa: TRY004
    return value


def _field(value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise ValueError("an object was expected")  # noqa: TRY004
    return value.get(name)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number was expected")  # noqa: TRY004
    return float(value)
