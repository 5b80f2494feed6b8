"""The contracts of a router and of a judge of answers as pytest classes.

Example:
    >>> class TestMyRouter(RouterContract):
    ...     def make_router(self):
    ...         return MyRouter()
"""

# ruff: noqa: S101 - these are tests, shipped

from typing import Any

import pytest

from costwise_core.route.routes import AnswerJudge, Ask, Candidate, Route, Router
from costwise_core.testing.entries import TEXTS

__all__ = ["AnswerJudgeContract", "RouterContract"]

ROUTES = (
    Route(name="small", model="openai:gpt-4o-mini", context_window=128_000),
    Route(name="middle", model="openai:gpt-4.1"),
    Route(name="large", model="openai:gpt-4o"),
)
QUESTIONS = (
    "What is RAG?",
    "Prove that there are infinitely many primes, step by step.",
    "Translate 'good morning' into German.",
    "",
    " \n",
    *TEXTS,
    "word " * 20_000,
)


class RouterContract:
    """Subclass it, say how a router is made, and pytest runs the contract."""

    def make_router(self) -> Any:
        """Return a router that chooses between the routes it is shown."""
        raise NotImplementedError

    @pytest.fixture
    def router(self) -> Any:
        """The one under test."""
        return self.make_router()

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_one_of_the_routes_and_why(self, router: Router, question: str) -> None:
        """Whatever is asked, a route that was offered is chosen, and a reason given."""
        for routes in (ROUTES, ROUTES[::2]):
            decision = router.decide(Ask(question=question, prompt_tokens=100), routes)
            assert decision.model in {route.name for route in routes}
            assert decision.why
            assert decision.p is None or 0 <= decision.p <= 1
            assert decision.expected_cost is None or decision.expected_cost >= 0

    def test_the_only_route_there_is(self, router: Router) -> None:
        """Where one model can answer, it does."""
        for route in ROUTES:
            assert router.decide(Ask(question="What is RAG?"), [route]).model == route.name

    def test_the_same_again(self, router: Router) -> None:
        """Deciding changes nothing that the next decision rests on."""
        asked = [Ask(question=question, prompt_tokens=50) for question in QUESTIONS[:3]]
        first = [router.decide(ask, ROUTES).model for ask in asked]
        assert first == [router.decide(ask, ROUTES).model for ask in asked]

    def test_no_question_is_told(self, router: Router) -> None:
        """A reason goes into logs and reports, where the prompt has no place."""
        ask = Ask(question="My pin is 4711-secret, what now?", prompt_tokens=12)
        assert "4711-secret" not in router.decide(ask, ROUTES).why


class AnswerJudgeContract:
    """Subclass it, say how a judge is made, and pytest runs the contract."""

    def make_judge(self) -> Any:
        """Return a judge."""
        raise NotImplementedError

    @pytest.fixture
    def judge(self) -> Any:
        """The one under test."""
        return self.make_judge()

    @pytest.mark.parametrize("text", ["Paris is the capital of France.", "", " \n", *TEXTS])
    def test_a_score_and_why(self, judge: AnswerJudge, text: str) -> None:
        """Whatever an answer says, its score is from 0 to 1 and has a reason."""
        for question in ("What is the capital of France?", "", text):
            answer = Candidate(text=text, route="small", finish_reason="stop")
            found = judge.judge(Ask(question=question), answer)
            assert 0 <= found.score <= 1
            assert found.why

    def test_the_same_again(self, judge: AnswerJudge) -> None:
        """Judging changes nothing that the next judgement rests on."""
        ask, answer = Ask(question="What is 2 + 3?"), Candidate(text="2 + 3 = 5", route="small")
        assert judge.judge(ask, answer).score == judge.judge(ask, answer).score
