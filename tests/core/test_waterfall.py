"""What each stage saved telescopes exactly, and is found again in any prompt."""

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


PART = st.integers(0, 200_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, write, fresh, out = (draw(PART) for _ in range(4))
    heard = draw(st.integers(0, read + fresh))
    heard_before = draw(st.integers(max(0, heard - fresh), min(heard, read)))
    reasoning = draw(st.integers(0, out))
    return Usage(
        input_tokens=read + write + fresh,
        output_tokens=out,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
        reasoning_tokens=reasoning,
        audio_input_tokens=heard,
        audio_cache_read_tokens=heard_before,
        audio_output_tokens=draw(st.integers(0, out - reasoning)),
        estimated=draw(st.booleans()),
    )


NOTES = st.lists(
    st.builds(
        LeftOut,
        stage=st.sampled_from(["compress", "memory"]),
        tokens=st.integers(1, 300_000),
        pieces=st.just(("kept",)),
        source=st.text(max_size=3),
        kind=st.sampled_from(["measured", "modelled"]),
    ),
    max_size=3,
)
CALL = st.fixed_dictionaries(
    {
        "usage": usages(),
        "model": st.sampled_from([*MODELS, "gpt-realtime", "mystery"]),
        "baseline": st.sampled_from(["", *MODELS]),
        "processing": st.sampled_from(["standard", "batch"]),
        "tier": st.sampled_from(["", "exact", "near"]),
        "notes": NOTES,
        "overhead": st.booleans(),
    }
)


@settings(deadline=None, max_examples=60)
@given(calls=st.lists(CALL, max_size=6))
def test_every_bill_adds_up_to_the_last_digit_with_overhead_as_a_loss(calls):
    with track() as bill:
        for call in calls:
            with (
                track(),
                calling(
                    baseline_model=call["baseline"],
                    processing=call["processing"],
                    overhead=call["overhead"],
                ),
            ):
                for note in call["notes"]:
                    left_out(note)
                record_call(
                    operation="chat",
                    model=call["model"],
                    prompt="kept",
                    tier=call["tier"],
                    **{"usage_then" if call["tier"] else "usage": call["usage"]},
                )
    assert not bill.faults
    shown = bill.to_dict()
    parts = [Decimal(part["usd"]) for part in shown["waterfall"]]
    assert sum(parts) == Decimal(shown["baseline_usd"]) - Decimal(shown["usd"])
    assert {part["kind"] for part in shown["waterfall"]} <= {"measured", "modelled"}
    stages = [part["stage"] for part in shown["waterfall"]]
    assert stages == sorted(stages, key=[*STAGES, "overhead"].index)
    overhead = [Decimal(p["usd"]) for p in shown["waterfall"] if p["stage"] == "overhead"]
    assert all(usd <= 0 for usd in overhead)
    *_, paid = bill.steps
    assert total(step.usd for step in bill.steps[:-1]) == paid.usd
    assert sum(step.tokens for step in bill.steps[:-1]) == paid.tokens


def test_what_is_counted_and_what_is_thought_up_is_told_apart():
    book = PriceBook()

    def quote(usage: Usage, model: str, tier: str) -> Decimal:
        return book.cost(usage, model, tier=tier).usd

    def kinds(usage: Usage, **given: Any) -> dict[str, str]:
        return {one.stage: one.kind for one in savings_of(usage, "gpt-4o", quote, **given)}

    note = LeftOut(stage="compress", tokens=9, pieces=("x",), source="1")
    guess = LeftOut(stage="memory", tokens=9, pieces=("x",), source="1", kind="modelled")
    usage = Usage(input_tokens=100, cache_read_tokens=50)
    given = {"baseline_model": "gpt-4.1", "left_out": [note, guess], "processing": "batch"}
    assert kinds(usage, **given, hit=True) == {
        "route": "modelled",  # the other model would have said it in other words
        "compress": "measured",
        "memory": "modelled",
        "prompt_cache": "measured",
        "batch": "measured",
        "response_cache": "measured",
    }
    assert set(kinds(replace(usage, estimated=True), **given, hit=True).values()) == {"modelled"}


def test_our_own_calls_claim_no_savings():
    with track() as bill, calling(overhead=True, processing="batch", baseline_model="gpt-4"):
        record_call(
            operation="chat",
            model="gpt-4o",
            usage=Usage(input_tokens=10, cache_read_tokens=5),
        )
    assert bill.records[0].savings == ()
    assert bill.net < 0


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


WORD = st.text(alphabet="abc ", min_size=1, max_size=8)


class TestNotes:
    @given(
        pieces=st.lists(st.lists(WORD, min_size=1, max_size=3), max_size=6),
        prompt=st.text(alphabet="abc ", max_size=60),
    )
    def test_the_quick_search_finds_what_a_plain_one_does(self, pieces, prompt):
        notes = Notes()
        for number, some in enumerate(pieces):
            notes.add(LeftOut(stage="compress", tokens=1, pieces=tuple(some), source=str(number)))
        plain = {str(n) for n, some in enumerate(pieces) if all(one in prompt for one in some)}
        assert {note.source for note in notes.of(prompt)} == plain

    def test_what_an_earlier_step_left_out_is_found_by_what_a_later_one_kept(self):
        notes = Notes()
        first = LeftOut(stage="compress", tokens=5, pieces=("one two", "three"), source="trim")
        later = LeftOut(stage="compress", tokens=7, pieces=("three",), source="extract")
        notes.add(first)
        notes.add(later, shortened="one two and three")
        assert sorted(note.tokens for note in notes.of("only three is left")) == [5, 7]

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
