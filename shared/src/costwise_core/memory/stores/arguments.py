"""What a caller may ask of a store of conversations."""

import math
from dataclasses import dataclass
from typing import Final

from costwise_core.budget.moves import digest
from costwise_core.errors import ConfigError
from costwise_core.memory.messages import Conversation
from costwise_core.memory.stores.rows import Place

__all__ = ["Which", "check_range", "check_ttl"]

_FOREVER: Final = 10**10  # seconds; three hundred years


@dataclass(frozen=True, kw_only=True, slots=True)
class Which:
    """Which conversations to list or delete; what is None selects nothing away.

    Args:
        conversation: This one only.
        tenant: Those of a tenant.
        user: Those of a user of that tenant.
        unused_since: Those to which nothing was appended since, in seconds since the epoch.

    Raises:
        ConfigError: if a user is named without the tenant, or a conversation with either.

    Example:
        >>> Which(user="ann")
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: a user is one of a tenant: name the tenant too; the ...
    """

    conversation: Conversation | None = None
    tenant: str | None = None
    user: str | None = None
    unused_since: float | None = None

    def __post_init__(self) -> None:
        if self.user is not None and self.tenant is None:
            raise ConfigError(
                "a user is one of a tenant: name the tenant too; the default one is ''."
            )
        if self.conversation is not None and self.tenant is not None:
            raise ConfigError("a conversation has a tenant and a user already; leave them out.")
        if self.unused_since is not None and math.isnan(self.unused_since):
            raise ConfigError("unused_since is in seconds since the epoch, got nan.")

    def named(self) -> "Which":
        """Return this selection, if it says anything at all.

        Raises:
            ConfigError: if it does not; nobody deletes everything by leaving an argument out.
        """
        if self == Which():
            raise ConfigError(
                "say what to delete: a conversation, a tenant, a tenant's user, or unused_since "
                "(everything is unused_since=float('inf'))."
            )
        return self

    def where(self) -> tuple[str, list[object]]:
        """Write the selection as SQL, with a "?" for each of its values."""
        terms, values = ["true"], list[object]()
        if self.conversation is not None:
            terms.append("key = ?")
            values.append(Place.of(self.conversation).key)
        if self.user is not None and self.tenant is not None:
            terms.append("owner = ?")
            values.append(digest(self.tenant, self.user))
        elif self.tenant is not None:
            terms.append("tenant = ?")
            values.append(digest(self.tenant))
        if self.unused_since is not None:
            terms.append("used < ?")
            values.append(self.unused_since)
        return " AND ".join(terms), values


def check_ttl(ttl: float | None) -> None:
    """Refuse a lifetime that no conversation can have.

    Raises:
        ConfigError: if it is not a number above 0 and below 300 years.
    """
    if ttl is not None and not 0.001 <= ttl <= _FOREVER:
        raise ConfigError(
            f"ttl is in seconds, from 0.001 to {_FOREVER:,}, or None for ever; got {ttl!r}."
        )


def check_range(start: int, stop: int | None) -> None:
    """Refuse places that no message has.

    Raises:
        ConfigError: if one of them is below 0.
    """
    if start < 0 or (stop is not None and stop < 0):
        raise ConfigError(
            f"messages are counted from 0, the oldest; got start={start!r}, stop={stop!r}."
        )
