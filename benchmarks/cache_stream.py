"""Does a near tier keep its promise on a stream of questions, and what does that cost in hits?

Two questions have the same answer iff they have the same label (`oos` never has). Every policy runs
through `Cache.lookup` and `Cache.store` on the same shuffles; the best fixed threshold is found in
hindsight, on the very stream it is measured on, so it is a bound and not a competitor. Guards
compare numbers and names, which labels of intents ignore, so risk control is measured as it ships
and, like everything beside it, without guards. Other caches (`make peers`) run on the first
shuffle at their own defaults.

    python -m benchmarks.cache_stream --data ../shared/data/cache/clinc150_stream.jsonl.gz
"""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _peers
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


def peer_stream(rows: list[tuple[str, str]], table: Table, opener: _peers.Open) -> dict[str, float]:
    """Send a stream through another cache, in the same way."""
    embed = _peers.lookup_in(table.rows, canonical)
    hits = wrong = 0
    with tempfile.TemporaryDirectory() as folder, opener(embed, len(rows), Path(folder)) as peer:
        for text, label in rows:
            answer = peer.ask(text)
            if answer is None:
                peer.put(text, label)
            else:
                hits += 1
                wrong += answer != label
    return {"hit_rate": hits / len(rows), "error_rate": wrong / len(rows)}


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


def over(results: list[dict[str, float]], delta: float) -> dict[str, float]:
    """Return how well a policy that promises something did."""
    return {
        "hit_rate": mean(results, "hit_rate"),
        "error_rate": mean(results, "error_rate"),
        "error_rate_max": round(max(one["error_rate"] for one in results), 4),
        "runs_over_delta": sum(one["error_rate"] > delta for one in results),
    }


def mean(results: list[dict[str, float]], key: str) -> float:
    return round(float(np.mean([result[key] for result in results])), 4)


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['data']}, {result['n']} questions, {result['seeds']} shuffles, promise "
        f"{result['delta']:.1%} wrong per request"
    )
    least = f"{result['of_best_fixed_min']:.0%} of the best fixed in the poorest run"
    threshold = f"in hindsight, at {result['best_fixed']['threshold']:.2f}"
    rows = {
        "risk control": (result, f"checked {result['checks']:.1%}, {least}"),
        "  without guards": (result["without_guards"], ""),
        "best fixed": (result["best_fixed"], threshold),
        "per entry": (result["per_entry"], ""),
        **{name: (one, "first shuffle") for name, one in result["peers"].items()},
    }
    for name, (row, note) in rows.items():
        worst = (
            f" (worst {row['error_rate_max']:.2%}, {row['runs_over_delta']} over)"
            if "error_rate_max" in row
            else ""
        )
        shares = f"hits {row['hit_rate']:6.1%}  wrong {row['error_rate']:6.2%}"
        print(f"  {name:<18}{shares}{worst}  {note}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[DATA / "cache/banking77_train.csv"]
    )
    parser.add_argument("--delta", type=float, default=0.02)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true", help="leave other caches out (minutes)")
    args = parser.parse_args()
    for path in args.data:
        if not path.exists():
            print(f"skipped: {path} is not there; give a stream with --data")
            return
    clock = Clock()
    rows = [row for path in args.data for row in load(path)]
    table = Table([text for text, _ in rows])
    ours, bare, fixed, per_entry = [], [], [], []
    peers: dict[str, dict[str, float]] = {}
    openers = {} if args.no_peers else _peers.installed()
    for seed in range(args.seed, args.seed + args.seeds):
        order = np.random.default_rng(seed).permutation(len(rows))[: args.limit]
        shuffled = [rows[place] for place in order]
        ours.append(stream(shuffled, table, RiskControl(args.delta, seed=seed)))
        bare.append(stream(shuffled, table, RiskControl(args.delta, guards=(), seed=seed)))
        fixed.append(best_fixed(shuffled, table, args.delta))
        per_entry.append(stream(shuffled, table, PerEntry(args.delta, seed=seed)))
        if seed == args.seed:
            peers = {name: peer_stream(shuffled, table, one) for name, one in openers.items()}
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
        **over(ours, args.delta),
        "near_hit_rate": mean(ours, "near_hit_rate"),
        "near_wrong_share": mean(ours, "near_wrong_share"),
        "checks": mean(ours, "checks"),
        "without_guards": over(bare, args.delta),
        "best_fixed": {key: mean(fixed, key) for key in ("threshold", "hit_rate", "error_rate")},
        "per_entry": {key: mean(per_entry, key) for key in ("hit_rate", "error_rate")},
        "of_best_fixed_min": round(
            min(a["hit_rate"] / max(b["hit_rate"], 1e-9) for a, b in zip(ours, fixed, strict=True)),
            4,
        ),
        "peers": {
            name: {key: round(x, 4) for key, x in one.items()} for name, one in peers.items()
        },
        **clock.seconds(),
        "versions": versions("onnxruntime", *_peers.VERSIONS),
    }
    show(result)
    finish(args, result)


if __name__ == "__main__":
    main()
