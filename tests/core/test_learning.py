"""What fresh answers teach, and how seldom the judge is asked."""

import pytest

from costwise_core import Cache, CallFacts, MemoryStore, RiskControl, Scope
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Selection

SCOPE = Scope(tenant="t")


class Judge:
    blocking = False

    def __init__(self) -> None:
        self.asked = []

    def same(self, question, fresh, stored):
        self.asked.append((fresh, stored))
        return fresh.split()[0] == stored.split()[0]


def answered(cache, question, answer, **more):
    found = cache.lookup(question, SCOPE)
    return cache.store(question, SCOPE, answer, vector=found.vector, **more)


def make(**more):
    judge = Judge()
    cache = Cache(
        MemoryStore(), embedder=HashingEmbedder(256), policy=RiskControl(), judge=judge, **more
    )
    return cache, judge


def test_the_judge_is_asked_three_times_at_most():
    cache, judge = make()
    for number in range(9):
        answered(cache, f"How do I lock my card, please {'?' * number}", f"{number} is how.")
        assert len(judge.asked) <= 3
        judge.asked.clear()


def test_the_same_text_needs_no_judge():
    cache, judge = make()
    for number in range(9):
        answered(cache, f"How do I lock my card, please {'?' * number}", "Tap freeze.")
    assert judge.asked == []
    groups = {entry.group or entry.key for entry in cache.backend.entries(Selection())}
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("answer", "facts", "learned"),
    [
        ("Tap freeze. " * 20, CallFacts(), 1),  # too large to keep, and right all the same
        ("I'm sorry, I cannot help with that.", CallFacts(), 0),
        ("Tap", CallFacts(finish_reason="length"), 0),
    ],
)
def test_an_answer_that_is_not_kept_teaches_if_it_is_a_good_one(answer, facts, learned):
    cache, _ = make(max_answer_bytes=100)
    answered(cache, "How do I lock my card?", "Tap freeze.")
    before = len(cache.policy._new)
    stored = answered(cache, "How can I lock my card?", answer, facts=facts)
    assert (bool(stored), stored.telling) == (False, bool(learned))
    assert len(cache.policy._new) - before == learned
