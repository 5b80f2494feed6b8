"""Several scorers' opinions in one: reciprocal rank fusion."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.passages import Passage
from costwise_core.protocols import Embedder, Scorer
from costwise_core.score.bm25 import BM25
from costwise_core.score.dense import Dense

__all__ = ["Fusion", "RankFusion", "all_scores", "hybrid", "ranks"]

_K: Final = 2.0
"""The authors' 60 is for a thousand documents; over twenty it makes all ranks nearly equal. On
questions that no benchmark here measures, the right passage came first most often up to 3."""


class Fusion:
    """Scores passages by what several scorers say of them.

    Args:
        scorers: Any scorers, each with one voice.
        fuse: Makes one number for each passage of all their scores, shape (scorers, passages).
        name: What it is called; their names are added.

    Raises:
        ConfigError: if there are no scorers.

    Example:
        >>> from costwise_core import Passage
        >>> highest = Fusion([BM25()], lambda scores: scores.max(0), name="max")
        >>> highest.name, highest.score("fox", [Passage(text="Whales sing.")])
        ('max(bm25)', [0.0])
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        fuse: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        *,
        name: str,
    ) -> None:
        if not scorers:
            raise ConfigError(f"{type(self).__name__} needs at least one scorer.")
        self.scorers = tuple(scorers)
        self.name = f"{name}({'+'.join(scorer.name for scorer in scorers)})"
        self._fuse = fuse

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Return one number for each passage, higher is more relevant.

        Raises:
            Exception: whatever one of the scorers raises.
        """
        return run(self._score(question, passages))

    async def ascore(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Do what `score` does, without blocking the event loop."""
        return await arun(self._score(question, passages))

    def _score(self, question: str, passages: Sequence[Passage]) -> Flow[list[float]]:
        if not passages:
            return []
        scores = yield from all_scores(self.scorers, question, passages)
        fused: list[float] = self._fuse(scores).tolist()
        return fused


class RankFusion(Fusion):
    """Scores passages by the sum of 1/(2 + rank) over several scorers.

    Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): it needs no labels and no common
    scale. Passages that a scorer cannot tell apart share their mean rank, so one that has no
    opinion changes nothing. The scores, at most a third of the number of scorers, tell no more than
    the order; where a `min_score` has to mean something, take `CalibratedFusion`.

    Args:
        scorers: Any scorers, each with one voice.

    Raises:
        ConfigError: if there are none.

    Example:
        >>> from costwise_core import Passage
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> fusion = RankFusion([BM25(), Dense(HashingEmbedder())])
        >>> fusion.name
        'rrf(bm25+dense)'
        >>> passages = [Passage(text="Whales sing."), Passage(text="The fox is red.")]
        >>> fusion.score("What colour is the fox?", passages)[1] == 2 / 3
        True
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        super().__init__(scorers, _reciprocal, name="rrf")


def hybrid(embedder: Embedder | None = None) -> Scorer:
    """Return the scorer to start with: BM25, and with an embedder its fusion with `Dense`.

    Example:
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> hybrid().name, hybrid(HashingEmbedder()).name
        ('bm25', 'rrf(bm25+dense)')
    """
    return BM25() if embedder is None else RankFusion([BM25(), Dense(embedder)])


def all_scores(
    scorers: Sequence[Scorer], question: str, passages: Sequence[Passage]
) -> Flow[NDArray[np.float64]]:
    """Ask every scorer; return one row for each, shape (len(scorers), len(passages)).

    Raises:
        ValueError: if a scorer does not give one finite number for each passage.
    """
    rows = np.zeros((len(scorers), len(passages)))
    for i, scorer in enumerate(scorers):
        row = np.array((yield from call(scorer.score, question, passages)), np.float64)
        if row.shape != (len(passages),) or not np.isfinite(row).all():
            raise ValueError(
                f"the scorer {scorer.name!r} must give one finite number for each of "
                f"{len(passages)} passages."
            )
        rows[i] = row
    return rows


def ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each score's rank, the highest being 1; equal scores share their mean rank.

    Example:
        >>> ranks(np.array([0.0, 7.0, 0.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, places, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return means


def _reciprocal(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    fused: NDArray[np.float64] = sum(1 / (_K + ranks(row)) for row in scores)  # type: ignore[assignment]
    return fused
