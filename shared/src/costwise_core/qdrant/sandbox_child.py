"""What a child process of the sandbox does: build a shard, or search some; never imported for more.

The engine holds Python's global lock while it builds and searches, so a server that tuned in its
own process would answer nobody meanwhile. Here it may, and CPU time is that of the search alone.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from costwise_core.qdrant.edge_filters import as_filter
from costwise_core.qdrant.extras import edge_module
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig

__all__ = ["main"]

_BATCH: Final = 1_000
_PAGE: Final = 10_000


def main(job: str) -> None:
    """Do what the file `job` says and write the answer beside it, with `.done` for a suffix.

    Example:
        >>> main("no such file")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no such file'
    """
    path = Path(job)
    asked = json.loads(path.read_text(encoding="utf-8"))
    answer = {"build": _build, "measure": _measure, "match": _match}[asked["do"]](asked)
    answer["cpu_seconds"] = time.process_time()
    half = path.with_suffix(".half")
    half.write_text(json.dumps(answer), encoding="utf-8")
    half.replace(path.with_suffix(".done"))


def _build(asked: dict[str, Any]) -> dict[str, Any]:
    edge = edge_module()
    vectors = np.load(asked["vectors"], mmap_mode="r", allow_pickle=False)
    order = np.load(asked["order"], allow_pickle=False)
    payloads = json.loads(Path(asked["payloads"]).read_text()) if asked["payloads"] else None
    index = IndexConfig.from_dict(asked["index"])
    # Also a small sample gets its graph, since it stands for a large collection.
    config = index.for_edge(
        size=vectors.shape[1],
        distance=asked["distance"],
        threads=1,
        full_scan_threshold=asked["full_scan_threshold"],
        indexing_threshold=1,
    )
    shard = edge.EdgeShard.create(asked["path"], config)
    # The graph gets links for filters only of payload indexes that were there when it was built.
    for field, kind in asked["payload_indexes"].items():
        schema = getattr(edge.PayloadSchemaType, kind.capitalize())
        shard.update(edge.UpdateOperation.create_field_index(field, schema))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH].tolist()
        points = [
            edge.Point(id=row, vector=vectors[row], payload=payloads[row] if payloads else {})
            for row in rows
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    began = time.process_time()
    shard.optimize()
    shard.flush()
    built = time.process_time() - began
    info = shard.info()
    shard.close()
    return {"build_cpu_seconds": built, "indexed": info.indexed_vectors_count}


def _measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Search each shard in each way, in turns, so that a busy minute of the machine hits all."""
    edge = edge_module()
    vectors = np.load(asked["questions"], mmap_mode="r", allow_pickle=False)
    filters = [as_filter(one) for one in asked["filters"]] or [None] * len(vectors)
    params = edge.EdgeVectorParams(
        size=vectors.shape[1], distance=getattr(edge.Distance, asked["distance"])
    )
    one_thread = edge.EdgeConfig(vectors=params, max_search_threads=1)
    shards = [edge.EdgeShard.load(path, one_thread) for path in asked["paths"]]
    trials = [(n, SearchConfig.from_dict(one).for_edge()) for n, one in asked["trials"]]
    nearest = [edge.Query.Nearest(row.tolist()) for row in vectors]
    found = np.full((len(trials), len(vectors), asked["k"]), -1, np.int64)
    wall = np.zeros((len(trials), len(vectors)))
    cpu: list[list[float]] = [[] for _ in trials]
    blocks = np.array_split(np.arange(len(vectors)), min(asked["blocks"], len(vectors)))
    for turn in range(asked["rounds"]):
        for block in blocks:
            for at, (which, params) in enumerate(trials):
                requests = [
                    edge.QueryRequest(
                        limit=asked["k"], query=nearest[n], filter=filters[n], params=params
                    )
                    for n in block
                ]
                shard = shards[which]
                for n in block[:3] if turn == 0 else ():  # wakes the pages; not counted
                    shard.query(requests[n - block[0]])
                answers = []
                began = time.process_time()
                for n, request in zip(block, requests, strict=True):
                    asked_at = time.perf_counter()
                    answers.append(shard.query(request))
                    wall[at, n] = time.perf_counter() - asked_at
                cpu[at].append((time.process_time() - began) / len(block))
                for n, hits in zip(block, answers, strict=True):
                    found[at, n, : len(hits)] = [hit.id for hit in hits]
    for shard in shards:
        shard.close()
    np.save(asked["found"], found)
    return {
        "cpu": cpu,
        "p50": np.percentile(wall, 50, axis=1).tolist(),
        "p95": np.percentile(wall, 95, axis=1).tolist(),
    }


def _match(asked: dict[str, Any]) -> dict[str, Any]:
    """Say which rows each filter lets through."""
    edge = edge_module()
    shard = edge.EdgeShard.load(asked["path"])
    rows: list[list[int]] = []
    for given in asked["filters"]:
        matched: list[int] = []
        offset = None
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=as_filter(given),
                with_payload=False,
                with_vector=False,
            )
            records, offset = shard.scroll(request)
            matched += [int(record.id) for record in records]
            if offset is None:
                break
        rows.append(matched)
    shard.close()
    return {"rows": rows}


if __name__ == "__main__":
    # Somebody who works on this machine comes first.
    if hasattr(os, "nice"):
        os.nice(1)
    main(sys.argv[1])
