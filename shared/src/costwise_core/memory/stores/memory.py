"""Conversations in this process's memory."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.naming import named
from costwise_core.memory.stores.arguments import Which, check_range, check_ttl
from costwise_core.memory.stores.rows import Place, packed
from costwise_core.stores.checks import check_seconds

__all__ = ["MemoryConversations"]


@dataclass(slots=True)
class _Kept:
    messages: dict[str, Message] = field(default_factory=dict)  # by id, oldest first
    summary: Summary | None = None
    used: float = 0.0
    expires: float = inf


class MemoryConversations:
    """Keeps conversations in this process: for tests, notebooks and short-lived services.

    Thread-safe; see `ConversationStore` for what the methods do.

    Args:
        ttl: Seconds after the last append at which a conversation is deleted; None keeps it.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if `ttl` is out of range.

    Example:
        >>> from costwise_core import Conversation, MemoryConversations, Message
        >>> store = MemoryConversations()
        >>> chat = Conversation(id="42", tenant="acme", user="ann")
        >>> store.append(chat, [Message(role="user", text="Where is my parcel?")])
        1
        >>> [message.text for message in store.messages(chat)]
        ['Where is my parcel?']
        >>> store.delete(tenant="acme", user="ann")
        1
    """

    blocking = False

    def __init__(self, *, ttl: float | None = None, clock: Callable[[], float] = time.time) -> None:
        check_ttl(ttl)
        self._ttl = inf if ttl is None else ttl
        self._clock = clock
        self._kept = OrderedDict[Conversation, _Kept]()  # that of the oldest append first
        self._leases: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def append(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Add what is new of these messages, all or none, and return how many there are now.

        Raises:
            EntryTooLargeError: if one has more than 1,000,000 bytes as JSON.
            ConfigError: if one has a field of another type.
        """
        Place.of(conversation)
        for message in messages:
            packed(message)
        ids = named(messages)
        with self._lock:
            now = self._clock()
            self._drop_expired(now)
            if not ids:
                return len(self._find(conversation).messages)
            kept = self._kept.setdefault(conversation, _Kept())
            self._kept.move_to_end(conversation)
            kept.used, kept.expires = now, now + self._ttl
            for message in ids:
                kept.messages.setdefault(message.id, message)
            return len(kept.messages)

    def messages(
        self, conversation: Conversation, *, start: int = 0, stop: int | None = None
    ) -> list[Message]:
        """Return the messages from number `start` to before number `stop`, oldest first.

        Raises:
            ConfigError: if a number is below 0.
        """
        check_range(start, stop)
        with self._lock:
            return list(self._find(conversation).messages.values())[start:stop]

    def summary(self, conversation: Conversation) -> Summary | None:
        """Return what stands for the first messages, None if nothing does."""
        with self._lock:
            return self._find(conversation).summary

    def replace(self, conversation: Conversation, summary: Summary, *, version: int) -> bool:
        """Put this summary in the place of that with `version`; False if that is gone.

        Raises:
            EntryTooLargeError: if it has more than 1,000,000 bytes as JSON.
        """
        packed(summary)
        with self._lock:
            kept = self._find(conversation)
            if version != (kept.summary.version if kept.summary else 0):
                return False
            if not kept.messages or summary.folded > len(kept.messages):
                return False
            kept.summary = replace(summary, version=version + 1)
            return True

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
        """
        which = Which(tenant=tenant, user=user, unused_since=unused_since)
        with self._lock:
            return iter(self._chosen(which))

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
        """
        which = Which(
            conversation=conversation, tenant=tenant, user=user, unused_since=unused_since
        ).named()
        with self._lock:
            chosen = self._chosen(which)
            for one in chosen:
                del self._kept[one]
                self._leases.pop(one.key, None)
            return len(chosen)

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it.

        Raises:
            ConfigError: if the time is not finite and above 0.
        """
        check_seconds(seconds)
        with self._lock:
            now = self._clock()
            for ended in [key for key, (_, until) in self._leases.items() if until <= now]:
                del self._leases[ended]
            if self._leases.get(name, (owner, 0.0))[0] != owner:
                return False
            self._leases[name] = owner, now + seconds
            return True

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it."""
        with self._lock:
            if self._leases.get(name, ("", 0.0))[0] == owner:
                self._leases.pop(name, None)

    def _find(self, conversation: Conversation) -> _Kept:
        kept = self._kept.get(conversation)
        return kept if kept is not None and kept.expires > self._clock() else _Kept()

    def _chosen(self, which: Which) -> list[Conversation]:
        now = self._clock()
        return [
            one
            for one, kept in self._kept.items()
            if kept.expires > now
            and which.conversation in (None, one)
            and which.tenant in (None, one.tenant)
            and which.user in (None, one.user)
            and (which.unused_since is None or kept.used < which.unused_since)
        ]

    def _drop_expired(self, now: float) -> None:
        while self._kept and next(iter(self._kept.values())).expires <= now:
            self._kept.popitem(last=False)
