"""What conversation memory would have kept out of prompts, by the planner that memory uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, cast

from costwise_core.errors import ConfigError, PriceError
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.messages import Message, Summary
from costwise_core.memory.plan import plan
from costwise_core.memory.policy import MemoryPolicy
from costwise_core.memory.talk import FRAME_TOKENS
from costwise_core.prices import PriceBook
from costwise_core.replaying.requests import Request

__all__ = ["Folded", "conversations_of", "folded_history"]

_CALLS: Final = 300
"""Calls of one conversation that are replayed; what comes after claims nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """What memory would have kept out of one prompt.

    Args:
        tokens: Left out, after what stands for them and what may be recalled.
        readable: Tokens of the beginning that the provider's cache may still have had.
    """

    tokens: int
    readable: int


def conversations_of(requests: Sequence[Request]) -> list[list[int]]:
    """Return which requests belong to one conversation, by place, each in the order of time.

    By the name in the log; where there is none, by what was said: a prompt whose history is an
    earlier prompt with its answer goes on with that conversation.

    Example:
        >>> asked = [Request(place=0, at=None, model="m", after="x"),
        ...          Request(place=1, at=None, model="m", before="x", after="y"),
        ...          Request(place=2, at=None, model="m", before="z")]
        >>> conversations_of(asked)
        [[0, 1], [2]]
    """
    found: dict[Any, list[int]] = {}
    after: dict[str, Any] = {}
    for place, one in enumerate(requests):
        key: Any = place
        if one.conversation:
            key = (one.tenant, one.user, one.conversation)
        elif one.before in after:
            key = after[one.before]
        found.setdefault(key, []).append(place)
        if one.after:
            after[one.after] = key
    return list(found.values())


def folded_history(
    requests: Sequence[Request], conversations: Sequence[Sequence[int]], prices: PriceBook
) -> dict[int, Folded]:
    """Return, by place, what memory would have kept out.

    Folds are those that need no model ("extract"), so they cost nothing, and recall is taken to
    spend all that it may: memory in use leaves out rather more.

    Args:
        requests: In the order of time.
        conversations: Of `conversations_of`.
        prices: What folding is decided by; a model without a price keeps its history.

    Example:
        >>> folded_history([], [], PriceBook())
        {}
    """
    cached = {one.model for one in requests if one.usage.cache_read_tokens}
    found: dict[int, Folded] = {}
    for places in conversations:
        if len(places) < 2:
            continue
        kinds: dict[tuple[str, str], list[int]] = {}
        for place in places:
            kinds.setdefault((requests[place].model, requests[place].feature), []).append(place)
        for (model, _), same in kinds.items():
            try:
                known = MemoryPrices.of(prices, model, cached=model in cached)
            except (PriceError, ConfigError):
                continue
            found.update(_folded([(place, requests[place]) for place in same], known))
    return found


def _folded(
    calls: Sequence[tuple[int, Request]], prices: MemoryPrices
) -> Iterator[tuple[int, Folded]]:
    longest = max((one for _, one in calls), key=lambda one: len(one.talk))
    if len(longest.talk) < 3:
        return
    messages = [
        Message(
            role=cast("Literal['user', 'assistant', 'tool']", role),
            text="",
            tokens=max(1, round(chars * longest.tokens_per_char)),
        )
        for role, chars in longest.talk
    ]
    total = list(accumulate((one.tokens for one in messages), initial=0))
    state, policy, last = Summary(), MemoryPolicy(), 0
    done = 0
    for place, request in calls[:_CALLS]:
        count = len(request.talk)
        # An application that cuts its history itself, or another branch, is left alone.
        if count <= done or longest.talk[:count] != request.talk:
            continue
        done = count
        seen = messages[:count]
        before = request.head_tokens
        decided = plan(seen, state, prices, policy, before=before)
        readable = before + last
        if decided.mode == "extract":
            folded = total[decided.cut] - total[state.folded] + state.tokens
            state = Summary(
                folded=decided.cut,
                tokens=min(decided.summary_tokens, folded),
                seen=count,
                saved_usd=decided.saved_usd,
            )
            readable = before
        if not state.folded:
            last = total[count]
            continue
        last = state.tokens + FRAME_TOKENS + total[count] - total[state.folded]
        left = total[count] - last - decided.recall_tokens
        if left > 0:
            yield place, Folded(tokens=left, readable=readable)
