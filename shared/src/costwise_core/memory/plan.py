"""When to fold a conversation, where to cut it, and what recall may cost: decided by price.

Sending all of a conversation is the yardstick. A plan never lets a conversation cost more than
that, whenever it ends, because it spends only what was already saved:

- The first cut is made for the call at hand, at once and without a model (`mode="extract"`: some
  sentences of the old messages, word for word, stand for them). It is made when that call alone
  becomes no dearer by it, the prefix it writes anew included.
- A model's summary is paid for from the bank: what the calls since saved, less all earlier folds.
  It is written after the answer, and replaces the extract.
- Recall may take a fixed share of what the call at hand saves.

Within those bounds a fold waits until the tokens it would take out have cost as much as folding
does ("rent or buy": at most twice the cost of knowing the future), and is made only if the calls
still expected repay it. So it folds often where prompts are dear and seldom where a cached prefix
is cheap, with no threshold in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from costwise_core.errors import ConfigError
from costwise_core.memory.cutting import Cut, cut_of
from costwise_core.memory.economics import MemoryPrices, turns_left
from costwise_core.memory.messages import Message, Summary, borders
from costwise_core.memory.policy import MemoryPolicy
from costwise_core.memory.talk import FRAME_TOKENS, Talk, talk_of

__all__ = ["MemoryPlan", "MemoryPolicy", "plan", "saved_usd"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """What to do with a conversation now, and why.

    Args:
        action: "keep" the summary and the cut as they are, or "fold".
        mode: How the new summary is made: "extract" at once, by `extract`, before the call at hand
            is sent; "separate" by the summariser, or "appended" by the model itself at the end of
            its live prompt, both after the answer and with the old state served meanwhile. "" for
            "keep".
        cut: How many messages the summary stands for, once the plan is carried out.
        steps: Ranges of messages to read into the summary, one call each, the summary so far put
            before each. One message that is too long for a step is a step of its own. Begins where
            a model stopped reading (`Summary.written`).
        summary_tokens: The most that the new summary may have.
        recall_tokens: The most that recalled messages may have in the call at hand; 0 is none.
        expected_usd: What the fold costs at most, in dollars.
        turns_left: Calls that are still expected.
        saved_usd: The bank: what the conversation saved so far, after its folds, in dollars.
        why: One sentence for a person.

    Example:
        >>> plan([], Summary(), None).action
        'keep'
    """

    action: Literal["keep", "fold"]
    mode: Literal["", "extract", "separate", "appended"] = ""
    cut: int = 0
    steps: tuple[tuple[int, int], ...] = ()
    summary_tokens: int = 0
    recall_tokens: int = 0
    expected_usd: float = 0.0
    turns_left: float = 0.0
    saved_usd: float = 0.0
    why: str = ""


def plan(
    messages: Sequence[Message],
    summary: Summary,
    prices: MemoryPrices | None,
    policy: MemoryPolicy | None = None,
    *,
    before: int = 0,
    lengths: Sequence[int] = (),
    relevance: float = 1.0,
    model: str = "",
    coming: bool = False,
) -> MemoryPlan:
    """Decide what to do with a conversation now: before a call is sent, or after its answer.

    Args:
        messages: All of the conversation, oldest first. If a user's message or a tool's result is
            the last, the call at hand is still to be sent; if an answer is, there is none.
        summary: What stands for the first of them so far.
        prices: What model and summariser charge. None, prices that nobody knows, keeps everything
            up to the window.
        policy: How short.
        before: Tokens that come before the conversation and never change: system prompt and tools.
        lengths: Calls of finished conversations of the same feature, see `turns_left`.
        relevance: How much the old messages have to do with the question, in [0, 1], as
            `TurnIndex.relevance` says. Recall gets that part of what it may spend; below 0.5
            nothing, since most of what is said in a chat needs nothing recalled.
        model: Whose tokenizer counts messages that have no `tokens`.
        coming: Whether a call is to be sent though an answer is the last message: its question is
            not known yet.

    Raises:
        ConfigError: if relevance is not in [0, 1], or the summary stands for more messages than
            there are.

    Example:
        >>> prices = MemoryPrices(input=2.5, cache_read=2.5, cache_write=2.5, output=10)
        >>> talk = [Message(role="user", text="", tokens=500),
        ...         Message(role="assistant", text="", tokens=500)] * 5
        >>> plan([*talk, Message(role="user", text="", tokens=100)], Summary(), prices).cut
        8
    """
    if not 0 <= relevance <= 1:
        raise ConfigError(f"relevance must be in [0, 1], got {relevance}.")
    policy = policy or MemoryPolicy()
    share = policy.recall_share
    talk = talk_of(
        messages, summary, prices, share=share, before=before, model=model, coming=coming
    )
    decided = _decide(talk, policy, borders(messages), turns_left(len(talk.calls), lengths))
    if not talk.pending:
        return decided
    kept_until = max((at for at, one in enumerate(messages) if one.role == "user"), default=0)
    return replace(decided, recall_tokens=_recall(talk, policy, decided, kept_until, relevance))


def saved_usd(
    messages: Sequence[Message],
    summary: Summary,
    prices: MemoryPrices | None,
    policy: MemoryPolicy | None = None,
    *,
    before: int = 0,
    model: str = "",
) -> float:
    """Return what a conversation saved against sending all of it, in dollars, after its folds.

    Counted from the answers there are; recall is taken to have spent all that it might. Whoever
    writes a new summary stores this, less what the fold cost, as its `saved_usd`, and the number of
    messages as its `seen`.

    Args:
        messages: All of the conversation, oldest first.
        summary: What stood for the first of them until now.
        prices: As for `plan`; without, nothing is added to what the summary says.
        policy: As for `plan`.
        before: Likewise.
        model: Likewise.

    Example:
        >>> saved_usd([], Summary(saved_usd=0.5), None)
        0.5
    """
    share = (policy or MemoryPolicy()).recall_share
    return talk_of(messages, summary, prices, share=share, before=before, model=model).saved()


# --- the rules ------------------------------------------------------------------------------------

_TAKES_OUT: Final = 2 / 3
"""A fold takes out at least this share of a prompt; summaries of summaries wear off otherwise."""

_RELEVANT: Final = 0.5
"""With less, what would be recalled is rarely what the question needs."""

_WORTH_QUOTING: Final = 40
"""Tokens; fewer of recalled messages say nothing."""


def _decide(talk: Talk, policy: MemoryPolicy, ends: Sequence[int], left: float) -> MemoryPlan:
    bank = talk.saved()
    keep = MemoryPlan(
        action="keep",
        cut=talk.summary.folded,
        summary_tokens=policy.summary_tokens,
        turns_left=left,
        saved_usd=bank,
    )
    prices, now = talk.prices, talk.kept(talk.size)
    over = now > policy.window
    if prices is None and not over:
        return replace(keep, why="no price is known, so nothing says that folding pays")
    cut = cut_of(talk, policy, ends)
    if cut is None:
        return replace(keep, why="there is nothing to cut off before the newest messages")
    if prices is None or (over and talk.pending):
        why = f"{now:,} tokens are more than the window of {policy.window:,}"
        return replace(_with(keep, cut), mode="extract", why=why)
    if not _stays_cheaper(talk, cut):
        return replace(keep, why="what is left would be too short for the provider to cache")

    gain = talk.after_recall(talk.gains()[-1]) if talk.pending else 0.0
    # What the old messages cost in the next call: all of them, less what will stand for them.
    known = talk.size if talk.pending else talk.sent
    next_gain = talk.usd(talk.total[talk.size], talk.total[known]) - talk.usd(cut.prompt)
    paid = bank + gain - cut.usd + min(next_gain, 0.0) >= 0
    written = replace(_with(keep, cut), mode=cut.mode, expected_usd=cut.usd)
    if paid and talk.summary.written < talk.summary.folded:
        return replace(written, why="the bank pays for a model's summary in place of the extract")

    rented = sum(max(talk.kept(stop) - cut.prompt, 0) for stop in talk.since())
    if rented * prices.cache_read / 1e6 < cut.setup_usd or now - cut.prompt < _TAKES_OUT * now:
        return replace(keep, why="too little would be taken out for what folding costs")
    if paid:
        rewritten = cut.prompt * (prices.cache_write - prices.cache_read) / 1e6
        repaid = (now - cut.prompt) * prices.cache_read / 1e6 * left
        if repaid <= cut.usd + rewritten:
            return replace(keep, why=f"the {left:.0f} calls still expected would not repay it")
        return replace(written, why=f"the bank pays, and {left:.0f} more calls repay it")
    short = cut_of(talk, policy, ends, at_once=True)
    if (
        talk.pending
        and short is not None
        and bank + _gain(talk, short.prompt) >= 0
        and _stays_cheaper(talk, short)
    ):
        return replace(_with(keep, short), mode="extract", why="the call at hand repays it")
    return replace(keep, why="not paid for yet, and nothing is folded on credit")


def _with(keep: MemoryPlan, cut: Cut) -> MemoryPlan:
    return replace(keep, action="fold", cut=cut.at, steps=cut.steps, summary_tokens=cut.tokens)


def _gain(talk: Talk, prompt: int) -> float:
    """What the call at hand saves if all of its prompt has so many tokens and is new."""
    return talk.usd(talk.total[talk.size], talk.total[talk.sent]) - talk.usd(prompt)


def _stays_cheaper(talk: Talk, cut: Cut) -> bool:
    """Whether a prompt too short to be cached is still cheaper than the cached whole history."""
    prices = talk.prices
    if prices is None or talk.before + cut.prompt >= prices.least:
        return True
    # Until the prompt is long enough, every call may be charged for all of it.
    worst = (prices.least - talk.before) * max(prices.input, prices.cache_write)
    return worst <= talk.total[talk.size] * prices.cache_read


def _recall(
    talk: Talk, policy: MemoryPolicy, decided: MemoryPlan, asked: int, relevance: float
) -> int:
    """Return the tokens that recall may spend in the call at hand; its question begins at `asked`.

    Recalled messages stand before the question. They are never in the cache, and the question
    after them is not found there by the next call either.
    """
    prices, size = talk.prices, talk.size
    # A model's summary is written after the answer: what is folded now is what was folded before.
    folded = decided.cut if decided.mode == "extract" else talk.summary.folded
    if not folded or relevance < _RELEVANT:
        return 0
    if prices is None:
        return round(policy.recall_tokens * relevance)
    gain = talk.gains()[-1]
    if decided.mode == "extract":
        kept = talk.total[size] - talk.total[folded]
        gain = _gain(talk, decided.summary_tokens + FRAME_TOKENS + kept)
    again = (talk.total[size] - talk.total[asked]) * (prices.cache_write - prices.cache_read)
    each = max(prices.input, prices.cache_write) or float("inf")
    spend = (gain * policy.recall_share * 1e6 - again) / each - FRAME_TOKENS
    tokens = int(min(spend, policy.recall_tokens, talk.total[folded]) * relevance)
    return tokens if tokens >= _WORTH_QUOTING else 0
