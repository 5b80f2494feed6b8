"""Where a conversation could be cut now, how long its summary may be, and what that would cost."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.memory.economics import INSTRUCTION_TOKENS, appended_usd, fold_usd
from costwise_core.memory.policy import MemoryPolicy
from costwise_core.memory.talk import FRAME_TOKENS, Talk

__all__ = ["Cut", "cut_of"]

_ROOM: Final = 0.1
"""What tail and summary may cost together, as a share of what the whole history costs."""

_WIDER: Final = 3
"""How many times the least tail may be kept where there is room for it."""

_LEAST_SUMMARY: Final = 80
"""Tokens; with fewer not even what a conversation is about can be said."""

_CALLS: Final = 10
"""Calls that a prefix usually lasts for: the price of writing it is spread over them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A cut that could be made, and what it would do.

    Args:
        at: How many messages the summary would stand for.
        steps: Ranges of messages that a model would read into it.
        tokens: The most that the summary may have.
        prompt: Tokens of the conversation in a prompt after it, if no message were added.
        mode: How a model's summary is cheapest.
        usd: What that costs at most; infinite where nobody can write one.
        setup_usd: What does not grow with what is folded: the old summary and the instruction read,
            the new one written by the summariser, and by the provider into its cache.

    Example:
        >>> Cut(at=4, steps=((0, 4),), tokens=80, prompt=300).mode
        'separate'
    """

    at: int
    steps: tuple[tuple[int, int], ...]
    tokens: int
    prompt: int
    mode: Literal["separate", "appended"] = "separate"
    usd: float = 0.0
    setup_usd: float = 0.0


def cut_of(
    talk: Talk, policy: MemoryPolicy, ends: Sequence[int], *, at_once: bool = False
) -> Cut | None:
    """Return the best cut, or None where there is nothing new to fold.

    Tail and summary are as long as a tenth of the whole history's price allows, within the
    policy's limits: short where a new prefix is dear and an old one cheap, longer elsewhere.

    Args:
        talk: The conversation.
        policy: Says how little and how much.
        ends: Where it may be cut.
        at_once: Whether the call at hand must pay for the whole new prefix.

    Example:
        >>> from costwise_core.memory.messages import Message, Summary
        >>> from costwise_core.memory.talk import talk_of
        >>> talk = talk_of([Message(role="user", text="", tokens=900)] * 3, Summary(), None)
        >>> cut_of(talk, MemoryPolicy(), (1, 2)).at
        2
    """
    old, whole = talk.summary, talk.total[talk.size]
    room = _room(talk, calls=1 if at_once else _CALLS)
    tail = min(max(policy.tail_tokens, room // 2), _WIDER * policy.tail_tokens)
    at = max([old.folded, *(end for end in ends if talk.total[end] <= whole - tail)])
    if at == old.written:
        return None
    kept = whole - talk.total[at]
    least = min(_LEAST_SUMMARY, policy.summary_tokens)
    tokens = min(max(room - kept - FRAME_TOKENS, least), policy.summary_tokens)
    # What is longer than half of what it stands for is no summary.
    tokens = max(min(tokens, talk.total[at] // 2 - FRAME_TOKENS), 1)
    reads = policy.summariser_window - 2 * policy.summary_tokens - INSTRUCTION_TOKENS
    steps = _steps(talk.total, old.written, at, reads)
    cut = Cut(at=at, steps=steps, tokens=tokens, prompt=kept + FRAME_TOKENS + tokens)
    return _priced(talk, cut)


def _room(talk: Talk, *, calls: int) -> int:
    """Tokens that cost a tenth of the whole history if a prefix lasts so many calls."""
    prices, room = talk.prices, _ROOM * talk.total[talk.size]
    if prices is None:
        return int(room)
    each = prices.cache_read + (prices.cache_write - prices.cache_read) / calls
    return int(room * prices.cache_read / each if each else room)


def _priced(talk: Talk, cut: Cut) -> Cut:
    old, prices = talk.summary, talk.prices
    if prices is None:
        return cut
    mode: Literal["separate", "appended"] = "separate"
    blocks = [talk.total[stop] - talk.total[start] for start, stop in cut.steps]
    usd = fold_usd(prices, blocks, old=old.tokens, new=cut.tokens)
    setup = fold_usd(prices, [0], old=old.tokens, new=cut.tokens)
    steps = cut.steps
    # The live prompt shows the messages from `folded` on; a model must have read those before.
    if prices.appended and old.written == old.folded:
        live = talk.kept(talk.size)
        cached = live if talk.pending else max(talk.kept(talk.sent), 0)
        asked = appended_usd(prices, live, cached, new=cut.tokens)
        if asked < usd:
            mode, usd, setup, steps = "appended", asked, asked, ((old.folded, cut.at),)
    if setup == float("inf"):
        usd, setup = setup, 0.0
    rewritten = cut.prompt * (prices.cache_write - prices.cache_read) / 1e6
    return Cut(
        at=cut.at,
        steps=steps,
        tokens=cut.tokens,
        prompt=cut.prompt,
        mode=mode,
        usd=usd,
        setup_usd=setup + rewritten,
    )


def _steps(total: Sequence[int], start: int, stop: int, room: int) -> tuple[tuple[int, int], ...]:
    """Cut a range of messages into ranges of at most `room` tokens, or of one message."""
    found = []
    while start < stop:
        fits = bisect_right(total, total[start] + room, start, stop + 1) - 1
        found.append((start, max(fits, start + 1)))
        start = found[-1][1]
    return tuple(found)
