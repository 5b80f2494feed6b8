"""Another model, a shorter answer, a later answer: what a log says for each of them."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from costwise_core.errors import PriceError
from costwise_core.output.suggest import suggest_max_tokens
from costwise_core.prices import PriceBook
from costwise_core.replaying.requests import Request
from costwise_core.types import CallRecord
from costwise_core.whatif.tiers import dominated_tiers

__all__ = ["Dominated", "beyond_cap", "dominated_models", "no_one_waits"]

_MARGIN = 0.01
_ENOUGH = 30
_Z = 1.645


@dataclass(frozen=True, kw_only=True, slots=True)
class Dominated:
    """A model of which the log, or the user's own order, says that another is as good and cheaper.

    Args:
        model: Which.
        feature: Where; "" with an order of the user's, which holds everywhere.
        by: The other.
        why: One sentence.
        ordered: Whether it is the user's order that says so.
    """

    model: str
    by: str
    why: str
    feature: str = ""
    ordered: bool = False


def dominated_models(
    requests: Sequence[Request], prices: PriceBook, models: Sequence[str] = ()
) -> list[Dominated]:
    """Return models that nothing speaks for.

    By the user's order, as `dominated_tiers` finds them, and by the marks in the log: where the
    cheaper model's mean mark is, with 95 % confidence, at most 0.01 lower on the same feature (the
    interval of Agresti and Caffo 2000, which holds for small samples).

    Args:
        requests: Those with a mark count.
        prices: The price list.
        models: From the weakest to the best, as the user knows them.

    Example:
        >>> dominated_models([], PriceBook(), ["gpt-3.5-turbo", "gpt-4o-mini"])[0].by
        'gpt-4o-mini'
    """
    found = [
        Dominated(model=one.model, by=one.by, why=one.why, ordered=True)
        for one in (dominated_tiers(models, prices=prices).dominated if models else ())
    ]
    marks: dict[str, dict[str, list[float]]] = {}
    for one in requests:
        if one.mark is not None:
            marks.setdefault(one.feature, {}).setdefault(one.model, []).append(one.mark)
    for feature, by_model in marks.items():
        enough = {name: ours for name, ours in by_model.items() if len(ours) >= _ENOUGH}
        for dear, theirs in enough.items():
            as_good = {
                cheap: low
                for cheap, ours in enough.items()
                if cheap != dear
                and (low := _no_worse(ours, theirs)) >= -_MARGIN
                and _undercuts(cheap, dear, prices)
            }
            if as_good:
                by = max(as_good, key=lambda name: as_good[name])
                found.append(
                    Dominated(
                        model=dear,
                        feature=feature,
                        by=by,
                        why=f"{by} has a mean mark of {fmean(by_model[by]):.2f} on "
                        f"{len(by_model[by]):,} answers, {dear} {fmean(theirs):.2f} on "
                        f"{len(theirs):,}",
                    )
                )
    return found


def _undercuts(cheap: str, dear: str, prices: PriceBook) -> bool:
    try:
        return bool(dominated_tiers([dear, cheap], prices=prices).dominated)
    except PriceError:
        return False


def _no_worse(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the lower bound on how much better our mean is; each sample gets a 0 and a 1 more."""

    def moments(values: Sequence[float]) -> tuple[float, float]:
        padded = [*values, 0.0, 1.0]
        mean = fmean(padded)
        return mean, fmean((one - mean) ** 2 for one in padded) / len(padded)

    (one, noise), (other, other_noise) = moments(ours), moments(theirs)
    return one - other - _Z * math.sqrt(noise + other_noise)


def beyond_cap(requests: Iterable[Request]) -> tuple[dict[int, int], list[str]]:
    """Return, by place, how many tokens answers go beyond the cap that 99 % of them keep.

    Hidden reasoning is nothing that a cap makes shorter, so answers with it are left out.

    Returns:
        The tokens, and one sentence for each cap.

    Example:
        >>> beyond_cap([])
        ({}, [])
    """
    fit = [
        (place, one)
        for place, one in enumerate(requests)
        if not one.usage.reasoning_tokens and not one.usage.estimated
    ]
    caps: dict[tuple[str, str], int] = {}
    told = []
    for one in suggest_max_tokens(
        CallRecord(
            id=str(place),
            at=0.0,
            operation="chat",
            model=request.model,
            usage=request.usage,
            tags=(("feature", request.feature),),
        )
        for place, request in fit
    ):
        if one.max_tokens is not None:
            caps[one.feature, one.model] = one.max_tokens
            where = f"{one.feature or 'all'} by {one.model}"
            told.append(f"{where}: 99 % of {one.calls:,} answers keep within {one.max_tokens:,}")
    over = {}
    for place, request in fit:
        cap = caps.get((request.feature, request.model))
        if cap is not None and request.usage.output_tokens > cap:
            over[place] = request.usage.output_tokens - cap
    return over, told


def no_one_waits(
    requests: Sequence[Request], can_wait: Collection[str] = ()
) -> tuple[set[int], Mapping[str, bool]]:
    """Return the places of requests that a batch could have answered.

    Those are of features that the user names, and of features none of whose calls names a user
    where others do: perhaps nobody waits for their answers.

    Returns:
        The places, and each feature with whether the user named it.

    Example:
        >>> no_one_waits([Request(place=0, at=None, model="m", feature="nightly")], ["nightly"])
        ({0}, {'nightly': True})
    """
    asked = {one.feature for one in requests if one.user}
    features = {one.feature for one in requests if one.feature}
    waiting = {name: True for name in sorted(features) if name in can_wait}
    if asked:
        waiting |= {name: False for name in sorted(features - asked) if name not in waiting}
    places = {
        place
        for place, one in enumerate(requests)
        if one.feature in waiting and one.processing == "standard"
    }
    return places, waiting
