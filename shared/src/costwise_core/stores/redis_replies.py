"""What a Redis server's replies say when they are errors."""

from typing import Any

from costwise_core.errors import StoreError, StoreVersionError

__all__ = ["other_schema", "says", "value"]


def says(reply: object, *parts: str) -> bool:
    """Return whether a reply is an error that mentions one of the parts.

    Example:
        >>> says(ValueError("Index already exists"), "already EXISTS")
        True
        >>> says(b"already exists", "already exists")
        False
    """
    return isinstance(reply, Exception) and any(p.lower() in str(reply).lower() for p in parts)


def value(reply: Any) -> Any:
    """Return a reply that is none of Redis' errors.

    Raises:
        StoreError: if it is one.

    Example:
        >>> value(b"OK")
        b'OK'
    """
    if not isinstance(reply, Exception):
        return reply
    if says(reply, "COSTWISE schema"):
        raise other_schema(str(reply).partition("COSTWISE schema ")[2]) from reply
    if says(reply, "unknown command") and says(reply, "FT."):
        raise StoreError(
            "this Redis server has no query engine; use Redis 8, Redis Stack or a service with it."
        ) from reply
    raise StoreError(f"the Redis server refused a command: {str(reply)[:200]}") from reply


def other_schema(version: str) -> StoreVersionError:
    """Return the error for keys that this version of costwise did not write.

    Example:
        >>> str(other_schema("7"))
        'the keys were written by a newer costwise (schema 7); update it or use another prefix.'
    """
    if version.isdigit() and len(version) < 9:
        return StoreVersionError(
            f"the keys were written by a newer costwise (schema {version}); update it or use "
            "another prefix."
        )
    return StoreVersionError("the keys under this prefix are not costwise's; use another prefix.")
