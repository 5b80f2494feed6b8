"""How a ledger lies in a SQLite file, and how a file of an earlier version is brought up to date.

Money is in whole 10^-12 dollars. Texts are UTF-8 blobs, because SQLite's own text cannot hold every
Python string. A record is read back from `usage`, `savings` and `tags`; the other columns hold what
is summed, so that a report over a million rows parses nothing it need not.
"""

from typing import Final

__all__ = ["APPLICATION_ID", "SCHEMA", "SERIES_TAGS"]

APPLICATION_ID: Final = 0x4357534C

SERIES_TAGS: Final = ("feature", "team", "user", "tenant", "endpoint", "arm")
"""Tags that calls are grouped by. A conversation or a request has too few calls to be a group."""

_FIRST: Final = """
    CREATE TABLE calls (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        at REAL NOT NULL,
        operation BLOB NOT NULL,
        model BLOB NOT NULL,
        usd INTEGER,
        usage TEXT NOT NULL,
        savings TEXT NOT NULL,
        tags TEXT NOT NULL,
        overhead INTEGER NOT NULL,
        tier TEXT NOT NULL,
        seconds REAL NOT NULL,
        why BLOB NOT NULL
    );;
    CREATE INDEX calls_at ON calls (at);;
    CREATE TABLE tags (
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (name, value, seq)
    ) WITHOUT ROWID
"""

# Calls of one kind (same model, feature, user, ...) share a row of `series`, and a sum over it is a
# sum over small whole numbers. What an old file holds is summed up once, here; a row that cannot be
# read counts as nothing, as it does everywhere.
_EACH_SAVING: Final = "json_each(CASE WHEN json_valid(savings) THEN savings ELSE '[]' END) AS one"
_MOST: Final = 10**18  # in one saving, so that the sum stays within 64 bits
_SAVED: Final = "json_extract(savings, one.fullkey || '[1]')"
_TAG_VALUES: Final = ",\n".join(
    f"max(CASE WHEN name = CAST('{tag}' AS BLOB) THEN value END) AS {tag}" for tag in SERIES_TAGS
)
_TAG_COLUMNS: Final = ", ".join(f"{tag} BLOB NOT NULL DEFAULT x''" for tag in SERIES_TAGS)
_KEY: Final = f"operation, model, overhead, tier, {', '.join(SERIES_TAGS)}"
_VALUES: Final = "operation, model, overhead, CAST(tier AS TEXT), " + ", ".join(
    f"coalesce(wide.{tag}, x'')" for tag in SERIES_TAGS
)
_SAME: Final = " AND ".join(
    [
        *(f"series.{name} = calls.{name}" for name in ("operation", "model", "overhead", "tier")),
        *(f"series.{tag} = coalesce(wide.{tag}, x'')" for tag in SERIES_TAGS),
    ]
)
_SECOND: Final = f"""
    ALTER TABLE calls ADD COLUMN prompt_hash BLOB NOT NULL DEFAULT x'';;
    ALTER TABLE calls ADD COLUMN prefix_hash BLOB NOT NULL DEFAULT x'';;
    ALTER TABLE calls ADD COLUMN series INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN cache_read_tokens INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN saved INTEGER NOT NULL DEFAULT 0;;
    ALTER TABLE calls ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;;
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        operation BLOB NOT NULL,
        model BLOB NOT NULL,
        overhead INTEGER NOT NULL,
        tier TEXT NOT NULL,
        {_TAG_COLUMNS},
        UNIQUE ({_KEY})
    );;
    CREATE TEMP TABLE wide (seq INTEGER PRIMARY KEY, {", ".join(SERIES_TAGS)});;
    INSERT INTO wide SELECT seq, {_TAG_VALUES} FROM tags GROUP BY seq;;
    INSERT OR IGNORE INTO series ({_KEY})
        SELECT DISTINCT {_VALUES} FROM calls LEFT JOIN wide USING (seq);;
    UPDATE calls SET series = coalesce((
        SELECT series.id FROM (SELECT calls.seq AS seq) AS this LEFT JOIN wide USING (seq)
        JOIN series ON {_SAME}
    ), 0);;
    DROP TABLE wide;;
    UPDATE calls SET
        input_tokens = coalesce(json_extract(usage, '$.input_tokens'), 0),
        output_tokens = coalesce(json_extract(usage, '$.output_tokens'), 0),
        cache_read_tokens = coalesce(json_extract(usage, '$.cache_read_tokens'), 0),
        cache_write_tokens = coalesce(json_extract(usage, '$.cache_write_tokens'), 0),
        estimated = coalesce(json_extract(usage, '$.estimated'), 0)
    WHERE json_valid(usage);;
    UPDATE calls SET
        saved = coalesce((
            SELECT sum({_SAVED}) FROM {_EACH_SAVING}
            WHERE typeof({_SAVED}) = 'integer' AND abs({_SAVED}) < {_MOST}
        ), 0),
        unpriced = usd IS NULL OR EXISTS (SELECT 1 FROM {_EACH_SAVING} WHERE {_SAVED} IS NULL)
    WHERE savings <> '[]' OR usd IS NULL;;
    CREATE TABLE savings (
        stage BLOB NOT NULL,
        kind TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at REAL NOT NULL,
        usd INTEGER,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (stage, kind, seq)
    ) WITHOUT ROWID;;
    INSERT INTO savings
        SELECT
            CAST(json_extract(savings, one.fullkey || '[0]') AS BLOB),
            json_extract(savings, one.fullkey || '[3]'),
            seq,
            at,
            sum({_SAVED}),
            sum(json_extract(savings, one.fullkey || '[2]'))
        FROM calls, {_EACH_SAVING}
        WHERE typeof(json_extract(savings, one.fullkey || '[0]')) = 'text'
            AND json_extract(savings, one.fullkey || '[3]') IN ('measured', 'modelled', 'sampled')
            AND typeof(json_extract(savings, one.fullkey || '[2]')) = 'integer'
            AND coalesce(abs({_SAVED}), 0) < {_MOST}
            AND typeof(at) = 'real'
        GROUP BY 1, 2, 3
"""  # noqa: S608 - every name in it is written above

# A report sums up a million rows along these without sorting them or reading the rows themselves.
_THIRD: Final = """
    CREATE INDEX calls_series ON calls (
        series, at, usd, saved, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
        unpriced, estimated, seconds
    );;
    CREATE INDEX calls_prompt ON calls (prompt_hash, overhead, tier, at, usd)
        WHERE prompt_hash <> x''
"""

SCHEMA: Final = (_FIRST, _SECOND, _THIRD)
"""Scripts, of which the n-th brings a file of version n - 1 to version n."""
