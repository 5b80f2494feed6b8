"""Questions with the passages retrieved for them, from the files of five public data sets."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from costwise_core.labelled import LabelledQuestion
from costwise_core.passages import Passage

PASSAGES = 20
PER_PARAGRAPH = 2

Row = dict[str, Any]


def labelled(
    path: Path, *, limit: int, seed: int, ids_of: Path | None = None
) -> list[LabelledQuestion]:
    """Read questions whose answer is in their passages, at most `limit` (0 is all of them).

    Args:
        path: JSON lines of {question, answers, docs: [{title, text}]}, or a file of hotpotqa,
            musique, xquad or squad as they are published, gzip or not. The last two hold no
            retrieved passages: each question gets 20, those of its article first.
        limit: How many.
        seed: Draws the passages and, where there are more than `limit`, the questions.
        ids_of: Leave out squad and xquad questions whose id is not in this file too, so that
            the same questions are asked in several languages.
    """
    rows = _rows(path, seed, ids_of)
    known = [
        row for row in rows if not set(map(str.lower, row.answers)) & {"yes", "no", "noanswer"}
    ]
    known = [row for row in known if row.kept_in(row.passages)]
    if limit and len(known) > limit:
        known = random.Random(seed).sample(known, limit)
    return known


def _rows(path: Path, seed: int, ids_of: Path | None) -> list[LabelledQuestion]:
    rows = _read(path)
    if "docs" in rows[0]:
        return [
            _row(row["question"], row["answers"], ((d["title"], d["text"]) for d in row["docs"]))
            for row in rows
        ]
    if "paragraphs" in rows[0] and "question" in rows[0]:  # musique
        return [
            _row(
                row["question"],
                [row["answer"], *row.get("answer_aliases", [])],
                ((p["title"], p["paragraph_text"]) for p in row["paragraphs"]),
            )
            for row in rows
        ]
    if "supporting_facts" in rows[0]:  # hotpotqa
        return [
            _row(row["question"], [row["answer"]], ((t, "".join(s)) for t, s in row["context"]))
            for row in rows
        ]
    return _from_articles(rows, seed, ids_of)


def _from_articles(rows: list[Row], seed: int, ids_of: Path | None) -> list[LabelledQuestion]:
    paragraphs = list(_paragraphs(rows))
    if ids_of is not None:
        also = {qa["id"] for _, _, qas in _paragraphs(_read(ids_of)) for qa in qas}
        paragraphs = [(t, c, [qa for qa in qas if qa["id"] in also]) for t, c, qas in paragraphs]
    paragraphs = [one for one in paragraphs if one[2]]
    # By id, so that the draw is the same in every language.
    paragraphs.sort(key=lambda one: one[2][0]["id"])
    draw, found = random.Random(seed), []
    for i, (title, _, qas) in enumerate(paragraphs):
        others = [j for j in range(len(paragraphs)) if j != i]
        draw.shuffle(others)
        others.sort(key=lambda j: paragraphs[j][0] != title)
        chosen = [i, *others[: PASSAGES - 1]]
        draw.shuffle(chosen)
        for qa in draw.sample(sorted(qas, key=lambda qa: qa["id"]), min(PER_PARAGRAPH, len(qas))):
            answers = [a if isinstance(a, str) else a["text"] for a in qa["answers"]]
            docs = ((paragraphs[j][0], paragraphs[j][1]) for j in chosen)
            found.append(_row(qa["question"], answers, docs))
    return found


def _paragraphs(rows: list[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    for row in rows:
        title = row.get("title", "").replace("_", " ")
        for paragraph in row.get("paragraphs", [row]):
            qas = [qa for qa in paragraph["qas"] if qa["answers"]]
            yield title, paragraph["context"], qas


def _row(question: str, answers: list[str], docs: Iterator[tuple[str, str]]) -> LabelledQuestion:
    passages = tuple(
        Passage(id=str(i), title=title, text=text) for i, (title, text) in enumerate(docs)
    )
    return LabelledQuestion(question=question, passages=passages, answers=tuple(answers))


def _read(path: Path) -> list[Row]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    found = json.loads(text)
    return found["data"] if isinstance(found, dict) else found
