"""Builds a shard's index in a process of its own: the engine holds Python's global lock meanwhile.

`python -m costwise_core.qdrant.edge_optimize` reads from its input which folder and what it is to
become, builds it, and writes what came of it as one line of JSON.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import StoreError, StoreUnavailableError
from costwise_core.qdrant.client_reading import spaces
from costwise_core.qdrant.edge_reading import edge_settings
from costwise_core.qdrant.edge_settings import as_edge_config
from costwise_core.qdrant.extras import client_models, edge_module
from costwise_core.qdrant.index_config import IndexConfig

if TYPE_CHECKING:
    import qdrant_edge

__all__ = ["optimized", "rebuild"]

_TAIL: Final = 500
_PARENT_DEATH_SIGNAL: Final = 1
"""The number that prctl(2) gives to PR_SET_PDEATHSIG."""


def optimized(shard: Path, settings: dict[str, Any]) -> bool:
    """Build a shard that nobody has open as the settings say; return whether that changed it.

    Args:
        shard: Its folder.
        settings: As `create_collection` was told, in JSON.

    Raises:
        StoreUnavailableError: if somebody has the shard open.
        StoreError: if the process that builds failed or was killed.
    """
    return bool(_built(shard, {"settings": settings})["changed"])


def rebuild(
    folder: str | os.PathLike[str],
    config: IndexConfig | None = None,
    *,
    vector: str = "",
    timeout: float | None = None,
) -> float:
    """Optimize a closed shard, with another index if one is given; return the CPU seconds it took.

    Args:
        folder: The shard's; nobody may have it open.
        config: The index it is to have; None keeps the one it has.
        vector: Which vector's.
        timeout: Seconds on the clock. A rebuild that is cut off loses no point.

    Raises:
        StoreUnavailableError: if it takes too long, or somebody has the shard open.
        StoreError: if the process that builds failed or was killed.
    """
    asked = {"index": config and config.to_dict(), "vector": vector}
    return float(_built(folder, asked, timeout)["cpu_seconds"])


def _built(
    folder: str | os.PathLike[str], asked: dict[str, Any], timeout: float | None = None
) -> dict[str, Any]:
    """Have a process do what is asked; return what it says came of it."""
    # The child finds its modules where this process does, and never in the working folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(  # noqa: S603 - its own module
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps({**asked, "folder": os.fspath(folder)}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise StoreUnavailableError(
            f"{folder} was not built in {timeout:g} seconds; it has all its points."
        ) from None
    if "WouldBlock" in child.stderr and child.returncode:
        raise StoreUnavailableError(f"{folder} is in use by another process.")
    if child.returncode:
        how = f"was killed by signal {-child.returncode}" if child.returncode < 0 else "failed"
        raise StoreError(
            f"the process that builds the index {how}. {child.stderr[-_TAIL:].strip()}"
        )
    came: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return came


def _main() -> None:
    _die_with_parent()
    asked = json.load(sys.stdin)
    shard = edge_module().EdgeShard.load(asked["folder"], _config(asked))
    changed = shard.optimize()
    shard.flush()
    shard.close()
    came = {"changed": changed, "cpu_seconds": time.process_time()}
    sys.stdout.write(json.dumps(came) + "\n")


def _config(asked: dict[str, Any]) -> "qdrant_edge.EdgeConfig | None":
    """Return what the shard is to become; None for what it is."""
    if "settings" in asked:
        return as_edge_config(client_models().CreateCollection(**asked["settings"]))
    if not asked["index"]:
        return None
    space = next(
        one for one in spaces(edge_settings(asked["folder"])) if one.name == asked["vector"]
    )
    return IndexConfig.from_dict(asked["index"]).for_edge(
        size=space.size,
        distance=space.distance,
        vector=space.name,
        segments=None,
        full_scan_threshold=space.full_scan_threshold,
        indexing_threshold=None,
    )


def _die_with_parent() -> None:
    """Have Linux end this process when the thread that waits for it is gone; others let it finish.

    What it builds is of no use to anybody then, and it would go on for minutes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    _main()
