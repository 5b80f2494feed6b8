"""What the tuner's claims rest on: bounds, ties, splits and the journal."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.errors import ConfigError, VectorError
from costwise_core.qdrant import Questions, Space
from costwise_core.qdrant.choosing import cheapest_kept, kept_prefix
from costwise_core.qdrant.ground_truth import Truth, exact_truth
from costwise_core.qdrant.intervals import least_questions, mean_low, questions_needed
from costwise_core.qdrant.samples import checked_vectors
from costwise_core.qdrant.sweep_journal import SweepJournal, key_of

# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recalls",
    [
        np.r_[np.ones(980), np.zeros(20)],
        np.r_[np.ones(900), np.full(60, 0.9), np.full(30, 0.7), np.zeros(10)],
        np.random.default_rng(5).beta(8, 0.5, 1_000).round(1),
    ],
    ids=["rare failures", "a long tail", "hard questions"],
)
@pytest.mark.parametrize("seen", [80, 300])
def test_a_claim_holds_for_new_questions(recalls: np.ndarray, seen: int) -> None:
    dice = np.random.default_rng(1)
    rounds = 200
    held = sum(
        dice.choice(recalls, seen).mean() >= mean_low(dice.choice(recalls, seen), 0.95)
        for _ in range(rounds)
    )
    assert held / rounds >= 0.95 - 0.02  # 0.02: what chance does to 200 rounds


def test_perfect_answers_still_leave_room_for_a_failure() -> None:
    # A bootstrap would say 1.0 here.
    assert mean_low(np.ones(50), 0.95) < 0.96
    assert mean_low(np.ones(50), 0.95, fresh=10**7) == pytest.approx(0.05 ** (1 / 50), abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]), min_size=1, max_size=200))
def test_a_bound_is_below_the_mean_and_falls_with_confidence(values: list[float]) -> None:
    recalls = np.array(values)
    surer = mean_low(recalls, 0.99)
    assert 0 <= surer <= mean_low(recalls, 0.9) <= recalls.mean() + 1e-9


def test_how_many_questions_are_needed() -> None:
    needed = least_questions(0.95, 0.95)
    assert mean_low(np.ones(needed), 0.95) >= 0.95 > mean_low(np.ones(needed - 1), 0.95)
    recalls = np.tile([1.0, 1.0, 1.0, 0.9, 0.95], 20)
    more = questions_needed(recalls, 0.96, 0.95)
    assert more is not None
    assert more > len(recalls)
    assert mean_low(np.tile(recalls, 2 * more // len(recalls)), 0.95) >= 0.96
    assert questions_needed(recalls, 0.99, 0.95) is None


def test_the_luckiest_of_many_is_not_taken() -> None:
    # All six truly have a recall of .94, so no claim of .94 should be made: each passes by luck.
    dice = np.random.default_rng(2)
    fooled = picked = 0
    rounds = 100
    for _ in range(rounds):
        found = dice.binomial(1, 0.94, (6, 300)).astype(float)
        lows = [mean_low(recalls, 0.95, fresh=10**7) for recalls in found]
        fooled += kept_prefix(lows, 0.94) > 0
        picked += max(lows) >= 0.94
    assert fooled / rounds <= 0.05 + 0.04  # 0.04: what chance does to 100 rounds
    assert picked > 2 * fooled


def test_the_sequence_ends_at_its_first_failure() -> None:
    assert cheapest_kept([0.9, 0.99], [2.0, 1.0], 0.95) is None
    assert cheapest_kept([0.99, 0.98, 0.9, 0.99], [2.0, 3.0, 1.0, 0.5], 0.95) == 0


# --- truth --------------------------------------------------------------------------------------


def test_ties_are_all_right() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    truth = exact_truth(vectors, Questions.of(vectors[:1]), 2, distance="Cosine")
    assert truth.right == (frozenset({0, 1, 2}),)
    assert truth.recalls([[2, 1]]).tolist() == [1.0]
    assert truth.recalls([[2, 3]]).tolist() == [0.5]


def test_fewer_than_k_to_find() -> None:
    vectors = np.eye(3, dtype=np.float32)
    asked = Questions.of(vectors[:2])
    masks = [np.array([True, False, False]), np.zeros(3, bool)]
    truth = exact_truth(vectors, asked, 2, distance="Cosine", allowed=masks.__getitem__)
    assert truth.wanted == (1, 0)
    assert truth.recalls([[0], []]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
def test_distances(distance: str) -> None:
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(50, 8)).astype(np.float32)
    asked = Questions.of(dice.normal(size=(70, 8)).astype(np.float32))
    truth = exact_truth(vectors, asked, 3, distance=distance)
    for one, right in zip(asked.vectors, truth.right, strict=True):
        scores = {
            "Cosine": vectors @ one / np.linalg.norm(vectors, axis=1),
            "Dot": vectors @ one,
            "Euclid": -np.linalg.norm(vectors - one, axis=1),
            "Manhattan": -np.abs(vectors - one).sum(axis=1),
        }[distance]
        assert right == frozenset(np.argsort(-scores)[:3].tolist())


def test_an_unknown_distance() -> None:
    asked = Questions.of(np.eye(2))
    with pytest.raises(ConfigError, match="Chebyshev"):
        exact_truth(np.eye(2, dtype=np.float32), asked, 1, distance="Chebyshev")


@given(st.lists(st.lists(st.integers(0, 9), max_size=5, unique=True), min_size=1, max_size=5))
def test_recall_is_a_share(found: list[list[int]]) -> None:
    truth = Truth(right=(frozenset({1, 2, 3}),) * len(found), wanted=(3,) * len(found))
    assert all(0 <= recall <= 1 for recall in truth.recalls(found))


# --- questions ----------------------------------------------------------------------------------


def test_each_question_counts_once() -> None:
    rows = [{"vector": [1.0, float(n % 3)]} for n in range(9)]
    assert len(Questions.from_rows(rows)) == 3
    rows = [
        {"vector": [1.0, 0.0], "filter": {"must": [{"key": "year", "match": {"value": n}}]}}
        for n in (1, 2, 2)
    ]
    assert len(Questions.from_rows(rows)) == 2


def test_rare_filters_stay_in_a_sample() -> None:
    dice = np.random.default_rng(0)
    rows: list[dict[str, object]] = [{"vector": dice.normal(size=4).tolist()} for _ in range(300)]
    condition = {"must": [{"key": "tenant", "match": {"value": "a"}}]}
    rows.append({"vector": [1.0, 0.0, 0.0, 0.0], "filter": condition})
    asked = Questions.from_rows(rows, limit=30)
    assert sorted(set(asked.strata())) == ["", "tenant"]
    first, second = Questions.from_rows(rows).split(1 / 3, seed=0)
    assert len(first) + len(second) == 301
    assert not {row.tobytes() for row in first.vectors} & {row.tobytes() for row in second.vectors}


def test_files(tmp_path: Path) -> None:
    folder = tmp_path
    np.save(folder / "q.npy", np.eye(3))
    assert len(Questions.from_file(folder / "q.npy")) == 3
    (folder / "q.jsonl").write_text('{"vector": [1, 0]}\n\n{"vector": [0, 1]}\n')
    assert len(Questions.from_file(folder / "q.jsonl")) == 2
    (folder / "bad.jsonl").write_text('{"vector": [1, 0]}\n{"vec\n')
    with pytest.raises(ConfigError, match="line 2"):
        Questions.from_file(folder / "bad.jsonl")
    with pytest.raises(ConfigError, match=r"\.npy or \.jsonl"):
        Questions.from_file(folder / "q.csv")


@pytest.mark.parametrize(
    ("row", "said"), [([np.nan, 1.0], "not finite"), ([0.0, 0.0], "all zeros")]
)
def test_bad_vectors_are_refused_with_their_row(row: list[float], said: str) -> None:
    with pytest.raises(VectorError, match=f"row 1 is {said}"):
        checked_vectors(np.array([[1.0, 0.0], row]), "vector")


def test_rows_of_different_sizes() -> None:
    with pytest.raises(VectorError, match="question 1 has 3 dimensions"):
        Questions.from_rows([{"vector": [1, 0]}, {"vector": [1, 0, 0]}])


def test_questions_survive_json() -> None:
    condition = {"must": [{"key": "year", "range": {"lt": 2000.0}}]}
    asked = Questions.from_rows([{"vector": [0.1, 0.2], "filter": condition}, {"vector": [1, 2]}])
    again = Questions.from_dict(json.loads(json.dumps(asked.to_dict())))
    assert again.vectors.tolist() == asked.vectors.tolist()
    assert again.filters == asked.filters


# --- space and journal --------------------------------------------------------------------------


@given(st.integers(1, 300), st.sampled_from(["none", "int8", "turbo4", "turbo1", "binary"]))
def test_every_search_is_as_wide_as_what_it_fetches(k: int, name: str) -> None:
    ways = Space().searches(name, k)
    assert ways
    for way in ways:
        assert (way.hnsw_ef or 0) >= k * (way.oversampling or 1)


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="efs is empty"):
        Space(efs=())
    with pytest.raises(ConfigError, match="int7"):
        Space(quantizations=("int7",))


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = SweepJournal(path, of="x")
    journal.put(key_of("a"), 1)
    journal.put(key_of("b"), 2)
    with path.open("a") as file:
        file.write('{"key": "c", "val')
    again = SweepJournal(path, of="x")
    assert again.get(key_of("b")) == 2
    again.put("d", 4)
    assert SweepJournal(path, of="x").get("d") == 4
    assert len(SweepJournal(path, of="other vectors")) == 0
