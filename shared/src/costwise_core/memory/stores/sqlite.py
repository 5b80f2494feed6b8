"""Conversations in one SQLite file, for several threads and processes of one machine."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self

from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.stores.arguments import Which, check_range, check_ttl
from costwise_core.memory.stores.rows import MAX_BYTES, Place, Reader, Row, packed, rows_of
from costwise_core.stores import sqlite_journal
from costwise_core.stores.checks import check_seconds
from costwise_core.stores.sqlite_file import SQLiteFile, check_file

__all__ = ["SQLiteConversations"]

_APPLICATION_ID: Final = 0x4357534D
_PAGE: Final = 500
_CLEARED: Final = 8
"""How many expired conversations one append deletes, so that none waits for a thousand."""

_SCHEMA: Final = (
    # A conversation's messages lie side by side in the order of their places, so that the end of a
    # long one is read without its beginning. `length` only grows: a damaged row keeps its place.
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        tenant BLOB NOT NULL,
        owner BLOB NOT NULL,
        names BLOB NOT NULL,
        used REAL NOT NULL,
        expires REAL,
        length INTEGER NOT NULL,
        version INTEGER NOT NULL DEFAULT 0,
        summary BLOB
    );;
    CREATE INDEX conversations_tenant ON conversations (tenant, key);;
    CREATE INDEX conversations_owner ON conversations (owner, key);;
    CREATE INDEX conversations_used ON conversations (used);;
    CREATE INDEX conversations_expires ON conversations (expires) WHERE expires IS NOT NULL;;
    CREATE TABLE messages (
        conversation INTEGER NOT NULL,
        place INTEGER NOT NULL,
        key BLOB NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (conversation, place)
    ) WITHOUT ROWID;;
    CREATE UNIQUE INDEX messages_key ON messages (conversation, key);;
    CREATE TABLE leases (
        name BLOB PRIMARY KEY,
        owner BLOB NOT NULL,
        expires REAL NOT NULL
    ) WITHOUT ROWID;;
    CREATE INDEX leases_expires ON leases (expires);;
    CREATE TRIGGER conversation_gone AFTER DELETE ON conversations BEGIN
        DELETE FROM messages WHERE conversation = old.id;
        DELETE FROM leases WHERE name = CAST(lower(hex(old.key)) AS BLOB);
    END
    """,
)
_LIVE: Final = "(expires IS NULL OR expires > ?)"


class SQLiteConversations:
    """Keeps conversations in a file that threads and processes share.

    The constructor opens nothing; the file is made by the first use. `append` and `replace` return
    once a `kill -9` can no longer lose what they wrote. A power cut may lose that of the last
    moments, but never damages the file. See `ConversationStore` for what the methods do.

    Args:
        path: The file. It holds what users said, so it is made with mode 0600. It must lie on a
            disk of this machine.
        ttl: Seconds after the last append at which a conversation is deleted; None keeps it.
        busy_timeout: Seconds a call waits for another process's lock before it gives up.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import tempfile
        >>> from costwise_core import Conversation, Message, SQLiteConversations
        >>> chat = Conversation(id="42", tenant="acme", user="ann")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with SQLiteConversations(f"{folder}/chats.db") as store:
        ...         store.append(chat, [Message(role="user", text="Where is my parcel?")])
        ...     with SQLiteConversations(f"{folder}/chats.db") as store:
        ...         [message.text for message in store.messages(chat)]
        1
        ['Where is my parcel?']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl: float | None = None,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_ttl(ttl)
        self.path = check_file(path, busy_timeout, instead="MemoryConversations()")
        self._reader = Reader()
        self._ttl = ttl
        self._clock = clock
        self._file = SQLiteFile(
            self.path,
            application_id=_APPLICATION_ID,
            schema=_SCHEMA,
            busy_timeout=busy_timeout,
            max_value_bytes=2 * MAX_BYTES,
        )

    @property
    def damaged(self) -> int:
        """How many rows this process found damaged and passed over."""
        return self._reader.damaged

    def append(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Add what is new of these messages, all or none, and return how many there are now.

        Raises:
            EntryTooLargeError: if one has more than 1,000,000 bytes as JSON.
            ConfigError: if one has a field of another type.
            StoreError: if the file cannot be used; nothing was added then.
        """
        place, rows = Place.of(conversation), rows_of(messages)
        now = self._clock()
        with self._file.writing() as db:
            _clear(db, place.key, now)
            if not rows:
                return _length(db, place.key)
            expires = None if self._ttl is None else now + self._ttl
            return _append(db, place, rows, now, expires)

    def messages(
        self, conversation: Conversation, *, start: int = 0, stop: int | None = None
    ) -> list[Message]:
        """Return the messages from number `start` to before number `stop`, oldest first.

        Raises:
            ConfigError: if a number is below 0.
            StoreError: if the file cannot be used.
        """
        check_range(start, stop)
        with self._file.reading() as db:
            bodies = db.execute(
                "SELECT CASE WHEN length(m.body) <= ? THEN m.body END FROM conversations c "  # noqa: S608
                f"JOIN messages m ON m.conversation = c.id WHERE c.key = ? AND {_LIVE} "
                "AND m.place >= ? AND m.place < ? ORDER BY m.place",
                (
                    *(MAX_BYTES, Place.of(conversation).key, self._clock()),
                    *(start, 2**62 if stop is None else stop),
                ),
            ).fetchall()
        return self._reader.messages(body for (body,) in bodies)

    def summary(self, conversation: Conversation) -> Summary | None:
        """Return what stands for the first messages, None if nothing does.

        A damaged one stands for none: it has its version and no text.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._file.reading() as db:
            row = db.execute(
                "SELECT version, CASE WHEN length(summary) <= ? THEN summary END "  # noqa: S608
                f"FROM conversations WHERE key = ? AND {_LIVE}",
                (MAX_BYTES, Place.of(conversation).key, self._clock()),
            ).fetchone()
        version, body = row or (0, None)
        return self._reader.summary(body, version)

    def replace(self, conversation: Conversation, summary: Summary, *, version: int) -> bool:
        """Put this summary in the place of that with `version`; False if that is gone.

        Raises:
            EntryTooLargeError: if it has more than 1,000,000 bytes as JSON.
            StoreError: if the file cannot be used; the old one stays then.
        """
        place, body = Place.of(conversation), packed(summary)
        with self._file.writing() as db:
            done = db.execute(
                "UPDATE conversations SET summary = ?, version = version + 1 "  # noqa: S608
                f"WHERE key = ? AND version = ? AND length >= ? AND {_LIVE}",
                (body, place.key, version, summary.folded, self._clock()),
            )
            return done.rowcount == 1

    def conversations(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        unused_since: float | None = None,
    ) -> Iterator[Conversation]:
        """Yield the conversations, of a tenant or of one of its users, in no particular order.

        Raises:
            ConfigError: if a user is named without the tenant.
            StoreError: if the file cannot be used.
        """
        return self._pages(Which(tenant=tenant, user=user, unused_since=unused_since))

    def _pages(self, which: Which) -> Iterator[Conversation]:
        condition, values = which.where()
        last = b""
        while True:
            with self._file.reading() as db:
                rows = db.execute(
                    "SELECT key, CASE WHEN length(names) <= ? THEN names END "  # noqa: S608
                    f"FROM conversations WHERE {condition} AND {_LIVE} AND key > ? "
                    f"ORDER BY key LIMIT {_PAGE:d}",
                    (MAX_BYTES, *values, self._clock(), last),
                ).fetchall()
            yield from self._reader.conversations(rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def delete(
        self,
        *,
        conversation: Conversation | None = None,
        tenant: str | None = None,
        user: str | None = None,
        unused_since: float | None = None,
    ) -> int:
        """Delete conversations with all that belongs to them, and return how many there were.

        Raises:
            ConfigError: if nothing is selected, or a user is named without the tenant.
            StoreError: if the file cannot be used; nothing was deleted then.
        """
        which = Which(
            conversation=conversation, tenant=tenant, user=user, unused_since=unused_since
        )
        condition, values = which.named().where()
        with self._file.writing() as db:
            _overwriting(db)
            db.execute("DELETE FROM conversations WHERE expires <= ?", (self._clock(),))
            done = db.execute(f"DELETE FROM conversations WHERE {condition}", values)  # noqa: S608
        if done.rowcount:
            with self._file.reading() as db:
                # What was deleted stands in the log too, until it is begun anew.
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return done.rowcount

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
            StoreError: if the file cannot be used.
        """
        check_seconds(seconds)
        with self._file.writing() as db:
            return sqlite_journal.acquire(db, name, owner, seconds, self._clock())

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._file.writing() as db:
            sqlite_journal.release(db, name, owner)

    def close(self) -> None:
        """Close the file; using the store again opens it again."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _clear(db: sqlite3.Connection, key: bytes, now: float) -> None:
    """Delete the conversation under the key if it has expired, and some others that have."""
    _overwriting(db)
    db.execute(
        "DELETE FROM conversations WHERE (key = ? AND expires <= ?) OR id IN ("
        "SELECT id FROM conversations WHERE expires <= ? ORDER BY expires LIMIT ?)",
        (key, now, now, _CLEARED),
    )


def _overwriting(db: sqlite3.Connection) -> None:
    """Let this connection overwrite what it deletes: it is people who ask for that."""
    db.execute("PRAGMA secure_delete=ON")


def _length(db: sqlite3.Connection, key: bytes) -> int:
    row = db.execute("SELECT length FROM conversations WHERE key = ?", (key,)).fetchone()
    return row[0] if row else 0


def _append(
    db: sqlite3.Connection, place: Place, rows: Sequence[Row], now: float, expires: float | None
) -> int:
    ident, length = db.execute(
        "INSERT INTO conversations (key, tenant, owner, names, used, expires, length) "
        "VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE "
        "SET used = max(used, excluded.used), expires = excluded.expires, names = excluded.names "
        "RETURNING id, length",
        (place.key, place.tenant, place.owner, place.names, now, expires),
    ).fetchone()
    for row in rows:
        added = db.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?) ON CONFLICT (conversation, key) DO NOTHING",
            (ident, length, row.key, row.body),
        )
        length += added.rowcount
    db.execute("UPDATE conversations SET length = ? WHERE id = ?", (length, ident))
    return int(length)
