"""Calls of a conversation and what they cost, apart from the planner's own arithmetic.

A provider's cache reads as much of a prompt as begins like the one before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from costwise_core.memory.economics import MemoryPrices


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a policy: pieces of its prompt, each with its tokens, in order.

    Args:
        prompt: What may be cached: a key that is equal only for equal texts, and tokens.
        fresh: Tokens after that, which are never cached.
        answer: Tokens of the answer.
        summary_sent: Tokens the summariser read for this call, before it or after its answer.
        summary_made: Tokens it wrote.
    """

    prompt: tuple[tuple[str, int], ...]
    fresh: int = 0
    answer: int = 0
    summary_sent: int = 0
    summary_made: int = 0


def call_usd(call: Call, last: Call | None, prices: MemoryPrices, before: int) -> float:
    """What one call costs after another; the price of the system prompt is left out."""
    same = 0
    for piece, old in zip(call.prompt, last.prompt if last else (), strict=False):
        if piece != old:
            break
        same += piece[1]
    tokens = sum(size for _, size in call.prompt)
    if before + tokens < prices.least:
        usd = tokens * prices.input
    else:
        same = same if before + same >= prices.least else 0
        usd = same * prices.cache_read + (tokens - same) * prices.cache_write
    usd += call.fresh * max(prices.input, prices.cache_write) + call.answer * prices.output
    usd += call.summary_sent * (prices.summary_input or 0)
    usd += call.summary_made * (prices.summary_output or 0)
    return usd / 1e6


def spent(calls: Sequence[Call], prices: MemoryPrices, before: int) -> list[float]:
    """What a conversation has cost after each of its calls."""
    each = zip(calls, [None, *calls], strict=False)
    return list(accumulate(call_usd(call, last, prices, before) for call, last in each))
