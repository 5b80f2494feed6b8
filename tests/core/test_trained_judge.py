"""A judge that learns from labels: what it learns, keeps in a file, says and refuses."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    AnswerModel,
    Ask,
    Candidate,
    JudgedAnswer,
    PairedOutcome,
    Passage,
    RouteError,
    TrainedJudge,
    evaluate_routing,
    train_judge,
)
from costwise_core.errors import ConfigError
from costwise_core.route.judges.signs import SIGNS, signs_of

GSM8K = Path("../shared/data/routing/routellm_gsm8k.csv.gz")


def judged(n: int, seed: int = 0) -> list[JudgedAnswer]:
    """Sums, every second of them wrong."""
    draw = random.Random(seed)
    rows = []
    for at in range(n):
        a, b, off = draw.randrange(2, 99), draw.randrange(2, 99), at % 2
        rows.append(
            JudgedAnswer(
                ask=Ask(question=f"What is {a} times {b}?"),
                answer=Candidate(text=f"It is {a} * {b} = {a * b + off}."),
                mark=1 - off,
            )
        )
    return rows


@pytest.fixture(scope="module")
def judge() -> TrainedJudge:
    return TrainedJudge(model=train_judge(judged(200)))


def test_it_learns_what_labels_show(judge: TrainedJudge) -> None:
    for row in judged(50, seed=1):
        assert (judge.judge(row.ask, row.answer).score >= 0.5) == (row.mark == 1)


def test_it_says_why(judge: TrainedJudge) -> None:
    wrong = judge.judge(Ask(question="What is 7 times 8?"), Candidate(text="It is 7 * 8 = 57."))
    assert "against it: " in wrong.why
    assert "wrong sums" in wrong.why
    right = judge.judge(Ask(question="What is 7 times 8?"), Candidate(text="It is 7 * 8 = 56."))
    assert "against" not in right.why


def test_a_file_gives_the_same_judge(judge: TrainedJudge) -> None:
    again = TrainedJudge(model=AnswerModel.from_json(judge.model.to_json()))
    for row in judged(20, seed=2):
        assert again.judge(row.ask, row.answer) == judge.judge(row.ask, row.answer)


def test_training_is_the_same_every_time() -> None:
    assert train_judge(judged(60)) == train_judge(judged(60))


def test_passages_and_probabilities_are_learned_from() -> None:
    passages = (Passage(text="The Eiffel Tower was opened in 1889."),)
    ask = Ask(question="When was the tower opened?", passages=passages)
    rows = [
        JudgedAnswer(ask=ask, answer=Candidate(text="1889", logprobs=(-0.1 - n % 7 / 10,)), mark=1)
        if n % 2
        else JudgedAnswer(ask=ask, answer=Candidate(text="1902", logprobs=(-2.0,)), mark=0)
        for n in range(60)
    ]
    model = train_judge(rows)
    weight = dict(zip(SIGNS, model.signs, strict=True))
    assert weight["words from the passages"] > 0
    assert weight["mean token probability"] > 0


@pytest.mark.parametrize("rows", [[], judged(39), judged(400)[::2], judged(400)[1::2]])
def test_too_few_or_all_alike_is_refused(rows: list[JudgedAnswer]) -> None:
    with pytest.raises(RouteError, match="at least 40"):
        train_judge(rows)


@pytest.mark.parametrize("mark", [-0.1, 1.1, float("nan")])
def test_a_mark_is_a_share(mark: float) -> None:
    with pytest.raises(ConfigError, match="0 to 1"):
        JudgedAnswer(ask=Ask(question="?"), answer=Candidate(text="!"), mark=mark)


def test_other_files_are_refused(judge: TrainedJudge) -> None:
    good = json.loads(judge.model.to_json())
    bad = [
        *("", "[]", "null", "{}", "[" * 100_000, '{"format": "costwise-answers-1"}'),
        json.dumps(good | {"format": "costwise-gain-1"}),
        json.dumps(good | {"signs": good["signs"][1:]}),
        json.dumps(good | {"idf": good["idf"][1:]}),
        json.dumps(good | {"constant": float("nan")}),
        json.dumps(good | {"scale": [0.0] * len(SIGNS)}),
        json.dumps(good | {"terms": [1] * len(good["terms"])}),
        json.dumps(good | {"terms": ["a"] * len(good["terms"])}),
        json.dumps(good | {"more": [1.0]}),
    ]
    for text in bad:
        with pytest.raises(ConfigError, match="no model of answers"):
            AnswerModel.from_json(text)


def test_signs_name_what_they_count() -> None:
    ask = Ask(question="She buys 3 boxes of 4 eggs for $2. How many eggs?")

    def sign(name: str, text: str, **more: object) -> float:
        return signs_of(ask, Candidate(text=text, **more))[SIGNS.index(name)]  # type: ignore[arg-type]

    assert sign("wrong sums", "3 * 4 = 13") > 0 == sign("wrong sums", "3 * 4 = 12")
    assert sign("results never used", "3 * 4 = 12. 2 * 3 = 6. #### 12") > 0
    assert sign("results never used", "3 * 4 = 12. 12 * 2 = 24. #### 24") == 0
    assert (
        sign("numbers from nowhere", "17 * 4 = 68")
        > 0
        == sign("numbers from nowhere", "3 * 4 = 12")
    )
    assert sign("question's numbers used", "3 * 4 = 12") == pytest.approx(2 / 3)
    assert sign("answer is a fraction", "#### 2.5") == 1 > sign("answer is a fraction", "#### 2")
    assert sign("answer is negative", "#### -2") == 1 > sign("answer is negative", "5 - 2")
    assert sign("cut off", "3 * 4", finish_reason="length") == 1
    assert sign("calls a tool", "", tool_calls=("add",)) == 1


@settings(deadline=None)
@given(text=st.text(max_size=300), question=st.text(max_size=300))
def test_no_text_breaks_it(judge: TrainedJudge, text: str, question: str) -> None:
    judgement = judge.judge(Ask(question=question), Candidate(text=text))
    assert 0 <= judgement.score <= 1


@pytest.mark.skipif(not GSM8K.exists(), reason="routellm_gsm8k.csv.gz is not there")
def test_on_real_answers_it_beats_every_router_of_questions() -> None:
    text = gzip.decompress(GSM8K.read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    random.Random(7).shuffle(rows)
    train, test = rows[:600], rows[600:]
    judge = TrainedJudge(
        model=train_judge(
            [
                JudgedAnswer(
                    ask=Ask(question=row["prompt"]),
                    answer=Candidate(text=row["mixtral_response"]),
                    mark=float(row["mixtral_8x7b"]),
                )
                for row in train
            ]
        )
    )
    pairs = [
        PairedOutcome(
            question=row["prompt"],
            weak=float(row["mixtral_8x7b"]),
            strong=float(row["gpt_4_1106"]),
        )
        for row in test
    ]
    scores = [
        -judge.judge(Ask(question=row["prompt"]), Candidate(text=row["mixtral_response"])).score
        for row in test
    ]
    report = evaluate_routing(pairs, scores)
    assert report.router.apgr.value >= 0.7
    assert report.router.apgr.low > report.words.apgr.value
