"""What a provider's prompt cache does to a prefix: how long it must be, how often it is warm.

The facts are those of the providers' documentation as of November 2026; prices come from the price
list. Gemini's explicit caches are not here: they are objects of their own, rented by the hour.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from costwise_core.errors import ConfigError
from costwise_core.money import multiplied
from costwise_core.rates import Rates

__all__ = [
    "CacheTerms",
    "Lifetime",
    "Piece",
    "best_lifetime",
    "break_even",
    "gain",
    "least_cacheable",
    "lost_to",
    "terms_of",
    "warm_share",
]

# The first pattern that fits counts.
_LEAST: Final = (
    (re.compile(r"claude-(?:opus|fable|mythos)-5"), 512),
    (re.compile(r"claude-(?:opus-4[-.][56]|haiku-4)"), 4096),
    (re.compile(r"claude-(?:opus-4[-.]7|3(?:[-.]5)?-haiku|haiku-3)"), 2048),
    (re.compile(r"claude"), 1024),
    (re.compile(r"gemini-2[-.]5"), 2048),
    (re.compile(r"gemini"), 4096),
    (re.compile(r"nova-(?:micro|lite|pro|premier)"), 1024),
    (re.compile(r"deepseek-(?:chat|reasoner|v\d)"), 64),
    (re.compile(r"gpt-|chatgpt-|o[1-9](?:-|$)"), 1024),
)
_MARKED: Final = re.compile(r"claude|nova-(?:micro|lite|pro|premier)")
_OPENAI: Final = re.compile(r"gpt-|chatgpt-|o[1-9](?:-|$)")
_SECONDS: Final = 5 * 60
_HOUR: Final = 3600
_MONTH: Final = 30 * 24 * 3600


def least_cacheable(model: str) -> int | None:
    """Return how many tokens a prefix must have for the provider to cache it; None is unknown.

    Example:
        >>> least_cacheable("anthropic:claude-haiku-4-5"), least_cacheable("our-llama")
        (4096, None)
    """
    name = model.lower()
    return next((least for pattern, least in _LEAST if pattern.search(name)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheTerms:
    """How a provider's prompt cache is used.

    Args:
        how: "marked" (only up to where the request says so) or "automatic".
        least: Tokens that a prefix must have.
        marks: How many places a request may mark; 0 if the cache is automatic.
        step: Prefixes are cached in steps of so many tokens.
        lifetimes: Seconds after its last use for which a prefix can be kept; the first is the
            default. Empty where the provider promises nothing.

    Example:
        >>> terms_of("claude-sonnet-4-5").lifetimes
        (300, 3600)
    """

    how: Literal["marked", "automatic"]
    least: int
    marks: int = 0
    step: int = 1
    lifetimes: tuple[int, ...] = ()


def terms_of(model: str) -> CacheTerms | None:
    """Return how the prompt cache of a model's provider is used; None is unknown.

    Example:
        >>> terms_of("gpt-4o").how, terms_of("amazon.nova-pro-v1:0").marks, terms_of("our-llama")
        ('automatic', 4, None)
    """
    name, least = model.lower(), least_cacheable(model)
    if least is None:
        return None
    if _MARKED.search(name):
        lifetimes = (300, 3600) if "claude" in name else (300,)
        return CacheTerms(how="marked", least=least, marks=4, lifetimes=lifetimes)
    step = 128 if _OPENAI.search(name) else 64 if "deepseek" in name else 1
    return CacheTerms(how="automatic", least=least, step=step)


def break_even(rates: Rates, *, hour: bool = False) -> Decimal | None:
    """Return how often a written prefix must be read until caching it has paid.

    (write - input) / (input - read): what writing costs more, over what a reading saves.

    Args:
        rates: The model's.
        hour: For a prefix that is kept for an hour.

    Returns:
        Readings for each writing, 0 where writing costs nothing; None where reading saves nothing.

    Example:
        >>> from costwise_core.prices import PriceBook
        >>> rates = PriceBook().rates("claude-sonnet-4-5")
        >>> f"{break_even(rates):.2f}", f"{break_even(rates, hour=True):.2f}"
        ('0.28', '1.11')
    """
    fresh, read, write = _three(rates, hour=hour)
    if read >= fresh:
        return None
    return max(write - fresh, Decimal(0)) / (fresh - read)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    """How long to have a prefix kept.

    Args:
        seconds: 300 or 3600 after its last use; 0 is not to cache it.
        usd_per_mtok: What a million tokens of the prefix then cost, in the mean.
        why: One sentence for a person.

    Example:
        >>> Lifetime(seconds=300, usd_per_mtok=Decimal(1), why="").seconds
        300
    """

    seconds: int
    usd_per_mtok: Decimal
    why: str


def best_lifetime(gaps: Sequence[float], rates: Rates) -> Lifetime:
    """Return how long a prefix is to be kept, given the times between its uses.

    A use after a longer time than the prefix is kept writes it again; any other reads it, which
    keeps it for as long again.

    Args:
        gaps: Seconds between one use and the next, such as `gaps_of` finds in a ledger.
        rates: The model's.

    Raises:
        ConfigError: if there are no gaps.

    Example:
        >>> from costwise_core.prices import PriceBook
        >>> rates = PriceBook().rates("claude-sonnet-4-5")
        >>> [best_lifetime([gap] * 10, rates).seconds for gap in (60.0, 1200.0, 7200.0)]
        [300, 3600, 0]
    """
    if not gaps:
        raise ConfigError("gaps must have at least one time between two uses.")
    fresh, _, _ = _three(rates, hour=False)
    found = [Lifetime(seconds=0, usd_per_mtok=fresh, why="not cached")]
    for seconds in (_SECONDS, _HOUR):
        _, read, write = _three(rates, hour=seconds == _HOUR)
        warm = sum(gap <= seconds for gap in gaps)
        cost = (warm * read + (len(gaps) - warm) * write) / len(gaps)
        why = f"{warm / len(gaps):.0%} of its uses come within {seconds // 60} minutes"
        found.append(Lifetime(seconds=seconds, usd_per_mtok=cost, why=why))
    return min(found, key=lambda one: one.usd_per_mtok)


def _three(rates: Rates, *, hour: bool) -> tuple[Decimal, Decimal, Decimal]:
    fresh = rates.input or Decimal(0)
    read = fresh if rates.cache_read is None else rates.cache_read
    write = fresh if rates.cache_write is None else rates.cache_write
    if hour:
        # A price that is not listed is taken to be Anthropic's: twice the input's.
        long = multiplied(fresh, Decimal(2))
        write = long if rates.cache_write_1h is None else rates.cache_write_1h
    return fresh, read, write


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
    fresh, read, write = _three(rates, hour=False)
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
