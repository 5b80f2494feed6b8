"""What every benchmark does alike: read its arguments, take times, write its JSON."""

import argparse
import json
import platform
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path("../shared/data")
"""Where data that does not ship lies, seen from the root; benchmarks run without it, saying so."""

Summary = dict[str, float]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows `--json` and `--seed` and shows a module's docstring as help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def timed(action: Callable[[Any], object], inputs: Iterable[object]) -> tuple[Summary, Summary]:
    """Call `action` once for each input; return CPU and wall milliseconds of a call."""
    cpu, wall = [], []
    for value in inputs:
        started, started_cpu = time.perf_counter_ns(), time.process_time_ns()
        action(value)
        cpu.append(time.process_time_ns() - started_cpu)
        wall.append(time.perf_counter_ns() - started)
    return summary(cpu), summary(wall)


def summary(nanoseconds: Sequence[int]) -> Summary:
    """Return median, 95th percentile and mean in milliseconds."""
    ms = np.array(nanoseconds) / 1e6
    return {
        "p50": round(float(np.percentile(ms, 50)), 4),
        "p95": round(float(np.percentile(ms, 95)), 4),
        "mean": round(float(ms.mean()), 4),
    }


class Clock:
    """Counts the CPU and wall seconds of a whole run from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        """Return the keys every result has."""
        return {
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "wall_seconds": round(time.perf_counter() - self._wall, 2),
        }


def versions(*distributions: str) -> dict[str, str]:
    """Return versions of Python, SQLite, numpy, costwise and what else was measured."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in ("numpy", "costwise-core", *distributions):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def finish(args: argparse.Namespace, result: Mapping[str, object]) -> None:
    """Write the result where `--json` says."""
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten to {args.json}")
