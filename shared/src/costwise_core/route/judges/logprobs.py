"""How sure a model was of its own words, where its provider says so."""

import math
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.route.routes import Ask, Candidate, Judgement

__all__ = ["LogprobJudge"]

_UNKNOWN: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LogprobJudge:
    """Scores an answer by the probabilities of its tokens. Ask the provider for logprobs.

    Without probabilities the score is 0.5: nothing to tell by. The scale is the model's own, so
    find the threshold on your own labels (`calibrate_routing`).

    Args:
        by: "mean", the geometric mean over all tokens, which does not punish length; "least", the
            most doubtful token, for labels and short facts.

    Example:
        >>> answer = Candidate(text="Paris", logprobs=(-0.1, -0.3))
        >>> round(LogprobJudge().judge(Ask(question="Capital?"), answer).score, 3)
        0.819
    """

    by: Literal["mean", "least"] = "mean"
    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:  # noqa: ARG002 - the protocol
        """Score an answer by how sure its model was."""
        odds = [min(one, 0.0) for one in answer.logprobs if not math.isnan(one)]
        if not odds:
            return Judgement(score=_UNKNOWN, why="no token probabilities were given")
        mean, least = math.exp(math.fsum(odds) / len(odds)), math.exp(min(odds))
        return Judgement(
            score=mean if self.by == "mean" else least,
            why=f"its tokens have a mean probability of {mean:.2f}, the least sure one {least:.2f}",
        )
