"""What a server of conversations must do besides the contract: serve processes and event loops."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from costwise_core import Summary
from costwise_core.testing.conversations import CHAT, ConversationStoreContract, talk

WRITER = """
import sys
from costwise_core import Conversation, Message, {kind}
store = {kind}({where!r}, timeout=30, **{place!r})
chat = Conversation(id="1", tenant="acme", user="ann")
for number in range(int(sys.argv[2])):
    ident = f"{{sys.argv[1]}} {{number}}"
    store.append(chat, [Message(role="user", text=ident, id=ident)])
    print(ident, flush=True)
"""

Spawn = Callable[[str, int], subprocess.Popen[str]]


def spawning(kind: str, where: str, **place: str) -> Spawn:
    """Return what starts a process that appends so many messages and tells of each."""
    program = WRITER.format(kind=kind, where=where, place=place)

    def spawn(name: str, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, name, str(count)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return spawn


class ServedConversations(ConversationStoreContract):
    """A subclass's module has fixtures `make`, of stores, and `spawn`, as `spawning` returns it."""

    @pytest.fixture(autouse=True)
    def _make(self, make):
        self.make = make

    async def end(self, store: Any) -> None:
        """Let go of what a store has of the running event loop."""

    def test_processes_write_one_conversation(self, spawn: Spawn):
        writers = [spawn(str(n), 60) for n in range(3)]
        written = [one.communicate()[0].splitlines() for one in writers]
        ids = [message.id for message in self.make().messages(CHAT)]
        assert [[i for i in ids if i.startswith(f"{n} ")] for n in range(3)] == written
        assert len(ids) == 180

    def test_a_killed_process_loses_nothing_that_was_acknowledged(self, spawn: Spawn):
        writer = spawn("victim", 10**6)
        written = [writer.stdout.readline().strip() for _ in range(30)]
        writer.send_signal(signal.SIGKILL)
        written += writer.communicate()[0].splitlines()
        ids = [message.id for message in self.make().messages(CHAT)]
        assert ids[: len(written)] == written
        assert len(ids) - len(written) in (0, 1)  # written, but not told of yet

    def test_a_forked_child_does_not_disturb_its_parent(self):
        store = self.make()
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

    async def test_async_calls_are_native(self):
        store = self.make()
        threads = threading.active_count()
        assert await store.aappend(CHAT, talk(3)) == 3
        assert await store.amessages(CHAT, start=1) == talk(2, start=1)
        assert await store.areplace(CHAT, Summary(folded=1), version=0)
        assert await store.asummary(CHAT) == Summary(folded=1, version=1)
        assert await store.aacquire("x", "me", 5)
        await store.arelease("x", "me")
        assert await store.adelete(tenant="acme", user="ann") == 1
        assert threading.active_count() == threads
        await self.end(store)
