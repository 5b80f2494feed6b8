"""Core embedders as LlamaIndex embed models, and LlamaIndex embed models as core embedders."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import QueryBundle

from costwise_core.drive import arun, call, run
from costwise_core.protocols import Embedder, Role
from costwise_core.tracking import calling
from costwise_core.types import Matrix, Vector
from llamaindex_costwise._request import UnstableModelError, settings_of

if TYPE_CHECKING:
    from costwise_core.embed.vectors import VectorCache

__all__ = ["CachedEmbedding", "CostwiseEmbedding", "LlamaIndexEmbedder", "with_vector"]


_UNIT = 1e-3


class LlamaIndexEmbedder:
    """A LlamaIndex embed model as what a `Cache` needs.

    Its name holds class, model and settings, so that vectors of two models never meet. In a `track`
    block its calls are on the bill as costwise's own.

    Args:
        model: The embed model.

    Example:
        >>> from llama_index.core import MockEmbedding
        >>> LlamaIndexEmbedder(MockEmbedding(embed_dim=8)).embed(["a question"]).shape
        (1, 8)
    """

    def __init__(self, model: BaseEmbedding) -> None:
        self.model = model
        self.unit = True
        """False once the model has returned a vector that was not of unit length."""
        self.overhead = True
        """False where the user's own texts are embedded."""

    @property
    def name(self) -> str:
        """Class, model and a fingerprint of the model's settings."""
        if isinstance(self.model, CostwiseEmbedding):
            return str(self.model.embedder.name)
        try:
            settings = settings_of(self.model)[:12]
        except UnstableModelError:
            settings = ""
        return f"{self.model.class_name()}:{self.model.model_name}:{settings}"

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text: shape (len(texts), dim), float32.

        Raises:
            VectorError: if a vector is not finite, zero, or not as long as the others.
        """
        with calling(overhead=self.overhead):
            if role == "document":
                return self._unit(self.model.get_text_embedding_batch(list(texts)))
            return self._unit([self.model.get_query_embedding(text) for text in texts])

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, by the model's own asynchronous methods."""
        with calling(overhead=self.overhead):
            if role == "document":
                return self._unit(await self.model.aget_text_embedding_batch(list(texts)))
            return self._unit([await self.model.aget_query_embedding(text) for text in texts])

    def _unit(self, rows: Sequence[Sequence[float]]) -> Matrix:
        from costwise_core.embed.rows import unit_rows  # noqa: PLC0415 - imports numpy

        matrix = unit_rows(rows)
        if any(abs(math.hypot(*row) - 1) > _UNIT for row in rows):
            self.unit = False
        return matrix


class CostwiseEmbedding(BaseEmbedding):
    """A core embedder, such as the local `OnnxEmbedder`, as LlamaIndex's embed model.

    Queries and documents are embedded in their roles, batches in one call, and asynchronous calls
    without blocking the event loop. Vectors have unit length.

    Args:
        embedder: The embedder.

    Example:
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> model = CostwiseEmbedding(embedder=HashingEmbedder())
        >>> model.get_query_embedding("a question") == model.get_query_embedding("a question")
        True
    """

    embedder: Any = Field(exclude=True)

    def __init__(self, *, embedder: Embedder, **kwargs: Any) -> None:
        fields: dict[str, Any] = {"embedder": embedder, "model_name": embedder.name, **kwargs}
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CostwiseEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._rows([query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._arows([query], "query"))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._rows([text], "document")[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._arows([text], "document"))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._rows(texts, "document")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._arows(texts, "document")

    def _rows(self, texts: list[str], role: Role) -> list[list[float]]:
        return _lists(run(call(self.embedder.embed, texts, role)))

    async def _arows(self, texts: list[str], role: Role) -> list[list[float]]:
        return _lists(await arun(call(self.embedder.embed, texts, role)))


class CachedEmbedding(CostwiseEmbedding):
    """Any LlamaIndex embed model, which embeds each text once.

    Vectors are kept by model, role and text, and a batch is embedded without its repeats.
    LlamaIndex's own `embeddings_cache` keys by text alone: it gives one model's vectors to
    another, and queries the vectors of documents. Vectors come back at unit length. Callbacks
    reach the wrapped model, so only real embedding calls are counted.

    Args:
        model: The embed model.
        cache: Where vectors are kept: memory by default, `SQLiteVectors` to survive a restart.

    Example:
        >>> from llama_index.core import MockEmbedding
        >>> CachedEmbedding(model=MockEmbedding(embed_dim=4)).get_query_embedding("a question")
        [0.5, 0.5, 0.5, 0.5]
    """

    _model: Any = PrivateAttr()

    def __init__(
        self, *, model: BaseEmbedding, cache: "VectorCache | None" = None, **kwargs: Any
    ) -> None:
        from costwise_core.embed.cached import CachedEmbedder  # noqa: PLC0415 - brings numpy

        kwargs.setdefault("embed_batch_size", model.embed_batch_size)
        paid = LlamaIndexEmbedder(model)
        paid.overhead = False
        super().__init__(
            embedder=CachedEmbedder(paid, cache=cache),
            model_name=model.model_name,
            **kwargs,
        )
        self._model = model

    def __setattr__(self, name: str, value: Any) -> None:
        # Counting handlers must see calls of the model, not of the cache in front of it.
        target = self._model if name == "callback_manager" else super()
        target.__setattr__(name, value)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "CachedEmbedding"


def _lists(matrix: Matrix) -> list[list[float]]:
    rows: list[list[float]] = matrix.tolist()
    return rows


def with_vector(
    query: QueryBundle, vector: Vector | None, model: Any, embedder: Embedder | None
) -> QueryBundle:
    """Return the query with the vector of a miss, if retrieval would compute the very same.

    Args:
        query: What is retrieved for.
        vector: What the cache embedded the question to.
        model: What retrieval embeds with; None if that is not known.
        embedder: What the cache embeds with.
    """
    if vector is None or model is None or embedder is None:
        return query
    if query.embedding is not None or query.custom_embedding_strs is not None:
        return query
    if (
        not getattr(getattr(embedder, "embedder", embedder), "unit", True)
        or LlamaIndexEmbedder(model).name != embedder.name
    ):
        return query
    return QueryBundle(query_str=query.query_str, embedding=vector.tolist())
