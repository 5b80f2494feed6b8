"""The order in which settings are tried: what costs nothing first, what takes a rebuild last."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from costwise_core.qdrant.ground_truth import Truth
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.intervals import mean_low
from costwise_core.qdrant.samples import Questions
from costwise_core.qdrant.sandbox import Built, Sandbox
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.space import Space
from costwise_core.qdrant.sweep_journal import SweepJournal, key_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cost", "Part", "Score", "Sweep", "Way"]

Cost: TypeAlias = Callable[[float, float, float], float]
"""What hot bytes and disk bytes per vector cost, with a search's share of the baseline's CPU."""

_COARSE: Final = 200
_WIDER: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One index and one way to search it.

    Args:
        index: How it is built.
        search: How it is searched.
        order: Points are added in an order by chance; another number is another rebuild.
        rows: How many vectors; all if None.
    """

    index: IndexConfig
    search: SearchConfig
    order: int = 0
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Questions, their true answers, and what the part is called."""

    name: str
    questions: Questions
    truth: Truth

    def first(self, count: int) -> "Part":
        """Return the first of them."""
        rows = np.arange(min(count, len(self.questions)))
        return Part(
            name=f"{self.name}-{len(rows)}",
            questions=self.questions.take(rows),
            truth=self.truth.take(rows),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Score:
    """What one way did.

    Args:
        way: The way.
        recalls: Of each question.
        cpu_ms: CPU milliseconds of a search, one for each turn.
        baseline_ms: What the baseline took in the same turns.
        p50_ms: Median milliseconds on the clock.
        p95_ms: The same of the slowest 5 %.
        hot_bytes: Bytes per vector that should be in memory.
        disk_bytes: Bytes per vector on disk.
        build_cpu_seconds: What building the index took.
    """

    way: Way
    recalls: "NDArray[np.float64]"
    cpu_ms: tuple[float, ...]
    baseline_ms: float
    p50_ms: float
    p95_ms: float
    hot_bytes: float
    disk_bytes: float
    build_cpu_seconds: float

    @property
    def recall(self) -> float:
        """Mean of the recalls."""
        return float(self.recalls.mean())

    @property
    def cpu_share(self) -> float:
        """CPU of a search as a share of the baseline's in the same turns.

        A shared machine is half as fast in one minute as in the next; the share stays.
        """
        return float(np.median(self.cpu_ms)) / self.baseline_ms


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sweep:
    """Tries settings in the sandbox and keeps what it measures.

    Args:
        sandbox: Where shards are built.
        journal: What was measured before.
        space: What to try.
        today: The baseline; measured again with everything that is measured.
        k: How many are to be found.
        target: The recall to reach.
        confidence: How sure one must be to leave something out.
        cost: What a configuration costs.
        told: Called with a few words before each step that takes time.
    """

    sandbox: Sandbox
    journal: SweepJournal
    space: Space
    today: Way
    k: int
    target: float
    confidence: float
    cost: Cost
    told: Callable[[str], object] = lambda _: None

    def run(self, part: Part, small: "Part | None", rows: int | None) -> list[Score]:
        """Return what was measured with all questions of a part.

        Args:
            part: To choose with.
            small: The same questions with what is nearest among the first `rows` vectors; None
                for a collection too small for that to save anything.
            rows: How many those are.
        """
        base = self.today.index
        wanted = [_quantized(base, name) for name in self.space.quantizations]
        if small is not None and rows is not None:
            wanted = self._worth_building(wanted, small, rows)
        # The untuned float32 index is what everybody compares with.
        scores = self.searched(dict.fromkeys([base, IndexConfig(), *wanted]), part)
        seen = {score.way.index for score in scores}
        wider = [
            replace(index, ef_construct=value)
            for index in self._leaders(scores, 2)
            for value in self.space.ef_constructs
        ]
        scores += self.searched([index for index in wider if index not in seen], part)
        seen.update(wider)
        linked = [
            replace(index, m=value) for index in self._leaders(scores, 1) for value in self.space.ms
        ]
        return scores + self.searched([index for index in linked if index not in seen], part)

    def searched(self, indexes: Iterable[IndexConfig], part: Part) -> list[Score]:
        """Measure the ways to search these indexes that may be the narrowest that suffice."""
        ways = [
            Way(index=index, search=search)
            for index in indexes
            for search in self.space.searches(index.quantization, self.k)
        ]
        if len(part.questions) > _COARSE:
            ways = self._plausible(self.measured(ways, part.first(_COARSE)))
        return self.measured(ways, part)

    def measured(self, ways: Sequence[Way], part: Part, *, rounds: int = 1) -> list[Score]:
        """Return what these ways do, from the journal where it is known."""
        keys = [self._key(way, part, rounds) for way in ways]
        missing = [
            (key, way) for key, way in zip(keys, ways, strict=True) if not self.journal.get(key)
        ]
        built: dict[tuple[IndexConfig, int, int | None], Built] = {}
        for _, way in missing:
            at = (way.index, way.order, way.rows)
            if at not in built:
                self.told(f"building {way.index}")
                built[at] = self.sandbox.build(way.index, rows=way.rows, order=way.order)
        if missing:
            self.told(f"searching in {len(missing)} ways")
        pairs = [(built[way.index, way.order, way.rows], way.search) for _, way in missing]
        if pairs:
            baseline = (self.sandbox.build(self.today.index), self.today.search)
            first, *trials = self.sandbox.measure(
                [baseline, *pairs], part.questions, self.k, rounds=rounds
            )
            baseline_ms = float(np.median(first.cpu_ms))
        else:
            trials = []
        for (key, _), (shard, _), trial in zip(missing, pairs, trials, strict=True):
            self.journal.put(
                key,
                {
                    "recalls": part.truth.recalls(trial.found.tolist()).round(6).tolist(),
                    "cpu_ms": trial.cpu_ms,
                    "baseline_ms": baseline_ms,
                    "p50_ms": trial.p50_ms,
                    "p95_ms": trial.p95_ms,
                    "hot_bytes": shard.hot_bytes,
                    "disk_bytes": shard.disk_bytes,
                    "build_cpu_seconds": shard.cpu_seconds,
                },
            )
        return [_score(way, self.journal.get(key)) for way, key in zip(ways, keys, strict=True)]

    def cost_of(self, score: Score) -> float:
        """Return what a measured way costs."""
        return self.cost(score.hot_bytes, score.disk_bytes, score.cpu_share)

    def promising(self, score: Score) -> bool:
        """Say whether a way is likely to keep the promise."""
        return mean_low(score.recalls, self.confidence) >= self.target

    def _worth_building(
        self, indexes: list[IndexConfig], small: Part, rows: int
    ) -> list[IndexConfig]:
        """Return the indexes that may still reach the target on all vectors.

        A sample flatters: with fewer vectors there are fewer to confuse. So what fails on one, as
        wide as it can be searched, fails on the whole.
        """
        ways = [
            Way(index=index, search=search, rows=rows)
            for index in indexes
            for search in _widest(self.space.searches(index.quantization, self.k))
        ]
        part = small.first(_COARSE)
        alive = {
            score.way.index
            for score in self.measured(ways, part)
            if _mean_high(score.recalls, self.confidence) >= self.target
        }
        return [index for index in indexes if index in alive]

    def _plausible(self, scores: list[Score]) -> list[Way]:
        """Return, of each index and oversampling, the narrowest that may suffice and some wider."""
        kept: list[Way] = []
        groups: dict[tuple[IndexConfig, float | None], list[Score]] = {}
        for score in scores:
            groups.setdefault((score.way.index, score.way.search.oversampling), []).append(score)
        for group in groups.values():
            first = next(
                (
                    n
                    for n, score in enumerate(group)
                    if _mean_high(score.recalls, self.confidence) >= self.target
                ),
                len(group) - 1,
            )
            kept += [score.way for score in group[first : first + 1 + _WIDER]]
        return kept

    def _leaders(self, scores: list[Score], count: int) -> list[IndexConfig]:
        """Return the indexes that do best: cheapest of the promising ones, else the best found."""
        likely = sorted(filter(self.promising, scores), key=self.cost_of)
        best = sorted(scores, key=lambda score: -score.recall)
        return list(dict.fromkeys(score.way.index for score in likely or best))[:count]

    def _key(self, way: Way, part: Part, rounds: int) -> str:
        return key_of(
            way.index.to_dict(),
            way.search.to_dict(),
            way.order,
            way.rows,
            part.name,
            self.k,
            rounds,
        )


def _quantized(base: IndexConfig, name: str) -> IndexConfig:
    """Return an index with quantized vectors in memory and the original ones out of it.

    Beside originals that stay hot, quantized vectors cost memory and save none.
    """
    return replace(
        base,
        quantization=name,
        vectors="cached" if name == "none" else "cold",
        quantized="pinned",
    )


def _widest(searches: Sequence[SearchConfig]) -> list[SearchConfig]:
    """Return the widest search of each oversampling."""
    return list({search.oversampling: search for search in searches}.values())


def _mean_high(recalls: "NDArray[np.float64]", confidence: float) -> float:
    return 1 - mean_low(1 - recalls, confidence)


def _score(way: Way, known: dict[str, Any]) -> Score:
    return Score(
        way=way,
        recalls=np.array(known["recalls"]),
        cpu_ms=tuple(known["cpu_ms"]),
        **{
            name: float(known[name])
            for name in (
                "baseline_ms",
                "p50_ms",
                "p95_ms",
                "hot_bytes",
                "disk_bytes",
                "build_cpu_seconds",
            )
        },
    )
