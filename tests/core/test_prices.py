"""Prices against formulas worked out by hand, and mistakes that must never become a price."""

import decimal
import json
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.errors import ConfigError, PriceError, UnknownModelError
from costwise_core.money import dollars, picodollars, total
from costwise_core.prices import PriceBook
from costwise_core.types import Usage

# A day on which all of the prices below were published; the list keeps older ones by date.
AT = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
M = Decimal(1_000_000)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("model", "tier", "expected_rates"),
    [
        # dollars per million: input, cache read, cache write, cache write for an hour, output
        ("gpt-4o", "standard", ("2.50", "1.25", "2.50", "2.50", "10")),
        ("gpt-4o", "batch", ("1.25", "1.25", "1.25", "1.25", "5")),
        ("gpt-4o-mini", "standard", ("0.15", "0.075", "0.15", "0.15", "0.60")),
        ("gpt-4o-mini", "batch", ("0.075", "0.075", "0.075", "0.075", "0.30")),
        ("gpt-3.5-turbo", "standard", ("0.50", "0.50", "0.50", "0.50", "1.50")),
        ("claude-3-haiku", "standard", ("0.25", "0.03", "0.30", None, "1.25")),
        ("claude-3-5-haiku", "standard", ("0.80", "0.08", "1.00", None, "4")),
        ("claude-haiku-4-5", "standard", ("1", "0.10", "1.25", "2", "5")),
        ("claude-haiku-4-5", "batch", ("0.50", "0.05", "0.625", "1", "2.50")),
        ("claude-sonnet-4-5", "standard", ("3", "0.30", "3.75", "6", "15")),
        ("gpt-5.6", "standard", ("4", "0.40", "5", "5", "20")),
        ("gemini-2.5-pro", "standard", ("1.25", "0.125", "1.25", "1.25", "10")),
        ("text-embedding-3-small", "standard", ("0.02", "0.02", "0.02", "0.02", None)),
    ],
)
def test_each_token_is_paid_once_at_its_own_rate(model, tier, expected_rates):
    *rates, output = (Decimal(rate) if rate else None for rate in expected_rates)
    usage = Usage(
        input_tokens=100_000,
        cache_read_tokens=60_000,
        cache_write_tokens=30_000,
        cache_write_1h_tokens=0 if rates[3] is None else 10_000,
        output_tokens=0 if output is None else 4_000,
        reasoning_tokens=0 if output is None else 1_000,
    )
    expected = 10_000 * rates[0] / M + 60_000 * rates[1] / M
    expected += (usage.cache_write_tokens - usage.cache_write_1h_tokens) * rates[2] / M
    expected += usage.cache_write_1h_tokens * (rates[3] or 0) / M
    expected += usage.output_tokens * Decimal(output or 0) / M
    price = PriceBook().cost(usage, model, tier=tier, at=AT)
    assert price.usd == expected
    assert sum(amount for _, amount in price.parts) == price.usd
    assert not price.estimated
    assert "genai-prices" in price.source


def test_beyond_the_context_tier_all_tokens_cost_more():
    book = PriceBook()
    at_limit = book.cost(Usage(input_tokens=200_000, output_tokens=1000), "gemini-2.5-pro", at=AT)
    assert at_limit.usd == Decimal("0.25") + Decimal("0.01")
    beyond = book.cost(Usage(input_tokens=200_001, output_tokens=1000), "gemini-2.5-pro", at=AT)
    assert beyond.usd == 200_001 * Decimal("2.50") / M + Decimal("0.015")
    batch = book.cost(
        Usage(input_tokens=200_001, output_tokens=1000), "gemini-2.5-pro", tier="batch", at=AT
    )
    assert batch.usd == 200_001 * Decimal("1.25") / M + Decimal("0.0075")


def test_ours_is_what_genai_prices_says_where_it_is_asked_rightly():
    from genai_prices import Usage as TheirUsage
    from genai_prices import calc_price
    from genai_prices.data_snapshot import get_snapshot

    book = PriceBook()
    usage = Usage(
        input_tokens=250_000, cache_read_tokens=40_000, cache_write_tokens=9_000, output_tokens=700
    )
    theirs = TheirUsage(
        input_tokens=250_000, cache_read_tokens=40_000, cache_write_tokens=9_000, output_tokens=700
    )
    compared = 0
    for provider in get_snapshot().providers:
        for entry in provider.models:
            name = f"{provider.id}:{entry.id}"
            try:
                price = book.cost(usage, name, at=AT)
            except PriceError:
                continue  # not sold by tokens
            expected = calc_price(
                theirs,
                entry.id,
                provider_id=provider.id,
                genai_request_timestamp=datetime.fromtimestamp(AT, UTC),
            )
            # A few listed rates carry the noise of binary fractions; ours ends at 10^-12 dollars.
            assert abs(price.usd - expected.total_price) < Decimal("1e-11"), name
            compared += 1
    assert compared > 1_500


def test_prices_are_those_of_the_day():
    book = PriceBook()
    usage = Usage(input_tokens=1_000_000)  # beyond the long-context tier
    before = datetime(2026, 8, 20, tzinfo=UTC).timestamp()
    assert book.cost(usage, "gpt-5.6", at=before).usd == 10
    assert book.cost(usage, "gpt-5.6", at=AT).usd == 8


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai:gpt-4o"),
        ("openai:gpt-4o", "openai:gpt-4o"),
        ("OpenAI:GPT-4o", "openai:gpt-4o"),
        ("gpt-4o-2024-08-06", "openai:gpt-4o"),
        ("azure:gpt-4o", "azure:gpt-4o"),
        ("google_genai:gemini-2.5-pro", "google:gemini-2.5-pro"),
        ("text-embedding-3-large", "openai:text-embedding-3-large"),
        ("claude-haiku-4-5-20251001", "anthropic:claude-haiku-4-5"),
    ],
)
def test_spellings_of_one_model(model, provider):
    assert PriceBook().cost(Usage(input_tokens=1), model, at=AT).source.endswith(provider)


@pytest.mark.parametrize("model", ["smollm2", "llama3:8b", "gpt-4o-mni", "nobody:gpt-4o", "", ":"])
def test_an_unknown_model_is_an_error_and_never_free(model):
    with pytest.raises(UnknownModelError, match="no price is known"):
        PriceBook().cost(Usage(input_tokens=1), model)


def test_the_error_names_the_nearest_model():
    with pytest.raises(UnknownModelError, match="Did you mean 'gpt-4o-mini'"):
        PriceBook().cost(Usage(), "gpt-4o-mni")
    with pytest.raises(UnknownModelError, match="Did you mean 'openai:gpt-4o'"):
        PriceBook().cost(Usage(), "opnai:gpt-4o")


def test_a_local_model_is_not_given_the_price_of_a_namesake():
    # A pattern of a provider's list may match more than the provider sells.
    with pytest.raises(UnknownModelError):
        PriceBook().cost(Usage(input_tokens=1), "deepseek-r1:1.5b")


def test_a_misspelt_tier_is_an_error_that_names_the_right_ones():
    for tier in ("bach", "Batch", "", "service_tier", "default"):
        with pytest.raises(PriceError, match="known are standard, batch, flex"):
            PriceBook().cost(Usage(input_tokens=1), "gpt-4o", tier=tier)
    with pytest.raises(PriceError, match="Did you mean 'batch'"):
        PriceBook().cost(Usage(input_tokens=1), "gpt-4o", tier="bach")


def test_a_model_without_a_batch_price_has_its_standard_price_and_says_so():
    book = PriceBook()
    usage = Usage(input_tokens=1_000_000)
    price = book.cost(usage, "claude-3-haiku", tier="batch", at=AT)
    assert price.usd == Decimal("0.25")
    assert price.estimated
    assert "no batch price is known" in price.why
    # What one provider lists in tiers another may resell without.
    assert book.cost(usage, "azure:gpt-4o", tier="batch", at=AT).estimated
    # And before the list begins there is no batch price either.
    assert book.cost(usage, "gpt-4o", tier="batch", at=0.0).estimated


def test_a_dearer_tier_without_a_price_is_an_error_because_standard_would_be_too_low():
    with pytest.raises(PriceError, match="its known tiers are standard, batch"):
        PriceBook().cost(Usage(input_tokens=1), "claude-haiku-4-5", tier="priority", at=AT)


def test_a_model_sold_by_something_else_than_tokens_is_an_error():
    with pytest.raises(PriceError, match="not sold by tokens"):
        PriceBook().cost(Usage(input_tokens=1), "groq:whisper-large-v3", at=AT)
    with pytest.raises(PriceError, match="no price for output tokens"):
        PriceBook().cost(Usage(output_tokens=1), "text-embedding-3-small", at=AT)


def test_estimated_usage_makes_an_estimated_price():
    assert PriceBook().cost(Usage(input_tokens=1, estimated=True), "gpt-4o", at=AT).estimated


def test_an_alias_says_what_it_stands_for():
    price = PriceBook(alias={"SmolLM2": "openai:gpt-4o-mini"}).cost(
        Usage(input_tokens=1_000_000), "smollm2", at=AT
    )
    assert price.usd == Decimal("0.15")
    assert price.why == "priced as openai:gpt-4o-mini"


TOML = """
[alias]
fast = "mine"

[models.mine]
input = 0.1
output = 0.3
cache_read = 0.01
request = 0.001
batch = { input = 0.05 }

[models."openai:gpt-4o"]
multiplier = 0.9
"""


def test_a_price_file_in_toml_and_json(tmp_path):
    import tomllib

    toml, as_json = tmp_path / "prices.toml", tmp_path / "prices.json"
    toml.write_text(TOML)
    as_json.write_text(json.dumps(tomllib.loads(TOML)))
    usage = Usage(input_tokens=1_000_000, cache_read_tokens=400_000, output_tokens=1_000_000)
    for path in (toml, as_json):
        book = PriceBook.from_file(path)
        expected = Decimal("0.06") + Decimal("0.004") + Decimal("0.3") + Decimal("0.001")
        assert book.cost(usage, "mine").usd == expected
        assert book.cost(usage, "fast").usd == expected
        half = Decimal("0.03") + Decimal("0.004") + Decimal("0.3") + Decimal("0.001")
        assert book.cost(usage, "mine", tier="batch").usd == half
        assert book.cost(usage, "mine", tier="flex").estimated
        with pytest.raises(PriceError, match="known tiers are standard, batch"):
            book.cost(usage, "mine", tier="priority")
        # A contract is found under every spelling of its model, and covers all of its tiers.
        million = Usage(input_tokens=1_000_000)
        for name in ("gpt-4o", "openai:gpt-4o", "gpt-4o-2024-08-06"):
            assert book.cost(million, name, at=AT).usd == Decimal("2.25")
        assert book.cost(million, "gpt-4o", tier="batch", at=AT).usd == Decimal("1.125")
        assert book.cost(million, "gpt-4o-mini", at=AT).usd == Decimal("0.15")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.m]\ninptu = 1", "unknown field 'inptu'.*Did you mean 'input'"),
        ("[models.m]\noutput = 1", "has neither 'input' nor 'request'"),
        ("[models.m]\n", "must have at least 'input' or 'request'"),
        ("[models.m]\nbatch = {input = 1}", "must have at least 'input' or 'request'"),
        ("[models.m]\ninput = -1", "between 0 and"),
        ("[models.m]\ninput = nan", "between 0 and"),
        ("[models.m]\ninput = inf", "between 0 and"),
        ("[models.m]\ninput = 1e30", "between 0 and"),
        ('[models.m]\ninput = "1"', "must be a number"),
        ("[models.m]\ninput = true", "must be a number"),
        ("[models.m]\ninput = 1\nbatch = 2", "batch price of 'm' must be a table"),
        ("[models.m]\ninput = 1\nbatch = {outptu = 2}", "Did you mean 'output'"),
        ("[models]\nm = 3", "must be a table"),
        ("models = 3", "must be tables"),
        ("[modles.m]\ninput = 1", "Did you mean 'models'"),
        ("[alias]\na = 3", "must be the name of a model"),
        ("[models.m\n", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_price_file_is_said(tmp_path, text, message):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        PriceBook.from_file(path)


def test_a_price_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the price file"):
        PriceBook.from_file(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match=r"ends in \.toml or \.json"):
        PriceBook.from_file(tmp_path / "prices.yaml")
    for content, message in [
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must hold a table"),
        (b" " * 1_000_001, "larger than"),
    ]:
        (tmp_path / "prices.json").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            PriceBook.from_file(tmp_path / "prices.json")


USAGES = st.builds(
    lambda read, write, long, plain, thought, said: Usage(
        input_tokens=read + write + long + plain,
        cache_read_tokens=read,
        cache_write_tokens=write + long,
        cache_write_1h_tokens=long,
        output_tokens=thought + said,
        reasoning_tokens=thought,
    ),
    *[st.integers(0, 10**7)] * 6,
)


@settings(deadline=None)
@given(usage=USAGES, precision=st.integers(1, 50))
def test_parts_sum_to_the_price_whatever_the_threads_decimal_precision(usage, precision):
    book = PriceBook()
    price = book.cost(usage, "claude-haiku-4-5", at=AT)
    with decimal.localcontext() as context:
        context.prec = precision
        again = book.cost(usage, "claude-haiku-4-5", at=AT)
        assert again == price
        assert total(amount for _, amount in again.parts) == price.usd
    assert sum(picodollars(amount) for _, amount in price.parts) == picodollars(price.usd)


@settings(deadline=None)
@given(usage=USAGES)
def test_a_cached_token_never_costs_more_than_a_plain_one(usage):
    plain = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    cached = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )
    book = PriceBook()
    assert book.cost(cached, "gpt-4o", at=AT).usd <= book.cost(plain, "gpt-4o", at=AT).usd


@settings(deadline=None)
@given(picos=st.integers(-(10**30), 10**30))
def test_money_goes_to_dollars_and_back(picos):
    assert picodollars(dollars(picos)) == picos
    assert str(dollars(picos)) == str(Decimal(f"{dollars(picos):f}"))
    assert not re.search(r"\.\d*0$", f"{dollars(picos):f}")


def test_money_that_is_no_number_is_refused():
    for usd in ("NaN", "Infinity"):
        with pytest.raises(ValueError, match="finite"):
            picodollars(Decimal(usd))


def test_the_price_list_is_loaded_on_first_use_only():
    script = (
        "import sys; from costwise_core.prices import PriceBook; "
        "PriceBook(alias={'a': 'b'}, overrides={'m': {'input': 1}}); "
        "assert not {'genai_prices', 'pydantic', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
