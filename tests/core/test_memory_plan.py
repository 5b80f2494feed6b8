"""When a conversation is folded: never dearer than all of it, whenever it ends."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.errors import ConfigError
from costwise_core.memory.economics import MemoryPrices, turns_left
from costwise_core.memory.extract import extract
from costwise_core.memory.messages import Message, Summary
from costwise_core.memory.plan import MemoryPlan, MemoryPolicy, plan, saved_usd
from costwise_core.memory.prompts import (
    fold_instruction,
    fold_prompt,
    recalled_block,
    summary_block,
)
from costwise_core.memory.talk import FRAME_TOKENS
from costwise_core.prices import PriceBook
from costwise_core.tokens import count_tokens

GPT = MemoryPrices(
    input=2.5, cache_read=1.25, cache_write=2.5, output=10, summary_input=0.15, summary_output=0.6
)
UNCACHED = replace(GPT, cache_read=2.5)
SONNET = replace(GPT, input=3, cache_read=0.3, cache_write=3.75, output=15)
FREE = MemoryPrices(
    input=0, cache_read=0, cache_write=0, output=0, summary_input=0, summary_output=0
)


def talk_of(*sizes: int) -> list[Message]:
    """User and assistant in turn."""
    return [
        Message(role="assistant" if at % 2 else "user", text="x", id=str(at), tokens=size)
        for at, size in enumerate(sizes)
    ]


@dataclass(frozen=True)
class Turn:
    """What one call of a conversation did."""

    decided: MemoryPlan
    before: Summary
    after: Summary
    ours: float  # dollars so far, the fold after the answer included
    whole: float


def charged(prices: MemoryPrices, tokens: int, cached: int, before: int) -> float:
    """A provider's bill, written down apart from the planner."""
    if before + tokens < prices.least:
        return tokens * prices.input
    if before + cached < prices.least:
        cached = 0
    return cached * prices.cache_read + (tokens - cached) * prices.cache_write


def run(
    talk: list[Message],
    prices: MemoryPrices,
    policy: MemoryPolicy | None = None,
    *,
    before: int = 0,
    short: float = 1.0,
    relevance: float = 0.0,
) -> Iterator[Turn]:
    """Hold a conversation as the memory does, paying the most that each plan allows."""
    policy, state = policy or MemoryPolicy(), Summary()
    ours = whole = 0.0
    last_ours: tuple[Summary, int] | None = None
    last = 0
    sizes = [one.tokens for one in talk]
    for at, one in enumerate(talk):
        if one.role != "assistant":
            continue
        seen, old = talk[:at], state
        decided = plan(seen, state, prices, policy, before=before, relevance=relevance)
        if decided.mode == "extract":
            state = replace(
                state,
                folded=decided.cut,
                tokens=max(int(decided.summary_tokens * short), 1),
                version=state.version + 1,
                seen=at,
                saved_usd=decided.saved_usd,
            )
        stands = state.tokens + FRAME_TOKENS if state.folded else 0
        prompt = stands + sum(sizes[state.folded : at])
        same = last_ours is not None and last_ours[0] == state
        cached = stands + sum(sizes[state.folded : last_ours[1]]) if same and last_ours else 0
        question = sizes[at - 1] if decided.recall_tokens else 0
        ours += charged(prices, prompt - question, min(cached, prompt - question), before)
        if decided.recall_tokens:
            fresh = decided.recall_tokens + FRAME_TOKENS + question
            ours += fresh * max(prices.input, prices.cache_write)
        whole += charged(prices, sum(sizes[:at]), sum(sizes[:last]), before)
        # The question after recalled messages is not in the cache for the next call.
        last_ours, last = (state, at - 1 if decided.recall_tokens else at), at
        if decided.mode in {"separate", "appended"}:
            saved = saved_usd(seen, state, prices, policy, before=before) - decided.expected_usd
            ours += decided.expected_usd * 1e6
            state = Summary(
                folded=decided.cut,
                tokens=max(int(decided.summary_tokens * short), 1),
                version=state.version + 1,
                written=decided.cut,
                seen=at + 1,
                saved_usd=saved,
            )
        yield Turn(decided, old, state, ours, whole)


RATES = st.floats(0, 20, allow_nan=False)
SIZES = st.lists(st.integers(1, 400), min_size=2, max_size=60).map(
    lambda sizes: sizes * (1 + 200 // len(sizes))
)


@st.composite
def price_lists(draw: st.DrawFn) -> MemoryPrices:
    read = draw(RATES)
    write = read + draw(RATES)
    return MemoryPrices(
        input=draw(st.floats(read, write)),
        cache_read=read,
        cache_write=write,
        output=draw(RATES),
        summary_input=draw(st.none() | RATES),
        summary_output=draw(RATES),
        appended=draw(st.booleans()),
        least=draw(st.sampled_from([0, 64, 1024])),
    )


@settings(deadline=None, max_examples=150)
@given(
    SIZES,
    price_lists(),
    st.integers(1, 600),
    st.integers(1, 600),
    st.floats(0, 0.9),
    st.sampled_from([0, 500, 2000]),
    st.sampled_from([0.1, 0.7, 1.0]),
    st.sampled_from([0.0, 0.6, 1.0]),
)
def test_no_conversation_ever_costs_more_than_all_of_it_wherever_it_ends(
    sizes: list[int],
    prices: MemoryPrices,
    tail: int,
    most: int,
    share: float,
    before: int,
    short: float,
    relevance: float,
) -> None:
    policy = MemoryPolicy(tail_tokens=tail, summary_tokens=most, recall_share=share)
    talk = talk_of(*sizes)
    for turn in run(talk, prices, policy, before=before, short=short, relevance=relevance):
        assert turn.ours <= turn.whole * (1 + 1e-9) + 1e-6


@settings(deadline=None, max_examples=30)
@given(SIZES, price_lists())
def test_the_prefix_stays_the_same_until_the_next_fold_and_folds_lie_far_apart(
    sizes: list[int], prices: MemoryPrices
) -> None:
    before = 0
    for turn in run(talk_of(*sizes), prices):
        if turn.decided.action == "keep":
            assert turn.after == turn.before
            assert turn.decided.cut == turn.before.folded
        else:
            assert turn.decided.cut >= turn.before.folded
            assert turn.decided.summary_tokens <= MemoryPolicy().summary_tokens
        assert turn.after.version >= before
        before = turn.after.version


@pytest.mark.parametrize("prices", [UNCACHED, GPT, SONNET])
def test_a_long_conversation_is_folded_and_costs_far_less(prices: MemoryPrices) -> None:
    turns = list(run(talk_of(*([40] * 500)), prices))
    assert turns[-1].ours < 0.5 * turns[-1].whole
    modes = [turn.decided.mode for turn in turns if turn.decided.mode]
    assert modes[0] == "extract"  # nothing was saved yet to pay a model with
    assert set(modes[1:]) == {"separate"}
    assert len(modes) < len(turns) / 10
    assert turns[-1].after.written == turns[-1].after.folded > 400


def test_dear_writes_make_folds_rarer_and_later() -> None:
    talk = talk_of(*([40] * 500))
    first, folds = {}, {}
    for name, prices in (("uncached", UNCACHED), ("cached", SONNET)):
        turns = list(run(talk, prices))
        first[name] = next(at for at, turn in enumerate(turns) if turn.decided.mode)
        folds[name] = sum(bool(turn.decided.mode) for turn in turns)
    assert first["uncached"] < first["cached"]


def test_without_a_price_all_is_kept_up_to_the_window() -> None:
    talk = talk_of(*([500] * 20), 100)
    kept = plan(talk, Summary(), None)
    assert kept.action == "keep"
    assert "no price is known" in kept.why
    cut = plan(talk, Summary(), None, MemoryPolicy(window=5_000))
    assert (cut.action, cut.mode, cut.expected_usd) == ("fold", "extract", 0.0)
    assert "window" in cut.why


def test_beyond_the_window_it_is_folded_whatever_it_costs() -> None:
    dear = replace(SONNET, cache_read=0.0, summary_input=None)
    talk = talk_of(*([100] * 30), 100)
    assert plan(talk, Summary(), dear).action == "keep"
    cut = plan(talk, Summary(), dear, MemoryPolicy(window=2_000))
    assert (cut.mode, cut.cut > 0) == ("extract", True)


def test_a_free_model_is_folded_for_its_window_only_and_by_the_summariser() -> None:
    policy = MemoryPolicy(window=2_000)
    turns = list(run(talk_of(*([50] * 100)), FREE, policy))
    modes = [turn.decided.mode for turn in turns if turn.decided.mode]
    assert modes[:2] == ["extract", "separate"]
    sent = [sum([50] * (2 * at + 1)) - 50 * turn.after.folded for at, turn in enumerate(turns)]
    assert max(sent) <= 2_000


def test_nothing_is_folded_for_calls_that_are_not_expected() -> None:
    talk = talk_of(*([40] * 200))
    state = Summary(folded=100, written=100, tokens=80, seen=101, saved_usd=1.0)
    expected = plan(talk, state, SONNET, lengths=[200] * 5)
    over = plan(talk, state, SONNET, lengths=[101] * 5)
    assert expected.action == "fold"
    assert (over.action, over.turns_left) == ("keep", 1.0)
    assert "not repay" in over.why


def test_a_summary_from_the_same_model_is_asked_for_at_the_end_of_its_live_prompt() -> None:
    same = replace(SONNET, summary_input=3.0, summary_output=15.0, appended=True)
    talk = talk_of(*([40] * 300))
    state = Summary(folded=100, written=100, tokens=80, seen=101, saved_usd=1.0)
    assert plan(talk, state, same).mode == "appended"
    assert (
        plan(talk, state, replace(same, summary_input=0.05, summary_output=0.2)).mode == "separate"
    )
    # What only an extract stands for is not in the live prompt.
    assert plan(talk, replace(state, written=50), same).mode == "separate"


def test_a_block_that_is_too_long_for_the_summariser_is_folded_in_steps() -> None:
    policy = MemoryPolicy(summariser_window=2_000, summary_tokens=200)
    talk = talk_of(*([100] * 50), 3_000, *([100] * 49))
    state = Summary(folded=2, written=0, tokens=80, seen=3, saved_usd=1.0)
    decided = plan(talk, state, GPT, policy)
    assert decided.action == "fold"
    assert decided.steps[0][0] == 0
    assert decided.steps[-1][1] == decided.cut
    assert all(one[1] == other[0] for one, other in pairwise(decided.steps))
    for start, stop in decided.steps:
        tokens = sum(one.tokens for one in talk[start:stop])
        assert stop == start + 1 or tokens <= 2_000 - 2 * 200
    assert (50, 51) in decided.steps  # the long message alone: the fold reads it in parts


def test_recall_is_paid_for_by_the_call_and_by_relevance() -> None:
    talk = talk_of(*([40] * 400), 20)
    state = Summary(folded=390, written=390, tokens=80, seen=300)
    budgets = {
        name: plan(talk, state, prices).recall_tokens
        for name, prices in (("uncached", UNCACHED), ("cached", GPT), ("dear writes", SONNET))
    }
    assert budgets["uncached"] == MemoryPolicy().recall_tokens
    assert 0 < budgets["dear writes"] < budgets["uncached"]
    assert plan(talk, state, GPT, relevance=0.2).recall_tokens == 0
    assert plan(talk, state, GPT, relevance=0.6).recall_tokens < budgets["cached"]
    assert plan(talk[:20], Summary(), GPT).recall_tokens == 0
    assert plan(talk[:-1], state, GPT).recall_tokens == 0  # no call is at hand


def test_short_prompts_that_a_provider_would_not_cache_are_not_made() -> None:
    talk = talk_of(*([40] * 200), 40)
    least = replace(SONNET, least=1024)
    assert plan(talk, Summary(), SONNET).action == "fold"
    assert plan(talk, Summary(), least).action == "keep"
    assert "too short" in plan(talk, Summary(), least).why
    assert plan(talk, Summary(), least, before=1024).action == "fold"


def test_tokens_that_are_not_given_are_counted() -> None:
    talk = [
        Message(role="assistant" if at % 2 else "user", text="some words of a talk " * 30)
        for at in range(41)
    ]
    assert plan(talk, Summary(), UNCACHED, model="gpt-4o").action == "fold"


@pytest.mark.parametrize(
    "wrong",
    [
        {"tail_tokens": 0},
        {"summary_tokens": 0},
        {"recall_tokens": -1},
        {"recall_share": 1.0},
        {"window": 300},
        {"summariser_window": 500},
    ],
)
def test_a_wrong_policy_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MemoryPolicy(**wrong)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="relevance"):
        plan([], Summary(), GPT, relevance=2.0)
    with pytest.raises(ConfigError, match="stands for 5 messages"):
        plan(talk_of(1), Summary(folded=5), GPT)
    with pytest.raises(ConfigError, match="cache_read"):
        replace(GPT, cache_read=-1.0)
    with pytest.raises(ConfigError, match="cache_read"):
        replace(GPT, cache_read=5.0)


def test_prices_come_from_the_price_list() -> None:
    book = PriceBook()
    sonnet = MemoryPrices.of(book, "anthropic:claude-sonnet-4-5", "openai:gpt-4o-mini")
    assert (sonnet.cache_read, sonnet.cache_write, sonnet.least) == (0.3, 3.75, 1024)
    uncached = MemoryPrices.of(book, "openai:gpt-4o", "openai:gpt-4o", cached=False)
    assert not uncached.caches
    assert uncached.appended
    assert uncached.least == 0
    assert MemoryPrices.of(book, "openai:gpt-4o").summary_input is None


def test_expected_calls_follow_the_lengths_given_and_the_age_without() -> None:
    assert turns_left(0) == 1.0
    assert turns_left(30, [10, 20, 25]) == 30.0
    assert turns_left(10, [11, 12, 13, 14, 15]) == 3.0


def test_frames_and_instructions_are_no_longer_than_the_planner_thinks() -> None:
    def count(text: str) -> int:
        return count_tokens(text, "gpt-4o").tokens

    one = [Message(role="user", text="Malta", at=0.0)]
    assert count(summary_block("")) <= FRAME_TOKENS
    assert count(recalled_block([])) <= FRAME_TOKENS
    assert count(fold_prompt("x", one, max_tokens=480)) <= 250
    assert count(fold_instruction(max_tokens=480)) <= 250


LINES = st.text("abc .\n", max_size=60)


@given(st.lists(LINES, max_size=12), LINES, st.integers(0, 40))
def test_an_extract_keeps_to_its_limit_and_adds_no_words(
    texts: list[str], old: str, most: int
) -> None:
    messages = [Message(role="user", text=text) for text in texts]
    made = extract(old, messages, max_tokens=most, count=len)
    assert len(made) <= most
    assert made == extract(old, messages, max_tokens=most, count=len)
    assert set(made.split()) <= {"user:", *" ".join([old, *texts]).split()}


def test_an_extract_prefers_facts_to_greetings_and_keeps_order_and_speakers() -> None:
    talk = [
        Message(role="user", name="Ada", text="Hello there, how are you?"),
        Message(role="user", name="Ada", text="My booking is KX-4471 to Malta on 3 May."),
        Message(role="assistant", text="Hello there, how are you?"),
        Message(role="assistant", text="The fare is 129 euros, without luggage."),
    ]
    made = extract("", talk, max_tokens=28, count=lambda text: len(text.split()))
    lines = made.splitlines()
    assert "Ada: My booking is KX-4471 to Malta on 3 May." in lines
    assert lines.index("Ada: My booking is KX-4471 to Malta on 3 May.") < lines.index(
        "assistant: The fare is 129 euros, without luggage."
    )
