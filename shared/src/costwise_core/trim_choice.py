"""Which of the scored passages stay, and in what order: pure rules over their places."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

__all__ = ["Order", "choose", "put_in_order", "ranked", "too_weak"]

Order: TypeAlias = Literal["original", "best_first", "best_at_both_ends"]


def ranked(scores: Sequence[float]) -> list[int]:
    """Return the places of the scores, highest first; of equal ones the first given.

    Example:
        >>> ranked([1.0, 3.0, 1.0])
        [1, 0, 2]
    """
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def too_weak(
    scores: Sequence[float], *, min_score: float | None, max_gap: float | None
) -> dict[int, str]:
    """Return the places that score too low, with why.

    Args:
        scores: One for each passage.
        min_score: What each must have at least; None for no such limit.
        max_gap: The largest fall from one to the next best before all that follow are too weak.

    Example:
        >>> too_weak([0.9, 0.2, 0.8], min_score=None, max_gap=0.5)
        {1: 'behind a score gap of 0.6'}
    """
    order = ranked(scores)
    weak: dict[int, str] = {}
    if min_score is not None:
        weak |= {i: f"below min_score {min_score:.3g}" for i in order if scores[i] < min_score}
    if max_gap is not None:
        for rank, (better, worse) in enumerate(pairwise(order), 1):
            gap = scores[better] - scores[worse]
            if gap > max_gap:
                return dict.fromkeys(order[rank:], f"behind a score gap of {gap:.3g}") | weak
    return weak


def choose(
    turns: Iterable[int],
    tokens: Sequence[int],
    *,
    weak: Mapping[int, str],
    top_k: int | None,
    budget: int | None,
    keep_at_least: int,
    by_rank: Sequence[int],
) -> tuple[list[int], dict[int, str]]:
    """Fill the limits one place after the other, then make sure of the least to keep.

    Args:
        turns: All places, in the order in which they may claim a share of the budget.
        tokens: Of each place.
        weak: Places that may claim none, with why.
        top_k: The most places to keep.
        budget: The most tokens to keep.
        keep_at_least: How many to keep even so: first those that fit, then whatever is best.
        by_rank: All places, best first.

    Returns:
        The places to keep, and for each other place why not.

    Example:
        >>> limits = {"weak": {}, "top_k": None, "budget": 50, "keep_at_least": 1}
        >>> choose([1, 0], [30, 80], by_rank=[1, 0], **limits)
        ([0], {1: 'beyond 50 tokens'})
    """
    kept: list[int] = []
    out: dict[int, str] = {}
    left = float("inf") if budget is None else budget
    for i in turns:
        if i in weak:
            out[i] = weak[i]
        elif top_k is not None and len(kept) >= top_k:
            out[i] = f"beyond the best {top_k}"
        elif tokens[i] > left:
            out[i] = f"beyond {budget} tokens"
        else:
            kept.append(i)
            left -= tokens[i]
    for must_fit in (True, False):
        for i in by_rank:
            if i in out and len(kept) < keep_at_least and (tokens[i] <= left or not must_fit):
                kept.append(i)
                left -= tokens[i]
                del out[i]
    return kept, out


def put_in_order(kept: Sequence[int], by_rank: Sequence[int], order: Order) -> list[int]:
    """Return the kept places in the order in which the model will read them.

    Example:
        >>> put_in_order([0, 1, 2, 3], [3, 1, 0, 2], "best_at_both_ends")
        [3, 0, 2, 1]
    """
    if order == "original":
        return sorted(kept)
    chosen = set(kept)
    best = [i for i in by_rank if i in chosen]
    return best if order == "best_first" else best[::2] + best[1::2][::-1]
