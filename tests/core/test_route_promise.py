"""What routers are held to: measures beside chance, thresholds with a bound, checks of both."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    PairedOutcome,
    PromiseWatch,
    calibrate_routing,
    evaluate_routing,
)
from costwise_core.bounds import wrong_share_upper
from costwise_core.errors import ConfigError, RouteError
from costwise_core.route.evaluate import Measure
from costwise_core.route.watch import PromiseState

Marks = list[tuple[bool, bool]]


def pairs_of(marks: Marks, usd: bool = False) -> list[PairedOutcome]:
    cheap, dear = (Decimal("0.001"), Decimal("0.01")) if usd else (None, None)
    return [
        PairedOutcome(question="w " * n, weak=w, strong=s, weak_usd=cheap, strong_usd=dear)
        for n, (w, s) in enumerate(marks)
    ]


def drawn(n: int, seed: int) -> tuple[list[PairedOutcome], list[float]]:
    """Return outcomes whose gain rises with the score, which is uniform in [0, 1]."""
    dice = np.random.default_rng(seed)
    scores = dice.random(n)
    weak = dice.random(n) < 0.95 - 0.6 * scores
    strong = dice.random(n) < 0.95
    return pairs_of(list(zip(weak.tolist(), strong.tolist(), strict=True))), scores.tolist()


class TestEvaluate:
    def test_knowing_everything_knowing_nothing(self) -> None:
        pairs = pairs_of([(n < 75, True) for n in range(100)])
        best = evaluate_routing(pairs, range(100))
        assert best.router.apgr.value == pytest.approx(1 - 0.25 / 2)
        assert best.router.apgr.value == pytest.approx(best.oracle.apgr.value)
        assert best.router.cpt80.value == pytest.approx(0.2)
        none = evaluate_routing(pairs, [1.0] * 100)
        assert none.router.apgr.value == pytest.approx(0.5)
        assert none.router.cpt50.value == pytest.approx(0.5)
        worst = evaluate_routing(pairs, [-n for n in range(100)])
        assert worst.router.apgr.value == pytest.approx(0.125)

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=60), st.data())
    def test_no_scores_beat_the_oracle(self, marks: Marks, data: st.DataObject) -> None:
        marks = [*marks, (False, True)] * 2 + [(False, True)] * 60
        scores = data.draw(
            st.lists(st.integers(0, 5), min_size=len(marks), max_size=len(marks)), label="scores"
        )
        report = evaluate_routing(pairs_of(marks), scores)
        assert report.router.apgr.value <= report.oracle.apgr.value + 1e-9
        assert 0 <= report.router.cpt50.value <= report.router.cpt80.value <= 1
        assert report.router.apgr.low <= report.router.apgr.high
        assert report.random.apgr.value == pytest.approx(0.5)

    def test_it_says_what_it_does_not_show(self) -> None:
        marks = [(n % 3 != 0, n % 7 != 0) for n in range(300)]
        noise = np.random.default_rng(0).random(300).tolist()
        assert "not shown to be better than chance" in str(evaluate_routing(pairs_of(marks), noise))

    def test_dollars_are_reported_where_they_are_known(self) -> None:
        marks = [(n < 75, True) for n in range(100)]
        report = evaluate_routing(pairs_of(marks, usd=True), range(100), quality=1.0)
        # All 25 hard questions go to the dear model, at ten times the price.
        assert report.router.usd_share is not None
        assert report.router.usd_share.value == pytest.approx((75 * 1 + 25 * 10) / 1000)
        assert "dollars at 100%" in str(report)
        assert evaluate_routing(pairs_of(marks), range(100)).router.usd_share is None

    def test_it_shows_itself_in_a_notebook(self) -> None:
        report = evaluate_routing(*drawn(200, 1))
        assert "<table>" in report._repr_html_()
        assert "oracle" in report._repr_html_()

    def test_without_a_gap_there_is_nothing_to_route(self) -> None:
        with pytest.raises(RouteError, match="nothing to route"):
            evaluate_routing(pairs_of([(True, False), (True, True)]), [0.0, 1.0])

    @pytest.mark.parametrize("scores", [[0.0], [0.0, math.nan]])
    def test_one_finite_score_for_each(self, scores: list[float]) -> None:
        with pytest.raises(ConfigError):
            evaluate_routing(pairs_of([(False, True)] * 2), scores)

    def test_a_measure_is_printed_with_its_interval(self) -> None:
        assert str(Measure(value=0.5, low=0.4, high=0.6)) == "0.500 (0.400 to 0.600)"


class TestCalibrate:
    def test_the_promise_is_kept_in_95_of_100_deployments(self) -> None:
        world, scores = drawn(20_000, 0)
        weak = np.array([one.weak for one in world], float)
        strong = np.array([one.strong for one in world], float)
        at = np.array(scores)
        broken, promised = 0, 0
        for seed in range(100):
            rows = np.random.default_rng(seed).integers(0, len(world), 300)
            found = calibrate_routing([world[row] for row in rows], at[rows].tolist())
            if found.chosen is None:
                continue
            promised += 1
            kept = np.where(at >= found.threshold, strong, weak).sum() / strong.sum()
            broken += kept < 0.95
        assert promised > 90
        assert broken <= 8  # 5 are expected at most; more than 8 would be bad luck in 1 of 20

    def test_scores_of_routers_and_of_judges_give_the_same_line(self) -> None:
        pairs, scores = drawn(500, 2)
        router = calibrate_routing(pairs, scores)
        judge = calibrate_routing(pairs, [1 - score for score in scores], higher="weak")
        assert judge.threshold == pytest.approx(1 - router.threshold)
        assert judge.strong_share == router.strong_share
        shown = sum(1 - score >= judge.threshold for score in scores)
        assert shown == len(pairs) - round(router.strong_share * len(pairs))

    def test_for_right_or_wrong_marks_the_bound_is_the_exact_one(self) -> None:
        pairs = pairs_of([(n >= 3, True) for n in range(200)])
        found = calibrate_routing(pairs, [0.0] * 200)
        assert found.curve[-1].kept == pytest.approx(197 / 200)
        exact = 1 - wrong_share_upper(3, 200, 0.95)
        assert found.curve[-1].kept_least == pytest.approx(exact, abs=0.002)

    def test_the_first_failure_ends_it(self) -> None:
        # Bad in the middle, good at the end: what lies behind a failed threshold is not promised.
        pairs = pairs_of([(not 100 <= n < 180, True) for n in range(400)])
        found = calibrate_routing(pairs, range(400))
        assert found.chosen is not None
        assert found.chosen.strong_share > 0.7

    def test_more_confidence_is_never_cheaper(self) -> None:
        pairs, scores = drawn(400, 3)
        sure = [
            calibrate_routing(pairs, scores, confidence=confidence).strong_share
            for confidence in (0.8, 0.95, 0.99)
        ]
        assert sure == sorted(sure)

    def test_where_nothing_is_kept_there_is_no_threshold(self) -> None:
        found = calibrate_routing(pairs_of([(False, True)] * 100), [0.5] * 100)
        assert found.chosen is None
        assert found.strong_share == 1.0
        with pytest.raises(RouteError, match="No threshold keeps"):
            _ = found.threshold
        assert "would not support" in str(found)

    def test_it_says_how_many_more_labels_a_cheaper_one_takes(self) -> None:
        found = calibrate_routing(*drawn(300, 4))
        assert "more labels like these would" in str(found).lower()
        assert "<- chosen" in str(found)
        assert "<table>" in found._repr_html_()

    def test_without_labels_nothing_is_promised(self) -> None:
        for n in (0, 58):
            with pytest.raises(RouteError, match="at least 59 are needed"):
                calibrate_routing(pairs_of([(True, True)] * n), [0.0] * n)

    @pytest.mark.parametrize(
        "wrong",
        [{"quality": 1.0}, {"confidence": 0.0}, {"higher": "up"}],
    )
    def test_numbers_out_of_range_are_told(self, wrong: dict[str, object]) -> None:
        pairs, scores = drawn(100, 5)
        with pytest.raises(ConfigError):
            calibrate_routing(pairs, scores, **wrong)  # type: ignore[arg-type]

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.integers(0, 4), min_size=59, max_size=120), st.integers(0, 99))
    def test_the_threshold_does_what_its_point_says(self, scores: list[int], seed: int) -> None:
        dice = np.random.default_rng(seed)
        marks = [(bool(w), True) for w in dice.random(len(scores)) < 0.99]
        for higher in ("strong", "weak"):
            found = calibrate_routing(pairs_of(marks), scores, higher=higher)  # type: ignore[arg-type]
            for point in found.curve:
                over = sum(score >= point.threshold for score in scores) / len(scores)
                share = over if higher == "strong" else 1 - over
                assert point.strong_share == pytest.approx(share)


class TestWatch:
    def test_a_kept_promise_raises_no_alarm_however_long(self) -> None:
        alarms = 0
        for seed in range(20):
            dice = np.random.default_rng(seed)
            watch = PromiseWatch(quality=0.95)
            for _ in range(1_000):
                strong = float(dice.random() < 0.9)
                # Just kept: the mark shown is on average 0.95 of the dear model's.
                watch.note(shown=strong * float(dice.random() < 0.95), strong=strong)
            alarms += watch.state.broken
        assert alarms <= 3  # one of twenty is expected at most

    def test_a_break_after_a_long_good_time_is_found(self) -> None:
        said: list[PromiseState] = []
        watch = PromiseWatch(quality=0.95, on_broken=said.append)
        for _ in range(2_000):
            watch.note(shown=1.0, strong=1.0)
        assert not watch.state.broken
        dice = np.random.default_rng(0)
        for _ in range(400):
            watch.note(shown=float(dice.random() < 0.7), strong=1.0)
        assert watch.state.broken
        assert len(said) == 1
        assert said[0].checks < 2_300
        assert "less than the 95.0%" in said[0].why

    def test_the_sample_is_the_same_for_everybody(self) -> None:
        one, other = PromiseWatch(share=0.1), PromiseWatch(share=0.1)
        due = [name for name in map(str, range(5_000)) if one.due(name)]
        assert 400 < len(due) < 600
        assert all(other.due(name) for name in due)
        assert not PromiseWatch(share=0.0).due("7")

    def test_before_the_first_check_nothing_is_said(self) -> None:
        state = PromiseWatch().state
        assert (state.broken, state.checks, state.kept) == (False, 0, 1.0)

    @pytest.mark.parametrize("marks", [(1.5, 1.0), (1.0, -1.0), (math.nan, 1.0)])
    def test_marks_are_from_zero_to_one(self, marks: tuple[float, float]) -> None:
        with pytest.raises(ConfigError):
            PromiseWatch().note(shown=marks[0], strong=marks[1])

    @pytest.mark.parametrize("wrong", [{"quality": 1.0}, {"confidence": 0.0}, {"share": 2.0}])
    def test_numbers_out_of_range_are_told(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError):
            PromiseWatch(**wrong)  # type: ignore[arg-type]
