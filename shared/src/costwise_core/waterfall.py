"""What each stage saved on one call: from what it would have cost, step by step, to what it did.

Every step is priced with the ones before it taken, so the steps telescope: their sum is exactly the
difference between the two ends, and no dollar is saved twice.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, TypeAlias

from costwise_core.errors import PriceError
from costwise_core.money import total
from costwise_core.types import Saving, SavingKind, Usage

__all__ = ["STAGES", "LeftOut", "Quote", "savings_of"]

STAGES: Final = ("route", "compress", "memory", "prompt_cache", "batch", "response_cache")
"""The order in which stages are priced."""

Quote: TypeAlias = Callable[[Usage, str, str], Decimal]
"""Prices a usage of a model at a tier ("standard", "batch"); raises `PriceError` if it cannot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """What a stage kept out of a prompt.

    Args:
        stage: "compress" or "memory".
        tokens: How many.
        pieces: Short verbatim pieces of what stayed. A prompt that has them all is one this was
            left out of.
        source: Whatever tells this from another left-out part; the newest of one source counts.
        absent: Short verbatim pieces of what went. A prompt that has one of them is not.
        question: What it was left out for, shortened at will. Where the same pieces stayed for two
            questions, the prompt that has the question is the one.
        kind: "measured" if the tokens were counted, "modelled" if estimated.
        why: One sentence for a person.
    """

    stage: str
    tokens: int
    pieces: tuple[str, ...]
    source: str
    absent: tuple[str, ...] = ()
    question: str = ""
    kind: SavingKind = "measured"
    why: str = ""


def savings_of(
    usage: Usage,
    model: str,
    quote: Quote,
    *,
    baseline_model: str = "",
    left_out: Sequence[LeftOut] = (),
    processing: str = "standard",
    hit: bool = False,
) -> tuple[Saving, ...]:
    """Return what the stages saved on one call, in the order of `STAGES`.

    The sum of all is what the call would have cost (on the baseline model, with everything that was
    left out, without the provider's cache, not in a batch) minus what it did cost: nothing for a
    hit. A step whose price is not known has `usd=None`, and the next begins anew.

    Args:
        usage: The tokens, of a hit those that were paid when the answer was made.
        model: The one that answered.
        quote: Prices them.
        baseline_model: What would have answered without a router; "" is the same.
        left_out: What was kept out of the prompt.
        processing: "standard", "batch", "flex", "priority" or "fast".
        hit: True if the response cache answered.

    Example:
        >>> from decimal import Decimal
        >>> def quote(usage, model, tier):
        ...     return usage.input_tokens * Decimal("0.01") * (3 if model == "large" else 1)
        >>> shorter = LeftOut(stage="compress", tokens=10, pieces=("RAG",), source="1")
        >>> found = savings_of(
        ...     Usage(input_tokens=5), "small", quote, baseline_model="large", left_out=[shorter]
        ... )
        >>> [(one.stage, one.usd) for one in found]
        [('route', Decimal('0.3')), ('compress', Decimal('0.1'))]
    """
    # Whoever pays for priority would have without costwise too; only a batch is a choice of ours.
    ordinary = "standard" if processing in {"batch", "flex"} else processing
    routed = bool(baseline_model) and baseline_model != model
    cached = bool(usage.cache_read_tokens or usage.cache_write_tokens)
    if not (routed or left_out or cached or hit or processing != ordinary):
        return ()
    full = _whole(usage, left_out)
    start = _Step("", full, baseline_model or model, ordinary)
    steps: list[_Step] = []
    if routed:
        # The other model would not have used the very same tokens.
        why = f"instead of {baseline_model}"
        steps.append(_Step("route", full, model, ordinary, kind="modelled", why=why))
    for part in sorted(left_out, key=lambda part: STAGES.index(part.stage)):
        full = replace(full, input_tokens=full.input_tokens - part.tokens)
        steps.append(
            _Step(part.stage, full, model, ordinary, part.tokens, kind=part.kind, why=part.why)
        )
    if cached:
        steps.append(_Step("prompt_cache", usage, model, ordinary))
    if processing != ordinary:
        steps.append(_Step("batch", usage, model, processing))
    if hit:
        steps.append(_Step("response_cache", None, model, processing, usage.total_tokens))
    if usage.estimated:
        steps = [replace(step, kind="modelled") for step in steps]
    return tuple(_priced(start, steps, quote))


@dataclass(frozen=True, slots=True)
class _Step:
    stage: str
    usage: Usage | None
    model: str
    tier: str
    tokens: int = 0
    kind: SavingKind = "measured"
    why: str = ""


def _whole(usage: Usage, left_out: Iterable[LeftOut]) -> Usage:
    return replace(
        usage,
        input_tokens=usage.input_tokens + sum(part.tokens for part in left_out),
        cache_read_tokens=0,
        cache_write_tokens=0,
        cache_write_1h_tokens=0,
        audio_cache_read_tokens=0,
    )


def _priced(start: _Step, steps: Sequence[_Step], quote: Quote) -> Iterable[Saving]:
    before, _ = _cost(start, quote)
    for step in steps:
        after, fault = _cost(step, quote)
        known = before is not None and after is not None
        usd = total((before, -after)) if before is not None and after is not None else None
        yield Saving(
            stage=step.stage,
            usd=usd,
            tokens=step.tokens,
            kind=step.kind,
            why=step.why if known else "; ".join(filter(None, (step.why, fault or "no price"))),
        )
        before = after


def _cost(step: _Step, quote: Quote) -> tuple[Decimal | None, str]:
    if step.usage is None:
        return Decimal(0), ""
    try:
        return quote(step.usage, step.model, step.tier), ""
    except PriceError as error:
        return None, f"not priced: {error}"
