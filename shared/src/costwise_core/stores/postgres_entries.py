"""What a PostgreSQL store does with entries, as scripts: statements out, rows in, no I/O."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from costwise_core.errors import VectorError
from costwise_core.stores.checks import Sized
from costwise_core.stores.eviction import rank
from costwise_core.stores.postgres_link import Script, T, sql
from costwise_core.stores.postgres_rows import (
    COLUMNS,
    NOW,
    condition,
    entry_of,
    insert,
    packed,
    row_of,
)
from costwise_core.stores.postgres_schema import one, transaction
from costwise_core.stores.sqlite_rows import as_blob, as_text
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["Notes", "Place", "delete", "get", "page", "put", "search", "writing"]

Place = tuple[float, int]
"""When an entry was created, and its id: where a page of entries ends."""

_LIVE: Final = f"(expires IS NULL OR expires > {NOW})"
_CHUNK: Final = 100  # rows written by one statement
_PAGE: Final = 200  # rows read by one statement
_BYTES: Final = 16_000_000  # of either, unless one row alone has more
_TRIES: Final = 3
_TOUCHED_KEPT: Final = 1_000


class Notes:
    """What one process notes while it reads: entries that were used, and rows that are damaged.

    Lookups do not write: uses are written with the next put or deletion.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._lock = threading.Lock()
        self._used: dict[int, tuple[int, float]] = {}

    def read(self, columns: Sequence[Any], vector: bytes | None = None) -> Entry | None:
        """Return the entry of a row, None if it is damaged, and count that."""
        try:
            return entry_of(columns, vector)
        except (ValueError, TypeError, RecursionError):
            self.damaged += 1
            return None

    def text(self, blob: bytes) -> str | None:
        """Return the text of a row of a log, None if it is damaged, and count that."""
        try:
            return as_text(blob)
        except ValueError:
            self.damaged += 1
            return None

    def used(self, ident: int, now: float) -> None:
        """Note that an entry was served."""
        with self._lock:
            if ident in self._used or len(self._used) < _TOUCHED_KEPT:
                self._used[ident] = (self._used.get(ident, (0, now))[0] + 1, now)

    def take(self) -> dict[int, tuple[int, float]]:
        """Return how often and when last entries were used, by id, and forget it."""
        with self._lock:
            taken, self._used = self._used, {}
        return taken


def get(notes: Notes, key: str, scope: str, now: float | None) -> Script[Entry | None]:
    """Look for one live entry."""
    rows = yield sql(
        f"SELECT id, {NOW}, {COLUMNS} FROM @entries WHERE scope = %s AND key = %s AND {_LIVE}",  # noqa: S608
        now,
        as_blob(scope),
        as_blob(key),
        now,
    )
    for ident, used, *columns in rows:
        entry = notes.read(columns)
        if entry is not None:
            notes.used(ident, used)
        return entry
    return None


def search(
    notes: Notes, vector: Vector, k: int, scope: str, embedder: str, now: float | None
) -> Script[list[Neighbour]]:
    """Look for the nearest live entries; a damaged one makes room for the next.

    Raises:
        VectorError: if the vector is unusable or not as wide as this embedder's others.
    """
    query = unit(vector)
    neighbours: list[Neighbour] = []
    limit = k = max(k, 0)
    for _ in range(_TRIES):
        # No index of vectors is asked: with a filter it would overlook neighbours. The inner search
        # carries no columns along; of unit vectors the inner product is the cosine.
        rows = yield sql(
            f"SELECT -distance, {COLUMNS} FROM ("  # noqa: S608
            "SELECT id, vector <#> %s AS distance FROM @entries "
            f"WHERE scope = %s AND embedder = %s AND dim = %s AND {_LIVE} "
            "ORDER BY distance, id LIMIT %s"
            ") nearest JOIN @entries USING (id) ORDER BY distance, id",
            packed(query),
            as_blob(scope),
            as_blob(embedder),
            query.size,
            now,
            limit,
        )
        read = [(notes.read(columns), cosine) for cosine, *columns in rows]
        neighbours = [
            Neighbour(entry=entry, cosine=min(cosine, 1.0)) for entry, cosine in read if entry
        ]
        if len(neighbours) >= k or len(rows) < limit:
            break
        limit = 2 * k - len(neighbours)
    if not rows:
        yield from _check_widths({embedder: query.size})
    return neighbours[:k]


def put(
    fit: Sequence[Sized], max_entries: int | None, max_bytes: int | None, now: float
) -> Script[None]:
    """Add entries in place of those of the same name, and evict what no longer fits.

    Raises:
        VectorError: if a vector is not as wide as its embedder's others.
    """
    newest = {(sized.entry.scope, sized.entry.key): sized for sized in fit}
    entries = [sized.entry for sized in newest.values()]
    yield from _check_widths({e.embedder: e.vector.size for e in entries if e.vector is not None})
    yield sql(
        "DELETE FROM @entries WHERE (scope, key) IN "
        "(SELECT * FROM unnest(%s::bytea[], %s::bytea[]))",
        [as_blob(e.scope) for e in entries],
        [as_blob(e.key) for e in entries],
    )
    for chunk in _chunks(newest.values()):
        yield sql(insert(len(chunk)), *(value for sized in chunk for value in row_of(sized, now)))
    yield from _evict(max_entries, max_bytes)


def delete(selection: Selection, now: float) -> Script[int]:  # noqa: ARG001 - as `writing` calls it
    """Delete the selected entries and return how many there were."""
    chosen, values = condition(selection)
    rows = yield sql(
        f"WITH gone AS (DELETE FROM @entries WHERE {chosen} RETURNING 1) "  # noqa: S608
        "SELECT count(*) FROM gone",
        *values,
    )
    count: int = one(rows)[0]
    return count


def page(
    notes: Notes, selection: Selection, after: Place, now: float | None
) -> Script[tuple[list[Entry], Place | None]]:
    """Read the next selected live entries, oldest first, and the place to go on from, if any."""
    chosen, values = condition(selection)
    rows = yield sql(
        f"SELECT created, id, vector_send(vector), {COLUMNS} FROM ("  # noqa: S608
        "SELECT id, sum(bytes) OVER (ORDER BY created, id) - bytes AS bytes_before FROM ("
        f"SELECT * FROM @entries WHERE (created, id) > (%s, %s) AND {chosen} AND {_LIVE} "
        "ORDER BY created, id LIMIT %s) AS next"
        ") AS page JOIN @entries USING (id) WHERE bytes_before < %s ORDER BY created, id",
        *after,
        *values,
        now,
        _PAGE,
        _BYTES,
    )
    read = [notes.read(columns, vector) for _, _, vector, *columns in rows]
    return [entry for entry in read if entry], (rows[-1][:2] if rows else None)


def writing(
    notes: Notes,
    script: Callable[[float], Script[T]],
    *,
    lock: int,
    now: float | None,
    seconds: float,
) -> Script[T]:
    """Run a script in a transaction of its own, told the time, with nothing expired in sight."""

    def alone() -> Script[T]:
        # Writers who go one by one are never in each other's way, and never read old totals.
        _, time = one((yield sql(f"SELECT pg_advisory_xact_lock(%s), {NOW}", lock, now)))
        yield from _write_uses(notes.take())
        yield sql("DELETE FROM @entries WHERE expires <= %s", time)
        return (yield from script(time))

    return transaction(alone(), seconds=seconds)


def _chunks(fit: Iterable[Sized]) -> Iterator[list[Sized]]:
    chunk: list[Sized] = []
    size = 0
    for sized in fit:
        if len(chunk) == _CHUNK or (chunk and size + sized.size > _BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(sized)
        size += sized.size
    yield chunk


def _write_uses(used: dict[int, tuple[int, float]]) -> Script[None]:
    if not used:
        return
    rows = yield sql(
        "SELECT id, worth, uses, bytes, used FROM @entries WHERE id = ANY(%s::bigint[])",
        list(used),
    )
    columns: list[list[float]] = [[], [], [], []]
    for ident, worth, uses, size, before in rows:
        count, last = used[ident]
        uses, last = uses + count, max(last, before)  # noqa: PLW2901
        row = ident, uses, last, rank(worth=worth, uses=uses, size=size, used=last)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    yield sql(
        "UPDATE @entries e SET uses = n.uses, used = n.used, rank = n.rank "
        "FROM unnest(%s::bigint[], %s::bigint[], %s::float8[], %s::float8[]) "
        "AS n (id, uses, used, rank) WHERE e.id = n.id",
        *columns,
    )


def _check_widths(widths: dict[str, int]) -> Script[None]:
    rows = yield sql(
        "SELECT embedder, dim FROM @totals WHERE dim > 0 AND embedder = ANY(%s::bytea[])",
        [as_blob(name) for name in widths],
    )
    known: dict[bytes, int] = dict(rows)
    for name, width in widths.items():
        dim = known.get(as_blob(name), width)
        if dim != width:
            raise VectorError(f"vectors of {name!r} have {dim} dimensions, got {width}.")


def _evict(max_entries: int | None, max_bytes: int | None) -> Script[None]:
    """Delete the entries of lowest rank until the rest fits."""
    totals = one((yield sql("SELECT sum(entries)::bigint, sum(bytes)::bigint FROM @totals")))
    entries, size = totals[0] or 0, totals[1] or 0
    more_entries = 0 if max_entries is None else max(0, entries - max_entries)
    more_bytes = 0 if max_bytes is None else max(0, size - max_bytes)
    while more_entries > 0 or more_bytes > 0:
        # The entries before which too few, or too few bytes, would have gone.
        rows = yield sql(
            "WITH lowest AS (SELECT id, bytes, rank FROM @entries ORDER BY rank, id LIMIT %s), "
            "chosen AS (SELECT id, bytes FROM (SELECT id, bytes, "
            "row_number() OVER w - 1 AS gone, sum(bytes) OVER w - bytes AS gone_bytes "
            "FROM lowest WINDOW w AS (ORDER BY rank, id)) l WHERE gone < %s OR gone_bytes < %s) "
            "DELETE FROM @entries e USING chosen c WHERE e.id = c.id RETURNING e.bytes",
            _CHUNK,
            more_entries,
            more_bytes,
        )
        if not rows:
            return
        more_entries -= len(rows)
        more_bytes -= sum(size for (size,) in rows)
