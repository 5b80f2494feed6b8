"""What share of the context can be promised, and whether the promise is kept on other questions.

    python -m benchmarks.promise [--data squad20.jsonl nq20.jsonl] [--target .95] --json OUT

Rows are {question, answers, docs: [{title, text}]}. The curve is that of all rows. Then, `--splits`
times, a random half calibrates and the other half checks. A check that keeps less than the target
is bad luck or a broken promise: with 95 % confidence an endless check would lie below in at most
5 % of splits, one of half the rows now and then more, but hardly by much.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import (
    Compressed,
    LabelledQuestion,
    OnnxEmbedder,
    Passage,
    RerankTrim,
    calibrate_share,
    hybrid,
)
from costwise_core.embed.cached import CachedEmbedder
from costwise_core.protocols import Compressor
from costwise_core.tokens import shared_tokens

SHARES = (0.7, 0.5, 0.35, 0.25, 0.2, 0.15, 0.1, 0.08, 0.05)


@dataclass(frozen=True, kw_only=True)
class TrimToShare:
    """`RerankTrim` with a budget that is a share of what it is given."""

    embedder: CachedEmbedder
    share: float

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        count = shared_tokens().counter("gpt-4o-mini")
        tokens = sum(count(one.title) + count(one.text) for one in passages)
        trim = RerankTrim(
            scorer=hybrid(self.embedder),
            top_k=None,
            max_tokens=max(round(tokens * self.share), 1),
            model="gpt-4o-mini",
        )
        return trim.compress(question, passages)


class Remembered:
    """A compressor that compresses each question once, however often it is asked."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self.known: dict[str, Compressed] = {}

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        if question not in self.known:
            self.known[question] = self.compressor.compress(question, passages)
        return self.known[question]


def makers() -> dict[str, Callable[[float], Compressor]]:
    embedder = CachedEmbedder(OnnxEmbedder())
    found: dict[str, Callable[[float], Compressor]] = {
        "trim": lambda share: TrimToShare(embedder=embedder, share=share)
    }
    try:
        from costwise_core import ExtractiveCompressor
    except ImportError:
        return found
    found["extractive"] = lambda share: ExtractiveCompressor(embedder=embedder, share=share)
    return found


def labelled(paths: Sequence[Path], limit: int | None) -> list[LabelledQuestion]:
    rows = []
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()[:limit]
        for row in map(json.loads, lines):
            docs = (
                Passage(id=str(n), title=doc.get("title", ""), text=doc["text"])
                for n, doc in enumerate(row["docs"])
            )
            answers = tuple(row["answers"])
            rows.append(
                LabelledQuestion(question=row["question"], passages=tuple(docs), answers=answers)
            )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[DATA / "rag/squad20.jsonl", DATA / "rag/nq20.jsonl"],
    )
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--limit", type=int, help="rows of each file")
    args = parser.parse_args()
    missing = [path for path in args.data if not path.exists()]
    if missing:
        print(f"Nothing measured: {', '.join(map(str, missing))} not there; give --data.")
        return
    clock = Clock()
    rows = labelled(args.data, args.limit)
    result: dict[str, object] = {"n": len(rows), "seed": args.seed, "target": args.target}
    for name, make in makers().items():
        known = {share: Remembered(make(share)) for share in SHARES}
        curve = calibrate_share(known.__getitem__, rows, target=args.target, shares=SHARES)
        print(f"\n{name}: {curve}")
        dice = random.Random(args.seed)
        shares, below, worst = [], 0, 1.0
        for _ in range(args.splits):
            dice.shuffle(rows)
            half = len(rows) // 2
            found = calibrate_share(
                known.__getitem__, rows[:half], target=args.target, shares=SHARES
            )
            shares.append(found.share)
            check = [one for one in rows[half:] if one.kept_in(one.passages)]
            kept = 1.0
            if found.chosen is not None:
                compressor = known[found.share]
                kept = sum(
                    one.kept_in(compressor.compress(one.question, one.passages).passages)
                    for one in check
                ) / len(check)
            below += kept < args.target
            worst = min(worst, kept)
        shares.sort()
        print(
            f"{name}: of {args.splits} halves, {below} checks lie below {args.target:.0%} "
            f"(worst {worst:.1%}); promised share: median {shares[len(shares) // 2]}, "
            f"from {shares[0]} to {shares[-1]}"
        )
        result[name] = {
            "share": curve.share,
            "curve": [
                {"share": p.share, "kept": p.kept, "recall": p.recall, "at_least": p.recall_least}
                for p in curve.curve
            ],
            "below_target": below / args.splits,
            "worst": worst,
            "median_share": shares[len(shares) // 2],
        }
    finish(args, result | clock.seconds() | {"versions": versions()})


if __name__ == "__main__":
    main()
