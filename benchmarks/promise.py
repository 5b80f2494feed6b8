"""What share of the context can be promised, and whether the promise is kept on other questions.

    python -m benchmarks.promise [--data squad20.jsonl nq20.jsonl] [--target .95] --json OUT

Rows are {question, answers, docs: [{title, text}]}. The curve is that of all rows. Then, `--splits`
times, a random half calibrates and the other half checks. A check that keeps less than the target
is bad luck or a broken promise: with 95 % confidence an endless check would lie below in at most
5 % of splits, one of half the rows now and then more, but hardly by much.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
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
from costwise_core.bounds import least_sample
from costwise_core.compress.extractive import ExtractiveCompressor
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


class Known:
    """What a share did to each question, so that it can be asked again at no cost."""

    def __init__(self, lost: Mapping[str, bool]) -> None:
        self.lost = lost

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        kept = () if self.lost[question] else tuple(passages)
        return Compressed(
            passages=kept, given=tuple(passages), tokens_before=1, tokens_after=1, reason="known"
        )


class Watched:
    """A compressor that writes down which questions lost their answer."""

    def __init__(self, compressor: Compressor, rows: Sequence[LabelledQuestion]) -> None:
        self.compressor = compressor
        self.rows = {row.question: row for row in rows}
        self.lost: dict[str, bool] = {}

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        result = self.compressor.compress(question, passages)
        self.lost[question] = not self.rows[question].kept_in(result.passages)
        return result


def makers(embedder: CachedEmbedder) -> dict[str, Callable[[float], Compressor]]:
    return {
        "extractive": lambda share: ExtractiveCompressor(embedder=embedder, share=share),
        "trim": lambda share: TrimToShare(embedder=embedder, share=share),
    }


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
    embedder = CachedEmbedder(OnnxEmbedder())
    for name, make in makers(embedder).items():
        watched = {share: Watched(make(share), rows) for share in SHARES}
        curve = calibrate_share(watched.__getitem__, rows, target=args.target, shares=SHARES)
        print(f"\n{name}: {curve}", flush=True)
        if curve.answerable < 2 * least_sample(1 - args.target, 0.95):
            print("too few rows to calibrate on a half of them, so nothing is checked")
            continue
        known = {share: Known(one.lost) for share, one in watched.items()}
        names = sorted(next(iter(known.values())).lost)
        dice = random.Random(args.seed)
        shares, below, worst = [], 0, 1.0
        for _ in range(args.splits):
            dice.shuffle(names)
            half = len(names) // 2
            asked = [
                LabelledQuestion(question=one, passages=(Passage(text="yes"),), answers=("yes",))
                for one in names[:half]
            ]
            found = calibrate_share(known.__getitem__, asked, target=args.target, shares=SHARES)
            shares.append(found.share)
            kept = 1.0
            if found.chosen is not None:
                kept = 1 - sum(known[found.share].lost[one] for one in names[half:]) / (
                    len(names) - half
                )
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
