"""What a benchmark found, model by model, with intervals."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.bench_models.answers_file import BenchAnswer
from costwise_core.bench_models.marks import Mark
from costwise_core.bounds import wrong_share_upper
from costwise_core.display_table import as_text, usd
from costwise_core.errors import PriceError
from costwise_core.money import total
from costwise_core.output.profiles import is_cut_off
from costwise_core.prices import PriceBook

__all__ = ["BenchReport", "Interval", "ModelSummary", "mark_of", "report_on", "usd_of"]

_HEAD: Final = (
    *("model", "answers", "quality", "minus the best", "$ in all", "$ per 1,000"),
    *("p50 s", "p95 s", "tokens in", "out"),
)
_RESAMPLES: Final = 2_000
_AT_ONCE: Final = 2_000_000  # numbers
_SEED: Final = 20_261_121
_TAIL: Final = 0.025

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number found on a sample, and where it is likely to lie: a 95 % bootstrap interval.

    Args:
        value: What the sample says.
        low: The lower end.
        high: The upper end.

    Example:
        >>> str(Interval(value=0.8, low=0.7, high=0.9))
        '0.80 [0.70, 0.90]'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it with two decimals."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """What was found of one model.

    Args:
        name: The name it has in the benchmark.
        answers: How many it gave.
        usd: Dollars for all of them that have a price.
        usd_each: Dollars for an answer on average; None if some have no price.
        seconds_p50: The time that half of the answers took at most.
        seconds_p95: The time that 95 % of them took at most.
        input_tokens: Sent.
        output_tokens: Produced.
        quality: The mean mark, from 0 to 1; None if nobody knows what is right.
        against_best: That minus the best model's, on the prompts both answered; None for the best
            model itself.
        marked: How many answers have a mark.
        unpriced: Answers without a known price.
        estimated: Answers whose tokens were estimated.
        cut_off: Answers that ended because they were too long.
        failures: Calls without an answer in this run, by error.

    Example:
        >>> ModelSummary(name="m", answers=0, usd=Decimal(0)).quality is None
        True
    """

    name: str
    answers: int
    usd: Decimal
    usd_each: Interval | None = None
    seconds_p50: Interval | None = None
    seconds_p95: Interval | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    quality: Interval | None = None
    against_best: Interval | None = None
    marked: int = 0
    unpriced: int = 0
    estimated: int = 0
    cut_off: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """What a benchmark found; `print` it for a table.

    Args:
        models: In the order given.
        prompts: How many different ones were answered by any model.

    Example:
        >>> BenchReport(models=(), prompts=0).notes
        ('Intervals are 95 %, from 2,000 resamples of the prompts.',)
    """

    models: tuple[ModelSummary, ...]
    prompts: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before trusting the numbers."""
        told = ["Intervals are 95 %, from 2,000 resamples of the prompts."]
        if 0 < self.prompts < 30:
            told.append(f"{self.prompts} prompts are few; so are the differences they show.")
        for one in self.models:
            known = (
                (one.unpriced, "have no known price and add nothing to the dollars"),
                (one.estimated, "have tokens that were estimated; nobody reported them"),
                (one.cut_off, "were cut off at the longest length allowed"),
                (one.answers - one.marked if one.marked else 0, "have no mark"),
            )
            told += [f"{one.name}: {n:,} answers {what}." for n, what in known if n]
            if one.failures:
                kinds = ", ".join(f"{kind} {n}" for kind, n in one.failures.items())
                told.append(f"{one.name}: calls without an answer: {kinds}.")
        return tuple(told)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table as text; the first row names the columns."""
        return [_HEAD, *map(_row, self.models)]

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(f"{self.prompts} prompts", self.rows(), notes=self.notes)

    def _repr_html_(self) -> str:
        from costwise_core.bench_models.page import as_fragment  # noqa: PLC0415 - imports this

        return as_fragment(self)

    def to_html(self) -> str:
        """Return it as a page of its own, which loads nothing from anywhere."""
        from costwise_core.bench_models.page import as_page  # noqa: PLC0415 - imports this

        return as_page(self)

    def to_json(self) -> str:
        """Return it as JSON; dollars are texts, so that none is rounded."""
        return json.dumps({**asdict(self), "notes": self.notes}, indent=2, default=_plain)


def report_on(
    answers: Iterable[BenchAnswer],
    *,
    models: Sequence[str],
    mark: Mark | None,
    prices: PriceBook,
    failures: Mapping[str, Mapping[str, int]] | None = None,
) -> BenchReport:
    """Sum up answers.

    Args:
        answers: One for each model and prompt.
        models: Whose, in the order of the report.
        mark: Marks them; None takes what a judge gave them.
        prices: What they are priced with.
        failures: Calls without an answer, by model and error.

    Example:
        >>> report_on([], models=["m"], mark=None, prices=PriceBook()).models[0].answers
        0
    """
    given: dict[str, dict[str, BenchAnswer]] = {name: {} for name in models}
    for answer in answers:
        if answer.model in given:
            given[answer.model][answer.prompt.key] = answer
    marks = {
        name: {key: found for key, one in rows.items() if (found := mark_of(one, mark)) is not None}
        for name, rows in given.items()
    }
    best = max(
        (name for name in models if marks[name]),
        key=lambda name: sum(marks[name].values()) / len(marks[name]),
        default="",
    )
    summaries = [
        _summary(
            name,
            list(given[name].values()),
            marks[name],
            {} if name == best else marks.get(best, {}),
            prices,
            (failures or {}).get(name, {}),
        )
        for name in models
    ]
    asked = {key for rows in given.values() for key in rows}
    return BenchReport(models=tuple(summaries), prompts=len(asked))


def usd_of(answer: BenchAnswer, prices: PriceBook) -> Decimal | None:
    """Return what an answer cost in dollars; None without a known price.

    Example:
        >>> from costwise_core import Usage
        >>> from costwise_core.bench_models.prompts import BenchPrompt
        >>> answer = BenchAnswer(
        ...     model="small",
        ...     priced_as="gpt-4o-mini",
        ...     prompt=BenchPrompt(question="?"),
        ...     answer="!",
        ...     usage=Usage(input_tokens=1_000_000),
        ... )
        >>> usd_of(answer, PriceBook())
        Decimal('0.15')
    """
    try:
        return prices.cost(answer.usage, answer.priced_as, at=answer.at or None).usd
    except PriceError:
        return None


def mark_of(answer: BenchAnswer, mark: Mark | None) -> float | None:
    """Return how good an answer is, from 0 to 1; None where nobody knows.

    Example:
        >>> from costwise_core import Usage
        >>> from costwise_core.bench_models.marks import exact
        >>> from costwise_core.bench_models.prompts import BenchPrompt
        >>> prompt = BenchPrompt(question="17 * 23?", answers=("391",))
        >>> answer = BenchAnswer(
        ...     model="m", priced_as="m", prompt=prompt, answer="391", usage=Usage()
        ... )
        >>> mark_of(answer, exact), mark_of(answer, None)
        (1.0, None)
    """
    return answer.mark if mark is None else mark(answer.prompt, answer.answer)


def _summary(
    name: str,
    answers: Sequence[BenchAnswer],
    marks: Mapping[str, float],
    best: Mapping[str, float],
    prices: PriceBook,
    failures: Mapping[str, int],
) -> ModelSummary:
    paid = [usd_of(one, prices) for one in answers]
    known = [one for one in paid if one is not None]
    times = [one.seconds for one in answers]
    both = sorted(marks.keys() & best.keys())
    return ModelSummary(
        name=name,
        answers=len(answers),
        usd=total(known),
        usd_each=_interval([float(one) for one in known]) if len(known) == len(paid) else None,
        seconds_p50=_interval(times, lambda rows: np.quantile(rows, 0.5, axis=1)),
        seconds_p95=_interval(times, lambda rows: np.quantile(rows, 0.95, axis=1)),
        input_tokens=sum(one.usage.input_tokens for one in answers),
        output_tokens=sum(one.usage.output_tokens for one in answers),
        quality=_quality(list(marks.values())),
        against_best=_interval([marks[key] - best[key] for key in both]),
        marked=len(marks),
        unpriced=len(paid) - len(known),
        estimated=sum(one.usage.estimated for one in answers),
        cut_off=sum(is_cut_off(one.finish_reason) for one in answers),
        failures=dict(failures),
    )


def _quality(marks: Sequence[float]) -> Interval | None:
    found = _interval(marks)
    if found is None or not found.low == found.high in {0.0, 1.0}:
        return found
    # Resamples of answers that are all right never hold a wrong one; the next answers may.
    slack = wrong_share_upper(0, len(marks), 1 - _TAIL)
    low, high = (1 - slack, 1.0) if found.value else (0.0, slack)
    return Interval(value=found.value, low=low, high=high)


def _interval(
    values: Sequence[float], of: Callable[[Numbers], Any] | None = None
) -> Interval | None:
    """Return a statistic, by default the mean, with the bootstrap's percentiles (Efron 1979)."""
    if not values:
        return None
    take = of or (lambda rows: rows.mean(axis=1))
    sample = np.asarray(values, np.float64)
    source = np.random.default_rng(_SEED)
    size = min(_RESAMPLES, max(1, _AT_ONCE // len(sample)))
    found = np.concatenate(
        [
            take(sample[source.integers(0, len(sample), (min(size, _RESAMPLES - at), len(sample)))])
            for at in range(0, _RESAMPLES, size)
        ]
    )
    low, high = np.quantile(found, (_TAIL, 1 - _TAIL))
    return Interval(value=float(take(sample[None])[0]), low=float(low), high=float(high))


def _row(one: ModelSummary) -> tuple[str, ...]:
    each = one.usd_each
    return (
        one.name,
        f"{one.answers:,}",
        "?" if one.quality is None else str(one.quality),
        "" if one.against_best is None else str(one.against_best),
        usd(one.usd) if one.unpriced < one.answers or not one.answers else "?",
        "?" if each is None else _thousand(each),
        "?" if one.seconds_p50 is None else str(one.seconds_p50),
        "?" if one.seconds_p95 is None else str(one.seconds_p95),
        f"{one.input_tokens:,}",
        f"{one.output_tokens:,}",
    )


def _thousand(each: Interval) -> str:
    parts = (each.value, each.low, each.high)
    value, low, high = (usd(Decimal(f"{1_000 * part:.3g}")) for part in parts)
    return f"{value} [{low}, {high}]"


def _plain(value: object) -> object:
    return f"{value:f}" if isinstance(value, Decimal) else dict(value)  # type: ignore[call-overload]
