"""What LlamaIndex users have as a `Scorer`: embed models and LLMs."""

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import LLM

from costwise_core.protocols import Completer, Embedder, Scorer
from llamaindex_costwise.embedding import LlamaIndexEmbedder

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


def as_completer(given: Completer | LLM) -> Completer:
    """Return a completer as it is, and an LLM as one: for `ModelJudge` and `AgreementJudge`.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> as_completer(MockLLM(max_tokens=2)).complete("Rate it.")
        'text text'
    """
    return _LLMCompleter(given) if isinstance(given, LLM) else given


class _LLMCompleter:
    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def complete(self, prompt: str) -> str:
        return self._llm.complete(prompt).text

    async def acomplete(self, prompt: str) -> str:
        return (await self._llm.acomplete(prompt)).text
