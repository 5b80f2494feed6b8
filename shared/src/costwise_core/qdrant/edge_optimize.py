"""Builds a shard's index in a process of its own: the engine holds Python's global lock meanwhile.

`python -m costwise_core.qdrant.edge_optimize FOLDER` reads settings from its input, builds what is
in the folder, and writes what came of it as one line of JSON.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import StoreError

__all__ = ["optimized"]

_TAIL: Final = 500
_PARENT_DEATH_SIGNAL: Final = 1
"""The number that prctl(2) gives to PR_SET_PDEATHSIG."""


def optimized(shard: Path, settings: dict[str, Any]) -> bool:
    """Build a shard that nobody has open as the settings say; return whether that changed it.

    Args:
        shard: Its folder.
        settings: As `create_collection` was told, in JSON.

    Raises:
        StoreError: if the process that builds failed or was killed.
    """
    # The child finds its modules where this process does, and never in the working folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(  # noqa: S603 - its own module
        [sys.executable, "-P", "-m", __name__, str(shard)],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if child.returncode:
        how = f"was killed by signal {-child.returncode}" if child.returncode < 0 else "failed"
        raise StoreError(
            f"the process that builds the index {how}. {child.stderr[-_TAIL:].strip()}"
        )
    return bool(json.loads(child.stdout.splitlines()[-1])["changed"])


def _main() -> None:
    from costwise_core.qdrant.edge_settings import as_edge_config  # noqa: PLC0415
    from costwise_core.qdrant.extras import client_models, edge_module  # noqa: PLC0415

    _die_with_parent()
    settings = client_models().CreateCollection(**json.load(sys.stdin))
    shard = edge_module().EdgeShard.load(sys.argv[1], as_edge_config(settings))
    changed = shard.optimize()
    shard.flush()
    shard.close()
    sys.stdout.write(json.dumps({"changed": changed}) + "\n")


def _die_with_parent() -> None:
    """Have Linux end this process when the thread that waits for it is gone; others let it finish.

    What it builds is of no use to anybody then, and it would go on for minutes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    _main()
