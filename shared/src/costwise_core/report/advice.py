"""What could still be saved, with the dollars at stake computed from the ledger.

Every piece of advice says its formula and whether the amount was measured, is a ceiling, or is an
estimate: a number nobody can check is worth nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from costwise_core.errors import PriceError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook
from costwise_core.rates import Rates, charge
from costwise_core.report.tally import Group, Numbers, Prefixes, Repeats, Tally
from costwise_core.types import Usage

__all__ = ["Advice", "advise"]

PREFIX_TOKENS: Final = 1_000
"""What the shared beginning of prompts is counted as: PREFIX characters at four to a token."""

_OUTPUT_HEAVY: Final = 0.5
_WORTH_SAYING: Final = 1_000

Groups: TypeAlias = Sequence[tuple[Group, Numbers]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Something to do, and what it is worth over the time of the report.

    Args:
        name: Which advice it is: "response_cache", "prompt_cache", "cheaper_model", "batch",
            "switch_off" or "unpriced".
        title: What to do, in a few words.
        usd: Dollars at stake; None where they cannot be known.
        bound: What `usd` is: "measured", "at most" or "about".
        why: What was found in the ledger.
        formula: How `usd` was computed.

    Example:
        >>> Advice(name="batch", title="Run it at night", usd=Decimal(3), bound="at most",
        ...        why="Nobody waits.", formula="paid - batch price").usd
        Decimal('3')
    """

    name: str
    title: str
    usd: Decimal | None
    bound: Literal["measured", "at most", "about"]
    why: str
    formula: str


def advise(tally: Tally, prices: PriceBook) -> tuple[Advice, ...]:
    """Return what could still be saved: first what has no price, then the most dollars first.

    What is worth less than a thousandth of what was paid is left out.

    Example:
        >>> advise(Tally(groups=[], days=[], stages=[], prompts=[], repeats=Repeats(0, 0, 0),
        ...              prefixes=[]), PriceBook())
        ()
    """
    paid = sum(numbers.usd for _, numbers in tally.groups)
    found = [
        *_response_cache(tally.repeats),
        *_prompt_cache(tally.prefixes, tally.groups, prices),
        *_cheaper_model(tally.groups, prices),
        *_batch(tally.groups, prices),
        *_switch_off(tally),
    ]
    worth = [one for one in found if picodollars(one.usd or Decimal(0)) > paid // _WORTH_SAYING]
    dearest = sorted(worth, key=lambda one: -(one.usd or Decimal(0)))
    return (*_unpriced(tally.groups), *dearest)


def _unpriced(groups: Groups) -> Iterator[Advice]:
    models: dict[str, int] = {}
    tokens = 0
    for group, numbers in groups:
        if numbers.unpriced:
            models[group.model] = models.get(group.model, 0) + numbers.unpriced
            tokens += numbers.input_tokens + numbers.output_tokens
    if models:
        yield Advice(
            name="unpriced",
            title=f"Give a price for {_list(models)}",
            usd=None,
            bound="measured",
            why=f"{sum(models.values()):,} calls are in no dollar of this report, "
            f"because their price is not known; their kind sent and produced {tokens:,} tokens.",
            formula="unknown; PriceBook(overrides=...) or alias=... makes it known",
        )


def _response_cache(repeats: Repeats) -> Iterator[Advice]:
    if repeats.usd > 0:
        yield Advice(
            name="response_cache",
            title="Answer repeated prompts from a cache",
            usd=dollars(repeats.usd),
            bound="at most",
            why=f"{_some(repeats.prompts, 'prompt was', 'prompts were')} paid for more than once: "
            f"{_some(repeats.again, 'call', 'calls')} sent, to the letter, what had been answered "
            "before.",
            formula="for each prompt hash: paid - paid / calls",
        )


def _prompt_cache(
    prefixes: Sequence[Prefixes], groups: Groups, prices: PriceBook
) -> Iterator[Advice]:
    for found in prefixes:
        calls = [n for g, n in groups if g.model == found.model and not g.overhead and not g.tier]
        rates = _rates(prices, found.model, calls)
        if rates is None or rates.input is None or rates.cache_read is None:
            continue
        write = (rates.cache_write or rates.input) - rates.input
        # Dollars per million tokens are 10^-12 dollars per token times a million.
        saved = found.reads * (rates.input - rates.cache_read) - found.writes * write
        sent = sum(numbers.input_tokens for numbers in calls)
        read = sum(numbers.cache_read_tokens for numbers in calls)
        yield Advice(
            name="prompt_cache",
            title=f"Let the provider cache the start of {found.model} prompts",
            usd=dollars(int(saved * PREFIX_TOKENS * 1_000_000)),
            bound="about",
            why=f"{found.reads:,} calls began like another sent within five minutes and were not "
            f"read from the provider's cache, which served {read / max(sent, 1):.0%} of the input.",
            formula=f"{PREFIX_TOKENS:,} tokens x (calls that could read x (input - cached price) - "
            "calls that would write x (write - input price)); a longer start saves more",
        )


def _cheaper_model(groups: Groups, prices: PriceBook) -> Iterator[Advice]:
    by_model: dict[tuple[str, str], list[Numbers]] = {}
    for group, numbers in groups:
        if not group.overhead and not group.tier:
            by_model.setdefault((group.operation, group.model), []).append(numbers)
    for (operation, model), calls in by_model.items():
        here = _cost(prices, model, calls)
        output, whole = (here or {}).get("output", 0), sum((here or {}).values())
        if not output or output < _OUTPUT_HEAVY * whole:
            continue
        others = {
            other: sum(cost.values())
            for same, other in by_model
            if same == operation and other != model
            if (cost := _cost(prices, other, calls)) is not None
        }
        if not others:
            continue
        cheapest = min(others, key=lambda name: others[name])
        yield Advice(
            name="cheaper_model",
            title=f"Route what {cheapest} can answer away from {model}",
            usd=dollars(_paid(calls) - others[cheapest]),
            bound="at most",
            why=f"{output / whole:.0%} of what {model} costs is output, and {cheapest} answers the "
            "same kind of call here already. The amount is for all of its calls; a router earns "
            "the share of it that it may send there.",
            formula=f"paid for {model} - the same tokens at the prices of {cheapest}",
        )


def _batch(groups: Groups, prices: PriceBook) -> Iterator[Advice]:
    if not any(group.user for group, _ in groups):
        return  # where nobody says who asks, nothing tells that nobody does
    waiting: dict[str, list[tuple[str, Numbers]]] = {}
    for group, numbers in groups:
        name = group.endpoint or group.feature
        if name and not group.user and not group.overhead and not group.tier:
            waiting.setdefault(name, []).append((group.model, numbers))
    for name, calls in waiting.items():
        saved = sum(
            max(0, numbers.usd - sum(cost.values()))
            for model, numbers in calls
            if (cost := _cost(prices, model, [numbers], tier="batch")) is not None
        )
        yield Advice(
            name="batch",
            title=f"Send {name} through the batch API",
            usd=dollars(saved),
            bound="at most",
            why=f"None of its {sum(numbers.calls for _, numbers in calls):,} calls names a user, "
            "as others do, so perhaps nobody waits for the answers.",
            formula="paid - the same tokens at batch prices",
        )


def _switch_off(tally: Tally) -> Iterator[Advice]:
    by_stage: dict[str, int] = {}
    for stage, _, _, usd, _ in tally.stages:
        by_stage[stage] = by_stage.get(stage, 0) + usd
    for stage, usd in by_stage.items():
        if usd < 0:
            yield Advice(
                name="switch_off",
                title=f"Switch {stage.replace('_', ' ')} off, or find out why it costs",
                usd=dollars(-usd),
                bound="measured",
                why="It cost more than it saved.",
                formula="the sum of its savings, which is negative",
            )


# --- prices -------------------------------------------------------------------------------------


def _cost(
    prices: PriceBook, model: str, calls: Sequence[Numbers], tier: str = "standard"
) -> dict[str, int] | None:
    """Return what the tokens of some calls cost, in 10^-12 dollars by part, None if not known."""
    rates = _rates(prices, model, calls, tier)
    if rates is None:
        return None
    try:
        return charge(
            rates,
            Usage(
                input_tokens=sum(numbers.input_tokens for numbers in calls),
                output_tokens=sum(numbers.output_tokens for numbers in calls),
                cache_read_tokens=sum(numbers.cache_read_tokens for numbers in calls),
                cache_write_tokens=sum(numbers.cache_write_tokens for numbers in calls),
            ),
        )
    except PriceError:
        return None


def _rates(
    prices: PriceBook, model: str, calls: Sequence[Numbers], tier: str = "standard"
) -> Rates | None:
    """Return the rates at the calls' average length; None if unknown or only stood in for."""
    count = sum(numbers.calls for numbers in calls)
    average = sum(numbers.input_tokens for numbers in calls) // max(count, 1)
    try:
        if prices.cost(Usage(input_tokens=average), model, tier=tier).estimated:
            return None
        return prices.rates(model, tier=tier, input_tokens=average)
    except PriceError:
        return None


def _paid(calls: Iterable[Numbers]) -> int:
    return sum(numbers.usd for numbers in calls)


def _list(models: Iterable[str]) -> str:
    first, *rest = sorted(models)
    return f"{first} and {len(rest)} more" if len(rest) > 1 else " and ".join([first, *rest])


def _some(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"
