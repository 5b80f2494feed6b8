"""LLMs that choose an LLM: before the call, by its answer, or when one fails."""

from typing import Literal

from llama_index.core.bridge.pydantic import Field
from pydantic import SkipValidation

from costwise_core.route.preferred import Preferred
from costwise_core.route.routes import AnswerJudge, Router
from costwise_core.route.watch import PromiseWatch
from costwise_core.route.ways import Rules
from llamaindex_costwise._routed import Routed

__all__ = ["Cascade", "CostRouter", "Fallback"]


class CostRouter(Routed):
    """Send each request to the cheapest LLM that will do, as the router sees it.

    LLMs that cannot call tools, or whose window is too small, are left out where that matters.
    Where the chosen one is down, overloaded or too slow, the cheapest of the others answers; other
    errors and refusals of a budget are raised. A conversation (the tag `conversation` of `track`)
    stays on its LLM while the provider's cache of its prompt is worth more than the move.

    It stands wherever an LLM does: `Settings.llm`, engines, agents, `as_structured_llm`. Tools and
    structured output go to the chosen LLM in its own way, and what one provider's LLMs left in the
    conversation (thoughts, ids, extras) is made readable for another's. LLMs that are
    `BudgetedLLM`s share one reservation for all steps of a request.

    What was decided, why, and each step is in a response's
    `additional_kwargs["costwise"]["route"]`. Synthesizers and agents pass none of that on: there it
    is in the `RouteEvent` that LlamaIndex's dispatcher hands out, and on the bill, in `why` of each
    record.

    Args:
        models: LLMs by a name of your own; cheapest first where prices are not known.
        router: Chooses; without one the cheapest that can answer does.
        routes: What to say of an LLM instead of what it says itself: what it is priced as, its
            window and abilities. Each has the name of its LLM.
        deadline: Seconds after which no other LLM is asked.
        prices: What routes are compared with; the list if not given.
        health: What is known of failing LLMs; share one between routers if you like.
        sessions: What is known of conversations.
        watch: Asks the dearest model as well for a share of the requests, and alerts when the
            answers no longer keep what was promised.

    Raises:
        ConfigError: if there is no LLM, one is a structured LLM, or a route has none.
        RouteError: from a call that no LLM can answer; it says what each lacks.

    Example:
        >>> from costwise_core import Decision
        >>> from llama_index.core.llms import MockLLM
        >>> class ByLength:
        ...     def decide(self, ask, routes):
        ...         long = ask.prompt_tokens > 100
        ...         return Decision(model="large" if long else "small", why="by length")
        >>> llm = CostRouter(
        ...     models={"small": MockLLM(max_tokens=1), "large": MockLLM(max_tokens=9)},
        ...     router=ByLength(),
        ... )
        >>> answer = llm.complete("What is RAG?")
        >>> answer.text, answer.additional_kwargs["costwise"]["route"]["why"]
        ('text', 'by length')
    """

    router: SkipValidation[Router | None] = Field(default=None, exclude=True, repr=False)
    watch: SkipValidation[PromiseWatch | None] = Field(default=None, exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CostRouter"

    def _rules(self) -> Rules:
        return Rules(router=self.router, watch=self.watch)


class Cascade(Routed):
    """Have a cheap LLM answer, and a dearer one only where a judge finds the answer wanting.

    The LLMs are asked in the order of their prices. An answer that is not good enough is not
    shown, and is on the bill as costwise's own cost; the last LLM's answer is not judged. If the
    dearer LLMs fail, the best answer there is is given. Where an object is asked for, one that does
    not fit its class is not good enough. With a router too, the router says where to begin. All
    else is as for `CostRouter`.

    Args:
        judge: Scores an answer.
        threshold: Lowest score, in [0, 1], at which an answer is shown. `calibrate` finds the
            cheapest one that keeps a promise.
        router: Chooses where to begin; without one it is the cheapest.
        stream_mode: "buffer" shows nothing of a stream until it is judged; "commit" shows the first
            LLM's stream as it comes, which is the answer then: streams are not judged.
        models: As for `CostRouter`; so are `routes`, `deadline`, `prices`, `health`,
            `sessions` and `watch`.

    Raises:
        ConfigError: as for `CostRouter`, and if the threshold is out of range.
        RouteError: from a call that no LLM can answer.

    Example:
        >>> from costwise_core import Judgement
        >>> from llama_index.core.llms import MockLLM
        >>> class LongEnough:
        ...     blocking = False
        ...     def judge(self, ask, answer):
        ...         return Judgement(score=len(answer.text) / 20, why="by length")
        >>> llm = Cascade(
        ...     models={"small": MockLLM(max_tokens=1), "large": MockLLM(max_tokens=3)},
        ...     judge=LongEnough(),
        ... )
        >>> answer = llm.complete("What is RAG?")
        >>> answer.text
        'text text text'
        >>> [step["route"] for step in answer.additional_kwargs["costwise"]["route"]["steps"]]
        ['small', 'large']
    """

    judge: SkipValidation[AnswerJudge] = Field(exclude=True, repr=False)
    threshold: float = 0.5
    router: SkipValidation[Router | None] = Field(default=None, exclude=True, repr=False)
    watch: SkipValidation[PromiseWatch | None] = Field(default=None, exclude=True, repr=False)
    stream_mode: Literal["buffer", "commit"] = "buffer"

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "Cascade"

    def _rules(self) -> Rules:
        return Rules(
            router=self.router,
            watch=self.watch,
            judge=self.judge,
            threshold=self.threshold,
            commits=self.stream_mode == "commit",
        )


class Fallback(Routed):
    """Ask the first LLM, and the others, cheapest first, only where it cannot answer.

    It goes on after rate limits, time-outs, overload, lost connections and prompts that are too
    long (to larger windows then), never after any other error: a wrong key, a malformed request and
    a budget that says no are raised. An LLM that failed is left alone for a while, or as long as
    its provider says. Once a stream has begun to speak, its errors are raised. All else is as for
    `CostRouter`.

    Args:
        models: The preferred one first.
        routes: As for `CostRouter`, and so are `deadline`, `prices`, `health` and `sessions`.

    Raises:
        ConfigError: as for `CostRouter`.
        RouteError: from a call that no LLM can answer.
        Exception: the last LLM's, if none answered.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> class Down(MockLLM):
        ...     def chat(self, messages, **kwargs):
        ...         raise TimeoutError
        >>> llm = Fallback(models={"main": Down(), "spare": MockLLM(max_tokens=1)})
        >>> from llama_index.core.llms import ChatMessage
        >>> llm.chat([ChatMessage(content="Are you there?")]).message.content
        'text'
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "Fallback"

    def _rules(self) -> Rules:
        names = tuple(self.models)
        return Rules(router=Preferred(names=names), saves=False, baseline=names[0])
