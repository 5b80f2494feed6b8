"""What counts as the same request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.cache import canonical, fingerprint, question_key, split_question


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is RAG?", "  what is\n\tRAG? "),
        ("Cafe\u0301 hours?", "Café hours?"),
        ("How do I reset it?", "how do i reset it?".replace(" i ", " I ")),
    ],
)
def test_same_question(one, other):
    assert question_key(one) == question_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the US budget?", "What is the us budget?"),
        ("Refund after 30 days?", "Refund after 60 days?"),
        ("Is it allowed?", "Is it not allowed?"),
        ("Polish food?", "polish food?"),
        ("Where is order 550e8400-e29b-41d4-a716-446655440000?", "Where is order 1?"),
    ],
)
def test_different_question(one, other):
    assert question_key(one) != question_key(other)


@given(st.text())
def test_canonical_is_idempotent_and_never_fails(text):
    assert canonical(canonical(text)) == canonical(text)
    assert len(question_key(text)) == 32


def test_lone_surrogates_have_a_key():
    assert question_key("broken \ud800 text") != question_key("broken \ud801 text")


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_fingerprints_differ_where_parts_differ(one, other):
    # Without lengths in the digest ("ab", "c") and ("a", "bc") would be the same.
    same = fingerprint(*one, volatile=()) == fingerprint(*other, volatile=())
    assert same == (one == other)


def test_volatile_fields_of_the_surroundings_do_not_count():
    def system(now: str, request: str) -> str:
        return f"You are helpful. Now: {now}. Request-ID: {request}"

    a = system("2026-11-21T08:30:00Z", "550e8400-e29b-41d4-a716-446655440000")
    b = system("2026-11-21 09:45:10.250+01:00", "deadbeef" * 4)
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(a, volatile=()) != fingerprint(b, volatile=())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Today is 2026-11-21.", "Today is 2026-11-22."),  # yesterday's answer is another answer
        ("2026-11-21T08:30:00Z", "2026-11-22T08:30:00Z"),
        # A bare uuid may name a customer; two customers must never share an answer.
        ("For 550e8400-e29b-41d4-a716-446655440000", "For 550e8400-e29b-41d4-a716-446655440001"),
        ("user_id: 550e8400-e29b-41d4-a716-446655440000", "user_id: " + "a" * 32),
    ],
)
def test_what_may_change_the_answer_counts(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_the_last_labelled_line_is_the_question():
    prompt = "Question: old one?\nAnswer: x\n\nContext: long\n**Question:** How big is Paris? \n"
    found = split_question(prompt)
    assert found.text == "How big is Paris?"
    assert "How big" not in found.around
    assert found.near


def test_a_long_prompt_without_a_question_is_matched_exactly_only():
    assert not split_question("word " * 300).near


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_split_loses_nothing(one, other):
    # Whatever is not the question must be in the surroundings, or two prompts would be one.
    a, b = split_question(one), split_question(other)
    assert ((a.text, a.around) == (b.text, b.around)) == (one == other)
