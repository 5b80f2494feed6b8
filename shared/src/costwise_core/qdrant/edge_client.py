"""Qdrant's own engine in this process, behind the calls of `QdrantClient` that stores make."""

# ruff: noqa: FBT001, FBT002 - arguments are as QdrantClient has them

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from costwise_core.errors import nearest
from costwise_core.qdrant.edge_filters import as_filter
from costwise_core.qdrant.edge_home import Home
from costwise_core.qdrant.edge_mirror import mirrored
from costwise_core.qdrant.edge_points import (
    as_point,
    in_rows,
    plain,
    point_id,
    points_of,
    record_of,
    selected,
    shown_id,
)
from costwise_core.qdrant.edge_queries import Reader, answers_to, as_order, as_shown
from costwise_core.qdrant.edge_settings import as_field_schema, changed, described, settings_of
from costwise_core.qdrant.extras import client_models, edge_module

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

__all__ = ["EdgeQdrantClient"]

_LIKE_SERVER: Final = "1.20.0"
"""qdrant-edge 0.9 has what this version brought, such as turbo with 8 bits."""


class EdgeQdrantClient:
    """Collections in a folder, searched by Qdrant's engine in this process, with no server.

    Give it to `langchain_qdrant.QdrantVectorStore(client=...)` or to LlamaIndex's
    `QdrantVectorStore(client=..., aclient=AsyncEdgeQdrantClient(...))` as it is. Calls take and
    return `qdrant_client.models`, as those of `QdrantClient` do; one that needs a server says so.

    A write that returned survives a `kill -9`. Searching compares with all vectors until `optimize`
    has built the graph and the quantized vectors, in a process of its own. One process at a time
    has the folder; its threads share one client.

    Args:
        path: The folder, made when first used. The constructor opens nothing.

    Raises:
        MissingExtraError: if qdrant-client or qdrant-edge-py is not installed.

    Example:
        >>> import tempfile
        >>> from qdrant_client import models
        >>> folder = tempfile.TemporaryDirectory()
        >>> with EdgeQdrantClient(folder.name) as client:
        ...     _ = client.create_collection(
        ...         "docs", vectors_config=models.VectorParams(size=2, distance="Cosine")
        ...     )
        ...     _ = client.upsert("docs", [
        ...         models.PointStruct(id=1, vector=[1.0, 0.0], payload={"year": 1999}),
        ...         models.PointStruct(id=2, vector=[0.0, 1.0], payload={"year": 2026}),
        ...     ])
        ...     [point.id for point in client.query_points("docs", [0.9, 0.1], limit=1).points]
        [1]
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        edge_module()
        client_models()
        self._home = Home(Path(path))

    @classmethod
    def from_local(cls, folder: str | os.PathLike[str], into: str | os.PathLike[str]) -> Self:
        """Import a folder that `QdrantClient(path=...)` wrote, and return a client of the new one.

        The points there are pickled. They are read as data, by a reader that knows only the few
        steps such points are made of: nothing in the folder is imported or run, and a folder with
        anything else in it is refused. The old folder is not changed.

        Args:
            folder: The one to read.
            into: The one to make; nothing may be there yet.

        Raises:
            ConfigError: if `folder` is no such folder or `into` exists.
            StoreError: if a point cannot be read; nothing is left at `into` then.
        """
        from costwise_core.qdrant.edge_import import from_local  # noqa: PLC0415

        from_local(Path(folder), Path(into))
        return cls(into)

    @classmethod
    def from_client(
        cls,
        client: "QdrantClient | EdgeQdrantClient",
        into: str | os.PathLike[str],
        *,
        collections: Sequence[str] | None = None,
    ) -> Self:
        """Copy collections from another client, by scrolling, and return a client of the copy.

        Args:
            client: Of a server, of local mode, or of another folder.
            into: The folder to make; nothing may be there yet.
            collections: Which; all without it.

        Raises:
            ConfigError: if `into` exists, or a collection needs what only a server has.
            StoreError: if a write fails; nothing is left at `into` then.
        """
        from costwise_core.qdrant.edge_import import from_client  # noqa: PLC0415

        from_client(client, Path(into), collections)
        return cls(into)

    def info(self) -> "models.VersionInfo":
        """Return the version of the server whose settings the engine here takes."""
        told: models.VersionInfo
        told = client_models().VersionInfo(title="qdrant-edge", version=_LIKE_SERVER)
        return told

    # --- collections ------------------------------------------------------------------------

    def collection_exists(self, collection_name: str, **said: Any) -> bool:
        """Return whether there is such a collection."""
        with self._home.calling("collection_exists", collection_name, said):
            return collection_name in self._home.names()

    def get_collections(self, **said: Any) -> "models.CollectionsResponse":
        """Return the names of all collections."""
        with self._home.calling("get_collections", "", said):
            found = [{"name": name} for name in self._home.names()]
            listed: models.CollectionsResponse
            listed = client_models().CollectionsResponse(collections=found)
            return listed

    def get_collection(self, collection_name: str, **said: Any) -> "models.CollectionInfo":
        """Return a collection's settings and counts; grey while changed settings are not built."""
        with self._home.using("get_collection", collection_name, said) as one:
            return described(one.settings, one.ask("info"), pending=one.kept.pending)

    def create_collection(
        self,
        collection_name: str,
        vectors_config: "models.VectorParams | Mapping[str, models.VectorParams] | None" = None,
        sparse_vectors_config: "Mapping[str, models.SparseVectorParams] | None" = None,
        **said: Any,
    ) -> bool:
        """Make a collection.

        Raises:
            ConfigError: if it already exists, or asks for what only a server has.
        """
        with self._home.calling("create_collection", collection_name):
            settings = settings_of(vectors_config, sparse_vectors_config, said)
            self._home.make(collection_name, settings)
            return True

    def recreate_collection(self, collection_name: str, *args: Any, **said: Any) -> bool:
        """Delete a collection if it exists, and make it anew."""
        self.delete_collection(collection_name)
        return self.create_collection(collection_name, *args, **said)

    def update_collection(self, collection_name: str, **said: Any) -> bool:
        """Change settings; `optimize` builds what they ask for.

        Raises:
            ConfigError: if a change is not possible in place, as to take quantization off.
        """
        with self._home.using("update_collection", collection_name) as one:
            one.configure(changed(one.settings, said))
            return True

    def delete_collection(self, collection_name: str, **said: Any) -> bool:
        """Delete a collection and its files; return whether it was there."""
        with self._home.calling("delete_collection", collection_name, said):
            return self._home.drop(collection_name)

    def optimize(self, collection_name: str) -> bool:
        """Build the graph and the quantized vectors, and return whether there was anything to do.

        A server does this by itself, again and again; here it is done when asked for, such as after
        an import. It takes about the collection's size twice over on disk meanwhile. Reading and
        writing go on, except for the moments of copying and of changing over. As on a server, a
        part below `indexing_threshold` (10,000 KB of vectors) gets no graph.

        Raises:
            StoreError: if it could not be built; the collection is as it was.
        """
        with self._home.using("optimize", collection_name) as one:
            return one.optimize()

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: Any = None,
        field_type: Any = None,
        **said: Any,
    ) -> "models.UpdateResult":
        """Index a payload field, so that filters on it are fast."""
        with self._home.using("create_payload_index", collection_name, said) as one:
            schema = as_field_schema(field_schema if field_schema is not None else field_type)
            one.update(edge_module().UpdateOperation.create_field_index(field_name, schema))
            return _done()

    def delete_payload_index(
        self, collection_name: str, field_name: str, **said: Any
    ) -> "models.UpdateResult":
        """Drop the index of a payload field."""
        with self._home.using("delete_payload_index", collection_name, said) as one:
            one.update(edge_module().UpdateOperation.delete_field_index(field_name))
            return _done()

    # --- writing ----------------------------------------------------------------------------

    def upsert(
        self,
        collection_name: str,
        points: Any,
        *,
        update_filter: "models.Filter | None" = None,
        update_mode: "models.UpdateMode | None" = None,
        **said: Any,
    ) -> "models.UpdateResult":
        """Add or replace points, all or none.

        Raises:
            VectorError: if a vector would be stored wrongly.
            ConfigError: if an id, a payload or a vector's name is wrong.
        """
        with self._home.using("upsert", collection_name, said) as one:
            made = [as_point(point, one.spaces) for point in points_of(points)]
            mode = mirrored(update_mode)
            change = edge_module().UpdateOperation.upsert_points(
                made, as_filter(update_filter), mode
            )
            if made:
                one.update(change)
            return _done()

    def upload_points(
        self,
        collection_name: str,
        points: "Iterable[models.PointStruct]",
        batch_size: int = 64,
        **said: Any,
    ) -> None:
        """Add or replace many points, some at a time; a broken batch leaves those before it."""
        source = iter(points)
        while batch := list(islice(source, batch_size)):
            self.upsert(collection_name, batch, **said)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[int | str | UUID] | None = None,
        batch_size: int = 64,
        **said: Any,
    ) -> None:
        """Add many points given column by column; without ids they get random ones."""
        self.upload_points(collection_name, in_rows(vectors, payload, ids), batch_size, **said)

    def update_vectors(
        self, collection_name: str, points: "Sequence[models.PointVectors]", **said: Any
    ) -> "models.UpdateResult":
        """Replace vectors of points, and leave the rest of them."""
        with self._home.using("update_vectors", collection_name, said) as one:
            make = edge_module().PointVectors
            made = [make(point_id(p.id), one.spaces.of_point(p.vector)) for p in points]
            one.update(edge_module().UpdateOperation.update_vectors(made))
            return _done()

    def delete_vectors(
        self, collection_name: str, vectors: Sequence[str], points: Any, **said: Any
    ) -> "models.UpdateResult":
        """Remove vectors of points, and leave the rest of them."""
        return self._changed(
            "delete_vectors", collection_name, said, points, "delete_vectors", list(vectors)
        )

    def delete(
        self, collection_name: str, points_selector: Any, **said: Any
    ) -> "models.UpdateResult":
        """Delete points by their ids or by a filter; unknown ids are ignored."""
        return self._changed("delete", collection_name, said, points_selector, "delete_points")

    def set_payload(
        self,
        collection_name: str,
        payload: dict[str, Any],
        points: Any,
        key: str | None = None,
        **said: Any,
    ) -> "models.UpdateResult":
        """Set fields of payloads, and leave the other fields."""
        return self._changed(
            "set_payload", collection_name, said, points, "set_payload", payload, key
        )

    def overwrite_payload(
        self, collection_name: str, payload: dict[str, Any], points: Any, **said: Any
    ) -> "models.UpdateResult":
        """Replace payloads."""
        return self._changed(
            "overwrite_payload", collection_name, said, points, "overwrite_payload", payload
        )

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: Any, **said: Any
    ) -> "models.UpdateResult":
        """Delete fields of payloads."""
        return self._changed(
            "delete_payload", collection_name, said, points, "delete_payload", list(keys)
        )

    def clear_payload(
        self, collection_name: str, points_selector: Any, **said: Any
    ) -> "models.UpdateResult":
        """Delete payloads."""
        return self._changed(
            "clear_payload", collection_name, said, points_selector, "clear_payload"
        )

    # --- reading ----------------------------------------------------------------------------

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[int | str | UUID],
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        **said: Any,
    ) -> "list[models.Record]":
        """Return points by their ids, in that order; unknown ids are left out."""
        with self._home.using("retrieve", collection_name, said) as one:
            wanted = [point_id(ident) for ident in ids]
            found = one.ask("retrieve", wanted, as_shown(with_payload), with_vectors)
            here = {record.id: record for record in found}
            return [record_of(here[ident]) for ident in dict.fromkeys(wanted) if ident in here]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: "models.Filter | None" = None,
        limit: int = 10,
        order_by: Any = None,
        offset: int | str | UUID | None = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        **said: Any,
    ) -> "tuple[list[models.Record], int | str | None]":
        """Return a page of points, and the offset of the next, None after the last."""
        with self._home.using("scroll", collection_name, said) as one:
            request = edge_module().ScrollRequest(
                offset=None if offset is None else point_id(offset),
                limit=limit,
                filter=as_filter(scroll_filter),
                with_payload=as_shown(with_payload),
                with_vector=with_vectors,
                order_by=as_order(order_by),
            )
            found, following = one.ask("scroll", request)
            page = [record_of(record) for record in found]
            return page, None if following is None else shown_id(following)

    def count(
        self,
        collection_name: str,
        count_filter: "models.Filter | None" = None,
        exact: bool = True,
        **said: Any,
    ) -> "models.CountResult":
        """Return how many points pass a filter."""
        with self._home.using("count", collection_name, said) as one:
            request = edge_module().CountRequest(exact=exact, filter=as_filter(count_filter))
            result: models.CountResult
            result = client_models().CountResult(count=one.ask("count", request))
            return result

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: "models.Filter | None" = None,
        search_params: "models.SearchParams | None" = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
        lookup_from: Any = None,
        **said: Any,
    ) -> "models.QueryResponse":
        """Return the points that answer a query best.

        With a `score_threshold` on quantized vectors, scores come from the original vectors unless
        `search_params` says otherwise.

        Raises:
            VectorError: if the query's vector is unusable.
            ConfigError: if it asks for what only a server has.
        """
        asked = client_models().QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
            shard_key=None,
        )
        return self._answered("query_points", collection_name, said, [asked])[0]

    def query_batch_points(
        self, collection_name: str, requests: "Sequence[models.QueryRequest]", **said: Any
    ) -> "list[models.QueryResponse]":
        """Answer several queries in one go, in their order."""
        return self._answered("query_batch_points", collection_name, said, requests)

    # --- the end ----------------------------------------------------------------------------

    def close(self, **said: Any) -> None:
        """Write everything to disk and let others have the folder; no call works afterwards."""
        with self._home.calling("close", "", said):
            self._home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        known = [call for call in vars(type(self)) if not call.startswith("_")]
        raise AttributeError(
            f"EdgeQdrantClient has no call {name!r}.{nearest(name, known)} "
            f"It has {', '.join(sorted(known))}; anything else needs a server."
        )

    # --- inside --------------------------------------------------------------------------------

    def _answered(
        self, call: str, name: str, said: Mapping[str, Any], asked: "Sequence[models.QueryRequest]"
    ) -> "list[models.QueryResponse]":
        with self._home.using(call, name, said) as one:
            reader = Reader(one.spaces, one.vector_of, one.quantized)
            return answers_to(asked, reader, one.ask)

    def _changed(
        self, call: str, name: str, said: Mapping[str, Any], which: Any, change: str, *more: Any
    ) -> "models.UpdateResult":
        """Make a change to points that are named by their ids or by a filter."""
        with self._home.using(call, name, said) as one:
            more = tuple(plain(part) if isinstance(part, dict) else part for part in more)
            ids, passing = selected(which)
            make = edge_module().UpdateOperation
            if passing is not None:
                make_it = getattr(make, f"{change}_by_filter")
                one.update(make_it(as_filter(passing), *more))
                return _done()
            one.update(getattr(make, change)(ids, *more))
            return _done()


def _done() -> "models.UpdateResult":
    result: models.UpdateResult = client_models().UpdateResult(status="completed")
    return result
