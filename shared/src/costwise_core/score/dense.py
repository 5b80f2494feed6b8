"""Relevance by meaning: how near a passage's embedding is to the question's."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import VectorError
from costwise_core.passages import Passage
from costwise_core.protocols import Embedder
from costwise_core.stores.vectors import unit
from costwise_core.types import Vector

__all__ = ["Dense"]

_MAX_CHARS: Final = 8_000
"""No embedder reads much further, and the hosted ones refuse a text over some 8,000 tokens."""

_NOTHING: Final = -1.0
"""The lowest cosine: for passages without text, which hosted embedders refuse."""


class Dense:
    """Scores passages by the cosine of their embedding and the question's, in [-1, 1].

    Vectors that come with the passages are used as they are, so that after a vector store a request
    costs one embedding, the question's. A passage whose vector is missing, NaN, all zeros or of
    another width is embedded, title first.

    Args:
        embedder: The one that made the vectors in the store, so that they can be compared.

    Example:
        >>> from costwise_core import Passage
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> passages = [Passage(text="The fox is red."), Passage(text="Whales sing.")]
        >>> fox, whale = Dense(HashingEmbedder()).score("What colour is the fox?", passages)
        >>> fox > whale
        True
    """

    name = "dense"

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Return one cosine for each passage.

        Raises:
            VectorError: if the embedder gives a vector that is NaN, all zeros or too few of them.
            Exception: whatever the embedder raises.
        """
        return run(self._score(question, passages))

    async def ascore(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Do what `score` does, without blocking the event loop."""
        return await arun(self._score(question, passages))

    def _score(self, question: str, passages: Sequence[Passage]) -> Flow[list[float]]:
        asked = unit((yield from call(self.embedder.embed, [question[:_MAX_CHARS]], "query"))[0])
        vectors = {
            i: vector
            for i, passage in enumerate(passages)
            if (vector := _stored(passage, asked.size)) is not None
        }
        texts = {
            i: text
            for i, passage in enumerate(passages)
            if i not in vectors and (text := _text(passage))
        }
        if texts:
            rows = yield from call(self.embedder.embed, list(texts.values()), "document")
            if len(rows) != len(texts):
                raise VectorError(
                    f"{self.embedder.name!r} gave {len(rows)} vectors for {len(texts)} texts."
                )
            vectors |= {i: unit(row, dim=asked.size) for i, row in zip(texts, rows, strict=True)}
        return [
            float(np.clip(vectors[i] @ asked, -1, 1)) if i in vectors else _NOTHING
            for i in range(len(passages))
        ]


def _stored(passage: Passage, dim: int) -> Vector | None:
    if passage.vector is None:
        return None
    try:
        return unit(passage.vector, dim=dim)
    except VectorError:
        return None


def _text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}".strip()[:_MAX_CHARS]
