"""Why a request costs more than it did: an exact split into causes.

A request costs

    calls * (1 - hits) * (input * ((1 - cached) * p_fresh + cached * p_read) + output * p_out + fee)

with `calls` per request, `hits` the response cache's share of them, `input` and `output` the tokens
of a paid call, `cached` the provider's share of the input. The change between two periods is split
by Shapley values (Shorrocks 2013, "Decomposition procedures for distributional analysis"): each
cause is charged with its mean effect over all orders in which the causes can change. So the parts
add up, no order is preferred, and zeros do no harm, which logarithms (LMDI) cannot say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from math import factorial
from typing import Final

from costwise_core.alerts.alert import Cause
from costwise_core.errors import PriceError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook
from costwise_core.types import CallRecord

__all__ = ["CAUSES", "Spend", "causes_of", "spend_of"]

CAUSES: Final = ("calls", "hit rate", "input tokens", "output tokens", "prompt cache", "price")
_RATIOS: Final = (
    ("calls", "requests"),
    ("paid", "calls"),
    ("input_tokens", "paid"),
    ("output_tokens", "paid"),
    ("cache_read_tokens", "input_tokens"),
    ("fresh", "fresh_tokens"),
    ("read", "cache_read_tokens"),
    ("output", "output_tokens"),
    ("fees", "paid"),
)
# Which cause each of them belongs to: all prices are one.
_CAUSE: Final = (0, 1, 2, 3, 4, 5, 5, 5, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What some requests took; values add. Money is in whole 10^-12 dollars.

    Args:
        requests: Requests; one may take several calls.
        calls: Calls, those that the response cache answered included.
        paid: Calls that were paid for.
        input_tokens: Of paid calls, as all that follow.
        output_tokens: Likewise.
        cache_read_tokens: Part of the input.
        fresh: Paid for input that was not read from the provider's cache.
        read: Paid for input that was.
        output: Paid for output.
        fees: Paid for the calls themselves.

    Example:
        >>> one = Spend(requests=1, calls=1, paid=1, input_tokens=5, fresh=10)
        >>> (one + one).usd_per_request
        Decimal('1E-11')
    """

    requests: int = 0
    calls: int = 0
    paid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    fresh: int = 0
    read: int = 0
    output: int = 0
    fees: int = 0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            requests=self.requests + other.requests,
            calls=self.calls + other.calls,
            paid=self.paid + other.paid,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            fresh=self.fresh + other.fresh,
            read=self.read + other.read,
            output=self.output + other.output,
            fees=self.fees + other.fees,
        )

    @property
    def usd_per_request(self) -> Decimal:
        """Dollars, rounded to 10^-12."""
        return dollars(round(self.per_request))

    @property
    def per_request(self) -> Fraction:
        """The same in 10^-12 dollars, exact; 0 without requests."""
        paid = self.fresh + self.read + self.output + self.fees
        return Fraction(paid, self.requests) if self.requests else Fraction()

    @property
    def cached_share(self) -> float:
        """Share of the input that the provider read from its cache; 0 without input."""
        return self.cache_read_tokens / self.input_tokens if self.input_tokens else 0.0


def spend_of(record: CallRecord, prices: PriceBook, *, requests: int = 1) -> Spend:
    """Return what one call took. What was paid is split as the price list would.

    Args:
        record: A call with a known price.
        prices: For the split; without a price there, by tokens.
        requests: 0 for a further call of a request that was counted before.

    Example:
        >>> from costwise_core.types import Usage
        >>> usage = Usage(input_tokens=1000, output_tokens=100)
        >>> record = CallRecord(
        ...     id="1", at=0.0, operation="chat", model="gpt-4o", usage=usage, usd=Decimal("0.0035")
        ... )
        >>> spend = spend_of(record, PriceBook())
        >>> spend.fresh, spend.output
        (2500000000, 1000000000)
    """
    if record.tier:
        return Spend(requests=requests, calls=1)
    used = record.usage
    cached = min(used.cache_read_tokens, used.input_tokens)
    fresh, read, output, fees = _weights(record, prices)
    paid = picodollars(record.usd or Decimal(0))
    whole = fresh + read + output + fees
    if not whole:
        fees = whole = 1
    shares = [paid * part // whole for part in (fresh, read, output)]
    return Spend(
        requests=requests,
        calls=1,
        paid=1,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cache_read_tokens=cached,
        fresh=shares[0] + (0 if fees else paid - sum(shares)),
        read=shares[1],
        output=shares[2],
        fees=paid - sum(shares) if fees else 0,
    )


def causes_of(before: Spend, after: Spend) -> tuple[Cause, ...]:
    """Return what a change of the cost per request comes from, largest first.

    In exact decimals the causes add up to the change, rounded to 10^-12 dollars.

    Example:
        >>> before = Spend(requests=10, calls=10, paid=5, input_tokens=5000, fresh=10_000_000)
        >>> after = Spend(requests=10, calls=10, paid=10, input_tokens=10_000, fresh=20_000_000)
        >>> [(cause.name, cause.usd) for cause in causes_of(before, after)][0]
        ('hit rate', Decimal('0.000001'))
    """
    then, now = _factors(before, after), _factors(after, before)
    n = len(CAUSES)
    cost = {
        chosen: _cost(
            [
                new if cause in chosen else old
                for cause, old, new in zip(_CAUSE, then, now, strict=True)
            ]
        )
        for size in range(n + 1)
        for chosen in combinations(range(n), size)
    }
    parts: list[Fraction] = []
    for cause in range(n):
        others = [one for one in range(n) if one != cause]
        part = Fraction()
        for size in range(n):
            weight = Fraction(factorial(size) * factorial(n - 1 - size), factorial(n))
            for chosen in combinations(others, size):
                added = tuple(sorted((*chosen, cause)))
                part += weight * (cost[added] - cost[chosen])
        parts.append(part)
    found = []
    reached = Fraction()
    for cause, (name, part) in enumerate(zip(CAUSES, parts, strict=True)):
        picos = round(reached + part) - round(reached)  # so that rounding adds nothing
        reached += part
        if name == "price":
            shown = [_cost([*now[:cause], *prices[cause:]]) / 10**12 for prices in (then, now)]
        else:
            shown = [factors[cause] for factors in (then, now)]
        if name == "hit rate":
            shown = [1 - one for one in shown]
        found.append(
            Cause(name=name, usd=dollars(picos), before=float(shown[0]), after=float(shown[1]))
        )
    return tuple(sorted(found, key=lambda one: -abs(one.usd)))


def _factors(spend: Spend, other: Spend) -> list[Fraction]:
    """Return the factors of a period; what it cannot say (0/0) it takes from the other."""

    def ratio(part: str, whole: str) -> Fraction:
        for one in (spend, other):
            if amount := _amount(one, whole):
                return Fraction(_amount(one, part), amount)
        return Fraction()

    return [ratio(part, whole) for part, whole in _RATIOS]


def _amount(spend: Spend, name: str) -> int:
    if name == "fresh_tokens":
        return spend.input_tokens - spend.cache_read_tokens
    amount: int = getattr(spend, name)
    return amount


def _cost(factors: Sequence[Fraction]) -> Fraction:
    calls, paid, sent, produced, cached, fresh, read, output, fee = factors
    return calls * paid * (sent * ((1 - cached) * fresh + cached * read) + produced * output + fee)


def _weights(record: CallRecord, prices: PriceBook) -> tuple[int, int, int, int]:
    used = record.usage
    try:
        parts = dict(prices.cost(used, record.model, at=record.at).parts)
    except PriceError:
        cached = min(used.cache_read_tokens, used.input_tokens)
        return used.input_tokens - cached, cached, used.output_tokens, 0
    picos = {name: picodollars(usd) for name, usd in parts.items()}
    fresh = sum(picos.get(name, 0) for name in ("input", "cache_write", "cache_write_1h"))
    output = sum(picos.get(name, 0) for name in ("output", "reasoning"))
    return fresh, picos.get("cache_read", 0), output, picos.get("request", 0)
