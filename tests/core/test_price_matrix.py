"""Every price against the provider's own formula: models, cache, tiers, long contexts, sound."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from costwise_core.errors import PriceError, UnknownModelError
from costwise_core.money import dollars
from costwise_core.prices import PriceBook
from costwise_core.rates import TIERS
from costwise_core.types import Usage

AT = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
BOOK = PriceBook()


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A provider's price list in its own words: dollars for a million, and factors on them.

    `tiers` are the factors on all prices; one with a second number has that factor on cached input.
    Beyond `long` input tokens the input costs `long_input` times as much, the output `long_output`.
    """

    input: str
    output: str
    read: str = "1"
    write: str = "1"
    write_1h: str = "1"
    tiers: tuple[tuple[str, str, str], ...] = (("standard", "1", "1"),)
    long: int = 10**9
    long_input: str = "2"
    long_output: str = "1.5"

    def usd(self, usage: Usage, tier: str) -> Decimal:
        all_of, cached = next((Decimal(a), Decimal(c)) for name, a, c in self.tiers if name == tier)
        beyond = usage.input_tokens > self.long
        plain = Decimal(self.input) * (Decimal(self.long_input) if beyond else 1)
        answer = Decimal(self.output) * (Decimal(self.long_output) if beyond else 1)
        short = usage.cache_write_tokens - usage.cache_write_1h_tokens
        fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        parts = (
            (fresh, plain * all_of),
            (usage.cache_read_tokens, plain * Decimal(self.read) * cached),
            (short, plain * Decimal(self.write) * all_of),
            (usage.cache_write_1h_tokens, plain * Decimal(self.write_1h) * all_of),
            (usage.output_tokens, answer * all_of),
        )
        return sum((count * rate / 10**6 for count, rate in parts), Decimal(0))


HALF = (("standard", "1", "1"), ("batch", "0.5", "0.5"))
CACHE_KEEPS_ITS_PRICE = (("standard", "1", "1"), ("batch", "0.5", "1"))
OPENAI = (*HALF, ("flex", "0.5", "0.5"), ("priority", "2", "2"))
CLAUDE = {"read": "0.1", "write": "1.25", "write_1h": "2", "tiers": HALF}
MODELS = {
    "gpt-4o": Formula(
        input="2.5",
        output="10",
        read="0.5",
        tiers=(*CACHE_KEEPS_ITS_PRICE, ("priority", "1.7", "1.7")),
    ),
    "gpt-5.1": Formula(input="1.25", output="10", read="0.1", tiers=OPENAI),
    "gpt-5.6": Formula(
        input="4",
        output="20",
        read="0.1",
        write="1.25",
        write_1h="1.25",
        tiers=OPENAI,
        long=272_000,
    ),
    "claude-haiku-4-5": Formula(input="1", output="5", **CLAUDE),
    "claude-sonnet-4-5": Formula(input="3", output="15", long=200_000, **CLAUDE),
    "claude-opus-4-6": Formula(input="5", output="25", **CLAUDE),
    "gemini-2.5-pro": Formula(
        input="1.25", output="10", read="0.1", tiers=CACHE_KEEPS_ITS_PRICE, long=200_000
    ),
    "gemini-2.5-flash": Formula(input="0.3", output="2.5", read="0.1", tiers=CACHE_KEEPS_ITS_PRICE),
    "mistral-small-latest": Formula(input="0.15", output="0.6", read="0.1", tiers=HALF),
}
SENT = (1, 1_000, 199_999, 200_000, 200_001, 272_000, 272_001, 900_000)
CACHED = ((0, 0, 0), (0.9, 0, 0), (0, 0.5, 0), (0.6, 0.3, 0.1), (1, 0, 0), (0, 1, 1))
MATRIX = [
    (model, tier)
    for model, formula in MODELS.items()
    for tier in [name for name, _, _ in formula.tiers]
]


@pytest.mark.parametrize(("model", "tier"), MATRIX)
def test_the_matrix(model, tier):
    for sent, (read, write, long_write) in itertools.product(SENT, CACHED):
        usage = Usage(
            input_tokens=sent,
            cache_read_tokens=int(sent * read),
            cache_write_tokens=int(sent * write),
            cache_write_1h_tokens=int(sent * long_write),
            output_tokens=777,
            reasoning_tokens=111,
        )
        price = BOOK.cost(usage, model, tier=tier, at=AT)
        assert price.usd == MODELS[model].usd(usage, tier), (model, tier, usage)
        assert price.usd == sum(amount for _, amount in price.parts)
        assert not price.estimated


@pytest.mark.parametrize("model", MODELS)
def test_a_tier_without_a_price_is_never_a_cheaper_one(model):
    usage = Usage(input_tokens=1_000, output_tokens=100)
    standard = BOOK.cost(usage, model, at=AT).usd
    for tier in set(TIERS) - {name for name, _, _ in MODELS[model].tiers}:
        try:
            price = BOOK.cost(usage, model, tier=tier, at=AT)
        except PriceError:
            assert tier not in {"batch", "flex"}
            continue
        assert price.usd >= standard
        assert price.estimated or tier == "fast"


def test_sound_has_its_own_price_cached_or_not():
    usage = Usage(
        input_tokens=1_000,
        cache_read_tokens=400,
        audio_input_tokens=500,
        audio_cache_read_tokens=300,
        output_tokens=200,
        audio_output_tokens=150,
    )
    # dollars per million: text 4, cached 0.40, sound 32, cached sound 0.40, out 16, sound out 64
    expected = 400 * 4 + 100 * Decimal("0.4") + 200 * 32 + 300 * Decimal("0.4") + 50 * 16 + 150 * 64
    assert BOOK.cost(usage, "gpt-realtime", at=AT).usd == expected / 10**6
    # A model without a price for sound takes it as text.
    assert BOOK.cost(usage, "gpt-4.1", at=AT).usd == (600 * 2 + 400 * Decimal("0.5") + 1600) / 10**6


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("model", ["smollm2", "gpt-4o-mni", "QdrantVectorStore", "PGVector", ""])
def test_an_unknown_model_is_refused_whatever_the_usage(model, tier):
    for usage in (Usage(), Usage(input_tokens=5, cache_read_tokens=5)):
        with pytest.raises(UnknownModelError):
            BOOK.cost(usage, model, tier=tier, at=AT)


def test_what_is_paid_by_the_call_costs_the_same_for_any_tokens():
    book = PriceBook(overrides={"QdrantVectorStore": {"request": 0.0000025}})
    for usage in (Usage(), Usage(input_tokens=9_000)):
        assert book.cost(usage, "QdrantVectorStore").usd == Decimal("0.0000025")


def test_the_price_of_a_sum_is_the_sum_of_prices_within_one_step():
    one = Usage(input_tokens=90_000, cache_read_tokens=50_000, output_tokens=333)
    assert BOOK.cost(one + one, "gemini-2.5-pro", at=AT).usd == dollars(
        2 * int(BOOK.cost(one, "gemini-2.5-pro", at=AT).usd * 10**12)
    )
