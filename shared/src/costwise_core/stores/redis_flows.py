"""What a Redis store does, command by command, written once for threads and event loops."""

import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from costwise_core.drive import Flow, call
from costwise_core.errors import StoreError, StoreUnavailableError, VectorError
from costwise_core.stores.checks import (
    JOURNAL_KEPT,
    MAX_ROW_BYTES,
    check_rows,
    check_seconds,
    checked,
)
from costwise_core.stores.redis_replies import other_schema, says, value
from costwise_core.stores.redis_rows import Command, Found, Names, digest, fits, parse, queries
from costwise_core.stores.redis_scripts import (
    ACQUIRE,
    APPEND,
    DELETE,
    FORGET,
    READ_LOG,
    RELEASE,
    SCHEMA,
    TOUCH,
)
from costwise_core.stores.redis_wire import PATIENCE, RedisWire
from costwise_core.stores.vectors import unit
from costwise_core.types import Entry, Neighbour, Selection, Vector

__all__ = ["PAGE", "RedisFlows"]

PAGE: Final = 50
"""How many entries are read at once, each of which may be large."""

_POSITION: Final = re.compile(r"\d{1,20}-\d{1,20}")
_FEW: Final = 16
_NAMES: Final = 1_000
_ROWS: Final = 500
_EXISTS: Final = "Index already exists"
_TRIES: Final = 6
_WIDER: Final = 4
_TOUCHED_KEPT: Final = 1_000
_LOOKS: Final = 100
_LOOK: Final = 0.1  # seconds between two looks at an index that is being built


class RedisFlows:
    """The logic of a store; see `RedisStore` for what each flow does."""

    def __init__(self, names: Names, wire: RedisWire, clock: Callable[[], float]) -> None:
        self.damaged = 0
        self._names = names
        self._wire = wire
        self._clock = clock
        # Lookups do not write: what was served is written with the next put or deletion.
        self._touched: dict[str, tuple[int, float]] = {}

    # --- entries ----------------------------------------------------------------------------------

    def get(self, key: str, scope: str) -> Flow[Entry | None]:
        """Read one entry by its name, which counts as a use of it."""
        name = self._names.entry(scope, key)
        (found,) = yield from self.live([name], vectors=False)
        if found is None:
            return None
        count, _ = self._touched.get(name, (0, 0.0))
        if count or len(self._touched) < _TOUCHED_KEPT:
            self._touched[name] = (count + 1, self._clock())
        return found.entry

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> Flow[list[Neighbour]]:
        """Ask the index for names, then read those entries and compare with their vectors."""
        query = unit(vector)
        wanted = max(k, 1)
        for _ in range(_TRIES):
            names = yield from self._nearest(query, wanted, scope, embedder)
            found = yield from self.live(names, vectors=True)
            # The cosine is that of the vector that lies with the answer, not what the index says.
            near = [
                Neighbour(
                    entry=replace(each.entry, vector=None),
                    cosine=min(1.0, float(each.entry.vector @ query)),
                )
                for each in found
                if each is not None
                and each.entry.vector is not None
                and each.entry.vector.size == query.size
                and (each.entry.scope, each.entry.embedder) == (scope, embedder)
            ]
            # What has expired or is damaged makes room for the next.
            if len(near) >= k or len(names) < wanted:
                break
            wanted *= _WIDER
        near.sort(key=lambda neighbour: -neighbour.cosine)
        return near[: max(k, 0)]

    def put(self, entries: Sequence[Entry]) -> Flow[None]:
        """Write entries in one script, and make the indexes that are missing."""
        fit = [sized.entry for sized in checked(entries, None)]
        if not fit:
            return
        widths = {e.embedder: e.vector.size for e in fit if e.vector is not None}
        ask: list[Command] = [("HGET", self._names.dims, digest(name)) for name in widths]
        made, *known = yield from call(self._wire.send, [self._names.make_index(), *ask])
        if not says(made, _EXISTS):
            value(made)
        for (name, dim), reply in zip(widths.items(), known, strict=True):
            old = value(reply)
            if old not in (None, b"%d" % dim) and not (yield from self._forget(name, int(old))):
                raise _other_width(name, int(old), dim)
        # An index that is there answers with an error, which is cheaper than to ask first.
        indexes = [self._names.make_near(name, dim) for name, dim in widths.items()]
        tokens = [secrets.token_bytes(8) for _ in fit]
        write = self._names.put(fit, now=self._clock(), tokens=tokens)
        *near, reply = yield from self._write([*indexes, write], patient=len(fit) > _FEW)
        if says(reply, "COSTWISE width"):  # another process was quicker
            _, _, ident, old = str(reply).split(" ")
            name = next(name for name in widths if digest(name) == ident)
            raise _other_width(name, int(old), widths[name])
        value(reply)
        for each in near:
            if not says(each, _EXISTS):
                value(each)

    def delete(self, selection: Selection) -> Flow[int]:
        """Delete what the selection means, unless it was replaced since it was read."""
        names = yield from self.find(selection)
        now = self._clock()
        count = 0
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            rows = yield from self._rows(page, vectors=False)
            chosen = [
                # A damaged entry can be asked nothing, and nobody misses it.
                (name, row.token if isinstance(row, Found) else b"", _live(row, now))
                for name, row in zip(page, rows, strict=True)
                if isinstance(row, Exception) or (row is not None and fits(row, selection))
            ]
            if not chosen:
                continue
            command = self._eval(DELETE, [c[0] for c in chosen], [c[1] for c in chosen])
            (reply,) = yield from call(self._wire.send, [command], patient=True)
            gone = zip(value(reply), chosen, strict=True)
            count += sum(bool(done and live) for done, (_, _, live) in gone)
        return count

    def find(self, selection: Selection) -> Flow[list[bytes]]:
        """Return the keys of at least the selected entries, oldest first."""
        created: dict[bytes, float] = {}
        yield from self._write([])
        yield from self._index_is_ready()
        index = self._names.index
        for query in queries(selection):
            limit = ("TIMEOUT", int(1000 * PATIENCE), "DIALECT", 2)
            step: Command = (
                *("FT.AGGREGATE", index, query, "LOAD", 2, "@__key", "@c"),
                *("WITHCURSOR", "COUNT", _NAMES, *limit),
            )
            while True:
                (reply,) = yield from call(self._wire.send, [step], patient=True)
                rows, cursor = value(reply)
                for row in rows[1:]:
                    values = dict(zip(row[::2], row[1::2], strict=True))
                    if b"__key" in values:
                        created[values[b"__key"]] = float(values.get(b"c", 0.0))
                if not cursor:
                    break
                step = ("FT.CURSOR", "READ", index, cursor, "COUNT", _NAMES)
        return sorted(created, key=created.__getitem__)

    def live(self, names: Sequence[str | bytes], *, vectors: bool) -> Flow[list[Found | None]]:
        """Read entries; None stands for what is not there, has expired or is damaged."""
        rows = yield from self._rows(names, vectors=vectors)
        self.damaged += sum(isinstance(row, Exception) for row in rows)
        now = self._clock()
        return [row if isinstance(row, Found) and _live(row, now) else None for row in rows]

    # --- logs and leases ----------------------------------------------------------------------

    def append(self, name: str, rows: Sequence[str]) -> Flow[None]:
        """Add rows to a stream in one script."""
        blobs = check_rows(rows)
        if not blobs:
            return
        add = self._eval(APPEND, [self._names.log(name)], [JOURNAL_KEPT, *blobs])
        (reply,) = yield from call(self._wire.send, [add], patient=len(blobs) > _FEW)
        value(reply)

    def read_log(self, name: str, after: str) -> Flow[tuple[list[str], str]]:
        """Read a stream page by page to its end."""
        if after and not _POSITION.fullmatch(after):
            raise StoreError(f"a position is one that read() returned, got {after[:40]!r}.")
        rows: list[str] = []
        while True:
            values = (f"({after}" if after else "-", _ROWS, MAX_ROW_BYTES)
            step = self._eval(READ_LOG, [self._names.log(name)], values)
            (reply,) = yield from call(self._wire.send, [step])
            page = value(reply)
            for position, row in page:
                after = position.decode()
                try:
                    rows.append(row.decode("utf-8", "surrogatepass"))
                except (ValueError, AttributeError):
                    self.damaged += 1
            if len(page) < _ROWS:
                return rows, after

    def acquire(self, name: str, owner: str, seconds: float) -> Flow[bool]:
        """Set a key that expires, unless it holds another owner."""
        check_seconds(seconds)
        milliseconds = min(math.ceil(1000 * seconds), 10**13)
        who = owner.encode("utf-8", "surrogatepass")
        claim = self._eval(ACQUIRE, [self._names.lease(name)], [who, milliseconds])
        (reply,) = yield from call(self._wire.send, [claim])
        return bool(value(reply))

    def release(self, name: str, owner: str) -> Flow[None]:
        """Delete the key if it holds this owner."""
        who = owner.encode("utf-8", "surrogatepass")
        give_back = self._eval(RELEASE, [self._names.lease(name)], [who])
        (reply,) = yield from call(self._wire.send, [give_back])
        value(reply)

    # --- pieces -------------------------------------------------------------------------------

    def _nearest(self, query: Vector, k: int, scope: str, embedder: str) -> Flow[list[bytes]]:
        milliseconds = max(1, int(1000 * self._wire.timeout))
        find = self._names.search(
            query, k, scope=scope, embedder=embedder, milliseconds=milliseconds
        )
        schema: Command = ("GET", self._names.schema)
        width: Command = ("HGET", self._names.dims, digest(embedder))
        replies = yield from call(self._wire.send, [schema, width, find])
        version, dim = value(replies[0]), value(replies[1])
        if version is not None and version != b"%d" % SCHEMA:
            raise other_schema(version.decode("utf-8", "replace"))
        if dim is not None and dim != b"%d" % query.size:
            raise _other_width(embedder, int(dim), query.size)
        if dim is None and says(replies[2], "no such index", "Unknown index"):
            return []
        return list(value(replies[2])[1:])

    def _rows(
        self, names: Sequence[str | bytes], *, vectors: bool
    ) -> Flow[list[Found | Exception | None]]:
        """Read entries; an error stands for a damaged one."""
        if not names:
            return []
        (reply,) = yield from call(self._wire.send, [self._names.read(names, vectors=vectors)])
        rows: list[Found | Exception | None] = []
        for name, row in zip(names, value(reply), strict=True):
            try:
                rows.append(parse(name, row))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                rows.append(error)
        return rows

    def _write(self, commands: list[Command], *, patient: bool = False) -> Flow[list[Any]]:
        """Send commands after one that writes what was served lately."""
        touched, self._touched = self._touched, {}
        if not touched:
            return (yield from call(self._wire.send, commands, patient=patient)) if commands else []
        values = [part for pair in touched.values() for part in pair]
        first = self._eval(TOUCH, list(touched), values)
        reply, *others = yield from call(self._wire.send, [first, *commands], patient=patient)
        value(reply)
        return others

    def _index_is_ready(self) -> Flow[None]:
        """Wait for an index that is being built, from which a selection would miss entries."""
        commands: list[Command] = [
            ("GET", self._names.schema),
            self._names.make_index(),
            ("FT.INFO", self._names.index),
        ]
        for _ in range(_LOOKS):
            version, made, info = yield from call(self._wire.send, commands)
            if version is not None and version != b"%d" % SCHEMA:
                raise other_schema(value(version).decode("utf-8", "replace"))
            if not says(made, _EXISTS):
                value(made)
            facts = value(info)
            if not int(dict(zip(facts[::2], facts[1::2], strict=True)).get(b"indexing", 0)):
                return
            yield from call(self._wire.pause, _LOOK)
        raise StoreUnavailableError("the index over the entries is still being built; try later.")

    def _forget(self, embedder: str, dim: int) -> Flow[bool]:
        """Forget an embedder's width if no entry has it any more, and return whether so."""
        left = self._names.count(embedder)
        (reply,) = yield from call(self._wire.send, [left])
        if value(reply)[0]:
            return False
        forget = self._eval(FORGET, [self._names.dims], [digest(embedder), dim])
        drop: Command = ("FT.DROPINDEX", self._names.near(embedder, dim))
        replies = yield from call(self._wire.send, [forget, drop])
        value(replies[0])
        return True

    def _eval(
        self, script: str, keys: Sequence[str | bytes], values: Sequence[str | bytes | int | float]
    ) -> Command:
        return ("EVAL", script, 1 + len(keys), self._names.schema, *keys, *values)


def _live(row: Found | Exception | None, now: float) -> bool:
    return isinstance(row, Found) and (row.entry.expires is None or row.entry.expires > now)


def _other_width(embedder: str, dim: int, got: int) -> VectorError:
    return VectorError(f"vectors of {embedder!r} have {dim} dimensions, got {got}.")
