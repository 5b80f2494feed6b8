"""Few-shot examples for LlamaIndex's prompt templates."""

from collections.abc import Iterable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from costwise_core.errors import ConfigError, nearest
from costwise_core.prompt.examples import Example, FewShot
from costwise_core.protocols import Embedder
from llamaindex_costwise.embedding import LlamaIndexEmbedder

__all__ = ["FewShotSelector"]


class FewShotSelector:
    r"""Puts the examples for a question into a template: relevant, no two alike, within a budget.

    Give its `render` to a template as the function of one of its variables. Templates call
    functions in place, in async code too; where embedding must not block the event loop, await
    `arender` and fill the variable yourself.

    Args:
        examples: What to choose from.
        template: How one example is written, with {question} and {answer}.
        question_key: Name of the template's variable that holds the question.
        embed_model: What says how near questions are; None for shared words (BM25).
        k: How many to pick at most.
        max_tokens: How many tokens they may have together; None is no limit.
        model: Whose tokens are counted.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> from llama_index.core import PromptTemplate
        >>> selector = FewShotSelector(
        ...     [
        ...         Example(question="Where is my parcel?", answer="shipping"),
        ...         Example(question="Is my bill right?", answer="billing"),
        ...     ],
        ...     k=1,
        ... )
        >>> prompt = PromptTemplate(
        ...     "{shots}\n\nQ: {query_str}\nA:", function_mappings={"shots": selector.render}
        ... )
        >>> print(prompt.format(query_str="Where can my parcel be?"))
        Q: Where is my parcel?
        A: shipping
        <BLANKLINE>
        Q: Where can my parcel be?
        A:
    """

    def __init__(
        self,
        examples: Iterable[Example],
        *,
        template: str = "Q: {question}\nA: {answer}",
        question_key: str = "query_str",
        embed_model: BaseEmbedding | Embedder | None = None,
        k: int = 4,
        max_tokens: int | None = None,
        model: str = "",
    ) -> None:
        if isinstance(embed_model, BaseEmbedding):
            embed_model = LlamaIndexEmbedder(embed_model)
        self._shots = FewShot(
            examples, embedder=embed_model, k=k, max_tokens=max_tokens, model=model
        )
        self._template = template
        self._question_key = question_key

    def __deepcopy__(self, memo: dict[int, Any]) -> "FewShotSelector":
        # Templates are copied whenever one is filled in part, and an embed model must not be.
        return self

    def render(self, **variables: Any) -> str:
        """Return the examples as text, the nearest last.

        Args:
            **variables: What the template is filled with.

        Raises:
            ConfigError: if the variable that holds the question is missing.
        """
        return self._written(self._shots.pick(self._question(variables)).examples)

    async def arender(self, **variables: Any) -> str:
        """Do what `render` does, without blocking the event loop."""
        return self._written((await self._shots.apick(self._question(variables))).examples)

    def _question(self, variables: dict[str, Any]) -> str:
        if self._question_key not in variables:
            raise ConfigError(
                f"no variable {self._question_key!r} to find the question in; there are "
                f"{', '.join(map(repr, variables)) or 'none'}."
                f"{nearest(self._question_key, variables)}"
            )
        return str(variables[self._question_key])

    def _written(self, examples: Iterable[Example]) -> str:
        return "\n\n".join(
            self._template.format(question=one.question, answer=one.answer) for one in examples
        )
