"""What each stage saved telescopes exactly, and is found again in any prompt."""

import random
from decimal import Decimal

import pytest

from costwise_core import LeftOut, Usage, calling, left_out, record_call, savings_of, track
from costwise_core.errors import UnknownModelError
from costwise_core.money import total
from costwise_core.notes import Notes, pieces_of
from costwise_core.prices import PriceBook
from costwise_core.waterfall import STAGES

MODELS = ("gpt-4o", "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-pro", "gpt-4.1")


def random_call(rng: random.Random) -> dict:
    cached = rng.choice((0, rng.randint(0, 300_000)))
    written = rng.choice((0, rng.randint(0, 5_000)))
    return {
        "usage": Usage(
            input_tokens=cached + written + rng.randint(0, 90_000),
            output_tokens=rng.randint(0, 4_000),
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=rng.randint(0, written),
        ),
        "model": rng.choice(MODELS),
        "baseline_model": rng.choice(("", *MODELS)),
        "left_out": [
            LeftOut(
                stage=rng.choice(("compress", "memory")),
                tokens=rng.randint(1, 200_000),
                pieces=("x",),
                source=str(number),
            )
            for number in range(rng.randint(0, 3))
        ],
        "processing": rng.choice(("standard", "batch")),
        "hit": rng.random() < 0.3,
    }


def test_the_steps_of_ten_thousand_calls_add_up_to_the_last_digit():
    """Long contexts are dearer per token beyond a step, so the order of the stages matters."""
    book, rng = PriceBook(), random.Random(7)

    def quote(usage: Usage, model: str, tier: str) -> Decimal:
        return book.cost(usage, model, tier=tier, at=1.79e9).usd

    seen: set[str] = set()
    for _ in range(10_000):
        call = random_call(rng)
        usage, model = call["usage"], call["model"]
        whole = Usage(
            input_tokens=usage.input_tokens + sum(part.tokens for part in call["left_out"]),
            output_tokens=usage.output_tokens,
        )
        before = quote(whole, call["baseline_model"] or model, "standard")
        after = Decimal(0) if call["hit"] else quote(usage, model, call["processing"])
        savings = savings_of(quote=quote, **call)
        assert total(one.usd for one in savings) == total((before, -after))
        order = [STAGES.index(one.stage) for one in savings]
        assert order == sorted(order)
        seen |= {one.stage for one in savings}
    assert seen == set(STAGES)


def test_a_bill_is_the_sum_of_its_calls_waterfalls():
    rng = random.Random(8)
    with track() as bill:
        for number in range(300):
            call = random_call(rng)
            with calling(baseline_model=call["baseline_model"], processing=call["processing"]):
                for note in call["left_out"]:
                    left_out(LeftOut(**{**_fields(note), "pieces": (f"<{number}>",)}))
                record_call(
                    operation="chat",
                    model=call["model"],
                    prompt=f"context <{number}>",
                    tier="exact" if call["hit"] else "",
                    **{"usage_then" if call["hit"] else "usage": call["usage"]},
                )
    assert bill.steps[0].usd == total((bill.usd, *bill.savings.values()))
    assert set(bill.savings) == set(STAGES)
    assert not bill.faults


def _fields(note: LeftOut) -> dict:
    return {name: getattr(note, name) for name in ("stage", "tokens", "source", "kind", "why")}


def test_an_unknown_price_leaves_a_hole_and_no_wrong_number():
    def quote(usage: Usage, model: str, tier: str) -> Decimal:
        if model == "mystery":
            raise UnknownModelError("no price is known for 'mystery'")
        return Decimal(usage.input_tokens)

    shorter = LeftOut(stage="compress", tokens=10, pieces=("x",), source="1")
    route, compress = savings_of(
        Usage(input_tokens=5), "known", quote, baseline_model="mystery", left_out=[shorter]
    )
    assert route.usd is None
    assert "mystery" in route.why
    assert compress.usd == 10


def test_plain_calls_are_not_priced_twice():
    def quote(usage: Usage, model: str, tier: str) -> Decimal:
        raise AssertionError

    assert savings_of(Usage(input_tokens=5), "m", quote) == ()


def test_a_priority_call_saves_nothing_and_a_batched_one_half():
    book = PriceBook()

    def quote(usage: Usage, model: str, tier: str) -> Decimal:
        return book.cost(usage, model, tier=tier).usd

    usage = Usage(input_tokens=1_000_000)
    assert savings_of(usage, "gpt-4o", quote, processing="priority") == ()
    (batch,) = savings_of(usage, "gpt-4o", quote, processing="batch")
    assert (batch.stage, batch.usd) == ("batch", Decimal("1.25"))


class TestNotes:
    def test_all_pieces_must_be_there(self):
        notes = Notes()
        notes.add(LeftOut(stage="compress", tokens=5, pieces=("one", "two"), source="a"))
        assert notes.of("one, three") == ()
        assert len(notes.of("two and one")) == 1

    def test_the_newest_of_one_source_counts_once(self):
        notes = Notes()
        for tokens in (5, 7):
            notes.add(LeftOut(stage="compress", tokens=tokens, pieces=("one",), source="a"))
        assert [note.tokens for note in notes.of("one")] == [7]

    def test_nothing_left_out_is_no_note(self):
        notes = Notes()
        notes.add(LeftOut(stage="compress", tokens=0, pieces=("one",), source="a"))
        notes.add(LeftOut(stage="compress", tokens=5, pieces=(), source="a"))
        assert notes.of("one") == ()

    def test_it_forgets_the_oldest(self):
        notes = Notes()
        for number in range(2_000):
            notes.add(
                LeftOut(stage="compress", tokens=1, pieces=(f"<{number}>",), source=str(number))
            )
        assert notes.of("<0>") == ()
        assert len(notes.of("<1999>")) == 1

    @pytest.mark.parametrize("text", ["", " \n ", "\udc80"])
    def test_pieces_of_odd_texts(self, text: str):
        assert pieces_of([text]) == ((text.strip(),) if text.strip() else ())

    def test_a_piece_survives_json_and_indentation(self):
        (piece,) = pieces_of(["short\n  the longer line of the two \n"])
        assert piece == "the longer line of the two"
