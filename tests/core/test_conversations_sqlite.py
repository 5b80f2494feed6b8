"""Conversations in a SQLite file: killed processes, several at once, damage, files of others."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    Conversation,
    ConversationStore,
    MemoryConversations,
    Message,
    SQLiteConversations,
    SQLiteStore,
    Summary,
    named,
)
from costwise_core.errors import ConfigError, StoreUnavailableError, StoreVersionError
from costwise_core.memory.stores.rows import conversation_of, message_of, packed, summary_of
from costwise_core.testing.conversations import CHAT, say, talk

# Appends one message after the other, tells of each that was acknowledged, and folds now and then.
WRITER = """
import sys
from costwise_core import Conversation, Message, SQLiteConversations, Summary
store = SQLiteConversations(sys.argv[1], busy_timeout=60)
chat = Conversation(id="1", tenant="acme", user="ann")
for number in range(int(sys.argv[3])):
    ident = f"{sys.argv[2]} {number}"
    there = store.append(chat, [Message(role="user", text=ident, id=ident)])
    print(ident, flush=True)
    if number % 10 == 9:
        old = store.summary(chat)
        version = old.version if old else 0
        if store.replace(chat, Summary(text=ident, folded=there), version=version):
            print(f"folded {version + 1}", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def store(path: Path):
    with SQLiteConversations(path) as store:
        yield store


def spawn(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def split(lines: list[str]) -> tuple[list[str], list[int]]:
    folds = [int(line.split()[1]) for line in lines if line.startswith("folded")]
    return [line for line in lines if not line.startswith("folded")], folds


# --- several processes ----------------------------------------------------------------------------


def test_processes_write_one_conversation(path, store):
    writers = [spawn(path, str(n), 100) for n in range(3)]
    told = [split(one.communicate()[0].splitlines()) for one in writers]
    ids = [message.id for message in store.messages(CHAT)]
    assert [[i for i in ids if i.startswith(f"{n} ")] for n in range(3)] == [w for w, _ in told]
    assert len(ids) == 300
    # No version was given to two writers, and none was skipped.
    folds = sorted(version for _, versions in told for version in versions)
    assert folds == list(range(1, len(folds) + 1))
    assert store.summary(CHAT).version == folds[-1]


def test_a_killed_process_loses_nothing_that_was_acknowledged(path):
    for round_ in range(3):
        writer = spawn(path, f"victim {round_}", 10**6)
        lines = [writer.stdout.readline().strip() for _ in range(40)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines()
        with SQLiteConversations(path) as store:
            found = [
                message.id
                for message in store.messages(CHAT)
                if message.id.startswith(f"victim {round_} ")
            ]
            written, folds = split(lines)
            assert found[: len(written)] == written
            assert len(found) - len(written) in (0, 1)  # written, but not told of yet
            assert store.summary(CHAT).version - folds[-1] in (0, 1)
            assert store.append(CHAT, []) == len(store.messages(CHAT))


def test_a_forked_child_does_not_disturb_its_parent(store):
    store.append(CHAT, talk(1))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if store.append(CHAT, talk(2)) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.append(CHAT, talk(3)) == 3


def test_a_locked_file_is_given_up_in_time(path):
    with SQLiteConversations(path, busy_timeout=0.1) as store:
        store.append(CHAT, talk(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.append(CHAT, talk(2))
        assert time.monotonic() - started < 5
        assert store.messages(CHAT) == talk(1)  # reading waits for nobody
        other.execute("ROLLBACK")
        other.close()
        assert store.append(CHAT, talk(2)) == 2


def test_reading_goes_on_while_others_write(path, store):
    store.append(CHAT, talk(100))
    done = threading.Event()
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(store.messages(CHAT)))

    reader = threading.Thread(target=read)
    reader.start()
    with SQLiteConversations(path) as writer:
        for start in range(100, 400, 3):
            writer.append(CHAT, talk(3, start))
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert all(count % 3 == 1 for count in seen)


# --- the file -------------------------------------------------------------------------------------


def test_a_constructor_makes_no_file_and_a_use_a_private_one(path):
    with SQLiteConversations(path) as store:
        assert not path.exists()
        assert store.messages(CHAT) == []
        assert path.stat().st_mode & 0o777 == 0o600


def test_files_of_others_are_left_alone(path, tmp_path):
    with SQLiteStore(tmp_path / "c.db") as cache:
        cache.append("log", ["a"])
    with pytest.raises(StoreVersionError), SQLiteConversations(tmp_path / "c.db") as store:
        store.append(CHAT, talk(1))
    with SQLiteConversations(path) as store:
        store.append(CHAT, talk(1))
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(StoreVersionError, match="newer"), SQLiteConversations(path) as store:
        store.append(CHAT, talk(2))


@pytest.mark.parametrize(
    "wrong", [{"path": ":memory:"}, {"path": ""}, {"busy_timeout": -1}, {"ttl": 0}]
)
def test_arguments_that_make_no_sense(path, wrong):
    with pytest.raises(ConfigError):
        SQLiteConversations(**{"path": path, **wrong})


def test_damaged_rows_are_passed_over_and_counted(path, store):
    said = talk(6)
    store.append(CHAT, said)
    store.append(Conversation(id="2"), talk(1))
    assert store.replace(CHAT, Summary(text="So far.", folded=3), version=0)
    store.close()
    file = sqlite3.connect(path)
    file.execute("UPDATE messages SET body = 'no json' WHERE place = 1")
    file.execute("UPDATE messages SET body = ? WHERE place = 2", (b" " * 1_500_000,))
    file.execute("UPDATE messages SET body = ? WHERE place = 3", (b"[" * 10_000,))
    file.execute("UPDATE conversations SET summary = x'00', names = x'7b7d'")
    file.commit()
    file.close()
    assert store.messages(CHAT) == [said[0], said[4], said[5]]
    assert store.messages(CHAT, start=4) == said[4:]  # the others keep their numbers
    assert store.summary(CHAT) == Summary(version=1)
    assert list(store.conversations()) == []
    assert store.damaged == 3 + 1 + 2
    # It can go on: names are mended by an append, a summary by the next.
    assert store.append(CHAT, talk(8)) == 8
    assert list(store.conversations()) == [CHAT]
    assert store.replace(CHAT, Summary(text="Anew.", folded=6), version=1)
    assert store.summary(CHAT) == Summary(text="Anew.", folded=6, version=2)
    assert store.delete(tenant="acme", user="ann") == 1


def test_the_end_of_a_conversation_is_read_by_its_index(path, store):
    store.append(CHAT, talk(10))
    file = sqlite3.connect(path)
    plan = file.execute(
        "EXPLAIN QUERY PLAN SELECT m.body FROM conversations c JOIN messages m "
        "ON m.conversation = c.id WHERE c.key = ? AND m.place >= ? AND m.place < ? "
        "ORDER BY m.place",
        (b"", 5, 9),
    ).fetchall()
    file.close()
    steps = " ".join(row[3] for row in plan)
    assert "SEARCH m USING PRIMARY KEY (conversation=? AND place>? AND place<?)" in steps
    assert "SCAN" not in steps
    assert "TEMP B-TREE" not in steps


def test_nothing_of_a_deleted_user_is_left(path, store):
    store.append(CHAT, talk(40))
    store.replace(CHAT, Summary(text="secret", folded=3), version=0)
    store.acquire(CHAT.key, "me", 60)
    store.append(Conversation(id="2"), [say("public")])
    assert store.delete(tenant="acme", user="ann") == 1
    bytes_left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"public" in bytes_left
    assert b"secret" not in bytes_left
    assert b"text 39" not in bytes_left
    file = sqlite3.connect(path)
    for table in ("conversations", "messages", "leases"):
        left = 0 if table == "leases" else 1
        assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (left,)
    file.close()


def test_deleting_does_not_wait_for_readers_for_ever(path):
    with SQLiteConversations(path, busy_timeout=0.1) as store:
        store.append(CHAT, talk(3))
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (3,)
        started = time.monotonic()
        assert store.delete(conversation=CHAT) == 1
        assert time.monotonic() - started < 5
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (3,)
        reader.close()
        assert store.messages(CHAT) == []


def test_expired_conversations_are_cleared_away(path):
    now = 1_000.0
    with SQLiteConversations(path, ttl=10.0, clock=lambda: now) as store:
        for number in range(20):
            store.append(Conversation(id=str(number)), talk(3))
        now = 2_000.0
        for _ in range(3):
            store.append(CHAT, talk(1))
        file = sqlite3.connect(path)
        assert file.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
        assert file.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        file.close()


def test_a_file_that_was_deleted_is_begun_anew(path, store):
    store.append(CHAT, talk(2))
    for file in path.parent.iterdir():
        file.unlink()
    assert store.append(CHAT, talk(1)) == 1
    assert store.messages(CHAT) == talk(1)


def test_every_store_is_one_for_the_type_checker(path):
    stores: list[ConversationStore] = [MemoryConversations(), SQLiteConversations(path)]
    assert [store.messages(CHAT) for store in stores] == [[], []]


# --- names and rows -------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=[]), max_size=20)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    text=TEXT,
    id=TEXT,
    name=TEXT,
    at=st.none() | st.floats(-1e12, 1e12),
    calls=st.lists(TEXT, max_size=3).map(tuple),
    answers=TEXT,
    tokens=st.integers(0, 2**40),
    raw=TEXT,
)


@given(message=MESSAGES)
def test_a_message_is_read_back_as_it_was(message):
    assert message_of(packed(message)) == message


@given(
    summary=st.builds(
        Summary, text=TEXT, folded=st.integers(0, 2**40), saved_usd=st.floats(-1e9, 1e9)
    )
)
def test_a_summary_is_read_back_as_it_was(summary):
    assert summary_of(packed(summary), 0) == summary


@given(id=TEXT, tenant=TEXT, user=TEXT)
def test_names_are_read_back_as_they_were(id, tenant, user):  # noqa: A002
    chat = Conversation(id=id, tenant=tenant, user=user)
    assert conversation_of(packed(chat), bytes.fromhex(chat.key)) == chat


@given(body=st.binary(max_size=60) | st.text().map(str.encode))
def test_damage_is_a_value_error_and_nothing_else(body):
    for read in (message_of, lambda body: conversation_of(body, b"")):
        with pytest.raises(ValueError, match=r"."):
            read(body)


@given(texts=st.lists(st.sampled_from(["ok", "no", ""]), max_size=12), more=st.integers(0, 12))
def test_a_history_has_the_same_names_however_often_it_is_handed_over(texts, more):
    history = [say(text) for text in texts]
    ids = [message.id for message in named(history)]
    assert len(set(ids)) == len(ids)
    assert [message.id for message in named(history[:more])] == ids[:more]
    assert named(named(history)) == named(history)


def test_what_names_a_message():
    base = Message(role="assistant", text="a", name="b", calls=("c",), answers="d")
    others = [
        Message(role="user", text="a", name="b", calls=("c",), answers="d"),
        Message(role="assistant", text="ab", calls=("c",), answers="d"),
        Message(role="assistant", text="a", name="b", calls=("c", "d")),
        Message(role="assistant", text="a", name="b", calls=("cd",)),
    ]
    assert len({named([one])[0].id for one in (base, *others)}) == 5
    later = Message(
        role="assistant", text="a", name="b", calls=("c",), answers="d", at=5.0, tokens=3, raw="{}"
    )
    assert named([later])[0].id == named([base])[0].id
