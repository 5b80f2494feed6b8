"""`costwise-core retain LEDGER --keep-days 90`: archive or delete what is old."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from costwise_core.errors import ConfigError
from costwise_core.ledger_retention import Retention, retain_calls, retain_reports
from costwise_core.ledger_sqlite import SQLiteLedger

__all__ = ["retain_command"]


def retain_command(argv: Sequence[str]) -> int:
    """Archive or delete old records and reports, and return the exit status.

    Raises:
        CostwiseError: if a file cannot be used or an argument makes no sense.
        SystemExit: if the arguments are not understood, or after `--help`.
    """
    args = _parser().parse_args(argv)
    policy = Retention(
        keep_days=args.keep_days, archive=args.archive, archive_days=args.archive_days
    )
    if not args.ledger.is_file():
        raise ConfigError(f"there is no ledger at {args.ledger}.")
    with SQLiteLedger(args.ledger) as ledger:
        done = {"records": retain_calls(ledger, policy)}
    if args.reports is not None:
        done["reports"] = retain_reports(args.reports, policy)
    for what, kept in done.items():
        sys.stdout.write(
            f"{what}: {kept.archived:,} archived, {kept.deleted:,} deleted; "
            f"{kept.expired:,} files deleted from the archive\n"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core retain",
        description="Archive a ledger's old records in compressed files, one for each day, or "
        "delete them. `costwise-core report` reads the archive like a ledger.",
    )
    parser.add_argument("ledger", type=Path, help="a SQLite ledger")
    parser.add_argument("--keep-days", type=float, required=True, help="days records stay in it")
    parser.add_argument("--archive", type=Path, help="folder for older ones; else they are deleted")
    parser.add_argument(
        "--archive-days", type=float, help="days after the call when the archive is left, too"
    )
    parser.add_argument("--reports", type=Path, help="folder whose old report* files go likewise")
    return parser
