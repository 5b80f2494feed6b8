"""A server on this machine that speaks the part of OpenAI's protocol that paying takes."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Provider(ThreadingHTTPServer):
    """Answers with `words`, and with a call of the first tool before any tool has run."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.words = ["Paris ", "is ", "it."]
        self.usage: dict[str, Any] | None = {
            "prompt_tokens": 14,
            "completion_tokens": 5,
            "total_tokens": 19,
        }
        self.caps = False  # whether an answer has one word for each token allowed
        self.status = 200
        self.fails = 0  # times, before it answers
        self.sent = 0  # words of streams that were written out
        self.breaks_after: int | None = None
        self.delay = 0.0  # seconds before it says anything
        self.error = "no"  # what it says when it fails
        self.headers: dict[str, str] = {}  # of a failure
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(asked)
        time.sleep(server.delay)
        if server.status != 200 or server.fails:
            server.fails = max(0, server.fails - 1)
            status = server.status if server.status != 200 else 500
            self._send({"error": {"message": server.error, "type": "server_error"}}, status)
            return
        base = {"id": f"c{len(server.asked)}", "created": 1, "model": asked["model"]}
        tools = asked.get("tools")
        calls = []
        if tools and not any(message["role"] == "tool" for message in asked["messages"]):
            called = {"name": tools[0]["function"]["name"], "arguments": '{"number": 7}'}
            calls = [{"index": 0, "id": "call_1", "type": "function", "function": called}]
        ending = "tool_calls" if calls else "stop"
        words = server.words
        most = asked.get("max_completion_tokens") or asked.get("max_tokens")
        if server.caps and most is not None and most < len(words):
            words, ending = words[:most], "length"
        if asked.get("stream"):
            self._stream(asked, base, calls, ending, words)
            return
        message = {"role": "assistant", "content": None if calls else "".join(words)}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": ending}
        whole = {**base, "object": "chat.completion", "choices": [choice]}
        self._send(whole if server.usage is None else {**whole, "usage": server.usage})

    def _stream(
        self,
        asked: dict[str, Any],
        base: dict[str, Any],
        calls: list[Any],
        ending: str,
        words: list[str],
    ) -> None:
        server = self.server
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")  # clients of several event loops come here
        self.end_headers()
        parts: list[dict[str, Any]] = [{"delta": {"content": word}} for word in words]
        if calls:
            parts = [{"delta": {"role": "assistant", "tool_calls": calls}}]
        for number, part in enumerate(parts):
            if number == server.breaks_after:
                self.close_connection = True
                return
            self._chunk({**base, "choices": [{"index": 0, "finish_reason": None, **part}]})
            server.sent += 1
        end = {"index": 0, "delta": {}, "finish_reason": ending}
        self._chunk({**base, "choices": [end]})
        if server.usage is not None and (asked.get("stream_options") or {}).get("include_usage"):
            self._chunk({**base, "choices": [], "usage": server.usage})
        self._write(b"data: [DONE]\n\n")
        self._write(b"")

    def _chunk(self, chunk: dict[str, Any]) -> None:
        data = json.dumps({"object": "chat.completion.chunk", **chunk})
        self._write(f"data: {data}\n\n".encode())

    def _write(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        for name, value in (self.server.headers if status != 200 else {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
