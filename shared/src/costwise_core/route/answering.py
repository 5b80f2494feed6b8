"""Gets a request answered: one flow behind `CostRouter`, `Cascade` and `Fallback`."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from costwise_core.context import current_request
from costwise_core.drive import Flow, call
from costwise_core.errors import ConfigError, nearest
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.route.choosing import Priced, can_answer
from costwise_core.route.failures import failure_of
from costwise_core.route.health import Health
from costwise_core.route.routes import (
    AnswerJudge,
    Ask,
    Candidate,
    Decision,
    Judgement,
    Route,
    Router,
)
from costwise_core.route.session import Sessions
from costwise_core.route.watch import PromiseWatch
from costwise_core.tracking import current_tags

__all__ = ["Caller", "Outcome", "Routing", "Step"]

T = TypeVar("T")


class Caller(Protocol[T]):
    """How a framework's models are called. `aattempt`, if there is one, is its awaited twin."""

    def attempt(self, route: Route, *, final: bool) -> T:
        """Call the model of a route.

        Args:
            route: Which.
            final: True if what comes is the answer, so that a stream may be shown as it comes;
                False if it is judged first. A stream's first piece must have come when this
                returns: nothing else can answer afterwards.
        """
        ...

    def read(self, answer: T) -> Candidate | Judgement:
        """Return what a judge is to see of an answer that was not final.

        A judgement is taken as it is: of an answer that is not even of the form asked for.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One call on the way to an answer.

    Args:
        route: Name of the route.
        why: What became of it, one sentence for a person.
        failure: Kind of the failure; "" if it answered.
        score: What the judge gave the answer; None if it was not judged.
        seconds: Wall time.

    Example:
        >>> Step(route="small", why="timed out", failure="timeout").score is None
        True
    """

    route: str
    why: str
    failure: str = ""
    score: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[T]):
    """An answer and how it came about.

    Args:
        answer: What the framework's model returned.
        route: Name of the route that answered.
        decision: What was decided before the first call.
        steps: Every call made, in order.
        baseline: What would have answered without routing; for the bill.

    Example:
        >>> decision = Decision(model="small", why="the only one")
        >>> Outcome(answer="Hi.", route="small", decision=decision).why
        'the only one'
    """

    answer: T
    route: str
    decision: Decision
    steps: tuple[Step, ...] = ()
    baseline: Route | None = None

    @property
    def why(self) -> str:
        """One sentence for a person."""
        said = [f"{step.route}: {step.why}" for step in self.steps if step.why]
        return "; ".join([self.decision.why, *said])


@dataclass(slots=True)
class _Held(Generic[T]):
    answer: T
    route: str
    score: float


class Routing:
    """Decides, calls, judges, goes up, falls back: what a routed request goes through.

    1. Routes that cannot do what the request needs, or are too small for it, are left out; those
       that are cooling down too, if others are left.
    2. The router chooses one; without a router it is the cheapest.
    3. An error that says nothing against the request sends it to the cheapest of the others; one
       about the prompt's length only to those with a larger window. Every other error is raised.
    4. With a judge, an answer it scores below the threshold is not shown and the next dearer route
       is asked. The last one's answer is not judged. If dearer routes fail, whatever the
       error, or take too long, the best answer there is is given: it was paid for.

    Args:
        routes: The models, at least one.
        router: Chooses the first; None for the cheapest.
        judge: Scores answers; None to show the first one.
        threshold: Lowest score at which an answer is shown, in [0, 1].
        deadline: Seconds after which no other model is asked. A dearer one is not asked either if
            it usually takes longer than what is left.
        prices: What routes are priced with; the list if not given.
        health: What is known of failing routes; shared between several of these if you like.
        sessions: What is known of conversations.
        baseline: Name of the route that would answer if nothing were routed, which it does where a
            request runs unoptimised (see `HoldOut`); "" is the dearest that can.
        watch: Compares a share of the answers with the baseline's; None for no checks.

    Raises:
        ConfigError: if there is no route, two have one name, the threshold is out of range, or
            the baseline is no route.

    Example:
        >>> from costwise_core.drive import run
        >>> class Echo:
        ...     def attempt(self, route, *, final):
        ...         return f"{route.name} answers"
        ...     def read(self, answer):
        ...         return Candidate(text=answer)
        >>> routing = Routing([Route(name="gpt-4o"), Route(name="gpt-4o-mini")])
        >>> run(routing.answer(Ask(question="What is RAG?"), Echo())).answer
        'gpt-4o-mini answers'
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        router: Router | None = None,
        judge: AnswerJudge | None = None,
        threshold: float = 0.5,
        deadline: float | None = None,
        prices: PriceBook | None = None,
        health: Health | None = None,
        sessions: Sessions | None = None,
        baseline: str = "",
        watch: PromiseWatch | None = None,
    ) -> None:
        names = [route.name for route in routes]
        if not names:
            raise ConfigError("there are no routes; give at least one.")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two routes are called {min(twice)!r}; names must differ.")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be from 0 to 1, got {threshold}.")
        if baseline and baseline not in names:
            raise ConfigError(f"the baseline {baseline!r} is no route.{nearest(baseline, names)}")
        self.routes = tuple(routes)
        self.router, self.judge, self.threshold = router, judge, threshold
        self.deadline = deadline
        self.prices = prices or shared_prices()
        self.health = health or Health()
        self.sessions = sessions or Sessions()
        self.baseline = baseline
        self.watch = watch

    def answer(self, ask: Ask, caller: Caller[T]) -> Flow[Outcome[T]]:
        """Get one request answered.

        Raises:
            RouteError: if no route can answer; nothing was sent.
            Exception: the last model's, if none answered.
        """
        began = time.monotonic()
        unoptimised = current_request().unoptimised
        checked = not unoptimised and self._is_checked()
        judge = None if unoptimised else self.judge
        fitting = can_answer(ask, self.routes, self.prices)
        decision = yield from self._decide(ask, fitting)
        steps: list[Step] = []
        held = yield from self._go(
            ask, caller, fitting, decision.model, judge, steps, began, checked=checked
        )
        self.sessions.note(ask, held.route)
        usual = self.usual(fitting)
        if checked:
            yield from self._check(ask, caller, held, usual, steps)
        return Outcome(
            answer=held.answer,
            route=held.route,
            decision=decision,
            steps=tuple(steps),
            baseline=usual,
        )

    def _go(
        self,
        ask: Ask,
        caller: Caller[T],
        fitting: Sequence[Priced],
        first: str,
        judge: AnswerJudge | None,
        steps: list[Step],
        began: float,
        *,
        checked: bool,
    ) -> Flow[_Held[T]]:
        """Ask one route after another, `first` first, until an answer will do."""
        held: _Held[T] | None = None
        error: Exception | None = None
        ranks = {one.route.name: rank for rank, one in enumerate(fitting)}
        left = sorted(fitting, key=lambda one: one.route.name != first)
        while left and (one := self._next(left, began, steps)):
            route = one.route
            left = [other for other in left if other is not one]
            dearer = [other for other in left if ranks[other.route.name] > ranks[route.name]]
            last = judge is None or not dearer
            asked = time.monotonic()
            try:
                answer = yield from call(caller.attempt, route, final=last and not checked)
            except Exception as raised:
                failure = failure_of(raised)
                if failure is None and held is None:
                    raise
                if failure is None:  # a budget's refusal, say: what was paid for is still given
                    why = f"failed ({type(raised).__name__})"
                    steps.append(_step(route, why, asked, failure="error"))
                    break
                error = raised
                self.health.failed(route.name, failure)
                why = f"{failure.kind} ({type(raised).__name__})"
                steps.append(_step(route, why, asked, failure=failure.kind))
                if failure.kind == "context_overflow":
                    left = [other for other in left if _is_larger(other.route, route)]
                continue
            self.health.succeeded(route.name, time.monotonic() - asked)
            if last:
                steps.append(_step(route, "", asked))
                return _Held(answer, route.name, 1.0)
            judgement = yield from self._score(ask, route, caller.read(answer))
            steps.append(_step(route, judgement.why, asked, score=judgement.score))
            if held is None or judgement.score >= held.score:
                held = _Held(answer, route.name, judgement.score)
            if judgement.score >= self.threshold:
                break
            left = dearer
        if held is None:
            raise error or TimeoutError(f"no route answered within {self.deadline} seconds.")
        return held

    def _is_checked(self) -> bool:
        if self.watch is None:
            return False
        return self.watch.due(current_tags().get("request") or uuid.uuid4().hex)

    def _check(
        self, ask: Ask, caller: Caller[T], held: _Held[T], usual: Route, steps: list[Step]
    ) -> Flow[None]:
        """Compare the answer with what the dearest model says; whatever fails tells nothing."""
        if self.watch is None:
            return
        if held.route == usual.name:
            self.watch.note(shown=1.0, strong=1.0)
            return
        asked = time.monotonic()
        try:
            other = yield from call(caller.attempt, usual, final=False)
            same = yield from self._says_the_same(ask, caller.read(held.answer), caller.read(other))
        except Exception as error:  # noqa: BLE001 - the answer is there; nothing depends on this
            why = f"asked to compare, in vain ({type(error).__name__})"
            steps.append(_step(usual, why, asked, failure="error"))
            return
        what = "the same" if same else "something else"
        steps.append(_step(usual, f"asked to compare: it says {what}", asked))
        self.watch.note(shown=float(same), strong=1.0)

    def _says_the_same(
        self, ask: Ask, shown: Candidate | Judgement, strong: Candidate | Judgement
    ) -> Flow[bool]:
        if self.watch is None or not isinstance(strong, Candidate):
            raise ValueError("nothing to compare with")
        if not isinstance(shown, Candidate) or shown.tool_calls != strong.tool_calls:
            return False
        return (yield from call(self.watch.same.same, ask.question, strong.text, shown.text))

    def usual(self, fitting: Sequence[Priced]) -> Route:
        """Return what would answer if nothing were routed."""
        named = [one.route for one in fitting if one.route.name == self.baseline]
        return named[0] if named else fitting[-1].route

    def _decide(self, ask: Ask, fitting: Sequence[Priced]) -> Flow[Decision]:
        if current_request().unoptimised:
            return Decision(model=self.usual(fitting).name, why="the request runs unoptimised")
        routes = [one.route for one in fitting]
        if self.router is None:
            decision = Decision(model=routes[0].name, why="the cheapest that can answer")
        else:
            try:
                decision = yield from call(self.router.decide, ask, routes)
            except Exception as error:  # noqa: BLE001 - whoever cannot tell takes the safe one
                decision = Decision(
                    model=routes[-1].name,
                    why=f"the router failed ({type(error).__name__}), so the dearest answers",
                    abstained=True,
                )
        names = [route.name for route in routes]
        if decision.model not in names:
            raise ConfigError(
                f"the router chose {decision.model!r}; it may choose {', '.join(names)}."
                f"{nearest(decision.model, names)}"
            )
        at = names.index(decision.model)
        if self._pays_to_skip(decision, fitting[at:]):
            skipped, at = names[at], at + 1
            why = f"{decision.why}; {skipped} is left out: it would likely be asked in vain"
            decision = replace(decision, model=names[at], why=why)
        decision = replace(decision, expected_cost=fitting[at].usd)
        return self.sessions.keep(ask, decision, fitting, self.prices)

    def _pays_to_skip(self, decision: Decision, dearer: Sequence[Priced]) -> bool:
        """Whether asking the next dearer model at once is expected to cost less than going up."""
        if self.judge is None or decision.p is None or len(dearer) < 2:
            return False
        first, second = dearer[0].usd, dearer[1].usd
        if first is None or second is None:
            return False
        return first + Decimal(decision.p) * second > second

    def _next(self, left: Sequence[Priced], began: float, steps: Sequence[Step]) -> Priced | None:
        """Return the first route worth asking; where nothing was asked yet there always is one."""
        if steps and self.deadline is not None:
            remaining = self.deadline - (time.monotonic() - began)
            expected = self.health.expected_seconds
            left = [one for one in left if expected(one.route.name) < remaining]
        found = next((one for one in left if self.health.available(one.route.name)), None)
        if found is None and not steps:
            return min(left, key=lambda one: self.health.back_in(one.route.name))
        return found

    def _score(self, ask: Ask, route: Route, seen: Candidate | Judgement) -> Flow[Judgement]:
        if isinstance(seen, Judgement):
            return seen
        if self.judge is None:  # pragma: no cover - not asked then
            return Judgement(score=1.0, why="")
        try:
            return (yield from call(self.judge.judge, ask, replace(seen, route=route.name)))
        except Exception as error:  # noqa: BLE001 - an answer nobody could judge is not shown
            return Judgement(score=0.0, why=f"the judge failed ({type(error).__name__})")


def _step(
    route: Route, why: str, asked: float, *, failure: str = "", score: float | None = None
) -> Step:
    seconds = time.monotonic() - asked
    return Step(route=route.name, why=why, failure=failure, score=score, seconds=seconds)


def _is_larger(route: Route, than: Route) -> bool:
    if route.context_window is None or than.context_window is None:
        return True
    return route.context_window > than.context_window
