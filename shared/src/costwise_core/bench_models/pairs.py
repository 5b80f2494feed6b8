"""What a router is trained on, out of a benchmark's file."""

from pathlib import Path

from costwise_core.bench_models.answers_file import BenchAnswer, read_answers
from costwise_core.bench_models.marks import Mark
from costwise_core.bench_models.running import mark_named
from costwise_core.bench_models.summary import mark_of, usd_of
from costwise_core.errors import ConfigError, nearest
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.route.outcomes import PairedOutcome

__all__ = ["paired_outcomes"]


def paired_outcomes(
    path: str | Path,
    *,
    weak: str,
    strong: str,
    quality: str | Mark = "f1",
    prices: PriceBook | None = None,
) -> list[PairedOutcome]:
    """Return how well two models answered the same prompts, to train and calibrate a router with.

    Args:
        path: What `benchmark_models` wrote.
        weak: Name of the cheaper model there.
        strong: Name of the dearer one.
        quality: "exact", "contains" or "f1" against the prompts' answers, "judge" for the marks a
            judge gave, or a function.
        prices: What the answers are priced with.

    Raises:
        ConfigError: if there is no such model, or no prompt that both answered has a mark.
        StoreError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from costwise_core.bench_models.asking import Answered
        >>> from costwise_core.bench_models.prompts import BenchPrompt
        >>> from costwise_core.bench_models.running import benchmark_models
        >>> class Says:
        ...     def __init__(self, text):
        ...         self.text = text
        ...
        ...     def ask(self, prompt):
        ...         return Answered(text=self.text)
        >>> prompts = [BenchPrompt(question="17 * 23?", answers=("391",))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/run.jsonl"
        ...     _ = benchmark_models({"s": Says("400"), "l": Says("391")}, prompts, path)
        ...     paired_outcomes(path, weak="s", strong="l")[0].gain
        1.0
    """
    mark = None if quality == "judge" else mark_named(quality)
    book = prices or shared_prices()
    found: dict[str, dict[str, BenchAnswer]] = {}
    for answer in read_answers(path):
        found.setdefault(answer.model, {})[answer.prompt.key] = answer
    for name in (weak, strong):
        if name not in found:
            raise ConfigError(
                f"there are no answers of {name!r} in {path}; models are {', '.join(found)}."
                f"{nearest(name, found)}"
            )
    pairs = []
    for key, cheap in found[weak].items():
        dear = found[strong].get(key)
        marks = (mark_of(cheap, mark), mark_of(dear, mark)) if dear else (None, None)
        if dear is not None and marks[0] is not None and marks[1] is not None:
            pairs.append(
                PairedOutcome(
                    question=cheap.prompt.question,
                    weak=marks[0],
                    strong=marks[1],
                    weak_usd=usd_of(cheap, book),
                    strong_usd=usd_of(dear, book),
                    answer=cheap.answer,
                )
            )
    if not pairs:
        raise ConfigError(
            f"no prompt in {path} was answered by both models and has a mark; give the prompts "
            'answers, or quality="judge" if a judge was asked.'
        )
    return pairs
