"""What a qdrant-client says of a collection, read into values of ours."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant.asking import drawn, sample_of
from costwise_core.qdrant.index_config import IndexConfig, Memory
from costwise_core.qdrant.targets import Inspection, PointId, Sample, Status, VectorSpace

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["asked", "inspection", "sample", "spaces", "status"]

_PAGE: Final = 1_000
_FEW: Final = 1_000_000
"""Up to so many points all ids are read, to choose by a seed; of more the server chooses."""
_GONE: Final = frozenset({408, 425, 429})
_SAID: Final = 300


def asked(client: "QdrantClient", method: str, **arguments: Any) -> Any:
    """Call a method of the client, and turn what it raises into an error of ours.

    Raises:
        StoreUnavailableError: if the server does not answer, or answers that it cannot now.
        StoreError: if it refuses.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> asked(QdrantClient(":memory:"), "get_collections").collections
        []
    """
    try:
        return getattr(client, method)(**arguments)
    except Exception as error:  # noqa: BLE001 - the client lets through what it meets
        raise _explained(error, method) from None  # it may hold headers, and the key in them


def inspection(
    client: "QdrantClient",
    collection: str,
    *,
    where: Literal["remote", "local"],
    selected: str,
) -> Inspection:
    """Return what a collection says of itself.

    Raises:
        StoreError: as `asked` does.
    """
    version = asked(client, "info").version if where == "remote" else "local"
    info = asked(client, "get_collection", collection_name=collection)
    raw = info.config.model_dump(mode="json", exclude_none=True)
    params = raw["params"]
    strict = raw.get("strict_mode_config") or {}
    return Inspection(
        where=where,
        collection=collection,
        version=version,
        points=info.points_count or 0,
        vectors=tuple(spaces(raw)),
        selected=selected,
        indexed_vectors=info.indexed_vectors_count or 0,
        segments=info.segments_count,
        status=info.status.value,
        fault=_fault(info),
        payload_indexes={
            field: index.data_type.value for field, index in (info.payload_schema or {}).items()
        },
        indexing_threshold=_threshold(raw),
        strict={name: limit for name, limit in strict.items() if name != "enabled"}
        if strict.get("enabled")
        else {},
        payload=_memory({**params, **(params.get("payload") or {})}, "on_disk_payload", "cold"),
        replication=params.get("replication_factor") or 1,
        shards=params.get("shard_number") or 1,
        deferred=getattr(getattr(info, "update_queue", None), "deferred_points", None) or 0,
        warnings=tuple(warning.message for warning in getattr(info, "warnings", None) or ()),
        raw=raw,
    )


def status(client: "QdrantClient", collection: str) -> Status:
    """Return how far a collection is with a change.

    Raises:
        StoreError: as `asked` does.
    """
    info = asked(client, "get_collection", collection_name=collection)
    try:
        work = asked(client, "get_optimizations", collection_name=collection)
        pending = len(work.running) + work.summary.queued_optimizations
    except StoreUnavailableError:
        raise
    except StoreError:  # the server is older than 1.17
        pending = None
    return Status(
        status=info.status.value,
        points=info.points_count or 0,
        indexed_vectors=info.indexed_vectors_count or 0,
        segments=info.segments_count,
        pending=pending,
        fault=_fault(info),
    )


def sample(
    client: "QdrantClient",
    collection: str,
    *,
    vector: VectorSpace,
    limit: int,
    seed: int,
    payload: bool,
    page: int = _PAGE,
) -> Sample:
    """Return up to `limit` points by chance, those that lack the vector left out.

    Raises:
        StoreError: as `asked` does.
    """
    points = asked(client, "count", collection_name=collection, exact=False).count
    if points > _FEW:
        chosen = list(_drawn(client, collection, limit, page))
    else:
        chosen = drawn(list(_ids(client, collection, page)), limit, seed)
    pages = (
        asked(
            client,
            "retrieve",
            collection_name=collection,
            ids=chosen[begin : begin + page],
            with_payload=payload,
            with_vectors=[vector.name] if vector.name else True,
        )
        for begin in range(0, len(chosen), page)
    )
    return sample_of(chain.from_iterable(pages), vector, payload=payload)


def _ids(client: "QdrantClient", collection: str, page: int) -> Iterator[PointId]:
    offset = None
    while True:
        records, offset = asked(
            client,
            "scroll",
            collection_name=collection,
            limit=page,
            offset=offset,
            with_payload=False,
            with_vectors=False,
        )
        yield from (record.id for record in records)
        if offset is None:
            return


def _drawn(client: "QdrantClient", collection: str, limit: int, page: int) -> Iterator[PointId]:
    """Let the server choose, page by page, until there are enough that differ."""
    from qdrant_client import models  # noqa: PLC0415

    seen: set[PointId] = set()
    while len(seen) < limit:
        found = asked(
            client,
            "query_points",
            collection_name=collection,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            limit=min(page, limit - len(seen)),
            with_payload=False,
        ).points
        fresh = {point.id for point in found} - seen
        if not fresh:
            return
        yield from fresh
        seen |= fresh


def spaces(raw: Mapping[str, Any]) -> Iterator[VectorSpace]:
    """Return the vectors of a configuration as a server gives it.

    Example:
        >>> hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
        >>> vectors = {"title": {"size": 384, "distance": "Cosine", "on_disk": True}}
        >>> [space] = spaces({"params": {"vectors": vectors}, "hnsw_config": hnsw})
        >>> space.name, space.index.vectors
        ('title', 'cold')
    """
    params = raw["params"]
    given = params.get("vectors") or {}
    named = {"": given} if "size" in given else given
    hnsw = raw["hnsw_config"]
    for name, own in named.items():
        graph = {**hnsw, **(own.get("hnsw_config") or {})}
        yield VectorSpace(
            name=name,
            size=own["size"],
            distance=own["distance"],
            kind="multi" if own.get("multivector_config") else "dense",
            datatype=own.get("datatype") or "float32",
            index=_index(
                own, graph, own.get("quantization_config") or raw.get("quantization_config")
            ),
            full_scan_threshold=graph["full_scan_threshold"],
        )
    for name in params.get("sparse_vectors") or {}:
        yield VectorSpace(name=name, size=0, distance="Dot", kind="sparse")


def _index(
    own: Mapping[str, Any], graph: Mapping[str, Any], quantization: Mapping[str, Any] | None
) -> IndexConfig:
    vectors = _memory(own, "on_disk")
    name, how = next(iter((quantization or {"none": {}}).items()))
    kinds = {
        "none": "none",
        "scalar": "int8",
        "product": f"product{how.get('compression', '').removeprefix('x')}",
        "binary": _BINARY.get(how.get("encoding") or "one_bit", "binary"),
        "turbo": f"turbo{(how.get('bits') or 'bits4')[4:].replace('_', '.')}",
    }
    if name not in kinds:
        raise ConfigError(f"this collection is quantized by {name!r}, which is not known here.")
    # Unless it is said where they lie, quantized vectors lie where the original ones do.
    quantized: Memory = how.get("memory") or ("pinned" if how.get("always_ram") else vectors)
    return IndexConfig(
        m=graph["m"],
        ef_construct=graph["ef_construct"],
        quantization=kinds[name],
        quantile=how.get("quantile") if name == "scalar" else 0.99,
        vectors=vectors,
        quantized=quantized if quantization else "pinned",
        graph=_memory(graph, "on_disk"),
    )


_BINARY: Final = {"one_bit": "binary", "one_and_half_bits": "binary1.5", "two_bits": "binary2"}


def _memory(part: Mapping[str, Any], flag: str, unset: Memory = "cached") -> Memory:
    """Read where a part lies: `memory` wins over the older flag."""
    placed: Memory | None = part.get("memory")
    if placed or part.get(flag) is None:
        return placed or unset
    return "cold" if part[flag] else "cached"


def _threshold(raw: Mapping[str, Any]) -> int:
    said = raw["optimizer_config"].get("indexing_threshold")
    return 10_000 if said is None else int(said)


def _fault(info: Any) -> str:
    error = getattr(info.optimizer_status, "error", None)
    return str(error)[:_SAID] if error else ""


def _explained(error: Exception, method: str) -> Exception:
    code = getattr(error, "status_code", None)
    if isinstance(error, NotImplementedError):
        return StoreError(f"this Qdrant has no {method}.")
    if isinstance(error, ValueError) and code is None:
        return StoreError(f"Qdrant refused {method}: {str(error)[:_SAID]}")
    if isinstance(code, int) and 400 <= code < 500 and code not in _GONE:
        hint = "; is the api key right?" if code in (401, 403) else ""
        return StoreError(f"Qdrant answered {code} to {method}{hint}: {_detail(error)}")
    cause = getattr(error, "source", error)
    what = f"answered {code}" if code else f"did not answer ({type(cause).__name__})"
    return StoreUnavailableError(f"Qdrant {what} to {method}.")


def _detail(error: Any) -> str:
    """Return what the server said was wrong, which is about limits and names."""
    try:
        said = error.structured()["status"]["error"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return "no reason given"
    return str(said)[:_SAID]
