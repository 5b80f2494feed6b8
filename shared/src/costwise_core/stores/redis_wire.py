"""The connection to a Redis server: commands go out, replies come back, within a time box."""

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, MissingExtraError, StoreUnavailableError
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.redis_rows import Command

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

__all__ = ["PATIENCE", "RedisWire", "check_prefix", "evicting"]

PATIENCE: Final = 10.0
"""Seconds a command that writes or walks many entries may take."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_UNABLE: Final = frozenset(
    {"BusyLoadingError", "ClusterDownError", "MasterDownError", "OutOfMemoryError", "ReadOnlyError"}
)


def check_prefix(prefix: str) -> None:
    """Refuse what no key should begin with.

    Raises:
        ConfigError: if it is empty, too long, or has a character that means something to Redis.

    Example:
        >>> check_prefix("my app")
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: prefix has 1 to 64 letters, digits, '_', '-' or '.', ...
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"prefix has 1 to 64 letters, digits, '_', '-' or '.', got {prefix[:80]!r}."
        )


def evicting(memory: Mapping[str, Any], *, expiring: bool) -> str:
    """Return the policy by which a full server would drop keys before their time, "" if by none.

    Args:
        memory: What `INFO memory` says.
        expiring: Whether the keys in question expire; only such keys go by a volatile policy.

    Example:
        >>> evicting({"maxmemory": 100, "maxmemory_policy": "volatile-lru"}, expiring=False)
        ''
    """
    policy = str(memory.get("maxmemory_policy", ""))
    drops = ("allkeys", "volatile") if expiring else "allkeys"
    return policy if memory.get("maxmemory") and policy.startswith(drops) else ""


class RedisWire:
    """Sends commands to one server, from threads and event loops alike; connects on first use.

    A forked child opens connections of its own, and so does each event loop.

    Args:
        url: Where the server is.
        timeout: Seconds to wait for a connection, and again for a reply.
        options: More arguments for redis-py's clients.
        breaker: Decides when a server that failed is left alone.
        feature: What needs redis-py.

    Raises:
        MissingExtraError: if redis-py is not installed.
        ConfigError: if an argument makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        options: Mapping[str, Any],
        breaker: Breaker,
        feature: str,
    ) -> None:
        if find_spec("redis") is None:
            raise MissingExtraError(feature, "redis")
        if not str(url).startswith(("redis://", "rediss://", "unix://")):
            raise ConfigError(
                "url must start with redis://, rediss:// or unix://, such as "
                "'redis://localhost:6379/0'."  # what was given may hold a password
            )
        if not 0 < timeout <= 3600:
            raise ConfigError(f"timeout is in seconds, above 0 and at most 3600, got {timeout!r}.")
        self.timeout = timeout
        self._url = str(url)
        self._options = dict(options)
        self._breaker = breaker
        self._clients: dict[tuple[int, float], Redis] = {}
        self._loops: dict[asyncio.AbstractEventLoop, dict[float, AsyncRedis]] = {}

    def send(self, commands: Sequence[Command], *, patient: bool = False) -> list[Any]:
        """Send commands at once and return a reply for each; one that failed is an exception.

        Args:
            commands: What to send.
            patient: Whether a reply may take `PATIENCE` seconds.

        Raises:
            StoreUnavailableError: if the server is gone, too slow or cannot serve now.
        """
        from redis.exceptions import RedisError  # noqa: PLC0415 - optional

        self._breaker.check()
        try:
            pipe: Any = self._client(patient=patient).pipeline(transaction=False)
            with pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies = pipe.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        return self._checked(replies)

    async def asend(self, commands: Sequence[Command], *, patient: bool = False) -> list[Any]:
        """Do what `send` does, on the running event loop."""
        from redis.exceptions import RedisError  # noqa: PLC0415 - optional

        self._breaker.check()
        try:
            pipe: Any = self._aclient(patient=patient).pipeline(transaction=False)
            async with pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies = await pipe.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        return self._checked(replies)

    def pause(self, seconds: float) -> None:
        """Wait a moment."""
        time.sleep(seconds)

    async def apause(self, seconds: float) -> None:
        """Wait a moment and let the event loop do something else."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Close this process's connections, those of event loops excepted."""
        for key in [key for key in self._clients if key[0] == os.getpid()]:
            self._clients.pop(key).close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, and what `close` closes."""
        for client in self._loops.pop(asyncio.get_running_loop(), {}).values():
            await client.aclose()
        self.close()

    def _client(self, *, patient: bool) -> "Redis":
        seconds = max(self.timeout, PATIENCE) if patient else self.timeout
        client = self._clients.get((os.getpid(), seconds))
        if client is None:
            import redis  # noqa: PLC0415 - optional
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415

            pool = redis.BlockingConnectionPool.from_url(
                self._url, retry=Retry(NoBackoff(), 0), **self._settings(seconds)
            )
            client = redis.Redis.from_pool(pool)
            client = self._clients.setdefault((os.getpid(), seconds), client)
        return client

    def _aclient(self, *, patient: bool) -> "AsyncRedis":
        seconds = max(self.timeout, PATIENCE) if patient else self.timeout
        running = asyncio.get_running_loop()
        if running not in self._loops:
            for loop in [loop for loop in list(self._loops) if loop.is_closed()]:
                self._loops.pop(loop, None)  # its connections can only be dropped
        clients = self._loops.setdefault(running, {})
        if seconds not in clients:
            import redis.asyncio  # noqa: PLC0415 - optional
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415

            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self._url, retry=Retry(NoBackoff(), 0), **self._settings(seconds)
            )
            clients[seconds] = redis.asyncio.Redis.from_pool(pool)
        return clients[seconds]

    def _settings(self, seconds: float) -> dict[str, Any]:
        """Return what both clients are made with; replies have one shape whatever the server."""
        # A caller beyond the last connection waits for one as long as for a reply.
        usual = {"socket_connect_timeout": self.timeout, "max_connections": 50, "timeout": seconds}
        fixed = {"protocol": 2, "decode_responses": False, "socket_timeout": seconds}
        return {**usual, **self._options, **fixed}

    def _checked(self, replies: list[Any]) -> list[Any]:
        self._breaker.ok()  # it answers, even if it cannot do what it should
        for reply in replies:
            if isinstance(reply, Exception) and (
                type(reply).__name__ in _UNABLE or str(reply).startswith(("MISCONF", "NOREPLICAS"))
            ):
                raise _unavailable(reply) from reply
        return replies

    def _failed(self, error: Exception) -> StoreUnavailableError:
        self._breaker.failed()
        return _unavailable(error)


def _unavailable(error: Exception) -> StoreUnavailableError:
    # Not the message, which may tell of the address or of a command.
    return StoreUnavailableError(f"the Redis server cannot be used now ({type(error).__name__}).")
