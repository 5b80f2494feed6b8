"""One request on its way through the LLMs of a router."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import BaseTool
from llama_index_instrumentation import get_dispatcher

from costwise_core.drive import Flow
from costwise_core.errors import CostwiseError
from costwise_core.route.answering import Outcome, Routing
from costwise_core.route.choosing import can_answer
from costwise_core.route.drafts import Draft
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import Ask, Candidate, Judgement, Route
from costwise_core.route.telling import as_metadata
from llamaindex_costwise._asking import Prompt, ask_of, candidate_of, provider_of
from llamaindex_costwise._convert import pieces
from llamaindex_costwise._history import Makers, readable_for
from llamaindex_costwise._spending import innermost
from llamaindex_costwise.events import RouteEvent

__all__ = ["MARK", "Offer", "Offered", "RoutedCall", "Said", "Wanted"]

MARK = "costwise"
"""Where in a response's `additional_kwargs` costwise says what it did."""

_dispatcher: Final = get_dispatcher(__name__)


class Offer(NamedTuple):
    """Tools, as LlamaIndex's `chat_with_tools` and its twins take them."""

    tools: list[BaseTool]
    options: Mapping[str, Any]


class Wanted(NamedTuple):
    """An object, as LlamaIndex's `structured_predict` and its twins are asked for it."""

    output_cls: type[BaseModel]
    template: PromptTemplate
    llm_kwargs: dict[str, Any] | None
    prompt_args: Mapping[str, Any]


class Offered(list[dict[str, Any]]):
    """The schemas of tools, with the tools themselves: each LLM prepares them in its own way."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(tool.metadata.to_openai_tool() for tool in offer.tools)
        self.offer = offer


@dataclass(slots=True, eq=False)
class Said:
    """What an LLM answered: whole, or the first pieces of a stream and the rest of it.

    `refused` is the error of one that did not give the object it was asked for.
    """

    route: Route
    draft: Draft
    answer: Any = None
    opening: list[Any] = field(default_factory=list)
    rest: Any = None
    refused: Exception | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class RoutedCall:
    """Calls the LLMs for `Routing`, with what each needs: its tools, a history it can read.

    Args:
        models: By name of their route.
        routing: Decides.
        prefixes: What is known of conversations' last prompts.
        makers: Who wrote which message.
        prompt: The prompt or messages.
        kwargs: The call's arguments.
        wanted: The object that is asked for, if one is.
        live: True for a stream.
        saves: Whether the bill compares with what would have answered without routing.
    """

    models: Mapping[str, LLM]
    routing: Routing
    prefixes: Prefixes
    makers: Makers
    prompt: Prompt
    kwargs: Mapping[str, Any]
    wanted: Wanted | None = None
    live: bool = False
    saves: bool = True
    _baseline: str = ""
    _said: list[Said] = field(default_factory=list)

    def flow(self) -> Flow[Outcome[Said]]:
        """Get an answer; what was paid for on the way is on the bill.

        Raises:
            RouteError: if no route can answer.
            Exception: the last LLM's, if none answered.
        """
        outcome: Outcome[Said] | None = None
        try:
            asked = self._ask()
            outcome = yield from self.routing.answer(asked, self)
        finally:
            self._settle(outcome)
        if outcome.answer.refused is not None:
            raise outcome.answer.refused
        told = as_metadata(outcome)
        _dispatcher.event(RouteEvent(model=outcome.route, why=outcome.why, told=told))
        return outcome

    def attempt(self, route: Route, *, final: bool) -> Said:
        """Call the LLM of a route."""
        said, live = self._begun(route), self.live and final
        name, args, kwargs = self._arguments(route, live=live)
        with said.draft.written():
            try:
                answer = getattr(self.models[route.name], name)(*args, **kwargs)
            except (ValueError, TypeError, AssertionError) as error:
                self._refuse(said, error, final=final)
                return said
            if not live:
                return self._whole(said, answer)
            said.rest = answer
            for piece in answer:
                said.opening.append(piece)
                if _speaks(piece):
                    break
        return said

    async def aattempt(self, route: Route, *, final: bool) -> Said:
        """Do what `attempt` does, without blocking the event loop."""
        said, live = self._begun(route), self.live and final
        name, args, kwargs = self._arguments(route, live=live)
        with said.draft.written():
            try:
                answer = await getattr(self.models[route.name], f"a{name}")(*args, **kwargs)
            except (ValueError, TypeError, AssertionError) as error:
                self._refuse(said, error, final=final)
                return said
            if not live:
                return self._whole(said, answer)
            said.rest = answer
            async for piece in answer:
                said.opening.append(piece)
                if _speaks(piece):
                    break
        return said

    def read(self, answer: Said) -> Candidate | Judgement:
        """Return what a judge is to see."""
        if answer.refused is not None:
            kind = type(answer.refused).__name__
            return Judgement(score=0.0, why=f"it is not the object asked for ({kind})")
        return candidate_of(answer.answer)

    # --- the answer, with the way it took --------------------------------------------------------

    def result(self, outcome: Outcome[Said]) -> Any:
        """Return the answer."""
        return _marked(outcome.answer.answer, _told(outcome))

    def shown(self, outcome: Outcome[Said]) -> Generator[Any, None, None]:
        """Yield the pieces of a stream."""
        said, told, last = outcome.answer, _told(outcome), None
        with nullcontext() if said.rest is None else closing(said.rest):
            for last in _opening(said):
                yield _marked(last, told)
            for last in said.rest or ():
                yield _marked(last, told)
        self._note(said, last)

    async def ashown(self, outcome: Outcome[Said]) -> AsyncGenerator[Any, None]:
        """Yield the pieces of a stream."""
        said, told, last = outcome.answer, _told(outcome), None
        async with nullcontext() if said.rest is None else aclosing(said.rest):
            for last in _opening(said):
                yield _marked(last, told)
            if said.rest is not None:
                async for last in said.rest:
                    yield _marked(last, told)
        self._note(said, last)

    # --- one attempt ----------------------------------------------------------------------------

    def _ask(self) -> Ask:
        model = self.routing.routes[0].priced_as
        structured = self.wanted is not None
        asked = ask_of(
            self.prompt, self.kwargs, model=model, prefixes=self.prefixes, structured=structured
        )
        if self.saves:
            fitting = can_answer(asked, self.routing.routes, self.routing.prices)
            self._baseline = self.routing.usual(fitting).priced_as
        return asked

    def _begun(self, route: Route) -> Said:
        llm = self.models[route.name]
        # An LLM without a name of its own goes by its class.
        own = (llm.metadata.model_name, innermost(llm).class_name())
        priced_as = dict.fromkeys(own, route.priced_as)
        draft = Draft(baseline_model=self._baseline, priced_as=priced_as)
        said = Said(route, draft)
        self._said.append(said)
        return said

    def _arguments(self, route: Route, *, live: bool) -> tuple[str, tuple[Any, ...], Any]:
        """Return the name of what to call and with what; its awaited twin has an "a" in front."""
        kwargs, stream = dict(self.kwargs), "stream_" if live else ""
        if isinstance(self.prompt, str):
            return f"{stream}complete", (str(self.prompt),), kwargs
        provider = provider_of(self.models[route.name])
        if self.wanted is not None:
            output_cls, template, llm_kwargs, prompt_args = self.wanted
            template = _readable_template(provider, template, self.makers)
            # LlamaIndex takes things out of these.
            given = (output_cls, template, dict(llm_kwargs) if llm_kwargs else None)
            return f"{stream}structured_predict", given, dict(prompt_args)
        messages = readable_for(provider, self.prompt, self.makers)
        offered = kwargs.get("tools")
        if isinstance(offered, Offered):
            del kwargs["tools"]
            options = {**offered.offer.options, **kwargs, "chat_history": messages}
            return f"{stream}chat_with_tools", (offered.offer.tools,), options
        return f"{stream}chat", (messages,), kwargs

    def _whole(self, said: Said, answer: Any) -> Said:
        said.answer = answer
        self._note(said, answer)
        return said

    def _refuse(self, said: Said, error: Exception, *, final: bool) -> None:
        """Keep an error that says that a draft is not the object asked for; raise all others."""
        if final or self.wanted is None or isinstance(error, CostwiseError):
            raise error
        said.refused = error

    def _note(self, said: Said, answer: Any) -> None:
        if isinstance(answer, ChatResponse):
            self.makers.note(answer.message, provider_of(self.models[said.route.name]))

    def _settle(self, outcome: Outcome[Said] | None) -> None:
        why = {step.route: step.why for step in outcome.steps} if outcome else {}
        for said in self._said:
            shown = outcome is not None and said is outcome.answer
            reason = why.get(said.route.name) or "nothing was answered in the end"
            told = outcome.why if outcome and shown else f"not shown: {reason}"
            said.draft.settle(shown=shown, why=told)


def _told(outcome: Outcome[Said]) -> dict[str, Any]:
    return {"route": as_metadata(outcome)}


def _marked(answer: Any, told: dict[str, Any]) -> Any:
    """Return a response that says which way it took; an object has no place for that."""
    if not isinstance(answer, ChatResponse | CompletionResponse):
        return answer
    extras = answer.additional_kwargs
    marked = {**extras, MARK: {**(extras.get(MARK) or {}), **told}}
    return answer.model_copy(update={"additional_kwargs": marked})


def _opening(said: Said) -> list[Any]:
    if isinstance(said.answer, ChatResponse):
        return list(pieces(said.answer)) or [said.answer]
    if isinstance(said.answer, CompletionResponse):
        return list(pieces(said.answer)) or [said.answer]
    return said.opening if said.answer is None else [said.answer]


def _speaks(piece: Any) -> bool:
    """Tell whether a piece of a stream says something: until then the LLM may still fail."""
    if isinstance(piece, ChatResponse):
        other = any(block.block_type != "text" for block in piece.message.blocks)
        return bool(piece.delta or other or piece.message.additional_kwargs.get("tool_calls"))
    return bool(piece.delta) if isinstance(piece, CompletionResponse) else True


def _readable_template(provider: str, template: PromptTemplate, makers: Makers) -> PromptTemplate:
    history = getattr(template, "message_templates", None)
    if history is None or not makers.differ:
        return template
    return template.model_copy(
        update={"message_templates": readable_for(provider, history, makers)}
    )
