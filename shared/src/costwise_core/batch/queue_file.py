"""The state of a batch queue in one SQLite file: what was asked, where it is, how it ended."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from costwise_core.batch.asking import BatchAnswer, Outcome
from costwise_core.batch.queue_rows import (
    APPLICATION_ID,
    BATCH_COLUMNS,
    ITEM_COLUMNS,
    SCHEMA,
    Batch,
    Counts,
    Item,
    batch_of,
    item_of,
)
from costwise_core.stores.sqlite_file import SQLiteFile

__all__ = ["QueueFile"]

_MAX_VALUE_BYTES: Final = 300_000_000
_PAGE: Final = 500


class QueueFile:
    """Reads and writes the state. Every method is one transaction.

    Args:
        path: The file; made with mode 0600.
        provider: Whose requests are meant.
        busy_timeout: Seconds to wait for another process's lock.
    """

    def __init__(self, path: Path, provider: str, *, busy_timeout: float) -> None:
        self._provider = provider
        self._file = SQLiteFile(
            path,
            application_id=APPLICATION_ID,
            schema=SCHEMA,
            busy_timeout=busy_timeout,
            max_value_bytes=_MAX_VALUE_BYTES,
        )

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    # --- requests come in -----------------------------------------------------------------------

    def add(self, items: Sequence[Item], origins: Sequence[str], models: Sequence[str]) -> None:
        """Add requests, all or none. One that is there already stays; if it failed, it begins anew.

        An item without a batch to be in is to be asked in real time: its `place` is -1.
        """
        with self._file.writing() as db:
            db.executemany(
                "INSERT INTO items (id, provider, endpoint, model, body, origin, at, due, state, "
                "direct) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?) "
                "ON CONFLICT (id) DO UPDATE SET due = excluded.due, tries = 0, ready = 0, "
                "direct = excluded.direct, at = excluded.at, state = 'waiting', error = '' "
                "WHERE state = 'failed'",
                [
                    (
                        one.id,
                        self._provider,
                        one.endpoint,
                        model.encode("utf-8", "surrogatepass"),
                        one.body,
                        origin,
                        one.at,
                        one.due,
                        one.place < 0,
                    )
                    for one, model, origin in zip(items, models, origins, strict=True)
                ],
            )

    # --- into batches ---------------------------------------------------------------------------

    def make_batch(
        self, token: str, now: float, *, most: int, most_bytes: int
    ) -> tuple[Batch, list[Item]] | None:
        """Put what waits and belongs together into a new batch, or return None if nothing waits.

        One batch is of one endpoint, one model and one time at which it is due.
        """
        mine = "provider = ? AND state = 'waiting' AND direct = 0 AND ready <= ?"
        with self._file.writing() as db:
            first = db.execute(
                f"SELECT endpoint, model, due FROM items WHERE {mine} ORDER BY seq LIMIT 1",  # noqa: S608
                (self._provider, now),
            ).fetchone()
            if first is None:
                return None
            endpoint, model, due = first[0].decode(), first[1], first[2]
            sizes = db.execute(
                f"SELECT seq, length(body) FROM items WHERE {mine} "  # noqa: S608
                "AND endpoint = ? AND model = ? AND due IS ? ORDER BY seq LIMIT ?",
                (self._provider, now, endpoint, model, due, most),
            )
            chosen = list(_fitting(sizes, most_bytes))
            db.execute(
                "INSERT INTO batches (token, provider, state, size, due, at) "
                "VALUES (?, ?, 'submitting', ?, ?, ?)",
                (token, self._provider, len(chosen), due, now),
            )
            db.executemany(
                "UPDATE items SET state = 'sent', tries = tries + 1, batch = ?, place = ?, "
                "processing = 'batch' WHERE seq = ?",
                [(token, place, seq) for place, seq in enumerate(chosen)],
            )
            rows = db.execute(
                f"SELECT {ITEM_COLUMNS} FROM items WHERE batch = ? ORDER BY place",  # noqa: S608
                (token,),
            )
            batch = Batch(
                token=token, remote="", size=len(chosen), due=due, at=now, cancelled=False
            )
            return batch, [item_of(row) for row in rows]

    def note_submitted(self, token: str, remote: str) -> bool:
        """Write down the provider's id of a batch; False if the batch was given up meanwhile."""
        with self._file.writing() as db:
            changed = db.execute(
                "UPDATE batches SET remote = ?, state = 'running' "
                "WHERE token = ? AND state = 'submitting'",
                (remote, token),
            ).rowcount
            state = db.execute("SELECT state FROM batches WHERE token = ?", (token,)).fetchone()
            return changed > 0 or (state is not None and state[0] != b"lost")

    def give_up(self, token: str, *, ready: float, error: str = "") -> None:
        """Put the requests of a batch that was not taken back, or end them with an error."""
        with self._file.writing() as db:
            db.execute("UPDATE batches SET state = 'lost' WHERE token = ?", (token,))
            if error:
                db.execute(
                    "UPDATE items SET state = 'failed', error = ? "
                    "WHERE batch = ? AND state = 'sent'",
                    (error, token),
                )
            else:
                db.execute(
                    "UPDATE items SET state = 'waiting', tries = tries - 1, ready = ?, "
                    "batch = NULL WHERE batch = ? AND state = 'sent'",
                    (ready, token),
                )

    # --- batches under way ----------------------------------------------------------------------

    def batches(self, state: str) -> list[Batch]:
        """Return the batches that are "submitting" or "running", oldest first."""
        with self._file.reading() as db:
            rows = db.execute(
                f"SELECT {BATCH_COLUMNS} FROM batches "  # noqa: S608
                "WHERE provider = ? AND state = ? ORDER BY at",
                (self._provider, state),
            ).fetchall()
        return [batch_of(row) for row in rows]

    def remotes(self) -> set[str]:
        """Return the provider's ids of all batches that are known."""
        with self._file.reading() as db:
            rows = db.execute("SELECT remote FROM batches WHERE remote != ''").fetchall()
        return {row[0].decode() for row in rows}

    def note_cancelled(self, token: str) -> None:
        """Write down that the provider was asked to cancel a batch."""
        with self._file.writing() as db:
            db.execute("UPDATE batches SET cancelled = 1 WHERE token = ?", (token,))

    def end_batch(self, token: str) -> None:
        """Write down that everything a batch had was taken in."""
        with self._file.writing() as db:
            db.execute("UPDATE batches SET state = 'ended' WHERE token = ?", (token,))

    def in_batch(self, token: str) -> list[tuple[int, int]]:
        """Return place and tries of each request that still waits for this batch."""
        with self._file.reading() as db:
            return db.execute(
                "SELECT place, tries FROM items WHERE batch = ? AND state = 'sent'", (token,)
            ).fetchall()

    # --- answers --------------------------------------------------------------------------------

    def answered(self, token: str, outcomes: Iterable[tuple[int, Outcome]]) -> list[Outcome]:
        """Keep answers by their places in a batch; return those that came too late to be used.

        A request that is being asked in real time meanwhile takes the batch's answer too.
        """
        late = []
        with self._file.writing() as db:
            for place, outcome in outcomes:
                changed = db.execute(
                    "UPDATE items SET state = 'done', answer = ?, error = '', processing = 'batch' "
                    "WHERE batch = ? AND place = ? AND state IN ('sent', 'waiting', 'asking')",
                    (_dumped(outcome), token, place),
                )
                if changed.rowcount:
                    continue
                row = db.execute(
                    "SELECT processing FROM items WHERE batch = ? AND place = ? AND state = 'done'",
                    (token, place),
                ).fetchone()
                if row is not None and row[0] == b"standard":
                    late.append(replace(outcome, custom_id=f"{token}-{place}"))
        return late

    def again(
        self, token: str, places: Collection[int], *, ready: float, direct: bool, error: str
    ) -> None:
        """Let requests of a batch wait once more, for another batch or for real time."""
        self._move(
            token, places, "state = 'waiting', ready = ?, direct = ?, error = ?",
            (ready, direct, error),
        )  # fmt: skip

    def failed(self, token: str, places: Collection[int], *, error: str) -> None:
        """End requests of a batch with an error."""
        self._move(token, places, "state = 'failed', error = ?", (error,))

    def _move(self, token: str, places: Collection[int], change: str, values: Any) -> None:
        with self._file.writing() as db:
            db.executemany(
                f"UPDATE items SET {change} WHERE batch = ? AND place = ? AND state = 'sent'",  # noqa: S608
                [(*values, token, place) for place in places],
            )

    # --- real time ------------------------------------------------------------------------------

    def hurry(self, now: float, *, before_due: float, waited: float, direct: bool) -> int:
        """Send what can no longer wait for a batch to real time, and return how many that were.

        Args:
            now: Seconds since the epoch.
            before_due: How many seconds before they are due.
            waited: Or after how many seconds in the queue.
            direct: False to end them with an error instead.
        """
        change = (
            "state = 'waiting', direct = 1, ready = 0"
            if direct
            else "state = 'failed', error = 'no batch answered in time'"
        )
        with self._file.writing() as db:
            return db.execute(
                f"UPDATE items SET {change} WHERE provider = ? AND direct = 0 "  # noqa: S608
                "AND state IN ('waiting', 'sent') AND (due <= ? OR at <= ?)",
                (self._provider, now + before_due, now - waited),
            ).rowcount

    def claim_direct(self, now: float, *, most: int, lease: float) -> list[Item]:
        """Take requests to ask in real time; they come back if nobody says how it went."""
        with self._file.writing() as db:
            db.execute(
                "UPDATE items SET state = 'waiting' "
                "WHERE provider = ? AND state = 'asking' AND claimed <= ?",
                (self._provider, now - lease),
            )
            rows = db.execute(
                f"SELECT {ITEM_COLUMNS} FROM items WHERE provider = ? AND state = 'waiting' "  # noqa: S608
                "AND direct = 1 AND ready <= ? ORDER BY due IS NULL, due, seq LIMIT ?",
                (self._provider, now, most),
            ).fetchall()
            items = [item_of(row) for row in rows]
            db.executemany(
                "UPDATE items SET state = 'asking', tries = tries + 1, claimed = ? WHERE id = ?",
                [(now, one.id) for one in items],
            )
        return [replace(one, tries=one.tries + 1) for one in items]

    def settle(self, ident: str, outcome: Outcome, *, again_at: float | None) -> None:
        """Write down how asking in real time went; with `again_at` it is to be asked again."""
        if outcome.ending == "answered":
            change: str = "state = 'done', answer = ?, error = '', processing = 'standard'"
            values: tuple[object, ...] = (_dumped(outcome),)
        elif again_at is not None:
            change, values = "state = 'waiting', ready = ?, error = ?", (again_at, outcome.error)
        else:
            change, values = "state = 'failed', error = ?", (outcome.error,)
        with self._file.writing() as db:
            db.execute(
                f"UPDATE items SET {change} WHERE id = ? AND state = 'asking'",  # noqa: S608
                (*values, ident),
            )

    # --- what became of them --------------------------------------------------------------------

    def ended(self, ids: Collection[str]) -> Iterator[BatchAnswer]:
        """Yield the answers of those requests that have ended, reading as it goes."""
        wanted = list(ids)
        for start in range(0, len(wanted), _PAGE):
            page = wanted[start : start + _PAGE]
            with self._file.reading() as db:
                rows = db.execute(
                    "SELECT id, answer, error, processing, tries FROM items "  # noqa: S608
                    "WHERE state IN ('done', 'failed') "
                    f"AND id IN ({', '.join('?' * len(page))})",
                    page,
                ).fetchall()
            for ident, answer, error, processing, tries in rows:
                body = _loaded(answer) if answer is not None else None
                damaged = answer is not None and body is None
                yield BatchAnswer(
                    id=ident.decode(),
                    body=body,
                    error="the stored answer is damaged" if damaged else _text(error),
                    processing=_text(processing),
                    tries=tries,
                )

    def unrecorded(self) -> list[tuple[str, str, bytes, str, str, dict[str, Any] | None]]:
        """Return id, endpoint, body, origin, processing and answer of answers on no bill yet."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT id, endpoint, body, origin, processing, answer FROM items "
                "WHERE recorded = 0 AND state = 'done' AND provider = ? LIMIT ?",
                (self._provider, _PAGE),
            ).fetchall()
        return [
            (_text(ident), _text(endpoint), body, _text(origin), _text(how), _loaded(answer))
            for ident, endpoint, body, origin, how, answer in rows
        ]

    def note_recorded(self, ids: Sequence[str]) -> None:
        """Write down that these are on a bill."""
        with self._file.writing() as db:
            db.executemany("UPDATE items SET recorded = 1 WHERE id = ?", [(one,) for one in ids])

    def ids(self) -> list[str]:
        """Return the ids of all requests, in the order they came in."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT id FROM items WHERE provider = ? ORDER BY seq", (self._provider,)
            ).fetchall()
        return [row[0].decode() for row in rows]

    def counts(self) -> Counts:
        """Count the requests by where they are."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT state, count(*) FROM items WHERE provider = ? GROUP BY state",
                (self._provider,),
            ).fetchall()
        found = {state.decode(): count for state, count in rows}
        return Counts(
            waiting=found.get("waiting", 0),
            sent=found.get("sent", 0) + found.get("asking", 0),
            done=found.get("done", 0),
            failed=found.get("failed", 0),
        )

    def forget(self, ids: Collection[str]) -> int:
        """Delete requests that have ended, and return how many there were."""
        with self._file.writing() as db:
            return sum(
                db.execute(
                    "DELETE FROM items WHERE id = ? AND state IN ('done', 'failed')", (one,)
                ).rowcount
                for one in ids
            )


def _fitting(rows: sqlite3.Cursor, most_bytes: int) -> Iterator[int]:
    used = 0
    for seq, size in rows:
        used += size + _AROUND
        if used > most_bytes and used > size + _AROUND:
            return
        yield seq


_AROUND: Final = 250
"""Bytes that are put around each request, at most."""


def _dumped(outcome: Outcome) -> bytes:
    return json.dumps(outcome.body).encode()


def _loaded(answer: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
