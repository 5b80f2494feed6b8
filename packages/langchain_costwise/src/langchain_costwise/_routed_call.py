"""One request on its way through the models of a router, inside the run that is open already."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, Generation
from langchain_core.runnables import RunnableBinding

from costwise_core.context import scoped
from costwise_core.drive import Flow
from costwise_core.errors import ConfigError
from costwise_core.route.answering import Outcome, Routing
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import Candidate, Route
from costwise_core.route.telling import as_metadata
from langchain_costwise._asking import ask_of, candidate_of, provider_of
from langchain_costwise._history import MARK, readable_for
from langchain_costwise._replay import replay
from langchain_costwise._spending import model_name, produced
from langchain_costwise._wrapper import aask, alive, ask, complete, live
from langchain_costwise.cache import SAID
from langchain_costwise.tracking import unshown

__all__ = ["RoutedCall", "Said"]

_WITH_TOOLS: Final = ("tool_choice", "strict", "parallel_tool_calls", "response_format")
"""Arguments that a model's `bind_tools` reads; all others go to the model itself."""


@dataclass(slots=True, eq=False)
class Said:
    """What a model answered: whole, or the first pieces of a stream and the rest of it."""

    result: ChatResult | None = None
    opening: list[ChatGenerationChunk] = field(default_factory=list)
    rest: Any = None


@dataclass(slots=True, eq=False)
class _Draft:
    said: Said
    route: str
    write: Callable[[Sequence[Generation], str], None]


@dataclass(kw_only=True, slots=True, eq=False)
class RoutedCall:
    """Calls the models for `Routing`, with what each needs: its tools, a history it can read.

    Args:
        models: By name of their route.
        routing: Decides.
        prefixes: What is known of conversations' last prompts.
        messages: The prompt.
        stop: Where answers end.
        run_manager: Of the run that is open; of what is not shown, it hears nothing.
        kwargs: The call's arguments, with what a wrapper was told.
        live: True for a stream.
        saves: Whether the bill compares with the dearest model.
    """

    models: Mapping[str, BaseChatModel]
    routing: Routing
    prefixes: Prefixes
    messages: list[BaseMessage]
    stop: list[str] | None
    run_manager: Any
    kwargs: Mapping[str, Any]
    live: bool = False
    saves: bool = True
    _drafts: list[_Draft] = field(default_factory=list)

    def flow(self) -> Flow[Outcome[Said]]:
        """Get an answer, and put on the bill what was paid for and is not shown."""
        outcome: Outcome[Said] | None = None
        try:
            asked = ask_of(
                self.messages,
                self.kwargs,
                model=self.routing.routes[0].priced_as,
                prefixes=self.prefixes,
            )
            # What a config says of the request holds for router and judge, too.
            with scoped(**(self.kwargs.get(SAID) or {})):
                outcome = yield from self.routing.answer(asked, self)
            return outcome
        finally:
            self._write_down(outcome)

    def attempt(self, route: Route, *, final: bool) -> Said:
        """Call the model of a route."""
        model, messages, kwargs = self._prepared(route)
        if final and self.live:
            return _opened(live(model, messages, self.stop, None, kwargs))
        write = unshown(route.priced_as, messages)
        manager = self.run_manager if final else None
        said = Said(result=ask(model, messages, self.stop, manager, kwargs))
        self._drafts.append(_Draft(said, route.name, write))
        return said

    async def aattempt(self, route: Route, *, final: bool) -> Said:
        """Do what `attempt` does, without blocking the event loop."""
        model, messages, kwargs = self._prepared(route)
        if final and self.live:
            return await _aopened(alive(model, messages, self.stop, None, kwargs))
        write = unshown(route.priced_as, messages)
        manager = self.run_manager if final else None
        said = Said(result=await aask(model, messages, self.stop, manager, kwargs))
        self._drafts.append(_Draft(said, route.name, write))
        return said

    def read(self, answer: Said) -> Candidate:
        """Return what a judge is to see."""
        assert answer.result is not None  # noqa: S101 - what is judged is whole
        return candidate_of(complete(answer.result)[0])

    def result(self, outcome: Outcome[Said]) -> ChatResult:
        """Return the answer, with the way it took."""
        result = outcome.answer.result
        assert result is not None  # noqa: S101 - what is no stream is whole
        generations = [
            one.model_copy(update={"message": self._marked(one.message, outcome)})
            for one in result.generations
        ]
        return result.model_copy(update={"generations": generations})

    def pieces(
        self, outcome: Outcome[Said]
    ) -> tuple[list[ChatGenerationChunk], Iterator[ChatGenerationChunk]]:
        """Return a stream: what came of it already, and the rest."""
        opening, rest = self._shown(outcome)
        return opening, _each() if rest is None else rest

    def apieces(
        self, outcome: Outcome[Said]
    ) -> tuple[list[ChatGenerationChunk], AsyncIterator[ChatGenerationChunk]]:
        """Return a stream: what came of it already, and the rest."""
        opening, rest = self._shown(outcome)
        return opening, _aeach() if rest is None else rest

    def _shown(self, outcome: Outcome[Said]) -> tuple[list[ChatGenerationChunk], Any]:
        said = outcome.answer
        opening = said.opening
        if said.result is not None:
            opening = list(replay(complete(said.result)[0]))
            first, last = opening[0].message, opening[-1].message
            if first is not last:
                # All of it is paid for, also if nobody reads on.
                first, last = cast("AIMessageChunk", first), cast("AIMessageChunk", last)
                first.usage_metadata, last.usage_metadata = last.usage_metadata, None
        if not opening:
            return opening, said.rest
        head = opening[0]
        marked = head.model_copy(update={"message": self._marked(head.message, outcome)})
        return [marked, *opening[1:]], said.rest

    def _marked(self, message: BaseMessage, outcome: Outcome[Said]) -> BaseMessage:
        names = {route.name: route.priced_as for route in self.routing.routes}
        model = names[outcome.route]
        told: dict[str, Any] = {"route": as_metadata(outcome), "model": model}
        if model != model_name(self.models[outcome.route], self.kwargs):
            told["priced_as"] = model  # the user knows better than the provider's answer
        if self.saves and outcome.baseline is not None:
            told["baseline"] = outcome.baseline.priced_as
        metadata = message.response_metadata
        return message.model_copy(
            update={"response_metadata": {**metadata, MARK: {**metadata.get(MARK, {}), **told}}}
        )

    def _prepared(self, route: Route) -> tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]:
        model = self.models[route.name]
        made_by = {name: provider_of(one) for name, one in self.models.items()}
        messages = readable_for(made_by[route.name], self.messages, made_by)
        model, kwargs = _with_tools(model, dict(self.kwargs))
        return model, messages, kwargs

    def _write_down(self, outcome: Outcome[Said] | None) -> None:
        why = {step.route: step.why for step in outcome.steps} if outcome else {}
        for draft in self._drafts:
            if outcome is None or draft.said is not outcome.answer:
                assert draft.said.result is not None  # noqa: S101 - a draft is whole
                reason = why.get(draft.route) or "nothing was answered in the end"
                draft.write(complete(draft.said.result), f"not shown: {reason}")


def _with_tools(
    model: BaseChatModel, kwargs: dict[str, Any]
) -> tuple[BaseChatModel, dict[str, Any]]:
    """Bind tools in the model's own way."""
    tools = kwargs.pop("tools", None)
    if not tools:
        return model, kwargs
    told = {name: kwargs.pop(name) for name in _WITH_TOOLS if kwargs.get(name) is not None}
    bound = model.bind_tools(tools, **told)
    if isinstance(bound, RunnableBinding) and isinstance(bound.bound, BaseChatModel):
        return bound.bound, {**kwargs, **bound.kwargs}
    if isinstance(bound, BaseChatModel):
        return bound, kwargs
    raise ConfigError(
        f"{type(model).__name__} makes a {type(bound).__name__} of itself when tools are bound; a "
        "route needs a chat model, or one with arguments bound to it."
    )


def _opened(stream: Iterator[ChatGenerationChunk]) -> Said:
    """Read a stream up to the first piece that says something: until then it may still fail."""
    said = Said(rest=stream)
    for chunk in stream:
        said.opening.append(chunk)
        if produced(chunk.message):
            break
    return said


async def _aopened(stream: AsyncIterator[ChatGenerationChunk]) -> Said:
    said = Said(rest=stream)
    async for chunk in stream:
        said.opening.append(chunk)
        if produced(chunk.message):
            break
    return said


def _each(*chunks: ChatGenerationChunk) -> Iterator[ChatGenerationChunk]:
    yield from chunks


async def _aeach(*chunks: ChatGenerationChunk) -> AsyncIterator[ChatGenerationChunk]:
    for chunk in chunks:
        yield chunk
