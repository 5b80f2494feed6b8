"""Which look-alike questions get each other's answers, and which rewordings do not?

    python -m benchmarks.cache_pairs [--data pairs.jsonl ...] [--model FOLDER] [--json OUT]

Rows are {a, b, same_answer, category}: b's answer is stored and a is asked. A list of
{category, pairs: [{a, b}]} (JSON, pairs that must all miss) is read too. One decision rule for all
files, `GuardedThreshold()` as it ships, beside a bare cosine of 0.90 and beside other caches at
their own defaults, one empty cache a pair (`make peers`). With several files the keys
of the first are at the top, and `files` has each.

recall: share of the pairs with the same answer that are served. false_hit_rate: share of the
others that are served. wrong_share: share of what is served that is wrong.
"""

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _peers
from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core.cache.guards import GuardedThreshold, veto
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.types import Entry, Neighbour, Vector

FIXED_COSINE = 0.90


@dataclass(frozen=True)
class Pair:
    """Two questions, whether one answer serves both, and how similar they are."""

    asked: str
    stored: str
    same: bool
    category: str
    cosine: float = 0.0


def read_pairs(path: Path) -> Iterator[Pair]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        for group in json.loads(text):
            for row in group["pairs"]:
                yield Pair(row["a"], row["b"], same=False, category=group["category"])
        return
    for line in filter(None, map(str.strip, text.splitlines())):
        row = json.loads(line)
        category = str(row.get("category", "all"))
        yield Pair(row["a"], row["b"], same=bool(row["same_answer"]), category=category)


def with_cosines(pairs: Sequence[Pair], embedder: OnnxEmbedder) -> list[Pair]:
    asked = embedder.embed([pair.asked for pair in pairs])
    stored = embedder.embed([pair.stored for pair in pairs])
    cosines = (asked * stored).sum(axis=1)
    return [
        Pair(pair.asked, pair.stored, pair.same, pair.category, float(cosine))
        for pair, cosine in zip(pairs, cosines, strict=True)
    ]


def rates(pairs: Sequence[Pair], serve: Callable[[Pair], bool]) -> dict[str, Any]:
    served = [pair for pair in pairs if serve(pair)]
    wrong = sum(not pair.same for pair in served)
    same = sum(pair.same for pair in pairs)
    return {
        "n": len(pairs),
        "recall": _share(len(served) - wrong, same),
        "false_hit_rate": _share(wrong, len(pairs) - same),
        "wrong_share": _share(wrong, len(served)),
        "hits": len(served),
        "wrong_hits": wrong,
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def guarded(pair: Pair) -> bool:
    entry = Entry(key="k", scope="s", question=pair.stored, answer="an answer")
    near = [Neighbour(entry=entry, cosine=pair.cosine)]
    return GuardedThreshold().decide(pair.asked, near).action == "serve"


def fixed(pair: Pair) -> bool:
    return pair.cosine >= FIXED_COSINE


def peer_rates(
    pairs: Sequence[Pair], embedder: OnnxEmbedder, opener: _peers.Open
) -> dict[str, Any]:
    def embed(text: str) -> Vector:
        vector: Vector = embedder.embed([text])[0]
        return vector

    with tempfile.TemporaryDirectory() as folder, opener(embed, 10, Path(folder)) as peer:

        def serve(pair: Pair) -> bool:
            peer.clear()
            peer.put(pair.stored, "an answer")
            return peer.ask(pair.asked) is not None

        return rates(pairs, serve)


def measure(pairs: Sequence[Pair]) -> dict[str, Any]:
    categories: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        categories[pair.category].append(pair)
    started = time.process_time()
    spoke = Counter(
        (found.guard, pair.same)
        for pair in pairs
        if (found := veto(pair.asked, pair.stored)) is not None
    )
    microseconds = (time.process_time() - started) / max(1, len(pairs)) * 1e6
    return {
        **rates(pairs, guarded),
        "by_category": {name: rates(rows, guarded) for name, rows in sorted(categories.items())},
        "fixed_090": rates(pairs, fixed),
        "guards": {
            guard: {"same": spoke[guard, True], "different": spoke[guard, False]}
            for guard in sorted({guard for guard, _ in spoke})
        },
        "guard_cpu_us": round(microseconds, 1),
    }


def show(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: {result['n']} pairs, guards take {result['guard_cpu_us']:.0f} us a pair")
    print(f"{'':<32}{'n':>6}{'recall':>9}{'false hits':>12}{'wrong of hits':>15}")
    rows = {
        "guarded": result,
        f"cosine {FIXED_COSINE:.2f} alone": result["fixed_090"],
        **result["peers"],
        **{f"  {category}": row for category, row in result["by_category"].items()},
    }
    for label, row in rows.items():
        shares = f"{row['recall']:>9.3f}{row['false_hit_rate']:>12.3f}{row['wrong_share']:>15.3f}"
        print(f"{label[:31]:<32}{row['n']:>6}{shares}")
    for guard, counts in result["guards"].items():
        print(f"  {guard:<14} keeps apart {counts['different']} rightly, {counts['same']} wrongly")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", help="files of pairs")
    parser.add_argument("--model", type=Path, help="folder of another embedding model")
    args = parser.parse_args()
    ours = [DATA / "cache" / name for name in ("fow_pairs.jsonl", "finance_traps.json")]
    paths = args.data or [path for path in ours if path.is_file()]
    if not paths:
        parser.exit(0, f"skipped: no --data, and {DATA / 'cache'} holds no pairs\n")
    clock = Clock()
    embedder = OnnxEmbedder(args.model)
    openers = _peers.installed()
    files = {}
    for path in paths:
        pairs = with_cosines(list(read_pairs(path)), embedder)
        peers = {name: peer_rates(pairs, embedder, one) for name, one in openers.items()}
        files[path.name] = {**measure(pairs), "peers": peers}
        show(path.name, files[path.name])
    result = {
        **files[paths[0].name],
        "files": files,
        "embedder": embedder.name,
        "seed": args.seed,
        **clock.seconds(),
        "versions": versions("onnxruntime", "tokenizers", *_peers.VERSIONS),
    }
    finish(args, result)


if __name__ == "__main__":
    main()
