"""The batch queue against a server that speaks OpenAI's and Anthropic's batch APIs."""

import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    AnthropicBatches,
    BatchQueue,
    BatchRequest,
    MemoryLedger,
    OpenAIBatches,
    SQLiteLedger,
)
from costwise_core.context import scoped
from costwise_core.errors import BatchError, ConfigError
from costwise_core.prompt_hash import prompt_hash
from costwise_core.tracking import calling, left_out, track
from costwise_core.waterfall import LeftOut
from tests.services.batch_server import BatchServer, Fault

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server():
    running = BatchServer()
    yield running
    running.close()


@pytest.fixture(params=["openai", "anthropic"])
def kind(request):
    return request.param


def provider_of(server, kind, **limits):
    if kind == "openai":
        import openai

        given = {"api_key": "k", "base_url": f"{server.url}/v1", "max_retries": 0}
        return OpenAIBatches(
            openai.OpenAI(**given), async_client=openai.AsyncOpenAI(**given), **limits
        )
    import anthropic

    given = {"api_key": "k", "base_url": server.url, "max_retries": 0}
    return AnthropicBatches(
        anthropic.Anthropic(**given), async_client=anthropic.AsyncAnthropic(**given), **limits
    )


MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


def ask(kind, question, **more):
    body = {
        "model": MODELS[kind],
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 50,
        **more,
    }
    endpoint = "/v1/chat/completions" if kind == "openai" else "/v1/messages"
    return BatchRequest(endpoint=endpoint, body=body)


def text_of(answer):
    if "choices" in answer.body:
        return answer.body["choices"][0]["message"]["content"]
    return answer.body["content"][0]["text"]


@pytest.fixture
def queue(server, kind, tmp_path):
    made = BatchQueue(tmp_path / "batch.db", provider_of(server, kind), retry_after=0.0, grace=0.0)
    with made:
        yield made


def finish(queue, ids=None, steps=40):
    """Answers by id; every wait is a step without a pause, and there is an end to it."""
    for _ in range(steps):
        if not queue.step().open:
            break
    return {one.id: one for one in queue.answers(queue._known(ids))}


def test_answers_come_to_their_requests_in_any_order(server, kind, queue):
    ids = queue.submit([ask(kind, f"q{number}") for number in range(1203)])
    found = {one.id: one for one in queue.as_completed(ids, every=0.01)}
    assert [text_of(found[one]) for one in ids] == [f"Answer to q{n}" for n in range(1203)]
    assert all(one.processing == "batch" and one.tries == 1 for one in found.values())
    assert len(server.jobs) == 1


async def test_async_is_the_same(server, kind, queue):
    ids = await queue.asubmit([ask(kind, f"q{number}") for number in range(20)])
    found = {one.id: one async for one in queue.aas_completed(ids, every=0.01)}
    assert [text_of(found[one]) for one in ids] == [f"Answer to q{n}" for n in range(20)]


async def test_a_sync_client_serves_async_code_and_not_the_other_way_round(server, kind, tmp_path):
    both = provider_of(server, kind)
    for name, client in (("sync", both._api._client), ("async", None)):
        more = {} if client else {"async_client": both._api._async_client}
        queue = BatchQueue(tmp_path / f"{name}.db", type(both)(client, **more))
        ids = await queue.asubmit([ask(kind, "q")])
        found = [one async for one in queue.aas_completed(ids, every=0.01)]
        assert text_of(found[0]) == "Answer to q"
        if not client:
            # Nothing was asked: the request is kept.
            queue.submit([ask(kind, "another")])
            with pytest.raises(BatchError, match="only an async client"):
                queue.step()


def test_the_bill_shows_the_batch_as_a_step(server, kind, queue):
    baseline = {"openai": "gpt-4o", "anthropic": "claude-opus-4-1"}[kind]
    note = LeftOut(stage="compress", tokens=1000, pieces=("RAG is a method",), source="1")
    with track(feature="nightly"), calling(baseline_model=baseline):
        left_out(note)
        ids = queue.submit([ask(kind, "RAG is a method. What is it?")])
    ledger = MemoryLedger()
    with track(team="ops", ledger=ledger):
        finish(queue, ids)
    (call,) = ledger.records()
    rates = {"openai": (Decimal("0.15"), Decimal("0.6")), "anthropic": (Decimal(1), Decimal(5))}
    sent, produced = rates[kind]
    assert call.usd == (100 * sent + 10 * produced) / 2 / 1_000_000
    assert dict(call.tags) == {"feature": "nightly", "team": "ops"}
    assert [one.stage for one in call.savings] == ["route", "compress", "batch"]
    assert call.savings[-1].usd == call.usd
    assert call.savings[1].usd == 1000 * sent / 1_000_000
    assert call.prompt_hash == prompt_hash("RAG is a method. What is it?", call.model)


def test_answers_are_billed_once_however_often_they_are_read(server, kind, queue, tmp_path):
    ids = queue.submit([ask(kind, "q1"), ask(kind, "q2")])
    finish(queue, ids)  # nobody keeps books yet
    ledger = SQLiteLedger(tmp_path / "l.db")
    for _ in range(3):
        with track(ledger=ledger):
            queue.step()
    assert len(list(ledger.records())) == 2


def test_what_fails_in_part_is_tried_again_and_the_rest_is_not(server, kind, queue):
    failures = {"q1": iter(["500", "ok"]), "q2": iter(["400"]), "q3": iter(["missing", "ok"])}
    server.fate = lambda _, body: next(failures.get(body["messages"][-1]["content"], iter(["ok"])))
    ids = queue.submit([ask(kind, f"q{number}") for number in range(5)])
    found = finish(queue, ids)
    assert [found[one].tries for one in ids] == [1, 2, 1, 2, 1]
    assert [found[one].ok for one in ids] == [True, True, False, True, True]
    assert "no: 400" in found[ids[2]].error
    assert set(server.paid.values()) == {1}
    assert not server.run_now


def test_what_never_works_ends(server, kind, queue):
    server.fate = lambda custom_id, body: "500"
    ids = queue.submit([ask(kind, "q")])
    found = finish(queue, ids)
    assert not found[ids[0]].ok
    assert len(server.jobs) == 3  # in batches; then in real time as often
    assert sum(path.endswith(("completions", "messages")) for _, path in server.seen) == 3


def test_what_failed_is_tried_anew_when_it_is_submitted_again(server, kind, queue):
    server.fate = lambda custom_id, body: "400"
    ids = queue.submit([ask(kind, "q")])
    assert not finish(queue, ids)[ids[0]].ok
    server.fate = lambda custom_id, body: "ok"
    assert queue.submit([ask(kind, "q")]) == ids
    assert finish(queue, ids)[ids[0]].ok


def test_what_expires_is_asked_in_real_time(server, kind, queue):
    server.fate = lambda custom_id, body: (
        "expired" if body["messages"][-1]["content"] == "q1" and custom_id != "now" else "ok"
    )
    with track() as bill:
        ids = queue.submit([ask(kind, "q0"), ask(kind, "q1")])
        found = finish(queue, ids)
    assert [found[one].processing for one in ids] == ["batch", "standard"]
    assert dict(server.run_now) == {"q1": 1}
    assert bill.usd == bill.savings["batch"] * 3  # one at half the price, one at the whole


def test_without_real_time_what_expires_ends_with_an_error(server, kind, tmp_path):
    server.fate = lambda custom_id, body: "expired"
    with BatchQueue(tmp_path / "b.db", provider_of(server, kind), real_time=False) as queue:
        ids = queue.submit([ask(kind, "q")], within=1.0)
        assert "expired" in finish(queue, ids)[ids[0]].error
    assert not server.paid


def test_a_near_deadline_is_worth_no_batch(server, kind, queue):
    ids = queue.submit([ask(kind, "q")], within=60.0)
    assert finish(queue, ids)[ids[0]].processing == "standard"
    assert not server.jobs


def test_many_that_expire_are_seen_while_others_are_asked(server, kind, tmp_path):
    with BatchQueue(tmp_path / "b.db", provider_of(server, kind)) as queue:
        ids = queue.submit([ask(kind, f"q{number}") for number in range(250)], within=1.0)
        answers = queue.as_completed(ids, every=60.0)
        next(answers)
        assert 1 < server.run_now.total() < 250
        assert len(list(answers)) == 249
    assert set(server.paid.values()) == {1}


def test_a_held_out_request_is_asked_in_real_time(server, kind, queue):
    with scoped(unoptimised=True):
        ids = queue.submit([ask(kind, "q")])
    assert finish(queue, ids)[ids[0]].processing == "standard"


def test_a_deadline_that_comes_near_ends_the_batch(server, kind, tmp_path):
    server.never_ends = True
    now = [1_000_000.0]
    queue = BatchQueue(
        tmp_path / "b.db", provider_of(server, kind), reserve=900.0, clock=lambda: now[0]
    )
    ids = queue.submit([ask(kind, "q0"), ask(kind, "q1")], within=7200.0)
    later = queue.submit([ask(kind, "q2")])  # in no hurry: in a batch of its own
    queue.step()
    assert len(server.jobs) == 2
    now[0] += 7200 - 901
    queue.step()
    assert all(job.state == "running" for job in server.jobs.values())
    now[0] += 2
    queue.step()
    assert [job.state for job in server.jobs.values()] == ["cancelling", "running"]
    queue.step()
    found = {one.id: one for one in queue.answers(ids)}
    assert [found[one].processing for one in ids] == ["standard", "standard"]
    assert not queue.answers(later)
    assert dict(server.paid) == {"q0": 1, "q1": 1}


def test_a_cancellation_that_lasts_does_not_break_the_deadline(server, kind, tmp_path):
    server.never_ends = True
    now = [1_000_000.0]
    queue = BatchQueue(tmp_path / "b.db", provider_of(server, kind), clock=lambda: now[0])
    ids = queue.submit([ask(kind, "q")], within=7200.0)
    queue.step()
    server.faults = [Fault("POST", "/v1/", status=500, times=1)]  # nor does one that fails
    now[0] += 7200 - 299
    queue.step()
    assert queue.answers(ids)[0].processing == "standard"
    ledger = MemoryLedger()
    with track(ledger=ledger):
        server.never_ends = False
        for _ in range(3):
            queue.step()
    # The batch ran after all; both are on the bill.
    assert dict(server.paid) == {"q": 2}
    assert sorted(one.overhead for one in ledger.records()) == [False, True]


@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_to_handing_in_is_paid_once(server, kind, tmp_path, times):
    path = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches"}[kind]
    server.faults = [
        Fault("POST", path, lost=True),
        Fault("GET", path, status=500, times=times),
    ]
    with BatchQueue(tmp_path / "b.db", provider_of(server, kind), retry_after=0.0) as queue:
        ids = queue.submit([ask(kind, f"q{number}") for number in range(3)])
        found = finish(queue, ids)
    assert all(found[one].ok for one in ids)
    assert len(server.jobs) == 1
    assert set(server.paid.values()) == {1}


def test_a_batch_that_was_not_taken_is_handed_in_again(server, kind, queue):
    path = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches"}[kind]
    server.faults = [
        Fault("POST", path, status=500),
        Fault("POST", path, status=429),
        Fault("POST", "/v1/files", status=503),
    ]
    ids = queue.submit([ask(kind, "q")])
    assert finish(queue, ids)[ids[0]].tries <= 2
    assert set(server.paid.values()) == {1}


def test_somebody_elses_batch_of_the_same_size_is_not_taken_for_ours(server, kind, tmp_path, queue):
    path = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches"}[kind]
    with BatchQueue(tmp_path / "other.db", provider_of(server, kind)) as other:
        other.submit([ask(kind, "theirs")])
        other.step()
        server.faults = [Fault("POST", path, status=500)]
        ids = queue.submit([ask(kind, "mine")])
        found = finish(queue, ids)
    assert text_of(found[ids[0]]) == "Answer to mine"


def test_faults_on_the_way_are_passed_over_and_counted(server, kind, queue):
    ids = queue.submit([ask(kind, f"q{number}") for number in range(3)])
    server.faults = [
        Fault("GET", "/v1/", status=500, times=2),
        Fault("GET", "/v1/", lost=True, times=2),
        Fault("GET", "/v1/", status=429, times=1),
    ]
    found = finish(queue, ids)
    assert all(found[one].ok for one in ids)
    assert set(server.paid.values()) == {1}
    assert queue.faults.total() >= 3


def test_an_endpoint_that_is_not_there_says_so_and_keeps_the_requests(server, kind, queue):
    server.faults = [Fault("POST", "/v1/", status=404)]
    ids = queue.submit([ask(kind, "q")])
    with pytest.raises(BatchError, match="no batch endpoint"):
        queue.step()
    assert queue.counts().waiting == 1
    assert finish(queue, ids)[ids[0]].ok


def test_a_wrong_key_is_said_and_loses_nothing(server, kind, queue):
    server.faults = [Fault("POST", "/v1/", status=401)]
    ids = queue.submit([ask(kind, "q")])
    with pytest.raises(BatchError) as caught:
        queue.step()
    assert caught.value.reason == "access"
    assert finish(queue, ids)[ids[0]].ok


def test_a_key_that_is_taken_away_is_said_while_batches_run(server, kind, queue):
    server.never_ends = True
    ids = queue.submit([ask(kind, "q")])
    queue.step()
    server.faults = [Fault("GET", "/v1/", status=401)]
    with pytest.raises(BatchError, match="refuses access"):
        queue.step()
    server.never_ends = False
    assert finish(queue, ids)[ids[0]].ok


def test_results_are_not_trusted(server, kind, queue):
    server.junk = [
        "not json",
        "[1, 2]",
        '{"custom_id": "somebody-else-0", "response": {"status_code": 200, "body": {}}}',
        '{"custom_id": null}',
        "[" * 100_000,
        '{"custom_id": 7, "result": {"type": "succeeded", "message": {"id": "x"}}}',
    ]
    ids = queue.submit([ask(kind, f"q{number}") for number in range(3)])
    found = finish(queue, ids)
    assert [text_of(found[one]) for one in ids] == [f"Answer to q{n}" for n in range(3)]


def test_limits_of_the_provider_are_kept(server, kind, tmp_path):
    provider = provider_of(server, kind, max_requests=7, max_bytes=5_000)
    with BatchQueue(tmp_path / "b.db", provider) as queue:
        ids = queue.submit([ask(kind, f"q{number}" + "x" * 300) for number in range(40)])
        found = finish(queue, ids)
        with pytest.raises(ConfigError, match="too large"):
            queue.submit([ask(kind, "x" * 6_000)])
    assert all(one.ok for one in found.values())
    assert max(len(job.entries) for job in server.jobs.values()) <= 7
    assert all(len(raw) <= 5_000 for name, raw in server.files.items() if name[:5] == "file-")


def test_one_model_and_one_endpoint_to_a_batch(server, kind, queue):
    ids = queue.submit([ask(kind, "a"), ask(kind, "b", model=f"{MODELS[kind]}-2"), ask(kind, "c")])
    assert all(one.ok for one in finish(queue, ids).values())
    assert sorted(len(job.entries) for job in server.jobs.values()) == [1, 2]


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": "m", "stream": True}])
def test_requests_no_batch_can_hold_are_refused(queue, body):
    with pytest.raises(ConfigError):
        queue.submit([BatchRequest(endpoint="/v1/messages", body=body)])
    with pytest.raises(ConfigError, match="JSON"):
        queue.submit([BatchRequest(endpoint="/v1/x", body={"model": "m", "x": object()})])
    assert not queue.counts().open


def test_the_same_program_started_again_pays_once(server, kind, tmp_path):
    def program():
        with BatchQueue(tmp_path / "b.db", provider_of(server, kind)) as queue:
            ids = queue.submit([ask(kind, q) for q in ("q0", "q1", "q1")], job="nightly")
            return finish(queue, ids)

    first, second = program(), program()
    assert first == second
    assert dict(server.paid) == {"q0": 1, "q1": 2}
    with BatchQueue(tmp_path / "b.db", provider_of(server, kind)) as queue:
        assert not set(queue.submit([ask(kind, "q0")], job="another")) & first.keys()
        with scoped(tenant="acme"):
            assert not set(queue.submit([ask(kind, "q0")], job="nightly")) & first.keys()
        assert queue.forget(first) == 3


def test_keys_stay_in_the_order_given(server, kind, queue):
    properties = {"reasoning": {"type": "string"}, "answer": {"type": "string"}}
    queue.submit([ask(kind, "q", tools=[{"properties": properties}])])
    queue.step()
    sent = next(iter(server.jobs.values())).entries[0][1]
    assert list(sent["tools"][0]["properties"]) == ["reasoning", "answer"]


def test_an_unknown_id_is_an_error_and_not_an_endless_wait(queue):
    with pytest.raises(ConfigError, match="not in this queue"):
        next(queue.as_completed(["nobody"]))


PROGRAM = """
import os, signal, sys
from costwise_core import BatchQueue
from tests.services import test_batch_queue as t

class Server:
    url = sys.argv[1]

provider = t.provider_of(Server, sys.argv[3])
die = sys.argv[4]
if die == "noting":
    note = "note_submitted"
elif die == "taking":
    note = "end_batch"
queue = BatchQueue(sys.argv[2], provider)
if die in ("noting", "taking"):
    setattr(queue._file, note, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
queue.submit([t.ask(sys.argv[3], f"q{n}") for n in range(5)], job="nightly")
if die == "submitted":
    os.kill(os.getpid(), signal.SIGKILL)
for _ in range(9):
    queue.step()
"""


@pytest.mark.parametrize("moment", ["submitted", "noting", "taking"])
def test_a_killed_process_loses_nothing_and_pays_nothing_twice(server, kind, tmp_path, moment):
    file = tmp_path / "b.db"
    command = [sys.executable, "-c", PROGRAM, server.url, str(file), kind, moment]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(server.jobs) == (0 if moment == "submitted" else 1)
    with BatchQueue(file, provider_of(server, kind)) as queue:
        ids = queue.submit([ask(kind, f"q{n}") for n in range(5)], job="nightly")
        found = finish(queue, ids)
    assert [text_of(found[one]) for one in ids] == [f"Answer to q{n}" for n in range(5)]
    assert dict(server.paid) == {f"q{n}": 1 for n in range(5)}


def test_several_workers_share_a_queue_and_pay_once(server, kind, tmp_path):
    server.polls_needed = 5
    queues = [
        BatchQueue(tmp_path / "b.db", provider_of(server, kind, max_requests=3)) for _ in range(4)
    ]
    ids = queues[0].submit([ask(kind, f"q{number}") for number in range(30)])
    found: list[set[str]] = []

    def work(queue):
        found.append({one.id for one in queue.as_completed(ids, every=0.01) if one.ok})

    threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [set(ids)] * 4
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 30


@settings(max_examples=15)
@given(data=st.data())
def test_every_request_ends_with_its_own_answer_whatever_happens(data):
    """Random fates and faults: nothing is lost, mixed up, or paid again once answered."""
    fates = st.sampled_from(["ok", "ok", "500", "400", "429", "expired", "missing"])
    plans = {f"q{n}": data.draw(st.lists(fates, max_size=4)) for n in range(8)}
    seen = {name: iter([*plan, *itertools.repeat("ok", 20)]) for name, plan in plans.items()}
    faults = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["GET", "POST"]),
                st.sampled_from(["/v1/batches", "/v1/files", "/v1/messages/batches"]),
                st.sampled_from([0, 429, 500]),
            ),
            max_size=5,
        )
    )
    kind = data.draw(st.sampled_from(["openai", "anthropic"]))
    server = BatchServer()
    try:
        server.fate = lambda _, body: next(seen[body["messages"][-1]["content"]])
        server.faults = [Fault(m, p, status=s, lost=not s) for m, p, s in faults]
        with (
            tempfile.TemporaryDirectory() as folder,
            BatchQueue(
                f"{folder}/b.db", provider_of(server, kind), retry_after=0.0, grace=0.0
            ) as queue,
        ):
            ids = queue.submit([ask(kind, name) for name in plans])
            found = finish(queue, ids)
            assert found.keys() == set(ids)
            for name, ident in zip(plans, ids, strict=True):
                if found[ident].ok:
                    assert text_of(found[ident]) == f"Answer to {name}"
                else:
                    assert "400" in plans[name] or len(plans[name]) >= 3
        assert all(times == 1 for times in server.paid.values())
    finally:
        server.close()


def test_a_queue_that_is_full_at_openai_waits_and_costs_no_try(server, tmp_path):
    full = {"code": "token_limit_exceeded", "message": "Enqueued token limit", "line": None}
    server.refusals = [[full], [full], [full], [full], [full]]
    with BatchQueue(
        tmp_path / "b.db", provider_of(server, "openai"), retry_after=0.0, tries=1
    ) as queue:
        ids = queue.submit([ask("openai", "q")])
        assert finish(queue, ids)[ids[0]].processing == "batch"


def test_a_bad_line_fails_alone(server, tmp_path):
    bad = {"code": "invalid_value", "message": "no such parameter", "line": 2}
    server.refusals = [[bad]]
    with BatchQueue(tmp_path / "b.db", provider_of(server, "openai"), retry_after=0.0) as queue:
        ids = queue.submit([ask("openai", f"q{n}") for n in range(3)])
        found = finish(queue, ids)
    assert [found[one].ok for one in ids] == [True, False, True]
    assert "no such parameter" in found[ids[1]].error


def test_a_batch_nobody_knows_any_more_is_sent_again(server, kind, queue):
    server.polls_needed = 99
    ids = queue.submit([ask(kind, "q")])
    queue.step()
    server.jobs.clear()
    server.polls_needed = 1
    assert finish(queue, ids)[ids[0]].ok


async def test_a_cancelled_task_leaves_the_queue_whole(server, kind, queue):
    server.never_ends = True
    ids = await queue.asubmit([ask(kind, "q")])

    async def wait():
        return [one async for one in queue.aas_completed(ids, every=0.01)]

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.never_ends = False
    assert finish(queue, ids)[ids[0]].ok
    assert set(server.paid.values()) == {1}


def test_the_file_is_the_users_own(queue):
    queue.submit([])
    assert queue._file._file.path.stat().st_mode & 0o777 == 0o600
