"""Embeddings that are computed once, and LangChain's embeddings as a costwise embedder."""

import math
import threading
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from langchain_core.embeddings import Embeddings

from costwise_core.cache.key import fingerprint
from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.embed.vectors import MemoryVectors, VectorCache
from costwise_core.errors import ConfigError
from costwise_core.protocols import Embedder, Role
from costwise_core.tracking import calling, record_call, recorder
from costwise_core.types import Matrix
from costwise_core.usage import estimate_usage

__all__ = ["CachedEmbeddings", "LangChainEmbedder", "as_embedder"]

T = TypeVar("T")

_CHECKSUM_BYTES: Final = 4
_NAMED_BY = ("model", "model_name", "model_id", "deployment", "dimensions", "size")


class LangChainEmbedder:
    """LangChain `Embeddings` as a costwise embedder: named, unit length, sync and async.

    In a `track` block its calls are on the bill as costwise's own.

    Args:
        embeddings: The embeddings to use.
        name: What tells these vectors from those of another model. By default the class and its
            model attribute; give a name where that says too little, or a new model will be taken
            for the old one.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> LangChainEmbedder(DeterministicFakeEmbedding(size=4)).embed(["a", "b"]).shape
        (2, 4)
    """

    def __init__(self, embeddings: Embeddings, *, name: str = "") -> None:
        self._embeddings = embeddings
        self.name = name or _name(embeddings)

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text.

        Raises:
            VectorError: if a vector is not finite, is all zeros, or is not as wide as the first.
        """
        return _unit(run(self._rows(texts, role)))

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, without blocking the event loop."""
        return _unit(await arun(self._rows(texts, role)))

    def _rows(self, texts: Sequence[str], role: Role) -> Flow[list[list[float]]]:
        with calling(overhead=True):
            rows = yield from _embedded(self._embeddings, texts, role)
            yield from _on_the_bill(self._embeddings, texts)
        return rows


class CachedEmbeddings(Embeddings):
    """Embeddings that remember what they computed, queries too, and embed a repeated text once.

    Vectors come back as they were made, to the last bit. Those of queries and documents are kept
    apart, as many models make them differently. A store that fails costs time and never an answer:
    the text is embedded again and the fault counted. In a `track` block both are on the bill: what
    was embedded, and what was not because it was known.

    Args:
        embeddings: LangChain embeddings or a costwise embedder.
        cache: Where vectors are kept: memory by default, `SQLiteVectors` to survive a restart.
        name: As for `LangChainEmbedder`: tells these vectors from those of another model.

    Raises:
        ConfigError: if `embeddings` is neither.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> cached = CachedEmbeddings(DeterministicFakeEmbedding(size=4))
        >>> cached.embed_query("What is RAG?") == cached.embed_query("What is RAG?")
        True
    """

    def __init__(
        self,
        embeddings: Embeddings | Embedder,
        *,
        cache: VectorCache | None = None,
        name: str = "",
    ) -> None:
        embedder = as_embedder(embeddings)
        self._name = name or embedder.name
        self._source = embeddings if isinstance(embeddings, Embeddings) else _Rows(embedder)
        self._cache: VectorCache = cache if cache is not None else MemoryVectors()
        self._faults: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def faults(self) -> Mapping[str, int]:
        """Faults of the store that were passed over, by the name of the error's class."""
        with self._lock:
            return dict(self._faults)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text, in order."""
        return run(self._rows(texts, "document"))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what `embed_documents` does, without blocking the event loop."""
        return await arun(self._rows(texts, "document"))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return run(self._rows([text], "query"))[0]

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does, without blocking the event loop."""
        return (await arun(self._rows([text], "query")))[0]

    def _rows(self, texts: Sequence[str], role: Role) -> Flow[list[list[float]]]:
        if current_request().unoptimised:
            rows = yield from _embedded(self._source, texts, role)
            yield from _on_the_bill(self._source, texts)
            return rows
        keys = {text: self._key(text, role) for text in texts}
        stored = (yield from self._safely(self._cache.get, list(keys.values()))) or {}
        known = {text: _unpacked(stored[key]) for text, key in keys.items() if key in stored}
        missing = [text for text in keys if not known.get(text)]
        if missing:
            made = yield from _embedded(self._source, missing, role)
            known |= zip(missing, made, strict=True)
            # A vector that is broken once would otherwise be broken for good.
            fit = {keys[t]: _packed(known[t]) for t in missing if all(map(math.isfinite, known[t]))}
            yield from self._safely(self._cache.put, fit)
            yield from _on_the_bill(self._source, missing)
        spared = Counter(texts) - Counter(missing)
        yield from _on_the_bill(self._source, list(spared.elements()), tier="exact")
        return [list(known[text]) for text in texts]

    def _safely(self, fn: Callable[[Any], T], argument: object) -> Flow[T | None]:
        try:
            return (yield from call(fn, argument))
        except Exception as error:  # noqa: BLE001 - a cache fails open
            with self._lock:
                self._faults[type(error).__name__] += 1
            return None

    def _key(self, text: str, role: Role) -> bytes:
        # Not the key of `CachedEmbedder`, which keeps the same vector at unit length.
        return fingerprint("as made", self._name, role, text, volatile=()).encode()


class _Rows(Embeddings):
    """A costwise embedder as LangChain embeddings."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return run(self._rows(texts, "document"))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await arun(self._rows(texts, "document"))

    def embed_query(self, text: str) -> list[float]:
        return run(self._rows([text], "query"))[0]

    async def aembed_query(self, text: str) -> list[float]:
        return (await arun(self._rows([text], "query")))[0]

    def _rows(self, texts: Sequence[str], role: Role) -> Flow[list[list[float]]]:
        rows: list[list[float]] = (yield from call(self._embedder.embed, texts, role)).tolist()
        return rows


def as_embedder(embedder: Embedder | Embeddings) -> Embedder:
    """Return a costwise embedder for what the user has.

    Raises:
        ConfigError: if it is neither a costwise embedder nor LangChain embeddings.
    """
    if isinstance(embedder, Embeddings):
        return LangChainEmbedder(embedder)
    if not callable(getattr(embedder, "embed", None)) or not hasattr(embedder, "name"):
        raise ConfigError(
            "an embedder has a name and a method embed(texts, role), or is LangChain Embeddings; "
            f"got {type(embedder).__name__}."
        )
    return embedder


def _embedded(embeddings: Embeddings, texts: Sequence[str], role: Role) -> Flow[list[list[float]]]:
    if role == "document":
        return (yield from call(embeddings.embed_documents, list(texts)))
    rows: list[list[float]] = []
    for text in texts:
        row = yield from call(embeddings.embed_query, text)
        rows.append(row)
    return rows


def _on_the_bill(
    embeddings: Embeddings, texts: Sequence[str], tier: Literal["exact", ""] = ""
) -> Flow[None]:
    """Record texts that a model embedded, or with a tier that it need not; LangChain tells nobody.

    A model of costwise's runs here and costs nothing, and another cache records for itself.
    """
    if not texts or isinstance(embeddings, CachedEmbeddings | _Rows) or recorder() is None:
        return
    told = (getattr(embeddings, name, None) for name in _NAMED_BY)
    model = next((one for one in told if isinstance(one, str) and one), type(embeddings).__name__)
    usage = yield from call(estimate_usage, "\n".join(texts), "", model)
    yield from call(
        record_call, operation="embedding", model=model, usage=usage, tier=tier, usage_then=usage
    )


def _name(embeddings: Embeddings) -> str:
    settings = [getattr(embeddings, name, None) for name in _NAMED_BY]
    told = [str(value) for value in settings if isinstance(value, str | int) and value]
    return ":".join([type(embeddings).__qualname__, *dict.fromkeys(told)])


def _packed(row: Sequence[float]) -> bytes:
    numbers = array("d", row).tobytes()
    return zlib.crc32(numbers).to_bytes(_CHECKSUM_BYTES, "little") + numbers


def _unpacked(stored: bytes) -> list[float]:
    """Return the vector, empty for bytes that `_packed` did not make."""
    checksum, numbers = stored[:_CHECKSUM_BYTES], stored[_CHECKSUM_BYTES:]
    row = array("d")
    if zlib.crc32(numbers).to_bytes(_CHECKSUM_BYTES, "little") == checksum:
        row.frombytes(numbers)
    return row.tolist()


def _unit(rows: Sequence[Sequence[float]]) -> Matrix:
    from costwise_core.embed.rows import unit_rows  # noqa: PLC0415 - imports numpy

    return unit_rows(rows)
