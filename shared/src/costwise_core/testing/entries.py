"""What the contracts of stores share: entries made from numbers, and how a store is opened."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from costwise_core.stores.vectors import unit
from costwise_core.testing.fakes import FakeClock
from costwise_core.types import Entry, Vector

__all__ = ["DIM", "EMBEDDER", "TEXTS", "StoreContract", "direction", "make_entry"]

DIM = 24
EMBEDDER = "contract-embedder"
TEXTS = (
    "What is retrieval-augmented generation?",
    "Wie hoch ist die Kündigungsfrist?",
    "什么是检索增强生成?",
    "🙂 emoji, \x00 nul, ' quotes \" and \\",
    "a lone surrogate \ud800 in the middle",
)


def make_entry(number: int = 0, **values: Any) -> Entry:
    """Return an entry whose fields all follow from a number, some replaced.

    Example:
        >>> make_entry(3, answer="other").key == make_entry(3).key
        True
    """
    entry = Entry(
        key=f"{number:032x}",
        scope="5c0be000000000000000000000000000",
        question=f"question {number}",
        answer=f"answer {number}",
        vector=direction(number),
        embedder=EMBEDDER,
        created=1_000_000.0,
    )
    entry = replace(entry, **values)
    return replace(entry, embedder="") if entry.vector is None else entry


def direction(seed: int) -> Vector:
    """Return a unit vector that follows from a number."""
    return unit(np.random.default_rng(seed).standard_normal(DIM))


class StoreContract:
    """What all contracts share: how a store is made, and opened a second time."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock the store goes by."""
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Any]:
        """An empty store, closed afterwards if it can be."""
        store = self.make_store(clock)
        yield store
        getattr(store, "close", lambda: None)()

    def make_store(self, clock: Callable[[], float]) -> Any:
        """Return a new, empty store that takes the time from `clock`."""
        raise NotImplementedError

    def reopen(self, store: Any) -> Any:
        """Return the store as another process would find it; itself if it does not outlive one."""
        return store
