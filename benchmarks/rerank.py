"""How often a scorer puts the right passage first, and what answers the best few still hold.

    python -m benchmarks.rerank [--data squad20.jsonl ...] [--fit FOLDER] --json OUT

A file has one {question, answers, docs: [{title, text, isgold}]} a line, or is a JSON list of
HotpotQA or MuSiQue questions. `--fit` is a folder with squad-v1.1-dev.jsonl.gz and
nq-open-oracle.jsonl.gz, from which the calibrated fusion learns: questions of other articles than
any file measured, and no question that is in one.

hit_at is the share of questions with a gold passage among the best k; answer_recall that of an
answer string in their text or titles. Titles count as tokens.
"""

import gzip
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks._bm25_peers import VERSIONS, bm25_peers
from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import CachedEmbedder, LabelledQuestion, MemoryVectors, OnnxEmbedder, Passage
from costwise_core.protocols import Embedder, Scorer
from costwise_core.score.bm25 import BM25
from costwise_core.score.calibrated import CalibratedFusion, fit_fusion
from costwise_core.score.dense import Dense
from costwise_core.score.fusion import RankFusion
from costwise_core.trim import RerankTrim

RAG = DATA / "rag"
FILES = [
    RAG / name
    for name in (
        "squad20.jsonl",
        "nq20.jsonl",
        "hotpotqa_distractor_train50.json",
        "musique_train50.json",
    )
]
CUTS = (1, 3, 5, 10)
MIN_SCORES = (0.003, 0.01, 0.03, 0.1)
TIMED = 20
POOL = 1_000
DOCS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question, its passages (ids are their places) and what would be right."""

    text: str
    passages: tuple[Passage, ...]
    gold: frozenset[str]
    answers: tuple[str, ...]


def opened(path: Path) -> str:
    read = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return read.decode()


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in opened(path).splitlines() if line.strip()]


def question(text: str, answers: Iterable[str], docs: Iterable[tuple[str, str, bool]]) -> Question:
    docs = list(docs)
    return Question(
        text=text,
        answers=tuple(answers),
        passages=tuple(
            Passage(id=str(i), title=title, text=body) for i, (title, body, _) in enumerate(docs)
        ),
        gold=frozenset(str(i) for i, (_, _, gold) in enumerate(docs) if gold),
    )


def questions(path: Path) -> list[Question]:
    if path.suffix != ".json":
        return [
            question(
                row["question"],
                row["answers"],
                ((doc["title"], doc["text"], doc["isgold"]) for doc in row["docs"]),
            )
            for row in jsonl(path)
        ]
    found = []
    for row in json.loads(opened(path)):
        if "paragraphs" in row:
            docs = [
                (one["title"], one["paragraph_text"], one["is_supporting"])
                for one in row["paragraphs"]
            ]
        else:
            gold = {title for title, _ in row["supporting_facts"]}
            docs = [(title, "".join(said), title in gold) for title, said in row["context"]]
        answers = [row["answer"], *row.get("answer_aliases", ())]
        found.append(question(row["question"], answers, docs))
    return found


def holds(answers: Sequence[str], passages: Iterable[Passage]) -> bool:
    text = "\n".join(f"{p.title}\n{p.text}" for p in passages).casefold()
    return any(answer.casefold() in text for answer in answers)


def answerable(rows: Iterable[Question]) -> list[Question]:
    """Leave out questions such as yes or no ones, whose answer no passage spells out."""
    return [row for row in rows if holds(row.answers, row.passages)]


# --- what the calibrated fusion learns from ------------------------------------------------------


def labelled(
    folder: Path, measured: Sequence[Question], embedder: Embedder, rng: np.random.Generator
) -> list[LabelledQuestion]:
    """Return 150 questions of each kind: no article and no question of those measured."""
    articles = {p.title for row in measured for p in row.passages}
    asked = {row.text.casefold() for row in measured}
    return [
        *squad(folder / "squad-v1.1-dev.jsonl.gz", articles, rng),
        *natural(folder / "nq-open-oracle.jsonl.gz", asked, embedder, rng),
    ]


def squad(
    path: Path, known: set[str], rng: np.random.Generator, count: int = 150
) -> Iterator[LabelledQuestion]:
    by_title: dict[str, list[dict]] = {}
    for row in jsonl(path):
        if row["title"].replace("_", " ") not in known:
            by_title.setdefault(row["title"], []).append(row)
    large = sorted(title for title, rows in by_title.items() if len(rows) >= DOCS)
    for i in range(count):
        rows = by_title[large[i % len(large)]]
        chosen = [rows[j] for j in rng.choice(len(rows), DOCS, replace=False)]
        asked = chosen[0]["qas"][int(rng.integers(len(chosen[0]["qas"])))]["question"]
        texts = [row["context"] for row in chosen]
        docs = passages(rows[0]["title"].replace("_", " "), texts)
        yield LabelledQuestion(question=asked, passages=docs, gold=("0",))


def natural(
    path: Path, known: set[str], embedder: Embedder, rng: np.random.Generator, count: int = 150
) -> Iterator[LabelledQuestion]:
    """Give each question the other questions' passages that are nearest by words and by meaning."""
    rows = [row for row in jsonl(path) if row["question"].casefold() not in known]
    rows = [rows[i] for i in rng.choice(len(rows), POOL, replace=False)]
    docs = [row["ctxs"][0] for row in rows]
    pool = [Passage(id=str(i), **{k: d[k] for k in ("title", "text")}) for i, d in enumerate(docs)]
    vectors = embedder.embed([f"{p.title}\n{p.text}" for p in pool], "document")
    pool = [replace(p, vector=v) for p, v in zip(pool, vectors, strict=True)]
    for i in range(count):
        asked = rows[i]["question"]
        wrong = [p for p in pool if not holds(rows[i]["answers"], [p])]
        by_words, by_meaning = (
            [wrong[j].id for j in np.argsort(-np.array(scorer.score(asked, wrong)), kind="stable")]
            for scorer in (BM25(), Dense(embedder))
        )
        near = dict.fromkeys(one for pair in zip(by_words, by_meaning, strict=True) for one in pair)
        docs = [pool[i], *(pool[int(j)] for j in list(near)[: DOCS - 1])]
        yield LabelledQuestion(question=asked, passages=docs, gold=(str(i),))


def passages(title: str, texts: Iterable[str]) -> list[Passage]:
    return [Passage(id=str(i), title=title, text=text) for i, text in enumerate(texts)]


# --- measuring -----------------------------------------------------------------------------------


def figures(rows: Sequence[Question], scorer: Scorer, **options: object) -> dict[str, object]:
    """Return, for each cut, the shares of questions with a gold passage and with an answer."""
    found: dict[str, object] = {}
    for k in CUTS:
        trim = RerankTrim(scorer=scorer, top_k=k, **options)
        done = [(row, trim.compress(row.text, row.passages)) for row in rows]
        found[str(k)] = {
            "hit": mean(any(p.id in row.gold for p in best.passages) for row, best in done),
            "answer_recall": mean(holds(row.answers, best.passages) for row, best in done),
            "kept": mean(best.share_kept for _, best in done),
        }
    return found


def mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def calibration(rows: Sequence[Question], scorer: Scorer) -> dict[str, object]:
    """Return how far predicted and true shares of gold passages lie apart, in ten equal groups."""
    pairs = [
        (chance, passage.id in row.gold)
        for row in rows
        for chance, passage in zip(scorer.score(row.text, row.passages), row.passages, strict=True)
    ]
    chances, gold = np.array(sorted(pairs), float).T
    groups = [
        (float(one.mean()), float(two.mean()))
        for one, two in zip(np.array_split(chances, 10), np.array_split(gold, 10), strict=True)
    ]
    return {
        "expected_error": mean(abs(one - two) for one, two in groups),
        "top_group": {"predicted": round(groups[-1][0], 3), "gold": round(groups[-1][1], 3)},
        "min_score": {
            str(least): {
                "answer_recall": mean(holds(row.answers, best.passages) for row, best in done),
                "kept": mean(best.share_kept for _, best in done),
            }
            for least in MIN_SCORES
            for trim in [RerankTrim(scorer=scorer, top_k=None, min_score=least)]
            for done in [[(row, trim.compress(row.text, row.passages)) for row in rows]]
        },
    }


def seconds(rows: Sequence[Question], scorer: Scorer, *, stored: bool) -> float:
    """Return CPU seconds for a thousand tokens of passages."""
    rows = rows if stored else [bare(row) for row in rows]
    trim = RerankTrim(scorer=scorer)
    trim.compress(rows[0].text, rows[0].passages)
    started = time.process_time()
    tokens = sum(trim.compress(row.text, row.passages).tokens_before for row in rows)
    return round(1000 * (time.process_time() - started) / tokens, 5)


def bare(row: Question) -> Question:
    return replace(row, passages=tuple(replace(one, vector=None) for one in row.passages))


def with_vectors(rows: Sequence[Question], embedder: Embedder) -> list[Question]:
    found = []
    for row in rows:
        vectors = embedder.embed([f"{p.title}\n{p.text}" for p in row.passages], "document")
        pairs = zip(row.passages, vectors, strict=True)
        found.append(replace(row, passages=tuple(replace(p, vector=v) for p, v in pairs)))
    return found


def show(name: str, n: int, methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    print(f"\n{name}, {n} questions")
    print(f"{'':34}" + "".join(f"{f'best {k}':>20}" for k in CUTS))
    for method, cuts in methods.items():
        cells = (f"{c['hit']:.3f} {c['answer_recall']:.3f} @{c['kept']:.0%}" for c in cuts.values())
        print(f"{method:34}" + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=FILES)
    parser.add_argument("--fit", type=Path, default=RAG, help="folder to learn the fusion from")
    parser.add_argument("--limit", type=int, help="questions of each file")
    args = parser.parse_args()
    files = [path for path in args.data if path.is_file()]
    if not files:
        print(f"skipped: none of {', '.join(map(str, args.data))} is there; give files with --data")
        return
    clock, rng = Clock(), np.random.default_rng(args.seed)
    model = OnnxEmbedder()
    embedder = CachedEmbedder(model, cache=MemoryVectors())
    plain = {path.stem: answerable(questions(path))[: args.limit] for path in files}
    every = [row for rows in plain.values() for row in rows]
    two: list[Scorer] = [BM25(), Dense(embedder)]
    others = {one.name: one for one in bm25_peers()}
    scorers: dict[str, Scorer] = {"bm25": two[0], **others, "dense": two[1]}
    scorers["rrf"] = RankFusion(two)
    if (args.fit / "nq-open-oracle.jsonl.gz").is_file():
        weights = fit_fusion(two, labelled(args.fit, every, embedder, rng))
        scorers["calibrated"] = CalibratedFusion(two, weights)
    else:
        print(f"skipped: nothing to learn the calibrated fusion from in {args.fit}")
    results: dict[str, object] = {}
    for name, found in plain.items():
        rows = with_vectors(found, embedder)
        methods = {method: figures(rows, scorer) for method, scorer in scorers.items()}
        methods["rrf, near duplicates wait"] = figures(rows, scorers["rrf"], duplicates="near")
        results[name] = {"n": len(rows), "methods": methods}
        show(name, len(rows), methods)
        if "calibrated" in scorers:
            results[name]["calibration"] = calibration(rows, scorers["calibrated"])
            print("calibration:", json.dumps(results[name]["calibration"]))
    some = with_vectors(every[:TIMED], embedder)
    cost = {
        "bm25": seconds(some, BM25(), stored=True),
        **{name: seconds(some, one, stored=True) for name, one in others.items()},
        "rrf, stored vectors": seconds(some, RankFusion([BM25(), Dense(model)]), stored=True),
        "rrf, nothing stored": seconds(some, RankFusion([BM25(), Dense(model)]), stored=False),
    }
    print("\nCPU seconds for 1,000 tokens, counting them included:", cost)
    finish(
        args,
        {
            "n": len(every),
            "seed": args.seed,
            "files": results,
            "cpu_s_per_1k_tokens": cost,
            **clock.seconds(),
            "versions": versions("onnxruntime", "tokenizers", *VERSIONS),
        },
    )


if __name__ == "__main__":
    main()
