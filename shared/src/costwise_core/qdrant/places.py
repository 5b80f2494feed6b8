"""What applying a plan asks of the place where a collection lives, and of a server in particular.

Every method may be called again after it was cut off at any point, and then ends well.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant.changes import Json, matches
from costwise_core.qdrant.client_reading import asked
from costwise_core.qdrant.copying import Point, Points
from costwise_core.qdrant.extras import client_models
from costwise_core.qdrant.target_remote import RemoteTarget
from costwise_core.qdrant.targets import Inspection, Target
from costwise_core.qdrant.waiting import Look, Patience, until_settled

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Place", "RemotePlace", "wanted"]

T = TypeVar("T")
_TRIES: Final = 5
_NOBODY: Final = "00000000-0000-4000-8000-000000000000"
"""The id of no point; to delete it is a write that changes nothing."""
_PAGE: Final = 256


class Place(Protocol):
    """Where a collection lives. Names are those of collections, or the paths of shards."""

    def name(self) -> str:
        """Return the collection's own name, behind any alias."""
        ...

    def target(self, name: str) -> Target:
        """Return the collection of this name."""
        ...

    def settle(self, name: str, body: Json, *, indexed: float) -> str:
        """Wait until a collection is built as a PATCH asked for, and say how it looks then.

        Args:
            name: The collection's.
            body: The PATCH.
            indexed: The share of its vectors that must be in an index.
        """
        ...

    def change(self, name: str, body: Json) -> None:
        """Ask for other settings."""
        ...

    def snapshot(self, name: str) -> str:
        """Save the collection as it is, and say where; say why not where that is not possible."""
        ...

    def schemas(self) -> Json:
        """Return the payload indexes as they were made, in JSON."""
        ...

    def create(self, name: str, like: Json, indexes: Json) -> None:
        """Make an empty collection with payload indexes, unless there is one of this name."""
        ...

    def points(self, name: str) -> Points:
        """Return the points of a collection."""
        ...

    def switch(self, old: str, new: str) -> tuple[str, str]:
        """Let everybody who uses the alias, or the path, use another collection.

        Returns:
            The names that both have from then on, the one no longer used first.
        """
        ...

    def shadow(self, ident: str) -> str:
        """Return the name of a second collection beside this one; `ident` sets it apart."""
        ...

    def free(self) -> int | None:
        """Return the bytes that are free on its disk; None if that cannot be seen."""
        ...

    def drop(self, name: str) -> None:
        """Delete a collection, if there is one."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


class RemotePlace:
    """A server.

    Args:
        target: A collection of it, or an alias of one.
        alias: The alias that a switch moves; None for the target's name, if that is one.
        patience: How often to look and to ask again.
        said: Told what happens.
    """

    def __init__(
        self,
        target: RemoteTarget,
        *,
        alias: str | None,
        patience: Patience,
        said: Callable[[str], None],
    ) -> None:
        self._target, self._alias, self._patience, self._said = target, alias, patience, said
        self._client: QdrantClient = target.client

    def name(self) -> str:
        """Return the collection's own name, behind any alias."""
        given = self._target.collection
        return self._aliases().get(given, given)

    def target(self, name: str) -> Target:
        """Return the collection of this name."""
        return RemoteTarget(self._client, name, self._target.vector)

    def change(self, name: str, body: Json) -> None:
        """PATCH a collection. The same PATCH twice is one."""
        models = client_models()
        vectors = {
            vector: models.VectorParamsDiff(**own)
            for vector, own in body.get("vectors", {}).items()
        }
        arguments: Json = {"vectors_config": vectors} if vectors else {}
        if "quantization_config" in body:
            whole = models.UpdateCollection(quantization_config=body["quantization_config"])
            arguments["quantization_config"] = whole.quantization_config
        if arguments:
            self._ask("update_collection", collection_name=name, **arguments)

    def settle(self, name: str, body: Json, *, indexed: float) -> str:
        """Wait until a collection is built as a PATCH asked for, and say how it looks then."""

        def look() -> Look:
            return self._patiently(lambda: _look(self.target(name), body, indexed))

        def nudge() -> None:
            # The first is what Qdrant's documentation advises, the second wakes older servers.
            empty = client_models().OptimizersConfigDiff()
            with suppress(StoreUnavailableError):  # it may take as long as an optimization
                asked(
                    self._client, "update_collection", collection_name=name, optimizers_config=empty
                )
            self._ask("delete", collection_name=name, points_selector=[_NOBODY], wait=False)

        return str(until_settled(look, nudge, patience=self._patience, said=self._said))

    def snapshot(self, name: str) -> str:
        """Let the server make a snapshot, which it keeps on its own disk."""
        taken = asked(self._client, "create_snapshot", collection_name=name, wait=True)
        if taken is None:
            return "the server says nothing of a snapshot"
        return f"{taken.name}, {taken.size:,} bytes, on the server"

    def create(self, name: str, like: Json, indexes: Json) -> None:
        """Make an empty collection with payload indexes, unless there is one of this name."""
        models = client_models()
        if not self._ask("collection_exists", collection_name=name):
            config = models.CreateCollection(**like)
            arguments = {field: getattr(config, field) for field in like}
            for said, taken in (
                ("vectors", "vectors_config"),
                ("sparse_vectors", "sparse_vectors_config"),
            ):
                if said in arguments:
                    arguments[taken] = arguments.pop(said)
            asked(self._client, "create_collection", collection_name=name, **arguments)
        for field, schema in indexes.items():
            index = models.CreateFieldIndex(field_name=field, field_schema=schema)
            self._ask(
                "create_payload_index",
                collection_name=name,
                field_name=field,
                field_schema=index.field_schema,
                wait=True,
            )

    def points(self, name: str) -> Points:
        """Return the points of a collection."""
        strict = self.target(name).inspect().strict
        limits = [strict.get("max_query_limit"), strict.get("upsert_max_batchsize")]
        return _Remote(self._ask, name, min([_PAGE, *filter(None, limits)]))

    def switch(self, old: str, new: str) -> tuple[str, str]:
        """Move the alias in one request, so that it always leads somewhere.

        Raises:
            StoreError: if somebody has moved it elsewhere meanwhile.
        """
        models = client_models()
        alias = self.alias()
        leads = self._aliases().get(alias)
        if leads == new:
            return old, new
        if leads not in (old, None):
            raise StoreError(f"alias {alias!r} leads to {leads!r} now; somebody else has moved it.")
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=new, alias_name=alias)
        )
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        asked(
            self._client,
            "update_collection_aliases",
            change_aliases_operations=[delete, create] if leads else [create],
        )
        return old, new

    def drop(self, name: str) -> None:
        """Delete a collection, if there is one."""
        self._ask("delete_collection", collection_name=name)

    def close(self) -> None:
        """Hold nothing: the client is the caller's."""

    def alias(self) -> str:
        """Return the alias that a switch moves.

        Raises:
            ConfigError: if the collection is used by its own name, which cannot be moved.
        """
        given, aliases = self._target.collection, self._aliases()
        if self._alias is None and given not in aliases:
            others = [alias for alias, name in aliases.items() if name == given]
            hint = f" It has the aliases {', '.join(map(repr, others))}." if others else ""
            raise ConfigError(
                f"{given!r} is a collection and no alias, so nothing can be switched: let the apps "
                f"use an alias and give it as alias=..., or use mode='patch'.{hint}"
            )
        return self._alias or given

    def shadow(self, ident: str) -> str:
        """Return the name of a second collection beside this one."""
        self.alias()
        return f"{self.name()}-{ident}"

    def free(self) -> int | None:
        """Return None: a server does not tell what its disk has left."""
        return None

    def schemas(self) -> Json:
        """Return the payload indexes as they were made."""
        info = self._ask("get_collection", collection_name=self._target.collection)
        return {
            field: one.params.model_dump(mode="json", exclude_none=True)
            if one.params
            else one.data_type.value
            for field, one in (info.payload_schema or {}).items()
        }

    def _aliases(self) -> dict[str, str]:
        found = self._ask("get_aliases").aliases
        return {one.alias_name: one.collection_name for one in found}

    def _ask(self, method: str, **arguments: Any) -> Any:
        return self._patiently(lambda: asked(self._client, method, **arguments))

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do what may be done twice, again if the server does not answer."""
        for attempt in range(_TRIES - 1):
            try:
                return do()
            except StoreUnavailableError as error:
                self._said(f"{error} Asking again.")
                time.sleep(self._patience.poll_seconds * 2**attempt)
        return do()


class _Remote:
    def __init__(self, ask: Callable[..., Any], name: str, most: int) -> None:
        self._ask, self._name, self._most = ask, name, most

    def pages(self, size: int) -> Iterator[list[Point]]:
        offset = None
        while True:
            records, offset = self._ask(
                "scroll",
                collection_name=self._name,
                limit=min(size, self._most),
                offset=offset,
                with_payload=True,
                with_vectors=True,
            )
            yield [_point(record) for record in records]
            if offset is None:
                return

    def get(self, idents: Sequence[int | str]) -> list[Point]:
        records = self._ask(
            "retrieve",
            collection_name=self._name,
            ids=list(idents),
            with_payload=True,
            with_vectors=True,
        )
        return [_point(record) for record in records]

    def put(self, points: Sequence[Point]) -> None:
        models = client_models()
        for begin in range(0, len(points), self._most):
            batch = [
                models.PointStruct(id=p.ident, vector=p.vector or {}, payload=p.payload)
                for p in points[begin : begin + self._most]
            ]
            self._ask("upsert", collection_name=self._name, points=batch, wait=True)

    def drop(self, idents: Sequence[int | str]) -> None:
        if idents:
            self._ask("delete", collection_name=self._name, points_selector=list(idents), wait=True)


def _point(record: Any) -> Point:
    whole = record.model_dump(mode="json", include={"id", "vector", "payload"})
    return Point(ident=whole["id"], vector=whole["vector"], payload=whole["payload"])


def _look(target: Target, body: Json, share: float) -> Look:
    seen, status = target.inspect(), target.status()
    return Look(
        status=status.status,
        indexed=status.indexed_vectors,
        wanted=wanted(seen, status.points, share),
        configured=matches(seen, body),
        busy=status.pending,
        error=status.fault,
    )


def wanted(seen: Inspection, points: int, share: float) -> int:
    """Return how many vectors must be in an index: not those of the last, still small segment."""
    size = max((space.size for space in seen.vectors if space.kind == "dense"), default=1)
    spare = seen.indexing_threshold * 1024 // (4 * size)
    return max(0, int(points * share) - spare)
