"""Task profiles, and caps read off a ledger."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    ANSWER,
    CLASSIFY,
    EXTRACT,
    SUMMARISE,
    CallRecord,
    OutputProfile,
    Usage,
    suggest_max_tokens,
)
from costwise_core.errors import ConfigError


def call(n: int, tokens: int, **fields) -> CallRecord:
    given = {"operation": "chat", "model": "m", "usage": Usage(output_tokens=tokens)}
    return CallRecord(**{"id": f"{n}", "at": 0.0, **given, **fields})


@pytest.mark.parametrize("task", [ANSWER, CLASSIFY, EXTRACT, SUMMARISE])
def test_the_second_try_is_larger_also_for_models_that_think(task):
    assert task.cap() < task.cap(again=True)
    for thoughts in (None, 500):
        assert task.cap(thoughts=thoughts) < task.cap(again=True, thoughts=thoughts)
        assert task.cap() < task.cap(thoughts=thoughts)


@given(st.integers(1, 10_000), st.none() | st.integers(0, 10_000))
def test_no_second_try_is_the_same_cap(most, thoughts):
    task = OutputProfile(name="x", max_tokens=most, longest=most)
    assert task.cap(thoughts=thoughts) == task.cap(again=True, thoughts=thoughts)


@pytest.mark.parametrize(
    ("settings", "said"), [({"max_tokens": 0}, "max_tokens"), ({"longest": 9}, "longest")]
)
def test_lengths_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        OutputProfile(**{"name": "x", "max_tokens": 10, **settings})


def test_too_few_answers_promise_nothing_and_say_how_many_do():
    (found,) = suggest_max_tokens(call(n, 10) for n in range(298))
    assert (found.max_tokens, found.calls, found.needed) == (None, 298, 1)
    (enough,) = suggest_max_tokens(call(n, 10) for n in range(299))
    assert (enough.max_tokens, enough.needed) == (10, 0)


def test_the_bound_holds_as_often_as_it_says():
    """Of 400 ledgers, the cap is below the true 99 % quantile in about 5 %, whatever it is of."""
    source = random.Random(7)
    draws = [lambda: round(source.lognormvariate(4, 1)) + 1, lambda: source.randint(1, 100_000)]
    for draw in draws:
        truth = sorted(draw() for _ in range(50_000))[49_500]
        low = 0
        for _ in range(400):
            (found,) = suggest_max_tokens(call(n, draw()) for n in range(500))
            low += found.max_tokens < truth
        assert low / 400 <= 0.08


@given(st.lists(st.integers(1, 500), min_size=299, max_size=600))
def test_the_cap_is_a_length_seen_and_not_below_the_quantile_of_the_sample(lengths):
    (found,) = suggest_max_tokens(call(n, made) for n, made in enumerate(lengths))
    assert found.max_tokens in lengths
    assert sum(made > found.max_tokens for made in lengths) <= 0.01 * len(lengths)


def test_what_was_not_produced_for_a_user_does_not_count():
    kept = [call(n, 10) for n in range(299)]
    other = [
        call(1_000, 900, overhead=True),
        call(1_001, 900, tier="exact"),
        call(1_002, 900, operation="embedding"),
        call(1_003, 0, usage=Usage(output_tokens=900, estimated=True)),
    ]
    (found,) = suggest_max_tokens([*kept, *other])
    assert (found.max_tokens, found.calls) == (10, 299)


def test_features_and_models_are_kept_apart():
    records = [
        call(f"{feature}{model}{n}", made, model=model, tags=(("feature", feature),))
        for feature, model, made in (("faq", "a", 5), ("faq", "b", 50), ("mail", "a", 500))
        for n in range(299)
    ]
    found = suggest_max_tokens(records)
    assert [(one.feature, one.model, one.max_tokens) for one in found] == [
        ("faq", "a", 5),
        ("faq", "b", 50),
        ("mail", "a", 500),
    ]


def test_a_cap_that_was_met_too_often_hides_how_long_answers_are():
    records = [call(n, 256 if n % 10 == 0 else 40) for n in range(500)]
    (found,) = suggest_max_tokens(records, cap=256)
    assert found.max_tokens is None
    assert "256" in found.why


@pytest.mark.parametrize("settings", [{"share": 1.0}, {"confidence": 0.0}, {"share": -1}])
def test_shares_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        suggest_max_tokens([], **settings)
