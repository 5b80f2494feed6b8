"""A loopback stand-in for a whole Qdrant server: one that can be reconfigured, and can misbehave.

It is `qdrant_double` with the calls that tuning and applying make: configuration with its echo,
aliases, optimizations, snapshots, all kinds of vectors. Points, searches, graphs and quantization
are the real engine's, so recall is real. When a change is built is played: `phases` says what the
collection shows until then. It is no proof of how a real server behaves.
"""

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import qdrant_edge as edge

from tests.services.qdrant_double import Change, Double, RefusalError, condition, done, selector

DEFAULT_HNSW = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "max_indexing_threads": 0,
}
DEFAULT_OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "indexing_threshold": 10_000,
    "flush_interval_sec": 5,
}
SCHEMAS = {"keyword": "Keyword", "integer": "Integer", "float": "Float", "bool": "Bool"}


@dataclass
class Fault:
    """What happens to the next requests that match.

    "lost before" and "lost after" (it was carried out), "slow", a status such as 500, or a call,
    which is made before the request is carried out, or after with `also_do`; no answer is given.
    """

    method: str
    path: str
    what: str | int | Callable[[], None]
    times: int = 1
    also_do: bool = False


@dataclass
class Built:
    """A collection: `config` is what was asked for and is echoed, `made` what its files are."""

    folder: Path
    shard: Any
    config: dict[str, Any]
    made: dict[str, Any]
    phases: list[str] = field(default_factory=list)
    indexes: dict[str, Any] = field(default_factory=dict)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    rebuilds: int = 0
    stale: bool = False

    @property
    def vectors(self) -> dict[str, Any]:
        own = self.config.get("vectors") or {}
        return {"": own} if "size" in own else own


class Server(Double):
    """The server; `url` says where it listens.

    Args:
        folder: Where its collections live.
        version: What it says it is.
    """

    def __init__(self, folder: Path, *, version: str = "1.19.0") -> None:
        self.version = version
        self.has_optimizations = int(version.split(".")[1]) >= 17
        self.phases: list[str] = []
        self.faults: list[Fault] = []
        self.aliases: dict[str, str] = {}
        self.built: dict[str, Built] = {}
        self.said: list[tuple[str, str, Any]] = []
        self.optimizer_status: Any = "ok"
        self.stuck = False
        self.watchers: list[Callable[[str, str], None]] = []
        """Told each request before it is answered; may ask the server itself."""
        super().__init__(folder)

    def handle(self, method: str, path: str, raw: bytes) -> tuple[int, bytes]:
        for fault in self.faults:
            if fault.method == method and re.search(fault.path, path) and fault.times:
                fault.times -= 1
                return self.misbehave(fault, method, path, raw)
        for watcher in list(self.watchers):
            watcher(method, path)
        if (method, path) == ("GET", "/"):
            said = {"title": "qdrant - vector search engine", "version": self.version}
            return 200, json.dumps(said).encode()
        return super().handle(method, path, raw)

    def misbehave(self, fault: Fault, method: str, path: str, raw: bytes) -> tuple[int, bytes]:
        if isinstance(fault.what, int):
            return fault.what, b'{"status": {"error": "as told"}, "time": 0.0}'
        if fault.what == "slow":
            time.sleep(1.5)
            return super().handle(method, path, raw)
        if fault.what == "lost after" or fault.also_do:
            super().handle(method, path, raw)
        if callable(fault.what):
            fault.what()
        raise ConnectionAbortedError("as told")  # the connection closes without an answer

    def route(self, method: str, path: str, asked: Any) -> Any:
        self.said.append((method, path, asked))
        if path == "/collections" and method == "GET":
            return {"collections": [{"name": name} for name in self.built]}
        if path == "/collections/aliases" and method == "POST":
            return self.change_aliases(asked)
        if path == "/aliases":
            return self.list_aliases()
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        if not found:
            raise RefusalError(404, "no such way")
        name, rest = unquote(found[1]), found[2] or ""
        name = self.aliases.get(name, name)
        if (method, rest) == ("PUT", ""):
            return self.create(name, asked)
        if rest == "/exists":
            return {"exists": name in self.built}
        if (method, rest) == ("DELETE", ""):
            return self.drop(name) if name in self.built else False
        if name not in self.built:
            raise RefusalError(404, f"Collection `{name}` doesn't exist!")
        if rest == "/aliases":
            return self.list_aliases(name)
        return self.about(self.built[name], method, rest, asked)

    def about(self, one: Built, method: str, rest: str, asked: Any) -> Any:
        handlers: dict[tuple[str, str], Callable[[Built, Any], Any]] = {
            ("GET", ""): self.info,
            ("PATCH", ""): self.patch,
            ("GET", "/optimizations"): self.optimizations,
            ("PUT", "/index"): add_index,
            ("PUT", "/points"): upsert,
            ("POST", "/points"): retrieve,
            ("POST", "/points/delete"): delete,
            ("POST", "/points/query"): query,
            ("POST", "/points/query/batch"): query_batch,
            ("POST", "/points/count"): count,
            ("POST", "/points/scroll"): scroll,
            ("GET", "/snapshots"): lambda one, _: one.snapshots,
            ("POST", "/snapshots"): add_snapshot,
        }
        if (method, rest) not in handlers or (
            rest == "/optimizations" and not self.has_optimizations
        ):
            raise RefusalError(404, "no such way")
        if (method, rest) in {("PUT", "/points"), ("POST", "/points/delete")}:
            self.wake(one)
            if method == "PUT" and not one.stale:
                one.stale, one.phases = True, one.phases or list(self.phases)
        return handlers[method, rest](one, asked)

    def create(self, name: str, asked: Any) -> bool:
        if name in self.built:
            raise RefusalError(409, f"Collection `{name}` already exists!")
        self._made += 1
        folder = self.folder / f"built-{self._made}"
        config = {
            "vectors": asked.get("vectors") or {},
            "sparse_vectors": asked.get("sparse_vectors") or {},
            "hnsw_config": DEFAULT_HNSW | filled(asked.get("hnsw_config")),
            "optimizers_config": DEFAULT_OPTIMIZERS | filled(asked.get("optimizers_config")),
            "quantization_config": asked.get("quantization_config"),
            "strict_mode_config": asked.get("strict_mode_config"),
            "metadata": asked.get("metadata"),
            "replication_factor": asked.get("replication_factor") or 1,
            "shard_number": asked.get("shard_number") or 1,
            "on_disk_payload": asked.get("on_disk_payload", True),
        }
        shard = edge.EdgeShard.create(str(folder), edge_config(config))
        self.built[name] = Built(folder, shard, config, copied(config))
        return True

    def drop(self, name: str) -> bool:
        if name not in self.built:
            return super().drop(name)
        one = self.built.pop(name)
        one.shard.close()
        shutil.rmtree(one.folder)
        self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}
        return True

    def close(self) -> None:
        self.vanish()
        self._thread.join()
        for name in list(self.built):
            self.drop(name)

    def info(self, one: Built, asked: Any) -> Any:
        status = self.advance(one)
        own = one.shard.info()
        config = one.config
        return {
            "status": status,
            "optimizer_status": self.optimizer_status,
            "points_count": own.points_count,
            "indexed_vectors_count": own.indexed_vectors_count,
            "segments_count": own.segments_count,
            "config": {
                "params": {
                    "vectors": config["vectors"],
                    "sparse_vectors": config["sparse_vectors"] or None,
                    "shard_number": config["shard_number"],
                    "replication_factor": config["replication_factor"],
                    "on_disk_payload": config["on_disk_payload"],
                },
                "hnsw_config": config["hnsw_config"],
                "optimizer_config": config["optimizers_config"],
                "quantization_config": config["quantization_config"],
                "strict_mode_config": config["strict_mode_config"],
                "metadata": config["metadata"],
            },
            "payload_schema": {
                name: {"data_type": kind, "points": 0} for name, kind in one.indexes.items()
            },
        }

    def patch(self, one: Built, asked: Any) -> bool:
        config = one.config
        for name, change in (asked.get("vectors") or {}).items():
            if name not in one.vectors:
                raise RefusalError(400, f"Wrong input: Not existing vector name error: {name}")
            merge(one.vectors[name], change)
        for part in ("hnsw_config", "optimizers_config"):
            config[part] = config[part] | filled(asked.get(part))
        if asked.get("quantization_config"):
            merge(config, {"quantization_config": asked["quantization_config"]})
        if asked.get("strict_mode_config"):
            config["strict_mode_config"] = asked["strict_mode_config"]
        if one.phases:
            self.wake(one)
        elif config != one.made:
            one.phases, one.stale = list(self.phases), True
        return True

    def optimizations(self, one: Built, asked: Any) -> Any:
        left = sum(phase != "grey" for phase in one.phases)
        return {
            "summary": {
                "queued_optimizations": min(left, 1),
                "queued_segments": min(left, 1),
                "queued_points": 0,
                "idle_segments": 1,
            },
            "running": [],
        }

    def advance(self, one: Built) -> str:
        if not one.phases:
            if one.stale:
                self.rebuild(one)
            return "green"
        now = one.phases[0]
        if now != "grey" and not self.stuck:
            one.phases.pop(0)
            if not one.phases:
                self.rebuild(one)
        return now

    def wake(self, one: Built) -> None:
        while one.phases and one.phases[0] == "grey":
            one.phases.pop(0)
            if not one.phases:
                self.rebuild(one)

    def rebuild(self, one: Built) -> None:
        one.rebuilds += 1
        before, after = one.made, one.config
        if {name for name, kept in quantized(before).items() if kept} - {
            name for name, kept in quantized(after).items() if kept
        }:
            self.remake(one)  # this engine cannot drop quantized vectors where they are
        else:
            one.shard.flush()
            one.shard.close()
            one.shard = edge.EdgeShard.load(str(one.folder), edge_config(after))
        one.shard.optimize()
        one.made = copied(after)
        one.stale = False

    def remake(self, one: Built) -> None:
        folder = one.folder.with_name(f"{one.folder.name}-{one.rebuilds}")
        shard = edge.EdgeShard.create(str(folder), edge_config(one.config))
        records, _ = one.shard.scroll(
            edge.ScrollRequest(limit=1_000_000, with_payload=True, with_vector=True)
        )
        points = [edge.Point(id=r.id, vector=r.vector, payload=r.payload or {}) for r in records]
        if points:
            shard.update(Change.upsert_points(points))
        one.shard.close()
        shutil.rmtree(one.folder)
        one.folder, one.shard = folder, shard

    def optimize(self, name: str) -> None:
        """Build now what the engine would build in the background."""
        self.built[self.aliases.get(name, name)].shard.optimize()

    def change_aliases(self, asked: Any) -> bool:
        aliases = dict(self.aliases)
        for action in asked["actions"]:
            if "delete_alias" in action:
                if aliases.pop(action["delete_alias"]["alias_name"], None) is None:
                    raise RefusalError(404, "Alias does not exist!")
            else:
                alias, name = (
                    action["create_alias"][key] for key in ("alias_name", "collection_name")
                )
                if alias in self.built:
                    raise RefusalError(409, f"Collection `{alias}` already exists!")
                if name not in self.built:
                    raise RefusalError(404, f"Collection `{name}` doesn't exist!")
                aliases[alias] = name
        self.aliases = aliases
        return True

    def list_aliases(self, name: str | None = None) -> Any:
        return {
            "aliases": [
                {"alias_name": alias, "collection_name": to}
                for alias, to in self.aliases.items()
                if name in (None, to)
            ]
        }


@contextmanager
def running(folder: Path, *, version: str = "1.19.0") -> Iterator[Server]:
    server = Server(folder, version=version)
    try:
        yield server
    finally:
        server.close()


def filled(values: Any) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def copied(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: copied(value) for name, value in values.items()}
    return values


def merge(into: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in filled(change).items():
        if name == "hnsw_config":
            into[name] = filled(into.get(name)) | filled(value)
        elif name == "quantization_config" and value == "Disabled":
            into[name] = None
        else:
            into[name] = value


def quantized(config: dict[str, Any]) -> dict[str, Any]:
    own = config["vectors"]
    vectors = {"": own} if "size" in own else own
    return {
        name: params.get("quantization_config") or config["quantization_config"]
        for name, params in vectors.items()
    }


def edge_config(config: dict[str, Any]) -> Any:
    own = config["vectors"]
    vectors = {"": own} if "size" in own else own
    how = quantized(config)
    built = {}
    for name, params in vectors.items():
        hnsw = config["hnsw_config"] | filled(params.get("hnsw_config"))
        multi = params.get("multivector_config")
        built[name] = edge.EdgeVectorParams(
            size=params["size"],
            distance=getattr(edge.Distance, params["distance"]),
            multivector_config=multi and edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            quantization_config=edge_quantization(how[name]),
            hnsw_config=edge.HnswIndexConfig(
                m=hnsw["m"],
                ef_construct=hnsw["ef_construct"],
                full_scan_threshold=hnsw["full_scan_threshold"],
                max_indexing_threads=1,
            ),
        )
    optimizers = config["optimizers_config"]
    return edge.EdgeConfig(
        vectors=built,
        sparse_vectors={name: edge.EdgeSparseVectorParams() for name in config["sparse_vectors"]},
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=optimizers["indexing_threshold"],
            default_segment_number=1,
        ),
    )


def edge_quantization(asked: Any) -> Any:
    if not asked:
        return None
    ((kind, params),) = filled(asked).items()
    if kind == "scalar":
        return edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=params.get("quantile")
        )
    if kind == "binary":
        return edge.BinaryQuantizationConfig()
    if kind == "product":
        ratio = getattr(edge.CompressionRatio, params["compression"].upper())
        return edge.ProductQuantizationConfig(compression=ratio)
    bits = getattr(edge.TurboQuantBitSize, (params.get("bits") or "bits4").capitalize())
    return edge.TurboQuantQuantizationConfig(bits=bits)


def add_index(one: Built, asked: Any) -> Any:
    schema = asked["field_schema"]
    kind = schema if isinstance(schema, str) else schema["type"]
    one.shard.update(
        Change.create_field_index(
            asked["field_name"], getattr(edge.PayloadSchemaType, SCHEMAS[kind])
        )
    )
    one.indexes[asked["field_name"]] = kind
    return done()


def vector_in(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"indices", "values"}:
            return edge.SparseVector(**value)
        return {name: vector_in(one) for name, one in value.items()}
    return value


def vector_out(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: vector_out(one) for name, one in value.items()}
    if isinstance(value, edge.SparseVector):
        return {"indices": list(value.indices), "values": list(value.values)}
    return value


def ident_of(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


def record(one: Any) -> Any:
    return {"id": ident_of(one.id), "payload": one.payload, "vector": vector_out(one.vector)}


def upsert(one: Built, asked: Any) -> Any:
    points = [
        edge.Point(id=p["id"], vector=vector_in(p["vector"]), payload=p.get("payload") or {})
        for p in asked["points"]
    ]
    limit = (one.config["strict_mode_config"] or {}).get("upsert_max_batchsize")
    if limit and len(points) > limit:
        raise RefusalError(400, f"Upsert limit exceeded {len(points)} > {limit}")
    one.shard.update(Change.upsert_points(points))
    return done()


def delete(one: Built, asked: Any) -> Any:
    if asked.get("points") is not None:
        one.shard.update(Change.delete_points(asked["points"]))
    else:
        one.shard.update(Change.delete_points_by_filter(condition(asked["filter"])))
    return done()


def retrieve(one: Built, asked: Any) -> Any:
    found = one.shard.retrieve(asked["ids"], selector(asked), bool(asked.get("with_vector")))
    return [record(each) for each in found]


def scroll(one: Built, asked: Any) -> Any:
    offset = asked.get("offset")
    request = edge.ScrollRequest(
        offset=uuid.UUID(offset) if isinstance(offset, str) else offset,
        limit=asked.get("limit") or 10,
        filter=condition(asked.get("filter")),
        with_payload=selector(asked),
        with_vector=bool(asked.get("with_vector")),
    )
    records, after = one.shard.scroll(request)
    return {
        "points": [record(each) for each in records],
        "next_page_offset": None if after is None else ident_of(after),
    }


def count(one: Built, asked: Any) -> Any:
    request = edge.CountRequest(
        exact=asked.get("exact", True), filter=condition(asked.get("filter"))
    )
    return {"count": one.shard.count(request)}


def query_batch(one: Built, asked: Any) -> Any:
    return [query(one, each) for each in asked["searches"]]


def query(one: Built, asked: Any) -> Any:
    params = filled(asked.get("params"))
    strict = one.config["strict_mode_config"] or {}
    if strict.get("enabled"):
        if params.get("exact") and strict.get("search_allow_exact") is False:
            raise RefusalError(400, "Exact search disabled!")
        ef = strict.get("search_max_hnsw_ef")
        if ef and params.get("hnsw_ef", 0) > ef:
            raise RefusalError(400, f"Limit exceeded {params['hnsw_ef']} > {ef} for hnsw_ef")
    known = {key: params[key] for key in ("exact", "hnsw_ef", "indexed_only") if key in params}
    if params.get("quantization"):
        known["quantization"] = edge.QuantizationSearchParams(**filled(params["quantization"]))
    wanted = asked.get("query")
    if isinstance(wanted, dict) and "sample" in wanted:
        what = (
            edge.Query.Sample(edge.Sample.Random)
            if hasattr(edge.Query, "Sample")
            else edge.Sample.Random
        )
    else:
        nearest = wanted["nearest"] if isinstance(wanted, dict) else wanted
        what = edge.Query.Nearest(vector_in(nearest), using=asked.get("using") or None)
    request = edge.QueryRequest(
        limit=asked.get("limit") or 10,
        query=what,
        filter=condition(asked.get("filter")),
        with_payload=selector(asked),
        with_vector=bool(asked.get("with_vector")),
        params=edge.SearchParams(**known),
    )
    return {
        "points": [
            {
                "id": ident_of(p.id),
                "version": p.version,
                "score": p.score,
                "payload": p.payload,
                "vector": vector_out(p.vector),
            }
            for p in one.shard.query(request)
        ]
    }


def add_snapshot(one: Built, asked: Any) -> Any:
    snapshot = {
        "name": f"{one.folder.name}-{len(one.snapshots)}.snapshot",
        "creation_time": "2026-11-21T00:00:00",
        "size": sum(f.stat().st_blocks * 512 for f in one.folder.rglob("*") if f.is_file()),
        "checksum": None,
    }
    one.snapshots.append(snapshot)
    return snapshot
