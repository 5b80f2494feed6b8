"""The contract of a store of conversations as a pytest class: done when a subclass passes.

Example:
    >>> class TestMyConversations(ConversationStoreContract):
    ...     def make_store(self, clock, ttl=None):
    ...         return MyConversations(clock=clock, ttl=ttl)
"""

# ruff: noqa: S101 - these are tests, shipped

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from costwise_core.drive import Flow, arun, call
from costwise_core.errors import ConfigError, EntryTooLargeError
from costwise_core.memory.messages import Conversation, Message, Summary, digest
from costwise_core.memory.naming import named
from costwise_core.memory.stores.memory import MemoryConversations
from costwise_core.protocols import ConversationStore
from costwise_core.testing.fakes import FakeClock
from costwise_core.testing.sharing import LeasesContract
from costwise_core.testing.stores import TEXTS

__all__ = ["ConversationStoreContract", "say", "talk"]

CHAT = Conversation(id="1", tenant="acme", user="ann")
NAMES = (
    *TEXTS,
    "",
    " ",
    "{a}:b",
    "a/b=c%2F",
    "*",
    "'; DROP TABLE conversations; --",
    "long " * 5_000,
)
LARGE = 1_000_000


def say(text: str, **values: Any) -> Message:
    """Return a user's message."""
    return Message(**{"role": "user", "text": text, **values})


def talk(length: int, start: int = 0) -> list[Message]:
    """Return so many messages with ids, which follow from their numbers.

    Example:
        >>> [message.id for message in talk(2, start=7)]
        ['m7', 'm8']
    """
    return [
        Message(role="assistant" if number % 2 else "user", text=f"text {number}", id=f"m{number}")
        for number in range(start, start + length)
    ]


class ConversationStoreContract(LeasesContract):
    """Subclass it, say how a store is made, and pytest runs the contract, that of leases too."""

    def make_store(self, clock: Callable[[], float], ttl: float | None = None) -> Any:
        """Return a new store on the same, at first empty, place."""
        raise NotImplementedError

    # --- messages -------------------------------------------------------------------------------

    def test_messages_come_back_in_order(self, store: ConversationStore) -> None:
        """All of every message comes back, oldest first, to whoever opens the store."""
        other: ConversationStore = self.reopen(store)
        assert store.messages(CHAT) == []
        said = [
            say("Hi", id="a"),
            Message(
                role="assistant",
                text="",
                id="b",
                name="bot",
                at=1_000_000.25,
                calls=("call 1", "call 2"),
                tokens=17,
                raw='{"type": "ai"}',
            ),
            Message(role="tool", text="{}", id="c", name="search", answers="call 1"),
            Message(role="system", text="Be brief.", id="d", at=0.0),
        ]
        assert store.append(CHAT, said[:2]) == 2
        assert other.append(CHAT, said[2:]) == 4
        assert store.messages(CHAT) == other.messages(CHAT) == said
        assert store.append(CHAT, []) == 4

    @pytest.mark.parametrize("text", TEXTS)
    def test_any_text_is_kept(self, store: ConversationStore, text: str) -> None:
        """Whatever a text can hold comes back as it was, in every field."""
        said = Message(
            role="tool", text=text, id=text, name=text, calls=(text, ""), answers=text, raw=text
        )
        store.append(CHAT, [said])
        assert store.messages(CHAT) == [said]
        assert store.append(CHAT, [said]) == 1

    def test_a_part_is_read_by_numbers(self, store: ConversationStore) -> None:
        """`start` and `stop` count messages from the oldest, as a slice does."""
        said = talk(23)
        store.append(CHAT, said)
        for start, stop in ((0, None), (20, None), (22, 23), (5, 9), (9, 5), (23, None), (99, 120)):
            assert store.messages(CHAT, start=start, stop=stop) == said[start:stop]
        for wrong in ({"start": -1}, {"stop": -1}):
            with pytest.raises(ConfigError, match="counted from 0"):
                store.messages(CHAT, **wrong)

    def test_a_long_conversation(self, store: ConversationStore) -> None:
        """Ten thousand messages keep their order, however they are read."""
        said = talk(10_000)
        for start in range(0, 10_000, 2_500):
            store.append(CHAT, said[start : start + 2_500])
        assert store.messages(CHAT) == said
        assert store.messages(CHAT, start=9_990) == said[9_990:]
        assert store.messages(CHAT, start=700, stop=2_900) == said[700:2_900]
        assert store.append(CHAT, said) == 10_000

    def test_a_known_id_is_not_written_again(self, store: ConversationStore) -> None:
        """Sent again, in part, out of order or with other words, what is there stays as it was."""
        said = talk(6)
        assert store.append(CHAT, said[:4]) == 4
        assert store.append(CHAT, said[:4]) == 4
        assert store.append(CHAT, said[2:]) == 6
        assert store.append(CHAT, [replace(said[3], text="other words"), said[0]]) == 6
        assert store.append(CHAT, [say("new", id="x"), say("newer", id="x")]) == 7
        assert store.messages(CHAT) == [*said, say("new", id="x")]

    def test_messages_without_ids(self, store: ConversationStore) -> None:
        """A whole history may be handed over again and again; equal messages in it stay apart."""
        said = [say("ok"), Message(role="assistant", text="ok"), say("ok"), say("no")]
        assert store.append(CHAT, said[:3]) == 3
        assert store.append(CHAT, said) == 4
        assert store.append(CHAT, said) == 4
        found = store.messages(CHAT)
        assert found == list(named(said))
        assert len({message.id for message in found}) == 4
        assert [replace(message, id="") for message in found] == said

    def test_all_or_none(self, store: ConversationStore) -> None:
        """A message that cannot be kept is an error, and none of its batch is."""
        large = say("x" * LARGE, id="large")
        for wrong, error in (
            (large, EntryTooLargeError),
            (say("", role="robot"), ConfigError),
            (say("", tokens=-1), ConfigError),
            (say("", at=float("nan")), ConfigError),
        ):
            with pytest.raises(error):
                store.append(CHAT, [say("fits", id="fits"), wrong])
        assert store.messages(CHAT) == []
        fits = say("é" * (LARGE // 2 - 100), id="fits")
        store.append(CHAT, [fits])
        assert store.messages(CHAT) == [fits]

    # --- whose it is ----------------------------------------------------------------------------

    def test_conversations_never_mix(self, store: ConversationStore) -> None:
        """Id, tenant and user tell them apart, whatever they are called."""
        chats = [
            Conversation(id=name, tenant=tenant, user=user)
            for name in NAMES
            for tenant, user in (("", ""), (name, ""), ("", name), (name, name))
        ]
        chats += [Conversation(id="c", tenant="a", user="b"), Conversation(id="bc", tenant="a")]
        chats = list(dict.fromkeys(chats))
        for number, chat in enumerate(chats):
            assert store.append(chat, [say(f"of {number}", id="same id")]) == 1
        other: ConversationStore = self.reopen(store)
        for number, chat in enumerate(chats):
            assert [one.text for one in other.messages(chat)] == [f"of {number}"]
        assert sorted(map(repr, other.conversations())) == sorted(map(repr, chats))

    def test_listing(self, store: ConversationStore, clock: FakeClock) -> None:
        """Conversations are listed by tenant, by a tenant's user, and by their last append."""
        before = self.now(clock)
        everything = self.some(store)
        assert set(store.conversations()) == everything
        for tenant in ("acme", "globex", "nobody"):
            of_tenant = {one for one in everything if one.tenant == tenant}
            assert set(store.conversations(tenant=tenant)) == of_tenant
            for user in ("ann", "", "nobody"):
                of_user = {one for one in of_tenant if one.user == user}
                assert set(store.conversations(tenant=tenant, user=user)) == of_user
        with pytest.raises(ConfigError, match="name the tenant"):
            list(store.conversations(user="ann"))
        self.pass_time(clock, 0.2)
        between = self.now(clock)
        self.pass_time(clock, 0.2)
        store.append(CHAT, [say("Still there?")])
        store.append(CHAT, [])
        assert set(store.conversations(unused_since=between)) == everything - {CHAT}
        assert set(store.conversations(tenant="globex", unused_since=between)) == {
            one for one in everything if one.tenant == "globex"
        }
        assert set(store.conversations(unused_since=before)) == set()

    def test_deleting_a_user(self, store: ConversationStore) -> None:
        """All of that tenant's user goes, summaries and leases too, and nothing of anybody else."""
        everything = self.some(store)
        for chat in everything:
            assert store.replace(chat, Summary(text="So far.", folded=1), version=0)
            assert store.acquire(chat.key, "a fold", 60)
        gone = {one for one in everything if (one.tenant, one.user) == ("acme", "ann")}
        assert store.delete(tenant="acme", user="ann") == len(gone) == 2
        assert store.delete(tenant="acme", user="ann") == 0
        for chat in everything:
            there = chat not in gone
            assert len(store.messages(chat)) == (2 if there else 0)
            assert (store.summary(chat) is not None) == there
            assert store.acquire(chat.key, "another", 60) == (not there)
        assert set(store.conversations()) == everything - gone
        assert store.append(CHAT, talk(1)) == 1
        assert store.summary(CHAT) is None

    def test_deleting(self, store: ConversationStore, clock: FakeClock) -> None:
        """One conversation, a tenant's, or all that nobody used since; never all by omission."""
        everything = self.some(store)
        with pytest.raises(ConfigError, match="say what to delete"):
            store.delete()
        with pytest.raises(ConfigError, match="name the tenant"):
            store.delete(user="ann")
        with pytest.raises(ConfigError, match="leave them out"):
            store.delete(conversation=CHAT, tenant="acme")
        assert set(store.conversations()) == everything
        assert store.delete(conversation=replace(CHAT, id="unknown")) == 0
        assert store.delete(conversation=CHAT) == 1
        assert store.messages(CHAT) == []
        assert store.delete(tenant="globex") == 2
        assert set(store.conversations()) == {
            one for one in everything if one.tenant != "globex" and one != CHAT
        }
        self.pass_time(clock, 0.2)
        between = self.now(clock)
        self.pass_time(clock, 0.2)
        store.append(CHAT, talk(1))
        assert store.delete(tenant="acme", unused_since=between) == 2
        assert store.delete(unused_since=between) == 2
        assert list(store.conversations()) == [CHAT]
        assert store.delete(unused_since=float("inf")) == 1
        assert list(store.conversations()) == []

    def test_many_conversations(self, store: ConversationStore) -> None:
        """Those of a user with thousands are listed and deleted to the last."""
        chats = [Conversation(id=str(n), tenant="acme", user=f"u{n % 2}") for n in range(1_200)]
        for chat in chats:
            store.append(chat, [say(chat.id)])
        assert set(store.conversations(tenant="acme", user="u1")) == set(chats[1::2])
        assert len(list(store.conversations())) == 1_200
        assert store.delete(tenant="acme", user="u1") == 600
        assert set(store.conversations()) == set(chats[::2])

    # --- summaries ------------------------------------------------------------------------------

    def test_summaries_are_swapped(self, store: ConversationStore) -> None:
        """A summary replaces that of the version its writer has seen, and no other."""
        other: ConversationStore = self.reopen(store)
        said = talk(6)
        store.append(CHAT, said)
        assert store.summary(CHAT) is None
        first = Summary(
            text="They spoke of é and \ud800.",
            folded=4,
            tokens=9,
            digest=digest(said[:4]),
            written=3,
            seen=6,
            saved_usd=-0.125,
        )
        assert not store.replace(CHAT, first, version=1)
        assert store.replace(CHAT, first, version=0)
        assert store.summary(CHAT) == other.summary(CHAT) == replace(first, version=1)
        second = replace(first, text="More.", folded=6, version=77)
        assert not other.replace(CHAT, second, version=0)
        assert other.summary(CHAT) == replace(first, version=1)
        assert other.replace(CHAT, second, version=1)
        assert store.summary(CHAT) == replace(second, version=2)
        assert store.messages(CHAT) == said
        with pytest.raises(EntryTooLargeError):
            store.replace(CHAT, replace(first, text="x" * LARGE), version=2)

    def test_no_summary_of_what_is_not_there(self, store: ConversationStore) -> None:
        """A fold that ends after its conversation was deleted leaves nothing behind."""
        summary = Summary(text="So far.", folded=2)
        assert not store.replace(CHAT, summary, version=0)
        assert not store.replace(CHAT, Summary(), version=0)
        store.append(CHAT, talk(2))
        assert store.replace(CHAT, summary, version=0)
        store.delete(conversation=CHAT)
        assert not store.replace(CHAT, summary, version=1)
        store.append(CHAT, talk(1))
        assert not store.replace(CHAT, summary, version=0)
        assert store.summary(CHAT) is None
        assert list(store.conversations()) == [CHAT]

    def test_one_writer_wins(self, store: ConversationStore) -> None:
        """Of many who replace one version at once, one does; the others are told."""
        stores: list[ConversationStore] = [store, self.reopen(store)]
        store.append(CHAT, talk(2))
        barrier = threading.Barrier(16)

        def swap(worker: int, version: int) -> bool:
            barrier.wait()
            summary = Summary(text=f"by {worker}", folded=1)
            return stores[worker % 2].replace(CHAT, summary, version=version)

        with ThreadPoolExecutor(16) as pool:
            for version in range(4):
                won = list(pool.map(lambda n, v=version: swap(n, v), range(16)))
                assert sum(won) == 1
                kept = store.summary(CHAT)
                assert kept is not None
                assert (kept.version, kept.text) == (version + 1, f"by {won.index(True)}")

    # --- time -----------------------------------------------------------------------------------

    def test_what_nobody_uses_expires(self, clock: FakeClock) -> None:
        """A conversation ends so long after its last append; reading keeps nothing alive."""
        store: ConversationStore = self.make_store(clock, ttl=2.0)
        kept = replace(CHAT, id="kept")
        try:
            for chat in (CHAT, kept):
                store.append(chat, talk(2))
                assert store.replace(chat, Summary(text="So far.", folded=1), version=0)
            self.pass_time(clock, 1.2)
            assert store.append(kept, talk(2)) == 2  # nothing new, but used
            assert len(store.messages(CHAT)) == 2
            self.pass_time(clock, 1.2)
            assert store.messages(CHAT) == []
            assert store.summary(CHAT) is None
            assert not store.replace(CHAT, Summary(folded=1), version=1)
            assert list(store.conversations()) == [kept]
            assert store.delete(tenant="acme", user="ann") == 1
            assert store.append(CHAT, talk(1, start=5)) == 1  # begins anew
            assert store.messages(CHAT) == talk(1, start=5)
            assert store.replace(CHAT, Summary(folded=1), version=0)
        finally:
            getattr(store, "close", lambda: None)()

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
    def test_lifetimes_that_make_no_sense(self, clock: FakeClock, ttl: float) -> None:
        """A lifetime is in seconds; None is for ever."""
        with pytest.raises(ConfigError, match="ttl"):
            self.make_store(clock, ttl=ttl)

    # --- at once --------------------------------------------------------------------------------

    def test_writers_at_once(self, store: ConversationStore) -> None:
        """Each writer's batches stay whole and in its order, and none is lost or written twice."""
        stores: list[ConversationStore] = [store, self.reopen(store)]
        barrier = threading.Barrier(8)

        def write(worker: int) -> None:
            barrier.wait()
            for step in range(12):
                batch = [say(part, id=f"{worker} {step} {part}") for part in "abc"]
                stores[worker % 2].append(CHAT, batch)
                stores[(worker + 1) % 2].append(CHAT, batch)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        ids = [message.id for message in store.messages(CHAT)]
        assert len(ids) == len(set(ids)) == 8 * 12 * 3
        for worker in range(8):
            own = [ident for ident in ids if ident.startswith(f"{worker} ")]
            assert own == [f"{worker} {step} {part}" for step in range(12) for part in "abc"]
        for place in range(0, len(ids), 3):
            assert len({ident[:-1] for ident in ids[place : place + 3]}) == 1

    def test_a_thousand_conversations_at_once(self, store: ConversationStore) -> None:
        """They stay apart, with turns of each written by changing replicas."""
        stores: list[ConversationStore] = [store, self.reopen(store)]
        chats = [
            Conversation(id=str(n % 250), tenant=f"t{n % 4}", user=f"u{n // 250}")
            for n in range(1_000)
        ]

        def serve(number: int) -> None:
            chat = chats[number]
            for turn in range(3):
                mine = stores[(number + turn) % 2]
                said = [say(f"{chat} {part}", id=str(part)) for part in range(2 * turn + 2)]
                assert mine.append(chat, said) == len(said)
            summary = Summary(text=f"of {chat}", folded=4)
            assert stores[number % 2].replace(chat, summary, version=0)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(serve, range(1_000)))
        assert set(store.conversations()) == set(chats)
        for chat in chats:
            found = store.messages(chat)
            assert [one.text for one in found] == [f"{chat} {part}" for part in range(6)]
            assert store.summary(chat) == Summary(text=f"of {chat}", folded=4, version=1)

    def test_in_async_code(self, store: ConversationStore) -> None:
        """Driven by an event loop, everything does what it does in threads."""

        def turn(chat: Conversation) -> Flow[list[Message]]:
            assert (yield from call(store.acquire, chat.key, "me", 60))
            yield from call(store.append, chat, talk(4))
            summary = Summary(text="So far.", folded=2)
            assert (yield from call(store.replace, chat, summary, version=0))
            found = yield from call(store.summary, chat)
            assert found == replace(summary, version=1)
            yield from call(store.release, chat.key, "me")
            assert (yield from call(store.acquire, chat.key, "you", 60))
            tail = yield from call(store.messages, chat, start=2)
            assert (yield from call(store.delete, conversation=chat)) == 1
            return tail

        async def all_() -> list[list[Message]]:
            chats = [Conversation(id=str(n)) for n in range(20)]
            found = await asyncio.gather(*(arun(turn(chat)) for chat in chats))
            await getattr(store, "aclose", _nothing)()
            return found

        assert asyncio.run(all_()) == [talk(2, start=2)] * 20
        assert list(store.conversations()) == []

    # --- any history ----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(6))
    def test_any_history(self, store: ConversationStore, clock: FakeClock, seed: int) -> None:
        """Whatever happens in whatever order, a store says what `MemoryConversations` says."""
        random, plain = Random(seed), MemoryConversations(clock=clock)  # noqa: S311
        stores: list[ConversationStore] = [store, self.reopen(store)]
        chats = [Conversation(id=i, tenant=t) for i in "ab" for t in ("", "t")]
        for _ in range(150):
            chat, using = random.choice(chats), random.choice(stores)
            kind = random.choice(["append", "append", "replace", "read", "delete"])
            if kind == "append":
                said = [say("", id=str(random.randrange(40))) for _ in range(random.randrange(6))]
                assert using.append(chat, said) == plain.append(chat, said)
            elif kind == "replace":
                new = Summary(text=str(random.random()), folded=random.randrange(8))
                version = random.randrange(3)
                assert using.replace(chat, new, version=version) == plain.replace(
                    chat, new, version=version
                )
            elif kind == "delete" and random.random() < 0.3:
                which: dict[str, Any] = random.choice([{"conversation": chat}, {"tenant": "t"}])
                assert using.delete(**which) == plain.delete(**which)
            start = random.randrange(4)
            assert using.messages(chat, start=start) == plain.messages(chat, start=start)
            assert using.summary(chat) == plain.summary(chat)
            assert set(using.conversations()) == set(plain.conversations())

    # --- helpers --------------------------------------------------------------------------------

    def now(self, clock: FakeClock) -> float:
        """Return the time by the store's clock; override with `time.time` if that is a server's."""
        return clock()

    def some(self, store: ConversationStore) -> set[Conversation]:
        """Fill a store with two messages in each of seven conversations."""
        owners = (("acme", "ann"), ("acme", ""), ("globex", "ann"), ("", "ann"))
        chats = {
            Conversation(id=ident, tenant=tenant, user=user)
            for tenant, user in owners
            for ident in ("1", "2")
        } - {Conversation(id="2", tenant="acme")}
        for chat in chats:
            store.append(chat, talk(2))
        return chats

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Any]:
        """An empty store, closed afterwards if it can be."""
        store = self.make_store(clock)
        yield store
        getattr(store, "close", lambda: None)()


async def _nothing() -> None:
    pass
