"""What the second part of the questions says of the few configurations the first part chose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from costwise_core.errors import StoreError
from costwise_core.qdrant.choosing import cheapest_kept, finalists, low_of
from costwise_core.qdrant.ground_truth import target_truth
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.intervals import mean_low, questions_needed
from costwise_core.qdrant.plan import Measured
from costwise_core.qdrant.prices import QdrantPrices
from costwise_core.qdrant.samples import Questions
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.sources import Source
from costwise_core.qdrant.sweep import Cost, Part, Score, Sweep, Way

__all__ = ["Confirmed", "confirmed", "cost_by", "measured_there", "summed"]

_ROUNDS: Final = 3
_GIB: Final = 2**30


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Confirmed:
    """What was confirmed, each on two builds.

    Args:
        baseline: What is there.
        finalists: What may be recommended, the safest first.
        search_only: The cheapest way to search what is there that keeps the promise.
        float32: The same of the untuned float32 index.
        noise: How far the mean recalls of two builds of one index were apart at most.
        cost_noise: How far costs of one way were apart, as a share, since CPU times were.
        best: What found most with the questions that chose.
        needed: How many questions would show that it reaches the target; None if it does not.
    """

    baseline: Measured
    finalists: tuple[Measured, ...]
    search_only: Measured | None
    float32: Measured | None
    noise: float
    cost_noise: float
    best: Measured
    needed: int | None


def confirmed(sweep: Sweep, scores: list[Score], part: Part) -> Confirmed:
    """Measure what may be recommended with the questions that chose nothing, on two builds."""
    today, confidence = sweep.today, sweep.confidence
    chosen = [score.way for score in finalists(scores, sweep.target, sweep.cost_of)]

    def of(index: IndexConfig) -> list[Way]:
        same = [score for score in scores if score.way.index == index]
        return [score.way for score in finalists(same, sweep.target, sweep.cost_of, most=4)]

    here, floats = of(today.index), of(IndexConfig())
    ways = list(dict.fromkeys([today, *chosen, *here, *floats]))
    both = [replace(way, order=order) for way in ways for order in (0, 1)]
    measured = sweep.measured(both, part, rounds=_ROUNDS)
    builds = {way: measured[2 * n : 2 * n + 2] for n, way in enumerate(ways)}
    said = {way: summed(pair, sweep, low=low_of(pair, confidence)) for way, pair in builds.items()}
    noise = max(abs(a.recall - b.recall) for a, b in builds.values())
    best = max(scores, key=lambda score: score.recall)
    turns = [one.cpu_ms for pair in builds.values() for one in pair]
    apart = np.median([np.ptp(np.percentile(t, [25, 75])) / np.median(t) for t in turns])
    return Confirmed(
        baseline=said[today],
        finalists=tuple(said[way] for way in chosen),
        search_only=cheapest([said[way] for way in here], sweep.target),
        float32=cheapest([said[way] for way in floats], sweep.target),
        noise=noise,
        cost_noise=float(apart) * _cpu_part(sweep, builds[today][0]),
        best=summed([best], sweep, low=mean_low(best.recalls, confidence)),
        needed=questions_needed(best.recalls, sweep.target, confidence),
    )


def _cpu_part(sweep: Sweep, one: Score) -> float:
    """Return which share of a cost is CPU: only that differs from one turn to the next."""
    whole = sweep.cost(one.hot_bytes, one.disk_bytes, 1.0)
    return 1 - sweep.cost(one.hot_bytes, one.disk_bytes, 0.0) / whole if whole else 0.0


def cheapest(sequence: Sequence[Measured], target: float) -> Measured | None:
    """Return the cheapest of a fixed sequence that keeps the promise."""
    lows = [one.recall_low or 0.0 for one in sequence]
    at = cheapest_kept(lows, [one.cost or 0.0 for one in sequence], target)
    return None if at is None else sequence[at]


def summed(builds: Sequence[Score], sweep: Sweep, *, low: float | None = None) -> Measured:
    """Sum up builds of the same index: the mean of what they do."""
    recalls = np.concatenate([build.recalls for build in builds])
    share = float(np.median([build.cpu_share for build in builds]))
    hot = float(np.mean([build.hot_bytes for build in builds]))
    disk = float(np.mean([build.disk_bytes for build in builds]))
    first = builds[0]
    return Measured(
        index=first.way.index,
        search=first.way.search,
        questions=len(first.recalls),
        recall=float(recalls.mean()),
        p5=float(np.percentile(recalls, 5)),
        below_half=float((recalls < 0.5).mean()),
        recall_low=low,
        hot_bytes=hot,
        disk_bytes=disk,
        search_cpu_ms=float(np.median(np.concatenate([build.cpu_ms for build in builds]))),
        p50_ms=float(np.median([build.p50_ms for build in builds])),
        p95_ms=float(np.median([build.p95_ms for build in builds])),
        build_cpu_seconds=float(np.mean([build.build_cpu_seconds for build in builds])),
        cost=sweep.cost(hot, disk, share),
    )


def cost_by(
    prices: QdrantPrices | None, before: Score, points: int, searches_per_second: float
) -> Cost:
    """Return what a configuration costs: dollars a month, or a share of what is there."""
    if prices is None:
        return lambda hot, _, share: (hot / before.hot_bytes + share) / 2
    ram, disk = float(prices.ram_gib) / _GIB * points, float(prices.disk_gib) / _GIB * points
    cpus = searches_per_second * before.baseline_ms / 1e3
    vcpu = float(prices.vcpu or 0) * cpus
    return lambda hot, stored, share: ram * hot + disk * stored + vcpu * share


def measured_there(
    source: Source,
    questions: Questions,
    searches: Sequence[SearchConfig],
    *,
    k: int,
    confidence: float,
    per_second: float,
    folder: Path | None,
) -> list[Measured] | str:
    """Measure ways to search what is deployed, where it is.

    Returns:
        One for each, or why it cannot be measured, such as a server that forbids exact search.
    """
    target, seen = source.target, source.seen
    if target is None or seen is None:
        return "there is no collection to ask"
    found = []
    try:
        truth = target_truth(
            target,
            questions,
            k,
            collection=source.name,
            points=source.points,
            per_second=per_second if seen.where == "remote" else None,
            folder=folder,
        )
        for search in searches:
            filters = questions.filters or None
            answers = target.search(questions.vectors, k, search, filters=filters)
            recalls = truth.recalls(answers.ids)
            cpu, seconds = answers.cpu_seconds, np.array(answers.seconds)
            found.append(
                Measured(
                    index=source.base,
                    search=search,
                    questions=len(questions),
                    recall=float(recalls.mean()),
                    p5=float(np.percentile(recalls, 5)),
                    below_half=float((recalls < 0.5).mean()),
                    recall_low=mean_low(recalls, confidence),
                    search_cpu_ms=1e3 * cpu / len(questions) if cpu is not None else None,
                    p50_ms=1e3 * float(np.median(seconds)),
                    p95_ms=1e3 * float(np.percentile(seconds, 95)),
                )
            )
    except StoreError as error:
        return str(error)
    return found
