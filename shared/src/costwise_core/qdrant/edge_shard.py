"""One open collection: many readers, one writer at a time, and a new index swapped in under both.

While an index is built from a copy, the collection goes on answering and taking writes. The writes
are kept and done again on the copy before it takes over, so nothing that was acknowledged is lost
whenever the process dies: until the swap the old shard counts, and has them all.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant.edge_folder import Kept, copied, fresh_shard, swept
from costwise_core.qdrant.edge_optimize import optimized
from costwise_core.qdrant.edge_points import Spaces
from costwise_core.qdrant.edge_settings import as_edge_config, is_quantized, spaces_of
from costwise_core.qdrant.extras import client_models, edge_module
from costwise_core.stores.edge_engine import calmly

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["OpenCollection"]

_CLOSED: Final = "the collection was closed or deleted meanwhile."
_FEW: Final = 32
"""So many kept writes are done again while writers wait; more are done before, if they can be."""
_ROUNDS: Final = 3
"""So often is that tried: a writer that never rests would be followed forever."""


class OpenCollection:
    """A collection whose shard is open in this process; thread-safe.

    Args:
        kept: What is on disk about it.

    Raises:
        StoreUnavailableError: if its shard cannot be opened.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = swept(kept)
        self.settings: models.CreateCollection = client_models().CreateCollection(**kept.settings)
        self.spaces: Spaces = spaces_of(self.settings)
        self.quantized = is_quantized(self.settings)
        self._live = _Live(kept.path)
        self._writing = threading.RLock()
        self._building = threading.Lock()
        self._closed = False
        self._since: list[Any] | None = None
        """The writes since the copy was taken that an index is being built from."""

    @classmethod
    def made(cls, kept: Kept) -> "OpenCollection":
        """Make a collection on disk and open it.

        Raises:
            StoreError: if it cannot be made.
        """
        shutil.rmtree(kept.folder, ignore_errors=True)  # of a deletion cut short
        settings = client_models().CreateCollection(**kept.settings)
        try:
            kept.folder.mkdir(parents=True)
            shard = calmly(edge_module().EdgeShard.create, str(kept.path), as_edge_config(settings))
            shard.flush()
            shard.close()
        except Exception as error:
            shutil.rmtree(kept.folder, ignore_errors=True)
            raise StoreError(f"it cannot be made: {error}") from error
        return cls(kept.write())

    def ask(self, call: str, *arguments: Any) -> Any:
        """Call a method of the shard that changes nothing."""
        with self._live_now() as live:
            return _engine(live.shard, call, *arguments)

    def update(self, operation: Any) -> None:
        """Change the shard; the change survives a `kill -9` from here on."""
        with self._writing, self._live_now() as live:
            _engine(live.shard, "update", operation)
            if self._since is not None:
                self._since.append(operation)

    def vector_of(self, ident: int | UUID, name: str) -> Any:
        """Return a stored vector of a point, None if it has none.

        Raises:
            ConfigError: if there is no such point.
        """
        found = self.ask("retrieve", [ident], False, True)  # noqa: FBT003 - the engine's order
        if not found:
            raise ConfigError(f"there is no point {ident}.")
        vectors = found[0].vector
        if isinstance(vectors, dict):
            return vectors.get(name)
        return vectors if not name else None

    def configure(self, settings: "models.CreateCollection") -> None:
        """Keep other settings, for `optimize` to build."""
        with self._writing:
            self._keep(replace(self.kept, settings=settings.model_dump(mode="json"), pending=True))

    def optimize(self) -> bool:
        """Build the index in another process, swap it in, and return whether anything changed.

        Raises:
            StoreError: if it could not be built; the collection is as it was.
        """
        with self._building:
            kept = self.kept
            new = kept.folder / fresh_shard()
            try:
                with self._writing:
                    kept, self._since = self.kept, []
                    self.ask("flush")
                    copied(kept.path, new)
                changed = optimized(new, kept.settings)
                if changed or kept.pending:
                    self._swap(new, kept)
            except OSError as error:
                raise StoreUnavailableError(f"the index cannot be built: {error}.") from error
            finally:
                with self._writing:
                    self._since = None
                for path in (new, kept.path):
                    if path != self.kept.path:
                        shutil.rmtree(path, ignore_errors=True)
        return changed

    def close(self) -> None:
        """Write everything to disk and close the shard once nobody reads it."""
        with self._writing:
            self._closed = True
            self._live.retire()

    def _swap(self, path: Path, built: Kept) -> None:
        fresh = _Live(path)
        try:
            for _ in range(_ROUNDS):
                if not self._done_again(fresh):
                    break
            with self._writing:
                self._done_again(fresh)
                _engine(fresh.shard, "flush")
                # Settings changed while this was built are still to be built.
                later = self.kept.settings != built.settings
                self._keep(replace(self.kept.moved(path.name), pending=later))
                self._since = None
                old, self._live = self._live, fresh
        except BaseException:
            fresh.retire()
            raise
        old.retire()

    def _done_again(self, fresh: "_Live") -> bool:
        """Do the kept writes on the new shard; return whether many came meanwhile."""
        with self._writing:
            todo, self._since = self._since or [], []
        for operation in todo:
            _engine(fresh.shard, "update", operation)
        with self._writing:
            return len(self._since) > _FEW

    def _keep(self, kept: Kept) -> None:
        if self._closed:  # the folder may be another collection's by now
            raise StoreUnavailableError(_CLOSED)
        self.kept = kept.write()
        self.settings = client_models().CreateCollection(**kept.settings)
        self.quantized = self.quantized or is_quantized(self.settings)

    @contextmanager
    def _live_now(self) -> Iterator["_Live"]:
        while not (live := self._live).enter():
            if live is self._live:
                raise StoreUnavailableError(_CLOSED)
        try:
            yield live
        finally:
            live.leave()


class _Live:
    """An open shard that closes when it is retired and nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self.shard: Any = calmly(edge_module().EdgeShard.load, str(path))
        except Exception as error:
            raise StoreUnavailableError(f"{path} cannot be opened: {error}") from error
        self._path = path
        self._lock = threading.Lock()
        self._users = 1  # the collection itself
        self._retired = False

    def enter(self) -> bool:
        with self._lock:
            self._users += bool(self._users)
            return bool(self._users)

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            with suppress(Exception):  # the log on disk has what was not written elsewhere
                self.shard.flush()
            with suppress(Exception):
                self.shard.close()

    def retire(self) -> None:
        with self._lock:
            if self._retired:
                return
            self._retired = True
        self.leave()


def _engine(shard: Any, call: str, *arguments: Any) -> Any:
    """Call the engine, whose errors are all of one kind, and raise one of ours."""
    try:
        return calmly(getattr(shard, call), *arguments)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise StoreError(str(error).rstrip(".") + ".") from error
