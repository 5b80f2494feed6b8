"""What came of a day: marks, wrong hits, dollars, and where they went."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np

from benchmarks._common import Summary, summary
from benchmarks._day_traffic import KINDS, Request
from costwise_core import Ask, Candidate, GroundedJudge, LabelledQuestion, Passage
from costwise_core.text.words import words

__all__ = ["Outcome", "interval", "latency", "mark", "marked", "table", "waterfall", "wrong_hits"]

RESAMPLES: Final = 4_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request in one arm.

    Args:
        request: What was asked.
        framework: Who asked it.
        text: The answer.
        hit: The cache's tier; "" for a paid answer.
        usd: Paid, costwise's own calls included.
        input_usd: Of that, for tokens sent to the model.
        input_tokens: Sent to the model.
        output_tokens: That it wrote.
        own_usd: Paid for costwise's own calls.
        savings: What the bill says each stage saved.
        seconds: Until the answer was there.
        grounded: Share of the answer that the ten nearest passages hold, in [0, 1].
    """

    request: Request
    framework: str
    text: str
    hit: str
    usd: Decimal
    input_usd: Decimal
    input_tokens: int
    output_tokens: int
    own_usd: Decimal
    savings: Mapping[str, Decimal]
    seconds: float
    grounded: float


def mark(request: Request, text: str) -> float | None:
    """Return how good an answer is, in [0, 1]; None where no gold answer is known.

    1 where it holds a short gold answer. For a long one the F1 of its words, as in SQuAD.
    """
    if request.answers:
        held = LabelledQuestion(question=request.question, passages=(), answers=request.answers)
        return float(held.kept_in([Passage(text=text)]))
    if not request.reference:
        return None
    said, gold = Counter(words(text)), Counter(words(request.reference))
    common = (said & gold).total()
    return 2 * common / (said.total() + gold.total()) if common else 0.0


def grounded(question: str, passages: Sequence[Passage], text: str) -> float:
    """Return how well passages support an answer, by costwise's judge."""
    ask = Ask(question=question, passages=tuple(passages))
    return GroundedJudge().judge(ask, Candidate(text=text)).score


def wrong_hits(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Return hits that were served the answer to a question about another fact, with whose."""
    found = []
    for at, one in enumerate(outcomes):
        if not one.hit:
            continue
        paid = [old for old in outcomes[:at] if not old.hit and old.text == one.text]
        if paid and not any(_same(old.request, one.request) for old in paid):
            found.append((one, paid[-1]))
    return found


def _same(one: Request, other: Request) -> bool:
    golds = ({answer.casefold() for answer in request.answers} for request in (one, other))
    return one.tenant == other.tenant and (one.fact == other.fact or bool(set.intersection(*golds)))


def marked(outcomes: Iterable[Outcome]) -> list[float]:
    """Return the marks there are."""
    marks = (mark(one.request, one.text) for one in outcomes)
    return [one for one in marks if one is not None]


Score = Callable[[Outcome], float | None]


def interval(
    before: Sequence[Outcome], after: Sequence[Outcome], score: Score, seed: int
) -> tuple[float, float, float]:
    """Return the mean difference `after - before` and where it lies in 95 of 100 resamples.

    What is not independent is drawn together: a question with its repeats, a conversation, in both
    frameworks.
    """
    clusters: dict[str, list[float]] = {}
    for old, new in zip(before, after, strict=True):
        was, now = score(old), score(new)
        if was is not None and now is not None:
            clusters.setdefault(old.request.cluster, []).append(now - was)
    sums = np.array([sum(one) for one in clusters.values()])
    sizes = np.array([len(one) for one in clusters.values()])
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / sizes.sum()), float(low), float(high)


def latency(outcomes: Iterable[Outcome]) -> Summary:
    """Return median, 95th percentile and mean milliseconds of an answer."""
    return summary([round(one.seconds * 1e9) for one in outcomes])


def waterfall(before: Sequence[Outcome], after: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what each stage saved; the parts sum to the difference of the two runs exactly.

    Request by request, against what the other run paid for the same one: all of it where the cache
    answered; else the tokens that were not sent (what the bill says of the memory's, the others
    are trimming's and compression's) and the tokens that were not written.
    """
    parts: Counter[str] = Counter()
    for old, new in zip(before, after, strict=True):
        if new.hit:
            parts["response_cache"] += old.usd - (new.usd - new.own_usd)  # type: ignore[assignment]
        else:
            memory = new.savings.get("memory", Decimal(0))
            sent = old.input_usd - new.input_usd
            written = (old.usd - old.own_usd - old.input_usd) - (
                new.usd - new.own_usd - new.input_usd
            )
            parts["compress"] += sent - memory  # type: ignore[assignment]
            parts["memory"] += memory  # type: ignore[assignment]
            parts["answer_length"] += written  # type: ignore[assignment]
        parts["overhead"] += old.own_usd * (not new.hit) - new.own_usd  # type: ignore[assignment]
    return [{"stage": stage, "usd": str(usd), "kind": "measured"} for stage, usd in parts.items()]


def table(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the figures of each kind of request."""
    found = {}
    wrong = Counter(one.request.kind for one, _ in wrong_hits(after))
    for kind in KINDS:
        old = [one for one in before if one.request.kind == kind]
        new = [one for one in after if one.request.kind == kind]
        if not old:
            continue
        was, now = marked(old), marked(new)
        found[kind] = {
            "n": len(old),
            "baseline_usd": str(paid(old)),
            "costwise_usd": str(paid(new)),
            "saved_pct": saved_pct(paid(old), paid(new)),
            "hits": sum(bool(one.hit) for one in new),
            "wrong_hits": wrong[kind],
            "quality_baseline": float(np.mean(was)) if was else None,
            "quality_costwise": float(np.mean(now)) if now else None,
        }
    return found


def paid(outcomes: Iterable[Outcome]) -> Decimal:
    """Return the dollars of some outcomes."""
    return sum((one.usd for one in outcomes), Decimal(0))


def saved_pct(before: Decimal, after: Decimal) -> float:
    """Return the share saved, in per cent."""
    return round(float(100 * (1 - after / before)), 2) if before else 0.0
