"""What a notebook shows: hits, misses, decisions, what was left out, and the three curves."""

from decimal import Decimal

import pytest
from matplotlib.figure import Figure

from costwise_core import (
    Decision,
    ExtractiveCompressor,
    Hit,
    Miss,
    Passage,
    Usage,
    plot_routing,
    plot_shares,
    plot_thresholds,
)
from costwise_core.cache.calibrate import Calibrated, Point
from costwise_core.compress.promise import CalibratedShare, SharePoint
from costwise_core.route.calibrate import CalibratedThreshold, ThresholdPoint

EVIL = "<script>alert('x')</script>"


def test_a_hit_says_why():
    hit = Hit(
        answer=EVIL,
        usage_then=Usage(),
        tier="near",
        question="How do I reset it?",
        cosine=0.93,
        age=60.0,
        why="its words say the same",
    )
    shown = hit._repr_html_()
    assert "its words say the same" in shown
    assert "How do I reset it?" in shown
    assert EVIL not in shown


def test_a_miss_says_why():
    miss = Miss(reason="below_threshold", why="0.71 is too far", nearest=EVIL, cosine=0.71)
    shown = miss._repr_html_()
    assert "0.71 is too far" in shown
    assert "below_threshold" in shown
    assert EVIL not in shown
    assert "nearest" not in Miss(reason="no_entry", why="nothing stored")._repr_html_()


def test_a_decision_says_why():
    decision = Decision(
        model="small", why=f"short {EVIL}", p=0.2, expected_cost=Decimal("0.00021"), abstained=True
    )
    shown = decision._repr_html_()
    assert "$0.00021" in shown
    assert "20%" in shown
    assert "to be safe" in shown
    assert EVIL not in shown


def test_a_diff_shows_every_character_once():
    passages = [
        Passage(
            id="oxygen",
            title="Oxygen",
            text=f"Oxygen is common {EVIL}. It was discovered in 1774. Plants give it off.",
        ),
        Passage(id="rhine", text="The Rhine begins in the Alps. Barges carry ore."),
    ]
    result = ExtractiveCompressor(share=0.3, min_tokens=0).compress(
        "When was oxygen discovered?", passages
    )
    assert result.tokens_after < result.tokens_before
    diff = result.diff()
    plain = str(diff).replace("[-", "").replace("-]", "")
    for passage in passages:
        assert passage.text in plain
    shown = diff._repr_html_()
    assert "<del>" in shown
    assert "discovered in 1774" in shown
    assert EVIL not in shown


def test_a_diff_of_what_was_left_alone():
    result = ExtractiveCompressor().compress("", [Passage(text="All of it.")])
    assert "All of it." in str(result.diff())
    assert "<del>" not in result.diff()._repr_html_()


POINT = Point(threshold=0.8, hits=10, wrong=0, recall=0.5, upper=0.02)
SHARE = SharePoint(share=0.2, kept=0.21, lost=0, recall=1.0, recall_least=0.97)
LINE = ThresholdPoint(threshold=0.1, strong_share=0.4, kept=0.99, kept_least=0.96)


@pytest.mark.parametrize(
    ("plot", "calibrated"),
    [
        (
            plot_thresholds,
            Calibrated(
                chosen=POINT, curve=(POINT, POINT), pairs=20, max_wrong=0.05, confidence=0.9
            ),
        ),
        (
            plot_shares,
            CalibratedShare(
                chosen=SHARE,
                curve=(SHARE,),
                questions=90,
                answerable=80,
                target=0.95,
                confidence=0.9,
            ),
        ),
        (
            plot_routing,
            CalibratedThreshold(
                chosen=LINE, curve=(LINE,), labels=300, quality=0.95, confidence=0.9
            ),
        ),
    ],
)
def test_a_curve_is_drawn_on_the_axes_given(plot, calibrated):
    ax = Figure().add_subplot()
    assert plot(calibrated, ax) is ax
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "chosen" in labels
    assert any("bound" in label for label in labels)
