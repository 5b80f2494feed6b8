"""What is unusual in a stream of calls, for each feature and model by itself.

Requests are looked at in batches. Of the batches before, the middle half (by cost per request) is
the baseline: half of the rest may be anything without moving it. A batch is dear if it is both so
much dearer than the baseline as was asked for, and further from the median than batches differ
anyhow (3.5 deviations by MAD). Tokens are compared as logarithms, because calls differ by factors.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from costwise_core.alerts.alert import Alert, AlertKind, Cause
from costwise_core.alerts.causes import Spend, causes_of, spend_of
from costwise_core.alerts.robust import usual
from costwise_core.display_table import usd
from costwise_core.prices import PriceBook
from costwise_core.types import CallRecord

__all__ = ["BATCH", "LEAST_BATCHES", "LEAST_CALLS", "LEAST_MINUTES", "Watch"]

BATCH: Final = 50
"""Requests that are compared together."""

LEAST_BATCHES: Final = 8
"""Batches before there is a baseline of the cost per request: 400 requests."""

LEAST_CALLS: Final = 50
"""Paid calls before there is one of their tokens."""

LEAST_MINUTES: Final = 30
"""Minutes with calls before there is one of tokens per minute."""

_KEPT_BATCHES: Final = 40
_KEPT_CALLS: Final = 200
_KEPT_MINUTES: Final = 240
_GROUPS: Final = 1000
_OUTLIER: Final = 3.5
_SPIKE: Final = 6.0
"""Deviations of a call's or minute's tokens: so many are looked at that 3.5 would cry wolf."""

_TIMES: Final = 3.0
"""And so many times the usual, where calls hardly differ."""

_FALL: Final = 0.75
_COLD: Final = 5.0
"""Deviations of the prompt cache's share, which differs more than costs do."""

_LEAST_CACHED: Final = 0.1
_LEAST_PAID: Final = 10
_HOUR: Final = 3600.0


@dataclass(slots=True)
class _Group:
    feature: str
    model: str
    operation: str
    batches: deque[Spend] = field(default_factory=lambda: deque(maxlen=_KEPT_BATCHES))
    open: Spend = field(default_factory=Spend)
    requests: set[str] = field(default_factory=set)
    calls: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))
    minutes: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_MINUTES))
    minute: int = -1
    this_minute: int = 0
    said: dict[str, int] = field(default_factory=dict)
    limits: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        what = "" if self.operation in {"chat", "completion"} else f", {self.operation}"
        return f"{self.feature or 'calls without a feature'} with {self.model}{what}"


class Watch:
    """Finds unusual calls. Its clock is the calls' own, so a ledger can be played through it.

    Not thread-safe: `Alerts` locks.

    Args:
        prices: How what was paid is split into causes.
        rise: From which rise of the cost per request on, as a share of the baseline.

    Example:
        >>> from costwise_core.money import dollars
        >>> from costwise_core.types import Usage
        >>> calls = [
        ...     CallRecord(
        ...         id=str(n), at=float(n), operation="chat", model="gpt-4o", usd=dollars(cost),
        ...         usage=Usage(input_tokens=1000), tags=(("feature", "faq"),),
        ...     )
        ...     for n, cost in enumerate([2_500_000_000] * 400 + [3_500_000_000] * 51)
        ... ]
        >>> watch = Watch(PriceBook(), rise=0.2)
        >>> [str(alert) for call in calls for alert in watch.see(call)]
        ['faq with gpt-4o: a request costs $0.0035, 40% more than $0.0025: price +$0.0010']
    """

    def __init__(self, prices: PriceBook, *, rise: float) -> None:
        self._prices = prices
        self._rise = rise
        self._groups: OrderedDict[tuple[str, str, str], _Group] = OrderedDict()

    def see(self, record: CallRecord) -> list[Alert]:
        """Take in a call, and return what is unusual now; each kind at most once an hour."""
        tags = dict(record.tags)
        group = self._group(tags.get("feature", ""), record)
        found = []
        if record.usd is not None:
            request = tags.get("request") or record.id
            if request not in group.requests and len(group.requests) >= BATCH:
                found += self._close(group, record.at)
            first = request not in group.requests
            group.requests.add(request)
            group.open += spend_of(record, self._prices, requests=int(first))
        if not record.tier:
            found += _tokens(group, record)
        return found

    def _group(self, feature: str, record: CallRecord) -> _Group:
        # What costwise calls for itself is compared with its like.
        operation = f"{record.operation} of costwise's own" if record.overhead else record.operation
        key = (feature, record.model, operation)
        group = self._groups.get(key)
        if group is None:
            group = _Group(feature=feature, model=record.model, operation=operation)
            self._groups[key] = group
            if len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end(key)
        return group

    def _close(self, group: _Group, at: float) -> list[Alert]:
        batch, group.open, group.requests = group.open, Spend(), set()
        found = []
        if len(group.batches) >= LEAST_BATCHES:
            found += [*_dear(group, batch, at, self._rise), *_cold(group, batch, at)]
        group.batches.append(batch)
        return found


def _dear(group: _Group, batch: Spend, at: float, rise: float) -> Iterator[Alert]:
    costs = sorted(group.batches, key=lambda one: one.per_request)
    quarter = len(costs) // 4
    baseline = sum(costs[quarter : len(costs) - quarter], Spend())
    cost, before = float(batch.per_request), float(baseline.per_request)
    between = usual([float(one.per_request) for one in costs])
    if cost <= before * (1 + rise) or between.deviations(cost) <= _OUTLIER:
        return
    if _again(group, "cost", at):
        return
    causes = causes_of(baseline, batch)
    more = f"{cost / before - 1:.0%} more than" if before else "up from"
    yield _alert(
        group,
        "cost",
        at,
        value=cost / 10**12,
        limit=before / 10**12,
        unit="usd",
        why=(
            f"a request costs {usd(batch.usd_per_request)}, {more} "
            f"{usd(baseline.usd_per_request)}: {_said(causes)}"
        ),
        causes=causes,
    )


def _cold(group: _Group, batch: Spend, at: float) -> Iterator[Alert]:
    shares = [one.cached_share for one in group.batches if one.paid >= _LEAST_PAID]
    if batch.paid < _LEAST_PAID or len(shares) < LEAST_BATCHES:
        return
    before, share = usual(shares), batch.cached_share
    if before.middle < _LEAST_CACHED or share >= _FALL * before.middle:
        return
    if before.deviations(share) >= -_COLD or _again(group, "prompt_cache", at):
        return
    causes = causes_of(sum(group.batches, Spend()), batch)
    cost = next(one.usd for one in causes if one.name == "prompt cache")
    yield _alert(
        group,
        "prompt_cache",
        at,
        value=share,
        limit=before.middle,
        unit="share",
        why=(
            f"the provider had {share:.0%} of the input in its cache, usually {before.middle:.0%}; "
            f"that makes {usd(cost)} a request"
        ),
        causes=causes,
    )


def _tokens(group: _Group, record: CallRecord) -> Iterator[Alert]:
    tokens = record.usage.total_tokens
    if tokens > 0:
        yield from _spike(group, group.calls, tokens, LEAST_CALLS, "a call", record.at)
        group.calls.append(math.log(tokens))
    minute = int(record.at // 60)
    if minute > group.minute:
        if group.this_minute:
            group.minutes.append(math.log(group.this_minute))
        group.minute, group.this_minute = minute, 0
    group.this_minute += tokens
    # The minute is not over, but more will not make it less.
    yield from _spike(group, group.minutes, group.this_minute, LEAST_MINUTES, "a minute", record.at)


def _spike(
    group: _Group, before: Sequence[float], tokens: int, least: int, what: str, at: float
) -> Iterator[Alert]:
    # Most calls are far from unusual, and sorting for each of them would cost more than they save.
    if len(before) < least or tokens <= group.limits[what]:
        return
    normal = usual(before)
    limit = math.exp(normal.middle) * max(_TIMES, math.exp(_SPIKE * normal.spread))
    group.limits[what] = int(limit / _TIMES)
    if tokens <= limit or _again(group, what, at):
        return
    middle = math.exp(normal.middle)
    yield _alert(
        group,
        "tokens",
        at,
        value=float(tokens),
        limit=middle,
        unit="tokens",
        why=f"{what} took {tokens:,} tokens, {tokens / middle:.0f} times the usual {middle:,.0f}",
        about=what,
    )


def _again(group: _Group, about: str, at: float) -> bool:
    """Say whether this was said in this hour already, and remember that it is said now."""
    hour = int(at // _HOUR)
    if group.said.get(about) == hour:
        return True
    group.said[about] = hour
    return False


def _alert(
    group: _Group,
    kind: AlertKind,
    at: float,
    *,
    value: float,
    limit: float,
    unit: str,
    why: str,
    causes: tuple[Cause, ...] = (),
    about: str = "",
) -> Alert:
    return Alert(
        kind=kind,
        key=f"{kind}/{about}/{group.name}/{int(at // _HOUR)}",
        at=at,
        subject=group.name,
        value=value,
        limit=limit,
        unit=unit,
        level=value / limit if limit else math.inf,
        why=why,
        causes=causes,
        tags=(("feature", group.feature),) if group.feature else (),
    )


def _said(causes: Sequence[Cause]) -> str:
    """Name the causes that matter: those of at least a tenth of the largest."""
    largest = abs(causes[0].usd)
    told = [one for one in causes if abs(one.usd) * 10 >= largest > 0]
    return ", ".join(f"{one.name} {'+' if one.usd > 0 else ''}{usd(one.usd)}" for one in told)
