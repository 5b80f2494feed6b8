"""No answer crosses from one scope into another, however near the questions are."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, SQLiteStore
from costwise_core.protocols import CacheStore
from costwise_core.testing.fakes import HashingEmbedder

# Values that read alike, and such that only their field tells apart.
VALUES = ("", "a", "b", "ab", "A", "a\x00", "a/b", '{"a":1}', "ä", "acme", "*", "%", "' OR 1=1")
FIELDS = ("tenant", "model", "system", "tools", "template", "corpus", "context", "kind")
QUESTIONS = ("how do I return a coat", "how do I return the coat", "how can I return a coat")


def scopes(draws: random.Random, n: int) -> list[Scope]:
    """Random combinations, half of them one field away from the one before."""
    found = [Scope()]
    while len(found) < n:
        if draws.random() < 0.5:
            found.append(replace(found[-1], **{draws.choice(FIELDS): draws.choice(VALUES)}))
        else:
            found.append(Scope(**{name: draws.choice(VALUES) for name in FIELDS}))
    return found


def crossings(store: CacheStore, n: int) -> tuple[int, int]:
    """Ask and answer in n scopes, near matching wide open; how many hits, how many crossed."""
    draws = random.Random(7)
    cache = Cache(store, embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.01))
    hits = crossed = 0
    for scope in scopes(draws, n):
        question = draws.choice(QUESTIONS)
        found = cache.lookup(question, scope)
        if found:
            hits += 1
            crossed += found.answer != repr(scope)
        else:
            assert cache.store(question, scope, repr(scope), vector=found.vector)
    return hits, crossed


def test_memory():
    hits, crossed = crossings(MemoryStore(max_entries=None, max_bytes=None), 100_000)
    assert crossed == 0
    assert hits > 1_000


@pytest.mark.parametrize("n", [2_000])
def test_sqlite(tmp_path: Path, n: int):
    store = SQLiteStore(tmp_path / "cache.db")
    hits, crossed = crossings(store, n)
    store.close()
    assert crossed == 0
    assert hits > 20


def test_fields_are_not_run_together():
    seen = {Scope(tenant=one, model=other).key for one in VALUES for other in VALUES}
    assert len(seen) == len(VALUES) ** 2
