"""The promise: closed without evidence, kept on simulated traffic, shared between processes."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, MemoryStore, RiskControl, Scope, SQLiteStore
from costwise_core.cache.evidence import FEATURES
from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Entry, Neighbour

SCOPE = Scope(tenant="t")


def neighbours(cosine: float, n: int = 1) -> list[Neighbour]:
    entry = Entry(key=f"k{n}", scope="s", question="how do I return a coat", answer="a")
    return [Neighbour(entry=entry, cosine=cosine)]


def exchange(*policies: RiskControl) -> int:
    rows = [row for policy in policies for row in policy.outbox()]
    return sum(policy.absorb(rows) for policy in policies)


def traffic(policy: RiskControl, n: int, *, seed: int, shift: int | None = None) -> tuple[int, int]:
    """Candidates are right with a chance that their cosine tells; hits and wrong hits.

    After `shift` requests the same cosines are right far less often.
    """
    draws = random.Random(seed)
    hits = wrong = 0
    for number in range(n):
        if policy.due:
            exchange(policy)
        cosine = draws.uniform(0.5, 1.0)
        least = 0.75 if shift is None or number < shift else 0.9
        same = draws.random() < 1 / (1 + 2.718 ** (-40 * (cosine - least)))
        verdict = policy.decide("how can I return a coat", neighbours(cosine))
        if verdict.action == "serve":
            hits += 1
            wrong += not same
        else:
            policy.learn(verdict, same=same)
    return hits, wrong


def taught(n: int = 1_500, **arguments: object) -> RiskControl:
    policy = RiskControl(seed=0, **arguments)
    traffic(policy, n, seed=0)
    exchange(policy)
    return policy


class TestPromise:
    def test_starts_closed_and_opens_on_evidence(self):
        policy = RiskControl(0.05, seed=0)
        exchange(policy)
        health = policy.health()
        assert not health.is_open
        assert health.max_predicted_wrong == -1.0
        assert "closed: 0 labels" in health.why
        verdict = policy.decide("how can I return a coat", neighbours(0.999))
        assert (verdict.action, verdict.reason) == ("refuse", "still_learning")
        traffic(policy, 1_500, seed=0)
        exchange(policy)
        assert policy.health().is_open

    def test_never_opens_where_nothing_is_right(self):
        policy = RiskControl(seed=0)
        for _ in range(1_000):
            if policy.due:
                exchange(policy)
            verdict = policy.decide("how can I return a coat", neighbours(0.99))
            assert verdict.action != "serve"
            policy.learn(verdict, same=False)

    @pytest.mark.parametrize("delta", [0.01, 0.02, 0.05])
    def test_kept_on_long_streams(self, delta):
        results = [traffic(RiskControl(delta, seed=s), 4_000, seed=s) for s in range(4)]
        assert all(wrong <= delta * 4_000 for _, wrong in results)
        assert all(hits > 0.05 * 4_000 for hits, _ in results)

    @pytest.mark.parametrize("delta", [0.01, 0.02, 0.05])
    def test_kept_on_short_streams(self, delta):
        results = [traffic(RiskControl(delta, seed=s), 800, seed=s) for s in range(8)]
        assert all(wrong <= delta * 800 for _, wrong in results)

    def test_what_is_right_changes_midway(self):
        """Nobody can see it coming: the mean keeps the promise, a run may overdraw by a fifth."""
        results = [
            traffic(RiskControl(0.02, seed=s), 6_000, seed=s, shift=3_000)[1] for s in range(4)
        ]
        assert sum(results) / 4 <= 0.02 * 6_000
        assert max(results) <= 1.2 * 0.02 * 6_000

    @pytest.mark.parametrize("seed", range(3))
    def test_per_hit_bounds_the_share_of_hits(self, seed):
        hits, wrong = traffic(RiskControl(0.05, per="hit", seed=seed), 5_000, seed=seed)
        assert hits > 50
        assert wrong <= 0.05 * hits

    def test_a_judge_that_errs_narrows_what_is_served(self):
        exact, erring = taught(max_wrong=0.05), taught(max_wrong=0.05, judge_error=0.4)
        assert erring.health().judge_error == 0.4
        assert erring.health().max_predicted_wrong < exact.health().max_predicted_wrong

    def test_guards_come_before_any_evidence(self):
        verdict = taught().decide("how can I return 2 coats", neighbours(0.999))
        assert verdict.reason == "guard_numbers"

    @pytest.mark.parametrize(
        "arguments",
        [
            {"max_wrong": 0.0},
            {"max_wrong": 0.6},
            {"confidence": 0.4},
            {"check_share": 0.0},
            {"window": 10},
            {"judge_error": 0.9},
            {"per": "day"},
        ],
    )
    def test_arguments_out_of_range(self, arguments):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            RiskControl(**arguments)


class TestHealth:
    def test_numbers(self):
        policy = RiskControl(0.05, seed=2)
        hits, _ = traffic(policy, 3_000, seed=2)
        exchange(policy)
        health = policy.health()
        assert (health.requests, health.hits) == (3_000, hits)
        assert health.promise == "at most 5.00% of requests answered wrongly"
        assert 0 <= health.wrong_share <= health.wrong_share_upper <= 0.05
        assert 0 <= health.wrong_checks <= health.checks < hits
        assert health.why.startswith("open on ")

    def test_per_hit_says_so(self):
        assert RiskControl(per="hit").health().promise.endswith("near hits answered wrongly")


HOSTILE = [
    "",
    "null",
    "[]",
    "{}",
    "[" * 4_000,
    '{"n":1e999,"h":0,"o":[]}',
    '{"n":NaN,"h":0,"o":[]}',
    '{"n":-1,"h":0,"o":[]}',
    '{"n":1,"h":2,"o":[]}',
    '{"n":1000000000,"h":0,"o":[]}',
    '{"n":1,"h":0,"o":[[1,2,3]]}',
    '{"n":1,"h":0,"o":"text"}',
    json.dumps({"n": 1, "h": 0, "o": [[*[0.5] * len(FEATURES), 2, 1]]}),
    json.dumps({"n": 1, "h": 0, "o": [[*[0.5] * len(FEATURES), 1, 1e9]]}),
    json.dumps({"n": 1, "h": 0, "o": [[*[float("nan")] * len(FEATURES), 1, 1]]}),
    json.dumps({"n": 1, "h": 0, "o": [[*[1e30] * len(FEATURES), 1, 1]]}),
]


class TestRows:
    @pytest.mark.parametrize("row", HOSTILE, ids=range(len(HOSTILE)))
    def test_damaged_rows_are_counted_and_change_nothing(self, row):
        policy = taught()
        before = policy.health()
        assert policy.absorb([row]) == 1
        assert policy.health() == before

    @given(st.text(max_size=60))
    def test_any_text_is_survived(self, row):
        policy = RiskControl()
        policy.absorb([row])
        assert policy.decide("q", neighbours(0.99)).action == "refuse"

    def test_labels_of_one_open_the_other(self):
        one, other = RiskControl(seed=0), RiskControl(seed=1)
        for _ in range(30):
            traffic(one, 50, seed=random.Random(one.health().requests).randrange(10**6))
            exchange(one, other)
        assert other.health().is_open
        assert other.health().requests >= 1_000
        assert other.decide("how can I return a coat", neighbours(0.99)).action != "refuse"

    def test_rows_fit_into_a_journal(self):
        policy = RiskControl(seed=0)
        for _ in range(400):
            policy.learn(policy.decide("how can I return a coat", neighbours(0.99)), same=True)
        rows = policy.outbox()
        assert max(len(row.encode()) for row in rows) <= 4_000
        assert policy.outbox() == []
        assert policy.absorb(rows) == 0
        assert policy.health().requests == 400

    def test_threads_lose_no_request_and_no_label(self):
        policy = RiskControl(seed=0)

        def work(number: int) -> None:
            verdict = policy.decide("how can I return a coat", neighbours(0.9, number))
            policy.learn(verdict, same=True)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(2_000)))
        rows = [json.loads(row) for row in policy.outbox()]
        assert sum(row["n"] for row in rows) == 2_000
        assert sum(len(row["o"]) for row in rows) == 2_000


# --- in a cache, through a store --------------------------------------------------------------

STREAM = """
import sys
from costwise_core import Cache, RiskControl, Scope, SQLiteStore
from costwise_core.testing.fakes import HashingEmbedder
store = SQLiteStore(sys.argv[1], busy_timeout=10)
cache = Cache(store, embedder=HashingEmbedder(), policy=RiskControl(0.05, seed=0))
scope = Scope(tenant="t")
words = "please kindly now then thanks again friend today soon there".split()
for number in range(int(sys.argv[2])):
    a, b = words[number % 10], words[number // 10 % 10]
    question = f"{a} how do I return a coat I bought {b} {words[number // 100 % 10]} in your shop"
    found = cache.lookup(question, scope, near=True)
    if not found:
        cache.store(question, scope, "Bring it back.", vector=found.vector)
cache.lookup("some last words about nothing", scope)
print(cache.health().requests, cache.health().is_open)
"""


def fill(path: Path, n: int) -> tuple[int, bool]:
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(path), str(n)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    requests, is_open = done.stdout.split()
    return int(requests), is_open == "True"


def cache_on(store: SQLiteStore | MemoryStore, **arguments: object) -> Cache:
    policy = RiskControl(0.05, seed=1)
    return Cache(store, embedder=HashingEmbedder(), policy=policy, **arguments)


def test_what_another_process_learned_opens_this_one_and_survives_it(tmp_path: Path):
    requests, is_open = fill(tmp_path / "cache.db", 400)
    assert is_open
    store = SQLiteStore(tmp_path / "cache.db")
    cache = cache_on(store)
    cache.lookup("something else altogether", SCOPE)
    health = cache.health()
    assert health is not None
    assert health.is_open
    assert health.requests >= requests - 50  # what the other had not yet handed over
    store.close()


def test_two_caches_on_one_store_act_as_one():
    store = MemoryStore()
    one, other = cache_on(store), cache_on(store)
    for number in range(300):
        cache = one if number % 2 else other
        question = f"how do I return a coat of size {'x' * (number % 17)} made by {number * 7919:x}"
        found = cache.lookup(question, SCOPE)
        if not found:
            cache.store(question, SCOPE, "Bring it.")
    totals = []
    for cache in (one, other):
        health = cache.health()
        assert health is not None
        totals.append(health.requests)
    assert min(totals) >= 200


def test_evidence_is_not_shared_between_embedders():
    store = MemoryStore()
    cache = cache_on(store)
    for number in range(120):
        cache.lookup(f"how do I return a coat {'x' * number}", SCOPE)
        cache.store(f"how do I return a coat {'x' * number}", SCOPE, "Bring it.")
    stranger = Cache(store, embedder=HashingEmbedder(name="other"), policy=RiskControl(0.05))
    stranger.lookup("anything", SCOPE)
    health = stranger.health()
    assert health is not None
    assert health.requests == 1


class Failing(MemoryStore):
    """A journal that keeps what it is given and then cannot be read."""

    def read(self, name, after=""):
        raise OSError("gone")


def test_what_was_written_is_not_learned_twice():
    store = Failing()
    cache = cache_on(store)
    for number in range(120):
        cache.lookup(f"how do I return a coat {'x' * number}", SCOPE)
        cache.store(f"how do I return a coat {'x' * number}", SCOPE, "Bring it.")
    store.read = MemoryStore.read.__get__(store)
    for number in range(60):
        cache.lookup(f"where is the shop {'x' * number}", SCOPE)
    health = cache.health()
    assert health is not None
    assert health.requests == 180


def test_threads_learn_the_journal_once():
    store = MemoryStore()
    first = cache_on(store)
    for number in range(100):
        first.lookup(f"how do I return a coat {'x' * number}", SCOPE)
    second = cache_on(store)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: second.lookup(f"question {n}", SCOPE), range(32)))
    health = second.health()
    assert health is not None
    assert health.requests <= 100 + 32
