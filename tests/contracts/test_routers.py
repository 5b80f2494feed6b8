"""Every router and every judge that calls no model keeps the same contract."""

from functools import cache

from costwise_core import (
    AllOf,
    GroundedJudge,
    LearnedRouter,
    LogprobJudge,
    PairedOutcome,
    RuleJudge,
    RuleRouter,
    ToolJudge,
    train_router,
)
from costwise_core.testing.routers import AnswerJudgeContract, RouterContract


class TestRules(RouterContract):
    def make_router(self):
        return RuleRouter()


@cache
def trained():
    """Learn that long questions gain from the dearer model."""
    return train_router(
        [PairedOutcome(question=f"Add {n} and {n}.", weak=1, strong=1) for n in range(60)]
        + [
            PairedOutcome(question=f"Prove theorem {n} step by step.", weak=0, strong=1)
            for n in range(60)
        ]
    )


class TestLearned(RouterContract):
    def make_router(self):
        return LearnedRouter(trained())


class TestUntrained(RouterContract):
    def make_router(self):
        return LearnedRouter(None)


class TestToolJudge(AnswerJudgeContract):
    def make_judge(self):
        return ToolJudge()


class TestRuleJudge(AnswerJudgeContract):
    def make_judge(self):
        return RuleJudge()


class TestLogprobs(AnswerJudgeContract):
    def make_judge(self):
        return LogprobJudge()


class TestGrounded(AnswerJudgeContract):
    def make_judge(self):
        return GroundedJudge()


class TestAllOf(AnswerJudgeContract):
    def make_judge(self):
        return AllOf(RuleJudge(), GroundedJudge())
