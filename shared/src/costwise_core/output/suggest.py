"""How long answers are in fact: a cap that few of them will meet, read off the ledger."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from costwise_core.bounds import least_sample, wrong_share_upper
from costwise_core.errors import ConfigError
from costwise_core.types import CallRecord

__all__ = ["OutputSuggestion", "suggest_max_tokens"]

_OPERATIONS: Final = frozenset({"chat", "completion"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputSuggestion:
    """What the answers of one feature by one model speak for.

    Args:
        feature: The tag; "" for calls without one.
        model: As it is in the ledger.
        max_tokens: The cap; None where nothing can be promised yet.
        calls: Answers that were looked at.
        needed: How many it takes at least; 0 if there are enough.
        why: One sentence for a person.

    Example:
        >>> OutputSuggestion(feature="faq", model="m", max_tokens=120, calls=400, why="").needed
        0
    """

    feature: str
    model: str
    max_tokens: int | None
    calls: int
    needed: int = 0
    why: str


def suggest_max_tokens(
    records: Iterable[CallRecord],
    *,
    share: float = 0.99,
    confidence: float = 0.95,
    cap: int | None = None,
) -> tuple[OutputSuggestion, ...]:
    """Suggest a cap on answers for each feature and model, one that all but 1 % keep within.

    The cap is the shortest length seen of which, with the given confidence, it holds that no more
    than 1 - `share` of all answers are longer: an order statistic, whatever the lengths are
    distributed like, as long as the calls to come are like those in the ledger (David and Nagaraja
    2003, 7.1). With the settings given, 299 answers is the fewest that it can be said of.

    Hits of the cache, costwise's own calls, and calls whose tokens were estimated are left out.

    Args:
        records: Of a ledger.
        share: Part of the answers that the cap is to hold, between 0 and 1.
        confidence: Between 0 and 1.
        cap: The cap that was in force, if any: lengths beyond it were never seen, so no cap is
            suggested where it was met too often.

    Raises:
        ConfigError: if `share` or `confidence` is not between 0 and 1.

    Example:
        >>> from costwise_core.types import Usage
        >>> calls = [
        ...     CallRecord(
        ...         id=f"{n}", at=0.0, operation="chat", model="m", usage=Usage(output_tokens=n)
        ...     )
        ...     for n in range(1, 501)
        ... ]
        >>> suggest_max_tokens(calls)[0].max_tokens
        499
    """
    for name, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be between 0 and 1, such as 0.95, got {value!r}.")
    lengths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in records:
        if record.operation in _OPERATIONS and record.answers and not record.tier:
            made = record.usage.output_tokens
            if made and not record.usage.estimated:
                lengths[dict(record.tags).get("feature", ""), record.model].append(made)
    return tuple(
        _suggestion(feature, model, sorted(found), share, confidence, cap)
        for (feature, model), found in sorted(lengths.items())
    )


def _suggestion(
    feature: str, model: str, lengths: list[int], share: float, confidence: float, cap: int | None
) -> OutputSuggestion:
    n, least = len(lengths), least_sample(1 - share, confidence)
    found: int | None = None
    if n < least:
        why = f"{n} answers say too little; {least} are needed at least"
    else:
        found = lengths[_rank(n, share, confidence)]
        why = f"at most {1 - share:.2g} of answers are longer, with {confidence:.0%} confidence"
        if cap is not None and found >= cap:
            found, why = None, f"too many answers met the cap of {cap}; it may be too low"
    return OutputSuggestion(
        feature=feature, model=model, max_tokens=found, calls=n, needed=max(0, least - n), why=why
    )


def _rank(n: int, share: float, confidence: float) -> int:
    """Return the lowest place, from 0, beyond which no more than the share given away may lie."""
    # Not below the sample's own quantile; beyond the last place nothing seen lies.
    low, high = max(0, int(n * share) - 1), n - 1
    while low < high:
        middle = (low + high) // 2
        if wrong_share_upper(n - 1 - middle, n, confidence) <= 1 - share:
            high = middle
        else:
            low = middle + 1
    return low
