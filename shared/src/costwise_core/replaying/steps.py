"""What every change is worth on one request: by itself, and in turn after the ones before it.

In turn, each is priced with those before it made, so the steps telescope: their sum is exactly what
was paid less what would have been, and no dollar is saved twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from costwise_core.errors import PriceError
from costwise_core.prices import PriceBook
from costwise_core.rates import charge
from costwise_core.replaying.prefixes import Prefix
from costwise_core.replaying.requests import Request
from costwise_core.types import Usage

__all__ = ["ORDER", "Change", "Priced", "priced"]

ORDER: Final = (
    "dominated_model",
    "context",
    "history",
    "output",
    "prompt_cache",
    "batch",
    "near_repeats",
    "exact_repeats",
)
"""The order in which changes are priced: `costwise_core.waterfall.STAGES`, with the two parts of
the response cache told apart (no request is both) and shorter answers after shorter prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What would have been different about one request.

    Args:
        model: That would have answered; "" is the same.
        context: Tokens of passages left out.
        history: Tokens of the conversation left out.
        readable: Tokens of the beginning that stay as they were, for the provider's cache, when
            history is left out.
        output: Tokens that the answer would have been shorter.
        prefix: What the provider could have had cached.
        batch: Whether it could have waited.
        repeat: "exact" or "near" if a stored answer would have served it.
    """

    model: str = ""
    context: int = 0
    history: int = 0
    readable: int = 0
    output: int = 0
    prefix: Prefix = field(default_factory=Prefix)
    batch: bool = False
    repeat: Literal["", "near", "exact"] = ""

    def names(self) -> tuple[str, ...]:
        """Return which changes are made, in order."""
        made = (
            self.model,
            self.context,
            self.history,
            self.output,
            self.prefix.read or self.prefix.write,
            self.batch,
            self.repeat == "near",
            self.repeat == "exact",
        )
        return tuple(name for name, one in zip(ORDER, made, strict=True) if one)


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """One request's dollars, in whole 10^-12.

    Args:
        paid: What it cost.
        steps: What each change saves in turn, by name.
        alone: What each would save by itself.
        tokens: Sent or produced in turn no more; of a prompt cache, read instead.
    """

    paid: int
    steps: dict[str, int]
    alone: dict[str, int]
    tokens: dict[str, int]


def priced(request: Request, change: Change, prices: PriceBook) -> Priced | None:
    """Price a request before and after its changes; None if its price is not known.

    Prices are those of today, whatever day the call was: what matters is what it would save now.

    Example:
        >>> asked = Request(place=0, at=None, model="gpt-4o", usage=Usage(input_tokens=1_000))
        >>> found = priced(asked, Change(context=400, repeat="exact"), PriceBook())
        >>> found.paid, found.steps
        (2500000000, {'context': 1000000000, 'exact_repeats': 1500000000})
        >>> found.alone["exact_repeats"] == found.paid
        True
    """

    def cost(state: "_State") -> int:
        if state.served:
            return 0
        usage = state.usage
        rates = prices.rates(state.model, tier=state.tier, input_tokens=usage.input_tokens)
        return sum(charge(rates, usage).values())

    start = _State(usage=request.usage, model=request.model, tier=request.processing)
    try:
        paid = cost(start)
    except PriceError:
        return None
    steps: dict[str, int] = {}
    alone: dict[str, int] = {}
    tokens: dict[str, int] = {}
    state, before = start, paid
    for name in change.names():
        after = _APPLY[name](state, request, change)
        try:
            now = cost(after)
            by_itself = paid - cost(_APPLY[name](start, request, change))
        except PriceError:
            continue  # the other model, or its batch, has no known price: it is not taken
        steps[name], alone[name] = before - now, by_itself
        tokens[name] = _tokens(name, state, after)
        state, before = after, now
    return Priced(paid=paid, steps=steps, alone=alone, tokens=tokens)


@dataclass(frozen=True, slots=True)
class _State:
    usage: Usage
    model: str
    tier: str
    context_cut: bool = False
    history_cut: bool = False
    served: bool = False


_Apply: TypeAlias = Callable[[_State, Request, Change], _State]


def _route(state: _State, _: Request, change: Change) -> _State:
    return replace(state, model=change.model)


def _context(state: _State, request: Request, change: Change) -> _State:
    usage = _shorter(state.usage, change.context, request.context_from)
    return replace(state, usage=usage, context_cut=True)


def _history(state: _State, _: Request, change: Change) -> _State:
    usage = _shorter(state.usage, change.history, change.readable)
    return replace(state, usage=usage, history_cut=True)


def _shorter(usage: Usage, tokens: int, readable: int) -> Usage:
    """Leave tokens out of a prompt; behind the place, the provider's cache knows nothing."""
    sent = max(usage.input_tokens - tokens, 0)
    read = min(usage.cache_read_tokens, readable, sent)
    write = min(usage.cache_write_tokens, sent - read)
    return replace(
        usage,
        input_tokens=sent,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=min(usage.cache_write_1h_tokens, write),
        audio_input_tokens=min(usage.audio_input_tokens, sent - read - write),
        audio_cache_read_tokens=min(usage.audio_cache_read_tokens, read),
    )


def _output(state: _State, _: Request, change: Change) -> _State:
    made = max(state.usage.output_tokens - change.output, 0)
    return replace(state, usage=replace(state.usage, output_tokens=made))


def _prompt_cache(state: _State, request: Request, change: Change) -> _State:
    usage, most = state.usage, state.usage.input_tokens
    if state.context_cut:
        most = min(most, request.context_from)
    if state.history_cut:
        most = min(most, change.readable)
    read = min(change.prefix.read, most)
    read = read if read >= change.prefix.least else 0
    read = max(read, usage.cache_read_tokens)
    write = min(change.prefix.write, most - read) if most - read > 0 else 0
    if read + write < change.prefix.least:
        write = 0
    write = min(max(write, usage.cache_write_tokens), usage.input_tokens - read)
    return replace(
        state,
        usage=replace(
            usage,
            cache_read_tokens=read,
            cache_write_tokens=write,
            cache_write_1h_tokens=min(usage.cache_write_1h_tokens, write),
        ),
    )


def _batch(state: _State, _request: Request, _change: Change) -> _State:
    return replace(state, tier="batch")


def _served(state: _State, _request: Request, _change: Change) -> _State:
    return replace(state, served=True)


_APPLY: Final[dict[str, _Apply]] = {
    "dominated_model": _route,
    "context": _context,
    "history": _history,
    "output": _output,
    "prompt_cache": _prompt_cache,
    "batch": _batch,
    "near_repeats": _served,
    "exact_repeats": _served,
}


def _tokens(name: str, before: _State, after: _State) -> int:
    if after.served:
        return before.usage.total_tokens
    if name == "prompt_cache":
        return after.usage.cache_read_tokens - before.usage.cache_read_tokens
    return before.usage.total_tokens - after.usage.total_tokens
