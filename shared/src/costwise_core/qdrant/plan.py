"""What a sweep found: which configuration to use, what it does, and how sure that is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from costwise_core.errors import ConfigError
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.samples import Questions
from costwise_core.qdrant.search_config import SearchConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Measured", "TuningPlan", "pareto"]

_FORMAT: Final = 1
_LARGEST_FILE: Final = 500_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one way to index and to search does.

    Args:
        index: How it is built.
        search: How it is searched.
        questions: How many it was measured with.
        recall: Mean share of the true k nearest that was found, in [0, 1].
        p5: The recall that all but the worst 5 % of the questions reach.
        below_half: Share of the questions that found less than half.
        recall_low: What the mean of a third as many new questions is at least, with the plan's
            confidence, the index rebuilt; None where that was not measured.
        hot_bytes: Bytes per vector that should be in memory; None where a server does not tell.
        disk_bytes: Bytes per vector on disk.
        search_cpu_ms: CPU milliseconds of a search on one thread; None for a server.
        p50_ms: Median milliseconds of a search on the clock.
        p95_ms: The same of the slowest 5 %.
        build_cpu_seconds: What building the index took.
        cost: Dollars a month with prices; otherwise what it takes of memory and of CPU, each as
            a share of the baseline's, halved and added: the baseline is 1.

    Example:
        >>> Measured(index=IndexConfig(), search=SearchConfig(hnsw_ef=64), questions=100,
        ...          recall=0.97, p5=0.8, below_half=0.0).recall_low is None
        True
    """

    index: IndexConfig
    search: SearchConfig
    questions: int
    recall: float
    p5: float
    below_half: float
    recall_low: float | None = None
    hot_bytes: float | None = None
    disk_bytes: float | None = None
    search_cpu_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    build_cpu_seconds: float | None = None
    cost: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        return cls(
            **{
                **values,
                "index": IndexConfig.from_dict(values["index"]),
                "search": SearchConfig.from_dict(values["search"]),
            }
        )


def pareto(measured: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return those that nothing both cheaper and better beats, the cheapest first.

    Example:
        >>> def one(cost, recall):
        ...     return Measured(index=IndexConfig(), search=SearchConfig(), questions=1,
        ...                     recall=recall, p5=0, below_half=0, cost=cost)
        >>> [found.cost for found in pareto([one(2, 0.9), one(1, 0.9), one(3, 0.95)])]
        [1, 3]
    """
    front: list[Measured] = []
    for one in sorted(
        (one for one in measured if one.cost is not None), key=lambda one: (one.cost, -one.recall)
    ):
        if not front or one.recall > front[-1].recall:
            front.append(one)
    return tuple(front)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningPlan:
    """What to change, or to keep, and why; `print` it to see what was tried. Made by `tune`.

    Args:
        keep: Whether what is there should stay as it is.
        why: The reason, in words.
        recommended: What to use; None if nothing tried keeps the promise.
        baseline: What is there, rebuilt in the sandbox so that both were measured alike.
        search_only: The cheapest way to search what is there that keeps the promise: no rebuild,
            and with it part of the saving at once. None if there is none.
        float32: The untuned float32 index, searched just as widely as it takes to keep the
            promise; None if it cannot.
        deployed: What is there, measured where it is; None if it was not asked.
        tried: Everything that was searched with all questions of the first part of the sample.
        k: How many are to be found.
        recall_target: The recall to reach.
        confidence: How sure `recall_low` is.
        collection: Its name, or what was given.
        vector: Which of its vectors.
        points: How many vectors the collection holds.
        sampled: How many of them were in the sandbox.
        dims: Of a vector.
        distance: How they are compared.
        rebuild_noise: How far the mean recalls of two builds of the same index were apart.
        confirm: The questions that the promise was measured with.
        tune_questions: How many others the settings were chosen with.
        notes: What to know before relying on it.
        tune_cpu_seconds: What finding it took, all processes together.
        tune_wall_seconds: The same on the clock.
        versions: Of the engine and of costwise.
        seed: Of every choice by chance.
        priced: Whether costs are dollars a month.
    """

    keep: bool
    why: str
    recommended: Measured | None
    baseline: Measured
    search_only: Measured | None = None
    float32: Measured | None = None
    deployed: Measured | None = None
    tried: tuple[Measured, ...] = field(default=(), repr=False)
    k: int
    recall_target: float
    confidence: float
    collection: str = ""
    vector: str = ""
    points: int
    sampled: int
    dims: int
    distance: str
    rebuild_noise: float | None = None
    confirm: Questions = field(repr=False)
    tune_questions: int
    notes: tuple[str, ...] = ()
    tune_cpu_seconds: float = 0.0
    tune_wall_seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    priced: bool = False

    @property
    def chosen(self) -> Measured:
        """What to use: the recommendation, or what is there if that should stay."""
        return self.baseline if self.keep or self.recommended is None else self.recommended

    @property
    def index(self) -> IndexConfig:
        """How the collection should be built."""
        return self.chosen.index

    @property
    def search(self) -> SearchConfig:
        """How it should be searched; goes with each query, so the app must send it."""
        return self.chosen.search

    @property
    def reached(self) -> bool:
        """Whether anything was shown to keep the promise."""
        return self.recommended is not None

    def report(self) -> str:
        """Return the plan as text."""
        from costwise_core.qdrant.plan_display import plan_text  # noqa: PLC0415

        return plan_text(self)

    def plot(self, ax: "Axes") -> None:
        """Draw recall over cost with the Pareto front into a matplotlib axis.

        Args:
            ax: Where; it gets labels and a legend.
        """
        from costwise_core.qdrant.plan_display import plan_plot  # noqa: PLC0415

        plan_plot(self, ax)

    def __str__(self) -> str:
        return self.report()

    def _repr_html_(self) -> str:
        from costwise_core.qdrant.plan_display import plan_html  # noqa: PLC0415

        return plan_html(self)

    def to_json(self) -> str:
        """Return it as JSON, with the confirming questions, so that anybody can check it."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("recommended", "baseline", "search_only", "float32", "deployed"):
            said[name] = said[name] and asdict(said[name])
        said["tried"] = [asdict(one) for one in self.tried]
        said["confirm"] = self.confirm.to_dict()
        said["versions"] = dict(self.versions)
        return json.dumps({"format": _FORMAT, **said}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: if it is no plan, or one of a newer costwise.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ConfigError("this plan was written by another version of costwise.")
            for name in ("recommended", "baseline", "search_only", "float32", "deployed"):
                values[name] = values[name] and Measured.from_dict(values[name])
            values["tried"] = tuple(map(Measured.from_dict, values["tried"]))
            values["confirm"] = Questions.from_dict(values["confirm"])
            values["notes"] = tuple(values["notes"])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"this is no tuning plan: {error!r}.") from None

    def save(self, path: Path | str) -> None:
        """Write it to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ConfigError: if it cannot be read or holds no plan.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ConfigError(f"{path.name} is too large for a tuning plan.")
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path.name!r} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path.name!r} is no tuning plan: it is no text.") from None
