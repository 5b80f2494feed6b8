"""Whether a second cheap model says the same: two that agree are rarely both wrong."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from costwise_core.drive import Flow, arun, call, run
from costwise_core.protocols import Completer, Embedder
from costwise_core.route.judges.final import likeness
from costwise_core.route.routes import Ask, Candidate, Judgement
from costwise_core.tracking import calling

__all__ = ["AgreementJudge"]

_CERTAIN: Final = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementJudge:
    """Asks a second model the same and scores how far the two answers agree.

    Compared are, in this order, the choices ("B"), the final answers ("#### 12", "the answer is
    12"), the last numbers, and the words (or, with an embedder, the meaning). Needs no labels. The
    second model should be another one than the first: one model mostly agrees with itself, right or
    wrong. In a `track` block its calls are costwise's own cost.

    Args:
        completer: The second model, a cheap one. It is given the instructions, the passages and the
            question, but not the conversation before it.
        embedder: Compares answers that are neither choices nor numbers; None compares words.

    Example:
        >>> class Second:
        ...     def complete(self, prompt):
        ...         return "3 * 4 = 12. The answer is 12."
        >>> judge = AgreementJudge(completer=Second())
        >>> judge.judge(Ask(question="What is 3 * 4?"), Candidate(text="It is 13.")).why
        'a second model does not agree: one comes to 13, the other to 12'
    """

    completer: Completer
    embedder: Embedder | None = None

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score an answer by a second one.

        Raises:
            Exception: whatever the completer or the embedder raises.
        """
        return run(self._judge(ask, answer))

    async def ajudge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Do what `judge` does, without blocking the event loop."""
        return await arun(self._judge(ask, answer))

    def _judge(self, ask: Ask, answer: Candidate) -> Flow[Judgement]:
        if not answer.text.strip():
            return Judgement(score=0.0, why="the answer is empty")
        with calling(overhead=True):
            second = yield from call(self.completer.complete, _prompt(ask))
        score, why = likeness(answer.text, second)
        if self.embedder is not None and score not in _CERTAIN:
            with calling(overhead=True):
                rows = yield from call(self.embedder.embed, [answer.text, second], "document")
            score = float(np.clip(rows[0] @ rows[1], 0.0, 1.0))
            why = f"their meaning is {score:.2f} alike"
        verb = "agrees" if score >= 0.5 else "does not agree"
        return Judgement(score=score, why=f"a second model {verb}: {why}")


def _prompt(ask: Ask) -> str:
    passages = [f"[{n}] {one.heading}{one.text}" for n, one in enumerate(ask.passages, 1)]
    return "\n\n".join(part for part in (ask.system, *passages, ask.question) if part.strip())
