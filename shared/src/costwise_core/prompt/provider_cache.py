"""What a provider's prompt cache does to a prefix: how long it must be, how often it is warm."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from costwise_core.rates import Rates

__all__ = ["Piece", "gain", "least_cacheable", "lost_to", "warm_share"]

# As the providers' documentation had it in November 2026; the first pattern that fits counts.
_LEAST: Final = (
    (re.compile(r"claude-(?:opus|fable|mythos)-5"), 512),
    (re.compile(r"claude-(?:opus-4[-.][56]|haiku-4)"), 4096),
    (re.compile(r"claude-(?:opus-4[-.]7|3(?:[-.]5)?-haiku|haiku-3)"), 2048),
    (re.compile(r"claude"), 1024),
    (re.compile(r"gemini-2[-.]5"), 2048),
    (re.compile(r"gemini"), 4096),
    (re.compile(r"gpt-|chatgpt-|o[1-9](?:-|$)"), 1024),
)
_SECONDS: Final = 5 * 60
_MONTH: Final = 30 * 24 * 3600


def least_cacheable(model: str) -> int | None:
    """Return how many tokens a prefix must have for the provider to cache it; None is unknown.

    Example:
        >>> least_cacheable("anthropic:claude-haiku-4-5"), least_cacheable("our-llama")
        (4096, None)
    """
    name = model.lower()
    return next((least for pattern, least in _LEAST if pattern.search(name)), None)


def warm_share(calls_per_month: int) -> float:
    """Return the share of calls that find their prefix in the cache.

    Calls are taken to come at random, evenly over the month, and a prefix to be kept for five
    minutes after its last use, the shortest time that the large providers give. Real calls come in
    bursts, so the truth is rather more.

    Example:
        >>> round(warm_share(1_000), 2), round(warm_share(100_000), 2)
        (0.11, 1.0)
    """
    return -math.expm1(-calls_per_month * _SECONDS / _MONTH)


def gain(rates: Rates, warm: float) -> Decimal:
    """Return what caching saves of the price of a token, in dollars per million tokens.

    Args:
        rates: The model's; `input` must be known.
        warm: Share of calls that read the token from the cache; the others write it there.

    Returns:
        Negative where writing costs more than reading saves.

    Example:
        >>> gain(Rates(input=Decimal(1), cache_read=Decimal("0.1")), 0.5)
        Decimal('0.4500')
    """
    fresh = rates.input or Decimal(0)
    read = fresh if rates.cache_read is None else rates.cache_read
    write = fresh if rates.cache_write is None else rates.cache_write
    share = Decimal(f"{warm:.3f}")
    return share * (fresh - read) - (1 - share) * (write - fresh)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of a prompt that changes, in tokens: where it starts and how long it is."""

    start: int
    tokens: int


def lost_to(pieces: Sequence[Piece], tokens: int, least: int) -> list[int]:
    """Return how many tokens each changing piece keeps from being cached; they add up.

    The first piece ends what is cached today. Each one is charged with what moving it away would
    win when those before it are gone.

    Args:
        pieces: In order.
        tokens: Of the whole prefix.
        least: How many the provider caches at the least.

    Example:
        >>> lost_to([Piece(start=0, tokens=10), Piece(start=1500, tokens=5)], 2000, 1024)
        [1490, 495]
    """
    reached = [*(piece.start for piece in pieces), tokens]
    cacheable = [reach if reach >= least else 0 for reach in reached]
    return [
        max(after - before - piece.tokens, 0)
        for piece, before, after in zip(pieces, cacheable, cacheable[1:], strict=False)
    ]
