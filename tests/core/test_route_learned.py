"""Routers that decide before anything is paid: rules, and what is learned from paired outcomes."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    TASKS,
    Ask,
    GainModel,
    LearnedRouter,
    PairedOutcome,
    Route,
    RuleRouter,
    Task,
    train_router,
)
from costwise_core.errors import ConfigError
from costwise_core.route.features import SHAPE, shape_of, terms_of
from costwise_core.route.fitting import minimise
from costwise_core.route.rules import route_at

SMALL, MIDDLE, LARGE = (Route(name=name) for name in ("small", "middle", "large"))
THREE = (SMALL, MIDDLE, LARGE)
TWO = (SMALL, LARGE)


def outcomes(n: int = 100, *, vectors: bool = False) -> list[PairedOutcome]:
    """Return questions of two kinds: the dear model is needed for proofs only."""
    dice = np.random.default_rng(0)
    made = []
    for at in range(n):
        hard = at % 2 == 1
        text = f"Prove that lemma {at} follows." if hard else f"What is the capital of land {at}?"
        vector = dice.normal(1.0 if hard else -1.0, 1.0, 8) if vectors else None
        made.append(PairedOutcome(question=text, weak=not hard, strong=1, vector=vector))
    return made


@pytest.fixture(scope="module")
def model() -> GainModel:
    return train_router(outcomes(200))


class TestRules:
    @pytest.mark.parametrize(
        ("question", "name", "why"),
        [
            ("Classify this review: nice room", "small", "classify: it says 'Classify'"),
            ("Please SUMMARISE the text", "small", "summarise: it says 'SUMMARISE'"),
            ("Summarise, then prove it.", "large", "reason: it says 'prove'"),
            ("Please improve it.", "small", "short: 3 words, at most 30"),
            ("word " * 151, "large", "long: 151 words, more than 150"),
            ("word " * 40, "middle", "of no known kind, 40 words"),
            ("", "small", "short: 0 words, at most 30"),
        ],
    )
    def test_the_reason_names_what_decided(self, question: str, name: str, why: str) -> None:
        decision = RuleRouter().decide(Ask(question=question), THREE)
        assert (decision.model, decision.why) == (name, why)

    def test_it_claims_no_probability(self) -> None:
        assert RuleRouter().decide(Ask(question="Prove it."), TWO).p is None

    def test_instructions_say_the_task_where_the_question_does_not(self) -> None:
        ask = Ask(question="Nice room, rude staff.", system="You analyse reviews step by step.")
        assert RuleRouter().decide(ask, TWO).model == "large"

    def test_own_words_in_any_script(self) -> None:
        router = RuleRouter(
            tasks=(*TASKS, Task(name="contract", words=("合同", "Haftung"), tier=1.0))
        )
        for question in ("请解释这份合同的内容", "Wer trägt die HAFTUNG?"):
            decision = router.decide(Ask(question=question), TWO)
            assert decision.model == "large", question
            assert decision.why.startswith("contract")

    def test_two_routes_take_the_better_one_for_the_middle(self) -> None:
        assert route_at(0.5, TWO) is LARGE
        assert route_at(0.5, THREE) is MIDDLE
        assert route_at(1.0, (SMALL,)) is SMALL

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Task(name="x", words=(), tier=0.0),
            lambda: Task(name="x", words=(" ",), tier=0.0),
            lambda: Task(name="x", words=("a",), tier=1.5),
            lambda: RuleRouter(short=10, long=5),
            lambda: RuleRouter(tasks=(TASKS[0], TASKS[0])),
        ],
    )
    def test_mistakes_are_told_when_made(self, make: object) -> None:
        with pytest.raises(ConfigError):
            make()  # type: ignore[operator]

    @given(st.text(max_size=300), st.text(max_size=300))
    def test_any_text_gets_a_route(self, question: str, system: str) -> None:
        decision = RuleRouter().decide(Ask(question=question, system=system), THREE)
        assert decision.model in {"small", "middle", "large"}
        assert decision.why


class TestFeatures:
    @given(st.text(max_size=2_000))
    def test_shape_is_finite_and_of_one_size(self, text: str) -> None:
        shape = shape_of(text)
        assert len(shape) == len(SHAPE)
        assert all(map(math.isfinite, shape))

    def test_a_long_text_is_read_at_both_ends_only(self) -> None:
        text = "begin " + "x " * 1_000_000 + "end"
        terms = terms_of(text)
        assert "begin" in terms
        assert "end" in terms
        assert sum(terms.values()) < 10_000

    def test_numbers_count_by_their_digits(self) -> None:
        assert terms_of("12 apples") == terms_of("34 apples")


class TestTraining:
    def test_too_few_pairs_are_refused_with_how_many_are_missing(self) -> None:
        with pytest.raises(ConfigError, match="got 99; 1 more are needed"):
            train_router(outcomes(99))

    def test_outcomes_all_alike_teach_nothing(self) -> None:
        same = [PairedOutcome(question=f"{n}", weak=1, strong=1) for n in range(100)]
        with pytest.raises(ConfigError, match="nothing to tell apart"):
            train_router(same)

    def test_embeddings_are_for_all_or_none(self) -> None:
        mixed = [*outcomes(100), *outcomes(2, vectors=True)]
        with pytest.raises(ConfigError, match="2 of 102 pairs"):
            train_router(mixed)

    def test_the_same_question_again_and_again_is_no_harm(self) -> None:
        pairs = [PairedOutcome(question="Why?", weak=n % 2, strong=1) for n in range(100)]
        found = train_router(pairs).estimate("Why?")
        assert found.weak == pytest.approx(0.5, abs=0.05)

    def test_what_neither_model_can_do_is_not_worth_the_dear_one(self) -> None:
        pairs = outcomes(100)
        pairs += [
            PairedOutcome(question=f"Predict lottery draw {n}.", weak=0, strong=0)
            for n in range(50)
        ]
        model = train_router(pairs)
        hopeless = model.estimate("Predict lottery draw 7.")
        assert hopeless.weak < 0.3
        assert hopeless.gain < 0.2
        assert model.estimate("Prove that lemma 3 follows.").gain > 0.5

    def test_learning_does_not_depend_on_the_order(self) -> None:
        pairs = outcomes(120)
        one = train_router(pairs).estimate("Prove that lemma 5 follows.").gain
        other = train_router(pairs[::-1]).estimate("Prove that lemma 5 follows.").gain
        assert one == pytest.approx(other, abs=1e-3)

    def test_minimise_finds_the_bottom_of_a_long_valley(self) -> None:
        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            scale = np.array([1.0, 100.0])
            return float(scale @ (x - 2) ** 2), 2 * scale * (x - 2)

        assert minimise(loss, np.zeros(2)) == pytest.approx([2.0, 2.0], abs=1e-2)


class TestLearnedRouter:
    def ask(self, question: str, **more: object) -> Ask:
        return Ask(question=question, **more)  # type: ignore[arg-type]

    def test_it_sends_what_gains_to_the_dear_model(self, model: GainModel) -> None:
        router = LearnedRouter(model, threshold=0.3)
        hard = router.decide(self.ask("Prove that lemma 17 follows."), TWO)
        easy = router.decide(self.ask("What is the capital of land 17?"), TWO)
        assert (hard.model, easy.model) == ("large", "small")
        assert hard.p is not None
        assert easy.p is not None
        assert hard.p > 0.7
        assert easy.p < 0.3
        assert not hard.abstained

    def test_untrained_it_abstains(self) -> None:
        decision = LearnedRouter(None).decide(self.ask("Hi"), THREE)
        assert (decision.model, decision.abstained) == ("large", True)

    @pytest.mark.parametrize(
        ("question", "why"),
        [
            ("法国的首都是哪座城市？", "known from training"),
            ("Quelle ville gouverne cette nation?", "known from training"),
            ("", "known from training"),
            ("What is the capital of land 3? " * 60, "far more than the training's questions in"),
        ],
    )
    def test_unlike_the_training_it_abstains_and_says_how(
        self, model: GainModel, question: str, why: str
    ) -> None:
        decision = LearnedRouter(model).decide(self.ask(question), TWO)
        assert (decision.model, decision.abstained) == ("large", True)
        assert why in decision.why

    def test_tiers_go_up_with_the_gain(self, model: GainModel) -> None:
        gain = model.estimate("Prove that lemma 17 follows.").gain
        for lines, name in (
            ((gain + 0.1, gain + 0.2), "small"),
            ((gain - 0.1, gain + 0.1), "middle"),
            ((gain - 0.2, gain - 0.1), "large"),
        ):
            router = LearnedRouter(model, threshold=lines)
            assert router.decide(self.ask("Prove that lemma 17 follows."), THREE).model == name

    def test_a_limit_keeps_the_dear_model_for_those_that_gain_most(self, model: GainModel) -> None:
        left = [1.0]
        router = LearnedRouter(model, threshold=-1.0, max_share_strong=lambda: left[0])
        asks = [self.ask(one.question) for one in outcomes(100)]

        def strong() -> set[str]:
            return {ask.question for ask in asks if router.decide(ask, TWO).model == "large"}

        assert len(strong()) == 100
        left[0] = 0.25
        few = strong()
        assert 0 < len(few) <= 50
        assert all(question.startswith("Prove") for question in few)
        left[0] = 0.0
        assert not strong()

    def test_a_limit_holds_for_questions_unlike_the_training(self, model: GainModel) -> None:
        router = LearnedRouter(model, threshold=(-1.0, -1.0), max_share_strong=0.2)
        short, long = (
            "Quelle ville ?",
            "Quelle ville gouverne cette grande et belle nation lointaine ?",
        )
        assert model.estimate(short).unlike
        assert model.estimate(long).unlike
        few = router.decide(self.ask(short), THREE)
        assert (few.model, few.abstained) == ("middle", False)
        assert "known from training" in few.why
        assert "upper 20%" in few.why
        many = router.decide(self.ask(long), THREE)
        assert (many.model, many.abstained) == ("large", True)

    def test_scores_rank_by_gain(self, model: GainModel) -> None:
        router = LearnedRouter(model)
        assert router.score("Prove that lemma 1 follows.") > router.score(
            "What is the capital of land 1?"
        )
        assert LearnedRouter(None).score("Why?") == 2.0

    @given(st.lists(st.integers(1, 400), min_size=2, max_size=8, unique=True))
    def test_all_unlike_the_training_score_like_counting_words(
        self, model: GainModel, lengths: list[int]
    ) -> None:
        asked = [" ".join(["jamais"] * words) for words in sorted(lengths)]
        assert all(model.estimate(question).unlike for question in asked)
        found = [LearnedRouter(model).score(question) for question in asked]
        assert found == sorted(found)
        assert model.gains[0] <= found[0]
        assert found[-1] <= model.gains[-1]

    @pytest.mark.parametrize("threshold", [math.nan, (0.3, 0.1), ()])
    def test_thresholds_must_be_in_order(self, threshold: float | Sequence[float]) -> None:
        with pytest.raises(ConfigError):
            LearnedRouter(None, threshold=threshold)

    def test_an_embedding_counts_where_training_had_some(self) -> None:
        model = train_router(outcomes(200, vectors=True))
        text = "Prove that lemma 17 follows."
        low, high = (model.estimate(text, np.full(8, sign)).gain for sign in (-1.0, 1.0))
        assert low < high
        with pytest.raises(ConfigError, match="embeddings of 8 numbers and got one of 3"):
            model.estimate(text, np.ones(3))

    def test_without_embeddings_in_training_one_is_left_out(self, model: GainModel) -> None:
        assert model.estimate("Why?", np.ones(3)) == model.estimate("Why?")


class TestSaving:
    def test_what_is_read_back_decides_alike(self) -> None:
        model = train_router(outcomes(100, vectors=True))
        again = GainModel.from_json(model.to_json())
        assert again == model
        for one in outcomes(20, vectors=True):
            assert again.estimate(one.question, one.vector) == model.estimate(
                one.question, one.vector
            )

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "other"},
            {"idf": [1.0]},
            {"scale": [0.0] * len(SHAPE)},
            {"gains": [math.nan]},
            {"gains": [1.0, 0.0]},
            {"gains": []},
            {"terms": [1, 2]},
            {"weak": None},
            {"extra": 1},
            {"familiar": "x"},
        ],
    )
    def test_anything_else_is_refused(self, model: GainModel, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="no routing model"):
            GainModel.from_json(json.dumps(json.loads(model.to_json()) | change))

    @settings(max_examples=50)
    @given(st.text(max_size=50))
    def test_any_text_is_refused_politely(self, text: str) -> None:
        with pytest.raises(ConfigError):
            GainModel.from_json(text)

    def test_too_large_a_file_is_not_read(self) -> None:
        with pytest.raises(ConfigError):
            GainModel.from_json(" " * 64_000_001)


@pytest.mark.parametrize(
    "marks", [{"weak": -0.1}, {"strong": 1.1}, {"weak": math.nan}, {"strong": math.inf}]
)
def test_marks_are_from_zero_to_one(marks: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="mark of an answer"):
        PairedOutcome(**({"question": "?", "weak": 0.5, "strong": 0.5} | marks))  # type: ignore[arg-type]
