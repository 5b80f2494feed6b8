"""Conversations exported as JSON lines and imported again."""

import json
import re
from pathlib import Path

import pytest

from costwise_core import (
    Conversation,
    MemoryConversations,
    SQLiteConversations,
    Summary,
    export_conversations,
    import_conversations,
)
from costwise_core.errors import ConfigError
from costwise_core.memory.messages import digest
from costwise_core.testing.conversations import CHAT, say, talk
from costwise_core.testing.fakes import FakeClock
from costwise_core.testing.stores import TEXTS

BOB = Conversation(id="1", tenant="acme", user="bob")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


@pytest.fixture
def full() -> MemoryConversations:
    store = MemoryConversations()
    store.append(CHAT, talk(1_203))
    store.replace(CHAT, Summary(text="Old.", folded=900), version=0)
    store.replace(CHAT, Summary(text="New.", folded=1_000, digest="d"), version=1)
    store.append(BOB, [say(text, raw=text, calls=(text,)) for text in TEXTS])
    store.append(Conversation(id=TEXTS[-1]), talk(3))
    return store


def same(one, other) -> bool:
    chats = set(one.conversations())
    return chats == set(other.conversations()) and all(
        one.messages(chat) == other.messages(chat)
        and (one.summary(chat) or Summary()).text == (other.summary(chat) or Summary()).text
        for chat in chats
    )


def test_what_was_exported_is_imported_once(full, file, tmp_path):
    assert export_conversations(full, file) == 3
    assert file.stat().st_mode & 0o777 == 0o600
    with SQLiteConversations(tmp_path / "new.db") as new:
        done = import_conversations(new, file)
        assert (done.messages, done.summaries, done.known) == (1_203 + len(TEXTS) + 3, 1, 0)
        assert done.damage == ()
        assert same(full, new)
        assert new.summary(CHAT) == Summary(text="New.", folded=1_000, digest="d", version=1)
        again = import_conversations(new, file)
        assert (again.messages, again.summaries) == (0, 0)
        assert again.known == 1_203 + len(TEXTS) + 3 + 1
        assert same(full, new)


def test_one_users_conversations_and_nobody_elses(full, file):
    assert export_conversations(full, file, tenant="acme", user="bob") == 1
    rows = map(json.loads, file.read_text().splitlines())
    whose = {json.dumps(row["conversation"]) for row in rows}
    assert whose == {'{"id": "1", "tenant": "acme", "user": "bob"}'}
    assert export_conversations(full, file, tenant="acme") == 2
    assert export_conversations(full, file, tenant="nobody") == 0
    assert file.read_text() == ""
    with pytest.raises(ConfigError, match="name the tenant"):
        export_conversations(full, file, user="bob")


def test_what_the_store_has_stays(full, file):
    export_conversations(full, file)
    new = MemoryConversations()
    new.append(CHAT, talk(1_002))
    new.replace(CHAT, Summary(text="Own.", folded=2), version=0)
    done = import_conversations(new, file)
    assert (done.messages, done.known) == (201 + len(TEXTS) + 3, 1_002 + 1)
    assert new.messages(CHAT) == full.messages(CHAT)
    assert new.summary(CHAT).text == "Own."


def test_to_export_is_not_to_use(file):
    clock = FakeClock()
    store = MemoryConversations(ttl=100.0, clock=clock)
    store.append(CHAT, talk(3))
    clock.advance(60)
    export_conversations(store, file)
    clock.advance(60)
    assert store.messages(CHAT) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested|not JSON"),
        ("[]", "a JSON object"),
        ("{}", "a message or a summary"),
        ('{"conversation": {"id": "1"}, "massage": {}}', "Did you mean 'message'"),
        ('{"message": {"role": "user", "text": "a", "id": "b"}}', "conversation must be"),
        ('{"conversation": {}, "message": {"role": "user", "text": "a"}}', "id is missing"),
        ('{"conversation": {"id": "1"}, "message": {"role": "user", "text": "a"}}', "has an id"),
        (
            '{"conversation": {"id": "1"}, "message": {"role": "bot", "text": "a"}}',
            "role must be one of",
        ),
        ('{"conversation": {"id": 1}, "summary": {}}', "id must be a text"),
        ('{"conversation": {"id": "1"}, "summary": {"folded": 3}}', "more messages than there"),
        ('{"conversation": {"id": "1"}, "summary": {"fold": 3}}', "Did you mean 'folded'"),
    ],
)
def test_a_line_that_is_none_is_told_of_and_the_others_go_on(file, line, why):
    good = '{"conversation": {"id": "2"}, "message": {"role": "user", "text": "a", "id": "%s"}}'
    file.write_text("\n".join(["", good % "x", line, good % "y"]))
    store = MemoryConversations()
    done = import_conversations(store, file)
    assert (done.messages, done.damaged) == (2, 1)
    assert done.damage[0].line == 3
    assert re.search(why, done.damage[0].why)
    assert list(store.conversations()) == [Conversation(id="2")]


def test_a_message_that_is_too_large_is_told_of(file):
    rows = [
        {"conversation": {"id": "1"}, "message": {"role": "user", "text": text, "id": str(n)}}
        for n, text in enumerate(["a", "x" * 1_000_001, "b"])
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    store = MemoryConversations()
    done = import_conversations(store, file)
    assert (done.messages, done.known, done.damage[0].line) == (2, 0, 2)
    assert "stores of conversations accept" in done.damage[0].why
    assert [one.text for one in store.messages(Conversation(id="1"))] == ["a", "b"]


def test_a_summary_never_stands_for_messages_the_file_has_not(file):
    store = MemoryConversations()
    store.append(CHAT, talk(8))
    store.replace(CHAT, Summary(text="So far.", folded=6, digest=digest(talk(6))), version=0)
    export_conversations(store, file)
    new = MemoryConversations()
    import_conversations(new, file)
    kept = new.summary(CHAT)
    assert kept.digest == digest(new.messages(CHAT, stop=kept.folded))
