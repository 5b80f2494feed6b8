"""Compress only when that is cheaper than leaving the prompt alone.

A token that the provider reads from its prompt cache costs a tenth to a half of a fresh one. Who
rewrites a text that would have been read from there pays the full price for what is left of it,
often a premium for writing it, and loses the discount on everything that comes behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import takewhile

from costwise_core.display_table import usd
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, PriceError
from costwise_core.money import dollars, picodollars
from costwise_core.passages import Compressed, Passage, tokens_of
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.protocols import Compressor
from costwise_core.tokens import shared_tokens
from costwise_core.types import Saving, Usage

__all__ = ["WhenWorthIt", "Worth"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What some passages cost left alone and compressed.

    Args:
        alone_usd: Dollars for the passages as they are, and for what comes behind them.
        compressed_usd: The same once they are compressed.
        compressor_usd: Dollars for compressing.

    Example:
        >>> Worth(alone_usd=Decimal(3), compressed_usd=Decimal(1), compressor_usd=Decimal(1)).net
        Decimal('1')
    """

    alone_usd: Decimal
    compressed_usd: Decimal
    compressor_usd: Decimal

    @property
    def net(self) -> Decimal:
        """Dollars saved, exact; negative when compressing costs more than it saves."""
        amounts = (self.alone_usd, self.compressed_usd, self.compressor_usd)
        alone, compressed, compressor = map(picodollars, amounts)
        return dollars(alone - compressed - compressor)


class WhenWorthIt:
    """A compressor that asks first whether another one pays. Thread-safe, and async where that is.

    It asks twice: before compressing, with the share that the compressor is expected to keep, and
    afterwards with what it did keep. The dollars are in the result: in `saving`, and in `why`. The
    same input gives the same decision, whatever the machine is doing.

    Without a known price the passages are left alone with the reason "no_price": compressing may
    lose an answer, and that is not risked for a gain nobody can name.

    Args:
        compressor: What compresses.
        model: Whose price the tokens have, as the provider names it.
        prices: The price list; by default the one everything in this process prices with.
        compressor_usd: Dollars for a million tokens that the compressor reads: its model calls, or
            its seconds times what a second of the machine costs.
        share: Share of the tokens that the compressor is expected to keep, from 0 to 1. With 0 it
            runs unless it could not even pay by dropping everything.
        cached: Share of the passages' tokens, from 0 to 1, that the provider would read from its
            prompt cache if they were left alone. For passages that are sent `n` times while the
            cache is warm it is (n - 1) / n; for passages that are new in each request, 0.
        behind: Tokens that come after the passages in the prompt and would be read from the prompt
            cache too; they are written afresh when the passages change.
        stable: Says of a passage that it is part of a prefix which must not change. Such passages
            at the beginning are passed on untouched, the others are compressed.
        min_tokens: Passages with fewer tokens than this together are passed through.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> class Half:
        ...     def compress(self, question, passages):
        ...         kept = [replace(p, text=p.text[: len(p.text) // 2]) for p in passages]
        ...         return replace(
        ...             Compressed.unchanged(passages, tokens=1000, reason="compressed"),
        ...             passages=tuple(kept),
        ...         )
        >>> passages = [Passage(text="one two three four five. " * 200)]
        >>> fresh = WhenWorthIt(Half(), model="claude-haiku-4-5", share=0.5)
        >>> fresh.compress("Which?", passages).reason
        'compressed'
        >>> cached = WhenWorthIt(Half(), model="claude-haiku-4-5", share=0.5, cached=0.9)
        >>> cached.compress("Which?", passages).reason
        'not_worth_it'
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        model: str,
        prices: PriceBook | None = None,
        compressor_usd: Decimal | float = 0,
        share: float = 0.0,
        cached: float = 0.0,
        behind: int = 0,
        stable: Callable[[Passage], bool] | None = None,
        min_tokens: int = 300,
    ) -> None:
        for name, value in (("share", share), ("cached", cached)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {value!r}.")
        rate = Decimal(str(compressor_usd))
        if not (rate.is_finite() and rate >= 0):
            raise ConfigError(f"compressor_usd must be at least 0, got {compressor_usd!r}.")
        for name, tokens in (("behind", behind), ("min_tokens", min_tokens)):
            if tokens < 0:
                raise ConfigError(f"{name} must be at least 0, got {tokens!r}.")
        self.compressor = compressor
        self.model = model
        self._prices = prices
        self._rate = rate
        self._share = share
        self._cached = cached
        self._behind = behind
        self._stable = stable
        self._min_tokens = min_tokens

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Return what should go into the prompt; never raises for any text.

        Args:
            question: What is asked.
            passages: In the order in which they are in the prompt.
        """
        return run(self._compress(question, tuple(passages)))

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await arun(self._compress(question, tuple(passages)))

    def worth(self, before: int, after: int) -> Worth:
        """Return what compressing so many tokens to so many is worth.

        Args:
            before: Tokens of the passages as they are.
            after: Tokens that are left of them.

        Raises:
            PriceError: if no price is known for the model.
        """
        # Who reads from the prompt cache also writes to it what is new, at its price for that.
        read = round(before * self._cached)
        caches = self._cached > 0 or self._behind > 0
        alone = Usage(
            input_tokens=before + self._behind,
            cache_read_tokens=read + self._behind,
            cache_write_tokens=before - read if caches else 0,
        )
        anew = after + self._behind
        compressed = Usage(input_tokens=anew, cache_write_tokens=anew if caches else 0)
        prices = self._prices or shared_prices()
        return Worth(
            alone_usd=prices.cost(alone, self.model).usd,
            compressed_usd=prices.cost(compressed, self.model).usd,
            compressor_usd=dollars(picodollars(self._rate) * before // 1_000_000),
        )

    def _compress(self, question: str, given: tuple[Passage, ...]) -> Flow[Compressed]:
        tokens = self._count(given)
        try:
            return (yield from self._decide(question, given, tokens))
        except PriceError as error:
            reason, why = "no_price", f"left alone, as it is unknown what would be saved: {error}"
        except Exception as error:  # noqa: BLE001 - a compressor fails open
            reason, why = "error", f"left alone, as compressing raised {type(error).__name__}"
        return Compressed.unchanged(given, tokens=tokens, reason=reason, why=why)

    def _decide(self, question: str, given: tuple[Passage, ...], tokens: int) -> Flow[Compressed]:
        def unchanged(reason: str, why: str) -> Compressed:
            return Compressed.unchanged(given, tokens=tokens, reason=reason, why=why)

        if not given:
            return unchanged("no_passages", "there are no passages")
        if tokens < self._min_tokens:
            why = f"{tokens:,} tokens are fewer than {self._min_tokens:,}, so nothing is compressed"
            return unchanged("short", why)
        prefix = tuple(takewhile(self._stable, given)) if self._stable else ()
        rest = given[len(prefix) :]
        before = self._count(rest)
        expected = self.worth(before, round(before * self._share))
        if expected.net <= 0:
            return unchanged("not_worth_it", self._why(expected, "would cost"))
        found: Compressed = yield from call(self.compressor.compress, question, rest)
        after = self._count(found.passages)
        if found.reason == "compressed":
            made = self.worth(before, after)
            # What the compressor cost is spent by now; whether its output pays is another question.
            if made.alone_usd <= made.compressed_usd:
                return unchanged("not_worth_it", self._why(made, "costs"))
            why = "; ".join(filter(None, (found.why, self._why(made, "costs"))))
            saving = Saving(
                stage="compress", usd=made.net, tokens=before - after, kind="modelled", why=why
            )
        else:
            why, saving = found.why, None
        return replace(
            found,
            passages=(*prefix, *found.passages),
            given=given,
            tokens_before=tokens,
            tokens_after=tokens - before + after,
            why=why,
            saving=saving,
        )

    def _count(self, passages: Sequence[Passage]) -> int:
        return sum(tokens_of(passages, shared_tokens().counter(self.model)))

    def _why(self, worth: Worth, verb: str) -> str:
        alone = f"{usd(worth.alone_usd)} left alone"
        if self._cached:
            alone += f" with {self._cached:.0%} read from the prompt cache"
        return (
            f"the text {verb} {usd(worth.compressed_usd)} compressed and {alone}; compressing it "
            f"{verb} {usd(worth.compressor_usd)}"
        )
