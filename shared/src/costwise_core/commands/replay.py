"""`costwise-core replay LOG`: what costwise would have saved on a log, with no model called."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from costwise_core.prices import PriceBook
from costwise_core.replaying.running import replay

__all__ = ["replay_command"]


def replay_command(argv: Sequence[str]) -> int:
    """Replay a log and return the exit status.

    Raises:
        CostwiseError: if the log cannot be read or an argument makes no sense.
        SystemExit: if the arguments are not understood, or after `--help`.
    """
    args = _parser().parse_args(argv)
    waiting = Waiting()
    try:
        found = replay(
            args.log,
            prices=PriceBook.from_file(args.prices) if args.prices else None,
            model=args.model,
            models=args.models,
            can_wait=args.can_wait,
            progress=waiting,
        )
    finally:
        waiting.done()
    if args.html is not None:
        found.write_html(args.html)
        sys.stderr.write(f"written to {args.html}\n")
    shown = json.dumps(found.to_dict(), indent=2) if args.json else str(found)
    sys.stdout.write(f"{shown}\n")
    return 0


class Waiting:
    """A line on a terminal that says how far a replay is, once it takes longer than two seconds.

    Args:
        out: Where to; standard error if not given. Nothing is written where no person looks.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._began = self._told = time.monotonic()
        self._shown = False

    def __call__(self, stage: str, done: int) -> None:
        """Say it, if a person looks and the last word is a while ago."""
        now = time.monotonic()
        if now - self._began < _PATIENCE or now - self._told < _PAUSE or not self._out.isatty():
            return
        calls = f" {done:,} calls" if done else ""
        self._out.write(f"\r\x1b[K{stage}{calls}, {now - self._began:.0f} s")
        self._out.flush()
        self._told, self._shown = now, True

    def done(self) -> None:
        """Leave an empty line."""
        if self._shown:
            self._out.write("\r\x1b[K")


_PATIENCE: Final = 2.0
_PAUSE: Final = 0.1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core replay",
        description="Say what costwise would have saved on a log of real calls. No model is "
        "called, and no text of the log is shown.",
    )
    parser.add_argument(
        "log",
        type=Path,
        help="OpenAI-style requests and responses, LangSmith runs, Langfuse traces, or questions "
        "and answers, as JSON lines (also .gz) or one JSON document; or a SQLite ledger",
    )
    parser.add_argument("--html", type=Path, help="page to write")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    parser.add_argument("--model", default="", help="of calls that name none")
    parser.add_argument(
        "--models", nargs="+", default=(), metavar="MODEL", help="you could use, the weakest first"
    )
    parser.add_argument(
        "--can-wait", nargs="+", default=(), metavar="FEATURE", help="may be answered tomorrow"
    )
    parser.add_argument("--prices", type=Path, help="a price file of your own (.toml or .json)")
    return parser
