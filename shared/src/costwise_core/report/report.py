"""A report over what ledgers hold: a value that shows itself as a page, a table or a file."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from costwise_core.bill import Step
from costwise_core.errors import ConfigError
from costwise_core.holdout import TrueSaving
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.report.advice import Advice, advise
from costwise_core.report.sums import Part, Row, Sums, sums_of, tables_of
from costwise_core.report.tally import PromptNumbers, Tally
from costwise_core.types import CallRecord, SavingKind, frozen_tags
from costwise_core.waterfall import STAGES

__all__ = ["Prompt", "Records", "Report", "Stage", "report_of"]

_PAGE: Final = 5_000
_MAX_DAYS: Final = 3_660
_EPOCH: Final = date(1970, 1, 1)


class Records(Protocol):
    """What a report can be made of: a ledger, an archive, or any object with this method."""

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield records at or after `since` that carry all the given tags."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one stage saved, and how that is known.

    Args:
        name: Such as "response_cache".
        kind: "measured", "modelled" or "sampled".
        savings: How often.
        usd: Dollars; negative if it cost more than it saved.
        tokens: Tokens not paid for.

    Example:
        >>> Stage(name="route", kind="measured", savings=2, usd=Decimal(1), tokens=0).savings
        2
    """

    name: str
    kind: str
    savings: int
    usd: Decimal
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt, known by its hash only.

    Args:
        hash: As in the records' `prompt_hash`.
        model: Which it was sent to.
        feature: One that it was sent for.
        paid_calls: How often it was paid for.
        hits: How often the cache answered it.
        usd: Dollars paid for it.
        input_tokens: Sent for it, together.
        output_tokens: Produced for it.

    Example:
        >>> Prompt(hash="9e4b", model="gpt-4o", feature="", paid_calls=2, hits=0, usd=Decimal(1),
        ...        input_tokens=10, output_tokens=2).paid_calls
        2
    """

    hash: str
    model: str
    feature: str
    paid_calls: int
    hits: int
    usd: Decimal
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was paid, saved, and could still be saved.

    Shows itself in a notebook; `to_html`, `to_markdown`, `to_csv` and `to_json` make files of it.
    Days are those of UTC.

    Args:
        totals: Sums over everything.
        tables: Rows by "model", "feature", "team", "user", "tenant", "endpoint", ..., dearest
            first; a table in which nothing would be told apart is left out.
        days: A row for each day from the first call to the last, in order.
        stages: What each stage saved, in the order in which they are priced.
        prompts: The dearest prompts.
        advice: What could still be saved, most dollars first.
        made: When the report was made, in seconds since the epoch.
        since: Where it begins; None is with the first record.
        until: Where it ends; None is when it was made.
        tags: What all its records carry.
        true_saving: What a hold-out shows each treated request to save; None without one, or
            without enough requests of both arms.
        damaged: Records that could not be read and are in no number.

    Example:
        >>> from costwise_core import MemoryLedger
        >>> ledger = MemoryLedger()
        >>> ledger.record(
        ...     [CallRecord(id="1", at=0.0, operation="chat", model="gpt-4o", usd=Decimal("0.25"))]
        ... )
        >>> report = report_of(ledger)
        >>> report.totals.usd, [row.name for row in report.tables["model"]]
        (Decimal('0.25'), ['gpt-4o'])
    """

    totals: Sums
    tables: Mapping[str, tuple[Row, ...]]
    days: tuple[Row, ...]
    stages: tuple[Stage, ...]
    prompts: tuple[Prompt, ...]
    advice: tuple[Advice, ...]
    made: float
    since: float | None = None
    until: float | None = None
    tags: tuple[tuple[str, str], ...] = ()
    true_saving: TrueSaving | None = None
    damaged: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """The way from what it would have cost to what it did cost, as `Bill.steps`."""
        totals = self.totals
        used = totals.input_tokens + totals.output_tokens
        changes = [
            Step(
                name=name,
                kind="change",
                usd=-dollars(sum(picodollars(stage.usd) for stage in stages)),
                tokens=-sum(stage.tokens for stage in stages),
                requests=sum(stage.savings for stage in stages),
                evidence=_evidence(measured={stage.kind for stage in stages} == {"measured"}),
            )
            for name in dict.fromkeys(stage.name for stage in self.stages)
            if (stages := [stage for stage in self.stages if stage.name == name])
        ]
        if totals.own_calls:
            changes.append(
                Step(
                    name="overhead",
                    kind="change",
                    usd=totals.overhead,
                    tokens=totals.own_tokens,
                    requests=totals.own_calls,
                    evidence=_evidence(measured=not totals.own_estimated),
                )
            )
        before = Step(
            name="without costwise",
            kind="whole",
            usd=totals.baseline,
            tokens=used - sum(step.tokens for step in changes),
            requests=totals.calls,
            evidence=_evidence(
                measured=not totals.estimated
                and all(step.evidence == "measured" for step in changes)
            ),
        )
        paid = Step(
            name="paid",
            kind="whole",
            usd=totals.usd,
            tokens=used,
            requests=totals.calls - totals.hits + totals.own_calls,
            evidence=_evidence(measured=not totals.estimated),
        )
        return (before, *changes, paid)

    def to_html(self) -> str:
        """Return a page of its own: no script, nothing from the network, light and dark."""
        from costwise_core.report.page import as_page  # noqa: PLC0415 - only when somebody looks

        return as_page(self)

    def to_markdown(self) -> str:
        """Return the report as GitHub's Markdown."""
        from costwise_core.report.markdown import as_markdown  # noqa: PLC0415

        return as_markdown(self)

    def to_csv(self) -> str:
        """Return all tables as one CSV with the columns "table" and "name" in front."""
        from costwise_core.report.files import as_csv  # noqa: PLC0415

        return as_csv(self)

    def to_json(self) -> str:
        """Return everything as JSON; dollars are strings, to stay exact."""
        from costwise_core.report.files import as_json  # noqa: PLC0415

        return as_json(self)

    def __repr__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        from costwise_core.report.page import as_fragment  # noqa: PLC0415

        return as_fragment(self)


def report_of(
    *sources: Records,
    since: float | None = None,
    until: float | None = None,
    tags: Mapping[str, str] | None = None,
    prices: PriceBook | None = None,
    clock: Callable[[], float] = time.time,
) -> Report:
    """Make a report over ledgers and archives; a record that is in two of them counts once.

    A single `SQLiteLedger` is summed up where it lies, in seconds for a million records. Anything
    else is first copied into a temporary file.

    Args:
        *sources: Ledgers, archives of them, or anything with their `records`.
        since: Seconds since the epoch; records at or after it.
        until: Likewise; records before it.
        tags: What records must carry, such as {"team": "search"}.
        prices: What the advice is priced with; the list if not given.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigError: if no source is given, or `until` is not after `since`.
        StoreError: if a source cannot be read.

    Example:
        >>> from costwise_core import MemoryLedger
        >>> report_of(MemoryLedger(), tags={"team": "search"}).totals.calls
        0
    """
    if not sources:
        raise ConfigError("give at least one ledger to report on.")
    if since is not None and until is not None and not since < until:
        raise ConfigError(f"until must be after since, got since={since!r} and until={until!r}.")
    pairs = frozen_tags(tags or {})
    if len(sources) == 1 and isinstance(sources[0], SQLiteLedger):
        tally, damaged = sources[0].tally(since=since, until=until, tags=pairs), 0
    else:
        tally, damaged = _tally_of(sources, since, until, pairs)
    return Report(
        totals=sums_of((group.kind, numbers) for group, numbers in tally.groups),
        tables=MappingProxyType(tables_of(tally.groups)),
        days=_days(tally),
        stages=_stages(tally),
        prompts=tuple(_prompt(numbers) for numbers in tally.prompts),
        advice=advise(tally, prices or shared_prices()),
        made=clock(),
        since=since,
        until=until,
        tags=pairs,
        true_saving=None if isinstance(tally.sampled, str) else tally.sampled,
        damaged=damaged + tally.damaged,
    )


def _evidence(*, measured: bool) -> SavingKind:
    return "measured" if measured else "modelled"


def _tally_of(
    sources: Sequence[Records],
    since: float | None,
    until: float | None,
    tags: tuple[tuple[str, str], ...],
) -> tuple[Tally, int]:
    with (
        tempfile.TemporaryDirectory() as folder,
        SQLiteLedger(Path(folder, "ledger.db")) as together,
    ):
        damaged = -sum(getattr(source, "damaged", 0) for source in sources)
        for source in sources:
            found = source.records(since=since, tags=tags)
            while page := list(islice(found, _PAGE)):
                together.record([one for one in page if until is None or one.at < until])
        damaged += sum(getattr(source, "damaged", 0) for source in sources)
        return together.tally(), damaged


def _days(tally: Tally) -> tuple[Row, ...]:
    """Return a row for every day between the first and the last, also for those without calls."""
    found: dict[int, list[Part]] = {}
    for (day, kind), numbers in tally.days:
        found.setdefault(day, []).append((kind, numbers))
    if not found:
        return ()
    first, last = min(found), max(found)
    # A clock that was wrong once must not make a page of empty days.
    days = range(first, last + 1) if last - first < _MAX_DAYS else sorted(found)
    return tuple(
        Row(name=(_EPOCH + timedelta(days=day)).isoformat(), sums=sums_of(found.get(day, ())))
        for day in days
    )


def _stages(tally: Tally) -> tuple[Stage, ...]:
    order = {name: number for number, name in enumerate(STAGES)}
    rows = sorted(tally.stages, key=lambda row: (order.get(row[0], len(order)), row[0], row[1]))
    return tuple(
        Stage(name=name, kind=kind, savings=savings, usd=dollars(usd), tokens=tokens)
        for name, kind, savings, usd, tokens in rows
    )


def _prompt(numbers: PromptNumbers) -> Prompt:
    return Prompt(
        hash=numbers.prompt_hash,
        model=numbers.model,
        feature=numbers.feature,
        paid_calls=numbers.paid_calls,
        hits=numbers.hits,
        usd=dollars(numbers.usd),
        input_tokens=numbers.input_tokens,
        output_tokens=numbers.output_tokens,
    )
