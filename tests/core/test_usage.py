"""Usage reports of every shape come out as the same numbers."""

import json
from dataclasses import fields
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.rates import Rates, charge
from costwise_core.tokens import count_tokens
from costwise_core.types import Usage
from costwise_core.usage import (
    _FIELDS,
    StreamUsage,
    at_least,
    estimate_usage,
    processing_of,
    usage_of,
)
from costwise_core.usage_shapes import SHAPES

RECORDED = json.loads(Path(__file__).with_name("provider_usage.json").read_text())

CASES = {
    "langchain": (
        {
            "input_tokens": 1000,
            "output_tokens": 50,
            "total_tokens": 1050,
            "input_token_details": {"cache_read": 600, "cache_creation": 100},
            "output_token_details": {"reasoning": 20},
        },
        Usage(
            input_tokens=1000,
            output_tokens=50,
            cache_read_tokens=600,
            cache_write_tokens=100,
            reasoning_tokens=20,
        ),
    ),
    "langchain without details": (
        {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
        Usage(input_tokens=7, output_tokens=3),
    ),
    "langchain with an openai service tier": (
        {
            "input_tokens": 1000,
            "output_tokens": 50,
            "total_tokens": 1050,
            "input_token_details": {"flex_cache_read": 600, "flex": 400},
            "output_token_details": {"flex_reasoning": 20, "flex": 30},
        },
        Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=600, reasoning_tokens=20),
    ),
    "langchain with anthropic's lifetimes": (
        {
            "input_tokens": 1000,
            "output_tokens": 50,
            "total_tokens": 1050,
            "input_token_details": {
                "cache_read": 600,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 40,
                "ephemeral_1h_input_tokens": 60,
            },
        },
        Usage(
            input_tokens=1000,
            output_tokens=50,
            cache_read_tokens=600,
            cache_write_tokens=100,
            cache_write_1h_tokens=60,
        ),
    ),
    "openai chat": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1050,
            "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=600, reasoning_tokens=20),
    ),
    "openai chat that charges cache writes": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300},
        },
        Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=600, cache_write_tokens=300),
    ),
    "openai with empty details": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
        Usage(input_tokens=10, output_tokens=5),
    ),
    "openai responses": (
        {
            "input_tokens": 1000,
            "output_tokens": 50,
            "total_tokens": 1050,
            "input_tokens_details": {"cached_tokens": 600},
            "output_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=600, reasoning_tokens=20),
    ),
    "openai embeddings": (
        {"prompt_tokens": 12, "total_tokens": 12},
        Usage(input_tokens=12),
    ),
    "anthropic": (
        {
            "input_tokens": 300,
            "output_tokens": 50,
            "cache_read_input_tokens": 600,
            "cache_creation_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
            "service_tier": "standard",
        },
        Usage(
            input_tokens=1000,
            output_tokens=50,
            cache_read_tokens=600,
            cache_write_tokens=100,
            cache_write_1h_tokens=60,
        ),
    ),
    "anthropic that only wrote": (
        {"input_tokens": 900, "output_tokens": 50, "cache_creation_input_tokens": 100},
        Usage(input_tokens=1000, output_tokens=50, cache_write_tokens=100),
    ),
    "anthropic with empty cache fields": (
        {"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": None},
        Usage(input_tokens=9, output_tokens=5),
    ),
    "ollama": (
        {"prompt_eval_count": 26, "eval_count": 298, "eval_duration": 4709213000},
        Usage(input_tokens=26, output_tokens=298),
    ),
    "llama.cpp": (
        {"tokens_evaluated": 26, "tokens_predicted": 8, "content": "..."},
        Usage(input_tokens=26, output_tokens=8),
    ),
}


def as_object(value):
    if isinstance(value, list):
        return [as_object(inner) for inner in value]
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(inner) for name, inner in value.items()})
    return value


@pytest.mark.parametrize("name", CASES)
def test_each_shape_as_dictionary_object_and_wrapped(name):
    report, expected = CASES[name]
    assert usage_of(report) == expected
    assert usage_of(as_object(report)) == expected
    assert usage_of({"usage": report, "model": "m"}) == expected
    assert usage_of({"token_usage": report}) == expected
    assert usage_of(SimpleNamespace(usage_metadata=report)) == expected


def test_real_messages_and_sdk_objects():
    from langchain_core.messages import AIMessage
    from openai.types import CompletionUsage

    message = AIMessage(
        "hi", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    )
    assert usage_of(message) == Usage(input_tokens=7, output_tokens=3)
    raw = CompletionUsage.model_validate(
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8},
        }
    )
    assert usage_of(raw) == Usage(input_tokens=10, output_tokens=5, cache_read_tokens=8)


class Awkward:
    usage: ClassVar[object] = None

    def __getattr__(self, name):
        return self  # like a mock: has every attribute, none of them a number


@pytest.mark.parametrize(
    "report",
    [
        None,
        {},
        "text",
        42,
        [],
        {"words": 3},
        {"prompt_tokens": "12", "completion_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": float("nan"), "completion_tokens": 3},
        {"prompt_tokens": float("inf"), "completion_tokens": 3},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": -5}},
        {"eval_count": 3},  # Ollama leaves the prompt out when it was cached: not known, not zero
        Awkward(),
    ],
)
def test_what_is_not_understood_is_none_and_never_zero(report):
    assert usage_of(report) is None


def test_a_report_that_holds_itself_ends():
    report: dict[str, object] = {}
    report["usage"] = report
    assert usage_of(report) is None


@pytest.mark.parametrize("wrapped", [lambda report: report, as_object], ids=["mapping", "object"])
@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["case"])
def test_what_each_provider_answers_is_read_right(row, wrapped):
    """Shapes from the providers' documentation, whose address each row names."""
    stream = StreamUsage()
    for piece in row.get("stream") or [row["response"]]:
        stream.add(wrapped(piece))
    assert stream.usage == Usage(**row["usage"])
    if "response" in row:
        assert usage_of(wrapped(row["response"])) == Usage(**row["usage"])


def test_every_provider_that_we_say_we_know_is_recorded():
    names = " ".join(row["case"] for row in RECORDED)
    for name in (
        "openai chat", "openai responses", "anthropic", "google", "bedrock", "mistral", "cohere",
        "ollama", "llama.cpp", "langchain", "llamaindex", "deepseek", "xai",
    ):  # fmt: skip
        assert name in names
        if name not in {"mistral", "deepseek", "xai", "llama.cpp", "llamaindex"}:
            assert any(row["case"].startswith(name) and "stream" in row for row in RECORDED), name


def test_an_enumeration_of_googles_package_is_read_like_its_name():
    class Modality(Enum):
        AUDIO = 1

    report = {
        "prompt_token_count": 9,
        "prompt_tokens_details": [SimpleNamespace(modality=Modality.AUDIO, token_count=4)],
    }
    assert usage_of(report).audio_input_tokens == 4


def test_sound_that_was_cached_is_never_counted_twice():
    usage = usage_of(
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 80, "audio_tokens": 50},
        }
    )
    assert usage.audio_cache_read_tokens == 30
    assert usage.input_tokens - usage.cache_read_tokens == 20  # all of them sound


def test_a_stream_nobody_reports_on_has_no_usage():
    stream = StreamUsage()
    for piece in ({"content": "Hi"}, None, "text", {"usage": None}, Awkward()):
        stream.add(piece)
    assert stream.usage is None


@pytest.mark.parametrize("wrapped", [lambda report: report, as_object], ids=["mapping", "object"])
@pytest.mark.parametrize(
    ("report", "processing"),
    [
        ({"service_tier": "flex", "usage": {}}, "flex"),
        ({"usage": {"service_tier": "batch"}}, "batch"),
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "default"}, ""),
        ({"service_tier": None, "usage": {"service_tier": "standard"}}, ""),
        ({}, ""),
    ],
)
def test_how_the_provider_worked_is_read_where_it_has_a_price(report, processing, wrapped):
    assert processing_of(wrapped(report)) == processing


def test_what_is_missing_is_estimated_and_says_so():
    usage = estimate_usage("What is RAG?", "A method.", "gpt-4o")
    assert usage.estimated
    assert usage.input_tokens > usage.output_tokens > 0
    assert estimate_usage("", "", "gpt-4o") == Usage(estimated=True)


def test_a_long_text_is_estimated_by_its_beginning():
    text = "The treaty was signed in 1648. " * 10_000
    whole = count_tokens(text, "gpt-4o").tokens
    assert abs(estimate_usage(text, "", "gpt-4o").input_tokens - whole) < 0.01 * whole


def test_the_report_of_a_broken_stream_is_a_lower_bound():
    estimate = Usage(input_tokens=20, output_tokens=40, estimated=True)
    early = Usage(input_tokens=25, output_tokens=1, cache_read_tokens=10)
    both = at_least(early, estimate)
    assert (both.input_tokens, both.output_tokens, both.cache_read_tokens) == (25, 40, 10)
    assert both.estimated
    assert at_least(None, estimate) == estimate


# --- for all reports ------------------------------------------------------------------------------

NUMBER = st.one_of(st.none(), st.integers(-5, 10**6), st.floats(), st.text(max_size=3))
NAMES = sorted(_FIELDS)
INNER = sorted(
    {
        part.partition("[")[0]
        for shape in SHAPES
        for field in fields(shape)
        for path in getattr(shape, field.name)
        for part in path.split(".")[1:]
    }
)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"modality": st.sampled_from(["AUDIO", "TEXT"]), "ttl": st.sampled_from(["1h", "5m"])},
        optional=dict.fromkeys(("token_count", "tokenCount", "inputTokens"), NUMBER),
    ),
    max_size=3,
)
DETAILS = st.one_of(st.dictionaries(st.sampled_from(INNER), NUMBER, max_size=6), ITEMS)
REPORT = st.dictionaries(st.sampled_from(NAMES), st.one_of(NUMBER, DETAILS), max_size=12)


def check(usage):
    values = {field.name: getattr(usage, field.name) for field in fields(usage)}
    assert all(value >= 0 for value in values.values())
    assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert usage.reasoning_tokens + usage.audio_output_tokens <= usage.output_tokens
    assert usage.audio_cache_read_tokens <= usage.audio_input_tokens <= usage.input_tokens
    assert usage.audio_cache_read_tokens <= usage.cache_read_tokens
    parts = charge(RATES, usage)
    assert sum(parts.values()) == usage.total_tokens, "each token is in exactly one part"


# A dollar for a million tokens is 10^6 of 10^-12 dollars a token; so a token is one unit here.
RATES = Rates(input=Decimal("0.000001"), output=Decimal("0.000001"))


@settings(deadline=None, max_examples=400)
@given(report=REPORT)
def test_parts_never_exceed_wholes_and_nothing_is_negative(report):
    usage = usage_of(report)
    if usage is not None:
        check(usage)
        assert not usage.estimated


@settings(deadline=None, max_examples=200)
@given(row=st.sampled_from([row for row in RECORDED if "response" in row]), data=st.data())
def test_any_numbers_in_a_real_shape_make_sense(row, data):
    def scrambled(value):
        if isinstance(value, dict):
            return {name: scrambled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [scrambled(inner) for inner in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return data.draw(st.integers(0, 10_000))
        return value

    usage = usage_of(scrambled(row["response"]))
    assert usage is not None
    check(usage)


@settings(deadline=None)
@given(pieces=st.lists(REPORT.map(lambda report: {"usage": report}), max_size=6))
def test_streams_make_sense_too(pieces):
    stream = StreamUsage()
    for piece in pieces:
        stream.add(piece)
    if stream.usage is not None:
        check(stream.usage)


USAGE = st.builds(
    Usage, **{f.name: st.integers(0, 10**6) for f in fields(Usage) if f.name != "estimated"}
)


@given(usages=st.lists(USAGE, max_size=5))
def test_usages_add_up_field_by_field(usages):
    whole = sum(usages, Usage())
    for field in fields(Usage):
        assert getattr(whole, field.name) == sum(getattr(one, field.name) for one in usages)
