"""Whether two answers say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.cache import SameMeaning, SameText
from costwise_core.cache.judge import normalised
from costwise_core.testing.fakes import HashingEmbedder


class Alike:
    """Finds everything close."""

    name = "alike"

    def __init__(self) -> None:
        self.roles: list[str] = []

    def embed(self, texts, role="query"):
        self.roles.append(role)
        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("fresh", "stored"),
    [("Paris.", "paris"), ("The Louvre", "Louvre!"), ("Die Antwort", "antwort"), ("ＡＢＣ", "abc")],
)
def test_same_words(fresh, stored):
    assert SameText().same("q", fresh, stored)


@pytest.mark.parametrize(
    ("fresh", "stored"),
    [
        ("Paris", "Rome"),
        ("not open", "open"),
        ("x y", "y x"),
        ("1.5", "15"),
        ("-5", "5"),
        ("C++", "C#"),
        ("A", "The"),
        ("<", ">"),
        ("👍", "👎"),
    ],
)
def test_other_words(fresh, stored):
    assert not SameText().same("q", fresh, stored)


@pytest.mark.parametrize(
    ("fresh", "stored"),
    [
        ("It takes 30 days.", "It takes 60 days."),
        ("It takes 30 days.", "It takes some days."),
        ("From 9 to 5", "From 9 to 6"),
        ("£1,200", "£1,300"),
    ],
)
def test_numbers_decide_however_alike_the_rest(fresh, stored):
    assert not SameMeaning(embedder=Alike()).same("q", fresh, stored)


def test_close_answers_with_equal_numbers_are_the_same():
    embedder = Alike()
    assert SameMeaning(embedder=embedder).same("q", "30 days are given.", "You have 30 days.")
    assert embedder.roles == ["document"]


def test_equal_words_need_no_embedder():
    embedder = Alike()
    assert SameMeaning(embedder=embedder).same("q", "Yes.", "yes")
    assert embedder.roles == []


def test_far_answers_are_not():
    judge = SameMeaning(embedder=HashingEmbedder())
    assert not judge.same("q", "Ask at the desk.", "Refunds go to your card.")


@given(st.text(), st.text())
def test_symmetric_and_never_a_crash(one, other):
    judge = SameMeaning(embedder=HashingEmbedder())
    assert judge.same("q", one, other) == judge.same("q", other, one)
    assert judge.same("q", one, one)
    assert normalised(normalised(one)) == normalised(one)
