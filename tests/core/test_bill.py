"""The bill adds up, says what it does not know, and shows nothing as markup that was text."""

import json
import re
import threading
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.bill import Bill
from costwise_core.types import CallRecord, Saving, Usage

AMOUNT = st.decimals(0, 100, places=12)
SAVING = st.builds(
    Saving,
    stage=st.sampled_from(["response_cache", "trim", "route"]),
    usd=st.none() | st.decimals(-50, 100, places=12),
    tokens=st.integers(-1000, 100_000),
)
RECORD = st.builds(
    CallRecord,
    id=st.uuids().map(str),
    at=st.floats(0, 1e9),
    operation=st.just("chat"),
    model=st.sampled_from(["a", "b"]),
    usage=st.builds(Usage, input_tokens=st.integers(0, 10**6), output_tokens=st.integers(0, 10**5)),
    usd=st.none() | AMOUNT,
    savings=st.lists(SAVING, max_size=3).map(tuple),
    overhead=st.booleans(),
    tier=st.sampled_from(["", "", "exact", "near"]),
    tags=st.sampled_from([(), (("feature", "faq"),), (("feature", "search"), ("team", "ops"))]),
)


def call(ident="1", usd="1", **fields):
    fields = {"operation": "chat", "model": "m", "usage": Usage(input_tokens=100), **fields}
    return CallRecord(id=ident, at=0.0, usd=None if usd is None else Decimal(usd), **fields)


def hit(ident, usd):
    saving = Saving(stage="response_cache", usd=Decimal(usd), tokens=100)
    return call(ident, usd="0", usage=Usage(), tier="near", savings=(saving,))


@settings(deadline=None)
@given(records=st.lists(RECORD, max_size=20))
def test_the_parts_add_up_exactly(records):
    bill = Bill(records)
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert bill.net == bill.saved - bill.overhead == bill.baseline - bill.usd
    assert sum(bill.savings.values(), Decimal(0)) == bill.saved
    assert bill.calls == bill.paid_calls + bill.hits
    before, *changes, paid = bill.steps
    assert before.usd + sum((step.usd for step in changes), Decimal(0)) == paid.usd == bill.usd
    assert before.tokens + sum(step.tokens for step in changes) == paid.tokens
    assert (before.kind, paid.kind) == ("whole", "whole")
    for key in ("model", "feature", "team"):
        groups = bill.by(key).values()
        assert sum((group.usd for group in groups), Decimal(0)) == bill.usd
        assert sum((group.net for group in groups), Decimal(0)) == bill.net
        assert sum(group.calls for group in groups) == bill.calls


@settings(deadline=None)
@given(records=st.lists(RECORD, max_size=20))
def test_every_bill_can_be_shown(records):
    bill = Bill(records, tags={"feature": "faq"})
    assert repr(bill).startswith("Bill")
    check_html(bill._repr_html_())
    numbers = json.loads(json.dumps(bill.to_dict()))
    assert Decimal(numbers["baseline_usd"]) - Decimal(numbers["net_usd"]) == bill.usd


def test_the_text_shows_the_same_numbers():
    bill = Bill([call("1"), call("2"), hit("3", "1"), call("4", usd="0.1", overhead=True)])
    assert repr(bill).splitlines() == [
        "Bill: saved $0.900 net, 30.0% of $3.000",
        "                    calls  tokens  dollars",
        "  without costwise      3     300   $3.000",
        "  response cache        1    -100  -$1.000  measured",
        "  overhead              1    +100  +$0.100  measured",
        "  paid                  3     300   $2.100",
    ]
    html = bill._repr_html_()
    for shown in ("Saved $0.900 net", "$3.000", "-$1.000", "+$0.100", "$2.100"):
        assert shown in html


def test_what_serves_to_answer_is_paid_but_answers_nothing():
    serving = [
        call(str(n), usd="0.1", operation=name)
        for n, name in enumerate(("embedding", "rerank", "vector_query"))
    ]
    bill = Bill([*serving, call("x"), hit("y", "1")])
    assert (bill.calls, bill.paid_calls, bill.hits) == (2, 1, 1)
    assert bill.usd == Decimal("1.3")
    assert bill.steps[0].usd == Decimal("2.3")


def test_a_loss_is_called_a_loss():
    bill = Bill([call("1"), call("2", usd="0.25", overhead=True)])
    assert bill.net == Decimal("-0.25")
    assert "cost $0.250 more than without costwise" in repr(bill)


def test_what_has_no_price_is_said_and_not_shown_as_zero():
    text = repr(Bill([call(usd=None)]))
    assert "$0.00" not in text
    assert "no price known, so not in the dollars: m (1)" in text
    partly = repr(Bill([call("1"), call("2", usd=None, model="other")]))
    assert "other (1)" in partly


def test_an_empty_bill():
    assert repr(Bill()) == "Bill: no calls yet"
    assert "No calls yet" in Bill()._repr_html_()
    assert Bill().steps[0].usd == Bill().steps[-1].usd == 0


def test_groups_come_dearest_first_and_calls_without_the_tag_are_under_nothing():
    faq = (("feature", "faq"),)
    bill = Bill([call("1"), call("2", tags=faq), call("3", tags=faq)])
    assert {name: group.usd for name, group in bill.by("feature").items()} == {"faq": 2, "": 1}
    assert next(iter(bill.by("feature"))) == "faq"


# --- what is shown in a browser -----------------------------------------------------------------


class Checker(HTMLParser):
    """Notes every element and attribute, and that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


KNOWN = {"div", "style", "p", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "path"}


def check_html(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    assert checker.seen <= KNOWN
    assert not any(
        name.startswith("on") or name in ("src", "href") for name, _ in checker.attributes
    )
    assert "http" not in html
    assert "url(" not in html


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style>", "\"&'"]
)
def test_names_are_text_and_never_markup(text):
    saving = Saving(stage=text, usd=Decimal("0.5"))
    record = call(usd=None, model=text, tags=(("feature", text),), savings=(saving,))
    bill = Bill([record], tags={"feature": text})
    bill.count_fault(ValueError(text))
    html = bill._repr_html_()
    check_html(html)
    assert text not in html.partition("</style>")[2]


def test_colours_follow_light_and_dark_and_the_notebook():
    html = Bill([call()])._repr_html_()
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "prefers-color-scheme:dark" in style
    assert "--jp-content-font-color1" in style
    assert style.count("{") == style.count("}")
    # Every rule is about the bill, so the page around keeps its looks.
    rules = re.sub(r"@media [^{]*\{(.*?\})\}", r"\1", style)
    for selectors in re.findall(r"([^{}]+)\{", rules):
        assert all(".costwise-bill" in one for one in selectors.split(",")), selectors


def test_the_bars_stay_inside_the_picture():
    records = [call("1"), hit("2", "3"), call("3", usd="9", overhead=True)]
    html = Bill(records)._repr_html_()
    width = float(re.search(r'<svg width="(\d+)"', html)[1])
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)"', html)
    assert [kind for kind, _, _ in bars] == ["whole", "less", "more", "whole"]
    assert all(float(x) >= 0 and float(x) + float(wide) <= width + 0.1 for _, x, wide in bars)


# --- sharing ------------------------------------------------------------------------------------


def test_threads_add_while_others_look():
    bill = Bill()

    def work(name):
        for n in range(200):
            bill.add(call(f"{name}-{n}", usd="0.01"))
            bill.add(call(f"shared-{n}", usd="0.01"))
            before, *changes, paid = bill.steps if n % 50 == 0 else (None, None)
            if before is not None:
                assert before.usd + sum((step.usd for step in changes), Decimal(0)) == paid.usd

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bill.usd == Decimal("10.00")


def test_a_frame_has_a_row_for_each_call():
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = Bill([call("1", tags=(("feature", "faq"),)), hit("2", "0.5")]).to_frame()
    assert list(frame["usd"]) == [1.0, 0.0]
    assert list(frame["saved_usd"]) == [0.0, 0.5]
    assert frame["feature"].iloc[0] == "faq"


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    import sys

    from costwise_core.errors import ConfigError

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        Bill().to_frame()
