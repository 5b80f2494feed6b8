"""The folder of a client while it is open: claimed by one process, opened as it is used."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import (
    ConfigError,
    MissingExtraError,
    StoreError,
    StoreUnavailableError,
    VectorError,
    nearest,
)
from costwise_core.qdrant.edge_folder import Kept, kept_in
from costwise_core.qdrant.edge_shard import OpenCollection
from costwise_core.stores.edge_engine import locked

if TYPE_CHECKING:
    import sqlite3

    from qdrant_client import models

__all__ = ["Home"]

_HARMLESS: Final = frozenset(
    {"wait", "ordering", "consistency", "timeout", "parallel", "method", "max_retries"}
)
"""Arguments about a network or several machines; here every write is waited for."""


class Home:
    """The collections of a folder; thread-safe. The constructor opens nothing.

    Args:
        path: The folder, made when first used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gate = threading.RLock()
        self._lock: sqlite3.Connection | None = None
        self._owner = os.getpid()
        self._kept: dict[str, Kept] = {}
        self._open: dict[str, OpenCollection] = {}
        self._closed = False

    def names(self) -> list[str]:
        """Return which collections there are, sorted."""
        return sorted(self._known())

    def make(self, name: str, settings: "models.CreateCollection") -> None:
        """Make a collection.

        Raises:
            ConfigError: if it already exists or has no name.
        """
        with self._gate:
            if not name:
                raise ConfigError("a collection needs a name.")
            if name in self._known():
                raise ConfigError("the collection already exists.")
            kept = Kept.new(self._folder, name, settings.model_dump(mode="json"))
            self._open[name] = OpenCollection.made(kept)
            self._kept[name] = kept

    def drop(self, name: str) -> bool:
        """Delete a collection and its files; return whether it was there."""
        with self._gate:
            kept = self._known().pop(name, None)
            if kept is None:
                return False
            kept.forget()
            if one := self._open.pop(name, None):
                one.close()
                kept.forget()  # what closing wrote
            return True

    @contextmanager
    def using(
        self, call: str, name: str, said: Mapping[str, Any] | None = None
    ) -> Iterator[OpenCollection]:
        """Give a collection to a call, opening it if need be; see `calling`."""
        with self.calling(call, name, said):
            with self._gate:
                known = self._known()
                if name not in known:
                    raise ConfigError(f"there is no such collection here.{nearest(name, known)}")
                if name not in self._open:
                    self._open[name] = OpenCollection(known[name])
                one = self._open[name]
            yield one

    @contextmanager
    def calling(
        self, call: str, name: str, said: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        """Refuse arguments that need a server, and say in each error which call it was.

        Raises:
            ConfigError: if an argument means nothing here.
        """
        where = f"{call}({name!r})" if name else call
        try:
            _refuse(said or {})
            yield
        except MissingExtraError:
            raise
        except (ConfigError, VectorError, StoreError) as error:
            raise type(error)(f"{where}: {error}") from error.__cause__
        except OverflowError as error:  # the engine was given a limit below zero, for one
            raise ConfigError(f"{where}: a number is out of range ({error}).") from None

    def close(self) -> None:
        """Write everything to disk and let others have the folder; a fork leaves it alone."""
        if os.getpid() != self._owner:
            return
        with self._gate:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    @property
    def _folder(self) -> Path:
        return self._path / "collections"

    def _known(self) -> dict[str, Kept]:
        """Return what is in the folder, which the first call claims."""
        if self._lock is not None and os.getpid() != self._owner:
            raise StoreUnavailableError(
                f"this client was opened by process {self._owner} and this is a fork of it; one "
                "process at a time has the folder. Open it after forking, in one process."
            )
        with self._gate:
            if self._closed:
                raise StoreUnavailableError("this client is closed; make a new one.")
            if self._lock is None:
                self._claim()
            return self._kept

    def _claim(self) -> None:
        if (self._path / "meta.json").exists():
            raise ConfigError(
                f"{self._path} was written by QdrantClient(path=...); import it with "
                "EdgeQdrantClient.from_local(folder, into)."
            )
        try:
            lock = locked(self._path)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"{error} One client at a time has it: share that one among threads, give each "
                "process a folder of its own, or run a Qdrant server."
            ) from error
        try:
            self._folder.mkdir(exist_ok=True)
            self._kept = {kept.name: kept for kept in kept_in(self._folder)}
        except BaseException:
            with suppress(Exception):
                lock.close()
            raise
        self._lock, self._owner = lock, os.getpid()


def _refuse(said: Mapping[str, Any]) -> None:
    for argument, value in said.items():
        if argument in _HARMLESS or (argument == "shard_key_selector" and value is None):
            continue
        raise ConfigError(f"{argument}={value!r} needs a server; leave it out.")
