"""Calculators: the worked examples, exact sums, and what each says of itself."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    Load,
    PriceBook,
    UnknownModelError,
    Usage,
    batch_share,
    dominated_tiers,
    output_length,
    prompt_cache_share,
    response_cache_share,
    routing_mix,
    self_host,
)
from costwise_core.__main__ import main
from costwise_core.errors import ConfigError
from costwise_core.whatif.command import whatif_command

BOOK = PriceBook()
DAILY = Load(requests=1_000_000, input_tokens=500, output_tokens=200, period="day")
LOAD = Load(requests=1000, input_tokens=10_000, output_tokens=500)
MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo", "claude-sonnet-4-5", "gemini-2.5-flash"]


# --- worked examples, as they went around, and what is wrong with them ----------------------------


def test_three_tiers_of_which_one_is_dearer_than_the_better_one_above_it():
    """60 % to gpt-3.5-turbo, 30 % to gpt-4o-mini: $713 a day, where the latter alone is $500."""
    three = routing_mix(
        DAILY, {"gpt-3.5-turbo": 0.6, "gpt-4o-mini": 0.3, "gpt-4o": 0.1}, baseline="gpt-4o"
    )
    two = routing_mix(DAILY, {"gpt-4o-mini": 0.9, "gpt-4o": 0.1}, baseline="gpt-4o")
    assert three.before == two.before == Decimal(3250)
    assert three.after == Decimal("713.50")
    assert two.after == Decimal("500.50")
    assert three.notes == ("gpt-3.5-turbo costs more than gpt-4o-mini, which is better",)
    assert two.notes == ()


def test_a_million_requests_a_day_at_a_cent_are_not_3_000_dollars_a_month():
    book = PriceBook(overrides={"a cent": {"request": Decimal("0.01"), "input": 0, "output": 0}})
    day = Load(requests=1_000_000, input_tokens=0, output_tokens=0, period="day")
    month = Load(requests=30 * 1_000_000, input_tokens=0, output_tokens=0)
    assert response_cache_share(day, "a cent", hit_rate=0, prices=book).before == 10_000
    assert response_cache_share(month, "a cent", hit_rate=0, prices=book).before == 300_000


@pytest.mark.parametrize(
    ("model", "sent", "produced"),
    [
        ("gpt-4o", "2.5", "10"),  # 5 and 15 was the price of May 2024
        ("claude-3-5-haiku-latest", "0.8", "4"),  # 0.25 and 1.25 is Claude 3 Haiku's
        ("claude-3-haiku-20240307", "0.25", "1.25"),
        ("gpt-3.5-turbo", "0.5", "1.5"),
        ("gpt-4o-mini", "0.15", "0.6"),
    ],
)
def test_prices_that_went_around_wrong(model, sent, produced):
    million = Usage(input_tokens=1_000_000), Usage(output_tokens=1_000_000)
    assert [BOOK.cost(one, model).usd for one in million] == [Decimal(sent), Decimal(produced)]


def test_the_tier_that_can_go():
    report = dominated_tiers(["gpt-3.5-turbo", "gpt-4o-mini", "gpt-4o"])
    assert [(one.model, one.by) for one in report.dominated] == [("gpt-3.5-turbo", "gpt-4o-mini")]
    assert "1 of 3 models can go" in str(report)
    assert dominated_tiers(["gpt-4o-mini", "gpt-4o"]).dominated == ()
    assert "<table>" in report._repr_html_()
    with pytest.raises(ConfigError):
        dominated_tiers([])


# --- sums -----------------------------------------------------------------------------------------

loads = st.builds(
    Load,
    requests=st.integers(0, 10**7),
    input_tokens=st.integers(0, 50_000),
    output_tokens=st.integers(0, 5_000),
    period=st.sampled_from(["day", "month"]),
)
shares = st.decimals(0, 1, places=3)


def each(load, model, **values):
    return BOOK.cost(
        Usage(input_tokens=load.input_tokens, output_tokens=load.output_tokens, **values), model
    ).usd


@given(loads, st.sampled_from(MODELS), shares)
def test_a_mix_is_the_sum_of_its_parts(load, model, share):
    mix = {"gpt-4o-mini": share, model: 1 - share} if model != "gpt-4o-mini" else {model: 1}
    found = routing_mix(load, mix, baseline=model)
    parts = sum(Fraction(each(load, one)) * Fraction(part) for one, part in mix.items())
    assert abs(Fraction(found.after) - parts * load.requests) <= Fraction(1, 10**12)
    assert found.before - found.after == found.saved


@given(loads, st.sampled_from(MODELS), shares)
def test_a_cache_that_serves_nothing_saves_nothing_and_all_saves_all(load, model, share):
    assert response_cache_share(load, model, hit_rate=0).saved == 0
    assert response_cache_share(load, model, hit_rate=1).after == 0
    some = response_cache_share(load, model, hit_rate=share)
    assert some.saved_share == pytest.approx(float(share) if some.before else 0, abs=1e-6)


@given(loads, st.sampled_from(MODELS), shares)
def test_batches_lie_between_all_at_once_and_none(load, model, share):
    found = batch_share(load, model, share=share)
    whole = batch_share(load, model, share=1)
    assert whole.after <= found.after <= found.before
    batch = BOOK.cost(load.usage, model, tier="batch").usd
    assert whole.after == batch * load.requests


@given(loads, st.sampled_from(MODELS), st.integers(0, 5_000))
def test_output_costs_what_its_tokens_cost(load, model, tokens):
    found = output_length(load, model, output_tokens=tokens)
    rate = BOOK.rates(model, input_tokens=load.input_tokens).output
    assert found.saved == rate * (load.output_tokens - tokens) / 1_000_000 * load.requests


@given(shares, st.sampled_from(MODELS), st.integers(5000, 10_000))
def test_a_prompt_cache_reads_and_writes(warm, model, prefix):
    found = prompt_cache_share(LOAD, model, prefix_tokens=prefix, warm=warm)
    hot, cold = (
        each(LOAD, model, cache_read_tokens=prefix),
        each(LOAD, model, cache_write_tokens=prefix),
    )
    expected = (Fraction(warm) * Fraction(hot) + Fraction(1 - warm) * Fraction(cold)) * 1000
    assert abs(Fraction(found.after) - expected) <= Fraction(1, 10**12)


def test_a_prefix_too_short_for_the_provider_saves_nothing():
    found = prompt_cache_share(LOAD, "claude-haiku-4-5", prefix_tokens=4000, warm=1)
    assert found.saved == 0
    assert found.notes == ("the provider caches no fewer than 4,096 tokens, so nothing is cached",)


def test_the_cache_s_own_cost_counts():
    found = response_cache_share(LOAD, "gpt-4o", hit_rate="0.1", overhead_usd="0.01")
    assert found.before == Decimal(30)
    assert found.after == Decimal(37)
    assert "costs $7.00 more (23.3%)" in str(found)


def test_a_model_without_a_batch_price_says_so():
    found = batch_share(LOAD, "claude-3-haiku-20240307", share=1)
    assert found.saved == 0
    assert "no batch price is known" in found.notes[0]


def test_a_cascade_asks_some_twice():
    found = routing_mix(LOAD, {"gpt-4o-mini": 1, "gpt-4o": 0.2}, baseline="gpt-4o")
    assert found.after == (each(LOAD, "gpt-4o-mini") + each(LOAD, "gpt-4o") / 5) * 1000


# --- machines -------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    price=st.integers(1, 2000),
    hourly=st.integers(0, 300),
    speed=st.integers(1, 5),
    produced=st.integers(50, 900),
)
def test_from_the_break_even_on_machines_are_always_cheaper_and_not_just_before(
    price, hourly, speed, produced
):
    book = PriceBook(overrides={"m": {"request": Decimal(price) / 1000, "input": 0, "output": 0}})

    def hosting(requests):
        load = Load(requests=requests, input_tokens=0, output_tokens=produced, period="day")
        values = {"usd_per_hour": Decimal(hourly) / 10, "tokens_per_second": speed, "busy": 0.1}
        return self_host(load, "m", prices=book, **values)

    first = hosting(1)
    cheaper = [hosting(n).cheaper == "machines" for n in range(1, 3 * first.capacity + 3)]
    if first.break_even is None:
        assert not all(cheaper[first.capacity - 1 :: first.capacity])
    elif first.break_even <= len(cheaper):
        assert all(cheaper[first.break_even - 1 :])
        assert first.break_even == 1 or not cheaper[first.break_even - 2]


def test_machines_are_counted_in_whole():
    load = Load(requests=20_000_000, input_tokens=500, output_tokens=200)
    found = self_host(load, "gpt-4o", usd_per_hour=2, tokens_per_second=1000)
    assert found.capacity == 1000 * 0.6 * 3600 * 730 / 200
    assert (found.machines, found.hosted) == (3, 3 * 2 * 730)
    assert found.cheaper == "machines"
    never = self_host(load, "gpt-4o-mini", usd_per_hour=9, tokens_per_second=100)
    assert never.break_even is None
    assert "at any load" in str(never)


@pytest.mark.parametrize(
    "values", [{"usd_per_hour": -1}, {"tokens_per_second": 0}, {"busy": 0}, {"busy": 2}]
)
def test_machines_that_cannot_be(values):
    with pytest.raises(ConfigError):
        self_host(LOAD, "gpt-4o", **{"usd_per_hour": 1, "tokens_per_second": 10, **values})


# --- wrong arguments, tables, the command ---------------------------------------------------------


def test_wrong_arguments():
    for values in ({"requests": -1}, {"period": "year"}):
        with pytest.raises(ConfigError):
            Load(**{"requests": 1, "input_tokens": 1, "output_tokens": 1, **values})
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError):
            batch_share(LOAD, "gpt-4o", share=share)
    with pytest.raises(ConfigError, match="add up to at least 1"):
        routing_mix(LOAD, {"gpt-4o-mini": 0.5}, baseline="gpt-4o")
    with pytest.raises(ConfigError):
        prompt_cache_share(LOAD, "gpt-4o", prefix_tokens=10_001, warm=1)
    with pytest.raises(UnknownModelError):
        output_length(LOAD, "our-llama", output_tokens=1)


@pytest.mark.parametrize(
    "found",
    [
        routing_mix(LOAD, {"gpt-4o-mini": 1}, baseline="gpt-4o"),
        response_cache_share(LOAD, "gpt-4o", hit_rate=0.5),
        prompt_cache_share(LOAD, "gpt-4o", prefix_tokens=5000, warm=0.5),
        batch_share(LOAD, "gpt-4o", share=0.5),
        output_length(LOAD, "gpt-4o", output_tokens=100),
        self_host(LOAD, "gpt-4o", usd_per_hour=2, tokens_per_second=100),
        dominated_tiers(MODELS),
    ],
    ids=lambda found: type(found).__name__,
)
def test_each_states_its_formula_and_is_a_table_and_json(found):
    assert found.formula in str(found)
    assert "<table>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["formula"] == found.formula


NOW = ["--requests", "1000000", "--input", "500", "--output", "200", "--model", "gpt-4o"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mix", *NOW, "--mix", "gpt-4o-mini=0.9", "gpt-4o=0.1"], "$500.50 a month"),
        (["cache", *NOW, "--hit-rate", "0.3"], "$2,275.00 a month"),
        (["prompt-cache", *NOW, "--prefix", "400", "--warm", "1"], "nothing is cached"),
        (["batch", *NOW, "--share", "1", "--period", "day"], "$1,625.00 a day"),
        (["output", *NOW, "--to", "100"], "$2,250.00 a month"),
        (
            ["self-host", *NOW, "--usd-per-hour", "2", "--tokens-per-second", "1000"],
            "from 449,231 requests",
        ),
        (["tiers", "gpt-3.5-turbo", "gpt-4o-mini"], "1 of 2 models can go"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command(arguments, said, capsys):
    assert whatif_command(arguments) == 0
    assert said in capsys.readouterr().out
    assert whatif_command(["--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["formula"]


def test_the_command_takes_a_price_file_and_says_what_is_wrong(tmp_path, capsys):
    prices = tmp_path / "prices.toml"
    prices.write_text('[models."ours"]\ninput = 1\noutput = 2\n')
    own = ["--prices", str(prices), "output", *NOW[:-1], "ours", "--to", "0"]
    assert whatif_command(own) == 0
    assert "$900.00 -> $500.00" in capsys.readouterr().out
    assert main(["whatif", "cache", *NOW, "--hit-rate", "2"]) == 2
    assert main(["whatif", "output", *NOW[:-1], "our-llama", "--to", "1"]) == 1
    assert "our-llama" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        whatif_command(["mix", *NOW, "--mix", "gpt-4o=lots"])
