"""Alerts: budgets once for each window, unusual calls with their causes, sinks that never block."""

import json
import logging
import multiprocessing
import random
import threading
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    Alert,
    Alerts,
    Budget,
    BudgetExceededError,
    Budgets,
    CallRecord,
    MemoryLedger,
    PriceBook,
    SQLiteBudgets,
    Usage,
    Webhook,
    log_alert,
    record_call,
    track,
)
from costwise_core.alerts.causes import CAUSES, Spend, causes_of, spend_of
from costwise_core.alerts.robust import usual
from costwise_core.alerts.watch import BATCH, Watch
from costwise_core.alerts.worker import Worker
from costwise_core.errors import ConfigError
from costwise_core.money import dollars, total

BOOK = PriceBook()
MODEL = "gpt-4o"


def paid(number, *, sent=1000, produced=100, cached=0, at=None, feature="faq", request=""):
    used = Usage(input_tokens=sent, output_tokens=produced, cache_read_tokens=cached)
    tags = (("feature", feature), *((("request", request),) if request else ()))
    return CallRecord(
        id=f"{feature}{number}",
        at=float(number * 5 if at is None else at),
        operation="chat",
        model=MODEL,
        usage=used,
        usd=BOOK.cost(used, MODEL).usd,
        tags=tags,
    )


def alert(**values):
    fields = {"kind": "cost", "key": "k", "at": 0.0, "subject": "faq", "unit": "usd"}
    return Alert(
        **{**fields, "value": 2.0, "limit": 1.0, "level": 2.0, "why": "it costs more", **values}
    )


# --- budgets --------------------------------------------------------------------------------------


def told_of(alerts, told):
    assert alerts.flush()
    return [(one.kind, one.level) for one in told]


def test_each_threshold_of_a_budget_is_told_once_in_a_window_and_again_in_the_next():
    now = [0.0]
    told = []
    alerts = Alerts(told.append, clock=lambda: now[0])
    budgets = Budgets(
        Budget(limit=10, unit="calls", window="day"), seen=alerts.seen, clock=lambda: now[0]
    )
    for _ in range(2):
        for _ in range(10):
            budgets.reserve("m", input_tokens=1).settle(Usage())
        with pytest.raises(BudgetExceededError):
            budgets.reserve("m", input_tokens=1)
        with pytest.raises(BudgetExceededError):
            budgets.reserve("m", input_tokens=1)
        now[0] += 86_400
    day = [("budget", 0.5), ("budget", 0.8), ("budget", 1.0), ("refused", 1.0)]
    assert told_of(alerts, told) == day * 2
    assert told[0].why == "50% is spent or reserved: 5 calls of 10 calls"
    assert told[3].why == "a call was refused, with 0 calls left of 10 calls"


def test_what_is_reserved_counts_before_it_is_spent():
    told = []
    alerts = Alerts(told.append)
    budgets = Budgets(Budget(limit=100, unit="tokens"), seen=alerts.seen)
    budgets.reserve("m", input_tokens=40, output_tokens=40).settle(Usage(input_tokens=1))
    assert told_of(alerts, told) == [("budget", 0.5), ("budget", 0.8)]
    assert (told[1].value, told[1].limit, told[1].unit) == (80.0, 100.0, "tokens")


def test_a_call_too_large_for_an_empty_budget_does_not_use_up_the_hundred_percent():
    told = []
    alerts = Alerts(told.append)
    budgets = Budgets(Budget(limit=10, unit="tokens"), seen=alerts.seen)
    with pytest.raises(BudgetExceededError):
        budgets.reserve("m", input_tokens=11)
    budgets.reserve("m", input_tokens=10)
    assert told_of(alerts, told) == [
        ("refused", 1.0),
        ("budget", 0.5),
        ("budget", 0.8),
        ("budget", 1.0),
    ]


def test_each_tenant_has_alerts_of_its_own_that_name_it():
    told = []
    alerts = Alerts(told.append, thresholds=[1.0])
    budgets = Budgets(Budget(limit=1, unit="calls", tags={"tenant": "*"}), seen=alerts.seen)
    for tenant in ("a/b", "c=d"):
        budgets.reserve("m", input_tokens=1, tags={"tenant": tenant})
    assert alerts.flush()
    assert [one.tags for one in told] == [(("tenant", "a/b"),), (("tenant", "c=d"),)]
    assert told[0].subject == "1 calls in total for each tenant (tenant 'a/b')"


def test_a_budget_of_nothing_is_told_only_by_its_refusal():
    told = []
    alerts = Alerts(told.append)
    budgets = Budgets(Budget(limit=0, unit="tokens"), seen=alerts.seen)
    budgets.reserve("m", input_tokens=0)
    with pytest.raises(BudgetExceededError):
        budgets.reserve("m", input_tokens=1)
    assert told_of(alerts, told) == [("refused", 1.0)]


def test_threads_tell_once():
    told = []
    alerts = Alerts(told.append)
    budgets = Budgets(Budget(limit=64, unit="calls", window="day"), seen=alerts.seen)

    def spend():
        for _ in range(4):
            budgets.reserve("m", input_tokens=1).settle(Usage())

    threads = [threading.Thread(target=spend) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(told_of(alerts, told)) == [("budget", 0.5), ("budget", 0.8), ("budget", 1.0)]


def _spend_in_a_process(path, told):
    with SQLiteBudgets(path) as store:
        alerts = Alerts(lambda one: told.put((one.kind, one.level)), store=store)
        budgets = Budgets(
            Budget(limit=40, unit="calls", window="total"), store=store, seen=alerts.seen
        )
        for _ in range(20):
            try:
                budgets.reserve("m", input_tokens=1).settle(Usage())
            except BudgetExceededError:
                break
        assert alerts.flush()


def test_processes_with_one_store_tell_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Queue()
    workers = [
        spawn.Process(target=_spend_in_a_process, args=(str(tmp_path / "budgets"), told))
        for _ in range(3)
    ]
    for one in workers:
        one.start()
    found = [told.get(timeout=60) for _ in range(4)]
    for one in workers:
        one.join(60)
        assert one.exitcode == 0
    assert told.empty()
    assert sorted(found) == [("budget", 0.5), ("budget", 0.8), ("budget", 1.0), ("refused", 1.0)]


def test_a_store_that_is_gone_means_an_alert_and_a_fault(tmp_path):
    told = []
    store = SQLiteBudgets(tmp_path / "budgets")
    store.move("r", "o", [], now=0.0, expires=1.0)
    store.close()
    (tmp_path / "budgets").write_bytes(b"no database" * 1000)
    alerts = Alerts(told.append, store=store)
    alerts.seen(Budget(limit=1, unit="calls"), "calls/total/x", _balance(1))
    assert told_of(alerts, told) == [("budget", 0.5), ("budget", 0.8), ("budget", 1.0)]
    assert sum(alerts.faults.values()) == 3


def _balance(spent):
    from costwise_core.budget.moves import Balance

    return Balance(spent=spent, held=0)


def test_what_was_said_of_windows_that_are_over_is_forgotten():
    now = [0.0]
    alerts = Alerts(clock=lambda: now[0])
    budget = Budget(limit=1, unit="calls", window="minute", tags={"user": "*"})
    for minute in range(50):
        now[0] = 60.0 * minute
        for user in range(100):
            alerts.seen(budget, f"calls/minute/{minute}/user={user}", _balance(1))
    assert len(alerts._said) <= 1000
    assert alerts.flush()


# --- unusual calls --------------------------------------------------------------------------------


def through(records, rise=0.2):
    watch = Watch(BOOK, rise=rise)
    return [one for record in records for one in watch.see(record)]


def usual_calls(count, *, seed=0, **values):
    rng = random.Random(seed)
    return [
        paid(n, **{"sent": rng.randint(900, 1100), "produced": rng.randint(80, 120), **values})
        for n in range(count)
    ]


def test_usual_calls_are_nothing_to_talk_about():
    assert through(usual_calls(2000)) == []


def test_too_few_calls_are_no_baseline():
    calls = [*usual_calls(300), *(paid(n, sent=4000) for n in range(300, 390))]
    assert [one for one in through(calls) if one.kind == "cost"] == []


def test_longer_prompts_are_told_with_their_cause():
    calls = [*usual_calls(400), *(paid(n, sent=1600) for n in range(400, 460))]
    (found,) = through(calls)
    assert found.kind == "cost"
    assert found.subject == "faq with gpt-4o"
    assert found.tags == (("feature", "faq"),)
    assert found.causes[0].name == "input tokens"
    assert found.causes[0].after == 1600
    assert total(one.usd for one in found.causes) == pytest.approx(
        Decimal(str(found.value)) - Decimal(str(found.limit)), abs=Decimal("1e-9")
    )
    assert "input tokens +$0.001" in found.why


def test_a_rise_of_less_than_asked_for_is_not_told():
    calls = [*usual_calls(400), *(paid(n, sent=1100) for n in range(400, 460))]
    assert through(calls) == []
    assert [one.kind for one in through(calls, rise=0.02)] == ["cost"]


def test_more_calls_for_a_request_are_told_as_that():
    before = [paid(n, request=f"r{n}") for n in range(450)]
    after = [paid(n, request=f"r{n // 3}") for n in range(900, 1060)]
    found = [one for one in through([*before, *after]) if one.kind == "cost"]
    assert [one.causes[0].name for one in found] == ["calls"]
    assert found[0].causes[0].after == pytest.approx(3.0, abs=0.1)


def test_a_response_cache_that_went_cold_is_told_as_that():
    def hit(n):
        return CallRecord(
            id=f"h{n}",
            at=n * 5.0,
            operation="chat",
            model=MODEL,
            tier="near",
            tags=(("feature", "faq"),),
        )

    before = [hit(n) if n % 2 else paid(n) for n in range(600)]
    after = [paid(n) for n in range(600, 660)]
    (found,) = through([*before, *after])
    assert (found.kind, found.causes[0].name) == ("cost", "hit rate")
    assert (found.causes[0].before, found.causes[0].after) == (pytest.approx(0.5, abs=0.02), 0.0)


def test_a_prompt_cache_that_went_cold_is_told_as_that():
    before = [paid(n, sent=5000, cached=4000) for n in range(400)]
    after = [paid(n, sent=5000) for n in range(400, 460)]
    found = {one.kind: one for one in through([*before, *after])}
    assert set(found) == {"cost", "prompt_cache"}
    assert found["cost"].causes[0].name == "prompt cache"
    assert found["prompt_cache"].limit == pytest.approx(0.8)
    assert found["prompt_cache"].why.startswith(
        "the provider had 0% of the input in its cache, usually 80%; that makes $0.0050 a request"
    )


def test_features_models_and_costwise_s_own_calls_are_watched_apart():
    cheap = [paid(n) for n in range(500)]
    dear = [paid(n, sent=9000, feature="search") for n in range(500)]
    mixed = [one for both in zip(cheap, dear, strict=True) for one in both]
    assert through(mixed) == []


def test_a_call_with_far_more_tokens_is_told_at_once_and_once_an_hour():
    calls = [*usual_calls(200), *(paid(n, sent=60_000) for n in range(200, 205))]
    found = [one for one in through(calls) if one.kind == "tokens"]
    assert [one.why.split(",")[0] for one in found] == ["a call took 60"]
    assert found[0].limit == pytest.approx(1100, rel=0.05)
    later = paid(9, sent=60_000, at=205 * 5 + 3600)
    assert len([one for one in through([*calls, later]) if one.kind == "tokens"]) == 2


def test_a_minute_with_far_more_calls_is_told_before_it_is_over():
    quiet = [paid(n, at=60.0 * n + k) for n in range(60) for k in (1, 2)]
    storm = [paid(k, at=60.0 * 60 + k / 100) for k in range(1000, 1200)]
    found = [one for one in through([*quiet, *storm]) if one.kind == "tokens"]
    assert [one.why.startswith("a minute took") for one in found] == [True]
    assert found[0].at < storm[-1].at


def test_outliers_in_the_past_do_not_hide_a_rise():
    rng = random.Random(3)
    past = [paid(n, sent=50_000 if rng.random() < 0.005 else 1000) for n in range(800)]
    found = through([*past, *(paid(n, sent=2000) for n in range(900, 960))])
    assert "cost" in {one.kind for one in found}


def test_calls_without_a_price_say_nothing_of_cost_but_of_tokens():
    def unpriced(n, sent):
        used = Usage(input_tokens=sent)
        return CallRecord(id=str(n), at=float(n), operation="chat", model="x", usd=None, usage=used)

    found = through([*(unpriced(n, 1000) for n in range(300)), unpriced(300, 90_000)])
    assert {one.kind for one in found} == {"tokens"}
    assert found[0].subject == "calls without a feature with x"


def test_the_number_of_groups_is_bounded():
    watch = Watch(BOOK, rise=0.2)
    for n in range(1500):
        watch.see(paid(n, feature=f"f{n}"))
    assert len(watch._groups) == 1000


# --- the split ------------------------------------------------------------------------------------

amounts = st.integers(0, 10**13)
counts = st.integers(0, 10**6)


@st.composite
def spends(draw):
    calls, paid_calls = draw(counts), draw(counts)
    calls = max(calls, paid_calls)
    sent = draw(counts) if paid_calls else 0
    read = min(draw(counts), sent)
    produced = draw(counts) if paid_calls else 0
    return Spend(
        requests=draw(st.integers(1, 1000)),
        calls=calls,
        paid=paid_calls,
        input_tokens=sent,
        output_tokens=produced,
        cache_read_tokens=read,
        fresh=draw(amounts) if sent > read else 0,
        read=draw(amounts) if read else 0,
        output=draw(amounts) if produced else 0,
        fees=draw(amounts) if paid_calls else 0,
    )


@given(spends(), spends())
def test_the_causes_add_up_to_the_change(before, after):
    causes = causes_of(before, after)
    change = after.per_request - before.per_request
    assert total(one.usd for one in causes) == dollars(round(change))
    assert sorted(one.name for one in causes) == sorted(CAUSES)
    assert all(abs(a.usd) >= abs(b.usd) for a, b in pairwise(causes))


@given(spends(), spends())
def test_the_way_back_is_the_same_split(before, after):
    there = {one.name: one.usd for one in causes_of(before, after)}
    back = {one.name: -one.usd for one in causes_of(after, before)}
    assert all(abs(there[name] - back[name]) <= Decimal("2e-12") for name in CAUSES)


@given(spends())
def test_nothing_changed_has_no_causes(spend):
    assert all(one.usd == 0 for one in causes_of(spend, spend))


@given(
    sent=st.integers(0, 10**6),
    produced=st.integers(0, 10**5),
    read=st.integers(0, 10**6),
    factor=st.fractions(Fraction(1, 10), 2),
)
def test_what_was_paid_is_split_without_a_rest(sent, produced, read, factor):
    used = Usage(input_tokens=sent, output_tokens=produced, cache_read_tokens=min(read, sent))
    usd = dollars(int(factor * 10**12 * Fraction(BOOK.cost(used, MODEL).usd)))
    record = CallRecord(id="1", at=0.0, operation="chat", model=MODEL, usage=used, usd=usd)
    for book in (BOOK, PriceBook(alias={MODEL: "nobody:knows"})):
        spend = spend_of(record, book)
        assert spend.usd_per_request == usd
        assert min(spend.fresh, spend.read, spend.output, spend.fees) >= 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=30), st.floats(1e7, 1e9))
def test_less_than_half_of_the_values_cannot_move_the_middle_out_of_the_others(values, wild):
    spoiled = [*values, *[wild] * (len(values) - 1)]
    assert min(values) <= usual(spoiled).middle <= max(values)


# --- the observer ---------------------------------------------------------------------------------


def test_calls_go_on_to_the_ledger_and_come_back_from_it():
    ledger = MemoryLedger()
    alerts = Alerts(ledger=ledger)
    with track(ledger=alerts, feature="faq"):
        record_call(operation="chat", model=MODEL, usage=Usage(input_tokens=10))
    assert len(list(ledger.records())) == 1
    assert list(alerts.records(tags=[("feature", "faq")])) == list(ledger.records())
    assert list(Alerts().records()) == []
    assert (alerts.blocking, Alerts().blocking) == (False, False)


def test_a_ledger_that_fails_fails_as_before_and_is_watched_all_the_same():
    class Full:
        def record(self, records):
            raise OSError("disk full")

        def records(self, **_):
            yield from ()

    alerts = Alerts(ledger=Full())
    with pytest.raises(OSError, match="disk full"):
        alerts.record([paid(1)])
    assert alerts.blocking
    assert len(alerts._ids) == 1


def test_a_call_recorded_twice_counts_once():
    alerts = Alerts()
    for _ in range(500):
        alerts.record([paid(1)])
    alerts.record([paid(2, sent=90_000)])
    assert alerts.recent == ()


def test_through_track_an_alert_reaches_every_sink_and_a_bad_one_is_counted():
    told = []

    def bad(_):
        raise KeyError("x")

    alerts = Alerts(bad, told.append)
    alerts.record(usual_calls(400))
    alerts.record([paid(400 + n, sent=2000) for n in range(60)])
    assert alerts.flush()
    assert [one.kind for one in told] == ["cost"]
    assert alerts.faults == {"KeyError": 1}
    assert alerts.recent == tuple(told)


@pytest.mark.parametrize("values", [{"thresholds": []}, {"thresholds": [0.0]}, {"rise": 0.0}])
def test_wrong_arguments(values):
    with pytest.raises(ConfigError):
        Alerts(**values)


# --- sinks ----------------------------------------------------------------------------------------


class _Hooks(ThreadingHTTPServer):
    """Answers with the statuses it is given, then 200, and keeps what came."""

    daemon_threads = True

    def __init__(self, *statuses):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.answers = threading.Event()
        self.answers.set()
        self.came = []
        self.url = f"http://127.0.0.1:{self.server_port}/services/secret"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append((self.path, dict(self.headers), json.loads(body)))
        self.server.answers.wait(30)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        with suppress(OSError):  # who asked may be gone
            self.end_headers()

    def do_GET(self):
        self.server.came.append("GET")

    def log_message(self, *_):
        pass


@pytest.fixture
def hooks(request):
    servers = []

    def start(*statuses, **values):
        server = _Hooks(*statuses, **values)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_a_webhook_gets_the_alert_as_json(hooks):
    server = hooks()
    hook = Webhook(server.url, headers={"Authorization": "Bearer t"})
    hook(alert())
    assert hook.flush()
    ((path, headers, body),) = server.came
    assert path == "/services/secret"
    assert headers["Authorization"] == "Bearer t"
    assert body == alert().to_dict()
    assert (hook.delivered, hook.failed, hook.dropped) == (1, 0, 0)


def test_a_busy_server_is_asked_again(hooks):
    server = hooks(500, 429)
    hook = Webhook(server.url, pause=0.01)
    hook(alert())
    assert hook.flush()
    assert len(server.came) == 3
    assert (hook.delivered, hook.failed) == (1, 0)


@pytest.mark.parametrize("status", [400, 404, 302])
def test_a_refusal_and_a_redirect_are_not_tried_again(hooks, status):
    server = hooks(status)
    hook = Webhook(server.url, pause=0.01)
    hook(alert())
    assert hook.flush()
    assert len(server.came) == 1
    assert (hook.delivered, hook.failed) == (0, 1)


def test_a_server_that_is_down_is_given_up_without_telling_the_address(hooks, caplog):
    server = hooks(*[503] * 9)
    hook = Webhook(server.url, pause=0.01, attempts=3)
    with caplog.at_level(logging.WARNING, "costwise.alerts"):
        hook(alert())
        assert hook.flush()
    assert len(server.came) == 3
    assert hook.failed == 1
    assert "secret" not in caplog.text + repr(hook)
    assert "503" in caplog.text


def test_nobody_listening_is_given_up():
    server = _Hooks()
    server.server_close()
    hook = Webhook(server.url, pause=0.01, attempts=2)
    hook(alert())
    assert hook.flush()
    assert (hook.delivered, hook.failed) == (0, 1)


def test_a_slow_server_holds_up_nobody_and_what_finds_no_room_is_counted(hooks):
    server = hooks()
    server.answers.clear()
    hook = Webhook(server.url, seconds=20.0, attempts=1)
    taken = [hook(alert(key=str(n))) for n in range(150)]
    assert (hook.delivered, hook.failed) == (0, 0)  # not one was waited for
    assert taken.count(True) in {100, 101}  # one may be on its way
    assert hook.dropped == taken.count(False)
    assert not hook.flush(0.01)
    server.answers.set()
    assert hook.flush(60)
    assert hook.delivered == taken.count(True)


def test_a_server_that_never_answers_is_given_up(hooks):
    server = hooks()
    server.answers.clear()
    hook = Webhook(server.url, seconds=0.1, attempts=2, pause=0.01)
    hook(alert())
    assert hook.flush()
    server.answers.set()
    assert (len(server.came), hook.delivered, hook.failed) == (2, 0, 1)


def test_a_slow_sink_holds_up_no_call():
    let_go = threading.Event()
    alerts = Alerts(lambda _: let_go.wait(30))
    budgets = Budgets(Budget(limit=10, unit="calls"), seen=alerts.seen)
    for _ in range(10):
        budgets.reserve("m", input_tokens=1)
    assert not alerts.flush(0.01)
    let_go.set()
    assert alerts.flush()


def test_the_log_says_it_once_with_the_whole_alert(caplog):
    with caplog.at_level(logging.WARNING, "costwise.alerts"):
        log_alert(alert())
    assert caplog.messages == ["faq: it costs more"]
    assert caplog.records[0].costwise == alert().to_dict()


@pytest.mark.parametrize(
    "values",
    [
        {"url": "ftp://example.com"},
        {"url": "file:///etc/passwd"},
        {"url": "https://"},
        {"url": "http://x", "attempts": 0},
        {"url": "http://x", "seconds": 0},
    ],
)
def test_a_webhook_with_wrong_arguments(values):
    with pytest.raises(ConfigError):
        Webhook(**values)


def test_a_worker_survives_what_its_function_raises_and_keeps_no_thread():
    done = []

    def do(item):
        if item == 1:
            raise ValueError
        done.append(item)

    worker = Worker(do, room=10)
    for item in range(4):
        worker.put(item)
    assert worker.flush(5)
    assert done == [0, 2, 3]
    assert worker.faults == {"ValueError": 1}
    assert worker._thread is None
    assert worker.flush(0.0)


def test_no_alert_holds_what_was_asked():
    secret = "my question about Zanzibar"
    told = []
    alerts = Alerts(told.append)
    budgets = Budgets(Budget(limit=1, unit="calls"), seen=alerts.seen)
    with track(ledger=alerts, feature="faq"):
        for _ in range(BATCH * 12):
            record_call(operation="chat", model=MODEL, usage=Usage(input_tokens=9), prompt=secret)
        record_call(operation="chat", model=MODEL, usage=Usage(input_tokens=9999), prompt=secret)
    budgets.reserve("m", input_tokens=1)
    assert alerts.flush()
    assert len(told) >= 4
    assert "Zanzibar" not in json.dumps([one.to_dict() for one in told])
