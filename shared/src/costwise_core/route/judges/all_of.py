"""Several judges as one: an answer is as good as the strictest of them says."""

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.route.routes import AnswerJudge, Ask, Candidate, Judgement

__all__ = ["AllOf"]


class AllOf:
    """Asks judges in turn and takes the lowest score, with that judge's reason.

    The first that gives 0 ends it, so put those that cost nothing before those that call a model.

    Args:
        *judges: At least one.

    Raises:
        ConfigError: if there is no judge.

    Example:
        >>> from costwise_core.route.judges.rules import RuleJudge
        >>> from costwise_core.route.judges.schema import SchemaJudge
        >>> judge = AllOf(RuleJudge(), SchemaJudge())
        >>> judge.judge(Ask(question="As JSON, please."), Candidate(text="Sure!")).why
        'the answer is not JSON'
    """

    def __init__(self, *judges: AnswerJudge) -> None:
        if not judges:
            raise ConfigError("AllOf needs at least one judge.")
        self.judges = judges

    def __repr__(self) -> str:
        """Return what tells it from others."""
        return f"AllOf({', '.join(map(repr, self.judges))})"

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score an answer by the strictest judge.

        Raises:
            Exception: whatever a judge raises.
        """
        return run(self._strictest(ask, answer))

    async def ajudge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Do what `judge` does, without blocking the event loop."""
        return await arun(self._strictest(ask, answer))

    def _strictest(self, ask: Ask, answer: Candidate) -> Flow[Judgement]:
        worst: Judgement | None = None
        for one in self.judges:
            judgement = yield from call(one.judge, ask, answer)
            if worst is None or judgement.score < worst.score:
                worst = judgement
            if worst.score <= 0:
                break
        return worst or Judgement(score=0.0, why="nobody judged it")  # pragma: no cover
