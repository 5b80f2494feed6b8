"""The line never promises more than the labels behind it show."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.cache.boundary import draw, fit, poisson_upper, predict_wrong

ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9]),  # few values, so that there are ties
        st.integers(0, 1),
        st.sampled_from([1.0, 2.0, 20.0]),
    ),
    min_size=1,
    max_size=80,
)


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 4), st.floats(0, 1))
def test_upper_bound_grows_with_count_and_confidence(count, more, z, more_z):
    def upper(n, quantile):
        return float(poisson_upper(np.array(n), quantile))

    assert upper(count, z) >= count
    assert upper(count + more, z) >= upper(count, z)
    assert upper(count, z + more_z) >= upper(count, z)


class TestDraw:
    @given(ROWS, st.floats(0, 100), st.floats(0, 2), st.floats(0, 0.5), st.floats(0.05, 1))
    def test_everything_at_or_below_the_line_is_within_what_is_allowed(
        self, rows, allowed, z, judge_error, cap
    ):
        predicted, wrong, weights = (
            np.array(column, dtype=float) for column in zip(*rows, strict=True)
        )
        line = draw(
            predicted,
            wrong,
            weights,
            allowed=allowed,
            allowed_per_hit=1.0,
            judge_error=judge_error,
            z=z,
            cap=cap,
        )
        served = predicted <= line.max_wrong
        observed = float((weights * wrong)[served].sum()) / (1 - judge_error)
        assert line.max_wrong <= cap
        if line.max_wrong >= 0:
            assert line.served == pytest.approx(weights[served].sum())
            assert line.wrong == pytest.approx(observed)
            assert line.wrong <= line.wrong_upper + 1e-9 <= allowed + 1e-6

    @given(ROWS, st.floats(0.001, 0.5))
    def test_per_hit(self, rows, share):
        predicted, wrong, weights = (
            np.array(column, dtype=float) for column in zip(*rows, strict=True)
        )
        line = draw(
            predicted,
            wrong,
            weights,
            allowed=math.inf,
            allowed_per_hit=share,
            judge_error=0.0,
            z=1.28,
            cap=1.0,
        )
        assert line.wrong_upper <= share * line.served + 1e-6

    def test_of_equal_predictions_all_or_none_are_served(self):
        # The right ones come first; a line that stopped behind them would serve the wrong too.
        predicted = np.full(60, 0.2)
        wrong = np.array([0.0] * 50 + [1.0] * 10)
        line = draw(
            predicted,
            wrong,
            np.ones(60),
            allowed=5.0,
            allowed_per_hit=1.0,
            judge_error=0.0,
            z=1.0,
            cap=0.5,
        )
        assert line.max_wrong == -1.0

    def test_nothing_seen_draws_no_line(self):
        nothing = np.zeros(0)
        line = draw(
            nothing,
            nothing,
            nothing,
            allowed=9.0,
            allowed_per_hit=1.0,
            judge_error=0.0,
            z=1.0,
            cap=0.5,
        )
        assert line.max_wrong == -1.0


class TestFit:
    @given(st.integers(2, 60), st.integers(1, 5), st.randoms(use_true_random=False))
    def test_finite_on_separable_labels(self, n, columns, draws):
        features = np.array(
            [[1.0, *(draws.uniform(-50, 50) for _ in range(columns))] for _ in range(n)]
        )
        same = (features[:, 1] > 0).astype(float)
        weights = np.array([draws.choice([1.0, 20.0, 1000.0]) for _ in range(n)])
        beta = np.zeros(columns + 1)
        for _ in range(20):
            beta = fit(features, same, weights, beta)
            assert np.isfinite(beta).all()
        assert np.abs(beta).max() < 50
        risk = predict_wrong(features, beta)
        assert ((risk > 0) & (risk < 1)).all()

    def test_recovers_known_coefficients(self):
        rng = np.random.default_rng(0)
        features = np.column_stack([np.ones(20_000), rng.normal(size=(20_000, 2))])
        truth = np.array([0.5, 2.0, -1.0])
        same = (rng.random(20_000) < 1 / (1 + np.exp(-features @ truth))).astype(float)
        beta = fit(features, same, np.ones(20_000), np.zeros(3))
        assert beta == pytest.approx(truth, abs=0.1)
