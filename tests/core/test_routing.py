"""The flow behind routers, cascades and fallbacks: what is asked, in which order, what is shown."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Ask, Candidate, Decision, Judgement, Route, RouteError
from costwise_core.budget.budgets import Budget
from costwise_core.context import scoped
from costwise_core.drive import arun, run
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.prices import PriceBook
from costwise_core.route.answering import Outcome, Routing
from costwise_core.route.choosing import can_answer
from costwise_core.route.failures import Failure, failure_of
from costwise_core.route.health import Health
from costwise_core.route.session import Sessions
from costwise_core.route.watch import PromiseWatch

SMALL = Route(name="small", model="gpt-4o-mini", context_window=1_000)
MIDDLE = Route(name="middle", model="gpt-4.1", context_window=10_000)
LARGE = Route(name="large", model="gpt-4o", context_window=100_000)
ROUTES = (LARGE, SMALL, MIDDLE)
ASK = Ask(question="What is RAG?", prompt_tokens=100, output_tokens=100)


@dataclass
class Fake:
    """Answers with its name; fails as it is told."""

    errors: dict[str, BaseException] = field(default_factory=dict)
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def attempt(self, route: Route, *, final: bool) -> str:
        self.asked.append((route.name, final))
        if error := self.errors.get(route.name):
            raise error
        return f"from {route.name}"

    def read(self, answer: str) -> Candidate:
        return Candidate(text=answer)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


class AsyncFake(Fake):
    async def aattempt(self, route: Route, *, final: bool) -> str:
        await asyncio.sleep(0)
        return self.attempt(route, final=final)


@dataclass
class Says:
    """A router that always says the same."""

    decision: Decision
    blocking = False

    def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:
        return self.decision


@dataclass
class Scores:
    """A judge with a score for each route."""

    scores: dict[str, float]
    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        return Judgement(score=self.scores[answer.route], why=f"{answer.route} is so good")


class StatusError(Exception):
    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status_code = status
        self.response = type("Response", (), {"status_code": status, "headers": headers or {}})()


def clock_at(start: float = 0.0) -> tuple[Callable[[], float], Callable[[float], None]]:
    now = [start]
    return lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds)


class TestChoosing:
    def test_the_cheapest_comes_first_and_an_unknown_price_last(self) -> None:
        odd = Route(name="odd", model="nobody-sells-this")
        fitting = can_answer(ASK, (odd, *ROUTES), PriceBook())
        assert [one.route.name for one in fitting] == ["small", "middle", "large", "odd"]
        assert fitting[-1].usd is None

    def test_too_small_and_too_simple_routes_are_left_out(self) -> None:
        plain = Route(name="plain", model="gpt-4o-mini", capabilities=frozenset({"json"}))
        ask = Ask(question="?", prompt_tokens=950, output_tokens=100, needs=frozenset({"tools"}))
        names = [one.route.name for one in can_answer(ask, (*ROUTES, plain), PriceBook())]
        assert names == ["middle", "large"]

    def test_nobody_can_answer_says_what_each_lacks(self) -> None:
        plain = Route(name="plain", capabilities=frozenset())
        ask = Ask(question="?", prompt_tokens=2_000, needs=frozenset({"images"}))
        with pytest.raises(RouteError, match=r"plain cannot do images; small takes 1,000 tokens"):
            can_answer(ask, (plain, SMALL), PriceBook())

    def test_an_unknown_capability_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'tools'"):
            Route(name="x", capabilities=frozenset({"tool"}))


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (408, "timeout"),
            (429, "rate_limit"),
            (500, "overload"),
            (503, "overload"),
            (504, "timeout"),
            (529, "overload"),
            (599, "overload"),
        ],
    )
    def test_by_status(self, status: int, kind: str) -> None:
        found = failure_of(StatusError(status))
        assert found is not None
        assert found.kind == kind

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
    def test_what_the_caller_did_wrong_is_not_retried_elsewhere(self, status: int) -> None:
        assert failure_of(StatusError(status)) is None

    @pytest.mark.parametrize(
        "message",
        [
            "This model's maximum context length is 8192 tokens.",
            "prompt is too long: 210000 tokens",
            "Error code: 400 - {'code': 'context_length_exceeded'}",
        ],
    )
    def test_a_prompt_too_long_is_known_by_its_message(self, message: str) -> None:
        assert failure_of(StatusError(400, message)) == Failure(kind="context_overflow")

    def test_errors_of_costwise_never_fall_back_even_when_wrapped(self) -> None:
        refused = BudgetExceededError("no", budget="b")
        assert failure_of(refused) is None
        wrapped = StatusError(500)
        wrapped.__cause__ = refused
        assert failure_of(wrapped) is None

    def test_the_providers_error_is_found_below_a_retrying_wrapper(self) -> None:
        wrapper = RuntimeError("gave up after 3 attempts")
        wrapper.__cause__ = StatusError(429, headers={"retry-after": "7"})
        assert failure_of(wrapper) == Failure(kind="rate_limit", retry_after=7.0)

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after": "2.5"}, 2.5),
            ({"retry-after-ms": "1500"}, 1.5),
            ({}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "-3"}, 0.0),
            ({"retry-after": "99999999"}, 3600.0),
            ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ],
    )
    def test_retry_after(self, headers: dict[str, str], seconds: float | None) -> None:
        found = failure_of(StatusError(429, headers=headers))
        assert found is not None
        assert found.retry_after == seconds

    @given(st.text(), st.integers())
    def test_never_raises(self, message: str, status: int) -> None:
        failure_of(StatusError(status, message))

    def test_a_chain_that_bites_its_tail(self) -> None:
        first, second = ValueError("a"), ValueError("b")
        first.__cause__, second.__cause__ = second, first
        assert failure_of(first) is None


class TestHealth:
    def test_cools_down_after_failures_in_a_row_and_lets_one_try(self) -> None:
        clock, wait = clock_at()
        health = Health(failures=2, cool_down=10, clock=clock)
        health.failed("a", Failure(kind="overload"))
        assert health.available("a")
        health.failed("a", Failure(kind="overload"))
        assert not health.available("a")
        wait(10)
        assert [health.available("a") for _ in range(5)] == [True, False, False, False, False]
        health.succeeded("a", 1.0)
        assert health.available("a")

    def test_retry_after_is_kept_at_once(self) -> None:
        clock, wait = clock_at()
        health = Health(failures=5, clock=clock)
        health.failed("a", Failure(kind="rate_limit", retry_after=60.0))
        wait(59)
        assert not health.available("a")
        wait(1)
        assert health.available("a")

    def test_a_prompt_too_long_says_nothing_of_the_route(self) -> None:
        health = Health(failures=1)
        health.failed("a", Failure(kind="context_overflow"))
        assert health.available("a")


class TestSessions:
    def test_stays_where_the_prefix_is_warm(self) -> None:
        prices = PriceBook(
            overrides={
                "a": {"input": 1, "output": 1, "cache_read": 0.1},
                "b": {"input": 2, "output": 2, "cache_read": 0.2},
            }
        )
        a, b = Route(name="a"), Route(name="b")
        ask = Ask(question="?", prompt_tokens=10_000, prefix_tokens=9_900, conversation="7")
        fitting = can_answer(ask, (a, b), prices)
        sessions = Sessions()
        sessions.note(ask, "b")
        kept = sessions.keep(ask, Decision(model="a", why="easy"), fitting, prices)
        assert kept.model == "b"
        assert "stays on b" in kept.why
        short = Ask(question="?", prompt_tokens=10_000, prefix_tokens=100, conversation="7")
        fitting = can_answer(short, (a, b), prices)
        assert sessions.keep(short, Decision(model="a", why="easy"), fitting, prices).model == "a"

    def test_quality_is_never_held_back(self) -> None:
        sessions = Sessions()
        ask = Ask(question="?", prompt_tokens=900, prefix_tokens=900, conversation="7")
        sessions.note(ask, "small")
        up = Decision(model="large", why="hard")
        assert sessions.keep(ask, up, can_answer(ask, ROUTES, PriceBook()), PriceBook()) is up

    def test_forgets_when_the_provider_does(self) -> None:
        clock, wait = clock_at()
        sessions = Sessions(warm_for=300, clock=clock)
        sessions.note(Ask(question="?", conversation="7"), "large")
        wait(300)
        assert sessions.last(Ask(question="?", conversation="7")) == ""
        assert sessions.last(Ask(question="?")) == ""


def ask_both(routing: Routing, fake: Fake, ask: Ask = ASK) -> Outcome[str]:
    """Ask synchronously; asynchronously it must be the same."""
    outcome = run(routing.answer(ask, fake))
    other = AsyncFake(errors=fake.errors)
    again = asyncio.run(arun(routing.answer(ask, other)))
    assert (again.answer, other.asked) == (outcome.answer, fake.asked)
    return outcome


class TestRouting:
    def test_without_router_the_cheapest(self) -> None:
        fake = Fake()
        outcome = ask_both(Routing(ROUTES), fake)
        assert outcome.answer == "from small"
        assert fake.asked == [("small", True)]
        assert outcome.decision.expected_cost == Decimal("0.000075")
        assert outcome.baseline is LARGE

    def test_the_router_is_followed(self) -> None:
        routing = Routing(ROUTES, router=Says(Decision(model="large", why="hard", p=0.9)))
        outcome = ask_both(routing, Fake())
        assert (outcome.route, outcome.why) == ("large", "hard")

    def test_a_router_that_fails_sends_to_the_dearest(self) -> None:
        class Broken:
            def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:
                raise OSError("disk")

        outcome = ask_both(Routing(ROUTES, router=Broken()), Fake())
        assert outcome.route == "large"
        assert outcome.decision.abstained

    def test_a_router_that_makes_names_up_is_told(self) -> None:
        routing = Routing(ROUTES, router=Says(Decision(model="larg", why="")))
        with pytest.raises(ConfigError, match="Did you mean 'large'"):
            run(routing.answer(ASK, Fake()))

    def test_falls_back_cheapest_first(self) -> None:
        fake = Fake(errors={"large": StatusError(503), "small": TimeoutError()})
        routing = Routing(ROUTES, router=Says(Decision(model="large", why="hard")))
        outcome = ask_both(routing, fake)
        assert fake.names == ["large", "small", "middle"]
        assert [step.failure for step in outcome.steps] == ["overload", "timeout", ""]

    def test_other_errors_are_raised_at_once(self) -> None:
        fake = Fake(errors={"small": StatusError(401)})
        with pytest.raises(StatusError):
            run(Routing(ROUTES).answer(ASK, fake))
        assert fake.names == ["small"]

    def test_a_budget_is_final(self) -> None:
        name = Budget(limit=1, unit="calls").name
        fake = Fake(errors={"small": BudgetExceededError("full", budget=name)})
        with pytest.raises(BudgetExceededError):
            run(Routing(ROUTES).answer(ASK, fake))
        assert fake.names == ["small"]

    def test_the_last_error_is_raised_if_nobody_answers(self) -> None:
        fake = Fake(errors={name: StatusError(500, name) for name in ("small", "middle", "large")})
        with pytest.raises(StatusError, match="large"):
            run(Routing(ROUTES).answer(ASK, fake))

    def test_too_long_a_prompt_goes_to_larger_windows_only(self) -> None:
        other = Route(name="other", model="gpt-4.1-mini", context_window=1_000)
        fake = Fake(errors={"small": StatusError(400, "maximum context length is 1000")})
        ask_both(Routing((*ROUTES, other)), fake)
        assert fake.names == ["small", "middle"]

    def test_a_route_that_is_down_is_not_waited_for(self) -> None:
        routing = Routing(ROUTES, health=Health(failures=1))
        fake = Fake(errors={"small": StatusError(500)})
        run(routing.answer(ASK, fake))
        run(routing.answer(ASK, fake))
        assert fake.names == ["small", "middle", "middle"]

    def test_if_all_are_down_the_first_back_is_tried(self) -> None:
        health = Health(failures=1)
        for name, seconds in (("small", 50.0), ("middle", 20.0), ("large", 90.0)):
            health.failed(name, Failure(kind="rate_limit", retry_after=seconds))
        fake = Fake()
        assert run(Routing(ROUTES, health=health).answer(ASK, fake)).route == "middle"

    def test_cancelling_is_not_a_failure(self) -> None:
        fake = AsyncFake(errors={"small": asyncio.CancelledError()})
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(arun(Routing(ROUTES).answer(ASK, fake)))
        assert fake.names == ["small"]

    def test_no_routes_and_two_of_a_name(self) -> None:
        with pytest.raises(ConfigError, match="at least one"):
            Routing([])
        with pytest.raises(ConfigError, match="'small'"):
            Routing([SMALL, SMALL])


class TestCascade:
    def test_a_good_cheap_answer_is_shown(self) -> None:
        fake = Fake()
        outcome = ask_both(Routing(ROUTES, judge=Scores({"small": 0.9})), fake)
        assert fake.asked == [("small", False)]
        assert outcome.steps[0].score == 0.9

    def test_goes_up_until_one_is_good_enough(self) -> None:
        fake = Fake()
        routing = Routing(ROUTES, judge=Scores({"small": 0.1, "middle": 0.2}))
        outcome = ask_both(routing, fake)
        assert fake.asked == [("small", False), ("middle", False), ("large", True)]
        assert outcome.route == "large"

    def test_a_paid_answer_is_given_when_the_dearer_ones_fail(self) -> None:
        fake = Fake(errors={"middle": StatusError(500), "large": StatusError(429)})
        outcome = ask_both(Routing(ROUTES, judge=Scores({"small": 0.1})), fake)
        assert outcome.answer == "from small"
        assert fake.names == ["small", "middle", "large"]

    @pytest.mark.parametrize(
        "error", [BudgetExceededError("full", budget="b"), StatusError(401), ValueError("no")]
    )
    def test_a_paid_answer_is_given_whatever_stops_the_dearer_one(self, error: Exception) -> None:
        fake = Fake(errors={"middle": error})
        outcome = ask_both(Routing(ROUTES, judge=Scores({"small": 0.1})), fake)
        assert outcome.answer == "from small"
        assert fake.names == ["small", "middle"]
        assert outcome.steps[-1].failure == "error"

    def test_a_judge_that_fails_shows_nothing(self) -> None:
        outcome = ask_both(Routing((SMALL, LARGE), judge=Scores({})), Fake())
        assert outcome.route == "large"
        assert "judge failed (KeyError)" in outcome.why

    def test_a_router_starts_the_cascade_higher(self) -> None:
        fake = Fake()
        router = Says(Decision(model="middle", why="not easy"))
        ask_both(Routing(ROUTES, router=router, judge=Scores({"middle": 0.9})), fake)
        assert fake.names == ["middle"]

    @pytest.mark.parametrize(("p", "first"), [(0.1, "middle"), (0.3, "large")])
    def test_a_step_that_likely_fails_is_left_out(self, p: float, first: str) -> None:
        fake = Fake()
        router = Says(Decision(model="middle", why="?", p=p))
        run(Routing(ROUTES, router=router, judge=Scores({"middle": 1.0})).answer(ASK, fake))
        assert fake.names == [first]

    def test_no_dearer_model_once_the_time_is_up(self) -> None:
        fake = Fake()
        routing = Routing(ROUTES, judge=Scores({"small": 0.1, "middle": 0.1}), deadline=0.0)
        assert run(routing.answer(ASK, fake)).route == "small"

    def test_a_model_known_to_be_slow_is_not_begun_late(self) -> None:
        health = Health()
        health.succeeded("middle", 60.0)
        health.succeeded("large", 60.0)
        routing = Routing(ROUTES, judge=Scores({"small": 0.1}), deadline=10.0, health=health)
        assert run(routing.answer(ASK, Fake())).route == "small"

    @given(
        st.dictionaries(st.sampled_from(["small", "middle", "large"]), st.floats(0, 1), min_size=3),
        st.sets(st.sampled_from(["small", "middle", "large"]), max_size=2),
    )
    def test_always_an_answer_never_one_asked_twice(
        self, scores: dict[str, float], down: set[str]
    ) -> None:
        fake = Fake(errors={name: StatusError(503) for name in down})
        outcome = run(Routing(ROUTES, judge=Scores(scores)).answer(ASK, fake))
        assert outcome.route not in down
        assert len(set(fake.names)) == len(fake.names)
        shown = next(s for s in outcome.steps if s.route == outcome.route)
        best = max((s.score or 0.0) for s in outcome.steps if not s.failure)
        assert shown.score is None or shown.score >= 0.5 or shown.score == best


class TestWatch:
    def watched(self, said: dict[str, str], **settings: Any) -> tuple[PromiseWatch, Outcome[str]]:
        class Speaks(Fake):
            def read(self, answer: str) -> Candidate:
                return Candidate(text=said[answer.removeprefix("from ")])

        watch = PromiseWatch(share=1.0)
        fake = Speaks(errors=settings.pop("errors", {}))
        return watch, run(Routing(ROUTES, watch=watch, **settings).answer(ASK, fake))

    def test_the_cheap_answer_is_shown_and_compared(self) -> None:
        watch, outcome = self.watched({"small": "Paris.", "large": "paris"})
        assert outcome.answer == "from small"
        assert [step.route for step in outcome.steps] == ["small", "large"]
        assert "the same" in outcome.steps[-1].why
        assert (watch.state.checks, watch.state.kept) == (1, 1.0)

    def test_another_answer_counts_as_wrong(self) -> None:
        watch, outcome = self.watched({"small": "Rome", "large": "Paris"})
        assert outcome.answer == "from small"
        assert watch.state.kept == 0.0

    def test_the_dearest_is_not_asked_twice(self) -> None:
        router = Says(Decision(model="large", why="hard"))
        watch, outcome = self.watched({}, router=router)
        assert [step.route for step in outcome.steps] == ["large"]
        assert (watch.state.checks, watch.state.kept) == (1, 1.0)

    def test_what_cannot_be_compared_is_not_counted(self) -> None:
        watch, outcome = self.watched({"small": "Rome"}, errors={"large": StatusError(500)})
        assert outcome.answer == "from small"
        assert watch.state.checks == 0

    def test_held_out_requests_are_not_checked(self) -> None:
        watch = PromiseWatch(share=1.0)
        fake = Fake()
        with scoped(unoptimised=True):
            run(Routing(ROUTES, watch=watch).answer(ASK, fake))
        assert fake.asked == [("large", True)]
        assert watch.state.checks == 0
