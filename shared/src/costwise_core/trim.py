"""Keep the passages that matter to the question, leave the rest out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, get_args

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, PriceError, nearest
from costwise_core.money import picodollars
from costwise_core.near_duplicates import by_relevance_and_novelty, same_text, similarity
from costwise_core.passages import Compressed, Dropped, Passage, tokens_of
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.protocols import Scorer, TokenCounter
from costwise_core.score.bm25 import BM25
from costwise_core.score.fusion import all_scores
from costwise_core.tokens import shared_tokens
from costwise_core.trim_choice import Order, choose, put_in_order, ranked, too_weak

__all__ = ["Duplicates", "RerankTrim"]

Duplicates = Literal["exact", "near", "keep"]


@dataclass(frozen=True, kw_only=True)
class RerankTrim:
    """Ranks passages by relevance and keeps the best of them, whole; texts are never changed.

    Every limit is a cap, and a passage stays only within all of them; None is no cap. The best
    passages are taken first; one that does not fit into the tokens left is passed over for the
    next. If fewer than `keep_at_least` were within the caps, the best others that fit into the
    tokens are added, then the best whether they fit or not: that alone can exceed a budget.

    What cannot be judged comes back as it was given, and `reason` says why: "no_question",
    "no_passages", "short" (nothing to cut, so no scorer is asked), "error" (the scorer failed) or
    "timeout" (it says that it took too long). A missing package or a wrong setting still raises.

    Args:
        scorer: Says what is relevant. BM25 needs nothing; with an embedder take
            `hybrid(embedder)`.
        top_k: The most passages to keep.
        max_tokens: The most tokens to keep, headers or titles included.
        max_usd: The same in dollars for one request, at the input price of `model`.
        min_score: Leave out what scores lower, in the scorer's own units.
        max_gap: Leave out everything behind the first fall in score that is larger than this, in
            the scorer's own units.
        keep_at_least: How many passages to keep whatever the limits say; 0 to let them win.
        order: "original" as given; "best_first"; "best_at_both_ends" for long prompts, whose middle
            models overlook (Liu et al. 2024).
        duplicates: "exact" leaves out passages with the same title and text as an earlier one;
            "near" also lets passages much like a better one wait behind what is nearly as relevant
            (maximal marginal relevance): only a limit leaves them out, as the one changed word may
            be the answer; "keep" does nothing.
        model: The model that will read the passages; counts its tokens and knows its price.
        counter: Counts tokens instead, such as `Tokens().counter(model)`.
        prices: Knows prices instead of the list that comes along.

    Raises:
        ConfigError: if a number is out of range, a word is unknown, `scorer` is none, or `max_usd`
            comes without a model.

    Example:
        >>> passages = [
        ...     Passage(id="a", text="Fibre comes with a router."),
        ...     Passage(id="b", text="The notice period is 30 days."),
        ...     Passage(id="c", text="We were founded in 1999."),
        ... ]
        >>> result = RerankTrim(top_k=1).compress("How long is the notice period?", passages)
        >>> [(passage.id, passage.why) for passage in result.passages]
        [('b', 'bm25 ..., rank 1 of 3')]
        >>> result.dropped[0].why
        'beyond the best 1: bm25 0, rank 2 of 3'
    """

    scorer: Scorer = field(default_factory=BM25)
    top_k: int | None = 5
    max_tokens: int | None = None
    max_usd: Decimal | None = None
    min_score: float | None = None
    max_gap: float | None = None
    keep_at_least: int = 1
    order: Order = "original"
    duplicates: Duplicates = "exact"
    model: str = ""
    counter: TokenCounter | None = None
    prices: PriceBook | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scorer, type) or not callable(getattr(self.scorer, "score", None)):
            raise ConfigError(
                "a scorer has a name and a method score(question, passages), as BM25() does; "
                f"got {self.scorer!r}."
            )
        for name, value, known in (
            ("order", self.order, get_args(Order)),
            ("duplicates", self.duplicates, get_args(Duplicates)),
        ):
            if value not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {value!r}."
                    + nearest(str(value), known)
                )
        for name, number, least in (
            ("top_k", self.top_k, 1),
            ("max_tokens", self.max_tokens, 1),
            ("keep_at_least", self.keep_at_least, 0),
        ):
            if number is not None and (not isinstance(number, int) or number < least):
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {number!r}."
                )
        if self.top_k is not None and self.keep_at_least > self.top_k:
            raise ConfigError(
                f"keep_at_least={self.keep_at_least} contradicts top_k={self.top_k}: "
                "it must not be more."
            )
        if self.max_gap is not None and not self.max_gap >= 0:
            raise ConfigError(f"max_gap must be at least 0, got {self.max_gap!r}.")
        if self.min_score is not None and math.isnan(self.min_score):
            raise ConfigError("min_score must be a number, got NaN.")
        if self.max_usd is not None:
            usd = self.max_usd
            if not (isinstance(usd, Decimal) and usd.is_finite() and usd > 0):
                raise ConfigError(f"max_usd must be a Decimal of more than 0 dollars, got {usd!r}.")
            if not self.model:
                raise ConfigError(
                    "max_usd needs a model, whose price says how many tokens it buys."
                )

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Return the best passages, each with its score and why.

        Args:
            question: What will be asked about them.
            passages: Any passages, in the retriever's order, which decides between equal scores.

        Raises:
            ConfigError: if the scorer lacks a package or its model cannot be run.
            PriceError: if `max_usd` is set and the model has no known price.
        """
        return run(self._compress(question, tuple(passages)))

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await arun(self._compress(question, tuple(passages)))

    def _compress(self, question: str, given: tuple[Passage, ...]) -> Flow[Compressed]:
        tokens = yield from call(self._count, given)
        if not given:
            return Compressed.unchanged(given, tokens=0, reason="no_passages")
        if not question.strip():
            return Compressed.unchanged(given, tokens=sum(tokens), reason="no_question")
        budget = yield from call(self._budget)
        copies = {} if self.duplicates == "keep" else (yield from call(same_text, given))
        others = [i for i in range(len(given)) if i not in copies]
        out = {i: f"same text as {_called(given, first)}" for i, first in copies.items()}
        if not self._asks(len(others), sum(tokens[i] for i in others), budget):
            return _result(given, tokens, {i: given[i] for i in others}, out, reason="short")
        asked = [given[i] for i in others]
        try:
            scores = (yield from all_scores([self.scorer], question, asked))[0].tolist()
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - a compressor fails open
            return Compressed.unchanged(
                given,
                tokens=sum(tokens),
                reason="timeout" if isinstance(error, TimeoutError) else "error",
                why=f"the scorer {self.scorer.name!r} failed with {type(error).__name__}",
            )
        kept, why_not = yield from call(
            self._decide, asked, scores, [tokens[i] for i in others], budget
        )
        out |= {others[i]: why for i, why in why_not.items()}
        chosen = {others[i]: passage for i, passage in kept.items()}
        return _result(given, tokens, chosen, out, reason="no_saving")

    def _decide(
        self,
        passages: Sequence[Passage],
        scores: Sequence[float],
        tokens: Sequence[int],
        budget: int | None,
    ) -> tuple[dict[int, Passage], dict[int, str]]:
        """Return what is kept by its place, in the order to send, and why the rest is not."""
        by_rank = turns = ranked(scores)
        if self.duplicates == "near":
            alike = similarity([passages[i] for i in by_rank])
            best = by_relevance_and_novelty([scores[i] for i in by_rank], alike)
            turns = [by_rank[i] for i in best]
        kept, out = choose(
            turns,
            tokens,
            weak=too_weak(scores, min_score=self.min_score, max_gap=self.max_gap),
            top_k=self.top_k,
            budget=budget,
            keep_at_least=self.keep_at_least,
            by_rank=by_rank,
        )
        why = {
            i: f"{self.scorer.name} {scores[i]:.3g}, rank {rank} of {len(scores)}"
            for rank, i in enumerate(by_rank, 1)
        }
        chosen = {
            i: replace(passages[i], score=scores[i], why=why[i])
            for i in put_in_order(kept, by_rank, self.order)
        }
        return chosen, {i: f"{reason}: {why[i]}" for i, reason in out.items()}

    def _count(self, passages: Sequence[Passage]) -> list[int]:
        counter = self.counter or shared_tokens().counter(self.model)
        return tokens_of(passages, counter)

    def _budget(self) -> int | None:
        """Return the most tokens to keep, None without a limit."""
        if self.max_usd is None:
            return self.max_tokens
        prices, picos, bought = self.prices or shared_prices(), picodollars(self.max_usd), 0
        for _ in range(2):  # the second time at the price of a prompt that long
            rate = prices.rates(self.model, input_tokens=bought).input
            if rate is None:
                raise PriceError(f"{self.model!r} has no known price for input; max_usd needs one.")
            if not rate:
                return self.max_tokens
            bought = picos * 1_000_000 // picodollars(rate)
        return bought if self.max_tokens is None else min(bought, self.max_tokens)

    def _asks(self, passages: int, tokens: int, budget: int | None) -> bool:
        """Return whether scores can make any difference."""
        return (
            self.order != "original"
            or self.min_score is not None
            or self.max_gap is not None
            or (self.top_k is not None and passages > self.top_k)
            or (budget is not None and tokens > budget)
        )


def _result(
    given: tuple[Passage, ...],
    tokens: Sequence[int],
    kept: Mapping[int, Passage],
    out: Mapping[int, str],
    *,
    reason: str,
) -> Compressed:
    """Put together what is kept, by place and in the order to send, and what is not."""
    changed = bool(out) or list(kept) != sorted(kept)
    before, after = sum(tokens), sum(tokens[i] for i in kept)
    return Compressed(
        passages=tuple(kept.values()),
        given=given,
        dropped=tuple(Dropped(passage=given[i], why=out[i]) for i in sorted(out)),
        tokens_before=before,
        tokens_after=after,
        reason="compressed" if changed else reason,
        why=f"{len(kept)} of {len(given)} passages kept, {after:,} of {before:,} tokens",
    )


def _called(passages: Sequence[Passage], place: int) -> str:
    return repr(passages[place].id) if passages[place].id else f"passage {place + 1}"
