"""Rebuilding an edge shard in a process of its own: the engine holds Python's lock meanwhile."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from costwise_core.errors import StoreError, StoreUnavailableError
from costwise_core.qdrant.client_reading import spaces
from costwise_core.qdrant.configs import IndexConfig
from costwise_core.qdrant.extras import edge_module

__all__ = ["edge_settings", "rebuild"]


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
        StoreError: if the engine fails otherwise.
    """
    asked = {
        "folder": os.fspath(folder),
        "config": config and config.to_dict(),
        "vector": vector,
    }
    # The child finds its modules where this process does, and never in the working folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 - it is this module
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise StoreUnavailableError(
            f"{folder} was not rebuilt in {timeout:g} seconds; it has all its points."
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        if "WouldBlock" in said[0]:
            raise StoreUnavailableError(f"{folder} is in use by another process.")
        raise StoreError(f"{folder} was not rebuilt: {said[0][:300]}")
    return float(json.loads(done.stdout)["cpu_seconds"])


def edge_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a shard's configuration in the shape that a server gives a collection's in.

    Raises:
        StoreError: if there is no shard, or none of this version.
    """
    file = Path(folder) / "edge_config.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
        params = {"vectors": said.get("vectors"), "sparse_vectors": said.get("sparse_vectors")}
        raw = {
            "params": params,
            "hnsw_config": {**hnsw, **(said.get("hnsw_config") or {})},
            "quantization_config": said.get("quantization_config"),
            "optimizer_config": said.get("optimizers") or {},
            "payload_memory": said.get("payload_memory"),
        }
        list(spaces(raw))
    except FileNotFoundError:
        raise StoreError(f"there is no edge shard in {os.fspath(folder)!r}.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"{file} cannot be read ({type(error).__name__}).") from None
    return raw


def _main() -> None:
    asked = json.load(sys.stdin)
    folder, vector = asked["folder"], asked["vector"]
    edge, config = edge_module(), None
    if asked["config"]:
        raw = edge_settings(folder)
        space = next(space for space in spaces(raw) if space.name == vector)
        config = IndexConfig.from_dict(asked["config"]).for_edge(
            size=space.size,
            distance=space.distance,
            vector=vector,
            segments=None,
            full_scan_threshold=space.full_scan_threshold,
            indexing_threshold=None,
        )
    shard = edge.EdgeShard.load(folder, config)
    shard.optimize()
    shard.flush()
    shard.close()
    sys.stdout.write(json.dumps({"cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    _main()
