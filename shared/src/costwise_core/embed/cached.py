"""An embedder that embeds no text twice."""

import hashlib
import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.embed.vectors import MemoryVectors, VectorCache
from costwise_core.errors import VectorError
from costwise_core.protocols import Embedder, Role
from costwise_core.stores.vectors import unit
from costwise_core.types import Matrix, Vector

__all__ = ["CachedEmbedder", "EmbeddingStats"]

_NUMBERS: Final = np.dtype("<f4")
_CHECKSUM_BYTES: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingStats:
    """What a cached embedder did since it was made.

    Args:
        hits: Texts that did not have to be embedded, repeats within one call included.
        misses: Texts that were embedded.
        errors: Faults of the cache that were passed over, by the name of the error's class;
            "damaged" counts vectors that were stored and came back changed.
    """

    hits: int = 0
    misses: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)


class CachedEmbedder:
    """Wraps an embedder so that each text is embedded once; is an embedder of the same name itself.

    A vector is kept under a digest of the embedder's name, the role and the text. A cache that
    fails costs time and never an answer: the text is embedded and the fault counted. Thread-safe.

    Args:
        embedder: What embeds the texts that are new.
        cache: Where vectors are kept: memory by default, `SQLiteVectors` to survive a restart.

    Example:
        >>> import numpy as np
        >>> class Letters:
        ...     name = "letters-1"
        ...     def embed(self, texts, role="query"):
        ...         return np.float32([[1 + t.count("a"), 1 + t.count("b")] for t in texts])
        >>> embedder = CachedEmbedder(Letters())
        >>> embedder.embed(["a", "a", "b"]).shape
        (3, 2)
        >>> embedder.stats
        EmbeddingStats(hits=1, misses=2, errors=mappingproxy({}))
    """

    def __init__(self, embedder: Embedder, *, cache: VectorCache | None = None) -> None:
        self.embedder = embedder
        self.cache: VectorCache = cache if cache is not None else MemoryVectors()
        self._width: int | None = None
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the embedder inside: the vectors are its vectors."""
        return self.embedder.name

    @property
    def stats(self) -> EmbeddingStats:
        """Counts since this embedder was made."""
        with self._lock:
            return EmbeddingStats(
                hits=self._counts["hits"],
                misses=self._counts["misses"],
                errors=MappingProxyType(dict(sorted(self._errors.items()))),
            )

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text.

        Args:
            texts: Any strings, repeats welcome.
            role: What the texts are to the embedder.

        Returns:
            Array of shape (len(texts), dim), float32, the caller's own to change. For no texts the
            dim is 0 until the first text was seen.

        Raises:
            VectorError: if the embedder gives the wrong number of rows, NaN, zeros, or rows of
                another width than before; nothing of that is kept.
            Exception: whatever the embedder raises.
        """
        return run(self._embed(texts, role))

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, without blocking the event loop."""
        return await arun(self._embed(texts, role))

    def _embed(self, texts: Sequence[str], role: Role) -> Flow[Matrix]:
        if not texts:
            return np.empty((0, self._width or 0), np.float32)
        if current_request().unoptimised:
            return np.array((yield from call(self.embedder.embed, list(texts), role)), np.float32)
        name = self.name
        keys = [_key(name, role, text) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        vectors = yield from self._known(list(wanted))
        new = {key: text for key, text in wanted.items() if key not in vectors}
        if new:
            made = yield from call(self.embedder.embed, list(new.values()), role)
            fresh = self._checked(new, made)
            vectors |= fresh
            yield from self._keep(fresh)
        self._count(hits=len(texts) - len(new), misses=len(new))
        return np.stack([vectors[key] for key in keys])

    def _known(self, keys: list[bytes]) -> Flow[dict[bytes, Vector]]:
        """Return the vectors the cache has, leaving out what it cannot give or has damaged."""
        try:
            found = yield from call(self.cache.get, keys)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self._count_error(type(error).__name__)
            return {}
        vectors = {}
        for key, stored in found.items():
            vector = _unpacked(stored)
            if vector is None or vector.size != (self._width or vector.size):
                self._count_error("damaged")
            else:
                self._width = vector.size
                vectors[key] = vector
        return vectors

    def _keep(self, vectors: Mapping[bytes, Vector]) -> Flow[None]:
        try:
            yield from call(self.cache.put, {key: _packed(v) for key, v in vectors.items()})
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self._count_error(type(error).__name__)

    def _checked(self, new: Mapping[bytes, str], made: Matrix) -> dict[bytes, Vector]:
        if len(made) != len(new):
            raise VectorError(f"{self.name!r} gave {len(made)} vectors for {len(new)} texts.")
        fresh = {}
        for key, row in zip(new, made, strict=True):
            fresh[key] = unit(row, dim=self._width)
            self._width = fresh[key].size
        return fresh

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def _count_error(self, name: str) -> None:
        with self._lock:
            self._errors[name] += 1


def _key(name: str, role: Role, text: str) -> bytes:
    digest = hashlib.sha256()
    for part in (name, role, text):
        # The length in front keeps ("ab", "c") apart from ("a", "bc").
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def _packed(vector: Vector) -> bytes:
    numbers = vector.astype(_NUMBERS).tobytes()
    return zlib.crc32(numbers).to_bytes(_CHECKSUM_BYTES, "little") + numbers


def _unpacked(stored: bytes) -> Vector | None:
    """Return the vector, or None for bytes that `_packed` did not make."""
    if not isinstance(stored, bytes) or len(stored) <= _CHECKSUM_BYTES:
        return None
    checksum, numbers = stored[:_CHECKSUM_BYTES], stored[_CHECKSUM_BYTES:]
    if zlib.crc32(numbers).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        return None
    if len(numbers) % _NUMBERS.itemsize:
        return None
    return np.frombuffer(numbers, _NUMBERS).astype(np.float32)
