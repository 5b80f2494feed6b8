"""A server on this machine that speaks the batch APIs of OpenAI and Anthropic, faults included."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Fault:
    """What goes wrong with the next request that fits.

    `status` is answered instead; `lost` does what was asked and hangs up without an answer.
    """

    method: str
    path: str
    status: int = 0
    lost: bool = False
    times: int = 1


@dataclass
class Job:
    """A batch: `entries` are (custom id, request body)."""

    id: str
    entries: list[tuple[str, dict[str, Any]]]
    endpoint: str
    metadata: dict[str, str]
    at: float
    polls: int = 0
    state: str = "running"
    errors: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    error_lines: list[dict[str, Any]] = field(default_factory=list)


def fine(custom_id: str, body: dict[str, Any]) -> str:
    return "ok"


class BatchServer(ThreadingHTTPServer):
    """`fate` says of each request: "ok", "500", "429", "400", "expired" or "missing"."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.faults: list[Fault] = []
        self.fate: Callable[[str, dict[str, Any]], str] = fine
        self.polls_needed = 1
        self.never_ends = False
        self.refusals: list[list[dict[str, Any]]] = []  # errors of the next OpenAI batches
        self.reply: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda body: None
        self.junk: list[str] = []  # lines put in front of every results file
        self.run_in_batches: Counter[str] = Counter()  # prompts by how often they were paid
        self.run_now: Counter[str] = Counter()
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paid(self) -> Counter[str]:
        return self.run_in_batches + self.run_now

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""

    # --- what a provider does -------------------------------------------------------------------

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for one in self.faults:
                if one.method == method and path.startswith(one.path) and one.times > 0:
                    one.times -= 1
                    return one
        return None

    def work(self, job: Job, *, anthropic: bool) -> None:
        """Run the requests, newest first, and write down what became of them."""
        entries = list(reversed(job.entries))
        for custom_id, body in entries:
            fate = "expired" if job.state == "cancelling" else self.fate(custom_id, body)
            if fate == "missing":
                continue
            if fate == "ok":
                self.run_in_batches[asked(body)] += 1
            line = (_anthropic_line if anthropic else _openai_line)(self, custom_id, body, fate)
            kind = "cancelled" if job.state == "cancelling" else fate
            if kind == "cancelled":
                line = _cancelled(custom_id, anthropic=anthropic)
            (job.lines if anthropic or fate == "ok" else job.error_lines).append(line)
        job.state = "ended"

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.reply(body) or {"role": "assistant", "content": f"Answer to {asked(body)}"}

    def openai_body(self, body: dict[str, Any]) -> dict[str, Any]:
        if "input" in body and "messages" not in body:
            part = {"type": "output_text", "text": f"Answer to {asked(body)}", "annotations": []}
            return {
                "id": "resp_1", "object": "response", "created_at": 1, "model": body["model"],
                "status": "completed", "parallel_tool_calls": True, "tool_choice": "auto",
                "tools": [], "error": None, "incomplete_details": None, "instructions": None,
                "metadata": {}, "temperature": 1.0, "top_p": 1.0,
                "output": [{
                    "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                    "content": [part],
                }],
                "usage": {
                    "input_tokens": 100, "output_tokens": 10, "total_tokens": 110,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens_details": {"reasoning_tokens": 0},
                },
            }  # fmt: skip
        message = self.message(body)
        ending = "tool_calls" if message.get("tool_calls") else "stop"
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": ending}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip

    def anthropic_body(self, body: dict[str, Any]) -> dict[str, Any]:
        message = self.message(body)
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"],
            "content": blocks, "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {
                "input_tokens": 100, "output_tokens": 10,
                "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
            },
        }  # fmt: skip


def asked(body: dict[str, Any]) -> str:
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):
        return messages
    content = messages[-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def _openai_line(
    server: BatchServer, custom_id: str, body: dict[str, Any], fate: str
) -> dict[str, Any]:
    base = {"id": f"batch_req_{custom_id}", "custom_id": custom_id}
    if fate == "expired":
        said = {"code": "batch_expired", "message": "This request could not be executed in time."}
        return {**base, "response": None, "error": said}
    status = 200 if fate == "ok" else int(fate)
    answer = server.openai_body(body) if fate == "ok" else {"error": {"message": f"no: {fate}"}}
    response = {"status_code": status, "request_id": "r", "body": answer}
    return {**base, "response": response, "error": None}


def _anthropic_line(
    server: BatchServer, custom_id: str, body: dict[str, Any], fate: str
) -> dict[str, Any]:
    if fate == "ok":
        result: dict[str, Any] = {"type": "succeeded", "message": server.anthropic_body(body)}
    elif fate == "expired":
        result = {"type": "expired"}
    else:
        kind = "invalid_request_error" if fate == "400" else "api_error"
        inner = {"type": kind, "message": f"no: {fate}"}
        result = {"type": "errored", "error": {"type": "error", "error": inner}}
    return {"custom_id": custom_id, "result": result}


def _cancelled(custom_id: str, *, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        return {"custom_id": custom_id, "result": {"type": "canceled"}}
    said = {"code": "batch_cancelled", "message": "This request was cancelled."}
    return {"id": "r", "custom_id": custom_id, "response": None, "error": said}


class Handler(BaseHTTPRequestHandler):
    server: BatchServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        path = split.path
        self.server.seen.append((method, path))
        fault = self.server.fault(method, path)
        if fault is not None and fault.status:
            self._send({"error": {"message": "injected", "type": "injected"}}, fault.status)
            return
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        with self.server.lock:
            answer = self._route(method, path.strip("/").split("/")[1:], query, data)
        if fault is not None and fault.lost:
            self.close_connection = True
            return
        if isinstance(answer, tuple):
            self._send(answer[1], answer[0])
        else:
            self._send(answer)

    def _route(  # noqa: PLR0912 - one line for each path
        self, method: str, parts: list[str], query: dict[str, str], data: bytes
    ) -> Any:
        match method, parts:
            case "POST", ["files"]:
                return self._upload(data)
            case "GET", ["files", ident, "content"]:
                return self.server.files[ident]
            case "POST", ["batches"]:
                return self._create_openai(json.loads(data))
            case "GET", ["batches"]:
                return self._listed(query, "after", _openai_batch)
            case "GET", ["batches", ident]:
                return self._poll(ident, _openai_batch, anthropic=False)
            case "POST", ["batches", ident, "cancel"]:
                return self._cancel(ident, _openai_batch)
            case "POST", ["chat", "completions"]:
                return self._now(json.loads(data), self.server.openai_body)
            case "POST", ["responses"]:
                return self._now(json.loads(data), self.server.openai_body)
            case "POST", ["messages"]:
                return self._now(json.loads(data), self.server.anthropic_body)
            case "POST", ["messages", "batches"]:
                return self._create_anthropic(json.loads(data))
            case "GET", ["messages", "batches"]:
                return self._listed(query, "after_id", self._anthropic_batch)
            case "GET", ["messages", "batches", ident]:
                return self._poll(ident, self._anthropic_batch, anthropic=True)
            case "POST", ["messages", "batches", ident, "cancel"]:
                return self._cancel(ident, self._anthropic_batch)
            case "GET", ["messages", "batches", ident, "results"]:
                return self._lines(self.server.jobs[ident].lines)
        return 404, {"error": {"message": "no such path", "type": "not_found_error"}}

    # --- OpenAI ---------------------------------------------------------------------------------

    def _upload(self, data: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        for part in BytesParser().parsebytes(head + data).walk():
            if part.get_filename():
                ident = f"file-{len(self.server.files)}"
                self.server.files[ident] = part.get_payload(decode=True)
                return {
                    "id": ident, "object": "file", "bytes": len(data), "created_at": 1,
                    "filename": part.get_filename(), "purpose": "batch", "status": "processed",
                }  # fmt: skip
        raise AssertionError("no file was uploaded")

    def _create_openai(self, asked: dict[str, Any]) -> Any:
        lines = self.server.files[asked["input_file_id"]].decode().splitlines()
        entries = [json.loads(line) for line in lines]
        idents = [one["custom_id"] for one in entries]
        assert len(set(idents)) == len(idents)
        assert all(len(one) <= 64 for one in idents)
        assert len({one["body"]["model"] for one in entries}) == 1, "one model per file"
        assert {one["url"] for one in entries} == {asked["endpoint"]}
        job = self._add(
            [(one["custom_id"], one["body"]) for one in entries],
            asked["endpoint"],
            asked.get("metadata") or {},
            "batch",
        )
        if self.server.refusals:
            job.state, job.errors = "failed", self.server.refusals.pop(0)
        return _openai_batch(job)

    # --- Anthropic ------------------------------------------------------------------------------

    def _create_anthropic(self, asked: dict[str, Any]) -> Any:
        entries = [(one["custom_id"], one["params"]) for one in asked["requests"]]
        idents = [ident for ident, _ in entries]
        assert len(set(idents)) == len(idents)
        allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert all(0 < len(one) <= 64 and set(one) <= allowed for one in idents)
        return self._anthropic_batch(self._add(entries, "/v1/messages", {}, "msgbatch"))

    def _anthropic_batch(self, job: Job) -> dict[str, Any]:
        ended = job.state == "ended"
        counts = Counter(line["result"]["type"] for line in job.lines)
        named = ("succeeded", "errored", "canceled", "expired")
        states = {"running": "in_progress", "cancelling": "canceling", "ended": "ended"}
        left = 0 if ended else len(job.entries)
        if ended:  # the counts are of all requests, also of one whose line is missing
            counts["errored"] += len(job.entries) - counts.total()
        stamp = datetime.fromtimestamp(job.at, UTC).isoformat()
        return {
            "id": job.id, "type": "message_batch", "processing_status": states[job.state],
            "request_counts": {"processing": left, **{name: counts[name] for name in named}},
            "created_at": stamp, "expires_at": stamp, "ended_at": stamp if ended else None,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": (
                f"{self.server.url}/v1/messages/batches/{job.id}/results" if ended else None
            ),
        }  # fmt: skip

    # --- both -----------------------------------------------------------------------------------

    def _add(self, entries: list[Any], endpoint: str, metadata: dict[str, str], kind: str) -> Job:
        job = Job(
            id=f"{kind}_{len(self.server.jobs)}",
            entries=entries,
            endpoint=endpoint,
            metadata=metadata,
            at=time.time(),
        )
        self.server.jobs[job.id] = job
        return job

    def _poll(self, ident: str, shown: Any, *, anthropic: bool) -> Any:
        job = self.server.jobs.get(ident)
        if job is None:
            return 404, {"error": {"message": "no such batch", "type": "not_found_error"}}
        self._run_on(job, anthropic=anthropic)
        return shown(job)

    def _run_on(self, job: Job, *, anthropic: bool) -> None:
        job.polls += 1
        if job.state == "cancelling" or (
            job.state == "running"
            and not self.server.never_ends
            and job.polls >= self.server.polls_needed
        ):
            self.server.work(job, anthropic=anthropic)
            if not anthropic:
                self.server.files[f"out-{job.id}"] = self._lines(job.lines)
                self.server.files[f"err-{job.id}"] = self._lines(job.error_lines)

    def _lines(self, lines: list[dict[str, Any]]) -> bytes:
        return "".join(
            [*(f"{one}\n" for one in self.server.junk), *(f"{json.dumps(one)}\n" for one in lines)]
        ).encode()

    def _cancel(self, ident: str, shown: Any) -> Any:
        job = self.server.jobs[ident]
        job.state = "cancelling" if job.state == "running" else job.state
        return shown(job)

    def _listed(self, query: dict[str, str], cursor: str, shown: Any) -> dict[str, Any]:
        newest = [
            job
            for job in reversed(self.server.jobs.values())
            if job.id.startswith("msg") == (cursor == "after_id")
        ]
        for job in newest:
            self._run_on(job, anthropic=cursor == "after_id")
        if cursor in query:
            at = next(i for i, job in enumerate(newest) if job.id == query[cursor])
            newest = newest[at + 1 :]
        page = newest[: int(query.get("limit", 20))]
        return {
            "object": "list",
            "data": [shown(job) for job in page],
            "has_more": len(newest) > len(page),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _now(self, body: dict[str, Any], answer: Any) -> Any:
        fate = self.server.fate("now", body)
        if fate.isdecimal():
            return int(fate), {"error": {"message": "no", "type": "api_error"}}
        self.server.run_now[asked(body)] += 1
        return answer(body)

    def _send(self, body: Any, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/x-jsonl" if isinstance(body, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _openai_batch(job: Job) -> dict[str, Any]:
    ended = job.state == "ended"
    state = {"running": "in_progress", "ended": "completed"}.get(job.state, job.state)
    return {
        "id": job.id, "object": "batch", "endpoint": job.endpoint, "completion_window": "24h",
        "created_at": int(job.at), "input_file_id": "file-0", "status": state,
        "metadata": job.metadata, "errors": {"object": "list", "data": job.errors},
        "output_file_id": f"out-{job.id}" if ended and job.lines else None,
        "error_file_id": f"err-{job.id}" if ended and job.error_lines else None,
        "request_counts": {"total": len(job.entries), "completed": 0, "failed": 0},
    }  # fmt: skip
