"""A threshold chosen on labelled pairs is as good as its bound, and says when it has none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.cache import Cache, SameText
from costwise_core.cache.calibrate import calibrate, judge_error, wrong_share_upper
from costwise_core.cache.guards import GUARDS
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.errors import ConfigError
from costwise_core.stores.memory import MemoryStore
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Scope

FOW = Path("../shared/data/cache/fow_pairs.jsonl")

SAME = [(f"Where do I find shop {n}?", f"where do I find shop {n}", True) for n in range(80)]
OTHER = [(f"Where do I find shop {n}?", f"Who ran the mill in {n}?", False) for n in range(80)]


class TestBound:
    def test_known_values(self):
        # No wrong one in n: 1 - 0.05 ** (1 / n). Others from tables of Clopper and Pearson.
        assert wrong_share_upper(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59), abs=1e-6)
        assert wrong_share_upper(1, 10, 0.975) == pytest.approx(0.4450, abs=1e-4)
        assert wrong_share_upper(5, 20, 0.975) == pytest.approx(0.4910, abs=1e-4)

    @given(st.integers(1, 400), st.data(), st.floats(0.6, 0.99))
    def test_above_what_was_seen_and_monotone(self, n, data, confidence):
        wrong = data.draw(st.integers(0, n))
        upper = wrong_share_upper(wrong, n, confidence)
        assert wrong / n <= upper <= 1.0
        assert upper <= wrong_share_upper(min(wrong + 1, n), n, confidence) + 1e-9
        assert upper <= wrong_share_upper(wrong, n, min(confidence + 0.009, 0.999)) + 1e-9

    def test_nothing_served_bounds_nothing(self):
        assert wrong_share_upper(0, 0, 0.95) == 1.0


class TestCalibrate:
    def test_chooses_the_lowest_cosine_within_the_bound(self):
        found = calibrate(SAME + OTHER, HashingEmbedder(), guards=())
        fine = [point for point in found.curve if point.upper <= 0.05]
        assert found.chosen is not None
        assert found.chosen.threshold == min(point.threshold for point in fine)
        assert (found.chosen.recall, found.pairs) == (1.0, 160)

    def test_curve_counts_what_is_served(self):
        found = calibrate(SAME + OTHER, HashingEmbedder(), guards=())
        hits = [point.hits for point in found.curve]
        assert hits == sorted(hits)
        last = found.curve[-1]  # at 0.01, below which few of the different ones lie
        assert last.hits - last.wrong == 80
        assert last.wrong > 70

    def test_serves_through_the_cache_and_no_further(self):
        policy = calibrate(SAME + OTHER, HashingEmbedder())
        cache = Cache(MemoryStore(), embedder=HashingEmbedder(), policy=policy)
        cache.store("Where do I find the library?", Scope(), "On the hill.")
        assert cache.lookup("where do I find the Library", Scope())
        assert cache.lookup("What does a ticket cost?", Scope()).reason == "below_threshold"

    def test_guards_object_at_any_cosine(self):
        policy = calibrate(SAME + OTHER, HashingEmbedder())
        cache = Cache(MemoryStore(), embedder=HashingEmbedder(), policy=policy)
        cache.store("May I return a coat after 30 days?", Scope(), "Yes.")
        assert cache.lookup("May I return a coat after 60 days?", Scope()).reason == "guard_numbers"

    def test_guarded_pairs_are_no_hits(self):
        pairs = [(f"Is line {n} open?", f"Is line {n + 1} open?", False) for n in range(50)]
        found = calibrate(SAME + pairs, HashingEmbedder())
        assert found.chosen is not None
        assert found.curve[-1].wrong == 0

    def test_too_few_pairs_say_how_many(self):
        with pytest.raises(ConfigError, match=r"58 pairs .* at least 59 are needed"):
            calibrate(SAME[:58] + OTHER, HashingEmbedder())
        assert calibrate(SAME[:59], HashingEmbedder()).chosen is not None

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
    def test_numbers_out_of_range(self, value):
        with pytest.raises(ConfigError, match="max_wrong"):
            calibrate(SAME, HashingEmbedder(), max_wrong=value)
        with pytest.raises(ConfigError, match="confidence"):
            calibrate(SAME, HashingEmbedder(), confidence=value)

    def test_nothing_qualifies_serves_nothing_and_says_so(self):
        mixed = [(one, one, number % 2 == 0) for number, (one, _, _) in enumerate(SAME * 2)]
        found = calibrate(mixed, HashingEmbedder(), guards=())
        assert found.chosen is None
        assert "nothing is served" in str(found)
        assert "would not support" in str(found)
        cache = Cache(MemoryStore(), embedder=HashingEmbedder(), policy=found)
        cache.store("Is it open?", Scope(), "Yes.")
        assert cache.lookup("is it open now", Scope()).reason in ("not_calibrated", "freshness")
        assert cache.lookup("so is it open", Scope()).reason == "not_calibrated"

    def test_print_shows_the_curve_the_choice_and_what_more_would_take(self):
        pairs = SAME + [(one, one, number > 1) for number, (one, _, _) in enumerate(OTHER)]
        text = str(calibrate(pairs, HashingEmbedder(), guards=(), max_wrong=0.03))
        assert text.startswith(
            "160 labelled pairs; at most 3.0% of hits wrong, with 95% confidence"
        )
        assert "more pairs" in text

    def test_more_pairs_do_support_what_is_promised(self):
        # Two wrong in eighty hits: 2.5 % seen, the bound above 5 %; more alike bring it below.
        pairs = [*SAME, *((one, one, False) for one, _, _ in OTHER[:2])]
        found = calibrate(pairs, HashingEmbedder(), guards=())
        assert found.chosen is None
        assert "would support" in str(found)
        assert calibrate(pairs * 4, HashingEmbedder(), guards=()).chosen is not None

    @pytest.mark.skipif(not FOW.exists(), reason=f"{FOW} is not there")
    def test_real_pairs(self):
        rows = [json.loads(line) for line in FOW.read_text(encoding="utf-8").splitlines()]
        pairs = [(row["a"], row["b"], row["same_answer"]) for row in rows]
        found = calibrate(pairs, OnnxEmbedder(), guards=GUARDS)
        assert found.chosen is not None
        assert found.chosen.upper <= 0.05
        assert found.chosen.recall > 0.3
        assert "<- chosen" in str(found)


class TestJudgeError:
    def test_counts_both_kinds_of_error(self):
        pairs = [
            ("q", "Paris", "paris.", True),
            ("q", "It is Paris", "Paris", True),
            ("q", "The Louvre", "Louvre", False),
            ("q", "Rome", "Oslo", False),
        ]
        found = judge_error(SameText(), pairs)
        assert (found.share, found.false_alarms, found.different) == (0.5, 0.5, 2)
        assert 0.5 < found.upper < 1.0

    def test_needs_answers_that_differ(self):
        with pytest.raises(ConfigError, match="differ"):
            judge_error(SameText(), [("q", "a", "a", True)])
        with pytest.raises(ConfigError, match="confidence"):
            judge_error(SameText(), [("q", "a", "b", False)], confidence=1.0)
