"""What judging the cheap model's answer closes of the gap to the dear one, and what that costs.

    python -m benchmarks.cascade [--train a.csv.gz --test b.csv.gz] [--weak COL --strong COL]
        [--answer COL] --json OUT

Rows are {prompt, weak mark, strong mark, weak answer[, strong answer]}; GSM8K with the answers of
Mixtral 8x7B and GPT-4 by default. Without `--train` the judge is trained and measured in five
folds of the test rows, so that every answer is scored by a judge that has not seen it. The promise
is made `--deployments` times on `--labels` rows drawn from the scored ones, and checked on all of
them. Dollars count both calls where the dear model is asked: the cheap one was paid too.
"""

import argparse
import csv
import gzip
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from benchmarks._auc import auc
from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import Ask, Candidate, PairedOutcome, Usage, calibrate_routing, evaluate_routing
from costwise_core.errors import PriceError
from costwise_core.prices import shared_prices
from costwise_core.route.evaluate import Scored
from costwise_core.route.judges.rules import RuleJudge
from costwise_core.route.judges.trained import TrainedJudge
from costwise_core.route.judges.training import JudgedAnswer, train_judge
from costwise_core.tokens import shared_tokens

FOLDS = 5
LABELS_NEEDED = (50, 100, 200, 400)
REPEATS = 10


def read(path: Path, args: argparse.Namespace) -> list[PairedOutcome]:
    """Read paired outcomes, with what each call costs where both answers are there."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    count = shared_tokens().counter("gpt-4o-mini")

    def usd(model: str, row: dict[str, str], column: str) -> Decimal | None:
        if column not in row:
            return None
        tokens = Usage(input_tokens=count(row["prompt"]), output_tokens=count(row[column]))
        try:
            return shared_prices().cost(tokens, model).usd
        except PriceError:
            return None

    return [
        PairedOutcome(
            question=row["prompt"],
            answer=row[args.answer],
            weak=float(row[args.weak]),
            strong=float(row[args.strong]),
            weak_usd=usd(args.weak_model, row, args.answer),
            strong_usd=usd(args.strong_model, row, args.strong_answer),
        )
        for row in rows
    ]


def trained_on(pairs: Sequence[PairedOutcome]) -> TrainedJudge:
    judged = [
        JudgedAnswer(
            ask=Ask(question=one.question), answer=Candidate(text=one.answer), mark=one.weak
        )
        for one in pairs
    ]
    return TrainedJudge(model=train_judge(judged))


def scores(judge: TrainedJudge | RuleJudge, pairs: Sequence[PairedOutcome]) -> list[float]:
    return [
        judge.judge(Ask(question=one.question), Candidate(text=one.answer)).score for one in pairs
    ]


def cross_scored(pairs: Sequence[PairedOutcome], seed: int) -> list[float]:
    """Score each answer by a judge trained on the other folds."""
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    found = [0.0] * len(pairs)
    for fold in range(FOLDS):
        out = order[fold::FOLDS]
        held = set(out)
        judge = trained_on([one for at, one in enumerate(pairs) if at not in held])
        for at, score in zip(out, scores(judge, [pairs[at] for at in out]), strict=True):
            found[at] = score
    return found


def closed(pairs: Sequence[PairedOutcome], given: Sequence[float]) -> Scored:
    return evaluate_routing(pairs, [1 - score for score in given]).router


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a cascade costs at the share of escalations that keeps a quality."""

    escalated: float
    usd_share: float


def bill(pairs: Sequence[PairedOutcome], given: Sequence[float], quality: float) -> Bill | None:
    """Return calls and dollars of the cheapest cascade that keeps the quality; None unpriced."""
    if any(one.weak_usd is None or one.strong_usd is None for one in pairs):
        return None
    order = np.argsort(given, kind="stable")
    weak = np.array([one.weak for one in pairs])[order]
    strong = np.array([one.strong for one in pairs])[order]
    dear = np.array([float(one.strong_usd or 0) for one in pairs])[order]
    cheap = sum(float(one.weak_usd or 0) for one in pairs)
    kept = np.concatenate([[0.0], np.cumsum(strong - weak)]) + weak.sum()
    at = int(np.argmax(kept >= quality * strong.sum()))
    return Bill(escalated=at / len(pairs), usd_share=float((cheap + dear[:at].sum()) / dear.sum()))


def promised(
    pairs: Sequence[PairedOutcome], given: Sequence[float], args: argparse.Namespace
) -> dict[str, float]:
    """Promise again and again on drawn labels, and count how often all rows break it."""
    dice = np.random.default_rng(args.seed)
    score = np.array(given)
    weak = np.array([one.weak for one in pairs])
    strong = np.array([one.strong for one in pairs])
    missed, shares = 0, []
    for _ in range(args.deployments):
        drawn = dice.integers(0, len(pairs), args.labels)
        found = calibrate_routing(
            [pairs[at] for at in drawn], score[drawn].tolist(), quality=args.target, higher="weak"
        )
        up = np.ones(len(pairs), bool) if found.chosen is None else score < found.threshold
        missed += bool(np.where(up, strong, weak).mean() < args.target * strong.mean() - 1e-12)
        shares.append(float(up.mean()))
    return {
        "target": args.target,
        "labels": args.labels,
        "missed_share": missed / args.deployments,
        "strong_share": float(np.mean(shares)),
    }


def learning(pairs: Sequence[PairedOutcome], seed: int) -> dict[str, float]:
    """Return the mean APGR on the rest after training on a few labels."""
    found = {}
    for size in LABELS_NEEDED:
        if size > len(pairs) // 2:
            continue
        reached = []
        for repeat in range(REPEATS):
            order = list(pairs)
            random.Random(seed * 1_000 + repeat).shuffle(order)
            rest = order[size:]
            reached.append(closed(rest, scores(trained_on(order[:size]), rest)).apgr.value)
        found[str(size)] = round(float(np.mean(reached)), 4)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--train", type=Path, help="rows to train on; five folds without")
    parser.add_argument("--test", type=Path, default=DATA / "routing/routellm_gsm8k.csv.gz")
    parser.add_argument("--weak", default="mixtral_8x7b", help="column of the weak model's marks")
    parser.add_argument("--strong", default="gpt_4_1106")
    parser.add_argument("--answer", default="mixtral_response", help="the weak model's answers")
    parser.add_argument("--strong-answer", default="gpt4_response", help="if there, dollars count")
    parser.add_argument("--weak-model", default="mistral:open-mixtral-8x7b", help="priced as")
    parser.add_argument("--strong-model", default="openai:gpt-4-1106-preview", help="priced as")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--deployments", type=int, default=400)
    args = parser.parse_args()
    missing = [path for path in (args.train, args.test) if path and not path.exists()]
    if missing:
        print(f"Nothing measured: {', '.join(map(str, missing))} not there; give --test.")
        return
    clock = Clock()
    pairs = read(args.test, args)
    if args.train:
        given = scores(trained_on(read(args.train, args)), pairs)
    else:
        given = cross_scored(pairs, args.seed)
    report = evaluate_routing(pairs, [1 - score for score in given])
    by_rules = scores(RuleJudge(), pairs)
    right = [one.weak >= 0.5 for one in pairs]
    trained_auc, rules_auc = auc(right, given), auc(right, by_rules)
    rules = closed(pairs, by_rules)
    print(report, flush=True)
    print(f"rules alone, no labels: APGR {rules.apgr}, CPT80 {rules.cpt80.value:.0%}")
    print(f"AUC: trained {trained_auc or 0:.3f}, rules {rules_auc or 0:.3f}", flush=True)
    result: dict[str, object] = {
        "n": len(pairs),
        "seed": args.seed,
        "apgr": report.router.apgr.value,
        "apgr_low": report.router.apgr.low,
        "cpt50": report.router.cpt50.value,
        "cpt80": report.router.cpt80.value,
        "cpt80_high": report.router.cpt80.high,
        "auc": trained_auc,
        "rules": {
            "apgr": rules.apgr.value,
            "cpt80": rules.cpt80.value,
            "auc": rules_auc,
        },
        "random": {"apgr": report.random.apgr.value, "cpt80": report.random.cpt80.value},
        "oracle": {"apgr": report.oracle.apgr.value, "cpt80": report.oracle.cpt80.value},
    }
    if paid := bill(pairs, given, args.target):
        print(
            f"for {args.target:.0%} of the dear model's quality: {paid.escalated:.1%} of the calls "
            f"go up, {paid.usd_share:.1%} of the dollars are paid"
        )
        result["dollars"] = {
            "quality": args.target,
            "escalated": paid.escalated,
            "usd_share": paid.usd_share,
        }
    if not args.train:
        result["labels_needed"] = learning(pairs, args.seed)
        print(f"APGR by number of labels: {result['labels_needed']}", flush=True)
    result["promise"] = kept = promised(pairs, given, args)
    print(
        f"promise of {args.target:.0%} on {args.labels} labels: missed in "
        f"{kept['missed_share']:.1%} of {args.deployments} deployments, dear model on "
        f"{kept['strong_share']:.0%}"
    )
    finish(args, result | clock.seconds() | {"versions": versions()})


if __name__ == "__main__":
    main()
