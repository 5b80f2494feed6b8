"""A small edge shard and a plan for it, to try out what changes collections."""

from pathlib import Path
from typing import TYPE_CHECKING

from costwise_core.qdrant.extras import edge_module
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from costwise_core.qdrant.plan import TuningPlan

__all__ = ["clustered", "small_plan", "small_shard"]

_POINTS = 400
_DIMS = 16


def clustered(rows: int, dims: int = _DIMS, *, seed: int = 0) -> "NDArray[np.float32]":
    """Return vectors that lie in groups, as those of texts do: (rows, dims).

    Example:
        >>> clustered(3, 4).shape
        (3, 4)
    """
    import numpy as np  # noqa: PLC0415

    middle = np.random.default_rng(7).normal(size=(20, dims))
    dice = np.random.default_rng(seed)
    noise = dice.normal(scale=0.4, size=(rows, dims))
    found: NDArray[np.float32] = (middle[dice.integers(0, 20, rows)] + noise).astype(np.float32)
    return found


def small_shard(folder: str | Path, *, points: int = _POINTS) -> str:
    """Make an edge shard with an index in a folder, and return its path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(small_shard(folder)).name
        'shard'
    """
    edge = edge_module()
    path = str(Path(folder) / "shard")
    config = IndexConfig().for_edge(size=_DIMS, distance="Cosine", threads=1)
    shard = edge.EdgeShard.create(path, config)
    rows = clustered(points).tolist()
    made = [edge.Point(id=n, vector=row, payload={"page": n}) for n, row in enumerate(rows)]
    shard.update(edge.UpdateOperation.upsert_points(made))
    shard.flush()
    shard.close()
    return path


def small_plan(
    target: Target,
    *,
    index: IndexConfig | None = None,
    search: SearchConfig | None = None,
    recall_target: float = 0.9,
    questions: int = 100,
) -> "TuningPlan":
    """Return a plan for a target, as if it had been tuned.

    Args:
        target: Its vector is asked.
        index: What to recommend; int8 if None.
        search: Likewise; enough to find nearly everything if None.
        recall_target: The recall to reach.
        questions: How many are to confirm it.

    Example:
        >>> import tempfile
        >>> from costwise_core.qdrant.target_edge import EdgeTarget
        >>> with tempfile.TemporaryDirectory() as folder, EdgeTarget(small_shard(folder)) as target:
        ...     print(small_plan(target).index)
        int8, m 16, ef_construct 100, vectors cached
    """
    from costwise_core.qdrant.plan import Measured, TuningPlan  # noqa: PLC0415
    from costwise_core.qdrant.samples import Questions  # noqa: PLC0415

    seen = target.inspect()
    space = seen.vector

    def measured(index: IndexConfig, search: SearchConfig) -> Measured:
        return Measured(
            index=index, search=search, questions=questions, recall=1.0, p5=1.0, below_half=0.0
        )

    return TuningPlan(
        keep=False,
        why="an example",
        recommended=measured(
            index or IndexConfig(quantization="int8"),
            search or SearchConfig(hnsw_ef=128, rescore=True, oversampling=2.0),
        ),
        baseline=measured(space.index, SearchConfig()),
        k=5,
        recall_target=recall_target,
        confidence=0.95,
        collection=seen.collection,
        vector=space.name,
        points=seen.points,
        sampled=seen.points,
        dims=space.size,
        distance=space.distance,
        confirm=Questions.of(clustered(questions, space.size, seed=1)),
        tune_questions=questions,
    )
