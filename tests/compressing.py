"""Compressors for tests of what stands around them: small, and honest about spans."""

import re
from dataclasses import replace
from decimal import Decimal

from costwise_core import Compressed, Dropped, Passage, Usage
from costwise_core.prices import shared_prices

WORD = re.compile(r"\w{4,}")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


PAGES = [
    (
        "Amazonia holds 390 billion trees. The forest spans nine nations, most of it in Brazil. It "
        "is the largest rainforest there is. Rivers cross it in all directions."
    ),
    (
        "The Normans came from Normandy in France. They gave their name to it in the 10th century. "
        "Their dukes later ruled England and Sicily. They spoke a kind of French."
    ),
    (
        "Oxygen is the third most abundant element in the universe. It was discovered in 1774 by "
        "Priestley. Plants give it off in the light. Steel is made with much of it."
    ),
    (
        "The Rhine begins in the Swiss Alps. It empties into the North Sea in the Netherlands. "
        "Basel is its first great city. Barges carry ore and grain on it."
    ),
    (
        "Tesla was born in 1856 in Smiljan. He worked on alternating current in New York. He died "
        "in 1943. Many of his papers are kept in Belgrade."
    ),
]
ASKED = {
    "In which year was oxygen discovered?": "1774",
    "How many trees are there in Amazonia?": "390 billion",
    "Where was Tesla born?": "Smiljan",
    "Into which sea does the Rhine empty?": "North Sea",
    "In which century did the Normans give Normandy its name?": "10th century",
}


class Sentences:
    """Keeps the sentences that share a long word with the question, as they stand."""

    blocking = False

    def __init__(self):
        self.given = []

    def compress(self, question, passages):
        self.given.append((question, tuple(passages)))
        before = sum(len(passage.text.split()) for passage in passages)
        if not question.strip():
            return Compressed.unchanged(passages, tokens=before, reason="no_question")
        wanted = set(map(str.lower, WORD.findall(question)))
        cut = [self._cut(wanted, passage) for passage in passages]
        kept = tuple(passage for passage in cut if passage.text)
        return Compressed(
            passages=kept,
            given=tuple(passages),
            dropped=tuple(
                Dropped(passage=given, why="no word in common")
                for given, passage in zip(passages, cut, strict=True)
                if not passage.text
            ),
            tokens_before=before,
            tokens_after=sum(len(passage.text.split()) for passage in kept),
            reason="compressed",
            why="words in common",
        )

    def _cut(self, wanted, passage):
        spans = tuple(
            found.span()
            for found in SENTENCE.finditer(passage.text)
            if wanted & set(map(str.lower, WORD.findall(found.group())))
        )
        return replace(
            passage,
            text=" [...] ".join(passage.text[start:end].strip() for start, end in spans),
            original=passage.text if passage.original is None else passage.original,
            spans=spans if passage.original is None else (),
            why=f"{len(spans)} sentences",
            score=float(len(spans)),
        )


class Waits(Sentences):
    """Has an asynchronous twin, which remembers that it was awaited."""

    def __init__(self):
        super().__init__()
        self.awaited = 0

    async def acompress(self, question, passages):
        self.awaited += 1
        return self.compress(question, passages)


class Broken:
    """Raises what it is given."""

    def __init__(self, error):
        self.error = error

    def compress(self, question, passages):
        raise self.error


class Merges:
    """Makes one passage of its own out of all."""

    def compress(self, question, passages):
        merged = Passage(text=" ".join(passage.text for passage in passages), why="merged")
        return Compressed(
            passages=(merged,),
            given=(),
            tokens_before=2,
            tokens_after=1,
            reason="compressed",
        )


SAVED_ON = "gpt-4o"
"""The model whose calls the tests of bills look at."""


def usd(tokens):
    """Return what so many tokens cost in a prompt."""
    return shared_prices().cost(Usage(input_tokens=tokens), SAVED_ON).usd


def saved(bill):
    """Return what a bill says compressing saved."""
    return bill.savings.get("compress", Decimal(0))
