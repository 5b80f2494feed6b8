"""Usage reports of every shape come out as the same numbers."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.types import Usage
from costwise_core.usage import usage_of

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


NUMBER = st.one_of(st.none(), st.integers(-5, 10**6), st.floats(), st.text(max_size=3))
DETAILS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(
            [
                "cache_read",
                "cache_creation",
                "cached_tokens",
                "reasoning",
                "reasoning_tokens",
                "ephemeral_1h_input_tokens",
                "cache_write_tokens",
            ]
        ),
        NUMBER,
    ),
)


@settings(deadline=None)
@given(
    counts=st.dictionaries(
        st.sampled_from(
            [
                "input_tokens",
                "output_tokens",
                "total_tokens",
                "prompt_tokens",
                "completion_tokens",
                "cache_read_input_tokens",
                "cache_creation_input_tokens",
                "eval_count",
                "prompt_eval_count",
            ]
        ),
        NUMBER,
    ),
    details=st.dictionaries(
        st.sampled_from(
            [
                "input_token_details",
                "output_token_details",
                "prompt_tokens_details",
                "input_tokens_details",
                "output_tokens_details",
                "cache_creation",
            ]
        ),
        DETAILS,
    ),
)
def test_parts_never_exceed_wholes_and_nothing_is_negative(counts, details):
    usage = usage_of({**counts, **details})
    if usage is None:
        return
    assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert usage.reasoning_tokens <= usage.output_tokens
    parts = (usage.cache_read_tokens, usage.cache_write_1h_tokens, usage.reasoning_tokens)
    assert min(parts) >= 0
    assert not usage.estimated
