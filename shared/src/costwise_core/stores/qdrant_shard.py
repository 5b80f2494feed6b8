"""A shard of qdrant-edge, kept to what an index beside a store needs.

The package is a beta whose next version may change both calls and files, so nothing else imports
it, and the folder's name holds its version: another version never reads these files.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import StoreUnavailableError
from costwise_core.stores.edge_engine import calmly, locked
from costwise_core.stores.qdrant_points import escape, unescape, vector_name
from costwise_core.types import Vector

__all__ = ["Found", "Row", "Shard"]

_FORMAT: Final = 1
_PAGE: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What the index holds of an entry; `stamp` differs whenever anything else does."""

    ident: str
    key: str
    scope: str
    embedder: str
    expires: float | None
    stamp: str
    vector: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One point near a vector."""

    ident: str
    key: str
    score: float


class Shard:
    """The open shard of a folder, which no other process may open meanwhile. Thread-safe.

    Vectors are compared one by one and never through a graph: building one (`optimize`) holds
    Python's global lock for seconds, and a threshold needs exact scores.

    Args:
        folder: Made if missing. Files in it that cannot be read are thrown away.

    Raises:
        StoreUnavailableError: if another process has it open, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        import qdrant_edge  # noqa: PLC0415

        self._edge: Any = qdrant_edge
        self._lock = locked(folder)
        self._path = path = folder / f"edge-{version('qdrant-edge-py')}-{_FORMAT}"
        try:
            try:
                self._shard: Any = calmly(qdrant_edge.EdgeShard.load, str(path))
                self._names = set(self._named())
            except Exception:  # noqa: BLE001 - the engine raises nothing more special
                for old in folder.glob("edge-*"):
                    shutil.rmtree(old)
                self._shard, self._names = self._made(path), set()
        except Exception as error:
            self._lock.close()
            raise StoreUnavailableError(f"no index can be made in {folder}: {error}.") from error

    def add(self, rows: Sequence[Row]) -> None:
        """Add or replace rows; they survive a `kill -9` from here on."""
        for row in rows:
            name = _name(row)
            if name not in self._names:
                change = self._edge.UpdateOperation.create_dense_vector(
                    name, row.vector.size, self._edge.Distance.Dot
                )
                calmly(self._shard.update, change)
                self._names.add(name)
        points = [
            self._edge.Point(
                id=row.ident,
                vector={_name(row): row.vector},
                payload=_payload(row),
            )
            for row in rows
        ]
        if points:
            calmly(self._shard.update, self._edge.UpdateOperation.upsert_points(points))

    def drop(self, idents: Collection[str]) -> None:
        """Remove rows; unknown ids are ignored."""
        if idents:
            calmly(self._shard.update, self._edge.UpdateOperation.delete_points(list(idents)))

    def drop_expired(self, now: float) -> None:
        """Remove the rows that expired by `now`."""
        expired = self._edge.Filter(must=[self._expired(now)])
        calmly(self._shard.update, self._edge.UpdateOperation.delete_points_by_filter(expired))

    def search(
        self, vector: Vector, k: int, *, scope: str, embedder: str, now: float
    ) -> list[Found] | None:
        """Return the nearest rows, most similar first; None if no vector of this kind was added."""
        edge = self._edge
        name = vector_name(embedder, vector.size)
        if name not in self._names:
            return None
        request = edge.QueryRequest(
            limit=k,
            query=edge.Query.Nearest(vector.tolist(), using=name),
            filter=edge.Filter(must=[self._is("scope", scope)], must_not=[self._expired(now)]),
            params=edge.SearchParams(exact=True),
            with_payload=["key"],
        )
        return [
            Found(ident=str(p.id), key=unescape(p.payload["key"]), score=float(p.score))
            for p in calmly(self._shard.query, request)
        ]

    def missing(self, rows: Sequence[Row]) -> list[Row]:
        """Return those of these rows that are not here, or not as they should be.

        Vectors are compared too, since the engine keeps no checksum of its files.
        """
        records = calmly(self._shard.retrieve, [row.ident for row in rows], ["stamp"], True)  # noqa: FBT003
        here = {str(record.id): record for record in records}
        return [
            row
            for row in rows
            if row.ident not in here
            or (here[row.ident].payload or {}).get("stamp") != row.stamp
            or here[row.ident].vector.get(_name(row)) != row.vector.tolist()
        ]

    def idents(self) -> Iterator[str]:
        """Yield the ids of all rows."""
        offset = None
        while True:
            request = self._edge.ScrollRequest(offset=offset, limit=_PAGE, with_payload=False)
            records, offset = calmly(self._shard.scroll, request)
            yield from (str(record.id) for record in records)
            if offset is None:
                return

    def close(self) -> None:
        """Write everything to disk and let others open the folder."""
        with suppress(Exception):  # what was not written is found missing when it is opened again
            self._shard.flush()
        with suppress(Exception):
            self._shard.close()
        self._lock.close()

    def discard(self) -> None:
        """Close the shard and delete its files."""
        with suppress(Exception):
            self._shard.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._lock.close()

    def _made(self, path: Path) -> Any:
        edge = self._edge
        # Dense vectors come as embedders do, but a shard must begin with some kind of vector.
        config = edge.EdgeConfig(sparse_vectors={"none": edge.EdgeSparseVectorParams()})
        shard = edge.EdgeShard.create(str(path), config)
        for field, kind in (("scope", "Keyword"), ("expires", "Float")):
            schema = getattr(edge.PayloadSchemaType, kind)
            shard.update(edge.UpdateOperation.create_field_index(field, schema))
        return shard

    def _named(self) -> Iterator[str]:
        """Find which vectors a loaded shard has: the names are in the rows."""
        offset = None
        while True:
            request = self._edge.ScrollRequest(offset=offset, limit=_PAGE, with_payload=["vector"])
            records, offset = calmly(self._shard.scroll, request)
            yield from (str(record.payload["vector"]) for record in records)
            if offset is None:
                return

    def _is(self, field: str, value: str) -> Any:
        return self._edge.FieldCondition(key=field, match=self._edge.MatchValue(escape(value)))

    def _expired(self, now: float) -> Any:
        return self._edge.FieldCondition(key="expires", range=self._edge.RangeFloat(lte=now))


def _name(row: Row) -> str:
    return vector_name(row.embedder, row.vector.size)


def _payload(row: Row) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "key": escape(row.key),
        "scope": escape(row.scope),
        "vector": _name(row),
        "stamp": row.stamp,
    }
    if row.expires is not None:
        payload["expires"] = row.expires
    return payload
