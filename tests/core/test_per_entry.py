"""The published policy's own numbers."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.cache import per_entry
from costwise_core.cache.per_entry import PerEntry
from costwise_core.errors import ConfigError
from costwise_core.types import Entry, Neighbour

ENTRY = Entry(key="k", scope="s", question="q", answer="a")
LABELS = st.lists(
    st.tuples(st.floats(0.3, 1.0).map(lambda s: round(s, 3)), st.integers(0, 1)), max_size=30
)
ANCHORS = [(0.0, 0), (1.0, 1)]


def near(cosine: float) -> list[Neighbour]:
    return [Neighbour(entry=ENTRY, cosine=cosine)]


def explore(policy: PerEntry, cosine: float, labels: list[tuple[float, int]]) -> float:
    return policy._explore(cosine, [*ANCHORS, *labels])


class TestCurve:
    def test_recovers_a_known_curve_from_many_labels(self):
        draws = random.Random(1)
        labels = []
        for _ in range(4_000):
            s = round(draws.uniform(0.4, 1.0), 3)
            right = draws.random() < 1 / (1 + math.exp(-25 * (s - 0.7)))
            labels.append((s, int(right)))
        threshold, steepness, variance = per_entry._curve(labels)
        assert threshold == pytest.approx(0.7, abs=0.01)
        assert steepness == pytest.approx(25, rel=0.1)
        assert 0 < variance < 0.005**2

    def test_variance_is_that_of_repeated_experiments(self):
        thresholds, variances = [], []
        for seed in range(60):
            draws = random.Random(seed)
            labels = [(draws.uniform(0.4, 1.0), 0.0) for _ in range(300)]
            labels = [
                (s, int(draws.random() < 1 / (1 + math.exp(-15 * (s - 0.7))))) for s, _ in labels
            ]
            threshold, _, variance = per_entry._curve(labels)
            thresholds.append(threshold)
            variances.append(variance)
        mean = sum(thresholds) / 60
        seen = sum((t - mean) ** 2 for t in thresholds) / 59
        assert sum(variances) / 60 == pytest.approx(seen, rel=0.5)

    def test_separated_labels_leave_the_threshold_anywhere_in_the_gap(self):
        threshold, steepness, variance = per_entry._curve([*ANCHORS, (0.6, 0), (0.8, 1)])
        assert threshold == pytest.approx(0.7)
        assert variance == pytest.approx(0.2**2 / 12)
        assert steepness < 100  # a step would be certain of what four labels cannot tell

    @given(LABELS)
    def test_finite_whatever_the_labels(self, labels):
        threshold, steepness, variance = per_entry._curve([*ANCHORS, *labels])
        assert 0 <= threshold <= 1
        assert 0 < steepness < math.inf
        assert 0 <= variance < math.inf


class TestExploring:
    def test_always_below_four_labels(self):
        assert explore(PerEntry(), 1.0, [(0.9, 1)] * 3) == 1.0

    def test_formula(self):
        """Minimised over the error level: 1 - delta / (1 - alpha), section 4."""
        labels = [(0.5, 0), (0.6, 0), (0.9, 1), (0.95, 1)]
        threshold, steepness, variance = per_entry._curve([*ANCHORS, *labels])
        bounds = []
        for epsilon, quantile in zip(per_entry._GRID, per_entry._QUANTILES, strict=True):
            worst = min(max(threshold + quantile * math.sqrt(variance), 0), 1)
            alpha = (1 - epsilon) / (1 + math.exp(-steepness * (0.97 - worst)))
            bounds.append(1 - 0.05 / (1 - alpha))
        assert explore(PerEntry(0.05), 0.97, labels) == pytest.approx(max(min(bounds), 0))

    @given(LABELS, st.floats(0.3, 0.99), st.floats(0.001, 0.3))
    def test_a_probability_that_falls_with_nearness_and_allowance(self, labels, cosine, delta):
        chance = explore(PerEntry(delta), cosine, labels)
        assert 0.0 <= chance <= 1.0
        assert explore(PerEntry(delta), cosine + 0.01, labels) <= chance + 1e-9
        assert explore(PerEntry(delta * 1.5), cosine, labels) <= chance + 1e-9

    def test_an_entry_that_was_only_wrong_is_hardly_served(self):
        policy = PerEntry(0.02, seed=0)
        for _ in range(50):
            verdict = policy.decide("q", near(0.9))
            policy.learn(verdict, same=False)
        served = sum(policy.decide("q", near(0.9)).action == "serve" for _ in range(1_000))
        assert served <= 40  # delta = 20 of them, and chance


class TestPromise:
    @pytest.mark.parametrize("delta", [0.02, 0.05])
    def test_kept_on_traffic_of_its_own_family(self, delta):
        draws, policy = random.Random(3), PerEntry(delta, seed=3)
        wrong = 0
        entries = [
            (Entry(key=str(n), scope="s", question="q", answer="a"), draws.uniform(0.6, 0.9))
            for n in range(10)
        ]
        for _ in range(3_000):
            entry, threshold = draws.choice(entries)
            s = draws.uniform(0.5, 1.0)
            same = draws.random() < 1 / (1 + math.exp(-30 * (s - threshold)))
            verdict = policy.decide("q", [Neighbour(entry=entry, cosine=s)])
            if verdict.action == "serve":
                wrong += not same
            else:
                policy.learn(verdict, same=same)
        assert wrong <= delta * 3_000


def test_right_answers_add_no_entry():
    assert PerEntry().decide("q", near(0.9)).keep is False


def test_nothing_near_is_refused():
    assert PerEntry().decide("q", []).action == "refuse"


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_promise_out_of_range(value):
    with pytest.raises(ConfigError, match="max_wrong"):
        PerEntry(value)
