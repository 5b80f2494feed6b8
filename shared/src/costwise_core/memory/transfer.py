"""Conversations in and out as lines of JSON: for whoever asks what is kept, and to another store.

A line holds one message or one summary, and whose it is: `{"conversation": {"id": "42", "tenant":
"acme", "user": "ann"}, "message": {...}}`. So a file of any size is written and read line by line.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, islice
from typing import Any, Final, NamedTuple, TypeVar

from costwise_core.cache.lines import MAX_LINE_BYTES, Damage, read_lines, writing
from costwise_core.errors import EntryTooLargeError, nearest
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.stores.rows import as_row, from_row
from costwise_core.protocols import ConversationStore

__all__ = ["ImportedConversations", "export_conversations", "import_conversations"]

_PAGE: Final = 500
_BATCH: Final = 256
_DAMAGE_TOLD: Final = 100
_FIELDS: Final = ("conversation", "message", "summary")

T = TypeVar("T", Message, Summary, Conversation)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedConversations:
    """What became of the lines of a file.

    Args:
        messages: Messages appended.
        summaries: Summaries put where there was none.
        known: Lines passed over because the store has that message, or a summary of its own.
        damaged: Lines that are neither, or that no store accepts.
        damage: What is wrong with the first 100 of those.
    """

    messages: int = 0
    summaries: int = 0
    known: int = 0
    damaged: int = 0
    damage: tuple[Damage, ...] = ()


def export_conversations(
    store: ConversationStore,
    file: str | os.PathLike[str],
    *,
    tenant: str | None = None,
    user: str | None = None,
) -> int:
    """Write conversations to a file and return how many there were.

    The file appears when it is complete, with mode 0600, for it holds what users said. No more than
    500 messages are in memory at a time. To export is not to use: nothing lives longer for it.

    Args:
        store: Where to read.
        file: Path of the file; one that exists is replaced.
        tenant: Whose conversations; None for all tenants'.
        user: Which of the tenant's users'; None for all.

    Raises:
        ConfigError: if a user is named without the tenant.
        StoreError: if the store cannot be used; there is no new file then.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from costwise_core import Conversation, MemoryConversations, Message
        >>> old, new = MemoryConversations(), MemoryConversations()
        >>> chat = Conversation(id="42", tenant="acme", user="ann")
        >>> _ = old.append(chat, [Message(role="user", text="Where is my parcel?")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_conversations(old, f"{folder}/ann.jsonl", tenant="acme", user="ann")
        ...     import_conversations(new, f"{folder}/ann.jsonl").messages
        1
        1
        >>> new.messages(chat) == old.messages(chat)
        True
    """
    count = 0
    chosen = store.conversations(tenant=tenant, user=user)
    with writing(file) as write:
        for conversation in chosen:
            whose = {"conversation": as_row(conversation)}
            # Read first, so that it never stands for messages that the file has not.
            summary = store.summary(conversation)
            for message in _messages(store, conversation):
                write({**whose, "message": as_row(message)})
            if summary is not None:
                write({**whose, "summary": as_row(summary)})
            count += 1
    return count


def import_conversations(
    store: ConversationStore, file: str | os.PathLike[str]
) -> ImportedConversations:
    """Put the conversations of a file into a store; doing it again changes nothing.

    Messages go to the end of what their conversation has, in the file's order. A line that is no
    message or summary is counted and told of, and the others go on.

    Args:
        store: Where to put them.
        file: Path of the file. It is believed: whoever may write it may write what users said.

    Raises:
        StoreError: if the store cannot be used; what was put stays, and the import can be done
            again.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from costwise_core import MemoryConversations
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "chats.jsonl")
        ...     _ = path.write_text('{"conversation": {"id": "1"}, "mesage": {}}')
        ...     import_conversations(MemoryConversations(), path).damage[0].why
        "unknown field 'mesage'. Did you mean 'message'?"
    """
    done, damage = Counter[str](), list[Damage]()
    lines = _lines(file, damage)
    while batch := list(islice(lines, _BATCH)):
        for conversation, some in groupby(batch, key=lambda one: one.conversation):
            read = list(some)
            said = [one for one in read if isinstance(one.value, Message)]
            done += _append(store, conversation, said, damage)
            for one in read:
                if isinstance(one.value, Summary):
                    done += _put(store, conversation, one.value, one.line, damage)
    return ImportedConversations(
        messages=done["messages"],
        summaries=done["summaries"],
        known=done["known"],
        damaged=len(damage),
        damage=tuple(sorted(damage, key=lambda one: one.line)[:_DAMAGE_TOLD]),
    )


def _messages(store: ConversationStore, conversation: Conversation) -> Iterator[Message]:
    # By number, since a page may be empty where all of its messages are damaged.
    length = store.append(conversation, [])
    for start in range(0, length, _PAGE):
        yield from store.messages(conversation, start=start, stop=min(start + _PAGE, length))


# --- importing ------------------------------------------------------------------------------------


class _Read(NamedTuple):
    line: int
    conversation: Conversation
    value: Message | Summary


def _append(
    store: ConversationStore,
    conversation: Conversation,
    said: Sequence[_Read],
    damage: list[Damage],
) -> Counter[str]:
    """Append all at once, or one by one when one of them cannot be kept."""
    messages = [one.value for one in said if isinstance(one.value, Message)]
    if not messages:
        return Counter()
    try:
        before = store.append(conversation, [])
        added = store.append(conversation, messages) - before
    except EntryTooLargeError as error:
        if len(said) == 1:
            damage.append(Damage(line=said[0].line, why=str(error)))
            return Counter()
        done = Counter[str]()
        for one in said:
            done += _append(store, conversation, [one], damage)
        return done
    return Counter(messages=added, known=len(messages) - added)


def _put(
    store: ConversationStore,
    conversation: Conversation,
    summary: Summary,
    line: int,
    damage: list[Damage],
) -> Counter[str]:
    try:
        if store.replace(conversation, summary, version=0):
            return Counter(summaries=1)
    except EntryTooLargeError as error:
        damage.append(Damage(line=line, why=str(error)))
        return Counter()
    if store.summary(conversation) is not None:
        return Counter(known=1)
    damage.append(Damage(line=line, why="a summary of more messages than there are"))
    return Counter()


def _lines(file: str | os.PathLike[str], damage: list[Damage]) -> Iterator[_Read]:
    for line, text in read_lines(file):
        try:
            yield _Read(line, *_parsed(text))
        except ValueError as error:
            damage.append(Damage(line=line, why=str(error)))


def _parsed(text: bytes | None) -> tuple[Conversation, Message | Summary]:
    if text is None:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("a line is a JSON object")  # noqa: TRY004 - damage, whatever its kind
    _check_fields(row, _FIELDS)
    if ("message" in row) == ("summary" in row):
        raise ValueError("a line has a message or a summary")
    conversation = _value(Conversation, row, "conversation")
    if "summary" in row:
        return conversation, _value(Summary, row, "summary")
    message = _value(Message, row, "message")
    if not message.id:
        raise ValueError("a message in a file has an id")
    return conversation, message


def _value(kind: type[T], row: Mapping[str, Any], name: str) -> T:
    value = row.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")  # noqa: TRY004
    _check_fields(value, [field.name for field in fields(kind)])
    return from_row(kind, value)


def _check_fields(row: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in row:
        if name not in known:
            raise ValueError(f"unknown field {name[:40]!r}.{nearest(name[:40], known)}")
