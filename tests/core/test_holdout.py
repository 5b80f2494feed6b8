"""A share of requests runs untouched, and the difference is told with an honest interval."""

import random
import statistics
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    Bill,
    HoldOut,
    LeftOut,
    MemoryLedger,
    Usage,
    calling,
    left_out,
    record_call,
    scoped,
    track,
    true_saving,
)
from costwise_core.compress.watched import Watched
from costwise_core.context import current_request
from costwise_core.errors import ConfigError
from costwise_core.holdout import TrueSaving, _student
from costwise_core.passages import Passage
from costwise_core.prices import PriceBook
from costwise_core.tracking import current_tags
from costwise_core.trim import RerankTrim
from costwise_core.types import CallRecord

ALL, NONE = HoldOut(share=1), HoldOut(share=0)
PRICES = PriceBook(overrides={"m": {"input": 1, "output": 2}})


def record(n, usd, arm, **fields):
    tags = (("arm", arm), ("request", fields.pop("request", str(n))))
    usd = None if usd is None else Decimal(usd)
    return CallRecord(id=str(n), at=0.0, operation="chat", model="m", usd=usd, tags=tags, **fields)


# --- who is held out ----------------------------------------------------------------------------


@given(request=st.text(), salt=st.text(max_size=5), share=st.floats(0, 1))
def test_an_id_is_always_in_the_same_arm_and_larger_shares_keep_it(request, salt, share):
    holdout = HoldOut(share=share, salt=salt)
    assert holdout.arm(request) == HoldOut(share=share, salt=salt).arm(request)
    if holdout.arm(request) == "holdout":
        assert HoldOut(share=1, salt=salt).arm(request) == "holdout"
    assert HoldOut(share=0, salt=salt).arm(request) == "treated"


def test_the_share_is_met_and_another_salt_draws_others():
    ids = [f"request-{n}" for n in range(20_000)]
    first = {one for one in ids if HoldOut(share=0.05).arm(one) == "holdout"}
    second = {one for one in ids if HoldOut(share=0.05, salt="x").arm(one) == "holdout"}
    for drawn in (first, second):
        assert abs(len(drawn) / len(ids) - 0.05) < 0.006
    assert len(first & second) < 0.15 * len(first), "two draws are independent"


def test_a_salt_and_an_id_do_not_run_into_each_other():
    arms = [HoldOut(share=0.5, salt="a" * n).arm("a" * (40 - n)) for n in range(40)]
    assert len(set(arms)) == 2


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_beyond_reason_is_an_error(share):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        HoldOut(share=share)


def test_a_block_is_one_request_and_says_its_arm():
    with track(holdout=ALL, request="r1", prices=PRICES) as bill:
        assert current_request().unoptimised
        assert current_request().uncached
        record_call(operation="chat", model="m", usage=Usage(input_tokens=5))
    assert not current_request().unoptimised
    assert dict(bill.records[0].tags) == {"arm": "holdout", "request": "r1"}
    with track(holdout=NONE):
        assert not current_request().unoptimised
        first = dict(current_tags())
    with track(holdout=NONE):
        assert current_tags()["request"] != first["request"], "made up anew for each block"
    assert first["arm"] == "treated"


def test_the_outer_block_decides_and_a_request_keeps_its_arm():
    with track(holdout=ALL), track(holdout=NONE):
        assert current_tags()["arm"] == "holdout"
        assert current_request().unoptimised
    with track(holdout=NONE), track(holdout=ALL):
        assert not current_request().unoptimised


def test_the_request_of_the_block_around_is_the_one():
    with track(request="r1"), track(holdout=ALL):
        assert current_tags()["request"] == "r1"


def test_bypass_alone_leaves_the_rest_at_work():
    with scoped(bypass=True) as request:
        assert request.uncached
        assert not request.unoptimised


# --- what held-out requests pass untouched --------------------------------------------------------


async def test_compressors_pass_everything_through_and_nothing_counts_as_saved():
    passages = [Passage(id=str(n), text=f"Fact {n} of the handbook.") for n in range(9)]
    watched = Watched(RerankTrim(top_k=1))
    with track(prices=PRICES) as bill:
        kept = watched.compress("Which fact is the third?", passages).passages
        for arm in (ALL, NONE):
            with track(holdout=arm):
                sync = watched.compress("Which fact is the third?", passages)
                result = await watched.acompress("Which fact is the third?", passages)
                assert len(result.passages) == len(sync.passages) == (9 if arm is ALL else 1)
                assert result.reason == ("holdout" if arm is ALL else "compressed")
                prompt = "\n".join(passage.text for passage in result.passages)
                record_call(operation="chat", model="m", usage=Usage(input_tokens=9), prompt=prompt)
    held, treated = bill.records
    assert len(kept) == 1
    assert held.savings == ()
    assert [one.stage for one in treated.savings] == ["compress"]
    assert watched.stats.calls == {"compressed": 3}, "held-out requests are no result of the stage"


def test_a_prompt_that_holds_what_was_left_out_saved_nothing():
    note = LeftOut(
        stage="compress", tokens=9, pieces=("kept piece",), absent=("gone piece",), source="1"
    )
    with track(prices=PRICES) as bill:
        left_out(note)
        for prompt in ("the kept piece", "the kept piece and the gone piece"):
            record_call(operation="chat", model="m", usage=Usage(input_tokens=1), prompt=prompt)
    assert [len(one.savings) for one in bill.records] == [1, 0]


# --- what it shows --------------------------------------------------------------------------------


def costs(rng, n, arm, scale):
    return [
        record(f"{arm}{k}", round(Decimal(scale * rng.lognormvariate(-6, 0.8)), 12), arm)
        for k in range(n)
    ]


def test_the_interval_is_welchs():
    # Checked by hand: means 4 and 2, variances 4 and 1, n 5 and 5; t(0.975, 5.882) = 2.4589
    held = [record(n, usd, "holdout") for n, usd in enumerate((2, 3, 4, 5, 6))]
    treated = [record(n, usd, "treated") for n, usd in enumerate((1, 2, 2, 2, 3), 5)]
    saving = true_saving([*held, *treated])
    assert isinstance(saving, TrueSaving)
    error = (2.5 / 5 + 0.5 / 5) ** 0.5
    freedom = 0.6**2 / (0.5**2 / 4 + 0.1**2 / 4)
    assert saving.usd == 2
    assert float(saving.high - saving.usd) == pytest.approx(_student(0.975, freedom) * error)
    assert saving.usd - saving.low == saving.high - saving.usd
    assert (saving.treated, saving.holdout, saving.kind) == (5, 5, "sampled")


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [  # from the tables in Abramowitz and Stegun, 26.10
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.95, 10, 1.812),
        (0.995, 3, 5.841),
        (0.975, 30, 2.042),
        (0.975, 120, 1.980),
        (0.995, 1e7, 2.576),
    ],
)
def test_students_quantiles(probability, freedom, quantile):
    assert _student(probability, freedom) == pytest.approx(quantile, abs=6e-4)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Skewed costs, as they are: log-normal, 60 held-out and 1,000 treated requests."""
    rng = random.Random(11)
    held_mean = statistics.fmean(rng.lognormvariate(-6, 0.8) for _ in range(200_000))
    truth = held_mean * (1 - 0.4)
    covered = 0
    for _ in range(200):
        saving = true_saving([*costs(rng, 60, "holdout", 1), *costs(rng, 1_000, "treated", 0.4)])
        assert isinstance(saving, TrueSaving)
        covered += float(saving.low) <= truth <= float(saving.high)
    assert covered >= 0.88 * 200


def test_calls_of_one_request_are_put_together_and_overhead_counts():
    held = [record(n, 1, "holdout", request=str(n // 2)) for n in range(20)]
    treated = [record(n, "0.5", "treated", request=str(n)) for n in range(20, 40)]
    own = [record(n + 100, "0.1", "treated", request=str(n), overhead=True) for n in range(20, 40)]
    saving = true_saving([*held, *treated, *own])
    assert isinstance(saving, TrueSaving)
    assert saving.usd == saving.low == saving.high == Decimal("1.4")
    assert (saving.holdout, saving.treated) == (10, 20)
    assert saving.claimed_usd == Decimal("-0.1")


def test_a_request_without_a_price_is_left_out_and_counted():
    records = [record(n, 1, "holdout" if n < 5 else "treated") for n in range(10)]
    saving = true_saving([*records, record("x", None, "treated"), record("y", 9, "", request="y")])
    assert isinstance(saving, TrueSaving)
    assert (saving.unpriced, saving.treated) == (1, 5)
    none = true_saving([record(n, None, "holdout") for n in range(3)])
    assert isinstance(none, str)
    assert "3 more" in none


@pytest.mark.parametrize("confidence", [0.5, 1, 2])
def test_a_confidence_beyond_reason_is_an_error(confidence):
    with pytest.raises(ConfigError, match="confidence"):
        true_saving([], confidence=confidence)


def test_the_bill_shows_it_and_says_why_not():
    ledger = MemoryLedger()
    with track(ledger=ledger, prices=PRICES) as bill:
        for n in range(100):
            with track(holdout=HoldOut(share=0.2), request=str(n)):
                sent = 4_000 if current_request().unoptimised else 1_000 + n
                record_call(operation="chat", model="m", usage=Usage(input_tokens=sent))
    sampled = bill.true_saving
    assert sampled is not None
    assert sampled == true_saving(ledger.records())
    assert sampled.low < sampled.usd < sampled.high
    assert "sampled: $" in repr(bill)
    assert bill.to_dict()["true_saving"]["holdout"] == sampled.holdout
    assert "ran unoptimised" in bill._repr_html_()
    few = Bill([record(1, 1, "holdout")])
    assert few.true_saving is None
    assert "only 1 held-out" in repr(few)
    assert "held-out" not in repr(Bill([record(1, 1, "")]))


def test_our_own_calls_are_marked_wherever_they_happen():
    with track(prices=PRICES) as bill:
        with calling(overhead=True), track(feature="judge"):
            record_call(operation="chat", model="m", usage=Usage(input_tokens=5))
        record_call(operation="chat", model="m", usage=Usage(input_tokens=7))
    assert [one.overhead for one in bill.records] == [True, False]
    assert bill.overhead == Decimal("0.000005")
    with calling(overhead=True):
        assert record_call(operation="chat", model="m", usage=Usage()) is None
