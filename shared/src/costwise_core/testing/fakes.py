"""Stand-ins that need no model, no network and no waiting."""

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from costwise_core.errors import ConfigError
from costwise_core.protocols import Role
from costwise_core.types import Matrix

__all__ = ["FakeClock", "HashingEmbedder"]

_WORD = re.compile(r"\w+")


class HashingEmbedder:
    """Embeds texts by hashing their words and letter triples: no meaning, but stable and quick.

    Texts that share words get similar vectors, equal texts equal ones, on every machine.

    Args:
        dim: How many dimensions the vectors have.
        name: What stores remember it by.

    Raises:
        ConfigError: if `dim` is below 8.

    Example:
        >>> near, same, far = HashingEmbedder().embed(["red fox", "red fox", "blue whale"])
        >>> bool(near @ same > 0.999), bool(near @ far < 0.5)
        (True, True)
    """

    blocking = False

    def __init__(self, dim: int = 64, *, name: str = "hashing") -> None:
        if dim < 8:
            raise ConfigError(f"dim must be at least 8, got {dim!r}.")
        self.dim = dim
        self.name = name

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:  # noqa: ARG002
        """Return one unit row for each text: shape (len(texts), dim), float32."""
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature in _features(text):
                digest = hashlib.blake2b(
                    feature.encode("utf-8", "surrogatepass"), digest_size=8
                ).digest()
                number = int.from_bytes(digest, "little")
                row[number % self.dim] += 1.0 if number >> 63 else -1.0
            if not row.any():
                row[0] = 1.0
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


class FakeClock:
    """A clock that stands still until it is told to move; call it for the time.

    Args:
        now: Seconds since the epoch.

    Example:
        >>> clock = FakeClock(100.0)
        >>> clock.advance(5)
        >>> clock()
        105.0
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let this many seconds pass."""
        self.now += seconds


def _features(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    triples = [f"#{word}#"[i : i + 3] for word in words for i in range(len(word))]
    return [*words, *words, *pairs, *triples]
