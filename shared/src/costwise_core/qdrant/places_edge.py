"""What applying a plan asks of a shard of Qdrant's engine in a folder.

Names are paths. The shard in use always lies in the path the user gave; what it is switched for,
and what was switched off, lie beside it under the same name with an ending.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import StoreError, StoreUnavailableError
from costwise_core.qdrant.changes import Json, disables, matches, settings
from costwise_core.qdrant.copying import Point, Points
from costwise_core.qdrant.edge_folder import copied
from costwise_core.qdrant.edge_optimize import optimized
from costwise_core.qdrant.edge_points import record_of
from costwise_core.qdrant.edge_settings import as_edge_config
from costwise_core.qdrant.extras import client_models, edge_module
from costwise_core.qdrant.places import wanted
from costwise_core.qdrant.target_edge import EdgeTarget
from costwise_core.qdrant.targets import Target
from costwise_core.stores.edge_engine import calmly

__all__ = ["EdgePlace"]

_CONFIG: Final = "edge_config.json"
_NEW: Final = "new"
_OLD: Final = "old"
_BATCH: Final = 1_000


class EdgePlace:
    """A folder. Everything is built in another process, which needs the shard closed meanwhile.

    Args:
        target: The shard; it is closed, and opens again when it is asked.
    """

    def __init__(self, target: EdgeTarget) -> None:
        self._target = target
        self._path = Path(target.path).absolute()
        self._shards: dict[str, Any] = {}
        self._targets: list[EdgeTarget] = [target]

    def name(self) -> str:
        """Return the shard's path, put back in its place if a switch was cut short."""
        if not self._path.exists():
            for ending in (_NEW, _OLD):
                for beside in sorted(
                    self._path.parent.glob(f"{escape(self._path.name)}.*.{ending}")
                ):
                    beside.rename(self._path)
                    return str(self._path)
        return str(self._path)

    def target(self, name: str) -> Target:
        """Return the shard at a path."""
        self.close()
        if name != str(self._path):
            self._targets.append(EdgeTarget(name, self._target.vector))
            return self._targets[-1]
        return self._target

    def change(self, name: str, body: Json) -> None:
        """Build the shard with other settings, in another process.

        Quantization cannot be taken away where it is, so for that the points move to a new shard.
        """
        if not body:
            return
        whole = settings(self.target(name).inspect(), body)
        self.close()
        if disables(body):
            self._remake(name, whole)
        else:
            optimized(Path(name), whole)

    def settle(self, name: str, body: Json, *, indexed: float) -> str:
        """Build a shadow, and say how it looks then; what `change` was asked for is built already.

        Raises:
            StoreError: if it is not what was asked for.
        """
        if name != str(self._path):
            whole = settings(self.target(name).inspect(), {})
            self.close()
            optimized(Path(name), whole)
        target = self.target(name)
        seen, status = target.inspect(), target.status()
        if not matches(seen, body) or status.indexed_vectors < wanted(seen, status.points, indexed):
            raise StoreError(
                f"{name} was built, and is not as asked: {seen.vector.index}, "
                f"{status.indexed_vectors:,} of {status.points:,} vectors indexed."
            )
        return f"built: {status.indexed_vectors:,} vectors indexed in {status.segments} segments"

    def snapshot(self, name: str) -> str:
        """Copy the folder, holes left out: the engine itself makes no snapshots here."""
        self.close()
        into = Path(f"{name}.snapshot-{uuid.uuid4().hex[:8]}")
        copied(Path(name), into)
        return str(into)

    def schemas(self) -> Json:
        """Return the payload indexes: field -> kind."""
        return dict(self._target.inspect().payload_indexes)

    def create(self, name: str, like: Json, indexes: Json) -> None:
        """Make an empty shard with payload indexes, unless there is one at this path."""
        edge = edge_module()
        if not (Path(name) / _CONFIG).exists():
            shutil.rmtree(name, ignore_errors=True)
            config = as_edge_config(client_models().CreateCollection(**like))
            self.close()
            self._shards[name] = calmly(edge.EdgeShard.create, name, config)
        shard = self._shard(name)
        for field, kind in indexes.items():
            schema = getattr(edge.PayloadSchemaType, kind.capitalize())
            calmly(shard.update, edge.UpdateOperation.create_field_index(field, schema))

    def points(self, name: str) -> Points:
        """Return the points of a shard, which is locked from here on."""
        return _Edge(self._shard(name))

    def shadow(self, ident: str) -> str:
        """Return the path of a second shard beside this one."""
        return f"{self._path}.{ident}.{_NEW}"

    def free(self) -> int | None:
        """Return the bytes that are free on its disk."""
        return shutil.disk_usage(self._path.parent).free

    def switch(self, old: str, new: str) -> tuple[str, str]:  # noqa: ARG002 - it is the path
        """Put another shard into the path, and what was there beside it."""
        self.close()
        stem, _, ending = new.rpartition(".")
        beside = Path(f"{stem}.{_OLD if ending == _NEW else _NEW}")
        if Path(new).exists():
            if self._path.exists():
                self._path.rename(beside)
            Path(new).rename(self._path)
        return str(beside), str(self._path)

    def drop(self, name: str) -> None:
        """Delete a shard, if there is one."""
        self.close()
        shutil.rmtree(name, ignore_errors=True)

    def close(self) -> None:
        """Let others open the shards."""
        for shard in self._shards.values():
            calmly(shard.flush)
            calmly(shard.close)
        self._shards.clear()
        for target in self._targets:
            target.close()
        del self._targets[1:]

    def _remake(self, name: str, whole: Json) -> None:
        """Move all points to a new shard, and it to the path; done again from the start if cut."""
        new = f"{name}.again.{_NEW}"
        self.drop(new)
        self.create(new, whole, self.schemas())
        into = self.points(new)
        for page in self.points(name).pages(_BATCH):
            into.put(page)
        self.close()
        optimized(Path(new), whole)
        late, _ = self.switch(name, new)
        self.drop(late)

    def _shard(self, name: str) -> Any:
        if name not in self._shards:
            for target in self._targets:
                target.close()
            try:
                self._shards[name] = calmly(edge_module().EdgeShard.load, name)
            except Exception as error:
                raise StoreUnavailableError(f"{name} cannot be opened: {error}") from error
        return self._shards[name]


class _Edge:
    def __init__(self, shard: Any) -> None:
        self._shard = shard

    def pages(self, size: int) -> Iterator[list[Point]]:
        edge, offset = edge_module(), None
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=size, with_payload=True, with_vector=True
            )
            records, offset = calmly(self._shard.scroll, request)
            yield [_point(record) for record in records]
            if offset is None:
                return

    def get(self, idents: Sequence[int | str]) -> list[Point]:
        return [_point(one) for one in calmly(self._shard.retrieve, list(idents), True, True)]  # noqa: FBT003

    def put(self, points: Sequence[Point]) -> None:
        edge = edge_module()
        made = [
            edge.Point(id=p.ident, vector=_vector(p.vector), payload=p.payload or {})
            for p in points
        ]
        calmly(self._shard.update, edge.UpdateOperation.upsert_points(made))

    def drop(self, idents: Sequence[int | str]) -> None:
        if idents:
            calmly(self._shard.update, edge_module().UpdateOperation.delete_points(list(idents)))


def _point(record: Any) -> Point:
    whole = record_of(record).model_dump(mode="json", include={"id", "vector", "payload"})
    return Point(ident=whole["id"], vector=whole["vector"], payload=whole["payload"])


def _vector(said: Any) -> Any:
    if isinstance(said, dict):
        if set(said) == {"indices", "values"}:
            return edge_module().SparseVector(**said)
        return {name: _vector(one) for name, one in said.items()}
    return said if said is not None else {}
