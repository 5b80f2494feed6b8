"""Everything costwise raises, under one root.

    CostwiseError
    ├── ConfigError          an argument is wrong; raised where it was given
    │   └── MissingExtraError    an optional dependency is not installed
    ├── PriceError           a price cannot be given
    │   └── UnknownModelError    no price is known for this model
    ├── VectorError          a vector is NaN, zero or of the wrong size
    ├── BudgetExceededError  a call does not fit into a budget; nothing was sent or paid
    ├── RouteError           no route can answer a request
    ├── BatchError           a batch provider did not take what it was handed
    ├── SharedStreamError    a stream shared with another request broke off
    └── StoreError           a store cannot do what was asked
        ├── StoreVersionError     written by a newer costwise, or not by costwise at all
        ├── StoreUnavailableError locked, read-only, full or gone
        └── EntryTooLargeError    more bytes than the store accepts for one entry

Messages say what was wrong, what would be right and, for names, the nearest one.
"""

import difflib
from collections.abc import Iterable
from typing import Literal

__all__ = [
    "BatchError",
    "BudgetExceededError",
    "ConfigError",
    "CostwiseError",
    "EntryTooLargeError",
    "MissingExtraError",
    "PriceError",
    "RouteError",
    "SharedStreamError",
    "StoreError",
    "StoreUnavailableError",
    "StoreVersionError",
    "UnknownModelError",
    "VectorError",
    "nearest",
]


class CostwiseError(Exception):
    """The root of all errors costwise raises on purpose."""


class ConfigError(CostwiseError, ValueError):
    """An argument is wrong; raised where it was given, never at request time."""


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str, *, package: str = "costwise-core") -> None:
        both = (
            f" (langchain-costwise and llamaindex-costwise have the extra {extra!r} too)"
            if package == "costwise-core"
            else ""
        )
        super().__init__(
            f"{feature} needs an optional dependency that is not installed. "
            f"Install it with: pip install '{package}[{extra}]'{both}."
        )


class PriceError(CostwiseError, LookupError):
    """A price cannot be given for what was asked."""


class UnknownModelError(PriceError):
    """No price is known for this model: never the same thing as a price of zero."""


class VectorError(CostwiseError, ValueError):
    """A vector is not finite, has no direction, or has the wrong number of dimensions."""


class BudgetExceededError(CostwiseError):
    """A call does not fit into a budget; nothing was sent or paid.

    Attributes:
        budget: The budget's name.
        on_exceed: What the budget says is to happen: "refuse", "downgrade", "cache_only", "queue".
        resets: When its window ends, in seconds since the epoch; infinite for a total.
        ticket: What the queue gave for the call, if the budget says "queue" and there is one.
    """

    ticket: object = None

    def __init__(
        self, message: str, *, budget: str, on_exceed: str = "refuse", resets: float = float("inf")
    ) -> None:
        super().__init__(message)
        self.budget, self.on_exceed, self.resets = budget, on_exceed, resets


class RouteError(CostwiseError, ValueError):
    """No route can answer a request, or a promise cannot be made about routes."""


class BatchError(CostwiseError):
    """A batch provider did not take what it was handed; nothing of it was run or paid.

    Attributes:
        reason: "busy" (later may help), "access" (the key or the endpoint is wrong) or "rejected".
    """

    def __init__(
        self, message: str, *, reason: Literal["busy", "access", "rejected"] = "rejected"
    ) -> None:
        super().__init__(message)
        self.reason = reason


class SharedStreamError(CostwiseError):
    """A stream shared with another request broke off for a reason of that request's; ask again."""


class StoreError(CostwiseError):
    """A store cannot do what was asked of it."""


class StoreVersionError(StoreError):
    """The store was written by a newer costwise, or is not a costwise store at all."""


class StoreUnavailableError(StoreError):
    """The store is locked, read-only, full or gone."""


class EntryTooLargeError(StoreError):
    """One entry has more bytes than the store accepts."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to `name`, or "" if none is near.

    Example:
        >>> nearest("gpt-4o-mni", ["gpt-4o", "gpt-4o-mini"])
        " Did you mean 'gpt-4o-mini'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
