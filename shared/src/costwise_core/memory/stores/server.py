"""What conversations in a server have in common, whichever server it is."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from costwise_core.drive import Flow, arun, run
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.stores.arguments import Which, check_range
from costwise_core.memory.stores.rows import Place, Reader, Row, packed, rows_of
from costwise_core.stores.checks import check_seconds

__all__ = ["Bodies", "Page", "ServerConversations"]


class Bodies(NamedTuple):
    """Some of a conversation's messages, and the place to go on from, if there are more."""

    found: Sequence[object]
    start: int | None


class Page(NamedTuple):
    """Some of a selection's conversations, keys and names, and the key to go on after, if any."""

    found: Sequence[tuple[bytes, object]]
    after: bytes | None


class ServerConversations:
    """Is a `ConversationStore`, for threads and for event loops. A subclass says how, as flows.

    Every method has an asynchronous twin with an "a" in front, `conversations` excepted.
    """

    def __init__(self) -> None:
        self._reader = Reader()

    @property
    def damaged(self) -> int:
        """How many rows this object found damaged and passed over."""
        return self._reader.damaged

    def append(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Add what is new of these messages, all or none, and return how many there are now.

        Raises:
            EntryTooLargeError: if one has more than 1,000,000 bytes as JSON.
            ConfigError: if one has a field of another type.
            StoreError: if the server cannot be used; they may have been added then.
        """
        return run(self._append(Place.of(conversation), rows_of(messages)))

    async def aappend(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Do what `append` does, without blocking the event loop."""
        return await arun(self._append(Place.of(conversation), rows_of(messages)))

    def messages(
        self, conversation: Conversation, *, start: int = 0, stop: int | None = None
    ) -> list[Message]:
        """Return the messages from number `start` to before number `stop`, oldest first.

        Raises:
            ConfigError: if a number is below 0.
            StoreError: if the server cannot be used.
        """
        return run(self._messages(Place.of(conversation), start, stop))

    async def amessages(
        self, conversation: Conversation, *, start: int = 0, stop: int | None = None
    ) -> list[Message]:
        """Do what `messages` does, without blocking the event loop."""
        return await arun(self._messages(Place.of(conversation), start, stop))

    def summary(self, conversation: Conversation) -> Summary | None:
        """Return what stands for the first messages, None if nothing does.

        A damaged one stands for none: it has its version and no text.

        Raises:
            StoreError: if the server cannot be used.
        """
        return run(self._summary(Place.of(conversation)))

    async def asummary(self, conversation: Conversation) -> Summary | None:
        """Do what `summary` does, without blocking the event loop."""
        return await arun(self._summary(Place.of(conversation)))

    def replace(self, conversation: Conversation, summary: Summary, *, version: int) -> bool:
        """Put this summary in the place of that with `version`; False if that is gone.

        Raises:
            EntryTooLargeError: if it has more than 1,000,000 bytes as JSON.
            StoreError: if the server cannot be used; it may have been replaced then.
        """
        place, body = Place.of(conversation), packed(summary)
        return run(self._swap(place, body, summary.folded, version))

    async def areplace(self, conversation: Conversation, summary: Summary, *, version: int) -> bool:
        """Do what `replace` does, without blocking the event loop."""
        place, body = Place.of(conversation), packed(summary)
        return await arun(self._swap(place, body, summary.folded, version))

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
            StoreError: if the server cannot be used.
        """
        return self._pages(Which(tenant=tenant, user=user, unused_since=unused_since))

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
            StoreError: if the server cannot be used; some may have been deleted then.
        """
        which = Which(
            conversation=conversation, tenant=tenant, user=user, unused_since=unused_since
        )
        return run(self._delete(which.named()))

    async def adelete(
        self,
        *,
        conversation: Conversation | None = None,
        tenant: str | None = None,
        user: str | None = None,
        unused_since: float | None = None,
    ) -> int:
        """Do what `delete` does, without blocking the event loop."""
        which = Which(
            conversation=conversation, tenant=tenant, user=user, unused_since=unused_since
        )
        return await arun(self._delete(which.named()))

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long, by the server's clock.

        Returns:
            False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
            StoreError: if the server cannot be used.
        """
        check_seconds(seconds)
        return run(self._acquire(name, owner, seconds))

    async def aacquire(self, name: str, owner: str, seconds: float) -> bool:
        """Do what `acquire` does, without blocking the event loop."""
        check_seconds(seconds)
        return await arun(self._acquire(name, owner, seconds))

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it.

        Raises:
            StoreError: if the server cannot be used.
        """
        run(self._release(name, owner))

    async def arelease(self, name: str, owner: str) -> None:
        """Do what `release` does, without blocking the event loop."""
        await arun(self._release(name, owner))

    def close(self) -> None:
        """Close the connections; using the store again opens them again."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the same for all servers ---------------------------------------------------------------

    def _messages(self, place: Place, start: int, stop: int | None) -> Flow[list[Message]]:
        check_range(start, stop)
        found = list[Message]()
        at: int | None = start
        while at is not None:
            page = yield from self._bodies(place, at, 2**31 - 1 if stop is None else stop)
            found += self._reader.messages(page.found)
            at = page.start
        return found

    def _summary(self, place: Place) -> Flow[Summary | None]:
        version, body = yield from self._kept_summary(place)
        return self._reader.summary(body, version)

    def _pages(self, which: Which) -> Iterator[Conversation]:
        after: bytes | None = b""
        while after is not None:
            page = run(self._page(which, after))
            yield from self._reader.conversations(page.found)
            after = page.after

    # --- what a server says -----------------------------------------------------------------------

    def _append(self, place: Place, rows: Sequence[Row]) -> Flow[int]:
        raise NotImplementedError

    def _bodies(self, place: Place, start: int, stop: int) -> Flow[Bodies]:
        raise NotImplementedError

    def _kept_summary(self, place: Place) -> Flow[tuple[int, object]]:
        raise NotImplementedError

    def _swap(self, place: Place, body: bytes, folded: int, version: int) -> Flow[bool]:
        raise NotImplementedError

    def _page(self, which: Which, after: bytes) -> Flow[Page]:
        raise NotImplementedError

    def _delete(self, which: Which) -> Flow[int]:
        raise NotImplementedError

    def _acquire(self, name: str, owner: str, seconds: float) -> Flow[bool]:
        raise NotImplementedError

    def _release(self, name: str, owner: str) -> Flow[None]:
        raise NotImplementedError
