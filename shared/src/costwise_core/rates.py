"""What a model charges, wherever the numbers come from: values and pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cached_property
from typing import Final

from costwise_core.errors import PriceError
from costwise_core.money import multiplied, picodollars
from costwise_core.types import Usage

__all__ = ["TIERS", "RateSheet", "Rates", "charge", "stand_in"]

TIERS: Final = ("standard", "batch", "flex", "priority", "fast")
_CHEAPER_TIERS: Final = ("batch", "flex")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a model costs, in dollars per million tokens; None where no price is known.

    Args:
        input: Tokens sent.
        output: Tokens produced.
        cache_read: Tokens sent that the provider had in its prompt cache; `input` if not given.
        cache_write: Tokens sent that it wrote there; `input` if not given.
        cache_write_1h: The same, kept for an hour; `cache_write` if not given.
        reasoning: Hidden tokens produced; `output` if not given.
        audio_input: Tokens of sound sent; as text if not given.
        audio_cache_read: The same, which the provider had in its prompt cache; `audio_input` if
            not given.
        audio_output: Tokens of sound produced; `output` if not given.
        request: Dollars for the call itself.

    Example:
        >>> Rates(input=Decimal("0.15"), output=Decimal("0.60")).cache_read is None
        True
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_cache_read: Decimal | None = None
    audio_output: Decimal | None = None
    request: Decimal = Decimal(0)

    @cached_property
    def picos(self) -> Mapping[str, int | None]:
        """Each part's rate in whole 10^-12 dollars, those not given filled in; None if unknown."""
        read, write = _first(self.cache_read, self.input), _first(self.cache_write, self.input)
        found = {
            "input": self.input,
            "cache_read": read,
            "cache_write": write,
            "cache_write_1h": _first(self.cache_write_1h, write),
            "audio_input": _first(self.audio_input, self.input),
            "audio_cache_read": _first(self.audio_cache_read, self.audio_input, read),
            "output": self.output,
            "reasoning": _first(self.reasoning, self.output),
            "audio_output": _first(self.audio_output, self.output),
            "request": self.request,
        }
        return {part: None if rate is None else picodollars(rate) for part, rate in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSheet:
    """The rates of one model in one tier at one time.

    Args:
        bands: Pairs (input tokens, rates), ascending from 0: calls that send more than this many
            tokens are charged these rates, for all of their tokens.
        source: Where the rates come from.
        estimated: True when they stand in for unknown ones.
        why: One sentence for a person, "" when there is nothing to add.

    Example:
        >>> sheet = RateSheet(bands=((0, Rates(input=Decimal(2))),), source="your prices")
        >>> sheet.times(Decimal("0.5")).rates(1000).input
        Decimal('1.0')
    """

    bands: tuple[tuple[int, Rates], ...]
    source: str
    estimated: bool = False
    why: str = ""

    def rates(self, input_tokens: int) -> Rates:
        """Return the rates for a call that sends so many tokens."""
        found = self.bands[0][1]
        for above, rates in self.bands[1:]:
            if input_tokens > above:
                found = rates
        return found

    def times(self, factor: Decimal) -> "RateSheet":
        """Return the sheet with every rate multiplied."""
        if factor == 1:
            return self
        bands = tuple((above, _scaled(rates, factor)) for above, rates in self.bands)
        return replace(self, bands=bands, source=f"{self.source} x {factor}")


def stand_in(standard: RateSheet, model: str, tier: str, tiers: Iterable[str]) -> RateSheet:
    """Let the standard price stand in for a lower one that is not known; never for a higher one.

    Args:
        standard: The model's standard rates.
        model: Its name, for the message.
        tier: The tier whose price is not known.
        tiers: Those with a known price.

    Raises:
        PriceError: if the tier costs more than standard, naming the tiers with a known price.

    Example:
        >>> standard = RateSheet(bands=((0, Rates(input=Decimal(2))),), source="your prices")
        >>> stand_in(standard, "mine", "batch", []).estimated
        True
    """
    if tier in _CHEAPER_TIERS:
        why = f"no {tier} price is known, so the standard price stands in"
        return replace(standard, estimated=True, why=why)
    known = ", ".join(["standard", *tiers])
    raise PriceError(f"no {tier} price is known for {model!r}; its known tiers are {known}.")


def charge(rates: Rates, usage: Usage) -> dict[str, int]:
    """Return what each part of a usage costs, in 10^-12 dollars; parts without tokens left out.

    Raises:
        PriceError: if there are tokens of a part for which no rate is known.

    Example:
        >>> charge(Rates(input=Decimal(2)), Usage(input_tokens=3))
        {'input': 6000000}
    """
    long_write = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    heard_before = usage.audio_cache_read_tokens
    heard = usage.audio_input_tokens - heard_before
    # Each token belongs to exactly one part, and a dearer or cheaper part is no longer input.
    parts = (
        ("input", usage.input_tokens - cached - heard),
        ("cache_read", usage.cache_read_tokens - heard_before),
        ("cache_write", usage.cache_write_tokens - long_write),
        ("cache_write_1h", long_write),
        ("audio_input", heard),
        ("audio_cache_read", heard_before),
        ("output", usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens),
        ("reasoning", usage.reasoning_tokens),
        ("audio_output", usage.audio_output_tokens),
    )
    picos = {}
    for part, tokens in parts:
        if tokens > 0:
            rate = rates.picos[part]
            if rate is None:
                raise PriceError(f"no price for {part} tokens is known.")
            picos[part] = tokens * rate // 1_000_000
    if request := rates.picos["request"]:
        picos["request"] = request
    return picos


def _first(*rates: Decimal | None) -> Decimal | None:
    return next((rate for rate in rates if rate is not None), None)


def _scaled(rates: Rates, factor: Decimal) -> Rates:
    given = {field.name: getattr(rates, field.name) for field in fields(rates)}
    known = {name: multiplied(rate, factor) for name, rate in given.items() if rate is not None}
    return Rates(**known)
