"""Whether an answer calls a tool where one had to be called."""

from collections.abc import Collection
from dataclasses import dataclass

from costwise_core.route.routes import Ask, Candidate, Judgement

__all__ = ["ToolJudge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolJudge:
    """Checks that an answer calls a tool, and only such as there are.

    Args:
        names: The tools there are; empty if any will do.

    Example:
        >>> judge = ToolJudge(names={"search"})
        >>> judge.judge(Ask(question="Find it."), Candidate(text="", tool_calls=("search",))).score
        1.0
        >>> judge.judge(Ask(question="Find it."), Candidate(text="It is lost.")).why
        'it calls no tool and had to'
    """

    names: Collection[str] = ()
    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:  # noqa: ARG002 - the protocol
        """Score an answer 1 if it calls a tool that there is, else 0."""
        if not answer.tool_calls:
            return Judgement(score=0.0, why="it calls no tool and had to")
        strange = [name for name in answer.tool_calls if self.names and name not in self.names]
        if strange:
            return Judgement(score=0.0, why=f"it calls {strange[0]!r}, a tool that is not there")
        return Judgement(score=1.0, why=f"it calls {answer.tool_calls[0]!r}")
