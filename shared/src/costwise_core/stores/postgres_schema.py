"""The tables of a PostgreSQL store, and how they come to be, once, however many replicas start."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from costwise_core.errors import StoreUnavailableError, StoreVersionError
from costwise_core.stores.checks import MAX_ENTRY_BYTES, MAX_ROW_BYTES
from costwise_core.stores.postgres_link import Rows, Script, T, sql

__all__ = ["SCHEMA", "Tables", "one", "prepare", "transaction"]

_LOCK: Final = 0x636F737477697365
"""Held while tables are made, by whoever makes any in this database."""

SCHEMA: Final = (
    # Texts are bytea, because PostgreSQL's own cannot hold every Python string. A vector has its
    # embedder's width, so its column has none; it is kept beside the row (MAIN) as long as it fits
    # a page, because a search reads nothing else of most rows. Totals are kept by triggers, so
    # they are right whoever deletes. Leases are worth no write to disk: after a crash all are free.
    f"""
    CREATE TABLE @entries (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        scope bytea NOT NULL,
        key bytea NOT NULL,
        created float8 NOT NULL,
        expires float8,
        used float8 NOT NULL,
        uses bigint NOT NULL,
        worth float8 NOT NULL,
        rank float8 NOT NULL,
        bytes bigint NOT NULL,
        dim integer NOT NULL,
        vector vector,
        usage text NOT NULL,
        tags bytea[] NOT NULL,
        document_ids bytea[] NOT NULL,
        document_versions bytea[] NOT NULL,
        tenant bytea NOT NULL,
        model bytea NOT NULL,
        corpus bytea NOT NULL,
        embedder bytea NOT NULL,
        question bytea NOT NULL,
        answer bytea NOT NULL,
        plain bytea NOT NULL,
        answer_group bytea NOT NULL,
        CHECK (coalesce(vector_dims(vector), 0) = dim),
        CHECK (abs(vector_norm(vector) - 1) < 0.001),
        CHECK (cardinality(document_ids) = cardinality(document_versions)),
        CHECK (
            octet_length(question) + octet_length(answer) + octet_length(plain)
            + octet_length(usage) <= {MAX_ENTRY_BYTES:d}
        )
    );
    ALTER TABLE @entries ALTER vector SET STORAGE MAIN;
    CREATE UNIQUE INDEX ON @entries (scope, key);
    CREATE INDEX ON @entries (rank, id);
    CREATE INDEX ON @entries (created, id);
    CREATE INDEX ON @entries (expires) WHERE expires IS NOT NULL;
    CREATE INDEX ON @entries USING gin (document_ids);

    CREATE TABLE @totals (
        embedder bytea PRIMARY KEY,
        dim integer NOT NULL,
        entries bigint NOT NULL,
        bytes bigint NOT NULL
    );
    CREATE FUNCTION @count_added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO @totals AS t
            SELECT embedder, max(dim), count(*), sum(bytes) FROM added GROUP BY embedder
            ON CONFLICT (embedder) DO UPDATE SET
                entries = t.entries + excluded.entries, bytes = t.bytes + excluded.bytes;
        RETURN NULL;
    END $$;
    CREATE FUNCTION @count_gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE @totals t SET entries = t.entries - g.entries, bytes = t.bytes - g.bytes
            FROM (
                SELECT embedder, count(*) AS entries, sum(bytes) AS bytes
                FROM gone GROUP BY embedder
            ) g WHERE t.embedder = g.embedder;
        DELETE FROM @totals WHERE entries <= 0;
        RETURN NULL;
    END $$;
    CREATE FUNCTION @count_none() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM @totals;
        RETURN NULL;
    END $$;
    CREATE TRIGGER added AFTER INSERT ON @entries REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION @count_added();
    CREATE TRIGGER gone AFTER DELETE ON @entries REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION @count_gone();
    CREATE TRIGGER emptied AFTER TRUNCATE ON @entries
        FOR EACH STATEMENT EXECUTE FUNCTION @count_none();

    CREATE TABLE @journals (name bytea PRIMARY KEY, newest bigint NOT NULL);
    CREATE TABLE @journal (
        name bytea NOT NULL,
        number bigint NOT NULL,
        content bytea NOT NULL CHECK (octet_length(content) <= {MAX_ROW_BYTES:d}),
        PRIMARY KEY (name, number)
    );
    CREATE UNLOGGED TABLE @leases (
        name bytea PRIMARY KEY,
        owner bytea NOT NULL,
        expires float8 NOT NULL
    )
    """,  # noqa: S608
)


class Tables(NamedTuple):
    """Tables that are made and brought up to date together.

    Attributes:
        version: The table that has their version.
        known_by: One of them, by which they are found.
        scripts: Of which the n-th brings them from version n - 1 to version n.
        vectors: Whether they need pgvector.
    """

    version: str
    known_by: str
    scripts: Sequence[str]
    vectors: bool = False


def transaction(script: Script[T], *, seconds: float) -> Script[T]:
    """Run a script in one transaction, each of whose statements may take so long."""
    yield sql(f"BEGIN; SET LOCAL statement_timeout = {int(seconds * 1000):d}")
    result = yield from script
    yield sql("COMMIT")
    return result


def prepare(schema: str, *, seconds: float, tables: Tables | None = None) -> Script[None]:
    """Make tables, those of `PostgresStore` by default, or update them, if there is need.

    Raises:
        StoreVersionError: if they are a newer costwise's or somebody else's.
        StoreUnavailableError: if they cannot be made.
    """
    tables = tables or Tables("costwise", "entries", SCHEMA, vectors=True)
    if (yield from _version(schema, tables)) < len(tables.scripts):
        yield from transaction(_upgrade(schema, tables), seconds=seconds)


def _upgrade(schema: str, tables: Tables) -> Script[None]:
    yield sql("SELECT pg_advisory_xact_lock(%s)", _LOCK)
    # Another replica may have been faster while this one waited for the lock.
    version = yield from _version(schema, tables)
    if version == 0:
        yield from _make_room(schema, tables)
    for number in range(version, len(tables.scripts)):
        yield sql(tables.scripts[number])
    yield sql(f"UPDATE @{tables.version} SET version = {len(tables.scripts):d}")  # noqa: S608


def _version(schema: str, tables: Tables) -> Script[int]:
    """Return the version of the tables, 0 if there are none; refuse any that are not ours."""
    # A look into the catalogue itself: to_regclass may still know what was so before the lock.
    found = yield sql(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE nspname = %s AND relname IN (%s, %s)",
        schema,
        tables.version,
        tables.known_by,
    )
    ours, others = (tables.version,) in found, (tables.known_by,) in found
    if not ours and not others:
        return 0
    rows = (yield sql(f"SELECT version FROM @{tables.version}")) if ours else []  # noqa: S608
    if len(rows) != 1 or not isinstance(rows[0][0], int):
        raise StoreVersionError(
            f"the schema {schema!r} has tables that were not written by this kind of store. "
            "Nothing in it was changed; give the store a schema of its own."
        )
    version: int = rows[0][0]
    if version > len(tables.scripts):
        raise StoreVersionError(
            f"the schema {schema!r} has version {version}, written by a newer costwise; this one "
            f"reads up to version {len(tables.scripts)}. Upgrade costwise or choose another schema."
        )
    return version


def _make_room(schema: str, tables: Tables) -> Script[None]:
    """Make the schema, the extension and the table of the version, as far as they are missing."""
    found = yield sql(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s), "
        "EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'), "
        "EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')",
        schema,
    )
    has_schema, has_vector, may_have_vector = one(found)
    if tables.vectors and not (has_vector or may_have_vector):
        raise StoreUnavailableError(
            "this PostgreSQL server has no pgvector, which the store needs. "
            "Install the package of its version (such as postgresql-18-pgvector)."
        )
    if tables.vectors and not has_vector:
        yield sql("CREATE EXTENSION vector")
    if not has_schema:
        yield sql(f'CREATE SCHEMA "{schema}"')
    yield sql(f"CREATE TABLE @{tables.version} (version integer NOT NULL)")
    yield sql(f"INSERT INTO @{tables.version} VALUES (0)")  # noqa: S608


def one(rows: Rows) -> tuple[Any, ...]:
    """Return the only row."""
    (row,) = rows
    return row
