"""What must be sent to a server so that one index becomes another, and what undoes it.

Only what differs is sent: to set what is set already rebuilds nothing, but it is written down and
read back as if it had. A vector's own settings win over the collection's, so they go to the vector.
"""

from collections.abc import Mapping
from typing import Any, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.targets import Inspection

__all__ = ["Json", "back", "differing", "disables", "forward", "matches", "settings"]

Json = dict[str, Any]
_DISABLED: Final = "Disabled"
_NEWEST: Final = "1.20.0"
_GRAPH: Final = ("m", "ef_construct", "graph")


def differing(old: IndexConfig, new: IndexConfig) -> list[str]:
    """Return the settings by which two indexes differ, without those that have no effect.

    Example:
        >>> differing(IndexConfig(), IndexConfig(m=32, quantile=None))
        ['m']
    """
    names = [*_GRAPH, "vectors", "quantization"]
    if new.quantization != "none":
        names.append("quantized")
    if new.quantization == "int8":
        names.append("quantile")
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def forward(seen: Inspection, new: IndexConfig) -> Json:
    """Return the body of the PATCH that makes a collection's vector be indexed like `new`.

    Returns:
        `vectors` and `quantization_config` as Qdrant's API has them; empty if nothing differs.

    Raises:
        ConfigError: if the server is too old for it.

    Example:
        >>> from costwise_core.qdrant.targets import VectorSpace
        >>> seen = Inspection(where="remote", collection="docs", version="1.19.0", points=0,
        ...                   vectors=(VectorSpace(size=384),))
        >>> forward(seen, IndexConfig(ef_construct=200))
        {'vectors': {'': {'hnsw_config': {'ef_construct': 200}}}}
    """
    body = _body(seen, new, differing(seen.vector.index, new), None)
    # An old server cannot tell "pinned" from "cached", so it may have what it was asked for.
    return {} if matches(seen, body) else body


def back(seen: Inspection, new: IndexConfig) -> Json:
    """Return the body of the PATCH that undoes `forward`, from the same inspection.

    Example:
        >>> from costwise_core.qdrant.targets import VectorSpace
        >>> seen = Inspection(where="remote", collection="docs", version="1.19.0", points=0,
        ...                   vectors=(VectorSpace(size=384),))
        >>> back(seen, IndexConfig(ef_construct=200))
        {'vectors': {'': {'hnsw_config': {'ef_construct': 100}}}}
    """
    names = differing(seen.vector.index, new) if forward(seen, new) else []
    return _body(seen, seen.vector.index, names, _quantization(seen.raw, seen.vector.name))


def settings(seen: Inspection, body: Json) -> Json:
    """Return what makes an empty collection like this one after a PATCH.

    Returns:
        The settings as Qdrant's API has them in `CreateCollection`.

    Raises:
        ConfigError: if the collection has shard keys of its own, which cannot be copied.

    Example:
        >>> from costwise_core.qdrant.targets import VectorSpace
        >>> raw = {"params": {"vectors": {"": {"size": 384, "distance": "Cosine"}}}}
        >>> seen = Inspection(where="remote", collection="docs", version="1.19.0", points=0,
        ...                   vectors=(VectorSpace(size=384),), raw=raw)
        >>> settings(seen, forward(seen, IndexConfig(m=32)))["vectors"][""]["hnsw_config"]
        {'m': 32}
    """
    raw = seen.raw
    params = raw["params"]
    if params.get("sharding_method") == "custom":
        raise ConfigError(
            f"{seen.collection!r} has shard keys of its own, which a copy would lose: use "
            "mode='patch'."
        )
    vectors = {name: dict(own) for name, own in _vectors(raw).items()}
    for name, change in body.get("vectors", {}).items():
        own = vectors[name]
        for part, value in change.items():
            if part == "hnsw_config":
                own[part] = {**(own.get(part) or {}), **value}
            else:
                own[part] = None if value == _DISABLED else value
    unnamed = "size" in (params.get("vectors") or {})
    quantization = None if "quantization_config" in body else raw.get("quantization_config")
    same = {
        name: params[name]
        for name in (
            "sparse_vectors",
            "shard_number",
            "replication_factor",
            "write_consistency_factor",
            "on_disk_payload",
            "payload",
            "id_tracker",
        )
        if params.get(name) is not None
    }
    given = {
        "vectors": vectors[""] if unnamed else vectors,
        "hnsw_config": raw.get("hnsw_config"),
        "optimizers_config": raw.get("optimizer_config"),
        "quantization_config": quantization,
        "strict_mode_config": raw.get("strict_mode_config"),
        "metadata": raw.get("metadata"),
        "wal_config": raw.get("wal_config"),
        **same,
    }
    return {name: value for name, value in given.items() if value is not None}


def disables(body: Json) -> bool:
    """Tell whether a PATCH takes quantization away, which an edge shard cannot do in place."""
    return any(
        own.get("quantization_config") == _DISABLED
        for own in [body, *body.get("vectors", {}).values()]
    )


def matches(seen: Inspection, body: Json) -> bool:
    """Tell whether a collection's configuration is the one that a PATCH asked for."""
    raw = seen.raw
    for name, wanted in body.get("vectors", {}).items():
        own = _vectors(raw).get(name, {})
        graph = {**raw.get("hnsw_config", {}), **(own.get("hnsw_config") or {})}
        for part, value in wanted.items():
            has: Any = own.get(part)
            if part == "hnsw_config":
                has = graph
            elif part == "quantization_config":
                has = _quantization(raw, name) or _DISABLED
            if not _within(value, has):
                return False
    wanted = body.get("quantization_config")
    return wanted is None or _within(wanted, raw.get("quantization_config") or _DISABLED)


def _body(seen: Inspection, index: IndexConfig, names: list[str], exactly: Json | None) -> Json:
    """Return the parts of an index that are named, and what quantization was `exactly`."""
    if not names:
        return {}
    vector = seen.vector.name
    # The engine in a process has what the newest servers have.
    version = _NEWEST if seen.where == "edge" else seen.version
    diff = index.for_client(version, vector=vector)["vectors_config"][vector]
    whole = diff.model_dump(mode="json", exclude_none=True)
    own: Json = {}
    graph = whole.get("hnsw_config", {})
    for name in _GRAPH:
        if name in names:
            key = name if name in graph else next(k for k in ("memory", "on_disk") if k in graph)
            own.setdefault("hnsw_config", {})[key] = graph[key]
    if "vectors" in names:
        own |= {key: whole[key] for key in ("memory", "on_disk") if key in whole}
    body: Json = {"vectors": {vector: own}}
    if {"quantization", "quantized", "quantile"} & set(names):
        own["quantization_config"] = exactly or whole["quantization_config"]
        if own["quantization_config"] == _DISABLED and seen.raw.get("quantization_config"):
            # Without one of its own the vector would get the collection's; the others keep theirs.
            body["quantization_config"] = _DISABLED
            for name, other in _vectors(seen.raw).items():
                if name != vector and not other.get("quantization_config"):
                    kept = {"quantization_config": seen.raw["quantization_config"]}
                    body["vectors"][name] = kept
    return body


def _vectors(raw: Mapping[str, Any]) -> Mapping[str, Json]:
    given = raw.get("params", {}).get("vectors") or {}
    return {"": given} if "size" in given else given


def _quantization(raw: Mapping[str, Any], vector: str) -> Json | None:
    own: Json | None = _vectors(raw).get(vector, {}).get("quantization_config")
    return own or raw.get("quantization_config")


def _within(wanted: Any, has: Any) -> bool:
    """Tell whether all that is wanted is there; the server adds defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(has, Mapping) and all(_within(v, has.get(k)) for k, v in wanted.items())
    return bool(wanted == has)
