"""How much of the retrieved text could go: measured on some of the log's own prompts."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.compress.extractive import ExtractiveCompressor
from costwise_core.compress.promise import calibrate_share
from costwise_core.errors import ConfigError
from costwise_core.labelled import LabelledQuestion
from costwise_core.passages import Passage

__all__ = ["Sample", "Trimmed", "trimmed"]

SAMPLE: Final = 200
"""Prompts that are compressed; the others are taken to be like them."""

_MOST_CHARS: Final = 200_000


class Sample:
    """Some of a log's prompts with passages, each as likely as any (Vitter's algorithm R, 1985).

    Example:
        >>> sample = Sample(size=2)
        >>> for n in range(9):
        ...     sample.offer("How tall?", ("It is 330 m.",), "330 m")
        >>> len(sample.kept)
        2
    """

    def __init__(self, size: int = SAMPLE) -> None:
        self.kept: list[tuple[str, tuple[str, ...], str]] = []
        self._size, self._offered = size, 0
        self._dice = random.Random(0)  # noqa: S311 - the same log gives the same report

    def offer(self, question: str, passages: tuple[str, ...], answer: str) -> None:
        """Take a prompt in, or not."""
        if sum(map(len, passages)) > _MOST_CHARS:
            return
        self._offered += 1
        if len(self.kept) < self._size:
            self.kept.append((question, passages, answer))
        elif (place := self._dice.randrange(self._offered)) < self._size:
            self.kept[place] = (question, passages, answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimmed:
    """What the compressor made of the sample.

    Args:
        share: What it was asked to keep; 1.0 is all, where no share keeps the promise, and 0.0
            where the log has too few answers to tell.
        given: Tokens of the passages of each prompt.
        kept: Of these, kept.
        answered: Prompts whose logged answer takes words over from its passages.
        recall_least: Lower bound on the share of answers that keep those words.
    """

    share: float = 0.0
    given: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    answered: int = 0
    recall_least: float = 0.0

    @property
    def kept_share(self) -> float:
        """Share of the tokens that is kept."""
        return sum(self.kept) / sum(self.given) if sum(self.given) else 1.0


def trimmed(sample: Sequence[tuple[str, tuple[str, ...], str]]) -> Trimmed:
    """Find the smallest share that keeps what the log's answers took from their passages.

    What an answer has in common with its passages, up to twelve words in a row, must stay: in 95 %
    of the prompts, with 95 % confidence (`calibrate_share`). The compressor works by words alone.

    Example:
        >>> trimmed([]).share
        0.0
    """
    labelled = []
    asked = [
        (question, [Passage(text=text, id=str(n)) for n, text in enumerate(texts)], answer)
        for question, texts, answer in sample
    ]
    for question, passages, answer in asked:
        quoted = _taken_over(answer, passages)
        if quoted:
            labelled.append(
                LabelledQuestion(question=question, passages=passages, answers=(quoted,))
            )
    try:
        found = calibrate_share(_extractive, labelled, target=_TARGET, shares=_SHARES)
    except ConfigError:  # too few answers to promise anything
        return Trimmed(answered=len(labelled))
    if found.chosen is None:
        return Trimmed(share=1.0, answered=found.answerable)
    results = [_extractive(found.share).compress(asked, texts) for asked, texts, _ in asked]
    return Trimmed(
        share=found.share,
        given=tuple(one.tokens_before for one in results),
        kept=tuple(min(one.tokens_after, one.tokens_before) for one in results),
        answered=found.answerable,
        recall_least=found.chosen.recall_least,
    )


_TARGET: Final = 0.95
_SHARES: Final = (0.5, 0.35, 0.2, 0.1)
_LONGEST: Final = 12
_SHORTEST: Final = 4


def _extractive(share: float) -> ExtractiveCompressor:
    return ExtractiveCompressor(share=share)


def _taken_over(answer: str, passages: Sequence[Passage]) -> str:
    """Return the longest piece of an answer, of four to twelve words, that a passage has too.

    An answer with fewer words counts as a whole.
    """
    answer = answer[:_MOST_ANSWER]
    found = list(_WORD.finditer(answer))
    said = [one[0].casefold() for one in found]
    texts = [f" {' '.join(_WORD.findall(one.text.casefold()))} " for one in passages]
    for size in range(min(_LONGEST, len(said)), max(min(_SHORTEST, len(said)), 1) - 1, -1):
        for start in range(len(said) - size + 1):
            piece = f" {' '.join(said[start : start + size])} "
            if any(piece in text for text in texts):
                return answer[found[start].start() : found[start + size - 1].end()]
    return ""


_WORD: Final = re.compile(r"\w+")
_MOST_ANSWER: Final = 2_000
