"""Stand-ins that need no model, no network and no waiting."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from costwise_core.errors import ConfigError
from costwise_core.prices import PriceBook
from costwise_core.protocols import Role
from costwise_core.types import Entry, Matrix, Neighbour, Selection, Vector

__all__ = ["PRICES", "BrokenStore", "FakeClock", "HashingEmbedder", "ScriptedCompleter"]

PRICES: Final = PriceBook(
    overrides={
        "scripted-1": {"input": 1, "output": 2},
        "scripted-large": {"input": 10, "output": 20},
    }
)
"""Round prices for scripted models: a word of a prompt costs a millionth of a dollar, or ten."""

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

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
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


class ScriptedCompleter:
    """A `Completer` that answers from a script and remembers what it was asked. Thread-safe.

    Args:
        answers: What it answers: by prompt, or in turn (the last one again and again), or a
            function of the prompt. An answer that is an exception is raised.
        asked: The prompts so far.

    Example:
        >>> model = ScriptedCompleter(["yes", OSError("no line")])
        >>> model.complete("Is it?"), model.asked
        ('yes', ['Is it?'])
    """

    blocking = False

    def __init__(
        self,
        answers: Mapping[str, str] | Sequence[str | Exception] | Callable[[str], str] = (
            "An answer.",
        ),
    ) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._lock = threading.Lock()

    def complete(self, prompt: str) -> str:
        """Return the next answer.

        Raises:
            Exception: the one that is next in the script.
        """
        with self._lock:
            self.asked.append(prompt)
            turn = len(self.asked) - 1
        if callable(self._answers):
            return self._answers(prompt)
        if isinstance(self._answers, Mapping):
            return self._answers[prompt]
        answer = self._answers[min(turn, len(self._answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return answer


class BrokenStore:
    """A cache store whose disk is gone: every method raises `OSError`.

    Example:
        >>> from costwise_core import Cache, Scope
        >>> Cache(BrokenStore()).lookup("What is RAG?", Scope()).reason
        'store_error'
    """

    blocking = False

    def get(self, key: str, scope: str) -> Entry | None:
        """Raise `OSError`."""
        raise OSError("no space left on device")

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Raise `OSError`."""
        raise OSError("no space left on device")

    def put(self, entries: Sequence[Entry]) -> None:
        """Raise `OSError`."""
        raise OSError("no space left on device")

    def delete(self, selection: Selection) -> int:
        """Raise `OSError`."""
        raise OSError("no space left on device")

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Raise `OSError`."""
        raise OSError("no space left on device")


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
