"""Conversations in a Redis server, for any number of processes and machines."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final

from costwise_core.budget.moves import digest
from costwise_core.drive import Flow, call
from costwise_core.errors import StoreError
from costwise_core.memory.stores.arguments import Which, check_ttl
from costwise_core.memory.stores.redis_scripts import (
    APPEND,
    DELETE,
    LIST,
    READ,
    REPLACE,
    SUMMARY,
)
from costwise_core.memory.stores.rows import MAX_BYTES, Place, Row
from costwise_core.memory.stores.server import Bodies, Page, ServerConversations
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.redis_replies import value
from costwise_core.stores.redis_rows import Command
from costwise_core.stores.redis_scripts import ACQUIRE, RELEASE
from costwise_core.stores.redis_wire import RedisWire, check_prefix, evicting

__all__ = ["RedisConversations"]

_PAGE: Final = 500
_PAGE_BYTES: Final = 4_000_000
_DELETED: Final = 100
_FEW: Final = 100
_EVER: Final = "inf"


class RedisConversations(ServerConversations):
    """Keeps conversations in Redis 6 or newer.

    The constructor connects to nothing. What `append` and `replace` returned from outlives a
    `kill -9` of the server if that runs with `appendonly yes`; with `appendfsync always` it
    outlives a power cut too. A server that may evict conversations (a `maxmemory-policy` of
    "allkeys-...", or with `ttl` any but "noeviction") is refused: it would forget what was said.
    One server, with replicas or not, but no cluster.

    Every method but `conversations` has an asynchronous twin with an "a" in front. See
    `ConversationStore` for what they do.

    Args:
        url: Such as "redis://localhost:6379/0"; rediss:// for TLS, unix:// for a socket.
        prefix: What all keys begin with; stores of different prefixes share nothing. It may be that
            of a `RedisStore`.
        ttl: Seconds after the last append at which a conversation is deleted; None keeps it.
        timeout: Seconds to wait for a connection, and again for a reply. Deletions and
            appends of more than 100 messages may wait 10 seconds for theirs.
        options: More arguments for redis-py's clients, such as `credential_provider`.

    Raises:
        MissingExtraError: if redis-py is not installed.
        ConfigError: if an argument makes no sense.

    Example:
        >>> from costwise_core.memory.stores.redis import RedisConversations
        >>> store = RedisConversations("redis://localhost:6379/0", ttl=30 * 86_400)
        >>> store.close()
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "costwise",
        ttl: float | None = None,
        timeout: float = 2.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_ttl(ttl)
        check_prefix(prefix)
        self._ttl = ttl
        self._prefix = f"{prefix}:memory"
        self._wire = RedisWire(
            url,
            timeout=timeout,
            options=options or {},
            breaker=Breaker(),
            feature="RedisConversations",
        )
        self._keeps = False

    def close(self) -> None:
        """Close the connections made outside of event loops; using the store opens new ones."""
        self._wire.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, and what `close` closes."""
        await self._wire.aclose()

    # --- conversations ---------------------------------------------------------------------------

    def _append(self, place: Place, rows: Sequence[Row]) -> Flow[int]:
        yield from self._check()
        keys = (*self._lists, self._conversation(place.key))
        lasting = "" if self._ttl is None else max(1, round(self._ttl * 1000))
        pairs = [part for row in rows for part in row]
        values = (f"{self._prefix}:c:", _called(place), place.names, lasting, *pairs)
        return int((yield from self._run(APPEND, keys, *values, patient=len(rows) > _FEW)))

    def _bodies(self, place: Place, start: int, stop: int) -> Flow[Bodies]:
        limits = (_PAGE, _PAGE_BYTES, MAX_BYTES)
        key = self._conversation(place.key)
        after, *found = yield from self._run(READ, (key,), start, stop, *limits)
        return Bodies(found, None if after < 0 else after)

    def _kept_summary(self, place: Place) -> Flow[tuple[int, object]]:
        key = self._conversation(place.key)
        version, body = yield from self._run(SUMMARY, (key,), MAX_BYTES)
        return int(version), body

    def _swap(self, place: Place, body: bytes, folded: int, version: int) -> Flow[bool]:
        key = self._conversation(place.key)
        return bool((yield from self._run(REPLACE, (key,), version, folded, body)))

    def _page(self, which: Which, after: bytes) -> Flow[Page]:
        found, last = yield from self._list(which, after, _PAGE)
        return Page([(_key(called), names) for called, names in found], last)

    def _delete(self, which: Which) -> Flow[int]:
        unused = _before(which)
        count, after = 0, b""
        while True:
            if which.conversation is None:
                found, last = yield from self._list(which, after, _DELETED)
                chosen = [called for called, _ in found]
            else:
                chosen, last = [_called(Place.of(which.conversation))], None
            pairs = [part for one in chosen for part in (one, self._lease(_key(one).hex()))]
            values = (f"{self._prefix}:c:", unused, *pairs)
            count += int((yield from self._run(DELETE, self._lists, *values, patient=True)))
            if last is None:
                return count
            after = last

    def _list(
        self, which: Which, after: bytes, most: int
    ) -> Flow[tuple[list[tuple[bytes, bytes | None]], bytes | None]]:
        start = _beginning(which)
        lowest = b"(" + after if after else b"[" + start
        highest = b"(" + start + b"\xff" if start else b"+"
        last, *found = yield from self._run(
            LIST,
            self._lists[:2],
            *(f"{self._prefix}:c:", lowest, highest, most, _before(which), MAX_BYTES),
        )
        return list(zip(found[::2], found[1::2], strict=True)), last

    # --- leases ----------------------------------------------------------------------------------

    def _acquire(self, name: str, owner: str, seconds: float) -> Flow[bool]:
        milliseconds = max(1, round(seconds * 1000))
        who = digest(owner).hex()
        return bool((yield from self._run(ACQUIRE, (self._lease(name),), who, milliseconds)))

    def _release(self, name: str, owner: str) -> Flow[None]:
        yield from self._run(RELEASE, (self._lease(name),), digest(owner).hex())

    # --- the server ------------------------------------------------------------------------------

    def _check(self) -> Flow[None]:
        """Refuse a server that would evict conversations; looked at once."""
        if self._keeps:
            return
        (reply,) = yield from call(self._wire.send, [("INFO", "memory")])
        if policy := evicting(value(reply), expiring=self._ttl is not None):
            raise StoreError(
                f"this Redis server may evict conversations (maxmemory-policy {policy}), so it "
                "would forget what was said; use noeviction, or a volatile-... policy and no ttl."
            )
        self._keeps = True

    def _run(
        self,
        script: str,
        keys: Sequence[str],
        *values: str | bytes | float,
        patient: bool = False,
    ) -> Flow[Any]:
        every = (f"{self._prefix}:schema", *keys)
        command: Command = ("EVAL", script, len(every), *every, *values)
        (reply,) = yield from call(self._wire.send, [command], patient=patient)
        return value(reply)

    @property
    def _lists(self) -> tuple[str, str, str]:
        return f"{self._prefix}:names", f"{self._prefix}:used", f"{self._prefix}:ends"

    def _conversation(self, key: bytes) -> str:
        return f"{self._prefix}:c:{key.hex()}"

    def _lease(self, name: str) -> str:
        return f"{self._prefix}:lease:{digest(name).hex()}"


def _called(place: Place) -> bytes:
    """Return what the lists call a conversation: in their order, users stand with their tenant."""
    return f"{place.tenant.hex()}:{place.owner.hex()}:{place.key.hex()}".encode()


def _key(called: bytes) -> bytes:
    return bytes.fromhex(called[-32:].decode())


def _beginning(which: Which) -> bytes:
    """Return what all of the selection are called in the beginning."""
    if which.tenant is None:
        return b""
    tenant = f"{digest(which.tenant).hex()}:"
    user = "" if which.user is None else f"{digest(which.tenant, which.user).hex()}:"
    return (tenant + user).encode()


def _before(which: Which) -> str | float:
    return _EVER if which.unused_since in (None, inf) else which.unused_since
