"""What a saving is worth: other models, caches, batches, shorter answers.

Each stands by itself, against the load as it is. Savings of several do not add up: what a cache
answers cannot be batched. For that, see the bill of real calls.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Final

from costwise_core.display_table import usd
from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.prompt.provider_cache import break_even, least_cacheable
from costwise_core.types import Usage
from costwise_core.whatif.estimate import Estimate, Load, exact_share, money_of
from costwise_core.whatif.tiers import dominated_tiers

__all__ = [
    "batch_share",
    "output_length",
    "prompt_cache_share",
    "response_cache_share",
    "routing_mix",
]

_STANDARD: Final = "standard"
_ALL: Final = Fraction(1)


def routing_mix(
    load: Load,
    mix: Mapping[str, float],
    *,
    baseline: str,
    prices: PriceBook | None = None,
) -> Estimate:
    """Return what it costs when some requests go to other models.

    Args:
        load: The requests.
        mix: Shares by model, the weakest first; they add up to 1. In a cascade a request asks
            several models: give the share of each that is asked, and let them add up to more.
        baseline: The model that answers all of them now.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if the shares add up to less than 1.
        PriceError: if a model has no known price.

    Example:
        >>> load = Load(requests=1_000_000, input_tokens=500, output_tokens=200, period="day")
        >>> estimate = routing_mix(load, {"gpt-4o": 0.1, "gpt-4o-mini": 0.9}, baseline="gpt-4o")
        >>> estimate.before, estimate.after
        (Decimal('3250'), Decimal('500.5'))
    """
    book = prices or shared_prices()
    shares = {model: exact_share(f"the share of {model}", share) for model, share in mix.items()}
    if sum(shares.values()) < 1:
        whole = float(sum(shares.values()))
        raise ConfigError(f"the shares of a mix must add up to at least 1, got {whole:g}.")
    rows = [("model", "share", "a request", f"a {load.period}")]
    for model, share in shares.items():
        one = book.cost(load.usage, model).usd
        total = money_of([(share, load.usage, model, _STANDARD)], load.requests, book)
        rows.append((model, f"{float(share):.1%}", usd(one), usd(total)))
    parts = [(share, load.usage, model, _STANDARD) for model, share in shares.items()]
    worst = dominated_tiers([*(one for one in mix if one != baseline), baseline], prices=book)
    return Estimate(
        title=f"{len(mix)} models instead of {baseline}",
        formula="requests x sum over models of (share x price of a request)",
        before=_now(load, baseline, book),
        after=money_of(parts, load.requests, book),
        period=load.period,
        rows=tuple(rows),
        notes=tuple(one.why for one in worst.dominated),
    )


def response_cache_share(
    load: Load,
    model: str,
    *,
    hit_rate: float,
    overhead_usd: Decimal | str | int = 0,
    prices: PriceBook | None = None,
) -> Estimate:
    """Return what it costs when stored answers serve some requests.

    Args:
        load: The requests.
        model: What answers the others.
        hit_rate: Share of requests served from the cache.
        overhead_usd: Dollars that the cache takes for each request: embedding, checks.
        prices: The price list; by default the one everything in this process prices with.

    Example:
        >>> load = Load(requests=1000, input_tokens=1_000, output_tokens=250)
        >>> response_cache_share(load, "gpt-4o", hit_rate=0.3).saved_share
        0.3
    """
    book = prices or shared_prices()
    hits = exact_share("hit_rate", hit_rate)
    paid = money_of([(_ALL - hits, load.usage, model, _STANDARD)], load.requests, book)
    overhead = picodollars(Decimal(overhead_usd)) * load.requests
    return Estimate(
        title=f"{float(hits):.0%} of answers from a cache",
        formula="requests x ((1 - hit rate) x price of a request + overhead)",
        before=_now(load, model, book),
        after=dollars(picodollars(paid) + overhead),
        period=load.period,
        rows=(
            ("", "requests", f"a {load.period}"),
            ("served from the cache", f"{round(hits * load.requests):,}", usd(Decimal(0))),
            ("paid", f"{load.requests - round(hits * load.requests):,}", usd(paid)),
            ("the cache itself", f"{load.requests:,}", usd(dollars(overhead))),
        ),
    )


def prompt_cache_share(
    load: Load,
    model: str,
    *,
    prefix_tokens: int,
    warm: float,
    prices: PriceBook | None = None,
) -> Estimate:
    """Return what it costs when the provider caches the beginning of each prompt.

    Args:
        load: The requests.
        model: What answers them.
        prefix_tokens: How many tokens of each begin alike.
        warm: Share of requests that find them in the cache; the others write them there.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if the prefix is longer than the input.

    Example:
        >>> load = Load(requests=1000, input_tokens=10_000, output_tokens=0)
        >>> estimate = prompt_cache_share(load, "claude-sonnet-4-5", prefix_tokens=10_000, warm=0.5)
        >>> estimate.before, estimate.after
        (Decimal('30'), Decimal('20.25'))
    """
    book = prices or shared_prices()
    if not 0 <= prefix_tokens <= load.input_tokens:
        raise ConfigError(
            f"prefix_tokens must be in [0, {load.input_tokens}], got {prefix_tokens!r}."
        )
    hot = exact_share("warm", warm)
    least = least_cacheable(model)
    short = least is not None and prefix_tokens < least
    size = 0 if short else prefix_tokens
    read = replace(load.usage, cache_read_tokens=size)
    write = replace(load.usage, cache_write_tokens=size)
    parts = [(hot, read, model, _STANDARD), (_ALL - hot, write, model, _STANDARD)]
    needed = break_even(book.rates(model, input_tokens=load.input_tokens))
    notes = [
        "reading saves nothing with this model"
        if needed is None
        else f"pays from {needed:.2f} readings for each writing"
    ]
    if short:
        notes = [f"the provider caches no fewer than {least:,} tokens, so nothing is cached"]
    return Estimate(
        title=f"a prefix of {prefix_tokens:,} tokens, {float(hot):.0%} warm",
        formula="requests x (warm x price if the prefix is read + (1 - warm) x price if written)",
        before=_now(load, model, book),
        after=money_of(parts, load.requests, book),
        period=load.period,
        rows=(
            ("", "share", "a request"),
            ("not cached", "", usd(book.cost(load.usage, model).usd)),
            ("read", f"{float(hot):.0%}", usd(book.cost(read, model).usd)),
            ("written", f"{float(_ALL - hot):.0%}", usd(book.cost(write, model).usd)),
        ),
        notes=tuple(notes),
    )


def batch_share(
    load: Load, model: str, *, share: float, prices: PriceBook | None = None
) -> Estimate:
    """Return what it costs when some requests can wait for a batch.

    Args:
        load: The requests.
        model: What answers them.
        share: How many of them can wait.
        prices: The price list; by default the one everything in this process prices with.

    Example:
        >>> load = Load(requests=1000, input_tokens=1_000, output_tokens=250)
        >>> batch_share(load, "gpt-4o", share=0.5).saved_share
        0.25
    """
    book = prices or shared_prices()
    waits = exact_share("share", share)
    batch = book.cost(load.usage, model, tier="batch")
    parts = [
        (_ALL - waits, load.usage, model, _STANDARD),
        (waits, load.usage, model, "batch"),
    ]
    return Estimate(
        title=f"{float(waits):.0%} in batches",
        formula="requests x ((1 - share) x price + share x batch price)",
        before=_now(load, model, book),
        after=money_of(parts, load.requests, book),
        period=load.period,
        rows=(
            ("", "share", "a request"),
            ("at once", f"{float(_ALL - waits):.0%}", usd(book.cost(load.usage, model).usd)),
            ("in batches", f"{float(waits):.0%}", usd(batch.usd)),
        ),
        notes=(batch.why,) if batch.why else (),
    )


def output_length(
    load: Load, model: str, *, output_tokens: int, prices: PriceBook | None = None
) -> Estimate:
    """Return what it costs when answers have another length.

    Args:
        load: The requests.
        model: What answers them.
        output_tokens: Produced for each then.
        prices: The price list; by default the one everything in this process prices with.

    Example:
        >>> load = Load(requests=1_000_000, input_tokens=0, output_tokens=400)
        >>> output_length(load, "gpt-4o", output_tokens=100).saved
        Decimal('3000')
    """
    book = prices or shared_prices()
    if output_tokens < 0:
        raise ConfigError(f"output_tokens must be at least 0, got {output_tokens!r}.")
    then = Usage(input_tokens=load.input_tokens, output_tokens=output_tokens)
    return Estimate(
        title=f"answers of {output_tokens:,} tokens",
        formula="requests x (input tokens x input price + output tokens x output price)",
        before=_now(load, model, book),
        after=money_of([(_ALL, then, model, _STANDARD)], load.requests, book),
        period=load.period,
        rows=(
            ("", "output tokens", "a request"),
            ("now", f"{load.output_tokens:,}", usd(book.cost(load.usage, model).usd)),
            ("then", f"{output_tokens:,}", usd(book.cost(then, model).usd)),
        ),
    )


def _now(load: Load, model: str, prices: PriceBook) -> Decimal:
    return money_of([(_ALL, load.usage, model, _STANDARD)], load.requests, prices)
