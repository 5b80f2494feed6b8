"""What an edge shard's folder says of it, in the shape that a server says it in."""

import json
import os
from pathlib import Path
from typing import Any

from costwise_core.errors import StoreError
from costwise_core.qdrant.client_reading import spaces

__all__ = ["edge_settings"]


def edge_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a shard's configuration in the shape that a server gives a collection's in.

    Raises:
        StoreError: if there is no shard, or none of this version.

    Example:
        >>> edge_settings("no such folder")
        Traceback (most recent call last):
        costwise_core.errors.StoreError: there is no edge shard in 'no such folder'.
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
