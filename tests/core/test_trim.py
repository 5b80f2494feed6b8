"""RerankTrim with real scorers: what it keeps, what it leaves out and what it never does."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import BM25, Passage, PriceBook, PriceError, RerankTrim, hybrid
from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.near_duplicates import by_relevance_and_novelty, same_text, similarity
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.trim_choice import put_in_order, ranked

QUESTION = "How long is the notice period?"


class Given:
    """Scores as the test says, in the order of the passages."""

    name = "given"
    blocking = False

    def __init__(self, *scores):
        self.scores = scores

    def score(self, question, passages):
        return self.scores[: len(passages)]


class Failing:
    name = "failing"

    def __init__(self, error):
        self.error = error

    def score(self, question, passages):
        raise self.error


def words(text):
    return len(text.split())


def some(*lengths, title=""):
    """Passages of so many words each, all different."""
    return [
        Passage(id=f"p{i}", title=title, text=" ".join(f"w{i}" for _ in range(length)))
        for i, length in enumerate(lengths)
    ]


def ids(result):
    return [passage.id for passage in result.passages]


def why(result):
    return {one.passage.id: one.why for one in result.dropped}


# --- limits ---------------------------------------------------------------------------------------


def test_the_best_stay_in_the_order_given_with_score_and_why():
    result = RerankTrim(scorer=Given(1, 3, 2, 0), top_k=2).compress(QUESTION, some(1, 1, 1, 1))
    assert ids(result) == ["p1", "p2"]
    assert [(p.score, p.why) for p in result.passages] == [
        (3.0, "given 3, rank 1 of 4"),
        (2.0, "given 2, rank 2 of 4"),
    ]
    assert why(result) == {
        "p0": "beyond the best 2: given 1, rank 3 of 4",
        "p3": "beyond the best 2: given 0, rank 4 of 4",
    }
    assert result.reason == "compressed"


def test_a_passage_that_does_not_fit_is_passed_over_for_the_next():
    trim = RerankTrim(scorer=Given(4, 3, 2, 1), max_tokens=10, counter=words)
    result = trim.compress(QUESTION, some(4, 7, 6, 1))
    assert ids(result) == ["p0", "p2"]
    assert result.tokens_after == 10
    assert why(result)["p1"] == "beyond 10 tokens: given 3, rank 2 of 4"


def test_titles_count_as_tokens():
    trim = RerankTrim(scorer=Given(2, 1), max_tokens=4, counter=words)
    assert ids(trim.compress(QUESTION, some(2, 1, title="two words"))) == ["p0"]


def test_one_huge_passage_does_not_keep_the_others_out():
    trim = RerankTrim(scorer=Given(9, 1), max_tokens=100, counter=words)
    assert ids(trim.compress(QUESTION, some(200_000, 50))) == ["p1"]


def test_the_floor_takes_what_fits_first_and_then_the_best_whatever_it_costs():
    trim = RerankTrim(scorer=Given(3, 2, 1), max_tokens=5, counter=words)
    assert ids(trim.compress(QUESTION, some(9, 8, 7))) == ["p0"]
    three = replace(trim, keep_at_least=2, min_score=10.0)
    assert ids(three.compress(QUESTION, some(9, 8, 4))) == ["p0", "p2"]
    assert ids(replace(trim, keep_at_least=0).compress(QUESTION, some(9, 8, 7))) == []


def test_a_score_too_low():
    trim = RerankTrim(scorer=Given(0.9, 0.1, 0.5), min_score=0.5)
    result = trim.compress(QUESTION, some(1, 1, 1))
    assert ids(result) == ["p0", "p2"]
    assert why(result) == {"p1": "below min_score 0.5: given 0.1, rank 3 of 3"}


def test_everything_behind_a_gap():
    trim = RerankTrim(scorer=Given(0.2, 0.9, 0.1, 0.8), max_gap=0.3)
    result = trim.compress(QUESTION, some(1, 1, 1, 1))
    assert ids(result) == ["p1", "p3"]
    assert why(result)["p2"] == "behind a score gap of 0.6: given 0.1, rank 4 of 4"


def test_dollars_buy_tokens_at_the_price_of_the_model():
    prices = PriceBook(overrides={"m": {"input": 2.0, "output": 8.0}})
    trim = RerankTrim(
        scorer=Given(3, 2, 1), max_usd=Decimal("0.00002"), model="m", prices=prices, counter=words
    )
    assert trim.compress(QUESTION, some(6, 5, 4)).tokens_after == 10  # $2 a million: $0.00002
    assert replace(trim, max_tokens=5).compress(QUESTION, some(6, 5, 4)).tokens_after == 5


def test_dollars_are_counted_at_the_price_of_a_prompt_that_long():
    trim = RerankTrim(max_usd=Decimal(1), model="gemini-2.5-pro")
    rates = PriceBook().rates("gemini-2.5-pro", input_tokens=300_000)
    assert trim._budget() == int(1_000_000 / rates.input)


def test_an_unknown_price_is_not_zero():
    trim = RerankTrim(max_usd=Decimal(1), model="nobody-knows-this-one")
    with pytest.raises(PriceError, match="nobody-knows"):
        trim.compress(QUESTION, some(1, 1))


def test_a_free_model_buys_without_limit():
    free = PriceBook(overrides={"local": {"input": 0, "output": 0}})
    trim = RerankTrim(max_usd=Decimal(1), model="local", prices=free, top_k=None)
    assert trim.compress(QUESTION, some(5, 5)).reason == "short"


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("original", ["p0", "p1", "p2", "p3"]),
        ("best_first", ["p2", "p0", "p3", "p1"]),
        ("best_at_both_ends", ["p2", "p3", "p1", "p0"]),
    ],
)
def test_orders(order, expected):
    trim = RerankTrim(scorer=Given(3, 1, 4, 2), order=order)
    assert ids(trim.compress(QUESTION, some(1, 1, 1, 1))) == expected


def test_equal_scores_keep_the_retrievers_order():
    trim = RerankTrim(scorer=Given(0, 0, 0, 0), top_k=2, order="best_first")
    assert ids(trim.compress(QUESTION, some(1, 1, 1, 1))) == ["p0", "p1"]


# --- duplicates -----------------------------------------------------------------------------------


def test_copies_go_even_where_everything_fits_and_no_scorer_is_asked():
    passages = [Passage(id="a", text="x\u0065\u0301 y"), Passage(id="b", text=" x\u00e9\n y ")]
    result = RerankTrim(scorer=Failing(RuntimeError())).compress(QUESTION, passages)
    assert result.passages == (passages[0],)
    assert why(result) == {"b": "same text as 'a'"}
    assert result.reason == "compressed"
    kept = RerankTrim(duplicates="keep").compress(QUESTION, passages)
    assert kept.passages == tuple(passages)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The US team", "the us team"),
        ("10 m x² y", "10 m x2 y"),
        ("costs -5", "costs 5"),
        ("Notice: 30 days", "Notice: 60 days"),
    ],
)
def test_what_differs_in_the_least_is_no_copy(one, other):
    assert same_text([Passage(text=one), Passage(text=other)]) == {}


def test_the_same_words_under_another_title_are_no_copy():
    assert (
        same_text([Passage(title="Basic", text="30 days"), Passage(title="Pro", text="30 days")])
        == {}
    )


def test_a_copy_without_an_id_is_named_by_its_place():
    result = RerankTrim().compress(QUESTION, [Passage(text="a"), Passage(text="a")])
    assert result.dropped[0].why == "same text as passage 1"


NEAR = [
    Passage(id="2023", text="The notice period is 30 days to the end of a month since 2023."),
    Passage(id="2024", text="The notice period is 30 days to the end of a month since 2024."),
    Passage(id="other", text="How long is the trial period? Six months with two weeks of notice."),
    Passage(id="far", text="We bake bread."),
]


def test_near_copies_wait_but_only_a_limit_leaves_them_out():
    plain = RerankTrim(scorer=Given(1.0, 0.95, 0.8, 0.0), top_k=2)
    near = replace(plain, duplicates="near")
    assert ids(plain.compress(QUESTION, NEAR)) == ["2023", "2024"]
    assert ids(near.compress(QUESTION, NEAR)) == ["2023", "other"]
    assert len(replace(near, top_k=None, order="best_first").compress(QUESTION, NEAR).passages) == 4


def test_near_copies_by_their_vectors():
    vectors = ([1, 0.01], [1, 0], [0.2, 1], [0, 1])
    passages = [
        replace(p, vector=np.float32(v)) for p, v in zip(some(1, 1, 1, 1), vectors, strict=True)
    ]
    trim = RerankTrim(scorer=Given(1.0, 0.95, 0.8, 0.0), top_k=2, duplicates="near")
    assert ids(trim.compress(QUESTION, passages)) == ["p0", "p2"]
    np.testing.assert_allclose(similarity(passages)(1)[:2], 1, atol=1e-3)


@pytest.mark.parametrize("damaged", [None, [0.0, 0.0], [float("nan"), 1.0], [1.0, 0.0, 0.0]])
def test_a_damaged_vector_means_that_words_count(damaged):
    passages = [Passage(text="a b c d", vector=np.float32([1, 0])), Passage(text="e f g h")]
    passages[1] = replace(passages[1], vector=None if damaged is None else np.float32(damaged))
    assert similarity(passages)(0).tolist() == [1.0, 0.0]


def test_shingles_of_texts_with_few_or_no_words():
    texts = ["", "one", "one", "two", "!!!"]
    row = similarity([Passage(text=text) for text in texts])
    assert row(1).tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert row(0).tolist() == [0.0] * 5


@given(st.lists(st.integers(-50, 50), max_size=12), st.floats(0, 1, allow_subnormal=False))
def test_mmr_is_a_permutation_that_starts_with_the_best(relevance, weight):
    row = similarity([Passage(text=f"text {i % 3} of some words") for i in range(len(relevance))])
    order = list(by_relevance_and_novelty(relevance, row, weight=weight))
    assert sorted(order) == list(range(len(relevance)))
    if relevance and weight > 0:
        assert relevance[order[0]] == pytest.approx(max(relevance))


# --- what is better left alone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "passages", "reason"),
    [
        ("", some(1, 1), "no_question"),
        (" \n", some(1, 1), "no_question"),
        (QUESTION, [], "no_passages"),
        (QUESTION, some(1, 1, 1), "short"),
    ],
)
def test_nothing_to_do_is_identity(question, passages, reason):
    trim = RerankTrim(scorer=Failing(AssertionError("asked")), max_tokens=1_000)
    result = trim.compress(question, passages)
    assert (result.passages, result.reason) == (tuple(passages), reason)
    assert result.tokens_saved == 0


def test_all_kept_says_so_and_still_carries_scores():
    result = RerankTrim(scorer=Given(2, 1), min_score=0).compress(QUESTION, some(1, 1))
    assert result.reason == "no_saving"
    assert [p.score for p in result.passages] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        (Failing(RuntimeError("secret prompt")), "error"),
        (Failing(TimeoutError()), "timeout"),
        (Given(1.0), "error"),
        (Given(1.0, float("nan"), 2.0), "error"),
        (Given(1.0, None, 2.0), "error"),
        (Given("high", "low", "low"), "error"),
    ],
)
async def test_a_scorer_that_fails_leaves_the_input_as_it_was(scorer, reason):
    trim = RerankTrim(scorer=scorer, top_k=1)
    passages = some(1, 2, 3)
    for result in (trim.compress(QUESTION, passages), await trim.acompress(QUESTION, passages)):
        assert (result.passages, result.reason) == (tuple(passages), reason)
        assert result.tokens_before == result.tokens_after
        assert scorer.name in result.why
        assert "secret" not in result.why


def test_a_missing_package_is_not_passed_over():
    trim = RerankTrim(scorer=Failing(MissingExtraError("X", "torch")), top_k=1)
    with pytest.raises(MissingExtraError):
        trim.compress(QUESTION, some(1, 1))


async def test_cancelling_is_not_passed_over():
    class Slow:
        name = "slow"

        async def ascore(self, question, passages):
            await asyncio.sleep(60)

        def score(self, question, passages):
            raise AssertionError

    task = asyncio.create_task(RerankTrim(scorer=Slow(), top_k=1).acompress(QUESTION, some(1, 1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- any input ------------------------------------------------------------------------------------

ODD = [
    Passage(id="empty", text=""),
    Passage(id="blank", text=" \n\t"),
    Passage(id="binary", text="\x00\x01\xff" * 100),
    Passage(id="rtl", text="فترة الإشعار ثلاثون يومًا"),
    Passage(id="surrogate", text="notice \ud800 period"),
    Passage(id="same", text="notice one"),
    Passage(id="same", text="notice two"),
    Passage(text="no id", score=None),
    Passage(id="cjk", text="通知期间是三十天"),
    Passage(id="nan", text="notice", vector=np.float32([np.nan] * 64)),
]


@pytest.mark.parametrize("duplicates", ["keep", "exact", "near"])
@pytest.mark.parametrize("question", [QUESTION, "\ud800", "ما هي فترة الإشعار؟", "\x00", "通知"])
def test_odd_input_is_kept_or_said_to_be_dropped(question, duplicates):
    trim = RerankTrim(scorer=hybrid(HashingEmbedder()), top_k=4, duplicates=duplicates)
    result = trim.compress(question, ODD)
    assert len(result.passages) == 4
    assert len(result.passages) + len(result.dropped) == len(ODD)
    assert result.given == tuple(ODD)


TEXTS = st.text(st.characters(), max_size=30) | st.sampled_from(["a b c", "notice period", ""])
PASSAGES = st.lists(
    st.builds(Passage, text=TEXTS, title=st.sampled_from(["", "T"]), id=st.sampled_from("abc")),
    max_size=12,
)


@given(
    PASSAGES,
    TEXTS,
    st.builds(
        RerankTrim,
        scorer=st.sampled_from([BM25(), hybrid(HashingEmbedder())]),
        top_k=st.none() | st.integers(3, 8),
        max_tokens=st.none() | st.integers(1, 30),
        min_score=st.none() | st.floats(-1, 1),
        max_gap=st.none() | st.floats(0, 1),
        keep_at_least=st.integers(0, 3),
        order=st.sampled_from(["original", "best_first", "best_at_both_ends"]),
        duplicates=st.sampled_from(["keep", "exact", "near"]),
        counter=st.just(len),
    ),
)
def test_whatever_comes_in(passages, question, trim):
    before = [replace(passage) for passage in passages]
    result = trim.compress(question, passages)
    assert passages == before
    assert result.given == tuple(passages)
    # Nothing is lost, nothing is invented, no text is altered.
    texts = [p.text for p in result.passages] + [one.passage.text for one in result.dropped]
    assert sorted(texts) == sorted(p.text for p in passages)
    assert all(any(one.passage is p for p in passages) for one in result.dropped)
    assert all(one.why for one in result.dropped)
    counted = sum(len(f"{p.title}\n{p.text}" if p.title else p.text) for p in result.passages)
    assert result.tokens_after == counted <= result.tokens_before
    if result.reason in {"no_question", "no_passages", "short"}:
        assert result.passages == tuple(passages)
        return
    assert trim.top_k is None or len(result.passages) <= trim.top_k
    unique = len(passages) - (0 if trim.duplicates == "keep" else len(same_text(passages)))
    assert len(result.passages) >= min(trim.keep_at_least, unique)
    if trim.max_tokens is not None and len(result.passages) > trim.keep_at_least:
        assert result.tokens_after <= trim.max_tokens
    if trim.order == "best_first" and all(p.score is not None for p in result.passages):
        scores = [p.score for p in result.passages]
        assert scores == sorted(scores, reverse=True)


@given(PASSAGES, st.integers(1, 30))
def test_a_budget_without_a_floor_is_never_exceeded(passages, budget):
    trim = RerankTrim(max_tokens=budget, keep_at_least=0, counter=len)
    assert trim.compress(QUESTION, passages).tokens_after <= budget


@given(st.lists(st.integers(0, 3), max_size=15), st.randoms())
def test_orders_are_permutations(scores, random):
    order = ranked(scores)
    kept = random.sample(range(len(scores)), random.randint(0, len(scores)))
    for policy in ("original", "best_first", "best_at_both_ends"):
        assert sorted(put_in_order(kept, order, policy)) == sorted(kept)


async def test_async_gives_the_same():
    trim = RerankTrim(scorer=hybrid(HashingEmbedder()), top_k=2, duplicates="near")
    assert await trim.acompress(QUESTION, NEAR) == trim.compress(QUESTION, NEAR)


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": "best_frist"}, "Did you mean 'best_first'"),
        ({"duplicates": "mmr"}, "exact, near, keep"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"keep_at_least": -1}, "keep_at_least"),
        ({"top_k": 2, "keep_at_least": 3}, "contradicts"),
        ({"max_gap": -0.1}, "max_gap"),
        ({"max_gap": float("nan")}, "max_gap"),
        ({"min_score": float("nan")}, "min_score"),
        ({"max_usd": Decimal("0.01")}, "model"),
        ({"max_usd": Decimal(0), "model": "gpt-4o"}, "max_usd"),
        ({"max_usd": Decimal("NaN"), "model": "gpt-4o"}, "max_usd"),
        ({"max_usd": 0.01, "model": "gpt-4o"}, "Decimal"),
        ({"scorer": "bm25"}, r"as BM25\(\) does; got 'bm25'"),
        ({"scorer": BM25}, "as BM25"),
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RerankTrim(**wrong)
