"""What writing a call down costs, and what a price and a token count cost.

    python -m benchmarks.ledger --rows 100000 --json OUT
    python -m benchmarks.ledger --rows 1000000 --only-file --json OUT

`record` prices a call, puts it on a bill and writes it to a ledger of that many rows, as a tracked
application does once for each model call, with a prompt of 8,000 characters to hash. `spent` sums
the whole ledger, and one of ten features of it. `report` makes a report over all of it, one over a
feature and one over the last of three months, and `report_html` the page of the first. `price` is a
model asked for before. Milliseconds of CPU, and of wall time under `wall`.
"""

import random
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path

from benchmarks._common import Clock, arguments, finish, timed, versions
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.prices import PriceBook
from costwise_core.prompt_hash import prompt_hash
from costwise_core.report.report import report_of
from costwise_core.tokens import count_tokens
from costwise_core.tracking import record_call, track
from costwise_core.types import CallRecord, Saving, Usage

USAGE = Usage(input_tokens=2_000, output_tokens=150, cache_read_tokens=1_000)
UNCACHED = Usage(input_tokens=2_000, output_tokens=150)
FEATURE = [("feature", "f3")]
MONTH = 86_400 * 60.0
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-haiku-4-5", "claude-sonnet-4-5")
PASSAGE = "The treaty was signed in 1648 and ended thirty years of war in central Europe. " * 100


def rows(count: int, seed: int) -> Iterator[CallRecord]:
    """Calls over 90 days: 10 features, 1,000 tenants and 4 models, half of the prompts repeated.

    The provider's cache serves every other one of them.
    """
    made = random.Random(seed)
    for n in range(count):
        model = MODELS[made.randrange(4)]
        cached = made.random() < 0.5
        yield CallRecord(
            id=str(n),
            at=86_400 * 90 * n / count,
            operation="chat",
            model=model,
            usage=USAGE if cached else UNCACHED,
            usd=Decimal(made.randrange(10**9)).scaleb(-12),
            tags=(
                ("endpoint", f"/{n % 10}"),
                ("feature", f"f{n % 10}"),
                ("tenant", f"t{made.randrange(1000)}"),
            ),
            savings=(Saving(stage="prompt_cache", usd=Decimal("0.000075")),) if cached else (),
            tier="exact" if n % 5 == 0 else "",
            seconds=0.8,
            prompt_hash=prompt_hash(str(made.randrange(count // 2 + 1)), model),
            prefix_hash=prompt_hash(f"f{n % 10}", model),
        )


def fill(ledger: MemoryLedger | SQLiteLedger, count: int, seed: int) -> None:
    made = rows(count, seed)
    while page := list(islice(made, 20_000)):
        ledger.record(page)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--only-file", action="store_true", help="leave out the ledger in memory")
    args = parser.parse_args()
    clock = Clock()
    cpu, wall = {}, {}

    def measure(name: str, action: object, times: int) -> None:
        cpu[name], wall[name] = timed(action, range(times))  # type: ignore[arg-type]
        print(f"{name:24} {cpu[name]['p50']:9.4f} {cpu[name]['p95']:9.4f} {wall[name]['p50']:9.4f}")

    def record(_: object) -> None:
        record_call(operation="chat", model="gpt-4o-mini", usage=USAGE, prompt=PASSAGE)

    print(f"{'milliseconds':24} {'cpu p50':>9} {'cpu p95':>9} {'wall p50':>9}")
    book = PriceBook()
    book.cost(USAGE, "gpt-4o-mini")
    measure("price", lambda _: book.cost(USAGE, "gpt-4o-mini"), args.calls)
    with tempfile.TemporaryDirectory() as folder:
        ledgers = {"memory": MemoryLedger(), "sqlite": SQLiteLedger(Path(folder, "ledger.db"))}
        if args.only_file:
            del ledgers["memory"]
        for name, ledger in ledgers.items():
            fill(ledger, args.rows, args.seed)
            with track(feature="faq", tenant="acme", ledger=ledger):
                record(None)
                measure(f"record_{name}", record, args.calls)
            measure(f"spent_{name}", lambda _, it=ledger: it.spent(), 5)
            measure(f"spent_by_tag_{name}", lambda _, it=ledger: it.spent(tags=FEATURE), 5)
            if not args.only_file:
                measure(f"read_all_{name}", lambda _, it=ledger: sum(1 for _ in it.records()), 2)
            if isinstance(ledger, SQLiteLedger):
                measure("report", lambda _, it=ledger: report_of(it), 3)
                measure("report_by_tag", lambda _, it=ledger: report_of(it, tags=dict(FEATURE)), 3)
                measure("report_month", lambda _, it=ledger: report_of(it, since=MONTH), 3)
                made = report_of(ledger)
                measure("report_html", lambda _, it=made: it.to_html(), 3)
                size = sum(path.stat().st_size for path in Path(folder).iterdir())
                print(f"{'bytes for each record':24} {size / args.rows:9.0f}")
                ledger.close()
    for model in ("gpt-4o", "claude-haiku-4-5"):
        count_tokens(PASSAGE, model)
        measure(f"count_8k_chars_{model}", lambda _, it=model: count_tokens(PASSAGE, it), 200)
    finish(
        args,
        {
            "rows": args.rows,
            "n": args.calls,
            "seed": args.seed,
            "cpu": cpu,
            "wall": wall,
            **clock.seconds(),
            "versions": versions("genai-prices", "tiktoken"),
        },
    )


if __name__ == "__main__":
    main()
