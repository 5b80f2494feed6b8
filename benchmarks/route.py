"""How well a router knows which questions need the dear model, and whether its promise is kept.

    python -m benchmarks.route [--train a.csv.gz --test b.csv.gz] [--weak COL --strong COL]
        [--no-torch] --json OUT

Files hold a column `prompt` and one mark from 0 to 1 for each model. Without `--test` the training
file is cut into five parts, each of which is scored by a router trained on the other four. Then
`--deployments` times some of the scored questions, drawn with replacement, find the threshold that
keeps 95 % of the dear model's quality, and all of them say whether it does. Without `--train` it
runs on the sets that the documentation reports, in domain and across.

`--no-torch` leaves embeddings out. With it and without, no torch is needed: the embedder is ONNX.
"""

import csv
import gzip
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import (
    GainModel,
    LearnedRouter,
    OnnxEmbedder,
    PairedOutcome,
    RoutingReport,
    calibrate_routing,
    evaluate_routing,
    train_router,
)

SETS = {
    "mmlu": (DATA / "routing/routellm_mmlu.csv.gz", "mixtral_8x7b", "gpt_4_1106"),
    "gsm8k": (DATA / "routing/routellm_gsm8k.csv.gz", "mixtral_8x7b", "gpt_4_1106"),
    "nine_models": (
        DATA / "routing/llmrouter_9models.csv.gz",
        "mistral-7b-instruct-v0.3",
        "llama-3.1-nemotron-51b-instruct",
    ),
}
FOLDS = 5
QUALITY, CONFIDENCE = 0.95, 0.95


def read(path: Path, weak: str, strong: str) -> list[PairedOutcome]:
    """Return the outcomes of two models; rows marked as contaminated are left out."""
    csv.field_size_limit(10_000_000)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        PairedOutcome(question=row["prompt"], weak=float(row[weak]), strong=float(row[strong]))
        for row in rows
        if row.get("contaminated", "0") != "1"
    ]


def embedded(pairs: Sequence[PairedOutcome], cache: Path | None) -> list[PairedOutcome]:
    """Return the pairs with their embeddings, from a file if there is one of that size."""
    if cache is not None and cache.exists():
        vectors = np.load(cache)
        if len(vectors) == len(pairs):
            return [replace(one, vector=row) for one, row in zip(pairs, vectors, strict=True)]
    embedder = OnnxEmbedder()
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].question))
    found = [np.zeros(0, np.float32)] * len(pairs)
    for start in range(0, len(order), 16):
        some = order[start : start + 16]
        rows = embedder.embed([pairs[at].question[:1_500] for at in some])
        for at, row in zip(some, rows, strict=True):
            found[at] = row
    if cache is not None:
        np.save(cache, np.array(found))
    return [replace(one, vector=row) for one, row in zip(pairs, found, strict=True)]


def scores(model: GainModel, pairs: Sequence[PairedOutcome]) -> tuple[list[float], float]:
    """Return a score for each, and the CPU milliseconds that one takes without the embedding."""
    router = LearnedRouter(model)
    router.score("What is this?", pairs[0].vector)
    began = time.process_time()
    found = [router.score(one.question, one.vector) for one in pairs]
    return found, (time.process_time() - began) * 1e3 / len(pairs)


def crossed(pairs: Sequence[PairedOutcome], seed: int) -> tuple[list[float], float]:
    """Return scores of a router that was trained on the other parts."""
    parts = np.random.default_rng(seed).integers(0, FOLDS, len(pairs))
    found = np.zeros(len(pairs))
    times = []
    for part in range(FOLDS):
        held = np.flatnonzero(parts == part).tolist()
        model = train_router([pairs[at] for at in np.flatnonzero(parts != part).tolist()])
        of_part, ms = scores(model, [pairs[at] for at in held])
        # Two routers' scores are compared by their ranks: each is trained on other questions.
        found[held] = np.argsort(np.argsort(of_part)) / max(1, len(held) - 1)
        times.append(ms)
    return found.tolist(), float(np.mean(times))


def promise(
    pairs: Sequence[PairedOutcome], found: Sequence[float], *, labels: int, runs: int, seed: int
) -> dict[str, float]:
    """Return how often a threshold found on some labels breaks its promise on all questions."""
    dice = np.random.default_rng(seed)
    weak = np.array([one.weak for one in pairs])
    strong = np.array([one.strong for one in pairs])
    at = np.array(found)
    missed, shares = 0, []
    for _ in range(runs):
        drawn = dice.integers(0, len(pairs), labels).tolist()
        line = calibrate_routing(
            [pairs[one] for one in drawn],
            at[drawn].tolist(),
            quality=QUALITY,
            confidence=CONFIDENCE,
        )
        to_strong = at >= (line.threshold if line.chosen else -np.inf)
        shares.append(float(to_strong.mean()))
        missed += float(np.where(to_strong, strong, weak).sum()) < QUALITY * float(strong.sum())
    return {
        "target": QUALITY,
        "labels": labels,
        "missed_share": missed / runs,
        "strong_share": float(np.mean(shares)),
    }


def facts(report: RoutingReport, ms: float) -> dict[str, object]:
    router, words = report.router, report.words
    return {
        "n": report.n,
        "apgr": router.apgr.value,
        "apgr_low": router.apgr.low,
        "apgr_high": router.apgr.high,
        "cpt50": router.cpt50.value,
        "cpt80": router.cpt80.value,
        "random": report.random.apgr.value,
        "heuristic": words.apgr.value,
        "oracle": report.oracle.apgr.value,
        "ms_per_query": ms,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--weak", default="mixtral_8x7b")
    parser.add_argument("--strong", default="gpt_4_1106")
    parser.add_argument("--no-torch", action="store_true", help="without embeddings")
    parser.add_argument("--deployments", type=int, default=400)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--vectors", type=Path, help="folder to keep embeddings in")
    args = parser.parse_args()
    clock = Clock()

    def load(path: Path, weak: str, strong: str) -> list[PairedOutcome]:
        pairs = read(path, weak, strong)
        if args.no_torch:
            return pairs
        cache = args.vectors / f"{path.name}.npy" if args.vectors else None
        return embedded(pairs, cache)

    def measured(
        name: str, pairs: Sequence[PairedOutcome], found: Sequence[float], ms: float
    ) -> dict[str, object]:
        report = evaluate_routing(pairs, found, seed=args.seed)
        print(f"\n{name}: {report}\n  {ms:.2f} ms CPU a query", flush=True)
        return facts(report, ms)

    def in_domain(
        name: str, pairs: Sequence[PairedOutcome], found: Sequence[float], ms: float
    ) -> dict[str, object]:
        result = measured(name, pairs, found, ms)
        kept = promise(pairs, found, labels=args.labels, runs=args.deployments, seed=args.seed)
        print(
            f"  promise with {kept['labels']} labels: missed in {kept['missed_share']:.1%} of "
            f"{args.deployments} deployments, {kept['strong_share']:.0%} to the dear model"
        )
        return result | {"promise": kept}

    sets = SETS
    if args.train is not None:
        sets = {"train": (args.train, args.weak, args.strong)}
    missing = [path for path, _, _ in sets.values() if not path.exists()]
    if missing:
        print(f"Nothing measured: {', '.join(map(str, missing))} not there; give --train.")
        return
    data = {name: load(*one) for name, one in sets.items()}
    result: dict[str, object] = {"seed": args.seed, "no_torch": args.no_torch}
    if args.test is not None and args.train is not None:
        pairs = load(args.test, args.weak, args.strong)
        found, ms = scores(train_router(data["train"]), pairs)
        result |= in_domain("test", pairs, found, ms)
    elif args.train is not None:
        result |= in_domain("in parts", data["train"], *crossed(data["train"], args.seed))
    else:
        result |= {
            name: in_domain(f"{name}, in parts", pairs, *crossed(pairs, args.seed))
            for name, pairs in data.items()
        }
        for name, pairs in data.items():
            model = train_router(pairs)
            for other, asked in data.items():
                if other != name:
                    found, ms = scores(model, asked)
                    both = f"{name} to {other}"
                    result[both] = measured(both, asked, found, ms)
    finish(args, result | clock.seconds() | {"versions": versions("onnxruntime")})


if __name__ == "__main__":
    main()
