"""Spans and metrics as OpenTelemetry's own SDK and Prometheus exporter see them."""

import sys
import urllib.request
from decimal import Decimal

import pytest

from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.otel import OpenTelemetryLedger
from costwise_core.tracking import record_call, track
from costwise_core.types import CallRecord, Saving, Usage


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(MissingExtraError, match=r"costwise-core\[otel\]"):
        OpenTelemetryLedger()


def test_an_unknown_tag_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'tenant'"):
        OpenTelemetryLedger(metric_tags=("tennant",))


trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is missing")
metrics = pytest.importorskip("opentelemetry.sdk.metrics")
export = pytest.importorskip("opentelemetry.sdk.metrics.export")

CALL = CallRecord(
    id="1",
    at=1_000.0,
    operation="completion",
    model="openai:gpt-4o",
    usage=Usage(
        input_tokens=100,
        output_tokens=20,
        cache_read_tokens=40,
        cache_write_tokens=10,
        reasoning_tokens=5,
        estimated=True,
    ),
    usd=Decimal("0.25"),
    tags=(("conversation", "c1"), ("feature", "faq"), ("user", "ann")),
    savings=(
        Saving(stage="route", usd=Decimal("0.5")),
        Saving(stage="compress", usd=Decimal("-0.125")),
        Saving(stage="batch", usd=None),
    ),
    seconds=2.0,
    prompt_hash="abc",
)
HIT = CallRecord(
    id="2",
    at=1_000.0,
    operation="chat",
    model="gpt-4o",
    tags=(("feature", "faq"),),
    savings=(Saving(stage="response_cache", usd=Decimal(1)),),
    tier="near",
)


class Collected:
    """A ledger whose spans and measurements stay here."""

    def __init__(self, **options):
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        simple = pytest.importorskip("opentelemetry.sdk.trace.export")
        self._spans = memory.InMemorySpanExporter()
        self.tracer_provider = trace.TracerProvider()
        self.tracer_provider.add_span_processor(simple.SimpleSpanProcessor(self._spans))
        self._reader = export.InMemoryMetricReader()
        self.ledger = OpenTelemetryLedger(
            tracer_provider=self.tracer_provider,
            meter_provider=metrics.MeterProvider(metric_readers=[self._reader]),
            **options,
        )

    @property
    def spans(self):
        return self._spans.get_finished_spans()

    def points(self, name):
        data = self._reader.get_metrics_data()
        return [
            (point, metric)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def test_a_call_becomes_a_span_with_the_names_of_the_conventions():
    here = Collected()
    here.ledger.record([CALL])
    (span,) = here.spans
    assert span.name == "text_completion gpt-4o"
    assert span.kind.name == "CLIENT"
    assert (span.start_time, span.end_time) == (998 * 10**9, 1_000 * 10**9)
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.cache_creation.input_tokens": 10,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.conversation.id": "c1",
        "costwise.usage.estimated": True,
        "costwise.overhead": False,
        "costwise.cost.usd": 0.25,
        "costwise.prompt.hash": "abc",
        "costwise.saved.usd.route": 0.5,
        "costwise.saved.usd.compress": -0.125,
        "costwise.tag.conversation": "c1",
        "costwise.tag.feature": "faq",
        "costwise.tag.user": "ann",
    }


def test_an_unpriced_call_has_no_cost_instead_of_a_cost_of_zero():
    here = Collected(provider="mine")
    here.ledger.record([CallRecord(id="1", at=1.0, operation="chat", model="m", usd=None)])
    (span,) = here.spans
    assert "costwise.cost.usd" not in span.attributes
    assert span.attributes["gen_ai.provider.name"] == "mine"
    assert not here.points("costwise.cost.usd")
    assert here.points("costwise.calls.unpriced")[0][0].value == 1


def test_a_hit_is_no_call_to_anybody():
    here = Collected()
    here.ledger.record([HIT])
    (span,) = here.spans
    assert span.kind.name == "INTERNAL"
    assert span.attributes["costwise.cache.tier"] == "near"
    for name in ("gen_ai.client.token.usage", "gen_ai.client.operation.duration"):
        assert not here.points(name)
    assert here.points("costwise.saved.usd")[0][0].value == 1.0


def test_measurements_have_the_units_and_buckets_of_the_conventions():
    here = Collected()
    here.ledger.record([CALL, CALL, HIT])
    by_type = {
        point.attributes["gen_ai.token.type"]: (point, metric)
        for point, metric in here.points("gen_ai.client.token.usage")
    }
    point, metric = by_type["input"]
    assert (point.sum, point.count, metric.unit) == (200, 2, "{token}")
    assert point.explicit_bounds[:3] == (1, 4, 16)
    assert by_type["output"][0].sum == 40
    ((point, metric),) = here.points("gen_ai.client.operation.duration")
    assert (point.sum, metric.unit, point.explicit_bounds[0]) == (4.0, "s", 0.01)
    ((point, metric),) = here.points("costwise.cost.usd")
    assert (point.value, metric.unit) == (0.5, "USD")
    saved = {p.attributes["costwise.stage"]: p.value for p, _ in here.points("costwise.saved.usd")}
    assert saved == {"route": 1.0, "compress": -0.25, "response_cache": 1.0}
    calls = {p.attributes["costwise.cache.tier"]: p.value for p, _ in here.points("costwise.calls")}
    assert calls == {"none": 2, "near": 1}


def test_measurements_carry_no_tag_with_many_values_unless_asked():
    here = Collected()
    here.ledger.record([CALL])
    for name in ("costwise.cost.usd", "gen_ai.client.token.usage", "costwise.calls"):
        for point, _ in here.points(name):
            tags = {key for key in point.attributes if key.startswith("costwise.tag.")}
            assert tags == {"costwise.tag.feature"}
    asked = Collected(metric_tags=("user",))
    asked.ledger.record([CALL])
    ((point, _),) = asked.points("costwise.cost.usd")
    assert point.attributes["costwise.tag.user"] == "ann"


def test_a_tracked_call_is_a_child_of_the_span_around_it_and_holds_no_text():
    here = Collected()
    with (
        here.tracer_provider.get_tracer("app").start_as_current_span("request") as request,
        track(ledger=here.ledger, feature="faq"),
    ):
        record_call(
            operation="chat", model="gpt-4o", usage=Usage(input_tokens=9), prompt="a secret text"
        )
    call, around = here.spans
    assert call.parent.span_id == request.get_span_context().span_id
    assert around.name == "request"
    assert "secret" not in call.to_json()


def test_prometheus_reads_the_metrics():
    prometheus = pytest.importorskip("opentelemetry.exporter.prometheus")
    client = pytest.importorskip("prometheus_client")
    reader = prometheus.PrometheusMetricReader()
    provider = metrics.MeterProvider(metric_readers=[reader])
    try:
        ledger = OpenTelemetryLedger(meter_provider=provider)
        ledger.record([CALL, HIT])
        server, thread = client.start_http_server(0, "127.0.0.1")
        try:
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            text = urllib.request.urlopen(url, timeout=10).read().decode()
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
    finally:
        provider.shutdown()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    cost = [line for line in lines if line.startswith("costwise_cost_") and "gpt-4o" in line]
    assert [float(line.rsplit(" ", 1)[1]) for line in cost] == [0.25]
    assert 'costwise_tag_feature="faq"' in cost[0]
    assert any(line.startswith("gen_ai_client_token_usage") for line in lines)
