"""A share with a promise: it holds where it is given, and none is given without the labels."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.bounds import least_sample, sample_needed, wrong_share_upper
from costwise_core.compress.promise import CalibratedShare, calibrate_share
from costwise_core.errors import ConfigError
from costwise_core.labelled import LabelledQuestion
from costwise_core.passages import Compressed, Passage


def asked(answer, *texts, gold=()):
    passages = tuple(Passage(text=text, id=str(n)) for n, text in enumerate(texts))
    answers = (answer,) if answer else ()
    return LabelledQuestion(question="q", passages=passages, answers=answers, gold=gold)


class Begin:
    """Keeps the first of ten passages: the given share of them."""

    def __init__(self, share):
        self.kept = round(10 * share)

    def compress(self, question, passages):
        return Compressed(
            passages=tuple(passages[: self.kept]),
            given=tuple(passages),
            tokens_before=10,
            tokens_after=self.kept,
            reason="compressed",
        )


def questions(n, place):
    """`n` questions; that of number i has its answer in passage `place(i)` of ten."""
    return [
        asked(
            "the answer",
            *("here is the answer" if p == place(i) else "nothing here" for p in range(10)),
        )
        for i in range(n)
    ]


SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)


class TestKept:
    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ("Michael Jayston", "It was MICHAEL  JAYSTON, who"),
            ("1000", "all 1,000 of them"),
            ("1,000", "all 1000 of them"),
            ("12.5", "at 12.5%."),
            ("٣٤٥", "number 345"),
            ("ABC", "the ＡＢＣ of it"),
            ("北京", "他住在北京市。"),
            ("서울", "수도는 서울입니다"),
            ("Müller", "Frau Mu\u0308ller kam"),
            ("co-operate", "they co-operate"),
            ('"Hello"', "he said hello"),
            ("U.S.", "in the U.S. today"),
        ],
    )
    def test_one_answer_in_other_clothes(self, answer, text):
        assert asked(answer, text).kept_in([Passage(text=text)])

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ("5", "there were 15 of 5000"),
            ("5", "at 12.5 percent"),
            ("art", "the party started"),
            ("330 m", "330 metres"),
            ("Michael Jayston", "Michael [...] Jayston"),
            ("上海", "他住在北京市。"),
            ("...", "anything"),
        ],
    )
    def test_another_text(self, answer, text):
        assert not asked(answer, text).kept_in([Passage(text=text)])

    def test_no_answer_across_passages(self):
        assert not asked("red planet").kept_in([Passage(text="the red"), Passage(text="planet")])

    def test_each_gold_passage_is_needed(self):
        one = asked("", "a", "b", "c", gold=("0", "2"))
        assert one.kept_in(one.passages)
        assert not one.kept_in(one.passages[:2])

    def test_gold_and_answer_are_both_needed(self):
        one = asked("b", "a", "b", gold=("0",))
        assert one.kept_in(one.passages)
        assert not one.kept_in(one.passages[:1])
        assert not one.kept_in(one.passages[1:])

    @given(st.text(max_size=60), st.text(max_size=60))
    def test_any_text_is_read_and_a_text_holds_itself(self, answer, text):
        assert asked(answer, text).kept_in([Passage(text=text)]) in (True, False)
        if any(sign.isalnum() for sign in answer) and "[...]" not in answer:
            assert asked(answer, answer).kept_in([Passage(text=answer)])


class TestCalibrateShare:
    def test_the_smallest_share_that_keeps_the_promise(self):
        found = calibrate_share(Begin, questions(150, lambda i: i % 5), shares=SHARES)
        assert found.share == 0.5
        assert [one.lost for one in found.curve] == [0, 0, 0, 60, 120]
        assert [one.kept for one in found.curve] == list(SHARES)
        assert found.chosen.recall_least >= 0.98

    def test_the_first_failure_ends_it_even_if_a_smaller_one_looks_good(self):
        class Odd(Begin):  # loses everything at .5, nothing at .1
            def compress(self, question, passages):
                result = super().compress(question, passages)
                return replace(result, passages=() if self.kept == 5 else tuple(passages))

        assert calibrate_share(Odd, questions(150, lambda i: 0), shares=SHARES).share == 0.7

    def test_nothing_is_promised_where_nothing_holds(self):
        found = calibrate_share(Begin, questions(150, lambda i: 9), shares=SHARES)
        assert found.chosen is None
        assert found.share == 1.0
        assert str(found).startswith("No share keeps 98.0% of the answers")

    def test_answers_that_were_never_there_do_not_count(self):
        rows = questions(150, lambda i: 0) + questions(50, lambda i: 99)
        found = calibrate_share(Begin, rows, shares=SHARES)
        assert (found.questions, found.answerable, found.share) == (200, 150, 0.1)

    def test_too_few_labels_say_how_many_and_what_they_could_show(self):
        with pytest.raises(ConfigError, match=r"148 .* at least 149 are needed.*97\.9%"):
            calibrate_share(Begin, questions(148, lambda i: 0))
        assert calibrate_share(Begin, questions(59, lambda i: 0), target=0.95).share < 1

    def test_no_labels(self):
        with pytest.raises(ConfigError, match="0 labelled questions"):
            calibrate_share(Begin, [])
        rows = [*questions(150, lambda i: 0), asked("", "a text")]
        with pytest.raises(ConfigError, match=r"question 151 of 151 has neither"):
            calibrate_share(Begin, rows)

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
    def test_numbers_out_of_range(self, value):
        rows = questions(150, lambda i: 0)
        with pytest.raises(ConfigError, match="target"):
            calibrate_share(Begin, rows, target=value)
        with pytest.raises(ConfigError, match="confidence"):
            calibrate_share(Begin, rows, confidence=value)
        with pytest.raises(ConfigError, match="shares"):
            calibrate_share(Begin, rows, shares=[0.5, value])

    def test_no_shares(self):
        with pytest.raises(ConfigError, match="shares"):
            calibrate_share(Begin, questions(150, lambda i: 0), shares=[])

    def test_print_shows_the_curve_the_choice_and_what_more_would_take(self):
        found = calibrate_share(Begin, questions(200, lambda i: 3 if i < 2 else 0), shares=SHARES)
        text = str(found)
        assert "Asked to keep 0.5 of the tokens" in text
        assert text.count("<- chosen") == 1
        assert "200 of 200 labelled questions count" in text
        more = sample_needed(2, 200, 0.02, 0.95) - 200
        assert f"about {more} more labelled questions like these would support 0.3" in text
        assert "<table>" in found._repr_html_()

    def test_more_labels_do_support_what_is_promised(self):
        rows = questions(200, lambda i: 3 if i < 2 else 0) * 3
        assert calibrate_share(Begin, rows, shares=SHARES).share == 0.1

    def test_html_is_escaped(self):
        nothing = CalibratedShare(
            chosen=None, curve=(), questions=0, answerable=0, target=0.98, confidence=0.95
        )
        assert "<script" not in nothing._repr_html_()

    def test_the_promise_holds_as_often_as_it_says(self):
        # The true recall is the target itself, so that a promise is luck: allowed in 5 % of worlds.
        class Loses:
            def __init__(self, share):
                self.share = share

            def compress(self, question, passages):
                lost = float(question) < 0.02
                return Compressed(
                    passages=() if lost else tuple(passages),
                    given=tuple(passages),
                    tokens_before=10,
                    tokens_after=1,
                    reason="compressed",
                )

        dice = random.Random(0)
        worlds, wrong = 200, 0
        for _ in range(worlds):
            rows = [replace(asked("yes", "yes"), question=repr(dice.random())) for _ in range(149)]
            wrong += calibrate_share(Loses, rows, shares=(0.5, 0.1)).chosen is not None
        assert 0 < wrong / worlds < 0.1


class TestBounds:
    @given(st.floats(0.005, 0.3), st.floats(0.8, 0.99))
    def test_the_least_sample_is_the_least(self, wrong, confidence):
        least = least_sample(wrong, confidence)
        assert wrong_share_upper(0, least, confidence) <= wrong + 1e-9
        assert least == 1 or wrong_share_upper(0, least - 1, confidence) > wrong - 1e-9

    def test_a_sample_that_is_enough_is_enough(self):
        needed = sample_needed(2, 200, 0.02, 0.95)
        assert wrong_share_upper(-(-2 * needed // 200), needed, 0.95) <= 0.02

    def test_no_sample_is_enough_at_the_bound(self):
        assert sample_needed(4, 200, 0.02, 0.95) is None
        assert sample_needed(0, 0, 0.02, 0.95) is None
