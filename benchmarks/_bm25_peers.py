"""Other packages' BM25 as scorers, those that are installed: `make peers` installs both.

Given our words, what differs is the formula and the set-up of an index for each request; split at
spaces, as rank-bm25's users do, the words differ too.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from costwise_core import Passage
from costwise_core.protocols import Scorer
from costwise_core.text.words import words

VERSIONS = ("rank-bm25", "bm25s")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """BM25 of a package over the texts and titles of one request's passages."""

    name: str
    split: Callable[[str], list[str]]
    rank: Callable[[list[str], list[list[str]]], Sequence[float]]

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        texts = [self.split(f"{one.title}\n{one.text}") for one in passages]
        return [float(score) for score in self.rank(self.split(question), texts)]


def bm25_peers() -> Iterator[Scorer]:
    if importlib.util.find_spec("rank_bm25"):
        yield Peer(name="rank-bm25, our words", split=words, rank=_rank_bm25)
        yield Peer(name="rank-bm25, split at spaces", split=str.split, rank=_rank_bm25)
    if importlib.util.find_spec("bm25s"):
        yield Peer(name="bm25s, our words", split=words, rank=_bm25s)


def _rank_bm25(question: list[str], texts: list[list[str]]) -> Sequence[float]:
    import rank_bm25

    return rank_bm25.BM25Okapi(texts).get_scores(question)


def _bm25s(question: list[str], texts: list[list[str]]) -> Sequence[float]:
    import bm25s

    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    return index.get_scores(question)
