"""What a replay found: findings that add up, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars, total

__all__ = ["Confidence", "Finding", "Replay"]

Confidence: TypeAlias = Literal["measured on your log", "modelled"]

STAGE_OF: Final[Mapping[str, str]] = {
    "dominated_model": "route",
    "context": "compress",
    "history": "memory",
    "output": "output",
    "prompt_cache": "prompt_cache",
    "batch": "batch",
    "near_repeats": "response_cache",
    "exact_repeats": "response_cache",
}
"""Which of `costwise_core.waterfall.STAGES` a finding is about; "output" is none of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that would have saved dollars on this log.

    Args:
        name: "exact_repeats", "near_repeats", "context", "history", "output", "dominated_model",
            "prompt_cache" or "batch".
        title: What to do, in a few words.
        confidence: "measured on your log" (found by counting) or "modelled" (rests on a sample, a
            plan or an assumption, which `why` names).
        usd: Dollars saved in turn, that is on top of the findings before it: these add up. None
            where the log cannot tell.
        alone_usd: Dollars saved if nothing else were done; None likewise. These overlap.
        low: 95 % interval of `usd` for another log of the same size and kind; None where there are
            too few conversations to tell.
        high: Likewise.
        requests: Calls it is about.
        tokens: Left out, or for a prompt cache read there instead.
        unpriced: Of the requests, those whose price is not known: they are in no dollar.
        wrong_share: Of near-repeats, the share whose answer would have been another one; None
            where the log cannot tell, or for all other findings.
        wrong_low: Its 95 % interval.
        wrong_high: Likewise.
        why: What was found.
        formula: How the dollars are counted.

    Example:
        >>> Finding(name="batch", title="Wait", confidence="modelled", usd=Decimal(3)).stage
        'batch'
    """

    name: str
    title: str
    confidence: Confidence
    usd: Decimal | None = None
    alone_usd: Decimal | None = None
    low: float | None = None
    high: float | None = None
    requests: int = 0
    tokens: int = 0
    unpriced: int = 0
    wrong_share: float | None = None
    wrong_low: float | None = None
    wrong_high: float | None = None
    why: str = ""
    formula: str = ""

    @property
    def stage(self) -> str:
        """The stage of the bill that it belongs to, or "output"."""
        return STAGE_OF.get(self.name, self.name)


@dataclass(frozen=True, kw_only=True, repr=False)
class Replay:
    """What costwise would have saved on a log; `print` it for a table.

    Args:
        requests: Paid calls in the log.
        paid_usd: What they cost by the price list, as far as a price is known.
        findings: In the order in which they are priced. Their dollars add up to `saved_usd`.
        low: 95 % interval of `saved_usd` for another log of the same size and kind; None where
            there are too few conversations to tell.
        high: Likewise.
        since: Seconds since the epoch of the first call; None where no time is known.
        until: Of the last.
        input_tokens: Of all calls.
        output_tokens: Likewise.
        formats: What the log is written in, and how many rows of each.
        rows: Rows read.
        damaged: Rows that could not be read.
        other_rows: Rows that hold no paid call.
        unpriced: Calls without a known price, by model. They are in no dollar.
        estimated: Calls whose tokens nobody reported.
        notes: What to know before trusting the numbers.

    Example:
        >>> Replay(requests=0, paid_usd=Decimal(0)).saved_usd
        Decimal('0')
    """

    requests: int
    paid_usd: Decimal
    findings: tuple[Finding, ...] = ()
    low: float | None = None
    high: float | None = None
    since: float | None = None
    until: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    formats: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    damaged: int = 0
    other_rows: int = 0
    unpriced: Mapping[str, int] = field(default_factory=dict)
    estimated: int = 0
    notes: tuple[str, ...] = ()

    @property
    def saved_usd(self) -> Decimal:
        """Dollars that all findings save together, each counted once."""
        return total(one.usd for one in self.findings)

    @property
    def after_usd(self) -> Decimal:
        """What the same calls would have cost."""
        return dollars(picodollars(self.paid_usd) - picodollars(self.saved_usd))

    @property
    def saved_share(self) -> float:
        """The saving as a share of what was paid; 0 if that is nothing."""
        return float(self.saved_usd / self.paid_usd) if self.paid_usd else 0.0

    @property
    def measured_usd(self) -> Decimal | None:
        """Dollars that the measured findings save if nothing else is done; None if not known."""
        sure = [
            one.alone_usd
            for one in self.findings
            if one.confidence == "measured on your log" and one.alone_usd is not None
        ]
        return total(sure) if sure else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; dollars are strings, to stay exact.

        Under "waterfall" is what each finding saves in turn; it adds up to `paid_usd` less
        `after_usd`.
        """
        told = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        measured = self.measured_usd
        return told | {
            "saved_usd": f"{self.saved_usd:f}",
            "after_usd": f"{self.after_usd:f}",
            "saved_share": self.saved_share,
            "measured_usd": None if measured is None else f"{measured:f}",
            "findings": [
                {item.name: _plain(getattr(one, item.name)) for item in fields(one)}
                | {"stage": one.stage}
                for one in self.findings
            ],
            "waterfall": [
                {"stage": one.stage, "name": one.name, "usd": f"{one.usd:f}", "kind": _kind(one)}
                for one in self.findings
                if one.usd is not None
            ],
        }

    def write_html(self, path: str | Path) -> None:
        """Write it as a page that loads nothing from anywhere and holds no text of a prompt.

        Raises:
            ConfigError: if the file cannot be written.
        """
        from costwise_core.replaying.page import as_page  # noqa: PLC0415 - only when asked for

        try:
            Path(path).write_text(as_page(self), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error

    def __repr__(self) -> str:
        from costwise_core.replaying.table import as_text  # noqa: PLC0415

        return as_text(self)

    def _repr_html_(self) -> str:
        from costwise_core.replaying.page import as_fragment  # noqa: PLC0415

        return as_fragment(self)


def _kind(finding: Finding) -> str:
    return "modelled" if finding.confidence == "modelled" else "measured"


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
