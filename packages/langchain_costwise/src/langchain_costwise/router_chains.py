"""A choice between whole chains: prompt, retriever, tools and model, each as its author made it."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import patch_config

from costwise_core.drive import Flow, arun, run
from costwise_core.errors import ConfigError, nearest
from costwise_core.prices import PriceBook
from costwise_core.route.answering import Outcome, Routing
from costwise_core.route.drafts import Draft
from costwise_core.route.preferred import Preferred
from costwise_core.route.routes import AnswerJudge, Ask, Candidate, Route, Router
from costwise_core.tokens import count_tokens
from costwise_core.tracking import current_tags

__all__ = ["route_chains"]

_QUESTIONS: Final = ("question", "input", "query", "messages")
_ANSWERS: Final = ("answer", "output", "result", "messages")


def route_chains(
    chains: Mapping[str, Runnable[Any, Any]],
    *,
    router: Router | None = None,
    judge: AnswerJudge | None = None,
    threshold: float = 0.5,
    routes: Sequence[Route] = (),
    deadline: float | None = None,
    prices: PriceBook | None = None,
    question: Callable[[Any], str] | None = None,
) -> Runnable[Any, Any]:
    """Return a chain that is one of the given ones, for each input the one that will do.

    It falls back to the others on errors that say nothing against the request, as `Fallback` does.
    With a judge it goes up like `Cascade`, and a stream is shown only once it is judged. Calls are
    runs of their own inside each chain, and on the bill as such; those of an answer that nobody is
    shown as costwise's own cost.

    Args:
        chains: By name, in the order in which to prefer them: cheapest first.
        router: Chooses; without one it is the first.
        judge: Scores what a chain returns: its text, or that of its field "answer" or "output".
        threshold: Lowest score, in [0, 1], at which an answer is shown.
        routes: What is known of chains, such as what their models are priced as. The last one's is
            what the bill compares with.
        deadline: Seconds after which no other chain is asked.
        prices: What routes are compared with.
        question: Finds the question in an input. Without it, it is the text or the last message, or
            the field "question", "input", "query" or "messages".

    Raises:
        ConfigError: if there is no chain, or a route without one.

    Example:
        >>> from langchain_core.runnables import RunnableLambda
        >>> lookup = RunnableLambda(lambda text: "" if "why" in text else "Oslo.")
        >>> think = RunnableLambda(lambda text: "Because of trade.")
        >>> from costwise_core import Judgement
        >>> class NotEmpty:
        ...     blocking = False
        ...     def judge(self, ask, answer):
        ...         return Judgement(score=float(bool(answer.text)), why="by length")
        >>> chain = route_chains({"lookup": lookup, "think": think}, judge=NotEmpty())
        >>> chain.invoke("What is the capital?"), chain.invoke("And why?")
        ('Oslo.', 'Because of trade.')
    """
    for route in routes:
        if route.name not in chains:
            raise ConfigError(
                f"there is a route {route.name!r} and no chain of that name; chains are "
                f"{', '.join(chains)}.{nearest(route.name, chains)}"
            )
    said = {route.name: route for route in routes}
    routing = Routing(
        [said.get(name) or Route(name=name) for name in chains],
        router=router or (Preferred(names=tuple(chains)) if judge is None else None),
        judge=judge,
        threshold=threshold,
        deadline=deadline,
        prices=prices,
    )
    return _Chains(dict(chains), routing, question or _question)


class _Chains(Runnable[Any, Any]):
    """One of several chains."""

    def __init__(
        self,
        chains: Mapping[str, Runnable[Any, Any]],
        routing: Routing,
        question: Callable[[Any], str],
    ) -> None:
        self._chains, self._routing, self._question = chains, routing, question

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Answer with one of the chains."""

        def answer(given: Any, run_manager: Any, config: RunnableConfig) -> Any:  # noqa: ARG001
            return run(self._flow(self._call(given, config, kwargs))).answer.whole

        return self._call_with_config(answer, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Do what `invoke` does, without blocking the event loop."""

        async def answer(given: Any, run_manager: Any, config: RunnableConfig) -> Any:  # noqa: ARG001
            flow = self._flow(self._call(given, config, kwargs))
            return (await arun(flow)).answer.whole

        return await self._acall_with_config(answer, input, config)

    def stream(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Answer piece by piece."""
        call = self._call(input, ensure_config(config), kwargs, live=True)
        piece = run(self._flow(call)).answer
        yield from piece.opening
        if piece.rest is not None:
            yield from piece.rest

    async def astream(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Do what `stream` does, without blocking the event loop."""
        call = self._call(input, ensure_config(config), kwargs, live=True)
        piece = (await arun(self._flow(call))).answer
        for one in piece.opening:
            yield one
        if piece.rest is not None:
            async for one in piece.rest:
                yield one

    def _call(
        self, given: Any, config: RunnableConfig, kwargs: Mapping[str, Any], *, live: bool = False
    ) -> "_Call":
        return _Call(
            chains=self._chains,
            given=given,
            config=config,
            kwargs=kwargs,
            baseline=self._routing.routes[-1].model,
            live=live,
        )

    def _flow(self, call: "_Call") -> Flow[Outcome["_Said"]]:
        text = self._question(call.given)
        asked = Ask(
            question=text,
            prompt_tokens=count_tokens(text).tokens,
            conversation=current_tags().get("conversation", ""),
        )
        outcome: Outcome[_Said] | None = None
        try:
            outcome = yield from self._routing.answer(asked, call)
            return outcome
        finally:
            call.settle(outcome)


@dataclass(slots=True, eq=False)
class _Said:
    draft: Draft
    whole: Any = None
    opening: list[Any] = field(default_factory=list)
    rest: Any = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Call:
    """Calls the chains for `Routing`."""

    chains: Mapping[str, Runnable[Any, Any]]
    given: Any
    config: RunnableConfig
    kwargs: Mapping[str, Any]
    baseline: str
    live: bool = False
    _said: list[_Said] = field(default_factory=list)

    def attempt(self, route: Route, *, final: bool) -> _Said:
        chain, config, said = self._begin(route)
        with said.draft.written():
            if final and self.live:
                said.rest = chain.stream(self.given, config, **self.kwargs)
                for piece in said.rest:
                    said.opening.append(piece)
                    break
            else:
                said.whole = chain.invoke(self.given, config, **self.kwargs)
                said.opening.append(said.whole)
        return said

    async def aattempt(self, route: Route, *, final: bool) -> _Said:
        chain, config, said = self._begin(route)
        with said.draft.written():
            if final and self.live:
                said.rest = chain.astream(self.given, config, **self.kwargs)
                async for piece in said.rest:
                    said.opening.append(piece)
                    break
            else:
                said.whole = await chain.ainvoke(self.given, config, **self.kwargs)
                said.opening.append(said.whole)
        return said

    def read(self, answer: _Said) -> Candidate:
        return Candidate(text=_text(answer.whole, _ANSWERS))

    def settle(self, outcome: Outcome[_Said] | None) -> None:
        """Say which of the chains' calls are costwise's own cost."""
        for said in self._said:
            shown = outcome is not None and said is outcome.answer
            said.draft.settle(shown=shown, why=outcome.why if outcome and shown else "not shown")

    def _begin(self, route: Route) -> tuple[Runnable[Any, Any], RunnableConfig, _Said]:
        said = _Said(Draft(baseline_model=self.baseline))
        self._said.append(said)
        config = patch_config(self.config)
        config["metadata"] = {**config.get("metadata", {}), "costwise_route": route.name}
        return self.chains[route.name], config, said


def _question(given: Any) -> str:
    if isinstance(given, PromptValue):
        given = given.to_messages()
    if isinstance(given, Mapping) and isinstance(given.get("messages"), list):
        given = given["messages"]
    if isinstance(given, list):
        human = [one for one in given if isinstance(one, HumanMessage)]
        given = human[-1] if human else (given[-1] if given else "")
    return _text(given, _QUESTIONS)


def _text(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, Mapping):
        value = next((value[name] for name in names if name in value), value)
    if isinstance(value, list) and value and isinstance(value[-1], BaseMessage):
        value = value[-1]
    return value.text if isinstance(value, BaseMessage) else str(value)
