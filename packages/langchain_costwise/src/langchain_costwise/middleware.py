"""The cache in front of an agent's model: safe after tool calls, in every way to run the agent."""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.function_calling import convert_to_openai_tool

from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.tracking import record_call
from langchain_costwise._answers import saved_usage
from langchain_costwise._convert import write_prompt
from langchain_costwise.cache import SAID, ModelCall, SemanticCache

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.errors import GraphBubbleUp
except ImportError as error:  # pragma: no cover - a test runs this in an environment without it
    raise MissingExtraError(
        "SemanticCacheMiddleware", "agents", package="langchain-costwise"
    ) from error

__all__ = ["SemanticCacheMiddleware"]


class SemanticCacheMiddleware(AgentMiddleware[Any, Any, Any]):
    """Answer an agent's user from the cache where no tool is needed.

    The user's question is looked up before any tool has run for it, repeats and rewordings alike;
    system prompt, tools, model, tenant and corpus must be equal, and the conversation so far must
    say the same. Once tools have run, the model is neither looked up nor stored: their results are
    of this moment and this user. Calls of tools are not replayed. The cache's admission policy can
    allow both ("tool_derived", "tool_calls"). Calls that ask for a structured response pass by.

    Say whose a request is with `scoped(...)` around the run, with
    `config={"configurable": {"costwise": {"tenant": ...}}}`, or in a field or key `costwise` of the
    runtime context, which wins.

    A hit is a new message with an id of its own, so that a thread grows by it. Put this first in
    the list of middleware if hits should skip the others around the model.

    Args:
        cache: Where answers come from and go to.
        in_flight: The calls on their way: runs that ask the same at once share one paid call.

    Raises:
        ConfigError: if `cache` is no `SemanticCache`.
        MissingExtraError: on import, if langchain is not installed.

    Example:
        >>> from costwise_core import MemoryStore
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> paid = FakeListChatModel(responses=["A method.", "No idea."])
        >>> cache = SemanticCache(MemoryStore())
        >>> agent = create_agent(paid, middleware=[SemanticCacheMiddleware(cache)])
        >>> for question in ("What is RAG?", "what is  RAG?"):
        ...     run = agent.invoke({"messages": [("user", question)]})
        ...     run["messages"][-1].text
        'A method.'
        'A method.'
    """

    def __init__(self, cache: SemanticCache, *, in_flight: InFlight | None = None) -> None:
        super().__init__()
        if not isinstance(cache, SemanticCache):
            raise ConfigError(f"cache must be a SemanticCache, got {type(cache).__name__}.")
        self.cache = cache
        self.in_flight = in_flight if in_flight is not None else InFlight()

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Answer from the cache, or let the model answer and keep it."""
        asked = self._asked(request)
        if asked is None:
            return handler(request)
        claim = run(self.cache.claim(asked, self.in_flight))
        if isinstance(claim, list):
            return run(_served(claim))
        with claim, _own_control_flow(claim):
            response = handler(request)
            run(self._keep(asked, response, claim))
        return response

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do what `wrap_model_call` does, without blocking the event loop."""
        asked = self._asked(request)
        if asked is None:
            return await handler(request)
        claim = await arun(self.cache.claim(asked, self.in_flight))
        if isinstance(claim, list):
            return await arun(_served(claim))
        with claim, _own_control_flow(claim):
            response = await handler(request)
            await arun(self._keep(asked, response, claim))
        return response

    def _asked(self, request: ModelRequest[Any]) -> ModelCall | None:
        if request.response_format is not None:
            # The object in `structured_response` is made by the agent, from the paid message.
            self.cache.cache.count_miss("structured", "the agent asks for a structured response")
            return None
        try:
            return _model_call(request)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.cache.count_error(error)
            return None

    def _keep(self, asked: ModelCall, response: ModelResponse[Any], lead: Lead) -> Flow[None]:
        if response.structured_response is not None:
            self.cache.cache.count_not_stored("structured")
            return
        answers = [item for item in response.result if isinstance(item, AIMessage)]
        if len(answers) != 1 or len(response.result) != 1:
            self.cache.cache.count_not_stored("not_an_answer")
            return
        yield from self.cache.keep(asked, [ChatGeneration(message=answers[0])], lead)


def _model_call(request: ModelRequest[Any]) -> ModelCall:
    system = [request.system_message] if request.system_message else []
    tools = [
        tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in request.tools
    ]
    offered = json.dumps([tools, request.tool_choice], sort_keys=True, default=repr)
    settings = request.model._get_llm_string(**request.model_settings)  # noqa: SLF001
    context = getattr(request.runtime, "context", None)
    said = context.get(SAID) if isinstance(context, dict) else getattr(context, SAID, None)
    return ModelCall(
        prompt=write_prompt([*system, *request.messages]),
        llm_string=f"{settings}---{offered}",
        said=said,
        tools=bool(tools),
    )


def _served(found: Sequence[Generation]) -> Flow[ModelResponse[Any]]:
    answer = found[0]
    message = (
        answer.message if isinstance(answer, ChatGeneration) else AIMessage(content=answer.text)
    )
    told = message.response_metadata.get(SAID)
    if told is not None:
        # No model runs, so no callback would write the hit on the bill.
        yield from call(
            record_call,
            operation="chat",
            model=str(message.response_metadata.get("model_name", "")),
            tier=told["hit"],
            usage_then=saved_usage(told),
            why=told["why"],
        )
    return ModelResponse(result=[message])


@contextmanager
def _own_control_flow(lead: Lead) -> Iterator[None]:
    """Keep what stops one run (an interrupt, a jump to a parent graph) from those who wait."""
    try:
        yield
    except GraphBubbleUp:
        lead.abandon()
        raise
