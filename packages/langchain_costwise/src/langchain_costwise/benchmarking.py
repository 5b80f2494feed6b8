"""LangChain's chat models in a benchmark of models."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable

from costwise_core.bench_models.asking import Answered
from langchain_costwise._asking import candidate_of

__all__ = ["ChatAsker"]


class ChatAsker:
    """A chat model, or a chain that ends with one, for `benchmark_models`.

    A chat model is asked without its own cache or the global one: an answer out of it would say
    nothing of what the model takes.

    Args:
        model: A chat model, or any runnable from a text to a message or a text.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> ChatAsker(FakeListChatModel(responses=["391"])).ask("17 * 23?").text
        '391'
    """

    def __init__(self, model: Runnable[Any, Any]) -> None:
        if isinstance(model, BaseChatModel):
            model = model.model_copy(update={"cache": False})
        self._model = model

    def ask(self, prompt: str) -> Answered:
        """Return the model's answer; whatever it raises is raised."""
        said = self._model.invoke(prompt)
        if not isinstance(said, AIMessage):
            return Answered(text=said.text if isinstance(said, BaseMessage) else str(said))
        seen = candidate_of(ChatGeneration(message=said))
        return Answered(
            text=seen.text,
            usage=seen.usage,
            finish_reason=seen.finish_reason,
        )
