"""The real OpenAI client of LlamaIndex against a server that speaks the protocol."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from llama_index.core.llms import ChatMessage

from llamaindex_costwise import CachedLLM, track

openai_like = pytest.importorskip("llama_index.llms.openai_like")

ASKED = [ChatMessage(content="What is the moon?")]
WORDS = ["The ", "moon ", "is ", "round."]
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 9,
    "total_tokens": 49,
    "prompt_tokens_details": {"cached_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests: list  # set by the fixture

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        base = {"id": "x", "created": 0, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**base, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            self._send("application/json", json.dumps(whole))
            return
        choices = [{"index": 0, "delta": {"content": w}, "finish_reason": None} for w in WORDS]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [{**base, "choices": [choice], "usage": None} for choice in choices]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**base, "choices": [], "usage": USAGE})
        for chunk in chunks:
            chunk["object"] = "chat.completion.chunk"
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send("text/event-stream", "".join(lines) + "data: [DONE]\n\n")

    def _send(self, kind, text):
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Recorded", (Handler,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def provider(server):
    def make(**kwargs):
        return openai_like.OpenAILike(
            model="gpt-4o-mini",
            api_base=f"http://127.0.0.1:{server.server_address[1]}/v1",
            api_key="sk-very-secret",
            is_chat_model=True,
            is_function_calling_model=True,
            reuse_client=False,
            max_retries=0,
            **kwargs,
        )

    return make


STREAM_USAGE = {"stream_options": {"include_usage": True}}


async def test_reported_usage_reaches_the_bill(provider, server):
    inner = provider(additional_kwargs=STREAM_USAGE)
    with track() as bill:
        inner.chat(ASKED)
        list(inner.stream_chat(ASKED))
        [piece async for piece in await inner.astream_chat(ASKED)]
        inner.complete("What is the moon?")
    assert bill.calls == len(server.RequestHandlerClass.requests) == 4
    for record in bill.records:
        assert not record.usage.estimated
        assert record.model == "gpt-4o-mini"
        assert record.usage.input_tokens == 40
        assert record.usage.cache_read_tokens == 30
        assert record.usage.output_tokens == 9
        assert record.usage.reasoning_tokens == 5


def test_a_stream_without_usage_is_an_estimate(provider):
    with track() as bill:
        list(provider().stream_chat(ASKED))
    assert bill.records[0].usage.estimated
    assert bill.records[0].usage.output_tokens == 5  # "The moon is round." in o200k


async def test_cached(provider, server, cache):
    llm = CachedLLM(llm=provider(additional_kwargs=STREAM_USAGE), cache=cache)
    with track() as bill:
        text = "".join(piece.delta or "" for piece in llm.stream_chat(ASKED))
        assert llm.chat(ASKED).message.content == text == "".join(WORDS)
        assert "".join([p.delta async for p in await llm.astream_chat(ASKED)]) == text
    assert len(server.RequestHandlerClass.requests) == 1
    calls = [record for record in bill.records if record.operation != "embedding"]
    assert [record.tier for record in calls] == ["", "exact", "exact"]
    stages = [saving.stage for saving in calls[1].savings]
    assert stages == ["prompt_cache", "response_cache"]
    assert calls[1].savings[1].tokens == 49
    assert "sk-very-secret" not in f"{llm!r} {llm.to_dict()}"
