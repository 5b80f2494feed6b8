"""Asks every model every prompt, and goes on where it was interrupted."""

import contextvars
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final

from costwise_core.bench_models.answers_file import AnswersFile, BenchAnswer
from costwise_core.bench_models.asking import Asker
from costwise_core.bench_models.marks import MARKS, Mark
from costwise_core.bench_models.progress import Progress
from costwise_core.bench_models.prompts import BenchPrompt
from costwise_core.bench_models.summary import BenchReport, report_on, usd_of
from costwise_core.errors import BudgetExceededError, ConfigError, StoreError, nearest
from costwise_core.passages import Passage
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.route.routes import AnswerJudge, Ask, Candidate
from costwise_core.usage import estimate_usage

__all__ = ["benchmark_models", "mark_named"]

_GIVEN_UP: Final = 5
"""Failures in a row after which a model is not asked any more in this run."""


def benchmark_models(
    models: Mapping[str, Asker],
    prompts: Sequence[BenchPrompt],
    out: str | Path,
    *,
    priced_as: Mapping[str, str] | None = None,
    quality: str | Mark = "f1",
    judge: AnswerJudge | None = None,
    prices: PriceBook | None = None,
    workers: int = 4,
    progress: Progress | None = None,
) -> BenchReport:
    """Ask every model every prompt, and report dollars, latency, tokens and quality together.

    Each answer is on the disk before the next is asked for by the same worker. Run again with the
    same file, what is there is not asked again, so a killed run loses at most the `workers` calls
    that were under way. A model that fails five times in a row, or that a budget refuses, is not
    asked any more; run again to go on with it. Models take turns, so that the hour of the day is
    the same for all.

    Args:
        models: Who is asked, by a name of your own. Another setting is another name.
        prompts: What they are asked.
        out: A JSONL file for the answers, which is also what `paired_outcomes` reads.
        priced_as: What the calls of a model are priced as, where that is not its name.
        quality: "exact", "contains" or "f1" against the prompts' answers, or a function.
        judge: Marks the answers instead, once each; its marks are kept in the file. What it costs
            is in no number here.
        prices: What calls are priced with.
        workers: How many calls are under way at once. More make each slower on one machine.
        progress: Is told how far it is.

    Raises:
        ConfigError: if an argument is wrong.
        StoreError: if the file cannot be read or written.

    Example:
        >>> import tempfile
        >>> from costwise_core.bench_models.asking import Answered
        >>> class Small:
        ...     def ask(self, prompt):
        ...         return Answered(text="391" if "17" in prompt else "no idea")
        >>> prompts = [
        ...     BenchPrompt(question="17 * 23?", answers=("391",)),
        ...     BenchPrompt(question="17 + 23?", answers=("40",)),
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = benchmark_models({"gpt-4o-mini": Small()}, prompts, f"{folder}/run.jsonl")
        >>> report.models[0].quality.value
        0.5
    """
    _check(models, prompts, priced_as or {}, workers)
    mark = mark_named(quality)
    book = prices or shared_prices()
    names = {name: (priced_as or {}).get(name, name) for name in models}
    with AnswersFile(out) as file:
        run = _Run(
            models=models, names=names, file=file, judge=judge, prices=book, progress=progress
        )
        run.ask(prompts, workers)
        wanted = {(name, prompt.key) for name in models for prompt in prompts}
        # The references may have been corrected since the answers were given.
        given = {prompt.key: prompt for prompt in prompts}
        answers = [
            replace(one, prompt=given[one.prompt.key], priced_as=names[one.model])
            for one in file.answers.values()
            if one.key in wanted
        ]
    return report_on(
        answers,
        models=list(models),
        mark=None if judge is not None else mark,
        prices=book,
        failures=run.failures,
    )


def mark_named(quality: str | Mark) -> Mark:
    """Return what gives marks.

    Raises:
        ConfigError: if there is none of that name.

    Example:
        >>> mark_named("exact")(BenchPrompt(question="?", answers=("Yes",)), "yes.")
        1.0
    """
    if not isinstance(quality, str):
        return quality
    if quality not in MARKS:
        raise ConfigError(
            f"quality is one of {', '.join(MARKS)} or a function, got {quality!r}."
            f"{nearest(quality, MARKS)}"
        )
    return MARKS[quality]


@dataclass(kw_only=True, slots=True, eq=False)
class _Run:
    models: Mapping[str, Asker]
    names: Mapping[str, str]
    file: AnswersFile
    judge: AnswerJudge | None
    prices: PriceBook
    progress: Progress | None
    failures: dict[str, Counter[str]] = field(default_factory=dict)
    _in_a_row: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)
    _done: int = 0
    _all: int = 0
    _spent: Decimal = Decimal(0)

    def ask(self, prompts: Sequence[BenchPrompt], workers: int) -> None:
        """Ask what is not answered yet, so many at a time."""
        left = list(self._left(prompts))
        self._all = len(self.models) * len({prompt.key for prompt in prompts})
        self._done = self._all - len(left)
        jobs = iter(left)
        with ThreadPoolExecutor(workers, thread_name_prefix="costwise-bench") as pool:

            def more(count: int) -> set[Future[None]]:
                return {
                    pool.submit(contextvars.copy_context().run, self._one, name, prompt)
                    for name, prompt in islice(jobs, count)
                }

            running = more(workers)
            # Interrupted, the pool waits for what is under way: it is paid for, and is written.
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    one.result()
                running |= more(len(done))

    def _left(self, prompts: Sequence[BenchPrompt]) -> Iterator[tuple[str, BenchPrompt]]:
        for prompt in {prompt.key: prompt for prompt in prompts}.values():
            for name in self.models:
                known = self.file.answers.get((name, prompt.key))
                if known is None or (self.judge is not None and known.mark is None):
                    yield name, prompt

    def _one(self, name: str, prompt: BenchPrompt) -> None:
        if self._in_a_row[name] >= _GIVEN_UP:
            self._note(name, failed="not asked any more")
            return
        answer = self.file.answers.get((name, prompt.key))
        try:
            if answer is None:
                answer = self._asked(name, prompt)
                self.file.add(answer)
            if self.judge is not None:
                self.file.add(replace(answer, mark=_judged(self.judge, answer)))
        except StoreError:  # what cannot be written must not be paid for
            raise
        except Exception as error:  # noqa: BLE001 - the other models go on
            self._note(name, failed=type(error).__name__)
            if isinstance(error, BudgetExceededError):
                self._in_a_row[name] = _GIVEN_UP
        else:
            self._note(name, paid=answer)

    def _asked(self, name: str, prompt: BenchPrompt) -> BenchAnswer:
        began = time.perf_counter()
        said = self.models[name].ask(prompt.text)
        took = time.perf_counter() - began
        return BenchAnswer(
            model=name,
            priced_as=self.names[name],
            prompt=prompt,
            answer=said.text,
            usage=said.usage or estimate_usage(prompt.text, said.text, self.names[name]),
            seconds=took if said.seconds is None else said.seconds,
            finish_reason=said.finish_reason,
            at=time.time(),
        )

    def _note(self, name: str, *, failed: str = "", paid: BenchAnswer | None = None) -> None:
        with self._lock:
            self._done += 1
            if failed:
                self.failures.setdefault(name, Counter())[failed] += 1
                self._in_a_row[name] += 1
            else:
                self._in_a_row[name] = 0
            if paid is not None:
                self._spent += usd_of(paid, self.prices) or 0
            if self.progress is not None:
                self.progress(
                    done=self._done,
                    of=self._all,
                    failed=sum(one.total() for one in self.failures.values()),
                    spent=self._spent,
                )


def _judged(judge: AnswerJudge, answer: BenchAnswer) -> float:
    prompt = answer.prompt
    asked = Ask(
        question=prompt.question,
        system=prompt.system,
        passages=tuple(Passage(text=text) for text in prompt.passages),
    )
    given = Candidate(text=answer.answer, route=answer.model, finish_reason=answer.finish_reason)
    return min(1.0, max(0.0, judge.judge(asked, given).score))


def _check(
    models: Mapping[str, Asker],
    prompts: Sequence[BenchPrompt],
    priced_as: Mapping[str, str],
    workers: int,
) -> None:
    if not models or not prompts:
        raise ConfigError("there must be at least one model and one prompt.")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    for name in priced_as:
        if name not in models:
            raise ConfigError(
                f"priced_as names {name!r}, which is no model; models are {', '.join(models)}."
                f"{nearest(name, models)}"
            )
