"""Few-shot examples for LangChain's prompt templates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from langchain_core.example_selectors import BaseExampleSelector

from costwise_core.errors import ConfigError, nearest
from costwise_core.protocols import Embedder
from langchain_costwise.embeddings import as_embedder

if TYPE_CHECKING:
    from costwise_core.prompt.examples import Example

__all__ = ["FewShotSelector"]


class FewShotSelector(BaseExampleSelector):
    """Picks the examples for a question: relevant, no two alike, within a budget of tokens.

    Needs no vector store. Each example is embedded once; if the embeddings fail, shared words
    decide instead. Give it to a `FewShotPromptTemplate` or `FewShotChatMessagePromptTemplate`.

    Args:
        examples: Dicts of texts.
        input_keys: Fields of an example, and of what the prompt is filled with, that hold the
            question; the other fields are the answer.
        embeddings: What says how near questions are; None for shared words (BM25).
        k: How many to pick at most.
        max_tokens: How many tokens they may have together; None is no limit.
        model: Whose tokens are counted.

    Raises:
        ConfigError: if a number is out of range or an example lacks a field.

    Example:
        >>> from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate
        >>> selector = FewShotSelector(
        ...     [
        ...         {"input": "Where is my parcel?", "output": "shipping"},
        ...         {"input": "Is my bill right?", "output": "billing"},
        ...     ],
        ...     k=1,
        ... )
        >>> prompt = FewShotPromptTemplate(
        ...     example_selector=selector,
        ...     example_prompt=PromptTemplate.from_template("{input} -> {output}"),
        ...     suffix="{input} ->",
        ...     input_variables=["input"],
        ... )
        >>> print(prompt.format(input="Where can my parcel be?"))
        Where is my parcel? -> shipping
        <BLANKLINE>
        Where can my parcel be? ->
    """

    def __init__(
        self,
        examples: Iterable[Mapping[str, str]],
        *,
        input_keys: Sequence[str] = ("input",),
        embeddings: Embeddings | Embedder | None = None,
        k: int = 4,
        max_tokens: int | None = None,
        model: str = "",
    ) -> None:
        from costwise_core.prompt.examples import FewShot  # noqa: PLC0415 - brings numpy

        self._input_keys = tuple(input_keys)
        self._shots: FewShot = FewShot(
            [self._example(example) for example in examples],
            embedder=None if embeddings is None else as_embedder(embeddings),
            k=k,
            max_tokens=max_tokens,
            model=model,
        )

    def add_example(self, example: dict[str, str]) -> None:
        """Choose from one more example."""
        self._shots = self._shots.having(self._example(example))

    async def aadd_example(self, example: dict[str, str]) -> None:
        """Do what `add_example` does; it never blocks."""
        self.add_example(example)

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """Return the examples, the nearest last.

        Raises:
            ConfigError: if a field that holds the question is missing.
        """
        picked = self._shots.pick(self._question(input_variables))
        return [dict(example.ref) for example in picked.examples]

    async def aselect_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """Do what `select_examples` does, without blocking the event loop."""
        picked = await self._shots.apick(self._question(input_variables))
        return [dict(example.ref) for example in picked.examples]

    def _example(self, fields: Mapping[str, str]) -> "Example":
        from costwise_core.prompt.examples import Example  # noqa: PLC0415 - brings numpy

        answer = (str(value) for key, value in fields.items() if key not in self._input_keys)
        return Example(question=self._question(fields), answer="\n".join(answer), ref=dict(fields))

    def _question(self, fields: Mapping[str, str]) -> str:
        for key in self._input_keys:
            if key not in fields:
                raise ConfigError(
                    f"no field {key!r} to find the question in; there are "
                    f"{', '.join(map(repr, fields)) or 'none'}.{nearest(key, fields)}"
                )
        return "\n".join(str(fields[key]) for key in self._input_keys)
