"""A draft is written down once it is known whether it is the answer."""

from decimal import Decimal

import pytest

from costwise_core import Ask, Candidate, HoldOut, Judgement, Route, Usage, scoped
from costwise_core.drive import run
from costwise_core.errors import ConfigError
from costwise_core.route.answering import Routing
from costwise_core.route.drafts import Draft
from costwise_core.route.portable import ending, plain_id
from costwise_core.tracking import record_call, recorder, track

USAGE = Usage(input_tokens=1_000)
ROUTES = [Route(name="small", model="gpt-4o-mini"), Route(name="large", model="gpt-4o")]


def called(model: str = "gpt-4o-mini") -> None:
    record_call(operation="chat", model=model, usage=USAGE)


@pytest.mark.parametrize("shown", [True, False])
def test_what_becomes_of_a_draft(shown):
    with track() as bill:
        draft = Draft(baseline_model="gpt-4o")
        with draft.written():
            called()
        assert bill.records == ()
        draft.settle(shown=shown, why="because")
        called()
    first, second = bill.records
    assert first.usd == second.usd == Decimal("0.00015")
    assert first.overhead is not shown
    assert first.why.startswith("because")
    assert bill.saved == (Decimal("0.00235") if shown else 0)
    assert second.savings == ()


def test_a_call_that_ends_after_it_was_settled():
    with track() as bill:
        draft = Draft()
        with draft.written():
            late = recorder()
        draft.settle(shown=False, why="too short")
    late.record(operation="chat", model="gpt-4o-mini", usage=USAGE)
    (record,) = bill.records
    assert record.overhead
    assert record.why.startswith("too short")


def test_nobody_counts():
    draft = Draft(baseline_model="gpt-4o")
    with draft.written():
        called()
    draft.settle(shown=True, why="")
    assert list(draft.records()) == []


def test_a_ledger_that_fails_never_breaks_the_call():
    class Full:
        def record(self, calls):
            raise OSError("disk full")

    with track(ledger=Full()) as bill:
        draft = Draft()
        with draft.written():
            called()
        draft.settle(shown=True, why="")
    assert bill.calls == 1
    assert bill.faults


def test_another_name_to_be_priced_as():
    with track() as bill:
        draft = Draft(priced_as={"ours": "gpt-4o-mini"})
        with draft.written():
            called("ours")
        draft.settle(shown=True, why="")
        called("ours")
    assert [one.usd for one in bill.records] == [Decimal("0.00015"), None]


class Says:
    """Calls models that say their name; what a judge sees is `seen`, if given."""

    def __init__(self, seen=None):
        self.seen, self.finals = seen, []

    def attempt(self, route, *, final):
        self.finals.append(final)
        return route.name

    def read(self, answer):
        return self.seen or Candidate(text=answer)


class Never:
    blocking = False

    def judge(self, ask, answer):
        return Judgement(score=0.0, why="never")


@pytest.mark.parametrize(("baseline", "said"), [("", "large"), ("small", "small")])
def test_a_request_that_runs_unoptimised_goes_to_the_usual_route(baseline, said):
    routing = Routing(ROUTES, judge=Never(), baseline=baseline)
    caller = Says()
    with scoped(unoptimised=True):
        outcome = run(routing.answer(Ask(question="?"), caller))
    assert outcome.route == outcome.baseline.name == said
    assert caller.finals == [True]
    with track(holdout=HoldOut(share=1.0)):
        assert run(routing.answer(Ask(question="?"), Says())).route == said


def test_a_baseline_that_is_no_route():
    with pytest.raises(ConfigError, match="the baseline 'smal' is no route"):
        Routing(ROUTES, baseline="smal")


@pytest.mark.parametrize(("score", "said"), [(0.9, "small"), (0.1, "large")])
def test_a_caller_that_has_judged_already(score, said):
    routing = Routing(ROUTES, judge=Never())
    caller = Says(Judgement(score=score, why="of the wrong form"))
    assert run(routing.answer(Ask(question="?"), caller)).route == said


def test_ids_and_endings():
    assert plain_id("abcdef123") == "abcdef123"
    assert len({plain_id(f"call_{n}") for n in range(1_000)}) == 1_000
    assert ending("MAX_TOKENS") == "length"
    assert ending("budget") == ""
