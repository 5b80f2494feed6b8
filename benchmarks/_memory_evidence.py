"""How much of what answers a question is still there when old turns are recalled within a budget.

    python -m benchmarks._memory_evidence [--data locomo5.jsonl.gz] [--no-embedder] --json OUT

Each question is asked after its whole dialogue. Counted are the tokens of the recalled turns as
they are quoted, speakers and days included. "evidence" is the share of evidence turns that are
quoted whole; "question" is the mean share over questions. Adversarial questions (category 5), which
have no answer, are left out. For QMSum, evidence is every turn of the spans that answer a query.
"""

import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core.embed.cached import CachedEmbedder
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.memory.messages import Message
from costwise_core.memory.recall import TurnIndex
from costwise_core.memory.recall_lines import line, quoted
from costwise_core.protocols import Embedder
from costwise_core.tokens import Tokens

BUDGETS = (500, 1_000, 4_000)
ADVERSARIAL = 5

count = Tokens().counter("gpt-4o")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, the turns that answer it, and of which kind it is."""

    text: str
    evidence: frozenset[int]
    category: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """Messages and questions about them."""

    messages: tuple[Message, ...]
    questions: tuple[Question, ...]


Choice = Callable[[str, int], tuple[set[int], int]]
"""From a question and a budget to the turns that are quoted whole, and the tokens of all quoted."""


def evidence_recall(
    dialogues: Iterable[Mapping[str, Any]],
    budgets: Sequence[int] = BUDGETS,
    embedder: Embedder | None = None,
) -> dict[str, float]:
    """Return the share of evidence turns that costwise keeps, by budget in tokens."""
    kept = measured(read(dialogues), lambda one: costwise(one, embedder), budgets)
    return {budget: row["evidence"] for budget, row in kept.items()}


def evidence_rows(
    dialogues: Iterable[Mapping[str, Any]],
    budgets: Sequence[int] = BUDGETS,
    embedder: Embedder | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what each way to choose turns keeps, by way and budget."""
    found = read(dialogues)
    ways: dict[str, Callable[[Dialogue], Choice]] = {
        "costwise, words": lambda one: costwise(one, None),
        "TF-IDF": tf_idf,
        "newest": newest,
    }
    if embedder is not None:
        ways = {"costwise, words and meaning": lambda one: costwise(one, embedder), **ways}
    return {name: measured(found, way, budgets) for name, way in ways.items()}


# --- data -----------------------------------------------------------------------------------------


def read(rows: Iterable[Mapping[str, Any]]) -> list[Dialogue]:
    """Read rows of LoCoMo or QMSum, leaving out those without questions."""
    found = [locomo(row) if "sessions" in row else qmsum(row) for row in rows]
    return [one for one in found if one.questions]


def locomo(row: Mapping[str, Any]) -> Dialogue:
    """Read a dialogue; what a picture shows is part of what was said with it."""
    messages: list[Message] = []
    places: dict[str, int] = {}
    for session in row["sessions"]:
        at = _seconds(str(session.get("date", "")))
        for turn in session["turns"]:
            places[str(turn["id"])] = len(messages)
            caption = turn.get("caption")
            messages.append(
                Message(
                    role="user" if turn["speaker"] == row.get("speaker_a") else "assistant",
                    name=str(turn["speaker"]),
                    text=f"{turn['text']} [photo: {caption}]" if caption else str(turn["text"]),
                    at=at,
                )
            )
    questions = []
    for asked in row.get("qa", ()):
        ids = (f"D{a}:{b}" for e in asked["evidence"] for a, b in _IDS.findall(str(e)))
        evidence = frozenset(places[name] for name in ids if name in places)
        if asked["category"] != ADVERSARIAL and evidence:
            category = str(asked["category"])
            questions.append(
                Question(text=str(asked["question"]), evidence=evidence, category=category)
            )
    return Dialogue(messages=tuple(messages), questions=tuple(questions))


_IDS = re.compile(r"D:?(\d+):(\d+)")


def _seconds(date: str) -> float | None:
    try:
        plain = f"{date.replace(',', '')} +0000"
        return datetime.strptime(plain, "%I:%M %p on %d %B %Y %z").timestamp()
    except ValueError:
        return None


def qmsum(row: Mapping[str, Any]) -> Dialogue:
    """Read a meeting; its specific queries come with the spans that answer them."""
    turns = row["meeting_transcripts"]
    messages = [
        Message(role="user", name=str(turn["speaker"]), text=str(turn["content"])) for turn in turns
    ]
    questions = []
    for asked in row.get("specific_query_list", ()):
        spans = [tuple(map(int, span)) for span in asked["relevant_text_span"]]
        evidence = frozenset(at for first, last in spans for at in range(first, last + 1))
        evidence = frozenset(at for at in evidence if at < len(messages))
        if evidence:
            questions.append(Question(text=str(asked["query"]), evidence=evidence, category="span"))
    return Dialogue(messages=tuple(messages), questions=tuple(questions))


# --- ways to choose -------------------------------------------------------------------------------


def costwise(dialogue: Dialogue, embedder: Embedder | None) -> Choice:
    """What the product recalls."""
    index = TurnIndex(embedder=embedder, counter=count)
    index.extend(dialogue.messages)
    index.prepare()

    def choose(question: str, budget: int) -> tuple[set[int], int]:
        found = index.recall(question, budget_tokens=budget)
        pairs = zip(found.indexes, found.messages, strict=True)
        return {at for at, one in pairs if one.text == dialogue.messages[at].text}, found.tokens

    return choose


def newest(dialogue: Dialogue) -> Choice:
    """The last turns that fit."""
    return _in_order(dialogue, lambda _: np.arange(len(dialogue.messages), dtype=float))


def tf_idf(dialogue: Dialogue) -> Choice:
    """The turns with the highest cosine of smoothed TF-IDF vectors, speakers' names included."""
    texts = [_words(f"{one.name}: {one.text}") for one in dialogue.messages]
    often = Counter(word for text in texts for word in text)
    idf = {word: math.log((1 + len(texts)) / (1 + n)) + 1 for word, n in often.items()}
    rows = [{word: n * idf[word] for word, n in text.items()} for text in texts]
    norms = [math.sqrt(sum(value * value for value in row.values())) or 1.0 for row in rows]

    def scores(question: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        asked = {word: n * idf.get(word, 0.0) for word, n in _words(question).items()}
        return np.array(
            [
                sum(row.get(word, 0.0) * value for word, value in asked.items()) / norm
                for row, norm in zip(rows, norms, strict=True)
            ]
        )

    return _in_order(dialogue, scores)


def _in_order(
    dialogue: Dialogue, scores: Callable[[str], np.ndarray[Any, np.dtype[np.float64]]]
) -> Choice:
    costs = [count(line(one)) for one in dialogue.messages]

    def choose(question: str, budget: int) -> tuple[set[int], int]:
        chosen: list[int] = []
        left = budget
        for at in map(int, np.argsort(-scores(question), kind="stable")):
            if costs[at] <= left:
                chosen.append(at)
                left -= costs[at]
        while tokens := count(quoted([dialogue.messages[at] for at in sorted(chosen)])):
            if tokens <= budget:
                return set(chosen), tokens
            chosen.pop()
        return set(), 0

    return choose


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w\w+", text.lower()))


# --- measuring ------------------------------------------------------------------------------------


def measured(
    dialogues: Sequence[Dialogue], way: Callable[[Dialogue], Choice], budgets: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Ask all questions within each budget."""
    choices = [(one, way(one)) for one in dialogues]
    return {str(budget): _measured(choices, budget) for budget in budgets}


def _measured(choices: Sequence[tuple[Dialogue, Choice]], budget: int) -> dict[str, Any]:
    kept: dict[str, list[tuple[int, int]]] = {}
    tokens, began = 0, time.process_time()
    for dialogue, choose in choices:
        for question in dialogue.questions:
            chosen, used = choose(question.text, budget)
            if used > budget:
                raise AssertionError(f"{used} tokens were quoted within a budget of {budget}")
            tokens += used
            pair = (len(question.evidence & chosen), len(question.evidence))
            kept.setdefault(question.category, []).append(pair)
    cpu = time.process_time() - began
    pairs = [pair for each in kept.values() for pair in each]
    n = max(len(pairs), 1)
    return {
        "evidence": _share(pairs),
        "question": round(sum(got / of for got, of in pairs) / n, 4),
        "categories": {name: _share(each) for name, each in sorted(kept.items())},
        "questions": len(pairs),
        "tokens": round(tokens / n, 1),
        "cpu_ms": round(1_000 * cpu / n, 2),
    }


def _share(pairs: Sequence[tuple[int, int]]) -> float:
    return round(sum(got for got, _ in pairs) / max(sum(of for _, of in pairs), 1), 4)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "dialog" / "locomo5.jsonl.gz")
    parser.add_argument("--only", type=int, nargs="+", help="places of the dialogues to take")
    parser.add_argument("--no-embedder", action="store_true")
    args = parser.parse_args()
    clock = Clock()
    if not args.data.exists():
        print(f"{args.data} is not here, so there is nothing to measure.")
        return
    opened = gzip.open if args.data.suffix == ".gz" else open
    with opened(args.data, "rt", encoding="utf-8") as lines:
        rows = [json.loads(text) for text in lines if text.strip()]
    rows = [row for at, row in enumerate(rows) if not args.only or at in args.only]
    embedder = None if args.no_embedder else CachedEmbedder(OnnxEmbedder())
    found = evidence_rows(rows, embedder=embedder)
    for name, by_budget in found.items():
        for budget, row in by_budget.items():
            kinds = "  ".join(f"{kind} {share:.3f}" for kind, share in row["categories"].items())
            print(
                f"{name:28} {budget:>5}  evidence {row['evidence']:.3f}  "
                f"question {row['question']:.3f}  {kinds}  "
                f"({row['tokens']:.0f} tokens, {row['cpu_ms']:.1f} ms)"
            )
    result = {"rows": found, "n": len(rows), **clock.seconds()}
    finish(args, {**result, "versions": versions("onnxruntime", "tiktoken")})


if __name__ == "__main__":
    main()
