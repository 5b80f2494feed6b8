"""`costwise-core report LEDGER`: one page, or a file, on what was paid and saved."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

from costwise_core.errors import ConfigError, nearest
from costwise_core.ledger_archive import Archive
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.prices import PriceBook
from costwise_core.report.report import Records, Report, report_of
from costwise_core.tracking import TAGS

__all__ = ["ledger_at", "moment", "report_command"]

FORMATS: Final[Mapping[str, Callable[[Report], str]]] = {
    "html": Report.to_html,
    "md": Report.to_markdown,
    "csv": Report.to_csv,
    "json": Report.to_json,
}


def report_command(argv: Sequence[str]) -> int:
    """Write a report and return the exit status.

    Raises:
        CostwiseError: if a ledger cannot be read or an argument makes no sense.
        SystemExit: if the arguments are not understood, or after `--help`.
    """
    args = _parser().parse_args(argv)
    report = report_of(
        *(ledger_at(path) for path in args.ledger),
        since=moment(args.since) if args.since else None,
        until=moment(args.until, end=True) if args.until else None,
        tags=dict(_tag(pair) for pair in args.tag),
        prices=PriceBook.from_file(args.prices) if args.prices else None,
    )
    text = FORMATS[args.format or _format(args.out)](report)
    if args.out is None:
        sys.stdout.write(text)
        return 0
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.out} cannot be written: {error.strerror}.") from error
    sys.stderr.write(f"written to {args.out}\n")
    return 0


def _format(out: Path | None) -> str:
    suffix = out.suffix[1:].lower() if out else "md"
    if suffix not in FORMATS:
        raise ConfigError(
            f"--out must end in one of {', '.join(f'.{name}' for name in FORMATS)}, "
            f"or --format must say what to write; got {str(out)!r}."
        )
    return suffix


def ledger_at(path: Path) -> Records:
    """Return the ledger or archive that lies there.

    Raises:
        ConfigError: if there is nothing; a report must not make an empty ledger.
    """
    if not path.exists():
        raise ConfigError(f"there is no ledger at {path}.")
    return Archive(path) if path.is_dir() or path.suffix == ".gz" else SQLiteLedger(path)


def moment(text: str, *, end: bool = False) -> float:
    """Read a moment in UTC: "2026-11-01", "2026-11-01T12:00", or "30d" for 30 days ago.

    Args:
        text: What was given.
        end: True for the end of a day that is named, not its beginning.

    Raises:
        ConfigError: if it is none of these.

    Example:
        >>> moment("1970-01-02"), moment("1970-01-02", end=True), moment("1970-01-01T00:01")
        (86400.0, 172800.0, 60.0)
    """
    try:
        if text.endswith("d") and text[:-1].isdigit():
            return (datetime.now(UTC) - timedelta(days=int(text[:-1]))).timestamp()
        if len(text) == len("2026-11-01"):
            day = date.fromisoformat(text) + timedelta(days=1 if end else 0)
            return datetime.combine(day, time(), UTC).timestamp()
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text!r} is no time; give a day such as 2026-11-01, a moment such as "
            "2026-11-01T12:00 (in UTC), or 30d for 30 days ago."
        ) from None


def _tag(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or name not in TAGS:
        raise ConfigError(
            f"a tag is given as NAME=VALUE with a name among {', '.join(TAGS)}, got {pair!r}."
            f"{'' if name in TAGS else nearest(name, TAGS)}"
        )
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core report",
        description="Report what the calls in a ledger cost, what was saved, and what still could "
        "be. Without --out the report is printed as Markdown.",
    )
    parser.add_argument(
        "ledger",
        nargs="+",
        type=Path,
        help="a SQLite ledger, an archived file (.jsonl.gz) or a folder of them; "
        "a record in several counts once",
    )
    parser.add_argument("--since", help="a day, a moment (both UTC), or 30d for 30 days ago")
    parser.add_argument("--until", help="likewise; a day is meant with all of it")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only calls with this tag, such as team=search; may be repeated",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="if not given, as --out ends; md without --out"
    )
    parser.add_argument("--out", type=Path, help="file to write; standard output if not given")
    parser.add_argument(
        "--prices", type=Path, help="price book (.toml or .json) that advice is priced with"
    )
    return parser
