"""Whether the examples that are picked for a question hold one that answers it as it should be.

    python -m benchmarks.few_shot [--data ../shared/data/cache] --json OUT

Eight questions of each intent of BANKING77's training set are the examples. For test questions it
is counted how often one of the four picked has the question's intent, and how often the nearest.
"""

import csv
import random
from pathlib import Path

from benchmarks._common import DATA, Clock, arguments, finish, timed, versions
from costwise_core import Example, FewShot, OnnxEmbedder
from costwise_core.embed.cached import CachedEmbedder

EACH = 8


def rows(path: Path, dice: random.Random) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        found = list(csv.reader(file))[1:]
    dice.shuffle(found)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "cache")
    parser.add_argument("--limit", type=int, default=1000, help="test questions")
    args = parser.parse_args()
    if not (args.data / "banking77_train.csv").exists():
        print(f"Nothing measured: no banking77_train.csv in {args.data}; give --data.")
        return
    clock = Clock()
    dice = random.Random(args.seed)
    pool: dict[str, list[str]] = {}
    for text, label in rows(args.data / "banking77_train.csv", dice):
        pool.setdefault(label, []).append(text)
    examples = [
        Example(question=text, answer=label)
        for label, texts in sorted(pool.items())
        for text in texts[:EACH]
    ]
    asked = rows(args.data / "banking77_test.csv", dice)[: args.limit]
    result: dict[str, object] = {"n": len(asked), "seed": args.seed, "examples": len(examples)}
    print(f"{len(asked)} questions, {len(examples)} examples, 4 picked")
    for name, embedder in (("words", None), ("meaning", CachedEmbedder(OnnxEmbedder()))):
        shots = FewShot(examples, embedder=embedder)
        shots.pick(asked[0][0])
        picked = [[one.answer for one in shots.pick(text).examples] for text, _ in asked]
        labels = [label for _, label in asked]
        among = sum(label in found for label, found in zip(labels, picked, strict=True))
        nearest = sum(label == found[-1] for label, found in zip(labels, picked, strict=True))
        cpu, _ = timed(shots.pick, [text for text, _ in asked[:100]])
        print(
            f"{name:8}  right intent among four {among / len(asked):.1%}, nearest "
            f"{nearest / len(asked):.1%}, {cpu['p50']:.1f} ms of CPU a question"
        )
        result[name] = {
            "among": among / len(asked),
            "nearest": nearest / len(asked),
            "cpu_ms": cpu["p50"],
        }
    finish(args, result | clock.seconds() | {"versions": versions()})


if __name__ == "__main__":
    main()
