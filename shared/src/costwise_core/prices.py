"""What a call costs: asked so that a mistake is never a price."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path

from costwise_core.errors import PriceError, nearest
from costwise_core.money import dollars
from costwise_core.price_file import checked_alias, checked_price, read_price_file
from costwise_core.pricelist import listed, spellings
from costwise_core.rates import TIERS, Rates, RateSheet, charge
from costwise_core.types import Usage

__all__ = ["Price", "PriceBook", "shared_prices"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What one call costs and how that was found.

    Args:
        usd: Dollars, in whole 10^-12: exactly the sum of `parts`.
        parts: Dollars by part, such as (("input", Decimal("0.1")), ("output", Decimal("0.2"))).
        source: Where the rates come from.
        estimated: True when the usage was estimated or the rates stand in for unknown ones.
        why: One sentence for a person, "" when there is nothing to add.

    Example:
        >>> price = PriceBook().cost(Usage(output_tokens=1000), "anthropic:claude-haiku-4-5")
        >>> price.usd, price.estimated
        (Decimal('0.005'), False)
    """

    usd: Decimal
    parts: tuple[tuple[str, Decimal], ...]
    source: str
    estimated: bool = False
    why: str = ""


class PriceBook:
    """Prices of model calls: the list of genai-prices, and your own. Never asks a network.

    Thread-safe. The list is loaded on first use.

    Args:
        alias: Other names for models, such as {"my-deployment": "openai:gpt-4o-mini"}.
        overrides: Your own prices by model, which win over the list: dollars per million tokens
            under `input`, `output`, `cache_read`, `cache_write`, `cache_write_1h`, `reasoning`,
            `audio_input`, `audio_cache_read` and `audio_output`, dollars per call under `request`
            (all there is to a vector store or reranker that charges by the query), a table of the
            same under `batch`, and a `multiplier` on all of them. A model with nothing but a
            multiplier has the list's prices times that.

    Raises:
        ConfigError: if an alias or a price is not understood.

    Example:
        >>> book = PriceBook(alias={"smollm2": "openai:gpt-4o-mini"})
        >>> book.cost(Usage(input_tokens=1_000_000), "smollm2").usd
        Decimal('0.15')
    """

    def __init__(
        self,
        *,
        alias: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self._alias = checked_alias(alias or {})
        self._own = {
            model.lower(): checked_price(model, row) for model, row in (overrides or {}).items()
        }
        self._sheet = lru_cache(maxsize=1024)(self._make_sheet)

    @classmethod
    def from_file(cls, path: str | Path) -> "PriceBook":
        """Read a price book from a file with the tables `models` (overrides) and `alias`.

        In TOML, for example::

            [alias]
            my-deployment = "openai:gpt-4o-mini"

            [models."my-model"]
            input = 0.50
            output = 1.50
            batch = { input = 0.25, output = 0.75 }

            [models."openai:gpt-4o"]
            multiplier = 0.9

        Args:
            path: A file that ends in .toml or .json, of at most 1 MB.

        Raises:
            ConfigError: if the file cannot be read or anything in it is not understood.
        """
        models, alias = read_price_file(Path(path))
        return cls(alias=alias, overrides=models)

    def cost(
        self, usage: Usage, model: str, *, tier: str = "standard", at: float | None = None
    ) -> Price:
        """Return what a call with this usage costs. Takes microseconds once a model is known.

        Args:
            usage: The tokens.
            model: As the provider names it, or "provider:model" where several sell it.
            tier: "standard", "batch", "flex", "priority" or "fast". A model without a batch or flex
                price is given its standard price, marked as estimated.
            at: Seconds since the epoch, for the prices of that time; None is now.

        Raises:
            UnknownModelError: if no price is known for the model.
            PriceError: if the tier is unknown or has no price, or the model is not sold by tokens.

        Example:
            >>> usage = Usage(input_tokens=1_000_000, cache_read_tokens=1_000_000)
            >>> PriceBook().cost(usage, "gpt-4o").parts
            (('cache_read', Decimal('1.25')),)
        """
        sheet = self._find(model, tier, at)
        picos = charge(sheet.rates(usage.input_tokens), usage)
        return Price(
            usd=dollars(sum(picos.values())),
            parts=tuple((part, dollars(amount)) for part, amount in picos.items()),
            source=sheet.source,
            estimated=usage.estimated or sheet.estimated,
            why=sheet.why,
        )

    def rates(
        self, model: str, *, tier: str = "standard", input_tokens: int = 0, at: float | None = None
    ) -> Rates:
        """Return the rates a call that sends so many tokens is charged at.

        Args:
            model: As for `cost`.
            tier: As for `cost`.
            input_tokens: Tokens sent; some models cost more beyond a number of them.
            at: As for `cost`.

        Raises:
            PriceError: as for `cost`.

        Example:
            >>> PriceBook().rates("gemini-2.5-pro", input_tokens=200_001).input
            Decimal('2.5')
        """
        return self._find(model, tier, at).rates(input_tokens)

    def _find(self, model: str, tier: str, at: float | None) -> RateSheet:
        if tier not in TIERS:
            raise PriceError(
                f"unknown price tier {tier!r}; known are {', '.join(TIERS)}.{nearest(tier, TIERS)}"
            )
        # Prices change at whole minutes, so a minute's rates serve all its calls.
        found = self._sheet(model, tier, int((time.time() if at is None else at) // 60))
        if isinstance(found, PriceError):
            raise type(found)(*found.args)
        return found

    def _make_sheet(self, model: str, tier: str, minute: int) -> RateSheet | PriceError:
        at = datetime.fromtimestamp(minute * 60, UTC)
        name = self._alias.get(model.lower(), model)
        try:
            sheet = self._look_up(name, tier, at)
        except PriceError as error:  # kept like a price, so that asking again costs as little
            return error
        if name == model:
            return sheet
        return replace(sheet, why="; ".join(filter(None, (f"priced as {name}", sheet.why))))

    def _look_up(self, model: str, tier: str, at: datetime) -> RateSheet:
        names = spellings(model) if self._own else ()
        own = next((self._own[name] for name in names if name in self._own), None)
        if own is None:
            return listed(model, tier, at)
        return own.sheet(model, tier) or listed(model, tier, at).times(own.multiplier)


@cache
def shared_prices() -> PriceBook:
    """Return the `PriceBook` that everything in this process prices with unless given another.

    Example:
        >>> shared_prices() is shared_prices()
        True
    """
    return PriceBook()
