"""A day of questions to a search over a corpus, drawn from public data with one seed.

The shares are an assumption, stated here and reported by kind, so that they can be weighed anew.
Three of ten requests resemble an earlier one, as 31 % of a user's do in the log that MeanCache
(arXiv 2403.02694) counted: most are asked again word for word, by a Zipf draw over what was asked
before, the rest in other words. A quarter are turns of conversations. The traps are more than real
streams have: they are there to be served wrongly.
"""

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from costwise_core import LabelledQuestion, Passage
from costwise_core.protocols import Embedder

__all__ = ["KINDS", "TOP_K", "Day", "Request", "build_day", "missing"]

SHARES: Final = {
    "new": 0.32,
    "repeat": 0.22,
    "reworded": 0.09,
    "look-alike": 0.07,
    "conversation": 0.24,
    "trap": 0.06,
}
KINDS: Final = tuple(SHARES)
TENANTS: Final = {"north": 0.6, "south": 0.3, "west": 0.1}
ZIPF: Final = 0.8
TOP_K: Final = 10
DISTRACTORS: Final = 700
CALIBRATION: Final = 120
ALIKE: Final = 0.8
PASSAGE_CHARS: Final = 500
TURNS: Final = 5
FILES: Final = (
    "rag/nq-open-oracle.jsonl.gz",
    "rag/mtrag-reference.jsonl.gz",
    "cache/fow_pairs.jsonl",
    "cache/finance_traps.json",
)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of the day.

    Args:
        id: Unique; the same in every run with the same seed.
        kind: One of `KINDS`.
        question: As it was asked.
        tenant: Who asks; answers never cross.
        fact: Requests that one answer may serve have the same.
        cluster: Requests that are not independent have the same: a question and its repeats, the
            turns of a conversation.
        conversation: Its id; "" for a question that stands alone.
        given: What was said before, by user and assistant in turn, where the app did not hear it.
        answers: Short gold answers.
        reference: A long one, in its author's words.
    """

    id: str
    kind: str
    question: str
    tenant: str
    fact: str
    cluster: str
    conversation: str = ""
    given: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Day:
    """A corpus, what is asked about it, and questions that are not asked, to calibrate on."""

    corpus: Sequence[Passage]
    requests: Sequence[Request]
    calibration: Sequence[tuple[str, tuple[str, ...]]]
    vectors: np.ndarray

    def found(self, vector: np.ndarray) -> list[Passage]:
        """Return the passages nearest to a question's vector, as a vector store does."""
        best = np.argsort(-(self.vectors @ vector), kind="stable")[:TOP_K]
        return [self.corpus[at] for at in best]

    def labelled(self, embedder: Embedder) -> list[LabelledQuestion]:
        """Return the questions that nobody asks that day, with what is found for them."""
        vectors = embedder.embed([question for question, _ in self.calibration], "query")
        found = (
            LabelledQuestion(question=question, passages=tuple(self.found(vector)), answers=answers)
            for (question, answers), vector in zip(self.calibration, vectors, strict=True)
        )
        return [one for one in found if one.kept_in(one.passages)]


def missing(data: Path) -> list[Path]:
    """Return the files that are not there."""
    return [data / name for name in FILES if not (data / name).exists()]


def build_day(data: Path, *, requests: int, seed: int, embedder: Embedder) -> Day:
    """Draw a day of so many requests.

    Args:
        data: Folder with the files of `FILES`.
        requests: How many, at least 20.
        seed: Draws everything.
        embedder: Finds which questions of Natural Questions look alike, and embeds the corpus.
    """
    draw = random.Random(seed)
    wanted = {kind: round(share * requests) for kind, share in SHARES.items()}
    wanted["new"] += requests - sum(wanted.values())
    facts = [row for row in _lines(data / FILES[0]) if row["ctxs"]]
    draw.shuffle(facts)
    alike, unlike = _pairs(facts, embedder)
    draw.shuffle(alike)
    draw.shuffle(unlike)

    units: list[list[Request]] = []
    used: set[int] = set()
    for kind, pairs in (("reworded", alike), ("look-alike", unlike)):
        chosen = _disjoint(pairs, used, wanted[kind])
        wanted[kind] = len(chosen)
        for first, second in chosen:
            fact = f"nq{first}"
            units.append(
                [
                    _single(facts[first], first, "new", fact, fact, draw),
                    _single(
                        facts[second],
                        second,
                        kind,
                        fact if kind == "reworded" else f"nq{second}",
                        fact,
                        draw,
                    ),
                ]
            )
    talks = _conversations(data / FILES[1], wanted["conversation"], draw)
    traps = _traps(data, wanted["trap"], draw)
    news = requests - sum(map(len, (*units, *talks, *traps))) - wanted["repeat"]
    fresh = [at for at in range(len(facts)) if at not in used]
    units += [[_single(facts[at], at, "new", f"nq{at}", f"nq{at}", draw)] for at in fresh[:news]]
    used.update(fresh[:news])
    draw.shuffle(units)
    _repeat(units, wanted["repeat"], draw)

    spare = [at for at in fresh if at not in used]
    asked = used | set(spare[:DISTRACTORS])
    texts = {facts[at]["ctxs"][0]["text"]: facts[at]["ctxs"][0]["title"] for at in sorted(asked)}
    heard = {one.conversation.split("/")[0] for talk in talks for one in talk}
    texts |= dict.fromkeys(_chunks(data / FILES[1], heard), "")
    corpus = [Passage(id=f"p{at}", text=text) for at, text in enumerate(texts)]
    calibration = [
        (facts[at]["question"], tuple(facts[at]["answers"])) for at in spare[:CALIBRATION]
    ]
    return Day(
        corpus=corpus,
        requests=_woven([*units, *talks, *traps], draw),
        calibration=calibration,
        vectors=embedder.embed([one.text for one in corpus], "document"),
    )


def _single(row: Row, at: int, kind: str, fact: str, cluster: str, draw: random.Random) -> Request:
    return Request(
        id=f"nq{at}",
        kind=kind,
        question=row["question"],
        tenant=_tenant(draw),
        fact=fact,
        cluster=cluster,
        answers=tuple(row["answers"]),
    )


def _tenant(draw: random.Random) -> str:
    return draw.choices(list(TENANTS), list(TENANTS.values()))[0]


def _pairs(
    facts: Sequence[Row], embedder: Embedder
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return pairs of real questions that look alike: with a common answer, and with none."""
    vectors = embedder.embed([row["question"] for row in facts], "query")
    close = np.argwhere(np.triu(vectors @ vectors.T, 1) > ALIKE).tolist()
    golds = [{answer.casefold() for answer in row["answers"]} for row in facts]
    alike = [(one, two) for one, two in close if golds[one] & golds[two]]
    unlike = [(one, two) for one, two in close if not golds[one] & golds[two]]
    return alike, unlike


def _disjoint(pairs: Sequence[tuple[int, int]], used: set[int], most: int) -> list[tuple[int, int]]:
    chosen: list[tuple[int, int]] = []
    for pair in pairs:
        if len(chosen) < most and not used & set(pair):
            chosen.append(pair)
            used.update(pair)
    return chosen


def _repeat(units: Sequence[list[Request]], count: int, draw: random.Random) -> None:
    """Ask questions again, the first of `units` most often."""
    weights = [1 / (rank + 1) ** ZIPF for rank in range(len(units))]
    for number in range(count):
        unit = draw.choices(units, weights)[0]
        first = unit[0]
        unit.append(
            Request(
                id=f"{first.id}r{number}",
                kind="repeat",
                question=first.question,
                tenant=_tenant(draw),
                fact=first.fact,
                cluster=first.cluster,
                answers=first.answers,
            )
        )


def _conversations(path: Path, count: int, draw: random.Random) -> list[list[Request]]:
    """Return conversations from their beginning, with so many turns together."""
    longest: dict[str, Row] = {}
    for row in _lines(path):
        known = longest.get(row["conversation_id"])
        if row["contexts"] and (known is None or len(row["input"]) > len(known["input"])):
            longest[row["conversation_id"]] = row
    names = sorted(longest)
    draw.shuffle(names)
    talks: list[list[Request]] = []
    for name in names:
        said = [*longest[name]["input"], *longest[name]["targets"]]
        turns = list(zip(said[::2], said[1::2], strict=False))
        turns = turns[: min(TURNS, count - sum(map(len, talks)))]
        if not turns:
            break
        tenant = _tenant(draw)
        talks.append(
            [
                Request(
                    id=f"{name}/{at}",
                    kind="conversation",
                    question=user["text"],
                    tenant=tenant,
                    fact=f"{name}/{at}",
                    cluster=name,
                    conversation=f"{name}/live",
                    reference=agent["text"],
                )
                for at, (user, agent) in enumerate(turns)
            ]
        )
    return talks


def _traps(data: Path, count: int, draw: random.Random) -> list[list[Request]]:
    """Return pairs that look alike and must be answered apart, so many requests together."""
    pairs: list[tuple[str, list[str], list[str]]] = []
    for path in sorted((data / "cache").glob("fow_conv-parts_*.jsonl")):
        for row in _lines(path):
            if not row["same_answer"]:
                a, b = ([turn["content"] for turn in row[side]] for side in "ab")
                pairs.append((row["id"], a, b))
    pairs += [
        (row["id"], [row["a"]], [row["b"]])
        for row in _lines(data / FILES[2])
        if not row["same_answer"]
    ]
    for group in json.loads((data / FILES[3]).read_text(encoding="utf-8")):
        pairs += [(f"finance-{one['a']}", [one["a"]], [one["b"]]) for one in group["pairs"]]
    draw.shuffle(pairs)
    traps = []
    for name, *sides in pairs[: count // 2]:
        tenant = _tenant(draw)
        traps.append(
            [
                Request(
                    id=f"{name}/{side}",
                    kind="trap",
                    question=said[-1],
                    tenant=tenant,
                    fact=f"{name}/{side}",
                    cluster=name,
                    conversation=f"{name}/{side}" if len(said) > 1 else "",
                    given=tuple(said[:-1]),
                )
                for side, said in zip("ab", sides, strict=True)
            ]
        )
    return traps


def _chunks(path: Path, conversations: set[str]) -> Iterator[str]:
    """Yield the reference passages of these conversations, cut as tutorials cut documents."""
    for row in _lines(path):
        if row["conversation_id"] in conversations:
            for context in row["contexts"]:
                yield from _cut(" ".join(context["text"].split()))


def _cut(text: str) -> Iterator[str]:
    while len(text) > PASSAGE_CHARS:
        at = text.rfind(". ", PASSAGE_CHARS // 2, PASSAGE_CHARS) + 1 or PASSAGE_CHARS
        yield text[:at].strip()
        text = text[at:].strip()
    if text:
        yield text


def _woven(units: Sequence[list[Request]], draw: random.Random) -> list[Request]:
    """Put the units at random moments of the day; within each the order stays."""
    order = [at for at, unit in enumerate(units) for _ in unit]
    draw.shuffle(order)
    waiting = [iter(unit) for unit in units]
    return [next(waiting[at]) for at in order]


def _lines(path: Path) -> list[Row]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]
