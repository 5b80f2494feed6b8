"""What LlamaIndex users have as a `Scorer`: embed models and LLMs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import BaseTool

from costwise_core.protocols import Completer, Embedder, Scorer
from llamaindex_costwise.embedding import LlamaIndexEmbedder

if TYPE_CHECKING:
    from costwise_core.memory.messages import Message

__all__ = ["as_completer", "as_embedder", "as_scorer"]


def as_scorer(given: Scorer | BaseEmbedding | LLM) -> Scorer:
    """Return a scorer as it is, and what LlamaIndex has for the purpose as one."""
    if isinstance(given, BaseEmbedding):
        from costwise_core.score.fusion import hybrid  # noqa: PLC0415 - imports numpy

        return hybrid(as_embedder(given))
    if isinstance(given, LLM):
        from costwise_core.score.llm import LLMScorer  # noqa: PLC0415 - only if asked for

        return LLMScorer(as_completer(given))
    return given


def as_embedder(given: Embedder | BaseEmbedding) -> Embedder:
    """Return a costwise embedder as it is, and an embed model as one."""
    return LlamaIndexEmbedder(given) if isinstance(given, BaseEmbedding) else given


def as_completer(
    given: Completer | LLM,
    *,
    prefix: Sequence[ChatMessage] = (),
    tools: Sequence[BaseTool] = (),
) -> Completer:
    """Return a completer as it is, and an LLM as one, for judges and summarisers.

    A summariser made of the LLM that answers can be asked at the end of its live prompt, most of
    which the provider has in its cache, if that prompt begins as the application's own calls do.

    Args:
        given: Completes prompts.
        prefix: What the application sends before every conversation: its system prompt.
        tools: What its agent is offered.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> as_completer(MockLLM(max_tokens=2)).complete("Rate it.")
        'text text'
    """
    return _LLMCompleter(given, prefix, tools) if isinstance(given, LLM) else given


class _LLMCompleter:
    def __init__(
        self, llm: LLM, prefix: Sequence[ChatMessage] = (), tools: Sequence[BaseTool] = ()
    ) -> None:
        self._llm = llm
        self._prefix = prefix
        self._tools = tools

    def complete(self, prompt: str) -> str:
        return self._llm.complete(prompt).text

    async def acomplete(self, prompt: str) -> str:
        return (await self._llm.acomplete(prompt)).text

    def complete_after(self, messages: "Sequence[Message]", instruction: str) -> str:
        live = self._live(messages, instruction)
        if self._tools and isinstance(self._llm, FunctionCallingLLM):
            answer = self._llm.chat_with_tools(self._tools, chat_history=live)
        else:
            answer = self._llm.chat(live)
        return answer.message.content or ""

    async def acomplete_after(self, messages: "Sequence[Message]", instruction: str) -> str:
        live = self._live(messages, instruction)
        if self._tools and isinstance(self._llm, FunctionCallingLLM):
            answer = await self._llm.achat_with_tools(self._tools, chat_history=live)
        else:
            answer = await self._llm.achat(live)
        return answer.message.content or ""

    def _live(self, messages: "Sequence[Message]", instruction: str) -> list[ChatMessage]:
        from llamaindex_costwise._messages import restored  # noqa: PLC0415 - few need it

        asked = ChatMessage(role="user", content=instruction)
        return [*self._prefix, *map(restored, messages), asked]
