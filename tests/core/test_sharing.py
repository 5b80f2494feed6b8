"""Reworded questions in flight share on the account of the promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, MemoryStore, RiskControl, Scope
from costwise_core.cache.policy import Verdict
from costwise_core.cache.sharing import Sharing
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Entry, Neighbour

STORED = Entry(key="k", scope="s", question="How do I lock my card?", answer="")
NEAR = [Neighbour(entry=STORED, cosine=0.96)]
ASKED = "How can I lock my card?"
LABEL = Verdict(action="refuse", why="", candidate=NEAR[0])


@given(
    st.sampled_from([0.002, 0.01, 0.02, 0.05]),
    st.lists(st.sampled_from(["request", "share", "right", "wrong"]), max_size=300),
)
def test_no_more_is_expected_to_go_wrong_than_was_promised(max_wrong, history):
    sharing = Sharing(RiskControl(max_wrong=max_wrong))
    requests, expected = 0, 0.0
    for step in history:
        if step == "request":
            requests += 1
            sharing.count_request()
        elif step == "share":
            cost = sharing.expected_wrong
            if sharing.decide(ASKED, NEAR).action == "serve":
                expected += cost
        else:
            sharing.learn(ASKED, LABEL, same=step == "right")
        assert expected <= max_wrong * requests + 1e-9


def test_a_promise_for_each_hit_is_kept_by_each_share():
    sharing = Sharing(RiskControl(max_wrong=0.02, per="hit"))
    assert sharing.decide(ASKED, NEAR).action == "serve"
    sharing.learn(ASKED, LABEL, same=False)
    assert sharing.decide(ASKED, NEAR).reason == "no_room"


def test_the_judges_own_error_counts():
    plain, doubtful = (Sharing(RiskControl(judge_error=error)) for error in (0.0, 0.5))
    assert doubtful.expected_wrong == pytest.approx(2 * plain.expected_wrong)


def test_guards_that_are_wrong_on_this_traffic_end_the_sharing():
    """The labels come free, from misses whose answers the model gave."""
    cache = Cache(MemoryStore(), embedder=HashingEmbedder(256))
    for number in range(40):
        scope = Scope(tenant=str(number))
        for asked, answer in ((STORED.question, "Call the bank."), (ASKED, "Tap freeze twice.")):
            found = cache.lookup(asked, scope)
            cache.store(asked, scope, answer, vector=found.vector)
    assert cache._sharing.expected_wrong > 0.2
    assert cache.match_in_flight(ASKED, NEAR).action == "serve"  # paid for by what was saved up
    again = [cache.match_in_flight(ASKED, NEAR).action for _ in range(9)]
    assert again.count("serve") <= 80 * 0.02 / 0.2


def test_look_alikes_are_never_shared():
    sharing = Sharing(RiskControl())
    for _ in range(100):
        sharing.count_request()
    assert sharing.decide("How do I unlock my card?", NEAR).reason == "guard_opposites"
