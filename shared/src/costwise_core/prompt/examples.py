"""Few-shot examples: those that help with this question, no two alike, within a budget.

Relevance alone picks the same example five times in other words. Each next example is the one with
the best balance of relevance and difference from those already picked: maximal marginal relevance,
Carbonell and Goldstein, SIGIR 1998.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import Embedder
from costwise_core.score.bm25 import bm25_words
from costwise_core.text.words import words
from costwise_core.tokens import shared_tokens

__all__ = ["Example", "FewShot", "Picked"]

_RELEVANCE: Final = 0.7
"""What relevance weighs beside difference. With half, as is usual, the right example was lost more
often (`docs/prompts.md`)."""

_SAME: Final = 0.95
"""From this likeness on an example says nothing that another one does not."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One worked example.

    Args:
        question: What is compared with the question asked.
        answer: What the model should answer to it.
        ref: The caller's own object, carried along untouched.

    Example:
        >>> Example(question="2 + 2?", answer="4").answer
        '4'
    """

    question: str
    answer: str
    ref: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """The examples for one question.

    Args:
        examples: The one nearest to the question last, where it stands right before it.
        tokens: Of their questions and answers; a template's own words are not counted.
        why: One sentence for a person.

    Example:
        >>> Picked(examples=(), tokens=0, why="there are none").examples
        ()
    """

    examples: tuple[Example, ...]
    tokens: int
    why: str


class FewShot:
    """Picks the examples for a question. The same question gets the same ones. Thread-safe.

    Each example is embedded once, when the first question comes. If the embedder fails, shared
    words decide instead, and `why` says so.

    Args:
        examples: What to choose from.
        embedder: What says how near questions are; None for shared words (BM25).
        k: How many to pick at most.
        max_tokens: How many tokens they may have together; None is no limit. An example that does
            not fit is passed over for one that does.
        model: Whose tokens are counted.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> shots = FewShot(
        ...     [
        ...         Example(question="How long is the river Rhine?", answer="1,230 km"),
        ...         Example(question="how long is the river rhine", answer="1,230 km"),
        ...         Example(question="How long is the Nile?", answer="6,650 km"),
        ...     ],
        ...     k=2,
        ... )
        >>> [example.answer for example in shots.pick("How long is the river Elbe?").examples]
        ['6,650 km', '1,230 km']
    """

    def __init__(
        self,
        examples: Iterable[Example],
        *,
        embedder: Embedder | None = None,
        k: int = 4,
        max_tokens: int | None = None,
        model: str = "",
    ) -> None:
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k!r}.")
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1 or None, got {max_tokens!r}.")
        self._examples = tuple(examples)
        self._embedder = embedder
        self._k = k
        self._max_tokens = max_tokens
        self._model = model
        self._vectors: Scores | None = None
        self._words: tuple[list[list[str]], Scores] | None = None
        self._tokens: list[int] | None = None

    def pick(self, question: str) -> Picked:
        """Return the examples for a question; for an empty one, the first that fit."""
        return run(self._pick(question))

    async def apick(self, question: str) -> Picked:
        """Do what `pick` does, without blocking the event loop."""
        return await arun(self._pick(question))

    def having(self, example: Example) -> "FewShot":
        """Return one that chooses from one more example."""
        more = FewShot(
            (*self._examples, example),
            embedder=self._embedder,
            k=self._k,
            max_tokens=self._max_tokens,
            model=self._model,
        )
        more._vectors = self._vectors
        return more

    def _pick(self, question: str) -> Flow[Picked]:
        if not self._examples:
            return Picked(examples=(), tokens=0, why="there are no examples to choose from")
        tokens = self._counted()
        relevance, alike, how = np.zeros(len(tokens)), np.eye(len(tokens)), "in the given order"
        if question.strip():
            if self._embedder is not None:
                try:
                    relevance, alike = yield from self._by_meaning(self._embedder, question)
                    how = f"by {self._embedder.name}"
                except Exception as error:  # noqa: BLE001 - worse examples beat no answer
                    relevance, alike = self._by_words(question)
                    how = f"by shared words, as the embedder raised {type(error).__name__}"
            else:
                relevance, alike = self._by_words(question)
                how = "by shared words"
        chosen = _most_useful(relevance, alike, tokens, self._k, self._max_tokens)
        order = sorted(chosen, key=lambda one: relevance[one])
        return Picked(
            examples=tuple(self._examples[one] for one in order),
            tokens=sum(tokens[one] for one in order),
            why=f"{len(order)} of {len(tokens)} examples, {how}",
        )

    def _by_meaning(self, embedder: Embedder, question: str) -> Flow[tuple[Scores, Scores]]:
        vectors = self._vectors
        known = 0 if vectors is None else len(vectors)
        new = [example.question for example in self._examples[known:]]
        made = np.asarray((yield from call(embedder.embed, [*new, question], "query")), np.float64)
        asked, vectors = made[-1], made[:-1] if vectors is None else np.vstack((vectors, made[:-1]))
        self._vectors = vectors
        return vectors @ asked, vectors @ vectors.T

    def _by_words(self, question: str) -> tuple[Scores, Scores]:
        if self._words is None:
            texts = [words(example.question) for example in self._examples]
            self._words = texts, _shared(texts)
        texts, alike = self._words
        scores = bm25_words(words(question), texts)
        best = scores.max()
        return (scores / best if best else scores), alike

    def _counted(self) -> list[int]:
        if self._tokens is None:
            count = shared_tokens().counter(self._model)
            self._tokens = [count(one.question) + count(one.answer) for one in self._examples]
        return self._tokens


def _most_useful(
    relevance: Scores, alike: Scores, tokens: Sequence[int], k: int, max_tokens: int | None
) -> list[int]:
    """Return the positions of the examples to show, the best first."""
    chosen: list[int] = []
    left = math.inf if max_tokens is None else max_tokens
    repeats = np.zeros(len(tokens))
    while len(chosen) < k:
        fits = [
            one
            for one in range(len(tokens))
            if one not in chosen and tokens[one] <= left and repeats[one] < _SAME
        ]
        if not fits:
            break
        # Rounded, so that the last bit of a machine's arithmetic picks no example.
        value = np.round(_RELEVANCE * relevance - (1 - _RELEVANCE) * repeats, 9)
        best = max(fits, key=lambda one: (value[one], -one))
        chosen.append(best)
        left -= tokens[best]
        repeats = np.maximum(repeats, alike[best])
    return chosen


def _shared(texts: Sequence[Sequence[str]]) -> Scores:
    """Return how alike texts are by the words they share, from 0 to 1: cosine of word counts."""
    column = {word: place for place, word in enumerate(dict.fromkeys(w for t in texts for w in t))}
    counts = np.zeros((len(texts), len(column)))
    for row, text in zip(counts, texts, strict=True):
        for word, times in Counter(text).items():
            row[column[word]] = times
    length = np.linalg.norm(counts, axis=1, keepdims=True)
    counts /= np.where(length, length, 1.0)
    return np.asarray(counts @ counts.T)
