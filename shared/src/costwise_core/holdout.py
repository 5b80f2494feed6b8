"""A share of requests that runs unoptimised, and what the others really saved by comparison.

A bill says what each stage saved by pricing what did not happen. A hold-out checks that against
what did: requests picked by a hash of their id pass every stage untouched, and the difference of
the two groups' costs is the saving, whatever anybody's model of it says.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.types import CallRecord

__all__ = ["HOLDOUT", "TREATED", "HoldOut", "Request", "TrueSaving", "saving_of", "true_saving"]

HOLDOUT: Final = "holdout"
TREATED: Final = "treated"
_LEAST: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """Which requests run unoptimised: a fixed share, by a hash of the request's id.

    The same id is in the same arm in every process and on every day. Give `track` one of these and
    an id as the tag `request`; without an id each block is a request of its own.

    Args:
        share: Of all requests, between 0 and 1.
        salt: Change it to draw another sample.

    Raises:
        ConfigError: if the share is not between 0 and 1.

    Example:
        >>> HoldOut(share=0.05).arm("request-1")
        'treated'
        >>> arms = [HoldOut(share=0.05).arm(str(n)) for n in range(10_000)]
        >>> 400 < arms.count("holdout") < 600
        True
    """

    share: float = 0.05
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is a part of all requests, from 0 to 1, got {self.share!r}.")

    def arm(self, request: str) -> Literal["holdout", "treated"]:
        """Return the arm of a request."""
        text = f"{len(self.salt)}:{self.salt}{request}".encode("utf-8", "surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        return HOLDOUT if drawn < self.share * 2**64 else TREATED


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueSaving:
    """What a request costs less with costwise than without, measured on a hold-out.

    Args:
        usd: Dollars saved per request: mean cost of held-out requests less that of treated ones.
        low: Lower end of the interval.
        high: Upper end.
        confidence: How often such an interval holds the true value, such as 0.95.
        treated: Requests that were treated.
        holdout: Requests that were held out.
        treated_usd: Mean dollars of a treated request, costwise's own calls included.
        holdout_usd: Mean dollars of a held-out request.
        claimed_usd: What the bill says a treated request saved, after overhead.
        unpriced: Requests left out because some call of theirs has no known price.
        kind: "sampled".
    """

    usd: Decimal
    low: Decimal
    high: Decimal
    confidence: float
    treated: int
    holdout: int
    treated_usd: Decimal
    holdout_usd: Decimal
    claimed_usd: Decimal
    unpriced: int = 0
    kind: Literal["sampled"] = "sampled"

    @property
    def why(self) -> str:
        """One sentence for a person."""
        return (
            f"{self.holdout:,} of {self.holdout + self.treated:,} requests ran unoptimised "
            f"(Welch's interval on the difference of mean costs, {self.confidence:.0%})"
            f"{_left_out(self.unpriced)}"
        )

    def __str__(self) -> str:
        """Return the saving, its interval and what the bill says of it, in one line."""
        places = max(2, min(3 - min(self.holdout_usd.adjusted(), 0), 12))
        usd, low, high, claimed = (
            f"{'-' if one < 0 else ''}${abs(one):,.{places}f}"
            for one in (self.usd, self.low, self.high, self.claimed_usd)
        )
        return (
            f"{usd} saved per request, {low} to {high}; {self.why}; the steps of the bill say "
            f"{claimed}"
        )


class Request(NamedTuple):
    """What the calls of one request paid and are said to have saved, in 10^-12 dollars.

    `paid` has costwise's own calls in it, and `claimed` is less them. `priced` is False if the
    price of some call is not known.
    """

    arm: str
    paid: int
    claimed: int
    priced: bool


def true_saving(records: Iterable[CallRecord], *, confidence: float = 0.95) -> TrueSaving | str:
    """Return what treated requests saved against held-out ones, with Welch's interval.

    Calls are put together by their tag `request`. The interval is that of Welch (1947) for two
    means with unequal variances. It takes requests to be independent, and their number in each arm
    to be large enough for means to be near normal: with strongly skewed costs some hundred.

    Args:
        records: Calls of a ledger or bill; those without a tag `arm` are passed over.
        confidence: Above 0.5 and below 1.

    Returns:
        The saving, or one sentence on why it cannot be told yet.

    Raises:
        ConfigError: if the confidence is out of range.

    Example:
        >>> def call(n, usd, arm):
        ...     tags = (("arm", arm), ("request", str(n)))
        ...     return CallRecord(
        ...         id=str(n), at=0.0, operation="chat", model="m", usd=Decimal(usd), tags=tags
        ...     )
        >>> records = [call(n, 3 + n % 2, "holdout") for n in range(40)]
        >>> records += [call(n, n % 2, "treated") for n in range(40, 90)]
        >>> saving = true_saving(records)
        >>> saving.usd, saving.low < 3 < saving.high
        (Decimal('3'), True)
    """
    if not 0.5 < confidence < 1:
        raise ConfigError(f"confidence must be above 0.5 and below 1, got {confidence!r}.")
    requests: dict[tuple[str, str], Request] = {}
    for record in records:
        tags = dict(record.tags)
        if (arm := tags.get("arm")) in (HOLDOUT, TREATED):
            key = arm, tags.get("request") or f"call {record.id}"
            requests[key] = _with(requests.get(key, Request(arm, 0, 0, priced=True)), record)
    return saving_of(requests.values(), confidence=confidence)


def saving_of(requests: Iterable[Request], *, confidence: float = 0.95) -> TrueSaving | str:
    """Do what `true_saving` does, given the sums of each request.

    Example:
        >>> requests = [Request("holdout", 5, 0, True), Request("treated", 3, 2, True)]
        >>> saving_of(requests * 10).holdout
        10
    """
    paid: dict[str, list[float]] = {HOLDOUT: [], TREATED: []}
    claimed = unpriced = 0
    for one in requests:
        if not one.priced:
            unpriced += 1
            continue
        paid[one.arm].append(float(one.paid))
        claimed += one.claimed if one.arm == TREATED else 0
    held, treated = paid[HOLDOUT], paid[TREATED]
    if len(held) < _LEAST or len(treated) < _LEAST:
        return (
            f"only {len(held)} held-out and {len(treated)} treated requests so far, and at least "
            f"{_LEAST} of each are needed{_left_out(unpriced)}"
        )
    usd, margin = _welch(held, treated, confidence)
    return TrueSaving(
        usd=dollars(round(usd)),
        low=dollars(round(usd - margin)),
        high=dollars(round(usd + margin)),
        confidence=confidence,
        treated=len(treated),
        holdout=len(held),
        treated_usd=dollars(round(math.fsum(treated) / len(treated))),
        holdout_usd=dollars(round(math.fsum(held) / len(held))),
        claimed_usd=dollars(round(claimed / len(treated))),
        unpriced=unpriced,
    )


def _with(request: Request, record: CallRecord) -> Request:
    if record.usd is None:
        return request._replace(priced=False)
    paid = picodollars(record.usd)
    saved = sum(picodollars(one.usd) for one in record.savings if one.usd is not None)
    return request._replace(
        paid=request.paid + paid,
        claimed=request.claimed + saved - (paid if record.overhead else 0),
    )


def _left_out(unpriced: int) -> str:
    if not unpriced:
        return ""
    return f"; {unpriced:,} more have calls without a known price and are left out"


# --- the interval ---------------------------------------------------------------------------------


def _welch(
    first: Sequence[float], second: Sequence[float], confidence: float
) -> tuple[float, float]:
    """Return the difference of two means and the margin on both its sides."""
    (mean_1, error_1), (mean_2, error_2) = map(_mean, (first, second))
    error = error_1 + error_2
    if error == 0:
        return mean_1 - mean_2, 0.0
    freedom = error**2 / (error_1**2 / (len(first) - 1) + error_2**2 / (len(second) - 1))
    return mean_1 - mean_2, _student(0.5 + confidence / 2, freedom) * math.sqrt(error)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its squared standard error."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, variance / len(values)


def _student(probability: float, freedom: float) -> float:
    """Return the quantile of Student's distribution, by halving the interval it lies in."""
    low, high = 0.0, 1.0
    while _below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
    return high


def _below(t: float, freedom: float) -> float:
    """Return how likely Student's variable is below t >= 0."""
    x = freedom / (freedom + t * t)
    return 1 - _beta(x, freedom / 2, 0.5) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a

    def term(n: int) -> float:
        m, odd = divmod(n, 2)
        if odd:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))

    return front / _continued(term)


def _continued(term: Callable[[int], float]) -> float:
    """Return 1 + term(1) / (1 + term(2) / (1 + ...)), by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, 500):
        d = 1 / (1 + term(n) * d)
        c = 1 + term(n) / c
        value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return value
