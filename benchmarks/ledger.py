"""What writing a call down costs, and what a price and a token count cost.

    python -m benchmarks.ledger --rows 100000 --json OUT

`record` prices a call, puts it on a bill and writes it to a ledger of that many rows, as a tracked
application does once for each model call. `spent` sums the whole ledger, and one of ten features
of it. `price` is a model asked for before. Milliseconds of CPU, and of wall time under `wall`.
"""

import tempfile
from decimal import Decimal
from pathlib import Path

from benchmarks._common import Clock, arguments, finish, timed, versions
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.prices import PriceBook
from costwise_core.tokens import count_tokens
from costwise_core.tracking import record_call, track
from costwise_core.types import CallRecord, Usage

USAGE = Usage(input_tokens=2_000, output_tokens=150, cache_read_tokens=1_000)
FEATURE = [("feature", "f3")]
PASSAGE = "The treaty was signed in 1648 and ended thirty years of war in central Europe. " * 100


def rows(count: int) -> list[CallRecord]:
    return [
        CallRecord(
            id=str(n),
            at=float(n),
            operation="chat",
            model="gpt-4o-mini",
            usage=USAGE,
            usd=Decimal(n) / 10**9,
            tags=(("feature", f"f{n % 10}"), ("tenant", f"t{n % 1000}")),
        )
        for n in range(count)
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=2_000)
    args = parser.parse_args()
    clock = Clock()
    cpu, wall = {}, {}

    def measure(name: str, action: object, times: int) -> None:
        cpu[name], wall[name] = timed(action, range(times))  # type: ignore[arg-type]
        print(f"{name:24} {cpu[name]['p50']:9.4f} {cpu[name]['p95']:9.4f} {wall[name]['p50']:9.4f}")

    def record(_: object) -> None:
        record_call(operation="chat", model="gpt-4o-mini", usage=USAGE)

    print(f"{'milliseconds':24} {'cpu p50':>9} {'cpu p95':>9} {'wall p50':>9}")
    book = PriceBook()
    book.cost(USAGE, "gpt-4o-mini")
    measure("price", lambda _: book.cost(USAGE, "gpt-4o-mini"), args.calls)
    with tempfile.TemporaryDirectory() as folder:
        for name, ledger in (
            ("memory", MemoryLedger()),
            ("sqlite", SQLiteLedger(Path(folder, "ledger.db"))),
        ):
            ledger.record(rows(args.rows))
            with track(feature="faq", tenant="acme", ledger=ledger):
                record(None)
                measure(f"record_{name}", record, args.calls)
            measure(f"spent_{name}", lambda _, it=ledger: it.spent(), 5)
            measure(f"spent_by_tag_{name}", lambda _, it=ledger: it.spent(tags=FEATURE), 5)
            measure(f"read_all_{name}", lambda _, it=ledger: sum(1 for _ in it.records()), 2)
            if isinstance(ledger, SQLiteLedger):
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
