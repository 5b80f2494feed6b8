"""BM25: the formula, and what every ranking by it must hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Passage
from costwise_core.score.bm25 import BM25, bm25, bm25_words

WORDS = st.lists(st.sampled_from("red blue green old new".split()), max_size=8)


def test_the_formula():
    """Two of three texts hold the word, one of them twice; lengths are 2, 3 and 1."""
    texts = [["a", "b"], ["a", "a", "c"], ["d"]]
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [
        idf * 1 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2)),
        idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2)),
        0.0,
    ]
    assert bm25_words(["a"], texts) == pytest.approx(expected)
    assert bm25_words(["a", "a"], texts) == pytest.approx([2 * value for value in expected])


@given(WORDS, st.lists(WORDS, max_size=6))
def test_scores_are_finite_never_negative_and_follow_their_text(question, texts):
    scores = bm25_words(question, texts)
    assert scores.shape == (len(texts),)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    for score, text in zip(scores, texts, strict=True):
        assert (score > 0) == bool(set(question) & set(text))
    assert bm25_words(question, texts[::-1])[::-1] == pytest.approx(scores)


def test_a_word_that_every_text_holds_still_counts_a_little():
    assert (bm25("red", ["a red one", "red", "the red"]) > 0).all()


def test_rare_words_and_short_texts_come_first():
    assert bm25("red planet", ["red car", "red bus", "planet"]).argmax() == 2
    assert bm25("planet", ["planet " + "far " * 50, "planet far"]).argmax() == 1


@pytest.mark.parametrize(
    ("question", "texts"),
    [
        ("", ["a b", "c"]),
        ("???", ["a b"]),
        ("who is it", ["he", "she"]),
        ("red", []),
        ("red", ["", " ", "\ud800"]),
    ],
)
def test_nothing_to_compare_is_zero(question, texts):
    assert bm25(question, texts).tolist() == [0.0] * len(texts)


def test_other_scripts_and_numbers():
    assert bm25("谁写了红楼梦？", ["北京是首都。", "曹雪芹写了《红楼梦》。"]).argmax() == 1
    assert bm25("Was kostet das Haus?", ["Kosten des Hauses", "Garten"]).argmax() == 0
    assert bm25("over 1000 euros", ["about 1,000", "about 100"]).argmax() == 0


def test_a_passage_counts_with_its_title_and_stays_as_it_is():
    passages = [Passage(text="It is hot.", title="Venus"), Passage(text="It is red.", title="Mars")]
    scores = BM25().score("How hot is Mars, the red planet?", passages)
    assert scores[1] > scores[0] > 0
    assert all(type(score) is float for score in scores)
    assert BM25().score("Mars", []) == []
    assert passages[0] == Passage(text="It is hot.", title="Venus")
