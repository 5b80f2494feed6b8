"""A LangChain chat model as a `Completer`, for rewriting, judging and summarising."""

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig

from costwise_core.protocols import Completer

__all__ = ["as_completer"]


def as_completer(given: Completer | BaseChatModel) -> Completer:
    """Return a completer as it is, and a chat model as a completer, for judges and rewriters.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> as_completer(FakeListChatModel(responses=["Yes."])).complete("Is it?")
        'Yes.'
    """
    return _ChatCompleter(given) if isinstance(given, BaseChatModel) else given


class _ChatCompleter:
    def __init__(self, model: BaseChatModel) -> None:
        self._model = model
        # LangGraph shows whoever streams an agent the tokens of every model but those so tagged.
        self._config = RunnableConfig(tags=["nostream"])

    def complete(self, prompt: str) -> str:
        return self._model.invoke(prompt, self._config).text

    async def acomplete(self, prompt: str) -> str:
        return (await self._model.ainvoke(prompt, self._config)).text
