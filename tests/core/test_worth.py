"""Compressing must pay: the money says no where the provider's prompt cache is cheaper."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import PriceBook
from costwise_core.compress.worth import WhenWorthIt
from costwise_core.errors import ConfigError
from costwise_core.passages import Compressed, Passage

BOOK = PriceBook(
    overrides={
        "cachy": {"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75},
        "plain": {"input": 1, "output": 1},
        "free": {"input": 0, "output": 0},
    }
)
PASSAGES = [Passage(text="one two three four. " * 100, id=str(n)) for n in range(10)]


class Cut:
    """Keeps the given share of each passage's characters, and remembers what it was given."""

    def __init__(self, share=0.1, reason="compressed"):
        self.share, self.reason, self.calls = share, reason, []

    def compress(self, question, passages):
        self.calls.append(passages)
        kept = tuple(
            replace(p, text=p.text[: int(len(p.text) * self.share)], original=p.text)
            for p in passages
        )
        return Compressed(
            passages=kept,
            given=tuple(passages),
            tokens_before=0,
            tokens_after=0,
            reason=self.reason,
            why="cut",
        )


def gate(inner=None, *, model="cachy", **options):
    return WhenWorthIt(inner or Cut(), model=model, prices=BOOK, **options)


class TestDecision:
    def test_fresh_passages_are_compressed_and_the_dollars_are_said(self):
        result = gate().compress("which?", PASSAGES)
        assert result.reason == "compressed"
        assert result.share_kept == pytest.approx(0.1, abs=0.02)
        saved = Decimal(3) * result.tokens_saved / 1_000_000
        assert result.saving.usd == saved
        assert result.saving.tokens == result.tokens_saved
        assert "cut" in result.why
        assert "$" in result.why

    def test_a_warm_prompt_cache_is_cheaper_than_a_tenth_written_anew(self):
        inner = Cut()
        result = gate(inner, share=0.1, cached=0.99).compress("which?", PASSAGES)
        assert result.reason == "not_worth_it"
        assert result.passages == tuple(PASSAGES)
        assert "99% read from the prompt cache" in result.why
        assert inner.calls == []  # known beforehand, so the compressor never ran

    def test_the_break_even_is_where_the_hand_calculation_has_it(self):
        # Per token: alone .5 x .30 + .5 x 3.75 = 2.025; compressed to s: s x 3.75. Even at s = .54.
        assert gate(cached=0.5).worth(10_000, 5_300).net > 0
        assert gate(cached=0.5).worth(10_000, 5_500).net < 0

    def test_without_reuse_nobody_pays_for_writing(self):
        worth = gate().worth(1_000_000, 100_000)
        assert (worth.alone_usd, worth.compressed_usd) == (Decimal(3), Decimal("0.3"))

    def test_what_comes_behind_loses_its_discount_too(self):
        # 1,000 tokens less save $0.003; 2,000 behind them cost $0.0075 instead of $0.0006.
        assert gate(behind=0).worth(1_000, 0).net > 0
        assert gate(behind=2_000).worth(1_000, 0).net < 0

    def test_a_compressor_dearer_than_its_saving_never_runs(self):
        inner = Cut()
        result = gate(inner, share=0.1, compressor_usd=2.8).compress("which?", PASSAGES)
        assert (result.reason, inner.calls) == ("not_worth_it", [])
        assert gate(share=0.1, compressor_usd=2.6).compress("q", PASSAGES).reason == "compressed"

    def test_unknown_share_runs_unless_even_nothing_left_would_not_pay(self):
        inner = Cut(share=0.9)
        assert gate(inner, cached=0.99).compress("which?", PASSAGES).reason == "not_worth_it"
        assert len(inner.calls) == 1  # it could have paid, and did not
        dear = Cut()
        assert gate(dear, compressor_usd=3.1).compress("q", PASSAGES).reason == "not_worth_it"
        assert dear.calls == []

    def test_what_is_spent_is_spent(self):
        # It kept more than expected, so compressing was a mistake; its output still saves.
        result = gate(Cut(share=0.5), share=0.1, compressor_usd=2).compress("q", PASSAGES)
        assert result.reason == "compressed"
        assert result.saving.usd < 0

    def test_a_model_without_a_cache_discount_is_always_worth_it(self):
        assert gate(model="plain", cached=1.0, share=0.9).compress("q", PASSAGES).saving.usd > 0

    def test_a_free_model_is_left_alone(self):
        assert gate(model="free").compress("q", PASSAGES).reason == "not_worth_it"

    def test_an_unknown_price_is_left_alone_and_named(self):
        result = gate(model="no-such-model-9").compress("q", PASSAGES)
        assert result.reason == "no_price"
        assert "no-such-model-9" in result.why
        assert result.passages == tuple(PASSAGES)


class TestPrefix:
    def test_a_stable_prefix_is_not_touched(self):
        inner = Cut()
        result = gate(inner, stable=lambda p: p.id in "012").compress("which?", PASSAGES)
        assert result.passages[:3] == tuple(PASSAGES[:3])
        assert inner.calls == [tuple(PASSAGES[3:])]
        assert result.given == tuple(PASSAGES)
        assert [p.id for p in result.passages] == [p.id for p in PASSAGES]
        assert 0.3 < result.share_kept < 0.4

    def test_only_what_is_at_the_beginning_is_a_prefix(self):
        result = gate(stable=lambda p: p.id == "5").compress("which?", PASSAGES)
        assert result.passages[5] != PASSAGES[5]

    def test_all_stable(self):
        result = gate(stable=lambda p: True).compress("which?", PASSAGES)
        assert (result.reason, result.passages) == ("not_worth_it", tuple(PASSAGES))


class TestPassingThrough:
    def test_short_input(self):
        result = gate().compress("which?", [Passage(text="a few words")])
        assert result.reason == "short"
        assert "300" in result.why

    def test_no_passages(self):
        assert gate().compress("which?", []).reason == "no_passages"

    def test_what_the_compressor_left_alone_stays_so(self):
        class No:
            def compress(self, question, passages):
                return Compressed.unchanged(passages, tokens=1, reason="no_question", why="none")

        result = gate(No()).compress("", PASSAGES)
        assert (result.reason, result.saving, result.why) == ("no_question", None, "none")
        assert result.tokens_before == result.tokens_after > 300

    def test_a_compressor_that_raises_costs_no_answer(self):
        class Broken:
            def compress(self, question, passages):
                raise RuntimeError("a secret of the user")

        result = gate(Broken()).compress("q", PASSAGES)
        assert (result.reason, result.passages) == ("error", tuple(PASSAGES))
        assert "RuntimeError" in result.why
        assert "secret" not in result.why

    @pytest.mark.parametrize("text", ["\ud800" * 900, "\x00\x01" * 900, "שלום " * 900])
    def test_any_text(self, text):
        assert gate().compress(text, [Passage(text=text)] * 2).reason == "compressed"


class TestAsync:
    async def test_awaits_the_twin(self):
        class Twin(Cut):
            async def acompress(self, question, passages):
                await asyncio.sleep(0)
                return Cut.compress(self, question, passages)

            def compress(self, question, passages):
                raise AssertionError("blocked the loop")

        assert (await gate(Twin()).acompress("q", PASSAGES)).reason == "compressed"

    async def test_decides_as_in_sync(self):
        assert await gate().acompress("q", PASSAGES) == gate().compress("q", PASSAGES)


@given(
    before=st.integers(0, 300_000),
    after=st.integers(0, 300_000),
    cached=st.floats(0.01, 1),
    behind=st.integers(0, 50_000),
)
def test_more_reuse_never_makes_compressing_better(before, after, cached, behind):
    plain = gate(behind=behind, cached=0.5 * cached).worth(before, after).net
    more = gate(behind=behind, cached=cached).worth(before, after).net
    assert more <= plain


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("share", 1.1),
        ("share", float("nan")),
        ("cached", -0.1),
        ("behind", -1),
        ("min_tokens", -1),
        ("compressor_usd", -1),
        ("compressor_usd", float("nan")),
    ],
)
def test_numbers_out_of_range(option, value):
    with pytest.raises(ConfigError, match=option):
        gate(**{option: value})
