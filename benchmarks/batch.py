"""What batches, packed prompts and shared embedding calls cost and save.

queue: requests through the durable queue and OpenAI's SDK to a server in another process: CPU of
this process a request, from `submit` to the answer. packed: tokens of the prompts that sort
customers' questions into banking77's 77 intents, several in a prompt against one each (any labelled
CSV with the columns text and category will do). embed: single queries of many threads to the local
embedder, alone and sharing calls.
"""

import csv
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import (
    BatchQueue,
    BatchRequest,
    MicroBatchEmbedder,
    OnnxEmbedder,
    OpenAIBatches,
    PackedPrompts,
)


def serve(pipe: Connection) -> None:
    from tests.services.batch_server import BatchServer

    server = BatchServer()
    pipe.send(server.url)
    pipe.recv()


def queue_cost(count: int) -> dict[str, float]:
    from openai import OpenAI

    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    provider = OpenAIBatches(OpenAI(api_key="none", base_url=f"{here.recv()}/v1"))
    requests = [
        BatchRequest(
            endpoint="/v1/chat/completions",
            body={
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": f"Question {n}: " + "words " * 300}],
            },
        )
        for n in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        with BatchQueue(f"{folder}/batch.db", provider) as queue:
            at = [time.process_time()]
            ids = queue.submit(requests)
            at.append(time.process_time())
            answered = sum(one.ok for one in queue.as_completed(ids, every=0.05))
            at.append(time.process_time())
        size = Path(f"{folder}/batch.db").stat().st_size
    here.send("enough")
    server.join()
    assert answered == count
    return {
        "n": count,
        "submit_cpu_ms": round(1000 * (at[1] - at[0]) / count, 4),
        "answer_cpu_ms": round(1000 * (at[2] - at[1]) / count, 4),
        "file_bytes_each": round(size / count),
    }


class Silent:
    """A model that answers every pack in full; only its prompts are of interest."""

    def complete(self, prompt: str) -> str:  # noqa: ARG002
        return '{"1":"x","2":"x","3":"x","4":"x","5":"x","6":"x","7":"x","8":"x"}'


def packed_tokens(path: Path, limit: int) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["category"] for row in rows})
    items = [row["text"] for row in rows[:: max(1, len(rows) // limit)]][:limit]
    instruction = f"Which of these intents has the customer's message? {', '.join(labels)}."
    found = []
    for most in (1, 2, 4, 8):
        result = PackedPrompts(Silent(), instruction, most=most).ask(items)
        found.append(
            {
                "most": most,
                "n": len(items),
                "calls": result.calls,
                "share_of_tokens": round(result.tokens_sent / result.tokens_alone, 4),
            }
        )
    return found


class Counting:
    """An embedder that counts its calls."""

    def __init__(self, embedder: Any) -> None:
        self.name, self._embedder, self.calls = embedder.name, embedder, 0
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], role: Any = "query") -> Any:
        with self._lock:
            self.calls += 1
        return self._embedder.embed(texts, role)


def shared_calls(threads: int, each: int) -> dict[str, dict[str, float]]:
    found = {}
    local = OnnxEmbedder()
    local.embed(["warm"])
    for name in ("alone", "shared", "shared_offline"):
        counting = Counting(local)
        micro = MicroBatchEmbedder(counting)
        embedder: Any = {"alone": counting, "shared": micro, "shared_offline": micro.offline}[name]
        waits: list[float] = []

        def work(number: int, embedder: Any = embedder, waits: list[float] = waits) -> None:
            for one in range(each):
                started = time.perf_counter()
                embedder.embed([f"What does plan {number} cost in month {one}?"])
                waits.append(time.perf_counter() - started)

        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        waits.sort()
        found[name] = {
            "n": threads * each,
            "calls": counting.calls,
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "wall_seconds": round(time.perf_counter() - wall, 2),
            "p50_ms": round(1000 * waits[len(waits) // 2], 1),
            "p95_ms": round(1000 * waits[int(len(waits) * 0.95)], 1),
        }
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=DATA / "cache/banking77_test.csv")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=32)
    args = parser.parse_args()
    clock = Clock()
    result: dict[str, Any] = {"seed": args.seed, "n": args.requests}
    result["queue"] = queue_cost(args.requests)
    print("queue:", result["queue"])
    if args.data.exists():
        result["packed"] = packed_tokens(args.data, args.limit)
        for row in result["packed"]:
            print("packed:", row)
    else:
        print(f"packed: skipped, {args.data} is not there")
    result["embed"] = shared_calls(args.threads, 20)
    for name, row in result["embed"].items():
        print(f"embed {name}:", row)
    result |= clock.seconds() | {"versions": versions("openai", "onnxruntime")}
    finish(args, result)


if __name__ == "__main__":
    main()
