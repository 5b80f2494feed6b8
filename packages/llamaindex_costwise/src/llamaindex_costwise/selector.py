"""Which query engine answers, without asking an LLM."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import Embedder
from llamaindex_costwise._scorer import as_embedder

if TYPE_CHECKING:
    from costwise_core.types import Matrix

__all__ = ["CostSelector"]

_MOST: Final = 64


class CostSelector(BaseSelector):
    """Selects the engine whose description fits a question, the cheaper one where two fit.

    For `RouterQueryEngine` and `RouterRetriever`, whose usual selector pays for a call of an LLM
    with each question. Descriptions should say in the words of the questions what an engine is for.

    Args:
        costs: What one question costs, in any unit, by the name of the choice; without them the
            choices are taken to be in the order of their costs, cheapest first. One without a cost
            is dearer than those with one.
        embed_model: What says how near a question is to a description; the descriptions' vectors
            are computed once. None compares by shared words (BM25), where a question that shares
            none goes to the cheapest.
        margin: By what share of the best score another may fall short, in [0, 1), and still fit as
            well.

    Raises:
        ConfigError: if the margin is out of range or a cost is negative.

    Example:
        >>> selector = CostSelector()
        >>> choices = ["Orders and parcels: where they are.", "Contracts and what they mean."]
        >>> selector.select(choices, "Which contracts end in May?").ind
        1
        >>> chosen = selector.select(choices, "Hello!")
        >>> chosen.ind, chosen.reason
        (0, 'no description fits better than another; this is the cheapest')
    """

    def __init__(
        self,
        *,
        costs: Mapping[str, float] | None = None,
        embed_model: Embedder | BaseEmbedding | None = None,
        margin: float = 0.1,
    ) -> None:
        if not 0 <= margin < 1:
            raise ConfigError(f"margin is a share of the best score, in [0, 1), got {margin}.")
        for name, cost in (costs or {}).items():
            if not cost >= 0:
                raise ConfigError(f"the cost of {name!r} must be at least 0, got {cost}.")
        self._costs = dict(costs or {})
        self._embedder = None if embed_model is None else as_embedder(embed_model)
        self._margin = margin
        self._vectors: dict[tuple[str, ...], Matrix] = {}

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return run(self._choose(choices, query.query_str))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return await arun(self._choose(choices, query.query_str))

    def _choose(self, choices: Sequence[ToolMetadata], question: str) -> Flow[SelectorResult]:
        texts = tuple(f"{choice.name or ''}\n{choice.description}" for choice in choices)
        scores = yield from self._scores(question, texts)
        best = max(scores)
        fit = [n for n, score in enumerate(scores) if score >= best - self._margin * abs(best)]
        cheapest = sorted(range(len(choices)), key=lambda n: (self._cost(choices[n]), n))
        index = next(n for n in cheapest if n in fit)
        # No word of the question: LlamaIndex logs reasons.
        if len(fit) == len(choices) > 1:
            reason = "no description fits better than another; this is the cheapest"
        elif len(fit) > 1:
            reason = f"the cheapest of {len(fit)} that fit about as well ({scores[index]:.2f})"
        else:
            reason = f"its description fits best ({scores[index]:.2f})"
        return SelectorResult(selections=[SingleSelection(index=index, reason=reason)])

    def _cost(self, choice: ToolMetadata) -> float:
        return self._costs.get(choice.name or "", float("inf"))

    def _scores(self, question: str, texts: tuple[str, ...]) -> Flow[list[float]]:
        if self._embedder is None:
            from costwise_core.score.bm25 import bm25  # noqa: PLC0415 - imports numpy

            return [float(score) for score in bm25(question, texts)]
        vectors = self._vectors.get(texts)
        if vectors is None:
            vectors = yield from call(self._embedder.embed, list(texts), "document")
            if len(self._vectors) >= _MOST:
                self._vectors.clear()
            self._vectors[texts] = vectors
        asked = yield from call(self._embedder.embed, [question], "query")
        return [float(score) for score in vectors @ asked[0]]

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """There are none."""
