"""Chat models that choose a model: before the call, by its answer, or when one fails."""

from typing import Literal

from pydantic import Field, SkipValidation

from costwise_core.route.preferred import Preferred
from costwise_core.route.routes import AnswerJudge, Router
from costwise_core.route.watch import PromiseWatch
from costwise_core.route.ways import Rules
from langchain_costwise._routed import Routed

__all__ = ["Cascade", "CostRouter", "Fallback"]


class CostRouter(Routed):
    """Send each request to the cheapest model that will do, as the router sees it.

    Models that lack what a request needs, or whose window is too small, are left out first. Where
    the chosen one is down, overloaded or too slow, the cheapest of the others answers; other errors
    and refusals of a budget are raised. A conversation (the tag `conversation` of `track`, the same
    in a config's metadata, or LangGraph's thread) stays on its model while the provider's cache of
    its prompt is worth more than the move.

    Every way to call it is one run for callbacks, usage counters and caches. What was decided, why,
    and each step is in the answer's `response_metadata["costwise"]["route"]`. Tools are bound in
    each model's own way, structured output is asked for as a tool, and what one provider's models
    left in the conversation (thoughts, ids) is made readable for another's. Models that are
    `BudgetedChatModel`s share one reservation for all steps of a request.

    Args:
        models: Chat models by a name of your own; cheapest first where prices are not known.
        router: Chooses; without one the cheapest that can answer does.
        routes: What to say of a model instead of what it says itself: what it is priced as, its
            window and abilities. Each has the name of its model.
        deadline: Seconds after which no other model is asked.
        prices: What routes are compared with; the list if not given.
        health: What is known of failing models; share one between routers if you like.
        sessions: What is known of conversations.
        watch: Asks the dearest model as well for a share of the requests, and alerts when the
            answers no longer keep what was promised.

    Raises:
        ValueError: if there is no model, or a route without one.
        RouteError: from a call that no model can answer; it says what each lacks.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> class ByLength:
        ...     def decide(self, ask, routes):
        ...         long = ask.prompt_tokens > 100
        ...         return Decision(model="large" if long else "small", why="by length")
        >>> from costwise_core import Decision
        >>> model = CostRouter(
        ...     models={
        ...         "small": FakeListChatModel(responses=["A method."]),
        ...         "large": FakeListChatModel(responses=["It is a method that ..."]),
        ...     },
        ...     router=ByLength(),
        ... )
        >>> answer = model.invoke("What is RAG?")
        >>> answer.text, answer.response_metadata["costwise"]["route"]["why"]
        ('A method.', 'by length')
    """

    router: SkipValidation[Router | None] = Field(default=None, exclude=True)
    watch: SkipValidation[PromiseWatch | None] = Field(default=None, exclude=True)

    def _rules(self) -> Rules:
        return Rules(router=self.router, watch=self.watch)


class Cascade(Routed):
    """Have a cheap model answer, and a dearer one only where a judge finds the answer wanting.

    The models are asked in the order of their prices. An answer that is not good enough is not
    shown, and is on the bill as costwise's own cost; the last model's answer is not judged. If the
    dearer models fail, the best answer there is is given. With a router too, the router says where
    to begin. All else is as for `CostRouter`.

    Args:
        judge: Scores an answer.
        threshold: Lowest score, in [0, 1], at which an answer is shown. `calibrate` finds the
            cheapest one that keeps a promise.
        router: Chooses where to begin; without one it is the cheapest.
        stream_mode: "buffer" shows nothing of a stream until it is judged; "commit" shows the first
            model's stream as it comes, which is the answer then: streams are not judged.
        models: As for `CostRouter`; so are `routes`, `deadline`, `prices`, `health`,
            `sessions` and `watch`.

    Raises:
        ValueError: if there is no model, a route without one, or a threshold out of range.
        RouteError: from a call that no model can answer.

    Example:
        >>> from costwise_core import Judgement
        >>> from langchain_core.language_models import FakeListChatModel
        >>> class NotEmpty:
        ...     blocking = False
        ...     def judge(self, ask, answer):
        ...         return Judgement(score=float(bool(answer.text)), why="by length")
        >>> model = Cascade(
        ...     models={
        ...         "small": FakeListChatModel(responses=[""]),
        ...         "large": FakeListChatModel(responses=["A method."]),
        ...     },
        ...     judge=NotEmpty(),
        ... )
        >>> answer = model.invoke("What is RAG?")
        >>> answer.text
        'A method.'
        >>> [step["route"] for step in answer.response_metadata["costwise"]["route"]["steps"]]
        ['small', 'large']
    """

    judge: SkipValidation[AnswerJudge] = Field(exclude=True)
    threshold: float = 0.5
    router: SkipValidation[Router | None] = Field(default=None, exclude=True)
    watch: SkipValidation[PromiseWatch | None] = Field(default=None, exclude=True)
    stream_mode: Literal["buffer", "commit"] = "buffer"

    def _rules(self) -> Rules:
        return Rules(
            router=self.router,
            watch=self.watch,
            judge=self.judge,
            threshold=self.threshold,
            commits=self.stream_mode == "commit",
        )


class Fallback(Routed):
    """Ask the first model, and the others, cheapest first, only where it cannot answer.

    It goes on after rate limits, time-outs, overload, lost connections and prompts that are too
    long (to larger windows then), never after any other error: a wrong key, a malformed request and
    a budget that says no are raised. A model that failed is left alone for a while, or as long as
    its provider says. Once a stream has begun to speak, its errors are raised. All else is as for
    `CostRouter`.

    Args:
        models: The preferred one first.
        routes: As for `CostRouter`, and so are `deadline`, `prices`, `health` and `sessions`.

    Raises:
        ValueError: if there is no model, or a route without one.
        RouteError: from a call that no model can answer.
        Exception: the last model's, if none answered.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> class Down(FakeListChatModel):
        ...     def _call(self, *args, **kwargs):
        ...         raise TimeoutError
        >>> spare = FakeListChatModel(responses=["Yes."])
        >>> model = Fallback(models={"main": Down(responses=[""]), "spare": spare})
        >>> model.invoke("Are you there?").text
        'Yes.'
    """

    def _rules(self) -> Rules:
        names = tuple(self.models)
        return Rules(router=Preferred(names=names), saves=False, baseline=names[0] if names else "")
