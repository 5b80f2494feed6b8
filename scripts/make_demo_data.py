"""Make demo/data again: three SQuAD articles as a corpus and a stream of real questions.

    python scripts/make_demo_data.py ../shared/data/rag/squad-v1.1-dev.jsonl.gz

The rewordings are questions that several annotators asked about the same fact in their own words
(SQuAD keeps them all), and the repeats are the same questions again. A few more rewordings, as
people ask the same thing twice, were written for the demo and are marked "written". The order, and
who is asked what, come from one fixed seed.
"""

import gzip
import json
import random
import re
import sys
from itertools import combinations
from pathlib import Path

ARTICLES = ("Amazon_rainforest", "Rhine", "Super_Bowl_50")
REWORDED, SINGLE, REPEATED, SEED = 16, 10, 14, 7
WRITTEN = {
    "What has shortened the Rhine river?": "What shortened the river Rhine?",
    "What is the Dutch word for the Amazon rainforest?": (
        "What's the Dutch word for the Amazon rain forest?"
    ),
    "What is the name of the Delta in the Netherlands?": "Name of the delta in the Netherlands?",
    "Who established the Confederation of the Rhine?": (
        "Who founded the Confederation of the Rhine?"
    ),
    "Who was the Most Valuable Player of Super Bowl II?": (
        "Super Bowl II: who was the most valuable player?"
    ),
    "Who was the first European to travel the Amazon River?": (
        "Which European was the first to travel the Amazon river?"
    ),
}
OUT = Path(__file__).resolve().parent.parent / "demo" / "data"
FUNCTION_WORDS = frozenset(
    "a an the of in is was were are to for on by what which how did does do who when where".split()
)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - FUNCTION_WORDS


def golds(question: dict) -> set[str]:
    return {answer.lower() for answer in question["answers"]}


def is_rewording(a: dict, b: dict) -> bool:
    """Two annotators, one fact: a common gold answer and a third of the content words."""
    x, y = words(a["question"]), words(b["question"])
    different = a["question"].lower().strip() != b["question"].lower().strip()
    return different and bool(golds(a) & golds(b)) and len(x & y) / max(1, len(x | y)) >= 1 / 3


def main(source: Path) -> None:
    rng = random.Random(SEED)
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        paragraphs = [row for row in map(json.loads, lines) if row["title"] in ARTICLES]
    corpus, pairs, singles = [], [], []
    for number, paragraph in enumerate(paragraphs):
        title = paragraph["title"].replace("_", " ")
        corpus.append({"id": f"p{number:03d}", "title": title, "text": paragraph["context"]})
        questions = [q for q in paragraph["qas"] if q["answers"]]
        found = [pair for pair in combinations(questions, 2) if is_rewording(*pair)]
        if found:
            pairs.append(rng.choice(found))  # one a paragraph, so that no article runs the show
        elif questions:
            singles.append(rng.choice(questions))
    first = [(a, b) for a, b in rng.sample(pairs, REWORDED)]
    asked = [(q, "new") for pair in first for q in pair[:1]]
    asked += [(q, "new") for q in rng.sample(singles, SINGLE)]
    later = [(b, "reworded") for _, b in first]
    later += [(q, "repeat") for q, _ in rng.sample(asked, REPEATED)]
    originals = {q["question"].strip(): q for q, _ in asked}
    written = {WRITTEN[text]: q for text, q in originals.items() if text in WRITTEN}
    later += [({**q, "question": text, "of": q}, "written") for text, q in written.items()]
    rng.shuffle(asked)
    rng.shuffle(later)
    # Later questions are spread over the second two thirds of the stream, as in real traffic.
    stream = asked[: len(asked) // 3]
    rest = asked[len(asked) // 3 :]
    pending = list(later)
    while rest or pending:
        seen = {id(q) for q, _ in stream}
        ready = [
            (q, kind)
            for q, kind in pending
            if (kind == "repeat" and id(q) in seen)
            or (kind == "reworded" and any(id(a) in seen for a, b in first if b is q))
            or (kind == "written" and id(q["of"]) in seen)
        ]
        if ready and (not rest or rng.random() < 0.6):
            choice = rng.choice(ready)
            pending.remove(choice)
        else:
            choice = rest.pop()
        stream.append(choice)
    OUT.mkdir(parents=True, exist_ok=True)
    write(OUT / "corpus.jsonl", corpus)
    write(
        OUT / "stream.jsonl",
        [
            {"question": q["question"].strip(), "answers": sorted(set(q["answers"])), "kind": kind}
            for q, kind in stream
        ],
    )


def write(path: Path, rows: list[dict]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
