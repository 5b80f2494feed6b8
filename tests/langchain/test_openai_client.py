"""The most used client of all, langchain-openai, talking to a server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from langchain_core.messages import HumanMessage

from costwise_core import MemoryStore
from langchain_costwise import CachedChatModel, SemanticCache, track

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI

ASK = "What is the capital of France?"
WORDS = ["Paris ", "is ", "the ", "capital."]
USAGE = {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19}


class Provider(BaseHTTPRequestHandler):
    """Speaks the part of OpenAI's protocol that is needed."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        n = len(self.server.asked)
        head = {"id": f"chatcmpl-{n}", "created": n, "model": "gpt-4o-mini-2024-07-18"}
        self.send_response(200)
        if asked.get("stream"):
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            parts = [{"delta": {"content": word}} for word in WORDS]
            parts.append({"delta": {}, "finish_reason": "stop"})
            chunks = [{"choices": [{"index": 0, **part}]} for part in parts]
            chunks.append({"choices": [], "usage": USAGE})
            for chunk in chunks:
                data = json.dumps({**head, "object": "chat.completion.chunk", **chunk})
                self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
            return
        message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        data = json.dumps(body).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(server):
    def make(**settings) -> ChatOpenAI:
        return ChatOpenAI(
            model="gpt-4o-mini",
            api_key="none",
            base_url=f"http://127.0.0.1:{server.server_port}/v1",
            stream_usage=True,
            max_retries=0,
            **settings,
        )

    return make


async def test_all_ways_share_one_answer_and_the_bill_is_right(server, client):
    cache = SemanticCache(MemoryStore())
    model = CachedChatModel(model=client(), cache=cache)
    with track(feature="faq") as bill:
        text = "".join(chunk.text for chunk in model.stream(ASK))
        assert text == "".join(WORDS)
        assert model.invoke(ASK).text == text
        assert (await model.ainvoke([HumanMessage(ASK)])).text == text
        assert "".join([chunk.text async for chunk in model.astream(ASK)]) == text
    assert len(server.asked) == 1
    assert (bill.paid_calls, bill.hits, bill.usage.total_tokens) == (1, 3, 19)
    assert bill.saved == bill.usd * 3 > 0
    assert cache.cache.stats.errors == {}


def test_a_later_client_with_another_key_finds_the_answer(server, client):
    """The settings' text holds no address and no key, so other processes find the entry."""
    cache = SemanticCache(MemoryStore())
    client(cache=cache).invoke(ASK)
    again = client(cache=cache)
    hit = again.invoke(ASK)
    assert hit.response_metadata["costwise"]["saved_usage"]["input_tokens"] == 14
    assert "id" not in hit.response_metadata
    assert hit.response_metadata["model_name"] == "gpt-4o-mini-2024-07-18"
    assert client(cache=cache, temperature=1).invoke(ASK).response_metadata["id"] == "chatcmpl-2"
    cache.clear(model="gpt-4o-mini")
    again.invoke(ASK)
    assert len(server.asked) == 3
