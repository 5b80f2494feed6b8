"""The contract of a compressor as a pytest class: one is done when a subclass passes.

Example:
    >>> class TestMyCompressor(CompressorContract):
    ...     def make_compressor(self):
    ...         return MyCompressor()
"""

# ruff: noqa: S101 - these are tests, shipped

import asyncio
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest

from costwise_core.drive import arun, call
from costwise_core.passages import Compressed, Passage
from costwise_core.testing.entries import TEXTS

__all__ = ["CompressorContract"]

QUESTION = "In which year was oxygen discovered?"
PASSAGES = (
    Passage(
        id="oxygen",
        title="Oxygen",
        text="Oxygen is common. It was discovered in 1774 by Priestley. Plants give it off.",
        metadata={"page": 3},
    ),
    Passage(id="rhine", title="Rhine", text="The Rhine begins in the Alps. Barges carry ore."),
    Passage(id="tesla", text="Tesla was born in 1856 in Smiljan. He died in New York in 1943."),
)


class CompressorContract:
    """Subclass it, say how a compressor is made, and pytest runs the contract."""

    def make_compressor(self) -> Any:
        """Return a compressor."""
        raise NotImplementedError

    @pytest.fixture
    def compressor(self) -> Any:
        """The one under test."""
        return self.make_compressor()

    def test_what_it_returns_adds_up(self, compressor: Any) -> None:
        """Every passage that was given is kept or dropped, and tokens are not made more."""
        result = compressor.compress(QUESTION, PASSAGES)
        assert isinstance(result, Compressed)
        assert result.reason
        assert result.tokens_after <= result.tokens_before
        left = {passage.id for passage in result.passages}
        gone = {one.passage.id for one in result.dropped}
        assert left | gone == {passage.id for passage in PASSAGES}
        assert not left & gone
        assert all(one.why for one in result.dropped)

    def test_what_it_was_given_stays_as_it_was(self, compressor: Any) -> None:
        """Neither the passages nor what they carry is changed."""
        before = deepcopy(PASSAGES)
        given = list(PASSAGES)
        result = compressor.compress(QUESTION, given)
        assert given == list(before)
        kept = {passage.id: passage for passage in result.passages}
        for passage in before:
            if passage.id in kept:
                assert kept[passage.id].metadata == passage.metadata

    def test_pieces_are_verbatim_and_can_be_undone(self, compressor: Any) -> None:
        """Where spans are given, the kept text consists of just those pieces of the original."""
        result = compressor.compress(QUESTION, PASSAGES)
        for passage in result.passages:
            if passage.original is not None and passage.spans:
                place = 0
                for start, end in passage.spans:
                    place = passage.text.find(passage.original[start:end].strip(), place)
                    assert place >= 0
        for given in PASSAGES:
            assert result.restore(given.id).text == given.text

    @pytest.mark.parametrize("text", ["", " \n", *TEXTS, "word " * 5_000])
    def test_any_text_at_all(self, compressor: Any, text: str) -> None:
        """No question and no passage makes it raise."""
        for question, passages in (
            (text, PASSAGES),
            (QUESTION, [Passage(text=text, id=text[:50])]),
            (text, [Passage(text=text), Passage(text=text)]),
        ):
            result = compressor.compress(question, passages)
            assert result.tokens_after <= result.tokens_before
            assert len(result.passages) + len(result.dropped) == len(passages)

    def test_nothing_to_compress(self, compressor: Any) -> None:
        """Of no passages it makes none."""
        result = compressor.compress(QUESTION, [])
        assert result.passages == ()
        assert result.share_kept == 1.0

    def test_the_same_again(self, compressor: Any) -> None:
        """A prompt that changes for no reason is one a provider cannot cache."""
        first = compressor.compress(QUESTION, PASSAGES)
        assert [p.text for p in first.passages] == [
            p.text for p in compressor.compress(QUESTION, PASSAGES).passages
        ]

    def test_several_threads(self, compressor: Any) -> None:
        """Threads share one compressor and each gets its own answer."""
        asked = [(QUESTION, [passage]) for passage in PASSAGES] * 8
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda one: compressor.compress(*one), asked))
        for (_, (passage,)), result in zip(asked, found, strict=True):
            assert result.restore(passage.id).text == passage.text

    def test_asynchronous_code_gets_the_same(self, compressor: Any) -> None:
        """Whether it has a twin of its own or runs in a thread."""

        def flow() -> Any:
            return (yield from call(compressor.compress, QUESTION, PASSAGES))

        waited = asyncio.run(arun(flow()))
        assert [p.text for p in waited.passages] == [
            p.text for p in compressor.compress(QUESTION, PASSAGES).passages
        ]
