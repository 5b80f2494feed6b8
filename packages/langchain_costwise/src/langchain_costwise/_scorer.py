"""What LangChain users have as a `Scorer`: embeddings, cross-encoders, chat models."""

from collections.abc import Sequence

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel

from costwise_core.passages import Passage
from costwise_core.protocols import Scorer
from langchain_costwise._completer import as_completer
from langchain_costwise.embeddings import as_embedder

__all__ = ["as_scorer"]


def as_scorer(given: Scorer | Embeddings | BaseCrossEncoder | BaseChatModel) -> Scorer:
    """Return a scorer as it is, and what LangChain has for the purpose as one."""
    if isinstance(given, Embeddings):
        from costwise_core.score.fusion import hybrid  # noqa: PLC0415 - imports numpy

        return hybrid(as_embedder(given))
    if isinstance(given, BaseChatModel):
        from costwise_core.score.llm import LLMScorer  # noqa: PLC0415 - only if asked for

        return LLMScorer(as_completer(given))
    return _CrossEncoderScorer(given) if isinstance(given, BaseCrossEncoder) else given


class _CrossEncoderScorer:
    name = "cross-encoder"

    def __init__(self, encoder: BaseCrossEncoder) -> None:
        self._encoder = encoder

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        pairs = [(question, f"{one.title}\n{one.text}".strip()) for one in passages]
        return [float(score) for score in self._encoder.score(pairs)]
