"""The command line: what it writes, what it says when it cannot, and its exit statuses."""

import json
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from costwise_core.__main__ import COMMANDS, main
from costwise_core.commands.report import moment
from costwise_core.errors import ConfigError
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.types import CallRecord

TEXT = {"capture_output": True, "text": True}


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.db"
    with SQLiteLedger(path) as opened:
        opened.record(
            [
                CallRecord(
                    id=str(n),
                    at=n * 86_400.0,
                    operation="chat",
                    model="gpt-4o",
                    usd=Decimal(n),
                    tags=(("team", "search" if n % 2 else "ops"),),
                )
                for n in range(10)
            ]
        )
    return path


def test_a_report_is_printed_as_markdown(ledger, capsys):
    assert main(["report", str(ledger)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# Cost report: 1970-01-01 to 1970-01-10")
    assert "$45.00" in out
    assert not err


@pytest.mark.parametrize(
    ("name", "begins"),
    [("r.html", "<!DOCTYPE html>"), ("r.md", "# Cost"), ("r.csv", "table,"), ("r.json", "{")],
)
def test_a_report_is_written_as_its_file_is_named(ledger, tmp_path, capsys, name, begins):
    out = tmp_path / name
    assert main(["report", str(ledger), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith(begins)
    assert capsys.readouterr() == ("", f"written to {out}\n")


def test_a_report_is_limited_in_time_and_to_tags(ledger, capsys):
    arguments = ["--since", "1970-01-03", "--until", "1970-01-06", "--tag", "team=search"]
    assert main(["report", str(ledger), *arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["usd"] == "8"  # those of the 4th and the 6th of January
    assert (found["since"], found["until"]) == (172_800.0, 518_400.0)


def test_archived_records_stay_in_the_report(ledger, tmp_path, capsys):
    old = str(tmp_path / "old")
    assert main(["retain", str(ledger), "--keep-days", "30", "--archive", old]) == 0
    assert "10 archived, 0 deleted" in capsys.readouterr().out
    assert main(["report", str(ledger), old, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["usd"] == "45"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no command"),
        (["reprot"], "Did you mean 'report'?"),
        (["report", "{missing}"], "there is no ledger at"),
        (["report", "{ledger}", "--tag", "taem=x"], "Did you mean 'team'?"),
        (["report", "{ledger}", "--tag", "team"], "NAME=VALUE"),
        (["report", "{ledger}", "--since", "yesterday"], "'yesterday' is no time"),
        (["report", "{ledger}", "--out", "report.pdf"], "--out must end in one of"),
        (["report", "{ledger}", "--out", "{missing}/r.html"], "cannot be written"),
        (["retain", "{missing}", "--keep-days", "1"], "there is no ledger at"),
        (["retain", "{ledger}", "--keep-days", "0"], "keep_days must be above 0"),
    ],
)
def test_wrong_arguments_are_explained(ledger, tmp_path, capsys, arguments, said):
    given = [one.format(ledger=ledger, missing=tmp_path / "missing") for one in arguments]
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "missing").exists()


def test_a_file_that_is_no_ledger_is_a_failure(tmp_path, capsys):
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    assert main(["report", str(text)]) == 1
    assert "not a SQLite database" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"costwise-core {name}" in capsys.readouterr().out


def test_the_command_runs_as_a_module_and_imports_nothing_before_it_must(ledger):
    run = [sys.executable, "-m", "costwise_core"]
    done = subprocess.run([*run, "report", str(ledger)], check=True, **TEXT)
    assert (done.returncode, done.stdout[:13]) == (0, "# Cost report")
    done = subprocess.run([*run, "--help"], check=True, **TEXT)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    code = "import sys, costwise_core.__main__; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, **TEXT)
    assert done.stdout == "False\n"


def test_a_reader_that_stops_early_is_no_error(ledger):
    done = subprocess.run(
        f"{sys.executable} -m costwise_core report {ledger} --format html | head -c 10",
        shell=True,
        check=True,
        **TEXT,
    )
    assert done.stdout == "<!DOCTYPE "
    assert not done.stderr


def test_days_are_those_of_utc_and_ago_is_counted_from_now():
    assert moment("1970-01-02T00:00+01:00") == 82_800.0
    assert abs(moment("30d") - (time.time() - 30 * 86_400)) < 60
    for wrong in ("", "1970-13-01", "d", "99999999999999d"):
        with pytest.raises(ConfigError):
            moment(wrong)
