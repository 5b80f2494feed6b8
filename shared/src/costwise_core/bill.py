"""The bill: what was paid, what was saved by which stage, what saving cost. Its parts add up."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from costwise_core.errors import ConfigError
from costwise_core.holdout import TrueSaving, true_saving
from costwise_core.money import total
from costwise_core.types import CallRecord, SavingKind, Usage
from costwise_core.waterfall import STAGES

__all__ = ["Bill", "Step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step from what it would have cost to what it did cost.

    Args:
        name: "without costwise", a stage such as "response_cache", "overhead", or "paid".
        kind: "whole" for the first and last step, which stand by themselves, "change" in between.
        usd: Dollars; a change adds to the steps above it (savings are negative).
        tokens: Input plus output tokens, likewise.
        requests: Calls that took this step.
        evidence: "measured" if all of it was counted and reported, "modelled" if some of it rests
            on an estimate or on what another model would have said.

    Example:
        >>> [step.name for step in Bill().steps]
        ['without costwise', 'paid']
    """

    name: str
    kind: Literal["whole", "change"]
    usd: Decimal
    tokens: int
    requests: int
    evidence: SavingKind = "measured"


class Bill:
    """What a piece of work cost and saved, while it runs and afterwards. Thread-safe.

    In exact decimals `baseline - saved + overhead == usd`: what the calls would have cost, less
    what each stage saved, plus what costwise's own calls cost, is what was paid. A call without a
    known price adds nothing to any of these; it is listed in `unpriced`.

    Args:
        records: Calls to begin with, such as those of a ledger.
        tags: What the calls have in common, shown in the heading.

    Example:
        >>> call = CallRecord(id="1", at=0.0, operation="chat", model="m", usd=Decimal("0.25"))
        >>> bill = Bill([call])
        >>> bill.usd, bill.saved, bill.paid_calls
        (Decimal('0.25'), Decimal('0'), 1)
    """

    def __init__(
        self, records: Iterable[CallRecord] = (), *, tags: Mapping[str, str] | None = None
    ) -> None:
        self.tags: Mapping[str, str] = MappingProxyType(dict(tags or {}))
        self._records: dict[str, CallRecord] = {}
        self._faults: Counter[str] = Counter()
        self._lock = threading.Lock()
        for record in records:
            self.add(record)

    def add(self, record: CallRecord) -> None:
        """Add a call; an id that is already there is ignored."""
        with self._lock:
            self._records.setdefault(record.id, record)

    def count_fault(self, error: BaseException) -> None:
        """Count a fault in bookkeeping that was passed over."""
        with self._lock:
            self._faults[type(error).__name__] += 1

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """Every call so far, in the order they were recorded."""
        with self._lock:
            return tuple(self._records.values())

    @property
    def faults(self) -> Mapping[str, int]:
        """Faults in bookkeeping that were passed over, such as a full ledger, by error."""
        with self._lock:
            return dict(self._faults)

    @property
    def calls(self) -> int:
        """Requests answered, by a model or from the cache; see `CallRecord.answers`."""
        return sum(record.answers for record in self.records)

    @property
    def hits(self) -> int:
        """Requests answered from the cache."""
        return sum(bool(record.tier) and record.answers for record in self.records)

    @property
    def paid_calls(self) -> int:
        """Requests that reached the model."""
        return sum(record.answers and not record.tier for record in self.records)

    @property
    def usage(self) -> Usage:
        """Tokens of all calls, overhead included."""
        return sum((record.usage for record in self.records), Usage())

    @property
    def usd(self) -> Decimal:
        """Dollars paid, overhead included."""
        return total(record.usd for record in self.records)

    @property
    def overhead(self) -> Decimal:
        """Dollars paid for calls costwise itself made."""
        return total(record.usd for record in self.records if record.overhead)

    @property
    def savings(self) -> Mapping[str, Decimal]:
        """Dollars saved, by stage in their order; negative for one that cost more than it saved."""
        savings = [saving for record in self.records for saving in record.savings]
        stages = dict.fromkeys(saving.stage for saving in savings)
        return {
            stage: total(saving.usd for saving in savings if saving.stage == stage)
            for stage in sorted(stages, key=_place)
        }

    @property
    def saved(self) -> Decimal:
        """Dollars saved by all stages together, before overhead."""
        return total(self.savings.values())

    @property
    def net(self) -> Decimal:
        """Dollars saved after overhead; negative when costwise cost more than it saved."""
        return total((self.saved, -self.overhead))

    @property
    def baseline(self) -> Decimal:
        """Dollars the same requests would have cost without costwise."""
        return total((self.usd, -self.overhead, self.saved))

    @property
    def unpriced(self) -> Mapping[str, int]:
        """Calls whose price, or whose saving's price, is not known, by model."""
        return Counter(
            record.model
            for record in self.records
            if record.usd is None or any(saving.usd is None for saving in record.savings)
        )

    @property
    def estimated(self) -> int:
        """Calls whose tokens were estimated because nobody reported them."""
        return sum(record.usage.estimated for record in self.records)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The way from what it would have cost to what it did cost, for tables and charts.

        The first step plus all changes is the last step, in dollars and in tokens.
        """
        return _steps(Bill(self.records))  # a copy, so that all steps see the same calls

    @property
    def true_saving(self) -> TrueSaving | None:
        """What a hold-out shows each treated request to save; None without enough of both arms."""
        found = true_saving(self.records)
        return found if isinstance(found, TrueSaving) else None

    def by(self, key: str) -> dict[str, "Bill"]:
        """Split the bill by "model", "operation" or the name of a tag, dearest first.

        Args:
            key: What to group by; calls without that tag are under "".

        Example:
            >>> call = CallRecord(id="1", at=0.0, operation="chat", model="m", usd=Decimal("0.25"))
            >>> list(Bill([call]).by("model"))
            ['m']
        """
        groups: dict[str, Bill] = {}
        for record in self.records:
            tags = {**dict(record.tags), "model": record.model, "operation": record.operation}
            value = tags.get(key, "")
            groups.setdefault(value, Bill(tags={key: value})).add(record)
        return dict(sorted(groups.items(), key=lambda item: item[1].usd, reverse=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the bill's numbers as JSON can hold them; dollars are strings, to stay exact.

        Under "waterfall" is what each stage saved and costwise's own calls cost (negative), which
        add up to `baseline_usd` less `usd`.
        """
        bill = Bill(self.records)
        sampled = bill.true_saving
        return {
            "tags": dict(self.tags),
            "calls": bill.calls,
            "hits": bill.hits,
            "paid_calls": bill.paid_calls,
            "input_tokens": bill.usage.input_tokens,
            "output_tokens": bill.usage.output_tokens,
            "baseline_usd": f"{bill.baseline:f}",
            "savings_usd": {stage: f"{usd:f}" for stage, usd in bill.savings.items()},
            "saved_usd": f"{bill.saved:f}",
            "overhead_usd": f"{bill.overhead:f}",
            "net_usd": f"{bill.net:f}",
            "usd": f"{bill.usd:f}",
            "waterfall": [
                {"stage": step.name, "usd": f"{-step.usd:f}", "kind": step.evidence}
                for step in bill.steps
                if step.kind == "change"
            ],
            "true_saving": None if sampled is None else _numbers(sampled),
            "unpriced": dict(bill.unpriced),
            "estimated": bill.estimated,
            "faults": dict(self.faults),
        }

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one row for each call; tags become columns.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "Bill.to_frame() needs pandas, which is not installed. "
                "Install it with: pip install pandas"
            ) from error
        return pd.DataFrame(
            {
                "at": pd.Timestamp(record.at, unit="s", tz="UTC"),
                "operation": record.operation,
                "model": record.model,
                "tier": record.tier,
                "input_tokens": record.usage.input_tokens,
                "output_tokens": record.usage.output_tokens,
                "usd": None if record.usd is None else float(record.usd),
                "saved_usd": float(total(saving.usd for saving in record.savings)),
                "overhead": record.overhead,
                "seconds": record.seconds,
                **dict(record.tags),
            }
            for record in self.records
        )

    def __repr__(self) -> str:
        from costwise_core.display import as_text  # noqa: PLC0415 - only when somebody looks

        return as_text(self)

    def _repr_html_(self) -> str:
        from costwise_core.display import as_html  # noqa: PLC0415

        return as_html(self)


def _numbers(sampled: TrueSaving) -> dict[str, Any]:
    values = {field.name: getattr(sampled, field.name) for field in fields(sampled)}
    return {name: f"{one:f}" if isinstance(one, Decimal) else one for name, one in values.items()}


def _steps(bill: Bill) -> tuple[Step, ...]:
    records = bill.records
    own = [record for record in records if record.overhead]
    spent = bill.usage.total_tokens
    changes = []
    for stage, usd in bill.savings.items():
        savings = [
            (record, one) for record in records for one in record.savings if one.stage == stage
        ]
        changes.append(
            Step(
                name=stage,
                kind="change",
                usd=-usd,
                tokens=-sum(one.tokens for _, one in savings),
                requests=len({record.id for record, _ in savings}),
                evidence=_weakest(one.kind for _, one in savings),
            )
        )
    if own:
        changes.append(
            Step(
                name="overhead",
                kind="change",
                usd=bill.overhead,
                tokens=sum(record.usage.total_tokens for record in own),
                requests=len(own),
                evidence=_counted(own),
            )
        )
    before = Step(
        name="without costwise",
        kind="whole",
        usd=bill.baseline,
        tokens=spent - sum(step.tokens for step in changes),
        requests=bill.calls,
        evidence=_weakest([_counted(records), *(step.evidence for step in changes)]),
    )
    paid = Step(
        name="paid",
        kind="whole",
        usd=bill.usd,
        tokens=spent,
        requests=bill.paid_calls + len(own),
        evidence=_counted(records),
    )
    return (before, *changes, paid)


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _counted(records: Iterable[CallRecord]) -> SavingKind:
    return "modelled" if any(record.usage.estimated for record in records) else "measured"


def _weakest(kinds: Iterable[SavingKind]) -> SavingKind:
    return "measured" if set(kinds) <= {"measured"} else "modelled"
