"""Watches budgets and calls, and tells whoever is to know."""

import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final

from costwise_core.alerts.alert import Alert, AlertKind, Sink
from costwise_core.alerts.watch import Watch
from costwise_core.alerts.worker import Worker
from costwise_core.budget.budgets import Budget, window_of
from costwise_core.budget.moves import Balance, BudgetStore, Moved, Refusal
from costwise_core.display_table import usd
from costwise_core.errors import ConfigError
from costwise_core.money import dollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.protocols import Ledger
from costwise_core.types import CallRecord

__all__ = ["Alerts"]

_ROOM: Final = 1000
_KEPT: Final = 100
_IDS: Final = 10_000
_REMEMBERED: Final = 400 * 86_400.0
"""Seconds for which a budget without an end remembers that an alert was given."""


class Alerts:
    """Tells sinks when a budget runs out and when calls become unusual. Thread-safe.

    Give `alerts.seen` to `Budgets(seen=...)`, and the object itself to `track(ledger=...)`. No call
    waits for a sink and none fails through one: alerts are handed over in a daemon thread.

    Budgets: once for each threshold and window, counting what is spent and what calls under way may
    spend; and once for each window when a call is refused. With `store`, once for all processes.

    Calls, for each feature and model, at most once an hour each: a request costs more than `rise`
    over its baseline (with the causes), a call or a minute takes unusually many tokens, the
    provider's prompt cache is read less. The first 400 requests (50 calls, 30 minutes) are learned
    from.

    Args:
        *sinks: Called with each alert: any function, `log_alert`, a `Webhook`.
        ledger: Where calls are kept; they are passed on to it.
        thresholds: Shares of a budget.
        rise: Of the cost per request, as a share of the baseline.
        store: The budgets' store if processes share one, so that only one of them tells.
        prices: How the cost of a request is split into causes.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if a threshold or `rise` is not positive.

    Example:
        >>> from costwise_core import Budget, Budgets, Usage, track
        >>> told = []
        >>> alerts = Alerts(told.append)
        >>> budgets = Budgets(Budget(limit=2, unit="calls", window="day"), seen=alerts.seen)
        >>> with track(ledger=alerts, feature="faq"):
        ...     budgets.reserve("gpt-4o-mini", input_tokens=100).settle(Usage(input_tokens=100))
        >>> alerts.flush()
        True
        >>> [alert.why for alert in told]
        ['50% is spent or reserved: 1 calls of 2 calls']
    """

    def __init__(
        self,
        *sinks: Sink,
        ledger: Ledger | None = None,
        thresholds: Sequence[float] = (0.5, 0.8, 1.0),
        rise: float = 0.2,
        store: BudgetStore | None = None,
        prices: PriceBook | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not thresholds or min(thresholds) <= 0:
            raise ConfigError(f"thresholds must be positive shares, got {tuple(thresholds)!r}.")
        if not rise > 0:
            raise ConfigError(f"rise must be positive, such as 0.2 for a fifth, got {rise!r}.")
        self._sinks = sinks
        self._ledger = ledger
        self._thresholds = [(share, Decimal(str(share))) for share in sorted(thresholds)]
        self._store = store
        self._clock = clock
        self._watch = Watch(prices or shared_prices(), rise=rise)
        self._worker = Worker(self._deliver, room=_ROOM)
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}  # by key, until when nothing is said again
        self._full = _ROOM
        self._ids: dict[str, None] = {}
        self._recent: deque[Alert] = deque(maxlen=_KEPT)
        self._faults: Counter[str] = Counter()

    # --- what happened ------------------------------------------------------------------------

    @property
    def recent(self) -> tuple[Alert, ...]:
        """The last hundred alerts of this process, oldest first."""
        return tuple(self._recent)

    @property
    def dropped(self) -> int:
        """Alerts that found no room, because the sinks are too slow."""
        return self._worker.dropped

    @property
    def faults(self) -> Counter[str]:
        """What went wrong behind the callers' backs, sinks included, by the name of the error."""
        return self._faults + self._worker.faults

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all alerts are handed over; False if that takes longer."""
        return self._worker.flush(seconds)

    # --- budgets ------------------------------------------------------------------------------

    def seen(self, budget: Budget, account: str, balance: Balance | Refusal) -> None:
        """Take in a budget's balance; what `Budgets` calls."""
        if isinstance(balance, Refusal):
            left = _amount(balance.left, budget)
            self._say(budget, account, "refused", 1.0, budget.units - balance.left, f"{left} left")
            return
        used = balance.spent + balance.held
        for share, exact in self._thresholds:
            if budget.units and used >= exact * budget.units:
                self._say(budget, account, "budget", share, used, _amount(used, budget))

    def _say(
        self, budget: Budget, account: str, kind: AlertKind, share: float, used: int, amount: str
    ) -> None:
        key = f"{kind}/{account}/{share}"
        now = self._clock()
        with self._lock:
            if key in self._said:
                return
            if len(self._said) >= self._full:
                self._said = {one: ends for one, ends in self._said.items() if ends > now}
                self._full = max(_ROOM, 2 * len(self._said))
            self._said[key] = window_of(budget.window, now)[1]
        limit = _amount(budget.units, budget)
        if kind == "refused":
            why = f"a call was refused, with {amount} of {limit}"
        else:
            why = f"{share:.0%} is spent or reserved: {amount} of {limit}"
        unit = 10**12 if budget.unit == "usd" else 1
        tags = _tags(account)
        whose = f" ({', '.join(f'{name} {value!r}' for name, value in tags)})" if tags else ""
        self._raise(
            Alert(
                kind=kind,
                key=key,
                at=now,
                subject=budget.name + (whose if "*" in budget.tags.values() else ""),
                value=used / unit,
                limit=budget.units / unit,
                unit=budget.unit,
                level=share,
                why=why,
                tags=tags,
            )
        )

    # --- calls: the ledger's protocol ---------------------------------------------------------

    @property
    def blocking(self) -> bool:
        """Whether recording may wait: only if the ledger behind does."""
        return self._ledger is not None and getattr(self._ledger, "blocking", True)

    def record(self, records: Sequence[CallRecord]) -> None:
        """Take in calls, and pass them on to the ledger; an id seen before counts once."""
        try:
            if self._ledger is not None:
                self._ledger.record(records)
        finally:
            for record in records:
                self._look(record)

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield the records of the ledger behind, none without one."""
        if self._ledger is not None:
            yield from self._ledger.records(since=since, tags=tags)

    def _look(self, record: CallRecord) -> None:
        try:
            with self._lock:
                if record.id in self._ids:
                    return
                self._ids[record.id] = None
                if len(self._ids) > _IDS:
                    del self._ids[next(iter(self._ids))]
                found = self._watch.see(record)
        except Exception as error:  # noqa: BLE001 - watching never breaks the user's call
            self._faults[type(error).__name__] += 1
            return
        for alert in found:
            self._raise(alert)

    # --- telling ------------------------------------------------------------------------------

    def _raise(self, alert: Alert) -> None:
        self._recent.append(alert)
        self._worker.put(alert)

    def _deliver(self, alert: Alert) -> None:
        if not self._first(alert):
            return
        for sink in self._sinks:
            try:
                sink(alert)
            except Exception as error:  # noqa: BLE001 - the other sinks are to be told all the same
                self._faults[type(error).__name__] += 1

    def _first(self, alert: Alert) -> bool:
        """Say whether no other process has told it. Better told twice than never."""
        if self._store is None:
            return True
        now = self._clock()
        try:
            moved = self._store.move(
                f"alert/{alert.key}", "told", [], now=now, expires=now + _REMEMBERED
            )
        except Exception as error:  # noqa: BLE001 - a store that is gone is a fault, not silence
            self._faults[type(error).__name__] += 1
            return True
        return not (isinstance(moved, Moved) and moved.repeated)


def _amount(units: int, budget: Budget) -> str:
    return usd(dollars(units)) if budget.unit == "usd" else f"{units:,} {budget.unit}"


def _tags(account: str) -> tuple[tuple[str, str], ...]:
    """Read the tags that an account's key ends with; see `account_of`."""
    pairs = [part.partition("=") for part in account.split("/")[3:]]
    return tuple(
        (urllib.parse.unquote(name), urllib.parse.unquote(value)) for name, _, value in pairs
    )
