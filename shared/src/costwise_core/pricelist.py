"""The price list that genai-prices brings: models, tiers, dates. Loaded on first use.

By itself genai-prices gives the standard price for a misspelt option and for a model without a
batch price, so the options are never handed through but looked up here.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from costwise_core.errors import PriceError, UnknownModelError, nearest
from costwise_core.money import multiplied
from costwise_core.rates import TIERS, Rates, RateSheet, stand_in

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider

__all__ = ["deprecated", "listed", "spellings"]

# Who is asked for a model that is named without its provider and not known by its family name.
_MAKERS: Final = (
    "openai",
    "anthropic",
    "google",
    "mistral",
    "cohere",
    "deepseek",
    "x-ai",
    "voyageai",
    "moonshotai",
)
_TIER_KEYS: Final = ("processing", "service_tier", "speed")
_KEYS: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_cache_read": "cache_audio_read_mtok",
    "audio_output": "output_audio_mtok",
}


def listed(model: str, tier: str, at: datetime) -> RateSheet:
    """Return the listed rates of a model.

    Args:
        model: As the provider names it, or "provider:model".
        tier: One of `TIERS`.
        at: The time whose prices are asked for, with a time zone.

    Raises:
        UnknownModelError: if the list has no such model.
        PriceError: if it is not sold by tokens, or a dearer tier has no listed price.

    Example:
        >>> from datetime import UTC
        >>> listed("gpt-4o", "standard", datetime(2026, 11, 1, tzinfo=UTC)).rates(1000).output
        Decimal('10')
    """
    found = _find(model)
    if found is None:
        raise UnknownModelError(
            f"no price is known for model {model!r}.{_nearest(model)} Name it 'provider:model', "
            "give it an alias, or give its price in a price file."
        )
    provider, entry = found
    source = f"genai-prices {_version()}, {provider.id}:{entry.id}"
    prices = entry.get_prices(at)
    if prices.input_mtok is None and prices.output_mtok is None:
        raise PriceError(f"{model!r} is not sold by tokens ({source}).")
    if tier == "standard":
        return RateSheet(bands=tuple(_bands(prices)), source=source)
    # A model that one provider lists and another only resells has no tiers at the other.
    own = any(entry is one for one in provider.models)
    variants = {one: v for one in TIERS if own and (v := _variant(entry, one, at)) is not None}
    if tier not in variants:
        standard = RateSheet(bands=tuple(_bands(prices)), source=source)
        return stand_in(standard, model, tier, variants)
    prices = entry.get_prices(at, variants[tier].when)
    return RateSheet(bands=tuple(_bands(prices)), source=f"{source}, {tier}")


def spellings(model: str) -> Iterator[str]:
    """Yield the names a model goes by, most exact first, all lower-case.

    Example:
        >>> list(spellings("OpenAI:gpt-4o-2024-08-06"))
        ['openai:gpt-4o-2024-08-06', 'gpt-4o-2024-08-06', 'openai:gpt-4o', 'gpt-4o']
    """
    model = model.lower()
    yield model
    _, colon, tail = model.partition(":")
    if colon:
        yield tail
    if (found := _find(model)) is not None:
        provider, entry = found
        yield f"{provider.id}:{entry.id}".lower()
        yield entry.id.lower()


def deprecated(model: str) -> bool:
    """Tell whether the list says that a model's maker is giving it up.

    Example:
        >>> deprecated("gpt-4o-mini")
        False
    """
    found = _find(model)
    return found is not None and bool(found[1].deprecated)


def _variant(entry: "ModelInfo", tier: str, at: datetime) -> "PriceVariant | None":
    for variant in entry.price_variants or ():
        if (
            tuple(variant.when.values()) == (tier,)
            and variant.when.keys() <= set(_TIER_KEYS)
            and (variant.constraint is None or variant.constraint.active(at))
        ):
            return variant
    return None


def _bands(prices: "ModelPrice") -> Iterator[tuple[int, Rates]]:
    rates = {name: getattr(prices, key) for name, key in _KEYS.items()}
    steps = {name: getattr(rate, "tiers", ()) for name, rate in rates.items()}
    per_thousand = prices.requests_kcount
    request = (
        multiplied(per_thousand, Decimal("0.001")) if isinstance(per_thousand, Decimal) else None
    )
    for above in sorted({0, *(step.start for tiers in steps.values() for step in tiers)}):
        row = {name: getattr(rate, "base", rate) for name, rate in rates.items()}
        row |= {
            name: step.price
            for name, tiers in steps.items()
            for step in tiers
            if step.start <= above
        }
        yield above, Rates(**row, request=request or Decimal(0))


@lru_cache(maxsize=1024)
def _find(model: str) -> "tuple[Provider, ModelInfo] | None":
    from genai_prices.data_snapshot import find_provider_by_id, get_snapshot  # noqa: PLC0415

    snapshot = get_snapshot()
    head, colon, tail = model.partition(":")
    provider = find_provider_by_id(snapshot.providers, head) if colon else None
    if provider is not None or not colon:
        try:
            return snapshot.find_provider_model(tail or model, provider, None, None)
        except LookupError:
            if provider is not None:
                return None
    # Whole names only: the list's patterns would give "deepseek-r1:1.5b", which runs on somebody's
    # own machine, the price of DeepSeek's service.
    for maker in _MAKERS:
        seller = find_provider_by_id(snapshot.providers, maker)
        for entry in seller.models if seller else ():
            if model.lower() in _names(entry):
                return seller, entry  # type: ignore[return-value]
    return None


def _names(entry: "ModelInfo") -> set[str]:
    clauses = getattr(entry.match, "or_", [entry.match])
    return {entry.id.lower(), *(one.equals.lower() for one in clauses if hasattr(one, "equals"))}


@lru_cache(maxsize=1024)
def _nearest(model: str) -> str:
    return nearest(model.lower(), _known())


@cache
def _known() -> tuple[str, ...]:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    providers = get_snapshot().providers
    bare = {entry.id for one in providers if one.id in _MAKERS for entry in one.models}
    full = {f"{one.id}:{entry.id}" for one in providers for entry in one.models}
    return (*sorted(bare), *sorted(full))


@cache
def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return version("genai-prices")
