"""Sums over calls, and the tables that are made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from operator import add
from typing import Final, TypeAlias

from costwise_core.money import dollars, picodollars, total
from costwise_core.report.tally import Group, Kind, Numbers

__all__ = ["KEYS", "Part", "Row", "Sums", "sums_of", "tables_of"]

KEYS: Final = ("model", "operation", "feature", "team", "user", "tenant", "endpoint", "arm")
"""What calls are grouped by, besides the day."""

MAX_ROWS: Final = 50
"""A table shows its dearest rows; the last row holds the rest of them together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What some calls cost, saved and used.

    Exactly `baseline - saved + overhead == usd`.

    Args:
        calls: Requests: those paid for and those answered from the cache, without overhead.
        hits: Requests answered from the cache.
        serving_calls: Calls that served to answer requests: embeddings, reranking, searches.
        own_calls: Calls costwise itself made.
        own_tokens: Their tokens, sent and produced.
        usd: Dollars paid, for its own calls too.
        overhead: Dollars paid for its own calls.
        saved: Dollars not paid, by all stages together.
        input_tokens: Sent, cached ones included.
        output_tokens: Produced.
        cache_read_tokens: The part of `input_tokens` that the provider read from its cache.
        cache_write_tokens: Likewise that it wrote.
        unpriced: Calls whose price, or that of something saved on them, is not known.
        estimated: Calls whose tokens were estimated.
        own_estimated: Those of them that costwise itself made.
        seconds: Time that requests took, together.

    Example:
        >>> sums = Sums(calls=4, hits=1, usd=Decimal("0.3"), saved=Decimal("0.1"))
        >>> sums.baseline, sums.hit_rate
        (Decimal('0.4'), 0.25)
    """

    calls: int = 0
    hits: int = 0
    serving_calls: int = 0
    own_calls: int = 0
    own_tokens: int = 0
    usd: Decimal = Decimal(0)
    overhead: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    unpriced: int = 0
    estimated: int = 0
    own_estimated: int = 0
    seconds: float = 0.0

    @property
    def baseline(self) -> Decimal:
        """Dollars the same requests would have cost without costwise."""
        return total((self.usd, -self.overhead, self.saved))

    @property
    def net(self) -> Decimal:
        """Dollars saved after overhead; negative when costwise cost more than it saved."""
        return total((self.saved, -self.overhead))

    @property
    def net_share(self) -> float:
        """The part of `baseline` that was saved net; 0 without a baseline."""
        return float(self.net / self.baseline) if self.baseline > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """The share of requests answered from the cache, in [0, 1]."""
        return self.hits / self.calls if self.calls else 0.0

    @property
    def usd_per_call(self) -> Decimal:
        """Dollars paid for a request on average, with all that served it and overhead.

        Where there are serving calls only, as in the row of an embed model, for one of those.
        """
        calls = self.calls or self.serving_calls
        return dollars(picodollars(self.usd) // calls) if calls else Decimal(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a table.

    Args:
        name: The model, feature, ...; "" for calls without such a tag.
        sums: Theirs.
        others: How many rows this one stands for that were not worth a row each; 0 for itself.

    Example:
        >>> Row(name="faq", sums=Sums(calls=3)).others
        0
    """

    name: str
    sums: Sums
    others: int = 0


Part: TypeAlias = tuple[Kind, Numbers]


def sums_of(parts: Iterable[Part]) -> Sums:
    """Add up numbers exactly.

    Example:
        >>> numbers = Numbers(2, 10**12, 0, 100, 20, 0, 0, 0, 0, 1.5)
        >>> sums_of([("paid", numbers), ("own", numbers)]).overhead
        Decimal('1')
    """
    calls = hits = serving = own = own_tokens = own_estimated = usd = overhead = saved = 0
    counts = [0] * 6
    seconds = 0.0
    for kind, numbers in parts:
        if kind == "own":
            own += numbers.calls
            own_tokens += numbers.input_tokens + numbers.output_tokens
            own_estimated += numbers.estimated
            overhead += numbers.usd
        elif kind == "serving":
            serving += numbers.calls
        else:
            calls += numbers.calls
            hits += numbers.calls if kind == "hit" else 0
            seconds += numbers.seconds
        usd += numbers.usd
        saved += numbers.saved
        counts = list(map(add, counts, numbers[3:9]))
    return Sums(
        calls=calls,
        hits=hits,
        serving_calls=serving,
        own_calls=own,
        own_tokens=own_tokens,
        usd=dollars(usd),
        overhead=dollars(overhead),
        saved=dollars(saved),
        input_tokens=counts[0],
        output_tokens=counts[1],
        cache_read_tokens=counts[2],
        cache_write_tokens=counts[3],
        unpriced=counts[4],
        estimated=counts[5],
        own_estimated=own_estimated,
        seconds=seconds,
    )


def tables_of(groups: Iterable[tuple[Group, Numbers]]) -> Mapping[str, tuple[Row, ...]]:
    """Return a table for each of `KEYS` that tells calls apart, dearest rows first.

    Example:
        >>> numbers = Numbers(2, 10**12, 0, 100, 20, 0, 0, 0, 0, 1.5)
        >>> group = Group("chat", "gpt-4o", False, "", "faq", "", "", "", "", "")
        >>> {key: [row.name for row in rows] for key, rows in tables_of([(group, numbers)]).items()}
        {'model': ['gpt-4o'], 'feature': ['faq']}
    """
    found: dict[str, dict[str, list[Part]]] = {key: {} for key in KEYS}
    for group, numbers in groups:
        part = (group.kind, numbers)
        for key in KEYS:
            found[key].setdefault(getattr(group, key), []).append(part)
    # That all calls are chats is nothing to tell; that all are one team's may well be.
    return {
        key: _rows(values)
        for key, values in found.items()
        if len(values) > 1 or (any(values) and key != "operation")
    }


def _rows(values: Mapping[str, list[Part]]) -> tuple[Row, ...]:
    by_cost = sorted(
        values.items(),
        key=lambda item: (-sum(numbers.usd for _, numbers in item[1]), item[0]),
    )
    kept, rest = by_cost[:MAX_ROWS], by_cost[MAX_ROWS:]
    rows = [Row(name=name, sums=sums_of(parts)) for name, parts in kept]
    if rest:
        others = sums_of(part for _, parts in rest for part in parts)
        rows.append(Row(name=f"{len(rest):,} others", sums=others, others=len(rest)))
    return tuple(rows)
