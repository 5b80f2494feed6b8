"""A workshop where collections are built and searched without touching one that serves.

It holds a sample of vectors from any source and runs Qdrant's own engine on it in child processes:
no server, no load on production, and the calling process goes on answering.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from costwise_core.errors import StoreError
from costwise_core.qdrant.extras import edge_module
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.samples import Floats, Questions
from costwise_core.qdrant.search_config import SearchConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Built", "Sandbox", "Trial", "workshop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A shard that is ready to be searched.

    Args:
        index: How it was built.
        path: Where it lies.
        rows: How many vectors are in it.
        original: Bytes per vector of the original ones, float32.
        quantized: Of the quantized ones, as its files have; 0 if there are none.
        graph: Of the graph, as its files have.
        cpu_seconds: What building its index took.
    """

    index: IndexConfig
    path: Path
    rows: int
    original: float
    quantized: float
    graph: float
    cpu_seconds: float

    @property
    def hot_bytes(self) -> float:
        """Bytes per vector that should be in memory: every part that is not `cold`."""
        index = self.index
        parts = (
            (self.original, index.vectors),
            (self.quantized, index.quantized),
            (self.graph, index.graph),
        )
        return sum(size for size, memory in parts if memory != "cold")

    @property
    def disk_bytes(self) -> float:
        """Bytes per vector on disk."""
        return self.original + self.quantized + self.graph


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """What one way to search found and took, on one thread.

    Args:
        found: (questions, k) rows of vectors; -1 where fewer were found.
        cpu_ms: CPU milliseconds of a search, one for each turn.
        p50_ms: Median milliseconds on the clock.
        p95_ms: The same of the slowest 5 %.
    """

    found: "NDArray[np.int64]"
    cpu_ms: tuple[float, ...]
    p50_ms: float
    p95_ms: float


class Sandbox:
    """Builds and searches shards of these vectors in child processes.

    Args:
        folder: Where it may make a folder of its own, in which everything lies. What was built
            there before, of the same vectors, is used again, also after a `kill -9`.
        vectors: (n, dims) of float32; row numbers are the points' ids.
        distance: "Cosine", "Dot", "Euclid" or "Manhattan".
        payloads: One for each vector, where questions have filters.
        payload_indexes: Field -> type of the indexes on them.
        full_scan_threshold: Kilobytes of vectors; filters that leave fewer are answered by a scan.

    Example:
        >>> import tempfile
        >>> vectors = np.random.default_rng(0).normal(size=(300, 96)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sandbox = Sandbox(Path(folder), vectors)
        ...     built = sandbox.build(IndexConfig(quantization="int8", vectors="cold"))
        ...     [trial] = sandbox.measure([(built, SearchConfig())], Questions.of(vectors[:3]), 1)
        >>> trial.found.tolist(), built.original, built.quantized >= 96
        ([[0], [1], [2]], 384.0, True)
    """

    def __init__(
        self,
        folder: Path,
        vectors: Floats,
        *,
        distance: str = "Cosine",
        payloads: Sequence[Mapping[str, Any]] = (),
        payload_indexes: Mapping[str, str] | None = None,
        full_scan_threshold: int = 1,
    ) -> None:
        self._folder, self._vectors, self._distance = workshop(folder), vectors, distance
        self._payloads, self._payload_indexes = payloads, dict(payload_indexes or {})
        self._full_scan_threshold = full_scan_threshold
        self._written = False
        self._jobs = 0
        self.cpu_seconds = 0.0
        """What all children took so far."""

    def build(self, index: IndexConfig, *, rows: int | None = None, order: int = 0) -> Built:
        """Return a shard of the first `rows` vectors.

        Args:
            index: How it is built.
            rows: How many; all if None.
            order: Points are added in an order by chance: another one is another rebuild.

        Raises:
            StoreError: if the engine fails; it says with what.
            MissingExtraError: if qdrant-edge-py is not installed.
        """
        edge_module()
        self._write()
        size = len(self._vectors) if rows is None else min(rows, len(self._vectors))
        said = json.dumps([index.to_dict(), size, order, self._full_scan_threshold], sort_keys=True)
        name = hashlib.sha256(said.encode()).hexdigest()[:16]
        path, report = self._folder / f"shard-{name}", self._folder / f"shard-{name}.json"
        if not report.exists():
            half = self._folder / f"half-{name}-{os.getpid()}"
            shutil.rmtree(half, ignore_errors=True)
            rows_file = self._folder / f"order-{size}-{order}.npy"
            np.save(rows_file, np.random.default_rng(order).permutation(size))
            answer = self._run(
                do="build",
                path=str(half),
                index=index.to_dict(),
                distance=self._distance,
                order=str(rows_file),
                vectors=str(self._folder / "vectors.npy"),
                payloads=str(self._folder / "payloads.json") if self._payloads else None,
                payload_indexes=self._payload_indexes,
                full_scan_threshold=self._full_scan_threshold,
            )
            if answer["indexed"] != size:
                raise StoreError(
                    f"the engine put {answer['indexed']:,} of {size:,} vectors in the index of "
                    f"{index}, so a search would measure a scan."
                )
            shutil.rmtree(path, ignore_errors=True)
            half.replace(path)
            answer |= _sizes(path, self._vectors.shape[1] * 4 * size, size)
            part = report.with_suffix(".half")
            part.write_text(json.dumps(answer), encoding="utf-8")
            part.replace(report)
        kept = json.loads(report.read_text(encoding="utf-8"))
        return Built(
            index=index,
            path=path,
            rows=size,
            original=kept["original"],
            quantized=kept["quantized"],
            graph=kept["graph"],
            cpu_seconds=kept["build_cpu_seconds"],
        )

    def measure(
        self,
        ways: Sequence[tuple[Built, SearchConfig]],
        questions: Questions,
        k: int,
        *,
        rounds: int = 1,
        blocks: int = 3,
    ) -> list[Trial]:
        """Search in each of these ways, on one thread, taking turns.

        Args:
            ways: Shards, and how each is searched.
            questions: What for.
            k: How many to find.
            rounds: How often all is repeated.
            blocks: How many turns a round has.

        Raises:
            StoreError: if the engine fails.
        """
        if not ways:
            return []
        paths = sorted({str(built.path) for built, _ in ways})
        asked = self._folder / f"questions-{os.getpid()}.npy"
        found = self._folder / f"found-{os.getpid()}.npy"
        np.save(asked, questions.vectors)
        answer = self._run(
            do="measure",
            paths=paths,
            distance=self._distance,
            trials=[[paths.index(str(built.path)), way.to_dict()] for built, way in ways],
            questions=str(asked),
            filters=_as_json(questions),
            k=k,
            rounds=rounds,
            blocks=blocks,
            found=str(found),
        )
        hits = np.load(found, allow_pickle=False)
        return [
            Trial(
                found=hits[n],
                cpu_ms=tuple(1e3 * seconds for seconds in answer["cpu"][n]),
                p50_ms=1e3 * answer["p50"][n],
                p95_ms=1e3 * answer["p95"][n],
            )
            for n in range(len(ways))
        ]

    def allowed(self, built: Built, questions: Questions) -> "list[NDArray[np.bool_] | None]":
        """Return for each question which vectors its filter lets through; None for all.

        Raises:
            StoreError: if the engine fails.
        """
        if not questions.filtered:
            return [None] * len(questions)
        said = [json.dumps(one, sort_keys=True) for one in _as_json(questions)]
        kinds = sorted({one for one in said if one != "null"})
        answer = self._run(do="match", path=str(built.path), filters=list(map(json.loads, kinds)))
        masks = {}
        for kind, rows in zip(kinds, answer["rows"], strict=True):
            masks[kind] = np.zeros(built.rows, bool)
            masks[kind][rows] = True
        return [masks.get(one) for one in said]

    def drop(self, built: Built) -> None:
        """Delete a shard's files, but not what is known of it."""
        shutil.rmtree(built.path, ignore_errors=True)
        built.path.with_suffix(".json").unlink(missing_ok=True)

    def _write(self) -> None:
        if self._written:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(self._vectors.tobytes())
        payloads = json.dumps(list(map(dict, self._payloads)))
        digest.update(json.dumps([self._distance, self._payload_indexes, payloads]).encode())
        mark = self._folder / "of.txt"
        if not mark.exists() or mark.read_text(encoding="utf-8") != digest.hexdigest():
            for old in (*self._folder.glob("shard-*"), *self._folder.glob("half-*")):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            np.save(self._folder / "vectors.npy", self._vectors)
            if self._payloads:
                (self._folder / "payloads.json").write_text(payloads, encoding="utf-8")
            mark.write_text(digest.hexdigest(), encoding="utf-8")
        self._written = True

    def _run(self, **job: Any) -> dict[str, Any]:
        self._jobs += 1
        path = self._folder / f"job-{os.getpid()}-{self._jobs}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "costwise_core.qdrant.sandbox_child", str(path)]
        # The child imports from where this process does, also where nothing is installed.
        paths = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
        answer = path.with_suffix(".done")
        path.unlink()
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise StoreError(f"a sandbox process ended with {done.returncode}: {last}")
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        self.cpu_seconds += result["cpu_seconds"]
        return result


def workshop(folder: Path) -> Path:
    """Return the folder that a sandbox makes: the one around it may hold files of the user's.

    Example:
        >>> workshop(Path("kept")).name
        'costwise-sandbox'
    """
    return folder / "costwise-sandbox"


def _as_json(questions: Questions) -> list[Any]:
    return [one and one.model_dump(mode="json", exclude_none=True) for one in questions.filters]


def _sizes(path: Path, original: int, rows: int) -> dict[str, float]:
    """Return bytes per vector of the parts, from the files of the segments that have an index."""
    quantized = graph = 0
    for file in path.glob("segments/*/*/*"):
        if (
            not (file.parent.parent / "vector_index" / "links_compressed.bin").exists()
            and not (file.parent.parent / "vector_index" / "links.bin").exists()
        ):
            continue
        if file.parent.name == "vector_index":
            graph += file.stat().st_size
        elif file.name in ("quantized.data", "quantized.meta.json"):
            quantized += file.stat().st_size
    return {"original": original / rows, "quantized": quantized / rows, "graph": graph / rows}
