"""How entries are written to PostgreSQL and read back, where nothing read is taken on trust."""

import json
import struct
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np

from costwise_core.stores.checks import Sized
from costwise_core.stores.eviction import rank
from costwise_core.stores.postgres_link import Packed
from costwise_core.stores.sqlite_rows import as_blob, as_text
from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = [
    "COLUMNS",
    "NOW",
    "condition",
    "entry_of",
    "insert",
    "packed",
    "row_of",
    "unpacked",
]

NOW: Final = "coalesce(%s::float8, extract(epoch FROM statement_timestamp())::float8)"
"""The time by the store's clock, or by the server's when the store has none."""

COLUMNS: Final = (
    "scope, key, created, expires, uses, worth, usage, tags, document_ids, document_versions, "
    "tenant, model, corpus, embedder, question, answer, plain, answer_group"
)
"""What `entry_of` reads."""

_WRITTEN: Final = f"{COLUMNS}, used, rank, bytes, dim, vector"
_ROW: Final = f"({', '.join(['%s'] * len(_WRITTEN.split(',')))})"
_USAGE: Final = tuple(field.name for field in fields(Usage))


def insert(rows: int) -> str:
    """Return the statement that writes so many rows of `row_of`."""
    return f"INSERT INTO @entries ({_WRITTEN}) VALUES {', '.join([_ROW] * rows)}"  # noqa: S608


def row_of(sized: Sized, now: float) -> tuple[object, ...]:
    """Return the values of one row; the first two name the entry."""
    entry, size = sized.entry, sized.size
    usage = {name: value for name in _USAGE if (value := getattr(entry.usage, name))}
    return (
        as_blob(entry.scope),
        as_blob(entry.key),
        entry.created,
        entry.expires,
        entry.uses,
        entry.worth,
        json.dumps(usage),
        [as_blob(tag) for tag in entry.tags],
        [as_blob(document) for document, _ in entry.documents],
        [as_blob(version) for _, version in entry.documents],
        as_blob(entry.tenant),
        as_blob(entry.model),
        as_blob(entry.corpus),
        as_blob(entry.embedder),
        as_blob(entry.question),
        as_blob(entry.answer),
        as_blob(entry.text),
        as_blob(entry.group),
        now,
        rank(worth=entry.worth, uses=entry.uses, size=size, used=now),
        size,
        0 if entry.vector is None else entry.vector.size,
        None if entry.vector is None else packed(entry.vector),
    )


def entry_of(row: Sequence[Any], vector: bytes | None = None) -> Entry:
    """Read a row of `COLUMNS`, with its vector if that was read too.

    Raises:
        ValueError: if something in it is not what `row_of` writes.
        TypeError: likewise.
    """
    scope, key, created, expires, uses, worth, usage, tags, ids, versions, *texts = row
    tenant, model, corpus, embedder, question, answer, plain, group = map(as_text, texts)
    spent = json.loads(usage)
    if not isinstance(spent, dict) or not all(isinstance(n, int) for n in spent.values()):
        raise TypeError("usage is an object of whole numbers")
    return Entry(
        key=as_text(key),
        scope=as_text(scope),
        question=question,
        answer=answer,
        vector=None if vector is None else unpacked(vector),
        embedder=embedder,
        usage=Usage(**spent),
        tenant=tenant,
        model=model,
        corpus=corpus,
        tags=tuple(map(as_text, tags)),
        created=created,
        expires=expires,
        text=plain,
        group=group,
        documents=tuple(zip(map(as_text, ids), map(as_text, versions), strict=True)),
        worth=worth,
        uses=uses,
    )


def condition(selection: Selection) -> tuple[str, list[object]]:
    """Write a selection as SQL with its values."""
    terms, values = ["true"], list[object]()
    for name in ("scope", "tenant", "model", "corpus"):
        value = getattr(selection, name)
        if value is not None:
            terms.append(f"{name} = %s")
            values.append(as_blob(value))
    if selection.keys is not None:
        terms.append("key = ANY(%s::bytea[])")
        values.append([as_blob(key) for key in selection.keys])
    if selection.tag is not None:
        terms.append("%s = ANY(tags)")
        values.append(as_blob(selection.tag))
    if selection.changed is not None:
        changed = dict(selection.changed)
        ids = [as_blob(document) for document in changed]
        # The first term is for the index, the second for the truth.
        terms.append(
            "document_ids && %s::bytea[] AND EXISTS ("
            "SELECT FROM unnest(document_ids, document_versions) AS used (id, version) "
            "JOIN unnest(%s::bytea[], %s::bytea[]) AS changed (id, version) USING (id) "
            "WHERE used.version != changed.version OR used.version = '')"
        )
        values += [ids, ids, [as_blob(version) for version in changed.values()]]
    if selection.created_before is not None:
        terms.append("created < %s::float8")
        values.append(selection.created_before)
    if selection.unused_since is not None:
        terms.append("used < %s::float8")
        values.append(selection.unused_since)
    return " AND ".join(terms), values


def packed(vector: Vector) -> Packed:
    """Return a vector as pgvector takes it."""
    return Packed(struct.pack(">HH", vector.size, 0) + vector.astype(">f4").tobytes())


def unpacked(blob: bytes) -> Vector:
    """Return the vector that pgvector sent.

    Raises:
        ValueError: if it is not one.
    """
    return np.frombuffer(blob, dtype=">f4", offset=4).astype(np.float32)
