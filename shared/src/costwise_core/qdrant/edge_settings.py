"""A collection's settings: as the client gives them, as they are kept, as the engine takes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, nearest
from costwise_core.qdrant.edge_mirror import mirrored
from costwise_core.qdrant.edge_points import Spaces
from costwise_core.qdrant.extras import client_models, edge_module

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

__all__ = [
    "as_edge_config",
    "as_field_schema",
    "changed",
    "described",
    "is_quantized",
    "settings_of",
    "spaces_of",
]

_HNSW: Final = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
_OPTIMIZERS: Final = (
    "deleted_threshold",
    "vacuum_min_vector_number",
    "default_segment_number",
    "max_segment_size",
    "indexing_threshold",
    "prevent_unoptimized",
)
"""What of the optimizer's settings means something in a shard that is optimized when asked to."""
_KEPT: Final = (
    "on_disk_payload",
    "hnsw_config",
    "optimizers_config",
    "quantization_config",
    "metadata",
    "payload",
    "id_tracker",
)
_SINGLE: Final = {"shard_number", "replication_factor", "write_consistency_factor"}
_WITHOUT_EFFECT: Final = {"timeout", "wal_config", "sharding_method"}


def settings_of(vectors: Any, sparse: Any, said: Mapping[str, Any]) -> "models.CreateCollection":
    """Return what a call of `create_collection` asks for.

    Raises:
        ConfigError: if it asks for more than one machine, or for nothing to be stored.
    """
    for name, value in said.items():
        if name in _SINGLE and value not in (None, 1):
            raise ConfigError(f"{name} is 1 in a process, got {value!r}; more needs a server.")
        if name == "sharding_method" and str(getattr(value, "value", value)) == "custom":
            raise ConfigError("custom sharding needs a server; filter by a payload field instead.")
        if name == "strict_mode_config" and value is not None:
            raise ConfigError("strict mode protects a server from its users; leave it out here.")
        if name not in {*_KEPT, *_SINGLE, *_WITHOUT_EFFECT, "strict_mode_config"}:
            raise ConfigError(f"there is no {name!r} to set.")
    kept = {name: said[name] for name in _KEPT if said.get(name) is not None}
    try:
        settings: models.CreateCollection = client_models().CreateCollection(
            vectors=vectors, sparse_vectors=sparse, **kept
        )
    except ValueError as error:
        raise ConfigError(f"these settings cannot be read: {error}") from None
    if not settings.vectors and not settings.sparse_vectors:
        raise ConfigError("a collection needs vectors_config or sparse_vectors_config.")
    as_edge_config(settings)
    return settings


def spaces_of(settings: "models.CreateCollection") -> Spaces:
    """Return which vectors a collection has."""
    return Spaces(_dense(settings), settings.sparse_vectors or {})


def is_quantized(settings: "models.CreateCollection") -> bool:
    """Return whether any of its vectors is quantized."""
    return settings.quantization_config is not None or any(
        params.quantization_config is not None for params in _dense(settings).values()
    )


def as_edge_config(settings: "models.CreateCollection") -> "qdrant_edge.EdgeConfig":
    """Return the engine's configuration of a shard.

    Raises:
        ConfigError: if the engine has no such setting.

    Example:
        >>> from qdrant_client import models
        >>> one = models.VectorParams(size=4, distance="Dot")
        >>> as_edge_config(models.CreateCollection(vectors=one)).vectors[""].size
        4
    """
    edge = edge_module()
    dense = {name: _vector(params, settings) for name, params in _dense(settings).items()}
    optimizers = settings.optimizers_config
    said = {name: getattr(optimizers, name, None) for name in _OPTIMIZERS}
    on_disk = settings.on_disk_payload
    payload = settings.payload.memory if settings.payload else None
    tracker = settings.id_tracker.memory if settings.id_tracker else None
    config: qdrant_edge.EdgeConfig = edge.EdgeConfig(
        vectors=dense or None,
        sparse_vectors={name: _sparse(p) for name, p in (settings.sparse_vectors or {}).items()},
        hnsw_config=_hnsw(settings.hnsw_config),
        quantization_config=mirrored(settings.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(**said),
        payload_memory=mirrored(payload) or (edge.Memory.Cached if on_disk is False else None),
        id_tracker_memory=mirrored(tracker),
        wal_enabled=True,
    )
    return config


def changed(
    settings: "models.CreateCollection", said: Mapping[str, Any]
) -> "models.CreateCollection":
    """Return the settings after a call of `update_collection`.

    Raises:
        ConfigError: if a change is not possible in place.
    """
    new = settings.model_copy(deep=True)
    for name, value in said.items():
        if value is None or name == "timeout":
            continue
        if name in {"hnsw_config", "optimizers_config"}:
            setattr(new, name, _merged(getattr(new, name), value))
        elif name == "quantization_config":
            new.quantization_config = _requantized(new.quantization_config, value)
        elif name == "vectors_config":
            vectors = _dense(new)
            for vector, diff in value.items():
                if vector not in vectors:
                    raise ConfigError(f"there is no vector {vector!r} to change.")
                vectors[vector] = _redone(vectors[vector], diff, quantized=is_quantized(settings))
            new.vectors = vectors if isinstance(new.vectors, dict) else vectors[""]
        elif name == "metadata":
            new.metadata = {**(new.metadata or {}), **value}
        else:
            raise ConfigError(
                f"{name} cannot be changed here; hnsw_config, optimizers_config, "
                "quantization_config, vectors_config and metadata can."
            )
    as_edge_config(new)
    return type(settings)(**new.model_dump())


def described(
    settings: "models.CreateCollection", info: Any, *, pending: bool
) -> "models.CollectionInfo":
    """Return what `get_collection` tells.

    Args:
        settings: The collection's.
        info: What the engine tells of the shard.
        pending: Whether settings were changed that `optimize` has yet to build.
    """
    known = client_models()
    optimizers = (settings.optimizers_config or known.OptimizersConfigDiff()).model_dump()
    threads = optimizers.pop("max_optimization_threads", None)
    hnsw = settings.hnsw_config or known.HnswConfigDiff()
    told: models.CollectionInfo = known.CollectionInfo(
        status="grey" if pending else "green",
        optimizer_status="ok",
        indexed_vectors_count=info.indexed_vectors_count,
        points_count=info.points_count,
        segments_count=info.segments_count,
        config=known.CollectionConfig(
            params=known.CollectionParams(
                vectors=settings.vectors,
                sparse_vectors=settings.sparse_vectors,
                shard_number=1,
                replication_factor=1,
                write_consistency_factor=1,
                on_disk_payload=settings.on_disk_payload,
                payload=settings.payload,
                id_tracker=settings.id_tracker,
            ),
            hnsw_config=known.HnswConfig(**(_HNSW | hnsw.model_dump(exclude_none=True))),
            optimizer_config=known.OptimizersConfig(
                **optimizers
                | {
                    "default_segment_number": optimizers["default_segment_number"] or 0,
                    "flush_interval_sec": optimizers["flush_interval_sec"] or 5,
                    "max_optimization_threads": threads if isinstance(threads, int) else None,
                }
            ),
            quantization_config=settings.quantization_config,
            metadata=settings.metadata,
        ),
        payload_schema={name: _indexed(one) for name, one in info.payload_schema.items()},
    )
    return told


def as_field_schema(given: Any) -> Any:
    """Return what a payload index is of, as the engine takes it.

    Raises:
        ConfigError: if it says nothing, or something that is no type of a field.
    """
    kinds = client_models().PayloadSchemaType
    if isinstance(given, str) and not isinstance(given, kinds):
        known = [kind.value for kind in kinds]
        if given not in known:
            raise ConfigError(
                f"field_schema is one of {', '.join(known)}, got {given!r}.{nearest(given, known)}"
            )
        given = kinds(given)
    if given is None:
        raise ConfigError("field_schema must say what the field holds, such as 'keyword'.")
    return mirrored(given)


def _dense(settings: "models.CreateCollection") -> "dict[str, models.VectorParams]":
    vectors = settings.vectors
    if vectors is None:
        return {}
    return dict(vectors) if isinstance(vectors, dict) else {"": vectors}


def _vector(params: "models.VectorParams", settings: "models.CreateCollection") -> Any:
    edge = edge_module()
    hnsw = params.hnsw_config
    if hnsw is not None and settings.hnsw_config is not None:
        hnsw = _merged(settings.hnsw_config, hnsw)
    return edge.EdgeVectorParams(
        size=params.size,
        distance=mirrored(params.distance),
        on_disk=params.on_disk,
        memory=mirrored(params.memory),
        datatype=mirrored(params.datatype),
        multivector_config=mirrored(params.multivector_config),
        quantization_config=mirrored(params.quantization_config),
        hnsw_config=None if hnsw is None else _hnsw(hnsw),
    )


def _sparse(params: "models.SparseVectorParams") -> Any:
    said = params.index.model_dump(exclude_none=True) if params.index else {}
    fields = {name: mirrored(getattr(params.index, name)) for name in said}
    return edge_module().EdgeSparseVectorParams(modifier=mirrored(params.modifier), **fields)


def _hnsw(diff: "models.HnswConfigDiff | None") -> Any:
    said = diff.model_dump(exclude_none=True) if diff is not None else {}
    fields = {name: mirrored(getattr(diff, name)) for name in said}
    return edge_module().HnswIndexConfig(**(_HNSW | fields))


def _merged(old: Any, diff: Any) -> Any:
    """Return a model with what `diff` says, and the old for what it does not say."""
    values = old.model_dump(exclude_none=True) if old is not None else {}
    return type(diff)(**values | diff.model_dump(exclude_none=True))


def _redone(params: Any, diff: Any, *, quantized: bool) -> Any:
    new = params.model_copy()
    if diff.hnsw_config is not None:
        new.hnsw_config = _merged(new.hnsw_config, diff.hnsw_config)
    if diff.quantization_config is not None:
        old = new.quantization_config or (True if quantized else None)
        new.quantization_config = _requantized(old, diff.quantization_config)
    for name in ("on_disk", "memory"):
        if getattr(diff, name) is not None:
            setattr(new, name, getattr(diff, name))
    return new


def _requantized(old: Any, new: Any) -> Any:
    if str(getattr(new, "value", new)) != "Disabled":
        return new
    if old is not None:
        raise ConfigError(
            "the engine cannot take quantization off again. Search with "
            "SearchParams(quantization=QuantizationSearchParams(ignore=True)), which finds the "
            "same as without, or copy the collection with EdgeQdrantClient.from_client."
        )
    return None


def _indexed(one: Any) -> "models.PayloadIndexInfo":
    kind = str(one.data_type).rpartition(".")[2].casefold()
    told: models.PayloadIndexInfo
    told = client_models().PayloadIndexInfo(data_type=kind, points=one.points)
    return told
