"""Collections from elsewhere: another client's by scrolling, a local-mode folder's as data."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, StoreError, nearest
from costwise_core.qdrant.edge_pickled import read_point
from costwise_core.qdrant.extras import client_models

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["from_client", "from_local"]

_PAGE: Final = 256
_MOST_META: Final = 16 * 2**20
_SERVER_ONLY: Final = {
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "strict_mode_config",
    "wal_config",
    "init_from",
}


def from_local(folder: Path, into: Path) -> None:
    """Import a folder that `QdrantClient(path=...)` wrote; see `EdgeQdrantClient.from_local`."""
    meta = folder / "meta.json"
    if not meta.is_file():
        raise ConfigError(
            f"{folder} is no folder of QdrantClient(path=...): it has no meta.json. For a server "
            "or a client that is open, use EdgeQdrantClient.from_client."
        )
    if meta.stat().st_size > _MOST_META:
        raise StoreError(f"{meta} has more than {_MOST_META:,} bytes.")
    try:
        collections = dict(json.loads(meta.read_text(encoding="utf-8"))["collections"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{meta} cannot be read: {error!r}.") from error
    for name in collections:
        if Path(name).name != name:
            raise StoreError(f"{meta} names a collection outside its folder: {name!r}.")
    _imported(
        into,
        (
            (name, _settings(said), _rows(folder / "collection" / name), [])
            for name, said in collections.items()
        ),
    )


def from_client(source: Any, into: Path, collections: Sequence[str] | None) -> None:
    """Copy collections from another client; see `EdgeQdrantClient.from_client`."""
    known = [one.name for one in source.get_collections().collections]
    for name in collections or ():
        if name not in known:
            raise ConfigError(f"the client has no collection {name!r}.{nearest(name, known)}")
    _imported(into, (_scrolled(source, name) for name in collections or known))


def _imported(into: Path, found: Iterable[tuple[str, dict[str, Any], Iterable[Any], Any]]) -> None:
    """Make the new folder beside its place, and move it there when it is whole."""
    from costwise_core.qdrant.edge_client import EdgeQdrantClient  # noqa: PLC0415

    if into.exists():
        raise ConfigError(f"{into} exists; an import makes a new folder.")
    part = into.with_name(f"{into.name}.importing")
    rmtree(part, ignore_errors=True)
    try:
        with EdgeQdrantClient(part) as client:
            for name, settings, points, indexes in found:
                client.create_collection(name, **settings)
                for field, schema in indexes:
                    client.create_payload_index(name, field, schema)
                client.upload_points(name, points, _PAGE)
        part.rename(into)
    finally:
        rmtree(part, ignore_errors=True)


def _scrolled(source: Any, name: str) -> tuple[str, dict[str, Any], Iterator[Any], list[Any]]:
    info = source.get_collection(name)
    params, config = info.config.params, info.config
    models = client_models()
    settings = {
        "vectors_config": params.vectors,
        "sparse_vectors_config": params.sparse_vectors,
        "on_disk_payload": params.on_disk_payload,
        "hnsw_config": models.HnswConfigDiff(**config.hnsw_config.model_dump()),
        "quantization_config": config.quantization_config,
    }
    indexes = [(field, one.params or one.data_type) for field, one in info.payload_schema.items()]
    return name, settings, _pages(source, name), indexes


def _pages(source: Any, name: str) -> "Iterator[models.PointStruct]":
    make, offset = client_models().PointStruct.model_construct, None
    while True:
        page, offset = source.scroll(
            name, limit=_PAGE, offset=offset, with_payload=True, with_vectors=True
        )
        for record in page:
            vector = {} if record.vector is None else record.vector
            yield make(id=record.id, vector=vector, payload=record.payload)
        if offset is None:
            return


def _settings(said: dict[str, Any]) -> dict[str, Any]:
    models = client_models()
    try:
        known = models.CreateCollection(
            **{name: value for name, value in said.items() if name not in _SERVER_ONLY}
        )
    except (TypeError, ValueError) as error:
        raise StoreError(f"the settings of a collection cannot be read: {error}") from error
    return {
        "vectors_config": known.vectors,
        "sparse_vectors_config": known.sparse_vectors,
        "on_disk_payload": known.on_disk_payload,
        "hnsw_config": known.hnsw_config,
        "optimizers_config": known.optimizers_config,
        "quantization_config": known.quantization_config,
    }


def _rows(folder: Path) -> "Iterator[models.PointStruct]":
    file = folder / "storage.sqlite"
    if not file.is_file():
        return
    make = client_models().PointStruct.model_construct
    # The last of several rows of one point is its latest, and an upsert keeps the last.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT point FROM points ORDER BY rowid")
        while page := list(islice(rows, _PAGE)):
            for (raw,) in page:
                point = read_point(bytes(raw))
                yield make(id=point["id"], vector=point["vector"], payload=point["payload"])
