"""A folder of collections: who owns it, what is in it, and which files of it count.

A collection is a folder with a small file of settings, which names the shard that counts. That file
is replaced in one step, so a process that is killed leaves the old collection or the new one.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from costwise_core.errors import StoreError, StoreUnavailableError, StoreVersionError

__all__ = ["Kept", "copied", "engine_version", "fresh_shard", "kept_in", "swept"]

_FORMAT: Final = 1
_FILE: Final = "collection.json"
_SHARD: Final = "shard-"
_MOST_BYTES: Final = 16 * 2**20
_COPY_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is on disk about a collection.

    Args:
        name: The collection's.
        folder: Where its files are.
        shard: The name of the folder in it that counts.
        settings: As `create_collection` was told, in JSON.
        pending: Whether they were changed since the shard was built.
    """

    name: str
    folder: Path
    shard: str
    settings: dict[str, Any]
    pending: bool = False

    @classmethod
    def new(cls, root: Path, name: str, settings: dict[str, Any]) -> Self:
        """Return a collection that is not on disk yet; two names never share a folder."""
        words = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]
        folder = root / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return cls(name=name, folder=folder, shard=fresh_shard(), settings=settings)

    @property
    def path(self) -> Path:
        """Where the shard that counts is."""
        return self.folder / self.shard

    def write(self) -> Self:
        """Make it what counts, in one step, and return it.

        Raises:
            StoreUnavailableError: if it cannot be written.
        """
        said = {
            "format": _FORMAT,
            "edge": engine_version(),
            "name": self.name,
            "shard": self.shard,
            "pending": self.pending,
            "settings": self.settings,
        }
        new = self.folder / f"{_FILE}.new"
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(said, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.folder / _FILE)
        except OSError as error:
            raise StoreUnavailableError(f"{self.folder} cannot be written: {error}.") from error
        return self

    def forget(self) -> None:
        """Delete the collection: first what makes it count, then the files."""
        (self.folder / _FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def moved(self, shard: str) -> Self:
        """Return it with another shard, built as the settings say."""
        return replace(self, shard=shard, pending=False)


def kept_in(root: Path) -> Iterator[Kept]:
    """Yield the collections of a folder.

    Raises:
        StoreVersionError: if one was written by another version of the engine or of this package.
        StoreError: if one cannot be read.
    """
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        file = folder / _FILE
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)  # made or deleted halfway
            continue
        yield _read(file)


def swept(kept: Kept) -> Kept:
    """Delete the shards of a collection that do not count, and return it."""
    for path in kept.folder.glob(f"{_SHARD}*"):
        if path.name != kept.shard:
            shutil.rmtree(path, ignore_errors=True)
    return kept


def fresh_shard() -> str:
    """Return a name for a shard that no shard has had."""
    return f"{_SHARD}{secrets.token_hex(8)}"


def engine_version() -> str:
    """Return the version of the engine that is installed.

    Example:
        >>> engine_version().count(".")
        2
    """
    return version("qdrant-edge-py")


def copied(source: Path, target: Path) -> None:
    """Copy a shard, leaving its holes holes: its files claim many times what they hold.

    Raises:
        StoreUnavailableError: if the disk lacks the room for the copy and what is built from it.
    """
    files = [path for path in source.rglob("*") if path.is_file()]
    # Blocks are of 512 bytes; where the system does not count them, the claimed size is the bound.
    held = sum(getattr(s := path.stat(), "st_blocks", s.st_size // 512 + 1) * 512 for path in files)
    free = shutil.disk_usage(source).free
    if free < 2 * held:
        raise StoreUnavailableError(
            f"building the index takes about {2 * held / 2**20:,.0f} MiB beside the collection, "
            f"{free / 2**20:,.0f} MiB are free."
        )
    for path in files:
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        _copied_file(path, new)


def _copied_file(source: Path, target: Path) -> None:
    hole = bytes(_COPY_BYTES)
    with source.open("rb") as old, target.open("wb") as new:
        while part := old.read(_COPY_BYTES):
            if part == hole[: len(part)]:
                new.seek(len(part), os.SEEK_CUR)
            else:
                new.write(part)
        new.truncate(new.tell())


def _read(file: Path) -> Kept:
    if file.stat().st_size > _MOST_BYTES:
        raise StoreError(f"{file} has more than {_MOST_BYTES:,} bytes; it was not written here.")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        form, edge = said["format"], str(said["edge"])
        kept = Kept(
            name=str(said["name"]),
            folder=file.parent,
            shard=str(said["shard"]),
            settings=dict(said["settings"]),
            pending=bool(said["pending"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} cannot be read: {error!r}. Restore it from a copy.") from error
    if form != _FORMAT:
        raise StoreVersionError(f"{file} has the format {form!r}; this costwise reads {_FORMAT}.")
    if edge.split(".")[:2] != engine_version().split(".")[:2]:
        raise StoreVersionError(
            f"{kept.name!r} was written by qdrant-edge-py {edge}, installed is {engine_version()}, "
            f"and files are not promised to be read across versions. Install {edge}, copy the "
            "collections out with EdgeQdrantClient.from_client, or build them again."
        )
    if not kept.shard.startswith(_SHARD) or Path(kept.shard).name != kept.shard:
        raise StoreError(f"{file} names a shard outside its folder.")
    return kept
