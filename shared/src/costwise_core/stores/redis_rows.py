"""How entries are written to Redis and read back, where nothing read is taken on trust.

An entry is one hash, so its vector and its answer are stored, replaced, expired and deleted as one.
Two kinds of search index (RediSearch) lie over the hashes and follow them by themselves: one over
all entries, by label and time, for selections; one for each embedder and width, by scope and
vector, for similar questions, scanned exactly (FLAT). Redis' vector sets would do the latter too,
but their elements do not expire, and nothing selects them by document or tenant.

Labels and names are digests, so no text needs escaping in a query and none can break out of it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np

from costwise_core.stores.checks import MAX_ENTRY_BYTES
from costwise_core.stores.redis_scripts import PUT, READ
from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = [
    "Command",
    "Found",
    "Names",
    "digest",
    "fits",
    "labels_of",
    "parse",
    "queries",
]

Command: TypeAlias = tuple[str | bytes | int | float, ...]
"""One Redis command with its arguments."""

_FOREVER_MS: Final = 10**13  # 300 years; Redis refuses what overflows
_IN_ONE_QUERY: Final = 400
_UNIT_TOLERANCE: Final = 1e-3
_TEXTS: Final = ("question", "answer", "embedder", "tenant", "model", "corpus", "text", "group")
_USAGE: Final = {field.name: type(field.default) for field in fields(Usage)}


def digest(text: str) -> str:
    """Return 32 hexadecimal digits for a text.

    Example:
        >>> len(digest("any text"))
        32
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An entry as it was read.

    Args:
        entry: With its vector, if that was asked for and there is one.
        token: Differs for every put, so that a deletion can tell whether it means this one.
        used: When it was stored or last served, in seconds since the epoch.
    """

    entry: Entry
    token: bytes
    used: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The names of all keys and indexes of one store.

    Example:
        >>> Names(prefix="costwise").schema
        'costwise:schema'
    """

    prefix: str

    @property
    def schema(self) -> str:
        """Key of the version the store was written by."""
        return f"{self.prefix}:schema"

    @property
    def dims(self) -> str:
        """Key of a hash from an embedder's digest to the width of its vectors."""
        return f"{self.prefix}:dims"

    @property
    def index(self) -> str:
        """The index over all entries."""
        return f"{self.prefix}:index"

    def entry(self, scope: str, key: str) -> str:
        """Key of an entry."""
        return f"{self.prefix}:e:{digest(scope)}:{digest(key)}"

    def near(self, embedder: str, dim: int) -> str:
        """The index over the vectors of one embedder and width."""
        return f"{self.prefix}:near:{_space(embedder, dim)}"

    def log(self, name: str) -> str:
        """Key of a log."""
        return f"{self.prefix}:log:{digest(name)}"

    def lease(self, name: str) -> str:
        """Key of a lease."""
        return f"{self.prefix}:lease:{digest(name)}"

    # --- commands -------------------------------------------------------------------------------

    def make_index(self) -> Command:
        """Make the index over all entries; an error if it is there."""
        head = ("FT.CREATE", self.index, "ON", "HASH", "PREFIX", 1, f"{self.prefix}:e:", "SCHEMA")
        return (*head, "l", "TAG", "c", "NUMERIC", "u", "NUMERIC")

    def make_near(self, embedder: str, dim: int) -> Command:
        """Make the index over one embedder's vectors; an error if it is there."""
        head = ("FT.CREATE", self.near(embedder, dim), "ON", "HASH", "PREFIX", 1)
        kind = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", dim, "DISTANCE_METRIC", "COSINE")
        field = _space(embedder, dim)
        return (*head, f"{self.prefix}:e:", "SCHEMA", "s", "TAG", field, *kind)

    def put(self, entries: Sequence[Entry], *, now: float, tokens: Sequence[bytes]) -> Command:
        """Write entries, all or none."""
        keys = [self.entry(entry.scope, entry.key) for entry in entries]
        dims = {e.embedder: e.vector.size for e in entries if e.vector is not None}
        pairs = [part for name, dim in dims.items() for part in (digest(name), dim)]
        rows = [
            part
            for entry, token in zip(entries, tokens, strict=True)
            for part in _row(entry, now=now, token=token)
        ]
        head = ("EVAL", PUT, 2 + len(keys), self.schema, self.dims)
        return (*head, *keys, len(dims), *pairs, *rows)

    def read(self, names: Sequence[str | bytes], *, vectors: bool) -> Command:
        """Read entries by their keys; the reply is for `parse`."""
        limits = (2 * MAX_ENTRY_BYTES, int(vectors))
        return ("EVAL", READ, 1 + len(names), self.schema, *names, *limits)

    def search(
        self, vector: Vector, k: int, *, scope: str, embedder: str, milliseconds: int
    ) -> Command:
        """Find the keys of the `k` entries of one scope whose vectors are most similar."""
        field = _space(embedder, vector.size)
        query = f"(@s:{{{digest(scope)}}})=>[KNN {k} @{field} $v]"
        params = ("PARAMS", 2, "v", vector.astype("<f4", copy=False).tobytes())
        tail = ("NOCONTENT", "LIMIT", 0, k, "TIMEOUT", milliseconds, "DIALECT", 2)
        return ("FT.SEARCH", self.near(embedder, vector.size), query, *params, *tail)

    def count(self, embedder: str) -> Command:
        """Count the entries of an embedder."""
        query = f"@l:{{{_label('embedder', embedder)}}}"
        return ("FT.SEARCH", self.index, query, "LIMIT", 0, 0, "DIALECT", 2)


def queries(selection: Selection) -> Iterator[str]:
    """Write a selection as queries over the labels that together find at least what it means.

    Example:
        >>> list(queries(Selection())), list(queries(Selection(keys=())))
        (['*'], [])
    """
    terms = [
        f"@l:{{{_label(name, value)}}}"
        for name in ("scope", "tenant", "model", "corpus", "tag")
        if (value := getattr(selection, name)) is not None
    ]
    for field, bound in (("c", selection.created_before), ("u", selection.unused_since)):
        if bound is not None:
            terms.append(f"@{field}:[-inf ({bound!r}]")
    choices = [
        [_label(name, value) for value in values]
        for name, values in (
            ("key", selection.keys),
            ("document", None if selection.changed is None else [d for d, _ in selection.changed]),
        )
        if values is not None
    ]
    # One long list is cut into several queries; of two, the second is left for `fits`.
    for chosen in _chunks(choices[0]) if choices else [[]]:
        listed = [f"@l:{{{'|'.join(chosen)}}}"] if chosen else []
        yield " ".join([*terms, *listed]) or "*"


def fits(found: Found, selection: Selection) -> bool:
    """Whether a selection means an entry."""
    entry = found.entry
    exact = all(
        getattr(selection, name) in (None, getattr(entry, name))
        for name in ("scope", "tenant", "model", "corpus")
    )
    changed = dict(selection.changed or ())
    return (
        exact
        and (selection.keys is None or entry.key in selection.keys)
        and (selection.tag is None or selection.tag in entry.tags)
        and (selection.created_before is None or entry.created < selection.created_before)
        and (selection.unused_since is None or found.used < selection.unused_since)
        and (
            selection.changed is None
            or any(
                document in changed and (changed[document] != version or not version)
                for document, version in entry.documents
            )
        )
    )


def labels_of(entry: Entry) -> list[str]:
    """Return what an entry can be selected by."""
    single = ("scope", "key", "tenant", "model", "corpus", "embedder")
    return [
        *(_label(name, getattr(entry, name)) for name in single),
        *(_label("tag", tag) for tag in entry.tags),
        *(
            _label("document", document)
            for document in {document for document, _ in entry.documents}
        ),
    ]


def parse(name: str | bytes, row: Any) -> Found | None:
    """Read what the script `READ` returned for one key; None if there is no such key.

    Raises:
        ValueError: if something in it is not what was written there.
        TypeError: likewise.
        RecursionError: likewise.
    """
    if row is None:
        return None
    if not isinstance(row, list):
        raise TypeError("too large, or no hash")
    body, uses, used, token, vector = row
    values = json.loads(body.decode("utf-8", "surrogatepass"))
    entry = _entry(values, uses=int(uses), vector=vector)
    text = name if isinstance(name, str) else name.decode()
    if text.split(":")[-2:] != [digest(entry.scope), digest(entry.key)]:
        raise ValueError("an entry under another's name")
    if not isinstance(token, bytes) or not math.isfinite(float(used)):
        raise TypeError("no entry of ours")
    return Found(entry=entry, token=token, used=float(used))


def _entry(values: dict[str, Any], *, uses: int, vector: bytes | None) -> Entry:
    texts = {name: values[name] for name in _TEXTS}
    tags, documents, usage = values["tags"], values["documents"], values["usage"]
    created, expires, worth = values["created"], values["expires"], values["worth"]
    numbers = (created, worth) if expires is None else (created, worth, expires)
    strings = (*texts.values(), values["key"], values["scope"], *tags)
    if not (
        all(isinstance(text, str) for text in (*strings, *(p for pair in documents for p in pair)))
        and all(len(pair) == 2 for pair in documents)
        and all(isinstance(number, float) and not math.isnan(number) for number in numbers)
        and all(type(number) is _USAGE[name] for name, number in usage.items())
        and uses >= 0
    ):
        raise TypeError("a value of another type")
    return Entry(
        key=values["key"],
        scope=values["scope"],
        **texts,
        vector=None if vector is None else _vector(vector),
        usage=Usage(**usage),
        tags=tuple(tags),
        created=created,
        expires=expires,
        documents=tuple((document, version) for document, version in documents),
        worth=worth,
        uses=uses,
    )


def _row(entry: Entry, *, now: float, token: bytes) -> tuple[bytes | str | int | float, ...]:
    """Return what `PUT` wants for one entry."""
    body = {name: getattr(entry, name) for name in _TEXTS} | {
        "key": entry.key,
        "scope": entry.scope,
        "tags": entry.tags,
        "documents": entry.documents,
        "usage": {name: value for name in _USAGE if (value := getattr(entry.usage, name))},
        "created": float(entry.created),
        "expires": None if entry.expires is None else float(entry.expires),
        "worth": float(entry.worth),
    }
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    vector = entry.vector
    return (
        _milliseconds(entry.expires, now),
        text,
        ",".join(labels_of(entry)),
        digest(entry.scope),
        repr(float(entry.created)),
        repr(float(now)),
        entry.uses,
        token,
        "" if vector is None else _space(entry.embedder, vector.size),
        b"" if vector is None else vector.astype("<f4", copy=False).tobytes(),
    )


def _milliseconds(expires: float | None, now: float) -> int:
    """Return how long Redis keeps an entry: -1 is for ever, 0 not at all.

    A duration and not a date, so that the server's clock need not agree with ours.
    """
    if expires is None or (expires - now) * 1000 > _FOREVER_MS:
        return -1
    return max(0, math.ceil((expires - now) * 1000))


def _vector(blob: bytes) -> Vector:
    vector = np.frombuffer(blob, dtype="<f4").astype(np.float32)
    with np.errstate(all="ignore"):
        if not abs(float(vector @ vector) - 1.0) < _UNIT_TOLERANCE:
            raise ValueError("no unit vector")
    return vector


def _space(embedder: str, dim: int) -> str:
    return "v" + digest(f"{dim}:{embedder}")


def _label(name: str, value: str) -> str:
    return digest(f"{name}={value}")


def _chunks(labels: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(labels), _IN_ONE_QUERY):
        yield labels[start : start + _IN_ONE_QUERY]
