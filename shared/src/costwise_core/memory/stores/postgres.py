"""Conversations in PostgreSQL, for any number of processes and machines."""

import functools
from collections.abc import Callable, Sequence
from typing import Final

from costwise_core.drive import Flow, call
from costwise_core.memory.stores.arguments import Which, check_ttl
from costwise_core.memory.stores.rows import MAX_BYTES, Place, Row
from costwise_core.memory.stores.server import Bodies, Page, ServerConversations
from costwise_core.stores import postgres_sharing
from costwise_core.stores.per_process import PerProcess
from costwise_core.stores.postgres_link import PostgresLink, Script, T, check_link, sql
from costwise_core.stores.postgres_rows import NOW
from costwise_core.stores.postgres_schema import Tables, one, prepare, transaction

__all__ = ["TABLES", "PostgresConversations"]

_PAGE: Final = 1_000
_FEW: Final = 100
_PATIENCE: Final = 10.0
_DELETED: Final = 20  # conversations in one statement, each of which may have 10,000 messages
_LEASES: Final = "memory_leases"
_LIVE: Final = f"(expires IS NULL OR expires > {NOW})"

TABLES: Final = Tables(
    "memory_version",
    "memory_conversations",
    (
        # `length` only grows: a damaged row keeps its place. Leases are worth no write to disk.
        f"""
    CREATE TABLE @memory_conversations (
        key bytea PRIMARY KEY,
        tenant bytea NOT NULL,
        owner bytea NOT NULL,
        names bytea NOT NULL CHECK (octet_length(names) <= {MAX_BYTES:d}),
        used float8 NOT NULL,
        expires float8,
        length integer NOT NULL DEFAULT 0,
        version bigint NOT NULL DEFAULT 0,
        summary bytea CHECK (octet_length(summary) <= {MAX_BYTES:d})
    );
    CREATE INDEX ON @memory_conversations (tenant, key);
    CREATE INDEX ON @memory_conversations (owner, key);
    CREATE INDEX ON @memory_conversations (used);
    CREATE INDEX ON @memory_conversations (expires) WHERE expires IS NOT NULL;
    CREATE TABLE @memory_messages (
        conversation bytea NOT NULL REFERENCES @memory_conversations ON DELETE CASCADE,
        place integer NOT NULL,
        key bytea NOT NULL,
        body bytea NOT NULL CHECK (octet_length(body) <= {MAX_BYTES:d}),
        PRIMARY KEY (conversation, place),
        UNIQUE (conversation, key)
    );
    CREATE UNLOGGED TABLE @memory_leases (
        name bytea PRIMARY KEY,
        owner bytea NOT NULL,
        expires float8 NOT NULL
    );

    -- A function, so that the lock on a conversation, under which its messages get their places,
    -- is held for as long as the server works and no longer: not while a client is dead.
    CREATE FUNCTION @memory_append(
        who bytea, whose bytea[], called bytea, at float8, lasting float8,
        keys bytea[], bodies bytea[]
    ) RETURNS integer LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        held integer;
        added integer;
    BEGIN
        DELETE FROM @memory_conversations WHERE key = who AND expires <= at;
        INSERT INTO @memory_conversations AS c (key, tenant, owner, names, used, expires)
            VALUES (who, whose[1], whose[2], called, at, at + lasting)
            ON CONFLICT (key) DO UPDATE SET
                used = greatest(c.used, excluded.used), expires = excluded.expires,
                names = excluded.names
            RETURNING length INTO held;
        INSERT INTO @memory_messages
            SELECT who, held + row_number() OVER (ORDER BY m.place) - 1, m.key, m.body
            FROM unnest(keys, bodies) WITH ORDINALITY AS m (key, body, place)
            WHERE NOT EXISTS (
                SELECT FROM @memory_messages o WHERE o.conversation = who AND o.key = m.key
            );
        GET DIAGNOSTICS added = ROW_COUNT;
        UPDATE @memory_conversations SET length = held + added WHERE key = who;
        -- Only now, and none that is locked, so that no two appends wait for each other.
        DELETE FROM @memory_conversations WHERE key IN (
            SELECT key FROM @memory_conversations WHERE expires <= at
            ORDER BY expires LIMIT 8 FOR UPDATE SKIP LOCKED
        );
        RETURN held + added;
    END $$
    """,  # noqa: S608
    ),
)


class PostgresConversations(ServerConversations):
    """Keeps conversations in tables of one schema.

    The constructor connects to nothing; the first use makes the schema and its tables if they are
    missing and the role may make them. `append` and `replace` return once their transaction is
    committed, which with PostgreSQL's default settings no crash of either side can undo. A server
    that is gone or frozen costs a caller the timeouts below and no more, and after three failures
    in a row next to nothing (a breaker asks again every five seconds).

    Every method but `conversations` has an asynchronous twin with an "a" in front, on psycopg's own
    asynchronous connections. See `ConversationStore` for what they do.

    Args:
        conninfo: A connection string or URI, as libpq reads it. Behind PgBouncer its server needs
            `ignore_startup_parameters = options`.
        schema: Name of the schema; stores in different schemas share nothing. It may be that of a
            `PostgresStore`.
        ttl: Seconds after the last append at which a conversation is deleted; None keeps it.
        pool_size: At most how many connections to have at once, blocking and asyncio's each.
        timeout: Seconds a call may take, waiting for others included. Deletions and appends of more
            than 100 messages may take 10.
        connect_timeout: Seconds in which a connection must be made, at least 2 (libpq's least).
        clock: Returns seconds since the epoch. None goes by the server's clock, which all replicas
            agree on.

    Raises:
        ConfigError: if an argument is out of range.
        MissingExtraError: if psycopg is not installed.

    Example:
        >>> from costwise_core.memory.stores.postgres import PostgresConversations
        >>> store = PostgresConversations("postgresql://localhost/app", ttl=30 * 86_400)
        >>> store.close()
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "costwise",
        ttl: float | None = None,
        pool_size: int = 8,
        timeout: float = 2.0,
        connect_timeout: int = 2,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        check_ttl(ttl)
        check_link(
            conninfo,
            schema=schema,
            pool_size=pool_size,
            timeout=timeout,
            connect_timeout=connect_timeout,
            feature="PostgresConversations",
        )
        self._ttl = ttl
        self._timeout = timeout
        self._clock = clock
        new_link = functools.partial(
            PostgresLink,
            conninfo,
            schema=schema,
            prepare=functools.partial(prepare, schema, seconds=timeout, tables=TABLES),
            prepare_timeout=timeout,
            size=pool_size,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        self._links = PerProcess(new_link, PostgresLink.close)

    def close(self) -> None:
        """Close the connections; using the store again opens them again."""
        self._links.close()

    def _append(self, place: Place, rows: Sequence[Row]) -> Flow[int]:
        script = _append(place, rows, self._ttl, self._now())
        return self._patiently(script) if len(rows) > _FEW else self._done(script)

    def _bodies(self, place: Place, start: int, stop: int) -> Flow[Bodies]:
        return self._done(_bodies(place, start, stop, self._now()))

    def _kept_summary(self, place: Place) -> Flow[tuple[int, object]]:
        return self._done(_kept_summary(place, self._now()))

    def _swap(self, place: Place, body: bytes, folded: int, version: int) -> Flow[bool]:
        return self._done(_swap(place, body, folded, version, self._now()))

    def _page(self, which: Which, after: bytes) -> Flow[Page]:
        return self._done(_page(which, after, self._now()))

    def _delete(self, which: Which) -> Flow[int]:
        count, more = 0, True
        while more:
            deleted, more = yield from self._patiently(_delete(which, self._now()))
            count += deleted
        return count

    def _acquire(self, name: str, owner: str, seconds: float) -> Flow[bool]:
        return self._done(postgres_sharing.acquire(name, owner, seconds, self._now(), _LEASES))

    def _release(self, name: str, owner: str) -> Flow[None]:
        return self._done(postgres_sharing.release(name, owner, self._now(), _LEASES))

    def _done(self, script: Script[T]) -> Flow[T]:
        return (yield from call(self._links.get().run, script, seconds=self._timeout))

    def _patiently(self, script: Script[T]) -> Flow[T]:
        seconds = max(self._timeout, _PATIENCE)
        script = transaction(script, seconds=seconds)
        return (yield from call(self._links.get().run, script, seconds=seconds))

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()


def _append(place: Place, rows: Sequence[Row], ttl: float | None, now: float | None) -> Script[int]:
    if rows:
        found = yield sql(
            f"SELECT @memory_append(%s, %s, %s, {NOW}, %s::float8, %s, %s)",
            place.key,
            [place.tenant, place.owner],
            place.names,
            now,
            ttl,
            [row.key for row in rows],
            [row.body for row in rows],
        )
    else:
        found = yield sql(
            f"SELECT length FROM @memory_conversations WHERE key = %s AND {_LIVE}",  # noqa: S608
            place.key,
            now,
        )
    return int(found[0][0]) if found else 0


def _bodies(place: Place, start: int, stop: int, now: float | None) -> Script[Bodies]:
    rows = yield sql(
        "SELECT m.place, m.body FROM @memory_conversations c "  # noqa: S608
        f"JOIN @memory_messages m ON m.conversation = c.key WHERE c.key = %s AND {_LIVE} "
        f"AND m.place >= %s AND m.place < %s ORDER BY m.place LIMIT {_PAGE:d}",
        place.key,
        now,
        start,
        stop,
    )
    more = rows[-1][0] + 1 if len(rows) == _PAGE else None
    return Bodies([body for _, body in rows], more)


def _kept_summary(place: Place, now: float | None) -> Script[tuple[int, object]]:
    rows = yield sql(
        f"SELECT version, summary FROM @memory_conversations WHERE key = %s AND {_LIVE}",  # noqa: S608
        place.key,
        now,
    )
    version, body = rows[0] if rows else (0, None)
    return int(version), body


def _swap(place: Place, body: bytes, folded: int, version: int, now: float | None) -> Script[bool]:
    rows = yield sql(
        "UPDATE @memory_conversations SET summary = %s, version = version + 1 "  # noqa: S608
        f"WHERE key = %s AND version = %s AND length >= %s AND {_LIVE} RETURNING 1",
        body,
        place.key,
        version,
        folded,
        now,
    )
    return bool(rows)


def _page(which: Which, after: bytes, now: float | None) -> Script[Page]:
    condition, values = which.where()
    rows = yield sql(
        "SELECT key, names FROM @memory_conversations "  # noqa: S608
        f"WHERE {condition.replace('?', '%s')} AND {_LIVE} AND key > %s "
        f"ORDER BY key LIMIT {_PAGE:d}",
        *values,
        now,
        after,
    )
    return Page([(bytes(key), names) for key, names in rows], _last(rows, _PAGE))


def _delete(which: Which, now: float | None) -> Script[tuple[int, bool]]:
    """Delete some of them, and say how many were live and whether there may be more."""
    condition, values = which.where()
    rows = yield sql(
        "WITH chosen AS (SELECT key FROM @memory_conversations "  # noqa: S608
        f"WHERE {condition.replace('?', '%s')} ORDER BY key LIMIT {_DELETED:d} FOR UPDATE), "
        f"gone AS (DELETE FROM @memory_conversations c USING chosen WHERE c.key = chosen.key "
        f"RETURNING c.key, {_LIVE} AS live), "
        "freed AS (DELETE FROM @memory_leases l USING gone "
        "WHERE l.name = convert_to(encode(gone.key, 'hex'), 'UTF8')) "
        "SELECT count(*) FILTER (WHERE live), count(*) FROM gone",
        *values,
        now,
    )
    live, all_ = one(rows)
    return int(live), all_ == _DELETED


def _last(rows: Sequence[tuple[bytes, object]], page: int) -> bytes | None:
    return bytes(rows[-1][0]) if len(rows) == page else None
