"""Does a replay find what is in a log, and how long does that take?

    python -m benchmarks.replay --rows 10000 [--embedder] --json OUT

The log is made of real questions, so that the truth is known: single questions of two tenants
(clinc150, banking77; two have the same answer iff they have the same label), questions over five
real passages of one article (SQuAD), conversations that send their history (MT-RAG), and a nightly
job. One in five single questions, and one in ten over passages, is asked again to the letter. It is
written to a file in the order of nobody, as logs are, and read from there.

Shown is the truth beside what was found, what the expected share of wrong near-repeats is beside
the labels' own, and CPU and wall seconds of reading and replaying. Answers are made up from the
labels, each in two wordings, because none of the sets has a model's; so how well answers are
compared is not measured here.
"""

import csv
import gzip
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import OnnxEmbedder, replay
from costwise_core.money import picodollars
from costwise_core.protocols import Embedder
from costwise_core.replaying.reading import Seen, calls_in
from costwise_core.replaying.repeats import exact_repeats, near_repeats
from costwise_core.replaying.requests import TokenRates, request_of
from costwise_core.replaying.talks import conversations_of
from costwise_core.tokens import count_tokens

MODEL = "gpt-4o"
DAYS = 14
RULES = "You are the assistant of a company. Answer in one or two sentences. " * 4
Row = dict[str, Any]


def labelled(data: Path) -> list[tuple[str, str, str]]:
    """Questions as (tenant, text, label)."""
    found = []
    with gzip.open(data / "cache/clinc150_stream.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found.append(("assistant", row["text"], row["label"]))
    with (data / "cache/banking77_train.csv").open(encoding="utf-8") as file:
        found += [("bank", row["text"], row["category"]) for row in csv.DictReader(file)]
    return found


def passages(data: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Questions over five paragraphs of the same article, with their answer."""
    with gzip.open(data / "rag/squad-v1.1-dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = []
    for n, row in enumerate(rows):
        near = [one["context"] for one in rows[max(0, n - 2) : n + 3]]
        found += [(one["question"], tuple(near), one["answers"][0]) for one in row["qas"][:3]]
    return found


def conversations(data: Path) -> list[list[tuple[str, str]]]:
    """Conversations as (question, answer)."""
    with gzip.open(data / "rag/mtrag-reference.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = []
    for row in rows:
        said = [one["text"] for one in row["input"]]
        found.append(list(zip(said[::2], said[1::2], strict=False)))
    return [talk for talk in found if talk]


class Log:
    """Rows, and the truth about each by its place in time."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.rows: list[tuple[float, Row, str]] = []
        self.talks = self.nightly = 0

    def add(self, at: float, tenant: str, messages: list[Row], answer: str, **told: str) -> None:
        label, feature = told.get("label", ""), told["feature"]
        text = "".join(one["content"] for one in messages)
        row = {
            "timestamp": at,
            "tenant": tenant,
            "metadata": {"feature": feature},
            "request": {"model": MODEL, "messages": messages},
            "response": {
                "model": MODEL,
                "choices": [{"message": {"content": answer}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": count_tokens(text, MODEL).tokens + 4 * len(messages),
                    "completion_tokens": count_tokens(answer, MODEL).tokens,
                },
            },
        }
        if told.get("user"):
            row["user"] = told["user"]
        self.rows.append((at, row, label))

    def moment(self) -> float:
        return 1_760_000_000 + self.dice.random() * DAYS * 86_400


def made(data: Path, rows: int, seed: int) -> Log:
    """Make a log of so many rows."""
    log = Log(seed)
    dice = log.dice
    single, rag, talks = labelled(data), passages(data), conversations(data)
    system = {"role": "system", "content": RULES}
    earlier: list[tuple[str, str, str]] = []
    for _ in range(rows * 45 // 100):
        if earlier and dice.random() < 0.2:
            tenant, text, label = dice.choice(earlier)
        else:
            tenant, text, label = dice.choice(single)
            earlier.append((tenant, text, label))
        word = label.replace("_", " ")
        answer = dice.choice((f"This is about {word}.", f"It is about {word}, this."))
        asked = [system, {"role": "user", "content": text}]
        log.add(log.moment(), tenant, asked, answer, label=label, feature="faq", user="u")
    before: list[tuple[str, tuple[str, ...], str]] = []
    for _ in range(rows * 30 // 100):
        if before and dice.random() < 0.1:
            question, found, answer = dice.choice(before)
        else:
            question, found, answer = dice.choice(rag)
            before.append((question, found, answer))
        joined = "\n\n".join(found)
        text = f"Answer from the context.\n\nContext:\n{joined}\n\nQuestion: {question}\nAnswer:"
        asked = [system, {"role": "user", "content": text}]
        log.add(log.moment(), "wiki", asked, answer, label=question, feature="search", user="u")
    left = rows * 15 // 100
    while left > 0:
        talk = dice.choice(talks)
        tenant, at = f"t{len(log.rows)}", log.moment()
        sent: list[Row] = [system]
        for question, answer in talk[:left]:
            sent = [*sent, {"role": "user", "content": question}]
            log.add(at, tenant, sent, answer, label="", feature="chat", user="u")
            log.talks += len(sent) == 4  # its second question
            sent = [*sent, {"role": "assistant", "content": answer}]
            at += 40
        left -= len(talk)
    while len(log.rows) < rows:
        question, found, answer = dice.choice(rag)
        asked = [{"role": "user", "content": f"List the names in this text.\n\n{found[0]}"}]
        log.add(log.moment(), "wiki", asked, answer, label="", feature="nightly")
        log.nightly += 1
    dice.shuffle(log.rows)
    return log


def again(rows: list[Row]) -> int:
    """Count the rows that are like an earlier one, to the letter."""
    return len(rows) - len({json.dumps([row["tenant"], row["request"]]) for row in rows})


def truth_of(log: Log) -> dict[str, int]:
    """Count what is in the log as a reader would, without costwise."""
    repeats = again([row for _, row, _ in log.rows])
    return {"exact_repeats": repeats, "conversations": log.talks, "batch": log.nightly}


def by_label(path: Path, log: Log, embedder: Embedder | None) -> dict[str, Any]:
    """What the labels say of the near-repeats that a replay finds."""
    rates = TokenRates()
    found = [request_of(call, n, rates)[0] for n, call in enumerate(calls_in(path, Seen()))]
    found.sort(key=lambda one: (one.at or 0.0, one.place))
    near = near_repeats(found, exact_repeats(found), embedder)
    labels = [label for _, _, label in log.rows]
    pairs = [(labels[found[one.request].place], labels[found[one.earlier].place]) for one in near]
    wrong = sum(asked != stored or asked == "oos" for asked, stored in pairs)
    kept_out = sum(bool(one.why_not) for one in found)
    allowed = [log.rows[one.place][1] for one in found if not one.why_not]
    talks = sum(len(talk) > 1 for talk in conversations_of(found))
    return {
        "served": len(pairs),
        "wrong": wrong,
        "wrong_share": wrong / max(len(pairs), 1),
        "kept_out_by_policy": kept_out,
        "repeats_policy_allows": again(allowed),
        "conversations": talks,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--embedder", action="store_true", help="find near-repeats by meaning")
    parser.add_argument("--html", type=Path, help="page to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"no data at {args.data}, so nothing is measured")
        return
    clock = Clock()
    log = made(args.data, args.rows, args.seed)
    embedder = OnnxEmbedder(threads=1) if args.embedder else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl.gz"
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
            for _, row, _ in log.rows:
                file.write(json.dumps(row) + "\n")
        started, cpu = time.perf_counter(), time.process_time()
        report = replay(path, embedder=embedder)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        near = by_label(path, log, embedder)
    truth = truth_of(log)
    found = {one.name: one for one in report.findings}
    print(report)
    print(f"\n{'':24}{'truth':>10}{'found':>10}")
    for name, count in truth.items():
        shown = near[name] if name in near else found[name].requests
        print(f"{name:24}{count:>10,}{shown:>10,}")
    print(f"{'  that policy allows':24}{near['repeats_policy_allows']:>10,}", end="")
    print(f"{found['exact_repeats'].requests:>10,}")
    expected = found["near_repeats"]
    print(f"{'near-repeats served':24}{'':>10}{near['served']:>10,}")
    print(f"{'  of them wrong':24}{near['wrong_share']:>10.1%}", end="")
    if expected.wrong_share is not None:
        print(
            f"{expected.wrong_share:>10.1%} ({expected.wrong_low:.1%} to {expected.wrong_high:.1%})"
        )
    parts = sum(picodollars(one.usd) for one in report.findings if one.usd is not None)
    adds_up = parts == picodollars(report.paid_usd) - picodollars(report.after_usd)
    print(f"\n{args.rows:,} calls in {wall:.1f} s ({cpu:.1f} s of CPU); parts add up: {adds_up}")
    if args.html:
        report.write_html(args.html)
    finish(
        args,
        {
            "n": args.rows,
            "seed": args.seed,
            "embedder": "" if embedder is None else embedder.name,
            "replay_cpu_seconds": round(cpu, 2),
            "replay_wall_seconds": round(wall, 2),
            "adds_up": adds_up,
            "truth": truth,
            "near_by_label": near,
            "replay": report.to_dict(),
            **clock.seconds(),
            "versions": versions("tiktoken"),
        },
    )


if __name__ == "__main__":
    main()
