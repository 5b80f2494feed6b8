"""A LangChain chat model as a `Completer`, for rewriting, judging and summarising."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig

from costwise_core.protocols import Completer

if TYPE_CHECKING:
    from costwise_core.memory.messages import Message

__all__ = ["as_completer"]


def as_completer(given: Completer | BaseChatModel | Runnable[Any, Any]) -> Completer:
    """Return a completer as it is, and a chat model as a completer, for judges and summarisers.

    A summariser made of the model that answers can be asked at the end of its live prompt, most of
    which the provider has in its cache. For an agent give `model.bind_tools(tools)` with the
    agent's own tools, since they are the prompt's beginning.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> as_completer(FakeListChatModel(responses=["Yes."])).complete("Is it?")
        'Yes.'
    """
    if isinstance(given, BaseChatModel | RunnableBinding):
        return _ChatCompleter(given)
    return given  # type: ignore[return-value]


class _ChatCompleter:
    def __init__(self, model: Runnable[Any, Any]) -> None:
        self._model = model
        # LangGraph shows whoever streams an agent the tokens of every model but those so tagged.
        self._config = RunnableConfig(tags=["nostream"])

    def complete(self, prompt: str) -> str:
        return str(self._model.invoke(prompt, self._config).text)

    async def acomplete(self, prompt: str) -> str:
        return str((await self._model.ainvoke(prompt, self._config)).text)

    def complete_after(self, messages: "Sequence[Message]", instruction: str) -> str:
        return str(self._model.invoke(_asked(messages, instruction), self._config).text)

    async def acomplete_after(self, messages: "Sequence[Message]", instruction: str) -> str:
        answer = await self._model.ainvoke(_asked(messages, instruction), self._config)
        return str(answer.text)


def _asked(messages: "Sequence[Message]", instruction: str) -> list[BaseMessage]:
    from langchain_costwise._messages import restored  # noqa: PLC0415 - few completers need it

    return [*map(restored, messages), HumanMessage(instruction)]
