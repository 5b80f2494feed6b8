"""When a changed collection has been rebuilt: rules about what a server shows, and patience.

A server says "green" before it has begun, goes "grey" until somebody writes, and shows the new
configuration at once. So one look proves nothing, and only what stays the same counts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError

__all__ = ["Look", "Patience", "until_settled"]

Verdict = Literal["wait", "nudge", "settled"]
_GREY_LOOKS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a collection showed at one moment.

    Attributes:
        status: "green", "yellow", "grey" or "red".
        indexed: Vectors that are in an index, as the engine counts them.
        wanted: Vectors that must be.
        configured: Whether the configuration is the one that was asked for.
        busy: Optimizations running or queued; None if the server cannot say.
        error: What the optimizer says went wrong, if anything.
    """

    status: str
    indexed: int
    wanted: int
    configured: bool
    busy: int | None = None
    error: str = ""

    def __str__(self) -> str:
        """Return it in words."""
        work = "" if self.busy is None else f", {self.busy} optimizations to do"
        config = "" if self.configured else ", not yet configured as asked"
        return f"{self.status}, {self.indexed:,} of {self.wanted:,} vectors indexed{work}{config}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often to look, and for how long.

    Args:
        poll_seconds: Between two looks.
        settle_seconds: For how long a collection that never looked busy must stay green, where the
            server has no list of optimizations (before 1.17) and may only not have begun.
        timeout_seconds: When to give up; large collections take hours.

    Raises:
        ConfigError: if a value is out of its range.

    Example:
        >>> Patience(poll_seconds=0.5).timeout_seconds
        21600.0
    """

    poll_seconds: float = 2.0
    settle_seconds: float = 15.0
    timeout_seconds: float = 6 * 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.poll_seconds <= 3600:
            raise ConfigError(f"poll_seconds must be over 0, up to 3600; got {self.poll_seconds}.")
        if not 0 <= self.settle_seconds <= self.timeout_seconds:
            raise ConfigError("settle_seconds must be from 0 to timeout_seconds.")


def verdict(looks: Sequence[Look], *, green_for: float, patience: Patience) -> Verdict:
    """Judge all looks so far, oldest first.

    Args:
        looks: At least one.
        green_for: Seconds since when every look was settled by itself.
        patience: How long to mistrust.

    Raises:
        StoreError: if the engine gave up.

    Example:
        >>> green = Look(status="green", indexed=9, wanted=9, configured=True, busy=0)
        >>> verdict([green], green_for=0, patience=Patience())
        'wait'
        >>> verdict([green, green], green_for=2, patience=Patience())
        'settled'
    """
    last = looks[-1]
    if last.error or last.status == "red":
        raise StoreError(
            f"Qdrant's optimizer failed ({last.error or 'status red'}); its log says more. A full "
            "disk and damaged segments are the usual reasons."
        )
    if last.status == "grey":
        grey = 0
        for look in reversed(looks):
            if look.status != "grey":
                break
            grey += 1
        return "nudge" if grey % _GREY_LOOKS == 0 else "wait"
    before = looks[-2] if len(looks) > 1 else None
    if before is None or not _still(last) or not _still(before) or before.indexed != last.indexed:
        return "wait"
    seen_busy = any(look.status != "green" or look.busy for look in looks)
    if last.busy is None and not seen_busy and green_for < patience.settle_seconds:
        return "wait"
    return "settled"


def until_settled(
    look: Callable[[], Look],
    nudge: Callable[[], None],
    *,
    patience: Patience,
    said: Callable[[str], None],
) -> Look:
    """Look again and again until a collection has settled, and return the last look.

    Args:
        look: Looks once.
        nudge: A write that changes nothing, which a grey collection waits for.
        patience: How often, and for how long.
        said: Told what was seen, whenever that changes.

    Raises:
        StoreError: if the engine gave up.
        StoreUnavailableError: if the time is over; what the server does goes on.
    """
    looks: list[Look] = []
    begun = time.monotonic()
    green_since: float | None = None
    while True:
        now = look()
        if not looks or looks[-1] != now:
            said(str(now))
        moment = time.monotonic()
        green_since = None if not _still(now) else moment if green_since is None else green_since
        looks.append(now)
        green_for = 0.0 if green_since is None else moment - green_since
        match verdict(looks, green_for=green_for, patience=patience):
            case "settled":
                return now
            case "nudge":
                said("grey: it waits for a write, so an empty one is sent")
                nudge()
            case _:
                pass
        if moment - begun > patience.timeout_seconds:
            raise StoreUnavailableError(
                f"not settled after {patience.timeout_seconds:g} s: {now}. The server goes on."
            )
        time.sleep(patience.poll_seconds)


def _still(look: Look) -> bool:
    return (
        look.status == "green" and look.configured and not look.busy and look.indexed >= look.wanted
    )
