"""The memory of an agent's conversation: prompts get shorter, the agent's state stays whole."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from costwise_core.context import scoped
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import MissingExtraError
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation
from costwise_core.tokens import count_tokens
from langchain_costwise._messages import as_message, is_own, prompt_of, restored, returns
from langchain_costwise._spending import model_name, offered_text
from langchain_costwise.cache import SAID
from langchain_costwise.memory import Which, checked, conversation_of, said_by, viewed

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.graph.message import REMOVE_ALL_MESSAGES
except ImportError as error:  # pragma: no cover - a test runs this in an environment without it
    raise MissingExtraError(
        "RollingSummaryMiddleware", "agents", package="langchain-costwise"
    ) from error

__all__ = ["RollingSummaryMiddleware"]


class RollingSummaryMiddleware(AgentMiddleware[Any, Any, Any]):
    """Send an agent's model a shorter conversation where that pays.

    Each call of the model gets the system prompt, the summary of what was said long ago, the newest
    messages as they are, and before the user's last question old messages that matter for it. The
    state, and with it the checkpointer, keeps every message; so does the memory's store. What the
    state holds is what the conversation is: after an edit, an answer made anew or a jump back in
    time, no summary of what is not in it any more is sent. Tools and system prompt count.

    The conversation's id is the run's `thread_id`, its user `user_id` in `configurable` or in the
    runtime's context; its tenant is what `scoped` or `{"costwise": {"tenant": ...}}` there says. An
    agent within an agent has a conversation of its own, named after its first message.

    Put it after a `SemanticCacheMiddleware`, whose hits need no prompt, and before those that look
    at what is sent: `RouterMiddleware`, `BudgetMiddleware`.

    Args:
        memory: Stores and decides.
        conversation: Whose and which, or a function that tells it from `configurable` and context.
        trim_state: Whether messages that the summary stands for leave the state when a run ends,
            for checkpoints that stay small. The summary stands in their place. Only messages that
            the store has, and that come back from there as they were, are taken out.

    Raises:
        ConfigError: if `memory` is none; when run, if nothing says which conversation it is.
        MissingExtraError: on import, if langchain is not installed.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> memory = ConversationMemory(MemoryConversations(), model="gpt-4o")
        >>> model = FakeListChatModel(responses=["Yes, we do."])
        >>> agent = create_agent(model, middleware=[RollingSummaryMiddleware(memory)])
        >>> thread = {"configurable": {"thread_id": "42"}}
        >>> agent.invoke({"messages": "Do you ship to Malta?"}, thread)["messages"][-1].text
        'Yes, we do.'
        >>> len(memory.store.messages(Conversation(id="42")))
        2
    """

    def __init__(
        self,
        memory: ConversationMemory,
        *,
        conversation: Which | None = None,
        trim_state: bool = False,
    ) -> None:
        super().__init__()
        self.memory = checked(memory)
        self.conversation = conversation
        self.trim_state = trim_state

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Make the call with what of the conversation goes into the prompt."""
        return handler(run(self._shorter(request)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do what `wrap_model_call` does, without blocking the event loop."""
        return await handler(await arun(self._shorter(request)))

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Store the answer, and trim the state if it is to be."""
        return run(self._finish(state["messages"], runtime))

    async def aafter_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Do what `after_agent` does, without blocking the event loop."""
        return await arun(self._finish(state["messages"], runtime))

    def _shorter(self, request: ModelRequest[Any]) -> Flow[ModelRequest[Any]]:
        said = said_by(None, getattr(request.runtime, "context", None))
        turns = [one for one in request.messages if not is_own(one)]
        trimmed = len(turns) < len(request.messages)
        conversation = yield from self._of(said, turns, trimmed=trimmed)
        system = [request.system_message] if request.system_message else []
        given = [*system, *turns]
        view = yield from viewed(
            self.memory, conversation, given, said, before=_offered_tokens(request)
        )
        if trimmed and not view.summary and len(view.kept) <= len(turns):
            return request  # what the state has instead of them is all that is left
        shorter: list[Any] = prompt_of(view, given)[len(system) :]
        return request.override(messages=shorter)

    def _of(
        self, said: Mapping[str, Any], turns: Sequence[BaseMessage], *, trimmed: bool
    ) -> Flow[Conversation]:
        """Return the conversation that begins as the state does.

        One thread may have others: those of agents within it, and those begun anew.
        """
        conversation = conversation_of(self.conversation, said)
        if trimmed or not turns or not turns[0].id:
            return conversation
        if not _nested(said):
            try:
                first = yield from call(self.memory.store.messages, conversation, stop=1)
            except Exception:  # noqa: BLE001 - the view meets it too, and counts it
                return conversation
            if not first or first[0].id == turns[0].id:
                return conversation
        return replace(conversation, id=f"{conversation.id}/{turns[0].id}")

    def _finish(
        self, messages: Sequence[BaseMessage], runtime: object
    ) -> Flow[dict[str, Any] | None]:
        said = said_by(None, getattr(runtime, "context", None))
        turns = [one for one in messages if not is_own(one)]
        trimmed = len(turns) < len(messages)
        conversation = yield from self._of(said, turns, trimmed=trimmed)
        with scoped(**said.get(SAID) or {}) as request:
            whole = request.unoptimised
        try:
            yield from call(self.memory.add, conversation, [as_message(one) for one in turns])
            if not self.trim_state or whole or _nested(said):
                return None
            explained = yield from call(self.memory.explain, conversation)
        except Exception:  # noqa: BLE001 - the next call hands all over again, and counts it
            return None
        folded = [one.id for one in explained.folded]
        stop = _leading(folded, [one.id for one in turns], whole=not trimmed)
        summary = explained.view.summary_message
        if summary is None or not stop or not all(map(returns, turns[:stop])):
            return None
        kept = [restored(summary), *turns[stop:]]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *kept]}


def _leading(folded: Sequence[str], ids: Sequence[str | None], *, whole: bool) -> int:
    """Return how many messages at the beginning of a state are the last ones that were folded."""
    if not ids or ids[0] not in folded:
        return 0
    start = folded.index(ids[0])
    stop = len(folded) - start
    return stop if list(ids[:stop]) == list(folded[start:]) and not (whole and start) else 0


def _nested(said: Mapping[str, Any]) -> bool:
    """Tell whether a run is within another graph's, whose thread it shares."""
    return "|" in str(said.get("checkpoint_ns", ""))


def _offered_tokens(request: ModelRequest[Any]) -> int:
    tools = [
        tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in request.tools
    ]
    schema = getattr(request.response_format, "schema", None)
    offered = offered_text({"tools": tools, "response_format": schema})
    if not offered:
        return 0
    return count_tokens(offered, model_name(request.model, request.model_settings)).tokens
