"""Embedding requests of threads and tasks share calls, and nothing else."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from costwise_core import MicroBatchEmbedder
from costwise_core.errors import ConfigError, VectorError
from costwise_core.testing.fakes import HashingEmbedder


class Slow:
    """Counts calls; each waits until `gate` is open. Refuses texts that say "bad"."""

    name = "slow"

    def __init__(self):
        self.inner = HashingEmbedder()
        self.calls = []
        self.called = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, texts, role="query"):
        self.calls.append((role, list(texts)))
        self.called.set()
        assert self.gate.wait(10)
        if any("bad" in text for text in texts):
            raise ValueError("a bad text")
        return self.inner.embed(texts, role)


@pytest.fixture
def slow():
    return Slow()


def closed(slow, embedder):
    """Keep the embedder busy with one request, so that others gather; returns how to go on."""
    slow.gate.clear()
    first = threading.Thread(target=embedder.embed, args=(["first"],))
    first.start()
    assert slow.called.wait(10)

    def go_on():
        slow.gate.set()
        first.join(10)

    return go_on


def test_threads_share_a_call_and_each_gets_its_own_rows(slow):
    embedder = MicroBatchEmbedder(slow, wait=0.3)
    go_on = closed(slow, embedder)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(embedder.embed, [f"t{n}", f"u{n}"]) for n in range(20)]
        time.sleep(0.1)
        go_on()
        rows = [future.result(10) for future in futures]
    for n, found in enumerate(rows):
        np.testing.assert_array_equal(found, slow.inner.embed([f"t{n}", f"u{n}"]))
    assert len(slow.calls) == embedder.calls == 2


async def test_tasks_share_a_call(slow):
    embedder = MicroBatchEmbedder(slow)
    rows = await asyncio.gather(*(embedder.offline.aembed([f"t{n}"]) for n in range(50)))
    for n, found in enumerate(rows):
        np.testing.assert_array_equal(found, slow.inner.embed([f"t{n}"]))
    assert len(slow.calls) == 1


async def test_a_lonely_request_does_not_wait_for_others(slow):
    embedder = MicroBatchEmbedder(slow, wait=60.0)
    assert len(await asyncio.wait_for(embedder.aembed(["a"]), 5)) == 1
    assert len(embedder.embed(["a"])) == 1


def test_enough_texts_go_at_once(slow):
    embedder = MicroBatchEmbedder(slow, offline_wait=60.0, most=4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embedder.offline.embed, [["a"], ["b"], ["c"], ["d"]]))
    assert [len(rows) for rows in found] == [1] * 4
    assert len(embedder.offline.embed(["a", "b", "c", "d", "e"])) == 5


async def test_an_error_reaches_only_its_caller(slow):
    embedder = MicroBatchEmbedder(slow)
    texts = ["good", "bad", "fine"]
    ends = await asyncio.gather(
        *(embedder.offline.aembed([text]) for text in texts), return_exceptions=True
    )
    assert [type(end) for end in ends] == [np.ndarray, ValueError, np.ndarray]
    with pytest.raises(ValueError, match="a bad text"):
        embedder.embed(["bad"])
    with pytest.raises(ValueError, match="a bad text"):
        embedder.offline.embed(["bad"])


async def test_queries_documents_and_offline_work_are_not_mixed(slow):
    embedder = MicroBatchEmbedder(slow)
    slow.gate.clear()
    tasks = [
        asyncio.create_task(call)
        for call in (
            embedder.offline.aembed(["q1"], "query"),
            embedder.offline.aembed(["d1"], "document"),
            embedder.aembed(["q2"], "query"),
        )
    ]
    await asyncio.sleep(0.5)
    slow.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(slow.calls) == [("document", ["d1"]), ("query", ["q1"]), ("query", ["q2"])]


async def test_a_caller_that_gives_up_takes_nobody_along(slow):
    embedder = MicroBatchEmbedder(slow, offline_wait=0.1)
    leaving = asyncio.create_task(embedder.offline.aembed(["leaving"]))
    staying = asyncio.create_task(embedder.offline.aembed(["staying"]))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert len(await staying) == 1
    assert slow.calls == [("query", ["staying"])]


async def test_giving_up_while_it_is_embedded_hurts_nobody(slow):
    embedder = MicroBatchEmbedder(slow, offline_wait=0.0)
    slow.gate.clear()
    leaving = asyncio.create_task(embedder.offline.aembed(["leaving"]))
    assert await asyncio.to_thread(slow.called.wait, 10)
    leaving.cancel()
    slow.gate.set()
    assert len(await embedder.offline.aembed(["next"])) == 1


def test_rows_are_the_callers_own(slow):
    embedder = MicroBatchEmbedder(slow)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(embedder.offline.embed, [["a"], ["a"]])
    one[:] = 0
    assert other.any()


def test_too_few_rows_are_an_error():
    class Short:
        name = "short"

        def embed(self, texts, role="query"):
            return np.ones((len(texts) - 1, 2), np.float32)

    with pytest.raises(VectorError, match="0 vectors for 1 texts"):
        MicroBatchEmbedder(Short()).offline.embed(["a"])


@pytest.mark.parametrize("bad", [{"wait": -1}, {"offline_wait": 61}, {"most": 0}])
def test_options_out_of_range_are_refused(slow, bad):
    with pytest.raises(ConfigError):
        MicroBatchEmbedder(slow, **bad)


def test_no_texts_are_no_rows(slow):
    assert len(MicroBatchEmbedder(slow).offline.embed([])) == 0
