"""What `CostRouter`, `Cascade` and `Fallback` have in common: one request, one run, some models."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import Any, Final, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

from costwise_core.budget.guard import Budgets
from costwise_core.drive import arun, run
from costwise_core.prices import PriceBook
from costwise_core.route.answering import Routing
from costwise_core.route.health import Health
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import Route
from costwise_core.route.session import Sessions
from costwise_core.route.ways import Rules
from langchain_costwise._asking import routes_of
from langchain_costwise._routed_call import RoutedCall
from langchain_costwise._spending import HELD_BY
from langchain_costwise._wrapper import ChatWrapper, ToldModel, without_told

__all__ = ["Routed"]

_LONGEST: Final = 200


class Routed(ToldModel):
    """Is one chat model to the outside: one run, one answer, whichever of its models made it.

    A subclass says by which rules.
    """

    models: dict[str, BaseChatModel]
    routes: tuple[Route, ...] = ()
    deadline: float | None = Field(default=None, gt=0)
    prices: PriceBook | None = Field(default=None, exclude=True)
    health: Health = Field(default_factory=Health, exclude=True)
    sessions: Sessions = Field(default_factory=Sessions, exclude=True)
    _routing: Routing = PrivateAttr()
    _unjudged: Routing = PrivateAttr()
    _prefixes: Prefixes = PrivateAttr(default_factory=Prefixes)

    def model_post_init(self, context: Any, /) -> None:
        """Put the routing together; a wrong argument is raised as it is."""
        super().model_post_init(context)
        self._routing, self._unjudged = self._rules().routings(
            routes_of(self.models, self.routes),
            deadline=self.deadline,
            prices=self.prices,
            health=self.health,
            sessions=self.sessions,
        )

    def _rules(self) -> Rules:
        raise NotImplementedError

    # --- one call ------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        with ExitStack() as held:
            for budgets in self._budgets():
                held.enter_context(budgets.request())
            return call.result(run(call.flow()))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        async with AsyncExitStack() as held:
            for budgets in self._budgets():
                await held.enter_async_context(budgets.arequest())
            return call.result(await arun(call.flow()))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, None, kwargs, live=True)
        # What a request holds together ends here: whoever reads the stream is outside of it.
        with ExitStack() as held:
            for budgets in self._budgets():
                held.enter_context(budgets.request())
            opening, rest = call.pieces(run(call.flow()))
        with closing(cast("Any", rest)):
            yield from opening
            yield from rest

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, None, kwargs, live=True)
        async with AsyncExitStack() as held:
            for budgets in self._budgets():
                await held.enter_async_context(budgets.arequest())
            opening, rest = call.apieces(await arun(call.flow()))
        async with aclosing(cast("Any", rest)):
            for chunk in opening:
                yield chunk
            async for chunk in rest:
                yield chunk

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        kwargs: dict[str, Any],
        *,
        live: bool = False,
    ) -> RoutedCall:
        rules = self._rules()
        return RoutedCall(
            models=self.models,
            routing=self._unjudged if live and rules.commits else self._routing,
            prefixes=self._prefixes,
            messages=messages,
            stop=stop,
            run_manager=run_manager,
            kwargs=kwargs,
            live=live,
            saves=rules.saves,
        )

    def _budgets(self) -> list[Budgets]:
        """Return the budgets that its models keep to, each once."""
        found: dict[int, Budgets] = {}
        for model in self.models.values():
            while isinstance(model, ChatWrapper):
                budgets = getattr(model, "budgets", None)
                if isinstance(budgets, Budgets):
                    found[id(budgets)] = budgets
                model = model.model  # noqa: PLW2901
        return list(found.values())

    # --- what it is to others --------------------------------------------------------------------

    def over(self, wrap: Callable[[BaseChatModel], BaseChatModel]) -> "Routed":
        """Return the same with each of its models wrapped."""
        models = {name: wrap(model) for name, model in self.models.items()}
        return self.model_copy(update={"models": models})

    @property
    def _llm_type(self) -> str:
        return f"costwise-{type(self).__name__.lower()}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        rules = self._rules()
        return {
            "models": {
                name: {"_type": model._llm_type, **model._identifying_params}  # noqa: SLF001
                for name, model in self.models.items()
            },
            "routes": [repr(route) for route in self._routing.routes],
            "router": _identity(rules.router),
            "judge": _identity(rules.judge),
            "threshold": rules.threshold,
            "commits": rules.commits,
        }

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # A model's own string may hold settings that its identifying parameters leave out.
        kwargs = without_told(kwargs)
        strings = [
            (name, model._get_llm_string(stop=stop, **kwargs))  # noqa: SLF001
            for name, model in self.models.items()
        ]
        return f"{sorted(self.asdict().items())}---{strings}"

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **without_told(kwargs))
        held = [
            set(model._get_invocation_params(stop=stop).get(HELD_BY, ()))  # noqa: SLF001
            for model in self.models.values()
        ]
        # A callback leaves a call to budgets that hold it, whichever model it goes to.
        return {**params, HELD_BY: tuple(set.intersection(*held))}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        name = kwargs.get("model") or f"{type(self).__name__}({', '.join(self.models)})"
        params = LangSmithParams(
            ls_provider="costwise", ls_model_name=str(name), ls_model_type="chat"
        )
        if stop:
            params["ls_stop"] = stop
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Return what all its models can do, and the largest window: small ones are left out."""
        profiles: list[Mapping[str, Any]] = [model.profile or {} for model in self.models.values()]
        able = {
            name: True
            for name, value in profiles[0].items()
            if value is True and all(one.get(name) is True for one in profiles)
        }
        windows = [one.get("max_input_tokens") for one in profiles]
        known = [one for one in windows if isinstance(one, int)]
        window = {"max_input_tokens": max(known)} if len(known) == len(windows) else {}
        return cast("ModelProfile", {**able, **window}) or None

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of its first model."""
        return next(iter(self.models.values())).get_token_ids(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the count of its first model."""
        return next(iter(self.models.values())).get_num_tokens_from_messages(messages, tools)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools; each model is given them in its own way once it is chosen.

        Args:
            tools: Functions, LangChain tools, classes or schemas; a provider's own, as a dict,
                reaches every model as it is.
            tool_choice: A tool's name, "any", "auto" or "none".
            **kwargs: What the models' own `bind_tools` take.
        """
        chosen = {"tool_choice": tool_choice} if tool_choice else {}
        return self.bind(tools=[_portable(tool) for tool in tools], **chosen, **kwargs)


def _portable(tool: Any) -> dict[str, Any]:
    try:
        return convert_to_openai_tool(tool)
    except ValueError:
        if isinstance(tool, dict) and "type" in tool:
            return tool
        raise


def _identity(part: object) -> str:
    """Return what tells routers and judges apart, the same in every process where that is known."""
    if part is None:
        return ""
    said = repr(part)
    if " at 0x" in said:
        return f"{type(part).__module__}.{type(part).__qualname__}"
    if len(said) > _LONGEST:
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
    return said
