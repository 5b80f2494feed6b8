"""What lies in a batch queue's file: its tables, and the values that are read from them."""

from dataclasses import dataclass
from typing import Any, Final

from costwise_core.batch.asking import Sent

__all__ = [
    "APPLICATION_ID",
    "BATCH_COLUMNS",
    "ITEM_COLUMNS",
    "SCHEMA",
    "Batch",
    "Counts",
    "Item",
    "batch_of",
    "item_of",
]

APPLICATION_ID: Final = 0x43575142
# An item is "waiting" (`direct`: to be asked in real time), "sent" in a batch, "asking" in real
# time, "done" or "failed". A batch is "submitting" until its remote id is noted, then "running",
# "ended" or, if it was never taken, "lost".
SCHEMA: Final = (
    """
    CREATE TABLE items (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        provider TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        model BLOB NOT NULL,
        body BLOB NOT NULL,
        origin TEXT NOT NULL,
        at REAL NOT NULL,
        due REAL,
        state TEXT NOT NULL,
        direct INTEGER NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        ready REAL NOT NULL DEFAULT 0,
        claimed REAL NOT NULL DEFAULT 0,
        batch TEXT,
        place INTEGER,
        answer BLOB,
        error TEXT NOT NULL DEFAULT '',
        processing TEXT NOT NULL DEFAULT 'batch',
        recorded INTEGER NOT NULL DEFAULT 0
    );;
    CREATE INDEX items_state ON items (state, ready);;
    CREATE INDEX items_batch ON items (batch, place);;
    CREATE INDEX items_recorded ON items (recorded) WHERE recorded = 0;;
    CREATE TABLE batches (
        token TEXT PRIMARY KEY,
        provider TEXT NOT NULL,
        remote TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL,
        size INTEGER NOT NULL,
        due REAL,
        at REAL NOT NULL,
        cancelled INTEGER NOT NULL DEFAULT 0
    )
    """,
)
ITEM_COLUMNS: Final = "id, endpoint, body, at, due, tries, batch, place"
BATCH_COLUMNS: Final = "token, remote, size, due, at, cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A request in the queue.

    Args:
        id: The request's.
        endpoint: The path it is posted to.
        body: The request as JSON.
        at: When it was queued, in seconds since the epoch.
        due: When the answer is needed, or None.
        tries: How often it was sent so far.
        batch: Token of the batch it was last in, "" for none.
        place: Where in that.
    """

    id: str
    endpoint: str
    body: bytes
    at: float
    due: float | None
    tries: int
    batch: str
    place: int

    def sent(self) -> Sent:
        """Return what a provider is given."""
        ident = f"{self.batch}-{self.place}" if self.batch else self.id
        return Sent(custom_id=ident, endpoint=self.endpoint, body=self.body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch, under the token it was handed in with.

    Args:
        token: Unique, made here.
        remote: The provider's id, "" while it is not known.
        size: How many requests it holds.
        due: When its answers are needed, or None.
        at: When it was made, in seconds since the epoch.
        cancelled: Whether the provider was asked to cancel it.
    """

    token: str
    remote: str
    size: int
    due: float | None
    at: float
    cancelled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many requests of a queue are where.

    Args:
        waiting: Not sent yet, or to be sent again.
        sent: In a batch, or being asked in real time.
        done: Answered.
        failed: Without an answer, for good.
    """

    waiting: int = 0
    sent: int = 0
    done: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        """How many have not ended."""
        return self.waiting + self.sent


def item_of(row: Any) -> Item:
    """Read a row of `ITEM_COLUMNS`."""
    ident, endpoint, body, at, due, tries, batch, place = row
    return Item(
        id=ident.decode(),
        endpoint=endpoint.decode(),
        body=body,
        at=at,
        due=due,
        tries=tries,
        batch=(batch or b"").decode(),
        place=place or 0,
    )


def batch_of(row: Any) -> Batch:
    """Read a row of `BATCH_COLUMNS`."""
    token, remote, size, due, at, cancelled = row
    return Batch(
        token=token.decode(),
        remote=remote.decode(),
        size=size,
        due=due,
        at=at,
        cancelled=bool(cancelled),
    )
