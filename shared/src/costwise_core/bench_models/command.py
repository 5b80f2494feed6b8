"""`costwise-core bench-models PROMPTS`: several models on the same prompts."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from costwise_core.bench_models.asking import Asker, OpenAICompatible
from costwise_core.bench_models.marks import MARKS
from costwise_core.bench_models.progress import ProgressBar
from costwise_core.bench_models.prompts import read_prompts
from costwise_core.bench_models.running import benchmark_models
from costwise_core.errors import ConfigError
from costwise_core.prices import PriceBook
from costwise_core.route.judges.by_model import ModelJudge

__all__ = ["bench_models_command"]

_SPEC: Final = "[NAME=]MODEL@URL[#KEY]"


def bench_models_command(argv: Sequence[str]) -> int:
    """Run `costwise-core bench-models`, and return its exit status.

    Args:
        argv: What follows "bench-models".

    Returns:
        0, or 1 if a model gave no answer to some prompts; run again to ask for these.

    Raises:
        CostwiseError: if an argument is wrong, or a file cannot be read or written.
        SystemExit: if the arguments are not understood, or after `--help`.
    """
    given = _parser().parse_args(argv)
    models: dict[str, Asker] = {}
    priced_as = {}
    for spec in given.model:
        name, model, asker = _asker(spec, given.max_tokens)
        if name in models:
            raise ConfigError(f"two models are called {name!r}; give names of your own: {_SPEC}.")
        models[name], priced_as[name] = asker, model
    judge = ModelJudge(completer=_Judge(_asker(given.judge, None)[2])) if given.judge else None
    report = benchmark_models(
        models,
        read_prompts(given.prompts),
        given.out,
        priced_as=priced_as,
        quality=given.quality,
        judge=judge,
        prices=PriceBook.from_file(given.prices) if given.prices else None,
        workers=given.workers,
        progress=ProgressBar(),
    )
    for path, text in ((given.html, report.to_html), (given.json, report.to_json)):
        if path is not None:
            _write(path, text())
    sys.stdout.write(f"{report}\n")
    return 1 if any(one.failures for one in report.models) else 0


class _Judge:
    """A model that judges, as a `Completer`."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def complete(self, prompt: str) -> str:
        return self._asker.ask(prompt).text


def _asker(spec: str, max_tokens: int | None) -> tuple[str, str, Asker]:
    """Read "[NAME=]MODEL@URL[#KEY]"; KEY is the environment variable that holds the key."""
    what, at, where = spec.rpartition("@http")
    name, _, model = what.rpartition("=")
    if not at or not model:
        raise ConfigError(
            f"a model is given as {_SPEC}, such as "
            f"gpt-4o-mini@https://api.openai.com/v1#OPENAI_API_KEY; got {spec!r}."
        )
    url, _, variable = f"http{where}".partition("#")
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(f"the environment has no {variable}, which is to hold the key.")
    return name or model, model, OpenAICompatible(url, model, key=key, max_tokens=max_tokens)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    sys.stderr.write(f"written to {path}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core bench-models",
        description="Ask several models the same prompts and report dollars, latency, tokens and "
        "quality together. Run again with the same --out to go on where it stopped: what is there "
        "is not asked, or paid, again.",
    )
    parser.add_argument(
        "prompts", type=Path, help="JSONL: question, and if you like answers, passages, system"
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar=_SPEC,
        help="a server that speaks as OpenAI's does; KEY names the environment variable with its "
        "key; may be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSONL file for the answers")
    parser.add_argument("--html", type=Path, help="page to write")
    parser.add_argument("--json", type=Path, help="the same as JSON")
    parser.add_argument("--quality", choices=MARKS, default="f1", help="how answers are marked")
    parser.add_argument("--judge", metavar=_SPEC, help="a model that marks the answers instead")
    parser.add_argument("--workers", type=int, default=4, help="calls under way at once")
    parser.add_argument("--max-tokens", type=int, help="the longest answer")
    parser.add_argument("--prices", type=Path, help="a price file of your own (.toml or .json)")
    return parser
