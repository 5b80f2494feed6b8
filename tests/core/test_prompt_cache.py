"""Layouts, marks, and what a provider's prompt cache is worth."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    CallRecord,
    Part,
    PriceBook,
    Rates,
    Usage,
    best_lifetime,
    gaps_of,
    plan_layout,
    prompt_cache_use,
)
from costwise_core.errors import ConfigError
from costwise_core.prompt.layout import prefix_key
from costwise_core.prompt.marks import TOOLS, Mark, Said, marks_in, steady_prefix
from costwise_core.prompt.provider_cache import break_even, terms_of

CLAUDE = "claude-sonnet-4-5"
RULES = "Cite the page of every figure you use. " * 200
BOOK = PriceBook()
KINDS = ["static", "tools", "examples", "summary", "history", "documents", "question"]


def names(layout):
    return [one.part.name for one in layout.parts]


def marked(layout):
    return [one.part.name for one in layout.parts if one.mark]


# --- layout ---------------------------------------------------------------------------------------


def test_the_order_is_from_what_never_changes_to_what_always_does():
    layout = plan_layout([Part(kind=kind, text="text") for kind in reversed(KINDS)], model=CLAUDE)
    assert names(layout) == KINDS
    assert [one.was for one in layout.parts] == [6, 5, 4, 3, 2, 1, 0]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.text(max_size=30)), min_size=1, max_size=12))
def test_no_part_is_lost_and_parts_of_a_kind_stay_in_order(given_parts):
    parts = [Part(kind=kind, text=text) for kind, text in given_parts]
    layout = plan_layout(parts, model=CLAUDE)
    assert sorted(one.was for one in layout.parts) == list(range(len(parts)))
    assert all(parts[one.was] is one.part for one in layout.parts)
    for kind in KINDS:
        steady = [
            one.was
            for one in layout.parts
            if one.part.kind == kind and one.changes != "with each call"
        ]
        assert steady == sorted(steady)
    assert layout.cacheable_before <= layout.cacheable <= layout.tokens


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
def test_a_layout_laid_out_again_stays_as_it_is(kinds):
    first = plan_layout([Part(kind=kind, text=RULES[:50]) for kind in kinds], model=CLAUDE)
    again = plan_layout([one.part for one in first.parts], model=CLAUDE)
    assert [one.was for one in again.parts] == list(range(len(kinds)))


def test_what_holds_something_of_the_call_goes_in_front_of_the_documents():
    layout = plan_layout(
        [
            Part(kind="static", text="You help. Current time: 2026-11-21T15:04:05Z", name="clock"),
            Part(kind="static", text=RULES, name="rules"),
            Part(kind="history", text="user: my request id: 7f3a9c21d0"),
            Part(kind="documents", text="..."),
            Part(kind="question", text="Why?"),
        ],
        model=CLAUDE,
    )
    assert names(layout) == ["rules", "history", "clock", "documents", "question"]
    assert layout.parts[2].why == "it holds the time"
    assert layout.cacheable_before == 0
    assert layout.cacheable > 1024


def test_marks_stand_behind_what_never_changes_and_behind_the_history():
    parts = [
        Part(kind="static", text=RULES),
        Part(kind="tools", text="{}"),
        Part(kind="summary", text="They talked."),
        Part(kind="history", text="user: hi"),
        Part(kind="question", text="Why?"),
    ]
    assert marked(plan_layout(parts, model=CLAUDE)) == ["tools", "summary", "history"]
    assert marked(plan_layout(parts, model="gpt-4o")) == []
    assert "caches by itself" in plan_layout(parts, model="gpt-4o").notes[0]
    unknown = plan_layout(parts, model="our-llama")
    assert (marked(unknown), unknown.cacheable, unknown.usd_saved) == ([], 0, None)


def test_what_is_too_short_is_not_marked_and_says_by_how_much():
    layout = plan_layout([Part(kind="static", text="Be brief.")], model="claude-haiku-4-5")
    assert (marked(layout), layout.cacheable) == ([], 0)
    assert layout.notes[0].endswith("tokens short of the 4,096 that can be cached")


def test_openai_caches_in_steps_and_a_warm_call_saves_the_difference():
    layout = plan_layout([Part(kind="static", text=RULES)], model="gpt-4o")
    assert layout.cacheable % 128 == 0
    assert layout.usd_saved == layout.cacheable * Decimal("1.25") / 1_000_000
    assert f"{layout.cacheable:,} of {layout.tokens:,} tokens" in str(layout)
    assert "<table>" in layout._repr_html_()


def test_the_key_is_that_of_the_beginning_and_of_the_tenant():
    def key(text="rules", question="a", tenant="x", model="gpt-4o"):
        parts = [Part(kind="static", text=text), Part(kind="question", text=question)]
        return plan_layout(parts, model=model, tenant=tenant).key

    assert key() == key(question="b")
    assert len({key(), key(text="other"), key(tenant="y"), key(model="gpt-4o-mini")}) == 4
    assert len(key()) <= 64
    assert prefix_key(["ab", "c"], "m", "") != prefix_key(["a", "bc"], "m", "")


def test_wrong_parts():
    with pytest.raises(ConfigError, match="Did you mean 'static'"):
        Part(kind="statik", text="")
    with pytest.raises(ConfigError):
        plan_layout([], model="gpt-4o")


# --- marks ----------------------------------------------------------------------------------------


def said(role, text, **values):
    return Said(role=role, text=text, **values)


def test_the_history_is_marked_before_the_last_question():
    messages = [
        said("system", RULES),
        said("user", "a"),
        said("assistant", "b"),
        said("user", "c"),
    ]
    assert marks_in(messages, model=CLAUDE) == (Mark(message=0), Mark(message=2))


def test_an_agent_s_last_message_is_marked():
    messages = [
        said("system", RULES),
        said("user", "a"),
        said("assistant", "", markable=False),
        said("tool", "42"),
    ]
    assert marks_in(messages, model=CLAUDE) == (Mark(message=0), Mark(message=3))
    assert marks_in(messages[:2], model=CLAUDE, tools="{}") == (Mark(message=0), Mark(message=1))


def test_a_mark_moves_back_to_what_can_be_marked():
    messages = [
        said("system", RULES),
        said("user", "a"),
        said("assistant", "", markable=False),
        said("user", "c"),
    ]
    assert marks_in(messages, model=CLAUDE) == (Mark(message=0), Mark(message=1))


def test_only_what_stands_before_something_of_the_call_is_marked():
    text = f"{RULES}\nRequest id: 7f3a9c21d0. Be brief."
    messages = [said("system", text), said("user", "a"), said("assistant", "b"), said("user", "c")]
    ((mark),) = marks_in(messages, model=CLAUDE)
    assert text[: mark.end] == RULES.rstrip()
    assert steady_prefix(messages) == [RULES.rstrip()]


def test_before_instructions_that_begin_with_something_of_the_call_only_tools_are_marked():
    messages = [said("system", "Request id: 7f3a9c21d0."), said("user", "a")]
    assert marks_in(messages, model=CLAUDE, tools=RULES) == (Mark(message=TOOLS),)
    assert marks_in(messages, model=CLAUDE) == ()
    two = [said("system", RULES), *messages]
    assert marks_in(two, model=CLAUDE) == (Mark(message=0),)


@pytest.mark.parametrize("model", ["gpt-4o", "gemini-2.5-pro", "our-llama"])
def test_who_caches_by_itself_gets_no_marks(model):
    assert marks_in([said("system", RULES * 5)], model=model) == ()


def test_nothing_and_too_little_get_no_marks():
    assert marks_in([], model=CLAUDE) == ()
    assert marks_in([said("system", "Be brief."), said("user", "a")], model=CLAUDE) == ()


@given(
    st.lists(
        st.builds(
            Said,
            role=st.sampled_from(["system", "user", "assistant", "tool"]),
            text=st.sampled_from(
                ["", "hi", RULES, "Request id: 7f3a9c21d0", RULES + "nonce: abcd"]
            ),
            markable=st.booleans(),
        ),
        max_size=7,
    ),
    st.sampled_from(["", RULES]),
)
def test_there_are_never_more_marks_than_a_request_may_have(messages, tools):
    marks = marks_in(messages, model=CLAUDE, tools=tools)
    assert len(set(marks)) == len(marks) <= 3
    for mark in marks:
        assert TOOLS <= mark.message < len(messages)
        assert mark.end is None or 0 < mark.end <= len(messages[mark.message].text)


# --- worth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "how", "least"),
    [
        ("anthropic:claude-haiku-4-5", "marked", 4096),
        ("claude-3-5-haiku-latest", "marked", 2048),
        ("claude-sonnet-4-5", "marked", 1024),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "marked", 4096),
        ("amazon.nova-lite-v1:0", "marked", 1024),
        ("gpt-4o-mini", "automatic", 1024),
        ("gemini-2.5-flash", "automatic", 2048),
        ("deepseek-chat", "automatic", 64),
    ],
)
def test_the_providers_terms(model, how, least):
    found = terms_of(model)
    assert (found.how, found.least) == (how, least)


def test_a_model_that_runs_at_home_has_no_terms():
    assert terms_of("deepseek-r1:1.5b") is None


def test_breaking_even():
    claude = BOOK.rates("claude-sonnet-4-5")
    assert break_even(claude) == Decimal("0.75") / Decimal("2.7")
    assert break_even(claude, hour=True) == Decimal(3) / Decimal("2.7")
    assert break_even(BOOK.rates("gpt-4o")) == 0
    assert break_even(Rates(input=Decimal(1))) is None


@given(
    st.lists(st.floats(0, 10_000), min_size=1, max_size=60),
    st.sampled_from(["claude-sonnet-4-5", "claude-haiku-4-5", "gpt-4o"]),
)
def test_no_other_lifetime_costs_less(gaps, model):
    rates = BOOK.rates(model)
    best = best_lifetime(gaps, rates)
    writes = {300: rates.cache_write, 3600: rates.cache_write_1h or rates.input * 2}
    for seconds, write in writes.items():
        warm = sum(gap <= seconds for gap in gaps)
        cold = (len(gaps) - warm) * (rates.input if write is None else write)
        assert best.usd_per_mtok <= (warm * rates.cache_read + cold) / len(gaps)
    assert best.usd_per_mtok <= rates.input


def test_gaps_come_from_the_ledger_by_feature_model_and_tenant():
    def call(at, tenant="x", tier="", feature="faq"):
        return CallRecord(
            id=f"{at}{tenant}",
            at=at,
            operation="chat",
            model="m",
            tier=tier,
            tags=(("feature", feature), ("tenant", tenant)),
        )

    calls = [call(10.0), call(0.0), call(4.0, tenant="y"), call(5.0, tier="near"), call(40.0)]
    assert gaps_of([*calls, call(1.0, feature="b")], feature="faq") == [10.0, 30.0]
    with pytest.raises(ConfigError):
        best_lifetime([], Rates())


def test_use_is_what_the_price_list_says_it_saved():
    def call(number, read, write, hour=0):
        used = Usage(
            input_tokens=10_000,
            cache_read_tokens=read,
            cache_write_tokens=write,
            cache_write_1h_tokens=hour,
        )
        return CallRecord(
            id=str(number),
            at=1.7e9,
            operation="chat",
            model="claude-sonnet-4-5",
            usage=used,
            usd=BOOK.cost(used, "claude-sonnet-4-5", at=1.7e9).usd,
            tags=(("feature", "faq"),),
        )

    calls = [call(1, 8000, 0), call(2, 0, 8000), call(3, 0, 8000, hour=8000)]
    hit = CallRecord(id="h", at=0.0, operation="chat", model="claude-sonnet-4-5", tier="exact")
    use = prompt_cache_use([*calls, hit])
    (one,) = use.uses
    plain = BOOK.cost(Usage(input_tokens=10_000), "claude-sonnet-4-5", at=1.7e9).usd
    assert one.usd_saved == 3 * plain - sum(call.usd for call in calls)
    assert (one.calls, one.read_share) == (3, 8000 / 30_000)
    assert "27%" in str(use)
    assert "<table>" in use._repr_html_()


def test_use_of_a_model_without_a_price_is_tokens_only():
    used = Usage(input_tokens=100, cache_read_tokens=50)
    record = CallRecord(id="1", at=0.0, operation="chat", model="ours", usage=used, usd=None)
    (one,) = prompt_cache_use([record]).uses
    assert (one.usd_saved, one.read_share) == (None, 0.5)
