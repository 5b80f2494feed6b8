"""Few-shot examples: relevant, different, within the budget, the same for the same question."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.errors import ConfigError
from costwise_core.prompt.examples import Example, FewShot
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.tokens import count_tokens

BANKING = Path("../shared/data/cache/banking77_train.csv")

EXAMPLES = [
    Example(question="How do I reset my password?", answer="reset"),
    Example(question="How do I reset the password?", answer="reset again"),
    Example(question="Where is my parcel?", answer="parcel"),
    Example(question="Can I pay by card?", answer="card"),
    Example(question="Do you ship to Norway?", answer="norway"),
]
EMBEDDERS = pytest.mark.parametrize("embedder", [None, HashingEmbedder()], ids=["words", "meaning"])


def answers(picked):
    return [example.answer for example in picked.examples]


class Broken:
    name = "broken"
    asked = 0

    def embed(self, texts, role="query"):
        self.asked += 1
        raise ConnectionError("no network")


@EMBEDDERS
class TestPick:
    def test_the_nearest_stands_last(self, embedder):
        picked = FewShot(EXAMPLES, embedder=embedder, k=2).pick("Where is my parcel today?")
        assert answers(picked)[-1] == "parcel"
        assert picked.why.startswith("2 of 5 examples, by ")

    def test_no_two_alike(self, embedder):
        same = [Example(question="Where is my parcel?", answer=f"parcel {n}") for n in range(5)]
        picked = FewShot([*same, *EXAMPLES[:1]], embedder=embedder, k=2).pick("Where's my parcel?")
        assert sorted(answers(picked)) == ["parcel 0", "reset"]

    def test_within_the_token_budget(self, embedder):
        long = Example(question="Where is my parcel?", answer="It is on its way. " * 100)
        shots = FewShot([long, *EXAMPLES], embedder=embedder, k=5, max_tokens=40)
        picked = shots.pick("Where is my parcel?")
        assert 0 < picked.tokens <= 40
        assert long not in picked.examples

    def test_nothing_fits(self, embedder):
        picked = FewShot(EXAMPLES, embedder=embedder, max_tokens=1).pick("parcel?")
        assert (picked.examples, picked.tokens) == ((), 0)

    def test_the_same_again(self, embedder):
        first = FewShot(EXAMPLES, embedder=embedder).pick("May I pay?")
        assert first == FewShot(EXAMPLES, embedder=embedder).pick("May I pay?")

    def test_no_question_gives_the_first(self, embedder):
        picked = FewShot(EXAMPLES, embedder=embedder, k=2).pick("  ")
        assert answers(picked) == ["reset", "reset again"]

    async def test_async_picks_the_same(self, embedder):
        shots = FewShot(EXAMPLES, embedder=embedder)
        assert await shots.apick("Do you ship?") == shots.pick("Do you ship?")

    @pytest.mark.parametrize("question", ["\ud800", "\x00", "？！", "שלום", "x" * 50_000])
    def test_any_question(self, embedder, question):
        assert len(FewShot(EXAMPLES, embedder=embedder, k=3).pick(question).examples) == 3

    def test_no_examples(self, embedder):
        assert FewShot([], embedder=embedder).pick("anything").examples == ()

    def test_one_more_example(self, embedder):
        shots = FewShot(EXAMPLES, embedder=embedder, k=1)
        more = shots.having(Example(question="Is the office open on Sunday?", answer="sunday"))
        assert answers(more.pick("Is the office open on Sunday?")) == ["sunday"]
        assert answers(shots.pick("Is the office open on Sunday?")) != ["sunday"]


class TestEmbedder:
    def test_examples_are_embedded_once(self):
        class Counting(HashingEmbedder):
            texts = 0

            def embed(self, texts, role="query"):
                self.texts += len(texts)
                return super().embed(texts, role)

        embedder = Counting()
        shots = FewShot(EXAMPLES, embedder=embedder)
        for question in ("a?", "b?", "c?"):
            shots.pick(question)
        assert embedder.texts == len(EXAMPLES) + 3

    def test_nothing_is_embedded_before_it_is_needed(self):
        embedder = Broken()
        shots = FewShot(EXAMPLES, embedder=embedder)
        assert embedder.asked == 0
        shots.pick("Where is my parcel?")
        assert embedder.asked > 0

    def test_an_embedder_that_fails_leaves_shared_words(self):
        picked = FewShot(EXAMPLES, embedder=Broken(), k=1).pick("Where is my parcel?")
        assert answers(picked) == ["parcel"]
        assert "ConnectionError" in picked.why
        assert "no network" not in picked.why

    @pytest.mark.skipif(not BANKING.exists(), reason=f"{BANKING} is not there")
    def test_real_questions_find_examples_of_their_intent(self):
        with BANKING.open(encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        pool: dict[str, list[str]] = {}
        for text, label in rows:
            pool.setdefault(label, []).append(text)
        pool = dict(list(pool.items())[:25])
        shots = FewShot(
            [Example(question=t, answer=label) for label, ts in pool.items() for t in ts[:4]],
            embedder=OnnxEmbedder(),
        )
        asked = [(texts[10], label) for label, texts in pool.items()]
        found = sum(label in answers(shots.pick(text)) for text, label in asked)
        assert found / len(asked) > 0.85


@given(
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=8),
    st.text(max_size=30),
    st.integers(1, 10),
    st.integers(1, 40),
)
def test_never_more_than_asked_for(pairs, question, k, max_tokens):
    examples = [Example(question=one, answer=other) for one, other in pairs]
    picked = FewShot(examples, k=k, max_tokens=max_tokens).pick(question)
    assert len(picked.examples) <= k
    assert picked.tokens <= max_tokens
    assert picked.tokens == sum(
        count_tokens(one.question).tokens + count_tokens(one.answer).tokens
        for one in picked.examples
    )


@pytest.mark.parametrize(("option", "value"), [("k", 0), ("max_tokens", 0)])
def test_numbers_out_of_range(option, value):
    with pytest.raises(ConfigError, match=option):
        FewShot(EXAMPLES, **{option: value})
