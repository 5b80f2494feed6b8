"""Reports: the same dollars as the bill's, whatever they are shown as, and advice that is right."""

import csv
import html
import io
import json
import random
import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.bill import Bill
from costwise_core.errors import ConfigError
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.prices import PriceBook
from costwise_core.prompt_hash import PREFIX, prefix_hash, prompt_hash
from costwise_core.report.report import report_of
from costwise_core.tracking import record_call, track
from costwise_core.types import CallRecord, Saving, Usage

DAY = 86_400.0
PRICES = PriceBook(
    overrides={
        "large": {
            "input": 2,
            "output": 10,
            "cache_read": 1,
            "batch": {"input": 1, "output": 5},
        },
        "small": {"input": 1, "output": 2},
    }
)


def call(ident, *, at=0.0, usd="0.25", tags=(), **fields):
    fields = {"operation": "chat", "model": "large", **fields}
    amount = None if usd is None else Decimal(usd)
    return CallRecord(id=ident, at=at, usd=amount, tags=tuple(sorted(tags)), **fields)


def report(*records, **options):
    ledger = MemoryLedger()
    ledger.record(records)
    return report_of(ledger, **{"prices": PRICES, "clock": lambda: 0.0, **options})


AMOUNT = st.none() | st.decimals(-5, 100, places=12)
RECORDS = st.lists(
    st.builds(
        call,
        st.uuids().map(str),
        at=st.floats(0, 30 * DAY),
        usd=AMOUNT,
        tags=st.lists(
            st.tuples(st.sampled_from(["feature", "user", "team"]), st.sampled_from("abc")),
            unique_by=lambda tag: tag[0],
        ),
        model=st.sampled_from(["large", "small", "other"]),
        usage=st.builds(Usage, input_tokens=st.integers(0, 9_000), output_tokens=st.integers(0, 9)),
        savings=st.lists(
            st.builds(
                Saving,
                stage=st.sampled_from(["route", "compress"]),
                usd=AMOUNT,
                tokens=st.integers(0, 99),
                kind=st.sampled_from(["measured", "modelled"]),
            ),
            max_size=2,
            unique_by=lambda saving: saving.stage,
        ).map(tuple),
        overhead=st.booleans(),
        tier=st.sampled_from(["", "exact"]),
        prompt_hash=st.sampled_from(["", "p", "q"]),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(records=RECORDS)
def test_a_report_and_a_bill_over_the_same_records_agree_to_the_last_digit(records):
    found, bill = report(*records), Bill(records)
    totals = found.totals
    assert (totals.usd, totals.saved, totals.overhead) == (bill.usd, bill.saved, bill.overhead)
    assert (totals.baseline, totals.net) == (bill.baseline, bill.net)
    assert (totals.calls, totals.hits) == (bill.calls, bill.hits)
    assert totals.unpriced == sum(bill.unpriced.values())
    steps = {step.name: step for step in found.steps}
    assert steps == {step.name: step for step in bill.steps}
    assert sum(step.usd for step in found.steps[:-1]) == found.steps[-1].usd
    for rows in (*found.tables.values(), found.days):
        assert sum((row.sums.usd for row in rows), Decimal(0)) == totals.usd or not rows
        assert sum(row.sums.input_tokens for row in rows) == totals.input_tokens or not rows
    for model, part in bill.by("model").items():
        assert {row.name: row.sums.usd for row in found.tables["model"]}[model] == part.usd


def test_a_file_is_summed_up_where_it_lies_with_the_same_result(tmp_path):
    made = random.Random(0)
    records = [
        call(
            str(n),
            at=n * 3_000.0,
            usd=f"{made.random():.12f}",
            tags=[("feature", made.choice("ab")), ("user", made.choice("xyz"))],
            prompt_hash=made.choice("pqrs"),
        )
        for n in range(300)
    ]
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record(records)
        assert report_of(ledger, prices=PRICES, clock=lambda: 0.0) == report(*records)
        chosen = {"since": 1e5, "until": 5e5, "tags": {"feature": "a"}}
        found = report_of(ledger, prices=PRICES, clock=lambda: 0.0, **chosen)
        again = report_of(ledger, prices=PRICES, clock=lambda: 0.0, **chosen)
    assert found == again == report(*records, **chosen)
    kept = [r for r in records if 1e5 <= r.at < 5e5 and ("feature", "a") in r.tags]
    assert kept
    assert found.totals.usd == sum(r.usd for r in kept)


def test_a_record_in_two_sources_counts_once():
    one, other = MemoryLedger(), MemoryLedger()
    one.record([call("a"), call("b")])
    other.record([call("b"), call("c")])
    assert report_of(one, other).totals.usd == Decimal("0.75")


def test_every_day_between_the_first_and_the_last_has_a_row():
    days = report(call("a", at=0.0), call("b", at=3 * DAY)).days
    assert [row.name for row in days] == ["1970-01-01", "1970-01-02", "1970-01-03", "1970-01-04"]
    assert [row.sums.calls for row in days] == [1, 0, 0, 1]
    wrong_clock = report(call("a", at=0.0), call("b", at=1e9)).days
    assert [row.name for row in wrong_clock] == ["1970-01-01", "2001-09-09"]


def test_a_long_table_ends_in_one_row_for_the_rest():
    rows = report(*(call(str(n), tags=[("user", f"u{n}")]) for n in range(60))).tables["user"]
    assert (len(rows), rows[-1].others, rows[-1].sums.calls) == (51, 10, 10)
    assert sum(row.sums.usd for row in rows) == 15


def test_no_source_and_an_empty_time_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        report_of()
    with pytest.raises(ConfigError, match="until must be after since"):
        report(since=2.0, until=1.0)


def test_damage_is_counted_among_the_chosen_only(tmp_path):
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record([call(ident, tags=[("feature", ident)]) for ident in "abc"])
        with ledger._file.writing() as db:
            db.execute("UPDATE calls SET usd = 'free' WHERE id = ?", (b"b",))
            db.execute("UPDATE calls SET at = 'once' WHERE id = ?", (b"c",))
        found = [report_of(ledger, tags={"feature": ident}) for ident in "abc"]
        assert report_of(ledger).damaged == 2
        ledger.delete(["a", "b"])
        assert [row.sums.calls for row in report_of(ledger).days] == []
    assert [(one.totals.calls, one.damaged) for one in found] == [(1, 0), (0, 1), (0, 1)]


def test_a_damaged_amount_is_passed_over(tmp_path):
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record([call("a"), call("b"), call("c")])
        with ledger._file.writing() as db:
            db.execute("UPDATE calls SET usd = 'free', savings = '{' WHERE id = ?", (b"b",))
            db.execute("UPDATE calls SET savings = '[3, \"x\", [1]]' WHERE id = ?", (b"c",))
        found = report_of(ledger)
    assert found.totals.usd == Decimal("0.50")
    assert found.to_html()


# --- advice -------------------------------------------------------------------------------------


def advice(found, name):
    (one,) = [one for one in found.advice if one.name == name]
    return one


def test_repeats_are_worth_what_was_paid_for_them_again():
    found = report(
        *(call(f"p{n}", usd="0.30", prompt_hash="p") for n in range(3)),
        call("hit", usd="0", prompt_hash="p", tier="exact"),
        call("own", usd="9", prompt_hash="p", overhead=True),
        call("q", usd="5", prompt_hash="q"),
        call("nothing known", usd="5"),
    )
    one = advice(found, "response_cache")
    assert (one.usd, one.bound) == (Decimal("0.60"), "at most")
    assert [(prompt.hash, prompt.paid_calls, prompt.hits) for prompt in found.prompts] == [
        ("q", 1, 0),
        ("p", 3, 1),
    ]


def test_a_shared_start_is_worth_its_reads_less_its_writes():
    usage = Usage(input_tokens=2_000, output_tokens=1)
    begun = {"usage": usage, "usd": "0.004", "prefix_hash": "start"}
    warm = Usage(input_tokens=2_000, output_tokens=1, cache_read_tokens=1_900)
    found = report(
        *(call(f"close {n}", at=float(n), **begun) for n in range(5)),
        call("much later", at=10_000.0, **begun),
        call("read", at=5.0, **{**begun, "usage": warm}),
    )
    # Four of the five calls could have read 1,000 tokens at $1 instead of $2 a million.
    assert advice(found, "prompt_cache").usd == Decimal("0.004")


def test_output_is_cheaper_on_a_model_that_is_used_already():
    long = Usage(input_tokens=1_000, output_tokens=10_000)
    found = report(
        call("a", usd="0.102", usage=long),
        call("b", model="small", usage=Usage(input_tokens=1)),
        call("c", model="unpriced", usd=None, usage=long),
    )
    assert advice(found, "cheaper_model").usd == Decimal("0.102") - Decimal("0.021")
    short = Usage(input_tokens=10_000, output_tokens=10)
    mostly_input = report(call("a", usage=short), call("b", model="small", usage=short))
    assert not [one for one in mostly_input.advice if one.name == "cheaper_model"]


def test_what_nobody_waits_for_is_worth_its_batch_discount():
    usage = Usage(input_tokens=1_000_000)
    night = call("a", usd="2", usage=usage, tags=[("endpoint", "nightly")])
    chat = call("b", usd="2", usage=usage, tags=[("endpoint", "chat"), ("user", "u")])
    assert advice(report(night, chat), "batch").usd == Decimal(1)
    assert not [one for one in report(night).advice if one.name == "batch"]
    batched = call("c", usd="1", usage=usage, tags=[("endpoint", "nightly")])
    assert not [one for one in report(batched, chat).advice if one.name == "batch"]


def test_a_stage_that_costs_more_than_it_saves_is_named():
    found = report(call("a", savings=(Saving(stage="compress", usd=Decimal(-1)),)))
    assert advice(found, "switch_off").usd == Decimal(1)
    assert "compress" in advice(found, "switch_off").title


def test_what_has_no_price_comes_first_and_has_no_amount():
    found = report(call("a", usd=None, model="mine"), call("p", prompt_hash="p"))
    assert (found.advice[0].name, found.advice[0].usd) == ("unpriced", None)
    assert "mine" in found.advice[0].title


def test_every_piece_of_advice_says_its_formula():
    found = report(
        call("u", usd=None, model="mine", usage=Usage(input_tokens=5)),
        *(
            call(str(n), prompt_hash="p", prefix_hash="s", usage=Usage(input_tokens=9_000))
            for n in range(3)
        ),
    )
    assert len(found.advice) >= 3
    assert all(one.formula and one.why and one.title for one in found.advice)


# --- hashes -------------------------------------------------------------------------------------


def test_the_recorder_keeps_hashes_and_no_text(tmp_path):
    secret = "the launch is on Tuesday " * 400
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        with track(ledger=ledger, tenant="acme"):
            for question in ("when?", "where?", "when?"):
                record_call(
                    operation="chat", model="large", usage=Usage(), prompt=secret + question
                )
            record_call(operation="chat", model="large", usage=Usage(), prompt="short")
        first, other, again, short = ledger.records()
        found = report_of(ledger)
    assert first.prompt_hash == again.prompt_hash != other.prompt_hash
    assert first.prefix_hash == other.prefix_hash != ""
    assert short.prompt_hash
    assert not short.prefix_hash
    for path in tmp_path.iterdir():
        assert b"Tuesday" not in path.read_bytes()
    assert all("Tuesday" not in text for text in (found.to_html(), found.to_json()))


@given(prompt=st.text(min_size=1), model=st.text(), tenant=st.text())
def test_hashes_are_short_and_differ_by_tenant(prompt, model, tenant):
    one = prompt_hash(prompt, model, tenant)
    assert re.fullmatch("[0-9a-f]{16}", one)
    assert one != prompt_hash(prompt, model, f"{tenant}x")
    assert one != prompt_hash(prompt + "x", model, tenant)
    assert prompt_hash("", model, tenant) == prefix_hash(prompt[: PREFIX - 1], model) == ""
    long = prompt * PREFIX + "x"
    assert prefix_hash(long, model, tenant) == prompt_hash(long[:PREFIX], model, tenant)


# --- formats ------------------------------------------------------------------------------------

NASTY = "<script>alert('x')</script> | `*_[a](b) \ud800 \n=1+1"


def nasty_report():
    return report(
        *(
            call(
                str(n),
                at=n * DAY,
                model=NASTY,
                prompt_hash=NASTY,
                usd=usd,
                tags=[("feature", NASTY), ("user", "=HYPERLINK(1)")],
                savings=(Saving(stage=NASTY, usd=Decimal(1), kind="modelled"),),
                usage=Usage(input_tokens=9, estimated=True),
            )
            for n, usd in enumerate(["1", "2", "3", None])
        ),
        tags={"feature": NASTY},
    )


class Page(HTMLParser):
    """Collects tags and checks that each that is opened is closed in order."""

    VOID = frozenset({"meta", "rect", "line", "polyline", "polygon"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("made", [nasty_report(), report(), report(call("a"))])
def test_a_page_is_whole_loads_nothing_and_lets_nothing_in(made):
    text = made.to_html()
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert not page.seen & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name[:2] == "on"]
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert "prefers-color-scheme:dark" in text
    assert text.encode()
    assert page.seen >= {"main", "h1", "title"}
    fragment = made._repr_html_()
    assert "<script>" not in fragment
    assert "<html" not in fragment


def test_what_a_page_shows_is_named_for_those_who_cannot_see_it():
    text = report(call("a"), call("b", at=DAY), call("c", at=2 * DAY)).to_html()
    assert '<html lang="en">' in text
    for svg in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in svg or ('role="img"' in svg and "aria-label=" in svg)
    assert text.count("<table") == text.count("<caption>") > 2
    assert 'scope="col"' in text
    assert 'scope="row"' in text


def test_markdown_keeps_its_tables_whole():
    text = nasty_report().to_markdown()
    assert "<script>" not in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
            assert len(widths) == 1, block
    assert repr(report()) == report().to_markdown()


def test_csv_holds_exact_dollars_and_no_formula():
    rows = list(csv.DictReader(io.StringIO(nasty_report().to_csv())))
    total = rows[0]
    assert (total["table"], total["usd"], total["baseline"]) == ("total", "6", "10")
    assert {row["table"] for row in rows} >= {"total", "model", "feature", "user", "day"}
    assert {row["name"] for row in rows if row["table"] == "user"} == {"'=HYPERLINK(1)"}
    assert not [row for row in rows if row["name"][:1] in "=+-@" and row["name"]]


def test_json_holds_everything_exactly():
    made = nasty_report()
    values = json.loads(made.to_json())
    assert Decimal(values["totals"]["usd"]) == made.totals.usd
    assert values["tables"]["model"][0]["name"] == made.tables["model"][0].name
    assert len(values["advice"]) == len(made.advice)
    assert len(values["prompts"]) == len(made.prompts) == 1
    assert [Decimal(step["usd"]) for step in values["steps"]] == [s.usd for s in made.steps]


# --- hold-out and what serves ---------------------------------------------------------------------


def arms(number):
    """Calls of some requests of both arms; an embedding and an own call belong to the first."""
    found = []
    for n in range(number):
        arm = "holdout" if n % 4 == 0 else "treated"
        tags = (("arm", arm), ("request", f"r{n}"))
        usd = str(Decimal(3 + n % 3) if arm == "holdout" else Decimal(1 + n % 2))
        saving = Saving(stage="compress", usd=Decimal(2))
        savings = () if arm == "holdout" else (saving,)
        found.append(call(f"{n}a", usd=usd, tags=tags, savings=savings))
        found.append(call(f"{n}b", usd="0.01", tags=tags, operation="embedding", model="e"))
        found.append(call(f"{n}c", usd="0.02", tags=tags, overhead=True))
    found.append(call("x", usd=None, tags=(("arm", "treated"), ("request", "unpriced"))))
    found.append(call("y", usd="9", tags=(("arm", "treated"),)))  # a request of its own
    return found


def test_the_true_saving_is_the_bill_s_and_shown_everywhere():
    records = arms(40)
    made = report(*records)
    assert made.true_saving == Bill(records).true_saving
    assert made.true_saving.unpriced == 1
    assert (made.true_saving.holdout, made.true_saving.treated) == (10, 31)
    said = f"{made.true_saving}."
    assert html.escape(said) in made.to_html()
    assert "True saving, by hold-out" in made.to_markdown()
    assert json.loads(made.to_json())["true_saving"]["holdout"] == 10


def test_too_few_requests_of_an_arm_say_so():
    made = report(*arms(2))
    assert made.true_saving is None
    assert "Too few requests were held out" in made.to_markdown()
    assert report(call("1")).true_saving is None
    assert "held out" not in report(call("1")).to_markdown()


def test_what_serves_a_request_is_none():
    records = [
        call("1", seconds=2.0),
        call("2", tier="exact", usd="0"),
        call("3", operation="embedding", model="e", seconds=9.0),
        call("4", operation="vector_query", model="v", usd="0"),
        call("5", overhead=True),
    ]
    made, bill = report(*records), Bill(records)
    for sums in (made.totals, made.days[0].sums):
        assert (sums.calls, sums.hits, sums.serving_calls, sums.own_calls) == (2, 1, 2, 1)
        assert sums.seconds == 2.0
        assert sums.usd == bill.usd
    assert [step.requests for step in made.steps] == [step.requests for step in bill.steps]
    of_model = {row.name: row.sums for row in made.tables["model"]}
    assert (of_model["e"].calls, of_model["e"].serving_calls) == (0, 1)
    assert of_model["e"].usd_per_call == Decimal("0.25")
