"""What conversations cost: the arithmetic of prompts that grow, with and without a cached prefix.

All prices are dollars per million tokens and all amounts dollars, as floats: these are estimates to
decide with. What was really paid is the ledger's to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from costwise_core.errors import ConfigError
from costwise_core.memory.messages import Message
from costwise_core.prompt.provider_cache import least_cacheable

if TYPE_CHECKING:
    from costwise_core.prices import PriceBook

__all__ = ["MemoryPrices", "appended_usd", "calls_of", "fold_usd", "prompt_usd", "turns_left"]

INSTRUCTION_TOKENS: Final = 250
"""Room for the words that ask for a summary; a fold is never planned to cost less than it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPrices:
    """What a model and its summariser charge, in dollars per million tokens.

    Without a provider's prompt cache, `cache_read` and `cache_write` are `input`.

    Args:
        input: Tokens sent.
        cache_read: Tokens of the prefix that the previous call already sent.
        cache_write: Tokens that prolong the prefix.
        output: Tokens produced.
        summary_input: Tokens sent to the summariser; None without one.
        summary_output: Tokens that it produces; None without one.
        appended: Whether the model itself may be asked for the summary at the end of its live
            prompt, whose prefix is cached.
        least: Tokens that a prefix must have for the provider to cache it.

    Raises:
        ConfigError: if a price is negative or not finite, or what is read from a cache costs more
            than what is written to it.

    Example:
        >>> MemoryPrices(input=2.5, cache_read=1.25, cache_write=2.5, output=10).caches
        True
    """

    input: float
    cache_read: float
    cache_write: float
    output: float
    summary_input: float | None = None
    summary_output: float | None = None
    appended: bool = False
    least: int = 0

    def __post_init__(self) -> None:
        for name in (
            "input",
            "cache_read",
            "cache_write",
            "output",
            "summary_input",
            "summary_output",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be a price of 0 or more, got {value!r}.")
        if self.cache_read > self.cache_write:
            raise ConfigError(
                f"cache_read must not be more than cache_write, got {self.cache_read} and "
                f"{self.cache_write}."
            )

    @property
    def caches(self) -> bool:
        """Whether a prefix that stays the same is cheaper than a new one."""
        return self.cache_read < self.cache_write

    @classmethod
    def of(
        cls,
        book: "PriceBook",
        model: str,
        summariser: str = "",
        *,
        cached: bool = True,
        at: float | None = None,
    ) -> "MemoryPrices":
        """Take the prices from a price book.

        Args:
            book: Where to look.
            model: That answers, as the provider names it.
            summariser: That writes the summaries; "" is none. If it is `model`, a summary may also
                be asked for at the end of the live prompt.
            cached: Whether the provider's prompt cache is used; False where prompts do not begin
                alike, or the application does not mark them.
            at: Seconds since the epoch, for the prices of that time; None is now.

        Raises:
            UnknownModelError: if no price is known for one of the models.
            PriceError: if a model is not sold by tokens.

        Example:
            >>> from costwise_core import PriceBook
            >>> MemoryPrices.of(PriceBook(), "gpt-4o", "gpt-4o-mini").summary_input
            0.15
        """
        rates = book.rates(model, at=at)
        summary = book.rates(summariser, at=at) if summariser else None
        each = float(rates.input or 0)
        read = float(rates.cache_read if rates.cache_read is not None else each)
        write = float(rates.cache_write if rates.cache_write is not None else each)
        return cls(
            input=each,
            cache_read=read if cached else each,
            cache_write=write if cached else each,
            output=float(rates.output or 0),
            summary_input=None if summary is None else float(summary.input or 0),
            summary_output=None if summary is None else float(summary.output or 0),
            appended=summariser == model,
            least=(least_cacheable(model) or 0) if cached else 0,
        )


def prompt_usd(prices: MemoryPrices, tokens: int, cached: int = 0, *, before: int = 0) -> float:
    """Return what a prompt costs whose first `cached` tokens the previous call sent too.

    Args:
        prices: What the model charges.
        tokens: Of the conversation in the prompt.
        cached: How many of them lie in the prefix that is the same as before.
        before: Tokens that come before the conversation and never change, such as the system
            prompt. They are not part of the amount, but help a prefix to be long enough to cache.

    Example:
        >>> prices = MemoryPrices(input=3, cache_read=0.3, cache_write=3.75, output=15)
        >>> round(prompt_usd(prices, 1_000, 900) * 1e6)
        645
    """
    if before + tokens < prices.least:
        return tokens * prices.input / 1e6
    if before + cached < prices.least:
        cached = 0
    return (cached * prices.cache_read + (tokens - cached) * prices.cache_write) / 1e6


def fold_usd(
    prices: MemoryPrices,
    blocks: Sequence[int],
    *,
    old: int,
    new: int,
) -> float:
    """Return what a summariser charges for folding blocks into a summary, one after another.

    Args:
        prices: With a summariser.
        blocks: Tokens of each block; every step reads one and the summary so far.
        old: Tokens of the summary before.
        new: Tokens that a summary may have.

    Example:
        >>> prices = MemoryPrices(input=2.5, cache_read=1.25, cache_write=2.5, output=10,
        ...                       summary_input=0.15, summary_output=0.6)
        >>> round(fold_usd(prices, [2_000], old=0, new=250) * 1e6)
        488
    """
    if prices.summary_input is None or prices.summary_output is None:
        return float("inf")
    sent = sum(blocks) + old + new * (len(blocks) - 1) + INSTRUCTION_TOKENS * len(blocks)
    made = new * len(blocks)
    return (sent * prices.summary_input + made * prices.summary_output) / 1e6


def appended_usd(prices: MemoryPrices, prompt: int, cached: int, *, new: int) -> float:
    """Return what the model charges for a summary asked for at the end of its live prompt.

    Args:
        prices: What it charges.
        prompt: Tokens of the live prompt, the newest answer included.
        cached: How many of them the last call sent.
        new: Tokens that a summary may have.

    Example:
        >>> prices = MemoryPrices(input=3, cache_read=0.3, cache_write=3.75, output=15)
        >>> round(appended_usd(prices, 2_000, 2_000, new=250) * 1e6)
        5288
    """
    fresh = prompt - cached + INSTRUCTION_TOKENS
    asked = cached * prices.cache_read + fresh * prices.cache_write
    return (asked + new * prices.output) / 1e6


def calls_of(messages: Sequence[Message]) -> list[int]:
    """Return the indexes of the messages that a model made: what lies before one was its prompt.

    Example:
        >>> calls_of([Message(role="user", text="a"), Message(role="assistant", text="b")])
        [1]
    """
    return [index for index, message in enumerate(messages) if message.role == "assistant"]


def turns_left(calls: int, lengths: Sequence[int] = ()) -> float:
    """Return how many more calls a conversation is expected to make, at least one.

    The mean residual life of the conversations given that lasted longer, `E[L - n | L > n]`. Where
    fewer than five did, as many as were made already: for lengths with a Pareto tail, which is how
    long conversations last, the residual life grows with the age, and at tail index 2 it equals it.

    Args:
        calls: How many were made.
        lengths: Calls of finished conversations of the same feature.

    Example:
        >>> turns_left(12), turns_left(12, [10, 14, 14, 14, 22, 22])
        (12.0, 5.2)
    """
    longer = [length - calls for length in lengths if length > calls]
    return sum(longer) / len(longer) if len(longer) >= _ENOUGH else max(float(calls), 1.0)


_ENOUGH: Final = 5
