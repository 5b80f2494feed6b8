"""`costwise-core COMMAND ...`, also as `python -m costwise_core`."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from costwise_core._version import __version__
from costwise_core.errors import ConfigError, CostwiseError, nearest

__all__ = ["main"]

# A command is a function that takes its arguments and returns an exit status.
COMMANDS: Final = {
    "bench-models": (
        "costwise_core.bench_models.command:bench_models_command",
        "what models cost, and how good they are, on your prompts",
    ),
    "qdrant": ("costwise_core.qdrant.command:qdrant_command", "make a Qdrant collection cheaper"),
    "replay": ("costwise_core.commands.replay:replay_command", "what costwise would have saved"),
    "report": ("costwise_core.commands.report:report_command", "make a report over a ledger"),
    "retain": ("costwise_core.commands.retain:retain_command", "archive or delete what is old"),
    "whatif": ("costwise_core.whatif.command:whatif_command", "what a change would cost or save"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is done, 1 is that it could not be done (the reason is on standard error), 2 is that the
    arguments are wrong.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        sys.stdout.write(f"{_usage()}\n")
        return 0
    if name == "--version":
        sys.stdout.write(f"costwise-core {__version__}\n")
        return 0
    if name not in COMMANDS:
        said = (
            f"unknown command {name!r}.{nearest(name, COMMANDS)}" if name else "no command given."
        )
        sys.stderr.write(f"costwise-core: {said}\n\n{_usage()}\n")
        return 2
    module, function = COMMANDS[name][0].split(":")
    try:
        status: int = getattr(importlib.import_module(module), function)(rest)
        sys.stdout.flush()
    except CostwiseError as error:
        sys.stderr.write(f"costwise-core {name}: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _usage() -> str:
    commands = "\n".join(f"  {name:<14}{what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: costwise-core COMMAND ...\n\n"
        f"{commands}\n\ncostwise-core COMMAND --help says what a command takes."
    )


if __name__ == "__main__":
    sys.exit(main())
