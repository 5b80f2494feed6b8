"""The model of the day behind a server that pays for a prompt once.

Both frameworks, and both arms, send many prompts that are equal to the letter. At temperature 0 a
model gives them equal answers with equal usage, so the answer is remembered, along with how long it
took: that time is added to the latency of whoever is given it. Dollars count it as a call.
"""

import hashlib
import json
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, Final

from demo.model import Endpoint, local_model, named_model

__all__ = ["Model", "serving"]

TEXT: Final = ("model", "messages", "temperature", "max_tokens", "stop")
PATIENCE_SECONDS: Final = 600


@dataclass(kw_only=True)
class Model:
    """A running server: where it listens, and what it counted.

    Args:
        port: On 127.0.0.1.
        name: Of the model behind.
        asked: Prompts that reached the model.
        remembered: Prompts that did not have to.
        spared: Seconds a run did not wait, by the name of the run.
    """

    port: int
    name: str
    asked: int = 0
    remembered: int = 0
    spared: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def endpoint(self, run: str) -> Endpoint:
        """Return where one run of the day sends its prompts."""
        url = f"http://127.0.0.1:{self.port}/{run}/v1"
        return Endpoint(base_url=url, model=self.name, api_key="none")


@contextmanager
def serving(
    model: str, *, base_url: str | None, workers: int, answers: Path | None
) -> Iterator[Model]:
    """Serve a model for as long as the block lasts.

    Args:
        model: "local", or "openai:NAME" for an OpenAI-compatible endpoint.
        base_url: Of that endpoint.
        workers: Local models that run side by side, one thread each: on a busy machine two threads
            of one model wait for each other.
        answers: File that keeps answers from one run to the next.
    """
    with ExitStack() as stack:
        if model == "local":
            behind = [stack.enter_context(local_model(threads=1)) for _ in range(workers)]
        else:
            behind = [named_model(model.partition(":")[2] or "gpt-4o", base_url)] * workers
        memory = _Memory(behind, answers)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(memory))
        memory.model = Model(port=server.server_port, name=behind[0].model)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield memory.model
        finally:
            server.shutdown()
            thread.join()


class _Memory:
    """Answers by prompt, and the models that give new ones."""

    model: Model

    def __init__(self, behind: Sequence[Endpoint], file: Path | None) -> None:
        self._free: Queue[Endpoint] = Queue()
        for endpoint in behind:
            self._free.put(endpoint)
        self._file = file
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._known: dict[str, tuple[dict[str, Any], float]] = {}
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._known[row["key"]] = row["reply"], row["seconds"]

    def answer(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({name: body.get(name) for name in TEXT}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        asked = time.perf_counter()
        with lock:  # two runs that want the same answer at once ask for it once
            if key in self._known:
                reply, seconds = self._known[key]
                with self._lock:
                    self.model.remembered += 1
                    self.model.spared[run] += seconds - (time.perf_counter() - asked)
                return reply
            endpoint = self._free.get()
            try:
                started = time.perf_counter()
                reply = _post(endpoint, body)
                seconds = time.perf_counter() - started
            finally:
                self._free.put(endpoint)
            self._keep(key, reply, seconds)
            return reply

    def _keep(self, key: str, reply: dict[str, Any], seconds: float) -> None:
        with self._lock:
            self.model.asked += 1
            self._known[key] = reply, seconds
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"key": key, "reply": reply, "seconds": seconds}) + "\n")


def _post(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{endpoint.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
        return dict(json.load(reply))


def _handler(memory: _Memory) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, reply = 200, memory.answer(self.path.split("/")[1], body)
            except OSError as error:
                status, reply = 502, {"error": {"message": f"{type(error).__name__}: {error}"}}
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
