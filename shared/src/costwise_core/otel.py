"""What calls cost and saved as OpenTelemetry spans and metrics, for whatever collects them."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from costwise_core import otel_names as names
from costwise_core._version import __version__
from costwise_core.errors import ConfigError, MissingExtraError, nearest
from costwise_core.tracking import TAGS
from costwise_core.types import CallRecord

__all__ = ["OpenTelemetryLedger"]

_NANO: Final = 1_000_000_000


class OpenTelemetryLedger:
    """A ledger that keeps nothing: each record leaves as a span and as measurements.

    Give it to `track`, in a block around or inside the one whose ledger keeps the records. A span
    is a child of whatever span is open where the call is recorded, and lasts as long as the call
    did. No text of a prompt or an answer is ever in it. Prometheus reads the metrics through
    OpenTelemetry's own exporter.

    Args:
        tracer_provider: Where spans go; None is the process's own.
        meter_provider: Where measurements go; None is the process's own.
        provider: Who is called, such as "openai", where a model's name does not say it
            ("openai:gpt-4o" does).
        metric_tags: Tags that measurements carry. Each value makes a time series of its own, so no
            users, conversations or requests unless they are few; spans carry all tags.

    Raises:
        MissingExtraError: if opentelemetry-api is not installed.
        ConfigError: if a tag is unknown.

    Example:
        >>> from costwise_core import Usage, record_call, track
        >>> with track(ledger=OpenTelemetryLedger(provider="openai")):  # doctest: +SKIP
        ...     record_call(operation="chat", model="gpt-4o", usage=Usage(input_tokens=40))
    """

    blocking = False

    def __init__(
        self,
        *,
        tracer_provider: Any = None,
        meter_provider: Any = None,
        provider: str = "",
        metric_tags: Sequence[str] = ("feature", "team", "tenant", "endpoint"),
    ) -> None:
        for tag in metric_tags:
            if tag not in TAGS:
                raise ConfigError(
                    f"unknown tag {tag!r}; known are {', '.join(TAGS)}.{nearest(tag, TAGS)}"
                )
        try:
            trace = importlib.import_module("opentelemetry.trace")
            metrics = importlib.import_module("opentelemetry.metrics")
        except ImportError as error:
            raise MissingExtraError("OpenTelemetryLedger", "otel") from error
        self._provider = provider
        self._metric_tags = frozenset(metric_tags)
        self._kinds = trace.SpanKind
        self._tracer = trace.get_tracer("costwise_core", __version__, tracer_provider)
        meter = metrics.get_meter("costwise_core", __version__, meter_provider)
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            unit="{token}",
            description="Tokens sent and produced by a call.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BOUNDS,
        )
        self._seconds = meter.create_histogram(
            names.DURATION,
            unit="s",
            description="How long a call took.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS,
        )
        self._cost = meter.create_counter(names.COST, unit="USD", description="Dollars paid.")
        # A stage that costs more than it saves takes dollars back, which no counter may.
        self._saved = meter.create_up_down_counter(
            names.SAVED, unit="USD", description="Dollars saved, by stage."
        )
        self._calls = meter.create_counter(
            names.CALLS, unit="{call}", description="Calls paid for, and answered from the cache."
        )
        self._unpriced = meter.create_counter(
            names.UNPRICED, unit="{call}", description="Calls without a known price."
        )

    def record(self, records: Sequence[CallRecord]) -> None:
        """Export records; one given twice is exported twice, since nothing is kept."""
        for record in records:
            self._span(record)
            self._measure(record)

    def records(
        self,
        *,
        since: float | None = None,  # noqa: ARG002 - a ledger's method, but nothing is kept
        tags: Iterable[tuple[str, str]] = (),  # noqa: ARG002
    ) -> Iterator[CallRecord]:
        """Yield nothing."""
        return iter(())

    def _span(self, record: CallRecord) -> None:
        ended = int(record.at * _NANO)
        span = self._tracer.start_span(
            f"{_operation(record)} {_model(record)}",
            kind=self._kinds.INTERNAL if record.tier else self._kinds.CLIENT,
            attributes={**self._about(record), **_on_span(record)},
            start_time=ended - int(record.seconds * _NANO),
        )
        span.end(end_time=ended)

    def _measure(self, record: CallRecord) -> None:
        about = self._about(record)
        about |= {
            f"{names.TAG}{name}": value for name, value in record.tags if name in self._metric_tags
        }
        self._calls.add(1, {**about, names.TIER: record.tier or "none"})
        for stage, usd in _saved(record).items():
            self._saved.add(usd, {**about, names.STAGE: stage})
        if record.tier:
            return  # nothing was called, so there is neither usage nor duration
        if record.usd is None:
            self._unpriced.add(1, about)
        elif record.usd >= 0:
            self._cost.add(float(record.usd), {**about, names.OVERHEAD: record.overhead})
        self._tokens.record(record.usage.input_tokens, {**about, names.TOKEN_TYPE: "input"})
        self._tokens.record(record.usage.output_tokens, {**about, names.TOKEN_TYPE: "output"})
        self._seconds.record(record.seconds, about)

    def _about(self, record: CallRecord) -> dict[str, Any]:
        prefix, colon, _ = record.model.partition(":")
        provider = prefix if colon else self._provider
        return {
            names.OPERATION: _operation(record),
            names.REQUEST_MODEL: _model(record),
            **({names.PROVIDER: provider} if provider else {}),
        }


def _on_span(record: CallRecord) -> dict[str, Any]:
    usage, tags = record.usage, dict(record.tags)
    found = {
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.CACHE_READ_TOKENS: usage.cache_read_tokens,
        names.CACHE_WRITE_TOKENS: usage.cache_write_tokens,
        names.REASONING_TOKENS: usage.reasoning_tokens,
        names.ESTIMATED: usage.estimated,
        names.OVERHEAD: record.overhead,
        names.COST: None if record.usd is None else float(record.usd),
        names.TIER: record.tier or None,
        names.PROMPT_HASH: record.prompt_hash or None,
        names.CONVERSATION: tags.get("conversation"),
        **{f"{names.SAVED}.{stage}": usd for stage, usd in _saved(record).items()},
        **{f"{names.TAG}{name}": value for name, value in tags.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def _saved(record: CallRecord) -> Mapping[str, float]:
    known = [(saving.stage, saving.usd) for saving in record.savings if saving.usd is not None]
    return {
        stage: float(sum(usd for name, usd in known if name == stage))
        for stage in dict.fromkeys(stage for stage, _ in known)
    }


def _operation(record: CallRecord) -> str:
    return names.OPERATIONS.get(record.operation, record.operation)


def _model(record: CallRecord) -> str:
    return record.model.partition(":")[2] or record.model
