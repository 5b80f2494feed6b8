"""Models compared on a user's prompts: what is paid for is kept, and what is said is so."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    Answered,
    BenchPrompt,
    BudgetExceededError,
    Judgement,
    OpenAICompatible,
    PriceBook,
    Usage,
    benchmark_models,
    paired_outcomes,
    read_prompts,
)
from costwise_core.__main__ import main
from costwise_core.bench_models.answers_file import AnswersFile, BenchAnswer, read_answers
from costwise_core.bench_models.asking import AskingError
from costwise_core.bench_models.marks import MARKS, contains, exact, f1
from costwise_core.bench_models.progress import ProgressBar
from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError, StoreVersionError
from tests.openai_server import Provider

PRICES = PriceBook(overrides={"s": {"input": 1, "output": 2}, "l": {"input": 10, "output": 20}})
PROMPTS = [BenchPrompt(question=f"{n} + 1?", answers=(str(n + 1),)) for n in range(40)]


class Adder:
    """Adds one, wrongly where `wrong` says so, and counts how often it is asked what."""

    def __init__(self, wrong=lambda n: False, fails=lambda n: None):
        self.asked = Counter()
        self._wrong, self._fails = wrong, fails

    def ask(self, prompt):
        n = int(prompt.split()[0])
        self.asked[n] += 1
        if error := self._fails(n):
            raise error
        text = str(n + (2 if self._wrong(n) else 1))
        return Answered(text=text, usage=Usage(input_tokens=100, output_tokens=10))


# --- marks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "said", "marks"),
    [
        ("391", "391", (1, 1, 1)),
        ("391", "The answer is 391.", (0, 1, 0.5)),
        ("391", "1391", (0, 0, 0)),
        ("1,000", "1000", (1, 1, 1)),
        ("3.5", "35", (0, 0, 0)),
        ("-5", "5", (0, 0, 0)),
        ("北京", "在北京", (0, 1, 0.8)),
        ("Élan", "E\u0301LAN!", (1, 1, 1)),
        ("391", "", (0, 0, 0)),
    ],
)
def test_marks(right, said, marks):
    prompt = BenchPrompt(question="?", answers=("no such", right))
    found = (exact(prompt, said), contains(prompt, said), f1(prompt, said))
    assert found == pytest.approx(marks)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_marks_lie_between_0_and_1_and_exact_is_the_strictest(said, right):
    prompt = BenchPrompt(question="?", answers=tuple(right))
    found = {name: mark(prompt, said) for name, mark in MARKS.items()}
    if not right:
        assert set(found.values()) == {None}
        return
    assert all(0 <= one <= 1 for one in found.values())
    if found["exact"]:
        assert found["f1"] == 1


# --- prompts ------------------------------------------------------------------------------------


def test_prompts_are_read_and_asked_once(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"question": "a", "answers": ["x", 4], "label": "left alone"},
        {"question": "b", "passages": ["one", {"text": "two", "id": "d1"}], "system": "Be brief."},
        {"question": "a", "answer": "y"},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    first, second = read_prompts(path)
    assert first.answers == ("x", "4")
    assert second.text == "Be brief.\n\none\n\ntwo\n\nb"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no prompts"),
        ("{", "line 1 of .* is no JSON"),
        ('{"question": "a"}\n[]', "line 2"),
        ('{"questoin": "a"}', "Did you mean 'question'"),
        ('{"question": "a", "answers": [{"x": 1}]}', "answers in line 1"),
    ],
)
def test_what_is_no_prompt_is_named_by_its_line(tmp_path, text, said):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_prompts(path)


# --- the file -----------------------------------------------------------------------------------


def answer(n: int = 0, **settings) -> BenchAnswer:
    given = {"model": "s", "priced_as": "s", "prompt": PROMPTS[n], "answer": "1"}
    return BenchAnswer(**{**given, "usage": Usage(input_tokens=3, output_tokens=1), **settings})


def test_an_unfinished_line_is_cut_off_and_asked_for_again(tmp_path):
    path = tmp_path / "run.jsonl"
    with AnswersFile(path) as file:
        file.add(answer(0))
        file.add(answer(1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in (first, first + 1, first + 40, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert read_answers(path) == [answer(0)]
        with AnswersFile(path) as file:
            assert list(file.answers.values()) == [answer(0)]
            file.add(answer(1))
        assert path.read_bytes() == whole


@given(st.text(), st.floats(0, 1e6), st.none() | st.floats(0, 1))
def test_what_is_written_is_read_again(tmp_path_factory, text, seconds, mark):
    path = tmp_path_factory.mktemp("bench") / "run.jsonl"
    one = answer(prompt=BenchPrompt(question=text), answer=text, seconds=seconds, mark=mark)
    with AnswersFile(path) as file:
        file.add(one)
    assert read_answers(path) == [one]


def test_a_file_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"note": 1}\nhello')
    with pytest.raises(StoreError, match="line 1"), AnswersFile(path):
        pass
    assert path.read_text() == '{"note": 1}\nhello'
    path.write_text(json.dumps({"format": 2, "prompt": {}, "usage": {}}) + "\n")
    with pytest.raises(StoreError), AnswersFile(path):
        pass


def test_a_newer_format_is_named(tmp_path):
    path = tmp_path / "run.jsonl"
    with AnswersFile(path) as file:
        file.add(answer())
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreVersionError):
        read_answers(path)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "run.jsonl"
    with (
        AnswersFile(path),
        pytest.raises(StoreUnavailableError, match="another process"),
        AnswersFile(path),
    ):
        pass
    with AnswersFile(path) as file:
        file.add(answer())


KILLED = """
import os, sys, time
from costwise_core import Answered, BenchPrompt, benchmark_models
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
class Slow:
    def ask(self, prompt):
        os.write(log, f"{prompt}\\n".encode())
        time.sleep(0.02)
        return Answered(text="yes")
prompts = [BenchPrompt(question=f"q{n}") for n in range(120)]
benchmark_models({"m": Slow()}, prompts, sys.argv[1], workers=4)
"""


def test_a_killed_run_goes_on_without_paying_twice(tmp_path):
    out, log = tmp_path / "run.jsonl", tmp_path / "asked"
    command = [sys.executable, "-c", KILLED, str(out), str(log)]
    kept: set[str] = set()
    for _ in range(3):
        before = log.read_text().split() if log.exists() else []
        process = subprocess.Popen(command)
        while len(log.read_text().split() if log.exists() else []) < len(before) + 20:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not kept & set(log.read_text().split()[len(before) :])
        kept = {one.prompt.question for one in read_answers(out)}
    before = log.read_text().split()
    subprocess.run(command, check=True)
    assert not kept & set(log.read_text().split()[len(before) :])
    assert len(read_answers(out)) == 120
    assert len(log.read_text().split()) <= 120 + 3 * 4


# --- runs ---------------------------------------------------------------------------------------


def test_a_run_reports_quality_dollars_tokens_and_latency_and_pays_once(tmp_path):
    models = {"s": Adder(wrong=lambda n: n % 4 == 0), "l": Adder()}
    for _ in range(2):
        report = benchmark_models(models, PROMPTS, tmp_path / "run.jsonl", prices=PRICES)
    small, large = report.models
    assert {one.total() for one in (models["s"].asked, models["l"].asked)} == {40}
    assert small.usd == 40 * Decimal("0.00012")
    assert (small.input_tokens, small.output_tokens) == (4_000, 400)
    assert small.quality.value == 0.75
    assert small.quality.low < 0.75 < small.quality.high < 1
    assert small.against_best.value == -0.25
    assert small.against_best.high < 0
    assert large.against_best is None
    assert large.quality.low < 1  # 40 right answers do not say that the next will be
    assert large.usd_each.value == pytest.approx(0.0012)
    assert 0 <= small.seconds_p50.value <= small.seconds_p95.value
    assert "0.75 [" in str(report)


def test_the_interval_holds_as_often_as_it_says(tmp_path):
    import random

    from costwise_core.bench_models.summary import report_on

    source, held = random.Random(3), 0
    for _ in range(100):
        answers = [
            answer(0, prompt=BenchPrompt(question=f"{n}"), mark=float(source.random() < 0.8))
            for n in range(100)
        ]
        found = report_on(answers, models=["s"], mark=None, prices=PRICES).models[0].quality
        held += found.low <= 0.8 <= found.high
    assert held >= 89


def test_failures_are_counted_and_asked_for_next_time(tmp_path):
    broken = {3, 7}
    model = Adder(fails=lambda n: TimeoutError() if n in broken else None)
    out = tmp_path / "run.jsonl"
    report = benchmark_models({"s": model}, PROMPTS, out, workers=1, prices=PRICES)
    assert report.models[0].failures == {"TimeoutError": 2}
    assert report.models[0].answers == 38
    assert "TimeoutError 2" in str(report)
    broken.clear()
    report = benchmark_models({"s": model}, PROMPTS, out, workers=1, prices=PRICES)
    assert report.models[0].answers == 40
    assert model.asked.total() == 42


def test_a_model_that_only_fails_is_given_up_and_the_others_go_on(tmp_path):
    models = {"down": Adder(fails=lambda n: ConnectionError()), "s": Adder()}
    report = benchmark_models(models, PROMPTS, tmp_path / "run.jsonl", workers=1, prices=PRICES)
    assert models["down"].asked.total() == 5
    assert report.models[1].answers == 40


def test_a_model_that_a_budget_refuses_is_not_asked_again(tmp_path):
    refused = BudgetExceededError("no", budget="day")
    model = Adder(fails=lambda n: refused)
    benchmark_models({"s": model}, PROMPTS, tmp_path / "run.jsonl", workers=1, prices=PRICES)
    assert model.asked.total() == 1


def test_a_full_disk_stops_the_paying(tmp_path, monkeypatch):
    model, sync = Adder(), os.fsync

    def full(number):
        if model.asked.total() > 3:
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailableError, match="No space left"):
        benchmark_models({"s": model}, PROMPTS, tmp_path / "run.jsonl", workers=2, prices=PRICES)
    assert model.asked.total() < 10


def test_a_judge_marks_each_answer_once(tmp_path):
    class Judge:
        blocking = False
        asked = 0

        def judge(self, ask, candidate):
            self.asked += 1
            return Judgement(score=0.5, why="half")

    judge, out = Judge(), tmp_path / "run.jsonl"
    model = Adder()
    benchmark_models({"s": model}, PROMPTS, out, prices=PRICES)
    for _ in range(2):
        report = benchmark_models({"s": model}, PROMPTS, out, judge=judge, prices=PRICES)
    assert (judge.asked, model.asked.total()) == (40, 40)
    assert report.models[0].quality.value == 0.5


def test_corrected_answers_count_without_asking_again(tmp_path):
    model, out = Adder(), tmp_path / "run.jsonl"
    wrong = [BenchPrompt(question=one.question, answers=("no",)) for one in PROMPTS]
    assert benchmark_models({"s": model}, wrong, out, prices=PRICES).models[0].quality.value == 0
    assert benchmark_models({"s": model}, PROMPTS, out, prices=PRICES).models[0].quality.value == 1
    assert model.asked.total() == 40


def test_what_nobody_reported_or_prices_is_said(tmp_path):
    class Silent:
        def ask(self, prompt):
            return Answered(text="so", finish_reason="length")

    report = benchmark_models({"new": Silent()}, PROMPTS[:2], tmp_path / "run.jsonl")
    (one,) = report.models
    assert (one.unpriced, one.estimated, one.cut_off, one.usd_each) == (2, 2, 2, None)
    assert "no known price" in str(report)
    assert "were estimated" in str(report)


def test_calls_are_on_the_bill_around(tmp_path):
    from costwise_core.tracking import record_call, track

    class Tracked:
        def ask(self, prompt):
            record_call(operation="chat", model="gpt-4o", usage=Usage(input_tokens=1))
            return Answered(text="so")

    with track() as bill:
        benchmark_models({"m": Tracked()}, PROMPTS, tmp_path / "run.jsonl")
    assert bill.calls == 40


def test_workers_ask_at_the_same_time(tmp_path):
    meeting = threading.Barrier(4, timeout=30)

    class Meets:
        def ask(self, prompt):
            meeting.wait()
            return Answered(text="so")

    report = benchmark_models({"m": Meets()}, PROMPTS, tmp_path / "run.jsonl", workers=4)
    assert report.models[0].answers == 40


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quality": "contain"}, "Did you mean 'contains'"),
        ({"workers": 0}, "workers"),
        ({"priced_as": {"x": "s"}}, "no model"),
    ],
)
def test_arguments_that_make_no_sense_cost_nothing(tmp_path, settings, said):
    model = Adder()
    with pytest.raises(ConfigError, match=said):
        benchmark_models({"s": model}, PROMPTS, tmp_path / "run.jsonl", **settings)
    assert not model.asked


# --- the router's training file -------------------------------------------------------------------


def test_a_router_is_trained_on_the_file(tmp_path):
    from costwise_core.route.training import train_router

    prompts = [
        BenchPrompt(
            question=f"{n} + 1, {'shortly' if n % 2 else 'at length'}?", answers=(f"{n + 1}",)
        )
        for n in range(120)
    ]
    models = {"s": Adder(wrong=lambda n: n % 2 == 0), "l": Adder()}
    out = tmp_path / "run.jsonl"
    benchmark_models(models, prompts, out, prices=PRICES)
    pairs = paired_outcomes(out, weak="s", strong="l", quality="exact", prices=PRICES)
    assert len(pairs) == 120
    assert {(one.weak, one.strong) for one in pairs} == {(0.0, 1.0), (1.0, 1.0)}
    assert {one.weak_usd for one in pairs} == {Decimal("0.00012")}
    trained = train_router(pairs)
    hard, easy = trained.estimate("9 + 1, at length?"), trained.estimate("9 + 1, shortly?")
    assert hard.gain > easy.gain


def test_pairs_need_both_models_and_marks(tmp_path):
    out = tmp_path / "run.jsonl"
    unmarked = [BenchPrompt(question=one.question) for one in PROMPTS]
    benchmark_models({"small": Adder(), "large": Adder()}, unmarked, out)
    with pytest.raises(ConfigError, match="Did you mean 'large'"):
        paired_outcomes(out, weak="small", strong="larg")
    with pytest.raises(ConfigError, match="has a mark"):
        paired_outcomes(out, weak="small", strong="large")


# --- a server that speaks as OpenAI's does --------------------------------------------------------


@pytest.fixture
def server():
    server = Provider()
    yield server
    server.close()


def test_a_server_is_asked_and_its_usage_read(server):
    said = OpenAICompatible(server.url, "m", key="secret", max_tokens=9).ask("Which city?")
    assert (said.text, said.usage.input_tokens, said.finish_reason) == ("Paris is it.", 14, "stop")
    assert said.seconds > 0
    assert server.asked == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Which city?"}],
            "max_tokens": 9,
        }
    ]


def test_only_what_may_pass_is_tried_again(server):
    server.fails, server.headers = 1, {"Retry-After": "0"}
    assert OpenAICompatible(server.url, "m").ask("Which city?").text == "Paris is it."
    assert len(server.asked) == 2
    server.status = 401
    with pytest.raises(AskingError, match="status 401"):
        OpenAICompatible(server.url, "m").ask("a secret question")
    assert len(server.asked) == 3
    server.status, server.delay = 200, 1.0
    with pytest.raises(AskingError, match="did not answer") as raised:
        OpenAICompatible(server.url, "m", seconds=0.1).ask("a secret question")
    assert len(server.asked) == 4  # nobody knows whether it is paid for
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "key"), [("ftp://x/v1", ""), ("x", ""), ("http://api.example.com/v1", "k")]
)
def test_a_key_goes_nowhere_in_the_open(url, key):
    with pytest.raises(ConfigError):
        OpenAICompatible(url, "m", key=key)


def test_a_key_is_not_shown():
    assert "secret" not in repr(OpenAICompatible("https://u:secret@h/v1", "m", key="secret"))


def test_the_command_asks_reports_and_goes_on(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    prompts, out = tmp_path / "p.jsonl", tmp_path / "run.jsonl"
    page, data = tmp_path / "page.html", tmp_path / "run.json"
    prompts.write_text('{"question": "Which <city>?", "answer": "Paris"}\n')
    command = ["bench-models", str(prompts), "--out", str(out), "--quality", "contains"]
    command += ["--model", f"<a>=gpt-4o-mini@{server.url}#MY_KEY"]
    command += ["--model", f"gpt-4o@{server.url}", "--html", str(page), "--json", str(data)]
    assert main(command) == main(command) == 0
    assert len(server.asked) == 2
    told = capsys.readouterr()
    assert "1.00 [" in told.out
    assert "2 of 2" in told.err
    assert "<a>" not in page.read_text()
    assert "&lt;a&gt;" in page.read_text()
    found = json.loads(data.read_text())
    usage = Usage(input_tokens=14, output_tokens=5)
    assert Decimal(found["models"][0]["usd"]) == PriceBook().cost(usage, "gpt-4o-mini").usd
    assert "secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_a_command_whose_calls_failed_says_so(server, tmp_path):
    server.status = 400
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"question": "a"}\n')
    command = ["bench-models", str(prompts), "--out", str(tmp_path / "run.jsonl")]
    assert main([*command, "--model", f"m@{server.url}"]) == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gpt-4o", "MODEL@URL"),
        ("@http://127.0.0.1/v1", "MODEL@URL"),
        ("m@https://127.0.0.1/v1#NO_SUCH_KEY", "NO_SUCH_KEY"),
    ],
)
def test_a_model_that_is_not_understood_is_refused(tmp_path, capsys, model, said):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"question": "a"}\n')
    out = tmp_path / "run.jsonl"
    assert main(["bench-models", str(prompts), "--out", str(out), "--model", model]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_judge_on_the_command_line(server, tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"question": "a"}\n')
    server.words = ['{"1": ', "7}"]
    spec = f"m@{server.url}"
    command = ["bench-models", str(prompts), "--out", str(tmp_path / "run.jsonl")]
    assert main([*command, "--model", spec, "--judge", spec]) == 0
    assert "0.70 [" in capsys.readouterr().out


# --- what is seen -------------------------------------------------------------------------------


def test_a_bar_where_a_person_looks():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    bar = ProgressBar(out)
    bar(done=1, of=2, failed=1, spent=Decimal("0.01"))
    bar(done=2, of=2, failed=1, spent=Decimal("0.02"))
    assert f"[{'#' * 15}{'.' * 15}] 1 of 2, 1 failed, $0.01" in out.getvalue()
    assert out.getvalue().endswith(f"[{'#' * 30}] 2 of 2, 1 failed, $0.020\n")


def test_a_page_loads_nothing_and_says_which_cheaper_model_is_as_good(tmp_path):
    models = {"l": Adder(), "s": Adder(wrong=lambda n: n == 0)}
    report = benchmark_models(models, PROMPTS, tmp_path / "run.jsonl", prices=PRICES)
    page = report.to_html()
    assert "l answers best; no difference to s is seen, which costs less" in page
    assert "default-src 'none'" in page
    assert not {"http://", "https://", "<script"} & {
        word for word in ("http://", "https://", "<script") if word in page
    }
    assert Path(tmp_path / "run.jsonl").stat().st_mode & 0o777 == 0o600
