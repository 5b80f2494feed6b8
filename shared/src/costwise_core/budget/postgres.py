"""Budgets in PostgreSQL, for any number of processes and machines."""

import functools
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Final

from costwise_core.budget.moves import Balance, Moved, Refusal, digest
from costwise_core.budget.server import ServerBudgets
from costwise_core.budget.together import Answer, Ask
from costwise_core.drive import Flow, call
from costwise_core.stores.per_process import PerProcess
from costwise_core.stores.postgres_link import PostgresLink, Rows, Script, T, check_link, sql
from costwise_core.stores.postgres_schema import Tables, one, prepare

__all__ = ["TABLES", "PostgresBudgets"]

_CONNECTIONS: Final = 4  # moves take one, as one is made at a time

TABLES: Final = Tables(
    "budget_version",
    "budget_accounts",
    (
        # `held` is the sum of the account's holds, expired or not, so that no move reads them all.
        """
    CREATE TABLE @budget_accounts (
        account bytea PRIMARY KEY,
        spent numeric NOT NULL DEFAULT 0,
        held numeric NOT NULL DEFAULT 0,
        ends float8 NOT NULL
    );
    CREATE INDEX ON @budget_accounts (ends);
    CREATE TABLE @budget_holds (
        account bytea NOT NULL,
        reservation bytea NOT NULL,
        amount numeric NOT NULL,
        expires float8 NOT NULL,
        PRIMARY KEY (account, reservation)
    );
    CREATE INDEX ON @budget_holds (account, expires);
    CREATE TABLE @budget_operations (operation bytea PRIMARY KEY, until float8 NOT NULL);
    CREATE INDEX ON @budget_operations (until);

    CREATE FUNCTION @budget_expired(account bytea, at float8) RETURNS numeric LANGUAGE sql AS $$
        SELECT coalesce(sum(h.amount), 0) FROM @budget_holds h
        WHERE h.account = $1 AND h.expires <= $2
    $$;

    CREATE FUNCTION @budget_move(
        who bytea, what bytea, at float8, til float8, accounts bytea[], limits numeric[],
        holding numeric[], spending numeric[]
    ) RETURNS TABLE (outcome text, place bigint, spent numeric, held numeric)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        this record;
        gone numeric;
        own numeric;
        own_til float8;
        repeated boolean;
    BEGIN
        repeated := EXISTS (
            SELECT FROM @budget_operations WHERE operation = what AND until > at
        );
        IF NOT repeated THEN
            RETURN QUERY
                SELECT 'full', m.place, a.spent, a.held - @budget_expired(a.account, at)
                FROM unnest(accounts, limits, holding, spending)
                    WITH ORDINALITY AS m (account, most, hold, spend, place)
                JOIN @budget_accounts a USING (account)
                WHERE m.hold > 0 AND m.hold + m.spend
                    > m.most - a.spent - a.held + @budget_expired(a.account, at);
            IF FOUND THEN
                RETURN;
            END IF;
            -- Another may have taken the name with moves on other accounts, or none.
            INSERT INTO @budget_operations VALUES (what, til)
                ON CONFLICT (operation) DO UPDATE SET until = excluded.until
                WHERE @budget_operations.until <= at;
            repeated := NOT FOUND;
        END IF;
        IF NOT repeated THEN
            DELETE FROM @budget_operations WHERE operation IN (
                SELECT operation FROM @budget_operations WHERE until <= at AND operation <> what
                ORDER BY until LIMIT 8 FOR UPDATE SKIP LOCKED
            );
            FOR this IN
                SELECT * FROM unnest(accounts, holding, spending) AS m (account, hold, spend)
            LOOP
                WITH taken AS (
                    DELETE FROM @budget_holds
                        WHERE account = this.account AND expires <= at RETURNING amount
                )
                SELECT coalesce(sum(amount), 0) INTO gone FROM taken;
                DELETE FROM @budget_holds WHERE account = this.account AND reservation = who
                    RETURNING amount, expires INTO own, own_til;
                own := coalesce(own, 0);
                gone := gone + own;
                own := greatest(0, own + this.hold);
                IF own > 0 THEN
                    INSERT INTO @budget_holds
                        VALUES (this.account, who, own, greatest(own_til, til));
                END IF;
                UPDATE @budget_accounts SET
                    spent = spent + this.spend, held = held - gone + own
                    WHERE account = this.account;
            END LOOP;
        END IF;
        RETURN QUERY
            SELECT CASE WHEN repeated THEN 'repeated' ELSE 'made' END,
                m.place, a.spent, a.held - @budget_expired(a.account, at)
            FROM (SELECT) AS always
            LEFT JOIN unnest(accounts) WITH ORDINALITY AS m (account, place) ON true
            LEFT JOIN @budget_accounts a USING (account);
    END $$;

    -- A function, so that its locks are held for as long as the server works and no longer: not
    -- while a client waits for the network, or is dead. Accounts are locked in the order of their
    -- keys and names of operations taken in theirs, so no two wait for each other in a circle.
    -- Move n is that of the accounts from number starts[n] + 1 to starts[n + 1].
    CREATE FUNCTION @budget_moves(
        who bytea[], what bytea[], at float8[], til float8[], starts integer[], accounts bytea[],
        limits numeric[], ending float8[], holding numeric[], spending numeric[]
    ) RETURNS TABLE (number integer, outcome text, place bigint, spent numeric, held numeric)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        a integer;
        z integer;
    BEGIN
        INSERT INTO @budget_accounts (account, ends)
            SELECT DISTINCT ON (account) account, ends
            FROM unnest(accounts, ending) AS m (account, ends) ORDER BY account
            ON CONFLICT (account) DO UPDATE SET ends = excluded.ends;
        FOR n IN 1 .. array_length(who, 1) LOOP
            a := starts[n] + 1;
            z := starts[n + 1];
            RETURN QUERY SELECT n, m.* FROM @budget_move(
                who[n], what[n], at[n], til[n],
                accounts[a:z], limits[a:z], holding[a:z], spending[a:z]
            ) AS m;
        END LOOP;
    END $$
    """,
    ),
)


class PostgresBudgets(ServerBudgets):
    """Keeps what budgets have spent and hold in tables of one schema.

    The constructor connects to nothing; the first use makes the schema and its tables if they are
    missing and the role may make them. `move` is one statement in a transaction of its own and
    returns once that is committed, which with PostgreSQL's default settings no crash of either side
    can undo. A server that is gone or frozen costs a caller the timeouts below and no more.

    Every method has an asynchronous twin with an "a" in front, on psycopg's own asynchronous
    connections.

    Args:
        conninfo: A connection string or URI, as libpq reads it. Behind PgBouncer its server needs
            `ignore_startup_parameters = options`.
        schema: Name of the schema; stores in different schemas share nothing. It may be that of a
            `PostgresStore`.
        timeout: Seconds a move may take, waiting for others included.
        connect_timeout: Seconds in which a connection must be made, at least 2 (libpq's least).

    Raises:
        ConfigError: if an argument is out of range.
        MissingExtraError: if psycopg is not installed.

    Example:
        >>> from costwise_core.budget.postgres import PostgresBudgets
        >>> store = PostgresBudgets("postgresql://localhost/app", schema="money", timeout=1.0)
        >>> store.close()
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "costwise",
        timeout: float = 5.0,
        connect_timeout: int = 2,
    ) -> None:
        super().__init__()
        check_link(
            conninfo,
            schema=schema,
            pool_size=_CONNECTIONS,
            timeout=timeout,
            connect_timeout=connect_timeout,
            feature="PostgresBudgets",
        )
        self._timeout = timeout
        new_link = functools.partial(
            PostgresLink,
            conninfo,
            schema=schema,
            prepare=functools.partial(prepare, schema, seconds=timeout, tables=TABLES),
            prepare_timeout=timeout,
            size=_CONNECTIONS,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        self._links = PerProcess(new_link, PostgresLink.close)

    def _moves(self, asks: Sequence[Ask]) -> Flow[list[Answer]]:
        return self._done(_moves(asks))

    def _balances(self, accounts: Sequence[str], now: float) -> Flow[list[Balance]]:
        return self._done(_balances(accounts, now))

    def _forget(self, ended_before: float) -> Flow[int]:
        return self._done(_forget(ended_before))

    def _done(self, script: Script[T]) -> Flow[T]:
        return (yield from call(self._links.get().run, script, seconds=self._timeout))

    def close(self) -> None:
        """Close the connections; using the store again opens them again."""
        self._links.close()


def _moves(asks: Sequence[Ask]) -> Script[list[Answer]]:
    order = sorted(range(len(asks)), key=lambda number: _name(asks[number]))
    made = [asks[number] for number in order]
    moves = [move for ask in made for move in ask.moves]
    rows = yield sql(
        "SELECT * FROM @budget_moves(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        _bytes(digest(ask.reservation) for ask in made),
        _bytes(map(_name, made)),
        _array(ask.now for ask in made),
        _array(ask.expires for ask in made),
        _array(accumulate((len(ask.moves) for ask in made), initial=0)),
        _bytes(digest(move.account) for move in moves),
        _array(move.limit for move in moves),
        _array(move.ends for move in moves),
        _array(move.hold for move in moves),
        _array(move.spend for move in moves),
    )
    answers = {
        order[number - 1]: _answer(made[number - 1], [row[1:] for row in found])
        for number, found in groupby(rows, key=itemgetter(0))
    }
    return [answers[number] for number in range(len(asks))]


def _array(items: Iterable[object]) -> str:
    """Write an array as PostgreSQL reads it, which costs a tenth of what psycopg takes."""
    return f"{{{','.join(map(str, items))}}}"


def _bytes(keys: Iterable[bytes]) -> str:
    return _array(rf'"\\x{key.hex()}"' for key in keys)


def _name(ask: Ask) -> bytes:
    return digest(ask.reservation, ask.operation)


def _answer(ask: Ask, rows: Rows) -> Moved | Refusal:
    outcome = rows[0][0]
    found = {
        place - 1: Balance(spent=int(spent), held=int(held))
        for _, place, spent, held in rows
        if place
    }
    if outcome == "full":
        first = min(found)
        move = ask.moves[first]
        left = move.limit - found[first].spent - found[first].held
        return Refusal(account=move.account, left=max(0, left))
    balances = tuple(found[number] for number in range(len(ask.moves)))
    return Moved(balances=balances, repeated=outcome == "repeated")


def _balances(accounts: Sequence[str], now: float) -> Script[list[Balance]]:
    rows = yield sql(
        "SELECT coalesce(a.spent, 0), coalesce(a.held - @budget_expired(a.account, %s), 0) "
        "FROM unnest(%s::bytea[]) WITH ORDINALITY AS m (account, place) "
        "LEFT JOIN @budget_accounts a USING (account) ORDER BY place",
        now,
        [digest(account) for account in accounts],
    )
    return [Balance(spent=int(spent), held=int(held)) for spent, held in rows]


def _forget(ended_before: float) -> Script[int]:
    rows = yield sql(
        "WITH old AS (SELECT account FROM @budget_accounts WHERE ends <= %s "
        "ORDER BY account FOR UPDATE), "
        "holds AS (DELETE FROM @budget_holds h USING old WHERE h.account = old.account), "
        "gone AS (DELETE FROM @budget_accounts a USING old WHERE a.account = old.account "
        "RETURNING 1) SELECT count(*) FROM gone",
        ended_before,
    )
    return int(one(rows)[0])
