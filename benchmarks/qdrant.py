"""Does the tuner find a cheap configuration by itself, and does what it claims hold?

A third of the questions is set aside before tuning. On the others `tune` chooses and confirms. The
recommended index is then built once more, in another order, and asked the questions set aside:
`holds` is the share of resamples of them in which the recall is at least what was claimed.
`holds_resplit` repeats choosing and claiming for many ways to part all the questions, and checks
each claim with the third that had no say in it.

CPU is that of searches on one thread in a process of their own, as the median of turns taken with
the others. It is compared with Qdrant's untuned float32 index (m 16, ef_construct 100) searched

- as widely as it takes for the same recall on the questions set aside, interpolated between two
  values of hnsw_ef (`cpu_share`);
- just as widely as it takes to keep the same promise (`cpu_share_of_float32`, the row `float32`);
- with the defaults (`cpu_share_of_defaults`, the row `baseline`).
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core.qdrant import (
    IndexConfig,
    Measured,
    Questions,
    Sandbox,
    SearchConfig,
    TuningPlan,
    tune,
)
from costwise_core.qdrant.ground_truth import exact_truth
from costwise_core.qdrant.intervals import mean_low
from costwise_core.qdrant.plan import pareto

UNSEEN = 1 / 3
RESAMPLES = 2_000
RESPLITS = 200
FRESH = 2
EFS = (16, 32, 48, 64, 96, 128, 192, 256, 384)
SHOWN = (
    "hot_share",
    "cpu_share",
    "cpu_share_of_float32",
    "cpu_share_of_defaults",
    "unseen_recall",
    "holds",
    "holds_resplit",
    "tune_cpu_seconds",
)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--vectors", type=Path, default=DATA / "vec" / "passages.f16.npy")
    parser.add_argument("--queries", type=Path, default=DATA / "vec" / "questions.f16.npy")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--limit", type=int, help="use only so many vectors")
    args = parser.parse_args()
    if not args.vectors.exists() or not args.queries.exists():
        print(f"skipped: {args.vectors} or {args.queries} is not there")
        return
    clock = Clock()
    vectors = np.load(args.vectors, allow_pickle=False).astype(np.float32)[: args.limit]
    asked = Questions.from_file(args.queries, seed=args.seed)
    unseen, seen = asked.split(UNSEEN, args.seed + 1)
    plan = tune(
        vectors,
        seen,
        k=args.k,
        recall_target=args.target,
        confidence=args.confidence,
        seed=args.seed,
    )
    print(plan.report())
    result: dict[str, object] = {
        "n": len(asked),
        "vectors": len(vectors),
        "unseen": len(unseen),
        "seed": args.seed,
        "target": args.target,
        "keep": plan.keep,
        "why": plan.why,
        "baseline": shown(plan.baseline),
        "float32": shown(plan.float32),
        "recommended": shown(plan.recommended),
        "rebuild_noise": plan.rebuild_noise,
        "tune_cpu_seconds": round(plan.tune_cpu_seconds, 1),
        "tune_wall_seconds": round(plan.tune_wall_seconds, 1),
    }
    if plan.recommended is not None:
        with tempfile.TemporaryDirectory() as folder:
            sandbox = Sandbox(Path(folder), vectors)
            result |= checked(sandbox, vectors, plan, unseen)
            result |= resplit(sandbox, vectors, plan, asked, args.seed)
            result["check_cpu_seconds"] = round(sandbox.cpu_seconds, 1)
    for name in SHOWN:
        value = result.get(name)
        print(f"{name:>22}  {f'{value:.4g}' if isinstance(value, float) else value}")
    finish(args, {**result, **clock.seconds(), "versions": versions("qdrant-edge-py")})


def shown(one: Measured | None) -> dict[str, object] | None:
    """Return a measured configuration with the keys of the contract."""
    if one is None:
        return None
    return {
        "config": {"index": one.index.to_dict(), "search": one.search.to_dict()},
        "said": f"{one.index}; {one.search}",
        "hot_bytes_per_vector": one.hot_bytes,
        **{name: value for name, value in asdict(one).items() if name not in ("index", "search")},
    }


def checked(
    sandbox: Sandbox, vectors: np.ndarray, plan: TuningPlan, unseen: Questions
) -> dict[str, object]:
    """Ask a fresh build the questions that were set aside, and time it beside float32."""
    found, plain = plan.recommended, plan.float32 or plan.baseline
    assert found is not None
    index = sandbox.build(found.index, order=FRESH)
    default = sandbox.build(IndexConfig(), order=FRESH)
    wider = [(default, SearchConfig(hnsw_ef=ef)) for ef in EFS]
    trials = sandbox.measure(
        [(index, found.search), (default, plain.search), (default, plan.baseline.search), *wider],
        unseen,
        plan.k,
        rounds=9,
    )
    truth = exact_truth(vectors, unseen, plan.k, distance="Cosine")
    recalls = truth.recalls(trials[0].found.tolist())
    reached = [float(truth.recalls(one.found.tolist()).mean()) for one in trials[3:]]
    dice = np.random.default_rng(plan.seed)
    means = recalls[dice.integers(0, len(recalls), (RESAMPLES, len(recalls)))].mean(axis=1)
    low = found.recall_low or 0.0
    cpu = [float(np.median(trial.cpu_ms)) for trial in trials]
    same = float(np.interp(recalls.mean(), np.maximum.accumulate(reached), cpu[3:]))
    return {
        "unseen_recall": float(recalls.mean()),
        "holds": float((means >= low).mean()),
        "holds_target": float((means >= plan.recall_target).mean()),
        "hot_share": index.hot_bytes / default.hot_bytes,
        "search_cpu_ms": cpu[0],
        "same_recall_cpu_ms": same,
        "float32_cpu_ms": cpu[1],
        "defaults_cpu_ms": cpu[2],
        "cpu_share": cpu[0] / same,
        "cpu_share_of_float32": cpu[0] / cpu[1],
        "cpu_share_of_defaults": cpu[0] / cpu[2],
    }


def resplit(
    sandbox: Sandbox, vectors: np.ndarray, plan: TuningPlan, asked: Questions, seed: int
) -> dict[str, object]:
    """Choose and claim for many ways to part the questions; return how often the claim holds."""
    assert plan.recommended is not None
    near = [
        one
        for one in plan.tried
        if one.index == plan.recommended.index and one.recall >= plan.recall_target - 0.03
    ]
    ways = pareto(near)
    builds = [sandbox.build(plan.recommended.index, order=order) for order in (0, 1, FRESH)]
    pairs = [(built, one.search) for one in ways for built in builds]
    trials = sandbox.measure(pairs, asked, plan.k)
    truth = exact_truth(vectors, asked, plan.k, distance="Cosine")
    recalls = [truth.recalls(trial.found.tolist()) for trial in trials]
    table = [recalls[n : n + 3] for n in range(0, len(recalls), 3)]
    dice = np.random.default_rng(seed)
    held = claims = 0
    for _ in range(RESPLITS):
        order = dice.permutation(len(asked))
        unseen, rest = np.split(order, [round(UNSEEN * len(order))])
        choose, confirm = np.split(rest, [len(rest) // 3])
        claim = None
        for first, second, fresh in sorted(table, key=lambda builds: -builds[0][choose].mean()):
            if first[choose].mean() < plan.recall_target:
                break
            low = min(mean_low(build[confirm], plan.confidence) for build in (first, second))
            if low < plan.recall_target:
                break
            claim = (low, fresh[unseen].mean())
        if claim is not None:
            claims += 1
            held += claim[1] >= claim[0]
    share = held / claims if claims else None
    return {"resplits": RESPLITS, "claims": claims, "holds_resplit": share}


if __name__ == "__main__":
    main()
