"""A loopback stand-in for a Qdrant server, because no package carries the server's binary.

It speaks those REST calls that the store makes and answers them from Qdrant's own engine in process
(qdrant-edge), so filters, scores and named vectors are the real ones. It can be told to be slow, to
fail, or to talk nonsense. What it cannot show is anything about a real server's HTTP layer,
replication or authentication.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import qdrant_edge as edge

Change = edge.UpdateOperation


class RefusalError(Exception):
    """The answer is an error."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Collection:
    folder: Path
    shard: edge.EdgeShard
    metadata: dict[str, Any]
    indexed: bool
    vectors: dict[str, Any] = field(default_factory=dict)
    indexes: dict[str, Any] = field(default_factory=dict)


class Double:
    """The server; `url` says where it listens.

    Args:
        folder: Where its collections live.
        indexed: Whether payload indexes are really built; each costs the engine 0.1 s of fsync.
    """

    def __init__(self, folder: Path, *, indexed: bool = False) -> None:
        self.folder = folder
        self.indexed = indexed
        self.held: threading.Event | None = None
        self.status = 0
        self.body: bytes | None = None
        self.drip = 0.0
        self.vanished = False
        self.requests: list[tuple[str, str]] = []
        self.collections: dict[str, Collection] = {}
        self._lock = threading.Lock()
        self._made = 0
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for the other

            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                raw = self.rfile.read(length)
                if double.vanished:
                    self.close_connection = True
                    return
                if double.held is not None:
                    double.held.wait(20)
                status, body = double.handle(self.command, self.path, raw)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                try:
                    if not double.drip:
                        self.wfile.write(body)
                    for byte in body if double.drip else b"":
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(double.drip)
                except OSError:
                    self.close_connection = True  # the client gave up

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def vanish(self) -> None:
        """Stop listening and hang up on everybody."""
        self.vanished = True
        self._server.shutdown()
        self._server.server_close()

    def close(self) -> None:
        self.vanish()
        self._thread.join()
        for name in list(self.collections):
            self.drop(name)

    def handle(self, method: str, path: str, raw: bytes) -> tuple[int, bytes]:
        self.requests.append((method, urlsplit(path).path))
        if self.status:
            return self.status, b'{"status": {"error": "as told"}, "time": 0.0}'
        if self.body is not None:
            return 200, self.body
        try:
            asked = json.loads(raw.decode("utf-8")) if raw else {}
            with self._lock:
                result = self.route(method, urlsplit(path).path, asked)
        except RefusalError as error:
            return error.status, json.dumps({"status": {"error": str(error)}}).encode()
        except Exception as error:  # noqa: BLE001 - the engine raises nothing more special
            return 400, json.dumps({"status": {"error": str(error)}}).encode()
        return 200, json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()

    def route(self, method: str, path: str, asked: Any) -> Any:
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        if not found:
            raise RefusalError(404, "no such way")
        name, rest = unquote(found[1]), found[2] or ""
        if (method, rest) == ("PUT", ""):
            return self.create(name, asked)
        if name not in self.collections:
            raise RefusalError(404, f"Collection `{name}` doesn't exist!")
        if (method, rest) == ("DELETE", ""):
            return self.drop(name)
        collection = self.collections[name]
        if method == "PUT" and rest.startswith("/vectors/"):
            return add_vector(collection, unquote(rest.removeprefix("/vectors/")), asked)
        handlers = {
            ("GET", ""): info,
            ("PUT", "/index"): add_index,
            ("POST", "/points"): retrieve,
            ("POST", "/points/query"): query,
            ("POST", "/points/count"): count,
            ("POST", "/points/scroll"): scroll,
            ("POST", "/points/batch"): batch,
        }
        if (method, rest) not in handlers:
            raise RefusalError(404, "no such way")
        return handlers[method, rest](collection, asked)

    def create(self, name: str, asked: Any) -> bool:
        if name in self.collections:
            raise RefusalError(409, f"Collection `{name}` already exists!")
        self._made += 1
        folder = self.folder / f"collection-{self._made}"
        nothing = {"none": edge.EdgeSparseVectorParams()}  # a shard needs one
        shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(sparse_vectors=nothing))
        self.collections[name] = Collection(
            folder, shard, asked.get("metadata") or {}, self.indexed
        )
        for vector, params in (asked.get("vectors") or {}).items():
            add_vector(self.collections[name], vector, {"dense": params})
        return True

    def drop(self, name: str) -> bool:
        collection = self.collections.pop(name)
        collection.shard.close()
        shutil.rmtree(collection.folder)
        return True


@contextmanager
def serving(folder: Path, *, indexed: bool = False) -> Iterator[Double]:
    double = Double(folder, indexed=indexed)
    try:
        yield double
    finally:
        double.close()


def info(collection: Collection, asked: Any) -> Any:
    own = collection.shard.info()
    return {
        "status": "green",
        "optimizer_status": "ok",
        "points_count": own.points_count,
        "segments_count": own.segments_count,
        "config": {
            "params": {"vectors": collection.vectors, "shard_number": 1},
            "hnsw_config": {"m": 0, "ef_construct": 100, "full_scan_threshold": 10_000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": collection.metadata,
        },
        "payload_schema": {
            name: {"data_type": schema if isinstance(schema, str) else "keyword", "points": 0}
            for name, schema in collection.indexes.items()
        },
    }


def add_index(collection: Collection, asked: Any) -> Any:
    schema = asked["field_schema"]
    kind = schema if isinstance(schema, str) else schema["type"]
    kinds = {"keyword": edge.PayloadSchemaType.Keyword, "float": edge.PayloadSchemaType.Float}
    if collection.indexed:
        collection.shard.update(Change.create_field_index(asked["field_name"], kinds[kind]))
    collection.indexes[asked["field_name"]] = schema
    return done()


def add_vector(collection: Collection, name: str, asked: Any) -> Any:
    params = asked["dense"]
    if name in collection.vectors:
        raise RefusalError(400, f"vector {name} exists")
    distance = getattr(edge.Distance, params["distance"])
    collection.shard.update(Change.create_dense_vector(name, params["size"], distance))
    collection.vectors[name] = {"size": params["size"], "distance": params["distance"]}
    return done()


def retrieve(collection: Collection, asked: Any) -> Any:
    vectors = bool(asked.get("with_vector"))
    found = collection.shard.retrieve(asked["ids"], selector(asked), vectors)
    return [record(one) for one in found]


def query(collection: Collection, asked: Any) -> Any:
    params = asked.get("params") or {}
    known = {"exact": bool(params.get("exact"))}
    if params.get("quantization"):
        known["quantization"] = edge.QuantizationSearchParams(
            ignore=params["quantization"]["ignore"]
        )
    request = edge.QueryRequest(
        limit=asked["limit"],
        query=edge.Query.Nearest(asked["query"]["nearest"], using=asked["using"]),
        filter=condition(asked.get("filter")),
        with_payload=selector(asked),
        params=edge.SearchParams(**known),
    )
    return {
        "points": [
            {"id": str(p.id), "version": p.version, "score": p.score, "payload": p.payload}
            for p in collection.shard.query(request)
        ]
    }


def count(collection: Collection, asked: Any) -> Any:
    request = edge.CountRequest(exact=asked["exact"], filter=condition(asked.get("filter")))
    return {"count": collection.shard.count(request)}


def scroll(collection: Collection, asked: Any) -> Any:
    request = edge.ScrollRequest(
        offset=asked.get("offset"),
        limit=asked["limit"],
        filter=condition(asked.get("filter")),
        with_payload=selector(asked),
        with_vector=bool(asked.get("with_vector")),
    )
    records, offset = collection.shard.scroll(request)
    return {
        "points": [record(one) for one in records],
        "next_page_offset": None if offset is None else str(offset),
    }


def batch(collection: Collection, asked: Any) -> Any:
    for operation in asked["operations"]:
        ((name, values),) = operation.items()
        if name == "upsert":
            change = Change.upsert_points(
                [
                    edge.Point(id=p["id"], vector=p["vector"], payload=p["payload"])
                    for p in values["points"]
                ]
            )
        elif name == "delete":
            change = Change.delete_points_by_filter(condition(values["filter"]))
        elif name == "set_payload":
            change = Change.set_payload_by_filter(condition(values["filter"]), values["payload"])
        else:
            raise RefusalError(400, f"unknown operation {name}")
        collection.shard.update(change)
    return [done() for _ in asked["operations"]]


def done() -> Any:
    return {"operation_id": 0, "status": "completed"}


def record(one: Any) -> Any:
    return {"id": str(one.id), "payload": one.payload, "vector": one.vector}


def selector(asked: Any) -> Any:
    return asked.get("with_payload") or False


def condition(asked: Any) -> edge.Filter | None:
    if asked is None:
        return None
    if unknown := set(asked) - {"must", "must_not", "should"}:
        raise RefusalError(400, f"unknown fields {unknown}")
    parts = {name: [term(one) for one in terms] for name, terms in asked.items() if terms}
    return edge.Filter(**parts)


def term(asked: Any) -> Any:
    if "nested" in asked:
        inner = asked["nested"]
        return edge.NestedCondition(key=inner["key"], filter=condition(inner["filter"]))
    if "has_id" in asked:
        return edge.HasIdCondition(set(asked["has_id"]))
    if "has_vector" in asked:
        return edge.HasVectorCondition(asked["has_vector"])
    if "key" not in asked:
        return condition(asked)
    if asked.get("match"):
        match = asked["match"]
        if "any" in match:
            return edge.FieldCondition(key=asked["key"], match=edge.MatchAny(match["any"]))
        value = match["value"]  # the binding takes Python's True for the number 1
        value = np.bool_(value) if isinstance(value, bool) else value
        return edge.FieldCondition(key=asked["key"], match=edge.MatchValue(value))
    limits = {name: value for name, value in asked["range"].items() if value is not None}
    return edge.FieldCondition(key=asked["key"], range=edge.RangeFloat(**limits))
