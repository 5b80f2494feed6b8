"""How entries are written to a SQLite file and read back, where nothing read is taken on trust."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np

from costwise_core.stores.checks import Sized
from costwise_core.stores.eviction import rank
from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = [
    "APPLICATION_ID",
    "INSERT",
    "INSERT_SOURCE",
    "READ",
    "READ_WHOLE",
    "SCHEMA",
    "as_blob",
    "as_text",
    "entry_of",
    "row_of",
    "sources_of",
    "vectors_of",
    "where",
]

APPLICATION_ID: Final = 0x43575343
"""Marks a SQLite file as one of these."""

SCHEMA: Final = (
    # Texts are UTF-8 blobs, because SQLite's own text cannot hold every Python string. An id is
    # never used twice, so ids tell a process what is new; `gone` tells it what was deleted.
    """
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        scope BLOB NOT NULL,
        key BLOB NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        used REAL NOT NULL,
        bytes INTEGER NOT NULL,
        usage TEXT NOT NULL,
        tags TEXT NOT NULL,
        tenant BLOB NOT NULL,
        model BLOB NOT NULL,
        corpus BLOB NOT NULL,
        embedder BLOB NOT NULL,
        dim INTEGER NOT NULL,
        vector BLOB,
        question BLOB NOT NULL,
        answer BLOB NOT NULL
    );;
    CREATE UNIQUE INDEX entries_name ON entries (scope, key);;
    CREATE INDEX entries_used ON entries (used);;
    CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL;;
    CREATE TABLE gone (seq INTEGER PRIMARY KEY, id INTEGER NOT NULL);;
    CREATE TABLE totals (
        embedder BLOB PRIMARY KEY,
        dim INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID;;
    CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
        INSERT INTO totals VALUES (new.embedder, new.dim, 1, new.bytes)
            ON CONFLICT DO UPDATE SET entries = entries + 1, bytes = bytes + excluded.bytes;
    END;;
    CREATE TRIGGER entry_gone AFTER DELETE ON entries BEGIN
        INSERT INTO gone (id) VALUES (old.id);
        UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes
            WHERE embedder = old.embedder;
        DELETE FROM totals WHERE embedder = old.embedder AND entries <= 0;
    END
    """,
    # `standing` is the rank that eviction goes by; `sources` finds the entries of a document.
    """
    ALTER TABLE entries ADD COLUMN text BLOB NOT NULL DEFAULT x'';;
    ALTER TABLE entries ADD COLUMN "group" BLOB NOT NULL DEFAULT x'';;
    ALTER TABLE entries ADD COLUMN documents TEXT NOT NULL DEFAULT '[]';;
    ALTER TABLE entries ADD COLUMN worth REAL NOT NULL DEFAULT 0.0;;
    ALTER TABLE entries ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE entries ADD COLUMN standing REAL NOT NULL DEFAULT 0.0;;
    UPDATE entries SET standing = used / 86400.0 - 30.0;;
    DROP INDEX entries_used;;
    CREATE INDEX entries_standing ON entries (standing);;
    CREATE TABLE sources (
        document BLOB NOT NULL,
        entry INTEGER NOT NULL,
        version BLOB NOT NULL,
        PRIMARY KEY (document, entry, version)
    ) WITHOUT ROWID;;
    CREATE INDEX sources_entry ON sources (entry);;
    CREATE TRIGGER entry_sources_gone AFTER DELETE ON entries BEGIN
        DELETE FROM sources WHERE entry = old.id;
    END;;
    CREATE TABLE journal (
        name BLOB NOT NULL,
        seq INTEGER NOT NULL,
        row BLOB NOT NULL,
        PRIMARY KEY (name, seq)
    ) WITHOUT ROWID;;
    CREATE TABLE leases (
        name BLOB PRIMARY KEY,
        owner BLOB NOT NULL,
        expires REAL NOT NULL
    ) WITHOUT ROWID
    """,
)
_UNIT_TOLERANCE: Final = 1e-3
_USAGE: Final = tuple(field.name for field in fields(Usage))

READ: Final = (
    "SELECT id, scope, key, created, expires, usage, tags, tenant, model, corpus, embedder, "
    'question, answer, text, "group", documents, worth, uses FROM entries '
)
READ_WHOLE: Final = READ.replace(" FROM entries", ", dim, vector FROM entries")
"""`READ` with the width and the vector as two more columns."""

INSERT: Final = (
    "INSERT INTO entries (scope, key, created, expires, used, bytes, usage, tags, tenant, model, "
    'corpus, embedder, dim, vector, question, answer, text, "group", documents, worth, uses, '
    "standing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_SOURCE: Final = "INSERT OR IGNORE INTO sources (document, entry, version) VALUES (?, ?, ?)"


def vectors_of(stored: Sequence[tuple[object, object]]) -> list[Vector | None]:
    """Read widths and blobs, many at a time; None stands for one that is no unit vector."""
    found: list[Vector | None] = [None] * len(stored)
    blobs = [
        (place, dim, blob)
        for place, (dim, blob) in enumerate(stored)
        if isinstance(dim, int) and isinstance(blob, bytes)
    ]
    for width in {dim for _, dim, _ in blobs}:
        own = [(place, blob) for place, dim, blob in blobs if dim == width]
        matrix = np.frombuffer(b"".join(blob for _, blob in own), dtype="<f4").reshape(-1, width)
        with np.errstate(all="ignore"):
            fine = np.abs(np.einsum("ij,ij->i", matrix, matrix) - 1.0) < _UNIT_TOLERANCE
        for (place, _), vector, good in zip(own, matrix, fine.tolist(), strict=True):
            if good:
                found[place] = vector
    return found


def where(selection: Selection) -> tuple[str, list[object]]:
    """Write a selection as SQL with its values."""
    terms, values = ["1"], list[object]()
    for name in ("scope", "tenant", "model", "corpus"):
        value = getattr(selection, name)
        if value is not None:
            terms.append(f"{name} = ?")
            values.append(as_blob(value))
    if selection.keys is not None:
        terms.append("key IN (SELECT CAST(value AS BLOB) FROM json_each(?))")
        values.append(json.dumps(selection.keys))
    if selection.tag is not None:
        terms.append(
            "EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) "
            "WHERE value = json_extract(?, '$[0]'))"
        )
        values.append(json.dumps([selection.tag]))
    if selection.changed is not None:
        terms.append(
            "id IN (SELECT entry FROM json_each(?) AS now CROSS JOIN sources "
            "ON document = CAST(now.value ->> '$[0]' AS BLOB) "
            "WHERE version != CAST(now.value ->> '$[1]' AS BLOB) OR version = x'')"
        )
        changed = dict(selection.changed).items()
        values.append(json.dumps([(_ascii(document), _ascii(now)) for document, now in changed]))
    if selection.created_before is not None:
        terms.append("created < ?")
        values.append(selection.created_before)
    if selection.unused_since is not None:
        terms.append("used < ?")
        values.append(selection.unused_since)
    return " AND ".join(terms), values


def row_of(sized: Sized, now: float) -> tuple[object, ...]:
    """Return the values of `INSERT`; the first two name the entry."""
    entry = sized.entry
    usage = {name: value for name in _USAGE if (value := getattr(entry.usage, name))}
    vector = entry.vector
    return (
        as_blob(entry.scope),
        as_blob(entry.key),
        entry.created,
        entry.expires,
        now,
        sized.size,
        json.dumps(usage),
        json.dumps(entry.tags),
        as_blob(entry.tenant),
        as_blob(entry.model),
        as_blob(entry.corpus),
        as_blob(entry.embedder),
        0 if vector is None else vector.size,
        None if vector is None else vector.astype("<f4", copy=False).tobytes(),
        as_blob(entry.question),
        as_blob(entry.answer),
        as_blob(entry.text),
        as_blob(entry.group),
        json.dumps(entry.documents),
        float(entry.worth),
        entry.uses,
        rank(worth=entry.worth, uses=entry.uses, size=sized.size, used=now),
    )


def sources_of(entry: Entry, ident: int | None) -> list[tuple[object, ...]]:
    """Return the values of `INSERT_SOURCE` for each document of the entry with this id."""
    return [
        (as_blob(_ascii(document)), ident, as_blob(_ascii(version)))
        for document, version in entry.documents
    ]


def entry_of(row: Sequence[Any]) -> Entry:
    """Read a row of `READ`.

    Raises:
        ValueError: if something in it is not what `row_of` writes.
        TypeError: likewise.
    """
    _, scope, key, created, expires, usage, tags, *texts, documents, worth, uses = row
    tenant, model, corpus, embedder, question, answer, text, group = map(as_text, texts)
    # A search reads several rows, most of them with nothing in these three.
    spent = {} if usage == b"{}" else json.loads(usage)
    labels = [] if tags == b"[]" else json.loads(tags)
    sources = [] if documents == b"[]" else json.loads(documents)
    if not (
        isinstance(created, float)
        and isinstance(expires, float | None)
        and isinstance(labels, list)
        and all(isinstance(label, str) for label in labels)
        and isinstance(spent, dict)
        and all(isinstance(number, int) for number in spent.values())
        and isinstance(sources, list)
        and all(
            isinstance(source, list) and [type(part) for part in source] == [str, str]
            for source in sources
        )
        and isinstance(worth, float)
        and 0.0 <= worth < math.inf
        and isinstance(uses, int)
        and uses >= 0
    ):
        raise TypeError("a column holds a value of another type")
    return Entry(
        key=as_text(key),
        scope=as_text(scope),
        question=question,
        answer=answer,
        embedder=embedder,
        usage=Usage(**spent),
        tenant=tenant,
        model=model,
        corpus=corpus,
        tags=tuple(labels),
        created=created,
        expires=expires,
        text=text,
        group=group,
        documents=tuple((document, version) for document, version in sources),
        worth=worth,
        uses=uses,
    )


def as_blob(text: str) -> bytes:
    """Return the bytes a text is stored as; lone surrogates survive."""
    return text.encode("utf-8", "surrogatepass")


def as_text(blob: object) -> str:
    """Return the text that was stored.

    Raises:
        TypeError: if the value is not bytes.
        ValueError: if the bytes are not UTF-8.
    """
    if not isinstance(blob, bytes):
        raise TypeError("a text is stored as bytes")
    return blob.decode("utf-8", "surrogatepass")


def _ascii(text: str) -> str:
    # SQLite's JSON cuts a text at a NUL; two documents must not become one by that.
    return json.dumps(text)[1:-1]
