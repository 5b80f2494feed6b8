"""The contract of a cache before a model, in whichever framework, as a pytest class.

A subclass says how an app is made around a cache and how it is asked; everything else is here. Used
for costwise's own classes of LangChain and LlamaIndex, and for any wrapper of another package.
"""

# ruff: noqa: S101 - these are tests, shipped

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from costwise_core.cache.cache import Cache
from costwise_core.cache.policy import FixedThreshold
from costwise_core.context import scoped
from costwise_core.stores.memory import MemoryStore
from costwise_core.testing.fakes import BrokenStore, HashingEmbedder

__all__ = ["AnswerCacheContract", "AppUnderTest", "Served"]

ASK = "How do I reset my password?"
REWORDED = "How can I reset my password?"
OTHER = "Which countries do you ship to?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """An answer as the app's caller sees it.

    Args:
        text: What it says.
        hit: Whether it came from the cache.
        id: What the framework knows the answer by; "" if it gives answers none.
        tokens: What the answer's usage says was paid, 0 for a hit; None if it says nothing.
        pieces: The pieces of a stream, in order; none of an answer in one piece.
    """

    text: str
    hit: bool
    id: str = ""
    tokens: int | None = None
    pieces: tuple[str, ...] = ()


class AppUnderTest(Protocol):
    """An app around a model and a cache."""

    @property
    def paid(self) -> int:
        """How often the model was asked."""
        ...

    def ask(self, question: str, *, system: str = "", stream: bool = False) -> Served:
        """Ask one question, with these instructions, for a whole answer or a stream."""
        ...

    async def aask(self, question: str, *, system: str = "", stream: bool = False) -> Served:
        """Do what `ask` does, through the framework's asynchronous methods."""
        ...


class AnswerCacheContract:
    """Subclass it, say how an app is made, and pytest runs the contract."""

    streams = True
    """Whether the app can be asked for streams."""

    systems = True
    """Whether instructions can be given with a question."""

    def make_app(self, cache: Cache, *, truncated: bool = False) -> Any:
        """Return an app around this cache and a new model.

        Args:
            cache: Where answers are looked up and stored.
            truncated: Whether the model's answers end because they became too long.
        """
        raise NotImplementedError

    @pytest.fixture
    def cache(self) -> Cache:
        """An empty cache that serves reworded questions."""
        return Cache(
            MemoryStore(),
            embedder=HashingEmbedder(),
            policy=FixedThreshold(min_cosine=0.6),
        )

    @pytest.fixture
    def app(self, cache: Cache) -> Any:
        """The app under test."""
        return self.make_app(cache)

    def test_a_repeat_is_served(self, app: AppUnderTest) -> None:
        """The same question is paid once, however it is spaced."""
        first = app.ask(ASK)
        again, spaced = app.ask(ASK), app.ask("  how do I  reset my password? ")
        assert (first.hit, again.hit, spaced.hit) == (False, True, True)
        assert first.text == again.text == spaced.text
        assert app.paid == 1

    def test_a_reworded_question_is_served_as_the_policy_says(self, app: AppUnderTest) -> None:
        """The near tier works through the whole stack; another question is never its business."""
        first = app.ask(ASK)
        near, other = app.ask(REWORDED), app.ask(OTHER)
        assert near.hit
        assert near.text == first.text
        assert not other.hit

    def test_by_default_nothing_near_is_served_before_it_is_known_to_be_right(self) -> None:
        """The default policy promises at most 2 % wrong, so a cold cache pays."""
        app = self.make_app(Cache(MemoryStore(), embedder=HashingEmbedder()))
        app.ask(ASK)
        assert not app.ask(REWORDED).hit
        assert app.ask(ASK).hit

    def test_tenants_never_share(self, app: AppUnderTest) -> None:
        """An answer paid for by one tenant is not another's, repeated or reworded."""
        with scoped(tenant="acme"):
            app.ask(ASK)
            assert app.ask(ASK).hit
        with scoped(tenant="globex"):
            assert not app.ask(ASK).hit
            assert not app.ask(OTHER).hit
        with scoped(tenant="initech"):
            assert not app.ask(REWORDED).hit

    def test_other_instructions_are_another_question(self, app: AppUnderTest) -> None:
        """The system prompt decides the answer, so it is matched exactly."""
        if not self.systems:
            pytest.skip("no instructions can be given with a question")
        app.ask(ASK, system="Answer in German.")
        assert app.ask(ASK, system="Answer in German.").hit
        assert not app.ask(ASK, system="Answer in French.").hit
        assert not app.ask(REWORDED, system="Answer in Italian.").hit

    def test_bypass_and_hold_out(self, app: AppUnderTest) -> None:
        """What is not to be served from the cache is neither looked up nor stored."""
        for how in ({"bypass": True}, {"unoptimised": True}):
            with scoped(**how):
                app.ask(OTHER)
                assert not app.ask(OTHER).hit
        assert app.paid == 4
        assert not app.ask(OTHER).hit

    def test_a_truncated_answer_is_not_stored(self, cache: Cache) -> None:
        """Half an answer would be served for ever."""
        app = self.make_app(cache, truncated=True)
        app.ask(ASK)
        assert not app.ask(ASK).hit

    def test_a_broken_store_costs_money_and_nothing_else(self) -> None:
        """The cache fails open: the model answers, and the failure is counted."""
        cache = Cache(BrokenStore(), embedder=HashingEmbedder())
        app = self.make_app(cache)
        assert app.ask(ASK).text
        assert not app.ask(ASK).hit
        assert cache.stats.errors

    def test_a_hit_is_a_new_answer(self, app: AppUnderTest) -> None:
        """It has an id of its own, since frameworks merge messages of one id, and cost nothing."""
        paid = app.ask(ASK)
        hits = [app.ask(ASK), app.ask(ASK)]
        ids = {paid.id, *(hit.id for hit in hits)}
        assert ids == {""} or len(ids) == 3
        for hit in hits:
            assert not hit.tokens

    def test_streams(self, app: AppUnderTest) -> None:
        """A stream fills the cache, is served from it in pieces, and is the same answer whole."""
        if not self.streams:
            pytest.skip("the app does not stream")
        first = app.ask(ASK, stream=True)
        again, whole = app.ask(ASK, stream=True), app.ask(ASK)
        assert not first.hit
        assert "".join(first.pieces) == first.text == again.text == whole.text
        assert "".join(again.pieces) == again.text
        assert app.paid == 1

    def test_asynchronous_code_shares_the_cache(self, app: AppUnderTest) -> None:
        """What was paid for on one way is served on the other."""
        first = app.ask(ASK)

        async def both() -> list[Served]:
            return [await app.aask(ASK), await app.aask(OTHER)]

        again, other = asyncio.run(both())
        assert again.hit
        assert again.text == first.text
        assert not other.hit
        assert app.ask(OTHER).hit

    def test_asynchronous_streams(self, app: AppUnderTest) -> None:
        """As the others."""
        if not self.streams:
            pytest.skip("the app does not stream")

        async def twice() -> list[Served]:
            return [await app.aask(ASK, stream=True), await app.aask(ASK, stream=True)]

        first, again = asyncio.run(twice())
        assert (first.hit, again.hit) == (False, True)
        assert "".join(again.pieces) == first.text
        assert app.paid == 1

    def test_threads(self) -> None:
        """Threads that ask different questions each get the answer to their own."""
        app = self.make_app(Cache(MemoryStore(), embedder=HashingEmbedder()))
        asked = [f"What does article {number} cost?" for number in range(20)]
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(app.ask, asked))
            again = list(pool.map(app.ask, asked))
        assert [one.text for one in first] == [one.text for one in again]
        assert len({one.text for one in first}) == len(asked)
        assert app.paid == len(asked)
