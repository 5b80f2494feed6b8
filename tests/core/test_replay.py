"""Replay: each finding on a log whose truth is known, and sums that add up whatever the log."""

import gzip
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import MemoryLedger, PriceBook, SQLiteLedger, replay
from costwise_core.__main__ import main
from costwise_core.commands import replay as replay_module
from costwise_core.errors import ConfigError
from costwise_core.money import picodollars, total
from costwise_core.replaying.calls import Said
from costwise_core.replaying.reading import Seen, calls_in
from costwise_core.replaying.steps import ORDER
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import CallRecord, Saving, Usage
from costwise_core.waterfall import STAGES

SECRET = "Xanthippe's tumour marker is 42"
DAY = 1_790_000_000.0


def call(question="What is RAG?", answer="A method.", *, at=None, **told):
    """A row as a proxy logs it: request and response in one."""
    system = told.pop("system", "")
    messages = told.pop("messages", None) or [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": question},
    ]
    return {
        "model": told.pop("model", "gpt-4o"),
        "messages": messages,
        "choices": [{"message": {"content": answer}, "finish_reason": told.pop("finish", "stop")}],
        "usage": told.pop("usage", {"prompt_tokens": 1_000, "completion_tokens": 100}),
        **({} if at is None else {"timestamp": at}),
        **told,
    }


def named(report, name):
    return next(one for one in report.findings if one.name == name)


def adds_up(report):
    parts = [one.usd for one in report.findings if one.usd is not None]
    assert total(parts) == report.saved_usd
    assert picodollars(report.paid_usd) - picodollars(report.saved_usd) == picodollars(
        report.after_usd
    )


# --- exact repeats ------------------------------------------------------------------------------


def test_the_same_question_again_costs_what_the_first_answer_did():
    report = replay([call(), call("what  is RAG?"), call("What is BM25?")])
    found = named(report, "exact_repeats")
    assert (found.requests, found.usd, found.confidence) == (
        1,
        Decimal("0.0035"),
        "measured on your log",
    )
    assert report.paid_usd == Decimal("0.0105")
    adds_up(report)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"system": "Answer in French."},
        {"model": "gpt-4o-mini"},
        {"temperature": 0.9},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"previous_response_id": "resp_1"},
    ],
)
def test_another_tenant_prompt_model_or_parameter_is_another_scope(other):
    first = {"tenant": "a"}
    report = replay([call(**first), call(**(first | other))])
    assert named(report, "exact_repeats").requests == 0
    assert named(report, "near_repeats").requests == 0


def test_a_question_after_another_conversation_is_no_repeat():
    def after(said):
        return call(
            messages=[
                {"role": "user", "content": said},
                {"role": "assistant", "content": "Fine."},
                {"role": "user", "content": "How much is it?"},
            ]
        )

    report = replay([after("I mean the blue one"), after("I mean the red one")])
    assert named(report, "exact_repeats").requests == 0


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("What is the weather right now?", "Sunny.", {}),
        ("Cancel my order 12", "Done.", {}),
        ("Who is the CEO?", "I'm sorry, I don't know.", {}),
        ("Who is the CEO?", "It is Ann", {"finish": "length"}),
        ("Who is the CEO?", "", {"finish": "tool_calls"}),
        ("Who is the CEO?", "Ann.", {"response_format": {"type": "json_schema"}}),
    ],
)
def test_what_the_cache_would_not_serve_is_no_repeat(question, answer, told):
    report = replay([call(question, answer, **told)] * 3)
    assert named(report, "exact_repeats").requests == 0


def test_a_question_of_today_is_a_repeat_today_and_not_tomorrow():
    at = (DAY, DAY + 60, DAY + 90_000)
    report = replay([call("What is on the menu today?", "Soup.", at=one) for one in at])
    assert named(report, "exact_repeats").requests == 1
    undated = replay([call("What is on the menu today?", "Soup.")] * 2)
    assert named(undated, "exact_repeats").requests == 0


def test_tool_results_make_no_repeat():
    messages = [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "In Oslo"},
    ]
    assert named(replay([call(messages=messages)] * 2), "exact_repeats").requests == 0


def test_two_images_are_two_questions():
    def seen(url):
        return [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]

    rows = [call(messages=[{"role": "user", "content": seen(url)}]) for url in "aab"]
    assert named(replay(rows), "exact_repeats").requests == 0  # the policy keeps images out


def test_the_order_of_the_log_does_not_matter_where_times_are_known():
    rows = [call(f"What is {n % 4}?", at=DAY + n) for n in range(20)]
    forward, backward = replay(rows), replay(rows[::-1])
    assert forward.to_dict() == backward.to_dict()
    assert named(forward, "exact_repeats").requests == 16


# --- near repeats -------------------------------------------------------------------------------

ASKED = ("How do I lock my card?", "how can I lock my card", "How do I unlock my card?")


def test_other_words_are_found_and_look_alikes_are_not():
    report = replay([call(one, "Press the lock button.") for one in ASKED])
    found = named(report, "near_repeats")
    assert (found.requests, found.confidence) == (1, "modelled")
    assert (
        named(
            replay([call(ASKED[0], tenant="a"), call(ASKED[1], tenant="b")]), "near_repeats"
        ).requests
        == 0
    )


def test_an_embedder_finds_no_fewer_and_guards_still_speak():
    rows = [call(one, "Press the lock button.") for one in ASKED]
    assert named(replay(rows, embedder=HashingEmbedder()), "near_repeats").requests == 1


def test_the_wrong_share_is_read_off_the_answers_in_the_log():
    rows = []
    for n in range(40):
        right = n % 4 != 0
        rows += [
            call(f"How do I lock the card named K{n}?", f"Press button {n}."),
            call(f"how can I lock the card named K{n}", f"Press button {n if right else n + 99}."),
        ]
    found = named(replay(rows), "near_repeats")
    assert found.requests == 40
    assert found.wrong_share == pytest.approx(0.25)
    assert found.wrong_low < 0.25 < found.wrong_high


def test_without_answers_the_wrong_share_is_not_known():
    rows = [
        {"model": "gpt-4o", "messages": [{"role": "user", "content": one}], "input": 1}
        for one in ASKED
    ]
    found = named(replay(rows), "near_repeats")
    assert found.requests == 1
    assert found.wrong_share is None


def test_passages_in_common_are_asked_for():
    def rag(question, passage):
        text = f"Context:\n{passage * 20}\n\nQuestion: {question}\nAnswer:"
        return call(text, "Yes.", metadata={})

    same = replay([rag(ASKED[0], "Cards are locked. "), rag(ASKED[1], "Cards are locked. ")])
    other = replay([rag(ASKED[0], "Cards are locked. "), rag(ASKED[1], "Doors are locked. ")])
    assert named(same, "near_repeats").requests == 1
    assert named(other, "near_repeats").requests == 0


# --- prompts that are too long ------------------------------------------------------------------

FILLER = "The committee met on a Tuesday and talked about the weather of the season at length. "


def with_passages(n):
    passages = [f"{FILLER * 4}Town {n}-{m} has {n * 7 + m} houses. {FILLER * 4}" for m in range(5)]
    text = "Context:\n" + "\n\n".join(passages) + f"\n\nQuestion: How many houses has town {n}-2?"
    return call(
        text,
        f"Town {n}-2 has {n * 7 + 2} houses.",
        usage={"prompt_tokens": len(text) // 4, "completion_tokens": 10},
        at=DAY + 1000 * n,
    )


def test_context_goes_as_far_as_the_answers_in_the_log_allow():
    report = replay([with_passages(n) for n in range(80)])
    found = named(report, "context")
    assert found.requests == 80
    assert found.alone_usd > report.paid_usd / 2
    assert "asked to keep 0.1 of the tokens" in found.why
    adds_up(report)


def test_with_too_few_answers_nothing_is_claimed_about_context():
    found = named(replay([with_passages(n) for n in range(9)]), "context")
    assert found.usd is None


def talk(turns, *, size=2_000, start=DAY, cached=False, **told):
    rows, sent = [], [{"role": "system", "content": "Be kind. " * 20}]
    for n in range(turns):
        sent = [*sent, {"role": "user", "content": f"Question {n}: " + "word " * (size // 5)}]
        tokens = sum(len(one["content"]) for one in sent) // 4
        usage = {"prompt_tokens": tokens, "completion_tokens": size // 4}
        if cached and n:
            usage["prompt_tokens_details"] = {"cached_tokens": tokens - size // 4}
        answer = f"Answer {n}: " + "word " * (size // 5)
        row = call(answer=answer, messages=list(sent), usage=usage, at=start + 60 * n, **told)
        rows.append(row)
        sent = [*sent, {"role": "assistant", "content": answer}]
    return rows


def test_history_that_grows_is_folded_and_conversations_are_found_without_names():
    report = replay(talk(12))
    found = named(report, "history")
    assert "1 conversations of several calls" in found.why
    assert 0 < found.usd < report.paid_usd
    with_name = replay(talk(12, session_id="s"))
    assert named(with_name, "history").usd == found.usd
    adds_up(report)


def test_two_calls_have_no_history_worth_folding():
    assert named(replay(talk(2, size=40)), "history").usd == 0


# --- answers, models, batches, prefixes ---------------------------------------------------------


def test_answers_beyond_what_99_of_100_keep():
    rows = [
        call(
            f"Name number {n}",
            usage={"prompt_tokens": 10, "completion_tokens": 5_000 if n % 500 == 7 else 100},
        )
        for n in range(1_000)
    ]
    found = named(replay(rows), "output")
    assert (found.requests, found.tokens) == (2, 2 * 4_900)
    assert named(replay(rows[:50]), "output").usd is None


def test_a_model_is_dominated_by_the_users_order():
    rows = [call(f"Name number {n}", model="gpt-3.5-turbo") for n in range(10)]
    found = named(replay(rows, models=["gpt-3.5-turbo", "gpt-4o-mini"]), "dominated_model")
    book = PriceBook()
    used = Usage(input_tokens=1_000, output_tokens=100)
    saved = book.cost(used, "gpt-3.5-turbo").usd - book.cost(used, "gpt-4o-mini").usd
    assert found.usd == 10 * saved
    assert named(replay(rows), "dominated_model").usd is None


def marked(model, marks, start=0):
    return [
        call(f"Name number {start + n} of {model}", model=model, score=mark)
        for n, mark in enumerate(marks)
    ]


def test_a_model_is_dominated_by_the_marks_of_the_log():
    good = marked("gpt-4o-mini", [1] * 300) + marked("gpt-4o", [1, 0] * 150)
    assert named(replay(good), "dominated_model").requests == 300
    bad = marked("gpt-4o-mini", [1, 0] * 150) + marked("gpt-4o", [1] * 300)
    assert named(replay(bad), "dominated_model").usd is None


def test_a_feature_without_users_may_wait_where_others_have_them():
    rows = [call(f"Name number {n}", feature="faq", user="u") for n in range(5)]
    rows += [call(f"Sum up number {n}", feature="nightly") for n in range(5)]
    found = named(replay(rows), "batch")
    assert (found.requests, found.usd) == (5, 5 * Decimal("0.0035") / 2)
    said = named(replay(rows, can_wait=["faq"]), "batch")
    assert said.requests == 10
    assert named(replay([call()]), "batch").usd is None


RULES = "Answer from the passages and cite them. " * 200


@pytest.mark.parametrize(("gap", "reads"), [(60, 9), (900, 0)])
def test_a_prefix_sent_again_in_time_could_have_been_read(gap, reads):
    rows = [
        call(
            f"Name number {n}",
            system=RULES,
            at=DAY + gap * n,
            usage={"prompt_tokens": len(RULES) // 4, "completion_tokens": 10},
        )
        for n in range(10)
    ]
    found = named(replay(rows), "prompt_cache")
    assert found.requests == reads
    assert found.tokens == reads * 1_792  # whole steps of 128
    assert found.usd == reads * 1_792 * Decimal("1.25") / 1_000_000


def test_what_was_read_already_is_not_saved_again():
    usage = {
        "prompt_tokens": len(RULES) // 4,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 1_920},
    }
    rows = [call(f"Name number {n}", system=RULES, at=DAY + n, usage=usage) for n in range(10)]
    assert named(replay(rows), "prompt_cache").requests == 0


def test_writing_a_prefix_costs_where_the_provider_charges_for_it():
    rows = [
        call(
            f"Name number {n}",
            system=RULES,
            model="claude-sonnet-4-5",
            at=DAY + n,
            usage={"prompt_tokens": len(RULES) // 4, "completion_tokens": 10},
        )
        for n in range(2)
    ]
    found = named(replay(rows), "prompt_cache")
    tokens = found.tokens
    assert found.requests == 2
    assert found.usd == tokens * (Decimal("2.70") - Decimal("0.75")) / 1_000_000


def test_another_tenants_prefix_is_not_shared():
    rows = [
        call(
            f"Name {n}",
            system=RULES,
            at=DAY + n,
            tenant=f"t{n}",
            usage={"prompt_tokens": len(RULES) // 4, "completion_tokens": 10},
        )
        for n in range(5)
    ]
    assert named(replay(rows), "prompt_cache").requests == 0


# --- adding up ----------------------------------------------------------------------------------

ROWS = st.lists(
    st.builds(
        call,
        st.sampled_from([*ASKED, "What is RAG?", "Cancel my order", "Menu today?"]),
        st.sampled_from(["Yes.", "No.", "", "It is 30 days."]),
        at=st.one_of(st.none(), st.floats(DAY, DAY + 1e6)),
        model=st.sampled_from(["gpt-4o", "gpt-3.5-turbo", "claude-sonnet-4-5", "nobody's-model"]),
        tenant=st.sampled_from(["", "a", "b"]),
        system=st.sampled_from(["", RULES]),
        feature=st.sampled_from(["", "faq", "nightly"]),
        user=st.sampled_from(["", "u"]),
        usage=st.fixed_dictionaries(
            {
                "prompt_tokens": st.integers(0, 10_000),
                "completion_tokens": st.integers(0, 5_000),
                "prompt_tokens_details": st.fixed_dictionaries(
                    {"cached_tokens": st.integers(0, 5_000)}
                ),
            }
        ),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_parts_sum_to_the_total_and_nothing_is_saved_twice(rows):
    report = replay(rows, models=["gpt-3.5-turbo", "gpt-4o-mini", "gpt-4o"], can_wait=["nightly"])
    adds_up(report)
    assert report.after_usd >= 0
    served = {"exact_repeats", "near_repeats"}
    assert sum(one.requests for one in report.findings if one.name in served) <= report.requests
    for one in report.findings:
        if one.name in served and one.usd is not None:
            assert 0 <= one.usd <= one.alone_usd <= report.paid_usd
    unpriced = sum(row["model"] == "nobody's-model" for row in rows)
    assert sum(report.unpriced.values()) == unpriced
    json.dumps(report.to_dict())
    assert str(report)
    assert report._repr_html_()


def test_everything_at_once_adds_up():
    rows = talk(12, feature="chat", user="u") + [with_passages(n) for n in range(80)]
    rows += [call(system=RULES, at=DAY + n, feature="nightly", tenant="z") for n in range(50)]
    report = replay(rows, models=["gpt-4o", "gpt-4o-mini"])
    adds_up(report)
    assert report.low <= float(report.saved_usd) <= report.high
    exact = named(report, "exact_repeats")
    assert exact.usd < exact.alone_usd  # what others saved before is not saved again


def test_the_order_is_that_of_the_bill():
    report = replay([call()])
    stages = [one.stage for one in report.findings if one.stage != "output"]
    assert sorted(stages, key=STAGES.index) == stages
    assert tuple(one.name for one in report.findings) == ORDER


def test_an_unknown_price_is_never_nothing():
    report = replay([call(model="nobody's-model")] * 3)
    found = named(report, "exact_repeats")
    assert (found.requests, found.usd, found.unpriced) == (2, None, 2)
    assert report.unpriced == {"nobody's-model": 3}
    assert "nobody's-model (3)" in str(report)
    assert "nobody&#x27;s-model (3)" in report._repr_html_()


# --- our own ledger -----------------------------------------------------------------------------


def records():
    return [
        CallRecord(
            id=str(n),
            at=DAY + n,
            operation="chat",
            model="gpt-4o",
            usage=Usage(input_tokens=2_000, output_tokens=100),
            usd=Decimal("0.006"),
            tags=(("tenant", "a"),),
            prompt_hash=f"{n % 2:016x}",
            prefix_hash=f"{7:016x}",
        )
        for n in range(4)
    ] + [
        CallRecord(
            id="hit",
            at=DAY,
            operation="chat",
            model="gpt-4o",
            tier="exact",
            savings=(Saving(stage="response_cache", usd=Decimal(1)),),
        ),
        CallRecord(id="embedding", at=DAY, operation="embedding", model="gpt-4o"),
    ]


def test_a_ledger_knows_repeats_and_prefixes_and_says_what_it_does_not(tmp_path):
    memory = MemoryLedger()
    memory.record(records())
    with SQLiteLedger(tmp_path / "ledger.db") as ledger:
        ledger.record(records())
    for source in (memory, tmp_path / "ledger.db"):
        report = replay(source)
        assert report.requests == 4
        assert named(report, "exact_repeats").requests == 2
        assert named(report, "exact_repeats").confidence == "modelled"
        assert named(report, "prompt_cache").tokens == 3_000
        for name in ("context", "history", "near_repeats"):
            assert named(report, name).usd is None
        adds_up(report)


# --- the command and what it shows ----------------------------------------------------------------


def test_the_command_writes_a_table_json_and_a_page(tmp_path, capsys):
    log = tmp_path / "log.jsonl.gz"
    with gzip.open(log, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(call(SECRET, SECRET)) + "\n" for _ in range(2))
        file.write("{broken " + SECRET + "\n")
    assert main(["replay", str(log)]) == 0
    table = capsys.readouterr().out
    assert "1 of 3" in table
    assert main(["replay", str(log), "--json", "--html", str(tmp_path / "out.html")]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["damaged"] == 1
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for shown in (table, page, json.dumps(out)):
        assert "Xanthippe" not in shown


def test_exit_codes(tmp_path, capsys):
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 2
    assert "there is no log" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"colour": SECRET, SECRET: 1}) + "\n")
    assert main(["replay", str(other)]) == 2
    said = capsys.readouterr().err
    assert "LangSmith" in said
    assert "colour" in said
    assert "Xanthippe" not in said
    with pytest.raises(SystemExit):
        main(["replay"])


def test_lists_are_asked_for():
    with pytest.raises(ConfigError):
        replay([call()], can_wait="faq")


def test_an_empty_log_is_no_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    for source in ([], path):
        report = replay(source)
        assert report.requests == 0
        assert "No calls" in str(report)
        assert "No calls" in report._repr_html_()


def test_calls_read_alike():
    found = next(calls_in([call(system="Be kind.")], Seen()))
    assert found.messages == (
        Said(role="system", text="Be kind."),
        Said(role="user", text="What is RAG?"),
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_person_who_waits_is_told_and_a_file_is_not(monkeypatch):
    monkeypatch.setattr(replay_module, "_PATIENCE", -1.0)
    monkeypatch.setattr(replay_module, "_PAUSE", -1.0)
    for out, said in ((Terminal(), "reading 300 calls"), (io.StringIO(), "")):
        waiting = replay_module.Waiting(out)
        waiting("reading", 300)
        waiting.done()
        assert said in out.getvalue()
        assert bool(out.getvalue()) == bool(said)
