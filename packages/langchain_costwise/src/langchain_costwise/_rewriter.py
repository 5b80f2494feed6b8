"""A LangChain chat model as the one that makes follow-up questions self-contained."""

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig

from costwise_core.cache.rewrite import Rewriter

__all__ = ["as_rewriter"]


def as_rewriter(given: Rewriter | BaseChatModel) -> Rewriter:
    """Return a rewriter as it is, and a chat model as a rewriter."""
    return _ChatRewriter(given) if isinstance(given, BaseChatModel) else given


class _ChatRewriter:
    def __init__(self, model: BaseChatModel) -> None:
        self._model = model
        # LangGraph shows whoever streams an agent the tokens of every model but those so tagged.
        self._config = RunnableConfig(tags=["nostream"])

    def complete(self, prompt: str) -> str:
        return self._model.invoke(prompt, self._config).text

    async def acomplete(self, prompt: str) -> str:
        return (await self._model.ainvoke(prompt, self._config)).text
