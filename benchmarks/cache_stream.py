"""Does a near tier keep its promise on a stream of questions, and what does that cost in hits?

Two questions have the same answer iff they have the same label (`oos` never has). Every policy runs
through `Cache.lookup` and `Cache.store` on the same shuffles; the best fixed threshold is found in
hindsight, on the very stream it is measured on, so it is a bound and not a competitor.

    python -m benchmarks.cache_stream --data ../shared/data/cache/clinc150_stream.jsonl.gz
"""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import Cache, MemoryStore, OnnxEmbedder, Scope
from costwise_core.cache import canonical
from costwise_core.cache.cacheable import REASONS, CachePolicy
from costwise_core.cache.control import RiskControl
from costwise_core.cache.per_entry import PerEntry
from costwise_core.protocols import NearPolicy, Role
from costwise_core.types import Matrix

SCOPE = Scope(tenant="benchmark")
# Here an answer is a label, which no order to "cancel it" changes; and the fixed threshold asks
# for no admission either.
ADMIT_ALL = CachePolicy(allow=frozenset(REASONS))
GRID = [round(0.60 + 0.01 * step, 2) for step in range(39)]


class Table:
    """Vectors made once, looked up by text."""

    name = "table"
    blocking = False

    def __init__(self, texts: list[str]) -> None:
        unique = sorted({canonical(text) for text in texts})
        rows = OnnxEmbedder(threads=2).embed(unique)
        self.rows = dict(zip(unique, rows, strict=True))

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:  # noqa: ARG002
        return np.stack([self.rows[text] for text in texts])


class SameLabel:
    """The answers are labels."""

    blocking = False

    def same(self, question: str, fresh: str, stored: str) -> bool:  # noqa: ARG002
        return fresh == stored


def load(path: Path) -> list[tuple[str, str]]:
    """Read questions and their labels: {text, label} as JSONL, or CSV with text and category."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    lines = io.StringIO(text, newline="")  # a question may have line ends of its own
    if ".jsonl" in path.name:
        rows = [(row["text"], row["label"]) for row in map(json.loads, lines)]
    else:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(lines)]
    # A question out of scope has an answer of its own.
    return [
        (text, f"oos-{number}" if label == "oos" else label)
        for number, (text, label) in enumerate(rows)
        if canonical(text)
    ]


def stream(rows: list[tuple[str, str]], table: Table, policy: NearPolicy) -> dict[str, float]:
    """Send a stream through a cache; every miss is answered rightly and stored."""
    cache = Cache(
        MemoryStore(), embedder=table, policy=policy, judge=SameLabel(), admission=ADMIT_ALL
    )
    hits = wrong = near = near_wrong = 0
    for text, label in rows:
        found = cache.lookup(text, SCOPE)
        if found:
            hits += 1
            wrong += found.answer != label
            near += found.tier == "near"
            near_wrong += found.tier == "near" and found.answer != label
        else:
            cache.store(text, SCOPE, label, vector=found.vector)
    n = len(rows)
    return {
        "hit_rate": hits / n,
        "error_rate": wrong / n,
        "near_hit_rate": near / n,
        "near_wrong_share": near_wrong / max(near, 1),
        "checks": cache.stats.misses.get("check", 0) / n,
    }


def best_fixed(rows: list[tuple[str, str]], table: Table, delta: float) -> dict[str, float]:
    """Find the threshold with most hits among those that would have kept the promise."""
    vectors = table.embed([canonical(text) for text, _ in rows])
    labels = np.unique([label for _, label in rows], return_inverse=True)[1]
    grid = np.array(GRID)
    # stored[t, i]: whether question i was stored, because threshold t did not serve it.
    stored = np.zeros((len(GRID), len(rows)), dtype=bool)
    hits, wrong = np.zeros(len(GRID)), np.zeros(len(GRID))
    for number, vector in enumerate(vectors):
        cosines = vectors[:number] @ vector
        near = np.flatnonzero(cosines >= GRID[0] - 1e-6)
        near = near[np.argsort(-cosines[near])]
        served = np.zeros(len(GRID), dtype=bool)
        if near.size:
            there = stored[:, near]
            nearest = near[there.argmax(axis=1)]  # where nothing is there, `served` says so
            served = there.any(axis=1) & (cosines[nearest] >= grid - 1e-6)
            hits += served
            wrong += served & (labels[nearest] != labels[number])
        stored[:, number] = ~served
    kept = wrong <= delta * len(rows)
    if not kept.any():
        return {"threshold": 1.0, "hit_rate": 0.0, "error_rate": 0.0}
    best = int(np.where(kept, hits, -1).argmax())
    return {
        "threshold": GRID[best],
        "hit_rate": float(hits[best] / len(rows)),
        "error_rate": float(wrong[best] / len(rows)),
    }


def mean(results: list[dict[str, float]], key: str) -> float:
    return round(float(np.mean([result[key] for result in results])), 4)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[DATA / "cache/banking77_train.csv"]
    )
    parser.add_argument("--delta", type=float, default=0.02)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for path in args.data:
        if not path.exists():
            print(f"skipped: {path} is not there; give a stream with --data")
            return
    clock = Clock()
    rows = [row for path in args.data for row in load(path)]
    table = Table([text for text, _ in rows])
    ours, fixed, per_entry = [], [], []
    for seed in range(args.seed, args.seed + args.seeds):
        order = np.random.default_rng(seed).permutation(len(rows))[: args.limit]
        shuffled = [rows[place] for place in order]
        ours.append(stream(shuffled, table, RiskControl(args.delta, seed=seed)))
        fixed.append(best_fixed(shuffled, table, args.delta))
        per_entry.append(stream(shuffled, table, PerEntry(args.delta, seed=seed)))
        print(
            f"seed {seed}: hits {ours[-1]['hit_rate']:.3f}, wrong {ours[-1]['error_rate']:.4f}; "
            f"best fixed {fixed[-1]['threshold']:.2f}: {fixed[-1]['hit_rate']:.3f}, "
            f"{fixed[-1]['error_rate']:.4f}; "
            f"per entry {per_entry[-1]['hit_rate']:.3f}, {per_entry[-1]['error_rate']:.4f}",
            flush=True,
        )
    result = {
        "data": " + ".join(path.name for path in args.data),
        "delta": args.delta,
        "n": min(args.limit, len(rows)),
        "seed": args.seed,
        "seeds": args.seeds,
        "hit_rate": mean(ours, "hit_rate"),
        "error_rate": mean(ours, "error_rate"),
        "error_rate_max": round(max(one["error_rate"] for one in ours), 4),
        "runs_over_delta": sum(one["error_rate"] > args.delta for one in ours),
        "near_hit_rate": mean(ours, "near_hit_rate"),
        "near_wrong_share": mean(ours, "near_wrong_share"),
        "checks": mean(ours, "checks"),
        "best_fixed": {key: mean(fixed, key) for key in ("threshold", "hit_rate", "error_rate")},
        "per_entry": {key: mean(per_entry, key) for key in ("hit_rate", "error_rate")},
        **clock.seconds(),
        "versions": versions("onnxruntime"),
    }
    print(
        f"\n{result['data']}, {result['n']} questions, {args.seeds} shuffles, promise "
        f"{args.delta:.1%} wrong per request\n"
        f"  risk control  hits {result['hit_rate']:.1%}  wrong {result['error_rate']:.2%} "
        f"(worst {result['error_rate_max']:.2%}, {result['runs_over_delta']} runs over)  "
        f"checked {result['checks']:.1%}\n"
        f"  best fixed    hits {result['best_fixed']['hit_rate']:.1%}  "
        f"wrong {result['best_fixed']['error_rate']:.2%}  (in hindsight, at "
        f"{result['best_fixed']['threshold']:.2f})\n"
        f"  per entry     hits {result['per_entry']['hit_rate']:.1%}  "
        f"wrong {result['per_entry']['error_rate']:.2%}"
    )
    finish(args, result)


if __name__ == "__main__":
    main()
