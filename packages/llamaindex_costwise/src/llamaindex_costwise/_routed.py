"""What `CostRouter`, `Cascade` and `Fallback` have in common: one LLM to the outside."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    SerializeAsAny,
    field_serializer,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.tools import BaseTool

from costwise_core.budget.guard import Budgets
from costwise_core.drive import arun, run
from costwise_core.errors import ConfigError
from costwise_core.prices import PriceBook
from costwise_core.route.answering import Routing
from costwise_core.route.health import Health
from costwise_core.route.prefix import Prefixes
from costwise_core.route.routes import Route
from costwise_core.route.session import Sessions
from costwise_core.route.ways import Rules
from llamaindex_costwise._asking import RenderedMessages, RenderedPrompt, provider_of, routes_of
from llamaindex_costwise._forwarding import SHARED
from llamaindex_costwise._history import Makers
from llamaindex_costwise._routed_call import MARK, Offer, Offered, RoutedCall, Wanted

__all__ = ["Routed"]

_OPTIONS: Final = ("verbose", "allow_parallel_tool_calls", "tool_required")


class Routed(FunctionCallingLLM):
    """Is one LLM to the outside, whichever of its LLMs answers. A subclass says by which rules.

    No method is decorated with LlamaIndex's callbacks: those of the LLM that is called are.
    """

    models: dict[str, SerializeAsAny[LLM]] = Field(repr=False)
    routes: tuple[Route, ...] = ()
    deadline: float | None = Field(default=None, gt=0)
    prices: PriceBook | None = Field(default=None, exclude=True, repr=False)
    health: Health = Field(default_factory=Health, exclude=True, repr=False)
    sessions: Sessions = Field(default_factory=Sessions, exclude=True, repr=False)
    _routing: Routing = PrivateAttr()
    _unjudged: Routing = PrivateAttr()
    _makers: Makers = PrivateAttr()
    _prefixes: Prefixes = PrivateAttr(default_factory=Prefixes)

    def __init__(self, *, models: Mapping[str, LLM], **kwargs: Any) -> None:
        name = type(self).__name__
        if not models:
            raise ConfigError(f"{name} has no models; give at least one.")
        for route, llm in models.items():
            if isinstance(llm, StructuredLLM):
                raise ConfigError(
                    f"the model {route!r} is a structured LLM; route the LLM below it: "
                    f"{name}(models=..., ...).as_structured_llm(output_cls)."
                )
        first = next(iter(models.values()))
        shared = {name: getattr(first, name) for name in SHARED}
        super().__init__(**{**shared, **kwargs, "models": dict(models)})
        for shared_name in kwargs.keys() & set(SHARED):
            setattr(self, shared_name, kwargs[shared_name])
        self._put_together()

    def _put_together(self) -> None:
        self._routing, self._unjudged = self._rules().routings(
            routes_of(self.models, self.routes),
            deadline=self.deadline,
            prices=self.prices,
            health=self.health,
            sessions=self.sessions,
        )
        self._makers = Makers(map(provider_of, self.models.values()))

    def _rules(self) -> Rules:
        raise NotImplementedError

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in SHARED:
            # Settings and synthesizers set these on the outermost LLM only.
            for llm in self.models.values():
                setattr(llm, name, value)

    @property
    def metadata(self) -> LLMMetadata:
        """What all its LLMs can do, and the smallest window: prompts are sized by it."""
        told = [llm.metadata for llm in self.models.values()]
        roles = {one.system_role for one in told}
        return LLMMetadata(
            context_window=min(one.context_window for one in told),
            # Who does not know it says -1.
            num_output=min((one.num_output for one in told if one.num_output > 0), default=-1),
            is_chat_model=all(one.is_chat_model for one in told),
            is_function_calling_model=all(one.is_function_calling_model for one in told),
            model_name=f"{type(self).__name__}({', '.join(self.models)})",
            system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
        )

    @field_serializer("models")
    def _without_secrets(self, models: Mapping[str, LLM]) -> dict[str, Any]:
        return {name: llm.to_payload() for name, llm in models.items()}

    # --- plain calls --------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the LLM that is chosen."""
        answer: ChatResponse = self._answer(self._call(messages, kwargs))
        return answer

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do what `chat` does, without blocking the event loop."""
        answer: ChatResponse = await self._aanswer(self._call(messages, kwargs))
        return answer

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the LLM that is chosen; its first words have come when this returns."""
        return _begun(self._stream(self._call(messages, kwargs, live=True)))

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Do what `stream_chat` does, without blocking the event loop."""
        return await _abegun(self._astream(self._call(messages, kwargs, live=True)))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002 - LlamaIndex's signature
        """Answer by the LLM that is chosen."""
        call = self._call(prompt, {**kwargs, "formatted": formatted})
        answer: CompletionResponse = self._answer(call)
        return answer

    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponse:
        """Do what `complete` does, without blocking the event loop."""
        call = self._call(prompt, {**kwargs, "formatted": formatted})
        answer: CompletionResponse = await self._aanswer(call)
        return answer

    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Stream from the LLM that is chosen; its first words have come when this returns."""
        call = self._call(prompt, {**kwargs, "formatted": formatted}, live=True)
        return _begun(self._stream(call))

    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Do what `stream_complete` does, without blocking the event loop."""
        call = self._call(prompt, {**kwargs, "formatted": formatted}, live=True)
        return await _abegun(self._astream(call))

    # --- one call -------------------------------------------------------------------------------

    def _call(
        self,
        prompt: str | Sequence[ChatMessage],
        kwargs: Mapping[str, Any],
        *,
        wanted: Wanted | None = None,
        live: bool = False,
    ) -> RoutedCall:
        rules = self._rules()
        return RoutedCall(
            models=self.models,
            routing=self._unjudged if live and rules.commits else self._routing,
            prefixes=self._prefixes,
            makers=self._makers,
            prompt=prompt,
            kwargs=kwargs,
            wanted=wanted,
            live=live,
            saves=rules.saves,
        )

    def _answer(self, call: RoutedCall) -> Any:
        with ExitStack() as held:
            for budgets in self._budgets():
                held.enter_context(budgets.request())
            return call.result(run(call.flow()))

    async def _aanswer(self, call: RoutedCall) -> Any:
        async with AsyncExitStack() as held:
            for budgets in self._budgets():
                await held.enter_async_context(budgets.arequest())
            return call.result(await arun(call.flow()))

    def _stream(self, call: RoutedCall) -> Generator[Any, None, None]:
        # What a request holds together ends here: whoever reads the stream is outside of it.
        with ExitStack() as held:
            for budgets in self._budgets():
                held.enter_context(budgets.request())
            outcome = run(call.flow())
        with closing(call.shown(outcome)) as stream:
            yield None  # begun: what comes is read, or closed, from here
            yield from stream

    async def _astream(self, call: RoutedCall) -> AsyncGenerator[Any, None]:
        async with AsyncExitStack() as held:
            for budgets in self._budgets():
                await held.enter_async_context(budgets.arequest())
            outcome = await arun(call.flow())
        async with aclosing(call.ashown(outcome)) as stream:
            yield None
            async for piece in stream:
                yield piece

    def _budgets(self) -> list[Budgets]:
        """Return the budgets that its LLMs keep to, each once."""
        found: dict[int, Budgets] = {}
        for model in self.models.values():
            llm: Any = model
            while isinstance(llm, LLM):
                budgets = getattr(llm, "budgets", None)
                if isinstance(budgets, Budgets):
                    found[id(budgets)] = budgets
                llm = getattr(llm, "llm", None)
        return list(found.values())

    # --- what a template knows: the question, and what was retrieved ------------------------------

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        rendered = super()._get_messages(prompt, **prompt_args)
        return RenderedMessages(rendered, {**prompt.kwargs, **prompt_args})

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        rendered = super()._get_prompt(prompt, **prompt_args)
        return RenderedPrompt(rendered, {**prompt.kwargs, **prompt_args})

    # --- tools: they come to the chosen LLM as they are, for it to prepare ------------------------

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: FBT001, FBT002
        allow_parallel_tool_calls: bool = False,  # noqa: FBT001, FBT002
        tool_required: bool = False,  # noqa: FBT001, FBT002 - LlamaIndex looks for this name
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        options = dict(
            zip(_OPTIONS, (verbose, allow_parallel_tool_calls, tool_required), strict=True)
        )
        return {**kwargs, "messages": messages, "tools": Offered(Offer(list(tools), options))}

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> list[ToolSelection]:
        """Read tool calls as the LLM does that made them."""
        told = response.additional_kwargs.get(MARK) or {}
        maker = self.models.get((told.get("route") or {}).get("name", ""))
        able = [maker, *self.models.values()]
        for llm in able:
            if isinstance(llm, FunctionCallingLLM) and llm.metadata.is_function_calling_model:
                return llm.get_tool_calls_from_response(
                    response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
                )
        if error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but no model can call tools.")
        return []

    # --- structured output: the chosen LLM may have a JSON mode of its own ------------------------

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Return an object that the chosen LLM fills in."""
        return self._answer(self._structured(output_cls, prompt, llm_kwargs, prompt_args))

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Do what `structured_predict` does, without blocking the event loop."""
        return await self._aanswer(self._structured(output_cls, prompt, llm_kwargs, prompt_args))

    def stream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Do what `structured_predict` does, as a stream of partial objects."""
        call = self._structured(output_cls, prompt, llm_kwargs, prompt_args, live=True)
        return _begun(self._stream(call))

    async def astream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """Do what `structured_predict` does, as an asynchronous stream of partial objects."""
        call = self._structured(output_cls, prompt, llm_kwargs, prompt_args, live=True)
        return await _abegun(self._astream(call))

    def _structured(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
        *,
        live: bool = False,
    ) -> RoutedCall:
        rendered = prompt.format_messages(**prompt_args)
        messages = RenderedMessages(rendered, {**prompt.kwargs, **prompt_args})
        wanted = Wanted(output_cls, prompt, llm_kwargs, prompt_args)
        return self._call(messages, llm_kwargs or {}, wanted=wanted, live=live)


def _begun(stream: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """Begin a stream here and now: who pays, and whose request it is, is settled by now."""
    next(stream)
    return stream


async def _abegun(stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    await anext(stream)
    return stream
