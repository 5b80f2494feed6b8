"""Send the stream through an app and say what came out."""

import json
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from costwise_core import Bill
from demo.apps import App, Passage

__all__ = ["Asked", "Request", "Run", "ask_all", "load"]

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question of the stream, with the answers its annotators gave."""

    question: str
    answers: tuple[str, ...]
    kind: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of one request.

    `hit` is "exact", "near" or "" for a paid answer; `retrieved` says that only the model's answer
    was paid for. A hit is wrong when it served the answer to a question about another fact.
    """

    request: Request
    text: str
    hit: str
    why: str
    served_question: str
    holds_gold: bool
    wrong_hit: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pass over the stream."""

    framework: str
    mode: str
    asked: tuple[Asked, ...]
    bill: Bill
    seconds: float

    @property
    def model_calls(self) -> int:
        """Calls that were paid for."""
        return self.bill.paid_calls

    @property
    def gold_share(self) -> float:
        """Share of answers that hold a gold answer."""
        return sum(one.holds_gold for one in self.asked) / len(self.asked)

    @property
    def hits(self) -> int:
        """Answers that came from the cache."""
        return sum(bool(one.hit) for one in self.asked)

    @property
    def wrong_hits(self) -> int:
        """Hits that answered another question."""
        return sum(one.wrong_hit for one in self.asked)


def load() -> tuple[list[Passage], list[Request]]:
    """Read the corpus and the stream that ship with the demo."""

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]

    passages = [Passage(**row) for row in rows("corpus.jsonl")]
    requests = [
        Request(question=row["question"], answers=tuple(row["answers"]), kind=row["kind"])
        for row in rows("stream.jsonl")
    ]
    return passages, requests


def plain(text: str) -> str:
    """Reduce text to what counts when a gold answer is looked for."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join(re.findall(r"\w+", re.sub(r"\b(?:a|an|the)\b", " ", text)))


def ask_all(
    framework: str, mode: str, app: App, requests: Sequence[Request], step: Callable[[], None]
) -> Run:
    """Ask every question in order; `step` is called after each."""
    golds = {request.question: set(request.answers) for request in requests}
    asked = []
    began = time.perf_counter()
    with app.track(feature="demo", endpoint=framework.lower(), prices=app.prices) as bill:
        for request in requests:
            start = time.perf_counter()
            reply = app.ask(request.question)
            marker = reply.marker or {}
            served = str(marker.get("question", ""))
            said = f" {plain(reply.text)} "
            asked.append(
                Asked(
                    request=request,
                    text=reply.text,
                    hit=str(marker.get("hit", "")),
                    why=str(marker.get("why", "")),
                    served_question=served,
                    holds_gold=any(f" {plain(gold)} " in said for gold in request.answers),
                    wrong_hit=bool(served) and not golds.get(served, set()) & set(request.answers),
                    seconds=time.perf_counter() - start,
                )
            )
            step()
    return Run(
        framework=framework,
        mode=mode,
        asked=tuple(asked),
        bill=bill,
        seconds=time.perf_counter() - began,
    )
